//! Where in a sorted list of boundaries a key lies.
//!
//! A plain binary search over 20,000 boundaries takes 15 dependent steps, each likely to miss the cache and to be guessed
//! wrongly; over 20 it takes five. So the list carries an index: every 16th boundary again, every 16th of those, and so on
//! until 16 are left. A step looks at 16 neighbours, without branches, and there are `ceil(log16 n)` steps: two for 20
//! boundaries, four for 20,000, five for a million. Unlike hashing or interpolation, no choice of boundaries makes it worse.

use crate::steps;

/// Boundaries looked at in one step: one cache line of `u32`s.
const NODE: usize = 16;

/// Sorted boundaries without duplicates. Memory: 16/15 of the list.
#[derive(Debug)]
pub(crate) struct Boundaries<K> {
    /// From the coarsest (one node) to the list itself; each holds every [`NODE`]th boundary of the next.
    levels: Box<[Level<K>]>,
}

/// Boundaries in whole nodes: the last node is filled up with the last boundary.
#[derive(Debug)]
struct Level<K> {
    nodes: Box<[Node<K>]>,
    len: usize,
}

/// Aligned, so that a node of `u32`s is one cache line and not two.
#[derive(Debug)]
#[repr(align(64))]
struct Node<K>([K; NODE]);

impl<K: Copy> Level<K> {
    fn new(sorted: &[K]) -> Level<K> {
        let node = |some: &[K]| Node(std::array::from_fn(|n| some[n.min(some.len() - 1)]));
        Level { nodes: sorted.chunks(NODE).map(node).collect(), len: sorted.len() }
    }
}

impl<K: Copy + Ord> Boundaries<K> {
    pub(crate) fn new(sorted: Vec<K>) -> Self {
        debug_assert!(sorted.is_sorted_by(|a, b| a < b));
        let mut levels = vec![Level::new(&sorted)];
        let mut finest = sorted;
        while finest.len() > NODE {
            finest = finest.into_iter().step_by(NODE).collect();
            levels.push(Level::new(&finest));
        }
        levels.reverse();
        Boundaries { levels: levels.into_boxed_slice() }
    }

    /// The index of the last boundary that is not above the key, or `None` when the key is below all of them.
    #[inline]
    pub(crate) fn find(&self, key: K) -> Option<usize> {
        let mut at = 0;
        for level in &self.levels {
            steps::count();
            // All of a node, whose length is known: no branch, and compared several at a time.
            let not_above =
                level.nodes.get(at)?.0.iter().map(|boundary| u32::from(*boundary <= key)).sum::<u32>();
            // Zero only in the coarsest level: below it, a node begins with the boundary that led to it. What fills up a node
            // is not above a key that the last boundary is not above, which is then the answer.
            at = (at * NODE + not_above as usize).checked_sub(1)?.min(level.len - 1);
        }
        Some(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_index_finds_what_a_scan_finds_at_every_size() {
        for len in (0..70).chain([255, 256, 257, 4095, 4096, 4097]) {
            // Gaps of two, so that there are keys on, between, below and above boundaries.
            let list: Vec<u32> = (0..len).map(|i| 10 + 2 * i).collect();
            let index = Boundaries::new(list.clone());
            for key in 0..2 * len + 20 {
                assert_eq!(
                    index.find(key),
                    list.iter().rposition(|b| *b <= key),
                    "{key} among {len} boundaries"
                );
            }
        }
    }

    #[test]
    fn steps_grow_with_the_logarithm_to_the_base_of_sixteen() {
        for (len, steps_max) in [(1, 1), (16, 1), (17, 2), (256, 2), (257, 3), (20_000, 4), (1_000_000, 5)] {
            let index = Boundaries::new((0..len).collect());
            let (_, steps) = steps::counted(|| index.find(len / 2));
            assert_eq!(steps, steps_max, "{len} boundaries");
        }
    }
}
