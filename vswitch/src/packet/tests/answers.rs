//! What we say ourselves, read by etherparse and by our own parser.

use super::frames::*;
use crate::packet::build::*;
use crate::packet::*;
use etherparse::{NetSlice, SlicedPacket, TransportSlice};

const MAC: [u8; 6] = GATEWAY_MAC;

fn parsed(frame: &[u8]) -> Parsed {
    parse(frame, frame.len()).expect("accepted")
}

/// The answer a builder gives to a frame.
fn answer(
    frame: &[u8],
    build: impl FnOnce(&[u8], &Parsed, [u8; 6], &mut [u8]) -> Option<usize>,
) -> Option<Vec<u8>> {
    let mut out = vec![0xee; 2048];
    let len = build(frame, &parsed(frame), MAC, &mut out)?;
    assert!(out[len..].iter().all(|byte| *byte == 0xee), "nothing is written behind the answer");
    out.truncate(len);
    Some(out)
}

fn error(frame: &[u8], error: IcmpError) -> Option<Vec<u8>> {
    answer(frame, |head, parsed, mac, out| icmp_error(head, parsed, error, mac, out))
}

/// Has etherparse verify every length and checksum, and that the frame goes from the gateway's MAC to the pod's.
fn verify(frame: &[u8]) -> SlicedPacket<'_> {
    let sliced = SlicedPacket::from_ethernet(frame).expect("well formed");
    assert_eq!((&frame[..6], &frame[6..12]), (&POD_MAC[..], &MAC[..]));
    match sliced.net.as_ref().expect("a network header") {
        NetSlice::Ipv4(ip) => {
            let header = ip.header();
            assert_eq!(header.header_checksum(), header.to_header().calc_header_checksum());
            assert_eq!(usize::from(header.total_len()) + 14, frame.len());
            let (from, to) = (header.source(), header.destination());
            match sliced.transport.as_ref().expect("a transport header") {
                TransportSlice::Icmpv4(icmp) => {
                    let sum = icmp.icmp_type().calc_checksum(icmp.payload());
                    assert_eq!(icmp.checksum(), sum);
                }
                TransportSlice::Tcp(tcp) => {
                    assert_eq!(Ok(tcp.checksum()), tcp.calc_checksum_ipv4(from, to));
                }
                other => panic!("{other:?}"),
            }
        }
        NetSlice::Ipv6(ip) => {
            let header = ip.header();
            assert_eq!(usize::from(header.payload_length()) + 54, frame.len());
            let (from, to) = (header.source(), header.destination());
            match sliced.transport.as_ref().expect("a transport header") {
                TransportSlice::Icmpv6(icmp) => assert!(icmp.is_checksum_valid(from, to)),
                TransportSlice::Tcp(tcp) => {
                    assert_eq!(Ok(tcp.checksum()), tcp.calc_checksum_ipv6(from, to));
                }
                other => panic!("{other:?}"),
            }
        }
        NetSlice::Arp(_) => {}
    }
    sliced
}

fn icmp_message(frame: &[u8]) -> (u8, u8, [u8; 4], Vec<u8>) {
    match verify(frame).transport.unwrap() {
        TransportSlice::Icmpv4(icmp) => {
            (icmp.type_u8(), icmp.code_u8(), icmp.bytes5to8(), icmp.payload().to_vec())
        }
        TransportSlice::Icmpv6(icmp) => {
            (icmp.type_u8(), icmp.code_u8(), icmp.bytes5to8(), icmp.payload().to_vec())
        }
        other => panic!("{other:?}"),
    }
}

fn syn(header: &mut etherparse::TcpHeader) {
    header.syn = true;
}

#[test]
fn an_arp_request_is_answered_with_the_gateways_mac() {
    let reply =
        answer(&arp_request(A4, GATEWAY4), |_, parsed, mac, out| arp_reply(parsed, mac, out)).unwrap();
    let Some(NetSlice::Arp(arp)) = verify(&reply).net else { panic!("no ARP") };
    assert_eq!(arp.operation().0, 2);
    assert_eq!((arp.sender_hw_addr(), arp.sender_protocol_addr()), (&MAC[..], &GATEWAY4[..]));
    assert_eq!((arp.target_hw_addr(), arp.target_protocol_addr()), (&POD_MAC[..], &A4[..]));
    assert_eq!(parse(&reply, reply.len()), Err(DropReason::NeighbourMessage), "a pod may not say this");
}

