//! Direct ports: an interface of the node with an AF_XDP socket of its own.

use crate::common::{LONG, TCP, UDP, both, kill_switch, workers};
use nix::sys::signal::Signal;
use penstock_api::DropReason;
use penstock_api::message::gateway;
use penstock_lab::Outcome::{Reached, TimedOut};
use penstock_lab::{Lab, LabOptions, Place};
use penstock_net::route::{Route, VethSpec};
use penstock_net::{Netlink, Netns, offload};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;

const V4: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 200);
const V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x10, 0x244, 0, 0, 0, 0, 0xc8);
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xaa];

/// An appliance behind `dir0` of the node: no plugin made it, it knows its address and its gateway.
fn appliance(lab: &Lab) -> Place {
    let netns = Netns::create(&format!("{}-p-direct", lab.instance())).unwrap();
    let host = Netlink::open_in(lab.host().netns()).unwrap();
    let spec = VethSpec {
        peer_mac: Some(MAC),
        peer_netns: Some(netns.as_fd()),
        queues: Some((1, 1)),
        peer_queues: Some((1, 1)),
        ..VethSpec::new("dir0", "eth0")
    };
    let dir0 = host.create_veth(&spec).unwrap();
    host.set_up(dir0.index, true).unwrap();
    let inside = Netlink::open_in(&netns).unwrap();
    inside.set_up(inside.existing("lo").unwrap().index, true).unwrap();
    let eth0 = inside.existing("eth0").unwrap().index;
    netns.run(|| penstock_net::sysctl::set("net/ipv4/ping_group_range", "0 2147483647")).unwrap().unwrap();
    // A wire has no one to finish checksums or cut segments for it.
    netns.run(|| offload::set("eth0", "tx", false)).unwrap().unwrap();
    inside.set_up(eth0, true).unwrap();
    for (address, gateway) in [(IpAddr::from(V4), IpAddr::from(gateway::V4)), (V6.into(), gateway::V6.into())]
    {
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
    Place::new("appliance", netns, vec![V4.into(), V6.into()])
}

fn talks(mode: &str, shown: &str) {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("vswitch.toml");
    std::fs::write(&config, "").unwrap();
    let lab = Lab::with("direct", LabOptions { switch_config: Some(config.clone()), ..workers(2) });
    let web = lab.pod("shop", "web", &[("app", "web")]);
    lab.declare_pod("shop", "appliance", &[("app", "appliance")]).unwrap();
    lab.settled().unwrap();
    kill_switch(&lab, Signal::SIGTERM);
    let appliance = appliance(&lab);
    let toml = format!(
        "[[direct]]\ninterface = \"dir0\"\nmode = \"{mode}\"\naddresses = [\"{V4}\", \"{V6}\"]\nmac = \"02:00:00:00:00:aa\"\npod = \"shop/appliance\"\n"
    );
    std::fs::write(&config, toml).unwrap();
    lab.start_switch().unwrap();
    let status = lab.status().unwrap();
    let device = status.workers.iter().flat_map(|w| &w.devices).find(|d| d.interface == "dir0");
    let device = device.unwrap_or_else(|| panic!("no device dir0: {status:#?}"));
    assert!(device.mode.contains(shown), "{device:?}");
    crate::common::until("policy for it is known", || {
        lab.status().is_ok_and(|status| status.endpoints_ready == 2)
    });
    for place in [&*web, &appliance] {
        place.listen_tcp(TCP);
        place.listen_udp(UDP);
    }
    for (from, to) in [(&*web, &appliance), (&appliance, &*web)] {
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
    assert_eq!(lab.host().ping_with(V4, 56, LONG), Reached, "the node itself");
    let transfer = web.start_transfer(&appliance, V4, 5001, std::time::Duration::from_secs(1)).unwrap();
    let done = transfer.finish().unwrap();
    assert!(done.bytes > 1_000_000, "{done:?}");
    // It is under policy like any pod.
    lab.apply("deny", crate::common::DENY_INGRESS);
    assert_eq!(web.connect(V4, TCP), TimedOut);
    assert_eq!(appliance.connect(web.v6(), TCP), TimedOut);
    assert!(lab.drops(DropReason::PolicyIngress) >= 2);
    lab.assert_frames_conserved();
}

#[test]
fn a_direct_port_in_native_mode_talks_with_pods_under_policy() {
    talks("native", "native");
}

#[test]
fn a_direct_port_in_generic_mode_talks_with_pods_under_policy() {
    talks("generic", "generic");
}
