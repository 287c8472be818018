//! The pure core: events in, an artefact out. No I/O, no clock, no randomness.
//!
//! The state is plain sorted maps and the artefact is a function of it alone: events may come in any order, twice, or squashed
//! into fewer, and the same state gives the same artefact to the byte, identity numbers included. (One exception, on the
//! safe side: see [`Compiler::delete`].)
//!
//! The line from objects to artefact, in [`Compiler::artefact`]:
//! ```text
//! policies of every kind           → one kind of rule      [rule, kubernetes, cilium]
//! endpoints, Pods and Nodes        → who has which address [roster]
//! rules that select a local pod    → rules in force        [select, force]
//! peers + rules in force           → what is true of each  [peers, cidr, matching]
//! everything true of somebody      → identities            [identity]
//! local pods + identities          → programs              [program]
//! ```
//! Selectors are never evaluated pod by pod: pods whose labels no selector can tell apart are one class. The cost is near
//! linear in pods, and in policies; what a change did not touch is kept from the artefact before ([`memo`]).
//!
//! "A pod may always reach itself" is no rule of any program: who judges a flow between two addresses of one endpoint allows
//! it (the reference, the lookup and the switch do).

mod cidr;
pub(crate) mod cilium;
mod force;
mod identity;
pub(crate) mod kubernetes;
mod limits;
mod matching;
mod memo;
mod peers;
mod program;
mod roster;
pub(crate) mod rule;
mod select;
pub(crate) mod state;

use crate::objects::{Kind, NotEnforced, Object, ObjectKey, Pod};
use memo::Memo;
use penstock_api::Artefact;
use penstock_api::artefact::PodKey;
use penstock_api::ids::EndpointId;
use state::{Changes, Endpoint, Source, State};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::net::IpAddr;

pub use limits::{Limits, Overflow};

/// When pods are isolated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Enforcement {
    /// Those that a policy isolates.
    #[default]
    Default,
    /// All of them, in both directions.
    Always,
    /// None, whatever policies say: they allow and deny nothing.
    Never,
}

/// What pods may say to their own node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum PodToHost {
    /// What their policies let them, as to anybody.
    #[default]
    Judge,
    /// Everything, unless a policy denies it: upstream's words.
    Allow,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Options {
    pub enforcement: Enforcement,
    pub pod_to_host: PodToHost,
}

/// Objects and endpoints in, artefacts out. See the module.
#[derive(Debug, Clone, Default)]
pub struct Compiler {
    state: State,
    /// Since the last artefact.
    changes: RefCell<Changes>,
    memo: RefCell<Memo>,
}

impl Compiler {
    #[must_use]
    pub fn new() -> Self {
        Compiler::default()
    }

    pub fn set_options(&mut self, options: Options) {
        self.state.options = options;
    }

    /// Adds an object or replaces the one of its kind, namespace and name.
    pub fn apply(&mut self, object: Object) {
        let key = object.key();
        let name = (key.namespace.clone(), key.name.clone());
        let (state, changes) = (&mut self.state, self.changes.get_mut());
        match object {
            Object::Namespace(namespace) => {
                if !namespace.terminating {
                    self.release(|key| key.namespace == namespace.name);
                }
                let name = namespace.name.clone();
                if self.state.names.insert(namespace) {
                    self.changes.get_mut().namespaces.insert(name);
                }
            }
            Object::Pod(pod) => state.pods.insert(pod, changes),
            Object::NetworkPolicy(policy) => self.apply_policy(key, Source::Kubernetes(policy)),
            Object::CiliumNetworkPolicy(policy) | Object::CiliumClusterwideNetworkPolicy(policy) => {
                self.apply_policy(key, Source::Cilium(policy));
            }
            Object::CiliumCidrGroup(group) => {
                changes.directory = true;
                state.cidr_groups.insert(key.name, group);
            }
            Object::Node(node) => {
                (changes.directory, changes.roster) = (true, true);
                state.nodes.insert(key.name, node);
            }
            Object::Service(service) => {
                changes.directory = true;
                state.services.insert(name, service);
            }
            Object::EndpointSlice(slice) => {
                changes.directory = true;
                state.slices.insert(name, slice);
            }
        }
    }

    fn apply_policy(&mut self, key: ObjectKey, source: Source) {
        self.state.lingering.remove(&key);
        self.changes.get_mut().policies.insert(key.clone());
        self.state.policies.insert(key, source);
    }

    /// Lets go of policies that were deleted and kept.
    fn release(&mut self, is_over: impl Fn(&ObjectKey) -> bool) {
        let changes = self.changes.get_mut();
        self.state.lingering.retain(|key, _| {
            let stays = !is_over(key);
            if !stays {
                changes.policies.insert(key.clone());
            }
            stays
        });
    }

