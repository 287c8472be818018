//! Sees a worker that receives nothing although frames are sent to it.
//!
//! AF_XDP on veth has stalled before (a wake-up lost, a ring that stops moving), and then a pod waits for ever. Only the
//! programs know what was sent towards a worker, only the worker what arrived. A worker that receives anything at all is slow,
//! not stuck. Transmit rings are watched by the worker itself.

use std::time::{Duration, Instant};

/// How often it is looked.
pub const INTERVAL: Duration = Duration::from_millis(100);

/// Looks in a row with frames sent and none received: the outage stays below half a second, and a worker that was not
/// scheduled for a moment keeps what is in its rings.
const LOOKS: u32 = 3;

/// Binding anew did not help: how long until the next attempt, doubled each time.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// One worker, as it was at the last look.
#[derive(Debug, Clone, Copy, Default)]
pub struct Watched {
    sent: u64,
    received: u64,
    /// Looks at which frames were sent, since one was received.
    stuck: u32,
    pause: Option<(Instant, Duration)>,
}

impl Watched {
    /// Begins with what was counted before.
    pub fn new(sent: u64, received: u64) -> Self {
        Watched { sent, received, ..Watched::default() }
    }

    /// Is it time to bind anew? `sent` and `received` only ever grow.
    pub fn look(&mut self, sent: u64, received: u64, now: Instant) -> bool {
        let (sends, receives) = (sent != self.sent, received != self.received);
        (self.sent, self.received) = (sent, received);
        if receives {
            (self.stuck, self.pause) = (0, None);
            return false;
        }
        // Nothing sent in this tenth of a second says nothing: a pod waits before it tries again.
        self.stuck += u32::from(sends);
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

    #[test]
    fn frames_sent_and_none_received_three_times_is_stuck() {
        let (mut watched, now) = (Watched::default(), Instant::now());
        assert_eq!([1, 2, 3].map(|sent| watched.look(sent, 0, now)), [false, false, true]);
    }

    #[test]
    fn a_worker_that_receives_anything_or_is_sent_nothing_is_not_stuck() {
        let (mut watched, now) = (Watched::new(7, 7), Instant::now());
        for round in 1..100 {
            assert!(!watched.look(1000 * round, 7 + round, now), "slow");
        }
        for _ in 0..100 {
            assert!(!watched.look(1000 * 99, 7 + 99, now), "idle");
        }
    }

    #[test]
    fn what_does_not_help_is_tried_less_and_less_often() {
        let (mut watched, begin) = (Watched::default(), Instant::now());
        let tries: Vec<u64> = (1..=600u64)
            .filter(|&tenths| watched.look(tenths, 0, begin + Duration::from_millis(100 * tenths)))
            .collect();
        assert_eq!(tries, [3, 13, 33, 73, 153, 313]);
        assert!(!watched.look(601, 1, begin) && watched.pause.is_none(), "it helped after all");
    }
}
