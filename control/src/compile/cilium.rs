//! CiliumNetworkPolicy and CiliumClusterwideNetworkPolicy as rules.
//!
//! Everything that is a name in the API (entities, groups of CIDRs, services, nodes) is looked up here and becomes labels or
//! addresses; a policy that looked something up is asked again when the answer may have changed ([`asks`]).
//!
//! A rule that asks for what is not enforced allows nothing. A denying one denies what it would deny without it, and where it
//! is the peers themselves that cannot be told, everyone: refusing too much shows, refusing too little does not.

use super::rule::{
    Block, CLUSTER, KUBE_APISERVER, NAMESPACE, Part, PeerSet, Peers, Policy, Port, PortName, Ports, Reach,
    Rule, SERVICE_ACCOUNT, Selector, Side, requirement,
};
use crate::objects::{
    CLUSTER_LABEL, CidrRule, CiliumCidrGroup, CiliumPeerRule, CiliumPeers, CiliumPolicy, CiliumPort,
    CiliumPortMatch, CiliumRequirement, CiliumRule, CiliumSelector, EndpointSlice, Entity, IcmpType,
    IpFamily, Kind, LabelSelector, LabelSource, NAMESPACE_LABELS_PREFIX, Node, NotEnforced, Operator,
    POD_NAMESPACE_LABEL, Protocol, Requirement, SERVICE_ACCOUNT_LABEL, Service, ServiceSelector, Subject,
};
use ipnet::IpNet;
use penstock_api::artefact::{PolicyInfo, protocol};
use std::collections::BTreeMap;

/// What names in policies stand for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Directory<'a> {
    pub(crate) cidr_groups: &'a BTreeMap<String, CiliumCidrGroup>,
    pub(crate) services: &'a BTreeMap<(String, String), Service>,
    pub(crate) slices: &'a BTreeMap<(String, String), EndpointSlice>,
    pub(crate) nodes: &'a BTreeMap<String, Node>,
}

/// Does the policy's meaning depend on a [`Directory`]?
pub(crate) fn asks(policy: &CiliumPolicy) -> bool {
    let lists = policy.rules.iter().flat_map(|rule| lists(rule).into_iter().flatten());
    lists.flatten().any(|rule| match &rule.peers {
        CiliumPeers::Nodes(_) | CiliumPeers::Services(_) => true,
        CiliumPeers::Cidrs(rules) => rules.iter().any(|rule| !matches!(rule, CidrRule::Block(_))),
        _ => false,
    })
}

fn lists(rule: &CiliumRule) -> [Option<&Vec<CiliumPeerRule>>; 4] {
    [&rule.ingress, &rule.ingress_deny, &rule.egress, &rule.egress_deny].map(Option::as_ref)
}

/// What the loader says of the policy.
pub(crate) fn not_enforced(policy: &CiliumPolicy) -> impl Iterator<Item = &NotEnforced> {
    policy.rules.iter().flat_map(|rule| {
        let of_lists = lists(rule).into_iter().flatten().flatten().flat_map(|rule| &rule.not_enforced);
        rule.not_enforced.iter().chain(of_lists)
    })
}

pub(crate) fn rules(policy: &CiliumPolicy, directory: Directory<'_>) -> Policy {
    let kind = match policy.is_clusterwide() {
        true => Kind::CiliumClusterwideNetworkPolicy,
        false => Kind::CiliumNetworkPolicy,
    };
    let mut converter = Converter { policy, directory, not_enforced: Vec::new() };
    let parts = policy.rules.iter().filter_map(|rule| converter.part(rule)).collect();
    Policy {
        info: PolicyInfo {
            kind: kind.name().to_owned(),
            namespace: policy.namespace.clone(),
            name: policy.name.clone(),
        },
        parts,
        not_enforced: converter.not_enforced,
    }
}

struct Converter<'a> {
    policy: &'a CiliumPolicy,
    directory: Directory<'a>,
    not_enforced: Vec<NotEnforced>,
}

/// A selector that asks for what nobody can tell.
struct Untold(String);

