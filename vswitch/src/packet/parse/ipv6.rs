//! The IPv6 header.

use super::{ETHERNET_LEN, Segment, check_fragment, extension, icmp, scope, transport};
use crate::packet::bytes::{array, field, u16_at};
use crate::packet::{DropReason, FlowKey, Fragment, L4, Parsed, Payload};
use penstock_api::artefact::protocol;

pub(super) const HEADER_LEN: usize = 40;

pub(super) fn parse(ethernet: &[u8; ETHERNET_LEN], l3: &[u8], l3_len: usize) -> Result<Parsed, DropReason> {
    let header: &[u8; HEADER_LEN] = array(l3, 0).ok_or(DropReason::Truncated)?;
    if header[0] >> 4 != 6 {
        return Err(DropReason::BadIpHeader);
    }
    let payload_len = usize::from(u16_at(header, 4));
    // Length 0 announces a jumbogram (RFC 2675); only a packet that says it holds nothing may hold nothing.
    if payload_len == 0 && header[6] != extension::NO_NEXT_HEADER {
        return Err(DropReason::BadIpHeader);
    }
    // The last 40 lengths do not fit our own fields, and no link of ours carries them.
    let ip_len = u16::try_from(HEADER_LEN + payload_len).map_err(|_| DropReason::BadIpHeader)?;
    if usize::from(ip_len) > l3_len {
        return Err(DropReason::Truncated);
    }

    let packet = l3.get(..usize::from(ip_len)).unwrap_or(l3);
    let (_, visible) = packet.split_at(HEADER_LEN);
    let chain = extension::walk(header[6], visible, payload_len)?;
    let mut key = FlowKey {
        source: field(header, 8),
        destination: field(header, 24),
        protocol: chain.protocol,
        family: 6,
        ..FlowKey::default()
    };
    let fragment = match chain.fragment {
        None => Fragment::Whole,
        Some(f) => {
            let len = payload_len - f.data;
            match (f.offset, f.more) {
                // RFC 6946: an atomic fragment is no fragment.
                (0, false) => Fragment::Whole,
                (0, true) => {
                    check_fragment(chain.protocol, 0, true, len, usize::from(u16::MAX))?;
                    Fragment::First { id: f.id }
                }
                (offset, more) => {
                    check_fragment(chain.protocol, offset, more, len, usize::from(u16::MAX))?;
                    Fragment::Later { id: f.id, offset, more }
                }
            }
        }
    };
    let payload = match fragment {
        Fragment::Later { .. } => Payload::Flow(L4::Other),
        _ => {
            let segment = Segment {
                visible: visible.get(chain.l4..).unwrap_or_default(),
                len: payload_len - chain.l4,
                is_first_fragment: fragment != Fragment::Whole,
            };
            match chain.protocol {
                protocol::ICMPV6 => {
                    let ip = icmp::Outer {
                        ethernet,
                        hop_limit: header[7],
                        is_fragmented: chain.fragment.is_some(),
                    };
                    icmp::v6(&mut key, segment, ip)?
                }
                protocol::ICMP => return Err(DropReason::BadL4Header),
                _ => Payload::Flow(transport::parse(&mut key, segment)?),
            }
        }
    };
    scope::check((scope::of_v6(&key.source), scope::of_v6(&key.destination)), &key, &payload)?;
    Ok(Parsed {
        key,
        l3_offset: ETHERNET_LEN as u16,
        l4_offset: (ETHERNET_LEN + HEADER_LEN + chain.l4) as u16,
        ip_len,
        ttl: header[7],
        dont_fragment: true,
        fragment,
        payload,
    })
}
