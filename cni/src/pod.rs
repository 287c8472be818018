//! The pod's end of an attachment: setting it up, and saying what is no longer as it was set up.
//!
//! A pod has host addresses (/32, /128) and a gateway that is the same everywhere, whose MAC address it knows for ever: it
//! never asks anybody anything, so there is no broadcast domain, and IPv6 works from the first packet (no duplicate address
//! detection, no router advertisements).

use crate::names;
use crate::result::gateway_of;
use crate::step::{Observer, Step};
use ipnet::IpNet;
use penstock_api::message::{Mac, gateway};
use penstock_net::route::{Link, Route};
use penstock_net::{NetError, Netlink, Netns, sysctl};
use std::net::IpAddr;

/// What the pod's end shall be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodEnd {
    pub interface: String,
    pub mac: Mac,
    pub addresses: Vec<IpAddr>,
    pub mtu: u16,
}

impl PodEnd {
    pub fn new(container_id: &str, interface: &str, addresses: Vec<IpAddr>, mtu: u16) -> PodEnd {
        PodEnd {
            interface: interface.to_owned(),
            mac: names::pod_mac(container_id, interface),
            addresses,
            mtu,
        }
    }

    /// Sets up the interface that was just made in the pod's namespace. The calling thread must be in it.
    pub fn set_up(&self, observer: Observer<'_>) -> Result<(), NetError> {
        let netlink = Netlink::open()?;
        let loopback = netlink.existing("lo")?;
        netlink.set_up(loopback.index, true)?;
        let index = netlink.existing(&self.interface)?.index;

        if self.has_v6() {
            // Some runtimes turn IPv6 off in every namespace they make.
            for interface in ["lo", &self.interface] {
                set_ipv6(interface, "disable_ipv6", "0")?;
            }
            set_ipv6(&self.interface, "accept_dad", "0")?;
        }
        // Also without an IPv6 address: a pod must not take a router's word for anything.
        tolerate_no_ipv6(set_ipv6(&self.interface, "accept_ra", "0"))?;
        for address in &self.addresses {
            netlink.add_address(index, IpNet::from(*address), true)?;
        }
        netlink.set_up(index, true)?;
        observer(Step::PodUp);

        for address in &self.addresses {
            netlink.replace_neighbour(index, gateway_of(*address), gateway::MAC.0, true)?;
            for route in routes_for(*address, index) {
                netlink.add_route(&route)?;
            }
        }
        observer(Step::PodRouted);
        Ok(())
    }

    /// What is not as it was set up, one sentence each. The calling thread must be in the pod's namespace.
    pub fn faults(&self) -> Result<Vec<String>, NetError> {
        let netlink = Netlink::open()?;
        let name = &self.interface;
        let Some(link) = netlink.link(name)? else {
            return Ok(vec![format!("the pod has no interface {name}")]);
        };
        let mut faults = self.link_faults(&link);
        if !netlink.link("lo")?.is_some_and(|lo| lo.is_up) {
            faults.push("the pod's loopback is down".to_owned());
        }
        let addresses = netlink.addresses()?;
        let neighbours = netlink.neighbours(link.index)?;
        let routes = netlink.routes()?;
        for address in &self.addresses {
            let net = IpNet::from(*address);
            match addresses.iter().find(|found| found.index == link.index && found.net == net) {
                None => faults.push(format!("{name} has lost its address {net}")),
                Some(found) if found.is_tentative() => {
                    faults.push(format!("the address {net} of {name} is still being probed for duplicates"));
                }
                Some(_) => {}
            }
            let gateway = gateway_of(*address);
            let is_known = neighbours.iter().any(|found| {
                found.address == gateway && found.permanent && found.mac == Some(gateway::MAC.0)
            });
            if !is_known {
                faults.push(format!("{name} has no permanent neighbour {gateway} with {}", gateway::MAC));
            }
            for route in routes_for(*address, link.index) {
                let is_there = routes.iter().any(|found| {
                    found.destination == route.destination
                        && found.gateway == route.gateway
                        && found.link == route.link
                });
                if !is_there {
                    faults.push(format!("the pod has lost its route {route}"));
                }
            }
        }
        Ok(faults)
    }

    fn link_faults(&self, link: &Link) -> Vec<String> {
        let mut faults = Vec::new();
        let name = &self.interface;
        if link.kind.as_deref() != Some("veth") {
            faults.push(format!("{name} in the pod is not the veth that was made for it"));
        }
        if !link.is_up {
            faults.push(format!("{name} in the pod is down"));
        }
        if link.mac != self.mac.0 {
            faults.push(format!(
                "{name} has the MAC address {}, it was made with {}",
                Mac(link.mac),
                self.mac
            ));
        }
        if link.mtu != u32::from(self.mtu) {
            faults.push(format!("{name} has MTU {}, it was made with {}", link.mtu, self.mtu));
        }
        faults
    }

    fn has_v6(&self) -> bool {
        self.addresses.iter().any(IpAddr::is_ipv6)
    }
}

/// The way to the gateway, then everything by it.
fn routes_for(address: IpAddr, link: u32) -> [Route; 2] {
    let gateway = gateway_of(address);
    let is_v4 = address.is_ipv4();
    let everything = if is_v4 { "0.0.0.0/0" } else { "::/0" };
    [
        Route { link: Some(link), scope_link: is_v4, ..Route::to(IpNet::from(gateway)) },
        Route {
            gateway: Some(gateway),
            link: Some(link),
            onlink: is_v4,
            ..Route::to(everything.parse().expect("a literal"))
        },
    ]
}

/// Makes the host end speak no IPv6 of its own: what it sent, the switch would have to tell from the pod's.
pub fn silence_host_end(instance: &Netns, host_end: &str) -> Result<(), NetError> {
    let silence = || tolerate_no_ipv6(set_ipv6(host_end, "disable_ipv6", "1"));
    instance.run(silence).map_err(|e| NetError::entering(instance, &e))?
}

fn set_ipv6(interface: &str, setting: &str, value: &str) -> Result<(), NetError> {
    sysctl::set(&format!("net/ipv6/conf/{interface}/{setting}"), value)
}

/// A kernel without IPv6 has none of its settings, and nothing to be set.
fn tolerate_no_ipv6(result: Result<(), NetError>) -> Result<(), NetError> {
    match result {
        Err(error) if error.is_not_found() && sysctl::get("net/ipv6/conf/all/disable_ipv6").is_err() => {
            Ok(())
        }
        other => other,
    }
}
