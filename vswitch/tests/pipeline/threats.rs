//! Attacks, one test per row (5 to 9: see `malformed.rs`) of the list of what must hold, as far as memory ports can show it. Row 10 (offloads toggled
//! by the pod) needs a kernel, and so do the shares of throughput in rows 6 and 12.

use super::frames::*;
use super::world::*;
use penstock_api::{DropReason, PortId};
use penstock_vswitch::flow::FragmentLimits;
use penstock_vswitch::rig::Sizes;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Frames in whole batches; what comes out is given to `look`.
fn flood(
    world: &mut World,
    frames: impl Iterator<Item = (PortId, Vec<u8>)>,
    mut look: impl FnMut(PortId, &[u8]),
) {
    let mut frames = frames.peekable();
    while frames.peek().is_some() {
        for (port, frame) in frames.by_ref().take(200) {
            let worker = world.rig.steer(&frame);
            world.rig.send_to(worker, port, &frame);
        }
        world.rig.now_ms += 1;
        for delivered in world.rig.run() {
            look(delivered.port, &delivered.frame);
        }
    }
}

#[test]
fn threat_01_arp_and_nd_spoofing_changes_nothing() {
    let mut world = World::new();
    let (a, b, c) = (world.a.clone(), world.b.clone(), world.c.clone());
    let packets: Vec<_> = FAMILIES.iter().map(|family| world.connect(&a, &b, *family, 40_000)).collect();
    let before = format!("{:?}", world.rig.snapshot().addresses.get(&b.v4));
    // c says it is b, or the gateway: asking, answering, announcing, to whom it may concern.
    let mut lies = Vec::new();
    for sender in [v4_of(b.v4), v4_of(GATEWAY4)] {
        for operation in [1, 2] {
            for target in [sender, v4_of(a.v4), v4_of(c.v4)] {
                for (ethernet, inner) in [(c.mac, c.mac), (b.mac, b.mac), (c.mac, b.mac), (b.mac, c.mac)] {
                    lies.push(arp(operation, ethernet, inner, sender, target));
                }
            }
        }
    }
    for claimed in [v6_of(b.v6), v6_of(GATEWAY6)] {
        for (mac, option) in [(c.mac, c.mac), (b.mac, b.mac), (c.mac, b.mac)] {
            lies.push(solicitation(mac, claimed, v6_of(a.v6), Some(option)));
            let advertisement = |source: IpAddr, to: IpAddr| {
                Packet::new(source, 0, to, 0)
                    .icmp(136, 0, [0x20, 0, 0, 0])
                    .data([&claimed.octets()[..], &[2, 1], &option].concat())
                    .ttl(255)
                    .with_mac(mac)
                    .frame()
            };
            lies.push(advertisement(claimed.into(), a.v6));
            lies.push(advertisement(c.v6, a.v6));
            lies.push(advertisement(c.v6, "ff02::1".parse().unwrap()));
        }
    }
    // RARP and its answers, which nobody should speak any more.
    let mut rarp = arp(4, c.mac, c.mac, v4_of(b.v4), v4_of(a.v4));
    rarp[12..14].copy_from_slice(&[0x80, 0x35]);
    lies.push(rarp);
    for lie in &lies {
        assert_eq!(world.rig.exchange(c.port, lie), [], "{lie:02x?}");
    }
    let drops = world.rig.drops_of(c.port, DropReason::Spoofed)
        + world.rig.drops_of(c.port, DropReason::NeighbourMessage)
        + world.rig.drops_of(c.port, DropReason::Martian);
    let multicast = world.rig.drops_of(c.port, DropReason::Multicast);
    assert_eq!(drops + multicast, lies.len() as u64, "{:?}", world.rig.all_drops());
    assert_eq!(format!("{:?}", world.rig.snapshot().addresses.get(&b.v4)), before);
    for packet in &packets {
        assert_eq!(world.reaches(&a, &b, packet).destination_mac, b.mac);
    }
}

