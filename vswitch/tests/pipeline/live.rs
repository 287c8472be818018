//! Policy, ports and time change while flows live. Numbers in names are rows of the list of ways others got this wrong.

use super::frames::*;
use super::world::*;
use penstock_api::artefact::Service;
use penstock_api::{Action, DropReason, PortId};
use penstock_vswitch::rig::Sizes;

const PROTOCOLS: [u8; 4] = [TCP, UDP, SCTP, ICMP];

/// The first packet of a flow from `from` to `to`, and one of its data packets later.
fn opening(from: &End, to: &End, family: u8, protocol: u8, source_port: u16) -> Packet {
    let packet = from.packet(source_port, to.address(family), 80);
    match protocol {
        TCP => packet.tcp(SYN, 1000, 0),
        UDP => packet.data("datagram"),
        SCTP => packet.sctp().data([1, 0, 0, 4]),
        _ => packet.echo(true, source_port),
    }
}

/// An established flow; returns a packet of it that changes nothing.
fn establish(world: &mut World, from: &End, to: &End, family: u8, protocol: u8, source_port: u16) -> Packet {
    if protocol == TCP {
        return world.connect(from, to, family, source_port);
    }
    let packet = opening(from, to, family, protocol, source_port);
    world.reaches(from, to, &packet);
    let answer = packet.reversed().with_mac(to.mac);
    let answer = if protocol == ICMP { answer.echo(false, source_port) } else { answer };
    world.reaches(to, from, &answer);
    packet
}

#[test]
fn revoking_policy_cuts_the_flow_with_its_next_frame_in_either_direction_24() {
    for family in FAMILIES {
        for protocol in PROTOCOLS {
            for reply_first in [false, true] {
                let mut world = World::new();
                let (a, b) = (world.a.clone(), world.b.clone());
                let packet = establish(&mut world, &a, &b, family, protocol, 40_000);
                let hits = world.rig.cache_hits();
                world.reaches(&a, &b, &packet);
                assert_eq!(world.rig.cache_hits(), hits + 1, "it is in the cache");
                world.rig.install(Rules::open().generation(2).ingress(2, &[]).artefact());
                let (from, next) = match reply_first {
                    false => (&a, packet.clone()),
                    true => {
                        let back = packet.reversed().with_mac(b.mac);
                        let back = match protocol {
                            TCP => back.tcp(ACK, 5001, 1001),
                            ICMP => back.echo(false, 40_000),
                            _ => back,
                        };
                        (&b, back)
                    }
                };
                world.dropped(from, &next, DropReason::PolicyIngress);
                assert!(world.rig.flow(&packet.key()).is_none(), "the flow is gone");
                // And does not come back by itself, nor by opening it again.
                let reason =
                    if protocol == TCP { DropReason::InvalidState } else { DropReason::PolicyIngress };
                world.dropped(&a, &packet, reason);
                let again = opening(&a, &b, family, protocol, 40_000);
                world.dropped(&a, &again, DropReason::PolicyIngress);
                // Allowed again, it is judged again.
                world.rig.install(Rules::open().generation(3).artefact());
                world.reaches(&a, &b, &again);
            }
        }
    }
}

#[test]
fn a_pod_that_leaves_policy_is_isolated_and_its_flows_end() {
    for family in FAMILIES {
        let mut world = World::new();
        let (a, b) = (world.a.clone(), world.b.clone());
        let packet = establish(&mut world, &a, &b, family, UDP, 40_000);
        world.reaches(&a, &b, &packet);
        world.rig.install(Rules::open().generation(2).pods(&[1, 3]).artefact());
        world.dropped(&a, &packet, DropReason::NotReady);
        world.rig.install(Rules::open().generation(3).artefact());
        world.reaches(&a, &b, &packet);
        world.rig.install(Rules::open().generation(4).pods(&[2, 3]).artefact());
        world.dropped(&b, &packet.reversed().with_mac(b.mac), DropReason::NotReady);
    }
}

