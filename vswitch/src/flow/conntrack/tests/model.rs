//! Random operations against a map, with the rules of eviction and expiry checked rather than repeated.

use super::*;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use std::collections::HashMap;

#[derive(Clone, Debug)]
struct Flow {
    id: FlowId,
    reply_key: FlowKey,
    port: u16,
    state: State,
    created_ms: u64,
    last_seen_ms: u64,
    /// When it entered its present state: the age that counts for eviction.
    since: u64,
    frames: [u64; 2],
    bytes: [u64; 2],
}

/// The length class of what a port could lose.
fn class(flows: &HashMap<FlowKey, Flow>, port: u16) -> u32 {
    let count = flows.values().filter(|f| f.port == port && f.state.is_expendable()).count();
    usize::BITS - count.leading_zeros()
}

/// Checks that `insert` took no more than it may have.
fn check_victims(before: &HashMap<FlowKey, Flow>, after: &Conntrack, new: &NewFlow, limits: &Settings) {
    let gone: Vec<_> = before
        .iter()
        .filter(|(key, flow)| after.find(key, after.hash(key)).is_none_or(|(id, _)| id != flow.id))
        .filter(|(key, flow)| {
            // Over, and in the way.
            let in_the_way = [**key, flow.reply_key].iter().any(|k| [new.key, new.reply_key].contains(k));
            !(in_the_way && flow.state.is_over())
        })
        .map(|(_, flow)| flow)
        .collect();
    assert!(gone.len() <= 1, "one new flow cost {gone:?}");
    let port = new.source_port.0;
    let own = before.values().filter(|f| f.port == port).count();
    for victim in gone {
        assert!(victim.state.is_expendable(), "{victim:?} was worth keeping");
        let older = before
            .values()
            .filter(|f| f.port == victim.port && f.state.is_expendable() && f.since < victim.since)
            .count();
        assert_eq!(older, 0, "{victim:?} was not its port's oldest");
        assert!(own >= limits.flows_per_port_max || before.len() == limits.flows_max, "no need for a victim");
        if victim.port != port {
            assert_eq!(class(before, port), 0, "port {port} had flows of its own to lose");
            let heaviest = (0..8).map(|p| class(before, p)).max();
            assert_eq!(Some(class(before, victim.port)), heaviest);
            assert!(class(before, victim.port) >= 2);
        }
    }
}

