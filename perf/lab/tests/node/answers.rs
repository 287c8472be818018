//! What the switch answers itself: hop limits that end, addresses nobody has, the gateway.

use crate::common::{LONG, both, is_to, shop, udp_socket, workers};
use nix::sys::socket::{setsockopt, sockopt};
use penstock_api::DropReason;
use penstock_api::message::gateway;
use penstock_lab::Outcome::{Reached, Unreachable};
use penstock_lab::scaled;
use std::net::IpAddr;
use std::time::Instant;

/// ICMP time exceeded from the gateway of the family?
fn is_time_exceeded(family_of: IpAddr) -> impl Fn(&[u8]) -> bool {
    move |frame| match family_of {
        IpAddr::V4(_) => {
            frame.get(12..14) == Some(&[8, 0])
                && frame.get(26..30) == Some(&gateway::V4.octets())
                && frame.get(34..36) == Some(&[11, 0])
        }
        IpAddr::V6(_) => {
            frame.get(12..14) == Some(&[0x86, 0xdd])
                && frame.get(22..38) == Some(&gateway::V6.octets())
                && frame.get(54..56) == Some(&[3, 0])
        }
    }
}

#[test]
fn a_traceroute_sees_the_gateway_as_its_first_hop_and_the_pod_as_its_second() {
    let (lab, web, db) = shop("trace", workers(2));
    for to in both(&db) {
        let wire = web.wire("eth0");
        // As traceroute does: a port nobody listens on.
        let socket = udp_socket(&web, to, 33_434);
        let hops = |n: i32| match to {
            IpAddr::V4(_) => setsockopt(&socket, sockopt::Ipv4Ttl, &n).unwrap(),
            IpAddr::V6(_) => setsockopt(&socket, sockopt::Ipv6Ttl, &n).unwrap(),
        };
        hops(1);
        socket.send(b"first hop").unwrap();
        let answer = wire.receive_where(LONG, is_time_exceeded(to));
        let answer = answer.unwrap_or_else(|| panic!("no time exceeded for {to}"));
        assert!(answer.windows(9).any(|bytes| bytes == b"first hop"), "it quotes what it is about");
        hops(2);
        // The error of the first may be reported first.
        let _ = socket.take_error();
        socket.send(b"second hop").unwrap();
        let mut buffer = [0; 100];
        let error = socket.recv(&mut buffer).expect_err("nobody listens there");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused, "{to}");
    }
    assert!(lab.drops(DropReason::TtlExceeded) >= 2);
    lab.assert_frames_conserved();
}

#[test]
fn an_echo_with_a_hop_limit_of_one_is_answered_with_time_exceeded() {
    let (lab, web, db) = shop("trici", workers(1));
    let wire = web.wire("eth0");
    let mut frame = Vec::new();
    etherparse::PacketBuilder::ethernet2(crate::common::mac_of(&web, "eth0"), gateway::MAC.0)
        .ipv4(web.v4().octets(), db.v4().octets(), 1)
        .icmpv4_echo_request(7, 1)
        .write(&mut frame, b"trace")
        .unwrap();
    wire.send(&frame).unwrap();
    assert!(wire.receive_where(LONG, is_time_exceeded(db.v4().into())).is_some());
    let mut frame = Vec::new();
    etherparse::PacketBuilder::ethernet2(crate::common::mac_of(&web, "eth0"), gateway::MAC.0)
        .ipv6(web.v6().octets(), db.v6().octets(), 1)
        .icmpv6_echo_request(7, 1)
        .write(&mut frame, b"trace")
        .unwrap();
    wire.send(&frame).unwrap();
    assert!(wire.receive_where(LONG, is_time_exceeded(db.v6().into())).is_some());
    lab.assert_frames_conserved();
}

#[test]
fn an_address_nobody_has_is_unreachable_at_once_and_the_host_sees_nothing_of_it() {
    let (lab, web, _db) = shop("nobod", workers(1));
    let interface = lab.instance().host_interface();
    for range in lab.status().unwrap().pod_ranges {
        let nobody = range.hosts().nth(200).unwrap();
        let watch = lab.host().watch(&interface, is_to(nobody));
        for n in 0..5 {
            let began = Instant::now();
            let outcome = web.connect_within(nobody, 80 + n, LONG);
            assert!(matches!(outcome, Unreachable(_)), "{nobody}: {outcome}");
            assert!(began.elapsed().as_secs() < 2, "{nobody}: {:?}", began.elapsed());
        }
        assert_eq!(watch.count(), 0, "{nobody} was looked for at the host");
    }
    assert!(lab.drops(DropReason::NoRoute) > 0);
    lab.assert_frames_conserved();
}

#[test]
fn the_gateway_answers_pings_and_never_a_pods_own_probe_for_its_address() {
    let (lab, web, _db) = shop("gate", workers(1));
    assert_eq!(web.ping_with(gateway::V4, 56, LONG), Reached);
    // Duplicate address detection: a neighbour solicitation from :: for the pod's own address.
    let own = web.v6();
    let group = {
        let o = own.octets();
        std::net::Ipv6Addr::new(
            0xff02,
            0,
            0,
            0,
            0,
            1,
            0xff00 | u16::from(o[13]),
            u16::from_be_bytes([o[14], o[15]]),
        )
    };
    let mut solicitation = vec![135, 0, 0, 0, 0, 0, 0, 0];
    solicitation.extend(own.octets());
    let checksum = icmpv6_checksum(std::net::Ipv6Addr::UNSPECIFIED, group, &solicitation);
    solicitation[2..4].copy_from_slice(&checksum.to_be_bytes());
    let mut frame = vec![0x33, 0x33, 0xff];
    frame.extend(&own.octets()[13..]);
    frame.extend(crate::common::mac_of(&web, "eth0"));
    frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 24, 58, 255]);
    frame.extend(std::net::Ipv6Addr::UNSPECIFIED.octets());
    frame.extend(group.octets());
    frame.extend(&solicitation);
    let wire = web.wire("eth0");
    wire.send(&frame).unwrap();
    let advert = |frame: &[u8]| frame.get(12..14) == Some(&[0x86, 0xdd]) && frame.get(54) == Some(&136);
    assert_eq!(wire.receive_where(scaled(std::time::Duration::from_millis(500)), advert), None);
    lab.assert_frames_conserved();
}

fn icmpv6_checksum(from: std::net::Ipv6Addr, to: std::net::Ipv6Addr, message: &[u8]) -> u16 {
    let mut bytes = [from.octets(), to.octets()].concat();
    bytes.extend((message.len() as u32).to_be_bytes());
    bytes.extend([0, 0, 0, 58]);
    bytes.extend(message);
    let mut sum: u32 = bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    !(sum as u16)
}
