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
//! rules that select a local pod    → rules in force        [force]
//! peers + rules in force           → what is true of each  [peers, cidr, matching]
//! everything true of somebody      → identities            [identity]
//! local pods + identities          → programs              [program]
//! ```
//! Selectors are never evaluated pod by pod: pods whose labels no selector can tell apart are one class. The cost is near
//! linear in pods, and in policies.
//!
//! "A pod may always reach itself" is no rule of any program: who judges a flow between two addresses of one endpoint allows
//! it (the reference, the lookup and the switch do).

mod cidr;
mod cilium;
mod force;
mod identity;
mod kubernetes;
mod matching;
mod peers;
mod program;
mod roster;
mod rule;
mod state;

use crate::objects::{
    CiliumCidrGroup, CiliumPolicy, EndpointSlice, Kind, NetworkPolicy, Node, NotEnforced, Object, ObjectKey,
    Pod, Service,
};
use force::{Force, PartId, Who};
use identity::Classes;
use ipnet::IpNet;
use peers::{Answers, GroupId, Member, Peers, Site};
use penstock_api::artefact::{
    AddressIdentity, Artefact, Direction, Identity, PodKey, PodPolicy, PrefixIdentity, SCHEMA,
};
use penstock_api::ids::{EndpointId, Generation, IdentityId};
use roster::Roster;
use rule::Policy;
use state::Names;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

/// A name within a namespace.
pub(crate) type Name = (String, String);

/// One attachment of one pod's interface, as the switch reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) pod: PodKey,
    pub(crate) addresses: BTreeSet<IpAddr>,
}

/// When pods are isolated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
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

#[derive(Debug, Clone)]
enum Source {
    Kubernetes(NetworkPolicy),
    Cilium(CiliumPolicy),
}

#[derive(Debug, Clone, Default)]
pub struct Compiler {
    options: Options,
    names: Names,
    pods: BTreeMap<Name, Pod>,
    policies: BTreeMap<ObjectKey, Source>,
    /// Deleted while their namespace was being deleted, still in force. See [`Compiler::delete`].
    lingering: BTreeMap<ObjectKey, Source>,
    cidr_groups: BTreeMap<String, CiliumCidrGroup>,
    nodes: BTreeMap<String, Node>,
    services: BTreeMap<Name, Service>,
    slices: BTreeMap<Name, EndpointSlice>,
    endpoints: BTreeMap<EndpointId, Endpoint>,
    host_addresses: BTreeSet<IpAddr>,
    node_name: Option<String>,
}

impl Compiler {
    #[must_use]
    pub fn new() -> Self {
        Compiler::default()
    }

    pub fn set_options(&mut self, options: Options) {
        self.options = options;
    }

