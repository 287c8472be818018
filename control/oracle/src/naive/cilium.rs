//! CiliumNetworkPolicy v2 and CiliumClusterwideNetworkPolicy: layers 3 and 4.

use super::kubernetes::has_named_port;
use super::labels::{is_reserved, selects, selects_sourced, speaks_of_namespaces};
use super::{Case, Naive, Place, Said};
use crate::feature::Feature;
use crate::inside;
use crate::questions::protocol_number;
use crate::world::{ICMP, ICMPV6, SCTP, TCP, UDP};
use serde_json::Value;

/// A list that is there. `null` is not.
fn list<'a>(object: &'a Value, field: &str) -> Option<&'a Vec<Value>> {
    object[field].as_array()
}

fn items<'a>(object: &'a Value, field: &str) -> impl Iterator<Item = &'a Value> {
    list(object, field).into_iter().flatten()
}

pub(super) fn is_cilium(policy: &Value) -> bool {
    matches!(policy["kind"].as_str(), Some("CiliumNetworkPolicy" | "CiliumClusterwideNetworkPolicy"))
}

/// A policy's namespace; none if it is the whole cluster's.
pub(super) fn namespace_of(policy: &Value) -> Option<&str> {
    let namespace = policy["metadata"]["namespace"].as_str();
    (policy["kind"] != "CiliumClusterwideNetworkPolicy").then(|| namespace.unwrap_or("default"))
}

