//! Frames to test with, and the golden ones every reader of packets must know.

use etherparse::*;

pub(super) const POD_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x0a];
pub(super) const GATEWAY_MAC: [u8; 6] = [0x02, 0x50, 0x53, 0, 0, 1];
pub(super) const A4: [u8; 4] = [10, 0, 0, 1];
pub(super) const B4: [u8; 4] = [10, 0, 0, 2];
pub(super) const GATEWAY4: [u8; 4] = [169, 254, 1, 1];
pub(super) const A6: [u8; 16] = v6(0x0a);
pub(super) const B6: [u8; 16] = v6(0x0b);
pub(super) const GATEWAY6: [u8; 16] = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
pub(super) const LINK_LOCAL: [u8; 16] = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x0a];
pub(super) const SOLICITED_GATEWAY: [u8; 16] = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0, 0, 1];
pub(super) const ETHER_IPV4: u16 = 0x0800;
pub(super) const ETHER_IPV6: u16 = 0x86dd;
pub(super) const ETHER_ARP: u16 = 0x0806;

/// `fd00::last`.
pub(super) const fn v6(last: u8) -> [u8; 16] {
    [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]
}

pub(super) fn ethernet(kind: u16, rest: &[u8]) -> Vec<u8> {
    let header = Ethernet2Header { source: POD_MAC, destination: GATEWAY_MAC, ether_type: EtherType(kind) };
    [&header.to_bytes()[..], rest].concat()
}

/// An IPv4 frame; `change` may alter the header before its checksum is computed.
pub(super) fn ipv4_with(
    (source, destination): ([u8; 4], [u8; 4]),
    protocol: u8,
    payload: &[u8],
    change: impl FnOnce(&mut Ipv4Header),
) -> Vec<u8> {
    let mut header =
        Ipv4Header::new(payload.len() as u16, 64, IpNumber(protocol), source, destination).unwrap();
    change(&mut header);
    header.header_checksum = header.calc_header_checksum();
    ethernet(ETHER_IPV4, &[&header.to_bytes()[..], payload].concat())
}

pub(super) fn ipv4(ends: ([u8; 4], [u8; 4]), protocol: u8, payload: &[u8]) -> Vec<u8> {
    ipv4_with(ends, protocol, payload, |_| {})
}

pub(super) fn ipv6_with(
    (source, destination): ([u8; 16], [u8; 16]),
    next: u8,
    payload: &[u8],
    change: impl FnOnce(&mut Ipv6Header),
) -> Vec<u8> {
    let mut header = Ipv6Header {
        payload_length: payload.len() as u16,
        next_header: IpNumber(next),
        hop_limit: 64,
        source,
        destination,
        ..Default::default()
    };
    change(&mut header);
    ethernet(ETHER_IPV6, &[&header.to_bytes()[..], payload].concat())
}

pub(super) fn ipv6(ends: ([u8; 16], [u8; 16]), next: u8, payload: &[u8]) -> Vec<u8> {
    ipv6_with(ends, next, payload, |_| {})
}

/// A TCP segment, its checksum not set.
pub(super) fn tcp(change: impl FnOnce(&mut TcpHeader), data: &[u8]) -> Vec<u8> {
    let mut header = TcpHeader::new(40000, 80, 1000, 512);
    change(&mut header);
    [&header.to_bytes()[..], data].concat()
}

pub(super) fn udp(source_port: u16, destination_port: u16, data: &[u8]) -> Vec<u8> {
    let header = UdpHeader { source_port, destination_port, length: 8 + data.len() as u16, checksum: 0 };
    [&header.to_bytes()[..], data].concat()
}

pub(super) fn sctp(source_port: u16, destination_port: u16) -> Vec<u8> {
    [&source_port.to_be_bytes()[..], &destination_port.to_be_bytes(), &[0; 8], &[1, 0, 0, 4]].concat()
}

/// An ICMP message with its checksum.
pub(super) fn icmp4(kind: u8, code: u8, second_word: [u8; 4], data: &[u8]) -> Vec<u8> {
    let kind = Icmpv4Type::Unknown { type_u8: kind, code_u8: code, bytes5to8: second_word };
    [&Icmpv4Header::with_checksum(kind, data).to_bytes()[..], data].concat()
}

