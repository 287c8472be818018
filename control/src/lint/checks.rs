//! The checks, each a function of the cluster.

use super::atoms::{Atom, Unit, units};
use super::cluster::{Cluster, Source, Stated};
use super::cover::{covers, ports, selects_all_of};
use super::{Check, Finding, Severity};
use crate::compile::rule::{Peers, Port, Ports};
use crate::load::{LoadError, LoadedObject, Locator};
use crate::objects::{
    CidrRule, CiliumPeerRule, CiliumPeers, CiliumPolicy, IpBlock, NetworkPolicy, Peer, Pod, PortMatch,
    Protocol, ServiceSelector, Subject,
};
use ipnet::IpNet;
use penstock_api::artefact::Direction;
use std::collections::{BTreeMap, BTreeSet};

/// Rules of one subject and direction beyond this number are not compared with each other.
const COMPARED_MAX: usize = 500;

struct Lint<'a> {
    cluster: Cluster<'a>,
    locator: &'a mut Locator,
    findings: &'a mut Vec<Finding>,
}

pub(super) fn run(objects: &[LoadedObject], locator: &mut Locator, findings: &mut Vec<Finding>) {
    let mut lint = Lint { cluster: Cluster::new(objects), locator, findings };
    let policies: Vec<(Stated<'_>, Vec<Unit>)> =
        lint.cluster.policies.iter().map(|stated| (*stated, units(&lint.cluster, stated.source))).collect();
    for (stated, units) in &policies {
        for unit in units {
            lint.selects_nothing(*stated, unit);
            lint.shadowed(*stated, unit);
        }
        lint.not_enforced(*stated);
        match stated.source {
            Source::Kubernetes(policy) => lint.kubernetes(*stated, policy),
            Source::Cilium(policy) => lint.cilium(*stated, policy, units),
        }
    }
    lint.dns(&policies);
}

impl Lint<'_> {
    fn warn(&mut self, stated: Stated<'_>, check: Check, field: &str, message: impl Into<String>) {
        let (line, column) = self.locator.locate(stated.place, field);
        let error = LoadError {
            file: stated.place.file.clone(),
            line,
            column,
            object: Some(stated.source.name()),
            field: Some(field.to_owned()),
            message: message.into(),
        };
        self.findings.push(Finding { severity: Severity::Warning, check, error });
    }

    fn selects_nothing(&mut self, stated: Stated<'_>, unit: &Unit) {
        let selects = |pod: &Pod| self.cluster.selects(&unit.subject, pod);
        if self.cluster.has_pods && !self.cluster.pods.iter().any(selects) {
            let message = "selects no pod of those loaded, so this policy does nothing";
            self.warn(stated, Check::SelectsNothing, &unit.subject_path, message);
        }
    }

    /// Rules, and peers of rules, that another one covers; and allowing ones that a denying one cancels.
    fn shadowed(&mut self, stated: Stated<'_>, unit: &Unit) {
        for direction in [Direction::Ingress, Direction::Egress] {
            let rules: Vec<&Atom> = unit.rules(direction).collect();
            let pieces: Vec<&Atom> =
                unit.atoms.iter().filter(|atom| atom.direction == direction && !atom.is_whole).collect();
            if rules.len() + pieces.len() > COMPARED_MAX {
                continue;
            }
            let mut superfluous: BTreeSet<&str> = BTreeSet::new();
            for (index, atom) in rules.iter().enumerate() {
                if let Some((other, how)) = covering(atom, index, &rules) {
                    superfluous.insert(&atom.rule_path);
                    let message = format!("has no effect: {other} {how} all of it");
                    self.warn(stated, Check::Shadowed, &atom.rule_path, message);
                }
            }
            for (index, atom) in
                pieces.iter().enumerate().filter(|(_, a)| !superfluous.contains(a.rule_path.as_str()))
            {
                let others: Vec<&Atom> =
                    rules.iter().copied().filter(|r| r.rule_path != atom.rule_path).collect();
                let found = covering(atom, others.len(), &others)
                    .map(|(other, how)| (other.to_owned(), how))
                    .or_else(|| {
                        let (other, how) = covering_piece(atom, index, &pieces)?;
                        Some((self.path_of(stated, other), how))
                    });
                if let Some((other, how)) = found {
                    let path = self.path_of(stated, atom);
                    self.warn(
                        stated,
                        Check::Shadowed,
                        &path,
                        format!("has no effect: {other} {how} all of it"),
                    );
                }
            }
        }
    }

    /// The field of one peer.
    fn path_of(&mut self, stated: Stated<'_>, atom: &Atom) -> String {
        let Some((fields, index)) = &atom.peer else { return atom.rule_path.clone() };
        let paths = fields.iter().map(|field| format!("{}.{field}[{index}]", atom.rule_path));
        let mut paths: Vec<String> = paths.collect();
        match paths.iter().position(|path| self.locator.has(stated.place, path)) {
            Some(there) => paths.swap_remove(there),
            None => atom.rule_path.clone(),
        }
    }

    /// What only compiling found out; the rest is the loader's.
    fn not_enforced(&mut self, stated: Stated<'_>) {
        let found: BTreeMap<String, String> =
            self.cluster.compile(stated.source).not_enforced.into_iter().map(|n| (n.field, n.why)).collect();
        for (field, why) in found {
            self.warn(stated, Check::NotEnforced, &field, format!("not enforced: {why}"));
        }
    }

    fn kubernetes(&mut self, stated: Stated<'_>, policy: &NetworkPolicy) {
        for (direction, rules, field) in
            [(Direction::Ingress, &policy.ingress, "from"), (Direction::Egress, &policy.egress, "to")]
        {
            let mut blocks = Vec::new();
            for (number, rule) in rules.iter().enumerate() {
                let path = format!("spec.{direction}[{number}]");
                for (index, peer) in rule.peers.iter().enumerate() {
                    let path = format!("{path}.{field}[{index}]");
                    match peer {
                        Peer::IpBlock(block) => blocks.push((path, block)),
                        Peer::Pods { namespaces: Some(selector), .. }
                            if !self.cluster.namespaces.is_empty() =>
                        {
                            let names = self.cluster.namespaces.iter();
                            if !names
                                .into_iter()
                                .any(|name| selector.matches(&self.cluster.names.labels(name)))
                            {
                                let message = "selects no namespace of those loaded; it looks at namespaces' labels, not names";
                                self.warn(
                                    stated,
                                    Check::SelectsNothing,
                                    &format!("{path}.namespaceSelector"),
                                    message,
                                );
                            }
                        }
                        Peer::Pods { .. } => {}
                    }
                }
                for (index, port) in rule.ports.iter().enumerate() {
                    if let PortMatch::Named(name) = &port.port {
                        let path = format!("{path}.ports[{index}].port");
                        let selects = |pod: &Pod| {
                            direction == Direction::Egress
                                || (pod.namespace == policy.namespace
                                    && policy.pod_selector.matches(&pod.labels))
                        };
                        self.port_name(stated, &path, name, &[port.protocol], selects);
                    }
                }
            }
            self.one_family(stated, &blocks);
        }
    }

    fn cilium(&mut self, stated: Stated<'_>, policy: &CiliumPolicy, units: &[Unit]) {
        for rule in &policy.rules {
            let subject_path = format!("{}.endpointSelector", rule.path);
            let subject =
                units.iter().find(|unit| unit.subject_path == subject_path).map(|unit| &unit.subject);
            let sections = [
                (Direction::Ingress, false, &rule.ingress),
                (Direction::Ingress, true, &rule.ingress_deny),
                (Direction::Egress, false, &rule.egress),
                (Direction::Egress, true, &rule.egress_deny),
            ];
            for (direction, denies, items) in sections {
                let mut blocks = Vec::new();
                for item in items.iter().flatten() {
                    self.empty_item(stated, item, denies, direction);
                    self.references(stated, policy, item);
                    if let CiliumPeers::Cidrs(rules) = &item.peers {
                        blocks.extend(rules.iter().filter_map(|rule| match rule {
                            CidrRule::Block(block) => Some((item.path.clone(), block)),
                            _ => None,
                        }));
                    }
                    for port in item.ports.iter().flatten() {
                        let crate::objects::CiliumPortMatch::Name(name) = &port.port else { continue };
                        let any = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
                        let protocols = port.protocol.as_ref().map_or(any.as_slice(), std::slice::from_ref);
                        let cluster = &self.cluster;
                        let has = cluster.pods.iter().any(|pod| {
                            let counts = direction == Direction::Egress
                                || subject.is_some_and(|subject| cluster.selects(subject, pod));
                            counts
                                && protocols.iter().any(|protocol| pod.named_port(name, *protocol).is_some())
                        });
                        if self.cluster.has_pods && !has && matches!(rule.subject, Subject::Endpoints(_)) {
                            self.no_such_port(stated, &format!("{}.port", port.path), name);
                        }
                    }
                }
                self.one_family(stated, &blocks);
            }
        }
    }

    /// The rule that means everything in NetworkPolicy and nothing here.
    fn empty_item(&mut self, stated: Stated<'_>, item: &CiliumPeerRule, denies: bool, direction: Direction) {
        let is_empty = item.peers == CiliumPeers::Any && item.ports.is_none() && item.icmps.is_none();
        if !is_empty || !item.not_enforced.is_empty() {
            return;
        }
        let message = match denies {
            true => "an empty item denies nothing; to deny everybody write an entity, all".to_owned(),
            false => format!(
                "an empty item allows nothing here, it only isolates; the same words in a NetworkPolicy allow everything. To allow \
                 everybody write {}: [all]",
                if direction == Direction::Ingress { "fromEntities" } else { "toEntities" }
            ),
        };
        self.warn(stated, Check::EmptyItem, &item.path, message);
    }

    /// Names of objects that are not there.
    fn references(&mut self, stated: Stated<'_>, policy: &CiliumPolicy, item: &CiliumPeerRule) {
        match &item.peers {
            CiliumPeers::Cidrs(rules) => {
                for rule in rules {
                    if let CidrRule::Group { name, .. } = rule
                        && !self.cluster.cidr_groups.contains_key(name)
                    {
                        let message =
                            format!("there is no CiliumCIDRGroup {name} among the objects: it means nobody");
                        self.warn(stated, Check::Reference, &item.path, message);
                    }
                }
            }
            CiliumPeers::Services(selectors) if !self.cluster.services.is_empty() => {
                for (index, selector) in selectors.iter().enumerate() {
                    let path = format!("{}.toServices[{index}]", item.path);
                    let (namespace, matches): (_, &dyn Fn(&crate::objects::Service) -> bool) = match selector
                    {
                        ServiceSelector::Name { namespace, name } => (namespace, &move |s| s.name == *name),
                        ServiceSelector::Labels { namespace, selector } => {
                            (namespace, &move |s| selector.matches(&s.labels))
                        }
                    };
                    let in_scope = |service: &crate::objects::Service| {
                        namespace.as_ref().is_none_or(|namespace| service.namespace == *namespace)
                    };
                    let found: Vec<_> =
                        self.cluster.services.values().filter(|s| in_scope(s) && matches(s)).collect();
                    let elsewhere = found
                        .iter()
                        .filter(|s| s.namespace != policy.namespace)
                        .map(|s| s.namespace.as_str());
                    let elsewhere: BTreeSet<&str> = elsewhere.collect();
                    if found.is_empty() {
                        self.warn(
                            stated,
                            Check::Reference,
                            &path,
                            "means no service of those loaded: nobody",
                        );
                    } else if namespace.is_none() && !policy.is_clusterwide() && !elsewhere.is_empty() {
                        let names: Vec<&str> = elsewhere.into_iter().collect();
                        let message = format!(
                            "names no namespace and so means services of {}, too; say which with namespace",
                            names.join(", ")
                        );
                        self.warn(stated, Check::Reference, &path, message);
                    }
                }
            }
            _ => {}
        }
    }

    /// The whole of IPv4 and nothing of IPv6, where both are spoken.
    fn one_family(&mut self, stated: Stated<'_>, blocks: &[(String, &IpBlock)]) {
        let is_all = |net: &IpNet| net.prefix_len() == 0;
        let v4 = blocks.iter().find(|(_, block)| is_all(&block.cidr) && block.cidr.addr().is_ipv4());
        let has_v6 = blocks.iter().any(|(_, block)| block.cidr.addr().is_ipv6());
        if let Some((path, _)) = v4
            && !has_v6
            && self.cluster.has_v6()
        {
            let message = "0.0.0.0/0 is all of IPv4 and nothing of IPv6, which pods or nodes here have, too; add ::/0 if it is meant";
            self.warn(stated, Check::OneFamily, path, message);
        }
    }

    fn port_name(
        &mut self,
        stated: Stated<'_>,
        path: &str,
        name: &str,
        protocols: &[Protocol],
        counts: impl Fn(&Pod) -> bool,
    ) {
        let has = |pod: &&Pod| protocols.iter().any(|protocol| pod.named_port(name, *protocol).is_some());
        if self.cluster.has_pods && !self.cluster.pods.iter().filter(|pod| counts(pod)).any(|pod| has(&pod)) {
            self.no_such_port(stated, path, name);
        }
    }

    fn no_such_port(&mut self, stated: Stated<'_>, path: &str, name: &str) {
        let message = format!(
            "no pod loaded has a port {name:?} of this protocol where it would count: it matches nothing"
        );
        self.warn(stated, Check::PortName, path, message);
    }

    /// Pods that may not ask for names. Policies are judged together: DNS is often allowed by one of its own.
    fn dns(&mut self, policies: &[(Stated<'_>, Vec<Unit>)]) {
        let all: Vec<(usize, &Unit)> = policies
            .iter()
            .enumerate()
            .flat_map(|(index, (_, units))| units.iter().map(move |unit| (index, unit)))
            .collect();
        // By the units that speak of a pod, so that a thousand alike are one finding.
        let mut sets: BTreeMap<Vec<usize>, String> = BTreeMap::new();
        if self.cluster.has_pods {
            for pod in &self.cluster.pods {
                let of_pod =
                    |(_, (_, unit)): &(usize, &(usize, &Unit))| self.cluster.selects(&unit.subject, pod);
                let set = all.iter().enumerate().filter(of_pod).map(|(number, _)| number).collect();
                sets.entry(set).or_insert_with(|| format!(" (pod {}/{})", pod.namespace, pod.name));
            }
        } else {
            for (_, unit) in &all {
                let of_subject = |(_, (_, other)): &(usize, &(usize, &Unit))| {
                    selects_all_of(&other.subject, &unit.subject)
                };
                let set = all.iter().enumerate().filter(of_subject).map(|(number, _)| number).collect();
                sets.entry(set).or_default();
            }
        }
        for (set, example) in sets {
            let units = || set.iter().map(|number| all[*number]);
            let Some((policy, first)) = units().find(|(_, unit)| unit.isolates_egress) else { continue };
            let allows = |protocol| {
                units().any(|(_, unit)| {
                    unit.rules(Direction::Egress).any(|atom| !atom.rule.denies && allows_dns(atom, protocol))
                })
            };
            let message = match (allows(Protocol::Udp), allows(Protocol::Tcp)) {
                (true, true) => continue,
                (true, false) => "allows DNS over UDP and not over TCP, which long answers need",
                (false, true) => "allows DNS over TCP and not over UDP, which nearly all questions use",
                (false, false) => {
                    "isolates egress, and nothing allows DNS (port 53, UDP and TCP) to anybody: no name can be resolved"
                }
            };
            let section = match first.subject_path.rsplit_once('.') {
                Some((rule, _)) => format!("{rule}.egress"),
                None => "spec.egress".to_owned(),
            };
            self.warn(policies[policy].0, Check::Dns, &section, format!("{message}{example}"));
        }
    }
}

/// Which rule covers this one, and what it does with it. Of two that cover each other the first stays.
fn covering<'a>(atom: &Atom, index: usize, rules: &[&'a Atom]) -> Option<(&'a str, &'static str)> {
    if is_nothing(atom) {
        return None;
    }
    rules.iter().enumerate().filter(|(number, _)| *number != index).find_map(|(number, other)| {
        if is_nothing(other) || !covers(&other.rule, &atom.rule) {
            return None;
        }
        match (other.rule.denies, atom.rule.denies) {
            (true, false) => Some((other.rule_path.as_str(), "denies")),
            (false, true) => None,
            (denies, _) if number < index || !covers(&atom.rule, &other.rule) => {
                Some((other.rule_path.as_str(), if denies { "denies" } else { "allows" }))
            }
            _ => None,
        }
    })
}

