//! The node: a namespace that plays the host, and one behind it that plays the rest of the world.

use anyhow::{Context, Result};
use ipnet::IpNet;
use penstock_net::netns::Netns;
use penstock_net::route::{Route, VethSpec};
use penstock_net::{NetError, Netlink, sysctl};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;

/// The node's own addresses, on `uplink0` (documentation ranges, so that they are nobody's).
pub const NODE_V4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
pub const NODE_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x51, 0, 0, 0, 0, 1);
/// Somebody behind the node.
pub const OUTSIDE_V4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
pub const OUTSIDE_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x51, 0, 0, 0, 0, 2);

const UPLINK: &str = "uplink0";

#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) host: Netns,
    pub(crate) outside: Netns,
}

pub(crate) fn host_name(instance: &str) -> String {
    format!("{instance}-node")
}

pub(crate) fn outside_name(instance: &str) -> String {
    format!("{instance}-out")
}

/// Makes both namespaces, joined by a veth pair. The outside reaches pods through the node, as a router would.
pub(crate) fn make(instance: &str, mtu: u16) -> Result<Node> {
    let host = make_netns(&host_name(instance))?;
    let outside = make_netns(&outside_name(instance)).inspect_err(|_| delete_netns(&host_name(instance)))?;
    let node = Node { host, outside };
    match join(&node, mtu) {
        Ok(()) => Ok(node),
        Err(error) => {
            remove(instance);
            Err(error)
        }
    }
}

pub(crate) fn remove(instance: &str) {
    delete_netns(&outside_name(instance));
    delete_netns(&host_name(instance));
}

fn join(node: &Node, mtu: u16) -> Result<()> {
    let in_host = Netlink::open_in(&node.host)?;
    let spec = VethSpec {
        peer_netns: Some(node.outside.as_fd()),
        mtu: u32::from(mtu),
        ..VethSpec::new(UPLINK, "eth0")
    };
    let uplink = in_host.create_veth(&spec)?.index;
    in_host.set_up(uplink, true)?;
    in_host.add_address(uplink, net(NODE_V4.into(), 24)?, false)?;
    in_host.add_address(uplink, net(NODE_V6.into(), 64)?, true)?;

    let in_outside = Netlink::open_in(&node.outside)?;
    let eth0 = in_outside.existing("eth0")?.index;
    in_outside.set_up(eth0, true)?;
    in_outside.add_address(eth0, net(OUTSIDE_V4.into(), 24)?, false)?;
    in_outside.add_address(eth0, net(OUTSIDE_V6.into(), 64)?, true)?;
    for (everything, gateway) in [
        (net(Ipv4Addr::UNSPECIFIED.into(), 0)?, NODE_V4.into()),
        (net(Ipv6Addr::UNSPECIFIED.into(), 0)?, NODE_V6.into()),
    ] {
        in_outside.add_route(&Route { gateway: Some(gateway), link: Some(eth0), ..Route::to(everything) })?;
    }
    // A node of Kubernetes forwards.
    node.host.run(|| -> Result<(), NetError> {
        sysctl::set("net/ipv4/ip_forward", "1")?;
        sysctl::set("net/ipv6/conf/all/forwarding", "1")
    })??;
    Ok(())
}

fn net(address: IpAddr, prefix_len: u8) -> Result<IpNet> {
    Ok(IpNet::new(address, prefix_len)?)
}

/// A namespace with loopback up, in which unprivileged ICMP sockets work.
pub(crate) fn make_netns(name: &str) -> Result<Netns> {
    let netns = Netns::create(name)?;
    let set_up = || -> Result<()> {
        let netlink = Netlink::open_in(&netns)?;
        netlink.set_up(netlink.existing("lo")?.index, true)?;
        netns.run(allow_icmp)??;
        Ok(())
    };
    match set_up() {
        Ok(()) => Ok(netns),
        Err(error) => {
            delete_netns(name);
            Err(error).with_context(|| format!("namespace {name} cannot be set up"))
        }
    }
}

/// Ping sockets are closed to everybody in a new namespace, root included. And a kernel tells a peer of one error a second,
/// after a few: a probe of a closed port would be a matter of chance.
fn allow_icmp() -> Result<(), NetError> {
    sysctl::set("net/ipv4/ping_group_range", "0 2147483647")?;
    sysctl::set("net/ipv4/icmp_ratelimit", "0")?;
    sysctl::set("net/ipv6/icmp/ratelimit", "0")
}

pub(crate) fn delete_netns(name: &str) {
    if Netns::exists(name)
        && let Err(error) = Netns::delete(name)
    {
        eprintln!("laboratory: {error}; remove it with 'ip netns delete {name}'");
    }
}
