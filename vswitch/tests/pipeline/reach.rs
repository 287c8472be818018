//! Who reaches whom, with what.

use super::frames::*;
use super::world::*;
use penstock_api::artefact::Service;
use penstock_api::{Action, DropReason, IdentityId, PortId};
use penstock_vswitch::rig::Sizes;

#[test]
fn a_tcp_connection_opens_carries_data_both_ways_and_closes() {
    let mut world = World::new();
    let (a, b) = (world.a.clone(), world.b.clone());
    for family in FAMILIES {
        let ack = world.connect(&a, &b, family, 40_000);
        let back = ack.reversed().with_mac(b.mac);
        world.reaches(&a, &b, &ack.clone().data("GET /"));
        world.reaches(&b, &a, &back.clone().tcp(ACK | PSH, 5001, 1006).data("200 OK"));
        world.reaches(&a, &b, &ack.clone().tcp(ACK | FIN, 1006, 5007));
        world.reaches(&b, &a, &back.clone().tcp(ACK | FIN, 5007, 1007));
        world.reaches(&a, &b, &ack.clone().tcp(ACK, 1007, 5008));
        let (_, _, flow) = world.rig.flow(&ack.key()).unwrap();
        assert_eq!(flow.state().name(), "time_wait");
    }
}

#[test]
fn udp_echo_and_sctp_pass_and_so_do_their_answers() {
    let mut world = World::new();
    let (a, b) = (world.a.clone(), world.b.clone());
    for family in FAMILIES {
        let to = b.address(family);
        for packet in [
            a.packet(4000, to, 53).data("question"),
            a.packet(5000, to, 5001).sctp().data([1, 0, 0, 4]),
            a.packet(0, to, 0).echo(true, 77).data("abcdefgh"),
        ] {
            world.reaches(&a, &b, &packet);
            let answer = packet.reversed().with_mac(b.mac);
            let answer = if packet.source_port == 0 { answer.echo(false, 77) } else { answer };
            world.reaches(&b, &a, &answer);
        }
    }
}

#[test]
fn a_forwarded_frame_comes_from_the_gateways_mac_to_the_pods_with_one_hop_less() {
    let mut world = World::new();
    let (a, b) = (world.a.clone(), world.b.clone());
    for family in FAMILIES {
        let seen = world.reaches(&a, &b, &a.packet(4000, b.address(family), 53).ttl(33));
        assert_eq!((seen.source_mac, seen.destination_mac, seen.ttl), (GATEWAY_MAC, b.mac, 32));
    }
}

#[test]
fn what_no_policy_allows_is_dropped_in_silence_by_the_end_that_refuses() {
    let mut world = World::new();
    let (a, b, c) = (world.a.clone(), world.b.clone(), world.c.clone());
    let rules = Rules::open().ingress(2, &[allow_port(&[class(1)], TCP, 80)]).egress(3, &[]);
    world.rig.install(rules.artefact());
    for family in FAMILIES {
        let to = b.address(family);
        world.connect(&a, &b, family, 40_000);
        world.dropped(&a, &a.packet(40_001, to, 81).tcp(SYN, 1, 0), DropReason::PolicyIngress);
        world.dropped(&a, &a.packet(40_000, to, 80), DropReason::PolicyIngress);
        world.dropped(&a, &a.packet(40_000, to, 80).sctp(), DropReason::PolicyIngress);
        world.dropped(&a, &a.packet(0, to, 0).echo(true, 1), DropReason::PolicyIngress);
        world.dropped(&c, &c.packet(40_000, to, 80).tcp(SYN, 1, 0), DropReason::PolicyEgress);
        world.dropped(&c, &c.packet(4000, a.address(family), 53), DropReason::PolicyEgress);
        world.reaches(&a, &c, &a.packet(4000, c.address(family), 53));
    }
    assert_eq!(world.rig.drops_of(a.port, DropReason::PolicyIngress), 8);
}

#[test]
fn before_policy_says_anything_nothing_passes_not_even_from_the_host() {
    let mut world = World::attached(&Sizes::default());
    let [a, b, _, host] = world.ends().map(Clone::clone);
    for family in FAMILIES {
        let to = b.address(family);
        world.dropped(&a, &a.packet(40_000, to, 80).tcp(SYN, 1, 0), DropReason::NotReady);
        world.dropped(&a, &a.packet(4000, to, 53), DropReason::NotReady);
        world.dropped(&a, &a.packet(0, to, 0).echo(true, 1), DropReason::NotReady);
        world.dropped(&a, &a.packet(4000, outside(family), 53), DropReason::NotReady);
        world.dropped(&host, &host.packet(4000, to, 53), DropReason::NotReady);
    }
    assert_eq!(world.rig.account().transmitted, 0);
}