    /// Adds an object or replaces the one of its kind, namespace and name.
    pub fn apply(&mut self, object: Object) {
        let key = object.key();
        let name = (key.namespace.clone(), key.name.clone());
        match object {
            Object::Namespace(namespace) => {
                if !namespace.terminating {
                    self.lingering.retain(|key, _| key.namespace != namespace.name);
                }
                self.names.insert(namespace);
            }
            Object::Pod(pod) => {
                self.pods.insert(name, state::complete(pod));
            }
            Object::NetworkPolicy(policy) => {
                self.lingering.remove(&key);
                self.policies.insert(key, Source::Kubernetes(policy));
            }
            Object::CiliumNetworkPolicy(policy) | Object::CiliumClusterwideNetworkPolicy(policy) => {
                self.lingering.remove(&key);
                self.policies.insert(key, Source::Cilium(policy));
            }
            Object::CiliumCidrGroup(group) => {
                self.cidr_groups.insert(key.name, group);
            }
            Object::Node(node) => {
                self.nodes.insert(key.name, node);
            }
            Object::Service(service) => {
                self.services.insert(name, service);
            }
            Object::EndpointSlice(slice) => {
                self.slices.insert(name, slice);
            }
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
                self.names.remove(&key.name);
            }
            Kind::Pod => {
                self.pods.remove(&name);
            }
            Kind::NetworkPolicy | Kind::CiliumNetworkPolicy | Kind::CiliumClusterwideNetworkPolicy => {
                if let Some(policy) = self.policies.remove(key)
                    && self.names.is_terminating(&key.namespace)
                {
                    self.lingering.insert(key.clone(), policy);
                }
            }
            Kind::CiliumCidrGroup => {
                self.cidr_groups.remove(&key.name);
            }
            Kind::Node => {
                self.nodes.remove(&key.name);
            }
            Kind::Service => {
                self.services.remove(&name);
            }
            Kind::EndpointSlice => {
                self.slices.remove(&name);
            }
        }
        if self.lingering.is_empty() {
            return;
        }
        let populated: BTreeSet<&str> = self.pods.keys().map(|(namespace, _)| namespace.as_str()).collect();
        self.lingering.retain(|key, _| populated.contains(key.namespace.as_str()));
    }

    /// Forgets every object and takes these instead. Endpoints and host addresses stay.
    pub fn reset(&mut self, objects: impl IntoIterator<Item = Object>) {
        self.names.clear();
        self.pods.clear();
        self.policies.clear();
        self.lingering.clear();
        self.cidr_groups.clear();
        self.nodes.clear();
        self.services.clear();
        self.slices.clear();
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
        self.attach_by_status(|_| true);
    }

    /// The same of one node's pods, and the node's addresses: what that node's switch would be told.
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

    /// What this node is called. Without a name it is known by its addresses.
    pub fn set_node_name(&mut self, name: Option<String>) {
        self.node_name = name;
    }

    /// Fields of policies that nothing enforces, and the policies they stand in.
    #[must_use]
    pub fn not_enforced(&self) -> Vec<(ObjectKey, NotEnforced)> {
        let mut all = Vec::new();
        for (key, source) in &self.policies {
            if let Source::Cilium(policy) = source {
                let compiled = self.rules(source).not_enforced;
                let fields = cilium::not_enforced(policy).cloned().chain(compiled);
                all.extend(fields.map(|field| (key.clone(), field)));
            }
        }
        all
    }

    fn rules(&self, source: &Source) -> Policy {
        match source {
            Source::Kubernetes(policy) => kubernetes::rules(policy),
            Source::Cilium(policy) => cilium::rules(
                policy,
                cilium::Directory {
                    cidr_groups: &self.cidr_groups,
                    services: &self.services,
                    slices: &self.slices,
                    nodes: &self.nodes,
                },
            ),
        }
    }

    /// Policies in force, in the order of their names.
    fn policies_in_force(&self) -> Vec<Arc<Policy>> {
        let mut all: BTreeMap<&ObjectKey, &Source> = self.lingering.iter().collect();
        all.extend(&self.policies);
        all.into_values().map(|source| Arc::new(self.rules(source))).collect()
    }

    /// What this node enforces now. Its generation is 0: numbering generations is the installer's business.
    #[must_use]
    pub fn artefact(&self) -> Artefact {
        let roster = Roster::new(self);
        let (parts, selecting) = self.select(&roster);
        let force = Force::new(&parts, &self.options);
        let mut peers = Peers::default();

        // Who is where.
        let mut members: HashSet<Member> = HashSet::new();
        let mut by_prefix: BTreeMap<IpNet, Answers> = BTreeMap::new();
        for (net, cover) in &force.cuts.cuts {
            let site = Site { cover: *cover, is_api_server: false };
            let answers = peers.place(&force, Who::outsider(net.addr().is_ipv6()), site);
            members.insert(Member { answers, group: None, site });
            by_prefix.insert(*net, answers);
        }
        let api_servers: BTreeSet<IpAddr> = match force.tells_api_server {
            true => state::endpoints(&self.slices, "default", "kubernetes").collect(),
            false => BTreeSet::new(),
        };
        let site_of = |address: &IpAddr| Site {
            cover: force.cuts.covering(*address),
            is_api_server: api_servers.contains(address),
        };
        for address in &api_servers {
            let (who, site) = (Who::outsider(address.is_ipv6()), site_of(address));
            let answers = peers.place(&force, who, site);
            members.insert(Member { answers, group: None, site });
            by_prefix.insert(IpNet::from(*address), answers);
        }
        let mut pods_at = |peers: &mut Peers, address: IpAddr, claimants: &[&Pod]| {
            let site = site_of(&address);
            let claimants: Vec<(GroupId, &Pod)> =
                claimants.iter().map(|pod| (peers.group(&force, pod, &self.names), *pod)).collect();
            let answers = peers.pods(&force, &claimants, site);
            members.extend(claimants.iter().map(|(group, _)| Member { answers, group: Some(*group), site }));
            answers
        };
        for (address, claimants) in &roster.remote {
            by_prefix.insert(IpNet::from(*address), pods_at(&mut peers, *address, claimants));
        }
        let local: Vec<Vec<Answers>> = roster
            .local
            .iter()
            .map(|pod| {
                pod.addresses.iter().map(|address| pods_at(&mut peers, *address, &[pod.pod])).collect()
            })
            .collect();
        let places =
            [(Who::RemoteNode, &roster.nodes), (Who::Host, &roster.hosts), (Who::Init, &roster.unknown)];
        for (who, addresses) in places {
            for address in addresses {
                let site = site_of(address);
                let answers = peers.place(&force, who, site);
                members.insert(Member { answers, group: None, site });
                by_prefix.insert(IpNet::from(*address), answers);
            }
        }

        let live = by_prefix.values().chain(local.iter().flatten()).copied();
        let classes = Classes::new(&force, &mut peers, live);
        let mut writer = program::Writer::new(&force, &classes, &self.options);
        let mut pods = Vec::with_capacity(roster.local.len());
        for ((here, answers), selecting) in roster.local.iter().zip(&local).zip(&selecting) {
            let identities: Vec<IdentityId> = answers.iter().map(|a| classes.number(*a)).collect();
            // Attached without an address: nothing can be said to it or about it.
            let Some(identity) = identities.first().copied() else { continue };
            let pod = here.pod;
            let others = here.addresses.iter().zip(&identities).filter(|(_, other)| **other != identity);
            pods.push(PodPolicy {
                pod: PodKey {
                    namespace: pod.namespace.clone(),
                    name: pod.name.clone(),
                    uid: pod.uid.clone(),
                },
                addresses: here.addresses.iter().copied().collect(),
                identity,
                other_identities: others
                    .map(|(address, identity)| AddressIdentity { address: *address, identity: *identity })
                    .collect(),
                ingress: writer.program(pod, Direction::Ingress, &selecting.ingress),
                egress: writer.program(pod, Direction::Egress, &selecting.egress),
            });
        }
        let programs = writer.programs;
        Artefact {
            schema: SCHEMA,
            generation: Generation(0),
            identities: describe(&force, &peers, &classes, &members),
            prefixes: prefixes(&by_prefix, &classes),
            policies: force.policies.clone(),
            rules: force.rules.clone(),
            programs,
            pods,
        }
    }

    /// The parts of policies that select a local pod, and for each local pod which of them do.
    fn select(&self, roster: &Roster<'_>) -> (Vec<(Arc<Policy>, usize)>, Vec<Selecting>) {
        let policies = self.policies_in_force();
        let mut of_namespace: HashMap<&str, Vec<(usize, usize)>> = HashMap::new();
        let mut of_any: Vec<(usize, usize)> = Vec::new();
        for (number, policy) in policies.iter().enumerate() {
            for (index, part) in policy.parts.iter().enumerate() {
                if !part.ingress.speaks() && !part.egress.speaks() {
                    continue;
                }
                match part.subject.only_namespace() {
                    Some(namespace) => of_namespace.entry(namespace).or_default().push((number, index)),
                    None => of_any.push((number, index)),
                }
            }
        }
        let mut chosen: Vec<Vec<(usize, usize)>> = Vec::with_capacity(roster.local.len());
        for local in &roster.local {
            let namespace = self.names.labels(&local.pod.namespace);
            let own = of_namespace.get(local.pod.namespace.as_str()).into_iter().flatten();
            let mut selecting: Vec<(usize, usize)> = own
                .chain(&of_any)
                .filter(|(number, index)| {
                    policies[*number].parts[*index].subject.selects_pod(&local.pod.labels, &namespace)
                })
                .copied()
                .collect();
            selecting.sort_unstable();
            chosen.push(selecting);
        }
        let in_force: BTreeSet<(usize, usize)> = chosen.iter().flatten().copied().collect();
        let numbers: HashMap<(usize, usize), PartId> =
            in_force.iter().copied().zip((0..).map(PartId)).collect();
        let selecting = chosen.into_iter().map(|chosen| {
            let side = |speaks: fn(&rule::Part) -> bool| {
                let spoken = chosen.iter().filter(|(number, index)| speaks(&policies[*number].parts[*index]));
                spoken.map(|part| numbers[part]).collect()
            };
            Selecting {
                ingress: side(|part| part.ingress.speaks()),
                egress: side(|part| part.egress.speaks()),
            }
        });
        let selecting = selecting.collect();
        (in_force.into_iter().map(|(number, index)| (policies[number].clone(), index)).collect(), selecting)
    }
}

