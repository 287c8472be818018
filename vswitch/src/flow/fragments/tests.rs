//! Against a naive table that keeps every piece it has seen and compares them pair by pair.

use super::*;
use penstock_api::artefact::protocol;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use std::collections::{BTreeMap, BTreeSet, HashMap};

fn key(family: u8, from: u16, to: u16) -> FlowKey {
    match family {
        4 => FlowKey::new(protocol::UDP, [10, 0, 0, 1].into(), from, [10, 0, 0, 2].into(), to),
        _ => FlowKey::new(protocol::UDP, [1u16; 8].into(), from, [2u16; 8].into(), to),
    }
}

fn piece(port: u16, id: u32, offset: u16, len: u16, more: bool) -> Piece {
    Piece { key: key(4, 0, 0), port: PortId(port), id, offset, len, more }
}

fn table(limits: FragmentLimits) -> FragmentTable {
    FragmentTable::new(limits, KeyHasher::with_seed(1))
}

#[derive(Clone, Debug)]
struct NaiveDatagram {
    port: u16,
    id: u32,
    phase: Phase,
    since_ms: u64,
    pieces: Vec<Piece>,
    held: Vec<u32>,
}

impl NaiveDatagram {
    fn is_sound(&self) -> bool {
        let bytes = |p: &Piece| (u32::from(p.offset), u32::from(p.offset) + u32::from(p.len));
        self.pieces.iter().enumerate().all(|(index, a)| {
            let (start, end) = bytes(a);
            let alone = a.len > 0 && end <= 65_535 && (!a.more || a.len % 8 == 0);
            alone
                && self.pieces[..index].iter().all(|b| {
                    let (b_start, b_end) = bytes(b);
                    let ends_agree = match (a.more, b.more) {
                        (true, true) => true,
                        (false, false) => end == b_end,
                        (true, false) => end < b_end,
                        (false, true) => b_end < end,
                    };
                    (end <= b_start || b_end <= start) && ends_agree
                })
        })
    }

    fn is_complete(&self) -> bool {
        let total: u32 = self.pieces.iter().map(|p| u32::from(p.len)).sum();
        self.pieces.iter().any(|p| !p.more && u32::from(p.offset) + u32::from(p.len) == total)
    }
}

/// Does what the module header promises, in the slowest way. Oldest datagram first.
#[derive(Debug)]
struct Naive {
    limits: FragmentLimits,
    datagrams: Vec<NaiveDatagram>,
}

type Drops = Vec<Released>;

impl Naive {
    fn held_by(&self, port: u16) -> usize {
        self.datagrams.iter().filter(|d| d.port == port).map(|d| d.held.len()).sum()
    }

    fn forget(&mut self, index: usize, out: &mut Drops) {
        let fate = Fate::Drop(DropReason::FragmentUnknown);
        out.extend(self.datagrams.remove(index).held.into_iter().map(|token| Released { token, fate }));
    }

    fn make(&mut self, p: &Piece, now_ms: u64, out: &mut Drops) -> usize {
        if self.datagrams.iter().filter(|d| d.port == p.port.0).count() == self.limits.datagrams_per_port_max
        {
            let oldest = self.datagrams.iter().position(|d| d.port == p.port.0).unwrap();
            self.forget(oldest, out);
        }
        let (port, id) = (p.port.0, p.id);
        let phase = Phase::Waiting;
        self.datagrams.push(NaiveDatagram {
            port,
            id,
            phase,
            since_ms: now_ms,
            pieces: vec![],
            held: vec![],
        });
        self.datagrams.len() - 1
    }

    fn find(&self, p: &Piece) -> Option<usize> {
        self.datagrams.iter().position(|d| d.port == p.port.0 && d.id == p.id)
    }

    fn poison(&mut self, index: usize, now_ms: u64, out: &mut Drops) -> DropReason {
        let datagram = &mut self.datagrams[index];
        datagram.phase = Phase::Poisoned;
        datagram.since_ms = now_ms;
        let fate = Fate::Drop(DropReason::FragmentBad);
        out.extend(datagram.held.drain(..).map(|token| Released { token, fate }));
        DropReason::FragmentBad
    }