#[test]
fn a_pod_that_leaves_policy_loses_its_flows_with_the_host_as_well() {
    let mut world = World::new();
    let (b, host) = (world.b.clone(), world.host.clone());
    let packets: Vec<_> = FAMILIES
        .iter()
        .flat_map(|family| {
            let out = establish(&mut world, &b, &host, *family, UDP, 40_000);
            let back = establish(&mut world, &host, &b, *family, UDP, 41_000);
            [(b.clone(), host.clone(), out), (host.clone(), b.clone(), back)]
        })
        .collect();
    for (from, to, packet) in &packets {
        world.reaches(from, to, packet);
    }
    world.rig.install(Rules::open().generation(2).pods(&[1, 3]).artefact());
    for (from, _, packet) in &packets {
        world.dropped(from, packet, DropReason::NotReady);
    }
}

#[test]
fn an_untouched_flow_is_not_disturbed_by_somebody_elses_change() {
    let mut world = World::new();
    let [a, b, c, host] = world.ends().map(Clone::clone);
    world.rig.install(Rules::open().ingress(2, &[allow(&[class(1)])]).artefact());
    let packets: Vec<_> = FAMILIES
        .iter()
        .flat_map(|family| PROTOCOLS.map(|protocol| (*family, protocol)))
        .map(|(family, protocol)| establish(&mut world, &a, &b, family, protocol, 40_000))
        .collect();
    let created: Vec<_> = packets.iter().map(|p| world.rig.flow(&p.key()).unwrap().2.stamp()).collect();
    let undisturbed = |world: &mut World| {
        for (packet, stamp) in packets.iter().zip(&created) {
            world.reaches(&a, &b, packet);
            assert_eq!(world.rig.flow(&packet.key()).unwrap().2.stamp(), *stamp, "the same flow");
        }
    };
    let mine = Rules::open().ingress(2, &[allow(&[class(1)])]);
    world.rig.now_ms += 10;
    // Somebody else is isolated, known under more names, or gone; more is allowed for us; a rule is added beside ours.
    world.rig.install(mine.clone().generation(2).ingress(3, &[]).egress(3, &[]).artefact());
    undisturbed(&mut world);
    world.rig.install(mine.clone().generation(3).pods(&[1, 2]).artefact());
    undisturbed(&mut world);
    world.rig.install(Rules::open().generation(4).ingress(2, &[allow(&[class(1), class(3)])]).artefact());
    undisturbed(&mut world);
    // All policy is deleted.
    world.rig.install(Rules::open().generation(5).artefact());
    undisturbed(&mut world);
    // The port of somebody else goes, comes, and its endpoint is swept.
    let endpoint = world.rig.detach(c.port).unwrap();
    undisturbed(&mut world);
    world.rig.forget(endpoint);
    undisturbed(&mut world);
    assert_eq!(world.rig.attach(c.key.clone(), c.mac, &c.addresses(), 1500), c.port);
    undisturbed(&mut world);
    // The host's addresses change.
    world.rig.host(host.mac, &[host.v4], &["10.0.0.0/16".parse().unwrap()], 1500);
    undisturbed(&mut world);
    assert_eq!(world.rig.all_drops(), []);
}

#[test]
fn what_both_the_old_and_the_new_policy_refuse_passes_at_no_moment_of_the_change_25() {
    let mut world = World::new();
    let (a, b) = (world.a.clone(), world.b.clone());
    // Both refuse port 81; they allow different things beside it and number everything differently.
    let one = Rules::open().ingress(2, &[allow_port(&[class(1)], TCP, 80)]);
    let two = Rules::open()
        .pods(&[3, 2, 1])
        .ingress(3, &[allow(&[])])
        .egress(1, &[allow(&[class(2)])])
        .ingress(2, &[allow_port(&[class(3)], TCP, 81), allow_port(&[class(1)], UDP, 81)]);
    world.rig.install(one.artefact());
    for round in 0..50 {
        let family = FAMILIES[round % 2];
        let refused = a.packet(50_000 + round as u16, b.address(family), 81).tcp(SYN, 1, 0);
        let rules = if round % 2 == 0 { &two } else { &one };
        world.dropped(&a, &refused, DropReason::PolicyIngress);
        world.rig.install(rules.clone().generation(round as u64 + 2).artefact());
        world.dropped(&a, &refused, DropReason::PolicyIngress);
    }
}