impl Converter<'_> {
    fn part(&mut self, rule: &CiliumRule) -> Option<Part> {
        // A policy of nodes says nothing about pods; the loader has said that it is not enforced.
        let Subject::Endpoints(subject) = &rule.subject else { return None };
        let mut subject = parts_of(subject);
        // Whatever it says about namespaces, it cannot leave its own.
        match self.policy.is_clusterwide() {
            true => subject.in_some_namespace(),
            false => subject.in_namespace(&self.policy.namespace),
        }
        let subject = subject.canonical();
        Some(Part {
            subject,
            ingress: self.side(rule, &rule.ingress, &rule.ingress_deny, rule.default_deny_ingress),
            egress: self.side(rule, &rule.egress, &rule.egress_deny, rule.default_deny_egress),
        })
    }

    fn side(
        &mut self,
        rule: &CiliumRule,
        allow: &Option<Vec<CiliumPeerRule>>,
        deny: &Option<Vec<CiliumPeerRule>>,
        default_deny: Option<bool>,
    ) -> Side {
        let (allow, deny) = (allow.as_deref().unwrap_or_default(), deny.as_deref().unwrap_or_default());
        // A list without items is no section: the API says that the rule does not apply in that direction then.
        let isolates = default_deny.unwrap_or(!allow.is_empty() || !deny.is_empty());
        let is_whole = rule.not_enforced.is_empty();
        let allow = allow.iter().map(|item| (item, false));
        let deny = deny.iter().map(|item| (item, true));
        let rules = deny.chain(allow).map(|(item, denies)| self.rule(item, denies, is_whole)).collect();
        Side { isolates, rules }
    }

    fn rule(&mut self, rule: &CiliumPeerRule, denies: bool, is_whole: bool) -> Rule {
        let ports = ports(rule);
        let is_enforced = is_whole && rule.not_enforced.is_empty();
        let peers = match is_enforced || denies {
            true => self.peers(rule, denies, ports == Ports::Any),
            false => Peers::nobody(),
        };
        Rule { path: rule.path.clone(), denies, peers, ports }
    }

    fn peers(&mut self, rule: &CiliumPeerRule, denies: bool, any_port: bool) -> Peers {
        let mut set = PeerSet::default();
        match &rule.peers {
            // A rule with nothing in it at all matches nothing.
            CiliumPeers::Any if any_port => {}
            CiliumPeers::Any => return Peers::Any,
            CiliumPeers::None => {}
            CiliumPeers::Endpoints(selectors) => {
                for selector in selectors {
                    match self.endpoints(selector, &mut set) {
                        Ok(()) => {}
                        Err(Untold(why)) => {
                            self.note(rule.path.clone(), why);
                            return untold(denies);
                        }
                    }
                }
            }
            CiliumPeers::Nodes(selectors) => {
                selectors.iter().for_each(|selector| self.nodes(selector, &mut set));
            }
            CiliumPeers::Entities(entities) => {
                for entity in entities {
                    if *entity == Entity::All {
                        return Peers::Any;
                    }
                    self.entity(*entity, &mut set);
                }
            }
            CiliumPeers::Cidrs(rules) => rules.iter().for_each(|rule| self.cidr(rule, &mut set)),
            CiliumPeers::Services(selectors) => {
                selectors.iter().for_each(|selector| self.services(selector, &mut set));
            }
            // Names are not learned yet, and a name without addresses matches nothing.
            CiliumPeers::Fqdns(_) => return untold(denies),
        }
        Peers::Some(set.canonical())
    }

    /// Peers by labels: of the policy's namespace unless they say something about namespaces, and pods unless they name a
    /// reserved label.
    fn endpoints(&self, selector: &CiliumSelector, set: &mut PeerSet) -> Result<(), Untold> {
        if let [only] = selector.requirements.as_slice()
            && is_there(only)
        {
            match only.source {
                LabelSource::Reserved if only.key == "all" => {
                    set.selectors.push(Selector::any_pod());
                    set.selectors.extend(["host", "remote-node", "world", "init"].map(Selector::place));
                    return Ok(());
                }
                LabelSource::Cidr => {
                    // A label cannot hold the ':' of an address.
                    let cidr: IpNet = (only.key.replace('-', ":").parse())
                        .map_err(|_| Untold(format!("{} is no CIDR", only.key)))?;
                    set.blocks.push(Block {
                        cidr: cidr.trunc(),
                        except: Vec::new(),
                        reach: Reach::Outsiders,
                    });
                    return Ok(());
                }
                _ => {}
            }
        }
        for requirement in &selector.requirements {
            // Pods have none of these, but outsiders may.
            match requirement.source {
                LabelSource::Cidr => {
                    let why = "a cidr: label is only understood alone and with a value; use a CIDR rule";
                    return Err(Untold(why.to_owned()));
                }
                LabelSource::Fqdn => {
                    return Err(Untold("fqdn: labels are not known; use toFQDNs".to_owned()));
                }
                _ => {}
            }
        }
        let mut peers = parts_of(selector);
        let names_reserved = selector.requirements.iter().any(|r| r.source == LabelSource::Reserved);
        if !names_reserved {
            let names_namespace = selector.requirements.iter().any(|requirement| {
                is_kubernetes(requirement)
                    && (requirement.key == POD_NAMESPACE_LABEL
                        || requirement.key.starts_with(NAMESPACE_LABELS_PREFIX))
            });
            match names_namespace || self.policy.is_clusterwide() {
                true => peers.in_some_namespace(),
                false => peers.in_namespace(&self.policy.namespace),
            }
        }
        set.selectors.push(peers.canonical());
        Ok(())
    }

    fn entity(&self, entity: Entity, set: &mut PeerSet) {
        match entity {
            Entity::World => set.selectors.push(Selector::place("world")),
            Entity::WorldIpv4 => set.selectors.push(Selector::place("world-ipv4")),
            Entity::WorldIpv6 => set.selectors.push(Selector::place("world-ipv6")),
            Entity::Host => set.selectors.push(Selector::place("host")),
            Entity::RemoteNode => set.selectors.push(Selector::place("remote-node")),
            Entity::Init => set.selectors.push(Selector::place("init")),
            // Wherever it runs: outside, on a node, in a pod.
            Entity::KubeApiserver => set.selectors.push(Selector::place(KUBE_APISERVER)),
            Entity::Cluster => {
                set.selectors.push(Selector::any_pod());
                set.selectors.extend(["host", "remote-node", "init", KUBE_APISERVER].map(Selector::place));
            }
            // Nobody here is one of these: there are no health endpoints, no ingress of the switch's own, and every pod is
            // managed. (`all` was answered before.)
            Entity::Health | Entity::Ingress | Entity::Unmanaged | Entity::None | Entity::All => {}
        }
    }

    fn endpoints_of(&self, service: &Service, set: &mut PeerSet) {
        for address in super::state::endpoints(self.directory.slices, &service.namespace, &service.name) {
            set.blocks.push(Block::of_address(address, Reach::Outsiders));
        }
    }

    fn nodes(&self, selector: &CiliumSelector, set: &mut PeerSet) {
        // Nodes have the labels of their objects and nothing else.
        let requirements = selector.requirements.iter().map(|asked| match &asked.source {
            LabelSource::Any | LabelSource::K8s | LabelSource::Other(_) => Requirement {
                key: match &asked.source {
                    LabelSource::Other(source) if source != "node" => format!("{source}:{}", asked.key),
                    _ => asked.key.clone(),
                },
                operator: asked.operator,
                values: asked.values.clone(),
            },
            _ => requirement("\0nobody's", Operator::Exists, &[]),
        });
        let selector = LabelSelector { requirements: requirements.collect() };
        let selected = self.directory.nodes.values().filter(|node| selector.matches(&node.labels));
        for address in selected.flat_map(|node| &node.addresses) {
            set.blocks.push(Block::of_address(*address, Reach::Nodes));
        }
    }

    fn cidr(&self, rule: &CidrRule, set: &mut PeerSet) {
        let mut add = |cidr: IpNet, except: &[IpNet]| {
            let inside = except.iter().filter(|except| cidr.contains(*except)).copied().collect();
            if !except.iter().any(|except| except.contains(&cidr)) {
                set.blocks.push(Block { cidr, except: inside, reach: Reach::Outsiders });
            }
        };
        match rule {
            CidrRule::Block(block) => add(block.cidr, &block.except),
            CidrRule::Group { name, except } => {
                let group = self.directory.cidr_groups.get(name);
                group.into_iter().flat_map(|group| &group.cidrs).for_each(|cidr| add(*cidr, except));
            }
            CidrRule::Groups { selector, except } => {
                let groups = self.directory.cidr_groups.values();
                let selected = groups.filter(|group| selector.matches(&group.labels));
                selected.flat_map(|group| &group.cidrs).for_each(|cidr| add(*cidr, except));
            }
        }
    }

    /// Services with a selector mean the pods it selects; those without mean the addresses that their EndpointSlices list.
    fn services(&self, selector: &ServiceSelector, set: &mut PeerSet) {
        let is_meant = |service: &&Service| {
            let (namespace, is_it) = match selector {
                ServiceSelector::Name { namespace, name } => (namespace.as_deref(), service.name == *name),
                ServiceSelector::Labels { namespace, selector } => {
                    (namespace.as_deref(), selector.matches(&service.labels))
                }
            };
            is_it && namespace.is_none_or(|name| service.namespace == name)
        };
        for service in self.directory.services.values().filter(is_meant) {
            if service.selector.is_empty() {
                self.endpoints_of(service, set);
                continue;
            }
            let mut backends = Selector::default();
            for (key, value) in &service.selector {
                backends.pod.requirements.push(requirement(key, Operator::In, &[value]));
            }
            backends.in_namespace(&service.namespace);
            set.selectors.push(backends.canonical());
        }
    }

    fn note(&mut self, field: String, why: String) {
        self.not_enforced.push(NotEnforced { field, why });
    }
}

