//! From a tuple to its slot: every tuple has two buckets of eight places, one cache line each, and is in one of them.
//!
//! At twice as many places as tuples, two choices and eight places, both buckets of a tuple are practically never full; if they
//! are, the flow is refused. A lookup reads two lines at most, whatever anybody sends: there is no chain to grow.

use super::super::prefetch::prefetch;
use super::super::{huge, lanes};
use super::entry::{FlowId, Side};

const PLACES: usize = lanes::LANES;

#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(64))]
struct Bucket {
    tags: [u32; PLACES],
    /// Slot and side as `(slot << 1 | side) + 1`; 0 is empty.
    refs: [u32; PLACES],
}

#[derive(Debug)]
pub(super) struct Index {
    buckets: Vec<Bucket>,
    mask: usize,
    /// Where the tuples of each slot are, so that they can be taken out without being read: number of the place and one, over all
    /// buckets; 0 is nowhere.
    places: Vec<[u32; 2]>,
}

fn tag_of(hash: u64) -> u32 {
    (hash >> 32) as u32
}

fn pack(slot: u32, side: Side) -> u32 {
    (slot << 1 | side as u32) + 1
}

impl Index {
    /// Both tuples of `flows_max` flows, half full.
    pub(super) fn new(flows_max: usize) -> Self {
        let buckets = (flows_max * 4).div_ceil(PLACES).next_power_of_two();
        Index {
            buckets: huge::table(Bucket::default(), buckets),
            mask: buckets - 1,
            places: huge::table([0; 2], flows_max),
        }
    }

    #[inline]
    fn homes(&self, hash: u64) -> [usize; 2] {
        let second = hash.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
        [hash as usize & self.mask, second as usize & self.mask]
    }

    #[inline]
    pub(super) fn prefetch(&self, hash: u64) {
        for home in self.homes(hash) {
            prefetch(&self.buckets[home]);
        }
    }

    /// Asks for what tells where the tuples of this slot are, or will.
    #[inline]
    pub(super) fn prefetch_places(&self, slot: u32) {
        prefetch(&self.places[slot as usize]);
    }

    /// Second pass: asks for the lines the tuples of this slot are in.
    #[inline]
    pub(super) fn prefetch_tuples(&self, slot: u32) {
        for place in self.places[slot as usize] {
            if let Some(at) = place.checked_sub(1) {
                prefetch(&self.buckets[at as usize / PLACES]);
            }
        }
    }

    /// A slot whose tuple may have this hash; `None`: there is none. A second pass: the lines should have arrived.
    #[inline]
    pub(super) fn candidate(&self, hash: u64) -> Option<u32> {
        let [first, second] = self.homes(hash).map(|home| self.matching(home, tag_of(hash)));
        let (home, places) = if first != 0 { (0, first) } else { (1, second) };
        if places == 0 {
            return None;
        }
        let packed = self.buckets[self.homes(hash)[home]].refs[places.trailing_zeros() as usize];
        Some((packed - 1) >> 1)
    }

    /// One bit per place of a bucket that is taken and has this tag.
    #[inline(always)]
    fn matching(&self, home: usize, tag: u32) -> u32 {
        let bucket = &self.buckets[home];
        lanes::equal(&bucket.tags, tag) & !lanes::equal(&bucket.refs, 0)
    }

    #[inline]
    pub(super) fn find(&self, hash: u64, is_it: impl Fn(u32, Side) -> bool) -> Option<(FlowId, Side)> {
        let tag = tag_of(hash);
        for home in self.homes(hash) {
            let mut places = self.matching(home, tag);
            while places != 0 {
                let packed = self.buckets[home].refs[places.trailing_zeros() as usize] - 1;
                let side = if packed & 1 == 0 { Side::Forward } else { Side::Reply };
                if is_it(packed >> 1, side) {
                    return Some((FlowId(packed >> 1), side));
                }
                places &= places - 1;
            }
        }
        None
    }

    /// Adds both tuples of a slot, or neither: false when there is no room. `same` when they are one.
    #[must_use]
    pub(super) fn insert_both(&mut self, hashes: [u64; 2], slot: u32, same: bool) -> bool {
        let Some(forward) = self.insert(hashes[0], pack(slot, Side::Forward)) else { return false };
        let reply = match same {
            true => Some(0),
            false => self.insert(hashes[1], pack(slot, Side::Reply)),
        };
        self.places[slot as usize] = [forward, reply.unwrap_or(0)];
        if reply.is_none() {
            self.remove(slot);
        }
        reply.is_some()
    }

    /// The place it is in now, and one.
    fn insert(&mut self, hash: u64, packed: u32) -> Option<u32> {
        let [first, second] = self.homes(hash);
        let [here, there] = [first, second].map(|home| lanes::equal(&self.buckets[home].refs, 0));
        let (home, empty) =
            if here.count_ones() >= there.count_ones() { (first, here) } else { (second, there) };
        if empty == 0 {
            return None;
        }
        let (bucket, place) = (&mut self.buckets[home], empty.trailing_zeros() as usize);
        bucket.refs[place] = packed;
        bucket.tags[place] = tag_of(hash);
        Some((home * PLACES + place + 1) as u32)
    }

    /// Takes out the tuples of a slot.
    pub(super) fn remove(&mut self, slot: u32) {
        for place in std::mem::take(&mut self.places[slot as usize]) {
            if let Some(at) = place.checked_sub(1) {
                self.buckets[at as usize / PLACES].refs[at as usize % PLACES] = 0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn when_there_is_room_for_one_tuple_only_neither_is_added() {
        // One bucket of eight places.
        let mut index = Index { places: vec![[0; 2]; PLACES], ..Index::new(1) };
        for slot in 0..3 {
            assert!(index.insert_both([u64::from(slot) << 33, u64::from(slot) << 33 | 1 << 32], slot, false));
        }
        assert!(index.insert_both([7 << 40, 0], 3, true));
        let find = |index: &Index, hash| index.find(hash, |_, _| true);
        assert!(!index.insert_both([8 << 40, 9 << 40], 4, false));
        assert_eq!((find(&index, 8 << 40), find(&index, 9 << 40)), (None, None));
        assert!(index.insert_both([8 << 40, 0], 4, true));
        assert_eq!(find(&index, 8 << 40), Some((FlowId(4), Side::Forward)));
        assert_eq!(find(&index, 1 << 32), Some((FlowId(0), Side::Reply)));
    }
}
