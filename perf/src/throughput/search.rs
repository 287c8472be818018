//! The highest rate at which a path loses no more than it may (RFC 2544, section 26.1), by halving.
//!
//! Real machines lose a frame now and then for reasons that have nothing to do with the rate: a scheduler, a hypervisor. So a trial
//! that fails may be repeated before its rate is given up, and a rate that was found counts only when a longer trial at it passes
//! too, after which lower ones are tried. What is told in the end is what was seen: the rate of a longer trial that passed, or that
//! there was none, and the smallest loss there was.

/// What a trial came to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Seen {
    /// What the generator reached, whatever was asked of it.
    pub(crate) offered_pps: f64,
    pub(crate) frames: u64,
    pub(crate) lost: u64,
}

impl Seen {
    pub(crate) fn loss(&self) -> f64 {
        self.lost as f64 / self.frames.max(1) as f64
    }

    pub(crate) fn received_pps(&self) -> f64 {
        self.offered_pps * (1.0 - self.loss())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
pub(crate) enum Length {
    Short,
    Confirming,
}

impl Length {
    pub(crate) fn words(self) -> &'static str {
        match self {
            Length::Short => "short trial",
            Length::Confirming => "confirming trial",
        }
    }
}

/// How it is looked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Search {
    /// A share: loss allowed.
    pub(crate) loss_max: f64,
    /// A share: between the rate that passed and the one that did not.
    pub(crate) precision: f64,
    /// Of a trial that failed.
    pub(crate) retries: usize,
    /// Longer trials, at ever lower rates.
    pub(crate) confirmations_max: usize,
}

/// What was found.
#[derive(Debug, Clone, Default)]
pub(crate) struct Found {
    /// The longer trial that passed.
    pub(crate) confirmed: Option<Seen>,
    /// The generator could offer no more: the path may carry more.
    pub(crate) is_generator_limited: bool,
    pub(crate) trials: usize,
    /// Rates that passed a short trial and not a longer one.
    pub(crate) unconfirmed: usize,
    /// Of the longer trials, or of all where none was, the one with the smallest loss; of equals, the one with the most frames. A short
    /// one without loss says little where no longer one is.
    pub(crate) best: Option<(Length, Seen)>,
}

const TRIALS_MAX: usize = 40;
/// Of the ceiling: nobody looks for less.
const FLOOR: f64 = 0.002;
/// A generator that reaches this share of what it was asked for has reached it.
const REACHED: f64 = 0.97;
/// Upwards from a rate that passed, as long as none has failed.
const STEP_UP: f64 = 1.25;

