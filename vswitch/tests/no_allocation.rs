//! The pipeline allocates nothing per packet: not for hits, not for misses, new flows, expiry, hand-over, fragments, drops
//! or answers. Counted are allocations within [`Engine::round`](penstock_vswitch::worker::engine::Engine::round), and only
//! there: what the test itself does around it may allocate.

#[path = "pipeline/frames.rs"]
mod frames;
#[path = "pipeline/world.rs"]
mod world;

use frames::*;
use penstock_api::artefact::Service;
use penstock_api::{Action, PortId};
use penstock_vswitch::flow::FragmentLimits;
use penstock_vswitch::rig::Sizes;
use world::*;

/// A frame, and the port it comes from.
type Frame = (PortId, Vec<u8>);

/// Frames, and what the test does before they are sent.
struct Scenario {
    what: &'static str,
    prepare: fn(&mut World),
    frames: fn(&World, u16) -> Vec<Frame>,
}

fn nothing(_: &mut World) {}

/// From `a`, and answers from `b`.
fn both_ways(world: &World, packets: impl IntoIterator<Item = Packet>) -> Vec<Frame> {
    packets
        .into_iter()
        .map(|packet| {
            let owner = world.ends().into_iter().find(|end| end.mac == packet.source_mac);
            (owner.map_or(PortId::HOST, |end| end.port), packet.frame())
        })
        .collect()
}

fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario {
            what: "packets of flows that are cached, both directions",
            prepare: nothing,
            frames: |w, _| {
                FAMILIES
                    .into_iter()
                    .flat_map(|family| {
                        let packet = w.a.packet(4000, w.b.address(family), 53).data([0; 64]);
                        let answer = packet.reversed().with_mac(w.b.mac);
                        both_ways(w, [packet.clone(), answer.clone(), packet, answer])
                    })
                    .collect()
            },
        },
        Scenario {
            what: "new flows of every protocol",
            prepare: nothing,
            frames: |w, round| {
                let port = 10_000 + round;
                let to = w.b.address(FAMILIES[usize::from(round % 2)]);
                let out = w.a.packet(port, to, 80);
                let back = out.reversed().with_mac(w.b.mac);
                both_ways(
                    w,
                    [
                        out.clone().tcp(SYN, 1000, 0),
                        back.clone().tcp(SYN | ACK, 5000, 1001),
                        out.clone().tcp(ACK, 1001, 5001),
                        out.clone().tcp(ACK | FIN, 1001, 5001),
                        back.tcp(ACK | FIN, 5001, 1002),
                        out.clone().tcp(ACK, 1002, 5002),
                        out.clone(),
                        out.clone().sctp(),
                        out.clone().echo(true, port),
                        out.clone().raw(47),
                        out.error(to, if to.is_ipv4() { 3 } else { 1 }, 3).with_mac(w.b.mac),
                    ],
                )
            },
        },
        Scenario {
            what: "a flood of new flows through a full table",
            prepare: nothing,
            frames: |w, round| {
                (0..60)
                    .flat_map(|i| {
                        let port = 1 + (round * 60 + i) % 60_000;
                        both_ways(w, [w.c.packet(port, w.b.v4, 80).tcp(SYN, 1, 0)])
                    })
                    .collect()
            },
        },
        Scenario {
            what: "flows judged again under newer policy, and cut",
            prepare: |w| {
                let generation = w.rig.snapshot().generation().0 + 1;
                let rules = Rules::open().generation(generation);
                let rules = match generation % 3 {
                    0 => rules.ingress(2, &[]),
                    1 => rules.ingress(3, &[]),
                    _ => rules,
                };
                w.rig.install(rules.artefact());
            },
            frames: |w, _| {
                let packet = w.a.packet(4000, w.b.v4, 53);
                let answer = packet.reversed().with_mac(w.b.mac);
                both_ways(w, [packet, answer, w.a.packet(40_000, w.b.v6, 80).tcp(SYN, 1, 0)])
            },
        },
        Scenario {
            what: "flows and pieces that expire",
            prepare: |w| {
                w.rig.install(Rules::open().generation(1_000_000).artefact());
                w.rig.now_ms += 40_000;
            },
            frames: |w, round| {
                let packet = w.a.packet(20_000 + round, w.b.v4, 53).data([0; 200]).may_fragment(round);
                vec![
                    (w.a.port, packet.frame()),
                    (w.a.port, packet.pieces(80)[1].clone()),
                    (w.a.port, packet.reversed().with_mac(w.a.mac).pieces(80)[0].clone()),
                ]
            },
        },
        Scenario {
            what: "datagrams in pieces, in order and not, complete, overlapping, tiny, without end",
            prepare: nothing,
            frames: |w, round| {
                let packet = w.a.packet(4000, w.b.address(FAMILIES[usize::from(round % 2)]), 53);
                let packet = packet.data([0; 2000]).may_fragment(round);
                let mut pieces = packet.pieces(400);
                let l4 = packet.l4();
                match round % 5 {
                    0 => pieces.reverse(),
                    1 => pieces.push(packet.piece(392, true, &l4[392..408])),
                    2 => pieces = vec![packet.piece(0, true, &l4[..8]), packet.piece(8, true, &l4[..8])],
                    3 => pieces.rotate_left(2),
                    _ => drop(pieces.remove(0)),
                }
                pieces.into_iter().map(|piece| (w.a.port, piece)).collect()
            },
        },
        Scenario {
            what: "drops for policy, state, form and lies, and what is said about them",
            prepare: |w| {
                let generation = w.rig.snapshot().generation().0 + 1;
                let reject = [entry(Action::Reject, &[], Service::Any)];
                let rules = Rules::open().ingress(2, &[]).ingress(3, &reject);
                w.rig.install(rules.generation(generation).artefact());
            },
            frames: |w, _| {
                let mut frames = Vec::new();
                for family in FAMILIES {
                    let (refused, rejected) = (w.b.address(family), w.c.address(family));
                    let out = w.a.packet(4000, refused, 53);
                    frames.extend(both_ways(
                        w,
                        [
                            out.clone(),
                            out.clone().tcp(ACK, 1, 1),
                            out.clone().echo(false, 1),
                            out.error(refused, if family == 4 { 3 } else { 1 }, 3).with_mac(w.b.mac),
                            w.a.packet(4000, rejected, 53),
                            w.a.packet(4000, rejected, 53).tcp(SYN, 1, 0),
                            w.a.packet(4000, nobody(family), 53),
                            w.a.packet(4000, outside(family), 53).ttl(1),
                            w.b.packet(4000, rejected, 53).with_mac(w.a.mac),
                        ],
                    ));
                    let frame = out.frame();
                    frames.extend([(w.a.port, frame[..30].to_vec()), (w.a.port, vec![0xaa; 60])]);
                }
                frames.push((PortId(40), w.a.packet(4000, w.b.v4, 53).frame()));
                frames
            },
        },
        Scenario {
            what: "what the gateway answers",
            prepare: nothing,
            frames: |w, _| {
                let a = &w.a;
                vec![
                    (a.port, arp(1, a.mac, a.mac, v4_of(a.v4), v4_of(GATEWAY4))),
                    (a.port, arp(1, a.mac, a.mac, v4_of(a.v4), v4_of(a.v4))),
                    (a.port, solicitation(a.mac, v6_of(a.v6), v6_of(GATEWAY6), Some(a.mac))),
                    (a.port, a.packet(0, GATEWAY4, 0).echo(true, 1).data([0; 900]).frame()),
                    (a.port, a.packet(0, GATEWAY6, 0).echo(true, 1).data([0; 900]).frame()),
                ]
            },
        },
        Scenario {
            what: "jumbo frames, split and too big",
            prepare: |w| {
                let generation = w.rig.snapshot().generation().0 + 1;
                w.rig.install(Rules::open().generation(generation).artefact());
                w.rig.set_mtu(w.a.port, 9000);
                w.rig.set_mtu(w.c.port, 9000);
            },
            frames: |w, round| {
                both_ways(
                    w,
                    [
                        w.a.packet(4000, w.c.v4, 53).data([0; 8900]),
                        w.a.packet(4000, w.b.v4, 53).data([0; 8900]).may_fragment(round),
                        w.a.packet(4000, w.b.v4, 53).data([0; 8900]),
                        w.a.packet(4000, w.b.v6, 53).data([0; 8900]),
                    ],
                )
            },
        },
    ]
}

