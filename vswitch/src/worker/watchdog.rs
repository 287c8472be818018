//! Sees a worker that receives nothing although frames are sent to it.
//!
//! AF_XDP on veth has stalled before (a wake-up lost, a ring that stops moving), and then a pod waits for ever. Only the
//! programs know what was sent towards a worker, only the worker what arrived. A worker that receives anything at all is slow,
//! not stuck. Transmit rings are watched by the worker itself.

use std::time::{Duration, Instant};

/// How often it is looked.
pub const INTERVAL: Duration = Duration::from_millis(50);

/// Looks in a row with frames sent and none received: an outage stays well below half a second, binding included, and a worker
/// that was not scheduled for a moment keeps what is in its rings.
const LOOKS: u32 = 3;

/// Binding anew did not help: how long until the next attempt, doubled each time.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// What is seen of a worker. All of it only ever grows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Seen {
    /// Frames the programs sent towards it.
    pub sent: u64,
    pub received: u64,
    /// Of its loop.
    pub rounds: u64,
}

/// One worker, as it was at the last look.
#[derive(Debug, Clone, Copy, Default)]
pub struct Watched {
    seen: Seen,
    /// Looks at which frames were sent, since one was received.
    stuck: u32,
    pause: Option<(Instant, Duration)>,
}

impl Watched {
    /// Begins with what was counted before.
    pub fn new(seen: Seen) -> Self {
        Watched { seen, ..Watched::default() }
    }

    /// Is it time to bind anew?
    pub fn look(&mut self, seen: Seen, now: Instant) -> bool {
        let before = std::mem::replace(&mut self.seen, seen);
        let (sends, receives) = (seen.sent != before.sent, seen.received != before.received);
        let runs = seen.rounds != before.rounds;
        if receives {
            (self.stuck, self.pause) = (0, None);
            return false;
        }
        // Nothing sent since the last look says nothing: a pod waits before it tries again. Nor does a worker that did
        // not run: it is short of a CPU, not of its socket.
        self.stuck += u32::from(sends && runs);
        if self.stuck < LOOKS || self.pause.is_some_and(|(until, _)| now < until) {
            return false;
        }
        let pause = self.pause.map_or(PAUSE_MIN, |(_, pause)| (pause * 2).min(PAUSE_MAX));
        self.pause = Some((now + pause, pause));
        self.stuck = 0;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(sent: u64, received: u64, rounds: u64) -> Seen {
        Seen { sent, received, rounds }
    }

    #[test]
    fn frames_sent_and_none_received_three_times_is_stuck() {
        let (mut watched, now) = (Watched::default(), Instant::now());
        assert_eq!([1, 2, 3].map(|n| watched.look(seen(n, 0, n), now)), [false, false, true]);
    }

    #[test]
    fn a_worker_that_receives_anything_or_is_sent_nothing_is_not_stuck() {
        let (mut watched, now) = (Watched::new(seen(7, 7, 7)), Instant::now());
        for round in 1..100 {
            assert!(!watched.look(seen(1000 * round, 7 + round, 7 + round), now), "slow");
        }
        for _ in 0..100 {
            assert!(!watched.look(seen(1000 * 99, 7 + 99, 1000), now), "idle");
        }
    }

    #[test]
    fn a_worker_that_gets_no_cpu_is_not_stuck() {
        let (mut watched, now) = (Watched::default(), Instant::now());
        for look in 1..100 {
            assert!(!watched.look(seen(look, 0, 0), now));
        }
    }

    #[test]
    fn what_does_not_help_is_tried_less_and_less_often() {
        let (mut watched, begin) = (Watched::default(), Instant::now());
        let tries: Vec<u64> =
            (1..=600u64).filter(|&n| watched.look(seen(n, 0, n), begin + INTERVAL * n as u32)).collect();
        assert_eq!(tries, [3, 23, 63, 143, 303]);
        assert!(!watched.look(seen(601, 1, 601), begin) && watched.pause.is_none(), "it helped after all");
    }
}
