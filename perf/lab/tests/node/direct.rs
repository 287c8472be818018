//! Direct ports: an interface of the node with an AF_XDP socket of its own.

use crate::common::{LONG, TCP, UDP, both, kill_switch, workers};
use nix::sys::signal::Signal;
use penstock_api::DropReason;
use penstock_api::message::{AreaKind, DeviceStatus, Mac, gateway};
use penstock_lab::Outcome::{Reached, TimedOut};
use penstock_lab::{Lab, LabOptions, Place, Pod};
use penstock_net::route::{Route, VethSpec};
use penstock_net::{Netlink, Netns, offload};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;

/// Something behind an interface of the node: no plugin made it, it knows its addresses and its gateway.
pub(crate) struct Spec {
    pub(crate) name: &'static str,
    pub(crate) interface: &'static str,
    pub(crate) mac: [u8; 6],
    pub(crate) v4: Ipv4Addr,
    pub(crate) v6: Ipv6Addr,
    pub(crate) queues: u32,
}

pub(crate) const FIRST: Spec = Spec {
    name: "appliance",
    interface: "dir0",
    mac: [2, 0, 0, 0, 0, 0xaa],
    v4: Ipv4Addr::new(10, 244, 0, 200),
    v6: Ipv6Addr::new(0xfd00, 0x10, 0x244, 0, 0, 0, 0, 0xc8),
    queues: 1,
};
pub(crate) const SECOND: Spec = Spec {
    name: "recorder",
    interface: "dir1",
    mac: [2, 0, 0, 0, 0, 0xbb],
    v4: Ipv4Addr::new(10, 244, 0, 201),
    v6: Ipv6Addr::new(0xfd00, 0x10, 0x244, 0, 0, 0, 0, 0xc9),
    queues: 1,
};

impl Spec {
    pub(crate) fn toml(&self, mode: &str) -> String {
        let Spec { name, interface, mac, v4, v6, queues } = self;
        format!(
            "[[direct]]\ninterface = \"{interface}\"\nmode = \"{mode}\"\naddresses = [\"{v4}\", \"{v6}\"]\n\
             mac = \"{}\"\npod = \"shop/{name}\"\nqueues = {queues}\n",
            Mac(*mac)
        )
    }
}

/// Behind a veth pair.
pub(crate) fn place(lab: &Lab, spec: &Spec) -> Place {
    let netns = Netns::create(&format!("{}-p-{}", lab.instance(), spec.interface)).unwrap();
    let host = Netlink::open_in(lab.host().netns()).unwrap();
    let veth = VethSpec {
        peer_mac: Some(spec.mac),
        peer_netns: Some(netns.as_fd()),
        queues: Some((spec.queues, spec.queues)),
        peer_queues: Some((spec.queues, spec.queues)),
        ..VethSpec::new(spec.interface, "eth0")
    };
    let near = host.create_veth(&veth).unwrap();
    host.set_up(near.index, true).unwrap();
    configure(netns, spec)
}

/// Gives `eth0` of a namespace what it needs to speak to a switch.
pub(crate) fn configure(netns: Netns, spec: &Spec) -> Place {
    let inside = Netlink::open_in(&netns).unwrap();
    inside.set_up(inside.existing("lo").unwrap().index, true).unwrap();
    let eth0 = inside.existing("eth0").unwrap().index;
    netns.run(|| penstock_net::sysctl::set("net/ipv4/ping_group_range", "0 2147483647")).unwrap().unwrap();
    // A wire has no one to finish checksums or cut segments for it.
    netns.run(|| offload::set("eth0", "tx", false)).unwrap().unwrap();
    inside.set_up(eth0, true).unwrap();
    let (v4, v6) = (IpAddr::from(spec.v4), IpAddr::from(spec.v6));
    for (address, gateway) in [(v4, IpAddr::from(gateway::V4)), (v6, gateway::V6.into())] {
        inside.add_address(eth0, address.into(), true).unwrap();
        inside.add_neighbour(eth0, gateway, gateway::MAC.0, true).unwrap();
        let everything = if address.is_ipv4() { "0.0.0.0/0" } else { "::/0" };
        inside
            .add_route(&Route {
                gateway: Some(gateway),
                link: Some(eth0),
                onlink: true,
                ..Route::to(everything.parse().unwrap())
            })
            .unwrap();
    }
    Place::new(spec.name, netns, vec![v4, v6])
}

