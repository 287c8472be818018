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
use crate::packet::FlowKey;
use penstock_api::PortId;
use std::cell::Cell;

const WAYS: usize = 8;

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
#[derive(Debug)]
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
            sets: (0..sets).map(|_| Set { tags: [0; WAYS], used: Cell::new(0), hand: 0 }).collect(),
            entries: vec![nothing; sets * WAYS],
            mask: sets - 1,
        }
    }

    /// First pass over a batch: asks for the tags.
    #[inline]
    pub fn prefetch(&self, hash: u64) {
        prefetch(&self.sets[hash as usize & self.mask]);
    }

    /// Second pass, when the tags have arrived: asks for the entry they point to. Optional.
    #[inline]
    pub fn prefetch_entry(&self, hash: u64) {
        let set = hash as usize & self.mask;
        let tag = tag_of(hash);
        if let Some(way) = self.sets[set].tags.iter().position(|t| *t == tag) {
            prefetch(&self.entries[set * WAYS + way]);
        }
    }

    /// The entry for exactly this key. `hash` is [`KeyHasher::hash`](super::KeyHasher::hash) of the key.
    #[inline]
    pub fn get(&self, hash: u64, key: &FlowKey) -> Option<&CacheEntry> {
        let (index, way) = self.position(hash, key)?;
        let used = &self.sets[index].used;
        used.set(used.get() | 1 << way);
        Some(&self.entries[index * WAYS + way])
    }

    #[inline]
    fn position(&self, hash: u64, key: &FlowKey) -> Option<(usize, usize)> {
        let set = hash as usize & self.mask;
        let tag = tag_of(hash);
        let words = key.words();
        let tags = &self.sets[set].tags;
        (0..WAYS)
            .find(|way| tags[*way] == tag && self.entries[set * WAYS + way].key.words() == words)
            .map(|way| (set, way))
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
            *set = Set { tags: [0; WAYS], used: Cell::new(0), hand: 0 };
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
    /// An empty way, or the first at or after the hand that was not used since the hand passed it.
    fn make_room(&mut self) -> usize {
        if let Some(empty) = self.tags.iter().position(|tag| *tag == 0) {
            return empty;
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