#[test]
fn a_pod_that_attaches_under_an_existing_deny_all_sends_nothing_through_1() {
    let mut world = World::new();
    let (a, b) = (world.a.clone(), world.b.clone());
    let deny = [entry(Action::Deny, &[], Service::Any)];
    for (generation, entries) in [(2, &[][..]), (3, &deny[..])] {
        let rules = Rules::open().pods(&[1, 2, 3, 4]).ingress(4, entries).egress(4, entries);
        world.rig.install(rules.generation(generation).artefact());
        let new = pod(4);
        // It is attached and sends before anybody has done anything for it.
        assert_eq!(world.rig.attach(new.key.clone(), new.mac, &new.addresses(), 1500), new.port);
        for family in FAMILIES {
            world.dropped(
                &new,
                &new.packet(1, a.address(family), 80).tcp(SYN, 1, 0),
                DropReason::PolicyEgress,
            );
            world.dropped(
                &b,
                &b.packet(1, new.address(family), 80).tcp(SYN, 1, 0),
                DropReason::PolicyIngress,
            );
        }
        world.rig.detach(new.port);
    }
    // One that policy has never heard of, likewise.
    let unknown = pod(5);
    let port = world.rig.attach(unknown.key.clone(), unknown.mac, &unknown.addresses(), 1500);
    let unknown = End { port, ..unknown };
    for family in FAMILIES {
        let syn = unknown.packet(1, a.address(family), 80).tcp(SYN, 1, 0);
        world.dropped(&unknown, &syn, DropReason::NotReady);
    }
    assert_eq!(world.rig.account().transmitted, 0);
}

#[test]
fn a_pod_with_one_address_policy_does_not_know_is_not_ready() {
    let mut world = World::new();
    let a = world.a.clone();
    world.rig.detach(world.b.port);
    let addresses = [world.b.v4, world.b.v6, "10.0.0.77".parse().unwrap()];
    world.rig.attach(world.b.key.clone(), world.b.mac, &addresses, 1500);
    world.dropped(&a, &a.packet(4000, addresses[0], 53), DropReason::NotReady);
}

/// `b`'s place is taken by pod 4, which has its addresses and its port.
fn replace_b(world: &mut World, sweep: bool) -> End {
    let endpoint = world.rig.detach(world.b.port).unwrap();
    if sweep {
        world.rig.forget(endpoint);
    }
    let successor = End { mac: [2, 0, 0, 0, 0, 4], key: pod(4).key, ..world.b.clone() };
    let port = world.rig.attach(successor.key.clone(), successor.mac, &successor.addresses(), 1500);
    assert_eq!(port, world.b.port, "the slot is used again, as life would have it");
    successor
}

/// Policy that knows pod 4 under pod 2's addresses.
fn rules_after(generation: u64, ingress: &[penstock_api::artefact::Entry]) -> penstock_api::Artefact {
    let mut artefact = Rules::open().pods(&[1, 4, 3]).generation(generation).ingress(4, ingress).artefact();
    artefact.pods[1].addresses = pod(2).addresses().to_vec();
    artefact
}

