//! When the next frame is due.
//!
//! A rate is an interval in 65,536ths of a nanosecond, so that a rate of millions is kept to a millionth over hours. A generator
//! that was kept from its CPU makes up for no more than a short delay: a search for the rate a path sustains must not send it a
//! burst at line rate, and the rest of the delay is counted instead ("slipped") and shows in the rate that was offered.

/// As bpf/generate.bpf.c reads it: ns << 16.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pace {
    pub(crate) interval: u64,
    pub(crate) burst: u64,
}

const BURST_NS: u64 = 50_000;
const BURST_FRAMES: u64 = 4;

impl Pace {
    /// No rate: as fast as it goes.
    pub(crate) fn new(rate_pps: Option<f64>) -> Pace {
        let interval = rate_pps.map_or(0, |rate| ((1e9 * 65_536.0 / rate.max(1e-3)) as u64).max(1));
        Pace { interval, burst: (BURST_NS << 16).max(interval * BURST_FRAMES) }
    }
}

/// The oracle of what the eBPF program does, and what the AF_XDP generator runs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pacer {
    pace: Pace,
    first_ns: u64,
    due: u64,
    pub(crate) slipped_ns: u64,
}

impl Pacer {
    pub(crate) fn new(pace: Pace, now_ns: u64) -> Pacer {
        Pacer { pace, first_ns: now_ns, due: 0, slipped_ns: 0 }
    }

    /// Is a frame due? If so it is taken as sent.
    pub(crate) fn is_due(&mut self, now_ns: u64) -> bool {
        if self.pace.interval == 0 {
            return true;
        }
        let at = (now_ns - self.first_ns) << 16;
        if at < self.due {
            return false;
        }
        if at - self.due > self.pace.burst {
            self.slipped_ns += (at - self.due - self.pace.burst) >> 16;
            self.due = at - self.pace.burst;
        }
        self.due += self.pace.interval;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Frames sent by somebody who asks every `step` ns.
    fn sent(rate_pps: f64, step: u64, asked_ns: impl IntoIterator<Item = u64>) -> (u64, Pacer) {
        let mut pacer = Pacer::new(Pace::new(Some(rate_pps)), 0);
        let mut frames = 0;
        for base in asked_ns {
            for now in (base..base + 1_000_000).step_by(step as usize) {
                while pacer.is_due(now) {
                    frames += 1;
                }
            }
        }
        (frames, pacer)
    }

    #[test]
    fn a_rate_is_kept_to_a_frame_whatever_the_rate() {
        for rate in [1_000.0, 3_333.3, 999_983.0, 7_000_000.0] {
            let (frames, pacer) = sent(rate, 100, (0..1000).map(|ms| ms * 1_000_000));
            // One frame at the very beginning.
            assert!((frames as f64 - rate).abs() <= 2.0, "{frames} of {rate}");
            assert_eq!(pacer.slipped_ns, 0);
        }
    }

    #[test]
    fn a_long_delay_is_counted_and_not_made_up_for() {
        // 10 ms, then 90 ms away, then 10 ms.
        let (frames, pacer) = sent(1e6, 100, (0..10).chain(100..110).map(|ms| ms * 1_000_000));
        assert!((20_000..20_060).contains(&frames), "{frames}");
        assert!((89_900_000..90_000_000).contains(&pacer.slipped_ns), "{}", pacer.slipped_ns);
    }

    #[test]
    fn a_short_delay_is_made_up_for() {
        let mut pacer = Pacer::new(Pace::new(Some(1e6)), 0);
        assert!(pacer.is_due(0));
        let late = (0..100).take_while(|_| pacer.is_due(40_000)).count();
        assert_eq!((late, pacer.slipped_ns), (40, 0));
    }

    #[test]
    fn a_slow_rate_sends_no_burst() {
        let mut pacer = Pacer::new(Pace::new(Some(10.0)), 0);
        let burst = (0..100).take_while(|_| pacer.is_due(5_000_000_000)).count();
        assert!(burst <= BURST_FRAMES as usize + 1, "{burst}");
    }

    #[test]
    fn without_a_rate_a_frame_is_always_due() {
        let mut pacer = Pacer::new(Pace::new(None), 5);
        assert!((0..1000).all(|_| pacer.is_due(5)));
    }
}
