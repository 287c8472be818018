//! Packets in pieces: only the first says which ports it is for, and pieces arrive in any order.
//!
//! **Shape.** A datagram is known by addresses, protocol, identification, zone and the port it entered by (IPv6: not by protocol). Its first piece is
//! judged like any packet and leaves its key here; later pieces are given that key and judged under it. Pieces that come before
//! their first are *held*: the caller keeps the frame, the table keeps the frame's number, until the first comes or a second has passed.
//!
//! **Promise.** A piece is never let through on a guess: without its first it is never judged. A datagram whose pieces
//! overlap is poisoned, and none of its pieces passes from then on (an overlap can rewrite what was judged: RFC 1858,
//! RFC 5722); an exact repetition is no overlap. Bounded per datagram, per port and in total; a port that exceeds its share
//! loses its own oldest datagram, and no other port's. Nothing allocates: held frames come back through a vector of the caller's.
//!
//! **Owner.** One worker. Every piece of a datagram reaches the same one, as ports do not count for steering pieces.

mod coverage;
#[cfg(test)]
mod tests;

use super::hash::KeyHasher;
use super::list::Lists;
use super::quota::Quota;
use crate::packet::{FlowKey, Fragment, Parsed};
use coverage::{Coverage, Fit};
use penstock_api::{DropReason, PortId};

/// How much may be remembered, and how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FragmentLimits {
    pub datagrams_max: usize,
    pub datagrams_per_port_max: usize,
    /// Frames held for want of a first piece. They are missing elsewhere: a small part of the worker's frames.
    pub held_max: usize,
    pub held_per_port_max: usize,
    pub held_per_datagram_max: usize,
    /// How long a piece waits for its first.
    pub hold_ms: u64,
    /// How long a datagram's ports are remembered after its first.
    pub known_ms: u64,
}

impl Default for FragmentLimits {
    fn default() -> Self {
        FragmentLimits {
            datagrams_max: 4096,
            datagrams_per_port_max: 512,
            held_max: 1024,
            held_per_port_max: 256,
            held_per_datagram_max: 64,
            hold_ms: 1_000,
            known_ms: 5_000,
        }
    }
}

/// IPv6 header and fragment header.
const IPV6_FRAGMENT_HEADERS_LEN: u16 = 48;

/// One piece, as the table sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Addresses, protocol and zone of the datagram. Ports do not count.
    pub key: FlowKey,
    /// Where it entered.
    pub port: PortId,
    pub id: u32,
    /// Of its data in the datagram, and their length, in bytes.
    pub offset: u16,
    pub len: u16,
    /// Not the last.
    pub more: bool,
}

impl Piece {
    /// The piece a packet is; `None` for a whole packet.
    #[must_use]
    pub fn of(parsed: &Parsed, port: PortId) -> Option<Piece> {
        let (id, offset, more) = match parsed.fragment {
            Fragment::Whole => return None,
            Fragment::First { id } => (id, 0, true),
            Fragment::Later { id, offset, more } => (id, offset, more),
        };
        let headers = match parsed.fragment {
            // Extension headers after the fragment header are part of what is fragmented, and must not be overwritten. Those
            // before it are not, but cannot be told apart here: taken for the former, they cost such a datagram its passage.
            Fragment::First { .. } if parsed.key.family == 6 => IPV6_FRAGMENT_HEADERS_LEN,
            _ => parsed.l4_offset.saturating_sub(parsed.l3_offset),
        };
        Some(Piece { key: parsed.key, port, id, offset, len: parsed.ip_len.saturating_sub(headers), more })
    }
}

/// What a later piece is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Later {
    /// It belongs to the flow with this key (its first piece's): judge it so, with [`L4::Other`](crate::packet::L4::Other).
    Known(FlowKey),
    /// Its first has not come: the table has its token, the caller keeps the frame until the token comes back.
    Held,
}

/// A frame the table gives back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Released {
    pub token: u32,
    pub fate: Fate,
}

/// What to do with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Its first piece has come, with this key: judge it so, after the first. Do not ask the table again.
    Judge(FlowKey),
    Drop(DropReason),
}

/// One worker's datagrams in pieces.
#[derive(Debug)]
pub struct FragmentTable {
    limits: FragmentLimits,
    hasher: KeyHasher,
    datagrams: Vec<Datagram>,
    /// Chains of datagrams by hash; heads and `Datagram::chain` are slot + 1.
    heads: Vec<u32>,
    free: Vec<u32>,
    /// Who may have how many, and whose is oldest.
    quota: Quota,
    /// By age: [`WAITING`] and [`KNOWN`].
    ages: Lists,
    frames: Vec<HeldFrame>,
    frames_free: Vec<u32>,
    held_by_port: Vec<u32>,
}

