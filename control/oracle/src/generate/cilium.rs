//! Random CiliumNetworkPolicies and CiliumClusterwideNetworkPolicies. Every one is valid.

use super::cluster::Cluster;
use super::{Dice, NETS, OPERATORS, OUTSIDE, PORT_NAMES, PORTS, VALUES};
use crate::feature::Feature;
use serde_json::{Map, Value, json};

pub(crate) const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
pub(crate) const NAMESPACE_LABELS: &str = "io.cilium.k8s.namespace.labels.";
pub(crate) const SERVICE_ACCOUNT: &str = "io.cilium.k8s.policy.serviceaccount";

/// Where a rule stands.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Section {
    egress: bool,
    deny: bool,
}

impl Section {
    fn name(self) -> &'static str {
        match (self.egress, self.deny) {
            (false, false) => "ingress",
            (false, true) => "ingressDeny",
            (true, false) => "egress",
            (true, true) => "egressDeny",
        }
    }

    /// `toCIDR` or `fromCIDR`.
    fn field(self, what: &str) -> String {
        format!("{}{what}", if self.egress { "to" } else { "from" })
    }
}

pub(crate) fn policy(dice: &mut Dice, cluster: &Cluster, number: usize, clusterwide: bool) -> Value {
    let specs: Vec<Value> = if dice.has(Feature::Specs) {
        (0..dice.some(2)).map(|_| spec(dice, cluster, clusterwide)).collect()
    } else {
        Vec::new()
    };
    let mut policy = json!({"apiVersion": "cilium.io/v2", "metadata": {"name": format!("policy-{number}")}});
    if specs.is_empty() || dice.chance(40) {
        policy["spec"] = spec(dice, cluster, clusterwide);
    }
    if !specs.is_empty() {
        policy["specs"] = json!(specs);
    }
    policy["kind"] =
        json!(if clusterwide { "CiliumClusterwideNetworkPolicy" } else { "CiliumNetworkPolicy" });
    if !clusterwide {
        policy["metadata"]["namespace"] = json!(cluster.populated(dice));
    }
    policy
}

fn spec(dice: &mut Dice, cluster: &Cluster, clusterwide: bool) -> Value {
    let mut spec = Map::new();
    if clusterwide && dice.has(Feature::NodeSelector) {
        spec.insert("nodeSelector".to_owned(), json!({}));
    } else {
        spec.insert("endpointSelector".to_owned(), subjects(dice, cluster));
    }
    let of_nodes = spec.contains_key("nodeSelector");
    let services = dice.mix.is_about_any(&[Feature::ServiceWithSelector, Feature::ServiceWithoutSelector]);
    let first = services || dice.chance(55);
    for egress in [false, true] {
        if egress != first && !dice.chance(35) {
            // The other direction is left alone, or there and empty, which is the same.
            if dice.chance(5) {
                spec.insert(Section { egress, deny: false }.name().to_owned(), json!([]));
            }
            continue;
        }
        let deny = dice.has(Feature::Deny);
        if !deny || dice.chance(60) {
            let section = Section { egress, deny: false };
            let rules: Vec<Value> =
                (0..dice.some(2)).map(|_| rule(dice, cluster, section, of_nodes)).collect();
            spec.insert(section.name().to_owned(), json!(rules));
        }
        if deny {
            let section = Section { egress, deny: true };
            let rules: Vec<Value> =
                (0..dice.some(2)).map(|_| rule(dice, cluster, section, of_nodes)).collect();
            spec.insert(section.name().to_owned(), json!(rules));
        }
    }
    if dice.has(Feature::EnableDefaultDeny) {
        let mut wanted = Map::new();
        for direction in ["ingress", "egress"] {
            if dice.chance(75) {
                wanted.insert(
                    direction.to_owned(),
                    json!(dice.chance(if dice.mix.is_about(Feature::Deny) { 0 } else { 30 })),
                );
            }
        }
        spec.insert("enableDefaultDeny".to_owned(), Value::Object(wanted));
    }
    Value::Object(spec)
}

fn subjects(dice: &mut Dice, cluster: &Cluster) -> Value {
    if dice.has(Feature::SubjectScope) {
        return match dice.below(3) {
            0 => json!({"matchExpressions": [{"key": "reserved:init", "operator": "DoesNotExist"}]}),
            1 => json!({"matchLabels": {format!("k8s:{POD_NAMESPACE}"): dice.one_of(&cluster.names)}}),
            _ => json!({"matchExpressions": [{"key": POD_NAMESPACE, "operator": "Exists"}]}),
        };
    }
    if dice.chance(if dice.mix.is_focussed() { 75 } else { 45 }) {
        json!({})
    } else {
        selector(dice, cluster)
    }
}

