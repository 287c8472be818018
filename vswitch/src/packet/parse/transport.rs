//! TCP, UDP and SCTP headers: ports, and what tracking wants of TCP.

use super::Segment;
use crate::packet::bytes::{u16_at, u32_at};
use crate::packet::parsed::tcp;
use crate::packet::{DropReason, FlowKey, L4};
use penstock_api::artefact::protocol;

/// Reads the header and fills in the key's ports. L4 checksums are the receiver's business.
#[inline]
pub(super) fn parse(key: &mut FlowKey, segment: Segment) -> Result<L4, DropReason> {
    let l4 = match key.protocol {
        protocol::TCP => tcp_header(segment)?,
        protocol::UDP => udp_header(segment)?,
        protocol::SCTP => {
            segment.header::<12>()?;
            L4::Sctp
        }
        _ => return Ok(L4::Other),
    };
    let ports: &[u8; 4] = segment.header()?;
    key.source_port = u16_at(ports, 0);
    key.destination_port = u16_at(ports, 2);
    // Reserved in all three; RFC 768 lets a sender that wants no answer use source port 0, and nobody does.
    if key.source_port == 0 || key.destination_port == 0 {
        return Err(DropReason::BadL4Header);
    }
    // Only a DHCP server speaks to a DHCP client's port, and clients do not look at where from.
    let client_port = if key.family == 4 { 68 } else { 546 };
    if l4 == L4::Udp && key.destination_port == client_port {
        return Err(DropReason::RouterMessage);
    }
    Ok(l4)
}

#[inline]
fn tcp_header(segment: Segment) -> Result<L4, DropReason> {
    let header: &[u8; 20] = segment.header()?;
    let header_len = usize::from(header[12] >> 4) * 4;
    if header_len < header.len() {
        return Err(DropReason::BadL4Header);
    }
    let Some(payload_len) = segment.len.checked_sub(header_len) else {
        return Err(segment.too_short(header_len));
    };
    let flags = header[13];
    let opens_and_closes = flags & tcp::SYN != 0 && flags & (tcp::FIN | tcp::RST) != 0;
    let says_nothing = flags & (tcp::FIN | tcp::SYN | tcp::RST | tcp::PSH | tcp::ACK | tcp::URG) == 0;
    if opens_and_closes || says_nothing {
        return Err(DropReason::BadL4Header);
    }
    Ok(L4::Tcp {
        flags,
        sequence: u32_at(header, 4),
        acknowledgement: u32_at(header, 8),
        window: u16_at(header, 14),
        payload_len: payload_len as u16,
    })
}

#[inline]
fn udp_header(segment: Segment) -> Result<L4, DropReason> {
    let header: &[u8; 8] = segment.header()?;
    let len = usize::from(u16_at(header, 4));
    // Shorter than the packet is legal (RFC 9868 puts options behind the data), longer only while fragments are to come.
    if len < header.len() || (len > segment.len && !segment.is_first_fragment) {
        return Err(DropReason::BadL4Header);
    }
    Ok(L4::Udp)
}
