//! The flow cache: what was decided for a key, where most packets stop asking.
//!
//! **Purpose.** A packet whose flow is known is forwarded after one hash, one line of tags and one line of entry. An
//! answer is valid only under the generations it was given under ([`Judged`]) and while the conntrack slot still holds the
//! same flow (`stamp`); the caller compares both. The cache may forget anything at any time and never answers for another key.
//!
//! **Size.** Sets of 8; 72 bytes per entry (64 and its share of the tags). Exact match only: a hit costs the same whatever the
//! policies are, and no packet can widen what an entry covers.
//!
//! **Replacement.** Second chance within a set: entries hit since the hand last passed are spared once. The hash is keyed, so
//! nobody can aim at a set.
//!
//! **Threads.** One worker owns it; reading marks entries as used, so it cannot be shared.

#[cfg(test)]
mod tests;

use super::conntrack::{FlowId, Judged, Side};
use super::prefetch::prefetch;
use super::{huge, lanes};
use crate::packet::FlowKey;
use penstock_api::PortId;
use std::cell::Cell;

const WAYS: usize = lanes::LANES;

/// What was decided for one direction of one flow. One cache line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct CacheEntry {
    pub key: FlowKey,
    pub flow: FlowId,
    /// [`Entry::stamp`](super::Entry::stamp) of the flow when this was remembered: another number in the slot is another flow.
    pub stamp: u32,
    pub judged: Judged,
    /// Where packets with this key leave.
    pub out: PortId,
    pub side: Side,
    /// Free for the caller.
    pub flags: u8,
}

const _: () = assert!(size_of::<CacheEntry>() == 64);

/// The tags of one set, and who has been used. One cache line.
#[derive(Clone, Debug)]
#[repr(C, align(64))]
struct Set {
    /// The upper half of the hash; 0 is an empty way.
    tags: [u32; WAYS],
    /// One bit per way.
    used: Cell<u8>,
    hand: u8,
}

#[derive(Debug)]
pub struct FlowCache {
    sets: Vec<Set>,
    entries: Vec<CacheEntry>,
    mask: usize,
}

/// Where an entry may be, by its tag alone. Good for as long as nobody else is remembered, and checked when used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guess(u32);

impl Guess {
    pub const NONE: Guess = Guess(u32::MAX);
}

#[inline]
fn tag_of(hash: u64) -> u32 {
    ((hash >> 32) as u32).max(1)
}

impl FlowCache {
    /// Room for at least `entries_max` entries, rounded up to a power of two, at least 8.
    #[must_use]
    pub fn new(entries_max: usize) -> Self {
        let sets = entries_max.div_ceil(WAYS).next_power_of_two();
        let nothing = CacheEntry {
            key: FlowKey::default(),
            flow: FlowId::default(),
            stamp: 0,
            judged: Judged::NEVER,
            out: PortId(0),
            side: Side::Forward,
            flags: 0,
        };
        FlowCache {
            sets: huge::table(Set::empty(), sets),
            entries: huge::table(nothing, sets * WAYS),
            mask: sets - 1,
        }
    }

    /// First pass over a batch: asks for the tags.
    #[inline]
    pub fn prefetch(&self, hash: u64) {
        prefetch(&self.sets[hash as usize & self.mask]);
    }

    /// Second pass, when the tags have arrived: asks for the entry they point to.
    #[inline]
    pub fn guess(&self, hash: u64) -> Guess {
        let set = hash as usize & self.mask;
        let ways = lanes::equal(&self.sets[set].tags, tag_of(hash));
        if ways == 0 {
            return Guess::NONE;
        }
        let at = set * WAYS + ways.trailing_zeros() as usize;
        prefetch(&self.entries[at]);
        Guess(at as u32)
    }

    /// When the tags have arrived and the key is not among them: asks for the entry that remembering it will write.
    #[inline]
    pub fn prefetch_room(&self, hash: u64) {
        let set = hash as usize & self.mask;
        let empty = lanes::equal(&self.sets[set].tags, 0);
        let way = if empty == 0 { self.sets[set].hand.into() } else { empty.trailing_zeros() as usize };
        prefetch(&self.entries[set * WAYS + way % WAYS]);
    }

