//! From protocol and port to the entry that ranks first.
//!
//! Shape: protocol and port are one number, `protocol << 16 | port`. Every [`Service`] is then one interval of it: a port
//! range, a protocol with all its ports, or everything. Overlapping intervals of ranked entries are cut into disjoint
//! ones that each know their first-ranking entry, sorted; where no entry speaks there is no interval.
//!
//! Most sets are tiny (a peer that may reach two ports) and are scanned in place; larger ones get an index.
//! Memory: `n` entries give at most `2n - 1` intervals.

use crate::boundaries::Boundaries;
use crate::steps;
use penstock_api::Action;
use penstock_api::artefact::Service;
use penstock_api::ids::RuleId;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Up to this many intervals are scanned, in the order of their ports.
const SCANNED_MAX: usize = 8;

#[inline]
pub(crate) fn key(protocol: u8, port: u16) -> u32 {
    u32::from(protocol) << 16 | u32::from(port)
}

/// The keys a service speaks of, both ends inclusive.
fn keys(service: Service) -> (u32, u32) {
    match service {
        Service::Any => (0, key(u8::MAX, u16::MAX)),
        Service::Protocol(protocol) => (key(protocol, 0), key(protocol, u16::MAX)),
        Service::Ports { protocol, first, last } => (key(protocol, first), key(protocol, last)),
        Service::Icmp { protocol, kind } => (key(protocol, kind.into()), key(protocol, kind.into())),
    }
}

/// An entry as far as it is needed to decide. Lower ranks decide first; no two are equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ranked {
    pub(crate) rank: u32,
    pub(crate) rule: RuleId,
    pub(crate) action: Action,
}

#[derive(Debug, Clone, Copy)]
struct Interval {
    first: u32,
    last: u32,
    entry: Ranked,
}

/// Where a set of intervals is in its [`Store`].
#[derive(Debug, Clone, Copy)]
pub(crate) enum Span {
    Scanned { start: u32, len: u8 },
    Indexed(u32),
}

impl Span {
    pub(crate) const EMPTY: Span = Span::Scanned { start: 0, len: 0 };
}

/// The interval sets of one stage of a program, shared between peers that are told the same.
#[derive(Debug, Default)]
pub(crate) struct Store {
    scanned: Vec<Interval>,
    indexed: Vec<Indexed>,
}

#[derive(Debug)]
struct Indexed {
    firsts: Boundaries<u32>,
    intervals: Box<[Interval]>,
}

impl Store {
    /// Adds the set that these entries make. They come in the order of their ranks.
    pub(crate) fn add(&mut self, entries: impl Iterator<Item = (Service, Ranked)>) -> Span {
        let set = cut(entries);
        match u8::try_from(set.len()) {
            Ok(len) if set.len() <= SCANNED_MAX => {
                let start = self.scanned.len() as u32;
                self.scanned.extend(set);
                Span::Scanned { start, len }
            }
            _ => {
                self.indexed.push(Indexed {
                    firsts: Boundaries::new(set.iter().map(|interval| interval.first).collect()),
                    intervals: set.into_boxed_slice(),
                });
                Span::Indexed(self.indexed.len() as u32 - 1)
            }
        }
    }

    /// Gives back what building took too much of.
    pub(crate) fn shrink(&mut self) {
        self.scanned.shrink_to_fit();
        self.indexed.shrink_to_fit();
    }

    #[cfg(test)]
    pub(crate) fn intervals(&self) -> usize {
        self.scanned.len() + self.indexed.iter().map(|set| set.intervals.len()).sum::<usize>()
    }

    /// The first-ranking entry for a key.
    #[inline]
    pub(crate) fn find(&self, span: Span, key: u32) -> Option<Ranked> {
        let interval = match span {
            Span::Scanned { start, len } => {
                let start = start as usize;
                let set = self.scanned.get(start..start + usize::from(len)).unwrap_or_default();
                set.iter().find(|interval| {
                    steps::count();
                    key <= interval.last
                })
            }
            Span::Indexed(index) => {
                let set = self.indexed.get(index as usize)?;
                set.intervals.get(set.firsts.find(key)?)
            }
        };
        interval
            .filter(|interval| interval.first <= key && key <= interval.last)
            .map(|interval| interval.entry)
    }
}

