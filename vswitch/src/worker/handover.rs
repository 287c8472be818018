//! Frames for another worker: its flow lives there, or its port does. Bounded rings, copied once in and once out.

use super::mailbox::Mailbox;
use crate::io::ring::{FrameRing, Slot, Transport};
use crate::io::shortcut::Echo;
use std::sync::Arc;

/// What the receiver is to do with a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// As if it had arrived here.
    Process,
    /// A piece of a datagram, whose ports are known.
    ProcessPiece(Transport),
    /// Judged and rewritten: send it by the slot's port, and tell when it has left.
    Transmit(Echo),
}

impl Purpose {
    /// Written into a slot.
    pub fn enter(self, slot: &mut Slot) {
        match self {
            Purpose::Process => slot.kind = 0,
            Purpose::ProcessPiece(transport) => (slot.kind, slot.transport) = (1, transport),
            Purpose::Transmit(echo) => (slot.kind, slot.echo) = (2, echo),
        }
    }

    /// As it was written.
    pub fn of(slot: &Slot) -> Purpose {
        match slot.kind {
            0 => Purpose::Process,
            1 => Purpose::ProcessPiece(slot.transport),
            _ => Purpose::Transmit(slot.echo),
        }
    }
}

/// One inbox per worker, and the way to wake it.
#[derive(Debug, Clone)]
pub struct Handover {
    inboxes: Arc<[FrameRing]>,
    mailboxes: Arc<[Arc<Mailbox>]>,
}

impl Handover {
    /// `slots` frames of up to `frame_len_max` bytes per worker. One worker needs none.
    pub fn new(mailboxes: Vec<Arc<Mailbox>>, slots: usize, frame_len_max: usize) -> Handover {
        let slots = if mailboxes.len() > 1 { slots } else { 1 };
        Handover {
            inboxes: mailboxes.iter().map(|_| FrameRing::new(slots, frame_len_max)).collect(),
            mailboxes: mailboxes.into(),
        }
    }

    #[inline]
    pub fn inbox(&self, worker: usize) -> &FrameRing {
        &self.inboxes[worker]
    }

    pub fn workers(&self) -> usize {
        self.inboxes.len()
    }

    /// Wakes the workers in the bit set.
    #[inline]
    pub fn wake(&self, mut workers: u32) {
        while workers != 0 {
            let worker = workers.trailing_zeros() as usize;
            workers &= workers - 1;
            self.mailboxes[worker].wake();
        }
    }
}
