//! Random NetworkPolicies.

use super::cluster::Cluster;
use super::{Dice, OPERATORS, PORT_NAMES, PORTS, VALUES};
use crate::feature::Feature;
use serde_json::{Map, Value, json};

pub(crate) fn selector(dice: &mut Dice, carriers: &[Value]) -> Value {
    if dice.chance(if dice.mix.is_about_any(&[Feature::RemotePod, Feature::SharedAddress]) { 50 } else { 15 })
    {
        return json!({});
    }
    let mut selector = Map::new();
    let in_words = dice.mix.is_about_any(OPERATORS);
    if !in_words && dice.chance(55) {
        let (key, value) = dice.label(carriers);
        selector.insert("matchLabels".to_owned(), json!({key: value}));
    }
    if in_words || dice.chance(50) {
        let count = dice.some(2);
        let expressions: Vec<Value> = (0..count)
            .map(|_| {
                let (key, value) = dice.label(carriers);
                dice.expression(&key, &value, VALUES)
            })
            .collect();
        selector.insert("matchExpressions".to_owned(), json!(expressions));
    }
    Value::Object(selector)
}

fn namespace_selector(dice: &mut Dice, cluster: &Cluster) -> Value {
    let about_names = if dice.mix.is_about_any(OPERATORS) {
        0
    } else if dice.mix.is_about(Feature::NamespaceMissing) {
        70
    } else {
        30
    };
    if dice.chance(about_names) {
        return json!({"matchLabels": {"kubernetes.io/metadata.name": dice.one_of(&cluster.names)}});
    }
    selector(dice, &cluster.namespaces)
}

fn peer(dice: &mut Dice, cluster: &Cluster) -> Value {
    match dice.among(&[
        Feature::PodPeer,
        Feature::NamespacePeer,
        Feature::PodInNamespacePeer,
        Feature::IpBlock,
    ]) {
        Feature::PodPeer => json!({"podSelector": selector(dice, &cluster.pods)}),
        Feature::NamespacePeer => {
            let mut peer = json!({"namespaceSelector": namespace_selector(dice, cluster)});
            if dice.chance(10) {
                peer["podSelector"] = Value::Null;
            }
            peer
        }
        Feature::PodInNamespacePeer => json!({
            "podSelector": selector(dice, &cluster.pods), "namespaceSelector": namespace_selector(dice, cluster),
        }),
        _ => {
            let excepts = dice.has(Feature::IpBlockExcept);
            let mut pair = dice.cidr(excepts);
            while dice.mix.is_about(Feature::IpBlockExcept) && pair.1.is_empty() {
                pair = dice.cidr(true);
            }
            let (cidr, except) = pair;
            let mut block = json!({"cidr": cidr});
            if !except.is_empty() {
                block["except"] = json!(except);
            }
            json!({"ipBlock": block})
        }
    }
}

fn port(dice: &mut Dice) -> Value {
    let mut port = Map::new();
    if dice.has(Feature::Sctp) {
        port.insert("protocol".to_owned(), json!("SCTP"));
    } else if dice.chance(60) {
        port.insert("protocol".to_owned(), json!(dice.one_of(&["TCP", "UDP"])));
    }
    if dice.has(Feature::ProtocolOnly) {
        return Value::Object(port);
    }
    if dice.has(Feature::NamedPort) {
        port.insert("port".to_owned(), json!(dice.one_of(PORT_NAMES)));
        return Value::Object(port);
    }
    let first = *dice.one_of(PORTS);
    port.insert("port".to_owned(), json!(first));
    if dice.has(Feature::EndPort) {
        port.insert("endPort".to_owned(), json!(usize::from(first) + dice.below(10)));
    }
    Value::Object(port)
}

fn rules(dice: &mut Dice, cluster: &Cluster, peers_field: &str) -> Value {
    let count = if dice.has(Feature::Isolation) { 0 } else { dice.some(2) };
    let rules: Vec<Value> = (0..count)
        .map(|_| {
            let mut rule = Map::new();
            if !dice.has(Feature::AnyPeer) {
                let peers: Vec<Value> = (0..dice.some(2)).map(|_| peer(dice, cluster)).collect();
                rule.insert(peers_field.to_owned(), json!(peers));
            } else if dice.chance(50) {
                rule.insert(peers_field.to_owned(), json!([]));
            }
            if !dice.has(Feature::AnyPort) {
                let ports: Vec<Value> = (0..dice.some(2)).map(|_| port(dice)).collect();
                rule.insert("ports".to_owned(), json!(ports));
            } else if dice.chance(50) {
                rule.insert("ports".to_owned(), json!([]));
            }
            Value::Object(rule)
        })
        .collect();
    json!(rules)
}

pub(crate) fn policy(dice: &mut Dice, cluster: &Cluster, number: usize) -> Value {
    let subjects = match dice.below(10) {
        0..4 => json!({}),
        4 => Value::Null,
        5..8 if dice.mix.is_focussed() => json!({}),
        _ => selector(dice, &cluster.pods),
    };
    let mut spec = json!({"podSelector": subjects});
    if dice.chance(80) {
        spec["ingress"] = rules(dice, cluster, "from");
    }
    if dice.chance(60) {
        spec["egress"] = rules(dice, cluster, "to");
    }
    if dice.has(Feature::PolicyTypes) {
        spec["policyTypes"] =
            dice.one_of(&[json!(["Ingress"]), json!(["Egress"]), json!(["Ingress", "Egress"])]).clone();
    }
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": format!("policy-{number}"), "namespace": cluster.populated(dice)},
        "spec": spec,
    })
}