impl Naive<'_> {
    pub(super) fn cilium(&self, case: &Case<'_>) -> Said {
        let mut said = Said::default();
        for policy in &self.world.objects {
            let namespace = match policy["kind"].as_str() {
                Some("CiliumNetworkPolicy") => {
                    Some(policy["metadata"]["namespace"].as_str().unwrap_or("default"))
                }
                Some("CiliumClusterwideNetworkPolicy") => None,
                _ => continue,
            };
            let specs = std::iter::once(&policy["spec"]).filter(|spec| !spec.is_null());
            for spec in specs.chain(items(policy, "specs")) {
                if self.is_subject(spec, namespace, case.subject) {
                    self.read_spec(spec, namespace, case, &mut said);
                }
            }
        }
        said
    }

    /// Does a policy of this namespace (or of all) select this pod?
    pub(super) fn is_subject(&self, spec: &Value, namespace: Option<&str>, pod: &Value) -> bool {
        let scoped = self.reads(Feature::SubjectScope);
        // A nodeSelector selects nodes, and no pods.
        !spec["endpointSelector"].is_null()
            && namespace.is_none_or(|namespace| !scoped || pod["metadata"]["namespace"] == namespace)
            && selects_sourced(&spec["endpointSelector"], &self.pod_labels(pod))
    }

    fn read_spec(&self, spec: &Value, namespace: Option<&str>, case: &Case<'_>, said: &mut Said) {
        let (allow, deny) = if case.egress { ("egress", "egressDeny") } else { ("ingress", "ingressDeny") };
        let has_section = [allow, deny].into_iter().any(|section| items(spec, section).next().is_some());
        said.isolated |= match &spec["enableDefaultDeny"][allow] {
            Value::Bool(wanted) => *wanted,
            _ => has_section,
        };
        said.allowed |= items(spec, allow).any(|rule| self.speaks_of(rule, namespace, case));
        said.denied |= items(spec, deny).any(|rule| self.speaks_of(rule, namespace, case));
    }

    /// Does a rule match the case? Whether that allows or denies is its section's business.
    pub(super) fn speaks_of(&self, rule: &Value, namespace: Option<&str>, case: &Case<'_>) -> bool {
        if asks_for_more(rule, case.egress) {
            return false;
        }
        let field = |what: &str| format!("{}{what}", if case.egress { "to" } else { "from" });
        let matches = |what: &str, item: &Value| match what {
            "Endpoints" => self.is_endpoint(item, namespace, case),
            "CIDR" => is_outside(case, item.as_str().unwrap_or_default()),
            "CIDRSet" => self.is_in_set(item, case),
            "Entities" => self.is_entity(item.as_str().unwrap_or_default(), case),
            _ => self.is_service(item, case),
        };
        let peers = ["Endpoints", "CIDR", "CIDRSet", "Entities", "Services"];
        let given: Vec<_> = peers.iter().filter_map(|what| Some((what, list(rule, &field(what))?))).collect();
        let limits_ports = items(rule, "toPorts").next().is_some();
        let limits_types = items(rule, "icmps").next().is_some();
        let peer_matches = if given.is_empty() {
            // Anyone, on those ports; and without ports nobody.
            limits_ports || limits_types
        } else {
            // A list that is there and empty names nobody.
            given.iter().any(|(what, list)| list.iter().any(|item| matches(what, item)))
        };
        let service_matches = match (limits_ports, limits_types) {
            (false, false) => true,
            _ => {
                items(rule, "toPorts").flat_map(|entry| items(entry, "ports")).any(|port| is_port(port, case))
                    || items(rule, "icmps")
                        .flat_map(|entry| items(entry, "fields"))
                        .any(|kind| is_type(kind, case))
            }
        };
        peer_matches && service_matches
    }

    fn is_endpoint(&self, selector: &Value, namespace: Option<&str>, case: &Case<'_>) -> bool {
        let labels = || self.labels_at(case.peer, case.peer_address());
        // Who names a reserved label means just what is written.
        if is_reserved(selector) {
            return selects_sourced(selector, &labels());
        }
        // Else endpoints are pods.
        let Some(pod) = case.peer.pod() else {
            return !self.reads(Feature::PodsOnly)
                && (namespace.is_none() || speaks_of_namespaces(selector))
                && selects_sourced(selector, &labels());
        };
        // Of the policy's own namespace, unless the selector speaks of namespaces itself.
        let scoped = self.reads(Feature::PeerScope) && !speaks_of_namespaces(selector);
        namespace.is_none_or(|namespace| !scoped || pod["metadata"]["namespace"] == namespace)
            && selects_sourced(selector, &labels())
    }

    fn is_in_set(&self, item: &Value, case: &Case<'_>) -> bool {
        let excepted =
            || items(item, "except").any(|net| inside(case.peer_address(), net.as_str().unwrap_or_default()));
        if let Some(cidr) = item["cidr"].as_str() {
            return is_outside(case, cidr) && !excepted();
        }
        let is_named = |group: &Value| match item["cidrGroupRef"].as_str() {
            Some(name) => group["metadata"]["name"] == name,
            None => selects(&item["cidrGroupSelector"], &group["metadata"]["labels"]),
        };
        let groups = self.world.of_kind("CiliumCIDRGroup").filter(|group| is_named(group));
        let mut cidrs = groups.flat_map(|group| items(&group["spec"], "externalCIDRs"));
        cidrs.any(|cidr| is_outside(case, cidr.as_str().unwrap_or_default())) && !excepted()
    }

    fn is_entity(&self, entity: &str, case: &Case<'_>) -> bool {
        let outside = case.peer == Place::Outside;
        let api_server = self.is_api_server(case.peer_address());
        match entity {
            "all" => true,
            "world" => outside,
            "world-ipv4" => outside && case.peer_address().is_ipv4(),
            "world-ipv6" => outside && case.peer_address().is_ipv6(),
            "host" => case.peer == Place::Host,
            "remote-node" => case.peer == Place::RemoteNode,
            "cluster" => !outside || api_server,
            "kube-apiserver" => api_server,
            // There are none of them here.
            "init" | "health" | "ingress" | "unmanaged" | "none" => false,
            other => panic!("no entity: {other}"),
        }
    }

    fn is_service(&self, item: &Value, case: &Case<'_>) -> bool {
        let meant = |service: &&Value| {
            let names = |wanted: &Value| {
                wanted.as_str().is_none_or(|name| name.is_empty() || service["metadata"]["namespace"] == name)
            };
            if let Some(reference) = item["k8sService"].as_object() {
                let namespace = reference.get("namespace").unwrap_or(&Value::Null);
                return Some(&service["metadata"]["name"]) == reference.get("serviceName")
                    && names(namespace);
            }
            let wanted = &item["k8sServiceSelector"];
            names(&wanted["namespace"]) && selects(&wanted["selector"], &service["metadata"]["labels"])
        };
        self.world.of_kind("Service").filter(meant).any(|service| {
            let namespace = service["metadata"]["namespace"].as_str().unwrap_or_default();
            let name = service["metadata"]["name"].as_str().unwrap_or_default();
            match service["spec"]["selector"].as_object() {
                // Its backends: the pods it selects.
                Some(selector) if !selector.is_empty() => case.peer.pod().is_some_and(|pod| {
                    let labels = &pod["metadata"]["labels"];
                    pod["metadata"]["namespace"] == namespace
                        && selector.iter().all(|(key, value)| labels.get(key) == Some(value))
                }),
                // Its endpoints, as CIDRs, and CIDRs are never pods or nodes.
                _ => {
                    case.peer == Place::Outside
                        && self.endpoints_of(namespace, name).contains(&case.peer_address())
                }
            }
        })
    }
}