/// A key as it may be written in a selector.
fn key(dice: &mut Dice, key: &str) -> String {
    match dice.among(&[Feature::PrefixK8s, Feature::PrefixAny, Feature::Endpoints]) {
        Feature::PrefixK8s => format!("k8s:{key}"),
        Feature::PrefixAny => format!("any:{key}"),
        _ => key.to_owned(),
    }
}

struct Requirements {
    labels: Map<String, Value>,
    expressions: Vec<Value>,
}

impl Requirements {
    fn add(&mut self, dice: &mut Dice, key: String, value: &str, values: &[&str]) {
        let in_words = dice.mix.is_about_any(OPERATORS);
        if !in_words && dice.chance(45) {
            self.labels.insert(key, json!(value));
        } else {
            self.expressions.push(dice.expression(&key, value, values));
        }
    }

    fn into_value(self) -> Value {
        let mut selector = Map::new();
        if !self.labels.is_empty() {
            selector.insert("matchLabels".to_owned(), Value::Object(self.labels));
        }
        if !self.expressions.is_empty() {
            selector.insert("matchExpressions".to_owned(), json!(self.expressions));
        }
        Value::Object(selector)
    }
}

fn selector(dice: &mut Dice, cluster: &Cluster) -> Value {
    let mut wanted = Requirements { labels: Map::new(), expressions: Vec::new() };
    for _ in 0..dice.some(2) {
        let (plain, value) = dice.label(&cluster.pods);
        let key = key(dice, &plain);
        wanted.add(dice, key, &value, VALUES);
    }
    wanted.into_value()
}

/// A selector as a peer: with all that only means something there.
fn peer_selector(dice: &mut Dice, cluster: &Cluster) -> Value {
    let about_pods = [Feature::PeerScope, Feature::RemotePod, Feature::SharedAddress];
    if dice.chance(if dice.mix.is_about_any(&about_pods) { 50 } else { 12 }) {
        return json!({});
    }
    let mut wanted = Requirements { labels: Map::new(), expressions: Vec::new() };
    if dice.has(Feature::ReservedLabel) {
        let name = *dice.one_of(&["host", "remote-node", "world", "kube-apiserver", "world-ipv4", "init"]);
        if name == "init" || dice.chance(20) {
            wanted.expressions.push(json!({"key": format!("reserved:{name}"), "operator": "DoesNotExist"}));
        } else {
            wanted.labels.insert(format!("reserved:{name}"), json!(""));
        }
        return wanted.into_value();
    }
    if dice.has(Feature::NamespaceKey) {
        let namespace = *dice.one_of(&cluster.names);
        let key = key(dice, POD_NAMESPACE);
        wanted.add(dice, key, namespace, &cluster.names);
    }
    if dice.has(Feature::NamespaceLabels) {
        let (plain, value) = if dice.chance(25) {
            ("kubernetes.io/metadata.name".to_owned(), (*dice.one_of(&cluster.names)).to_owned())
        } else {
            dice.label(&cluster.namespaces)
        };
        let key = key(dice, &format!("{NAMESPACE_LABELS}{plain}"));
        wanted.add(dice, key, &value, VALUES);
    }
    if dice.has(Feature::ServiceAccount) {
        let account = *dice.one_of(&["builder", "default"]);
        let key = key(dice, SERVICE_ACCOUNT);
        wanted.add(dice, key, account, &["builder", "default"]);
    }
    if wanted.labels.is_empty() && wanted.expressions.is_empty() || dice.chance(25) {
        let (plain, value) = dice.label(&cluster.pods);
        let key = key(dice, &plain);
        wanted.add(dice, key, &value, VALUES);
    }
    wanted.into_value()
}

const PEERS: &[Feature] = &[
    Feature::PortsOfAnyone,
    Feature::Endpoints,
    Feature::Cidr,
    Feature::CidrExcept,
    Feature::CidrGroup,
    Feature::EntityAll,
    Feature::EntityWorld,
    Feature::EntityWorldOfFamily,
    Feature::EntityHost,
    Feature::EntityRemoteNode,
    Feature::EntityCluster,
    Feature::EntityApiServer,
    Feature::EntityNobody,
    Feature::ServiceWithSelector,
    Feature::ServiceWithoutSelector,
    Feature::EmptyList,
    Feature::EmptyRule,
];