/// A switch of two workers with a pod `web` and these direct ports, all under policy that is known.
pub(crate) fn node(ports: &[(&Spec, &str)], place: impl Fn(&Lab, &Spec) -> Place) -> (Lab, Pod, Vec<Place>) {
    node_of(1500, ports, place)
}

pub(crate) fn node_of(
    mtu: u16,
    ports: &[(&Spec, &str)],
    place: impl Fn(&Lab, &Spec) -> Place,
) -> (Lab, Pod, Vec<Place>) {
    node_with(LabOptions { mtu, ..workers(2) }, ports, place)
}

pub(crate) fn node_with(
    options: LabOptions,
    ports: &[(&Spec, &str)],
    place: impl Fn(&Lab, &Spec) -> Place,
) -> (Lab, Pod, Vec<Place>) {
    node_in(tempfile::tempdir().unwrap().path(), options, ports, place)
}

/// The switch's configuration stays in `dir`, for those who start it again.
pub(crate) fn node_in(
    dir: &std::path::Path,
    options: LabOptions,
    ports: &[(&Spec, &str)],
    place: impl Fn(&Lab, &Spec) -> Place,
) -> (Lab, Pod, Vec<Place>) {
    let config = dir.join("vswitch.toml");
    std::fs::write(&config, "").unwrap();
    let lab = Lab::with("direct", LabOptions { switch_config: Some(config.clone()), ..options });
    let web = lab.pod("shop", "web", &[("app", "web")]);
    for (spec, _) in ports {
        lab.declare_pod("shop", spec.name, &[("app", spec.name)]).unwrap();
    }
    lab.settled().unwrap();
    kill_switch(&lab, Signal::SIGTERM);
    let places: Vec<Place> = ports.iter().map(|(spec, _)| place(&lab, spec)).collect();
    std::fs::write(&config, ports.iter().map(|(spec, mode)| spec.toml(mode)).collect::<String>()).unwrap();
    lab.start_switch().unwrap();
    crate::common::until("policy for them is known", || {
        lab.status().is_ok_and(|status| status.endpoints_ready == 1 + ports.len())
    });
    // A NIC whose program is changed starts anew, and its cable with it.
    let host = Netlink::open_in(lab.host().netns()).unwrap();
    for (spec, _) in ports {
        let carries = || host.existing(spec.interface).unwrap().has_carrier;
        crate::common::until(&format!("{} has a carrier", spec.interface), carries);
    }
    for place in places.iter().chain([&*web]) {
        place.listen_tcp(TCP);
        place.listen_udp(UDP);
    }
    (lab, web, places)
}

pub(crate) fn device(lab: &Lab, interface: &str) -> DeviceStatus {
    let ports = lab.ports().unwrap();
    let port = ports.iter().find(|port| port.interface == interface);
    let device = port.unwrap_or_else(|| panic!("no port {interface}: {ports:#?}")).device.clone().unwrap();
    let status = lab.status().unwrap();
    assert!(status.workers.iter().any(|worker| worker.devices.contains(&device)), "{status:#?}");
    device
}

#[track_caller]
pub(crate) fn talk(from: &Place, to: &Place) {
    for address in both(to) {
        assert_eq!(from.ping_with(address, 56, LONG), Reached, "{} to {address}", from.name());
        for n in 0..10 {
            let outcome = from.connect_within(address, TCP, LONG);
            assert_eq!(outcome, Reached, "{} to {address}, connection {n}", from.name());
        }
        assert_eq!(from.udp_echo(address, UDP, 1400, LONG), Reached, "{} to {address}", from.name());
        assert_eq!(from.udp_echo(address, UDP, 20_000, LONG), Reached, "{} to {address}", from.name());
    }
}