#[test]
fn an_address_that_changes_hands_is_judged_afresh_whatever_the_order_of_events_5() {
    for family in FAMILIES {
        for protocol in PROTOCOLS {
            for policy_first in [false, true] {
                for sweep in [false, true] {
                    let mut world = World::new();
                    let (a, b) = (world.a.clone(), world.b.clone());
                    // From a to b, and from b to a.
                    let out = establish(&mut world, &a, &b, family, protocol, 40_000);
                    let own = establish(&mut world, &b, &a, family, protocol, 41_000);
                    if policy_first {
                        world.rig.install(rules_after(2, &[]));
                        // The old owner is nobody any more.
                        world.dropped(&a, &out, DropReason::NotReady);
                    }
                    let successor = replace_b(&mut world, sweep);
                    if !policy_first {
                        world.dropped(&a, &opening(&a, &b, family, protocol, 42_000), DropReason::NotReady);
                        world.rig.install(rules_after(2, &[]));
                    }
                    // Refused to everybody: the old flow's packets too.
                    let reason = match protocol {
                        TCP => DropReason::InvalidState,
                        _ => DropReason::PolicyIngress,
                    };
                    world.dropped(&a, &out, reason);
                    world.dropped(&a, &opening(&a, &b, family, protocol, 40_000), DropReason::PolicyIngress);
                    // The answer to what the old owner asked is no answer for the new one.
                    let answer = own.reversed().with_mac(a.mac);
                    match protocol {
                        TCP => {
                            world.dropped(&a, &answer.tcp(ACK, 5001, 1001), DropReason::InvalidState);
                            let own = End { ..successor.clone() }.packet(41_000, a.address(family), 80);
                            world.dropped(&successor, &own.tcp(ACK, 1001, 5001), DropReason::InvalidState);
                        }
                        ICMP => {
                            let answer = answer.echo(false, 41_000);
                            world.dropped(&a, &answer, DropReason::UnrelatedIcmp);
                        }
                        _ => world.dropped(&a, &answer, DropReason::PolicyIngress),
                    }
                    // What its own policy allows it has.
                    world.rig.install(rules_after(3, &[allow(&[class(1)])]));
                    let seen =
                        world.reaches(&a, &successor, &opening(&a, &successor, family, protocol, 40_000));
                    assert_eq!(seen.destination_mac, successor.mac);
                }
            }
        }
    }
}

#[test]
fn a_frame_on_its_way_to_a_port_that_goes_is_dropped_and_counted() {
    let mut world = World::new();
    let (a, b) = (world.a.clone(), world.b.clone());
    let packet = establish(&mut world, &a, &b, 4, UDP, 40_000);
    world.rig.detach(b.port);
    world.refused(&a, &packet, DropReason::NoRoute);
    // And from one.
    world.rig.detach(a.port);
    world.dropped(&a, &packet, DropReason::PortGone);
}

#[test]
fn a_server_may_not_originate_on_the_reversed_tuple_after_the_close_24() {
    let mut world = World::new();
    let (a, b) = (world.a.clone(), world.b.clone());
    world.rig.install(Rules::open().ingress(1, &[]).egress(2, &[]).artefact());
    for (family, by_reset) in [(4, false), (6, false), (4, true), (6, true)] {
        let source_port = 40_000 + u16::from(by_reset);
        let ack = world.connect(&a, &b, family, source_port);
        let back = ack.reversed().with_mac(b.mac);
        // While it lives, neither.
        world.dropped(&b, &back.clone().tcp(SYN, 9000, 0), DropReason::InvalidState);
        if by_reset {
            world.reaches(&a, &b, &ack.clone().tcp(RST, 1001, 0));
        } else {
            world.reaches(&a, &b, &ack.clone().tcp(ACK | FIN, 1001, 5001));
            world.reaches(&b, &a, &back.clone().tcp(ACK | FIN, 5001, 1002));
            world.reaches(&a, &b, &ack.clone().tcp(ACK, 1002, 5002));
        }
        world.dropped(&b, &back.clone().tcp(SYN, 9000, 0), DropReason::PolicyEgress);
        if !by_reset {
            let more = back.clone().tcp(ACK, 5002, 1002).data("more");
            world.dropped(&b, &more, DropReason::InvalidState);
        }
        // The client may open it again, as before.
        world.reaches(&a, &b, &ack.clone().tcp(SYN, 70_000, 0));
        let back = back.tcp(SYN | ACK, 90_000, 70_001);
        world.reaches(&b, &a, &back);
    }
    // Nor with an echo request, which has the same tuple in both directions.
    let ping = establish(&mut world, &a, &b, 4, ICMP, 77);
    world.dropped(&b, &ping.reversed().with_mac(b.mac), DropReason::PolicyEgress);
}

