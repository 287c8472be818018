//! Identities: the classes of peers that no rule in force tells apart, and their numbers.
//!
//! A class is what the rules' questions find true of it (see [`Answers`]). Its number is made of a hash of those answers and of
//! nothing else: the same state gives the same numbers whatever happened before, and a change leaves the numbers of classes
//! alone that it does not speak of. Where two hashes fall on one number, the later in the order of hashes takes the next.

use super::force::{Force, SetId, Who, hash_of};
use super::limits::{Limits, Overflow};
use super::peers::{Answers, Peers, PortsId};
use ahash::{HashMap, HashSet};
use penstock_api::ids::IdentityId;

/// How many numbers there are for classes of our own.
const NUMBERS: u64 = (1 << 31) - IdentityId::FIRST_COMPILED.0 as u64;

/// Which identities give an answer. Index: the question's number.
#[derive(Debug, Clone, Default)]
pub(crate) struct Classes {
    pub(crate) numbers: HashMap<Answers, IdentityId>,
    pub(crate) by_set: Vec<Vec<IdentityId>>,
    /// Sorted.
    pub(crate) by_port: Vec<Vec<(IdentityId, u16)>>,
}

impl Classes {
    /// `live`: the answers somebody gives, in any order, each at least once.
    pub(crate) fn new(
        force: &Force,
        peers: &mut Peers,
        live: impl IntoIterator<Item = Answers>,
        limits: &Limits,
    ) -> Result<Self, Overflow> {
        let mut numbers: HashMap<Answers, IdentityId> = HashMap::default();
        // What everybody at a place is to the rules, unless a block speaks of his address. The switch takes an address of
        // this node for the host before it has been told, so that class is always there.
        for (who, reserved) in [
            (Who::WorldV4, IdentityId::WORLD_V4),
            (Who::WorldV6, IdentityId::WORLD_V6),
            (Who::Host, IdentityId::HOST),
            (Who::RemoteNode, IdentityId::REMOTE_NODE),
        ] {
            numbers.insert(peers.at_large(force, who), reserved);
        }
        let unknown = peers.at_large(force, Who::Init);
        if peers.sets(unknown.sets).is_empty() {
            numbers.insert(unknown, IdentityId::UNKNOWN);
        }
        let mut unnumbered: Vec<(u64, Answers)> = Vec::new();
        for answers in live {
            if let std::collections::hash_map::Entry::Vacant(entry) = numbers.entry(answers) {
                entry.insert(IdentityId::UNKNOWN);
                unnumbered.push((hash(force, peers, answers), answers));
            }
        }
        unnumbered.sort_unstable_by(|(hash, answers), (other_hash, other)| {
            hash.cmp(other_hash).then_with(|| content(peers, *answers).cmp(&content(peers, *other)))
        });
        let mut taken: HashSet<u64> = HashSet::default();
        for (hash, answers) in unnumbered {
            let mut number = hash % NUMBERS;
            while !taken.insert(number) {
                number = (number + 1) % NUMBERS;
            }
            numbers.insert(answers, IdentityId(IdentityId::FIRST_COMPILED.0 + number as u32));
        }

        limits.identities(numbers.len())?;
        limits.entries(numbers.keys().map(|answers| peers.sets(answers.sets).len()).sum())?;
        let mut classes = Classes {
            by_set: vec![Vec::new(); force.sets.len()],
            by_port: vec![Vec::new(); force.facts.len()],
            numbers,
        };
        let mut sorted: Vec<(IdentityId, Answers)> =
            classes.numbers.iter().map(|(answers, id)| (*id, *answers)).collect();
        sorted.sort_unstable_by_key(|(id, _)| *id);
        for (id, answers) in sorted.into_iter().filter(|(id, _)| *id != IdentityId::UNKNOWN) {
            peers.sets(answers.sets).iter().for_each(|set| classes.by_set[set.0 as usize].push(id));
            for (fact, port) in peers.ports(answers.ports) {
                classes.by_port[fact.0 as usize].push((id, *port));
            }
        }
        Ok(classes)
    }

    pub(crate) fn number(&self, answers: Answers) -> IdentityId {
        self.numbers.get(&answers).copied().unwrap_or(IdentityId::UNKNOWN)
    }
}

fn hash(force: &Force, peers: &Peers, answers: Answers) -> u64 {
    let mut sets: Vec<u64> =
        peers.sets(answers.sets).iter().map(|set| force.sets[set.0 as usize].hash).collect();
    sets.sort_unstable();
    let mut ports: Vec<(u64, u16)> = peers
        .ports(answers.ports)
        .iter()
        .map(|(fact, port)| (force.facts[fact.0 as usize].hash, *port))
        .collect();
    ports.sort_unstable();
    hash_of(&(answers.who, sets, ports))
}

/// Tells apart what has one hash, in an order that depends on the state alone.
fn content(peers: &Peers, answers: Answers) -> (Who, &[SetId], &[(super::force::FactId, u16)]) {
    let ports: PortsId = answers.ports;
    (answers.who, peers.sets(answers.sets), peers.ports(ports))
}
