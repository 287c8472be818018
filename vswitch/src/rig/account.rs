//! Where every frame is, and what became of those that are gone.

use crate::io::device::MemoryLink;
use crate::worker::engine::Engine;
use penstock_api::DropReason;
use penstock_api::message::FrameCensus;
use std::sync::Arc;

/// The books of a rig at one moment between two rounds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// The chunks of each area of each worker.
    pub censuses: Vec<FrameCensus>,
    /// Put in by the outside, and not looked at yet.
    pub injected: u64,
    pub waiting_in: u64,
    /// Received by workers from ports.
    pub received: u64,
    /// Made by workers: answers, and pieces of what was split.
    pub originated: u64,
    pub transmitted: u64,
    /// Found by the outside, and still to be found.
    pub collected: u64,
    pub waiting_out: u64,
    /// Copied to another worker, and still on the way there.
    pub handed_over: u64,
    pub between_workers: u64,
    /// Frames (not chunks) held by fragment tables.
    pub held: u64,
    /// Reasons that have any.
    pub drops: Vec<(DropReason, u64)>,
}

impl Account {
    pub(super) fn of(
        engines: &[Engine],
        injected: u64,
        collected: u64,
        links: &[&Arc<MemoryLink>],
    ) -> Account {
        let sum = |count: &dyn Fn(&Engine) -> u64| engines.iter().map(count).sum::<u64>();
        let ports = |engine: &Engine, count: &dyn Fn(&crate::worker::counters::PortCounters) -> u64| {
            engine.counters().ports().map(|(_, port)| count(port)).sum::<u64>()
        };
        let drops = |reason: DropReason| sum(&|e| ports(e, &|p| p.drops[reason as usize].get()));
        Account {
            censuses: engines.iter().flat_map(Engine::census).collect(),
            injected,
            waiting_in: links.iter().map(|link| link.to_switch.len() as u64).sum(),
            received: sum(&|e| ports(e, &|p| p.rx_frames.get())),
            originated: sum(&|e| e.counters().originated.get()),
            transmitted: sum(&|e| ports(e, &|p| p.tx_frames.get())),
            collected,
            waiting_out: links.iter().map(|link| link.from_switch.len() as u64).sum(),
            handed_over: sum(&|e| e.counters().handed_over.get()),
            between_workers: sum(&Engine::inbox_len),
            held: sum(&|e| e.fragments().held_count() as u64),
            drops: DropReason::ALL.iter().map(|r| (*r, drops(*r))).filter(|(_, n)| *n > 0).collect(),
        }
    }

    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.drops.iter().map(|(_, count)| count).sum()
    }

    /// # Panics
    /// When a chunk is not in exactly one place, one is in hand between two rounds, or the counts do not add up.
    pub fn check(&self) {
        for census in &self.censuses {
            assert!(
                census.wrong.is_empty(),
                "the book, the free list and the tables contradict each other: {self:#?}"
            );
            assert_eq!(
                census.free + census.receiving + census.transmitting + census.held,
                census.total,
                "chunks are missing: {self:#?}"
            );
        }
        assert_eq!(
            self.injected,
            self.received + self.waiting_in,
            "frames put in and not received: {self:#?}"
        );
        assert_eq!(
            self.transmitted,
            self.collected + self.waiting_out,
            "frames sent and not there: {self:#?}"
        );
        // What was handed over was received once and leaves once: it stands on neither side.
        assert_eq!(
            self.received + self.originated,
            self.transmitted + self.dropped() + self.held + self.between_workers,
            "received + originated = transmitted + dropped + held + on the way to another worker: {self:#?}"
        );
    }
}
