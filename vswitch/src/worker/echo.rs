//! Marks of frames that leave by direct ports: told to the programs when the frames have left.
//!
//! A flow that is on its way into the kernel has marks on what still comes to its worker, and changes over when the last of them
//! is known to have left ([`crate::io::shortcut`]). At a trunk a program sees them leave. A direct port's frames pass no program, so
//! the worker remembers which of those its socket was given have a mark, and stores the echo when the socket has given them back:
//! then the NIC has sent them, or the far end of a veth has taken them, whatever queue what follows takes. A socket gives frames
//! back in order but where a driver has several queues free them; then what is told is that as many have left.
//!
//! Nobody waits for an echo that is lost: the next mark has its own.

use crate::io::device::Device;
use crate::io::shortcut::{Echo, Rows};
use crate::packet::FlowKey;
use nix::time::{ClockId, clock_gettime};
use std::collections::VecDeque;
use std::sync::Arc;

/// Marked frames of one socket that may be under way: about what its ring holds.
const DUE_MAX: usize = 4096;

/// A marked frame that was given to a socket.
#[derive(Debug, Clone, Copy)]
struct Due {
    /// It has left when so many chunks have come back.
    completed: u64,
    echo: Echo,
}

/// Those of one worker.
#[derive(Debug, Default)]
pub(super) struct Echoes {
    rows: Option<Arc<Rows>>,
    /// Index: device.
    due: Vec<VecDeque<Due>>,
    waiting: usize,
}

impl Echoes {
    pub(super) fn new(rows: Arc<Rows>, devices: usize) -> Echoes {
        // The trunk, which comes first, needs none.
        let due = (0..devices).map(|device| VecDeque::with_capacity(if device == 0 { 0 } else { DUE_MAX }));
        Echoes { rows: Some(rows), due: due.collect(), waiting: 0 }
    }

    pub(super) fn of(&self, key: &FlowKey, mark: u16) -> Echo {
        self.rows.as_ref().map_or(Echo::NONE, |rows| rows.echo_of(key, mark))
    }

    /// A marked frame was given to a device, as the last so far.
    #[cold]
    pub(super) fn expect(&mut self, index: usize, device: &Device, echo: Echo) {
        if let (Some(due), Some(xsk)) = (self.due.get_mut(index), device.xsk())
            && due.len() < DUE_MAX
        {
            due.push_back(Due { completed: xsk.completed() + xsk.outstanding() as u64, echo });
            self.waiting += 1;
        }
    }

    /// Frames whose leaving is still to be told.
    #[inline]
    pub(super) fn are_awaited(&self) -> bool {
        self.waiting > 0
    }

    /// Tells of those that have left.
    #[cold]
    pub(super) fn tell(&mut self, devices: &[Device]) {
        let Some(rows) = &self.rows else { return };
        let mut now_ns = None;
        for (due, device) in self.due.iter_mut().zip(devices) {
            let Some(xsk) = device.xsk() else { continue };
            while let Some(Due { echo, .. }) = due.pop_front_if(|due| due.completed <= xsk.completed()) {
                self.waiting -= 1;
                rows.note_echo(echo, *now_ns.get_or_insert_with(monotonic_ns));
            }
        }
    }

    /// Sockets are bound anew: what they had was lost, or nobody knows.
    pub(super) fn forget(&mut self) {
        self.due.iter_mut().for_each(VecDeque::clear);
        self.waiting = 0;
    }
}

/// The clock of `bpf_ktime_get_ns`.
fn monotonic_ns() -> u64 {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("there is such a clock");
    time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64
}
