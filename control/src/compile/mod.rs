//! The pure core: events in, an artefact out. No I/O, no clock, no randomness.
//!
//! The state is plain sorted maps and the artefact is a function of it alone: events may come in any order, twice, or squashed
//! into fewer, and the same state gives the same artefact to the byte, identity numbers included. (One exception, on the
//! safe side: see [`Compiler::delete`].)
//!
//! The line from objects to artefact, in [`Compiler::artefact`]:
//! ```text
//! attached endpoints + Pod objects → local pods            [roster]
//! policies that select a local pod → rules in force        [force]
//! every address + rules in force   → identities, prefixes  [identity, cidr]
//! local pods + identities          → programs              [program]
//! ```
//! Selectors are never evaluated pod by pod: pods whose labels no selector can tell apart are one class ([`matching`]).
//! The cost is near linear in pods, and in policies.

mod cidr;
mod force;
mod identity;
mod matching;
mod program;
mod roster;

use crate::objects::{Kind, NAMESPACE_NAME_LABEL, Namespace, NetworkPolicy, Object, ObjectKey, Pod};
use penstock_api::artefact::{Artefact, PodKey, PolicyInfo, SCHEMA};
use penstock_api::ids::{EndpointId, Generation};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// A name within a namespace.
pub(crate) type Name = (String, String);

/// One attachment of one pod's interface, as the switch reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) pod: PodKey,
    pub(crate) addresses: BTreeSet<IpAddr>,
}

#[derive(Debug, Clone, Default)]
pub struct Compiler {
    namespaces: BTreeMap<String, Namespace>,
    pods: BTreeMap<Name, Pod>,
    policies: BTreeMap<Name, NetworkPolicy>,
    /// Deleted while their namespace was being deleted, still in force. See [`Compiler::delete`].
    lingering: BTreeMap<Name, NetworkPolicy>,
    endpoints: BTreeMap<EndpointId, Endpoint>,
    host_addresses: BTreeSet<IpAddr>,
}

impl Compiler {
    #[must_use]
    pub fn new() -> Self {
        Compiler::default()
    }

    /// Adds an object or replaces the one of its kind, namespace and name.
    pub fn apply(&mut self, object: Object) {
        match object {
            Object::Namespace(namespace) => {
                if !namespace.terminating {
                    self.lingering.retain(|(owner, _), _| *owner != namespace.name);
                }
                self.namespaces.insert(namespace.name.clone(), namespace);
            }
            Object::Pod(pod) => {
                self.pods.insert((pod.namespace.clone(), pod.name.clone()), pod);
            }
            Object::NetworkPolicy(policy) => {
                let name = (policy.namespace.clone(), policy.name.clone());
                self.lingering.remove(&name);
                self.policies.insert(name, policy);
            }
            // Read and checked, but not compiled yet.
            Object::CiliumNetworkPolicy(_)
            | Object::CiliumClusterwideNetworkPolicy(_)
            | Object::CiliumCidrGroup(_)
            | Object::Node(_)
            | Object::Service(_)
            | Object::EndpointSlice(_) => {}
        }
    }

    /// Removes an object; nothing happens when it is not there.
    ///
    /// Deleting a namespace deletes its policies and its pods in no particular order, and a policy gone first would open
    /// pods that are still running. So a policy deleted while its namespace is terminating stays in force until the last pod
    /// of the namespace is gone (or the namespace is there again and alive). This is the one place where the order of events
    /// can show in the artefact, and it only ever shows as isolation kept.
    pub fn delete(&mut self, key: &ObjectKey) {
        let name = (key.namespace.clone(), key.name.clone());
        match key.kind {
            Kind::Namespace => {
                self.namespaces.remove(&key.name);
            }
            Kind::Pod => {
                self.pods.remove(&name);
            }
            Kind::NetworkPolicy => {
                let terminating = self.namespaces.get(&key.namespace).is_some_and(|n| n.terminating);
                if let Some(policy) = self.policies.remove(&name)
                    && terminating
                {
                    self.lingering.insert(name, policy);
                }
            }
            Kind::CiliumNetworkPolicy
            | Kind::CiliumClusterwideNetworkPolicy
            | Kind::CiliumCidrGroup
            | Kind::Node
            | Kind::Service
            | Kind::EndpointSlice => {}
        }
        if self.lingering.is_empty() {
            return;
        }
        let populated: BTreeSet<&str> = self.pods.keys().map(|(namespace, _)| namespace.as_str()).collect();
        self.lingering.retain(|(namespace, _), _| populated.contains(namespace.as_str()));
    }

