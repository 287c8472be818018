//! Floods.

use super::*;

fn syn(n: u32) -> FlowKey {
    let [a, b, c, d] = n.to_be_bytes();
    FlowKey::new(protocol::TCP, [10, a, b, c].into(), u16::from(d) + 1, [11, 0, 0, 2].into(), 80)
}

fn establish(table: &mut Conntrack, key: FlowKey, port: u16) -> FlowId {
    let first = segment(bits::SYN, 100, 0, 0);
    let id = table.insert(&new(key, port, first), 0).unwrap();
    for (side, l4) in [
        (Side::Forward, first),
        (Side::Reply, segment(bits::SYN | bits::ACK, 500, 101, 0)),
        (Side::Forward, segment(bits::ACK, 101, 501, 0)),
    ] {
        assert_eq!(table.touch(id, side, &l4, 60, 0), Ok(Touch::Tracked));
    }
    assert_eq!(table.entry(id).state(), State::Established);
    id
}

#[test]
fn a_million_syns_of_one_port_evict_only_its_own_half_open_flows() {
    let mut table = Conntrack::create(Settings { flows_per_port_max: 512, ..settings(2_048) }).unwrap();
    let own = establish(&mut table, key(protocol::TCP, 1, 80), 6);
    let established: Vec<_> =
        (0..500).map(|n| establish(&mut table, key(protocol::TCP, 1_000 + n, 80), 7)).collect();
    let half_open: Vec<_> = (0..500)
        .map(|n| {
            let l4 = segment(bits::SYN, 1, 0, 0);
            table.insert(&new(key(protocol::TCP, 2_000 + n, 80), 8, l4), 0).unwrap()
        })
        .collect();
    let stamps = |table: &Conntrack| -> Vec<u32> {
        established.iter().chain(&half_open).chain([&own]).map(|id| table.entry(*id).stamp()).collect()
    };
    let before = stamps(&table);
    for n in 0..1_000_000 {
        assert!(table.insert(&new(syn(n), 6, segment(bits::SYN, 1, 0, 0)), 0).is_ok());
    }
    assert_eq!(stamps(&table), before);
    assert!(established.iter().chain([&own]).all(|id| table.entry(*id).state() == State::Established));
    assert_eq!(table.len(), 500 + 500 + 512);
    // And the port itself keeps its newest.
    assert!(table.find(&syn(999_999), table.hash(&syn(999_999))).is_some());
    assert!(table.find(&syn(0), table.hash(&syn(0))).is_none());
}

#[test]
fn when_many_ports_flood_a_full_table_a_quiet_one_still_opens_flows() {
    let mut table = Conntrack::create(Settings { flows_per_port_max: 512, ..settings(1_024) }).unwrap();
    for n in 0..100_000 {
        let _ = table.insert(&new(syn(n), (n % 4) as u16, segment(bits::SYN, 1, 0, 0)), 0);
    }
    assert_eq!(table.len(), 1_024);
    for n in 0..200 {
        establish(&mut table, key(protocol::TCP, 1_000 + n, 80), 9);
    }
    assert_eq!(table.iter().filter(|(_, e)| e.state() == State::Established).count(), 200);
}

#[test]
fn a_port_full_of_established_flows_opens_no_more_and_others_do() {
    let mut table = Conntrack::create(Settings { flows_per_port_max: 16, ..settings(64) }).unwrap();
    for n in 0..16 {
        establish(&mut table, key(protocol::TCP, n, 80), 1);
    }
    let one_more = new(key(protocol::TCP, 99, 80), 1, segment(bits::SYN, 1, 0, 0));
    assert_eq!(table.insert(&one_more, 0), Err(DropReason::ConntrackFull));
    assert!(table.insert(&NewFlow { source_port: PortId(2), ..one_more }, 0).is_ok());
    assert_eq!(table.len(), 17);
}

#[test]
fn a_table_filled_to_the_last_slot_finds_every_flow() {
    let limits = Settings { flows_per_port_max: 100_000, ..settings(100_000) };
    let mut table = Conntrack::create(limits).unwrap();
    for n in 0..100_000 {
        table.insert(&new(syn(n), 1, segment(bits::SYN, 1, 0, 0)), 0).unwrap();
    }
    for n in 0..100_000 {
        let back = syn(n).reversed();
        assert_eq!(table.find(&back, table.hash(&back)).map(|(_, side)| side), Some(Side::Reply));
    }
}