impl Search {
    /// `top`: a trial as fast as it goes. `guess`: where to begin. `trial`: at a rate, or as fast as it goes.
    pub(crate) fn run<E>(
        &self,
        top: &Seen,
        guess_pps: f64,
        mut trial: impl FnMut(Option<f64>, Length) -> Result<Seen, E>,
    ) -> Result<Found, E> {
        let mut found = Found::default();
        let mut attempt = |found: &mut Found, rate: Option<f64>, length, tries: usize| {
            let mut seen = trial(rate, length)?;
            found.note(length, &seen);
            for _ in 1..tries {
                let is_reached = rate.is_none_or(|rate| seen.offered_pps >= rate * REACHED);
                if seen.loss() <= self.loss_max && is_reached {
                    break;
                }
                seen = trial(rate, length)?;
                found.note(length, &seen);
            }
            Ok(seen)
        };

        // As fast as it goes is a rate like any other, if the path carries it.
        let (mut low, mut high) = (0.0, top.offered_pps);
        let mut is_high_seen_to_fail = top.loss() > self.loss_max;
        let mut candidate = None;
        if !is_high_seen_to_fail {
            (low, candidate) = (high, Some(None));
            found.is_generator_limited = true;
        }
        let floor = high * FLOOR;
        let mut next = Some(guess_pps.min(high * (1.0 - self.precision))).filter(|rate| *rate > floor);
        while candidate != Some(None) && high - low > self.precision * high && high > floor {
            if found.trials >= TRIALS_MAX {
                break;
            }
            let upwards = (low > 0.0 && !is_high_seen_to_fail).then_some(low * STEP_UP);
            let half = (low + high) / 2.0;
            let rate = next.take().or(upwards).filter(|rate| (low..high).contains(rate)).unwrap_or(half);
            let seen = attempt(&mut found, Some(rate), Length::Short, 1 + self.retries)?;
            if seen.loss() > self.loss_max {
                high = rate.min(seen.offered_pps.max(low));
                is_high_seen_to_fail = true;
            } else {
                // Also when less was offered: what counts is what the longer trial offers, and it says so.
                low = rate;
                candidate = Some(Some(rate));
            }
        }

        let Some(mut rate) = candidate else { return Ok(found) };
        let mut step = self.precision;
        for _ in 0..self.confirmations_max.max(1) {
            let seen = attempt(&mut found, rate, Length::Confirming, 1)?;
            if seen.loss() <= self.loss_max {
                found.is_generator_limited |= rate.is_some_and(|rate| seen.offered_pps < rate * REACHED);
                found.confirmed = Some(seen);
                return Ok(found);
            }
            found.unconfirmed += 1;
            found.is_generator_limited = false;
            rate = Some(rate.unwrap_or(seen.offered_pps) * (1.0 - step));
            step = (step * 2.0).min(0.5);
        }
        Ok(found)
    }
}

impl Found {
    fn note(&mut self, length: Length, seen: &Seen) {
        self.trials += 1;
        if seen.frames > 0 {
            self.best = better(self.best, Some((length, *seen)));
        }
    }
}