    /// Forgets every object and takes these instead. Endpoints and host addresses stay.
    pub fn reset(&mut self, objects: impl IntoIterator<Item = Object>) {
        self.namespaces.clear();
        self.pods.clear();
        self.policies.clear();
        self.lingering.clear();
        objects.into_iter().for_each(|object| self.apply(object));
    }

    /// A pod's interface is attached to this switch.
    pub fn attach(&mut self, endpoint: EndpointId, pod: PodKey, addresses: impl IntoIterator<Item = IpAddr>) {
        self.endpoints.insert(endpoint, Endpoint { pod, addresses: addresses.into_iter().collect() });
    }

    pub fn detach(&mut self, endpoint: EndpointId) {
        self.endpoints.remove(&endpoint);
    }

    /// Forgets every endpoint: a new subscription will tell them again.
    pub fn detach_all(&mut self) {
        self.endpoints.clear();
    }

    /// Attaches every pod that has addresses in its status, as if all of them were on this switch: how policy is judged
    /// without one. Pods without addresses, on the host's network or terminated stay out.
    pub fn attach_all_by_status(&mut self) {
        self.detach_all();
        let live = |pod: &&Pod| !pod.host_network && !pod.is_terminated() && !pod.addresses.is_empty();
        for (number, pod) in (1..).zip(self.pods.values().filter(live)) {
            let endpoint = Endpoint {
                pod: PodKey {
                    namespace: pod.namespace.clone(),
                    name: pod.name.clone(),
                    uid: pod.uid.clone(),
                },
                addresses: pod.addresses.iter().copied().collect(),
            };
            self.endpoints.insert(EndpointId(number), endpoint);
        }
    }

    /// The addresses of this node. They are never a pod's.
    pub fn set_host_addresses(&mut self, addresses: impl IntoIterator<Item = IpAddr>) {
        self.host_addresses = addresses.into_iter().collect();
    }

    /// What this node enforces now. Its generation is 0: numbering generations is the installer's business.
    #[must_use]
    pub fn artefact(&self) -> Artefact {
        let roster = roster::Roster::new(self);
        let force = force::Force::new(self, &roster);
        let classes = identity::Classes::new(&roster, &force);
        let programs = program::compile(&roster, &force, &classes);
        Artefact {
            schema: SCHEMA,
            generation: Generation(0),
            identities: classes.identities,
            prefixes: classes.prefixes,
            policies: force.policies.iter().map(|policy| policy.info.clone()).collect(),
            rules: force.rules,
            programs: programs.programs,
            pods: programs.pods,
        }
    }

    /// Labels of a namespace as selectors see them. The name label is always there and always true, whether or not an
    /// object for the namespace is, and whatever that says.
    fn namespace_labels<'a>(&'a self, namespace: &str) -> Cow<'a, crate::objects::Labels> {
        let known = self.namespaces.get(namespace).map(|n| &n.labels);
        match known {
            Some(labels) if labels.get(NAMESPACE_NAME_LABEL).is_some_and(|name| name == namespace) => {
                Cow::Borrowed(labels)
            }
            _ => {
                let mut labels = known.cloned().unwrap_or_default();
                labels.insert(NAMESPACE_NAME_LABEL.to_owned(), namespace.to_owned());
                Cow::Owned(labels)
            }
        }
    }

    /// Policies in force, in the order of their names.
    fn policies_in_force(&self) -> impl Iterator<Item = &NetworkPolicy> {
        let mut all: BTreeMap<&Name, &NetworkPolicy> = self.lingering.iter().collect();
        all.extend(&self.policies);
        all.into_values()
    }
}

/// What the product itself always allows: the pod's own node may reach it (kubelet's probes).
pub(crate) fn own_node_policy() -> PolicyInfo {
    PolicyInfo { kind: "builtin".to_owned(), namespace: String::new(), name: "own-node".to_owned() }
}