/// Peers that a rule names and nobody can tell.
fn untold(denies: bool) -> Peers {
    if denies { Peers::Any } else { Peers::nobody() }
}

/// Each requirement into the part of the labels it asks for.
fn parts_of(selector: &CiliumSelector) -> Selector {
    let mut parts = Selector::default();
    for asked in &selector.requirements {
        let asks_for = |key: &str| Requirement {
            key: key.to_owned(),
            operator: asked.operator,
            values: asked.values.clone(),
        };
        // A label that nobody here carries is absent everywhere.
        let mut nobodys = |source: &str| {
            parts.place.requirements.push(asks_for(&format!("{source}:{}", asked.key)));
        };
        match &asked.source {
            LabelSource::Cidr => nobodys("cidr"),
            LabelSource::Fqdn => nobodys("fqdn"),
            LabelSource::Other(source) => nobodys(source),
            LabelSource::Reserved => parts.place.requirements.push(asks_for(&asked.key)),
            LabelSource::Any | LabelSource::K8s => match asked.key.as_str() {
                POD_NAMESPACE_LABEL => parts.namespace.requirements.push(asks_for(NAMESPACE)),
                CLUSTER_LABEL => parts.namespace.requirements.push(asks_for(CLUSTER)),
                SERVICE_ACCOUNT_LABEL => parts.pod.requirements.push(asks_for(SERVICE_ACCOUNT)),
                key => match key.strip_prefix(NAMESPACE_LABELS_PREFIX) {
                    Some(key) => parts.namespace.requirements.push(asks_for(key)),
                    None => parts.pod.requirements.push(asks_for(key)),
                },
            },
        }
    }
    parts
}

