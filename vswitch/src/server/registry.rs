//! Which ports there are, who has them, and who may have one more.
//!
//! Pure bookkeeping: no kernel, no workers, no clock. Slots ([`PortId`]) are used round robin, so that a frame still on its
//! way does not meet a new owner of its port; endpoint ids are never used twice. What is here is what is on disk.

use super::failure::Failure;
use crate::config::{Config, DirectPort, list};
use crate::io::abilities::MTU_OF_ONE_BUFFER;
use crate::snapshot::{PortKind, PortRecord};
use penstock_api::instance::inside;
use penstock_api::message::{ErrorCode, Mac, PodPort, gateway};
use penstock_api::{EndpointId, PortId, WorkerId};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// A port somebody has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Registered {
    pub(crate) id: PortId,
    pub(crate) endpoint: EndpointId,
    /// For direct ports: no container id, and the interface in both names.
    pub(crate) port: PodPort,
    /// The queue of a direct port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) direct_queue: Option<u32>,
    /// Detached, but the kernel has not let go of it yet: out of the snapshot, its slot not free.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) leaving: bool,
    /// For direct ports: index into the configuration's list.
    #[serde(skip)]
    pub(crate) device: u16,
}

impl Registered {
    pub(crate) fn is_direct(&self) -> bool {
        self.direct_queue.is_some()
    }

    pub(crate) fn record(&self) -> PortRecord {
        PortRecord {
            id: self.id,
            kind: if self.is_direct() { PortKind::Direct } else { PortKind::Pod },
            endpoint: self.endpoint,
            pod: Some(self.port.pod.clone()),
            mac: self.port.mac.0,
            addresses: self.port.addresses.clone(),
            mtu: self.port.mtu,
            device: self.device,
        }
    }

    /// For messages: who this is.
    fn who(&self) -> String {
        match self.is_direct() {
            true => format!("{} (direct port {}, interface {})", self.port.pod, self.id, self.port.interface),
            false => format!("{} (port {}, container {})", self.port.pod, self.id, self.port.container_id),
        }
    }
}

/// The registry as it is kept on disk.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Stored {
    pub(crate) next_endpoint: u32,
    pub(crate) ports: Vec<Registered>,
}

#[derive(Debug)]
pub(crate) struct Registry {
    ports: BTreeMap<PortId, Registered>,
    next_endpoint: u32,
    /// The slot given out last.
    last: u16,
    ports_max: usize,
}

/// What to do with a port that is offered.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    New,
    /// It is attached, exactly so.
    Already(PortId),
}

impl Registry {
    /// `first_endpoint`: where to begin when nothing is known of earlier endpoints.
    pub(crate) fn new(ports_max: usize, first_endpoint: u32) -> Self {
        Registry { ports: BTreeMap::new(), next_endpoint: first_endpoint.max(1), last: 0, ports_max }
    }

