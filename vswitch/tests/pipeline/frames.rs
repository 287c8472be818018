//! Frames made and read with etherparse: a second opinion about what is on the wire.

#![allow(dead_code)]

use etherparse::*;
use penstock_vswitch::packet::FlowKey;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub(crate) const GATEWAY_MAC: [u8; 6] = [0x02, 0x50, 0x53, 0, 0, 1];
pub(crate) const GATEWAY4: IpAddr = IpAddr::V4(Ipv4Addr::new(169, 254, 1, 1));
pub(crate) const GATEWAY6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1));

pub(crate) const FIN: u8 = 1;
pub(crate) const SYN: u8 = 2;
pub(crate) const RST: u8 = 4;
pub(crate) const PSH: u8 = 8;
pub(crate) const ACK: u8 = 16;

pub(crate) const ICMP: u8 = 1;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const ICMPV6: u8 = 58;
pub(crate) const SCTP: u8 = 132;

/// What a packet carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Carries {
    Tcp {
        flags: u8,
        sequence: u32,
        acknowledgement: u32,
    },
    Udp,
    Sctp,
    /// An ICMP or ICMPv6 message (by the addresses' family) with its second word.
    Icmp {
        kind: u8,
        code: u8,
        word: [u8; 4],
    },
    /// The data is all there is, under this protocol number.
    Raw(u8),
}

/// A packet to be sent. Checksums are right unless a test damages the bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Packet {
    pub(crate) source_mac: [u8; 6],
    pub(crate) destination_mac: [u8; 6],
    pub(crate) source: IpAddr,
    pub(crate) source_port: u16,
    pub(crate) destination: IpAddr,
    pub(crate) destination_port: u16,
    pub(crate) carries: Carries,
    pub(crate) data: Vec<u8>,
    pub(crate) ttl: u8,
    pub(crate) dont_fragment: bool,
    pub(crate) id: u16,
}

fn octets4(address: IpAddr) -> [u8; 4] {
    match address {
        IpAddr::V4(v4) => v4.octets(),
        IpAddr::V6(_) => panic!("{address} is not IPv4"),
    }
}

fn octets6(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V6(v6) => v6.octets(),
        IpAddr::V4(_) => panic!("{address} is not IPv6"),
    }
}

impl Packet {
    pub(crate) fn new(
        source: IpAddr,
        source_port: u16,
        destination: IpAddr,
        destination_port: u16,
    ) -> Packet {
        Packet {
            source_mac: [0; 6],
            destination_mac: GATEWAY_MAC,
            source,
            source_port,
            destination,
            destination_port,
            carries: Carries::Udp,
            data: Vec::new(),
            ttl: 64,
            dont_fragment: true,
            id: 7,
        }
    }

    pub(crate) fn with_mac(mut self, mac: [u8; 6]) -> Packet {
        self.source_mac = mac;
        self
    }

    pub(crate) fn tcp(mut self, flags: u8, sequence: u32, acknowledgement: u32) -> Packet {
        self.carries = Carries::Tcp { flags, sequence, acknowledgement };
        self
    }

    pub(crate) fn sctp(mut self) -> Packet {
        self.carries = Carries::Sctp;
        self
    }

    pub(crate) fn icmp(mut self, kind: u8, code: u8, word: [u8; 4]) -> Packet {
        self.carries = Carries::Icmp { kind, code, word };
        self
    }

    /// An echo request, or a reply, of the packet's family.
    pub(crate) fn echo(self, request: bool, id: u16) -> Packet {
        let kind = match (self.source.is_ipv4(), request) {
            (true, true) => 8,
            (true, false) => 0,
            (false, true) => 128,
            (false, false) => 129,
        };
        let [a, b] = id.to_be_bytes();
        self.icmp(kind, 0, [a, b, 0, 1])
    }

    pub(crate) fn raw(mut self, protocol: u8) -> Packet {
        self.carries = Carries::Raw(protocol);
        self
    }

