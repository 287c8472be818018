//! Two honest ends with a bad network on both sides of the tracker: nothing they send may be refused.

use super::*;
use rand::{RngExt, SeedableRng, rngs::StdRng};

#[derive(Clone, Copy, Debug)]
struct Sent {
    flags: u8,
    sequence: u32,
    acknowledgement: u32,
    len: u16,
}

/// A stop-and-go-back TCP: SYN, some data, FIN, each numbered; out of order is thrown away.
#[derive(Debug)]
struct Peer {
    is_client: bool,
    isn: u32,
    /// Data bytes it will send in all.
    total: u32,
    /// Offsets from `isn`: acknowledged, and sent.
    acknowledged: u32,
    sent: u32,
    /// The next number expected, once the other's SYN has come.
    expected: Option<u32>,
    fin_received: bool,
    /// It gave up, and answers everything with RST.
    aborted: bool,
    /// It accepted a RST.
    was_reset: bool,
}

impl Peer {
    fn new(is_client: bool, rng: &mut StdRng) -> Peer {
        // Often close to where numbers come round.
        let isn = if rng.random() { rng.random() } else { u32::MAX - rng.random_range(0..5_000) };
        let total = rng.random_range(0..20_000);
        Peer {
            is_client,
            isn,
            total,
            acknowledged: 0,
            sent: 0,
            expected: None,
            fin_received: false,
            aborted: false,
            was_reset: false,
        }
    }

    fn is_done(&self) -> bool {
        self.acknowledged == self.total + 2 && self.fin_received
    }

    /// What it might send now: `again` from the last acknowledged byte.
    fn speak(&mut self, again: bool, rng: &mut StdRng) -> Option<Sent> {
        if self.aborted || self.was_reset || (!self.is_client && self.expected.is_none()) {
            return None;
        }
        let from = if again { self.acknowledged } else { self.sent };
        let flag = if self.expected.is_some() { bits::ACK } else { 0 };
        let acknowledgement = self.expected.unwrap_or(0);
        let sequence = self.isn.wrapping_add(from);
        let (flags, len) = if from == 0 {
            (bits::SYN | flag, 0)
        } else if self.acknowledged == 0 {
            return None;
        } else if from <= self.total && from < self.acknowledged + 8_000 {
            let len = rng.random_range(1..1_461).min(self.total + 1 - from);
            let fin = if from + len == self.total + 1 && rng.random() { bits::FIN } else { 0 };
            (flag | fin, len as u16)
        } else if from == self.total + 1 {
            (flag | bits::FIN, 0)
        } else {
            (flag, 0)
        };
        let counted = u32::from(flags & bits::SYN != 0) + u32::from(flags & bits::FIN != 0);
        self.sent = self.sent.max(from + u32::from(len) + counted);
        Some(Sent { flags, sequence, acknowledgement, len })
    }

    fn abort(&mut self) -> Option<Sent> {
        self.aborted = true;
        let (sequence, acknowledgement) = (self.isn.wrapping_add(self.sent), self.expected?);
        Some(Sent { flags: bits::RST | bits::ACK, sequence, acknowledgement, len: 0 })
    }

    /// Takes a segment; the answer, if there must be one.
    fn hear(&mut self, s: Sent) -> Option<Sent> {
        let challenge = |expected| Sent {
            flags: bits::ACK,
            sequence: self.isn.wrapping_add(self.sent),
            acknowledgement: expected,
            len: 0,
        };
        if self.aborted || self.was_reset {
            let answer = Sent { flags: bits::RST, sequence: s.acknowledgement, acknowledgement: 0, len: 0 };
            return (s.flags & bits::RST == 0 && s.flags & bits::ACK != 0).then_some(answer);
        }
        if s.flags & bits::RST != 0 {
            let expected = self.expected?;
            if s.sequence == expected {
                self.was_reset = true;
                return None;
            }
            return (s.sequence.wrapping_sub(expected) < 60_000).then(|| challenge(expected));
        }
        if self.expected.is_none() && s.flags & bits::SYN == 0 {
            return None;
        }
        if s.flags & bits::ACK != 0 {
            let offset = s.acknowledgement.wrapping_sub(self.isn);
            if offset <= self.sent {
                self.acknowledged = self.acknowledged.max(offset);
            }
        }
        let counted = u32::from(s.flags & bits::SYN != 0) + u32::from(s.flags & bits::FIN != 0);
        match self.expected {
            None if s.flags & bits::SYN != 0 => self.expected = Some(s.sequence.wrapping_add(1)),
            Some(expected) if expected == s.sequence => {
                self.expected = Some(expected.wrapping_add(u32::from(s.len) + counted));
                self.fin_received |= s.flags & bits::FIN != 0;
            }
            _ => {}
        }
        (s.len > 0 || counted > 0).then(|| challenge(self.expected.unwrap_or(0))).filter(|_| self.sent > 0)
    }
}

