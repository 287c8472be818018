//! The rules in force on this node: those of policies that select one of its pods, in a direction they isolate.
//!
//! Everything other policies say makes no difference here, so it makes no identities either. What rules ask about peers is
//! collected as numbered questions: is it one of these pods ([`AtomId`]), is it covered by this block ([`BlockId`]), which
//! number does it give this port name ([`FactId`])? Peers with the same answers are one identity.

use super::Compiler;
use super::cidr::BlockId;
use super::matching::{Class, Matcher, SelectorId};
use super::own_node_policy;
use super::roster::Roster;
use crate::objects::{
    IpBlock, LabelSelector, NetworkPolicy, Peer, PolicyPort, PolicyRule, PortMatch, Protocol,
};
use penstock_api::artefact::{Direction, PolicyInfo, RuleInfo};
use penstock_api::ids::{PolicyId, RuleId};
use std::collections::{BTreeMap, HashMap};

/// "Is it one of these pods?"
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct AtomId(pub(crate) usize);

/// "Which number does it give this port name?"
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct FactId(pub(crate) usize);

/// Pods of one namespace that no selector tells apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct GroupId(pub(crate) usize);

#[derive(Debug)]
pub(crate) struct ForcedPolicy<'a> {
    pub(crate) info: PolicyInfo,
    /// Empty where the policy does not isolate in that direction.
    pub(crate) ingress: Vec<ForcedRule<'a>>,
    pub(crate) egress: Vec<ForcedRule<'a>>,
}

#[derive(Debug)]
pub(crate) struct ForcedRule<'a> {
    pub(crate) id: RuleId,
    pub(crate) peers: ForcedPeers,
    pub(crate) ports: &'a [PolicyPort],
}

#[derive(Debug)]
pub(crate) enum ForcedPeers {
    Any,
    /// Whoever one of them is true of.
    Some {
        atoms: Vec<AtomId>,
        blocks: Vec<BlockId>,
    },
}

/// The policies that isolate a pod, by direction, in the order of their names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct Selecting {
    pub(crate) ingress: Vec<PolicyId>,
    pub(crate) egress: Vec<PolicyId>,
}

#[derive(Debug)]
pub(crate) struct Force<'a> {
    /// Index: [`PolicyId`]. The first is the built-in one.
    pub(crate) policies: Vec<ForcedPolicy<'a>>,
    /// Index: [`RuleId`]. The first is the built-in one.
    pub(crate) rules: Vec<RuleInfo>,
    /// Index: [`BlockId`].
    pub(crate) blocks: Vec<&'a IpBlock>,
    /// Index: [`FactId`].
    pub(crate) facts: Vec<(&'a str, Protocol)>,
    pub(crate) atom_count: usize,
    /// The questions that are true of each group, sorted. Index: [`GroupId`].
    pub(crate) atoms_of_group: Vec<Vec<AtomId>>,
    /// What isolates each local pod's group.
    pub(crate) selecting: HashMap<GroupId, Selecting>,
    groups: HashMap<(&'a str, &'a str), GroupId>,
}

/// Which namespaces a question is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Scope<'a> {
    Own(&'a str),
    Selected(SelectorId),
}