fn is_kubernetes(requirement: &CiliumRequirement) -> bool {
    matches!(requirement.source, LabelSource::Any | LabelSource::K8s)
}

/// Asks for a reserved label or one of that kind to be there: they have no values.
fn is_there(requirement: &CiliumRequirement) -> bool {
    match requirement.operator {
        Operator::Exists => true,
        Operator::In => requirement.values.iter().any(String::is_empty),
        Operator::NotIn | Operator::DoesNotExist => false,
    }
}

fn ports(rule: &CiliumPeerRule) -> Ports {
    if rule.ports.is_none() && rule.icmps.is_none() {
        return Ports::Any;
    }
    let ports = rule.ports.iter().flatten().flat_map(port);
    Ports::Some(ports.chain(rule.icmps.iter().flatten().map(icmp)).collect())
}

fn port(port: &CiliumPort) -> Vec<Port> {
    let any = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
    let protocols = port.protocol.as_ref().map_or(any.as_slice(), std::slice::from_ref);
    let of_protocol = |protocol: &Protocol| match &port.port {
        CiliumPortMatch::All => Port::All(*protocol),
        CiliumPortMatch::Range { first, last } => {
            Port::Range { protocol: *protocol, first: *first, last: *last }
        }
        CiliumPortMatch::Name(name) => Port::Named(PortName { protocol: *protocol, name: name.clone() }),
    };
    protocols.iter().map(of_protocol).collect()
}

fn icmp(icmp: &IcmpType) -> Port {
    let protocol = match icmp.family {
        IpFamily::V4 => protocol::ICMP,
        IpFamily::V6 => protocol::ICMPV6,
    };
    Port::Icmp { protocol, kind: icmp.number }
}
