//! Direct ports on NICs, each driver with what it can. Wants a machine with such NICs: `make vm` makes one and runs these there.
//!
//! The machine has pairs of NICs with a wire between them. Of each pair one is the switch's port, known by its address
//! 52:54:00:00:00:N, and the other is in a namespace of its own and has 52:54:00:00:01:N.

use crate::common::{AtEnd, both, by_hand, kernel_has, kill_switch, until, workers};
use crate::direct::{Spec, a_smaller_mtu_is_found_out, configure, device, node, node_of, node_with, talk};
use crate::shortcut::{flow_to, status, with};
use nix::sys::signal::Signal;
use penstock_api::DropReason;
use penstock_api::message::AreaKind;
use penstock_lab::Outcome::Reached;
use penstock_lab::{Lab, LabOptions, Place};
use penstock_net::route::Link;
use penstock_net::{Netlink, Netns};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;
use std::time::Duration;

const fn spec(n: u8, name: &'static str, interface: &'static str) -> Spec {
    Spec {
        name,
        interface,
        mac: [0x52, 0x54, 0, 0, 1, n],
        v4: Ipv4Addr::new(10, 244, 0, 200 + n),
        v6: Ipv6Addr::new(0xfd00, 0x10, 0x244, 0, 0, 0, 0, 0x200 + n as u16),
        queues: 1,
    }
}

/// 82576: does everything, from Linux 6.14 on.
const IGB: Spec = spec(1, "behind-igb", "igb0");
/// Native, and without its memory behind an IOMMU nothing more. As many queues as the machine could give it.
const VIRTIO: Spec = spec(2, "behind-virtio", "virtio0");
/// Knows nothing of XDP.
const E1000E: Spec = spec(3, "behind-e1000e", "e1000e0");
const ANOTHER_IGB: Spec = spec(4, "behind-another", "igb1");
/// As if behind an IOMMU: does everything, from Linux 6.13 on.
const MAPPED_VIRTIO: Spec = spec(5, "behind-mapped", "virtio1");

/// Waits until there is the NIC of an address.
fn nic(mac: [u8; 6]) -> Link {
    let netlink = Netlink::open().unwrap();
    let mut found = None;
    until(&format!("there is a NIC {mac:x?}"), || {
        found = netlink.links().unwrap().into_iter().find(|link| link.mac == mac);
        found.is_some()
    });
    found.unwrap()
}

/// Finds a NIC by its address and gives it to a namespace under a name. One whose namespace is being removed comes back in a
/// moment, under whatever name is free.
fn give(mac: [u8; 6], to: &Netns, name: &str) {
    let link = nic(mac);
    let netlink = Netlink::open().unwrap();
    netlink.set_up(link.index, false).unwrap();
    netlink.move_to_netns(link.index, to.as_fd()).unwrap();
    let there = Netlink::open_in(to).unwrap();
    let link = there.links().unwrap().into_iter().find(|link| link.mac == mac).unwrap();
    there.set_name(link.index, name).unwrap();
}

fn wired(lab: &Lab, spec: &Spec) -> Place {
    let mut mac = spec.mac;
    mac[4] = 0;
    give(mac, lab.host().netns(), spec.interface);
    // Most begin with a queue for every CPU.
    if queues_of(lab, spec.interface) != spec.queues {
        by_hand(lab.host(), &["ethtool", "-L", spec.interface, "combined", &spec.queues.to_string()]);
    }
    let netns = Netns::create(&format!("{}-p-{}", lab.instance(), spec.interface)).unwrap();
    give(spec.mac, &netns, "eth0");
    configure(netns, spec)
}

/// How many queues it uses: what `ethtool -l` says last. One, where the driver has no number to say.
fn queues_of(lab: &Lab, interface: &str) -> u32 {
    let output = lab.host().run(|| std::process::Command::new("ethtool").args(["-l", interface]).output());
    let table = String::from_utf8(output.unwrap().stdout).unwrap();
    let mut combined = table.lines().filter_map(|line| line.strip_prefix("Combined:")?.trim().parse().ok());
    combined.next_back().unwrap_or(1)
}