#[test]
fn threat_02_nothing_with_a_source_not_its_own_leaves_a_port() {
    // 10^5 here, where 10^6 are asked for: this is a build that checks itself.
    let mut world = World::new();
    let [a, b, c, host] = world.ends().map(Clone::clone);
    let seed = rand::random::<u32>().into();
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let mut sent = 0;
    let frames = std::iter::from_fn(|| {
        sent += 1;
        let is_v4 = rng.random();
        let to = if is_v4 { b.v4 } else { b.v6 };
        let random4 = IpAddr::V4(Ipv4Addr::from_bits(rng.random::<u32>()));
        let random6 = IpAddr::V6(Ipv6Addr::from_bits(rng.random::<u128>()));
        let near4 = IpAddr::V4(Ipv4Addr::new(10, 0, 0, rng.random()));
        let near6 = IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, rng.random()));
        let choices = match is_v4 {
            true => [random4, near4, b.v4, c.v4, host.v4, GATEWAY4],
            false => [random6, near6, b.v6, c.v6, host.v6, GATEWAY6],
        };
        let source = choices[rng.random_range(0..choices.len())];
        // Its own, or one it may have given itself.
        let own =
            a.addresses().contains(&source) || matches!(source, IpAddr::V6(v6) if v6.is_unicast_link_local());
        // A lie about the address, the MAC, or both; a MAC one bit off among them.
        let mut mac = a.mac;
        if own || rng.random_ratio(1, 4) {
            match rng.random_range(0..3) {
                0 => mac[rng.random_range(0..6)] ^= 1 << rng.random_range(0..8u8),
                1 => mac = b.mac,
                _ => mac = rng.random(),
            }
        }
        let packet = Packet::new(source, rng.random_range(1..=u16::MAX), to, rng.random_range(1..=u16::MAX));
        let packet = packet.with_mac(mac);
        let frame = match rng.random_range(0..7) {
            0 if is_v4 => arp(1, mac, if rng.random() { a.mac } else { mac }, v4_of(source), v4_of(GATEWAY4)),
            0 => solicitation(mac, v6_of(source), v6_of(GATEWAY6), Some(mac)),
            1 => packet.tcp(SYN, 1, 0).frame(),
            2 => packet.echo(true, 1).frame(),
            3 => packet.sctp().frame(),
            4 => packet.raw(47).data([0; 8]).frame(),
            5 => packet.data([0; 100]).pieces(48)[0].clone(),
            _ => packet.frame(),
        };
        (sent <= 100_000).then_some((a.port, frame))
    });
    let mut arrived = 0;
    flood(&mut world, frames, |port, frame| {
        println!("{port}: {frame:02x?}");
        arrived += 1;
    });
    assert_eq!(arrived, 0);
    assert_eq!(world.rig.account().dropped(), 100_000);
    let spoofed = world.rig.drops_of(a.port, DropReason::Spoofed);
    assert!(spoofed > 60_000, "{:?}", world.rig.all_drops());
}

#[test]
fn threat_03_no_pod_plays_the_router_or_the_dhcp_server() {
    let mut world = World::new();
    let (a, b) = (world.a.clone(), world.b.clone());
    let link_local: IpAddr = "fe80::ff:fe00:1".parse().unwrap();
    let all_nodes: IpAddr = "ff02::1".parse().unwrap();
    let mut frames = Vec::new();
    // Router advertisements and redirects, from any address, to one pod or to all.
    for kind in [134, 137, 133, 138] {
        for source in [a.v6, link_local, GATEWAY6, b.v6] {
            for to in [b.v6, all_nodes] {
                frames
                    .push(Packet::new(source, 0, to, 0).icmp(kind, 0, [64, 0, 7, 8]).data([0; 40]).ttl(255));
            }
        }
    }
    for (kind, code) in [(5, 0), (5, 1), (9, 0), (10, 0), (4, 0)] {
        for source in [a.v4, GATEWAY4] {
            let quoted = b.packet(4000, a.v4, 53);
            let quote = quoted.ip(&quoted.l4(), None);
            for to in [b.v4, IpAddr::V4(Ipv4Addr::BROADCAST)] {
                frames
                    .push(Packet::new(source, 0, to, 0).icmp(kind, code, [10, 0, 0, 1]).data(quote.clone()));
            }
        }
    }
    // DHCP offers, from the server's port or another.
    for source_port in [67, 4000] {
        for to in [b.v4, IpAddr::V4(Ipv4Addr::BROADCAST)] {
            frames.push(a.packet(source_port, to, 68).data(vec![2; 240]));
        }
    }
    for source_port in [547, 4000] {
        for (source, to) in [(a.v6, b.v6), (link_local, b.v6), (link_local, all_nodes)] {
            frames.push(Packet::new(source, source_port, to, 546).data(vec![2; 100]));
        }
    }
    for packet in frames {
        let packet = packet.with_mac(a.mac);
        assert_eq!(world.rig.exchange(a.port, &packet.frame()), [], "{packet:?}");
    }
    assert_eq!(world.rig.flows(), 0);
}

