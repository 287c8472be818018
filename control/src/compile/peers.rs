//! Who a peer is to the rules in force: the questions that are true of it.
//!
//! Pods of one namespace whose labels no selector tells apart are a *group* and are asked once. Lists of true questions are
//! kept once each and compared by number.

use super::cidr::{BlockId, CoverId};
use super::force::{Atom, FactId, Force, SetId, Who};
use super::matching::Class;
use super::rule::{KUBE_APISERVER, Reach, SERVICE_ACCOUNT};
use super::state::{Names, named_ports, pairs};
use crate::objects::{Pod, SERVICE_ACCOUNT_LABEL};
use ahash::HashMap;
use std::hash::Hash;

/// A list of sets that are true of a peer, sorted, by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ListId(u32);

/// The numbers a peer gives to port names, sorted, by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct PortsId(u32);

/// Pods of one namespace that no selector tells apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct GroupId(pub(crate) u32);

/// Everything the rules in force know about a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Answers {
    pub(crate) who: Who,
    pub(crate) sets: ListId,
    pub(crate) ports: PortsId,
}

/// An example of who gives some answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Member {
    pub(crate) answers: Answers,
    pub(crate) group: Option<GroupId>,
    pub(crate) site: Site,
}

/// What people are told about a class: what all of its members have.
#[derive(Debug, Clone)]
pub(crate) struct Traits {
    namespace: Option<u32>,
    labels: Vec<(u32, u32)>,
    blocks: Vec<BlockId>,
    is_api_server: bool,
}

impl Reach {
    fn includes(self, who: Who) -> bool {
        match self {
            Reach::Everyone => who != Who::Init,
            Reach::Outsiders => matches!(who, Who::WorldV4 | Who::WorldV6),
            Reach::Nodes => matches!(who, Who::Host | Who::RemoteNode),
        }
    }
}

/// What an address says about whoever has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Site {
    pub(crate) cover: CoverId,
    pub(crate) is_api_server: bool,
}

/// Keeps each value once.
#[derive(Debug, Clone)]
struct Once<T> {
    values: Vec<T>,
    numbers: HashMap<T, u32>,
}

impl<T> Default for Once<T> {
    fn default() -> Self {
        Once { values: Vec::new(), numbers: HashMap::default() }
    }
}

impl<T: Clone + Eq + Hash> Once<T> {
    fn number(&mut self, value: T) -> u32 {
        if let Some(number) = self.numbers.get(&value) {
            return *number;
        }
        let number = self.values.len() as u32;
        self.values.push(value.clone());
        self.numbers.insert(value, number);
        number
    }
}

/// Of one [`Force`], and of no other.
#[derive(Debug, Clone, Default)]
pub(crate) struct Peers {
    lists: Once<Vec<SetId>>,
    ports: Once<Vec<(FactId, u16)>>,
    classes: Once<Class>,
    /// Per class: is each pod selector true of it?
    of_class: Vec<Vec<bool>>,
    /// Per namespace that has been met: is each namespace selector true of it?
    of_namespace: HashMap<String, (u32, Vec<bool>)>,
    namespaces: Vec<String>,
    /// (namespace, class)
    groups: Once<(u32, u32)>,
    /// Of those who have not the API server's address, and of those who have.
    of_group: Vec<[ListId; 2]>,
    of_who: HashMap<(Who, bool), ListId>,
    of_cover: HashMap<(CoverId, Who), ListId>,
    unions: HashMap<(ListId, ListId), ListId>,
}

impl Peers {
    pub(crate) fn sets(&self, list: ListId) -> &[SetId] {
        &self.lists.values[list.0 as usize]
    }

    pub(crate) fn ports(&self, ports: PortsId) -> &[(FactId, u16)] {
        &self.ports.values[ports.0 as usize]
    }

    /// How much is remembered.
    pub(crate) fn len(&self) -> usize {
        self.groups.values.len() + self.lists.values.len() + self.ports.values.len()
    }

    /// Its labels have changed: its pods are other groups now.
    pub(crate) fn forget_namespace(&mut self, name: &str) {
        self.of_namespace.remove(name);
    }