/// How the driver of the igb can be bound: its mode, and why not better.
fn best_of_igb() -> (&'static str, &'static str) {
    match kernel_has("igb", "igb_xmit_zc") {
        true => ("zero-copy", ""),
        false => ("native copy", "igb refuses zero-copy: Operation not supported"),
    }
}

/// As [`best_of_igb`]. A driver that only receives without copying does not say that it can.
fn best_of_mapped_virtio() -> (&'static str, &'static str) {
    match kernel_has("virtio_net", "VIRTNET_XMIT_TYPE_XSK") {
        true => ("zero-copy", ""),
        false => ("native copy", "virtio_net refuses zero-copy: Operation not supported"),
    }
}

fn rebinds(lab: &Lab) -> u64 {
    lab.status().unwrap().workers.iter().map(|worker| worker.rebinds).sum()
}

#[test]
#[ignore = "wants NICs: run `make vm`"]
fn every_driver_gives_its_best_and_all_ports_talk_with_each_other() {
    let (lab, web, places) = node(&[(&IGB, "auto"), (&VIRTIO, "auto"), (&E1000E, "auto")], wired);
    let _said = AtEnd(|| {
        for spec in [&IGB, &VIRTIO, &E1000E] {
            eprintln!("{} {:?}", spec.interface, device(&lab, spec.interface));
        }
    });
    for (spec, mode, why) in [
        (&IGB, best_of_igb().0, best_of_igb().1),
        (&VIRTIO, "native copy", "virtio_net refuses zero-copy: "),
        (&E1000E, "generic copy", "native XDP refused"),
    ] {
        let device = device(&lab, spec.interface);
        assert!(device.mode == mode && device.why.contains(why), "{device:?}");
    }
    let all: Vec<&Place> = places.iter().chain([&*web]).collect();
    for from in &all {
        for to in &all {
            if from.name() != to.name() {
                talk(from, to);
            }
        }
    }
    // Ports 0 and 2 are the first worker's, 1 is the second's: one of them has two areas.
    let copies = best_of_igb().0 != "zero-copy";
    let areas: Vec<_> = lab.frames().unwrap().iter().map(|census| (census.worker.0, census.area)).collect();
    let mut expected = vec![(0, AreaKind::Copy), (0, AreaKind::ZeroCopy), (1, AreaKind::Copy)];
    expected.retain(|(_, area)| !(copies && *area == AreaKind::ZeroCopy));
    assert_eq!(areas, expected);
    let status = lab.status().unwrap();
    let first = &status.workers[0];
    match copies {
        true => assert_eq!((first.umem_zero_copy_bytes, first.area_copies), (0, 0), "{status:#?}"),
        false => {
            assert_eq!(first.umem_bytes, 2 * first.umem_zero_copy_bytes);
            assert!(first.area_copies > 0, "{status:#?}");
        }
    }
    assert_eq!(status.workers[1].umem_zero_copy_bytes, 0, "{status:#?}");
    lab.assert_frames_conserved();

    // A NIC that is down keeps what it was given. Its sockets are bound anew, over new memory; nobody else's are.
    let link = |state| by_hand(lab.host(), &["ip", "link", "set", IGB.interface, state]);
    let before = rebinds(&lab);
    link("down");
    until("its sockets were bound anew", || {
        let _ = web.ping_with(IGB.v4, 56, Duration::from_millis(20));
        rebinds(&lab) > before
    });
    talk(&web, &places[1]);
    talk(&web, &places[2]);
    link("up");
    until("frames pass again", || web.ping_with(IGB.v4, 56, Duration::from_millis(300)) == Reached);
    talk(&web, &places[0]);
    talk(&places[2], &places[0]);
    assert_eq!(device(&lab, IGB.interface).mode, best_of_igb().0);
    lab.assert_frames_conserved();
}

/// Frames each receive queue of an interface has seen: those its XDP program saw, where the driver tells them apart.
fn frames_of_queues(lab: &Lab, interface: &str) -> Vec<u64> {
    let output = lab.host().run(|| std::process::Command::new("ethtool").args(["-S", interface]).output());
    let table = String::from_utf8(output.unwrap().stdout).unwrap();
    let counted = |suffix: &str| -> Vec<u64> {
        let count = |line: &str| {
            // `rx_queue_0_packets`, also without `_queue_`.
            let (name, value) = line.trim().split_once(": ")?;
            let queue = name.strip_prefix("rx")?.strip_suffix(suffix)?;
            queue.trim_start_matches("_queue_").parse::<u32>().ok()?;
            value.parse().ok()
        };
        table.lines().filter_map(count).collect()
    };
    let of_xdp = counted("_xdp_packets");
    if of_xdp.is_empty() { counted("_packets") } else { of_xdp }
}