/// Overlapping services of entries in the order of their ranks to disjoint intervals, sorted, each the first-ranking one's.
fn cut(entries: impl Iterator<Item = (Service, Ranked)>) -> Vec<Interval> {
    let mut entries: Vec<Interval> = entries
        .map(|(service, entry)| {
            let (first, last) = keys(service);
            Interval { first, last, entry }
        })
        .collect();
    entries.sort_by_key(|interval| interval.first);
    // Where the answer may change: the answer is one and the same from each of these to the next.
    let mut edges: Vec<u32> =
        entries.iter().flat_map(|interval| [interval.first, interval.last + 1]).collect();
    edges.sort_unstable();
    edges.dedup();

    let mut intervals: Vec<Interval> = Vec::new();
    // Entries that have begun, the first-ranking on top. Those that have ended leave when they come to the top.
    let mut begun: BinaryHeap<(Reverse<u32>, usize)> = BinaryHeap::new();
    let mut coming = entries.iter().enumerate().peekable();
    for edge in edges.windows(2) {
        let (first, last) = (edge[0], edge[1] - 1);
        while let Some((at, interval)) = coming.next_if(|(_, interval)| interval.first <= first) {
            begun.push((Reverse(interval.entry.rank), at));
        }
        while begun.peek().is_some_and(|(_, at)| entries[*at].last < first) {
            begun.pop();
        }
        let Some((_, at)) = begun.peek() else { continue };
        let entry = entries[*at].entry;
        match intervals.last_mut() {
            // Nothing is between them: there, too, this entry would have spoken.
            Some(before) if before.entry == entry => before.last = last,
            _ => intervals.push(Interval { first, last, entry }),
        }
    }
    intervals
}

#[cfg(test)]
mod tests {
    use super::*;
    use penstock_api::artefact::protocol::{ICMP, SCTP, TCP, UDP};

    /// The ranks are the positions.
    fn store(services: &[Service]) -> (Store, Span) {
        let mut store = Store::default();
        let entries = services.iter().enumerate().map(|(rank, service)| {
            (*service, Ranked { rank: rank as u32, rule: RuleId(rank as u32), action: Action::Allow })
        });
        let span = store.add(entries);
        (store, span)
    }

    fn rank(services: &[Service], protocol: u8, port: u16) -> Option<u32> {
        let (store, span) = store(services);
        store.find(span, key(protocol, port)).map(|entry| entry.rank)
    }

    #[test]
    fn a_range_holds_both_its_ends_and_nothing_beside_them() {
        let services = [Service::Ports { protocol: TCP, first: 80, last: 90 }];
        for (port, expected) in [(79, None), (80, Some(0)), (90, Some(0)), (91, None)] {
            assert_eq!(rank(&services, TCP, port), expected, "port {port}");
        }
        assert_eq!(rank(&services, UDP, 80), None);
        assert_eq!(rank(&services, SCTP, 80), None);
    }

    #[test]
    fn port_65535_of_one_protocol_does_not_reach_port_0_of_the_next() {
        let services = [Service::Ports { protocol: TCP, first: 65535, last: 65535 }];
        assert_eq!(rank(&services, TCP, 65535), Some(0));
        assert_eq!(rank(&services, TCP + 1, 0), None);
        let everything = [Service::Any];
        assert_eq!(rank(&everything, 255, 65535), Some(0));
        assert_eq!(rank(&everything, 0, 0), Some(0));
    }

    #[test]
    fn an_icmp_type_is_no_port_above_255() {
        let services = [Service::Icmp { protocol: ICMP, kind: 8 }];
        assert_eq!(rank(&services, ICMP, 8), Some(0));
        assert_eq!(rank(&services, ICMP, 256 + 8), None);
    }

    #[test]
    fn an_entry_goes_on_behind_a_better_one_inside_it() {
        let services = [
            Service::Ports { protocol: TCP, first: 85, last: 86 },
            Service::Ports { protocol: TCP, first: 80, last: 90 },
            Service::Protocol(TCP),
        ];
        for (port, expected) in [(0, 2), (79, 2), (80, 1), (84, 1), (85, 0), (86, 0), (87, 1), (91, 2)] {
            assert_eq!(rank(&services, TCP, port), Some(expected), "port {port}");
        }
    }

    #[test]
    fn what_a_better_entry_hides_takes_no_interval() {
        let range = |first, last| Service::Ports { protocol: TCP, first, last };
        let (store, _) = store(&[range(80, 90), range(82, 83), range(85, 90)]);
        assert_eq!(store.intervals(), 1);
    }

    #[test]
    fn scanned_and_indexed_sets_answer_alike() {
        // Every second port, so that the set passes from scanned to indexed as it grows.
        for count in 1..40u16 {
            let services: Vec<Service> =
                (0..count).map(|i| Service::Ports { protocol: TCP, first: 2 * i, last: 2 * i }).collect();
            let (store, span) = store(&services);
            assert_eq!(matches!(span, Span::Indexed(_)), usize::from(count) > SCANNED_MAX);
            for port in 0..2 * count + 2 {
                let expected = (port % 2 == 0 && port / 2 < count).then_some(u32::from(port / 2));
                assert_eq!(store.find(span, key(TCP, port)).map(|entry| entry.rank), expected, "{port}");
            }
        }
    }

    #[test]
    fn n_entries_make_fewer_than_two_n_intervals() {
        // Nested ranges are the worst case.
        let services: Vec<Service> =
            (0..100).map(|i| Service::Ports { protocol: TCP, first: 200 - i, last: 200 + i }).collect();
        let (store, _) = store(&services);
        assert_eq!(store.intervals(), 199);
    }
}
