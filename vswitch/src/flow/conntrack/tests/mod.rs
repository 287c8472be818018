//! Each file makes its own kind of claim; what they share is here.

mod adoption;
mod model;
mod pressure;
mod tcp_peers;
mod tcp_table;

use super::*;
use crate::packet::parsed::tcp as bits;
use penstock_api::PortId;

fn settings(flows_max: usize) -> Settings {
    Settings { hasher: KeyHasher::with_seed(1), flows_per_port_max: flows_max, ..Settings::sized(flows_max) }
}

fn key(protocol: u8, from: u16, to: u16) -> FlowKey {
    FlowKey::new(protocol, [10, 0, 0, 1].into(), from, [10, 0, 0, 2].into(), to)
}

fn new(key: FlowKey, port: u16, l4: L4) -> NewFlow {
    NewFlow {
        key,
        reply_key: key.reversed(),
        source: EndpointId(1),
        destination: EndpointId(2),
        source_port: PortId(port),
        destination_port: PortId(2),
        judged: Judged { source: 1, destination: 1, forwarding: 1 },
        egress_rule: 7,
        ingress_rule: 8,
        l4,
    }
}

fn segment(flags: u8, sequence: u32, acknowledgement: u32, payload_len: u16) -> L4 {
    L4::Tcp { flags, sequence, acknowledgement, window: 1000, payload_len }
}

#[test]
fn a_flow_is_found_by_both_tuples_and_counts_each_direction() {
    let mut table = Conntrack::create(settings(16)).unwrap();
    let key = key(protocol::UDP, 1000, 53);
    let id = table.insert(&new(key, 1, L4::Udp), 5).unwrap();
    assert_eq!(table.find(&key, table.hash(&key)), Some((id, Side::Forward)));
    let back = key.reversed();
    assert_eq!(table.find(&back, table.hash(&back)), Some((id, Side::Reply)));
    assert_eq!(table.touch(id, Side::Forward, &L4::Udp, 60, 5), Ok(Touch::Tracked));
    assert_eq!(table.touch(id, Side::Reply, &L4::Udp, 100, 6), Ok(Touch::Tracked));
    assert_eq!(table.touch(id, Side::Reply, &L4::Udp, 100, 7), Ok(Touch::Tracked));
    let entry = table.entry(id);
    assert_eq!((entry.frames(Side::Forward), entry.bytes(Side::Forward)), (1, 60));
    assert_eq!((entry.frames(Side::Reply), entry.bytes(Side::Reply)), (2, 200));
    assert_eq!((entry.key(), entry.reply_key(), entry.last_seen_ms()), (key, back, 7));
    table.remove(id);
    assert_eq!(table.find(&back, table.hash(&back)), None);
    assert!(table.is_empty());
}

#[test]
fn what_may_not_open_a_flow_does_not() {
    let tcp = |flags| may_open(&key(protocol::TCP, 1, 2), &segment(flags, 1, 0, 0));
    assert_eq!(tcp(bits::SYN), Ok(()));
    // With the bits of explicit congestion notification.
    assert_eq!(tcp(bits::SYN | 0xC0), Ok(()));
    for flags in 0..64 {
        if flags & (bits::SYN | bits::ACK | bits::RST | bits::FIN) != bits::SYN {
            assert_eq!(tcp(flags), Err(DropReason::InvalidState), "flags {flags:#x}");
        }
    }
    let other = |protocol, l4| may_open(&key(protocol, 1, 2), &l4);
    assert_eq!(other(protocol::TCP, L4::Other), Err(DropReason::InvalidState));
    assert_eq!(other(protocol::UDP, L4::Udp), Ok(()));
    assert_eq!(other(protocol::ICMP, L4::Echo { request: true }), Ok(()));
    assert_eq!(other(protocol::ICMP, L4::Echo { request: false }), Err(DropReason::UnrelatedIcmp));
    assert_eq!(other(protocol::ICMP, L4::Icmp { kind: 13, code: 0 }), Ok(()));
    assert_eq!(other(protocol::ICMP, L4::Icmp { kind: 14, code: 0 }), Err(DropReason::UnrelatedIcmp));
    assert_eq!(other(47, L4::Other), Ok(()));
}