    pub(crate) fn group(&mut self, force: &Force, pod: &Pod, names: &Names) -> GroupId {
        let class = self.classes.number(force.pods.class_of(pairs(&pod.labels)));
        if class as usize == self.of_class.len() {
            let class = &self.classes.values[class as usize];
            self.of_class
                .push(force.pods.ids().map(|selector| force.pods.matches(selector, class)).collect());
        }
        let namespace = match self.of_namespace.get(&pod.namespace) {
            Some((number, _)) => *number,
            None => {
                let class = force.namespaces.class_of(pairs(&names.labels(&pod.namespace)));
                let truths = force.namespaces.ids().map(|id| force.namespaces.matches(id, &class)).collect();
                let number = self.namespaces.len() as u32;
                self.namespaces.push(pod.namespace.clone());
                self.of_namespace.insert(pod.namespace.clone(), (number, truths));
                number
            }
        };
        let group = self.groups.number((namespace, class));
        if group as usize == self.of_group.len() {
            let of_class = &self.of_class[class as usize];
            let (_, of_namespace) = &self.of_namespace[&pod.namespace];
            let sets = [false, true].map(|is_api_server| {
                let atoms = force.atoms.iter().zip(&force.sets_of_atom);
                let is_true = |atom: &Atom| {
                    atom.speaks_of(Who::Pod, is_api_server)
                        && of_namespace[atom.namespace.0]
                        && of_class[atom.pod.0]
                };
                let of_atoms = atoms.filter(|(atom, _)| is_true(atom)).flat_map(|(_, of_atom)| of_atom);
                of_atoms.copied().collect::<Vec<SetId>>()
            });
            let lists = sets.map(|sets| self.list(sets));
            self.of_group.push(lists);
        }
        GroupId(group)
    }

    /// What is to be said of a member, and of all of those that share it with others.
    pub(crate) fn traits(&self, force: &Force, member: Member) -> Traits {
        let blocks = force.cuts.covers[member.site.cover.0].iter().copied();
        let group = member.group.map(|group| self.groups.values[group.0 as usize]);
        Traits {
            namespace: group.map(|(namespace, _)| namespace),
            labels: group
                .map(|(_, class)| self.classes.values[class as usize].0.to_vec())
                .unwrap_or_default(),
            blocks: blocks.filter(|block| force.blocks[block.0].reach.includes(member.answers.who)).collect(),
            is_api_server: member.site.is_api_server,
        }
    }

    /// Keeps of some traits those that a member has too.
    pub(crate) fn keep_common(&self, force: &Force, traits: &mut Traits, member: Member) {
        let Traits { namespace, labels, blocks, is_api_server } = traits;
        let group = member.group.map(|group| self.groups.values[group.0 as usize]);
        if *namespace != group.map(|(namespace, _)| namespace) {
            *namespace = None;
        }
        let own: &[(u32, u32)] = group.map_or(&[], |(_, class)| &self.classes.values[class as usize].0);
        labels.retain(|label| own.contains(label));
        let cover = &force.cuts.covers[member.site.cover.0];
        blocks.retain(|block| cover.contains(block));
        *is_api_server &= member.site.is_api_server;
    }

    /// In words.
    pub(crate) fn describe(&self, force: &Force, traits: &Traits) -> Vec<String> {
        let mut labels = Vec::new();
        if let Some(namespace) = traits.namespace {
            labels.push(format!("k8s:io.kubernetes.pod.namespace={}", self.namespaces[namespace as usize]));
        }
        for (key, value) in traits.labels.iter().filter_map(|label| force.pods.text(*label)) {
            let key = if key == SERVICE_ACCOUNT { SERVICE_ACCOUNT_LABEL } else { key };
            labels.push(format!("k8s:{key}={value}"));
        }
        labels.extend(traits.blocks.iter().map(|block| format!("cidr:{}", force.blocks[block.0].cidr)));
        labels.extend(traits.is_api_server.then(|| format!("reserved:{KUBE_APISERVER}")));
        labels
    }

