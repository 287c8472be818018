//! Whose turn it is: which address of the ranges comes next.
//!
//! Arithmetic on offsets, so that a range of 2^96 addresses costs no more than one of eight: the search ends after as many
//! steps as there are addresses in use.

use ipnet::IpNet;
use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    pub(super) fn has(self, address: IpAddr) -> bool {
        address.is_ipv6() == (self == Family::V6)
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        }
    }

    pub(super) fn mark_file(self) -> &'static str {
        match self {
            Family::V4 => ".last-ipv4",
            Family::V6 => ".last-ipv6",
        }
    }
}

/// Addresses in a range, given or never.
fn size(range: &IpNet) -> u128 {
    1 << (range.max_prefix_len() - range.prefix_len())
}

/// Addresses in a range that can be given.
pub(super) fn usable(range: &IpNet) -> u128 {
    size(range) - if range.addr().is_ipv6() { 2 } else { 3 }
}

fn nth(range: &IpNet, offset: u128) -> IpAddr {
    match range.network() {
        IpAddr::V4(first) => IpAddr::V4(Ipv4Addr::from_bits(first.to_bits() + offset as u32)),
        IpAddr::V6(first) => IpAddr::V6(Ipv6Addr::from_bits(first.to_bits() + offset)),
    }
}

fn offset_of(range: &IpNet, address: IpAddr) -> Option<u128> {
    match (range.network(), address) {
        _ if !range.contains(&address) => None,
        (IpAddr::V4(first), IpAddr::V4(address)) => Some(u128::from(address.to_bits() - first.to_bits())),
        (IpAddr::V6(first), IpAddr::V6(address)) => Some(address.to_bits() - first.to_bits()),
        _ => None,
    }
}

fn is_given(range: &IpNet, offset: u128) -> bool {
    let is_broadcast = !range.addr().is_ipv6() && offset == size(range) - 1;
    offset >= 2 && !is_broadcast
}

/// The first free address after `mark`, going round. Ranges are of one family, do not overlap, and are walked as if they
/// lay end to end.
pub(super) fn next_free(ranges: &[IpNet], mark: Option<IpAddr>, taken: &HashSet<IpAddr>) -> Option<IpAddr> {
    let total: u128 = ranges.iter().map(size).sum();
    let mut before = 0;
    let mut start = 0;
    for range in ranges {
        if let Some(offset) = mark.and_then(|mark| offset_of(range, mark)) {
            start = before + offset + 1;
        }
        before += size(range);
    }
    // Each step that fails meets an address that is taken or never given, and meets it once.
    let steps = total.min(taken.len() as u128 + 3 * ranges.len() as u128 + 1);
    (0..steps).find_map(|step| {
        let mut offset = (start + step) % total;
        let range = ranges.iter().find(|range| {
            let is_here = offset < size(range);
            if !is_here {
                offset -= size(range);
            }
            is_here
        })?;
        let address = nth(range, offset);
        (is_given(range, offset) && !taken.contains(&address)).then_some(address)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// The oracle: try every address of every range, one by one, beginning after the mark.
    fn slow_next_free(ranges: &[IpNet], mark: Option<IpAddr>, taken: &HashSet<IpAddr>) -> Option<IpAddr> {
        let mut all = Vec::new();
        for range in ranges {
            let mut hosts: Vec<IpAddr> = Vec::new();
            for offset in 0..size(range) {
                hosts.push(nth(range, offset));
            }
            let last = hosts.len() - 1;
            all.extend(hosts.into_iter().enumerate().map(|(n, address)| {
                (address, n > 1 && (n < last || address.is_ipv6()) && !taken.contains(&address))
            }));
        }
        let start = all.iter().position(|(address, _)| Some(*address) == mark).map_or(0, |at| at + 1);
        let len = all.len();
        all.rotate_left(start % len);
        all.into_iter().find(|(_, free)| *free).map(|(address, _)| address)
    }

    #[test]
    fn the_search_finds_what_trying_every_address_finds() {
        let mut seed = 0x5eed_u64;
        let mut random = |below: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % below
        };
        let sets = [
            ranges(&["10.0.0.0/30"]),
            ranges(&["10.0.0.0/28", "192.168.0.0/29"]),
            ranges(&["10.0.0.8/29", "10.0.0.0/29", "10.1.0.0/30"]),
            ranges(&["fd00::/125", "fd01::/124"]),
        ];
        for round in 0..2000 {
            let ranges = &sets[random(sets.len() as u64) as usize];
            let total: u128 = ranges.iter().map(size).sum();
            let fill = random(101);
            let all: Vec<IpAddr> =
                ranges.iter().flat_map(|range| (0..size(range)).map(|n| nth(range, n))).collect();
            let taken: HashSet<IpAddr> = all.iter().copied().filter(|_| random(100) < fill).collect();
            let mark = match random(4) {
                0 => None,
                1 => Some(ip("172.16.0.1")),
                _ => Some(all[random(total as u64) as usize]),
            };
            assert_eq!(
                next_free(ranges, mark, &taken),
                slow_next_free(ranges, mark, &taken),
                "round {round}: {ranges:?} after {mark:?} with {taken:?}"
            );
        }
    }

    #[test]
    fn a_range_of_billions_is_not_searched_one_by_one() {
        let ranges = ranges(&["fd00::/32"]);
        let mut taken = HashSet::new();
        let mut mark = None;
        for _ in 0..100 {
            let address = next_free(&ranges, mark, &taken).unwrap();
            taken.insert(address);
            mark = Some(address);
        }
        assert_eq!(mark, Some(ip("fd00::65")));
    }
}
