//! What the events have said so far: plain sorted maps, a few indices of them, and what has changed since somebody looked.

use super::Options;
use super::rule::{CLUSTER, CLUSTER_NAME, NAMESPACE, PortName, SERVICE_ACCOUNT};
use crate::objects::{
    CiliumCidrGroup, CiliumPolicy, ContainerPort, EndpointSlice, Labels, NAMESPACE_NAME_LABEL, Namespace,
    NetworkPolicy, Node, ObjectKey, Pod, Service,
};
use penstock_api::artefact::PodKey;
use penstock_api::ids::EndpointId;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

/// A name within a namespace.
pub(crate) type Name = (String, String);

/// One attachment of one pod's interface, as the switch reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) pod: PodKey,
    pub(crate) addresses: BTreeSet<IpAddr>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    Kubernetes(NetworkPolicy),
    Cilium(CiliumPolicy),
}

/// The state alone decides about the artefact.
#[derive(Debug, Clone, Default)]
pub(crate) struct State {
    pub(crate) options: Options,
    pub(crate) node_name: Option<String>,
    pub(crate) host_addresses: BTreeSet<IpAddr>,
    pub(crate) endpoints: BTreeMap<EndpointId, Endpoint>,
    pub(crate) names: Names,
    pub(crate) pods: Pods,
    pub(crate) policies: BTreeMap<ObjectKey, Source>,
    /// Deleted while their namespace was being deleted, still in force. See [`super::Compiler::delete`].
    pub(crate) lingering: BTreeMap<ObjectKey, Source>,
    pub(crate) cidr_groups: BTreeMap<String, CiliumCidrGroup>,
    pub(crate) nodes: BTreeMap<String, Node>,
    pub(crate) services: BTreeMap<Name, Service>,
    pub(crate) slices: BTreeMap<Name, EndpointSlice>,
}

/// What has changed.
#[derive(Debug, Clone, Default)]
pub(crate) struct Changes {
    pub(crate) policies: BTreeSet<ObjectKey>,
    /// Something that names in policies stand for.
    pub(crate) directory: bool,
    /// Endpoints, nodes, and what decides whether an endpoint's pod is known.
    pub(crate) roster: bool,
    /// Addresses about whose owners something has changed.
    pub(crate) addresses: BTreeSet<IpAddr>,
    pub(crate) namespaces: BTreeSet<String>,
}

/// Pods by name, and who claims an address.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pods {
    by_name: BTreeMap<Name, Pod>,
    /// By `status`, of pods that own addresses. Never empty.
    claims: HashMap<IpAddr, BTreeSet<Name>>,
    /// On their nodes' networks, and not terminated.
    on_nodes: BTreeSet<Name>,
}

