//! Direct ports on NICs, each driver with what it can. Wants a machine with such NICs: `make vm` makes one and runs these there.
//!
//! The machine has pairs of NICs with a wire between them. Of each pair one is the switch's port, known by its address
//! 52:54:00:00:00:N, and the other is in a namespace of its own and has 52:54:00:00:01:N.

use crate::common::{AtEnd, by_hand, kill_switch, until, workers};
use crate::direct::{Spec, configure, device, node, talk};
use nix::sys::signal::Signal;
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
    }
}

/// 82576: does everything.
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
        // It has a queue for every CPU, and one is the port.
        by_hand(lab.host(), &["ethtool", "-L", spec.interface, "combined", "1"]);
    }
    let netns = Netns::create(&format!("{}-p-{}", lab.instance(), spec.interface)).unwrap();
    give(spec.mac, &netns, "eth0");
    configure(netns, spec)
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
        (&IGB, "zero-copy", ""),
        (&VIRTIO, "native copy", "virtio_net refuses zero-copy: Invalid argument"),
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
    let areas: Vec<_> = lab.frames().unwrap().iter().map(|census| (census.worker.0, census.area)).collect();
    assert_eq!(areas, [(0, AreaKind::Copy), (0, AreaKind::ZeroCopy), (1, AreaKind::Copy)]);
    let status = lab.status().unwrap();
    assert_eq!(status.workers[0].umem_bytes, 2 * status.workers[0].umem_zero_copy_bytes);
    assert!(status.workers[0].area_copies > 0 && status.workers[1].umem_zero_copy_bytes == 0, "{status:#?}");
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
    assert_eq!(device(&lab, IGB.interface).mode, "zero-copy");
    lab.assert_frames_conserved();
}

#[test]
#[ignore = "wants NICs: run `make vm`"]
fn a_mode_that_is_asked_for_is_had_or_refused_in_one_line() {
    for (mode, shown) in [("zero-copy", "zero-copy"), ("native", "native copy"), ("generic", "generic copy")]
    {
        let (lab, web, places) = node(&[(&IGB, mode)], wired);
        assert_eq!(device(&lab, IGB.interface).mode, shown);
        talk(&web, &places[0]);
        lab.assert_frames_conserved();
    }
    for (spec, why) in
        [(&VIRTIO, "virtio_net refuses zero-copy: Invalid argument"), (&E1000E, "native XDP refused")]
    {
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