/// An ICMPv6 message with its checksum.
pub(super) fn icmp6(
    (source, destination): ([u8; 16], [u8; 16]),
    kind: u8,
    code: u8,
    second_word: [u8; 4],
    data: &[u8],
) -> Vec<u8> {
    let kind = Icmpv6Type::Unknown { type_u8: kind, code_u8: code, bytes5to8: second_word };
    let header = Icmpv6Header::with_checksum(kind, source, destination, data).unwrap();
    [&header.to_bytes()[..], data].concat()
}

pub(super) fn arp_packet(operation: u16, sender_mac: [u8; 6], sender: [u8; 4], target: [u8; 4]) -> Vec<u8> {
    let packet = ArpPacket::new(
        ArpHardwareId::ETHERNET,
        EtherType::IPV4,
        ArpOperation(operation),
        &sender_mac,
        &sender,
        &[0; 6],
        &target,
    );
    ethernet(ETHER_ARP, &packet.unwrap().to_bytes())
}

pub(super) fn arp_request(sender: [u8; 4], target: [u8; 4]) -> Vec<u8> {
    arp_packet(1, POD_MAC, sender, target)
}

/// A neighbour solicitation for `target`, with these bytes of options.
pub(super) fn solicitation(
    ends: ([u8; 16], [u8; 16]),
    target: [u8; 16],
    options: &[u8],
    hop_limit: u8,
) -> Vec<u8> {
    let message = icmp6(ends, 135, 0, [0; 4], &[&target[..], options].concat());
    ipv6_with(ends, 58, &message, |header| header.hop_limit = hop_limit)
}

/// The source link-layer address option.
pub(super) fn source_option(mac: [u8; 6]) -> Vec<u8> {
    [&[1, 1][..], &mac].concat()
}

/// An extension header of `units` eight-byte units, filled with padding.
pub(super) fn options_header(next: u8, units: u8) -> Vec<u8> {
    let len = usize::from(units) * 8;
    let mut header = vec![next, units - 1];
    let mut left = len - 2;
    while left > 0 {
        let pad = left.min(200);
        match pad {
            1 => header.push(0),
            _ => {
                header.extend([1, pad as u8 - 2]);
                header.resize(header.len() + pad - 2, 0);
            }
        }
        left -= pad;
    }
    header
}

pub(super) fn fragment_header(next: u8, offset: u16, more: bool, id: u32) -> Vec<u8> {
    let offset = IpFragOffset::try_new(offset / 8).unwrap();
    Ipv6FragmentHeader::new(IpNumber(next), offset, more, id).to_bytes().to_vec()
}

/// An IPv4 fragment of `B4`'s.
pub(super) fn fragment4(protocol: u8, offset: u16, more: bool, data: &[u8]) -> Vec<u8> {
    ipv4_with((A4, B4), protocol, data, |header| {
        header.dont_fragment = false;
        header.identification = 77;
        header.fragment_offset = IpFragOffset::try_new(offset / 8).unwrap();
        header.more_fragments = more;
    })
}

/// The same in IPv6.
pub(super) fn fragment6(next: u8, offset: u16, more: bool, data: &[u8]) -> Vec<u8> {
    ipv6((A6, B6), 44, &[&fragment_header(next, offset, more, 77)[..], data].concat())
}

/// What lies behind the Ethernet header.
pub(super) fn ip(frame: &[u8]) -> &[u8] {
    &frame[14..]
}

