//! What is refused, and for which reason: the vector table.

use super::frames::*;
use crate::packet::{DropReason, parse};
use DropReason::*;

/// Every frame of a table is refused for the one reason.
#[track_caller]
fn all(reason: DropReason, frames: &[(&str, Vec<u8>)]) {
    for (name, frame) in frames {
        assert_eq!(parse(frame, frame.len()), Err(reason), "{name}");
    }
}

const TO_B: ([u8; 4], [u8; 4]) = (A4, B4);
const TO_B6: ([u8; 16], [u8; 16]) = (A6, B6);

fn query() -> Vec<u8> {
    udp(4000, 53, b"question")
}

fn syn() -> Vec<u8> {
    tcp(|header| header.syn = true, b"")
}

/// A good frame with one byte of its IPv4 header changed and the checksum made right again.
fn ipv4_patched(at: usize, byte: u8) -> Vec<u8> {
    let mut frame = ipv4(TO_B, 17, &query());
    frame[14 + at] = byte;
    frame[24..26].fill(0);
    let sum = crate::packet::checksum::checksum(&frame[14..34]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    frame
}

fn ipv6_patched(at: usize, byte: u8) -> Vec<u8> {
    let mut frame = ipv6(TO_B6, 17, &query());
    frame[14 + at] = byte;
    frame
}

#[test]
fn vlan_tags_are_refused_however_many_there_are() {
    let inner = ipv4(TO_B, 17, &query());
    for outermost in [0x8100, 0x88a8, 0x9100] {
        for tags in 1..=4 {
            let mut rest = Vec::new();
            for _ in 1..tags {
                rest.extend([0, 5, 0x81, 0]);
            }
            rest.extend([0, 5]);
            rest.extend(&inner[12..]);
            all(VlanTagged, &[("tagged", ethernet(outermost, &rest))]);
        }
    }
}

#[test]
fn what_is_not_ethernet_ii_with_ip_or_arp_is_refused() {
    let packet = ip(&ipv4(TO_B, 17, &query())).to_vec();
    // CVE-2021-27853: a router advertisement or a tag hidden behind LLC/SNAP.
    let snap = [&[0xaa, 0xaa, 3, 0, 0, 0, 8, 0][..], &packet].concat();
    let snap_vlan = [&[0xaa, 0xaa, 3, 0, 0, 0, 0x81, 0, 0, 0, 8, 0][..], &packet].concat();
    all(
        UnknownEtherType,
        &[
            ("LLC/SNAP", ethernet(snap.len() as u16, &snap)),
            ("LLC/SNAP with a tag", ethernet(snap_vlan.len() as u16, &snap_vlan)),
            ("length 0", ethernet(0, &snap)),
            ("length 0x5ff", ethernet(0x5ff, &snap)),
            ("MPLS", ethernet(0x8847, &packet)),
            ("PPPoE", ethernet(0x8864, &packet)),
            ("LLDP", ethernet(0x88cc, &packet)),
            ("MACsec", ethernet(0x88e5, &packet)),
        ],
    );
}

#[test]
fn ip_headers_that_contradict_themselves_are_refused() {
    all(
        BadIpHeader,
        &[
            ("version 6 in IPv4", ipv4_patched(0, 0x65)),
            ("header length 16", ipv4_patched(0, 0x44)),
            ("header length 0", ipv4_patched(0, 0x40)),
            ("total length 19", ipv4_patched(3, 19)),
            ("reserved flag", ipv4_patched(6, 0x80)),
            ("version 4 in IPv6", ipv6_patched(0, 0x40)),
            ("payload length 0", ipv6_patched(5, 0)),
            ("jumbogram", ipv6_with(TO_B6, 0, &options_header(17, 1), |h| h.payload_length = 0)),
            ("longer than can be", ipv6_with(TO_B6, 17, &vec![0; 65_500], |_| {})),
        ],
    );
    all(
        Truncated,
        &[
            ("total length too long", ipv4_patched(3, 37)),
            ("total length far too long", ipv4_patched(2, 0xff)),
            ("header longer than the frame", ipv4_patched(0, 0x4f)),
            ("payload length too long", ipv6_patched(5, 17)),
            ("nothing", Vec::new()),
            ("Ethernet only", ethernet(ETHER_IPV4, &[])),
            ("ARP cut", arp_request(A4, GATEWAY4)[..41].to_vec()),
        ],
    );
}

#[test]
fn a_wrong_header_checksum_is_refused_wherever_the_damage_is() {
    let good = ipv4(TO_B, 17, &query());
    for at in 15..34 {
        let mut frame = good.clone();
        frame[at] ^= 0x10;
        all(BadIpChecksum, &[(&format!("byte {at}"), frame)]);
    }
    let mut options = ipv4_with(TO_B, 17, &query(), |h| h.options = [1; 4].into());
    options[35] ^= 1;
    all(BadIpChecksum, &[("in the options", options)]);
}

#[test]
fn ipv4_options_are_refused() {
    let with = |options: &[u8]| ipv4_with(TO_B, 17, &query(), |h| h.options = options.try_into().unwrap());
    all(
        IpOptions,
        &[
            ("no-operation", with(&[1; 4])),
            ("loose source route", with(&[131, 7, 4, 10, 0, 0, 3, 0])),
            ("strict source route", with(&[137, 7, 4, 10, 0, 0, 3, 0])),
            ("record route", with(&[&[7, 39, 4][..], &[0; 37]].concat())),
            ("router alert", with(&[148, 4, 0, 0])),
        ],
    );
}

#[test]
fn addresses_that_can_never_be_right_are_refused() {
    let sources: [[u8; 4]; 11] = [
        [0, 0, 0, 0],
        [0, 1, 2, 3],
        [127, 0, 0, 1],
        [127, 255, 0, 1],
        [224, 0, 0, 1],
        [239, 1, 1, 1],
        [240, 0, 0, 1],
        [255, 255, 255, 255],
        [169, 254, 0, 9],
        [169, 254, 169, 254],
        GATEWAY4,
    ];
    for source in sources {
        for payload in [(17, query()), (6, syn()), (1, icmp4(8, 0, [0; 4], b""))] {
            all(Martian, &[(&format!("from {source:?}"), ipv4((source, B4), payload.0, &payload.1))]);
        }
    }
    let destinations: [[u8; 4]; 7] = [
        [0, 0, 0, 0],
        [0, 1, 2, 3],
        [127, 0, 0, 1],
        [240, 0, 0, 1],
        [255, 255, 255, 254],
        [169, 254, 0, 9],
        [169, 254, 1, 2],
    ];
    for destination in destinations {
        all(Martian, &[(&format!("to {destination:?}"), ipv4((A4, destination), 17, &query()))]);
    }
    let never: [[u8; 16]; 7] = [
        [0; 16],
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 10, 0, 0, 1],
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 1],
        [0xfe, 0xc0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
        LINK_LOCAL,
        [0xfe, 0xbf, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
    ];
    for address in never {
        all(
            Martian,
            &[
                (&format!("from {address:x?}"), ipv6((address, B6), 17, &query())),
                (&format!("to {address:x?}"), ipv6((A6, address), 6, &syn())),
            ],
        );
    }
    let group = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    all(
        Martian,
        &[
            ("from a group", ipv6((group, B6), 17, &query())),
            ("from the gateway", ipv6((GATEWAY6, B6), 17, &query())),
            ("between link-local addresses", ipv6((LINK_LOCAL, v6_link_local(9)), 17, &query())),
        ],
    );
}

fn v6_link_local(last: u8) -> [u8; 16] {
    let mut address = LINK_LOCAL;
    address[15] = last;
    address
}

#[test]
fn the_gateway_answers_echo_and_nothing_else() {
    let echo_reply6 = icmp6((A6, GATEWAY6), 129, 0, [0; 4], b"");
    all(
        Martian,
        &[
            ("TCP", ipv4((A4, GATEWAY4), 6, &syn())),
            ("UDP", ipv4((A4, GATEWAY4), 17, &query())),
            ("GRE", ipv4((A4, GATEWAY4), 47, &[0; 8])),
            ("echo reply", ipv4((A4, GATEWAY4), 1, &icmp4(0, 0, [0; 4], b""))),
            ("TCP, IPv6", ipv6((A6, GATEWAY6), 6, &syn())),
            ("TCP, IPv6 link-local", ipv6((LINK_LOCAL, GATEWAY6), 6, &syn())),
            ("echo reply, IPv6", ipv6((A6, GATEWAY6), 58, &echo_reply6)),
        ],
    );
}

/// A later fragment of UDP.
fn later(ends: ([u8; 4], [u8; 4])) -> Vec<u8> {
    ipv4_with(ends, 17, &[0; 8], |h| h.fragment_offset = etherparse::IpFragOffset::try_new(8).unwrap())
}

#[test]
fn land_packets_are_refused() {
    all(
        Land,
        &[
            ("TCP", ipv4((A4, A4), 6, &tcp(|h| (h.syn, h.source_port) = (true, 80), b""))),
            ("UDP", ipv4((A4, A4), 17, &query())),
            ("echo", ipv4((A4, A4), 1, &icmp4(8, 0, [0; 4], b""))),
            ("later fragment", later((A4, A4))),
            ("IPv6", ipv6((A6, A6), 6, &syn())),
            ("gateway to itself", ipv4((GATEWAY4, GATEWAY4), 1, &icmp4(8, 0, [0; 4], b""))),
        ],
    );
}

#[test]
fn impossible_l4_headers_are_refused() {
    let patched = |mut segment: Vec<u8>, at: usize, byte: u8| {
        segment[at] = byte;
        segment
    };
    let with = |flags| patched(syn(), 13, flags);
    let ports = |source, destination| {
        tcp(|h| (h.syn, h.source_port, h.destination_port) = (true, source, destination), b"")
    };
    let cases: Vec<(&str, u8, Vec<u8>)> = vec![
        ("data offset 4", 6, patched(syn(), 12, 0x40)),
        ("data offset 0", 6, patched(syn(), 12, 0)),
        ("data offset past the end", 6, patched(syn(), 12, 0x60)),
        ("data offset 15", 6, patched(syn(), 12, 0xf0)),
        ("SYN and FIN", 6, with(0x03)),
        ("SYN, FIN and ACK", 6, with(0x13)),
        ("SYN and RST", 6, with(0x06)),
        ("no flags", 6, with(0)),
        ("congestion flags only", 6, with(0xc0)),
        ("all flags", 6, with(0xff)),
        ("source port 0", 6, ports(0, 80)),
        ("destination port 0", 6, ports(80, 0)),
        ("TCP of 19 bytes", 6, syn()[..19].to_vec()),
        ("TCP of one byte", 6, vec![0]),
        ("UDP source port 0", 17, udp(0, 53, b"x")),
        ("UDP destination port 0", 17, udp(53, 0, b"x")),
        ("UDP of 7 bytes", 17, query()[..7].to_vec()),
        ("UDP length 7", 17, patched(query(), 5, 7)),
        ("UDP length 0", 17, patched(query(), 5, 0)),
        ("UDP length past the end", 17, patched(query(), 5, 17)),
        ("UDP length far past the end", 17, patched(query(), 4, 0xff)),
        ("SCTP of 11 bytes", 132, sctp(1, 2)[..11].to_vec()),
        ("SCTP port 0", 132, sctp(0, 2)),
    ];
    for (name, protocol, segment) in cases {
        all(BadL4Header, &[(name, ipv4(TO_B, protocol, &segment)), (name, ipv6(TO_B6, protocol, &segment))]);
    }
    all(
        BadL4Header,
        &[
            ("ICMP of 7 bytes", ipv4(TO_B, 1, &[8; 7])),
            ("ICMPv6 of 7 bytes", ipv6(TO_B6, 58, &[128; 7])),
            ("ICMPv6 in IPv4", ipv4(TO_B, 58, &[128; 8])),
            ("ICMP in IPv6", ipv6(TO_B6, 1, &[8; 8])),
        ],
    );
}

#[test]
fn extension_headers_that_hide_the_protocol_are_refused() {
    let chain = |first, parts: &[Vec<u8>]| ipv6(TO_B6, first, &parts.concat());
    let many = |count: usize| {
        let mut parts = vec![options_header(60, 1); count - 1];
        parts.extend([options_header(17, 1), query()]);
        chain(60, &parts)
    };
    all(
        ExtensionHeaders,
        &[
            ("hop-by-hop second", chain(60, &[options_header(0, 1), options_header(17, 1), query()])),
            ("nine headers", many(9)),
            ("thirty headers", many(30)),
            ("264 bytes", chain(60, &[options_header(17, 33), query()])),
            ("2048 bytes", chain(60, &[options_header(17, 255), query()])),
            ("past the end", chain(60, &[options_header(17, 3)[..16].to_vec()])),
            ("authentication past the end", chain(51, &[vec![6, 4, 0, 0, 0, 0, 0, 0]])),
            ("authentication of 8 bytes", chain(51, &[vec![17, 0, 0, 0, 0, 0, 0, 0], query()])),
            ("authentication of 12 bytes", chain(51, &[vec![17, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], query()])),
            ("a chain and no header", chain(60, &[options_header(60, 1)])),
            (
                "two fragment headers",
                chain(44, &[fragment_header(44, 0, false, 1), fragment_header(17, 0, false, 2), query()]),
            ),
            ("mobility", chain(135, &[options_header(17, 1), query()])),
            ("host identity", chain(139, &[options_header(17, 1), query()])),
            ("shim6", chain(140, &[options_header(17, 1), query()])),
            ("experimental", chain(253, &[options_header(17, 1), query()])),
            ("mobility in a later fragment", fragment6(135, 64, true, &[0; 8])),
        ],
    );
    let packet = many(8);
    assert!(parse(&packet, packet.len()).is_ok(), "eight headers are allowed");
    let packet = chain(60, &[options_header(17, 32), query()]);
    assert!(parse(&packet, packet.len()).is_ok(), "256 bytes are allowed");
}

#[test]
fn routing_headers_are_refused_wherever_they_are() {
    for kind in [0, 2, 3, 4] {
        let mut routing = options_header(17, 1);
        routing[2] = kind;
        all(
            RoutingHeader,
            &[
                ("first", ipv6(TO_B6, 43, &[routing.clone(), query()].concat())),
                (
                    "after hop-by-hop",
                    ipv6(TO_B6, 0, &[options_header(43, 1), routing.clone(), query()].concat()),
                ),
                ("in an atomic fragment", fragment6(43, 0, false, &[routing.clone(), query()].concat())),
                ("in a first fragment", fragment6(43, 0, true, &[routing.clone(), query()].concat())),
                ("in a later fragment", fragment6(43, 64, true, &[0; 8])),
            ],
        );
    }
}

#[test]
fn fragments_that_hide_or_overwrite_headers_are_refused() {
    let ack = tcp(|h| h.ack = true, &[0; 12]);
    let with_options = tcp(
        |h| {
            h.syn = true;
            h.set_options_raw(&[1; 20]).unwrap();
        },
        b"",
    );
    let ping = icmp4(8, 0, [0; 4], b"");
    // Protocol, offset, more, data.
    let cases: Vec<(&str, u8, u16, bool, Vec<u8>)> = vec![
        ("tiny TCP first", 6, 0, true, ack[..8].to_vec()),
        ("TCP first of 16", 6, 0, true, ack[..16].to_vec()),
        ("TCP first without all its options", 6, 0, true, with_options[..32].to_vec()),
        ("SCTP first of 8", 132, 0, true, sctp(1, 2)[..8].to_vec()),
        ("TCP later at 8", 6, 8, true, vec![0; 16]),
        ("TCP last at 8", 6, 8, false, vec![0; 16]),
        ("TCP later at 16", 6, 16, true, vec![0; 16]),
        ("SCTP later at 8", 132, 8, false, vec![0; 16]),
        ("first not a multiple of 8", 17, 0, true, udp(1, 2, &[0; 9])),
        ("later not a multiple of 8", 17, 64, true, vec![0; 9]),
        ("later without data", 17, 64, true, Vec::new()),
        ("last without data", 17, 64, false, Vec::new()),
        ("first without data", 17, 0, true, Vec::new()),
        ("past 65535", 17, 65528, false, vec![0; 8]),
        ("far past 65535", 1, 65528, false, vec![0; 1400]),
    ];
    for (name, protocol, offset, more, data) in cases {
        let frames = [
            (name, fragment4(protocol, offset, more, &data)),
            (name, fragment6(protocol, offset, more, &data)),
        ];
        all(FragmentBad, &frames);
    }
    let quoted = ipv4((B4, A4), 17, &udp(53, 4000, b"four"));
    all(
        FragmentBad,
        &[
            ("ICMP error", fragment4(1, 0, true, &icmp4(3, 3, [0; 4], ip(&quoted)))),
            ("chain cut", fragment6(60, 0, true, &options_header(6, 3)[..16])),
            ("protocol not in it", fragment6(60, 0, true, &options_header(6, 1))),
        ],
    );
    assert!(parse(&fragment4(1, 0, true, &ping), 42).is_ok());
    all(FragmentBad, &[("one byte more than a datagram", fragment4(17, 65504, false, &[0; 12]))]);
    let fits = fragment4(17, 65504, false, &[0; 11]);
    assert!(parse(&fits, fits.len()).is_ok(), "to the last byte a datagram can have");
}

#[test]
fn multicast_and_broadcast_are_refused() {
    let everyone = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    let routers = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
    let listeners = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x16];
    let mdns6 = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xfb];
    let report = icmp6((LINK_LOCAL, listeners), 143, 0, [0, 0, 0, 1], &[0; 20]);
    let report_alert = [options_header(58, 1), report.clone()].concat();
    let solicit = icmp6((LINK_LOCAL, routers), 133, 0, [0; 4], b"");
    let ping = icmp6((A6, everyone), 128, 0, [0; 4], b"");
    all(
        Multicast,
        &[
            ("mDNS", ipv4((A4, [224, 0, 0, 251]), 17, &udp(5353, 5353, b"x"))),
            ("limited broadcast", ipv4((A4, [255; 4]), 17, &udp(5000, 5000, b"x"))),
            ("DHCP discover", ipv4(([0; 4], [255; 4]), 17, &udp(68, 67, &[1; 240]))),
            ("IGMP", ipv4((A4, [224, 0, 0, 22]), 2, &[0x22, 0, 0, 0, 0, 0, 0, 0])),
            ("VRRP", ipv4((A4, [224, 0, 0, 18]), 112, &[0; 20])),
            ("multicast later fragment", later((A4, [239, 0, 0, 1]))),
            ("router solicitation, IPv4", ipv4((A4, [224, 0, 0, 2]), 1, &icmp4(10, 0, [0; 4], b""))),
            ("MLD", ipv6((LINK_LOCAL, listeners), 58, &report)),
            ("MLD with router alert", ipv6((LINK_LOCAL, listeners), 0, &report_alert)),
            ("router solicitation", ipv6((LINK_LOCAL, routers), 58, &solicit)),
            ("mDNS, IPv6", ipv6((LINK_LOCAL, mdns6), 17, &udp(5353, 5353, b"x"))),
            ("DHCPv6 solicit", ipv6((LINK_LOCAL, routers), 17, &udp(546, 547, b"x"))),
            ("ping to everyone", ipv6((A6, everyone), 58, &ping)),
        ],
    );
}

