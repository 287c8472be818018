//! Who is where: nodes, their pods, and the one owner of each address.
//!
//! Objects say less than a running cluster knows, and may contradict each other. So:
//! - A pod is on the node its `spec.nodeName` names. Pods without one are together on a node nothing is known of.
//! - An address has one owner. Of several pods that claim it, one that runs wins, then the first by name; a node's address is
//!   no pod's.
//! - A pod left without an address is given one of each family, from the ranges clusters commonly use.
//! - A pod on the host's network is its node. A pod that has ended owns nothing: asked about, it is just the address it had.

use crate::objects::{Object, Phase, Pod};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Namespace and name.
pub(super) type Name = (String, String);

#[derive(Debug, Default)]
pub(super) struct Places {
    /// The first has no name.
    pub(super) nodes: Vec<Node>,
    /// Those that policy can select.
    pub(super) pods: BTreeMap<Name, Placed>,
    /// Those it cannot.
    pub(super) others: BTreeMap<Name, Other>,
    pub(super) at: HashMap<IpAddr, Name>,
    pub(super) notices: Vec<String>,
}

#[derive(Debug, Default)]
pub(super) struct Node {
    name: Option<String>,
    pub(super) addresses: BTreeSet<IpAddr>,
}

#[derive(Debug)]
pub(super) struct Placed {
    pub(super) uid: Option<String>,
    /// Never empty.
    pub(super) addresses: Vec<IpAddr>,
    pub(super) node: usize,
}

/// A pod on its node's network, or one that has ended.
#[derive(Debug)]
pub(super) struct Other {
    pub(super) addresses: Vec<IpAddr>,
    has_ended: bool,
}

/// What clusters give their pods and nodes when nobody says otherwise: kubeadm's and kind's habits.
const POD_V4: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 0);
const POD_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x10, 0x244, 0, 0, 0, 0, 0);
const NODE_V4: Ipv4Addr = Ipv4Addr::new(172, 18, 0, 0);

impl Places {
    pub(super) fn new(objects: &[Object]) -> Places {
        let mut places = Places { nodes: vec![Node::default()], ..Places::default() };
        for object in objects {
            if let Object::Node(node) = object {
                let index = places.node(Some(&node.name));
                places.nodes[index].addresses.extend(sorted(&node.addresses));
            }
        }
        let mut pods: Vec<&Pod> = objects
            .iter()
            .filter_map(|object| match object {
                Object::Pod(pod) => Some(pod),
                _ => None,
            })
            .collect();
        let runs = |pod: &Pod| matches!(pod.phase, Some(Phase::Running) | None);
        pods.sort_by_key(|pod| (!runs(pod), &pod.namespace, &pod.name));
        let mut taken: HashSet<IpAddr> = pods.iter().flat_map(|pod| pod.addresses.iter().copied()).collect();
        taken.extend(places.nodes.iter().flat_map(|node| &node.addresses));
        let mut spare = Spare { taken, pods: 0, nodes: 0 };

        // Nodes first: their addresses are never a pod's.
        for pod in pods.iter().filter(|pod| pod.is_terminated() || pod.host_network) {
            places.set_aside(pod, &mut spare);
        }
        for pod in pods.iter().filter(|pod| !(pod.is_terminated() || pod.host_network)) {
            places.place(pod, &mut spare);
        }
        places
    }

    pub(super) fn on_host_network(&self) -> impl Iterator<Item = &Name> {
        self.others.iter().filter(|(_, other)| !other.has_ended).map(|(name, _)| name)
    }

    /// The index of a node, which is there afterwards.
    fn node(&mut self, name: Option<&str>) -> usize {
        if let Some(index) = self.nodes.iter().position(|node| node.name.as_deref() == name) {
            return index;
        }
        self.nodes.push(Node { name: name.map(str::to_owned), addresses: BTreeSet::new() });
        self.nodes.len() - 1
    }

    fn set_aside(&mut self, pod: &Pod, spare: &mut Spare) {
        let mut addresses = sorted(&pod.addresses);
        let has_ended = pod.is_terminated();
        if !has_ended {
            let node = self.node(pod.node_name.as_deref());
            if addresses.is_empty() {
                addresses.extend(&self.nodes[node].addresses);
            }
            if addresses.is_empty() {
                addresses.push(spare.node());
                self.notices.push(format!(
                    "Pod {}/{}: it is on its node's network and the objects say no address of that; taken to be {}",
                    pod.namespace, pod.name, addresses[0]
                ));
            }
            // Of a pod that is on no node yet nothing is known about whose node it will share.
            if pod.node_name.is_some() {
                self.nodes[node].addresses.extend(&addresses);
            }
        }
        self.others.insert((pod.namespace.clone(), pod.name.clone()), Other { addresses, has_ended });
    }

    fn place(&mut self, pod: &Pod, spare: &mut Spare) {
        let name: Name = (pod.namespace.clone(), pod.name.clone());
        let mut own = Vec::new();
        for address in sorted(&pod.addresses) {
            if let Some((namespace, owner)) = self.at.get(&address) {
                self.notices.push(format!(
                    "Pod {}/{}: {address} is taken to be Pod {namespace}/{owner}'s, which claims it too",
                    name.0, name.1
                ));
            } else if self.nodes.iter().any(|node| node.addresses.contains(&address)) {
                self.notices.push(format!("Pod {}/{}: {address} is a node's", name.0, name.1));
            } else {
                own.push(address);
            }
        }
        if own.is_empty() {
            own = spare.pod();
            self.notices.push(format!(
                "Pod {}/{}: it has no address of its own; taken to be {} and {}",
                name.0, name.1, own[0], own[1]
            ));
        }
        self.at.extend(own.iter().map(|address| (*address, name.clone())));
        let node = self.node(pod.node_name.as_deref());
        self.pods.insert(name, Placed { uid: pod.uid.clone(), addresses: own, node });
    }
}

/// IPv4 first, no duplicates.
fn sorted(addresses: &[IpAddr]) -> Vec<IpAddr> {
    let addresses: BTreeSet<IpAddr> = addresses.iter().map(IpAddr::to_canonical).collect();
    addresses.into_iter().collect()
}

/// Addresses nobody has.
struct Spare {
    taken: HashSet<IpAddr>,
    pods: u32,
    nodes: u32,
}

impl Spare {
    fn pod(&mut self) -> Vec<IpAddr> {
        loop {
            self.pods += 1;
            let v4 = IpAddr::from(Ipv4Addr::from(u32::from(POD_V4) + self.pods));
            let v6 = IpAddr::from(Ipv6Addr::from(u128::from(POD_V6) + u128::from(self.pods)));
            if !self.taken.contains(&v4) && !self.taken.contains(&v6) {
                return vec![v4, v6];
            }
        }
    }

    fn node(&mut self) -> IpAddr {
        loop {
            self.nodes += 1;
            let v4 = IpAddr::from(Ipv4Addr::from(u32::from(NODE_V4) + self.nodes));
            if !self.taken.contains(&v4) {
                return v4;
            }
        }
    }
}
