//! NetworkPolicy v1, as the Kubernetes documentation has it.

use super::labels::{holds, selects};
use super::{Case, Naive, Said};
use crate::feature::Feature;
use crate::inside;
use crate::questions::protocol_number;
use serde_json::Value;

impl Naive<'_> {
    /// Isolated as soon as one policy of the pod's namespace selects it for this direction; allowed what any rule of any of
    /// them allows.
    pub(super) fn kubernetes(&self, case: &Case<'_>) -> Said {
        let (policy_type, rules_field) =
            if case.egress { ("Egress", "egress") } else { ("Ingress", "ingress") };
        let mut said = Said::default();
        for policy in self.world.of_kind("NetworkPolicy") {
            let spec = &policy["spec"];
            let rules = spec[rules_field].as_array().cloned().unwrap_or_default();
            let in_force = match spec["policyTypes"].as_array() {
                Some(types) if !types.is_empty() => types.iter().any(|t| t == policy_type),
                // Ingress always, egress only if there are egress rules.
                _ => !case.egress || !rules.is_empty(),
            };
            if !in_force
                || policy["metadata"]["namespace"] != case.namespace
                || !selects(&spec["podSelector"], &case.subject["metadata"]["labels"])
            {
                continue;
            }
            said.isolated = true;
            said.allowed |= rules.iter().any(|rule| self.is_kubernetes_rule(rule, case));
        }
        said
    }

    /// Any of the peers on any of the ports, where a list that is empty or missing is no limit.
    pub(super) fn is_kubernetes_rule(&self, rule: &Value, case: &Case<'_>) -> bool {
        let peers = rule[if case.egress { "to" } else { "from" }].as_array().cloned().unwrap_or_default();
        let ports = rule["ports"].as_array().cloned().unwrap_or_default();
        (peers.is_empty() || peers.iter().any(|peer| self.is_kubernetes_peer(peer, case)))
            && (ports.is_empty() || ports.iter().any(|port| is_kubernetes_port(port, case)))
    }

    fn is_kubernetes_peer(&self, peer: &Value, case: &Case<'_>) -> bool {
        let address = case.peer_address();
        // Addresses are addresses: pods' and nodes' as well.
        if let Some(block) = peer["ipBlock"].as_object() {
            let net = |value: &Value| inside(address, value.as_str().unwrap_or_default());
            let excepted =
                block.get("except").and_then(Value::as_array).is_some_and(|list| list.iter().any(net));
            return net(&block["cidr"]) && !excepted;
        }
        let Some(pod) = case.peer.pod() else {
            return !self.reads(Feature::PodsOnly)
                && !peer["namespaceSelector"].is_null()
                && holds(&peer["namespaceSelector"], |_| Vec::new());
        };
        let namespace = pod["metadata"]["namespace"].as_str().unwrap_or_default();
        let namespace_matches = if peer["namespaceSelector"].is_null() {
            namespace == case.namespace
        } else {
            let labels = self.namespace_labels(namespace);
            holds(&peer["namespaceSelector"], |wanted| {
                labels.iter().filter(|(key, _)| key == wanted).map(|(_, value)| value.clone()).collect()
            })
        };
        namespace_matches
            && (peer["podSelector"].is_null() || selects(&peer["podSelector"], &pod["metadata"]["labels"]))
    }
}

fn is_kubernetes_port(rule: &Value, case: &Case<'_>) -> bool {
    if protocol_number(rule["protocol"].as_str().unwrap_or("TCP")) != case.flow.protocol {
        return false;
    }
    match &rule["port"] {
        Value::Null => true,
        Value::String(name) => has_named_port(case.destination, name, case.flow.protocol, case.flow.port),
        first => {
            let first = first.as_u64().unwrap_or_else(|| panic!("not a port: {first}"));
            let last = rule["endPort"].as_u64().unwrap_or(first);
            (first..=last).contains(&u64::from(case.flow.port))
        }
    }
}

/// Has the destination a container port of this name, and is it this one?
pub(super) fn has_named_port(destination: Option<&Value>, name: &str, protocol: u8, port: u16) -> bool {
    let containers = destination.and_then(|pod| pod["spec"]["containers"].as_array());
    containers
        .into_iter()
        .flatten()
        .flat_map(|container| container["ports"].as_array().into_iter().flatten())
        .any(|candidate| {
            candidate["name"] == name
                && protocol_number(candidate["protocol"].as_str().unwrap_or("TCP")) == protocol
                && candidate["containerPort"] == u64::from(port)
        })
}
