//! What is accepted, and what is read from it.

use super::frames::*;
use crate::packet::parsed::tcp as flag;
use crate::packet::*;
use std::net::IpAddr;

fn parsed(frame: &[u8]) -> Parsed {
    parse(frame, frame.len()).expect("accepted")
}

fn key4(protocol: u8, ports: (u16, u16)) -> FlowKey {
    FlowKey::new(protocol, IpAddr::from(A4), ports.0, IpAddr::from(B4), ports.1)
}

fn key6(protocol: u8, ports: (u16, u16)) -> FlowKey {
    FlowKey::new(protocol, IpAddr::from(A6), ports.0, IpAddr::from(B6), ports.1)
}

#[test]
fn every_golden_frame_is_accepted_with_its_own_length() {
    for (name, frame) in golden() {
        let parsed = parse(&frame, frame.len()).unwrap_or_else(|reason| panic!("{name}: {reason}"));
        let padding = if name.contains("padding") { 18 } else { 0 };
        assert_eq!(usize::from(parsed.ip_len) + 14 + padding, frame.len(), "{name}");
        assert_eq!(parsed.l3_offset, 14, "{name}");
        assert!(parsed.l4_offset <= 14 + parsed.ip_len, "{name}");
    }
}

#[test]
fn a_frame_cut_anywhere_is_refused_or_shorter_than_what_is_left() {
    for (name, frame) in golden() {
        for len in 0..=frame.len().min(128) {
            let cut = &frame[..len];
            match parse(cut, len) {
                Ok(parsed) => assert!(usize::from(parsed.ip_len) + 14 <= len, "{name} cut to {len}"),
                Err(reason) => assert_eq!(reason, DropReason::Truncated, "{name} cut to {len}"),
            }
            // The head may be shorter than it should be: that is a bug elsewhere, and still no panic.
            let _ = parse(cut, frame.len());
            let _ = parse(&frame, len);
        }
    }
}

#[test]
fn of_a_jumbo_frame_the_head_is_enough() {
    for frame in [ipv4((A4, B4), 6, &tcp(|h| h.ack = true, &[7; 8900])), {
        let segment = tcp(|h| h.ack = true, &[7; 8900]);
        ipv6((A6, B6), 0, &[options_header(6, 1), segment].concat())
    }] {
        let whole = parsed(&frame);
        assert_eq!(parse(&frame[..HEAD_LEN_MIN], frame.len()), Ok(whole));
        assert!(matches!(whole.payload, Payload::Flow(L4::Tcp { payload_len: 8900, .. })));
        assert_eq!(parse(&frame[..HEAD_LEN_MIN], frame.len() - 1), Err(DropReason::Truncated));
    }
}

#[test]
fn tcp_shows_its_ports_numbers_and_flags() {
    let segment = tcp(
        |header| {
            header.ack = true;
            header.psh = true;
            header.acknowledgment_number = 77;
            header.set_options(&[etherparse::TcpOptionElement::Timestamp(1, 2)]).unwrap();
        },
        b"hello",
    );
    let l4 = L4::Tcp {
        flags: flag::ACK | flag::PSH,
        sequence: 1000,
        acknowledgement: 77,
        window: 512,
        payload_len: 5,
    };
    for (frame, key) in [
        (ipv4((A4, B4), 6, &segment), key4(6, (40000, 80))),
        (ipv6((A6, B6), 6, &segment), key6(6, (40000, 80))),
    ] {
        assert_eq!((parsed(&frame).key, parsed(&frame).payload), (key, Payload::Flow(l4)));
        assert_eq!((parsed(&frame).ttl, parsed(&frame).fragment), (64, Fragment::Whole));
    }
}

#[test]
fn an_echo_has_its_identifier_in_both_ports_and_its_reply_the_reversed_key() {
    let request = parsed(&ipv4((A4, B4), 1, &icmp4(8, 0, [0x12, 0x34, 0, 1], b"")));
    let reply = parsed(&ipv4((B4, A4), 1, &icmp4(0, 0, [0x12, 0x34, 0, 1], b"")));
    assert_eq!(
        (request.key, request.payload),
        (key4(1, (0x1234, 0x1234)), Payload::Flow(L4::Echo { request: true }))
    );
    assert_eq!(reply.key, request.key.reversed());
    let request = parsed(&ipv6((A6, B6), 58, &icmp6((A6, B6), 128, 0, [0, 5, 0, 1], b"")));
    let reply = parsed(&ipv6((B6, A6), 58, &icmp6((B6, A6), 129, 0, [0, 5, 0, 1], b"")));
    assert_eq!(request.key, key6(58, (5, 5)));
    assert_eq!(reply.key, request.key.reversed());
}