    pub(crate) fn data(mut self, data: impl Into<Vec<u8>>) -> Packet {
        self.data = data.into();
        self
    }

    pub(crate) fn ttl(mut self, ttl: u8) -> Packet {
        self.ttl = ttl;
        self
    }

    pub(crate) fn may_fragment(mut self, id: u16) -> Packet {
        self.dont_fragment = false;
        self.id = id;
        self
    }

    /// The answer's addresses and ports. Carries the same.
    pub(crate) fn reversed(&self) -> Packet {
        Packet {
            source: self.destination,
            source_port: self.destination_port,
            destination: self.source,
            destination_port: self.source_port,
            ..self.clone()
        }
    }

    pub(crate) fn protocol(&self) -> u8 {
        match self.carries {
            Carries::Tcp { .. } => TCP,
            Carries::Udp => UDP,
            Carries::Sctp => SCTP,
            Carries::Icmp { .. } => {
                if self.source.is_ipv4() {
                    ICMP
                } else {
                    ICMPV6
                }
            }
            Carries::Raw(protocol) => protocol,
        }
    }

    /// What the switch should take for its flow.
    pub(crate) fn key(&self) -> FlowKey {
        let (from, to) = match &self.carries {
            Carries::Icmp { kind: 0 | 8 | 128 | 129, word, .. } => {
                let id = u16::from_be_bytes([word[0], word[1]]);
                (id, id)
            }
            Carries::Icmp { .. } | Carries::Raw(_) => panic!("no key is promised for {self:?}"),
            _ => (self.source_port, self.destination_port),
        };
        FlowKey::new(self.protocol(), self.source, from, self.destination, to)
    }

    /// What lies behind the IP header.
    pub(crate) fn l4(&self) -> Vec<u8> {
        match self.carries {
            Carries::Tcp { flags, sequence, acknowledgement } => {
                let mut header = TcpHeader::new(self.source_port, self.destination_port, sequence, 64_000);
                header.acknowledgment_number = acknowledgement;
                (header.fin, header.syn, header.rst) = (flags & FIN != 0, flags & SYN != 0, flags & RST != 0);
                (header.psh, header.ack) = (flags & PSH != 0, flags & ACK != 0);
                header.checksum = match (self.source, self.destination) {
                    (IpAddr::V4(s), IpAddr::V4(d)) => {
                        header.calc_checksum_ipv4_raw(s.octets(), d.octets(), &self.data).unwrap()
                    }
                    (s, d) => header.calc_checksum_ipv6_raw(octets6(s), octets6(d), &self.data).unwrap(),
                };
                [&header.to_bytes()[..], &self.data].concat()
            }
            Carries::Udp => {
                let mut header = UdpHeader {
                    source_port: self.source_port,
                    destination_port: self.destination_port,
                    length: 8 + self.data.len() as u16,
                    checksum: 0,
                };
                header.checksum = match (self.source, self.destination) {
                    (IpAddr::V4(s), IpAddr::V4(d)) => {
                        header.calc_checksum_ipv4_raw(s.octets(), d.octets(), &self.data).unwrap()
                    }
                    (s, d) => header.calc_checksum_ipv6_raw(octets6(s), octets6(d), &self.data).unwrap(),
                };
                [&header.to_bytes()[..], &self.data].concat()
            }
            Carries::Sctp => [
                &self.source_port.to_be_bytes()[..],
                &self.destination_port.to_be_bytes(),
                &[0; 8],
                &self.data,
            ]
            .concat(),
            Carries::Icmp { kind, code, word } if self.source.is_ipv4() => {
                let kind = Icmpv4Type::Unknown { type_u8: kind, code_u8: code, bytes5to8: word };
                [&Icmpv4Header::with_checksum(kind, &self.data).to_bytes()[..], &self.data].concat()
            }
            Carries::Icmp { kind, code, word } => {
                let kind = Icmpv6Type::Unknown { type_u8: kind, code_u8: code, bytes5to8: word };
                let (source, destination) = (octets6(self.source), octets6(self.destination));
                let header = Icmpv6Header::with_checksum(kind, source, destination, &self.data).unwrap();
                [&header.to_bytes()[..], &self.data].concat()
            }
            Carries::Raw(_) => self.data.clone(),
        }
    }