#[test]
fn only_routers_and_servers_may_say_such_things() {
    let everyone = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    let advert = icmp6((LINK_LOCAL, everyone), 134, 0, [64, 0, 7, 8], &[0; 8]);
    let hidden = [options_header(58, 1), advert.clone()].concat();
    let with_destination_options = [options_header(60, 1), hidden.clone()].concat();
    let first = [fragment_header(60, 0, true, 1), hidden.clone()].concat();
    let redirect = icmp6((LINK_LOCAL, A6), 137, 0, [0; 4], &[0; 32]);
    all(
        RouterMessage,
        &[
            ("router advertisement", ipv6((LINK_LOCAL, everyone), 58, &advert)),
            ("... behind a header", ipv6((LINK_LOCAL, everyone), 60, &hidden)),
            ("... behind two", ipv6((LINK_LOCAL, everyone), 60, &with_destination_options)),
            ("... in a first fragment", ipv6((LINK_LOCAL, everyone), 44, &first)),
            ("... to one", ipv6((A6, B6), 58, &icmp6(TO_B6, 134, 0, [64, 0, 7, 8], &[0; 8]))),
            ("redirect", ipv4(TO_B, 1, &icmp4(5, 1, [10, 0, 0, 9], &[0; 28]))),
            ("redirect, IPv6", ipv6((LINK_LOCAL, A6), 58, &redirect)),
            ("source quench", ipv4(TO_B, 1, &icmp4(4, 0, [0; 4], &[0; 28]))),
            (
                "router advertisement, IPv4",
                ipv4((A4, [224, 0, 0, 1]), 1, &icmp4(9, 0, [1, 2, 7, 8], &[0; 8])),
            ),
            ("DHCP offer", ipv4((A4, [255; 4]), 17, &udp(67, 68, &[2; 240]))),
            ("DHCP offer to one", ipv4(TO_B, 17, &udp(67, 68, &[2; 240]))),
            ("DHCP offer from another port", ipv4(TO_B, 17, &udp(1067, 68, &[2; 240]))),
            ("DHCP offer in a fragment", fragment4(17, 0, true, &udp(67, 68, &[2; 240]))),
            ("DHCPv6 advertise", ipv6((LINK_LOCAL, v6_link_local(9)), 17, &udp(547, 546, b"x"))),
        ],
    );
}