/// Loses, repeats and overtakes.
struct Wire {
    flying: Vec<Sent>,
    loss: f64,
}

impl Wire {
    fn put(&mut self, segment: Sent, rng: &mut StdRng) {
        if !rng.random_bool(self.loss) {
            self.flying.push(segment);
        }
        if rng.random_bool(0.02) {
            self.flying.push(segment);
        }
    }

    fn take(&mut self, rng: &mut StdRng) -> Option<Sent> {
        let near = self.flying.len().min(4);
        (near > 0)
            .then(|| self.flying.remove(if rng.random_bool(0.8) { 0 } else { rng.random_range(0..near) }))
    }
}

fn converse(seed: u64, abort: bool) {
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let mut peers = [Peer::new(true, &mut rng), Peer::new(false, &mut rng)];
    let loss = [0.0, 0.05, 0.2][rng.random_range(0..3)];
    let wire = || Wire { flying: vec![], loss };
    // From each peer to the tracker, and from the tracker to the other.
    let (mut near, mut far) = ([wire(), wire()], [wire(), wire()]);
    let mut table = Conntrack::create(settings(1)).unwrap();
    let mut flow = None;
    let abort_at = if abort { rng.random_range(20..400) } else { u32::MAX };
    for step in 0..20_000 {
        let quiet = near.iter().chain(&far).all(|w| w.flying.is_empty());
        if quiet && peers.iter().all(|p| p.is_done() || p.aborted || p.was_reset) {
            break;
        }
        let who = rng.random_range(0..2);
        let side = [Side::Forward, Side::Reply][who];
        if step == abort_at {
            if let Some(reset) = peers[who].abort() {
                near[who].put(reset, &mut rng);
            }
        } else if rng.random_bool(0.3) {
            let again = rng.random_bool(0.3);
            if let Some(segment) = peers[who].speak(again, &mut rng) {
                near[who].put(segment, &mut rng);
            }
        }
        if let Some(s) = near[who].take(&mut rng) {
            let l4 = segment(s.flags, s.sequence, s.acknowledgement, s.len);
            let new = new(key(protocol::TCP, 1, 2), 1, l4);
            let id = *flow.get_or_insert_with(|| {
                assert_eq!(may_open(&new.key, &l4), Ok(()), "the first packet is the SYN");
                table.insert(&new, 0).unwrap()
            });
            let state = table.entry(id).state();
            let seen = table.touch(id, side, &l4, 60, 0);
            // A repetition of the handshake that comes after the end is lost, or a new flow: as it should be.
            let late_handshake = s.flags & bits::SYN != 0 && state.is_over();
            // And who has aborted has nothing to say: what of it was overtaken by its RST.
            let overtaken = peers[who].aborted && state == State::Closed;
            assert!(
                seen == Ok(Touch::Tracked) || late_handshake || overtaken || peers[who].was_reset,
                "step {step}: {s:?} from {side:?} in {state:?}: {seen:?}\n{peers:#?}\n{:?}",
                table.entry(id)
            );
            if seen == Ok(Touch::Tracked) {
                far[who].put(s, &mut rng);
            }
        }
        if let Some(s) = far[who].take(&mut rng)
            && let Some(answer) = peers[1 - who].hear(s)
        {
            near[1 - who].put(answer, &mut rng);
        }
        if let Some(id) = flow
            && peers.iter().any(|p| p.was_reset)
        {
            assert!(table.entry(id).state().is_over(), "an end accepted a RST that we thought nothing of");
        }
    }
    if !abort {
        let state = table.entry(flow.unwrap()).state();
        assert!(peers.iter().all(Peer::is_done), "{peers:#?}");
        assert_eq!(state, State::TimeWait);
    }
}

#[test]
fn what_two_honest_ends_say_passes_and_their_end_is_noticed() {
    for seed in 0..150 {
        converse(seed, false);
    }
}

#[test]
fn when_one_of_them_gives_up_its_reset_passes_and_both_learn_of_it() {
    for seed in 0..150 {
        converse(seed, true);
    }
}
