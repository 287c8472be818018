//! Bounded rings of frames between threads, preallocated: memory ports and the hand-over between workers.
//!
//! A ring is two queues of the same slots, empty ones and full ones; a frame is copied in and copied out. Any thread may push
//! and any may pop. Full: the pusher keeps its frame and counts the drop.

use super::shortcut::Echo;
use crate::packet::FlowKey;
use crossbeam::queue::ArrayQueue;
use penstock_api::PortId;

/// The part of a datagram's key that only its first piece shows. Nor does a later piece of IPv6 know the protocol: its
/// fragment header names what comes next, which may be an extension header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Transport {
    pub protocol: u8,
    pub source_port: u16,
    pub destination_port: u16,
}

impl Transport {
    #[must_use]
    pub fn of(key: &FlowKey) -> Transport {
        let FlowKey { protocol, source_port, destination_port, .. } = *key;
        Transport { protocol, source_port, destination_port }
    }

    pub fn enter(self, key: &mut FlowKey) {
        let Transport { protocol, source_port, destination_port } = self;
        (key.protocol, key.source_port, key.destination_port) = (protocol, source_port, destination_port);
    }
}

/// Room for one frame.
pub struct Slot {
    pub port: PortId,
    /// What the pusher wants done with it; its meaning is the ring's.
    pub kind: u8,
    /// For a piece of a datagram: what its first piece carries.
    pub transport: Transport,
    /// For a frame to be sent: what is to be told when it has left.
    pub echo: Echo,
    pub len: usize,
    pub bytes: Box<[u8]>,
}

impl std::fmt::Debug for Slot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Slot").field("port", &self.port).field("len", &self.len).finish_non_exhaustive()
    }
}

impl Slot {
    pub fn frame(&self) -> &[u8] {
        &self.bytes[..self.len.min(self.bytes.len())]
    }
}

#[derive(Debug)]
pub struct FrameRing {
    empty: ArrayQueue<Box<Slot>>,
    full: ArrayQueue<Box<Slot>>,
}

impl FrameRing {
    /// `slots` frames of up to `frame_len_max` bytes.
    pub fn new(slots: usize, frame_len_max: usize) -> FrameRing {
        let ring = FrameRing { empty: ArrayQueue::new(slots), full: ArrayQueue::new(slots) };
        for _ in 0..slots {
            let bytes = vec![0; frame_len_max].into_boxed_slice();
            let _ = ring.empty.push(Box::new(Slot {
                port: PortId::HOST,
                kind: 0,
                transport: Transport::default(),
                echo: Echo::NONE,
                len: 0,
                bytes,
            }));
        }
        ring
    }

    /// Fills a slot. False: none is free, `fill` was not called.
    #[inline]
    pub fn push(&self, fill: impl FnOnce(&mut Slot)) -> bool {
        let Some(mut slot) = self.empty.pop() else { return false };
        fill(&mut slot);
        // There are as many places as slots.
        self.full.push(slot).is_ok()
    }

    /// Takes the oldest full slot, if `take` wants it: what it returns comes back. The slot is free afterwards.
    #[inline]
    pub fn pop<T>(&self, take: impl FnOnce(&Slot) -> T) -> Option<T> {
        if self.full.is_empty() {
            return None;
        }
        let slot = self.full.pop()?;
        let result = take(&slot);
        let _ = self.empty.push(slot);
        Some(result)
    }

    pub fn is_empty(&self) -> bool {
        self.full.is_empty()
    }

    pub fn len(&self) -> usize {
        self.full.len()
    }
}