/// A port of two queues of one NIC, a port that is another NIC, and a pod.
fn several_queues(spec: &Spec, mode: &str, other: &Spec) {
    let two = Spec { queues: 2, ..*spec };
    let (lab, web, places) = node(&[(&two, "auto"), (other, "auto")], wired);
    let status = lab.status().unwrap();
    for (queue, worker) in status.workers.iter().enumerate() {
        let device = worker.devices.iter().find(|device| device.interface == spec.interface).unwrap();
        assert_eq!((device.queue as usize, device.mode.as_str()), (queue, mode), "{device:?}");
    }
    assert!(!status.notes.iter().any(|note| note.contains("dropped")), "{:?}", status.notes);
    let before = lab.drops(DropReason::NoSocket);
    for (from, to) in
        [(&*web, &places[0]), (&places[0], &*web), (&places[0], &places[1]), (&places[1], &places[0])]
    {
        talk(from, to);
    }
    let queues = frames_of_queues(&lab, spec.interface);
    eprintln!("frames of queues: {queues:?}");
    assert!(queues.len() == 2 && queues.iter().all(|frames| *frames > 20), "{queues:?}");
    assert_eq!(lab.drops(DropReason::NoSocket), before);
    lab.assert_frames_conserved();
}

#[test]
#[ignore = "wants NICs: run `make vm`"]
fn a_port_of_several_queues_is_received_by_a_worker_for_each() {
    several_queues(&IGB, best_of_igb().0, &VIRTIO);
}

#[test]
#[ignore = "wants NICs: run `make vm`"]
fn a_port_of_several_queues_of_a_driver_that_copies_is_received_by_a_worker_for_each() {
    if nic([0x52, 0x54, 0, 0, 0, VIRTIO.mac[5]]).rx_queues < 2 {
        return eprintln!("NOT RUN: the machine was given no virtio NIC of several queues");
    }
    several_queues(&VIRTIO, "native copy", &IGB);
}

#[test]
#[ignore = "wants NICs: run `make vm`"]
fn ports_that_do_not_copy_share_an_area_of_one_worker() {
    let modes =
        [(&IGB, best_of_igb()), (&ANOTHER_IGB, best_of_igb()), (&MAPPED_VIRTIO, best_of_mapped_virtio())];
    let ports = modes.map(|(spec, _)| (spec, "auto"));
    let (lab, web, places) = node_with(workers(1), &ports, wired);
    for (spec, (mode, why)) in modes {
        let device = device(&lab, spec.interface);
        assert!(device.mode == mode && device.why.contains(why), "{device:?}");
    }
    let areas: Vec<_> = lab.frames().unwrap().iter().map(|census| census.area).collect();
    let expected: &[AreaKind] = match modes.iter().any(|(_, (mode, _))| *mode == "zero-copy") {
        true => &[AreaKind::Copy, AreaKind::ZeroCopy],
        false => &[AreaKind::Copy],
    };
    assert_eq!(areas, expected);
    let everybody: Vec<&Place> = places.iter().chain([&*web]).collect();
    let all_talk = || {
        for from in &everybody {
            for to in everybody.iter().filter(|to| to.name() != from.name()) {
                talk(from, to);
            }
        }
        lab.assert_frames_conserved();
    };
    all_talk();
    let copied = lab.status().unwrap().workers[0].area_copies;
    assert_eq!(copied > 0, expected.len() == 2, "between areas a frame is copied");

    // One of them goes down. The others of its area go on, or are bound anew with it; in the end all are as they were.
    let before = rebinds(&lab);
    by_hand(lab.host(), &["ip", "link", "set", IGB.interface, "down"]);
    until("its sockets were bound anew", || {
        let _ = web.ping_with(IGB.v4, 56, Duration::from_millis(20));
        rebinds(&lab) > before
    });
    talk(&places[1], &places[2]);
    talk(&web, &places[1]);
    by_hand(lab.host(), &["ip", "link", "set", IGB.interface, "up"]);
    until("frames pass again", || web.ping_with(IGB.v4, 56, Duration::from_millis(300)) == Reached);
    all_talk();
    for (spec, (mode, _)) in modes {
        assert_eq!(device(&lab, spec.interface).mode, mode);
    }
}