    fn ethernet(&self, rest: &[u8]) -> Vec<u8> {
        let ether_type = if self.source.is_ipv4() { EtherType::IPV4 } else { EtherType::IPV6 };
        let header =
            Ethernet2Header { source: self.source_mac, destination: self.destination_mac, ether_type };
        [&header.to_bytes()[..], rest].concat()
    }

    /// An IP packet of these bytes, which may be a piece: `fragment` is its offset in bytes and whether more follows.
    pub(crate) fn ip(&self, l4: &[u8], fragment: Option<(u16, bool)>) -> Vec<u8> {
        let protocol = IpNumber(self.protocol());
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let (source, destination) = (source.octets(), destination.octets());
                let mut header =
                    Ipv4Header::new(l4.len() as u16, self.ttl, protocol, source, destination).unwrap();
                header.identification = self.id;
                header.dont_fragment = self.dont_fragment && fragment.is_none();
                if let Some((offset, more)) = fragment {
                    header.fragment_offset = IpFragOffset::try_new(offset / 8).unwrap();
                    header.more_fragments = more;
                }
                header.header_checksum = header.calc_header_checksum();
                [&header.to_bytes()[..], l4].concat()
            }
            (source, destination) => {
                let extension = fragment.map_or_else(Vec::new, |(offset, more)| {
                    let offset = IpFragOffset::try_new(offset / 8).unwrap();
                    Ipv6FragmentHeader::new(protocol, offset, more, self.id.into()).to_bytes().to_vec()
                });
                let header = Ipv6Header {
                    payload_length: (extension.len() + l4.len()) as u16,
                    next_header: if fragment.is_some() { IpNumber(44) } else { protocol },
                    hop_limit: self.ttl,
                    source: octets6(source),
                    destination: octets6(destination),
                    ..Default::default()
                };
                [&header.to_bytes()[..], &extension, l4].concat()
            }
        }
    }

    /// The frame.
    pub(crate) fn frame(&self) -> Vec<u8> {
        self.ethernet(&self.ip(&self.l4(), None))
    }

    /// The packet in pieces of `step` bytes of data each, a multiple of eight, in order.
    pub(crate) fn pieces(&self, step: usize) -> Vec<Vec<u8>> {
        let l4 = self.l4();
        let last = (l4.len() - 1) / step;
        l4.chunks(step).enumerate().map(|(i, part)| self.piece((i * step) as u16, i < last, part)).collect()
    }

    /// One piece with these bytes.
    pub(crate) fn piece(&self, offset: u16, more: bool, data: &[u8]) -> Vec<u8> {
        self.ethernet(&self.ip(data, Some((offset, more))))
    }

    /// An ICMP error from `from` about this packet, as its sender will get it.
    pub(crate) fn error(&self, from: IpAddr, kind: u8, code: u8) -> Packet {
        let quote = self.ip(&self.l4(), None);
        let quote = &quote[..quote.len().min(500)];
        Packet::new(from, 0, self.source, 0).icmp(kind, code, [0; 4]).data(quote)
    }
}

/// A frame as its receiver reads it. Every checksum in it was verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) packet: Packet,
    /// Offset in bytes, and whether more follows; `None` when it is whole.
    pub(crate) fragment: Option<(u16, bool)>,
}

/// Source, destination, protocol, TTL, don't fragment, identification, place in the datagram, and what it carries.
type Ip<'a> = (IpAddr, IpAddr, u8, u8, bool, u16, Option<(u16, bool)>, &'a [u8]);