/// Which says more of how little is lost.
pub(crate) fn better(one: Option<(Length, Seen)>, other: Option<(Length, Seen)>) -> Option<(Length, Seen)> {
    let Some((one, other)) = one.zip(other) else { return one.or(other) };
    // The longer, then what lost less, then what had more frames to lose.
    let is_better = (other.0, one.1.loss(), other.1.frames) > (one.0, other.1.loss(), one.1.frames);
    Some(if is_better { other } else { one })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;

    /// A path that carries `capacity` and loses the rest, behind a generator that reaches `ceiling`; and, with a chance of
    /// `noise` per second, a few frames more. With a chance of `stalls` the generator is kept from a tenth of what it should offer.
    #[derive(Clone, Copy)]
    struct Model {
        capacity: f64,
        ceiling: f64,
        noise: f64,
        stalls: f64,
        state: u64,
    }

    const QUIET: Model = Model { capacity: 1e6, ceiling: 4e6, noise: 0.0, stalls: 0.0, state: 0 };

    impl Model {
        fn chance(&mut self) -> f64 {
            self.state = self.state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            (self.state >> 33) as f64 / (1u64 << 31) as f64
        }

        fn trial(&mut self, rate: Option<f64>, length: Length) -> Seen {
            let seconds = if length == Length::Short { 1 } else { 5 };
            let kept_from = if self.chance() < self.stalls { 0.9 } else { 1.0 };
            let offered_pps = rate.unwrap_or(f64::MAX).min(self.ceiling) * kept_from;
            let frames = (offered_pps * f64::from(seconds)) as u64;
            let mut lost = ((offered_pps - self.capacity).max(0.0) * f64::from(seconds)) as u64;
            for _ in 0..seconds {
                if self.chance() < self.noise {
                    lost += 1 + (self.chance() * 50.0) as u64;
                }
            }
            Seen { offered_pps, frames, lost: lost.min(frames) }
        }

        fn search(&mut self, loss_max: f64) -> Found {
            let search = Search { loss_max, precision: 0.01, retries: 1, confirmations_max: 6 };
            let top = self.trial(None, Length::Short);
            let guess = top.received_pps();
            search.run(&top, guess, |rate, length| Ok::<_, Infallible>(self.trial(rate, length))).unwrap()
        }
    }

    fn seed() -> u64 {
        let seed =
            std::env::var("PENSTOCK_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(20_261_121);
        println!("PENSTOCK_SEED={seed}");
        seed
    }

    #[test]
    fn the_capacity_of_a_quiet_path_is_found_within_the_precision() {
        for capacity in [0.05e6, 0.3e6, 0.78e6, 1.0e6, 2.9e6] {
            let mut model = Model { capacity, ..QUIET };
            let ndr = model.search(0.0).confirmed.unwrap().offered_pps;
            assert!((0.985..=1.0).contains(&(ndr / capacity)), "{ndr} of {capacity}");
            // Half a per cent may be lost above the capacity.
            let pdr = model.search(0.005).confirmed.unwrap().offered_pps;
            assert!((0.985..=1.006).contains(&(pdr / capacity)), "{pdr} of {capacity}");
        }
    }

    #[test]
    fn a_path_faster_than_the_generator_is_said_to_be_one() {
        let found = Model { capacity: 9e6, ..QUIET }.search(0.0);
        assert!(found.is_generator_limited);
        assert_eq!(found.confirmed.unwrap().offered_pps, 4e6);
    }

    #[test]
    fn some_noise_costs_trials_and_a_part_of_the_rate_and_never_adds_to_it() {
        let mut state = seed();
        for _ in 0..50 {
            let mut model = Model { noise: 0.05, state, ..QUIET };
            let found = model.search(0.0);
            state = model.state;
            if let Some(seen) = found.confirmed {
                assert_eq!(seen.lost, 0);
                assert!(seen.offered_pps <= 1e6);
            }
            let pdr = model.search(0.005).confirmed.unwrap().offered_pps;
            assert!((0.985..=1.006).contains(&(pdr / 1e6)), "{pdr}");
        }
    }

    #[test]
    fn a_machine_that_always_loses_has_no_rate_without_loss_and_says_the_smallest() {
        let found = Model { noise: 1.0, state: seed(), ..QUIET }.search(0.0);
        assert!(found.confirmed.is_none());
        let (_, best) = found.best.unwrap();
        assert!(best.lost > 0 && best.loss() < 0.01, "{best:?}");
        assert!(found.trials <= TRIALS_MAX + 8, "{} trials", found.trials);
    }

    #[test]
    fn a_generator_kept_from_its_cpu_ends_no_search_early() {
        let mut state = seed();
        for _ in 0..50 {
            let mut model = Model { stalls: 0.2, state, ..QUIET };
            let found = model.search(0.0);
            state = model.state;
            let seen = found.confirmed.unwrap();
            assert_eq!(seen.lost, 0);
            assert!((0.7..=1.0).contains(&(seen.offered_pps / 1e6)), "{seen:?}");
        }
    }

    #[test]
    fn a_path_that_carries_nothing_ends_the_search() {
        let found = Model { capacity: 0.0, ..QUIET }.search(0.005);
        assert!(found.confirmed.is_none());
        assert_eq!(found.best.unwrap().1.loss(), 1.0);
    }

    #[test]
    fn a_rate_that_fails_its_longer_trial_is_given_up() {
        // Passes whatever is short.
        let search = Search { loss_max: 0.0, precision: 0.02, retries: 0, confirmations_max: 4 };
        let trial = |rate: Option<f64>, length| {
            let offered_pps = rate.unwrap_or(2e6);
            let capacity = if length == Length::Short { 1e6 } else { 0.95e6 };
            Seen { offered_pps, frames: 1_000_000, lost: u64::from(offered_pps > capacity) }
        };
        let found =
            search.run(&trial(None, Length::Short), 1e6, |r, l| Ok::<_, Infallible>(trial(r, l))).unwrap();
        assert_eq!(found.best.unwrap().0, Length::Confirming);
        let rate = found.confirmed.unwrap().offered_pps;
        assert!(rate <= 0.95e6 && rate > 0.9e6, "{rate}");
        assert!(found.unconfirmed > 0);
    }
}