    /// Whether the piece has come before, or why it is bad.
    fn place(&mut self, index: usize, p: &Piece, now_ms: u64, out: &mut Drops) -> Result<bool, DropReason> {
        let datagram = &mut self.datagrams[index];
        if datagram.phase == Phase::Poisoned {
            return Err(DropReason::FragmentBad);
        }
        let same = |q: &Piece| (q.offset, q.len, q.more) == (p.offset, p.len, p.more);
        if datagram.pieces.iter().any(same) {
            return Ok(true);
        }
        datagram.pieces.push(*p);
        if datagram.is_sound() { Ok(false) } else { Err(self.poison(index, now_ms, out)) }
    }

    fn first(&mut self, p: &Piece, now_ms: u64, out: &mut Drops) -> Result<(), DropReason> {
        if let Some(old) = self.find(p) {
            let datagram = &self.datagrams[old];
            if matches!(datagram.phase, Phase::Known(_)) && now_ms - datagram.since_ms >= self.limits.hold_ms
            {
                self.forget(old, out);
            }
        }
        let index = self.find(p).unwrap_or_else(|| self.make(p, now_ms, out));
        let again = self.place(index, p, now_ms, out)?;
        if let Phase::Known(known) = self.datagrams[index].phase {
            return if again && known == p.key { Ok(()) } else { Err(self.poison(index, now_ms, out)) };
        }
        let datagram = &mut self.datagrams[index];
        datagram.phase = Phase::Known(p.key);
        datagram.since_ms = now_ms;
        out.extend(datagram.held.drain(..).map(|token| Released { token, fate: Fate::Judge(p.key) }));
        if self.datagrams[index].is_complete() {
            self.forget(index, out);
        }
        Ok(())
    }

    fn later(&mut self, p: &Piece, token: u32, now_ms: u64, out: &mut Drops) -> Result<Later, DropReason> {
        let waiting = self.find(p).is_none_or(|index| self.datagrams[index].phase == Phase::Waiting);
        let held_here = self.find(p).map_or(0, |index| self.datagrams[index].held.len());
        let held: usize = self.datagrams.iter().map(|d| d.held.len()).sum();
        if waiting
            && (held == self.limits.held_max
                || self.held_by(p.port.0) == self.limits.held_per_port_max
                || held_here == self.limits.held_per_datagram_max)
        {
            return Err(DropReason::FragmentTableFull);
        }
        let index = self.find(p).unwrap_or_else(|| self.make(p, now_ms, out));
        let again = self.place(index, p, now_ms, out)?;
        match self.datagrams[index].phase {
            Phase::Known(key) => {
                if self.datagrams[index].is_complete() {
                    self.forget(index, out);
                }
                Ok(Later::Known(key))
            }
            Phase::Waiting if !again => {
                self.datagrams[index].held.push(token);
                Ok(Later::Held)
            }
            _ => Err(DropReason::FragmentBad),
        }
    }

    fn expire(&mut self, now_ms: u64, out: &mut Drops) {
        while let Some(index) = self.datagrams.iter().position(|d| {
            let age_ms = if d.phase == Phase::Waiting { self.limits.hold_ms } else { self.limits.known_ms };
            d.since_ms + age_ms <= now_ms
        }) {
            self.forget(index, out);
        }
    }
}

fn sorted(drops: &[Released]) -> BTreeMap<u32, Fate> {
    drops.iter().map(|r| (r.token, r.fate)).collect()
}