    /// Takes over what was stored. Ports that cannot be (a slot beyond the table or used twice, an endpoint not yet given
    /// out) come back with the reason.
    pub(crate) fn restore(stored: Stored, ports_max: usize) -> (Self, Vec<(Registered, &'static str)>) {
        let mut registry = Registry::new(ports_max, stored.next_endpoint);
        let mut refused = Vec::new();
        let mut endpoints = BTreeSet::new();
        for port in stored.ports {
            let reason = if port.id == PortId::HOST || port.id.index() >= ports_max {
                "its slot is beyond ports_max"
            } else if registry.ports.contains_key(&port.id) {
                "its slot is taken"
            } else if port.endpoint.0 == 0
                || port.endpoint.0 >= registry.next_endpoint
                || !endpoints.insert(port.endpoint)
            {
                "its endpoint id was never given out, or twice"
            } else {
                registry.last = registry.last.max(port.id.0);
                registry.ports.insert(port.id, port);
                continue;
            };
            refused.push((port, reason));
        }
        (registry, refused)
    }

    pub(crate) fn stored(&self) -> Stored {
        Stored { next_endpoint: self.next_endpoint, ports: self.ports.values().cloned().collect() }
    }

    pub(crate) fn get(&self, id: PortId) -> Option<&Registered> {
        self.ports.get(&id)
    }

    /// Ports in force, by slot.
    pub(crate) fn present(&self) -> impl Iterator<Item = &Registered> {
        self.ports.values().filter(|port| !port.leaving)
    }

    /// Ports that are detached except for the kernel.
    pub(crate) fn leaving(&self) -> Vec<Registered> {
        self.ports.values().filter(|port| port.leaving).cloned().collect()
    }

    /// The pod port of a container's interface.
    pub(crate) fn find(&self, container_id: &str, interface: &str) -> Option<&Registered> {
        self.present().find(|port| {
            !port.is_direct() && port.port.container_id == container_id && port.port.interface == interface
        })
    }

    /// May this port be attached? `host_addresses`: the node's own.
    pub(crate) fn admit(&self, port: &PodPort, host_addresses: &[IpAddr]) -> Result<Admission, Failure> {
        if let Some(there) = self.find(&port.container_id, &port.interface) {
            return match there.port == *port {
                true => Ok(Admission::Already(there.id)),
                false => Err(Failure::conflict(format!(
                    "container {} has {} attached already, to port {} with {}; detach it first",
                    port.container_id,
                    port.interface,
                    there.id,
                    differences(&there.port, port),
                ))),
            };
        }
        for address in &port.addresses {
            if let Some(owner) = self.present().find(|other| other.port.addresses.contains(address)) {
                return Err(Failure::conflict(format!(
                    "address {address} is in use by {}; give {} another one",
                    owner.who(),
                    port.pod
                )));
            }
            if host_addresses.contains(address) {
                return Err(Failure::conflict(format!(
                    "address {address} is the node's own; give {} another one",
                    port.pod
                )));
            }
        }
        if let Some(owner) = self.present().find(|o| !o.is_direct() && o.port.host_end == port.host_end) {
            return Err(Failure::conflict(format!(
                "host end {} belongs to {}; name this one differently",
                port.host_end,
                owner.who()
            )));
        }
        Ok(Admission::New)
    }

    /// Pods whose presence keeps this port from being attached.
    pub(crate) fn rivals(&self, port: &PodPort) -> Vec<Registered> {
        let is_rival = |other: &&Registered| {
            let same = other.port.container_id == port.container_id && other.port.interface == port.interface;
            !other.is_direct() && (same || port.addresses.iter().any(|a| other.port.addresses.contains(a)))
        };
        self.present().filter(is_rival).cloned().collect()
    }

    /// Gives the port a slot and an endpoint id.
    pub(crate) fn add(&mut self, port: PodPort) -> Result<PortId, Failure> {
        self.insert(port, None, 0)
    }

    fn insert(&mut self, port: PodPort, direct_queue: Option<u32>, device: u16) -> Result<PortId, Failure> {
        let slots = self.ports_max as u16;
        let free = (self.last + 1..slots).chain(1..=self.last.min(slots - 1)).map(PortId);
        let Some(id) = free.into_iter().find(|id| !self.ports.contains_key(id)) else {
            return Err(Failure::conflict(format!(
                "all {} ports are in use; detach pods, or start the switch with --ports-max above {}",
                self.ports_max - 1,
                self.ports_max
            )));
        };
        let endpoint = EndpointId(self.next_endpoint);
        // Four thousand million attachments; at one a second, a century.
        self.next_endpoint = self.next_endpoint.checked_add(1).ok_or_else(|| {
            Failure::conflict("every endpoint id was given out; remove the instance and set it up anew")
        })?;
        self.last = id.0;
        let leaving = false;
        self.ports.insert(id, Registered { id, endpoint, port, direct_queue, leaving, device });
        Ok(id)
    }

    /// Out of force; the slot stays taken until [`Registry::remove`].
    pub(crate) fn leave(&mut self, id: PortId) {
        if let Some(port) = self.ports.get_mut(&id) {
            port.leaving = true;
        }
    }

    pub(crate) fn remove(&mut self, id: PortId) -> Option<Registered> {
        self.ports.remove(&id)
    }

    /// Makes the direct ports be those of the configuration. Unchanged ones keep slot and endpoint.
    pub(crate) fn set_direct(&mut self, configured: &[DirectPort], mtu: u16) -> Result<(), Failure> {
        let wanted: Vec<(PodPort, u32)> =
            configured.iter().map(|direct| (direct_port(direct, mtu), direct.queue)).collect();
        self.ports.retain(|_, there| match there.direct_queue {
            None => true,
            Some(queue) => wanted.iter().any(|(port, q)| *q == queue && *port == there.port),
        });
        for (device, (port, queue)) in wanted.into_iter().enumerate() {
            let device = device as u16;
            let there = self.ports.values_mut().find(|t| t.direct_queue == Some(queue) && t.port == port);
            match there {
                Some(there) => there.device = device,
                None => {
                    if let Some(owner) =
                        self.present().find(|o| o.port.addresses.iter().any(|a| port.addresses.contains(a)))
                    {
                        return Err(Failure::conflict(format!(
                            "direct port {}: one of its addresses ({}) is in use by {}; detach that, or change direct.addresses",
                            port.interface,
                            list(&port.addresses),
                            owner.who()
                        )));
                    }
                    self.insert(port, Some(queue), device)?;
                }
            }
        }
        Ok(())
    }
}

fn direct_port(direct: &DirectPort, mtu: u16) -> PodPort {
    PodPort {
        container_id: String::new(),
        interface: direct.interface.clone(),
        host_end: direct.interface.clone(),
        pod: direct.pod.clone(),
        mac: direct.mac,
        addresses: direct.addresses.clone(),
        mtu: direct.mtu.unwrap_or(mtu).min(mtu),
    }
}

/// Which fields of two ports differ, as `mac 02:.. (not 02:..)`.
fn differences(there: &PodPort, offered: &PodPort) -> String {
    let mut different = Vec::new();
    let mut field = |name: &str, there: String, offered: String| {
        if there != offered {
            different.push(format!("{name} {there} (not {offered})"));
        }
    };
    field("host end", there.host_end.clone(), offered.host_end.clone());
    field("pod", format!("{:?}", there.pod), format!("{:?}", offered.pod));
    field("mac", there.mac.to_string(), offered.mac.to_string());
    field("addresses", list(&there.addresses), list(&offered.addresses));
    field("mtu", there.mtu.to_string(), offered.mtu.to_string());
    different.join(", ")
}

/// Can this port exist at all in a switch configured so? What needs no knowledge of other ports.
pub(crate) fn validate(port: &PodPort, config: &Config) -> Result<(), Failure> {
    let invalid = |message: String| Err(Failure::invalid(message));
    let id = &port.container_id;
    if id.is_empty()
        || id.len() > 253
        || !id.starts_with(|c: char| c.is_ascii_alphanumeric())
        || !id.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c))
    {
        return invalid(format!(
            "container id {id:?} is not valid: 1 to 253 letters, digits, '_', '.' and '-', beginning with a letter or digit"
        ));
    }
    for (what, name) in [("interface", &port.interface), ("host end", &port.host_end)] {
        let good = (1..=15).contains(&name.len())
            && name.chars().all(|c| c.is_ascii_graphic() && c != '/' && c != ':')
            && name != "."
            && name != "..";
        if !good {
            return invalid(format!(
                "{what} {name:?} is not an interface name: 1 to 15 visible characters without '/' and ':'"
            ));
        }
    }
    let reserved = port.host_end == inside::HOST
        || port.host_end == "lo"
        || (0..crate::config::WORKERS_MAX as u8).map(WorkerId).any(|worker| {
            port.host_end == inside::trunk_near(worker) || port.host_end == inside::trunk_far(worker)
        });
    if reserved {
        return invalid(format!("host end {} is the switch's own; name it differently", port.host_end));
    }
    for (what, name) in [("namespace", &port.pod.namespace), ("name", &port.pod.name)] {
        if name.is_empty() || name.len() > 253 || name.contains(|c: char| c.is_control() || c == '/') {
            return invalid(format!("pod {what} {name:?} is not valid: 1 to 253 characters without '/'"));
        }
    }
    if port.mac == Mac::default() || port.mac.0[0] & 1 != 0 || port.mac == gateway::MAC {
        return invalid(format!("mac {} is not one that a pod's interface can have", port.mac));
    }
    if port.addresses.is_empty() {
        return invalid(format!("pod {} has no address; give it at least one", port.pod));
    }
    let mut seen = BTreeSet::new();
    for address in &port.addresses {
        if !seen.insert(address) {
            return invalid(format!("address {address} stands twice"));
        }
        if !config.is_pod_address(*address) {
            return invalid(format!(
                "address {address} lies in none of this node's pod ranges, {}; change the plugin's range or the switch's pod_ranges",
                list(&config.pod_ranges)
            ));
        }
    }
    // RFC 8200 section 5: every link of IPv6 carries 1280.
    let mtu_min = if port.addresses.iter().any(IpAddr::is_ipv6) { 1280 } else { 576 };
    if port.mtu < mtu_min {
        return invalid(format!("mtu {} is below {mtu_min}, the least for these addresses", port.mtu));
    }
    if port.mtu > config.mtu {
        let on = if port.mtu > MTU_OF_ONE_BUFFER { ", on Linux 6.6 or newer" } else { "" };
        return invalid(format!(
            "mtu {} is above {}, the most this switch carries; lower it in the plugin's configuration, or start the switch with --mtu {}{on}",
            port.mtu, config.mtu, port.mtu
        ));
    }
    Ok(())
}