/// The age list of datagrams without a first piece, since they were made.
const WAITING: usize = 0;
/// Of datagrams with one (or poisoned), since then.
const KNOWN: usize = 1;

#[derive(Clone, Copy, Debug)]
struct HeldFrame {
    token: u32,
    used: bool,
    /// The next of the same datagram, plus one.
    next: u32,
}

#[derive(Clone, Debug)]
struct Datagram {
    identity: Identity,
    hash: u64,
    /// The next with the same head, plus one.
    chain: u32,
    phase: Phase,
    since_ms: u64,
    /// Where the datagram ends, once its last piece has told.
    end: Option<u16>,
    coverage: Coverage,
    /// Held frames in order of arrival, plus one.
    held_head: u32,
    held_tail: u32,
    held: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity {
    /// The key with its ports taken out, and for IPv6 its protocol.
    words: [u64; 5],
    port: PortId,
    id: u32,
}

impl Identity {
    fn of(piece: &Piece) -> Identity {
        let mut words = piece.key.words();
        words[4] &= !0xFFFF_FFFF;
        if piece.key.family == 6 {
            // RFC 8200 section 4.5: receivers put together what has the same addresses and identification. The protocol, as a
            // later piece can know it, is that of the first extension header.
            words[4] &= !(0xFF << 32);
        }
        Identity { words, port: piece.port, id: piece.id }
    }

    fn hash(&self, hasher: &KeyHasher) -> u64 {
        hasher.hash_words(&self.words, u64::from(self.id) | u64::from(self.port.0) << 32)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Waiting,
    Known(FlowKey),
    Poisoned,
}

impl FragmentTable {
    #[must_use]
    pub fn new(limits: FragmentLimits, hasher: KeyHasher) -> Self {
        let nothing = Datagram {
            identity: Identity { words: [0; 5], port: PortId(0), id: 0 },
            hash: 0,
            chain: 0,
            phase: Phase::Waiting,
            since_ms: 0,
            end: None,
            coverage: Coverage::EMPTY,
            held_head: 0,
            held_tail: 0,
            held: 0,
        };
        FragmentTable {
            datagrams: vec![nothing; limits.datagrams_max],
            heads: vec![0; (limits.datagrams_max * 2).next_power_of_two()],
            free: (0..limits.datagrams_max as u32).rev().collect(),
            quota: Quota::new(limits.datagrams_max),
            ages: Lists::new(2, limits.datagrams_max),
            frames: vec![HeldFrame { token: 0, used: false, next: 0 }; limits.held_max],
            frames_free: (0..limits.held_max as u32).rev().collect(),
            held_by_port: vec![0; 1 << 16],
            limits,
            hasher,
        }
    }

    /// A first piece, with the ports of its L4 header in `piece.key`. On `Ok` judge it; held pieces of the datagram come back
    /// through `released`, to be judged after it. `released` never grows beyond [`FragmentLimits::held_max`]: reserve that once.
    ///
    /// # Errors
    /// [`DropReason::FragmentBad`]: drop the piece. [`DropReason::FragmentTableFull`]: likewise, since its later pieces could
    /// not pass. What `released` holds is to be dropped, for the reason given there, in either case.
    pub fn first(
        &mut self,
        piece: &Piece,
        now_ms: u64,
        released: &mut Vec<Released>,
    ) -> Result<(), DropReason> {
        if let Some(known) = self.find(piece) {
            let datagram = &self.datagrams[known as usize];
            // An old datagram that lost a piece, and its identification has come round: a fast sender needs a few seconds for
            // that. Judged pieces stay judged: whatever a receiver makes of both, each first was allowed on its own.
            if matches!(datagram.phase, Phase::Known(_))
                && now_ms.saturating_sub(datagram.since_ms) >= self.limits.hold_ms
            {
                self.forget(known, released);
            }
        }
        let slot = self.find_or_make(piece, now_ms, released)?;
        let again = matches!(self.place(slot, piece, now_ms, released)?, Fit::Again);
        match self.datagrams[slot as usize].phase {
            Phase::Known(key) if again && key == piece.key => return Ok(()),
            // The same bytes with other ports inside: one of the two is a lie.
            Phase::Known(_) => return Err(self.poison(slot, now_ms, released)),
            Phase::Poisoned => return Err(DropReason::FragmentBad),
            Phase::Waiting => {}
        }
        self.settle(slot, Phase::Known(piece.key), now_ms);
        self.release(slot, Fate::Judge(piece.key), released);
        self.forget_if_complete(slot, released);
        Ok(())
    }