#[test]
fn no_two_kinds_of_icmp_query_share_a_key() {
    let key = |kind, identifier: u16| {
        let [a, b] = identifier.to_be_bytes();
        parse_key(&ipv4((A4, B4), 1, &icmp4(kind, 0, [a, b, 0, 0], b"")))
    };
    let mut seen = std::collections::HashMap::new();
    for identifier in 0..=u16::MAX {
        seen.insert(key(8, identifier).unwrap(), "echo");
    }
    for kind in (0..=255).filter(|kind| ![0, 8].contains(kind)) {
        if let Some(key) = key(kind, 13) {
            assert_eq!(seen.insert(key, "other"), None, "type {kind}");
        }
    }
    assert_eq!(key(14, 0).unwrap().source_port, key(13, 0).unwrap().destination_port);
}

fn parse_key(frame: &[u8]) -> Option<FlowKey> {
    parse(frame, frame.len()).ok().map(|parsed| parsed.key)
}

#[test]
fn a_timestamp_reply_belongs_to_its_request() {
    let request = parsed(&ipv4((A4, B4), 1, &icmp4(13, 0, [0; 4], b"")));
    let reply = parsed(&ipv4((B4, A4), 1, &icmp4(14, 0, [0; 4], b"")));
    assert_eq!(reply.key, request.key.reversed());
    assert_eq!(reply.payload, Payload::Flow(L4::Icmp { kind: 14, code: 0 }));
}

#[test]
fn fragments_show_their_place_and_only_the_first_its_ports() {
    let first = udp(4000, 53, &[1; 24]);
    for (frame, key, id) in [
        (fragment4(17, 0, true, &first), key4(17, (4000, 53)), 77),
        (fragment6(17, 0, true, &first), key6(17, (4000, 53)), 77),
    ] {
        assert_eq!((parsed(&frame).fragment, parsed(&frame).key), (Fragment::First { id }, key));
        assert_eq!(parsed(&frame).payload, Payload::Flow(L4::Udp));
    }
    for (frame, key, l4) in [
        (fragment4(17, 32, true, &[2; 16]), key4(17, (0, 0)), 34),
        (fragment6(17, 32, true, &[2; 16]), key6(17, (0, 0)), 62),
    ] {
        let read = parsed(&frame);
        assert_eq!(read.fragment, Fragment::Later { id: 77, offset: 32, more: true });
        assert_eq!((read.key, read.payload, read.l4_offset), (key, Payload::Flow(L4::Other), l4));
    }
    let last = parsed(&fragment4(17, 32, false, &[3; 5]));
    assert_eq!(last.fragment, Fragment::Later { id: 77, offset: 32, more: false });
}

#[test]
fn the_data_of_a_later_fragment_is_not_taken_for_headers() {
    let read = parsed(&fragment6(60, 64, true, &options_header(6, 2)));
    assert_eq!(read.fragment, Fragment::Later { id: 77, offset: 64, more: true });
    assert_eq!((read.key, read.l4_offset), (key6(60, (0, 0)), 62));
}

#[test]
fn an_atomic_fragment_is_a_whole_packet() {
    let read = parsed(&fragment6(17, 0, false, &udp(4000, 53, b"q")));
    assert_eq!((read.fragment, read.key), (Fragment::Whole, key6(17, (4000, 53))));
}

#[test]
fn extension_headers_lead_to_the_true_protocol() {
    let segment = tcp(|header| header.syn = true, b"");
    // Hop-by-hop, authentication (24 bytes), destination options, fragment, destination options again.
    let authentication = [&[60, 4][..], &[0; 22]].concat();
    let chain = [
        options_header(51, 1),
        authentication,
        options_header(44, 2),
        fragment_header(60, 0, true, 9),
        options_header(6, 1),
        [segment, vec![0; 4]].concat(),
    ];
    let read = parsed(&ipv6((A6, B6), 0, &chain.concat()));
    assert_eq!((read.key, read.fragment), (key6(6, (40000, 80)), Fragment::First { id: 9 }));
    assert_eq!(usize::from(read.l4_offset), 14 + 40 + 8 + 24 + 16 + 8 + 8);
}