/// Reads a frame the switch sent.
pub(crate) fn see(frame: &[u8]) -> Seen {
    let (ethernet, rest) = Ethernet2Header::from_slice(frame).expect("an Ethernet frame");
    let (source, destination, protocol, ttl, dont_fragment, id, fragment, l4): Ip = match ethernet.ether_type
    {
        EtherType::IPV4 => {
            let (header, rest) = Ipv4Header::from_slice(rest).expect("an IPv4 header");
            assert_eq!(header.header_checksum, header.calc_header_checksum(), "IPv4 header checksum");
            let len = usize::from(header.total_len) - header.header_len();
            let fragment = header
                .is_fragmenting_payload()
                .then(|| (header.fragment_offset.value() * 8, header.more_fragments));
            (
                Ipv4Addr::from(header.source).into(),
                Ipv4Addr::from(header.destination).into(),
                header.protocol.0,
                header.time_to_live,
                header.dont_fragment,
                header.identification,
                fragment,
                &rest[..len],
            )
        }
        EtherType::IPV6 => {
            let (header, rest) = Ipv6Header::from_slice(rest).expect("an IPv6 header");
            let rest = &rest[..usize::from(header.payload_length)];
            let (protocol, id, fragment, l4) = match header.next_header.0 {
                44 => {
                    let (f, l4) = Ipv6FragmentHeader::from_slice(rest).expect("a fragment header");
                    let place = (f.fragment_offset.value() * 8, f.more_fragments);
                    (f.next_header.0, f.identification as u16, Some(place), l4)
                }
                protocol => (protocol, 0, None, rest),
            };
            let (source, destination) = (Ipv6Addr::from(header.source), Ipv6Addr::from(header.destination));
            (source.into(), destination.into(), protocol, header.hop_limit, true, id, fragment, l4)
        }
        other => panic!("{other:?} is no IP"),
    };
    let mut packet = Packet {
        source_mac: ethernet.source,
        destination_mac: ethernet.destination,
        source,
        destination,
        ttl,
        dont_fragment,
        id,
        ..Packet::new(source, 0, destination, 0).raw(protocol).data(l4)
    };
    if fragment.is_none() {
        read_l4(&mut packet, protocol, l4);
    }
    Seen { packet, fragment }
}

fn read_l4(packet: &mut Packet, protocol: u8, l4: &[u8]) {
    match protocol {
        TCP => {
            let (header, data) = TcpHeader::from_slice(l4).expect("a TCP header");
            let flags = [
                (header.fin, FIN),
                (header.syn, SYN),
                (header.rst, RST),
                (header.psh, PSH),
                (header.ack, ACK),
            ];
            let flags = flags.iter().filter(|(is_set, _)| *is_set).fold(0, |sum, (_, flag)| sum | flag);
            (packet.source_port, packet.destination_port) = (header.source_port, header.destination_port);
            packet.data = data.to_vec();
            packet.carries = Carries::Tcp {
                flags,
                sequence: header.sequence_number,
                acknowledgement: header.acknowledgment_number,
            };
            let sum = match packet.source {
                IpAddr::V4(_) => {
                    header.calc_checksum_ipv4_raw(octets4(packet.source), octets4(packet.destination), data)
                }
                IpAddr::V6(_) => {
                    header.calc_checksum_ipv6_raw(octets6(packet.source), octets6(packet.destination), data)
                }
            };
            assert_eq!(header.checksum, sum.unwrap(), "TCP checksum");
        }
        UDP => {
            let (header, data) = UdpHeader::from_slice(l4).expect("a UDP header");
            (packet.source_port, packet.destination_port) = (header.source_port, header.destination_port);
            (packet.carries, packet.data) = (Carries::Udp, data.to_vec());
            let sum = match packet.source {
                IpAddr::V4(_) => {
                    header.calc_checksum_ipv4_raw(octets4(packet.source), octets4(packet.destination), data)
                }
                IpAddr::V6(_) => {
                    header.calc_checksum_ipv6_raw(octets6(packet.source), octets6(packet.destination), data)
                }
            };
            assert_eq!(header.checksum, sum.unwrap(), "UDP checksum");
        }
        SCTP => {
            packet.source_port = u16::from_be_bytes([l4[0], l4[1]]);
            packet.destination_port = u16::from_be_bytes([l4[2], l4[3]]);
            (packet.carries, packet.data) = (Carries::Sctp, l4[12..].to_vec());
        }
        ICMP | ICMPV6 => {
            let word = l4[4..8].try_into().unwrap();
            packet.carries = Carries::Icmp { kind: l4[0], code: l4[1], word };
            packet.data = l4[8..].to_vec();
            // Made again, with its checksum, it must be the same.
            assert_eq!(packet.l4(), l4, "ICMP checksum");
        }
        _ => {}
    }
}

