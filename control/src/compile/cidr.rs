//! The address space, cut where any ipBlock in force could tell two addresses apart.
//!
//! Cuts are the blocks' CIDRs and exceptions, and the two default routes. CIDRs are nested or disjoint, so between a cut
//! and the cuts inside it all addresses are covered by the same blocks, and longest prefix finds the right cut.

use crate::objects::IpBlock;
use ipnet::IpNet;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::rc::Rc;

/// An ipBlock in force, by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct BlockId(pub(crate) usize);

/// The blocks that cover an address, sorted.
pub(crate) type Blocks = Rc<[BlockId]>;

#[derive(Debug)]
pub(crate) struct Cuts {
    /// Containing ones before contained ones.
    pub(crate) cuts: BTreeMap<IpNet, Blocks>,
    /// Longest first, IPv4 and IPv6.
    lengths: [Vec<u8>; 2],
    by_net: HashMap<IpNet, Blocks>,
}

impl Cuts {
    pub(crate) fn new(blocks: &[&IpBlock]) -> Self {
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
        let mut cuts: BTreeMap<IpNet, Blocks> = BTreeMap::new();
        // The cuts around the current one, outermost first.
        let mut around: Vec<(IpNet, Blocks)> = Vec::new();
        for (net, change) in changes {
            while around.last().is_some_and(|(outer, _)| !outer.contains(&net)) {
                around.pop();
            }
            let mut covering: Vec<BlockId> = around.last().map_or(Vec::new(), |(_, blocks)| blocks.to_vec());
            covering.retain(|block| !change.leave.contains(block));
            covering.extend(change.enter);
            covering.sort_unstable();
            let covering: Blocks = covering.into();
            cuts.insert(net, covering.clone());
            around.push((net, covering));
        }
        let lengths = [true, false].map(|v4| {
            let mut lengths: Vec<u8> =
                cuts.keys().filter(|net| matches!(net, IpNet::V4(_)) == v4).map(IpNet::prefix_len).collect();
            lengths.sort_unstable_by(|a, b| b.cmp(a));
            lengths.dedup();
            lengths
        });
        let by_net = cuts.iter().map(|(net, blocks)| (*net, blocks.clone())).collect();
        Cuts { cuts, lengths, by_net }
    }

    /// The blocks that cover an address.
    pub(crate) fn covering(&self, address: IpAddr) -> Blocks {
        let lengths = &self.lengths[usize::from(address.is_ipv6())];
        lengths
            .iter()
            .find_map(|length| self.by_net.get(&IpNet::new(address, *length).ok()?.trunc()).cloned())
            .unwrap_or_else(|| Rc::from([]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_address_is_covered_by_the_blocks_that_say_so() {
        let block = |cidr: &str, except: &[&str]| IpBlock {
            cidr: cidr.parse().unwrap(),
            except: except.iter().map(|net| net.parse().unwrap()).collect(),
        };
        let blocks = [
            block("0.0.0.0/0", &["10.0.0.0/8", "10.1.0.0/16"]),
            block("10.0.0.0/8", &["10.1.0.0/16", "10.1.2.0/24"]),
            block("10.1.0.0/16", &[]),
            block("10.1.2.3/32", &[]),
            block("10.1.2.0/24", &["10.1.2.3/32"]),
            block("::/0", &["fd00::/8"]),
            block("fd00::/8", &["fd00::1/128"]),
        ];
        let cuts = Cuts::new(&blocks.iter().collect::<Vec<_>>());
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
            assert_eq!(*cuts.covering(address), *naive, "{address}");
        }
    }
}
