//! ARP and neighbour solicitations: questions for the gateway, and nothing else.
//!
//! The switch answers from its own table and learns nothing, so every other message of these protocols is dropped.

use super::{ETHERNET_LEN, FlowKey, Fragment, Parsed, Payload, Segment, icmp::Outer};
use crate::packet::bytes::{array, field, u16_at};
use crate::packet::checksum::pseudo_header;
use crate::packet::{DropReason, parse::ethertype};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub(super) const ARP_LEN: usize = 28;

/// Reads an ARP message. Of [`Parsed`] only the offsets, `ip_len` (of the ARP message) and the payload mean anything.
pub(super) fn arp(ethernet: &[u8; ETHERNET_LEN], l3: &[u8]) -> Result<Parsed, DropReason> {
    let message: &[u8; ARP_LEN] = array(l3, 0).ok_or(DropReason::Truncated)?;
    let is_ipv4_on_ethernet = u16_at(message, 0) == 1
        && u16_at(message, 2) == ethertype::IPV4
        && message[4] == 6
        && message[5] == 4;
    let is_request = u16_at(message, 6) == 1;
    if !is_ipv4_on_ethernet || !is_request {
        return Err(DropReason::NeighbourMessage);
    }
    let sender_mac: [u8; 6] = field(message, 8);
    if sender_mac != field::<6, _>(ethernet, 6) {
        return Err(DropReason::Spoofed);
    }
    let sender = Ipv4Addr::from(field::<4, _>(message, 14));
    let target = Ipv4Addr::from(field::<4, _>(message, 24));
    // A question about oneself is an announcement (RFC 5227, 3).
    if sender == target {
        return Err(DropReason::NeighbourMessage);
    }
    Ok(Parsed {
        key: FlowKey::default(),
        l3_offset: ETHERNET_LEN as u16,
        l4_offset: ETHERNET_LEN as u16,
        ip_len: ARP_LEN as u16,
        ttl: 0,
        dont_fragment: false,
        fragment: Fragment::Whole,
        payload: Payload::ArpRequest {
            sender_mac,
            sender: (!sender.is_unspecified()).then_some(IpAddr::V4(sender)),
            target: IpAddr::V4(target),
        },
    })
}

/// Reads a neighbour solicitation as RFC 4861, 7.1.1 has it.
#[cold]
pub(super) fn solicitation(key: &FlowKey, segment: Segment, ip: Outer) -> Result<Payload, DropReason> {
    let invalid = DropReason::NeighbourMessage;
    // A hop limit of 255 shows that no router has passed it on. RFC 6980: never in fragments.
    if ip.hop_limit != 255 || ip.is_fragmented {
        return Err(invalid);
    }
    let message = segment.visible;
    let header: &[u8; 24] = array(message, 0).ok_or(invalid)?;
    // All of it is in the head: it is at most a few options long.
    if message.len() != segment.len || header[1] != 0 {
        return Err(invalid);
    }
    if pseudo_header(key, key.protocol, segment.len as u16).plus(message).finish() != 0 {
        return Err(invalid);
    }
    let source = Ipv6Addr::from(key.source);
    let target = Ipv6Addr::from(field::<16, _>(header, 8));
    let sender_mac = source_option(message.get(24..).unwrap_or_default())?;
    let solicited_node = is_solicited_node(key.destination, target);
    if target.is_multicast() || !(solicited_node || key.destination == target.octets()) {
        return Err(invalid);
    }
    // A probe (RFC 4862, 5.4.2) goes to everybody who might have the address, and has no address to answer to.
    if source.is_unspecified() && (sender_mac.is_some() || !solicited_node) {
        return Err(invalid);
    }
    if sender_mac.is_some_and(|mac| mac != field::<6, _>(ip.ethernet, 6)) {
        return Err(DropReason::Spoofed);
    }
    Ok(Payload::NeighbourSolicitation {
        sender_mac,
        sender: (!source.is_unspecified()).then_some(IpAddr::V6(source)),
        target: IpAddr::V6(target),
    })
}

/// `ff02::1:ffXX:XXXX`, the X from the target.
fn is_solicited_node(destination: [u8; 16], target: Ipv6Addr) -> bool {
    let [.., x, y, z] = target.octets();
    destination == [0xff, 0x02, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, x, y, z]
}

/// The source link-layer address among the options.
fn source_option(mut options: &[u8]) -> Result<Option<[u8; 6]>, DropReason> {
    const SOURCE_LINK_LAYER: u8 = 1;
    let mut found = None;
    while let [kind, units, ..] = *options {
        let len = usize::from(units) * 8;
        // RFC 4861, 4.6: an option of length 0 makes the whole message void.
        let Some((option, rest)) = options.split_at_checked(len).filter(|_| len > 0) else {
            return Err(DropReason::NeighbourMessage);
        };
        if kind == SOURCE_LINK_LAYER {
            let mac: &[u8; 6] = array(option, 2).ok_or(DropReason::NeighbourMessage)?;
            if len != 8 || found.replace(*mac).is_some() {
                return Err(DropReason::NeighbourMessage);
            }
        }
        options = rest;
    }
    // One byte cannot be an option.
    if options.is_empty() { Ok(found) } else { Err(DropReason::NeighbourMessage) }
}
