//! The rules in force on this node: those of policies that select one of its pods.
//!
//! Everything other policies say makes no difference here, so it makes no identities either. What rules ask about peers is
//! collected as numbered questions: is it one of these peers ([`SetId`]), which number does it give this port name
//! ([`FactId`])? Peers with the same answers are one identity.
//!
//! A set is the peers of a rule, all of them together; rules with the same peers share it. It is asked in pieces: by labels
//! ([`Atom`]) and by address ([`BlockId`]). Sets of allowing and of denying rules are kept apart, because where it is not
//! certain who a peer is, the former need all that it may be, and the latter any.

use super::cidr::{BlockId, Cuts};
use super::matching::{Matcher, SelectorId};
use super::rule::{
    Block, KUBE_APISERVER, PeerSet, Peers, Policy, Port, PortName, Ports, Rule, Selector, Side,
};
use super::{Options, PodToHost};
use crate::objects::Labels;
use penstock_api::artefact::{PolicyInfo, RuleInfo};
use penstock_api::ids::{PolicyId, RuleId};
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

/// "Is it one of these peers?"
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct SetId(pub(crate) u32);

/// "Which number does it give this port name?"
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct FactId(pub(crate) u32);

/// A part of a policy in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct PartId(pub(crate) u32);

/// What kind of thing a peer is. A pod is a pod wherever it runs; the others are what they are by their address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Who {
    Pod,
    WorldV4,
    WorldV6,
    /// This node.
    Host,
    RemoteNode,
    /// Attached here, but nobody knows yet to whom.
    Init,
}

impl Who {
    pub(crate) const ALL: [Who; 6] =
        [Who::Pod, Who::WorldV4, Who::WorldV6, Who::Host, Who::RemoteNode, Who::Init];

    pub(crate) fn outsider(is_v6: bool) -> Self {
        if is_v6 { Who::WorldV6 } else { Who::WorldV4 }
    }

