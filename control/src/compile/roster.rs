//! Who has which address: attached endpoints, Pod and Node objects put together.
//!
//! An endpoint's addresses come from the CNI call that made it; `status.podIPs` speaks only for pods of other nodes, because
//! it lags, and may name an address that has a new owner by now. A pod on its node's network is its node. What belongs to a
//! node is never a pod's.

use super::state::{Changes, Name, State};
use crate::objects::{Phase, Pod};
use penstock_api::artefact::PodKey;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::IpAddr;

/// This node's endpoints, and the nodes. Small, and made anew whenever one of them changes.
#[derive(Debug, Clone, Default)]
pub(crate) struct Roster {
    /// Pods of this switch whose object is known, and the addresses of all their attached interfaces.
    pub(crate) local: BTreeMap<Name, BTreeSet<IpAddr>>,
    owned: HashSet<IpAddr>,
    /// Attached here, but nobody knows to whom: such an endpoint is isolated.
    unknown: HashSet<IpAddr>,
    /// Addresses of this node.
    hosts: HashSet<IpAddr>,
    /// Addresses of other nodes.
    nodes: HashSet<IpAddr>,
}

/// Who has an address that is no local pod's.
#[derive(Debug)]
pub(crate) enum Owner<'a> {
    Unknown,
    Host,
    Node,
    /// Every pod that claims it. Never empty.
    Pods(Vec<&'a Pod>),
    /// Nobody that is known.
    Outsider,
}

impl Roster {
    pub(crate) fn new(state: &State) -> Self {
        let mut roster = Roster::default();
        for endpoint in state.endpoints.values() {
            let name = (endpoint.pod.namespace.clone(), endpoint.pod.name.clone());
            let is_known = state.pods.get(&name).is_some_and(|pod| {
                let key = PodKey { namespace: name.0.clone(), name: name.1.clone(), uid: pod.uid.clone() };
                // A later pod of the same name has other labels. A terminated pod owns no address, and a pod on the host's
                // network is its node.
                key.is_same_pod(&endpoint.pod) && !pod.is_terminated() && !pod.host_network
            });
            match is_known {
                true => roster.local.entry(name).or_default().extend(&endpoint.addresses),
                false => roster.unknown.extend(&endpoint.addresses),
            }
        }
        roster.owned = roster.local.values().flatten().copied().collect();
        let is_here = |roster: &Roster, address: &IpAddr| {
            roster.owned.contains(address) || roster.unknown.contains(address)
        };

        // A node is this one when it is called so or has one of our addresses; then all it has are ours.
        let mut own_names: BTreeSet<&str> = state.node_name.as_deref().into_iter().collect();
        let is_ours = |addresses: &[IpAddr]| addresses.iter().any(|a| state.host_addresses.contains(a));
        own_names.extend(state.nodes.values().filter(|n| is_ours(&n.addresses)).map(|n| n.name.as_str()));
        let on_nodes = || state.pods.on_nodes();
        own_names
            .extend(on_nodes().filter(|p| is_ours(&p.addresses)).filter_map(|pod| pod.node_name.as_deref()));
        roster.hosts.extend(&state.host_addresses);
        let of_nodes = state.nodes.values().map(|node| (Some(node.name.as_str()), &node.addresses));
        let of_pods = on_nodes().map(|pod| (pod.node_name.as_deref(), &pod.addresses));
        for (name, addresses) in of_nodes.chain(of_pods) {
            let is_own = name.is_some_and(|name| own_names.contains(name));
            for address in addresses {
                match is_own {
                    _ if is_here(&roster, address) => {}
                    true => drop(roster.hosts.insert(*address)),
                    false => drop(roster.nodes.insert(*address)),
                }
            }
        }
        roster.unknown.retain(|address| !roster.owned.contains(address));
        roster
    }

    /// Every address this speaks of.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        let all = self.owned.iter().chain(&self.unknown).chain(&self.hosts).chain(&self.nodes);
        all.copied()
    }

    /// Notes the addresses that may have another owner now.
    pub(crate) fn compare(&self, other: &Roster, state: &State, changes: &mut Changes) {
        for (one, other) in [
            (&self.owned, &other.owned),
            (&self.unknown, &other.unknown),
            (&self.hosts, &other.hosts),
            (&self.nodes, &other.nodes),
        ] {
            changes.addresses.extend(one.symmetric_difference(other));
        }
        let is_in_one = |name: &&Name| self.local.contains_key(*name) != other.local.contains_key(*name);
        for name in self.local.keys().chain(other.local.keys()).filter(is_in_one) {
            changes.addresses.extend(state.pods.get(name).into_iter().flat_map(|pod| &pod.addresses));
        }
    }

    pub(crate) fn owner<'a>(&self, state: &'a State, address: IpAddr) -> Owner<'a> {
        if self.unknown.contains(&address) {
            return Owner::Unknown;
        }
        if self.hosts.contains(&address) {
            return Owner::Host;
        }
        if self.owned.contains(&address) {
            return Owner::Outsider;
        }
        if self.nodes.contains(&address) {
            return Owner::Node;
        }
        let claimants = state.pods.claimants(address);
        let mut pods: Vec<&Pod> =
            claimants.filter(|(name, _)| !self.local.contains_key(*name)).map(|(_, pod)| pod).collect();
        // Of several, those that run; of those, what is certain decides (see `peers`).
        let runs = |pod: &&Pod| matches!(pod.phase, Some(Phase::Running) | None);
        if pods.iter().any(runs) {
            pods.retain(runs);
        }
        if pods.is_empty() { Owner::Outsider } else { Owner::Pods(pods) }
    }
}