#[test]
fn a_solicitation_is_answered_with_a_solicited_overriding_advertisement_of_a_router() {
    for ends in [(A6, SOLICITED_GATEWAY), (A6, GATEWAY6), (LINK_LOCAL, SOLICITED_GATEWAY)] {
        let asked = solicitation(ends, GATEWAY6, &source_option(POD_MAC), 255);
        let reply = answer(&asked, neighbour_advertisement).unwrap();
        let (kind, code, flags, data) = icmp_message(&reply);
        assert_eq!((kind, code, flags), (136, 0, [0xe0, 0, 0, 0]));
        assert_eq!(data, [&GATEWAY6[..], &[2, 1], &MAC].concat());
        assert_eq!((&reply[22..38], &reply[38..54]), (&GATEWAY6[..], &ends.0[..]));
        assert_eq!(reply[21], 255, "hop limit");
        assert_eq!(parse(&reply, reply.len()), Err(DropReason::NeighbourMessage), "a pod may not say this");
    }
}

#[test]
fn probes_for_ones_own_address_are_never_answered() {
    let probe4 = arp_request([0; 4], A4);
    assert_eq!(answer(&probe4, |_, parsed, mac, out| arp_reply(parsed, mac, out)), None);
    let probe6 = solicitation(([0; 16], SOLICITED_GATEWAY), v6(1), &[], 255);
    assert_eq!(answer(&probe6, neighbour_advertisement), None);
}

#[test]
fn an_echo_request_comes_back_with_its_data() {
    let ends6 = (A6, GATEWAY6);
    let requests = [
        ipv4((A4, GATEWAY4), 1, &icmp4(8, 0, [0x12, 0x34, 0, 9], b"some odd data")),
        ipv6(ends6, 58, &icmp6(ends6, 128, 0, [0x12, 0x34, 0, 9], b"some odd data")),
    ];
    for request in requests {
        let reply = answer(&request, echo_reply).unwrap();
        let (kind, code, rest, data) = icmp_message(&reply);
        assert!(matches!((kind, code), (0 | 129, 0)));
        assert_eq!((rest, data.as_slice()), ([0x12, 0x34, 0, 9], &b"some odd data"[..]));
        assert_eq!(parsed(&reply).key, parsed(&request).key.reversed());
        assert_eq!(parsed(&reply).payload, Payload::Flow(L4::Echo { request: false }));
        assert_eq!(answer(&reply, echo_reply), None, "a reply is not answered");
    }
}

#[test]
fn a_damaged_echo_request_gets_a_damaged_reply() {
    let mut request = ipv4((A4, GATEWAY4), 1, &icmp4(8, 0, [0, 1, 0, 1], b"data"));
    *request.last_mut().unwrap() ^= 1;
    let reply = answer(&request, echo_reply).unwrap();
    assert_ne!(checksum::checksum(&reply[34..]), 0);
}

#[test]
fn errors_are_about_the_flow_they_quote() {
    let packets = [
        ipv4((A4, B4), 6, &tcp(syn, b"")),
        ipv4((A4, B4), 17, &udp(4000, 53, &[7; 1400])),
        ipv4((A4, B4), 132, &sctp(7, 8)),
        ipv4((A4, B4), 1, &icmp4(8, 0, [1, 2, 0, 0], b"ping")),
        fragment4(17, 0, true, &udp(4000, 53, &[1; 24])),
        ipv6((A6, B6), 6, &tcp(syn, b"")),
        ipv6((A6, B6), 17, &udp(4000, 53, &[7; 1400])),
        ipv6((A6, B6), 58, &icmp6((A6, B6), 128, 0, [1, 2, 0, 0], b"ping")),
        ipv6((A6, B6), 0, &[options_header(60, 1), options_header(6, 3), tcp(syn, b"")].concat()),
        fragment6(17, 0, true, &udp(4000, 53, &[1; 24])),
    ];
    let errors = [
        (IcmpError::TimeExceeded, (11, 0), (3, 0), 0),
        (IcmpError::HostUnreachable, (3, 1), (1, 3), 0),
        (IcmpError::Prohibited, (3, 13), (1, 1), 0),
        (IcmpError::PortUnreachable, (3, 3), (1, 4), 0),
        (IcmpError::TooBig { mtu: 1400 }, (3, 4), (2, 0), 1400),
    ];
    for packet in &packets {
        let about = parsed(packet);
        for (kind, in_v4, in_v6, rest) in errors {
            let Some(frame) = error(packet, kind) else {
                assert!(matches!(kind, IcmpError::TooBig { .. }) && !about.dont_fragment);
                continue;
            };
            let (kind, code, second_word, quote) = icmp_message(&frame);
            let is_v4 = about.key.family == 4;
            assert_eq!((kind, code), if is_v4 { in_v4 } else { in_v6 });
            assert_eq!(u32::from_be_bytes(second_word), rest);
            let max = if is_v4 { 548 } else { 1232 };
            assert_eq!(quote, ip(packet)[..max.min(packet.len() - 14)], "quotes what it can");
            let read = parsed(&frame);
            assert_eq!(read.payload, Payload::IcmpError { about: about.key });
            assert_eq!(read.key.destination, about.key.source);
            assert!(!may_answer(&read), "no error about an error");
            assert_eq!(error(&frame, IcmpError::TimeExceeded), None);
        }
    }
}