    /// Reserved labels.
    pub(crate) fn labels(self) -> &'static [&'static str] {
        match self {
            Who::Pod => &[],
            Who::WorldV4 => &["world", "world-ipv4"],
            Who::WorldV6 => &["world", "world-ipv6"],
            Who::Host => &["host"],
            Who::RemoteNode => &["remote-node"],
            Who::Init => &["init"],
        }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct ForcedPart {
    pub(crate) policy: PolicyId,
    pub(crate) ingress: ForcedSide,
    pub(crate) egress: ForcedSide,
}

#[derive(Debug, Clone)]
pub(crate) struct ForcedSide {
    pub(crate) isolates: bool,
    pub(crate) rules: Vec<ForcedRule>,
}

#[derive(Debug, Clone)]
pub(crate) struct ForcedRule {
    pub(crate) id: RuleId,
    pub(crate) denies: bool,
    pub(crate) peers: ForcedPeers,
    pub(crate) ports: Ports,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ForcedPeers {
    Any,
    Set(SetId),
}

/// Pods and places by labels.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Atom {
    pub(crate) pod: SelectorId,
    pub(crate) namespace: SelectorId,
    /// Whom it may be true of at all, as bits by [`Who`]; of everyone but pods it then is. Whoever has not the API server's
    /// address, and who has.
    places: [u8; 2],
}

impl Atom {
    pub(crate) fn speaks_of(self, who: Who, is_api_server: bool) -> bool {
        self.places[usize::from(is_api_server)] & (1 << who as u8) != 0
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Set {
    pub(crate) denies: bool,
    /// Of its content: the same whatever else is in force.
    pub(crate) hash: u64,
}

#[derive(Debug, Clone)]
pub(crate) struct Fact {
    pub(crate) name: PortName,
    /// Asked by a denying rule.
    pub(crate) denies: bool,
    /// As of sets.
    pub(crate) hash: u64,
}

#[derive(Debug, Clone)]
pub(crate) struct Force {
    /// Index: [`PolicyId`]. The first is the built-in one.
    pub(crate) policies: Vec<PolicyInfo>,
    /// Index: [`RuleId`]. The first is the built-in one.
    pub(crate) rules: Vec<RuleInfo>,
    /// Index: [`PartId`].
    pub(crate) parts: Vec<ForcedPart>,
    /// Index: [`SetId`].
    pub(crate) sets: Vec<Set>,
    /// Index: [`FactId`].
    pub(crate) facts: Vec<Fact>,
    pub(crate) atoms: Vec<Atom>,
    /// Index: that of `atoms`.
    pub(crate) sets_of_atom: Vec<Vec<SetId>>,
    pub(crate) blocks: Vec<Block>,
    /// Index: that of `blocks`.
    pub(crate) sets_of_block: Vec<Vec<SetId>>,
    pub(crate) cuts: Cuts,
    pub(crate) pods: Matcher,
    pub(crate) namespaces: Matcher,
    /// This node.
    pub(crate) own_node: SetId,
    /// Some rule asks whether a peer is the API server.
    pub(crate) tells_api_server: bool,
}

/// The rules the product itself adds.
pub(crate) const OWN_NODE: RuleId = RuleId(0);
pub(crate) const POD_TO_HOST: RuleId = RuleId(1);

fn builtin(name: &str) -> PolicyInfo {
    PolicyInfo { kind: "builtin".to_owned(), namespace: String::new(), name: name.to_owned() }
}

/// Questions by number, while rules are read.
#[derive(Default)]
struct Questions {
    pods: Matcher,
    namespaces: Matcher,
    set_ids: HashMap<(bool, PeerSet), SetId>,
    sets: Vec<Set>,
    atom_ids: HashMap<Selector, usize>,
    atoms: Vec<Atom>,
    sets_of_atom: Vec<Vec<SetId>>,
    block_ids: HashMap<Block, BlockId>,
    blocks: Vec<Block>,
    sets_of_block: Vec<Vec<SetId>>,
    fact_ids: HashMap<(bool, PortName), FactId>,
    facts: Vec<Fact>,
    tells_api_server: bool,
}

impl Force {
    /// `parts`: those that select a local pod, in the order of their policies' names, so that numbers depend on nothing else.
    pub(crate) fn new(parts: &[(Arc<Policy>, usize)], options: &Options) -> Self {
        let mut questions = Questions::default();
        let own_node =
            questions.set(false, &PeerSet { selectors: vec![Selector::place("host")], ..PeerSet::default() });
        let mut policies = vec![builtin("own-node")];
        let mut rules = vec![RuleInfo { policy: PolicyId(0), path: "own-node".to_owned() }];
        if options.pod_to_host == PodToHost::Allow {
            rules.push(RuleInfo { policy: PolicyId(policies.len() as u32), path: "pod-to-host".to_owned() });
            policies.push(builtin("pod-to-host"));
        }
        let mut forced: Vec<ForcedPart> = Vec::with_capacity(parts.len());
        let mut last: Option<&Arc<Policy>> = None;
        for (policy, index) in parts {
            if last.is_none_or(|last| !Arc::ptr_eq(last, policy)) {
                policies.push(policy.info.clone());
                last = Some(policy);
            }
            let id = PolicyId(policies.len() as u32 - 1);
            let mut side = |side: &Side, is_egress: bool| {
                let rules = side.rules.iter().map(|rule| {
                    rules.push(RuleInfo { policy: id, path: rule.path.clone() });
                    questions.rule(RuleId(rules.len() as u32 - 1), rule, is_egress)
                });
                ForcedSide { isolates: side.isolates, rules: rules.collect() }
            };
            let part = &policy.parts[*index];
            let ingress = side(&part.ingress, false);
            let egress = side(&part.egress, true);
            forced.push(ForcedPart { policy: id, ingress, egress });
        }
        Force {
            policies,
            rules,
            parts: forced,
            cuts: Cuts::new(&questions.blocks),
            sets: questions.sets,
            facts: questions.facts,
            atoms: questions.atoms,
            sets_of_atom: questions.sets_of_atom,
            blocks: questions.blocks,
            sets_of_block: questions.sets_of_block,
            pods: questions.pods,
            namespaces: questions.namespaces,
            own_node,
            tells_api_server: questions.tells_api_server,
        }
    }
}

impl Questions {
    fn rule(&mut self, id: RuleId, rule: &Rule, is_egress: bool) -> ForcedRule {
        let peers = match &rule.peers {
            Peers::Any => ForcedPeers::Any,
            Peers::Some(set) => ForcedPeers::Set(self.set(rule.denies, set)),
        };
        // A named port is looked up on the destination: for ingress that is the pod itself, for egress every peer.
        if let Ports::Some(ports) = &rule.ports
            && is_egress
        {
            for port in ports {
                if let Port::Named(name) = port {
                    self.fact(rule.denies, name);
                }
            }
        }
        ForcedRule { id, denies: rule.denies, peers, ports: rule.ports.clone() }
    }

    fn set(&mut self, denies: bool, set: &PeerSet) -> SetId {
        let key = (denies, set.clone());
        if let Some(id) = self.set_ids.get(&key) {
            return *id;
        }
        let id = SetId(self.sets.len() as u32);
        self.sets.push(Set { denies, hash: hash_of(&key) });
        self.set_ids.insert(key, id);
        for selector in &set.selectors {
            let atom = self.atom(selector);
            self.sets_of_atom[atom].push(id);
        }
        for block in &set.blocks {
            let next = BlockId(self.blocks.len());
            let block_id = *self.block_ids.entry(block.clone()).or_insert(next);
            if block_id == next {
                self.blocks.push(block.clone());
                self.sets_of_block.push(Vec::new());
            }
            self.sets_of_block[block_id.0].push(id);
        }
        id
    }

    fn atom(&mut self, selector: &Selector) -> usize {
        if let Some(atom) = self.atom_ids.get(selector) {
            return *atom;
        }
        let nothing = Labels::new();
        let is_true_without = selector.pod.matches(&nothing) && selector.namespace.matches(&nothing);
        let mut places = [0, 0];
        for (who, is_api_server) in Who::ALL.into_iter().flat_map(|who| [(who, false), (who, true)]) {
            let labels = who.labels().iter().chain(is_api_server.then_some(&KUBE_APISERVER));
            let labels = labels.map(|label| ((*label).to_owned(), String::new())).collect();
            if selector.place.matches(&labels) && (who == Who::Pod || is_true_without) {
                places[usize::from(is_api_server)] |= 1 << who as u8;
            }
        }
        self.tells_api_server |= places[0] != places[1];
        self.atoms.push(Atom {
            pod: self.pods.add(&selector.pod),
            namespace: self.namespaces.add(&selector.namespace),
            places,
        });
        self.sets_of_atom.push(Vec::new());
        self.atom_ids.insert(selector.clone(), self.atoms.len() - 1);
        self.atoms.len() - 1
    }

    fn fact(&mut self, denies: bool, name: &PortName) {
        let key = (denies, name.clone());
        if !self.fact_ids.contains_key(&key) {
            let id = FactId(self.facts.len() as u32);
            self.facts.push(Fact { name: name.clone(), denies, hash: hash_of(&key) });
            self.fact_ids.insert(key, id);
        }
    }
}

/// The same in every process: nothing here is chosen by who could gain from a collision, which costs nothing but a number.
pub(crate) fn hash_of(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}