fn talks(mode: &str, shown: &str, why: &str) {
    let (lab, web, places) = node(&[(&FIRST, mode)], place);
    let device = device(&lab, FIRST.interface);
    assert!(device.mode == shown && device.why.contains(why), "{device:?}");
    let appliance = &places[0];
    talk(&web, appliance);
    talk(appliance, &web);
    assert_eq!(lab.host().ping_with(FIRST.v4, 56, LONG), Reached, "the node itself");
    let transfer = web.start_transfer(appliance, FIRST.v4, 5001, std::time::Duration::from_secs(1)).unwrap();
    let done = transfer.finish().unwrap();
    assert!(done.bytes > 1_000_000, "{done:?}");
    // It is under policy like any pod.
    lab.apply("deny", crate::common::DENY_INGRESS);
    assert_eq!(web.connect(FIRST.v4, TCP), TimedOut);
    assert_eq!(appliance.connect(web.v6(), TCP), TimedOut);
    assert!(lab.drops(DropReason::PolicyIngress) >= 2);
    lab.assert_frames_conserved();
}

#[test]
fn a_direct_port_in_native_mode_talks_with_pods_under_policy() {
    talks("native", "native copy", "was asked for");
}

#[test]
fn a_direct_port_in_generic_mode_talks_with_pods_under_policy() {
    talks("generic", "generic copy", "was asked for");
}

#[test]
fn a_direct_port_in_the_best_mode_there_is_says_why_there_is_no_better() {
    talks("auto", "native copy", "veth refuses zero-copy: Operation not supported");
}

#[test]
fn a_port_of_two_queues_is_received_by_two_workers() {
    let two = Spec { queues: 2, ..FIRST };
    let (lab, web, places) = node(&[(&two, "auto")], place);
    let status = lab.status().unwrap();
    for (queue, worker) in status.workers.iter().enumerate() {
        let device = worker.devices.iter().find(|device| device.interface == two.interface).unwrap();
        assert_eq!((device.queue as usize, device.mode.as_str()), (queue, "native copy"), "{device:?}");
    }
    // What arrived before the sockets were there.
    let before = lab.drops(DropReason::NoSocket);
    talk(&web, &places[0]);
    talk(&places[0], &web);
    assert_eq!(lab.drops(DropReason::NoSocket), before);
    lab.assert_frames_conserved();
}

#[test]
fn ports_of_both_copying_modes_share_one_area_with_the_trunk() {
    let (lab, web, places) = node(&[(&FIRST, "native"), (&SECOND, "generic")], place);
    assert_eq!(device(&lab, FIRST.interface).mode, "native copy");
    assert_eq!(device(&lab, SECOND.interface).mode, "generic copy");
    for (from, to) in [(&places[0], &places[1]), (&places[1], &places[0]), (&*web, &places[1])] {
        talk(from, to);
    }
    let censuses = lab.frames().unwrap();
    assert_eq!(censuses.len(), 2, "one area for each of two workers: {censuses:?}");
    assert!(censuses.iter().all(|census| census.area == AreaKind::Copy), "{censuses:?}");
    for worker in lab.status().unwrap().workers {
        assert_eq!((worker.umem_zero_copy_bytes, worker.area_copies), (0, 0), "{worker:?}");
    }
    lab.assert_frames_conserved();
}

/// The switch and its pods have large frames, what is behind the interface has not.
pub(crate) fn a_smaller_mtu_is_found_out(lab: &Lab, web: &Pod, behind: &Place, interface: &str) {
    let mtu_of =
        |interface: &str| lab.ports().unwrap().iter().find(|p| p.interface == interface).map(|p| p.mtu);
    assert_eq!(mtu_of(interface), Some(1500));
    assert!(lab.status().unwrap().mtu > 1500);
    for to in both(behind) {
        let socket = crate::common::udp_socket(web, to, UDP);
        socket.send(&[1; 3000]).unwrap();
        let error =
            socket.recv(&mut [0; 100]).expect_err("a datagram too large for the interface was answered");
        assert_eq!(error.raw_os_error(), Some(nix::libc::EMSGSIZE), "{to}: {error}");
    }
    // What is larger goes in pieces from now on.
    talk(web, behind);
    talk(behind, web);
    let time = std::time::Duration::from_secs(1);
    let done = web.start_transfer(behind, behind.v6(), 5001, time).unwrap().finish().unwrap();
    assert!(done.bytes > 100_000, "{done:?}");
    lab.assert_frames_conserved();
}

#[test]
fn an_interface_with_a_smaller_mtu_than_the_switch_is_told_of_and_kept_to() {
    let (lab, web, places) = node_of(9000, &[(&FIRST, "native")], place);
    a_smaller_mtu_is_found_out(&lab, &web, &places[0], FIRST.interface);
}