/// The same among single peers.
fn covering_piece<'a>(atom: &Atom, index: usize, pieces: &[&'a Atom]) -> Option<(&'a Atom, &'static str)> {
    if is_nothing(atom) {
        return None;
    }
    let is_other = |(number, other): &(usize, &&Atom)| {
        *number != index
            && other.rule.denies == atom.rule.denies
            && !is_nothing(other)
            && covers(&other.rule, &atom.rule)
            && (*number < index || !covers(&atom.rule, &other.rule))
    };
    let (_, other) = pieces.iter().enumerate().find(is_other)?;
    Some((other, if other.rule.denies { "denies" } else { "allows" }))
}

fn is_nothing(atom: &Atom) -> bool {
    matches!(&atom.rule.peers, Peers::Some(set) if set.is_nobody())
        || matches!(&atom.rule.ports, Ports::Some(ports) if ports.is_empty())
}

/// A named port might be 53: whoever calls it by a name knows.
fn allows_dns(atom: &Atom, protocol: Protocol) -> bool {
    let dns = Ports::Some(vec![Port::Range { protocol, first: 53, last: 53 }]);
    let by_name = match &atom.rule.ports {
        Ports::Some(ports) => {
            ports.iter().any(|port| matches!(port, Port::Named(name) if name.protocol == protocol))
        }
        Ports::Any => false,
    };
    !is_nothing(atom) && (by_name || ports(&atom.rule.ports, &dns))
}

impl Source<'_> {
    fn name(&self) -> String {
        match self {
            Source::Kubernetes(policy) => format!("NetworkPolicy {}/{}", policy.namespace, policy.name),
            Source::Cilium(policy) if policy.is_clusterwide() => {
                format!("CiliumClusterwideNetworkPolicy {}", policy.name)
            }
            Source::Cilium(policy) => format!("CiliumNetworkPolicy {}/{}", policy.namespace, policy.name),
        }
    }
}
