//! ICMP and ICMPv6: echo replies and errors, from the gateway.

use super::writer::{Macs, Writer};
use super::{TTL, may_answer};
use crate::packet::bytes::u16_at;
use crate::packet::checksum::updated;
use crate::packet::{FlowKey, Fragment, L4, Parsed, Payload};
use penstock_api::artefact::protocol;
use penstock_api::message::gateway;
use std::net::IpAddr;

/// RFC 1812, 4.3.2.3: an error is at most 576 bytes long.
const V4_ERROR_LEN_MAX: usize = 576;
/// RFC 4443, 2.4 (c): an error is at most as long as the least MTU.
pub(super) const V6_ERROR_LEN_MAX: usize = 1280;

/// Why a packet was not delivered, for its sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IcmpError {
    /// TTL or hop limit ran out.
    TimeExceeded,
    /// Nobody has the destination address.
    HostUnreachable,
    /// Policy rejects it.
    Prohibited,
    /// Policy rejects it, said as a host without a listener would.
    PortUnreachable,
    /// The IP packet is longer than `mtu` bytes. Never for IPv4 packets that may be fragmented.
    TooBig { mtu: u16 },
}

/// The reply to an echo request, from the address that was asked. `head` must hold the whole request.
///
/// The checksum is updated, not computed: a request damaged on its way gets a reply that is as wrong.
#[must_use]
pub fn echo_reply(head: &[u8], parsed: &Parsed, gateway_mac: [u8; 6], out: &mut [u8]) -> Option<usize> {
    let is_whole_request =
        parsed.fragment == Fragment::Whole && parsed.payload == Payload::Flow(L4::Echo { request: true });
    if !is_whole_request {
        return None;
    }
    let end = usize::from(parsed.l3_offset) + usize::from(parsed.ip_len);
    let request = head.get(usize::from(parsed.l4_offset)..end)?;
    let (header, data) = request.split_first_chunk::<4>()?;
    let key = parsed.key.reversed();
    let kind = if key.family == 4 { 0 } else { 129 };
    // ICMPv6's pseudo header is the same in both directions.
    let sum = updated(u16_at(header, 2), u16_at(header, 0), u16::from_be_bytes([kind, header[1]]));
    let mut frame = Writer::new(out);
    frame.ip(Macs::back(head, gateway_mac), &key, request.len(), TTL, 0)?;
    frame.put(&[kind, header[1]])?;
    frame.put(&sum.to_be_bytes())?;
    frame.put(data)?;
    Some(frame.len())
}

/// Tells the sender why its packet was not delivered, quoting as much of it as `head` holds and the error may.
#[must_use]
pub fn icmp_error(
    head: &[u8],
    parsed: &Parsed,
    error: IcmpError,
    gateway_mac: [u8; 6],
    out: &mut [u8],
) -> Option<usize> {
    if !may_answer(parsed) {
        return None;
    }
    let is_v4 = parsed.key.family == 4;
    let (kind, code, rest) = match (error, is_v4) {
        (IcmpError::TimeExceeded, true) => (11, 0, 0),
        (IcmpError::TimeExceeded, false) => (3, 0, 0),
        (IcmpError::HostUnreachable, true) => (3, 1, 0),
        (IcmpError::HostUnreachable, false) => (1, 3, 0),
        (IcmpError::Prohibited, true) => (3, 13, 0),
        (IcmpError::Prohibited, false) => (1, 1, 0),
        (IcmpError::PortUnreachable, true) => (3, 3, 0),
        (IcmpError::PortUnreachable, false) => (1, 4, 0),
        (IcmpError::TooBig { .. }, true) if !parsed.dont_fragment => return None,
        // RFC 1191 and RFC 4443, 3.2: the MTU stands in the second word.
        (IcmpError::TooBig { mtu }, true) => (3, 4, u32::from(mtu)),
        (IcmpError::TooBig { mtu }, false) => (2, 0, u32::from(mtu)),
    };
    let sender = parsed.key.source_address();
    // RFC 1812, 4.3.2.5: IPv4 errors have the precedence of internetwork control.
    let (key, quote_max, class) = match is_v4 {
        true => {
            let key = FlowKey::new(protocol::ICMP, IpAddr::V4(gateway::V4), 0, sender, 0);
            (key, V4_ERROR_LEN_MAX - 28, 0xc0)
        }
        false => {
            let key = FlowKey::new(protocol::ICMPV6, IpAddr::V6(gateway::V6), 0, sender, 0);
            (key, V6_ERROR_LEN_MAX - 48, 0)
        }
    };
    let packet = head.get(usize::from(parsed.l3_offset)..)?;
    let quote = packet.get(..packet.len().min(usize::from(parsed.ip_len)).min(quote_max))?;
    let mut frame = Writer::new(out);
    frame.ip(Macs::back(head, gateway_mac), &key, 8 + quote.len(), TTL, class)?;
    frame.put(&[kind, code, 0, 0])?;
    frame.put(&rest.to_be_bytes())?;
    frame.put(quote)?;
    frame.finish(&key, 2)
}