#[test]
fn hostile_pieces_get_the_answers_of_the_naive_table() {
    for seed in 0..300 {
        println!("seed {seed}");
        let mut rng = StdRng::seed_from_u64(seed);
        let limits = FragmentLimits {
            datagrams_max: 9,
            datagrams_per_port_max: 3,
            held_max: 10,
            held_per_port_max: 5,
            held_per_datagram_max: 3,
            ..FragmentLimits::default()
        };
        let (mut real, mut naive) = (table(limits), Naive { limits, datagrams: vec![] });
        let (mut released, mut expected) = (Vec::new(), Vec::new());
        let mut now_ms = 0;
        for token in 0..1_000 {
            released.clear();
            expected.clear();
            let offset = if rng.random_bool(0.3) { 0 } else { rng.random_range(1..8) * 8 };
            let mut p = piece(
                rng.random_range(0..3),
                rng.random_range(0..5),
                offset,
                *[0, 5, 8, 8, 8, 16, 24, 65_528].get(rng.random_range(0..8)).unwrap(),
                rng.random_bool(0.7),
            );
            if offset == 0 {
                p.more = true;
                p.key = key(4, 1, if rng.random_bool(0.9) { 53 } else { 22 });
                let answer = real.first(&p, now_ms, &mut released);
                assert_eq!(answer, naive.first(&p, now_ms, &mut expected), "{p:?} {naive:?}");
            } else {
                let answer = real.later(&p, token, now_ms, &mut released);
                assert_eq!(answer, naive.later(&p, token, now_ms, &mut expected), "{p:?} {naive:?}");
            }
            if rng.random_bool(0.2) {
                now_ms += rng.random_range(0..2_000);
                real.expire(now_ms, usize::MAX, &mut released);
                naive.expire(now_ms, &mut expected);
            }
            assert_eq!(sorted(&released), sorted(&expected));
            assert_eq!(released.len(), expected.len());
            let held: BTreeSet<u32> = real.held().collect();
            assert_eq!(held, naive.datagrams.iter().flat_map(|d| d.held.clone()).collect());
            assert_eq!((real.len(), real.held_count()), (naive.datagrams.len(), held.len()));
        }
    }
}

/// Cuts a datagram at an MTU, first piece first.
fn cut(port: u16, id: u32, total: u16, step: u16, flow: FlowKey) -> Vec<Piece> {
    (0..total)
        .step_by(usize::from(step))
        .map(|offset| Piece {
            key: if offset == 0 { flow } else { FlowKey { source_port: 0, destination_port: 0, ..flow } },
            port: PortId(port),
            id,
            offset,
            len: step.min(total - offset),
            more: total - offset > step,
        })
        .collect()
}

#[test]
fn legal_pieces_pass_in_any_order_with_repetitions_and_many_datagrams_between_each_other() {
    for seed in 0..100 {
        println!("seed {seed}");
        let mut rng = StdRng::seed_from_u64(seed);
        let mut real = table(FragmentLimits::default());
        // Token, piece, whether it is the original.
        let mut traffic = Vec::new();
        for id in 0..20u32 {
            let family = if rng.random() { 4 } else { 6 };
            let flow = key(family, id as u16, 53);
            // MTU 576, 1280, 1500, 9000.
            let step = [552u16, 1232, 1480, 8976][rng.random_range(0..4)];
            // 30 per datagram, so that 256 held per port suffice in the worst order.
            let total = rng.random_range(step + 1..step.saturating_mul(25).min(65_500));
            for p in cut(rng.random_range(0..4), id, total, step, flow) {
                traffic.push((traffic.len() as u32, p, true));
                if rng.random_bool(0.05) {
                    traffic.push((traffic.len() as u32, p, false));
                }
            }
        }
        // Out of order within a window; an original comes before its repetition.
        for window in traffic.chunks_mut(rng.random_range(2..80)) {
            window.shuffle(&mut rng);
        }
        let mut passed = HashMap::new();
        let mut released = Vec::new();
        for (token, p, _) in &traffic {
            released.clear();
            if p.offset == 0 {
                if real.first(p, 0, &mut released) == Ok(()) {
                    passed.insert(*token, p.key);
                }
            } else if let Ok(Later::Known(key)) = real.later(p, *token, 0, &mut released) {
                passed.insert(*token, key);
            }
            for Released { token, fate } in &released {
                let Fate::Judge(key) = fate else { panic!("{token} dropped: {fate:?}") };
                passed.insert(*token, *key);
            }
        }
        for (id, range) in (0..20).map(|id| (id, key(4, id, 53))) {
            for (p, tokens) in group(&traffic, u32::from(id)) {
                // Of a piece and its repetition, at least the one that came first passes.
                let keys: Vec<_> = tokens.iter().filter_map(|token| passed.get(token)).collect();
                assert!(!keys.is_empty(), "a piece of {id} at {} was lost", p.offset);
                assert!(keys.iter().all(|k| k.source_port == range.source_port), "{id} got another's ports");
            }
        }
        // Late repetitions may wait in vain; nothing else does.
        real.expire(5_000, usize::MAX, &mut released);
        assert_eq!((real.held_count(), real.len()), (0, 0));
    }
}

