//! Against the real kernel, in namespaces of our own. These tests need root, and fail without it.

use penstock_net::route::{Route, RouteKind, VethSpec};
use penstock_net::xdp::{TAKES_REDIRECTED, XdpFeatures};
use penstock_net::{Netlink, Netns, offload, sysctl};
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU32, Ordering};

/// A namespace that goes when the test does.
struct Scratch {
    name: String,
    netns: Netns,
}

impl Scratch {
    fn new() -> Scratch {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        assert!(nix::unistd::geteuid().is_root(), "this test makes network namespaces: run it as root");
        let name = format!("pt-net-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        Scratch { netns: Netns::create(&name).unwrap(), name }
    }

    fn netlink(&self) -> Netlink {
        Netlink::open_in(&self.netns).unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = Netns::delete(&self.name);
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn a_name_can_be_taken_once_and_given_back() {
    let scratch = Scratch::new();
    assert!(Netns::exists(&scratch.name));
    assert!(Netns::create(&scratch.name).unwrap_err().is_exists());
    assert!(scratch.netns.is_same(&Netns::open(&scratch.name).unwrap()).unwrap());
    assert!(!scratch.netns.is_same(&Netns::current().unwrap()).unwrap());

    Netns::delete(&scratch.name).unwrap();
    assert!(!Netns::exists(&scratch.name));
    assert!(Netns::open(&scratch.name).unwrap_err().is_not_found());
    assert!(Netns::delete(&scratch.name).unwrap_err().is_not_found());
}

#[test]
fn a_file_that_is_no_namespace_is_refused_and_said_to_be_left_over() {
    let scratch = Scratch::new();
    let left_over = format!("{}-left", scratch.name);
    std::fs::write(format!("/run/netns/{left_over}"), "").unwrap();
    let error = Netns::open(&left_over).unwrap_err().to_string();
    Netns::delete(&left_over).unwrap();
    assert!(error.contains(&left_over) && error.contains("not a namespace"), "{error}");
}

#[test]
fn names_that_could_leave_the_directory_are_refused() {
    for bad in ["", ".", "..", "a/b", "../etc"] {
        assert_eq!(Netns::create(bad).unwrap_err().errno(), Some(libc::EINVAL), "{bad:?}");
    }
}

#[test]
fn code_runs_inside_and_the_caller_stays_outside() {
    let scratch = Scratch::new();
    let before = Netns::current().unwrap();
    let inside = scratch.netns.run(|| Netns::current().unwrap()).unwrap();
    assert!(inside.is_same(&scratch.netns).unwrap());
    assert!(Netns::current().unwrap().is_same(&before).unwrap());
    let links = scratch.netlink().links().unwrap();
    assert_eq!(links.iter().map(|link| link.name.as_str()).collect::<Vec<_>>(), ["lo"]);
}

#[test]
fn a_veth_is_born_with_each_end_where_it_belongs() {
    let (near, far) = (Scratch::new(), Scratch::new());
    let spec = VethSpec {
        mtu: 3000,
        mac: Some([2, 0, 0, 0, 0, 1]),
        peer_mac: Some([2, 0, 0, 0, 0, 2]),
        peer_netns: Some(far.netns.as_fd()),
        queues: Some((2, 3)),
        peer_queues: Some((1, 1)),
        ..VethSpec::new("near0", "far0")
    };
    let (here, there) = (near.netlink(), far.netlink());
    let a = here.create_veth(&spec).unwrap();
    let b = there.existing("far0").unwrap();
    assert_eq!((a.mac, a.mtu, a.tx_queues, a.rx_queues), ([2, 0, 0, 0, 0, 1], 3000, 2, 3));
    assert_eq!((b.mac, b.mtu, b.tx_queues, b.rx_queues), ([2, 0, 0, 0, 0, 2], 3000, 1, 1));
    assert_eq!((a.peer_index, b.peer_index), (Some(b.index), Some(a.index)));
    assert_eq!(a.kind.as_deref(), Some("veth"));
    assert!(!a.is_up && !b.is_up && !a.has_carrier);
    assert!(here.link("far0").unwrap().is_none());

    let taken = here.create_veth(&spec).unwrap_err();
    assert!(taken.is_exists(), "{taken}");

    here.set_up(a.index, true).unwrap();
    there.set_up(b.index, true).unwrap();
    let a = here.link_by_index(a.index).unwrap().unwrap();
    assert!(a.is_up && a.has_carrier);

    here.delete_link(a.index).unwrap();
    assert!(there.link("far0").unwrap().is_none());
    assert!(here.delete_link(a.index).unwrap_err().is_not_found());
}

#[test]
fn links_can_be_renamed_bridged_and_moved() {
    let (here, there) = (Scratch::new(), Scratch::new());
    let netlink = here.netlink();
    let bridge = netlink.create_bridge("br0").unwrap();
    let veth = netlink.create_veth(&VethSpec::new("a0", "b0")).unwrap();
    netlink.set_master(veth.index, Some(bridge.index)).unwrap();
    netlink.set_name(veth.index, "port1").unwrap();
    netlink.set_mtu(veth.index, 1400).unwrap();
    netlink.set_mac(veth.index, [2, 9, 9, 9, 9, 9]).unwrap();
    let port = netlink.existing("port1").unwrap();
    assert_eq!((port.master, port.mtu, port.mac), (Some(bridge.index), 1400, [2, 9, 9, 9, 9, 9]));
    netlink.set_master(veth.index, None).unwrap();
    assert_eq!(netlink.existing("port1").unwrap().master, None);
    netlink.move_to_netns(veth.index, there.netns.as_fd()).unwrap();
    assert!(netlink.link("port1").unwrap().is_none());
    assert!(there.netlink().link("port1").unwrap().is_some());
}

#[test]
fn a_pod_end_gets_addresses_neighbours_and_routes_that_read_back_as_they_were_set() {
    let scratch = Scratch::new();
    let netlink = scratch.netlink();
    let eth0 = netlink.create_veth(&VethSpec::new("eth0", "peer0")).unwrap().index;
    netlink.set_up(netlink.existing("lo").unwrap().index, true).unwrap();
    netlink.set_up(eth0, true).unwrap();
    netlink.set_up(netlink.existing("peer0").unwrap().index, true).unwrap();

    let addresses = ["10.244.0.7/32", "fd00:10:244::7/128"];
    for address in addresses {
        netlink.add_address(eth0, address.parse().unwrap(), true).unwrap();
    }
    assert!(netlink.add_address(eth0, addresses[0].parse().unwrap(), true).unwrap_err().is_exists());
    for address in addresses {
        let found = netlink.addresses().unwrap();
        let found = found.iter().find(|a| a.net == address.parse().unwrap()).unwrap();
        assert!(found.index == eth0 && !found.is_tentative(), "{found:?}");
    }

    let gateways = ["169.254.1.1", "fe80::1"].map(ip);
    let mac = [2, 0x50, 0x53, 0, 0, 1];
    for gateway in gateways {
        netlink.add_neighbour(eth0, gateway, mac, true).unwrap();
        assert!(netlink.add_neighbour(eth0, gateway, mac, true).unwrap_err().is_exists());
        netlink.replace_neighbour(eth0, gateway, mac, true).unwrap();
        let found = netlink.neighbours(eth0).unwrap();
        let found = found.iter().find(|n| n.address == gateway).unwrap();
        assert!(found.permanent && found.mac == Some(mac), "{found:?}");
    }

    let to_gateway =
        Route { link: Some(eth0), scope_link: true, ..Route::to("169.254.1.1/32".parse().unwrap()) };
    let routes = [
        to_gateway,
        Route {
            gateway: Some(gateways[0]),
            link: Some(eth0),
            onlink: true,
            source: Some(ip("10.244.0.7")),
            mtu: Some(1400),
            ..Route::to("0.0.0.0/0".parse().unwrap())
        },
        Route { gateway: Some(gateways[1]), link: Some(eth0), ..Route::to("::/0".parse().unwrap()) },
        Route { kind: RouteKind::Unreachable, ..Route::to("10.245.0.0/16".parse().unwrap()) },
    ];
    for route in &routes {
        netlink.add_route(route).unwrap();
        assert!(netlink.routes().unwrap().contains(route), "{route} in {:#?}", netlink.routes().unwrap());
        assert!(netlink.add_route(route).unwrap_err().is_exists());
        netlink.replace_route(route).unwrap();
    }
    for route in routes.iter().rev() {
        netlink.del_route(route).unwrap();
        assert!(!netlink.routes().unwrap().contains(route), "{route} is still there");
        assert!(netlink.del_route(route).unwrap_err().is_not_found());
    }
    netlink.del_neighbour(eth0, gateways[0]).unwrap();
    netlink.del_address(eth0, addresses[0].parse().unwrap()).unwrap();
    assert!(netlink.del_address(eth0, addresses[0].parse().unwrap()).unwrap_err().is_not_found());
}

#[test]
fn an_error_names_the_operation_the_object_and_what_the_kernel_said() {
    let scratch = Scratch::new();
    let netlink = scratch.netlink();
    let error = netlink.existing("eth9").unwrap_err();
    assert!(error.is_not_found() && error.to_string().contains("eth9"), "{error}");
    let error = netlink.set_mtu(4242, 1500).unwrap_err();
    assert!(error.is_not_found(), "{error}");
    assert_eq!(
        error.to_string(),
        "cannot set the MTU of the link with index 4242: No such device (os error 19)"
    );
    let error = netlink
        .add_route(&Route { gateway: Some(ip("10.9.9.9")), ..Route::to("10.1.0.0/16".parse().unwrap()) })
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("10.1.0.0/16 via 10.9.9.9") && error.contains("Nexthop has invalid gateway"),
        "{error}"
    );
    let error = netlink
        .add_route(&Route { gateway: Some(ip("fe80::1")), ..Route::to("10.1.0.0/16".parse().unwrap()) })
        .unwrap_err()
        .to_string();
    assert!(error.contains("not of the destination's address family"), "{error}");
}

#[test]
fn a_long_list_is_read_whole() {
    let scratch = Scratch::new();
    let netlink = scratch.netlink();
    for n in 0..100 {
        netlink.create_veth(&VethSpec::new(&format!("a{n}"), &format!("b{n}"))).unwrap();
    }
    assert_eq!(netlink.links().unwrap().len(), 201);
}

#[test]
fn offloads_switch_as_with_ethtool() {
    let scratch = Scratch::new();
    scratch.netlink().create_veth(&VethSpec::new("t0", "t1")).unwrap();
    scratch
        .netns
        .run(|| {
            for feature in ["tx", "tso", "gso", "gro", "txvlan", "tx-vlan-stag-hw-insert", "rxvlan"] {
                for on in [true, false] {
                    offload::set("t0", feature, on).unwrap();
                    assert_eq!(offload::get("t0", feature).unwrap(), on, "{feature}");
                }
                // The next ones depend on these.
                offload::set("t0", feature, true).unwrap();
            }
            offload::set("t0", "tx", false).unwrap();
            // As ethtool, this leaves the rarer kinds of segmentation on: `tso` off has to be said for itself.
            assert!(!offload::get("t0", "tx-tcp-segmentation").unwrap(), "segmentation without checksumming");
            assert!(!offload::get("t0", "tx-checksum-sctp").unwrap());
            let refused = offload::set("t0", "tso", true).unwrap_err().to_string();
            assert!(refused.contains("something it depends on is off"), "{refused}");
            // Fixed on: wanting it on is no error, wanting it off is.
            offload::set("t0", "rx", true).unwrap();
            assert_eq!(offload::driver("t0").unwrap(), "veth");
            for error in [
                offload::set("t0", "warp-drive", true).unwrap_err().to_string(),
                offload::get("t9", "tx").unwrap_err().to_string(),
            ] {
                assert!(error.contains("warp-drive") || error.contains("t9"), "{error}");
            }
        })
        .unwrap();
}

#[test]
fn a_sysctl_is_set_in_the_namespace_of_the_thread_only() {
    let scratch = Scratch::new();
    let path = "net/ipv4/ip_default_ttl";
    let outside = sysctl::get(path).unwrap();
    scratch
        .netns
        .run(|| {
            sysctl::set(path, "17").unwrap();
            assert_eq!(sysctl::get(path).unwrap(), "17");
        })
        .unwrap();
    assert_eq!(sysctl::get(path).unwrap(), outside);
    assert_ne!(outside, "17");
    assert!(sysctl::get("net/ipv4/no_such_thing").unwrap_err().is_not_found());
}

#[test]
fn a_veth_says_whether_its_far_end_takes_redirected_frames_and_when_that_changes() {
    let (near, far) = (Scratch::new(), Scratch::new());
    let netlink = near.netlink();
    let spec = VethSpec { peer_netns: Some(far.netns.as_fd()), ..VethSpec::new("near", "far") };
    let link = netlink.create_veth(&spec).unwrap();
    far.netlink().set_up(far.netlink().existing("far").unwrap().index, true).unwrap();
    netlink.set_up(link.index, true).unwrap();
    let features = XdpFeatures::open_in(&near.netns).unwrap();
    let takes = || features.of(link.index).unwrap() & TAKES_REDIRECTED != 0;
    assert!(!takes());
    assert_eq!(features.changes(), Some(vec![]));
    for on in [true, false, true] {
        far.netns.run(|| offload::set("far", "gro", on)).unwrap().unwrap();
        assert_eq!(takes(), on);
        let told = features.changes().unwrap();
        let (index, now) = *told.last().expect("told of nothing");
        assert_eq!((index, now & TAKES_REDIRECTED != 0), (link.index, on), "{told:?}");
        assert_eq!(features.changes(), Some(vec![]));
    }
    assert!(features.of(link.index + 100).unwrap_err().is_not_found());
}
