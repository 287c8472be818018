//! What each stage of the pipeline costs, in nanoseconds, while somebody asks.
//!
//! The clock is read at the end of each stage of each batch, never per packet; while nobody measures a batch pays one branch per
//! stage. Rounds without frames do not count. A measurement nobody ends, ends itself.

use penstock_api::WorkerId;
use penstock_api::message::{StageTime, StageTimes};
use std::time::{Duration, Instant};

/// Longer than anybody watches at a time.
const LIFE: Duration = Duration::from_secs(60);

/// A part of a round, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub(super) enum Stage {
    /// Frames taken out of rings.
    Receive,
    /// Parsed, held against their port, hashed.
    Admit,
    /// What is known of their flows fetched into the processor's cache.
    Fetch,
    /// Their flows found or made: flow cache, connection tracking, policy.
    Lookup,
    /// Rewritten and put into rings, or dropped.
    Forward,
    /// The kernel told to send, and what it has sent taken back.
    Flush,
    /// Frames of other workers woken, flows and fragments expired.
    Upkeep,
}

const NAMES: [&str; 7] = ["receive", "admit", "fetch", "lookup", "forward", "flush", "upkeep"];

#[derive(Debug)]
pub(super) struct Watch {
    begun: Instant,
    last: Instant,
    /// Of this round.
    round: [u64; NAMES.len()],
    total: [u64; NAMES.len()],
    frames: u64,
    rounds: u64,
}

impl Watch {
    pub(super) fn new() -> Watch {
        let now = Instant::now();
        Watch {
            begun: now,
            last: now,
            round: Default::default(),
            total: Default::default(),
            frames: 0,
            rounds: 0,
        }
    }

    pub(super) fn begin(&mut self) {
        self.last = Instant::now();
        self.round = Default::default();
    }

    pub(super) fn mark(&mut self, stage: Stage) {
        let now = Instant::now();
        self.round[stage as usize] += now.duration_since(self.last).as_nanos() as u64;
        self.last = now;
    }

    pub(super) fn end(&mut self, frames: usize) {
        if frames == 0 {
            return;
        }
        self.frames += frames as u64;
        self.rounds += 1;
        for (total, round) in self.total.iter_mut().zip(self.round) {
            *total += round;
        }
    }

    /// Has it been forgotten?
    pub(super) fn is_over(&self) -> bool {
        self.last.duration_since(self.begun) > LIFE
    }

    pub(super) fn times(&self, worker: WorkerId) -> StageTimes {
        let stages = NAMES.iter().zip(self.total);
        StageTimes {
            worker,
            frames: self.frames,
            rounds: self.rounds,
            stages: stages.map(|(name, nanos)| StageTime { stage: (*name).to_owned(), nanos }).collect(),
        }
    }
}