#[test]
fn answers_pass_although_nothing_allows_their_direction() {
    let mut world = World::new();
    let (a, b) = (world.a.clone(), world.b.clone());
    // a may be called by nobody, b may call nobody.
    world.rig.install(Rules::open().ingress(1, &[]).egress(2, &[]).artefact());
    for family in FAMILIES {
        world.connect(&a, &b, family, 40_000);
        let question = a.packet(4000, b.address(family), 53);
        world.reaches(&a, &b, &question);
        world.reaches(&b, &a, &question.reversed().with_mac(b.mac));
        world.dropped(&b, &b.packet(4001, a.address(family), 53), DropReason::PolicyEgress);
    }
}

#[test]
fn a_pod_reaches_the_outside_through_the_host() {
    let mut world = World::new();
    let (a, host) = (world.a.clone(), world.host.clone());
    for family in FAMILIES {
        let question = a.packet(4000, outside(family), 53);
        let seen = world.reaches(&a, &host, &question);
        assert_eq!((seen.source_mac, seen.destination_mac), (GATEWAY_MAC, HOST_MAC));
        world.reaches(&host, &a, &question.reversed().with_mac(HOST_MAC));
        world.reaches(&a, &host, &a.packet(4000, host.address(family), 22));
    }
}

#[test]
fn the_node_reaches_an_isolated_pod_by_the_rule_for_it_and_the_outside_does_not() {
    let mut world = World::new();
    let (b, host) = (world.b.clone(), world.host.clone());
    world.rig.install(Rules::open().ingress(2, &[allow(&[IdentityId::HOST])]).artefact());
    for family in FAMILIES {
        let to = b.address(family);
        world.connect(&host, &b, family, 40_000);
        let from_outside = Packet::new(outside(family), 40_000, to, 80).with_mac(HOST_MAC);
        world.dropped(&host, &from_outside.tcp(SYN, 1, 0), DropReason::PolicyIngress);
    }
}

#[test]
fn an_address_of_ours_that_nobody_has_is_unreachable_and_never_sent_to_the_host() {
    let mut world = World::new();
    let (a, host) = (world.a.clone(), world.host.clone());
    for family in FAMILIES {
        let packet = a.packet(4000, nobody(family), 53).data("anybody?");
        let answers = world.refused(&a, &packet, DropReason::NoRoute);
        let expected = if family == 4 { (3, 1) } else { (1, 3) };
        assert_is_error(&answers, a.port, &packet, family, expected);
        // The host asks for it: told the same, and not given its frame back.
        let packet = host.packet(4000, nobody(family), 53);
        let answers = world.refused(&host, &packet, DropReason::NoRoute);
        assert_is_error(&answers, PortId::HOST, &packet, family, expected);
        // What the host sends to itself or beyond comes not back to it either.
        for to in [outside(family), host.address(family)] {
            let source = Packet::new(outside(family), 9, host.address(family), 9).reversed().source;
            let packet = Packet::new(source, 4000, to, 53).with_mac(HOST_MAC);
            if source != to {
                world.refused(&host, &packet, DropReason::NoRoute);
            }
        }
    }
    assert_eq!(world.rig.flows(), 0);
}

/// One ICMP error from the gateway, to the sender of `packet`, quoting it.
#[track_caller]
fn assert_is_error(
    answers: &[(PortId, Seen)],
    port: PortId,
    packet: &Packet,
    family: u8,
    (kind, code): (u8, u8),
) {
    let [(to, seen)] = answers else { panic!("one answer, not {answers:?}") };
    let answer = &seen.packet;
    let gateway = if family == 4 { GATEWAY4 } else { GATEWAY6 };
    assert_eq!(*to, port);
    assert_eq!((answer.source, answer.destination), (gateway, packet.source));
    assert_eq!((answer.source_mac, answer.destination_mac), (GATEWAY_MAC, packet.source_mac));
    assert!(
        matches!(answer.carries, Carries::Icmp { kind: k, code: c, .. } if (k, c) == (kind, code)),
        "{:?}",
        answer.carries
    );
    let quoted = &packet.frame()[14..];
    assert_eq!(answer.data, quoted[..answer.data.len()]);
    assert!(answer.data.len() >= quoted.len().min(28));
}