impl Pods {
    pub(crate) fn get(&self, name: &Name) -> Option<&Pod> {
        self.by_name.get(name)
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &Pod> {
        self.by_name.values()
    }

    pub(crate) fn on_nodes(&self) -> impl Iterator<Item = &Pod> {
        self.on_nodes.iter().filter_map(|name| self.by_name.get(name))
    }

    pub(crate) fn of_namespace(&self, namespace: &str) -> impl Iterator<Item = &Pod> {
        let first = (namespace.to_owned(), String::new());
        let from = self.by_name.range(first..).map(|(_, pod)| pod);
        from.take_while(move |pod| pod.namespace == namespace)
    }

    /// Pods whose status claims an address, in the order of their names.
    pub(crate) fn claimants(&self, address: IpAddr) -> impl Iterator<Item = (&Name, &Pod)> {
        let names = self.claims.get(&address).into_iter().flatten();
        names.filter_map(|name| Some((name, self.by_name.get(name)?)))
    }

    pub(crate) fn claimed(&self) -> impl Iterator<Item = IpAddr> {
        self.claims.keys().copied()
    }

    pub(crate) fn insert(&mut self, mut pod: Pod, changes: &mut Changes) {
        // What selectors may ask of a pod besides its own labels stands under keys that no label can have. The API server
        // fills in this account where a pod names none.
        let account = pod.service_account.as_deref().unwrap_or("default");
        pod.labels.insert(SERVICE_ACCOUNT.to_owned(), account.to_owned());
        let name = (pod.namespace.clone(), pod.name.clone());
        if let Some(old) = self.by_name.get(&name) {
            if *old == pod {
                return;
            }
            let owns_alike = |a: &Pod, b: &Pod| {
                a.addresses == b.addresses
                    && a.uid == b.uid
                    && a.host_network == b.host_network
                    && a.is_terminated() == b.is_terminated()
                    && a.node_name == b.node_name
            };
            if owns_alike(old, &pod) {
                changes.addresses.extend(&pod.addresses);
                self.by_name.insert(name, pod);
                return;
            }
            self.remove(&name, changes);
        }
        changes.roster = true;
        changes.addresses.extend(&pod.addresses);
        match (pod.is_terminated(), pod.host_network) {
            (true, _) => {}
            (false, true) => drop(self.on_nodes.insert(name.clone())),
            (false, false) => {
                for address in &pod.addresses {
                    self.claims.entry(*address).or_default().insert(name.clone());
                }
            }
        }
        self.by_name.insert(name, pod);
    }

    pub(crate) fn remove(&mut self, name: &Name, changes: &mut Changes) {
        let Some(pod) = self.by_name.remove(name) else { return };
        changes.roster = true;
        changes.addresses.extend(&pod.addresses);
        self.on_nodes.remove(name);
        for address in &pod.addresses {
            if let Some(names) = self.claims.get_mut(address) {
                names.remove(name);
                if names.is_empty() {
                    self.claims.remove(address);
                }
            }
        }
    }
}

/// Label pairs as selectors want them.
pub(crate) fn pairs(labels: &Labels) -> impl Iterator<Item = (&str, &str)> {
    labels.iter().map(|(key, value)| (key.as_str(), value.as_str()))
}

/// Every number this pod gives the name, the first container's first.
pub(crate) fn named_ports(pod: &Pod, name: &PortName) -> impl Iterator<Item = u16> {
    let is_it =
        |port: &&ContainerPort| port.protocol == name.protocol && port.name.as_deref() == Some(&name.name);
    pod.ports.iter().filter(is_it).map(|port| port.port)
}

/// The addresses in a service's slices.
pub(crate) fn endpoints(
    slices: &BTreeMap<Name, EndpointSlice>,
    namespace: &str,
    service: &str,
) -> impl Iterator<Item = IpAddr> {
    let in_namespace = slices.range((namespace.to_owned(), String::new())..).map(|(_, slice)| slice);
    in_namespace
        .take_while(move |slice| slice.namespace == namespace)
        .filter(move |slice| slice.service.as_deref() == Some(service))
        .flat_map(|slice| &slice.endpoints)
        .flat_map(|endpoint| &endpoint.addresses)
        .copied()
}

/// Namespaces by name, and their labels as selectors see them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Names {
    namespaces: BTreeMap<String, Namespace>,
}

impl Names {
    /// False: it was known like this already.
    pub(crate) fn insert(&mut self, mut namespace: Namespace) -> bool {
        Self::complete(&mut namespace.labels, &namespace.name);
        let name = namespace.name.clone();
        if self.namespaces.get(&name) == Some(&namespace) {
            return false;
        }
        self.namespaces.insert(name, namespace);
        true
    }

    pub(crate) fn remove(&mut self, name: &str) -> bool {
        self.namespaces.remove(name).is_some()
    }

    pub(crate) fn is_terminating(&self, name: &str) -> bool {
        self.namespaces.get(name).is_some_and(|namespace| namespace.terminating)
    }

    /// The name labels are always there and always true, whether or not an object for the namespace is, and whatever it says.
    pub(crate) fn labels(&self, name: &str) -> Cow<'_, Labels> {
        match self.namespaces.get(name) {
            Some(namespace) => Cow::Borrowed(&namespace.labels),
            None => {
                let mut labels = Labels::new();
                Self::complete(&mut labels, name);
                Cow::Owned(labels)
            }
        }
    }

    fn complete(labels: &mut Labels, name: &str) {
        labels.insert(NAMESPACE_NAME_LABEL.to_owned(), name.to_owned());
        labels.insert(NAMESPACE.to_owned(), name.to_owned());
        labels.insert(CLUSTER.to_owned(), CLUSTER_NAME.to_owned());
    }
}