/// A frame of every kind that is accepted.
pub(super) fn golden() -> Vec<(&'static str, Vec<u8>)> {
    let to_b = (A4, B4);
    let to_b6 = (A6, B6);
    let probe = ([0; 16], SOLICITED_GATEWAY);
    let syn = |header: &mut TcpHeader| header.syn = true;
    let ack = |header: &mut TcpHeader| header.ack = true;
    let with_options = |header: &mut TcpHeader| {
        header.syn = true;
        header.set_options(&[TcpOptionElement::MaximumSegmentSize(1460)]).unwrap();
    };
    let quoted4 = ipv4((B4, A4), 17, &udp(53, 4000, b"answer"));
    let quoted6 = ipv6((B6, A6), 6, &tcp(syn, b""));
    let quoted_echo = ipv4((B4, A4), 1, &icmp4(8, 0, [0, 9, 0, 1], b"ping"));
    vec![
        ("TCP SYN", ipv4(to_b, 6, &tcp(with_options, b""))),
        ("TCP data", ipv4(to_b, 6, &tcp(ack, b"hello"))),
        ("UDP", ipv4(to_b, 17, &udp(4000, 53, b"question"))),
        ("UDP with padding", [&ipv4(to_b, 17, &udp(4000, 53, b""))[..], &[0; 18]].concat()),
        ("SCTP", ipv4(to_b, 132, &sctp(5000, 5001))),
        ("echo request", ipv4(to_b, 1, &icmp4(8, 0, [0x12, 0x34, 0, 1], b"abcdefgh"))),
        ("echo reply", ipv4(to_b, 1, &icmp4(0, 0, [0x12, 0x34, 0, 1], b"abcdefgh"))),
        ("echo to the gateway", ipv4((A4, GATEWAY4), 1, &icmp4(8, 0, [0, 7, 0, 1], b"ping"))),
        ("timestamp request", ipv4(to_b, 1, &icmp4(13, 0, [0, 7, 0, 1], &[0; 12]))),
        ("port unreachable", ipv4(to_b, 1, &icmp4(3, 3, [0; 4], ip(&quoted4)))),
        ("fragmentation needed", ipv4(to_b, 1, &icmp4(3, 4, [0, 0, 5, 0], ip(&quoted_echo)))),
        ("GRE", ipv4(to_b, 47, &[0, 0, 8, 0, 1, 2, 3, 4])),
        ("UDP first fragment", fragment4(17, 0, true, &udp(4000, 53, &[1; 24]))),
        ("UDP later fragment", fragment4(17, 8, true, &[2; 16])),
        ("UDP last fragment", fragment4(17, 32, false, &[3; 5])),
        ("TCP SYN, IPv6", ipv6(to_b6, 6, &tcp(with_options, b""))),
        ("TCP data, IPv6", ipv6(to_b6, 6, &tcp(ack, b"hello"))),
        ("UDP, IPv6", ipv6(to_b6, 17, &udp(4000, 53, b"question"))),
        ("SCTP, IPv6", ipv6(to_b6, 132, &sctp(5000, 5001))),
        ("echo request, IPv6", ipv6(to_b6, 58, &icmp6(to_b6, 128, 0, [0x12, 0x34, 0, 1], b"abcdefgh"))),
        ("echo reply, IPv6", ipv6(to_b6, 58, &icmp6(to_b6, 129, 0, [0x12, 0x34, 0, 1], b"abcdefgh"))),
        (
            "echo to the gateway, IPv6",
            ipv6((LINK_LOCAL, GATEWAY6), 58, &icmp6((LINK_LOCAL, GATEWAY6), 128, 0, [0, 7, 0, 1], b"ping")),
        ),
        ("packet too big", ipv6(to_b6, 58, &icmp6(to_b6, 2, 0, [0, 0, 5, 0], ip(&quoted6)))),
        ("no next header", ipv6(to_b6, 59, b"")),
        ("hop-by-hop, UDP", ipv6(to_b6, 0, &[options_header(17, 1), udp(4000, 53, b"q")].concat())),
        (
            "hop-by-hop, destination options, TCP",
            ipv6(to_b6, 0, &[options_header(60, 1), options_header(6, 3), tcp(syn, b"")].concat()),
        ),
        ("atomic fragment", fragment6(17, 0, false, &udp(4000, 53, b"q"))),
        ("TCP first fragment, IPv6", fragment6(6, 0, true, &tcp(ack, &[1; 12]))),
        ("TCP later fragment, IPv6", fragment6(6, 32, true, &[2; 16])),
        ("TCP last fragment, IPv6", fragment6(6, 48, false, &[3; 5])),
        ("ARP request", arp_request(A4, GATEWAY4)),
        ("ARP probe", arp_request([0; 4], A4)),
        (
            "neighbour solicitation",
            solicitation((A6, SOLICITED_GATEWAY), GATEWAY6, &source_option(POD_MAC), 255),
        ),
        ("neighbour solicitation to the gateway", solicitation((A6, GATEWAY6), GATEWAY6, &[], 255)),
        ("duplicate address detection", solicitation(probe, v6(1), &[], 255)),
    ]
}
