//! A policy in the smallest pieces that can be called superfluous: one rule with one of its peers.

use super::cluster::{Cluster, Source};
use crate::compile::rule::{Policy, Rule, Selector};
use crate::objects::{CiliumPeerRule, CiliumPeers, CiliumPolicy, CiliumRule, NetworkPolicy, PolicyRule};
use penstock_api::artefact::Direction;

/// One rule of a policy, or one peer of one.
#[derive(Debug)]
pub(super) struct Atom {
    /// `spec.ingress[0]`.
    pub(super) rule_path: String,
    /// Which of the rule's peers this is, where it has several.
    pub(super) peer: Option<(Vec<&'static str>, usize)>,
    pub(super) direction: Direction,
    pub(super) rule: Rule,
    pub(super) is_whole: bool,
}

/// A subject of a policy with everything said of it.
#[derive(Debug)]
pub(super) struct Unit {
    /// `spec.podSelector`, `specs[1].endpointSelector`.
    pub(super) subject_path: String,
    pub(super) subject: Selector,
    pub(super) isolates_egress: bool,
    pub(super) atoms: Vec<Atom>,
}

impl Unit {
    /// The rules of a direction, whole.
    pub(super) fn rules(&self, direction: Direction) -> impl Iterator<Item = &Atom> {
        self.atoms.iter().filter(move |atom| atom.direction == direction && atom.is_whole)
    }
}

pub(super) fn units(cluster: &Cluster<'_>, policy: Source<'_>) -> Vec<Unit> {
    match policy {
        Source::Kubernetes(policy) => of_kubernetes(cluster, policy).into_iter().collect(),
        Source::Cilium(policy) => {
            policy.rules.iter().filter_map(|rule| of_cilium(cluster, policy, rule)).collect()
        }
    }
}

/// Begins a unit with the rules of its only part.
fn begin(compiled: Policy, subject_path: String) -> Option<Unit> {
    let part = compiled.parts.into_iter().next()?;
    let of = |direction, rules: Vec<Rule>| {
        rules.into_iter().map(move |rule| Atom {
            rule_path: rule.path.clone(),
            peer: None,
            direction,
            rule,
            is_whole: true,
        })
    };
    Some(Unit {
        subject_path,
        subject: part.subject,
        isolates_egress: part.egress.isolates,
        atoms: of(Direction::Ingress, part.ingress.rules)
            .chain(of(Direction::Egress, part.egress.rules))
            .collect(),
    })
}

fn of_kubernetes(cluster: &Cluster<'_>, policy: &NetworkPolicy) -> Option<Unit> {
    let mut unit = begin(cluster.compile(Source::Kubernetes(policy)), "spec.podSelector".to_owned())?;
    let lists = [(Direction::Ingress, &policy.ingress, "from"), (Direction::Egress, &policy.egress, "to")];
    for (direction, rules, field) in lists {
        for (number, rule) in rules.iter().enumerate().filter(|(_, rule)| rule.peers.len() > 1) {
            for (index, peer) in rule.peers.iter().enumerate() {
                let one = vec![PolicyRule { peers: vec![peer.clone()], ports: rule.ports.clone() }];
                let (ingress, egress) = match direction {
                    Direction::Ingress => (one, Vec::new()),
                    Direction::Egress => (Vec::new(), one),
                };
                let policy = NetworkPolicy { ingress, egress, ..policy.clone() };
                let part = cluster.compile(Source::Kubernetes(&policy)).parts.into_iter().next()?;
                let side = if direction == Direction::Ingress { part.ingress } else { part.egress };
                unit.atoms.extend(side.rules.into_iter().map(|rule| Atom {
                    rule_path: format!("spec.{direction}[{number}]"),
                    peer: Some((vec![field], index)),
                    direction,
                    rule,
                    is_whole: false,
                }));
            }
        }
    }
    Some(unit)
}

fn of_cilium(cluster: &Cluster<'_>, policy: &CiliumPolicy, rule: &CiliumRule) -> Option<Unit> {
    let compile = |rule: CiliumRule| {
        let policy = CiliumPolicy { rules: vec![rule], ..policy.clone() };
        cluster.compile(Source::Cilium(&policy))
    };
    let mut unit = begin(compile(rule.clone()), format!("{}.endpointSelector", rule.path))?;
    let bare =
        CiliumRule { ingress: None, ingress_deny: None, egress: None, egress_deny: None, ..rule.clone() };
    let lists = [
        (Direction::Ingress, false, &rule.ingress),
        (Direction::Ingress, true, &rule.ingress_deny),
        (Direction::Egress, false, &rule.egress),
        (Direction::Egress, true, &rule.egress_deny),
    ];
    for (direction, denies, list) in lists {
        for item in list.iter().flatten() {
            let pieces = single_peers(&item.peers);
            if pieces.len() < 2 {
                continue;
            }
            for (index, peers) in pieces.into_iter().enumerate() {
                let fields = fields_of(&item.peers, direction);
                let one = Some(vec![CiliumPeerRule { peers, ..item.clone() }]);
                let mut rule = bare.clone();
                match (direction, denies) {
                    (Direction::Ingress, false) => rule.ingress = one,
                    (Direction::Ingress, true) => rule.ingress_deny = one,
                    (Direction::Egress, false) => rule.egress = one,
                    (Direction::Egress, true) => rule.egress_deny = one,
                }
                let part = compile(rule).parts.into_iter().next()?;
                let side = if direction == Direction::Ingress { part.ingress } else { part.egress };
                unit.atoms.extend(side.rules.into_iter().map(|rule| Atom {
                    rule_path: item.path.clone(),
                    peer: Some((fields.clone(), index)),
                    direction,
                    rule,
                    is_whole: false,
                }));
            }
        }
    }
    Some(unit)
}

fn single_peers(peers: &CiliumPeers) -> Vec<CiliumPeers> {
    fn each<T: Clone>(list: &[T], wrap: fn(Vec<T>) -> CiliumPeers) -> Vec<CiliumPeers> {
        list.iter().map(|item| wrap(vec![item.clone()])).collect()
    }
    match peers {
        CiliumPeers::Any | CiliumPeers::None => Vec::new(),
        CiliumPeers::Endpoints(list) => each(list, CiliumPeers::Endpoints),
        CiliumPeers::Nodes(list) => each(list, CiliumPeers::Nodes),
        CiliumPeers::Entities(list) => each(list, CiliumPeers::Entities),
        CiliumPeers::Cidrs(list) => each(list, CiliumPeers::Cidrs),
        CiliumPeers::Services(list) => each(list, CiliumPeers::Services),
        CiliumPeers::Fqdns(list) => each(list, CiliumPeers::Fqdns),
    }
}

/// The field such peers come from; of two, the one that is there.
fn fields_of(peers: &CiliumPeers, direction: Direction) -> Vec<&'static str> {
    let (ingress, egress): (&[&'static str], &[&'static str]) = match peers {
        CiliumPeers::Any | CiliumPeers::None => (&[], &[]),
        CiliumPeers::Endpoints(_) => (&["fromEndpoints"], &["toEndpoints"]),
        CiliumPeers::Nodes(_) => (&["fromNodes"], &["toNodes"]),
        CiliumPeers::Entities(_) => (&["fromEntities", "fromGroups"], &["toEntities", "toGroups"]),
        CiliumPeers::Cidrs(_) => (&["fromCIDR", "fromCIDRSet"], &["toCIDR", "toCIDRSet"]),
        CiliumPeers::Services(_) => (&[], &["toServices"]),
        CiliumPeers::Fqdns(_) => (&[], &["toFQDNs"]),
    };
    match direction {
        Direction::Ingress => ingress.to_vec(),
        Direction::Egress => egress.to_vec(),
    }
}
