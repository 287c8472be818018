//! Where packets come from and where they go: source checks, local delivery, the host, nobody.

use crate::packet::key::halves;
use crate::packet::{FlowKey, Parsed, Payload, Quick, source_mac};
use crate::snapshot::{Port, PortKind, Snapshot};
use penstock_api::DropReason;
use penstock_api::message::gateway;
use std::net::IpAddr;

/// Is this packet from whom it says it is? A port speaks with its own MAC and addresses; the host speaks for everybody but
/// the pods of this node.
#[inline]
pub fn check_source(
    snapshot: &Snapshot,
    port: &Port,
    head: &[u8],
    parsed: &Parsed,
) -> Result<(), DropReason> {
    if port.kind == PortKind::Host {
        return check_host(snapshot, parsed);
    }
    if source_mac(head) != port.mac {
        return Err(DropReason::Spoofed);
    }
    if matches!(parsed.payload, Payload::Flow(_)) && has_source(port, halves(&parsed.key.source)) {
        return Ok(());
    }
    check_rest(port, parsed)
}

/// Does the port have this address, as keys hold it?
#[inline]
fn has_source(port: &Port, source: [u64; 2]) -> bool {
    port.sources.iter().any(|own| (own[0] ^ source[0]) | (own[1] ^ source[1]) == 0)
}

/// [`check_source`] of a packet that is not stored yet; the host's go the long way.
#[inline(always)]
pub fn is_own(port: &Port, head: &[u8], packet: &Quick) -> bool {
    port.kind != PortKind::Host
        && source_mac(head) == port.mac
        && has_source(port, [packet.words[0], packet.words[1]])
}

fn check_host(snapshot: &Snapshot, parsed: &Parsed) -> Result<(), DropReason> {
    let source = parsed.key.source_address();
    let is_host = snapshot.host_addresses.contains(&source);
    let is_pod = snapshot.addresses.contains_key(&source) || snapshot.is_pod_address(source);
    let speaks_ip = matches!(parsed.payload, Payload::Flow(_) | Payload::IcmpError { .. });
    if speaks_ip && is_pod && !is_host { Err(DropReason::Spoofed) } else { Ok(()) }
}

/// Of a packet with the port's own MAC: is what it says of itself the port's own too?
#[cold]
fn check_rest(port: &Port, parsed: &Parsed) -> Result<(), DropReason> {
    let is_own = match parsed.payload {
        Payload::Flow(_) | Payload::IcmpError { .. } => {
            // Whoever pings the gateway's link-local address does it from its own; the answer goes nowhere but back.
            has_source(port, halves(&parsed.key.source))
                || (is_link_local(parsed.key.source_address()) && is_gateway(&parsed.key))
        }
        Payload::ArpRequest { sender_mac, sender, .. } => {
            sender_mac == port.mac && sender.is_none_or(|sender| port.addresses.contains(&sender))
        }
        // Neighbour discovery may speak from link-local, of which only the MAC above is known.
        Payload::NeighbourSolicitation { sender, .. } => {
            sender.is_none_or(|sender| port.addresses.contains(&sender) || is_link_local(sender))
        }
    };
    if is_own { Ok(()) } else { Err(DropReason::Spoofed) }
}

/// The port a packet from `from` to `destination` leaves by.
pub fn route<'a>(snapshot: &'a Snapshot, from: &Port, destination: IpAddr) -> Result<&'a Port, DropReason> {
    if let Some(port) = snapshot.port_of(destination) {
        return Ok(port);
    }
    let is_host = snapshot.host_addresses.contains(&destination);
    // An address of ours that nobody has must not wander to the host and back.
    if !is_host && snapshot.is_pod_address(destination) {
        return Err(DropReason::NoRoute);
    }
    // What the host gave us it does not want back.
    if from.kind == PortKind::Host {
        return Err(DropReason::NoRoute);
    }
    snapshot.port(penstock_api::PortId::HOST).ok_or(DropReason::NoRoute)
}

/// May a pod have given itself this address, to speak on its link only?
fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local() && v6 != gateway::V6)
}

/// Is the packet for the gateway every pod has?
#[inline]
pub fn is_gateway(key: &FlowKey) -> bool {
    const V4: u128 = u128::from_be_bytes(gateway::V4.to_ipv6_mapped().octets());
    const V6: u128 = u128::from_be_bytes(gateway::V6.octets());
    u128::from_be_bytes(key.destination) == if key.family == 4 { V4 } else { V6 }
}