#[test]
fn a_flow_that_was_silent_too_long_is_a_new_one() {
    let mut world = World::new();
    let (a, b) = (world.a.clone(), world.b.clone());
    for family in FAMILIES {
        let udp = opening(&a, &b, family, UDP, 40_000);
        world.reaches(&a, &b, &udp);
        let tcp = world.connect(&a, &b, family, 40_000);
        world.rig.pass(32_000);
        world.reaches(&b, &a, &tcp.reversed().with_mac(b.mac).tcp(ACK, 5001, 1001));
        assert!(world.rig.flow(&udp.key()).is_none(), "30 s without an answer");
        world.rig.install(Rules::open().generation(2).egress(2, &[]).artefact());
        world.dropped(&b, &udp.reversed().with_mac(b.mac), DropReason::PolicyEgress);
        world.rig.install(Rules::open().generation(3).artefact());
    }
    world.rig.pass(7_500_000);
    world.rig.pass(1);
    assert_eq!(world.rig.flows(), 0, "nothing is kept for ever");
}

#[test]
fn an_allow_for_established_flows_keeps_them_and_starts_none() {
    let mut world = World::new();
    let (a, b) = (world.a.clone(), world.b.clone());
    let packet = establish(&mut world, &a, &b, 4, UDP, 40_000);
    let mut only = allow(&[class(1)]);
    only.established_only = true;
    world.rig.install(Rules::open().generation(2).ingress(2, &[only]).artefact());
    world.reaches(&a, &b, &packet);
    world.reaches(&b, &a, &packet.reversed().with_mac(b.mac));
    world.dropped(&a, &opening(&a, &b, 4, UDP, 40_001), DropReason::PolicyIngress);
}

#[test]
fn pieces_are_judged_by_their_first_and_never_alone_22() {
    let mut world = World::new();
    let (a, b) = (world.a.clone(), world.b.clone());
    world.rig.install(Rules::open().ingress(2, &[allow_port(&[class(1)], UDP, 53)]).artefact());
    for family in FAMILIES {
        let allowed = a.packet(4000, b.address(family), 53).data(vec![1; 3000]).may_fragment(1);
        let refused = a.packet(4000, b.address(family), 54).data(vec![2; 3000]).may_fragment(2);
        // A refused datagram: none of its pieces, in either order.
        for reversed in [false, true] {
            let mut pieces = refused.pieces(1200);
            if reversed {
                pieces.reverse();
            }
            for piece in &pieces {
                world.rig.send(a.port, piece);
            }
            assert_eq!(world.rig.run(), []);
        }
        assert_eq!(world.rig.drops(DropReason::PolicyIngress), 6);
        // A later piece alone is held for a second, then dropped.
        let pieces = allowed.pieces(1200);
        world.rig.send(a.port, &pieces[1]);
        assert_eq!(world.rig.run(), []);
        assert_eq!(world.rig.account().held, 1);
        assert_eq!(world.rig.pass(1_001), []);
        assert_eq!(world.rig.account().held, 0);
        assert_eq!(world.rig.drops(DropReason::FragmentUnknown), 1);
        // Held before the policy that refuses: judged under what is in force when it goes on.
        world.rig.send(a.port, &pieces[2]);
        assert_eq!(world.rig.run(), []);
        world.rig.install(Rules::open().generation(2).ingress(2, &[]).artefact());
        world.rig.send(a.port, &pieces[0]);
        assert_eq!(world.rig.run(), []);
        assert_eq!(world.rig.drops(DropReason::PolicyIngress), 8);
        // And between the first and the rest.
        let rules = Rules::open().ingress(2, &[allow_port(&[class(1)], UDP, 53)]);
        world.rig.install(rules.generation(3).artefact());
        let allowed = a.packet(4000, b.address(family), 53).data(vec![1; 3000]).may_fragment(3);
        let pieces = allowed.pieces(1200);
        world.rig.send(a.port, &pieces[0]);
        assert_eq!(world.rig.run().len(), 1);
        world.rig.install(Rules::open().generation(4).ingress(2, &[]).artefact());
        world.rig.send(a.port, &pieces[1]);
        assert_eq!(world.rig.run(), []);
        // Next family.
        world = World::new();
        let rules = Rules::open().ingress(2, &[allow_port(&[class(1)], UDP, 53)]);
        world.rig.install(rules.artefact());
    }
}

