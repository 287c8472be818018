//! From an address to the class of its owner.
//!
//! Shape: what is one address (pods of this node, and every /32 and /128: the pods and nodes of the rest of the cluster)
//! is in a hash map. The other prefixes, which nest, are laid flat: cut at each one's first and last address, the address
//! space becomes disjoint intervals that each know their longest prefix, and finding it is finding an interval.
//!
//! Cost: one hash probe for a pod or node wherever it lives; for the rest also `ceil(log16 2n)` steps for `n` prefixes
//! (see [`crate::boundaries`]), at most eight for four billion. Memory: `n` prefixes give at most `2n + 1` intervals.

use crate::boundaries::Boundaries;
use crate::{Class, Map, Peer, steps};
use ahash::RandomState;
use ipnet::IpNet;
use penstock_api::artefact::{PodPolicy, PrefixIdentity};
use penstock_api::ids::IdentityId;
use std::cmp::Reverse;
use std::net::IpAddr;

#[derive(Debug)]
pub(crate) struct Addresses {
    v4: Family<u32>,
    v6: Family<u128>,
}

#[derive(Debug)]
struct Family<K> {
    exact: Map<K, Peer>,
    /// Where the intervals begin; each ends where the next begins.
    starts: Boundaries<K>,
    peers: Box<[Peer]>,
}

impl Addresses {
    /// Pods win over prefixes; of several pods with one address the first, of several equal prefixes the last.
    pub(crate) fn new(
        pods: &[PodPolicy],
        prefixes: &[PrefixIdentity],
        class_of: impl Fn(IdentityId) -> Class,
        hasher: &RandomState,
    ) -> Self {
        let peer = |identity| Peer { identity, class: class_of(identity) };
        let mut v4 = Map::with_hasher(hasher.clone());
        let mut v6 = Map::with_hasher(hasher.clone());
        let mut exact = |address, peer| match address {
            IpAddr::V4(address) => v4.insert(u32::from(address), peer),
            IpAddr::V6(address) => v6.insert(u128::from(address), peer),
        };
        let (mut nets_v4, mut nets_v6) = (Vec::new(), Vec::new());
        for PrefixIdentity { prefix, identity } in prefixes {
            match prefix {
                _ if prefix.prefix_len() == prefix.max_prefix_len() => {
                    exact(prefix.addr(), peer(*identity));
                }
                IpNet::V4(net) => {
                    nets_v4.push((u32::from(net.network()), u32::from(net.broadcast()), peer(*identity)));
                }
                IpNet::V6(net) => {
                    nets_v6.push((u128::from(net.network()), u128::from(net.broadcast()), peer(*identity)));
                }
            }
        }
        // What is inserted later wins, and among pods the first has to.
        for pod in pods.iter().rev() {
            for address in &pod.addresses {
                exact(*address, peer(pod.identity_of(*address)));
            }
        }
        Addresses {
            v4: Family::new(v4, flatten(nets_v4, |last| last.checked_add(1))),
            v6: Family::new(v6, flatten(nets_v6, |last| last.checked_add(1))),
        }
    }

    #[inline]
    pub(crate) fn find(&self, address: IpAddr) -> Peer {
        match address {
            IpAddr::V4(address) => self.v4.find(u32::from(address)),
            IpAddr::V6(address) => self.v6.find(u128::from(address)),
        }
    }
}

impl<K: Copy + Ord + std::hash::Hash> Family<K> {
    fn new(mut exact: Map<K, Peer>, intervals: Vec<(K, Peer)>) -> Self {
        exact.shrink_to_fit();
        let (starts, peers): (Vec<K>, Vec<Peer>) = intervals.into_iter().unzip();
        Family { exact, starts: Boundaries::new(starts), peers: peers.into_boxed_slice() }
    }

    #[inline]
    fn find(&self, address: K) -> Peer {
        steps::count();
        if let Some(peer) = self.exact.get(&address) {
            return *peer;
        }
        let interval = self.starts.find(address).and_then(|at| self.peers.get(at));
        interval.copied().unwrap_or(Peer::UNKNOWN)
    }
}