#[test]
fn neighbour_messages_that_are_no_questions_for_the_gateway_are_refused() {
    let advert = icmp6(TO_B6, 136, 0, [0x60, 0, 0, 0], &[&GATEWAY6[..], &source_option(POD_MAC)].concat());
    let patched = |at: usize, byte: u8| {
        let mut frame = arp_request(A4, GATEWAY4);
        frame[at] = byte;
        frame
    };
    let ask = |options: &[u8]| solicitation((A6, SOLICITED_GATEWAY), GATEWAY6, options, 255);
    let mut damaged = ask(&[]);
    damaged[60] ^= 1;
    let ends = (A6, SOLICITED_GATEWAY);
    let message = icmp6(ends, 135, 0, [0; 4], &GATEWAY6);
    let in_atomic = [fragment_header(58, 0, false, 1), message.clone()].concat();
    let in_first = [fragment_header(58, 0, true, 1), message.clone()].concat();
    let with_code = icmp6(ends, 135, 1, [0; 4], &GATEWAY6);
    let short = icmp6(ends, 135, 0, [0; 4], &GATEWAY6[..12]);
    let full_hops = |next, payload: &[u8]| ipv6_with(ends, next, payload, |h| h.hop_limit = 255);
    let unspecified = [0; 16];
    all(
        NeighbourMessage,
        &[
            ("ARP reply", arp_packet(2, POD_MAC, A4, GATEWAY4)),
            ("gratuitous ARP", arp_request(A4, A4)),
            ("gratuitous ARP reply", arp_packet(2, POD_MAC, A4, A4)),
            ("RARP request in ARP", arp_packet(3, POD_MAC, A4, GATEWAY4)),
            ("InARP", arp_packet(8, POD_MAC, A4, GATEWAY4)),
            ("RARP", ethernet(0x8035, &arp_request(A4, GATEWAY4)[14..])),
            ("hardware type", patched(15, 6)),
            ("protocol type", patched(17, 6)),
            ("hardware length", patched(18, 8)),
            ("protocol length", patched(19, 16)),
            ("advertisement", ipv6(TO_B6, 58, &advert)),
            ("hop limit 254", solicitation(ends, GATEWAY6, &[], 254)),
            ("wrong checksum", damaged),
            ("code 1", full_hops(58, &with_code)),
            ("target cut", full_hops(58, &short)),
            ("atomic fragment", full_hops(44, &in_atomic)),
            ("first fragment", full_hops(44, &in_first)),
            ("option of length 0", ask(&[1, 0, 0, 0, 0, 0, 0, 0])),
            ("another option of length 0", ask(&[14, 0, 0, 0, 0, 0, 0, 0])),
            ("option past the end", ask(&[14, 2, 0, 0, 0, 0, 0, 0])),
            ("two source options", ask(&[source_option(POD_MAC), source_option(POD_MAC)].concat())),
            ("long source option", ask(&[&[1, 2][..], &[0; 14]].concat())),
            ("half an option", ask(&[14])),
            ("for a group", solicitation(ends, SOLICITED_GATEWAY, &[], 255)),
            ("to another", solicitation(TO_B6, GATEWAY6, &[], 255)),
            ("to another's group", solicitation(ends, v6(9), &[], 255)),
            (
                "probe with an option",
                solicitation((unspecified, SOLICITED_GATEWAY), v6(1), &source_option(POD_MAC), 255),
            ),
            ("probe to one", solicitation((unspecified, v6(1)), v6(1), &[], 255)),
        ],
    );
    let everyone = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    all(Martian, &[("from a group", solicitation((everyone, SOLICITED_GATEWAY), GATEWAY6, &[], 255))]);
    all(Martian, &[("from the gateway", solicitation((GATEWAY6, B6), B6, &[], 255))]);
}