    /// A later piece. `token` is the caller's number for its frame, kept when the answer is [`Later::Held`].
    ///
    /// # Errors
    /// [`DropReason::FragmentBad`] or [`DropReason::FragmentTableFull`]: drop the piece, and what `released` holds.
    pub fn later(
        &mut self,
        piece: &Piece,
        token: u32,
        now_ms: u64,
        released: &mut Vec<Released>,
    ) -> Result<Later, DropReason> {
        if piece.offset == 0 {
            return Err(DropReason::FragmentBad);
        }
        let port = piece.port.index();
        let slot = match self.find(piece) {
            Some(slot) => slot,
            None => {
                // Nothing to hold it with: do not begin a datagram for it either.
                if self.frames_free.is_empty()
                    || self.held_by_port[port] as usize >= self.limits.held_per_port_max
                {
                    return Err(DropReason::FragmentTableFull);
                }
                self.find_or_make(piece, now_ms, released)?
            }
        };
        let datagram = &self.datagrams[slot as usize];
        let must_hold = datagram.phase == Phase::Waiting;
        if must_hold
            && (self.frames_free.is_empty()
                || self.held_by_port[port] as usize >= self.limits.held_per_port_max
                || datagram.held as usize >= self.limits.held_per_datagram_max)
        {
            return Err(DropReason::FragmentTableFull);
        }
        let fit = self.place(slot, piece, now_ms, released)?;
        match self.datagrams[slot as usize].phase {
            Phase::Known(key) => {
                self.forget_if_complete(slot, released);
                Ok(Later::Known(key))
            }
            Phase::Poisoned => Err(DropReason::FragmentBad),
            // One of it waits already.
            Phase::Waiting if matches!(fit, Fit::Again) => Err(DropReason::FragmentBad),
            Phase::Waiting => {
                self.hold(slot, token);
                Ok(Later::Held)
            }
        }
    }

    /// Gives back the frames of datagrams whose first did not come in time, and forgets datagrams that are old. Looks at no more
    /// than `budget` datagrams.
    pub fn expire(&mut self, now_ms: u64, budget: usize, released: &mut Vec<Released>) {
        for (list, age_ms) in [(WAITING, self.limits.hold_ms), (KNOWN, self.limits.known_ms)] {
            for _ in 0..budget {
                let Some(slot) = self.ages.front(list) else { break };
                if self.datagrams[slot as usize].since_ms.saturating_add(age_ms) > now_ms {
                    break;
                }
                self.forget(slot, released);
            }
        }
    }

    /// Forgets a port that is gone, and gives back its frames.
    pub fn remove_port(&mut self, port: PortId, released: &mut Vec<Released>) {
        while let Some(slot) = self.quota.oldest_of(port) {
            self.forget(slot, released);
        }
    }

    /// Tokens of all held frames, in no order: for the census of frames.
    pub fn held(&self) -> impl Iterator<Item = u32> {
        self.frames.iter().filter(|frame| frame.used).map(|frame| frame.token)
    }

    /// Frames held now.
    #[must_use]
    pub fn held_count(&self) -> usize {
        self.frames.len() - self.frames_free.len()
    }