    /// Removes an object; nothing happens when it is not there.
    ///
    /// Deleting a namespace deletes its policies and its pods in no particular order, and a policy gone first would open
    /// pods that are still running. So a policy deleted while its namespace is terminating stays in force until the last pod
    /// of the namespace is gone (or the namespace is there again and alive). This is the one place where the order of events
    /// can show in the artefact, and it only ever shows as isolation kept.
    pub fn delete(&mut self, key: &ObjectKey) {
        let name = (key.namespace.clone(), key.name.clone());
        let (state, changes) = (&mut self.state, self.changes.get_mut());
        match key.kind {
            Kind::Namespace => {
                if state.names.remove(&key.name) {
                    changes.namespaces.insert(key.name.clone());
                }
            }
            Kind::Pod => state.pods.remove(&name, changes),
            Kind::NetworkPolicy | Kind::CiliumNetworkPolicy | Kind::CiliumClusterwideNetworkPolicy => {
                if let Some(policy) = state.policies.remove(key) {
                    changes.policies.insert(key.clone());
                    if state.names.is_terminating(&key.namespace) {
                        state.lingering.insert(key.clone(), policy);
                    }
                }
            }
            Kind::CiliumCidrGroup => {
                changes.directory |= state.cidr_groups.remove(&key.name).is_some();
            }
            Kind::Node => {
                if state.nodes.remove(&key.name).is_some() {
                    (changes.directory, changes.roster) = (true, true);
                }
            }
            Kind::Service => changes.directory |= state.services.remove(&name).is_some(),
            Kind::EndpointSlice => changes.directory |= state.slices.remove(&name).is_some(),
        }
        if !self.state.lingering.is_empty() {
            let lingering = self.state.lingering.keys().map(|key| key.namespace.clone());
            let empty: BTreeSet<String> =
                lingering.filter(|name| self.state.pods.of_namespace(name).next().is_none()).collect();
            self.release(|key| empty.contains(&key.namespace));
        }
    }

    /// Forgets every object and takes these instead. Endpoints and host addresses stay.
    pub fn reset(&mut self, objects: impl IntoIterator<Item = Object>) {
        let state = std::mem::take(&mut self.state);
        self.state = State {
            options: state.options,
            node_name: state.node_name,
            host_addresses: state.host_addresses,
            endpoints: state.endpoints,
            ..State::default()
        };
        self.memo.take();
        self.changes.take();
        objects.into_iter().for_each(|object| self.apply(object));
    }

    /// A pod's interface is attached to this switch.
    pub fn attach(&mut self, endpoint: EndpointId, pod: PodKey, addresses: impl IntoIterator<Item = IpAddr>) {
        self.changes.get_mut().roster = true;
        self.state.endpoints.insert(endpoint, Endpoint { pod, addresses: addresses.into_iter().collect() });
    }

    pub fn detach(&mut self, endpoint: EndpointId) {
        self.changes.get_mut().roster = true;
        self.state.endpoints.remove(&endpoint);
    }

    /// Forgets every endpoint: a new subscription will tell them again.
    pub fn detach_all(&mut self) {
        self.changes.get_mut().roster = true;
        self.state.endpoints.clear();
    }

    /// Attaches every pod that has addresses in its status, as if all of them were on this switch: how policy is judged
    /// without one. Pods without addresses, on the host's network or terminated stay out.
    pub fn attach_all_by_status(&mut self) {
        self.attach_by_status(|_| true);
    }

    /// The same of one node's pods, with the node's addresses as this node's: what that node's switch would enforce.
    pub fn attach_node_by_status(&mut self, node: &str) {
        self.attach_by_status(|pod| pod.node_name.as_deref() == Some(node));
        self.set_host_addresses([]);
        self.set_node_name(Some(node.to_owned()));
    }

    fn attach_by_status(&mut self, is_here: impl Fn(&Pod) -> bool) {
        self.detach_all();
        let live = |pod: &&Pod| {
            !pod.host_network && !pod.is_terminated() && !pod.addresses.is_empty() && is_here(pod)
        };
        for (number, pod) in (1..).zip(self.state.pods.all().filter(live)) {
            let endpoint = Endpoint {
                pod: PodKey {
                    namespace: pod.namespace.clone(),
                    name: pod.name.clone(),
                    uid: pod.uid.clone(),
                },
                addresses: pod.addresses.iter().copied().collect(),
            };
            self.state.endpoints.insert(EndpointId(number), endpoint);
        }
    }

    /// The addresses of this node. They are never a pod's.
    pub fn set_host_addresses(&mut self, addresses: impl IntoIterator<Item = IpAddr>) {
        self.changes.get_mut().roster = true;
        self.state.host_addresses = addresses.into_iter().collect();
    }

    /// What this node is called. Without a name it is known by its addresses.
    pub fn set_node_name(&mut self, name: Option<String>) {
        self.changes.get_mut().roster = true;
        self.state.node_name = name;
    }

    /// Fields of policies that nothing enforces, and the policies they stand in.
    #[must_use]
    pub fn not_enforced(&self) -> Vec<(ObjectKey, NotEnforced)> {
        let mut all = Vec::new();
        for (key, source) in &self.state.policies {
            if let Source::Cilium(policy) = source {
                let compiled = memo::rules(&self.state, source).not_enforced;
                let fields = cilium::not_enforced(policy).cloned().chain(compiled);
                all.extend(fields.map(|field| (key.clone(), field)));
            }
        }
        all
    }

    /// What this node enforces now, however large it is. Its generation is 0: numbering generations is the installer's
    /// business.
    #[must_use]
    pub fn artefact(&self) -> Artefact {
        self.artefact_within(&Limits::NONE).expect("there are no limits")
    }

    /// The same, unless it outgrows the limits.
    pub fn artefact_within(&self, limits: &Limits) -> Result<Artefact, Overflow> {
        self.memo.borrow_mut().artefact(&self.state, self.changes.take(), limits)
    }

    /// The same again, with nothing remembered from before: what [`artefact`](Compiler::artefact) is tested against.
    #[must_use]
    pub fn artefact_afresh(&self) -> Artefact {
        let all = Changes::default();
        Memo::default().artefact(&self.state, all, &Limits::NONE).expect("there are no limits")
    }
}