fn group(traffic: &[(u32, Piece, bool)], id: u32) -> Vec<(Piece, Vec<u32>)> {
    let mut by_offset: BTreeMap<u16, (Piece, Vec<u32>)> = BTreeMap::new();
    for (token, p, _) in traffic.iter().filter(|(_, p, _)| p.id == id) {
        by_offset.entry(p.offset).or_insert((*p, vec![])).1.push(*token);
    }
    by_offset.into_values().collect()
}

#[test]
fn a_million_first_pieces_of_one_port_cost_the_others_nothing() {
    let mut real = table(FragmentLimits::default());
    let mut released = Vec::with_capacity(1024);
    let victims: Vec<_> = (0..300).map(|id| cut(7, id, 4_000, 1480, key(4, id as u16, 53))).collect();
    for pieces in &victims {
        // One begins with its first, the other waits for it.
        let early = (pieces[0].id % 2) as usize;
        match early {
            0 => assert_eq!(real.first(&pieces[0], 0, &mut released), Ok(())),
            _ => assert_eq!(real.later(&pieces[1], pieces[0].id, 0, &mut released), Ok(Later::Held)),
        }
    }
    for id in 0..1_000_000 {
        let p = Piece { key: key(4, id as u16, 53), ..piece(6, id, 0, 1480, true) };
        assert_eq!(real.first(&p, 1, &mut released), Ok(()));
    }
    for id in 0..1_000_000u32 {
        let _ = real.later(&piece(6, id, 1480, 1480, true), 1_000_000 + id, 1, &mut released);
    }
    assert!(released.iter().all(|r| r.token >= 1_000_000), "another port's frame was given back");
    released.clear();
    for pieces in &victims {
        if pieces[0].id % 2 == 0 {
            assert_eq!(real.later(&pieces[1], 0, 2, &mut released), Ok(Later::Known(pieces[0].key)));
        } else {
            assert_eq!(real.first(&pieces[0], 2, &mut released), Ok(()));
            let judged = Released { token: pieces[0].id, fate: Fate::Judge(pieces[0].key) };
            assert_eq!(released.pop(), Some(judged));
        }
        assert_eq!(real.later(&pieces[2], 0, 2, &mut released), Ok(Later::Known(pieces[0].key)));
    }
}

#[test]
fn a_full_table_takes_from_the_port_that_holds_most() {
    let limits = FragmentLimits { datagrams_max: 8, datagrams_per_port_max: 8, ..FragmentLimits::default() };
    let mut real = table(limits);
    let mut released = Vec::new();
    for id in 0..8 {
        assert_eq!(real.first(&piece(1, id, 0, 8, true), 0, &mut released), Ok(()));
    }
    assert_eq!(real.first(&piece(2, 0, 0, 8, true), 0, &mut released), Ok(()));
    assert_eq!(
        real.later(&piece(1, 0, 8, 8, true), 1, 0, &mut released),
        Ok(Later::Held),
        "it lost its oldest"
    );
    assert_eq!(real.later(&piece(2, 0, 8, 8, true), 2, 0, &mut released), Ok(Later::Known(key(4, 0, 0))));
}