    /// Third pass, when the entry has arrived: its flow and stamp, for whoever wants to prefetch that.
    #[inline]
    pub fn flow_at(&self, guess: Guess) -> Option<(FlowId, u32)> {
        self.entries.get(guess.0 as usize).map(|entry| (entry.flow, entry.stamp))
    }

    /// What [`FlowCache::get`] says, sooner if the guess was right.
    #[inline]
    pub fn get_guessed(&self, guess: Guess, hash: u64, key: &FlowKey) -> Option<&CacheEntry> {
        let (at, set) = (guess.0 as usize, hash as usize & self.mask);
        if at / WAYS == set
            && self.sets[set].tags[at % WAYS] == tag_of(hash)
            && self.entries[at].key.is_of(&key.words())
        {
            self.sets[set].use_way(at % WAYS);
            return Some(&self.entries[at]);
        }
        self.get(hash, key)
    }

    /// The entry for exactly this key. `hash` is [`KeyHasher::hash`](super::KeyHasher::hash) of the key.
    #[inline]
    pub fn get(&self, hash: u64, key: &FlowKey) -> Option<&CacheEntry> {
        let (index, way) = self.position(hash, key)?;
        self.sets[index].use_way(way);
        Some(&self.entries[index * WAYS + way])
    }

    #[inline]
    fn position(&self, hash: u64, key: &FlowKey) -> Option<(usize, usize)> {
        let set = hash as usize & self.mask;
        let tag = tag_of(hash);
        let words = key.words();
        let mut ways = lanes::equal(&self.sets[set].tags, tag);
        while ways != 0 {
            let way = ways.trailing_zeros() as usize;
            if self.entries[set * WAYS + way].key.is_of(&words) {
                return Some((set, way));
            }
            ways &= ways - 1;
        }
        None
    }

    /// Remembers `entry` under its key, in place of what was known for that key, or of something little used.
    pub fn insert(&mut self, hash: u64, entry: CacheEntry) {
        let (index, way) = match self.position(hash, &entry.key) {
            Some(known) => known,
            None => {
                let index = hash as usize & self.mask;
                (index, self.sets[index].make_room())
            }
        };
        let set = &mut self.sets[index];
        set.tags[way] = tag_of(hash);
        // New entries begin unused: a flood of single packets turns over among itself and spares what is hit again.
        set.used.set(set.used.get() & !(1 << way));
        self.entries[index * WAYS + way] = entry;
    }

    /// Forgets a key; whether it was known.
    pub fn remove(&mut self, hash: u64, key: &FlowKey) -> bool {
        match self.position(hash, key) {
            Some((index, way)) => {
                self.sets[index].tags[way] = 0;
                true
            }
            None => false,
        }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        for set in &mut self.sets {
            *set = Set::empty();
        }
    }

    /// Entries it has room for.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.entries.len()
    }

    /// Entries in it. Counts: not for the packet path.
    #[must_use]
    pub fn count(&self) -> usize {
        self.sets.iter().flat_map(|set| &set.tags).filter(|tag| **tag != 0).count()
    }
}

impl Set {
    const fn empty() -> Set {
        Set { tags: [0; WAYS], used: Cell::new(0), hand: 0 }
    }

    /// Written only when it changes: most lines are clean when they leave the processor's cache.
    #[inline]
    fn use_way(&self, way: usize) {
        let used = self.used.get();
        if used & 1 << way == 0 {
            self.used.set(used | 1 << way);
        }
    }

    /// An empty way, or the first at or after the hand that was not used since the hand passed it.
    fn make_room(&mut self) -> usize {
        let empty = lanes::equal(&self.tags, 0);
        if empty != 0 {
            return empty.trailing_zeros() as usize;
        }
        let mut used = self.used.get();
        // Ends: a full turn clears every bit.
        loop {
            let way = usize::from(self.hand);
            self.hand = (self.hand + 1) % WAYS as u8;
            if used & 1 << way == 0 {
                self.used.set(used);
                return way;
            }
            used &= !(1 << way);
        }
    }
}