#[test]
fn threat_04_no_wrapping_makes_a_refused_frame_pass() {
    let mut world = World::new();
    let (a, b) = (world.a.clone(), world.b.clone());
    world.rig.install(Rules::open().ingress(2, &[]).artefact());
    let frames = [
        a.packet(40_000, b.v4, 80).tcp(SYN, 1, 0).frame(),
        a.packet(40_000, b.v6, 80).frame(),
        arp(2, a.mac, a.mac, v4_of(GATEWAY4), v4_of(b.v4)),
        Packet::new(a.v6, 0, b.v6, 0).icmp(134, 0, [0; 4]).with_mac(a.mac).frame(),
    ];
    let mut sent = 0;
    for frame in &frames {
        let (macs, rest) = frame.split_at(12);
        // 0 to 4 tags of every kind, VLAN 0 ("priority only") among them.
        for tags in 0..=4usize {
            for kind in [[0x81, 0x00], [0x88, 0xa8], [0x91, 0x00]] {
                for vlan in [0u16, 1, 0xe000, 4095] {
                    let tag = [kind, vlan.to_be_bytes()].concat().repeat(tags);
                    // LLC/SNAP between tags and packet: a length where the type was, then AA AA 03, OUI, type.
                    let inner = [&[0, 8 + (rest.len() - 2) as u8, 0xaa, 0xaa, 3, 0, 0, 0], rest].concat();
                    for wrapped in [rest.to_vec(), inner] {
                        let frame = [macs, &tag, &wrapped].concat();
                        assert_eq!(world.rig.exchange(a.port, &frame), [], "{frame:02x?}");
                        sent += 1;
                    }
                }
            }
        }
    }
    assert_eq!(world.rig.account().dropped(), sent);
}

#[test]
fn threat_11_land_martians_options_and_spent_packets_reach_nobody() {
    let mut world = World::new();
    let [a, b, _, host] = world.ends().map(Clone::clone);
    let v4 = |s: &str| s.parse::<IpAddr>().unwrap();
    let mut table = vec![
        (a.packet(80, a.v4, 80).tcp(SYN, 1, 0), DropReason::Land),
        (a.packet(80, a.v6, 80).tcp(SYN, 1, 0), DropReason::Land),
        (a.packet(4000, b.v4, 53).ttl(0), DropReason::TtlExceeded),
        (a.packet(4000, b.v6, 53).ttl(1), DropReason::TtlExceeded),
    ];
    for to in [
        "127.0.0.1",
        "127.255.0.9",
        "0.0.0.0",
        "0.1.2.3",
        "240.0.0.1",
        "169.254.169.254",
        "::1",
        "::",
        "::ffff:10.0.0.2",
        "::ffff:127.0.0.1",
        "fec0::1",
    ] {
        table.push((a.packet(4000, v4(to), 53), DropReason::Martian));
    }
    for to in ["224.0.0.1", "239.1.2.3", "255.255.255.255", "ff02::1", "ff0e::1"] {
        table.push((a.packet(4000, v4(to), 53), DropReason::Multicast));
    }
    for (source, to) in [
        ("127.0.0.1", b.v4),
        ("0.0.0.0", b.v4),
        ("224.0.0.1", b.v4),
        ("255.255.255.255", b.v4),
        ("::1", b.v6),
        ("::", b.v6),
        ("ff02::1", b.v6),
        ("::ffff:10.0.0.1", b.v6),
    ] {
        let packet = Packet::new(v4(source), 4000, to, 53).with_mac(a.mac);
        table.push((packet, DropReason::Martian));
    }
    for (packet, reason) in &table {
        let answers = world.refused(&a, packet, *reason);
        assert!(answers.iter().all(|(port, _)| *port == a.port), "{packet:?}: {answers:?}");
        assert!(answers.is_empty() || *reason == DropReason::TtlExceeded);
    }
    // From the host as well: what comes through it may come from anywhere.
    for (packet, reason) in table.iter().filter(|(_, reason)| *reason != DropReason::TtlExceeded) {
        let packet = packet.clone().with_mac(HOST_MAC);
        assert_eq!(world.refused(&host, &packet, *reason), []);
    }
    // Options: record route, loose and strict source route, timestamp, and plain padding.
    for option in [[7, 4, 4, 0], [131, 4, 4, 0], [137, 4, 4, 0], [68, 4, 5, 0], [1, 1, 1, 0]] {
        let mut frame = a.packet(4000, b.v4, 53).frame();
        frame[14] = 0x46;
        let len = (frame.len() - 14 + 4) as u16;
        frame[16..18].copy_from_slice(&len.to_be_bytes());
        frame.splice(34..34, option);
        let sum = internet_checksum(&frame[14..38]);
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
        assert_eq!(world.refused_frame(&a, &frame, DropReason::IpOptions), []);
    }
    assert_eq!(world.rig.account().transmitted, world.rig.drops(DropReason::TtlExceeded));
}

