//! Who has? The gateway, always; and never to who asks about itself.

use super::frames::*;
use super::world::*;
use etherparse::{ArpPacketSlice, Ethernet2Header};
use penstock_api::{DropReason, PortId};
use penstock_vswitch::rig::{Delivered, Sizes};
use std::net::{Ipv4Addr, Ipv6Addr};

const NOBODY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;

#[track_caller]
fn assert_is_reply(delivered: &[Delivered], asker: &End, sender: Ipv4Addr, target: Ipv4Addr) {
    let [Delivered { port, frame }] = delivered else { panic!("one answer, not {delivered:?}") };
    assert_eq!(*port, asker.port);
    let (ethernet, rest) = Ethernet2Header::from_slice(frame).unwrap();
    assert_eq!((ethernet.source, ethernet.destination), (GATEWAY_MAC, asker.mac));
    let arp = ArpPacketSlice::from_slice(rest).unwrap();
    assert_eq!(arp.operation().0, 2);
    assert_eq!((arp.sender_hw_addr(), arp.sender_protocol_addr()), (&GATEWAY_MAC[..], &target.octets()[..]));
    assert_eq!((arp.target_hw_addr(), arp.target_protocol_addr()), (&asker.mac[..], &sender.octets()[..]));
}

#[test]
fn arp_is_answered_for_everybody_but_the_asker_and_never_to_a_probe() {
    // Policy has no part in it: a pod may ask from its first moment.
    let mut world = World::attached(&Sizes::default());
    let a = world.a.clone();
    let own = v4_of(a.v4);
    let gateway = v4_of(GATEWAY4);
    for target in [gateway, v4_of(world.b.v4), v4_of(NOBODY4), v4_of(OUTSIDE4)] {
        let frame = arp(1, a.mac, a.mac, own, target);
        let before = world.rig.drops(DropReason::Answered);
        let delivered = world.rig.exchange(a.port, &frame);
        assert_is_reply(&delivered, &a, own, target);
        assert_eq!(world.rig.drops(DropReason::Answered), before + 1);
    }
    let none = |world: &mut World, frame: &[u8], reason| {
        assert_eq!(world.refused_frame(&a, frame, reason), [], "{frame:02x?}");
    };
    // About itself: an announcement, a probe, and a probe of what is somebody else's.
    none(&mut world, &arp(1, a.mac, a.mac, own, own), DropReason::NeighbourMessage);
    none(&mut world, &arp(1, a.mac, a.mac, NOBODY, own), DropReason::NeighbourMessage);
    none(&mut world, &arp(1, a.mac, a.mac, NOBODY, gateway), DropReason::NeighbourMessage);
    // Replies, gratuitous or not.
    none(&mut world, &arp(2, a.mac, a.mac, own, own), DropReason::NeighbourMessage);
    none(&mut world, &arp(2, a.mac, a.mac, gateway, own), DropReason::NeighbourMessage);
}

#[test]
fn the_host_is_answered_for_pods_and_not_for_itself() {
    let mut world = World::new();
    let (a, host) = (world.a.clone(), world.host.clone());
    let own = v4_of(host.v4);
    let delivered = world.rig.exchange(PortId::HOST, &arp(1, HOST_MAC, HOST_MAC, own, v4_of(a.v4)));
    assert_is_reply(&delivered, &host, own, v4_of(a.v4));
    let own_question = arp(1, HOST_MAC, HOST_MAC, v4_of(OUTSIDE4), own);
    assert_eq!(world.refused_frame(&host, &own_question, DropReason::NeighbourMessage), []);
}

#[test]
fn neighbour_solicitations_are_answered_likewise_and_never_those_of_address_detection() {
    let mut world = World::attached(&Sizes::default());
    let a = world.a.clone();
    let own = v6_of(a.v6);
    let link_local: Ipv6Addr = "fe80::ff:fe00:1".parse().unwrap();
    let gateway = v6_of(GATEWAY6);
    for (sender, target) in [
        (own, gateway),
        (link_local, gateway),
        (own, v6_of(world.b.v6)),
        (own, v6_of(NOBODY6)),
        (own, v6_of(OUTSIDE6)),
    ] {
        let answers =
            world.refused_frame(&a, &solicitation(a.mac, sender, target, Some(a.mac)), DropReason::Answered);
        let [(port, seen)] = &answers[..] else { panic!("one answer, not {answers:?}") };
        assert_eq!(*port, a.port);
        assert_eq!((seen.packet.source_mac, seen.packet.destination_mac), (GATEWAY_MAC, a.mac));
        assert_eq!((seen.packet.source, seen.packet.destination), (target.into(), sender.into()));
        let Carries::Icmp { kind: 136, code: 0, word } = seen.packet.carries else { panic!("{seen:?}") };
        // Solicited, override; router for the gateway only.
        assert_eq!(word[0], if target == gateway { 0xe0 } else { 0x60 });
        assert_eq!(seen.packet.data, [&target.octets()[..], &[2, 1], &GATEWAY_MAC].concat());
        assert_eq!(seen.packet.ttl, 255);
    }
    let none = |world: &mut World, frame: &[u8], reason| {
        assert_eq!(world.refused_frame(&a, frame, reason), [], "{frame:02x?}");
    };
    let nobody = Ipv6Addr::UNSPECIFIED;
    // Duplicate address detection: of its own, of its link-local, of anybody's.
    for target in [own, link_local, gateway, v6_of(world.b.v6)] {
        none(&mut world, &solicitation(a.mac, nobody, target, None), DropReason::NeighbourMessage);
    }
    none(&mut world, &solicitation(a.mac, own, own, Some(a.mac)), DropReason::NeighbourMessage);
    none(&mut world, &solicitation(a.mac, link_local, link_local, Some(a.mac)), DropReason::NeighbourMessage);
}