/// Puts a datagram together again. `None` when pieces are missing. Panics when they overlap.
pub(crate) fn reassemble(pieces: &[Seen]) -> Option<Packet> {
    let mut pieces: Vec<_> =
        pieces.iter().map(|seen| (seen.fragment.expect("a piece"), &seen.packet)).collect();
    pieces.sort_by_key(|((offset, _), _)| *offset);
    let mut l4 = Vec::new();
    for ((offset, _), packet) in &pieces {
        assert!(usize::from(*offset) >= l4.len(), "pieces overlap");
        if usize::from(*offset) != l4.len() {
            return None;
        }
        l4.extend(&packet.data);
    }
    let ((_, more), first) = *pieces.last().filter(|((_, more), _)| !more)?;
    assert!(!more);
    let mut whole = first.clone();
    read_l4(&mut whole, first.protocol(), &l4);
    Some(whole)
}

/// An ARP message.
pub(crate) fn arp(
    operation: u16,
    source_mac: [u8; 6],
    sender_mac: [u8; 6],
    sender: Ipv4Addr,
    target: Ipv4Addr,
) -> Vec<u8> {
    let packet = ArpPacket::new(
        ArpHardwareId::ETHERNET,
        EtherType::IPV4,
        ArpOperation(operation),
        &sender_mac,
        &sender.octets(),
        &[0; 6],
        &target.octets(),
    );
    let header = Ethernet2Header { source: source_mac, destination: [0xff; 6], ether_type: EtherType::ARP };
    [&header.to_bytes()[..], &packet.unwrap().to_bytes()].concat()
}

/// A neighbour solicitation for `target` from `source`; `option`: the source link-layer address it names.
pub(crate) fn solicitation(
    source_mac: [u8; 6],
    source: Ipv6Addr,
    target: Ipv6Addr,
    option: Option<[u8; 6]>,
) -> Vec<u8> {
    let [.., x, y, z] = target.octets();
    let group = Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, x, y, z]);
    let option = option.map_or_else(Vec::new, |mac| [&[1, 1][..], &mac].concat());
    Packet::new(source.into(), 0, group.into(), 0)
        .icmp(135, 0, [0; 4])
        .data([&target.octets()[..], &option].concat())
        .ttl(255)
        .with_mac(source_mac)
        .frame()
}

pub(crate) fn v4_of(address: IpAddr) -> Ipv4Addr {
    match address {
        IpAddr::V4(v4) => v4,
        IpAddr::V6(_) => unreachable!(),
    }
}

pub(crate) fn v6_of(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V6(v6) => v6,
        IpAddr::V4(_) => unreachable!(),
    }
}

pub(crate) fn internet_checksum(header: &[u8]) -> u16 {
    let mut sum: u32 = 0;
    for (i, word) in header.chunks(2).enumerate() {
        // Without the checksum's own place.
        if i != 5 {
            sum += u32::from(word[0]) << 8 | u32::from(*word.get(1).unwrap_or(&0));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
