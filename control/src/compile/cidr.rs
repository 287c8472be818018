//! The address space, cut where any block in force could tell two addresses apart.
//!
//! Cuts are the blocks' CIDRs and exceptions, and the two default routes. CIDRs are nested or disjoint, so between a cut
//! and the cuts inside it all addresses are covered by the same blocks, and longest prefix finds the right cut.

use super::rule::Block;
use ipnet::IpNet;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

/// A block in force, by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct BlockId(pub(crate) usize);

/// A set of blocks that cover the same addresses, by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct CoverId(pub(crate) usize);

#[derive(Debug, Clone)]
pub(crate) struct Cuts {
    /// Containing ones before contained ones.
    pub(crate) cuts: BTreeMap<IpNet, CoverId>,
    /// Sorted blocks. Index: [`CoverId`].
    pub(crate) covers: Vec<Vec<BlockId>>,
    /// Longest first, IPv4 and IPv6.
    lengths: [Vec<u8>; 2],
    by_net: HashMap<IpNet, CoverId>,
}

impl Cuts {
    /// The index of a block is its number.
    pub(crate) fn new(blocks: &[Block]) -> Self {
        /// What happens at a cut, to the set of blocks that cover its surroundings.
        #[derive(Default)]
        struct Change {
            enter: Vec<BlockId>,
            leave: Vec<BlockId>,
        }
        let mut changes: BTreeMap<IpNet, Change> = BTreeMap::new();
        changes.insert(IpNet::V4(Default::default()), Change::default());
        changes.insert(IpNet::V6(Default::default()), Change::default());
        for (number, block) in blocks.iter().enumerate() {
            changes.entry(block.cidr).or_default().enter.push(BlockId(number));
            for except in &block.except {
                changes.entry(*except).or_default().leave.push(BlockId(number));
            }
        }
        let mut cuts: BTreeMap<IpNet, CoverId> = BTreeMap::new();
        let mut covers: Vec<Vec<BlockId>> = Vec::new();
        let mut numbers: HashMap<Vec<BlockId>, CoverId> = HashMap::new();
        // The cuts around the current one, outermost first.
        let mut around: Vec<(IpNet, CoverId)> = Vec::new();
        for (net, change) in changes {
            while around.last().is_some_and(|(outer, _)| !outer.contains(&net)) {
                around.pop();
            }
            let mut covering: Vec<BlockId> =
                around.last().map_or(Vec::new(), |(_, cover)| covers[cover.0].clone());
            covering.retain(|block| !change.leave.contains(block));
            // An exception of all of its block leaves nothing of it.
            covering.extend(change.enter.iter().filter(|block| !change.leave.contains(block)));
            covering.sort_unstable();
            let cover = *numbers.entry(covering).or_insert_with_key(|covering| {
                covers.push(covering.clone());
                CoverId(covers.len() - 1)
            });
            cuts.insert(net, cover);
            around.push((net, cover));
        }
        let lengths = [true, false].map(|v4| {
            let mut lengths: Vec<u8> =
                cuts.keys().filter(|net| matches!(net, IpNet::V4(_)) == v4).map(IpNet::prefix_len).collect();
            lengths.sort_unstable_by(|a, b| b.cmp(a));
            lengths.dedup();
            lengths
        });
        let by_net = cuts.iter().map(|(net, cover)| (*net, *cover)).collect();
        Cuts { cuts, covers, lengths, by_net }
    }

    /// The blocks that cover an address.
    pub(crate) fn covering(&self, address: IpAddr) -> CoverId {
        let lengths = &self.lengths[usize::from(address.is_ipv6())];
        lengths
            .iter()
            .find_map(|length| self.by_net.get(&IpNet::new(address, *length).ok()?.trunc()).copied())
            .expect("the default routes are cuts")
    }
}

#[cfg(test)]
mod tests {
    use super::super::rule::Reach;
    use super::*;

    #[test]
    fn every_address_is_covered_by_the_blocks_that_say_so() {
        let block = |cidr: &str, except: &[&str]| Block {
            cidr: cidr.parse().unwrap(),
            except: except.iter().map(|net| net.parse().unwrap()).collect(),
            reach: Reach::Everyone,
        };
        let blocks = [
            block("0.0.0.0/0", &["10.0.0.0/8", "10.1.0.0/16"]),
            block("10.0.0.0/8", &["10.1.0.0/16", "10.1.2.0/24"]),
            block("10.1.0.0/16", &[]),
            block("10.1.2.3/32", &[]),
            block("10.1.2.0/24", &["10.1.2.3/32"]),
            block("10.1.2.0/24", &["10.1.2.0/24"]),
            block("::/0", &["fd00::/8"]),
            block("fd00::/8", &["fd00::1/128"]),
        ];
        let cuts = Cuts::new(&blocks);
        for address in [
            "1.1.1.1", "10.0.0.1", "10.1.0.1", "10.1.2.0", "10.1.2.3", "11.0.0.0", "::1", "fd00::1",
            "fd00::2",
        ] {
            let address: IpAddr = address.parse().unwrap();
            let naive: Vec<BlockId> = (0..blocks.len())
                .filter(|i| {
                    blocks[*i].cidr.contains(&address)
                        && !blocks[*i].except.iter().any(|e| e.contains(&address))
                })
                .map(BlockId)
                .collect();
            assert_eq!(cuts.covers[cuts.covering(address).0], naive, "{address}");
        }
    }
}