/// The second word of an ICMP error.
fn word(answers: &[(PortId, Seen)]) -> u32 {
    match answers[0].1.packet.carries {
        Carries::Icmp { word, .. } => u32::from_be_bytes(word),
        _ => panic!("no ICMP"),
    }
}

#[test]
fn the_host_port_may_not_speak_for_a_pod_of_this_node() {
    let mut world = World::new();
    let [a, b, _, host] = world.ends().map(Clone::clone);
    for family in FAMILIES {
        for source in [a.address(family), nobody(family)] {
            let packet = Packet::new(source, 4000, b.address(family), 53).with_mac(HOST_MAC);
            world.dropped(&host, &packet, DropReason::Spoofed);
        }
    }
}

#[test]
fn the_last_hop_is_told_to_the_sender_by_the_gateway() {
    let mut world = World::new();
    let (a, b) = (world.a.clone(), world.b.clone());
    for family in FAMILIES {
        for packet in [
            a.packet(33_434, b.address(family), 33_434),
            a.packet(0, b.address(family), 0).echo(true, 5),
            a.packet(40_000, b.address(family), 80).tcp(SYN, 1, 0),
        ] {
            let packet = packet.ttl(1);
            let answers = world.refused(&a, &packet, DropReason::TtlExceeded);
            assert_is_error(&answers, a.port, &packet, family, if family == 4 { (11, 0) } else { (3, 0) });
            world.reaches(&a, &b, &packet.ttl(2));
        }
    }
}

#[test]
fn a_packet_too_big_for_its_way_out_is_answered_with_the_mtu_there() {
    let mut world = World::new();
    let (a, b) = (world.a.clone(), world.b.clone());
    world.rig.set_mtu(b.port, 1300);
    for family in FAMILIES {
        let packet = a.packet(4000, b.address(family), 53);
        let header = if family == 4 { 28 } else { 48 };
        world.reaches(&a, &b, &packet.clone().data(vec![1; 1300 - header]));
        let packet = packet.data(vec![1; 1301 - header]);
        let answers = world.refused(&a, &packet, DropReason::TooBig);
        assert_is_error(&answers, a.port, &packet, family, if family == 4 { (3, 4) } else { (2, 0) });
        assert_eq!(word(&answers), 1300);
    }
}

#[test]
fn a_packet_that_may_be_split_is_split_and_reassembles() {
    let mut world = World::new();
    let (a, b) = (world.a.clone(), world.b.clone());
    // In and out MTU, and the length of the data: in one chunk, from several, into several.
    for (from, to, len) in [(1500, 1300, 1400), (9000, 1500, 8000), (9000, 4000, 8900), (9000, 68, 1000)] {
        world.rig.set_mtu(a.port, from);
        world.rig.set_mtu(b.port, to);
        let data: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
        let packet = a.packet(4000, b.v4, 53).data(data).may_fragment(99);
        let pieces = world.send(&a, &packet);
        for (port, seen) in &pieces {
            assert_eq!(*port, b.port);
            assert!(seen.packet.data.len() + 20 <= usize::from(to));
            assert_eq!((seen.packet.source_mac, seen.packet.destination_mac), (GATEWAY_MAC, b.mac));
            assert_eq!((seen.packet.ttl, seen.packet.id), (63, 99));
        }
        let pieces: Vec<_> = pieces.into_iter().map(|(_, seen)| seen).collect();
        let whole = reassemble(&pieces).unwrap_or_else(|| panic!("{from} to {to}: {} pieces", pieces.len()));
        assert_eq!(whole.data, packet.data);
        assert_eq!((whole.source_port, whole.destination_port), (4000, 53));
    }
    assert_eq!(world.rig.all_drops(), []);
}

#[test]
fn a_jumbo_frame_passes_whole_between_jumbo_ports() {
    let mut world = World::new();
    let (a, b) = (world.a.clone(), world.b.clone());
    world.rig.set_mtu(a.port, 9000);
    world.rig.set_mtu(b.port, 9000);
    for family in FAMILIES {
        let data: Vec<u8> = (0..8900).map(|i| (i % 253) as u8).collect();
        world.reaches(&a, &b, &a.packet(4000, b.address(family), 53).data(data));
    }
}

