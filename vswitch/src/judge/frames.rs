//! The frames that open flows, and those that answer them.
//!
//! Written with etherparse, which shares no code with what reads them.

use crate::packet::FlowKey;
use crate::packet::parsed::tcp;
use etherparse::{IpNumber, PacketBuilder};
use penstock_api::artefact::protocol;
use penstock_api::judge::Flow;
use penstock_api::message::gateway;
use std::net::IpAddr;

const TTL: u8 = 64;
const WINDOW: u16 = 64_000;
/// Sequence numbers of whoever opens and whoever answers.
const OPENER: u32 = 1_000;
const ANSWERER: u32 = 5_000;

/// A packet to be sent.
#[derive(Debug, Clone, Copy)]
pub(super) struct Packet {
    source: IpAddr,
    destination: IpAddr,
    /// Of echo: the identifier in both.
    ports: (u16, u16),
    carries: Carries,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Carries {
    Tcp { flags: u8 },
    Udp,
    Sctp { chunk: u8 },
    Icmp { kind: u8 },
    Icmpv6 { kind: u8 },
}

/// SCTP chunk types (RFC 9260, 3.2).
const INIT: u8 = 1;
const INIT_ACK: u8 = 2;

impl Packet {
    /// The first packet of a flow. `None`: there is none for such a protocol.
    pub(super) fn opening(flow: &Flow, source_port: u16) -> Option<Packet> {
        let carries = match flow.protocol {
            protocol::TCP => Carries::Tcp { flags: tcp::SYN },
            protocol::UDP => Carries::Udp,
            protocol::SCTP => Carries::Sctp { chunk: INIT },
            protocol::ICMP => Carries::Icmp { kind: u8::try_from(flow.port).ok()? },
            protocol::ICMPV6 => Carries::Icmpv6 { kind: u8::try_from(flow.port).ok()? },
            _ => return None,
        };
        let ports = match carries {
            Carries::Icmp { .. } | Carries::Icmpv6 { .. } => (source_port, source_port),
            _ => (source_port, flow.port),
        };
        Some(Packet { source: flow.source, destination: flow.destination, ports, carries })
    }

    /// What the far end says to it; `None` where that would be no answer.
    pub(super) fn answer(&self) -> Option<Packet> {
        let carries = match self.carries {
            Carries::Tcp { .. } => Carries::Tcp { flags: tcp::SYN | tcp::ACK },
            Carries::Udp => Carries::Udp,
            Carries::Sctp { .. } => Carries::Sctp { chunk: INIT_ACK },
            Carries::Icmp { kind: 8 } => Carries::Icmp { kind: 0 },
            Carries::Icmpv6 { kind: 128 } => Carries::Icmpv6 { kind: 129 },
            Carries::Icmp { .. } | Carries::Icmpv6 { .. } => return None,
        };
        let ports = (self.ports.1, self.ports.0);
        Some(Packet { source: self.destination, destination: self.source, ports, carries })
    }

    /// The flow the switch tracks it under.
    pub(super) fn key(&self) -> FlowKey {
        let (protocol, ports) = match self.carries {
            Carries::Tcp { .. } => (protocol::TCP, self.ports),
            Carries::Udp => (protocol::UDP, self.ports),
            Carries::Sctp { .. } => (protocol::SCTP, self.ports),
            Carries::Icmp { kind: 0 | 8 } => (protocol::ICMP, self.ports),
            Carries::Icmpv6 { kind: 128 | 129 } => (protocol::ICMPV6, self.ports),
            Carries::Icmp { kind } => (protocol::ICMP, (kind.into(), u16::MAX)),
            Carries::Icmpv6 { kind } => (protocol::ICMPV6, (kind.into(), u16::MAX)),
        };
        FlowKey::new(protocol, self.source, ports.0, self.destination, ports.1)
    }

    pub(super) fn frame(&self, source_mac: [u8; 6]) -> Vec<u8> {
        let ethernet = PacketBuilder::ethernet2(source_mac, gateway::MAC.0);
        let ip = match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                ethernet.ipv4(source.octets(), destination.octets(), TTL)
            }
            (source, destination) => ethernet.ipv6(v6(source), v6(destination), TTL),
        };
        let mut frame = Vec::new();
        let (from, to) = self.ports;
        let data = *b"penstock";
        let [high, low] = from.to_be_bytes();
        let word = [high, low, 0, 1];
        let written = match self.carries {
            Carries::Tcp { flags } => {
                let is_answer = flags & tcp::ACK != 0;
                let segment = ip.tcp(from, to, if is_answer { ANSWERER } else { OPENER }, WINDOW).syn();
                let segment = if is_answer { segment.ack(OPENER + 1) } else { segment };
                segment.write(&mut frame, &[])
            }
            Carries::Udp => ip.udp(from, to).write(&mut frame, &data),
            Carries::Sctp { chunk } => ip.write(&mut frame, IpNumber::SCTP, &sctp(from, to, chunk)),
            Carries::Icmp { kind } => ip.icmpv4_raw(kind, 0, word).write(&mut frame, &data),
            Carries::Icmpv6 { kind } => ip.icmpv6_raw(kind, 0, word).write(&mut frame, &data),
        };
        // What etherparse will not write is sent as far as it got: the switch drops it, and says why.
        let _ = written;
        frame
    }
}

fn v6(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// An SCTP packet of one INIT or INIT ACK chunk (RFC 9260, 3.3.2).
fn sctp(from: u16, to: u16, chunk: u8) -> Vec<u8> {
    let mut packet = Vec::with_capacity(32);
    packet.extend(from.to_be_bytes());
    packet.extend(to.to_be_bytes());
    // The verification tag of an INIT is 0; an answer carries the opener's.
    packet.extend(if chunk == INIT { 0 } else { OPENER }.to_be_bytes());
    packet.extend([0; 4]);
    packet.extend([chunk, 0, 0, 20]);
    packet.extend(if chunk == INIT { OPENER } else { ANSWERER }.to_be_bytes());
    packet.extend(u32::from(WINDOW).to_be_bytes());
    // One stream each way, and the first sequence number.
    packet.extend([0, 1, 0, 1]);
    packet.extend(OPENER.to_be_bytes());
    let sum = crc32c(&packet);
    packet[8..12].copy_from_slice(&sum.to_le_bytes());
    packet
}

/// RFC 9260, appendix A, a bit at a time.
fn crc32c(bytes: &[u8]) -> u32 {
    let mut sum = !0u32;
    for byte in bytes {
        sum ^= u32::from(*byte);
        for _ in 0..8 {
            sum = if sum & 1 == 1 { sum >> 1 ^ 0x82f6_3b78 } else { sum >> 1 };
        }
    }
    !sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_of_sctp_is_the_one_everybody_computes() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn every_frame_is_read_under_the_key_it_is_looked_for() {
        for (source, destination) in [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")] {
            for (protocol, port) in [(6, 80), (17, 53), (132, 7777), (1, 8), (1, 13), (58, 128), (58, 139)] {
                let (source, destination): (IpAddr, IpAddr) =
                    (source.parse().unwrap(), destination.parse().unwrap());
                if (protocol == 1 && source.is_ipv6()) || (protocol == 58 && source.is_ipv4()) {
                    continue;
                }
                let opening = Packet::opening(&Flow { source, destination, protocol, port }, 12_345).unwrap();
                let frame = opening.frame([2, 0, 0, 0, 0, 1]);
                assert_eq!(crate::packet::parse(&frame, frame.len()).unwrap().key, opening.key());
                if let Some(answer) = opening.answer() {
                    assert_eq!(answer.key(), opening.key().reversed());
                }
            }
        }
    }
}
