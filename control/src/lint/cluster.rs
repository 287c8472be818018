//! The objects that are there, as the checks want them.

use crate::compile::cilium::{self, Directory};
use crate::compile::kubernetes;
use crate::compile::rule::{Policy, SERVICE_ACCOUNT, Selector};
use crate::compile::state::Names;
use crate::load::{LoadedObject, Place};
use crate::objects::{
    CiliumCidrGroup, CiliumPolicy, EndpointSlice, NetworkPolicy, Node, Object, Pod, Service,
};
use std::collections::{BTreeMap, BTreeSet};

/// A policy and where it stands.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stated<'a> {
    pub(super) source: Source<'a>,
    pub(super) place: &'a Place,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Source<'a> {
    Kubernetes(&'a NetworkPolicy),
    Cilium(&'a CiliumPolicy),
}

#[derive(Debug, Default)]
pub(super) struct Cluster<'a> {
    pub(super) policies: Vec<Stated<'a>>,
    /// Those that policy can select.
    pub(super) pods: Vec<Pod>,
    /// There are Pod objects, though perhaps none that policy can select.
    pub(super) has_pods: bool,
    pub(super) namespaces: BTreeSet<&'a str>,
    pub(super) names: Names,
    pub(super) cidr_groups: BTreeMap<String, CiliumCidrGroup>,
    pub(super) services: BTreeMap<(String, String), Service>,
    slices: BTreeMap<(String, String), EndpointSlice>,
    nodes: BTreeMap<String, Node>,
}

impl<'a> Cluster<'a> {
    pub(super) fn new(objects: &'a [LoadedObject]) -> Self {
        let mut cluster = Cluster::default();
        for loaded in objects {
            cluster.add(&loaded.object, &loaded.place);
        }
        cluster
    }

    fn add(&mut self, object: &'a Object, place: &'a Place) {
        let key = object.key();
        let name = (key.namespace, key.name);
        match object {
            Object::Namespace(namespace) => {
                self.namespaces.insert(&namespace.name);
                self.names.insert(namespace.clone());
            }
            Object::Pod(pod) => {
                self.has_pods = true;
                if !pod.host_network && !pod.is_terminated() {
                    // Selectors ask for the service account as for a label.
                    let mut pod = pod.clone();
                    let account = pod.service_account.clone().unwrap_or_else(|| "default".to_owned());
                    pod.labels.insert(SERVICE_ACCOUNT.to_owned(), account);
                    self.pods.push(pod);
                }
            }
            Object::NetworkPolicy(policy) => {
                self.policies.push(Stated { source: Source::Kubernetes(policy), place });
            }
            Object::CiliumNetworkPolicy(policy) | Object::CiliumClusterwideNetworkPolicy(policy) => {
                self.policies.push(Stated { source: Source::Cilium(policy), place });
            }
            Object::CiliumCidrGroup(group) => _ = self.cidr_groups.insert(name.1, group.clone()),
            Object::Node(node) => _ = self.nodes.insert(name.1, node.clone()),
            Object::Service(service) => _ = self.services.insert(name, service.clone()),
            Object::EndpointSlice(slice) => _ = self.slices.insert(name, slice.clone()),
        }
    }

    pub(super) fn compile(&self, policy: Source<'_>) -> Policy {
        let (cidr_groups, services) = (&self.cidr_groups, &self.services);
        let directory = Directory { cidr_groups, services, slices: &self.slices, nodes: &self.nodes };
        match policy {
            Source::Kubernetes(policy) => kubernetes::rules(policy),
            Source::Cilium(policy) => cilium::rules(policy, directory),
        }
    }

    pub(super) fn selects(&self, selector: &Selector, pod: &Pod) -> bool {
        selector.selects_pod(&pod.labels, &self.names.labels(&pod.namespace))
    }

    pub(super) fn has_v6(&self) -> bool {
        let of_pods = self.pods.iter().flat_map(|pod| &pod.addresses);
        of_pods.chain(self.nodes.values().flat_map(|node| &node.addresses)).any(|address| address.is_ipv6())
    }
}
