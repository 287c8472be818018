//! Identities: the classes of peers that no rule in force tells apart, and which address is in which.
//!
//! A peer is what the rules' questions find true of it: the pod selectors that select it, the blocks that cover its address,
//! the numbers behind the port names asked for. Classes are numbered in the order of those answers, so that equal states
//! give equal numbers whatever happened before.

use super::cidr::{Blocks, Cuts};
use super::force::{AtomId, FactId, Force};
use super::roster::Roster;
use crate::objects::Pod;
use ipnet::IpNet;
use penstock_api::artefact::{Identity, PrefixIdentity};
use penstock_api::ids::IdentityId;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Who {
    Outsider {
        v6: bool,
    },
    /// This node. It is never one of the pods; only blocks and the built-in rule speak of it.
    Host,
    Pod,
}

/// Everything the rules in force know about a peer.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Answers {
    who: Who,
    blocks: Blocks,
    atoms: Rc<[AtomId]>,
    ports: Rc<[(FactId, u16)]>,
}

/// Which identities give an answer. Index: the question's id.
#[derive(Debug)]
pub(crate) struct Classes {
    pub(crate) identities: Vec<Identity>,
    pub(crate) prefixes: Vec<PrefixIdentity>,
    /// Per local pod, in the roster's order: the identity of each of its addresses, in their order.
    pub(crate) local: Vec<Vec<IdentityId>>,
    pub(crate) by_atom: Vec<Vec<IdentityId>>,
    pub(crate) by_block: Vec<Vec<IdentityId>>,
    pub(crate) by_port: Vec<Vec<(IdentityId, u16)>>,
    /// This node, under any of its addresses. Sorted.
    pub(crate) host: Vec<IdentityId>,
}

impl Classes {
    pub(crate) fn new(roster: &Roster<'_>, force: &Force<'_>) -> Self {
        let cuts = Cuts::new(&force.blocks);
        let mut pods = PodAnswers::new(force);
        let no_atoms: Rc<[AtomId]> = Rc::from([]);
        let no_ports: Rc<[(FactId, u16)]> = Rc::from([]);
        let place = |who, blocks| Answers { who, blocks, atoms: no_atoms.clone(), ports: no_ports.clone() };

        let mut by_prefix: BTreeMap<IpNet, Answers> = BTreeMap::new();
        for (net, blocks) in &cuts.cuts {
            by_prefix.insert(*net, place(Who::Outsider { v6: net.addr().is_ipv6() }, blocks.clone()));
        }
        for (address, claimants) in &roster.remote {
            by_prefix.insert(IpNet::from(*address), pods.common(claimants, cuts.covering(*address)));
        }
        for address in &roster.compiler.host_addresses {
            by_prefix.insert(IpNet::from(*address), place(Who::Host, cuts.covering(*address)));
        }
        let local: Vec<Vec<Answers>> = roster
            .local
            .iter()
            .map(|local| {
                local.addresses.iter().map(|a| pods.common(&[local.pod], cuts.covering(*a))).collect()
            })
            .collect();

        let numbers = number(by_prefix.values().chain(local.iter().flatten()));
        let mut prefixes: BTreeMap<IpNet, IdentityId> =
            by_prefix.iter().map(|(net, answers)| (*net, numbers[answers])).collect();
        prefixes.extend(roster.unknown.iter().map(|address| (IpNet::from(*address), IdentityId::UNKNOWN)));

        let mut classes = Classes {
            identities: Vec::new(),
            prefixes: prefixes
                .into_iter()
                .map(|(prefix, identity)| PrefixIdentity { prefix, identity })
                .collect(),
            local: local.iter().map(|answers| answers.iter().map(|a| numbers[a]).collect()).collect(),
            by_atom: vec![Vec::new(); force.atom_count],
            by_block: vec![Vec::new(); force.blocks.len()],
            by_port: vec![Vec::new(); force.facts.len()],
            host: vec![IdentityId::HOST],
        };
        classes.invert(&numbers);
        classes.describe(roster, force, &numbers);
        classes
    }

    fn invert(&mut self, numbers: &HashMap<Answers, IdentityId>) {
        let mut sorted: Vec<(&Answers, IdentityId)> =
            numbers.iter().map(|(answers, id)| (answers, *id)).collect();
        sorted.sort_unstable_by_key(|(_, id)| *id);
        for (answers, id) in sorted {
            answers.atoms.iter().for_each(|atom| self.by_atom[atom.0].push(id));
            answers.blocks.iter().for_each(|block| self.by_block[block.0].push(id));
            answers.ports.iter().for_each(|(fact, port)| self.by_port[fact.0].push((id, *port)));
            if answers.who == Who::Host && id != IdentityId::HOST {
                self.host.push(id);
            }
        }
    }

