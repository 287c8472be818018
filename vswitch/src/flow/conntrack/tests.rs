use super::*;
use crate::packet::parsed::tcp as bits;
use penstock_api::PortId;

pub(super) fn settings(flows_max: usize) -> Settings {
    Settings { hasher: KeyHasher::with_seed(1), flows_per_port_max: flows_max, ..Settings::sized(flows_max) }
}

pub(super) fn key(protocol: u8, from: u16, to: u16) -> FlowKey {
    FlowKey::new(protocol, [10, 0, 0, 1].into(), from, [10, 0, 0, 2].into(), to)
}

pub(super) fn new(key: FlowKey, port: u16, l4: L4) -> NewFlow {
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

pub(super) fn segment(flags: u8, sequence: u32, acknowledgement: u32, payload_len: u16) -> L4 {
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
fn a_handshake_establishes_and_two_fins_end() {
    let mut table = Conntrack::create(settings(16)).unwrap();
    let key = key(protocol::TCP, 1000, 80);
    let syn = segment(bits::SYN, 100, 0, 0);
    let id = table.insert(&new(key, 1, syn), 0).unwrap();
    let mut step = |side, l4: L4, state| {
        assert_eq!(table.touch(id, side, &l4, 60, 1), Ok(Touch::Tracked));
        assert_eq!(table.entry(id).state(), state);
    };
    step(Side::Forward, syn, State::SynSent);
    step(Side::Reply, segment(bits::SYN | bits::ACK, 500, 101, 0), State::SynReceived);
    step(Side::Forward, segment(bits::ACK, 101, 501, 0), State::Established);
    step(Side::Forward, segment(bits::ACK, 101, 501, 50), State::Established);
    step(Side::Reply, segment(bits::ACK | bits::FIN, 501, 151, 10), State::Closing);
    step(Side::Forward, segment(bits::ACK | bits::FIN, 151, 512, 0), State::Closing);
    step(Side::Reply, segment(bits::ACK, 512, 152, 0), State::TimeWait);
    step(Side::Reply, segment(bits::ACK | bits::FIN, 501, 151, 10), State::TimeWait);
    assert_eq!(
        table.touch(id, Side::Reply, &segment(bits::ACK, 512, 152, 1), 60, 1),
        Err(DropReason::InvalidState)
    );
    assert_eq!(table.touch(id, Side::Reply, &segment(bits::SYN, 9, 0, 0), 60, 1), Ok(Touch::Reopen));
}
