//! Answers to "who has?": ARP replies and neighbour advertisements.
//!
//! Whether we have the target is the caller's question. Probes for the sender's own address are never answered: an answer
//! would tell the pod that its address is taken.

use super::writer::{Macs, Writer};
use crate::packet::parse::ethertype;
use crate::packet::{FlowKey, Parsed, Payload};
use penstock_api::artefact::protocol;
use penstock_api::message::gateway;
use std::net::IpAddr;

/// The target is at `gateway_mac`.
#[must_use]
pub fn arp_reply(parsed: &Parsed, gateway_mac: [u8; 6], out: &mut [u8]) -> Option<usize> {
    let Payload::ArpRequest { sender_mac, sender: Some(IpAddr::V4(sender)), target: IpAddr::V4(target) } =
        parsed.payload
    else {
        return None;
    };
    let mut frame = Writer::new(out);
    frame.ethernet(sender_mac, gateway_mac, ethertype::ARP)?;
    // Ethernet, IPv4, address lengths, reply.
    frame.put(&[0, 1, 8, 0, 6, 4, 0, 2])?;
    frame.put(&gateway_mac)?;
    frame.put(&target.octets())?;
    frame.put(&sender_mac)?;
    frame.put(&sender.octets())?;
    Some(frame.len())
}

/// The target is at `gateway_mac`: solicited, and overriding what the sender may have remembered.
#[must_use]
pub fn neighbour_advertisement(
    head: &[u8],
    parsed: &Parsed,
    gateway_mac: [u8; 6],
    out: &mut [u8],
) -> Option<usize> {
    const ROUTER: u8 = 0x80;
    const SOLICITED: u8 = 0x40;
    const OVERRIDE: u8 = 0x20;
    let Payload::NeighbourSolicitation { sender: Some(sender), target: IpAddr::V6(target), .. } =
        parsed.payload
    else {
        return None;
    };
    let key = FlowKey::new(protocol::ICMPV6, IpAddr::V6(target), 0, sender, 0);
    // Without the router flag the pod would strike its default router off its list (RFC 4861, 7.2.5).
    let router = if target == gateway::V6 { ROUTER } else { 0 };
    let mut frame = Writer::new(out);
    frame.ip(Macs::back(head, gateway_mac), &key, 32, 255, 0)?;
    frame.put(&[136, 0, 0, 0, router | SOLICITED | OVERRIDE, 0, 0, 0])?;
    frame.put(&target.octets())?;
    // Target link-layer address, one unit of eight bytes.
    frame.put(&[2, 1])?;
    frame.put(&gateway_mac)?;
    frame.finish(&key, 2)
}