/// Selectors and questions by number, while rules are read.
#[derive(Default)]
struct Questions<'a> {
    pods: Matcher<'a>,
    namespaces: Matcher<'a>,
    atoms: HashMap<(Scope<'a>, SelectorId), AtomId>,
    block_ids: HashMap<&'a IpBlock, BlockId>,
    blocks: Vec<&'a IpBlock>,
    fact_ids: HashMap<(&'a str, Protocol), FactId>,
    facts: Vec<(&'a str, Protocol)>,
}

static EVERYTHING: LabelSelector = LabelSelector { requirements: Vec::new() };

impl<'a> Force<'a> {
    pub(crate) fn new(compiler: &'a Compiler, roster: &Roster<'a>) -> Self {
        let mut questions = Questions::default();
        // All selectors first: classes are only valid after the last one.
        let mut by_namespace: BTreeMap<&str, Vec<(&'a NetworkPolicy, SelectorId)>> = BTreeMap::new();
        for policy in compiler.policies_in_force() {
            let selector = questions.pods.add(&policy.pod_selector);
            by_namespace.entry(&policy.namespace).or_default().push((policy, selector));
            for rule in policy.ingress.iter().chain(&policy.egress) {
                rule.peers.iter().for_each(|peer| questions.add_selectors(peer));
            }
        }

        let mut groups: HashMap<(&'a str, &'a str), GroupId> = HashMap::new();
        let mut by_class: HashMap<(&'a str, Class), GroupId> = HashMap::new();
        let mut members: Vec<(&'a str, Class)> = Vec::new();
        for pod in roster.met() {
            let class = questions.pods.class_of(&pod.labels);
            let group = *by_class.entry((&pod.namespace, class.clone())).or_insert_with(|| {
                members.push((&pod.namespace, class));
                GroupId(members.len() - 1)
            });
            groups.insert((&pod.namespace, &pod.name), group);
        }

        let mut force = Force {
            policies: vec![ForcedPolicy { info: own_node_policy(), ingress: Vec::new(), egress: Vec::new() }],
            rules: vec![RuleInfo { policy: PolicyId(0), path: "own-node".to_owned() }],
            blocks: Vec::new(),
            facts: Vec::new(),
            atom_count: 0,
            atoms_of_group: vec![Vec::new(); members.len()],
            selecting: HashMap::new(),
            groups,
        };
        force.select(roster, &by_namespace, &members, &mut questions);
        force.answer(compiler, &members, &questions);
        force.atom_count = questions.atoms.len();
        force.blocks = questions.blocks;
        force.facts = questions.facts;
        force
    }

    pub(crate) fn group_of(&self, namespace: &str, name: &str) -> GroupId {
        self.groups[&(namespace, name)]
    }

    /// Finds out which policies select local pods, and takes over their rules.
    fn select(
        &mut self,
        roster: &Roster<'a>,
        by_namespace: &BTreeMap<&str, Vec<(&'a NetworkPolicy, SelectorId)>>,
        members: &[(&'a str, Class)],
        questions: &mut Questions<'a>,
    ) {
        let mut local_groups: BTreeMap<&str, Vec<GroupId>> = BTreeMap::new();
        for local in &roster.local {
            let group = self.group_of(&local.pod.namespace, &local.pod.name);
            let of_namespace = local_groups.entry(&local.pod.namespace).or_default();
            if self.selecting.insert(group, Selecting::default()).is_none() {
                of_namespace.push(group);
            }
        }
        // In the order of policies' names, so that numbers depend on nothing else.
        for (namespace, policies) in by_namespace {
            let Some(groups) = local_groups.get(namespace) else { continue };
            for (policy, selector) in policies {
                let selected: Vec<GroupId> = groups
                    .iter()
                    .copied()
                    .filter(|group| questions.pods.matches(*selector, &members[group.0].1))
                    .collect();
                if selected.is_empty() || !(policy.isolates_ingress || policy.isolates_egress) {
                    continue;
                }
                let id = self.enforce(policy, questions);
                for group in selected {
                    let selecting = self.selecting.entry(group).or_default();
                    if policy.isolates_ingress {
                        selecting.ingress.push(id);
                    }
                    if policy.isolates_egress {
                        selecting.egress.push(id);
                    }
                }
            }
        }
    }

    fn enforce(&mut self, policy: &'a NetworkPolicy, questions: &mut Questions<'a>) -> PolicyId {
        let id = PolicyId(self.policies.len() as u32);
        let mut forced =
            |isolates: bool, direction: Direction, rules: &'a [PolicyRule]| -> Vec<ForcedRule<'a>> {
                let rules = if isolates { rules } else { &[] };
                let force = |(index, rule): (usize, &'a PolicyRule)| {
                    self.rules.push(RuleInfo { policy: id, path: format!("spec.{direction}[{index}]") });
                    ForcedRule {
                        id: RuleId(self.rules.len() as u32 - 1),
                        peers: questions.about_peers(policy, rule),
                        ports: &rule.ports,
                    }
                };
                rules.iter().enumerate().map(force).collect()
            };
        let ingress = forced(policy.isolates_ingress, Direction::Ingress, &policy.ingress);
        let egress = forced(policy.isolates_egress, Direction::Egress, &policy.egress);
        // A named port is looked up on the destination: for ingress that is the pod itself, for egress every peer.
        for port in egress.iter().flat_map(|rule| rule.ports) {
            if let PortMatch::Named(name) = &port.port {
                questions.about_port(name, port.protocol);
            }
        }
        let info = PolicyInfo {
            kind: "NetworkPolicy".to_owned(),
            namespace: policy.namespace.clone(),
            name: policy.name.clone(),
        };
        self.policies.push(ForcedPolicy { info, ingress, egress });
        id
    }

    /// Asks every question of every group.
    fn answer(&mut self, compiler: &'a Compiler, members: &[(&'a str, Class)], questions: &Questions<'a>) {
        let mut groups_of: BTreeMap<&str, Vec<GroupId>> = BTreeMap::new();
        for (number, (namespace, _)) in members.iter().enumerate() {
            groups_of.entry(namespace).or_default().push(GroupId(number));
        }
        let namespaces: Vec<(&str, Class)> = groups_of
            .keys()
            .map(|name| (*name, questions.namespaces.class_of(&compiler.namespace_labels(name))))
            .collect();
        for ((scope, selector), atom) in &questions.atoms {
            let in_scope: Vec<&str> = match scope {
                Scope::Own(namespace) => vec![namespace],
                Scope::Selected(selector) => namespaces
                    .iter()
                    .filter(|(_, class)| questions.namespaces.matches(*selector, class))
                    .map(|(name, _)| *name)
                    .collect(),
            };
            for group in in_scope.iter().filter_map(|namespace| groups_of.get(namespace)).flatten() {
                if questions.pods.matches(*selector, &members[group.0].1) {
                    self.atoms_of_group[group.0].push(*atom);
                }
            }
        }
        self.atoms_of_group.iter_mut().for_each(|atoms| atoms.sort_unstable());
    }
}

impl<'a> Questions<'a> {
    fn add_selectors(&mut self, peer: &'a Peer) {
        if let Peer::Pods { pods, namespaces } = peer {
            self.pods.add(pods.as_ref().unwrap_or(&EVERYTHING));
            if let Some(namespaces) = namespaces {
                self.namespaces.add(namespaces);
            }
        }
    }

    fn about_peers(&mut self, policy: &'a NetworkPolicy, rule: &'a PolicyRule) -> ForcedPeers {
        if rule.peers.is_empty() {
            return ForcedPeers::Any;
        }
        let (mut atoms, mut blocks) = (Vec::new(), Vec::new());
        for peer in &rule.peers {
            match peer {
                Peer::Pods { pods, namespaces } => {
                    let selector = self.pods.add(pods.as_ref().unwrap_or(&EVERYTHING));
                    let scope = match namespaces {
                        Some(namespaces) => Scope::Selected(self.namespaces.add(namespaces)),
                        None => Scope::Own(&policy.namespace),
                    };
                    let next = AtomId(self.atoms.len());
                    atoms.push(*self.atoms.entry((scope, selector)).or_insert(next));
                }
                Peer::IpBlock(block) => {
                    let next = BlockId(self.blocks.len());
                    let id = *self.block_ids.entry(block).or_insert(next);
                    if id == next {
                        self.blocks.push(block);
                    }
                    blocks.push(id);
                }
            }
        }
        ForcedPeers::Some { atoms, blocks }
    }

    fn about_port(&mut self, name: &'a str, protocol: Protocol) {
        let next = FactId(self.facts.len());
        if *self.fact_ids.entry((name, protocol)).or_insert(next) == next {
            self.facts.push((name, protocol));
        }
    }
}