#[test]
fn a_datagram_of_64_kilobytes_arrives_in_whatever_order_its_pieces_come() {
    let mut world = World::new();
    let (a, b) = (world.a.clone(), world.b.clone());
    for family in FAMILIES {
        let data: Vec<u8> = (0..65_000u32).map(|i| (i * 7 % 251) as u8).collect();
        for (order, id) in [("in order", 1), ("reversed", 2), ("shuffled", 3)] {
            let packet = a.packet(4000, b.address(family), 53).data(data.clone()).may_fragment(id);
            let mut pieces = packet.pieces(1448);
            match order {
                "reversed" => pieces.reverse(),
                // Every third first, the beginning not among the first.
                "shuffled" => {
                    pieces = (0..3)
                        .flat_map(|k| pieces.iter().skip(2 - k).step_by(3).cloned().collect::<Vec<_>>())
                        .collect();
                }
                _ => {}
            }
            for piece in &pieces {
                world.rig.send(a.port, piece);
            }
            let arrived: Vec<_> = seen(&world.rig.run());
            assert!(arrived.iter().all(|(port, _)| *port == b.port));
            let arrived: Vec<_> = arrived.into_iter().map(|(_, seen)| seen).collect();
            assert_eq!(arrived.len(), pieces.len(), "{order}, IPv{family}: {:?}", world.rig.all_drops());
            assert_eq!(reassemble(&arrived).expect("all pieces").data, data, "{order}, IPv{family}");
        }
    }
}

#[test]
fn the_gateway_answers_echo_and_nothing_else() {
    let mut world = World::new();
    // Whatever policy says: the gateway is no peer.
    world.rig.install(Rules::open().egress(1, &[]).artefact());
    let a = world.a.clone();
    let link_local = "fe80::ff:fe00:1".parse().unwrap();
    for (source, gateway) in [(a.v4, GATEWAY4), (a.v6, GATEWAY6), (link_local, GATEWAY6)] {
        let ping = Packet::new(source, 0, gateway, 0).with_mac(a.mac).echo(true, 9).data("ping");
        let answers = world.refused(&a, &ping, DropReason::Answered);
        let [(port, seen)] = &answers[..] else { panic!("one answer, not {answers:?}") };
        let pong = ping.reversed().echo(false, 9);
        assert_eq!(*port, a.port);
        assert_eq!((seen.packet.source, seen.packet.destination), (gateway, source));
        assert_eq!((&seen.packet.carries, &seen.packet.data), (&pong.carries, &pong.data));
        assert_eq!((seen.packet.source_mac, seen.packet.destination_mac), (GATEWAY_MAC, a.mac));
        let udp = Packet::new(source, 4000, gateway, 53).with_mac(a.mac);
        world.dropped(&a, &udp, DropReason::Martian);
    }
    // From an address that is neither ours nor link-local it is a lie.
    let lie = Packet::new(world.b.v4, 0, GATEWAY4, 0).with_mac(a.mac).echo(true, 9);
    world.dropped(&a, &lie, DropReason::Spoofed);
}

#[test]
fn reject_is_told_with_a_reset_or_an_icmp_error() {
    let mut world = World::new();
    let (a, b) = (world.a.clone(), world.b.clone());
    world.rig.install(Rules::open().ingress(2, &[entry(Action::Reject, &[], Service::Any)]).artefact());
    for family in FAMILIES {
        let syn = a.packet(40_000, b.address(family), 80).tcp(SYN, 1000, 0);
        let answers = world.refused(&a, &syn, DropReason::Rejected);
        let [(port, seen)] = &answers[..] else { panic!("one answer, not {answers:?}") };
        assert_eq!(*port, a.port);
        assert_eq!((seen.packet.source, seen.packet.source_port), (b.address(family), 80));
        let reset = Carries::Tcp { flags: RST | ACK, sequence: 0, acknowledgement: 1001 };
        assert_eq!(seen.packet.carries, reset);
        let udp = a.packet(4000, b.address(family), 53);
        let answers = world.refused(&a, &udp, DropReason::Rejected);
        assert_is_error(&answers, a.port, &udp, family, if family == 4 { (3, 13) } else { (1, 1) });
    }
}

#[test]
fn actions_this_version_cannot_carry_out_refuse() {
    let mut world = World::new();
    let (a, b) = (world.a.clone(), world.b.clone());
    for action in [Action::ToProxy { listener: 1 }, Action::HoldForDns] {
        world.rig.install(Rules::open().ingress(2, &[entry(action, &[], Service::Any)]).artefact());
        for family in FAMILIES {
            let packet = a.packet(40_000, b.address(family), 80).tcp(SYN, 1, 0);
            world.dropped(&a, &packet, DropReason::NotEnforceable);
        }
    }
}

