//! Several workers: whatever worker a frame comes to, its flow's owner deals with it.

use super::frames::*;
use super::world::*;
use penstock_api::DropReason;
use penstock_vswitch::packet::{Payload, parse};
use penstock_vswitch::rig::{Delivered, Sizes};

fn world(workers: usize) -> World {
    World::with(&Sizes { workers, ..Sizes::default() })
}

impl World {
    /// Sends a frame to each worker in turn that the kernel would not choose, or to the only one; all of it arrives.
    #[track_caller]
    fn reaches_by_wrong_worker(&mut self, from: &End, to: &End, packet: &Packet) {
        let frame = packet.frame();
        let workers = self.rig.workers();
        let parsed = parse(&frame, frame.len()).unwrap();
        let right = match parsed.payload {
            Payload::IcmpError { about } => about.owner(workers),
            _ => parsed.key.owner(workers),
        };
        for worker in (0..workers).filter(|worker| workers == 1 || *worker != right) {
            self.rig.send_to(worker, from.port, &frame);
            let delivered = self.rig.run();
            let [Delivered { port, frame }] = &delivered[..] else {
                panic!("{packet:?} by worker {worker}: {delivered:?}, {:?}", self.rig.all_drops())
            };
            let seen = see(frame).packet;
            assert_eq!((*port, &seen.carries, &seen.data), (to.port, &packet.carries, &packet.data));
        }
    }
}

#[test]
fn every_flow_works_when_all_its_frames_come_to_wrong_workers() {
    for workers in [1, 2, 4] {
        let mut world = world(workers);
        let (a, b) = (world.a.clone(), world.b.clone());
        let mut flows = 0;
        for family in FAMILIES {
            for source_port in 40_000..40_008 {
                let to = b.address(family);
                let out = a.packet(source_port, to, 80);
                let back = out.reversed().with_mac(b.mac);
                world.reaches_by_wrong_worker(&a, &b, &out.clone().tcp(SYN, 1000, 0));
                world.reaches_by_wrong_worker(&b, &a, &back.clone().tcp(SYN | ACK, 5000, 1001));
                world.reaches_by_wrong_worker(&a, &b, &out.clone().tcp(ACK, 1001, 5001));
                world.reaches_by_wrong_worker(&a, &b, &out.clone().tcp(ACK, 1001, 5001).data("data"));
                world.reaches_by_wrong_worker(&b, &a, &back.clone().tcp(ACK, 5001, 1005).data("answer"));
                for packet in [out.clone().data("question"), out.clone().sctp().data([1, 0, 0, 4])] {
                    world.reaches_by_wrong_worker(&a, &b, &packet);
                    world.reaches_by_wrong_worker(&b, &a, &packet.reversed().with_mac(b.mac));
                }
                world.reaches_by_wrong_worker(&a, &b, &out.clone().echo(true, source_port));
                world.reaches_by_wrong_worker(&b, &a, &back.clone().echo(false, source_port));
                // An error about one of them.
                let (kind, code) = if family == 4 { (3, 3) } else { (1, 4) };
                let error = out.clone().data("question").error(to, kind, code).with_mac(b.mac);
                world.reaches_by_wrong_worker(&b, &a, &error);
                flows += 4;
                for key in [out.clone().tcp(ACK, 1, 1).key(), out.key(), out.clone().sctp().key()] {
                    let owner = key.owner(workers);
                    assert_eq!(world.rig.flow(&key).map(|(worker, ..)| worker), Some(owner));
                }
            }
        }
        assert_eq!(world.rig.flows(), flows, "each flow is tracked once");
        assert_eq!(world.rig.all_drops(), []);
        let account = world.rig.account();
        let expected = if workers == 1 { 0 } else { account.received };
        assert_eq!(account.handed_over, expected, "each frame was handed over once");
        assert_eq!(account.transmitted, account.received);
    }
}

#[test]
fn pieces_that_come_to_all_workers_are_one_datagram() {
    for workers in [2, 4] {
        let mut world = world(workers);
        let (a, b) = (world.a.clone(), world.b.clone());
        world.rig.install(Rules::open().ingress(2, &[allow_port(&[class(1)], UDP, 53)]).artefact());
        let mut id = 0;
        for family in FAMILIES {
            for source_port in 4000..4016 {
                for port in [53, 54] {
                    id += 1;
                    let packet = a
                        .packet(source_port, b.address(family), port)
                        .data((0..4000u16).map(|i| i as u8).collect::<Vec<_>>())
                        .may_fragment(id);
                    let pieces = packet.pieces(800);
                    // The last first, each to another worker.
                    for (i, piece) in pieces.iter().enumerate().rev() {
                        world.rig.send_to((i + usize::from(id)) % workers, a.port, piece);
                        if id % 3 == 0 {
                            world.rig.settle();
                        }
                    }
                    let arrived: Vec<_> = seen(&world.rig.run()).into_iter().map(|(_, seen)| seen).collect();
                    if port == 53 {
                        assert_eq!(arrived.len(), pieces.len(), "{:?}", world.rig.all_drops());
                        assert_eq!(reassemble(&arrived).unwrap().data, packet.data);
                    } else {
                        assert_eq!(arrived, []);
                    }
                }
            }
        }
        assert_eq!(world.rig.drops(DropReason::PolicyIngress), world.rig.account().dropped());
        assert_eq!(world.rig.account().held, 0);
    }
}

