//! Who has which address: attached endpoints and Pod objects put together.
//!
//! An endpoint's addresses come from the CNI call that made it; `status.podIPs` speaks only for pods of other nodes, because
//! it lags, and may name an address that has a new owner by now.

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
    pub(crate) compiler: &'a Compiler,
    /// In the order of their names.
    pub(crate) local: Vec<LocalPod<'a>>,
    /// Addresses of pods elsewhere, and every pod that claims one. Never empty.
    pub(crate) remote: BTreeMap<IpAddr, Vec<&'a Pod>>,
    /// Attached here, but nobody knows to whom: such an endpoint is isolated, and is no peer of anybody's.
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

        let mut remote: BTreeMap<IpAddr, Vec<&'a Pod>> = BTreeMap::new();
        for pod in compiler.pods.values() {
            if pod.host_network || pod.is_terminated() || local.contains_key(&(&pod.namespace, &pod.name)) {
                continue;
            }
            for address in &pod.addresses {
                let taken = owned.contains(address)
                    || unknown.contains(address)
                    || compiler.host_addresses.contains(address);
                if !taken {
                    remote.entry(*address).or_default().push(pod);
                }
            }
        }
        for claimants in remote.values_mut() {
            // Of several, those that run; of those, what all of them have in common decides (see `identity`).
            let runs = |pod: &&Pod| matches!(pod.phase, Some(Phase::Running) | None);
            if claimants.iter().any(runs) {
                claimants.retain(runs);
            }
        }
        Roster { compiler, local: local.into_values().collect(), remote, unknown }
    }

    /// Every pod somebody may meet, in the order of their names, local and remote.
    pub(crate) fn met(&self) -> impl Iterator<Item = &'a Pod> {
        let mut met: BTreeMap<(&str, &str), &'a Pod> = BTreeMap::new();
        let local = self.local.iter().map(|local| local.pod);
        for pod in local.chain(self.remote.values().flatten().copied()) {
            met.insert((&pod.namespace, &pod.name), pod);
        }
        met.into_values()
    }
}