#[test]
fn an_echo_request_against_the_flow_is_a_question_of_its_own() {
    let mut table = Conntrack::create(settings(16)).unwrap();
    let (request, reply) = (L4::Echo { request: true }, L4::Echo { request: false });
    let id = table.insert(&new(key(protocol::ICMP, 7, 7), 1, request), 0).unwrap();
    assert_eq!(table.touch(id, Side::Forward, &request, 60, 0), Ok(Touch::Tracked));
    assert_eq!(table.touch(id, Side::Reply, &reply, 60, 0), Ok(Touch::Tracked));
    assert_eq!(table.touch(id, Side::Reply, &request, 60, 0), Ok(Touch::Reopen));
    assert_eq!(table.touch(id, Side::Forward, &reply, 60, 0), Err(DropReason::UnrelatedIcmp));
    assert_eq!((table.entry(id).frames(Side::Forward), table.entry(id).frames(Side::Reply)), (1, 1));
}

#[test]
fn a_slot_used_again_is_not_taken_for_the_flow_it_held() {
    let mut table = Conntrack::create(settings(1)).unwrap();
    let first = table.insert(&new(key(protocol::UDP, 1, 2), 1, L4::Udp), 0).unwrap();
    let stamp = table.entry(first).stamp();
    assert!(table.current(first, stamp).is_some());
    table.remove(first);
    assert!(table.current(first, stamp).is_none());
    assert_eq!(table.touch(first, Side::Forward, &L4::Udp, 1, 0), Err(DropReason::InvalidState));
    let second = table.insert(&new(key(protocol::UDP, 3, 4), 1, L4::Udp), 0).unwrap();
    assert_eq!(first, second);
    assert!(table.current(first, stamp).is_none());
    assert!(table.current(second, table.entry(second).stamp()).is_some());
}

#[test]
fn a_translated_flow_is_found_by_the_tuple_its_answers_have() {
    let mut table = Conntrack::create(settings(16)).unwrap();
    let service = key(protocol::UDP, 1000, 53);
    let backend = FlowKey::new(protocol::UDP, [10, 0, 0, 9].into(), 5353, [10, 0, 0, 1].into(), 1000);
    let id = table.insert(&NewFlow { reply_key: backend, ..new(service, 1, L4::Udp) }, 0).unwrap();
    assert_eq!(table.find(&service, table.hash(&service)), Some((id, Side::Forward)));
    assert_eq!(table.find(&backend, table.hash(&backend)), Some((id, Side::Reply)));
    let untranslated = service.reversed();
    assert_eq!(table.find(&untranslated, table.hash(&untranslated)), None);
    // Another flow whose answers would look the same has to be translated differently.
    let clash = NewFlow { reply_key: backend, ..new(key(protocol::UDP, 2000, 53), 1, L4::Udp) };
    assert_eq!(table.insert(&clash, 0), Err(DropReason::ConntrackFull));
    // Zones keep legs with one 5-tuple apart.
    let leg = FlowKey { zone: 1, ..service };
    assert_eq!(table.find(&leg, table.hash(&leg)), None);
    assert!(table.insert(&new(leg, 1, L4::Udp), 0).is_ok());
}

#[test]
fn the_flows_of_an_endpoint_go_with_it_a_piece_at_a_time() {
    let mut table = Conntrack::create(settings(64)).unwrap();
    for n in 0..30 {
        let flow = NewFlow {
            source: EndpointId(n % 3),
            destination: EndpointId(9),
            ..new(key(protocol::UDP, n as u16, 53), 1, L4::Udp)
        };
        table.insert(&flow, 0).unwrap();
    }
    let mut progress = Sweep::default();
    let mut calls = 1;
    while !table.remove_endpoint(EndpointId(1), &mut progress, 10) {
        calls += 1;
    }
    assert_eq!((table.len(), calls), (20, 7));
    assert!(table.iter().all(|(_, entry)| entry.source() != EndpointId(1)));
    let mut progress = Sweep::default();
    assert!(table.remove_endpoint(EndpointId(9), &mut progress, usize::MAX));
    assert!(table.is_empty());
}

#[test]
fn judging_again_is_remembered() {
    let mut table = Conntrack::create(settings(4)).unwrap();
    let id = table.insert(&new(key(protocol::UDP, 1, 2), 1, L4::Udp), 0).unwrap();
    assert_eq!((table.entry(id).egress_rule(), table.entry(id).ingress_rule()), (7, 8));
    let judged = Judged { source: 5, destination: 6, forwarding: 7 };
    table.rejudged(id, judged, 70, 80);
    let entry = table.entry(id);
    assert_eq!((entry.judged(), entry.egress_rule(), entry.ingress_rule()), (judged, 70, 80));
}
