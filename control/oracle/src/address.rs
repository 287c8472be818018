//! Addresses and CIDRs, compared bit by bit.

use std::net::IpAddr;

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6),
    }
}

/// The address and length of `10.0.0.0/8`, or of a bare address, which stands for itself alone.
pub(crate) fn parse_cidr(cidr: &str) -> (IpAddr, u32) {
    let parse = |text: &str| -> IpAddr { text.parse().unwrap_or_else(|_| panic!("not an address: {cidr}")) };
    match cidr.split_once('/') {
        Some((net, length)) => (parse(net), length.parse().unwrap_or_else(|_| panic!("not a CIDR: {cidr}"))),
        None => (parse(cidr), width(parse(cidr))),
    }
}

fn width(address: IpAddr) -> u32 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// Is the address inside the CIDR (or equal to the bare address)? By comparing bits one by one.
pub fn inside(address: IpAddr, cidr: &str) -> bool {
    let (net, length) = parse_cidr(cidr);
    net.is_ipv4() == address.is_ipv4()
        && (0..length).all(|bit| {
            let shift = width(net) - 1 - bit;
            (bits(net) >> shift) & 1 == (bits(address) >> shift) & 1
        })
}

/// The addresses where a CIDR's answer turns: its first and last, and their outer neighbours.
pub(crate) fn edges(cidr: &str) -> Vec<IpAddr> {
    let (net, length) = parse_cidr(cidr);
    let free = width(net) - length;
    let size = if free >= 128 { u128::MAX } else { (1u128 << free) - 1 };
    let first = bits(net) & !size;
    let candidates = [
        Some(first),
        first.checked_add(size),
        first.checked_sub(1),
        first.saturating_add(size).checked_add(1),
    ];
    let address = |bits: u128| match net {
        IpAddr::V4(_) => u32::try_from(bits).ok().map(|bits| IpAddr::V4(bits.into())),
        IpAddr::V6(_) => Some(IpAddr::V6(bits.into())),
    };
    candidates.into_iter().flatten().filter_map(address).collect()
}
