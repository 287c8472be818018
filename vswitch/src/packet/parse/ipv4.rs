//! The IPv4 header.

use super::{ETHERNET_LEN, Segment, check_fragment, icmp, scope, transport};
use crate::packet::bytes::{array, field, u16_at};
use crate::packet::checksum::checksum;
use crate::packet::{DropReason, FlowKey, Fragment, L4, Parsed, Payload};
use penstock_api::artefact::protocol;

/// Length of a header without options, the only kind we forward.
const HEADER_LEN: usize = 20;
const DONT_FRAGMENT: u16 = 0x4000;
const MORE_FRAGMENTS: u16 = 0x2000;
const RESERVED: u16 = 0x8000;

#[inline]
pub(super) fn parse(l3: &[u8], l3_len: usize) -> Result<Parsed, DropReason> {
    let header: &[u8; HEADER_LEN] = array(l3, 0).ok_or(DropReason::Truncated)?;
    if header[0] >> 4 != 4 {
        return Err(DropReason::BadIpHeader);
    }
    match usize::from(header[0] & 0x0f) * 4 {
        HEADER_LEN if checksum(header) == 0 => {}
        HEADER_LEN => return Err(DropReason::BadIpChecksum),
        len => return Err(with_options(l3, len)),
    }
    let flags = u16_at(header, 6);
    let ip_len = u16_at(header, 2);
    let total_len = usize::from(ip_len);
    if flags & RESERVED != 0 || total_len < HEADER_LEN {
        return Err(DropReason::BadIpHeader);
    }
    if total_len > l3_len {
        return Err(DropReason::Truncated);
    }

    let mut key = FlowKey {
        source: mapped(field(header, 12)),
        destination: mapped(field(header, 16)),
        protocol: header[9],
        family: 4,
        ..FlowKey::default()
    };
    let packet = l3.get(..total_len).unwrap_or(l3);
    let (_, visible) = packet.split_at(HEADER_LEN);
    let len = total_len - HEADER_LEN;
    let more = flags & MORE_FRAGMENTS != 0;
    let offset = (flags & 0x1fff) << 3;
    let id = u32::from(u16_at(header, 4));
    let fragment = match (offset, more) {
        (0, false) => Fragment::Whole,
        (0, true) => Fragment::First { id },
        _ => Fragment::Later { id, offset, more },
    };
    if fragment != Fragment::Whole {
        check_fragment(key.protocol, offset, more, len, usize::from(u16::MAX) - HEADER_LEN)?;
    }
    let payload = match fragment {
        Fragment::Later { .. } => Payload::Flow(L4::Other),
        _ => {
            let segment = Segment { visible, len, is_first_fragment: fragment != Fragment::Whole };
            match key.protocol {
                protocol::ICMP => icmp::v4(&mut key, segment)?,
                // Neighbour discovery and its like mean nothing in IPv4.
                protocol::ICMPV6 => return Err(DropReason::BadL4Header),
                _ => Payload::Flow(transport::parse(&mut key, segment)?),
            }
        }
    };
    let ends = (scope::of_v4(field(header, 12)), scope::of_v4(field(header, 16)));
    scope::check(ends, &key, &payload)?;
    Ok(Parsed {
        key,
        l3_offset: ETHERNET_LEN as u16,
        l4_offset: (ETHERNET_LEN + HEADER_LEN) as u16,
        ip_len,
        ttl: header[8],
        dont_fragment: flags & DONT_FRAGMENT != 0,
        fragment,
        payload,
    })
}

/// What is wrong with a header whose length is not the usual one. Options (source routes among them) are never forwarded.
#[cold]
fn with_options(l3: &[u8], header_len: usize) -> DropReason {
    match l3.get(..header_len) {
        _ if header_len < HEADER_LEN => DropReason::BadIpHeader,
        None => DropReason::Truncated,
        Some(header) if checksum(header) != 0 => DropReason::BadIpChecksum,
        Some(_) => DropReason::IpOptions,
    }
}

/// `::ffff:a.b.c.d`.
#[inline]
pub(super) fn mapped(address: [u8; 4]) -> [u8; 16] {
    // As one number, written whole: what reads the key by words must not wait for its bytes.
    (u128::from(u32::from_le_bytes(address)) << 96 | 0xffff << 80).to_le_bytes()
}
