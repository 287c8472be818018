//! Doubly linked lists of small numbers in preallocated arrays: the wheel's slots, a port's evictable flows, what waits
//! to expire. A node is in one list of a [`Lists`] at most; every operation takes constant time.

use super::{huge, prefetch::prefetch};

/// `lists` queues over `nodes` nodes. 0 is "none" and node `n` is stored as `n + 1`.
#[derive(Debug)]
pub(super) struct Lists {
    ends: Vec<Ends>,
    links: Vec<Links>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Ends {
    head: u32,
    tail: u32,
    count: u32,
}

#[derive(Clone, Copy, Debug, Default)]
struct Links {
    previous: u32,
    next: u32,
}

impl Lists {
    pub(super) fn new(lists: usize, nodes: usize) -> Self {
        Lists { ends: vec![Ends::default(); lists], links: huge::table(Links::default(), nodes) }
    }

    /// Asks for this node's links.
    #[inline]
    pub(super) fn prefetch(&self, node: u32) {
        prefetch(&self.links[node as usize]);
    }

    pub(super) fn count(&self, list: usize) -> u32 {
        self.ends[list].count
    }

    /// The node that is in the list longest.
    pub(super) fn front(&self, list: usize) -> Option<u32> {
        self.ends[list].head.checked_sub(1)
    }

    /// The node that follows in the same list.
    pub(super) fn next(&self, node: u32) -> Option<u32> {
        self.links[node as usize].next.checked_sub(1)
    }

    /// When this node's own links have arrived: asks for what else taking it out will write.
    #[inline]
    pub(super) fn prefetch_neighbours(&self, node: u32) {
        let Links { previous, next } = self.links[node as usize];
        for neighbour in [previous, next] {
            if let Some(neighbour) = neighbour.checked_sub(1) {
                self.prefetch(neighbour);
            }
        }
    }

    /// Appends a node that is in no list.
    pub(super) fn push_back(&mut self, list: usize, node: u32) {
        let ends = &mut self.ends[list];
        let previous = ends.tail;
        ends.tail = node + 1;
        ends.count += 1;
        if previous == 0 {
            ends.head = node + 1;
        } else {
            self.links[previous as usize - 1].next = node + 1;
        }
        self.links[node as usize] = Links { previous, next: 0 };
    }

    /// Takes out a node that is in this list.
    pub(super) fn unlink(&mut self, list: usize, node: u32) {
        let Links { previous, next } = std::mem::take(&mut self.links[node as usize]);
        let ends = &mut self.ends[list];
        debug_assert!(ends.count > 0, "node {node} is not in list {list}");
        ends.count -= 1;
        match previous {
            0 => ends.head = next,
            _ => self.links[previous as usize - 1].next = next,
        }
        match next {
            0 => ends.tail = previous,
            _ => self.links[next as usize - 1].previous = previous,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{RngExt, SeedableRng, rngs::StdRng};
    use std::collections::VecDeque;

    #[test]
    fn lists_behave_as_queues_from_which_anything_may_be_taken() {
        let mut rng = StdRng::seed_from_u64(7);
        let mut lists = Lists::new(4, 32);
        let mut model = vec![VecDeque::<u32>::new(); 4];
        for _ in 0..10_000 {
            let node = rng.random_range(0..32);
            match model.iter().position(|queue| queue.contains(&node)) {
                Some(list) => {
                    lists.unlink(list, node);
                    model[list].retain(|n| *n != node);
                }
                None => {
                    let list = rng.random_range(0..4);
                    lists.push_back(list, node);
                    model[list].push_back(node);
                }
            }
            for (list, queue) in model.iter().enumerate() {
                assert_eq!(lists.front(list), queue.front().copied());
                assert_eq!(lists.count(list) as usize, queue.len());
            }
        }
    }
}