#[test]
fn threat_12_no_frame_makes_more_than_one_and_nothing_is_flooded() {
    let mut world = World::new();
    let [a, b, c, host] = world.ends().map(Clone::clone);
    // Nobody's destination MAC, everybody's, another pod's: the switch looks at addresses, and floods nothing.
    let mut delivered = 0;
    for mac in [[0xff; 6], [1, 0, 0x5e, 0, 0, 1], [0x33, 0x33, 0, 0, 0, 1], c.mac, [2, 9, 9, 9, 9, 9]] {
        for family in FAMILIES {
            for to in [b.address(family), nobody(family), outside(family)] {
                let mut packet = a.packet(4000, to, 53);
                packet.destination_mac = mac;
                let got = world.rig.exchange(a.port, &packet.frame());
                assert!(got.len() <= 1, "{packet:?} became {got:?}");
                assert!(got.iter().all(|d| d.port != c.port));
                delivered += got.len();
            }
        }
    }
    assert_eq!(delivered, 5 * 2 * 3);
    // A storm of broadcasts and of questions: nothing is sent to others, and answers are no more than questions.
    let storm = (0..20_000u32).map(|i| {
        let frame = match i % 4 {
            0 => a.packet(4000, "255.255.255.255".parse().unwrap(), 53).frame(),
            1 => a.packet(4000, "ff02::1".parse().unwrap(), 53).frame(),
            2 => arp(1, a.mac, a.mac, v4_of(a.v4), Ipv4Addr::from_bits(0x0a00_0002 + i)),
            _ => a.packet(4000, nobody(4), 53).frame(),
        };
        (a.port, frame)
    });
    let (mut to_a, mut to_others) = (0, 0);
    flood(&mut world, storm, |port, _| *(if port == a.port { &mut to_a } else { &mut to_others }) += 1);
    assert_eq!(to_others, 0);
    assert!(to_a <= 10_000);
    // ICMP errors are few whatever the storm: ten per millisecond.
    assert!(to_a - 5_000 <= 20_000 / 200 * 10, "{to_a}");
    world.rig.now_ms += 1;
    // No loop: what the host is given does not come back for it, nor an answer to an answer.
    let out = world.rig.exchange(a.port, &a.packet(4000, outside(4), 53).frame());
    let back = world.rig.exchange(host.port, &out[0].frame);
    assert!(back.is_empty(), "{back:?}");
    let unreachable = world.rig.exchange(a.port, &a.packet(4001, nobody(4), 53).frame());
    assert_eq!(world.rig.exchange(a.port, &unreachable[0].frame), []);
}