#[test]
fn whatever_is_done_the_table_answers_as_a_map_would() {
    for seed in 0..60 {
        println!("seed {seed}");
        let mut rng = StdRng::seed_from_u64(seed);
        let limits = Settings { flows_per_port_max: 12, ..settings(32) };
        let mut table = Conntrack::create(limits.clone()).unwrap();
        let mut flows: HashMap<FlowKey, Flow> = HashMap::new();
        let mut now_ms = 1_000_000;
        let universe: Vec<FlowKey> = (0..64u16)
            .map(|n| key([protocol::UDP, protocol::ICMP, 47][usize::from(n % 3)], n, 1_000 + n))
            .collect();
        for step in 0..2_000u64 {
            let key = universe[rng.random_range(0..universe.len())];
            // Ports of very different greed.
            let port = rng.random_range(0..8u16).min(rng.random_range(0..8));
            match rng.random_range(0..100) {
                0..40 => {
                    let new = new(key, port, L4::Other);
                    let answer = table.insert(&new, now_ms);
                    check_victims(&flows, &table, &new, &limits);
                    let known = flows.contains_key(&key);
                    flows.retain(|k, f| {
                        table
                            .find(k, table.hash(k))
                            .is_some_and(|(id, side)| id == f.id && side == Side::Forward)
                    });
                    match answer {
                        Ok(id) => {
                            assert!(!known, "two flows with one tuple");
                            let flow = Flow {
                                id,
                                reply_key: key.reversed(),
                                port,
                                state: State::Unreplied,
                                created_ms: now_ms,
                                last_seen_ms: now_ms,
                                since: step,
                                frames: [0; 2],
                                bytes: [0; 2],
                            };
                            flows.insert(key, flow);
                        }
                        Err(reason) => {
                            assert_eq!(reason, DropReason::ConntrackFull);
                            let own = flows.values().filter(|f| f.port == port).count();
                            let full = own >= limits.flows_per_port_max || flows.len() == limits.flows_max;
                            assert!(known || (full && class(&flows, port) == 0), "refused without need");
                            if !known && own < limits.flows_per_port_max {
                                assert!((0..8).all(|p| class(&flows, p) < 2), "somebody had plenty to lose");
                            }
                        }
                    }
                }
                40..80 => {
                    let side = if rng.random() { Side::Forward } else { Side::Reply };
                    let looked_up = if side == Side::Forward { key } else { key.reversed() };
                    let found = table.find(&looked_up, table.hash(&looked_up));
                    assert_eq!(found, flows.get(&key).map(|f| (f.id, side)));
                    let Some(flow) = flows.get_mut(&key) else { continue };
                    let bytes = rng.random_range(60..9000);
                    assert_eq!(table.touch(flow.id, side, &L4::Other, bytes, now_ms), Ok(Touch::Tracked));
                    flow.last_seen_ms = now_ms;
                    flow.frames[side as usize] += 1;
                    flow.bytes[side as usize] += u64::from(bytes);
                    let after = match flow.state {
                        State::Unreplied if side == Side::Reply => State::Replied,
                        State::Replied if now_ms - flow.created_ms >= 2_000 => State::Assured,
                        other => other,
                    };
                    if after != flow.state {
                        flow.state = after;
                        flow.since = step;
                    }
                }
                80..85 => {
                    if let Some(flow) = flows.remove(&key) {
                        table.remove(flow.id);
                        table.remove(flow.id);
                    }
                }
                _ => {
                    now_ms += rng.random_range(0..20_000);
                    let before = flows.len();
                    // In small pieces it must come to the same.
                    let mut gone = 0;
                    for _ in 0..200 {
                        gone += table.expire(now_ms, 1);
                    }
                    let timeouts = limits.timeouts;
                    flows.retain(|key, flow| {
                        let silence_ms = timeouts.of(key.protocol, flow.state);
                        let deadline_ms = flow.last_seen_ms + silence_ms;
                        let kept = table.find(key, table.hash(key)).is_some();
                        assert!(kept || deadline_ms <= now_ms, "{flow:?} was forgotten too early");
                        assert!(!kept || deadline_ms + wheel::TICK_MS > now_ms, "{flow:?} was kept too long");
                        kept
                    });
                    assert_eq!(before - flows.len(), gone);
                }
            }
            assert_eq!(table.len(), flows.len());
        }
        let seen: HashMap<FlowKey, [[u64; 2]; 2]> = table
            .iter()
            .map(|(_, e)| (e.key(), [Side::Forward, Side::Reply].map(|s| [e.frames(s), e.bytes(s)])))
            .collect();
        let meant = flows
            .iter()
            .map(|(key, f)| (*key, [[f.frames[0], f.bytes[0]], [f.frames[1], f.bytes[1]]]))
            .collect();
        assert_eq!(seen, meant);
    }
}

#[test]
fn a_flow_expires_within_a_second_of_its_time_after_any_leap_of_the_clock() {
    for leap_ms in [0, 999, 60_000, 7_439_000, 7_440_000, 9_000_000, 100_000_000_000] {
        let mut table = Conntrack::create(settings(8)).unwrap();
        let syn = segment(bits::SYN, 1, 0, 0);
        let start_ms = 5_000;
        let id = table.insert(&new(key(protocol::TCP, 1, 2), 1, syn), start_ms).unwrap();
        for (side, l4) in [
            (Side::Forward, syn),
            (Side::Reply, segment(bits::SYN | bits::ACK, 9, 2, 0)),
            (Side::Forward, segment(bits::ACK, 2, 10, 0)),
        ] {
            assert_eq!(table.touch(id, side, &l4, 60, start_ms), Ok(Touch::Tracked));
        }
        let gone = table.expire(start_ms + leap_ms, usize::MAX);
        if leap_ms < 7_440_000 {
            assert_eq!(gone, 0, "after {leap_ms}");
        } else if leap_ms > 7_441_000 {
            assert_eq!(gone, 1, "after {leap_ms}");
        }
        table.expire(start_ms + leap_ms + 7_441_000, usize::MAX);
        assert!(table.is_empty(), "after {leap_ms}");
    }
}
