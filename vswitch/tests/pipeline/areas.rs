//! Two memory areas: ports that copy are in one, ports that do not in the other, and frames go between them.

use super::frames::*;
use super::world::*;
use penstock_api::DropReason;
use penstock_api::message::AreaKind;
use penstock_vswitch::rig::Sizes;

/// `a` comes by the trunk; `b` and `c` have devices of their own, in the second area.
fn world(workers: usize, zero_copy_chunks: u32) -> World {
    World::with(&Sizes { workers, direct: 2, zero_copy_chunks, ..Sizes::default() })
}

#[test]
fn frames_pass_between_all_ports_unchanged_and_are_copied_once_where_areas_change() {
    for workers in [1, 2] {
        let mut world = world(workers, 64);
        let (a, b, c, host) = (world.a.clone(), world.b.clone(), world.c.clone(), world.host.clone());
        for family in FAMILIES {
            for (from, to, changes) in
                [(&a, &b, true), (&b, &a, true), (&b, &c, false), (&c, &b, false), (&c, &host, true)]
            {
                for len in [0, 1, 64, 1400] {
                    let packet = from.packet(4000, to.address(family), 53).data(vec![0x5a; len]);
                    let (copies, handed) = (world.rig.area_copies(), world.rig.handed_over());
                    world.reaches(from, to, &packet);
                    let copies = world.rig.area_copies() - copies;
                    // A frame that was handed over is in the copying area afterwards.
                    match world.rig.handed_over() - handed {
                        0 => assert_eq!(copies, u64::from(changes), "{from:?} to {to:?}"),
                        _ => assert!(copies <= 1, "{from:?} to {to:?}"),
                    }
                }
            }
            world.connect(&a, &b, family, 50_000);
            world.connect(&c, &a, family, 50_001);
        }
    }
}

#[test]
fn frames_of_several_chunks_and_their_pieces_pass_between_areas() {
    let mut world = world(1, 64);
    let (a, b) = (world.a.clone(), world.b.clone());
    for port in [a.port, b.port] {
        world.rig.set_mtu(port, 9000);
    }
    for (from, to) in [(&a, &b), (&b, &a)] {
        let jumbo = from.packet(4000, to.v4, 53).data((0..8900u32).map(|i| i as u8).collect::<Vec<_>>());
        world.reaches(from, to, &jumbo);
        // And in pieces, where the receiver's link is narrower.
        world.rig.set_mtu(to.port, 1500);
        let seen = world.send(from, &jumbo.clone().may_fragment(7));
        assert!(seen.len() > 5 && seen.iter().all(|(port, _)| *port == to.port), "{seen:?}");
        let pieces: Vec<_> = seen.into_iter().map(|(_, piece)| piece).collect();
        assert_eq!(reassemble(&pieces).unwrap().data, jumbo.data);
        world.rig.set_mtu(to.port, 9000);
    }
}

#[test]
fn an_area_without_room_drops_by_name_and_nothing_is_lost() {
    // Two chunks of 4 KiB: a frame of 8900 bytes wants three.
    let mut world = world(1, 2);
    let (a, c) = (world.a.clone(), world.c.clone());
    world.rig.set_mtu(a.port, 9000);
    world.rig.set_mtu(c.port, 9000);
    let jumbo = a.packet(4000, c.v4, 53).data(vec![0; 8900]);
    world.dropped(&a, &jumbo, DropReason::NoFrame);
    world.reaches(&a, &c, &a.packet(4000, c.v4, 53).data(vec![0; 4000]));
    assert_eq!(world.rig.drops_of(c.port, DropReason::NoFrame), 1);
    world.rig.check();
}

#[test]
fn what_is_held_for_long_is_not_held_in_the_memory_of_a_nic() {
    let mut world = world(1, 64);
    let (a, b) = (world.a.clone(), world.b.clone());
    let packet = b.packet(4000, a.v4, 53).data([7; 2000]).may_fragment(9);
    let pieces = packet.pieces(800);
    for piece in &pieces[1..] {
        assert_eq!(world.rig.exchange(b.port, piece), []);
    }
    let held = |world: &World, area| {
        let account = world.rig.account();
        account.censuses.iter().find(|census| census.area == area).map(|census| census.held)
    };
    assert_eq!(
        (held(&world, AreaKind::Copy), held(&world, AreaKind::ZeroCopy)),
        (Some(pieces.len() - 1), Some(0))
    );
    let delivered = world.rig.exchange(b.port, &pieces[0]);
    let pieces: Vec<_> = seen(&delivered).into_iter().map(|(_, piece)| piece).collect();
    assert_eq!(reassemble(&pieces).unwrap().data, packet.data);
}

#[test]
fn the_gateway_answers_into_the_area_the_question_came_by() {
    let mut world = world(1, 64);
    let b = world.b.clone();
    let ask = arp(1, b.mac, b.mac, v4_of(b.v4), v4_of(GATEWAY4));
    assert_eq!(world.rig.exchange(b.port, &ask).len(), 1);
    assert_eq!(world.send(&b, &b.packet(0, GATEWAY4, 0).echo(true, 1).data([0; 900])).len(), 1);
    assert_eq!(world.rig.area_copies(), 0);
}

#[test]
fn without_a_port_that_does_not_copy_there_is_one_area() {
    let areas = |world: World| -> Vec<(u8, AreaKind, usize)> {
        let account = world.rig.account();
        account.censuses.iter().map(|census| (census.worker.0, census.area, census.total)).collect()
    };
    let total = Sizes::default().chunks as usize;
    assert_eq!(areas(world(2, 0)), [(0, AreaKind::Copy, total), (1, AreaKind::Copy, total)]);
    assert_eq!(areas(world(1, 64)), [(0, AreaKind::Copy, total), (0, AreaKind::ZeroCopy, 64)]);
    let mut one = world(1, 0);
    let (a, b) = (one.a.clone(), one.b.clone());
    one.reaches(&a, &b, &a.packet(4000, b.v4, 53));
    assert_eq!(one.rig.area_copies(), 0);
}
