//! Frames as pods send them, and as a worker would send them on.

use crate::packet::FlowKey;
use penstock_api::message::gateway;
use std::net::IpAddr;

pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;
const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;
const URG: u8 = 0x20;

/// What is unusual about a frame, if anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Odd {
    No,
    /// TCP's flags.
    Opens,
    Ends,
    Aborts,
    Urgent,
    LastHop,
    /// The first piece of several.
    FirstPiece,
    /// A later one, which shows no ports.
    LaterPiece,
    Options,
    WrongSum,
    /// Bytes behind the packet.
    Tail,
}

impl Odd {
    pub(super) const ALL: [Odd; 10] = [
        Odd::Opens,
        Odd::Ends,
        Odd::Aborts,
        Odd::Urgent,
        Odd::LastHop,
        Odd::FirstPiece,
        Odd::LaterPiece,
        Odd::Options,
        Odd::WrongSum,
        Odd::Tail,
    ];

    /// Do the programs see of which flow it is? A later piece follows its first, which they see; what has options may be overtaken.
    pub(super) fn shows_its_flow(self) -> bool {
        !matches!(self, Odd::LaterPiece | Odd::Options)
    }

    /// Can a frame of this key be so?
    pub(super) fn fits(self, key: &FlowKey) -> bool {
        match self {
            Odd::Opens | Odd::Ends | Odd::Aborts | Odd::Urgent => key.protocol == TCP,
            Odd::Options | Odd::WrongSum => key.family == 4,
            _ => true,
        }
    }
}

fn checksum(header: &[u8]) -> [u8; 2] {
    let sum: u32 = header.chunks(2).map(|two| u32::from(u16::from_be_bytes([two[0], two[1]]))).sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    (!((sum & 0xffff) + (sum >> 16)) as u16).to_be_bytes()
}

/// A frame of a flow from this MAC. The header's sum is right unless it is to be wrong.
pub(super) fn frame(key: &FlowKey, mac: [u8; 6], ttl: u8, payload: usize, odd: Odd) -> Vec<u8> {
    let l4_len = if key.protocol == TCP { 20 } else { 8 } + payload;
    let mut l4 = vec![0x5a; l4_len];
    l4[..2].copy_from_slice(&key.source_port.to_be_bytes());
    l4[2..4].copy_from_slice(&key.destination_port.to_be_bytes());
    if key.protocol == TCP {
        l4[12] = 0x50;
        l4[13] = match odd {
            Odd::Opens => SYN,
            Odd::Ends => FIN | ACK,
            Odd::Aborts => RST | ACK,
            Odd::Urgent => URG | ACK,
            _ => ACK,
        };
    } else {
        l4[4..6].copy_from_slice(&(l4_len as u16).to_be_bytes());
    }
    let ttl = if odd == Odd::LastHop { 1 } else { ttl };
    let mut ip;
    if key.family == 4 {
        ip = vec![0; if odd == Odd::Options { 24 } else { 20 }];
        ip[0] = 0x40 | (ip.len() / 4) as u8;
        if odd == Odd::Options {
            // Nothing, four times.
            ip[20..].fill(1);
        }
        ip[1] = 0xb9;
        let len = (ip.len() + l4.len()) as u16;
        ip[2..4].copy_from_slice(&len.to_be_bytes());
        match odd {
            Odd::FirstPiece => ip[6] = 0x20,
            Odd::LaterPiece => ip[7] = 5,
            _ => {}
        }
        (ip[8], ip[9]) = (ttl, key.protocol);
        ip[12..16].copy_from_slice(&key.source[12..]);
        ip[16..20].copy_from_slice(&key.destination[12..]);
        let sum = checksum(&ip);
        ip[10..12].copy_from_slice(&sum);
        if odd == Odd::WrongSum {
            ip[10] ^= 1;
        }
    } else {
        let is_piece = matches!(odd, Odd::FirstPiece | Odd::LaterPiece);
        ip = vec![0; if is_piece { 48 } else { 40 }];
        ip[0] = 0x6b;
        let len = (ip.len() - 40 + l4.len()) as u16;
        ip[4..6].copy_from_slice(&len.to_be_bytes());
        (ip[6], ip[7]) = (key.protocol, ttl);
        if is_piece {
            ip[6] = 44;
            ip[40] = key.protocol;
            ip[43] = if odd == Odd::FirstPiece { 1 } else { 0x28 };
        }
        ip[8..24].copy_from_slice(&key.source);
        ip[24..40].copy_from_slice(&key.destination);
    }
    let kind = if key.family == 4 { [0x08, 0x00] } else { [0x86, 0xdd] };
    let mut frame = [&gateway::MAC.0[..], &mac, &kind, &ip, &l4].concat();
    if odd == Odd::Tail {
        frame.extend([0; 3]);
    }
    frame
}

/// The same frame of TCP over IPv4, with other numbers.
pub(super) fn segment(mut frame: Vec<u8>, sequence: u32, acknowledgement: u32) -> Vec<u8> {
    frame[38..42].copy_from_slice(&sequence.to_be_bytes());
    frame[42..46].copy_from_slice(&acknowledgement.to_be_bytes());
    frame
}

/// The same frame as a worker sends it on: one hop later, from the gateway.
pub(super) fn sent_on(frame: &[u8], to: [u8; 6]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    frame[..6].copy_from_slice(&to);
    frame[6..12].copy_from_slice(&gateway::MAC.0);
    if frame[12] == 0x08 {
        frame[22] -= 1;
        frame[24..26].fill(0);
        let sum = checksum(&frame[14..34]);
        frame[24..26].copy_from_slice(&sum);
    } else {
        frame[21] -= 1;
    }
    frame
}

/// The number's address of a family.
pub(super) fn address(number: usize, family: u8) -> IpAddr {
    match family {
        4 => IpAddr::from([10, 0, 0, number as u8]),
        _ => IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, number as u16]),
    }
}

/// A key for people.
pub(super) fn named(key: &FlowKey) -> String {
    let (from, to) = (key.source_address(), key.destination_address());
    let kind = if key.protocol == TCP { "TCP" } else { "UDP" };
    format!("{kind} {from}:{} to {to}:{}", key.source_port, key.destination_port)
}
