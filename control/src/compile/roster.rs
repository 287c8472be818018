//! Who has which address: attached endpoints, Pod and Node objects put together.
//!
//! An endpoint's addresses come from the CNI call that made it; `status.podIPs` speaks only for pods of other nodes, because
//! it lags, and may name an address that has a new owner by now. A pod on its node's network is its node. What belongs to a
//! node is never a pod's.

use super::Compiler;
use crate::objects::{Phase, Pod};
use penstock_api::artefact::PodKey;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// A pod of this switch whose object is known.
#[derive(Debug)]
pub(crate) struct LocalPod<'a> {
    pub(crate) pod: &'a Pod,
    /// Of all its attached interfaces.
    pub(crate) addresses: BTreeSet<IpAddr>,
}

#[derive(Debug)]
pub(crate) struct Roster<'a> {
    /// In the order of their names.
    pub(crate) local: Vec<LocalPod<'a>>,
    /// Addresses of pods elsewhere, and every pod that claims one. Never empty.
    pub(crate) remote: BTreeMap<IpAddr, Vec<&'a Pod>>,
    /// Addresses of this node.
    pub(crate) hosts: BTreeSet<IpAddr>,
    /// Addresses of other nodes.
    pub(crate) nodes: BTreeSet<IpAddr>,
    /// Attached here, but nobody knows to whom: such an endpoint is isolated.
    pub(crate) unknown: BTreeSet<IpAddr>,
}

impl<'a> Roster<'a> {
    pub(crate) fn new(compiler: &'a Compiler) -> Self {
        let mut local: BTreeMap<(&str, &str), LocalPod<'a>> = BTreeMap::new();
        let mut unknown = BTreeSet::new();
        for endpoint in compiler.endpoints.values() {
            let name = (endpoint.pod.namespace.clone(), endpoint.pod.name.clone());
            let pod = compiler.pods.get(&name).filter(|pod| {
                let key = PodKey { namespace: name.0.clone(), name: name.1.clone(), uid: pod.uid.clone() };
                // A later pod of the same name has other labels. A terminated pod owns no address, and a pod on the host's
                // network is its node.
                key.is_same_pod(&endpoint.pod) && !pod.is_terminated() && !pod.host_network
            });
            match pod {
                Some(pod) => local
                    .entry((&pod.namespace, &pod.name))
                    .or_insert_with(|| LocalPod { pod, addresses: BTreeSet::new() })
                    .addresses
                    .extend(&endpoint.addresses),
                None => unknown.extend(&endpoint.addresses),
            }
        }
        let owned: BTreeSet<IpAddr> = local.values().flat_map(|pod| pod.addresses.iter().copied()).collect();
        unknown.retain(|address| !owned.contains(address));
        let is_here = |address: &IpAddr| owned.contains(address) || unknown.contains(address);

        // A node is this one when it is called so or has one of our addresses; then all it has are ours.
        let mut hosts = compiler.host_addresses.clone();
        let mut own_names: BTreeSet<&str> = compiler.node_name.as_deref().into_iter().collect();
        let on_nodes = || compiler.pods.values().filter(|pod| pod.host_network && !pod.is_terminated());
        let is_ours = |addresses: &[IpAddr]| addresses.iter().any(|a| compiler.host_addresses.contains(a));
        own_names.extend(compiler.nodes.values().filter(|n| is_ours(&n.addresses)).map(|n| n.name.as_str()));
        own_names
            .extend(on_nodes().filter(|p| is_ours(&p.addresses)).filter_map(|pod| pod.node_name.as_deref()));
        let mut nodes = BTreeSet::new();
        let of_nodes = compiler.nodes.values().map(|node| (Some(node.name.as_str()), &node.addresses));
        let of_pods = on_nodes().map(|pod| (pod.node_name.as_deref(), &pod.addresses));
        for (name, addresses) in of_nodes.chain(of_pods) {
            let addresses = addresses.iter().filter(|address| !is_here(address)).copied();
            match name.is_some_and(|name| own_names.contains(name)) {
                true => hosts.extend(addresses),
                false => nodes.extend(addresses),
            }
        }
        nodes.retain(|address| !hosts.contains(address));

        let mut remote: BTreeMap<IpAddr, Vec<&'a Pod>> = BTreeMap::new();
        for pod in compiler.pods.values() {
            if pod.host_network
                || pod.is_terminated()
                || local.contains_key(&(pod.namespace.as_str(), pod.name.as_str()))
            {
                continue;
            }
            for address in &pod.addresses {
                if !is_here(address) && !hosts.contains(address) && !nodes.contains(address) {
                    remote.entry(*address).or_default().push(pod);
                }
            }
        }
        for claimants in remote.values_mut() {
            // Of several, those that run; of those, what is certain decides (see `peers`).
            let runs = |pod: &&Pod| matches!(pod.phase, Some(Phase::Running) | None);
            if claimants.iter().any(runs) {
                claimants.retain(runs);
            }
        }
        Roster { local: local.into_values().collect(), remote, hosts, nodes, unknown }
    }
}