#[test]
fn too_big_is_said_only_of_packets_that_must_not_be_fragmented() {
    let packet = |dont_fragment| {
        ipv4_with((A4, B4), 17, &udp(1, 2, b""), |header| header.dont_fragment = dont_fragment)
    };
    let too_big = IcmpError::TooBig { mtu: 1280 };
    assert!(error(&packet(true), too_big).is_some());
    assert!(error(&packet(false), too_big).is_none());
    assert!(error(&packet(false), IcmpError::TimeExceeded).is_some());
}

#[test]
fn padding_behind_the_packet_is_not_quoted() {
    let padded = [&ipv4((A4, B4), 17, &udp(4000, 53, b""))[..], &[0xaa; 18]].concat();
    let (.., quote) = icmp_message(&error(&padded, IcmpError::PortUnreachable).unwrap());
    assert_eq!(quote.len(), 28);
}

#[test]
fn some_packets_are_never_answered() {
    let quoted = ipv4((B4, A4), 17, &udp(53, 4000, b"answer"));
    let never = [
        ("an ICMP error", ipv4((A4, B4), 1, &icmp4(3, 3, [0; 4], ip(&quoted)))),
        ("a later fragment", fragment4(17, 8, false, &[0; 9])),
        ("a later fragment, IPv6", fragment6(17, 8, false, &[0; 9])),
        ("a reset", ipv4((A4, B4), 6, &tcp(|header| header.rst = true, b""))),
        ("ARP", arp_request(A4, GATEWAY4)),
        ("a solicitation", solicitation((A6, GATEWAY6), GATEWAY6, &[], 255)),
        ("the gateway", ipv4((GATEWAY4, A4), 1, &icmp4(0, 0, [0; 4], b""))),
    ];
    for (what, frame) in never {
        assert!(!may_answer(&parsed(&frame)), "{what}");
        assert_eq!(error(&frame, IcmpError::TimeExceeded), None, "{what}");
        assert_eq!(answer(&frame, tcp_reset), None, "{what}");
    }
}

#[test]
fn a_buffer_too_small_gets_no_answer() {
    let frame = ipv6((A6, B6), 6, &tcp(syn, b"data"));
    let parsed = parsed(&frame);
    let full = error(&frame, IcmpError::Prohibited).unwrap().len();
    for room in 0..full {
        let mut out = vec![0; room];
        assert_eq!(icmp_error(&frame, &parsed, IcmpError::Prohibited, MAC, &mut out), None, "room {room}");
        if room < 74 {
            assert_eq!(tcp_reset(&frame, &parsed, MAC, &mut out), None, "room {room}");
        }
    }
}

#[test]
fn the_longest_error_is_as_long_as_announced() {
    let frame = ipv6((A6, B6), 17, &udp(1, 2, &[0; 1440]));
    assert_eq!(error(&frame, IcmpError::TimeExceeded).unwrap().len(), ANSWER_LEN_MAX);
}

#[test]
fn a_reset_acknowledges_what_rfc_9293_says() {
    type Change = fn(&mut etherparse::TcpHeader);
    let ack: Change = |h| {
        h.ack = true;
        h.acknowledgment_number = 0xffff_fff0;
    };
    let wraps: Change = |h| {
        h.syn = true;
        h.sequence_number = u32::MAX;
    };
    // Segment, data, then the reset's sequence number, acknowledgement number, and whether it has ACK.
    let cases: [(Change, usize, u32, u32, bool); 5] = [
        (syn, 0, 0, 1001, true),
        (|h| h.fin = true, 4, 0, 1005, true),
        (|h| h.psh = true, 4, 0, 1004, true),
        (wraps, 1, 0, 1, true),
        (ack, 3, 0xffff_fff0, 0, false),
    ];
    for (change, data, sequence, acknowledgement, has_ack) in cases {
        let segment = tcp(change, &vec![0; data]);
        for frame in [ipv4((A4, B4), 6, &segment), ipv6((A6, B6), 6, &segment)] {
            let reset = answer(&frame, tcp_reset).unwrap();
            let Some(TransportSlice::Tcp(tcp)) = verify(&reset).transport else { panic!("no TCP") };
            assert!(tcp.rst() && !tcp.syn() && !tcp.fin() && !tcp.psh());
            assert_eq!(tcp.ack(), has_ack);
            assert_eq!((tcp.sequence_number(), tcp.acknowledgment_number()), (sequence, acknowledgement));
            assert_eq!(parsed(&reset).key, parsed(&frame).key.reversed());
        }
    }
}

