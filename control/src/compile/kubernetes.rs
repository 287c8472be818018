//! NetworkPolicy as rules.

use super::rule::{Block, Part, PeerSet, Peers, Policy, Port, PortName, Ports, Reach, Rule, Selector, Side};
use crate::objects::{Kind, NetworkPolicy, Peer, PolicyPort, PolicyRule, PortMatch};
use penstock_api::artefact::{Direction, PolicyInfo};

pub(crate) fn rules(policy: &NetworkPolicy) -> Policy {
    let mut subject = Selector { pod: policy.pod_selector.clone(), ..Selector::default() };
    subject.in_namespace(&policy.namespace);
    let side = |isolates: bool, direction: Direction, rules: &[PolicyRule]| Side {
        isolates,
        rules: match isolates {
            true => rules.iter().enumerate().map(|(n, rule)| convert(policy, direction, n, rule)).collect(),
            false => Vec::new(),
        },
    };
    Policy {
        info: PolicyInfo {
            kind: Kind::NetworkPolicy.name().to_owned(),
            namespace: policy.namespace.clone(),
            name: policy.name.clone(),
        },
        parts: vec![Part {
            subject,
            ingress: side(policy.isolates_ingress, Direction::Ingress, &policy.ingress),
            egress: side(policy.isolates_egress, Direction::Egress, &policy.egress),
        }],
        not_enforced: Vec::new(),
    }
}

fn convert(policy: &NetworkPolicy, direction: Direction, index: usize, rule: &PolicyRule) -> Rule {
    let peers = match rule.peers.as_slice() {
        [] => Peers::Any,
        peers => {
            let mut set = PeerSet::default();
            peers.iter().for_each(|peer| add(&mut set, peer, &policy.namespace));
            Peers::Some(set.canonical())
        }
    };
    let ports = match rule.ports.as_slice() {
        [] => Ports::Any,
        ports => Ports::Some(ports.iter().map(port).collect()),
    };
    Rule { path: format!("spec.{direction}[{index}]"), denies: false, peers, ports }
}

fn add(set: &mut PeerSet, peer: &Peer, own_namespace: &str) {
    match peer {
        Peer::Pods { pods, namespaces } => {
            let mut selector = Selector {
                pod: pods.clone().unwrap_or_default(),
                namespace: namespaces.clone().unwrap_or_default(),
                ..Selector::default()
            };
            match namespaces {
                // A selector that only excludes is true of who has no labels at all, and outsiders have none.
                Some(_) => selector.in_some_namespace(),
                None => selector.in_namespace(own_namespace),
            }
            set.selectors.push(selector.canonical());
        }
        Peer::IpBlock(block) => {
            set.blocks.push(Block { cidr: block.cidr, except: block.except.clone(), reach: Reach::Everyone })
        }
    }
}

fn port(port: &PolicyPort) -> Port {
    let protocol = port.protocol;
    match &port.port {
        PortMatch::All => Port::All(protocol),
        PortMatch::Range { first, last } => Port::Range { protocol, first: *first, last: *last },
        PortMatch::Named(name) => Port::Named(PortName { protocol, name: name.clone() }),
    }
}
