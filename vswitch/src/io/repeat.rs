//! Frames from a list, over and over, and a place where they end: what the pipeline is measured with.
//!
//! Each frame is copied into the worker's memory, as a capture file's are by other switches' memory ports (DPDK's `net_pcap`
//! with `infinite_rx`); what is sent is counted and let go. How many frames are still to come is in the caller's hands.

use super::memory::{FrameId, Memory};
use penstock_api::PortId;
use penstock_api::message::AreaKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering::Relaxed};

/// Behind the headers of Ethernet and IPv4.
const SOURCE_PORT_AT: usize = 34;

/// What the caller keeps of a [`Repeat`].
#[derive(Debug, Default)]
pub struct Tap {
    /// Frames still to come. The device takes away what it gave.
    pub left: AtomicU64,
    /// Frames sent by the end of a round.
    pub sent: AtomicU64,
    /// To be added to the source port of every frame of the list, all of them UDP or TCP over IPv4 without options or a checksum
    /// of their own: the list becomes one of other flows. Done, and taken away, when the device is next looked at.
    pub shift: AtomicU16,
}

#[derive(Debug, Clone, Copy)]
struct Listed {
    at: u32,
    len: u16,
    port: PortId,
}

/// The list and the place in it.
#[derive(Debug)]
pub struct Repeat {
    bytes: Vec<u8>,
    frames: Vec<Listed>,
    next: usize,
    sent: u64,
    tap: Arc<Tap>,
}

impl Repeat {
    /// Frames and the ports they come from, in order. They fill less than 4 GiB and each at most 64 KiB: what goes beyond is left out.
    pub fn new<'a>(list: impl IntoIterator<Item = (PortId, &'a [u8])>) -> (Repeat, Arc<Tap>) {
        let mut repeat =
            Repeat { bytes: Vec::new(), frames: Vec::new(), next: 0, sent: 0, tap: Arc::default() };
        for (port, frame) in list {
            let (Ok(at), Ok(len)) = (u32::try_from(repeat.bytes.len()), u16::try_from(frame.len())) else {
                break;
            };
            repeat.bytes.extend_from_slice(frame);
            repeat.frames.push(Listed { at, len, port });
        }
        let tap = Arc::clone(&repeat.tap);
        (repeat, tap)
    }

    /// Gives up to `max` frames to `out`, each with its length and port. Fewer when the caller wants no more, or memory is short.
    #[inline]
    pub fn receive(
        &mut self,
        memory: &mut Memory,
        area: AreaKind,
        max: usize,
        mut out: impl FnMut(FrameId, u32, PortId),
    ) {
        if self.tap.shift.load(Relaxed) != 0 {
            self.shift();
        }
        let left = self.tap.left.load(Relaxed);
        let wanted = left.min(max as u64);
        if wanted == 0 || self.frames.is_empty() {
            return;
        }
        let mut given = 0;
        while given < wanted {
            let Listed { at, len, port } = self.frames[self.next];
            let (at, len) = (at as usize, usize::from(len));
            let Some(frame) = memory.copy_in(area, &self.bytes[at..at + len]) else { break };
            out(frame, len as u32, port);
            given += 1;
            self.next += 1;
            if self.next == self.frames.len() {
                self.next = 0;
            }
        }
        self.tap.left.store(left - given, Relaxed);
    }

    #[cold]
    fn shift(&mut self) {
        let shift = self.tap.shift.swap(0, Relaxed);
        for frame in &self.frames {
            let at = frame.at as usize + SOURCE_PORT_AT;
            if let Some(port) = self.bytes.get_mut(at..at + 2) {
                let shifted = u16::from_be_bytes([port[0], port[1]]).wrapping_add(shift);
                port.copy_from_slice(&shifted.to_be_bytes());
            }
        }
    }

    /// A frame's end.
    #[inline]
    pub fn transmit(&mut self, memory: &mut Memory, frame: FrameId) {
        memory.release(frame);
        self.sent += 1;
    }

    /// The end of a batch.
    #[inline]
    pub fn flush(&self) {
        self.tap.sent.store(self.sent, Relaxed);
    }

    /// Does the caller want more?
    #[must_use]
    pub fn has_work(&self) -> bool {
        self.tap.left.load(Relaxed) > 0 && !self.frames.is_empty()
    }
}