    fn list(&mut self, mut sets: Vec<SetId>) -> ListId {
        sets.sort_unstable();
        sets.dedup();
        ListId(self.lists.number(sets))
    }

    fn union(&mut self, one: ListId, other: ListId) -> ListId {
        if let Some(union) = self.unions.get(&(one, other)) {
            return *union;
        }
        let mut sets = self.sets(one).to_vec();
        sets.extend(self.sets(other));
        let union = self.list(sets);
        self.unions.insert((one, other), union);
        union
    }

    /// What blocks alone find true of someone whose address they cover.
    fn of_cover(&mut self, force: &Force, cover: CoverId, who: Who) -> ListId {
        if let Some(list) = self.of_cover.get(&(cover, who)) {
            return *list;
        }
        let mut sets = Vec::new();
        for block in &force.cuts.covers[cover.0] {
            if force.blocks[block.0].reach.includes(who) {
                sets.extend(&force.sets_of_block[block.0]);
            }
        }
        let list = self.list(sets);
        self.of_cover.insert((cover, who), list);
        list
    }

    /// Someone who is no pod, at an address of which nothing is known but what it says of him.
    pub(crate) fn at_large(&mut self, force: &Force, who: Who) -> Answers {
        let sets = self.of_who(force, who, false);
        Answers { who, sets, ports: PortsId(self.ports.number(Vec::new())) }
    }

    /// Someone who is no pod.
    pub(crate) fn place(&mut self, force: &Force, who: Who, site: Site) -> Answers {
        let sets = self.of_who(force, who, site.is_api_server);
        let covered = self.of_cover(force, site.cover, who);
        let sets = self.union(sets, covered);
        Answers { who, sets, ports: PortsId(self.ports.number(Vec::new())) }
    }

    fn of_who(&mut self, force: &Force, who: Who, is_api_server: bool) -> ListId {
        if let Some(list) = self.of_who.get(&(who, is_api_server)) {
            return *list;
        }
        let atoms = force.atoms.iter().zip(&force.sets_of_atom);
        let spoken = atoms.filter(|(atom, _)| atom.speaks_of(who, is_api_server));
        let list = self.list(spoken.flat_map(|(_, of_atom)| of_atom).copied().collect());
        self.of_who.insert((who, is_api_server), list);
        list
    }

    /// What is certain about an address that these pods claim: of allowing rules only what is true of all of them, of denying
    /// ones what is true of any. Whichever of them really has it, nothing is opened that should not be.
    pub(crate) fn pods(&mut self, force: &Force, claimants: &[(GroupId, &Pod)], site: Site) -> Answers {
        let (first, rest) = claimants.split_first().expect("an address has somebody who claims it");
        let of_group = |group: &GroupId| self.of_group[group.0 as usize][usize::from(site.is_api_server)];
        let mut sets = of_group(&first.0);
        if rest.iter().any(|(group, _)| *group != first.0) {
            let lists: Vec<&[SetId]> =
                claimants.iter().map(|(group, _)| self.sets(of_group(group))).collect();
            let all: Vec<SetId> = lists.concat();
            let is_certain = |set: &SetId| {
                force.sets[set.0 as usize].denies || lists.iter().all(|list| list.binary_search(set).is_ok())
            };
            let common = all.into_iter().filter(is_certain).collect();
            sets = self.list(common);
        }
        let covered = self.of_cover(force, site.cover, Who::Pod);
        let sets = self.union(sets, covered);
        let mut ports: Vec<(FactId, u16)> = Vec::new();
        for (number, fact) in force.facts.iter().enumerate() {
            let fact_id = FactId(number as u32);
            if fact.denies {
                let all = claimants.iter().flat_map(|(_, pod)| named_ports(pod, &fact.name));
                ports.extend(all.map(|port| (fact_id, port)));
            } else if let Some(port) = named_ports(first.1, &fact.name).next()
                && rest.iter().all(|(_, pod)| named_ports(pod, &fact.name).next() == Some(port))
            {
                ports.push((fact_id, port));
            }
        }
        ports.sort_unstable();
        ports.dedup();
        Answers { who: Who::Pod, sets, ports: PortsId(self.ports.number(ports)) }
    }
}