/// Nested `(first, last, peer)` to disjoint `(first, peer)`, sorted, each the innermost's. `next` is the address after.
fn flatten<K: Copy + Ord>(mut nets: Vec<(K, K, Peer)>, next: impl Fn(K) -> Option<K>) -> Vec<(K, Peer)> {
    // Outer before inner; stable, so that of two equal prefixes the later is the inner one.
    nets.sort_by_key(|(first, last, _)| (*first, Reverse(*last)));
    let mut intervals: Vec<(K, Peer)> = Vec::with_capacity(2 * nets.len());
    let begin = |intervals: &mut Vec<(K, Peer)>, first: K, peer: Peer| match intervals.last_mut() {
        Some(interval) if interval.0 == first => interval.1 = peer,
        _ => intervals.push((first, peer)),
    };
    // The prefixes around the current address, innermost last.
    let mut around: Vec<(K, Peer)> = Vec::new();
    for (first, last, peer) in nets {
        while let Some((inner_last, _)) = around.pop_if(|(inner_last, _)| *inner_last < first) {
            leave(&mut intervals, &around, next(inner_last), begin);
        }
        begin(&mut intervals, first, peer);
        around.push((last, peer));
    }
    while let Some((inner_last, _)) = around.pop() {
        leave(&mut intervals, &around, next(inner_last), begin);
    }
    intervals.dedup_by(|later, earlier| later.1 == earlier.1);
    intervals
}

/// Behind the end of a prefix the one around it goes on, or nothing does.
fn leave<K: Copy>(
    intervals: &mut Vec<(K, Peer)>,
    around: &[(K, Peer)],
    after: Option<K>,
    begin: impl Fn(&mut Vec<(K, Peer)>, K, Peer),
) {
    if let Some(after) = after {
        begin(intervals, after, around.last().map_or(Peer::UNKNOWN, |(_, peer)| *peer));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(prefixes: &[(&str, u32)]) -> Addresses {
        let prefixes: Vec<PrefixIdentity> = prefixes
            .iter()
            .map(|(prefix, identity)| PrefixIdentity {
                prefix: prefix.parse().unwrap(),
                identity: IdentityId(*identity),
            })
            .collect();
        Addresses::new(&[], &prefixes, |_| Class::UNNAMED, &RandomState::new())
    }

    fn find(addresses: &Addresses, address: &str) -> u32 {
        addresses.find(address.parse().unwrap()).identity.0
    }

    #[test]
    fn behind_an_inner_prefix_the_outer_one_goes_on() {
        let table =
            addresses(&[("10.1.0.0/16", 2), ("0.0.0.0/0", 1), ("10.1.2.0/24", 3), ("10.1.3.0/24", 4)]);
        for (address, identity) in [
            ("0.0.0.0", 1),
            ("10.0.255.255", 1),
            ("10.1.0.0", 2),
            ("10.1.1.255", 2),
            ("10.1.2.0", 3),
            ("10.1.2.255", 3),
            ("10.1.3.0", 4),
            ("10.1.4.0", 2),
            ("10.1.255.255", 2),
            ("10.2.0.0", 1),
            ("255.255.255.255", 1),
            ("::", 0),
        ] {
            assert_eq!(find(&table, address), identity, "{address}");
        }
    }

    #[test]
    fn prefixes_at_the_edges_of_the_address_space_do_not_overflow() {
        let table = addresses(&[("0.0.0.0/0", 1), ("255.255.255.0/24", 2), ("::/0", 3), ("ffff::/16", 4)]);
        assert_eq!(find(&table, "255.255.255.255"), 2);
        assert_eq!(find(&table, "255.255.254.255"), 1);
        assert_eq!(find(&table, "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"), 4);
        assert_eq!(find(&table, "fffe::"), 3);
    }
}