#[test]
fn refusals_and_answers_are_the_same_by_wrong_workers_and_counted_once() {
    for workers in [2, 4] {
        let mut world = world(workers);
        let (a, b) = (world.a.clone(), world.b.clone());
        world.rig.install(Rules::open().ingress(2, &[]).artefact());
        let mut sent = 0;
        for worker in 0..workers {
            for family in FAMILIES {
                for packet in [
                    a.packet(40_000, b.address(family), 80).tcp(SYN, 1, 0),
                    a.packet(4000, nobody(family), 53),
                    a.packet(4000, outside(family), 53).ttl(1),
                ] {
                    world.rig.send_to(worker, a.port, &packet.frame());
                    sent += 1;
                }
            }
        }
        let answers = world.rig.run();
        assert_eq!(answers.len() as u64, sent / 3 * 2);
        assert!(answers.iter().all(|answer| answer.port == a.port));
        for reason in [DropReason::PolicyIngress, DropReason::NoRoute, DropReason::TtlExceeded] {
            assert_eq!(world.rig.drops_of(a.port, reason), sent / 3);
        }
        let account = world.rig.account();
        assert_eq!((account.received, account.dropped(), account.originated), (sent, sent, sent / 3 * 2));
    }
}

#[test]
fn frames_of_a_flow_leave_in_the_order_in_which_they_came() {
    for workers in [1, 2, 4] {
        let mut world = world(workers);
        let (a, b) = (world.a.clone(), world.b.clone());
        let first = a.packet(4000, b.v4, 53);
        let wrong = (world.rig.steer(&first.frame()) + 1) % workers;
        for chunk in 0..4u8 {
            for i in 0..50 {
                world.rig.send_to(wrong, a.port, &first.clone().data([chunk * 50 + i]).frame());
            }
            let order: Vec<u8> = seen(&world.rig.run()).iter().map(|(_, seen)| seen.packet.data[0]).collect();
            assert_eq!(order, (chunk * 50..chunk * 50 + 50).collect::<Vec<_>>());
        }
    }
}

#[test]
fn a_full_ring_between_workers_drops_and_counts() {
    let sizes = Sizes { workers: 2, handover_slots: 8, ..Sizes::default() };
    let mut world = World::with(&sizes);
    let (a, b) = (world.a.clone(), world.b.clone());
    let frame = a.packet(4000, b.v4, 53).frame();
    let wrong = 1 - world.rig.steer(&frame);
    for _ in 0..60 {
        world.rig.send_to(wrong, a.port, &frame);
    }
    world.rig.round(wrong);
    assert_eq!(world.rig.account().between_workers, 8);
    assert_eq!(world.rig.drops_of(a.port, DropReason::HandoverFull), 52);
    world.rig.check();
    assert_eq!(world.rig.run().len(), 8);
}

#[test]
fn a_change_of_policy_reaches_frames_that_are_between_two_workers() {
    let mut world = world(2);
    let (a, b) = (world.a.clone(), world.b.clone());
    let packet = a.packet(4000, b.v4, 53);
    world.reaches(&a, &b, &packet);
    let wrong = 1 - world.rig.steer(&packet.frame());
    world.rig.send_to(wrong, a.port, &packet.frame());
    world.rig.round(wrong);
    assert_eq!(world.rig.account().between_workers, 1);
    world.rig.install(Rules::open().generation(2).ingress(2, &[]).artefact());
    assert_eq!(world.rig.run(), []);
    // And its port may be gone.
    world.rig.send_to(wrong, a.port, &packet.frame());
    world.rig.round(wrong);
    world.rig.detach(a.port);
    assert_eq!(world.rig.run(), []);
    assert_eq!(world.rig.drops(DropReason::PortGone), 1);
}

#[test]
fn frames_of_another_worker_that_find_no_memory_are_dropped_and_counted() {
    let mut world = World::with(&Sizes { workers: 2, chunks: 32, ..Sizes::default() });
    let (a, b) = (world.a.clone(), world.b.clone());
    let frame = a.packet(4000, b.v4, 53).frame();
    let owner = world.rig.steer(&frame);
    for _ in 0..50 {
        world.rig.send_to(1 - owner, a.port, &frame);
    }
    while world.rig.round(1 - owner) > 0 {}
    assert_eq!(world.rig.account().between_workers, 50);
    assert_eq!(world.rig.run().len(), 32);
    assert_eq!(world.rig.drops_of(a.port, DropReason::NoFrame), 18);
}

#[test]
fn pieces_of_ipv6_follow_their_first_although_they_do_not_know_its_protocol() {
    for workers in [1, 2, 4] {
        let mut world = world(workers);
        let (a, b) = (world.a.clone(), world.b.clone());
        world.rig.install(Rules::open().ingress(2, &[allow_port(&[class(1)], UDP, 53)]).artefact());
        for (id, port, expected) in [(1, 53, 3), (2, 54, 0), (3, 53, 3), (4, 54, 0)] {
            // Destination options come before the UDP header, behind the fragment header.
            let udp = a.packet(4000 + id, b.v6, port).data([7; 300]).l4();
            let datagram = [&[UDP, 0, 1, 4, 0, 0, 0, 0], &udp[..]].concat();
            let packet = a.packet(0, b.v6, 0).raw(60).may_fragment(id);
            let mut pieces: Vec<_> = datagram
                .chunks(128)
                .enumerate()
                .map(|(i, part)| packet.piece(i as u16 * 128, i < 2, part))
                .collect();
            if id > 2 {
                pieces.reverse();
            }
            for (i, piece) in pieces.iter().enumerate() {
                world.rig.send_to((i + usize::from(id)) % workers, a.port, piece);
                world.rig.settle();
            }
            assert_eq!(world.rig.run().len(), expected, "{:?}", world.rig.all_drops());
        }
        assert_eq!(world.rig.drops(DropReason::PolicyIngress), 6);
    }
}