#[test]
#[ignore = "wants NICs: run `make vm`"]
fn a_mode_that_is_asked_for_is_had_or_refused_in_one_line() {
    let (best, why) = best_of_igb();
    let modes = [("zero-copy", "zero-copy"), ("native", "native copy"), ("generic", "generic copy")];
    for (mode, shown) in modes.into_iter().filter(|(_, shown)| *shown != "zero-copy" || *shown == best) {
        let (lab, web, places) = node(&[(&IGB, mode)], wired);
        assert_eq!(device(&lab, IGB.interface).mode, shown);
        talk(&web, &places[0]);
        lab.assert_frames_conserved();
    }
    let mut refused = vec![(&VIRTIO, "virtio_net refuses zero-copy: "), (&E1000E, "native XDP refused")];
    if best != "zero-copy" {
        refused.push((&IGB, why));
    }
    for (spec, why) in refused {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("vswitch.toml");
        std::fs::write(&config, "").unwrap();
        let lab = Lab::with("refuse", LabOptions { switch_config: Some(config.clone()), ..workers(1) });
        kill_switch(&lab, Signal::SIGTERM);
        let _place = wired(&lab, spec);
        std::fs::write(&config, spec.toml("zero-copy")).unwrap();
        let error = format!("{:#}", lab.start_switch().unwrap_err());
        assert!(error.contains(spec.interface) && error.contains(why), "{error}");
    }
}

#[test]
#[ignore = "wants NICs: run `make vm`"]
fn a_nic_without_large_frames_keeps_its_mode_beside_pods_that_have_them() {
    let (lab, web, places) = node_of(9000, &[(&IGB, "auto")], wired);
    assert_eq!(device(&lab, IGB.interface).mode, best_of_igb().0);
    a_smaller_mtu_is_found_out(&lab, &web, &places[0], IGB.interface);
}

#[test]
#[ignore = "wants NICs: run `make vm`"]
fn flows_between_pods_and_nics_pass_in_the_kernel_both_ways_where_the_driver_runs_programs() {
    let ports = [(&IGB, "auto"), (&VIRTIO, "auto"), (&E1000E, "auto")];
    let (lab, web, places) = node_with(with("on", 2), &ports, wired);
    let _said = AtEnd(|| eprintln!("{:#?}", status(&lab)));
    let (web, time): (&Place, _) = (&web, Duration::from_secs(3));
    for (n, ((spec, _), place)) in ports.iter().zip(&places).enumerate() {
        let has_xdp = spec.name != E1000E.name;
        let ways = status(&lab).direct_ports;
        let way = ways.iter().find(|way| way.interface == spec.interface).unwrap();
        assert!(way.not_to_it.is_none() && way.not_from_it.is_none() == has_xdp, "{way:?}");
        for (way, (from, to)) in [(web, place), (place, web)].into_iter().enumerate() {
            for (family, address) in both(to).into_iter().enumerate() {
                let (port, before) = ((6000 + 10 * n + 2 * way + family) as u16, status(&lab).frames);
                let done = from.start_transfer(to, address, port, time).unwrap().finish().unwrap();
                let (flow, carried) = (flow_to(&lab, address, port), status(&lab).frames - before);
                eprintln!("{} to {address}: {done:?}, {carried} carried, {flow:?}", from.name());
                let all = match (has_xdp, way) {
                    (true, _) => flow.forward_frames + flow.reply_frames,
                    (false, 0) => flow.forward_frames,
                    (false, _) => flow.reply_frames,
                };
                assert!(carried * 10 >= 8 * all, "{carried} of {all} frames of {}", spec.interface);
            }
        }
        talk(web, place);
        talk(place, web);
    }
    lab.assert_frames_conserved();
}