#[test]
fn unknown_protocols_are_flows_without_ports() {
    for protocol in [4, 41, 47, 50, 51, 89, 115, 200] {
        let read = parsed(&ipv4((A4, B4), protocol, &[0xff; 40]));
        assert_eq!((read.key, read.payload), (key4(protocol, (0, 0)), Payload::Flow(L4::Other)));
    }
    for protocol in [4, 41, 47, 50, 59, 89, 115, 200] {
        let read = parsed(&ipv6((A6, B6), protocol, &[0xff; 40]));
        assert_eq!((read.key, read.payload), (key6(protocol, (0, 0)), Payload::Flow(L4::Other)));
    }
}

#[test]
fn an_error_shows_the_key_of_what_it_quotes() {
    let segment = tcp(|header| header.syn = true, b"");
    let options = ipv4_with((B4, A4), 6, &segment, |header| header.options = [1; 8].into());
    let quotes4 = [
        (ip(&ipv4((B4, A4), 6, &segment))[..28].to_vec(), key4(6, (80, 40000))),
        (ip(&options)[..36].to_vec(), key4(6, (80, 40000))),
        (ip(&ipv4((B4, A4), 132, &sctp(1, 2))).to_vec(), key4(132, (2, 1))),
        (ip(&ipv4((B4, A4), 1, &icmp4(8, 0, [0, 9, 0, 0], b""))).to_vec(), key4(1, (9, 9))),
        (ip(&ipv4((B4, A4), 47, &[0; 8])).to_vec(), key4(47, (0, 0))),
    ];
    for (quote, reversed) in quotes4 {
        for kind in [3, 11, 12] {
            let read = parsed(&ipv4((A4, B4), 1, &icmp4(kind, 0, [0; 4], &quote)));
            assert_eq!(read.payload, Payload::IcmpError { about: reversed.reversed() });
            assert_eq!(read.key, key4(1, (0, 0)));
        }
    }
    let chained =
        ipv6((B6, A6), 0, &[options_header(44, 1), fragment_header(6, 0, true, 1), segment].concat());
    let quotes6 = [
        (ip(&chained).to_vec(), key6(6, (80, 40000))),
        (ip(&ipv6((B6, A6), 17, &udp(7, 8, b""))).to_vec(), key6(17, (8, 7))),
    ];
    for (quote, reversed) in quotes6 {
        for kind in 1..=4 {
            let read = parsed(&ipv6((A6, B6), 58, &icmp6((A6, B6), kind, 0, [0; 4], &quote)));
            assert_eq!(read.payload, Payload::IcmpError { about: reversed.reversed() });
        }
    }
}

#[test]
fn questions_for_the_gateway_show_who_asks_for_whom() {
    let ask = |sender, target| parsed(&arp_request(sender, target)).payload;
    let (a, gateway) = (IpAddr::from(A4), IpAddr::from(GATEWAY4));
    let sender_mac = POD_MAC;
    assert_eq!(ask(A4, GATEWAY4), Payload::ArpRequest { sender_mac, sender: Some(a), target: gateway });
    assert_eq!(ask([0; 4], A4), Payload::ArpRequest { sender_mac, sender: None, target: a });
    let target = IpAddr::from(GATEWAY6);
    let asked = parsed(&solicitation((A6, SOLICITED_GATEWAY), GATEWAY6, &source_option(POD_MAC), 255));
    let sender = Some(IpAddr::from(A6));
    assert_eq!(asked.payload, Payload::NeighbourSolicitation { sender_mac: Some(POD_MAC), sender, target });
    let probe = parsed(&solicitation(([0; 16], SOLICITED_GATEWAY), v6(1), &[], 255));
    let target = IpAddr::from(v6(1));
    assert_eq!(probe.payload, Payload::NeighbourSolicitation { sender_mac: None, sender: None, target });
}