    /// What each identity stands for: the labels all its members share, and the CIDRs that cover them.
    fn describe(&mut self, roster: &Roster<'_>, force: &Force<'_>, numbers: &HashMap<Answers, IdentityId>) {
        let mut shared: BTreeMap<IdentityId, Vec<(&str, &str)>> = BTreeMap::new();
        for (local, ids) in roster.local.iter().zip(&self.local) {
            ids.iter().for_each(|id| keep_common(&mut shared, *id, local.pod));
        }
        let by_prefix: HashMap<IpNet, IdentityId> =
            self.prefixes.iter().map(|p| (p.prefix, p.identity)).collect();
        for (address, claimants) in &roster.remote {
            let id = by_prefix[&IpNet::from(*address)];
            claimants.iter().for_each(|pod| keep_common(&mut shared, id, pod));
        }

        let mut identities: BTreeMap<IdentityId, Vec<String>> = BTreeMap::from([
            (IdentityId::UNKNOWN, vec!["reserved:unknown".to_owned()]),
            (IdentityId::HOST, vec!["reserved:host".to_owned()]),
            (IdentityId::WORLD_V4, vec!["reserved:world-ipv4".to_owned()]),
            (IdentityId::WORLD_V6, vec!["reserved:world-ipv6".to_owned()]),
        ]);
        for (answers, id) in numbers {
            let mut labels: Vec<String> = match answers.who {
                Who::Outsider { v6: false } => vec!["reserved:world-ipv4".to_owned()],
                Who::Outsider { v6: true } => vec!["reserved:world-ipv6".to_owned()],
                Who::Host => vec!["reserved:host".to_owned()],
                Who::Pod => shared
                    .get(id)
                    .map(|labels| labels.iter().map(|(key, value)| format!("k8s:{key}={value}")).collect())
                    .unwrap_or_default(),
            };
            labels.extend(answers.blocks.iter().map(|block| format!("cidr:{}", force.blocks[block.0].cidr)));
            labels.sort();
            labels.dedup();
            identities.insert(*id, labels);
        }
        self.identities = identities.into_iter().map(|(id, labels)| Identity { id, labels }).collect();
    }
}

const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";

/// Narrows what is said about an identity to what holds for this pod too.
fn keep_common<'a>(shared: &mut BTreeMap<IdentityId, Vec<(&'a str, &'a str)>>, id: IdentityId, pod: &'a Pod) {
    match shared.get_mut(&id) {
        Some(labels) => labels.retain(|(key, value)| match *key {
            POD_NAMESPACE => pod.namespace == *value,
            key => pod.labels.get(key).is_some_and(|own| own == value),
        }),
        None => {
            // What a pod itself says about its namespace is not asked.
            let own = pod.labels.iter().filter(|(key, _)| *key != POD_NAMESPACE);
            let mut labels: Vec<_> = own.map(|(key, value)| (key.as_str(), value.as_str())).collect();
            labels.push((POD_NAMESPACE, &pod.namespace));
            shared.insert(id, labels);
        }
    }
}

/// Numbers the distinct answers. Those about which no rule knows anything keep the reserved numbers.
fn number<'a>(all: impl Iterator<Item = &'a Answers>) -> HashMap<Answers, IdentityId> {
    let mut numbers: HashMap<Answers, IdentityId> = HashMap::new();
    for answers in all {
        if !numbers.contains_key(answers) {
            numbers.insert(answers.clone(), IdentityId::UNKNOWN);
        }
    }
    let mut sorted: Vec<(&Answers, &mut IdentityId)> = numbers.iter_mut().collect();
    sorted.sort_unstable_by_key(|(answers, _)| *answers);
    let mut next = IdentityId::FIRST_COMPILED;
    for (answers, id) in sorted {
        *id = match answers.who {
            Who::Outsider { v6: false } if answers.blocks.is_empty() => IdentityId::WORLD_V4,
            Who::Outsider { v6: true } if answers.blocks.is_empty() => IdentityId::WORLD_V6,
            Who::Host if answers.blocks.is_empty() => IdentityId::HOST,
            _ => {
                let id = next;
                next.0 += 1;
                id
            }
        };
    }
    numbers
}

/// What selectors and port names find true of pods, each distinct answer kept once.
struct PodAnswers<'f, 'a> {
    force: &'f Force<'a>,
    atoms: Vec<Rc<[AtomId]>>,
}

impl<'f, 'a> PodAnswers<'f, 'a> {
    fn new(force: &'f Force<'a>) -> Self {
        PodAnswers {
            force,
            atoms: force.atoms_of_group.iter().map(|atoms| Rc::from(atoms.as_slice())).collect(),
        }
    }

    /// What is true of every one of these pods. An address two pods claim is given only what both may have: whichever of
    /// them really has it, nothing is opened that should not be.
    fn common(&mut self, pods: &[&Pod], blocks: Blocks) -> Answers {
        let group = |pod: &Pod| self.force.group_of(&pod.namespace, &pod.name);
        let port = |pod: &Pod, fact: usize| {
            let (name, protocol) = self.force.facts[fact];
            pod.named_port(name, protocol)
        };
        let (first, rest) = pods.split_first().expect("an address has somebody who claims it");
        let mut atoms = self.atoms[group(first).0].clone();
        for pod in rest {
            let others = &self.atoms[group(pod).0];
            atoms = atoms.iter().copied().filter(|atom| others.contains(atom)).collect();
        }
        let ports = (0..self.force.facts.len()).filter_map(|fact| {
            let number = port(first, fact)?;
            rest.iter().all(|pod| port(pod, fact) == Some(number)).then_some((FactId(fact), number))
        });
        Answers { who: Who::Pod, blocks, atoms, ports: ports.collect() }
    }
}