fn rule(dice: &mut Dice, cluster: &Cluster, section: Section, of_nodes: bool) -> Value {
    let peers = loop {
        let peers = dice.among(PEERS);
        let services = matches!(peers, Feature::ServiceWithSelector | Feature::ServiceWithoutSelector);
        // Services can be destinations alone; asked for at all costs they are not: the loop must end.
        if !services || section.egress {
            break peers;
        }
        if dice.mix.is_about(peers) {
            break Feature::EntityAll;
        }
    };
    let mut rule = Map::new();
    let mut set = |what: &str, value: Value| rule.insert(section.field(what), value);
    match peers {
        Feature::EmptyRule => return json!({}),
        Feature::PortsOfAnyone => {}
        Feature::Endpoints => {
            let count = dice.some(2);
            set("Endpoints", (0..count).map(|_| peer_selector(dice, cluster)).collect());
        }
        Feature::Cidr => {
            let count = dice.some(2);
            let mut list = dice.some_of(NETS, count);
            if dice.chance(15) {
                list.push(*dice.one_of(OUTSIDE));
            }
            set("CIDR", json!(list));
        }
        Feature::CidrExcept => {
            let list: Vec<Value> = (0..dice.some(2))
                .map(|_| {
                    let mut pair = dice.cidr(true);
                    // What is all pods and nodes is nothing to such a rule, except or not.
                    while dice.mix.is_about(Feature::CidrExcept)
                        && (pair.1.is_empty() || pair.0.starts_with("10.1.0."))
                    {
                        pair = dice.cidr(true);
                    }
                    let (cidr, except) = pair;
                    if except.is_empty() {
                        json!({"cidr": cidr})
                    } else {
                        json!({"cidr": cidr, "except": except})
                    }
                })
                .collect();
            set("CIDRSet", json!(list));
        }
        Feature::CidrGroup => {
            set("CIDRSet", json!([cidr_group(dice, cluster)]));
        }
        Feature::EmptyList => {
            let what = *dice.one_of(&["Endpoints", "CIDR", "CIDRSet", "Entities"]);
            set(what, json!([]));
        }
        Feature::ServiceWithSelector | Feature::ServiceWithoutSelector => {
            set("Services", json!([service(dice, cluster, peers == Feature::ServiceWithSelector)]));
        }
        entity => {
            let mut list = vec![entity_name(dice, entity)];
            if dice.chance(20) {
                list.push(*dice.one_of(&["host", "world", "remote-node", "health"]));
            }
            set("Entities", json!(list));
        }
    }
    add_ports(dice, &mut rule, peers == Feature::PortsOfAnyone);
    if dice.has(Feature::NotEnforced) && !section.deny && !of_nodes {
        add_not_enforced(dice, &mut rule, section);
    }
    Value::Object(rule)
}

/// Groups by name or by label, now and then with exceptions.
fn cidr_group(dice: &mut Dice, cluster: &Cluster) -> Value {
    let mut item = if dice.chance(65) {
        json!({"cidrGroupRef": dice.one_of(&["group-0", "group-0", "group-1", "group-missing"])})
    } else {
        let (key, value) = dice.label(&cluster.groups);
        let selector = if dice.chance(50) {
            json!({"matchLabels": {key: value}})
        } else {
            json!({"matchExpressions": [dice.expression(&key, &value, VALUES)]})
        };
        json!({"cidrGroupSelector": selector})
    };
    if dice.chance(25) {
        item["except"] = json!([dice.one_of(NETS)]);
    }
    item
}

fn entity_name(dice: &mut Dice, entity: Feature) -> &'static str {
    match entity {
        Feature::EntityAll => "all",
        Feature::EntityWorld => "world",
        Feature::EntityWorldOfFamily => dice.one_of::<&str>(&["world-ipv4", "world-ipv6"]),
        Feature::EntityHost => "host",
        Feature::EntityRemoteNode => "remote-node",
        Feature::EntityCluster => "cluster",
        Feature::EntityApiServer => "kube-apiserver",
        _ => dice.one_of::<&str>(&["init", "health", "ingress", "unmanaged", "none"]),
    }
}

