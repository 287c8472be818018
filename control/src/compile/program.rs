//! Programs: what each local pod's direction allows, said in identities.

use super::force::{Force, ForcedPeers, ForcedPolicy, ForcedRule};
use super::identity::Classes;
use super::roster::Roster;
use crate::objects::{Pod, PolicyPort, PortMatch};
use penstock_api::artefact::{
    Action, AddressIdentity, Direction, Entry, Peers, PodKey, PodPolicy, Program, Service, tier,
};
use penstock_api::ids::{IdentityId, PolicyId, ProgramId, RuleId};
use std::collections::{BTreeMap, HashMap};

#[derive(Debug, Default)]
pub(crate) struct Programs {
    pub(crate) programs: Vec<Program>,
    pub(crate) pods: Vec<PodPolicy>,
}

/// What makes two pods be told the same in one direction.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Key {
    direction: Direction,
    policies: Vec<PolicyId>,
    /// The numbers this pod gives the names its ingress rules use, in the order of the rules.
    own_ports: Vec<Option<u16>>,
}

pub(crate) fn compile(roster: &Roster<'_>, force: &Force<'_>, classes: &Classes) -> Programs {
    let mut compiled = Programs::default();
    let mut writer = Writer { force, classes, peers: HashMap::new() };
    let mut by_key: HashMap<Key, ProgramId> = HashMap::new();
    let mut by_content: HashMap<Program, ProgramId> = HashMap::new();
    for (local, identities) in roster.local.iter().zip(&classes.local) {
        // Attached without an address: nothing can be said to it or about it.
        let Some(identity) = identities.first() else { continue };
        let pod = local.pod;
        let selecting = &force.selecting[&force.group_of(&pod.namespace, &pod.name)];
        let mut program = |direction, policies: &Vec<PolicyId>| {
            let own_ports = own_ports(force, pod, direction, policies);
            let key = Key { direction, policies: policies.clone(), own_ports };
            if let Some(id) = by_key.get(&key) {
                return *id;
            }
            let program = writer.program(direction, policies, pod);
            let id = *by_content.entry(program).or_insert_with_key(|program| {
                compiled.programs.push(program.clone());
                ProgramId(compiled.programs.len() as u32 - 1)
            });
            by_key.insert(key, id);
            id
        };
        let ingress = program(Direction::Ingress, &selecting.ingress);
        let egress = program(Direction::Egress, &selecting.egress);
        let others = local.addresses.iter().zip(identities).filter(|(_, other)| *other != identity);
        compiled.pods.push(PodPolicy {
            pod: PodKey { namespace: pod.namespace.clone(), name: pod.name.clone(), uid: pod.uid.clone() },
            addresses: local.addresses.iter().copied().collect(),
            identity: *identity,
            other_identities: others
                .map(|(address, identity)| AddressIdentity { address: *address, identity: *identity })
                .collect(),
            ingress,
            egress,
        });
    }
    compiled
}

fn own_ports(force: &Force<'_>, pod: &Pod, direction: Direction, policies: &[PolicyId]) -> Vec<Option<u16>> {
    if direction == Direction::Egress {
        return Vec::new();
    }
    let ports =
        policies.iter().flat_map(|id| &force.policies[id.index()].ingress).flat_map(|rule| rule.ports);
    ports
        .filter_map(|port| match &port.port {
            PortMatch::Named(name) => Some(pod.named_port(name, port.protocol)),
            _ => None,
        })
        .collect()
}

struct Writer<'f, 'a> {
    force: &'f Force<'a>,
    classes: &'f Classes,
    /// Of rules whose peers have been looked up.
    peers: HashMap<RuleId, Peers>,
}

impl Writer<'_, '_> {
    fn program(&mut self, direction: Direction, policies: &[PolicyId], pod: &Pod) -> Program {
        let isolated = !policies.is_empty();
        let mut entries = Vec::new();
        if isolated && direction == Direction::Ingress {
            entries.push(entry(RuleId(0), Peers::Identities(self.classes.host.clone()), Service::Any));
        }
        let force = self.force;
        for policy in policies {
            let ForcedPolicy { ingress, egress, .. } = &force.policies[policy.index()];
            let rules = if direction == Direction::Ingress { ingress } else { egress };
            for rule in rules {
                self.rule(rule, direction, pod, &mut entries);
            }
        }
        Program { isolated, selected_by: policies.to_vec(), entries }
    }

    fn rule(&mut self, rule: &ForcedRule<'_>, direction: Direction, pod: &Pod, entries: &mut Vec<Entry>) {
        let peers = match self.peers.get(&rule.id) {
            Some(peers) => peers.clone(),
            None => {
                let peers = self.look_up(&rule.peers);
                self.peers.insert(rule.id, peers.clone());
                peers
            }
        };
        if peers == Peers::Identities(Vec::new()) {
            return;
        }
        if rule.ports.is_empty() {
            entries.push(entry(rule.id, peers, Service::Any));
            return;
        }
        for port in rule.ports {
            let protocol = port.protocol.number();
            match &port.port {
                PortMatch::All => entries.push(entry(rule.id, peers.clone(), Service::Protocol(protocol))),
                PortMatch::Range { first, last } => {
                    let service = Service::Ports { protocol, first: *first, last: *last };
                    entries.push(entry(rule.id, peers.clone(), service));
                }
                PortMatch::Named(name) if direction == Direction::Ingress => {
                    // The destination is this pod. A name it does not know opens nothing.
                    if let Some(number) = pod.named_port(name, port.protocol) {
                        let service = Service::Ports { protocol, first: number, last: number };
                        entries.push(entry(rule.id, peers.clone(), service));
                    }
                }
                PortMatch::Named(name) => self.named(rule.id, name, port, &peers, entries),
            }
        }
    }

    /// Egress to a port by name: each destination pod on the number it gives that name, and nobody else.
    fn named(&self, rule: RuleId, name: &str, port: &PolicyPort, peers: &Peers, entries: &mut Vec<Entry>) {
        let fact = self.force.facts.iter().position(|fact| *fact == (name, port.protocol));
        let mut by_number: BTreeMap<u16, Vec<IdentityId>> = BTreeMap::new();
        for (identity, number) in fact.map(|fact| self.classes.by_port[fact].as_slice()).unwrap_or_default() {
            let is_peer = match peers {
                Peers::Any => true,
                Peers::Identities(ids) => ids.binary_search(identity).is_ok(),
            };
            if is_peer {
                by_number.entry(*number).or_default().push(*identity);
            }
        }
        for (number, identities) in by_number {
            let service = Service::Ports { protocol: port.protocol.number(), first: number, last: number };
            entries.push(entry(rule, Peers::Identities(identities), service));
        }
    }

    fn look_up(&self, peers: &ForcedPeers) -> Peers {
        let ForcedPeers::Some { atoms, blocks } = peers else { return Peers::Any };
        let of_atoms = atoms.iter().flat_map(|atom| &self.classes.by_atom[atom.0]);
        let of_blocks = blocks.iter().flat_map(|block| &self.classes.by_block[block.0]);
        let mut identities: Vec<IdentityId> = of_atoms.chain(of_blocks).copied().collect();
        identities.sort_unstable();
        identities.dedup();
        Peers::Identities(identities)
    }
}

fn entry(rule: RuleId, peers: Peers, service: Service) -> Entry {
    Entry {
        tier: tier::NORMAL,
        priority: 0,
        action: Action::Allow,
        peers,
        service,
        established_only: false,
        rule,
    }
}
