//! Bounded rings of frames between threads, preallocated: memory ports and the hand-over between workers.
//!
//! A ring is two queues of the same slots, empty ones and full ones; a frame is copied in and copied out. Any thread may push
//! and any may pop. Full: the pusher keeps its frame and counts the drop.

use crossbeam::queue::ArrayQueue;
use penstock_api::PortId;

/// Room for one frame.
pub struct Slot {
    pub port: PortId,
    /// What the pusher wants done with it; its meaning is the ring's.
    pub kind: u8,
    /// For a piece of a datagram: the ports its first piece has.
    pub ports: (u16, u16),
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
            let _ =
                ring.empty.push(Box::new(Slot { port: PortId::HOST, kind: 0, ports: (0, 0), len: 0, bytes }));
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