fn run(workers: usize, direct: usize) {
    let sizes = Sizes {
        workers,
        // In an area of their own: every frame between them and the others is copied.
        direct,
        zero_copy_chunks: if direct > 0 { 256 } else { 0 },
        flows_max: 512,
        flows_per_port_max: 256,
        cache_entries: 256,
        // All of it is meant to be exhausted at times, the bin for old snapshots included.
        handover_slots: 32,
        fragments: FragmentLimits { datagrams_max: 64, held_max: 64, ..FragmentLimits::default() },
        ..Sizes::default()
    };
    let mut world = World::with(&sizes);
    let mut delivered = Vec::new();
    let mut counted = 0;
    for scenario in scenarios() {
        for round in 0..40u16 {
            (scenario.prepare)(&mut world);
            for (i, (port, frame)) in (scenario.frames)(&world, round).into_iter().enumerate() {
                // To all workers in turn: with several, most come to a wrong one.
                world.rig.send_to((i + usize::from(round)) % workers, port, &frame);
            }
            for turn in 0..6 {
                for worker in 0..workers {
                    let rig = &mut world.rig;
                    let info = allocation_counter::measure(|| {
                        rig.round(worker);
                    });
                    counted += 1;
                    assert_eq!(
                        info.count_total, 0,
                        "{}: {} allocations, {} bytes, in round {round}, turn {turn}, of {workers} workers",
                        scenario.what, info.count_total, info.bytes_total
                    );
                }
                world.rig.now_ms += 1;
            }
            delivered.clear();
            world.rig.collect(&mut delivered);
        }
    }
    // It was not idle.
    let account = world.rig.account();
    assert!(counted > 2_000 && account.transmitted > 3_000, "{account:#?}");
    assert!(workers == 1 || account.handed_over > 1_000 || direct > 0);
    assert!((world.rig.area_copies() > 1_000) == (direct > 0));
    assert!(account.originated > 500);
    assert!(account.drops.len() >= 12, "{:?}", account.drops);
    assert!(world.rig.cache_hits() > 200);
}

#[test]
fn a_round_of_one_worker_allocates_nothing() {
    run(1, 0);
}

#[test]
fn a_round_of_two_workers_allocates_nothing_hand_over_included() {
    run(2, 0);
}

#[test]
fn a_round_of_a_worker_with_two_areas_allocates_nothing() {
    run(1, 2);
    run(2, 2);
}

#[test]
fn the_counter_would_see_an_allocation() {
    let info = allocation_counter::measure(|| drop(std::hint::black_box(vec![1u8; 10])));
    assert_eq!(info.count_total, 1);
}