/// The text for a registry that is wrong about the kernel.
pub(crate) fn gone(container_id: &str, interface: &str) -> Failure {
    Failure::new(
        ErrorCode::NotFound,
        format!("container {container_id} has no {interface} attached to this switch; add it again"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::testing::port;
    use penstock_api::artefact::PodKey;

    #[test]
    fn a_slot_is_not_used_again_at_once_and_an_endpoint_never() {
        let mut registry = Registry::new(4, 1);
        let first = registry.add(port(1)).unwrap();
        registry.remove(first);
        let second = registry.add(port(1)).unwrap();
        assert_eq!((first, second), (PortId(1), PortId(2)));
        assert_eq!(registry.get(second).unwrap().endpoint, EndpointId(2));
        registry.add(port(3)).unwrap();
        assert_eq!(registry.add(port(4)).unwrap(), PortId(1), "round robin");
        let full = registry.add(port(5)).unwrap_err();
        assert!(full.message.contains("all 3 ports are in use"), "{}", full.message);
    }

    #[test]
    fn the_same_offer_again_is_no_conflict_and_another_one_is() {
        let mut registry = Registry::new(16, 1);
        let id = registry.add(port(1)).unwrap();
        assert_eq!(registry.admit(&port(1), &[]), Ok(Admission::Already(id)));
        let other = PodPort { mac: Mac([2, 0, 0, 0, 0, 9]), ..port(1) };
        let conflict = registry.admit(&other, &[]).unwrap_err();
        assert_eq!(conflict.code, ErrorCode::Conflict);
        assert!(
            conflict.message.contains("mac 02:00:00:00:00:01 (not 02:00:00:00:00:09)"),
            "{}",
            conflict.message
        );
    }

    #[test]
    fn a_taken_address_is_refused_naming_who_has_it() {
        let mut registry = Registry::new(16, 1);
        registry.add(port(1)).unwrap();
        let thief = PodPort { addresses: port(1).addresses, ..port(2) };
        let conflict = registry.admit(&thief, &[]).unwrap_err().message;
        assert!(
            conflict.contains("10.244.0.1 is in use by default/pod1 (port 1, container c1)"),
            "{conflict}"
        );
        let conflict = registry.admit(&port(2), &["10.244.0.2".parse().unwrap()]).unwrap_err().message;
        assert!(conflict.contains("the node's own"), "{conflict}");
    }

    #[test]
    fn a_leaving_port_keeps_its_slot_and_frees_its_address() {
        let mut registry = Registry::new(3, 1);
        let id = registry.add(port(1)).unwrap();
        registry.leave(id);
        assert_eq!(registry.admit(&port(1), &[]), Ok(Admission::New));
        assert_ne!(registry.add(port(1)).unwrap(), id);
        assert!(registry.add(port(2)).is_err(), "both slots are taken");
    }

    #[test]
    fn what_was_stored_comes_back_and_what_contradicts_itself_does_not() {
        let mut registry = Registry::new(16, 1);
        registry.add(port(1)).unwrap();
        registry.add(port(2)).unwrap();
        let text = serde_json::to_string(&registry.stored()).unwrap();
        let (again, refused) = Registry::restore(serde_json::from_str(&text).unwrap(), 16);
        assert_eq!(again.stored(), registry.stored());
        assert!(refused.is_empty());

        let mut stored = registry.stored();
        stored.next_endpoint = 2; // endpoint 2 was "never given out"
        let (again, refused) = Registry::restore(stored, 16);
        assert_eq!((again.present().count(), refused.len()), (1, 1));
        let mut stored = registry.stored();
        stored.ports[0].id = PortId::HOST;
        assert_eq!(Registry::restore(stored, 16).1.len(), 1, "nobody is the host");
        let mut stored = registry.stored();
        stored.ports[1].id = stored.ports[0].id;
        assert_eq!(Registry::restore(stored, 16).1[0].1, "its slot is taken");
        let (again, refused) = Registry::restore(registry.stored(), 2);
        assert_eq!((again.present().count(), refused[0].1), (1, "its slot is beyond ports_max"));
    }

    #[test]
    fn an_unchanged_direct_port_keeps_its_endpoint() {
        let direct = |n: u8| DirectPort {
            interface: format!("ve{n}"),
            queue: 0,
            queues: 1,
            mode: Default::default(),
            addresses: vec![format!("10.244.0.{n}").parse().unwrap()],
            mac: Mac([2, 0, 0, 0, 0, n]),
            pod: PodKey::new("default", "d"),
            mtu: None,
        };
        let mut registry = Registry::new(16, 1);
        registry.set_direct(&[direct(1), direct(2)], 1500).unwrap();
        let (mut registry, _) = Registry::restore(registry.stored(), 16);
        registry.set_direct(&[direct(2), direct(3)], 1500).unwrap();
        let now: Vec<_> =
            registry.present().map(|p| (p.port.interface.clone(), p.endpoint.0, p.device)).collect();
        assert_eq!(now, [("ve2".to_owned(), 2, 0), ("ve3".to_owned(), 3, 1)]);
        assert!(registry.find("", "ve2").is_none(), "no container can detach it");
    }

    #[test]
    fn what_cannot_be_a_port_is_refused_by_name() {
        let config = Config::default();
        assert_eq!(validate(&port(1), &config), Ok(()));
        let refused = |change: fn(&mut PodPort)| {
            let mut port = port(1);
            change(&mut port);
            validate(&port, &config).expect_err("it was accepted").message
        };
        for (names, message) in [
            ("container id \"../x\"", refused(|p| p.container_id = "../x".into())),
            ("host end \"\"", refused(|p| p.host_end = "".into())),
            ("is the switch's own", refused(|p| p.host_end = "trunk3".into())),
            ("interface \"a/b\"", refused(|p| p.interface = "a/b".into())),
            ("pod name \"\"", refused(|p| p.pod.name = "".into())),
            ("mac 02:50:53:00:00:01", refused(|p| p.mac = gateway::MAC)),
            ("has no address", refused(|p| p.addresses.clear())),
            ("stands twice", refused(|p| p.addresses.push(p.addresses[0]))),
            ("192.0.2.1 lies in none", refused(|p| p.addresses[0] = "192.0.2.1".parse().unwrap())),
            ("start the switch with --mtu 9000", refused(|p| p.mtu = 9000)),
            ("below 1280", refused(|p| p.mtu = 1000)),
        ] {
            assert!(message.contains(names), "{message:?} does not say {names:?}");
        }
    }
}