#[test]
fn an_identification_that_comes_round_begins_a_new_datagram() {
    let mut real = table(FragmentLimits::default());
    let mut released = Vec::new();
    let old = cut(1, 9, 4_000, 1480, key(4, 1, 53));
    let new = cut(1, 9, 6_000, 1480, key(4, 2, 53));
    assert_eq!(real.first(&old[0], 0, &mut released), Ok(()));
    assert_eq!(real.later(&old[1], 0, 0, &mut released), Ok(Later::Known(old[0].key)));
    assert_eq!(real.first(&new[0], 1_500, &mut released), Ok(()));
    for p in &new[1..] {
        assert_eq!(real.later(p, 0, 1_500, &mut released), Ok(Later::Known(new[0].key)));
    }
    assert!(real.is_empty() && released.is_empty());
}

#[test]
fn a_port_that_goes_gives_back_its_frames_and_only_its() {
    let mut real = table(FragmentLimits::default());
    let mut released = Vec::new();
    for (token, port) in [(1, 1), (2, 2), (3, 1)] {
        assert_eq!(real.later(&piece(port, token, 8, 8, true), token, 0, &mut released), Ok(Later::Held));
    }
    real.remove_port(PortId(1), &mut released);
    let dropped = Fate::Drop(DropReason::FragmentUnknown);
    assert_eq!(sorted(&released), BTreeMap::from([(1, dropped), (3, dropped)]));
    assert_eq!(real.held().collect::<Vec<_>>(), [2]);
}

#[test]
fn more_pieces_than_are_remembered_one_by_one_still_pass_when_they_join() {
    let mut real = table(FragmentLimits::default());
    let mut released = Vec::new();
    let pieces = cut(1, 1, 2_000, 8, key(4, 1, 53));
    assert_eq!(real.first(&pieces[0], 0, &mut released), Ok(()));
    for p in &pieces[1..] {
        assert_eq!(real.later(p, 0, 0, &mut released), Ok(Later::Known(pieces[0].key)), "{p:?}");
    }
    assert!(real.is_empty());
    // Every second piece: nothing joins, and no honest sender does that.
    assert_eq!(real.first(&pieces[0], 0, &mut released), Ok(()));
    let answers: Vec<_> =
        pieces.iter().skip(2).step_by(2).map(|p| real.later(p, 0, 0, &mut released)).collect();
    assert!(answers.contains(&Err(DropReason::FragmentBad)));
}

#[test]
fn ipv6_pieces_belong_together_whatever_protocol_they_claim_and_ipv4_pieces_do_not() {
    for (family, known) in [(6, true), (4, false)] {
        let mut real = table(FragmentLimits::default());
        let mut released = Vec::new();
        let pieces = cut(1, 1, 3_000, 1_232, key(family, 1, 53));
        assert_eq!(real.first(&pieces[0], 0, &mut released), Ok(()));
        // Destination options come first in what was cut.
        let other = Piece { key: FlowKey { protocol: 60, ..pieces[1].key }, ..pieces[1] };
        let answer = real.later(&other, 0, 0, &mut released);
        assert_eq!(answer, Ok(if known { Later::Known(pieces[0].key) } else { Later::Held }));
    }
}

#[test]
fn a_piece_is_measured_from_where_its_data_begin() {
    use crate::packet::{L4, Payload};
    let parsed = |family, fragment, headers: u16| Parsed {
        key: key(family, 1, 2),
        l3_offset: 14,
        l4_offset: 14 + headers,
        ip_len: 1_488,
        ttl: 64,
        dont_fragment: false,
        fragment,
        payload: Payload::Flow(L4::Other),
    };
    let len = |p: Parsed| Piece::of(&p, PortId(1)).map(|p| (p.offset, p.len, p.more));
    assert_eq!(len(parsed(4, Fragment::Whole, 20)), None);
    assert_eq!(len(parsed(4, Fragment::First { id: 1 }, 20)), Some((0, 1_468, true)));
    let later = Fragment::Later { id: 1, offset: 1_480, more: false };
    assert_eq!(len(parsed(6, later, 48)), Some((1_480, 1_440, false)));
    // Eight bytes of options between fragment header and L4: they are the datagram's, and may not be overwritten.
    assert_eq!(len(parsed(6, Fragment::First { id: 1 }, 56)), Some((0, 1_440, true)));
}
