//! ICMP and ICMPv6: echo, errors and what they quote, and messages only routers and neighbours may send.

use super::{ETHERNET_LEN, Segment, extension, ipv4, ipv6, neighbour};
use crate::packet::bytes::{array, field, u16_at};
use crate::packet::{DropReason, FlowKey, L4, Payload};
use penstock_api::artefact::protocol;

/// The port of the answering side in the key of an ICMP query other than echo; see [`query_ports`].
const QUERY: u16 = u16::MAX;

/// What an ICMPv6 message's meaning depends on outside itself.
pub(super) struct Outer<'a> {
    pub(super) ethernet: &'a [u8; ETHERNET_LEN],
    pub(super) hop_limit: u8,
    /// There is a fragment header, be it of an atomic fragment.
    pub(super) is_fragmented: bool,
}

/// Reads an ICMP message and fills in the key's ports.
pub(super) fn v4(key: &mut FlowKey, segment: Segment) -> Result<Payload, DropReason> {
    let header: &[u8; 8] = segment.header()?;
    match header[0] {
        3 | 11 | 12 => error(key, segment, quoted_v4),
        // Source quench (RFC 6633), redirect, router advertisement.
        4 | 5 | 9 => Err(DropReason::RouterMessage),
        // Router solicitation.
        10 => Err(DropReason::Multicast),
        _ => Ok(query(key, header)),
    }
}

/// Reads an ICMPv6 message and fills in the key's ports.
pub(super) fn v6(key: &mut FlowKey, segment: Segment, ip: Outer) -> Result<Payload, DropReason> {
    let header: &[u8; 8] = segment.header()?;
    match header[0] {
        1..=4 => error(key, segment, quoted_v6),
        // Errors nobody has defined: they belong to no flow we could find.
        0 | 5..=127 => Err(DropReason::UnrelatedIcmp),
        // Multicast listeners, router solicitation.
        130..=133 | 143 => Err(DropReason::Multicast),
        // Router advertisement, redirect, router renumbering, multicast router discovery.
        134 | 137 | 138 | 151..=153 => Err(DropReason::RouterMessage),
        135 => neighbour::solicitation(key, segment, ip),
        // Neighbour advertisement, and inverse discovery.
        136 | 141 | 142 => Err(DropReason::NeighbourMessage),
        _ => Ok(query(key, header)),
    }
}

fn query(key: &mut FlowKey, header: &[u8; 8]) -> Payload {
    let [kind, code, ..] = *header;
    (key.source_port, key.destination_port) = query_ports(key.protocol, header);
    Payload::Flow(match (key.protocol, kind) {
        (protocol::ICMP, 8) | (protocol::ICMPV6, 128) => L4::Echo { request: true },
        (protocol::ICMP, 0) | (protocol::ICMPV6, 129) => L4::Echo { request: false },
        _ => L4::Icmp { kind, code },
    })
}

/// The ports of the key of a message that is no error.
///
/// Echo has its identifier in both. Any other kind is a flow of its own, or a cached verdict about one kind would hold
/// for all of them: (kind of the question, [`QUERY`]), and the reverse for its answer. Never equal, so never an echo's.
fn query_ports(protocol: u8, header: &[u8; 8]) -> (u16, u16) {
    let identifier = u16_at(header, 4);
    match (protocol, header[0]) {
        (protocol::ICMP, 0 | 8) | (protocol::ICMPV6, 128 | 129) => (identifier, identifier),
        // Answers: timestamp, information, address mask; node information (RFC 4620).
        (protocol::ICMP, answer @ (14 | 16 | 18)) | (protocol::ICMPV6, answer @ 140) => {
            (QUERY, u16::from(answer - 1))
        }
        (_, kind) => (u16::from(kind), QUERY),
    }
}

/// An error about the packet it quotes.
fn error(
    key: &FlowKey,
    segment: Segment,
    quoted: fn(&[u8]) -> Option<FlowKey>,
) -> Result<Payload, DropReason> {
    // No error is that long: what is cut off would be part of the quote.
    if segment.is_first_fragment {
        return Err(DropReason::FragmentBad);
    }
    let quote = segment.visible.get(8..).unwrap_or_default();
    match quoted(quote) {
        // Errors go to whoever sent what they quote; anything else was made up (RFC 5927).
        Some(about) if about.source == key.destination => Ok(Payload::IcmpError { about }),
        _ => Err(DropReason::UnrelatedIcmp),
    }
}

/// The key of a quoted IPv4 packet. Its checksum is not looked at: routers quote what they have already changed.
fn quoted_v4(quote: &[u8]) -> Option<FlowKey> {
    let header: &[u8; 20] = array(quote, 0)?;
    let header_len = usize::from(header[0] & 0x0f) * 4;
    let is_sane = header[0] >> 4 == 4 && header_len >= 20 && usize::from(u16_at(header, 2)) >= header_len;
    let is_beginning = u16_at(header, 6) & 0x1fff == 0;
    if !is_sane || !is_beginning {
        return None;
    }
    let key = FlowKey {
        source: ipv4::mapped(field(header, 12)),
        destination: ipv4::mapped(field(header, 16)),
        protocol: header[9],
        family: 4,
        ..FlowKey::default()
    };
    with_quoted_ports(key, quote.get(header_len..)?)
}

/// The key of a quoted IPv6 packet.
fn quoted_v6(quote: &[u8]) -> Option<FlowKey> {
    let header: &[u8; ipv6::HEADER_LEN] = array(quote, 0)?;
    let behind = quote.get(ipv6::HEADER_LEN..)?;
    let chain = extension::walk(header[6], behind, behind.len()).ok()?;
    let is_beginning = chain.fragment.is_none_or(|f| f.offset == 0);
    if header[0] >> 4 != 6 || !is_beginning {
        return None;
    }
    let key = FlowKey {
        source: field(header, 8),
        destination: field(header, 24),
        protocol: chain.protocol,
        family: 6,
        ..FlowKey::default()
    };
    with_quoted_ports(key, behind.get(chain.l4..)?)
}

/// RFC 792: an error quotes eight bytes at least of what lies behind the IP header. Packets without ports may be shorter.
fn with_quoted_ports(mut key: FlowKey, l4: &[u8]) -> Option<FlowKey> {
    let eight = l4.first_chunk::<8>();
    (key.source_port, key.destination_port) = match (key.protocol, key.family) {
        (protocol::TCP | protocol::UDP | protocol::SCTP, _) => (u16_at(eight?, 0), u16_at(eight?, 2)),
        // Nobody answers an error with an error.
        (protocol::ICMP, 4) if matches!(eight?[0], 3 | 4 | 5 | 11 | 12) => return None,
        (protocol::ICMPV6, 6) if eight?[0] < 128 => return None,
        (protocol::ICMP, 4) | (protocol::ICMPV6, 6) => query_ports(key.protocol, eight?),
        _ => (0, 0),
    };
    Some(key)
}
