//! Direct ports on NICs, each driver with what it can. Wants a machine with such NICs: `make vm` makes one and runs these there.
//!
//! The machine has pairs of NICs with a wire between them. Of each pair one is the switch's port, known by its address
//! 52:54:00:00:00:N, and the other is in a namespace of its own and has 52:54:00:00:01:N.

use crate::common::{AtEnd, by_hand, kernel, kill_switch, until, workers};
use crate::direct::{Spec, a_smaller_mtu_is_found_out, configure, device, node, node_of, talk};
use nix::sys::signal::Signal;
use penstock_api::DropReason;
use penstock_api::message::AreaKind;
use penstock_lab::Outcome::Reached;
use penstock_lab::{Lab, LabOptions, Place};
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
/// Native, and without its memory behind an IOMMU nothing more.
const VIRTIO: Spec = spec(2, "behind-virtio", "virtio0");
/// Knows nothing of XDP.
const E1000E: Spec = spec(3, "behind-e1000e", "e1000e0");

/// Finds a NIC by its address and gives it to a namespace under a name. One whose namespace is being removed comes back in a
/// moment, under whatever name is free.
fn give(mac: [u8; 6], to: &Netns, name: &str) {
    let netlink = Netlink::open().unwrap();
    let mut found = None;
    until(&format!("there is a NIC {mac:x?}, to be {name}"), || {
        found = netlink.links().unwrap().into_iter().find(|link| link.mac == mac);
        found.is_some()
    });
    let link = found.unwrap();
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
    if spec.interface == IGB.interface {
        // It has a queue for every CPU.
        by_hand(lab.host(), &["ethtool", "-L", spec.interface, "combined", &spec.queues.to_string()]);
    }
    let netns = Netns::create(&format!("{}-p-{}", lab.instance(), spec.interface)).unwrap();
    give(spec.mac, &netns, "eth0");
    configure(netns, spec)
}

/// How the driver of the igb can be bound: its mode, and why not better.
fn best_of_igb() -> (&'static str, &'static str) {
    match kernel() >= (6, 14) {
        true => ("zero-copy", ""),
        false => ("native copy", "igb refuses zero-copy: Operation not supported"),
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

/// Frames each receive queue of an interface has seen.
fn frames_of_queues(lab: &Lab, interface: &str) -> Vec<u64> {
    let output = lab.host().run(|| std::process::Command::new("ethtool").args(["-S", interface]).output());
    let table = String::from_utf8(output.unwrap().stdout).unwrap();
    let count = |line: &str| {
        let (name, value) = line.trim().split_once(": ")?;
        (name.starts_with("rx_queue_") && name.ends_with("_packets")).then(|| value.parse().unwrap())
    };
    table.lines().filter_map(count).collect()
}

#[test]
#[ignore = "wants NICs: run `make vm`"]
fn a_port_of_several_queues_is_received_by_a_worker_for_each() {
    let two = Spec { queues: 2, ..IGB };
    let (lab, web, places) = node(&[(&two, "auto"), (&VIRTIO, "auto")], wired);
    let status = lab.status().unwrap();
    for (queue, worker) in status.workers.iter().enumerate() {
        let device = worker.devices.iter().find(|device| device.interface == IGB.interface).unwrap();
        assert_eq!((device.queue as usize, device.mode.as_str()), (queue, best_of_igb().0), "{device:?}");
    }
    assert!(!status.notes.iter().any(|note| note.contains("dropped")), "{:?}", status.notes);
    let before = lab.drops(DropReason::NoSocket);
    for (from, to) in
        [(&*web, &places[0]), (&places[0], &*web), (&places[0], &places[1]), (&places[1], &places[0])]
    {
        talk(from, to);
    }
    let queues = frames_of_queues(&lab, IGB.interface);
    eprintln!("frames of queues: {queues:?}");
    assert!(queues.len() == 2 && queues.iter().all(|frames| *frames > 20), "{queues:?}");
    assert_eq!(lab.drops(DropReason::NoSocket), before);
    lab.assert_frames_conserved();
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