#[test]
fn threat_13_vxlan_from_a_pod_is_udp_like_any_other_and_nothing_is_learned_from_it() {
    let mut world = World::new();
    let [a, b, c, host] = world.ends().map(Clone::clone);
    let inner = b.packet(4000, c.v4, 53).data("from b, it says").frame();
    let mut packets = Vec::new();
    for port in [4789, 8472] {
        for vni in [0u8, 1, 255] {
            let once = [&[8, 0, 0, 0, 0, 0, vni, 0], &inner[..]].concat();
            let nested = a.packet(4000, b.v4, port).data(once.clone()).frame();
            let twice = [&[8, 0, 0, 0, 0, 0, vni, 0], &nested[..]].concat();
            for data in [once, twice] {
                packets.push(a.packet(4000, b.v4, port).data(data.clone()));
                packets.push(a.packet(4000, b.v6, port).data(data));
            }
        }
    }
    for packet in &packets {
        // Allowed as UDP it arrives as it is, wrapped, at who it is addressed to.
        assert_eq!(world.reaches(&a, &b, packet).data, packet.data);
        // To the gateway or the host's tunnel port it is no tunnel either.
        let to_host = Packet { destination: host.v4, ..packet.clone() };
        if packet.source.is_ipv4() {
            world.reaches(&a, &host, &to_host);
        }
    }
    let flows = world.rig.flows();
    world.rig.install(Rules::open().generation(2).ingress(2, &[]).artefact());
    for packet in &packets {
        world.dropped(&a, packet, DropReason::PolicyIngress);
    }
    assert!(world.rig.flows() < flows);
    assert!(world.rig.flow(&b.packet(4000, c.v4, 53).key()).is_none(), "the inner flow is nobody's");
}

#[test]
fn threat_19_frames_are_conserved_when_everything_is_exhausted() {
    for workers in [1, 2, 4] {
        let sizes = Sizes {
            workers,
            chunks: 32,
            ring_slots: 64,
            handover_slots: 8,
            flows_max: 64,
            flows_per_port_max: 32,
            cache_entries: 16,
            fragments: FragmentLimits { datagrams_max: 16, held_max: 16, ..FragmentLimits::default() },
            ..Sizes::default()
        };
        let mut world = World::with(&sizes);
        let [a, b, c, _] = world.ends().map(Clone::clone);
        world.rig.set_mtu(b.port, 1280);
        world.rig.set_mtu(c.port, 9000);
        let seed = rand::random::<u32>().into();
        println!("seed {seed}");
        let mut rng = StdRng::seed_from_u64(seed);
        let mut refused_at_the_door = 0;
        for round in 0..3_000 {
            // Much more than can be dealt with, in every size, and pieces that wait for nothing.
            for _ in 0..rng.random_range(0..40) {
                let (from, to) = if rng.random() { (&a, &b) } else { (&c, &b) };
                let id = rng.random();
                let packet = from.packet(rng.random_range(1..100), to.v4, 53).may_fragment(id);
                let frame = match rng.random_range(0..5) {
                    0 => packet.data(vec![0; rng.random_range(0..8_000)]).frame(),
                    1 => packet.data([0; 100]).pieces(48)[rng.random_range(0..3)].clone(),
                    2 => packet.ttl(1).frame(),
                    3 => a.packet(rng.random_range(1..1000), b.v6, 53).data([0; 1400]).frame(),
                    _ => packet.frame(),
                };
                let worker = rng.random_range(0..workers);
                let port = if frame[6..12] == a.mac { a.port } else { c.port };
                refused_at_the_door += u64::from(!world.rig.try_send_to(worker, port, &frame));
            }
            // Workers get turns as it happens, and the receiver reads now and then, or has stopped for long.
            for _ in 0..rng.random_range(0..4) {
                let worker = rng.random_range(0..workers);
                world.rig.round(worker);
            }
            world.rig.check();
            if round % 1_000 < 500 && rng.random_ratio(1, 3) {
                world.rig.collect(&mut Vec::new());
            }
            world.rig.now_ms += rng.random_range(0..100);
        }
        let account = world.rig.account();
        let dropped = |reason| account.drops.iter().any(|(r, _)| *r == reason);
        assert!(dropped(DropReason::TxFull), "{account:#?}");
        assert!(workers == 1 || dropped(DropReason::HandoverFull), "{account:#?}");
        assert!(refused_at_the_door > 0);
        // And when it is over, everything is free.
        world.rig.run();
        world.rig.pass(10_000);
        for census in world.rig.account().censuses {
            assert_eq!(census.free, census.total);
        }
    }
}