#[test]
fn tiny_and_overlapping_pieces_poison_their_datagram_22() {
    let mut world = World::new();
    let (a, b) = (world.a.clone(), world.b.clone());
    for family in FAMILIES {
        let packet = a.packet(4000, b.address(family), 53).data(vec![1; 64]);
        let l4 = packet.l4();
        // Overlapping: the second piece writes over the first's end.
        let overlapping = packet.clone().may_fragment(1);
        world.rig.send(a.port, &overlapping.piece(0, true, &l4[..32]));
        assert_eq!(world.rig.run().len(), 1);
        for (offset, more, data) in [(24, true, &l4[24..40]), (40, false, &l4[40..]), (32, true, &l4[32..40])]
        {
            world.refused_frame(&a, &overlapping.piece(offset, more, data), DropReason::FragmentBad);
        }
        // Tiny: a first piece without the whole header of TCP, and a later one that would write into it.
        let tiny = packet.tcp(SYN, 1, 0).may_fragment(2);
        let l4 = tiny.l4();
        world.refused_frame(&a, &tiny.piece(0, true, &l4[..16]), DropReason::FragmentBad);
        world.refused_frame(&a, &tiny.piece(8, true, &l4[8..24]), DropReason::FragmentBad);
    }
}

#[test]
fn extension_headers_lead_to_the_true_protocol_or_to_a_drop_23() {
    let mut world = World::new();
    let (a, b) = (world.a.clone(), world.b.clone());
    world.rig.install(Rules::open().ingress(2, &[allow_port(&[class(1)], UDP, 53)]).artefact());
    let chain = |headers: &[u8], last: u8, port: u16| {
        // Each header of eight bytes: the next one's number, length 0, padding.
        let udp = a.packet(4000, b.v6, port).data("q");
        let mut bytes = Vec::new();
        for next in headers[1..].iter().chain([&last]) {
            bytes.extend([*next, 0, 1, 4, 0, 0, 0, 0]);
        }
        bytes.extend(udp.l4());
        a.packet(0, b.v6, 0).raw(headers[0]).data(bytes)
    };
    let seen = world.send(&a, &chain(&[0, 60, 60], UDP, 53));
    assert_eq!(seen.len(), 1, "a chain reaches its L4");
    world.dropped(&a, &chain(&[0, 60], UDP, 54), DropReason::PolicyIngress);
    world.dropped(&a, &chain(&[0, 43], UDP, 53), DropReason::RoutingHeader);
    world.dropped(&a, &chain(&[60; 9], UDP, 53), DropReason::ExtensionHeaders);
    world.dropped(&a, &chain(&[60, 0], UDP, 53), DropReason::ExtensionHeaders);
    // An unknown protocol is not what a rule about ports allows, and what a rule about everything does.
    world.dropped(&a, &chain(&[60], 200, 53), DropReason::PolicyIngress);
    world.rig.install(Rules::open().generation(2).ingress(2, &[allow(&[class(1)])]).artefact());
    assert_eq!(world.send(&a, &chain(&[60], 200, 53)).len(), 1);
}

