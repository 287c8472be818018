//! Programs: what each local pod's direction allows and denies, said in identities.

use super::Options;
use super::force::{Force, ForcedPeers, ForcedRule, OWN_NODE, POD_TO_HOST, PartId};
use super::identity::Classes;
use super::limits::{self, Limits, Overflow};
use super::rule::{Port, PortName, Ports};
use super::state::named_ports;
use super::{Enforcement, PodToHost};
use crate::objects::Pod;
use penstock_api::artefact::{Action, Direction, Entry, Peers, Program, Service, protocol, tier};
use penstock_api::ids::{IdentityId, PolicyId, RuleId};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

/// What makes two pods be told the same in one direction.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    direction: Direction,
    parts: Vec<PartId>,
    /// The numbers this pod gives the names its ingress rules use, in the order of the rules.
    own_ports: Vec<Vec<u16>>,
}

/// Programs of one [`Force`] and one [`Classes`], each written once.
#[derive(Debug, Clone, Default)]
pub(crate) struct Cache {
    by_key: HashMap<Key, Arc<Program>>,
    /// Equal programs are one, and so are their addresses.
    by_content: HashSet<Arc<Program>>,
    /// Entries in them, and the identities those name.
    size: usize,
}

impl Cache {
    pub(crate) fn len(&self) -> usize {
        self.by_key.len()
    }
}

#[derive(Debug)]
pub(crate) struct Writer<'f> {
    force: &'f Force,
    classes: &'f Classes,
    options: &'f Options,
    cache: &'f mut Cache,
    limits: &'f Limits,
}

impl<'f> Writer<'f> {
    pub(crate) fn new(
        force: &'f Force,
        classes: &'f Classes,
        options: &'f Options,
        cache: &'f mut Cache,
        limits: &'f Limits,
    ) -> Self {
        Writer { force, classes, options, cache, limits }
    }

    /// The program of a pod that these parts select.
    pub(crate) fn program(
        &mut self,
        pod: &Pod,
        direction: Direction,
        parts: &[PartId],
    ) -> Result<Arc<Program>, Overflow> {
        let key = Key { direction, parts: parts.to_vec(), own_ports: self.own_ports(pod, direction, parts) };
        if let Some(program) = self.cache.by_key.get(&key) {
            return Ok(program.clone());
        }
        let program = Arc::new(self.write(pod, direction, parts));
        let program = match self.cache.by_content.get(&program) {
            Some(known) => known.clone(),
            None => {
                self.cache.size += limits::size(&program);
                self.limits.entries(self.cache.size)?;
                self.cache.by_content.insert(program.clone());
                program
            }
        };
        self.cache.by_key.insert(key, program.clone());
        Ok(program)
    }

    fn own_ports(&self, pod: &Pod, direction: Direction, parts: &[PartId]) -> Vec<Vec<u16>> {
        if direction == Direction::Egress {
            return Vec::new();
        }
        let rules = parts.iter().flat_map(|id| &self.force.parts[id.0 as usize].ingress.rules);
        let ports = rules.filter_map(|rule| match &rule.ports {
            Ports::Any => None,
            Ports::Some(ports) => Some(ports),
        });
        let numbers = ports.flatten().filter_map(|port| match port {
            Port::Named(name) => Some(named_ports(pod, name).collect()),
            _ => None,
        });
        numbers.collect()
    }

    fn write(&self, pod: &Pod, direction: Direction, parts: &[PartId]) -> Program {
        let sides = || {
            parts.iter().map(|id| &self.force.parts[id.0 as usize]).map(|part| match direction {
                Direction::Ingress => (part.policy, &part.ingress),
                Direction::Egress => (part.policy, &part.egress),
            })
        };
        let mut selected_by: Vec<PolicyId> = sides().map(|(policy, _)| policy).collect();
        selected_by.dedup();
        let isolated = match self.options.enforcement {
            Enforcement::Always => true,
            Enforcement::Default => sides().any(|(_, side)| side.isolates),
            // Nothing is judged.
            Enforcement::Never => return Program::default(),
        };
        let mut entries = Vec::new();
        let rules: Vec<&ForcedRule> = sides().flat_map(|(_, side)| &side.rules).collect();
        if isolated {
            let builtin = match direction {
                Direction::Ingress => Some(OWN_NODE),
                Direction::Egress => (self.options.pod_to_host == PodToHost::Allow).then_some(POD_TO_HOST),
            };
            let host = Peers::Identities(self.classes.by_set[self.force.own_node.0 as usize].clone());
            entries.extend(builtin.map(|rule| entry(rule, Action::Allow, host, Service::Any)));
        }
        for rule in rules {
            // What is not isolated needs no allowing.
            if isolated || rule.denies {
                self.rule(rule, direction, pod, &mut entries);
            }
        }
        Program { isolated, selected_by, entries }
    }

    fn rule(&self, rule: &ForcedRule, direction: Direction, pod: &Pod, entries: &mut Vec<Entry>) {
        let peers = match rule.peers {
            ForcedPeers::Any => Peers::Any,
            ForcedPeers::Set(set) => Peers::Identities(self.classes.by_set[set.0 as usize].clone()),
        };
        // Nobody there is, or nobody at all.
        if peers == Peers::Identities(Vec::new()) {
            return;
        }
        let action = if rule.denies { Action::Deny } else { Action::Allow };
        let mut add = |peers: &Peers, service| entries.push(entry(rule.id, action, peers.clone(), service));
        let Ports::Some(ports) = &rule.ports else {
            add(&peers, Service::Any);
            return;
        };
        for port in ports {
            match port {
                Port::All(protocol) => add(&peers, Service::Protocol(protocol.number())),
                Port::Range { protocol, first, last } => {
                    add(&peers, Service::Ports { protocol: protocol.number(), first: *first, last: *last });
                }
                Port::Icmp { protocol, kind } => {
                    debug_assert!([protocol::ICMP, protocol::ICMPV6].contains(protocol));
                    add(&peers, Service::Icmp { protocol: *protocol, kind: *kind });
                }
                // The destination is this pod. A name it does not know means no port.
                Port::Named(name) if direction == Direction::Ingress => {
                    let all = if rule.denies { usize::MAX } else { 1 };
                    named_ports(pod, name).take(all).for_each(|number| add(&peers, single(name, number)));
                }
                Port::Named(name) => {
                    for (number, identities) in self.named(rule.denies, name, &peers) {
                        add(&Peers::Identities(identities), single(name, number));
                    }
                }
            }
        }
    }

    /// Egress to a port by name: each destination pod on the number it gives that name, and nobody else.
    fn named(&self, denies: bool, name: &PortName, peers: &Peers) -> BTreeMap<u16, Vec<IdentityId>> {
        let mut by_number: BTreeMap<u16, Vec<IdentityId>> = BTreeMap::new();
        let fact = self.force.facts.iter().position(|fact| fact.denies == denies && fact.name == *name);
        for (identity, number) in fact.map(|fact| self.classes.by_port[fact].as_slice()).unwrap_or_default() {
            let is_peer = match peers {
                Peers::Any => true,
                Peers::Identities(ids) => ids.binary_search(identity).is_ok(),
            };
            if is_peer {
                by_number.entry(*number).or_default().push(*identity);
            }
        }
        by_number
    }
}

fn single(name: &PortName, number: u16) -> Service {
    Service::Ports { protocol: name.protocol.number(), first: number, last: number }
}

fn entry(rule: RuleId, action: Action, peers: Peers, service: Service) -> Entry {
    Entry { tier: tier::NORMAL, priority: 0, action, peers, service, established_only: false, rule }
}