/// A rule that asks for something not enforced allows nothing.
fn asks_for_more(rule: &Value, egress: bool) -> bool {
    let direction = if egress { "to" } else { "from" };
    let fields = ["FQDNs", "Nodes", "Groups"].map(|what| format!("{direction}{what}"));
    let ports = ["serverNames", "listener", "terminatingTLS", "originatingTLS"];
    !rule["authentication"].is_null()
        || fields.iter().any(|field| !rule[field.as_str()].is_null())
        || items(rule, "toPorts").any(|entry| {
            entry["rules"].as_object().is_some_and(|rules| !rules.is_empty())
                || ports.iter().any(|field| !entry[*field].is_null())
        })
}

/// CIDRs of Cilium speak of those only who are neither pods nor nodes.
fn is_outside(case: &Case<'_>, cidr: &str) -> bool {
    case.peer == Place::Outside && inside(case.peer_address(), cidr)
}

fn is_port(port: &Value, case: &Case<'_>) -> bool {
    let protocol_matches = match port["protocol"].as_str() {
        None | Some("" | "ANY") => matches!(case.flow.protocol, TCP | UDP | SCTP),
        Some(name) => protocol_number(name) == case.flow.protocol,
    };
    let wanted = match &port["port"] {
        Value::Number(number) => number.to_string(),
        other => other.as_str().unwrap_or_default().to_lowercase(),
    };
    protocol_matches
        && match wanted.parse::<u16>() {
            Ok(0) => true,
            Ok(first) => {
                let last = port["endPort"].as_u64().unwrap_or(0).max(u64::from(first));
                (u64::from(first)..=last).contains(&u64::from(case.flow.port))
            }
            Err(_) => has_named_port(case.destination, &wanted, case.flow.protocol, case.flow.port),
        }
}

fn is_type(field: &Value, case: &Case<'_>) -> bool {
    let six = field["family"] == "IPv6";
    let number = match &field["type"] {
        Value::Number(number) => number.as_u64(),
        name => name.as_str().and_then(|name| name.parse().ok().or_else(|| type_number(name, six))),
    };
    case.flow.protocol == if six { ICMPV6 } else { ICMP } && number == Some(u64::from(case.flow.port))
}

/// The types by the names Cilium has for them.
fn type_number(name: &str, six: bool) -> Option<u64> {
    const FOUR: &[(&str, u64)] = &[
        ("EchoReply", 0),
        ("DestinationUnreachable", 3),
        ("Redirect", 5),
        ("Echo", 8),
        ("EchoRequest", 8),
        ("RouterAdvertisement", 9),
        ("RouterSelection", 10),
        ("TimeExceeded", 11),
        ("ParameterProblem", 12),
        ("Timestamp", 13),
        ("TimestampReply", 14),
        ("Photuris", 40),
        ("ExtendedEchoRequest", 42),
        ("ExtendedEchoReply", 43),
    ];
    const SIX: &[(&str, u64)] = &[
        ("DestinationUnreachable", 1),
        ("PacketTooBig", 2),
        ("TimeExceeded", 3),
        ("ParameterProblem", 4),
        ("EchoRequest", 128),
        ("EchoReply", 129),
        ("MulticastListenerQuery", 130),
        ("RouterSolicitation", 133),
        ("NeighborSolicitation", 135),
        ("NeighborAdvertisement", 136),
        ("RedirectMessage", 137),
        ("ExtendedEchoRequest", 160),
        ("ExtendedEchoReply", 161),
    ];
    let known = if six { SIX } else { FOUR };
    known.iter().find(|(known, _)| *known == name).map(|(_, number)| *number)
}