#[test]
fn neighbour_messages_in_anothers_name_are_refused() {
    let other = [2, 0, 0, 0, 0, 0xbb];
    all(
        Spoofed,
        &[
            ("ARP", arp_packet(1, other, A4, GATEWAY4)),
            ("gratuitous ARP", arp_packet(1, other, A4, A4)),
            ("ND", solicitation((A6, SOLICITED_GATEWAY), GATEWAY6, &source_option(other), 255)),
        ],
    );
}

#[test]
fn errors_that_quote_nothing_of_ours_are_refused() {
    let about = |quote: &[u8]| ipv4(TO_B, 1, &icmp4(3, 3, [0; 4], quote));
    let about6 = |kind, quote: &[u8]| ipv6(TO_B6, 58, &icmp6(TO_B6, kind, 0, [0; 4], quote));
    let sent = ipv4((B4, A4), 17, &query());
    let sent6 = ipv6((B6, A6), 17, &query());
    let patched = |frame: &[u8], at: usize, byte: u8| {
        let mut quote = ip(frame).to_vec();
        quote[at] = byte;
        quote
    };
    let later6 = ipv6((B6, A6), 44, &[&fragment_header(17, 64, true, 1)[..], &[0; 16]].concat());
    let error_in = icmp4(3, 3, [0; 4], &[0; 28]);
    let error_in6 = icmp6((B6, A6), 1, 0, [0; 4], &[0; 48]);
    all(
        UnrelatedIcmp,
        &[
            ("no quote", about(b"")),
            ("quote of 27 bytes", about(&ip(&sent)[..27])),
            ("quoted version", about(&patched(&sent, 0, 0x65))),
            ("quoted header length", about(&patched(&sent, 0, 0x44))),
            ("quoted total length", about(&patched(&sent, 3, 19))),
            ("quoted later fragment", about(&patched(&sent, 7, 1))),
            ("quoted error", about(ip(&ipv4((B4, A4), 1, &error_in)))),
            ("quoted packet of another", about(ip(&ipv4(([10, 0, 0, 3], A4), 17, &query())))),
            ("quoted packet of the sender", about(ip(&ipv4(TO_B, 17, &query())))),
            ("quoted IPv6", about(ip(&sent6))),
            ("no quote, IPv6", about6(1, b"")),
            ("quote of 47 bytes", about6(1, &ip(&sent6)[..47])),
            ("quoted version, IPv6", about6(1, &patched(&sent6, 0, 0x45))),
            ("quoted later fragment, IPv6", about6(1, ip(&later6))),
            ("quoted error, IPv6", about6(1, ip(&ipv6((B6, A6), 58, &error_in6)))),
            ("quoted routing header", about6(1, ip(&ipv6((B6, A6), 43, &options_header(17, 2))))),
            ("quoted IPv4", about6(1, ip(&sent))),
            ("undefined error 0", about6(0, ip(&sent6))),
            ("undefined error 100", about6(100, ip(&sent6))),
        ],
    );
}