/// The parts that say something to a pod, by direction, in the order of their policies' names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Selecting {
    ingress: Vec<PartId>,
    egress: Vec<PartId>,
}

/// A prefix that says no more than the one around it is left out.
fn prefixes(by_prefix: &BTreeMap<IpNet, Answers>, classes: &Classes) -> Vec<PrefixIdentity> {
    let mut prefixes = Vec::with_capacity(by_prefix.len());
    let mut around: Vec<PrefixIdentity> = Vec::new();
    for (prefix, answers) in by_prefix {
        while around.last().is_some_and(|outer| !outer.prefix.contains(prefix)) {
            around.pop();
        }
        let this = PrefixIdentity { prefix: *prefix, identity: classes.number(*answers) };
        if around.last().is_some_and(|outer| outer.identity == this.identity) {
            continue;
        }
        prefixes.push(this);
        if prefix.prefix_len() < prefix.max_prefix_len() {
            around.push(this);
        }
    }
    prefixes
}

/// What each identity stands for: the labels that rules ask for and all its members have, and the CIDRs that cover them.
fn describe(force: &Force, peers: &Peers, classes: &Classes, members: &HashSet<Member>) -> Vec<Identity> {
    let mut shared: BTreeMap<IdentityId, BTreeSet<String>> = BTreeMap::new();
    for member in members {
        let own = peers.describe(force, *member);
        match shared.get_mut(&classes.number(member.answers)) {
            Some(shared) => shared.retain(|label| own.contains(label)),
            None => drop(shared.insert(classes.number(member.answers), own)),
        }
    }
    for (answers, id) in &classes.numbers {
        let labels = shared.entry(*id).or_default();
        labels.extend(answers.who.labels().iter().map(|label| format!("reserved:{label}")));
    }
    shared.entry(IdentityId::UNKNOWN).or_default().insert("reserved:unknown".to_owned());
    let finish =
        |(id, labels): (IdentityId, BTreeSet<String>)| Identity { id, labels: labels.into_iter().collect() };
    shared.into_iter().map(finish).collect()
}