#[test]
fn a_ttl_goes_down_by_one_and_the_header_stays_right() {
    for ttl in 1..=255u8 {
        let mut frame = ipv4_with((A4, B4), 17, &udp(1, 2, b"x"), |header| header.time_to_live = ttl);
        let before = parsed(&frame);
        decrement_ttl(&mut frame, &before);
        // At 1 it becomes 0, which still parses: refusing is the pipeline's.
        assert_eq!(parsed(&frame), Parsed { ttl: ttl - 1, ..before });
    }
    let mut frame = ipv6((A6, B6), 17, &udp(1, 2, b"x"));
    let before = parsed(&frame);
    decrement_ttl(&mut frame, &before);
    assert_eq!(parsed(&frame), Parsed { ttl: 63, ..before });
    let mut arp = arp_request(A4, GATEWAY4);
    let before = arp.clone();
    decrement_ttl(&mut arp, &parsed(&before));
    assert_eq!(arp, before, "ARP has no TTL");
}

#[test]
fn macs_are_set_and_nothing_else() {
    let mut frame = ipv4((A4, B4), 17, &udp(1, 2, b"x"));
    let before = frame.clone();
    set_macs(&mut frame, [1; 6], [2; 6]);
    assert_eq!((destination_mac(&frame), source_mac(&frame)), ([1; 6], [2; 6]));
    assert_eq!(frame[12..], before[12..]);
    set_macs(&mut [0; 13], [1; 6], [2; 6]);
}

/// Puts fragments together the plain way.
fn reassemble(pieces: &[Vec<u8>]) -> Vec<u8> {
    let mut data = Vec::new();
    for (index, piece) in pieces.iter().enumerate() {
        let read = parsed(piece);
        let (offset, more) = match read.fragment {
            Fragment::First { .. } => (0, true),
            Fragment::Later { offset, more, .. } => (usize::from(offset), more),
            Fragment::Whole => panic!("not a fragment"),
        };
        assert_eq!(more, index + 1 < pieces.len());
        assert_eq!(offset, data.len(), "no hole and no overlap");
        data.extend_from_slice(&piece[34..]);
    }
    data
}

#[test]
fn a_split_packet_is_whole_again_when_reassembled() {
    let data: Vec<u8> = (0..3000u32).map(|n| (n * 7) as u8).collect();
    let packet = udp(4000, 53, &data);
    let frame = ipv4_with((A4, B4), 17, &packet, |header| {
        header.dont_fragment = false;
        header.identification = 4711;
    });
    for mtu in [68, 576, 1280, 1499, 1500, 2999, 3027] {
        let mut out = [0; 4096];
        let pieces: Vec<_> = split_ipv4(&frame, &parsed(&frame), mtu)
            .unwrap()
            .map(|piece| {
                let len = piece.write(&frame, &mut out).unwrap();
                assert!(len <= usize::from(mtu) + 14, "fits {mtu}");
                out[..len].to_vec()
            })
            .collect();
        assert_eq!(reassemble(&pieces), packet, "MTU {mtu}");
        // Split again on a narrower link: still the same packet.
        let again: Vec<_> = pieces
            .iter()
            .flat_map(|piece| match split_ipv4(piece, &parsed(piece), 100) {
                None => vec![piece.clone()],
                Some(smaller) => smaller
                    .map(|small| {
                        let len = small.write(piece, &mut out).unwrap();
                        out[..len].to_vec()
                    })
                    .collect(),
            })
            .collect();
        assert_eq!(reassemble(&again), packet, "MTU {mtu}, then 100");
    }
    assert!(split_ipv4(&frame, &parsed(&frame), 3028).is_none(), "it fits");
    assert!(split_ipv4(&frame, &parsed(&frame), 67).is_none(), "no such MTU");
    let whole = ipv4((A4, B4), 17, &packet);
    assert!(parsed(&whole).dont_fragment && split_ipv4(&whole, &parsed(&whole), 576).is_none());
}