    /// Datagrams remembered now.
    #[must_use]
    pub fn len(&self) -> usize {
        self.datagrams.len() - self.free.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn head_of(&self, hash: u64) -> usize {
        hash as usize & (self.heads.len() - 1)
    }

    fn find(&self, piece: &Piece) -> Option<u32> {
        let identity = Identity::of(piece);
        let mut next = self.heads[self.head_of(identity.hash(&self.hasher))];
        // Ends: a chain has no more members than there are datagrams, and keyed hashing keeps it at one or two.
        while let Some(slot) = next.checked_sub(1) {
            let datagram = &self.datagrams[slot as usize];
            if datagram.identity == identity {
                return Some(slot);
            }
            next = datagram.chain;
        }
        None
    }

    fn find_or_make(
        &mut self,
        piece: &Piece,
        now_ms: u64,
        released: &mut Vec<Released>,
    ) -> Result<u32, DropReason> {
        if let Some(slot) = self.find(piece) {
            return Ok(slot);
        }
        if self.quota.held(piece.port) as usize >= self.limits.datagrams_per_port_max {
            let oldest = self.quota.oldest_of(piece.port).ok_or(DropReason::FragmentTableFull)?;
            self.forget(oldest, released);
        }
        if self.free.is_empty() {
            let oldest = self.quota.victim_for(piece.port).ok_or(DropReason::FragmentTableFull)?;
            self.forget(oldest, released);
        }
        let slot = self.free.pop().ok_or(DropReason::FragmentTableFull)?;
        let identity = Identity::of(piece);
        let hash = identity.hash(&self.hasher);
        let head = self.head_of(hash);
        self.datagrams[slot as usize] = Datagram {
            identity,
            hash,
            chain: self.heads[head],
            phase: Phase::Waiting,
            since_ms: now_ms,
            end: None,
            coverage: Coverage::EMPTY,
            held_head: 0,
            held_tail: 0,
            held: 0,
        };
        self.heads[head] = slot + 1;
        self.ages.push_back(WAITING, slot);
        self.quota.add(piece.port);
        self.quota.make_expendable(piece.port, slot);
        Ok(slot)
    }

    /// Enters the piece into the datagram's coverage, or poisons the datagram.
    fn place(
        &mut self,
        slot: u32,
        piece: &Piece,
        now_ms: u64,
        released: &mut Vec<Released>,
    ) -> Result<Fit, DropReason> {
        let datagram = &mut self.datagrams[slot as usize];
        if datagram.phase == Phase::Poisoned {
            return Err(DropReason::FragmentBad);
        }
        let end = piece.offset.checked_add(piece.len).filter(|_| piece.len > 0);
        let fit = match end {
            // Longer than a packet can be, or empty.
            None => Fit::Overlap,
            Some(_) if piece.more && !piece.len.is_multiple_of(8) => Fit::Overlap,
            // The last piece tells where the datagram ends: once, and nothing that has more after it ends there or beyond.
            Some(end)
                if datagram.end.is_some_and(|known| if piece.more { end >= known } else { end != known }) =>
            {
                Fit::Overlap
            }
            Some(end) if !piece.more && datagram.end.is_none() && datagram.coverage.last_end() >= end => {
                Fit::Overlap
            }
            Some(end) => {
                if !piece.more {
                    datagram.end = Some(end);
                }
                datagram.coverage.add(piece.offset, end)
            }
        };
        match fit {
            Fit::New | Fit::Again => Ok(fit),
            Fit::Overlap | Fit::TooMany => Err(self.poison(slot, now_ms, released)),
        }
    }

    #[cold]
    fn poison(&mut self, slot: u32, now_ms: u64, released: &mut Vec<Released>) -> DropReason {
        self.settle(slot, Phase::Poisoned, now_ms);
        self.release(slot, Fate::Drop(DropReason::FragmentBad), released);
        DropReason::FragmentBad
    }

    /// Ends waiting.
    fn settle(&mut self, slot: u32, phase: Phase, now_ms: u64) {
        let datagram = &mut self.datagrams[slot as usize];
        let list = if datagram.phase == Phase::Waiting { WAITING } else { KNOWN };
        datagram.phase = phase;
        datagram.since_ms = now_ms;
        self.ages.unlink(list, slot);
        self.ages.push_back(KNOWN, slot);
    }

    fn hold(&mut self, slot: u32, token: u32) {
        // The caller of this looked for room first.
        let Some(frame) = self.frames_free.pop() else { return };
        self.frames[frame as usize] = HeldFrame { token, used: true, next: 0 };
        let datagram = &mut self.datagrams[slot as usize];
        match datagram.held_tail {
            0 => datagram.held_head = frame + 1,
            tail => self.frames[tail as usize - 1].next = frame + 1,
        }
        datagram.held_tail = frame + 1;
        datagram.held += 1;
        self.held_by_port[datagram.identity.port.index()] += 1;
    }

    /// Gives back what the datagram holds, in order of arrival.
    fn release(&mut self, slot: u32, fate: Fate, released: &mut Vec<Released>) {
        let datagram = &mut self.datagrams[slot as usize];
        let mut next = std::mem::take(&mut datagram.held_head);
        datagram.held_tail = 0;
        self.held_by_port[datagram.identity.port.index()] -= std::mem::take(&mut datagram.held);
        while let Some(frame) = next.checked_sub(1) {
            let held = &mut self.frames[frame as usize];
            held.used = false;
            next = held.next;
            released.push(Released { token: held.token, fate });
            self.frames_free.push(frame);
        }
    }

    /// A datagram that is all there needs no more memory, and its identification may come again soon.
    fn forget_if_complete(&mut self, slot: u32, released: &mut Vec<Released>) {
        let datagram = &self.datagrams[slot as usize];
        if datagram.end.is_some_and(|end| u32::from(end) == datagram.coverage.bytes) {
            self.forget(slot, released);
        }
    }

    fn forget(&mut self, slot: u32, released: &mut Vec<Released>) {
        self.release(slot, Fate::Drop(DropReason::FragmentUnknown), released);
        let datagram = &self.datagrams[slot as usize];
        let (port, chain, hash) = (datagram.identity.port, datagram.chain, datagram.hash);
        let list = if datagram.phase == Phase::Waiting { WAITING } else { KNOWN };
        self.ages.unlink(list, slot);
        self.quota.keep(port, slot);
        self.quota.sub(port);
        let head = self.head_of(hash);
        if self.heads[head] == slot + 1 {
            self.heads[head] = chain;
        } else {
            let mut next = self.heads[head];
            while let Some(at) = next.checked_sub(1) {
                next = self.datagrams[at as usize].chain;
                if next == slot + 1 {
                    self.datagrams[at as usize].chain = chain;
                    break;
                }
            }
        }
        self.free.push(slot);
    }
}