fn service(dice: &mut Dice, cluster: &Cluster, with_selector: bool) -> Value {
    let wanted = if with_selector { "picked" } else { "bare" };
    let known = cluster.services.iter().find(|service| service["metadata"]["name"] == wanted);
    let namespace = match known {
        Some(service) if dice.chance(85) => {
            service["metadata"]["namespace"].as_str().unwrap_or_default().to_owned()
        }
        _ => (*dice.one_of(&cluster.names)).to_owned(),
    };
    if dice.chance(60) {
        return json!({"k8sService": {"serviceName": wanted, "namespace": namespace}});
    }
    let carriers: Vec<Value> = known.cloned().into_iter().collect();
    let (key, value) = dice.label(&carriers);
    let expressions = [dice.expression(&key, &value, VALUES)];
    let selector = if dice.chance(60) {
        json!({"matchLabels": {key: value}})
    } else {
        json!({"matchExpressions": expressions})
    };
    json!({"k8sServiceSelector": {"selector": selector, "namespace": namespace}})
}

fn port(dice: &mut Dice) -> Value {
    let protocol = if dice.has(Feature::AnyProtocol) {
        *dice.one_of(&["ANY", ""])
    } else if dice.has(Feature::Sctp) {
        "SCTP"
    } else {
        *dice.one_of(&["TCP", "UDP"])
    };
    let mut port = if dice.has(Feature::ZeroPort) {
        json!({"port": "0"})
    } else if dice.has(Feature::NamedPort) {
        json!({"port": dice.one_of(PORT_NAMES)})
    } else {
        let first = *dice.one_of(PORTS);
        let mut port = json!({"port": first.to_string()});
        if dice.has(Feature::EndPort) {
            port["endPort"] = json!(usize::from(first) + dice.below(10));
        }
        port
    };
    if !protocol.is_empty() {
        port["protocol"] = json!(protocol);
    }
    port
}

fn add_ports(dice: &mut Dice, rule: &mut Map<String, Value>, needed: bool) {
    if dice.has(Feature::Icmps) {
        let fields: Vec<Value> = (0..dice.some(2))
            .map(|_| match dice.below(6) {
                0 => json!({"type": 8}),
                1 => json!({"type": "EchoRequest", "family": "IPv4"}),
                2 => json!({"type": 13, "family": "IPv4"}),
                3 => json!({"type": "Timestamp"}),
                4 => json!({"type": 128, "family": "IPv6"}),
                _ => json!({"type": "EchoRequest", "family": "IPv6"}),
            })
            .collect();
        rule.insert("icmps".to_owned(), json!([{"fields": fields}]));
    } else if needed || dice.chance(if dice.mix.is_focussed() { 25 } else { 60 }) {
        let entries: Vec<Value> = (0..dice.some(2))
            .map(|_| {
                let ports: Vec<Value> = (0..dice.some(2)).map(|_| port(dice)).collect();
                json!({"ports": ports})
            })
            .collect();
        rule.insert("toPorts".to_owned(), json!(entries));
    } else if dice.chance(10) {
        rule.insert("toPorts".to_owned(), json!([]));
    }
}

/// Turns a rule into one that asks for more than this product enforces.
fn add_not_enforced(dice: &mut Dice, rule: &mut Map<String, Value>, section: Section) {
    let mut kinds = vec!["http", "authentication"];
    if section.egress {
        kinds.extend(["dns", "fqdn", "names"]);
    }
    let tcp = json!([{"port": dice.one_of(PORTS).to_string(), "protocol": "TCP"}]);
    rule.remove("icmps");
    match *dice.one_of(&kinds) {
        "authentication" => {
            rule.insert("authentication".to_owned(), json!({"mode": "required"}));
        }
        "http" => {
            rule.insert(
                "toPorts".to_owned(),
                json!([{"ports": tcp, "rules": {"http": [{"method": "GET", "path": "/"}]}}]),
            );
        }
        "dns" => {
            let ports = json!([{"port": "53", "protocol": "UDP"}]);
            rule.insert(
                "toPorts".to_owned(),
                json!([{"ports": ports, "rules": {"dns": [{"matchPattern": "*"}]}}]),
            );
        }
        "names" => {
            rule.insert("toPorts".to_owned(), json!([{"ports": tcp, "serverNames": ["one.example"]}]));
        }
        _ => {
            rule.retain(|field, _| field == "toPorts");
            rule.insert("toFQDNs".to_owned(), json!([{"matchName": "one.example"}]));
        }
    }
}
