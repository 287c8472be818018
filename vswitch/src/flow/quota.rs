//! Who holds how much of a table, and what of it may be taken back.
//!
//! Every port has a count of its entries and a queue of those it could lose without harm, oldest first. Ports are also
//! sorted by the length of that queue, in powers of two, so that a full table finds in constant time whom to take from:
//! a port makes room among its own entries first, then at the expense of one that holds at least twice as many such
//! entries as itself. A flood therefore eats itself, and gives way to everybody else.

use super::list::Lists;
use penstock_api::PortId;

const PORTS: usize = 1 << 16;
/// Powers of two a `u32` count can have, and zero.
const CLASSES: usize = 33;

#[derive(Debug)]
pub(super) struct Quota {
    held: Vec<u32>,
    /// Lists are ports, nodes are entries.
    expendable: Lists,
    /// Lists are powers of two, nodes are ports.
    weights: Lists,
}

fn class(count: u32) -> usize {
    (u32::BITS - count.leading_zeros()) as usize
}

impl Quota {
    pub(super) fn new(entries: usize) -> Self {
        Quota {
            held: vec![0; PORTS],
            expendable: Lists::new(PORTS, entries),
            weights: Lists::new(CLASSES, PORTS),
        }
    }

    /// Asks for what making this entry expendable will write, or read to undo it.
    #[inline]
    pub(super) fn prefetch(&self, entry: u32) {
        self.expendable.prefetch(entry);
    }

    /// Second pass: asks for what else keeping this entry will write.
    #[inline]
    pub(super) fn prefetch_neighbours(&self, entry: u32) {
        self.expendable.prefetch_neighbours(entry);
    }

    pub(super) fn held(&self, port: PortId) -> u32 {
        self.held[port.index()]
    }

    pub(super) fn add(&mut self, port: PortId) {
        self.held[port.index()] += 1;
    }

    pub(super) fn sub(&mut self, port: PortId) {
        self.held[port.index()] -= 1;
    }

    pub(super) fn make_expendable(&mut self, port: PortId, entry: u32) {
        let before = class(self.expendable.count(port.index()));
        self.expendable.push_back(port.index(), entry);
        self.reweigh(port, before);
    }

    pub(super) fn keep(&mut self, port: PortId, entry: u32) {
        let before = class(self.expendable.count(port.index()));
        self.expendable.unlink(port.index(), entry);
        self.reweigh(port, before);
    }

    fn reweigh(&mut self, port: PortId, before: usize) {
        let now = class(self.expendable.count(port.index()));
        if before != now {
            if before != 0 {
                self.weights.unlink(before, u32::from(port.0));
            }
            if now != 0 {
                self.weights.push_back(now, u32::from(port.0));
            }
        }
    }

    /// The entry this port would miss least.
    pub(super) fn oldest_of(&self, port: PortId) -> Option<u32> {
        self.expendable.front(port.index())
    }

    /// The entry to be taken after this one, of the same port.
    pub(super) fn after(&self, victim: u32) -> Option<u32> {
        self.expendable.next(victim)
    }

    /// An entry to take for `port` in a full table: its own, or one of a port that holds plainly more.
    pub(super) fn victim_for(&self, port: PortId) -> Option<u32> {
        self.oldest_of(port).or_else(|| {
            let heaviest = (2..CLASSES).rev().find_map(|class| self.weights.front(class))?;
            self.expendable.front(heaviest as usize)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_pays_for_itself_first_and_the_heaviest_pays_for_who_has_nothing() {
        let mut quota = Quota::new(16);
        for entry in 0..8 {
            quota.make_expendable(PortId(1), entry);
        }
        quota.make_expendable(PortId(2), 8);
        assert_eq!(quota.victim_for(PortId(1)), Some(0));
        assert_eq!(quota.victim_for(PortId(2)), Some(8));
        assert_eq!(quota.victim_for(PortId(3)), Some(0));
        quota.keep(PortId(1), 0);
        assert_eq!(quota.victim_for(PortId(3)), Some(1));
        for entry in 1..8 {
            quota.keep(PortId(1), entry);
        }
        // One entry each: nobody is plainly heavier.
        assert_eq!(quota.victim_for(PortId(3)), None);
    }
}