#[test]
fn a_fuller_table_loses_no_established_flow_and_says_so() {
    let sizes = Sizes { flows_max: 16, flows_per_port_max: 8, cache_entries: 16, ..Sizes::default() };
    let mut world = World::with(&sizes);
    let [a, b, c, _] = world.ends().map(Clone::clone);
    let kept: Vec<_> = (0..4).map(|i| world.connect(&a, &b, 4, 40_000 + i)).collect();
    // Half-open flows of the same port take each other's places.
    for i in 0..50 {
        world.reaches(&a, &b, &opening(&a, &b, 4, TCP, 50_000 + i));
    }
    let more: Vec<_> = (4..8).map(|i| world.connect(&a, &b, 4, 40_000 + i)).collect();
    world.dropped(&a, &opening(&a, &b, 4, TCP, 60_000), DropReason::ConntrackFull);
    for packet in kept.iter().chain(&more) {
        world.reaches(&a, &b, packet);
    }
    world.connect(&c, &b, 4, 40_000);
    assert_eq!(world.rig.drops_of(PortId(3), DropReason::ConntrackFull), 0);
}

#[test]
fn an_address_that_moves_between_the_host_and_a_pod_takes_no_flow_along() {
    for family in FAMILIES {
        let mut world = World::new();
        let [a, _, _, host] = world.ends().map(Clone::clone);
        let packet = establish(&mut world, &a, &host, family, UDP, 40_000);
        let mut outward = packet.clone();
        outward.destination = outside(family);
        world.reaches(&a, &host, &outward);
        world.reaches(&a, &host, &outward);
        // Somebody behind the host becomes a pod here: nobody knows it yet.
        let new = pod(4);
        let port = world.rig.attach(new.key.clone(), new.mac, &[outside(family)], 1500);
        world.dropped(&a, &outward, DropReason::NotReady);
        let spoofed = outward.reversed().with_mac(HOST_MAC);
        world.dropped(&host, &spoofed, DropReason::Spoofed);
        world.rig.detach(port);
        world.reaches(&a, &host, &outward);
        // The range of this node's pods grows over it: nobody has it, and the host is not asked.
        let ranges = ["10.0.0.0/24", "fd00::/64", "198.51.100.0/24", "2001:db8:ff::/48"];
        let ranges = ranges.map(|range| range.parse().unwrap());
        world.rig.host(host.mac, &host.addresses(), &ranges, 1500);
        world.refused(&a, &outward, DropReason::NoRoute);
    }
}

#[test]
fn after_its_first_packets_both_directions_of_a_flow_come_from_the_cache() {
    for family in FAMILIES {
        for protocol in PROTOCOLS {
            let mut world = World::new();
            let (a, b) = (world.a.clone(), world.b.clone());
            let packet = establish(&mut world, &a, &b, family, protocol, 40_000);
            let back = packet.reversed().with_mac(b.mac);
            let back = match protocol {
                TCP => back.tcp(ACK, 5001, 1001),
                ICMP => back.echo(false, 40_000),
                _ => back,
            };
            for (from, to, packet) in [(&a, &b, &packet), (&b, &a, &back)] {
                let hits = world.rig.cache_hits();
                world.reaches(from, to, packet);
                assert_eq!(world.rig.cache_hits(), hits + 1, "{packet:?}");
            }
        }
    }
}

#[test]
fn pieces_that_waited_leave_after_their_first_in_the_order_in_which_they_came() {
    let mut world = World::new();
    let (a, b) = (world.a.clone(), world.b.clone());
    let packet = a.packet(4000, b.v4, 53).data(vec![1; 6000]).may_fragment(1);
    let pieces = packet.pieces(800);
    let order = [3, 1, 7, 2, 0, 5, 6, 4];
    for i in order {
        world.rig.send(a.port, &pieces[i]);
    }
    let places: Vec<_> =
        seen(&world.rig.run()).iter().map(|(_, s)| usize::from(s.fragment.unwrap().0) / 800).collect();
    let waited: Vec<_> = places.iter().copied().filter(|i| [3, 1, 7, 2].contains(i)).collect();
    assert_eq!(waited, [3, 1, 7, 2], "{places:?}");
    assert_eq!((places[0], places.len()), (0, 8), "{places:?}");
}