#[test]
fn an_icmp_error_passes_when_it_is_about_a_flow_and_comes_from_its_other_end() {
    let mut world = World::new();
    let [a, b, c, host] = world.ends().map(Clone::clone);
    // Only a may open flows, and only to b's port 53 and to the outside.
    let rules = Rules::open()
        .ingress(1, &[])
        .ingress(2, &[allow_port(&[class(1)], UDP, 53), allow_port(&[class(1)], TCP, 80)])
        .egress(2, &[])
        .egress(3, &[]);
    world.rig.install(rules.artefact());
    for family in FAMILIES {
        let (kind, code) = if family == 4 { (3, 3) } else { (1, 4) };
        let question = a.packet(4000, b.address(family), 53);
        let error =
            |from: &End, about: &Packet| about.error(from.address(family), kind, code).with_mac(from.mac);
        world.dropped(&b, &error(&b, &question), DropReason::UnrelatedIcmp);
        world.reaches(&a, &b, &question);
        world.reaches(&b, &a, &error(&b, &question));
        // Somebody else makes one up; or it is about a port that was not spoken to; or it goes to another than it quotes.
        world.dropped(&c, &error(&c, &question), DropReason::UnrelatedIcmp);
        let other = a.packet(4001, b.address(family), 53);
        world.dropped(&b, &error(&b, &other), DropReason::UnrelatedIcmp);
        let mut misdirected = error(&b, &question);
        misdirected.destination = c.address(family);
        world.dropped(&b, &misdirected, DropReason::UnrelatedIcmp);
        // About a reply, by whoever gets it.
        let answer = question.reversed();
        world.reaches(&a, &b, &answer.error(a.address(family), kind, code).with_mac(a.mac));
        // Routers outside may complain about what went there.
        let out = a.packet(4000, outside(family), 53);
        world.reaches(&a, &host, &out);
        let router = if family == 4 { "203.0.113.9" } else { "2001:db8:9::9" }.parse().unwrap();
        world.reaches(&host, &a, &out.error(router, kind, code).with_mac(HOST_MAC));
        world.dropped(
            &host,
            &question.error(router, kind, code).with_mac(HOST_MAC),
            DropReason::UnrelatedIcmp,
        );
        // About TCP as well.
        let ack = world.connect(&a, &b, family, 40_000);
        world.reaches(&b, &a, &error(&b, &ack));
    }
}

#[test]
fn an_answer_of_another_icmp_kind_finds_its_question_and_policy_judges_each_kind_by_itself() {
    let mut world = World::new();
    let (a, b) = (world.a.clone(), world.b.clone());
    let icmp = |kind| entry(Action::Allow, &[class(1)], Service::Icmp { protocol: ICMP, kind });
    world.rig.install(Rules::open().ingress(2, &[icmp(13)]).artefact());
    let ask = |kind| a.packet(0, b.v4, 0).icmp(kind, 0, [0, 5, 0, 1]).data([0; 12]);
    world.dropped(&b, &ask(14).reversed().with_mac(b.mac), DropReason::UnrelatedIcmp);
    world.reaches(&a, &b, &ask(13));
    world.reaches(&b, &a, &ask(14).reversed().with_mac(b.mac));
    world.dropped(&a, &ask(8), DropReason::PolicyIngress);
    world.dropped(&a, &ask(15), DropReason::PolicyIngress);
    // Judged again as what it is when policy changes, whichever packet comes first then.
    world.rig.install(Rules::open().generation(2).ingress(2, &[icmp(13), icmp(15)]).artefact());
    world.reaches(&b, &a, &ask(14).reversed().with_mac(b.mac));
    world.rig.install(Rules::open().generation(3).ingress(2, &[icmp(8), icmp(14)]).artefact());
    world.dropped(&b, &ask(14).reversed().with_mac(b.mac), DropReason::PolicyIngress);
}

#[test]
fn a_refused_frame_is_counted_at_the_end_that_refused_it_and_in_its_direction() {
    let mut world = World::new();
    let (a, b) = (world.a.clone(), world.b.clone());
    world.rig.install(Rules::open().generation(2).ingress(2, &[]).egress(2, &[]).artefact());
    for port in [80, 81, 82] {
        world.dropped(&a, &a.packet(40_000, b.v4, port).tcp(SYN, 1, 0), DropReason::PolicyIngress);
    }
    world.dropped(&b, &b.packet(40_000, a.v4, 80).tcp(SYN, 1, 0), DropReason::PolicyEgress);
    let refused = |port| world.rig.engine(0).counters().port(port).refused.each_ref().map(|cell| cell.get());
    assert_eq!(refused(b.port), [3, 1]);
    assert_eq!(refused(a.port), [0, 0]);
}
