//! `networking.k8s.io/v1` NetworkPolicy.

use super::decode::{Cursor, Faults, Fields};
use super::meta::{self, Scope, checked};
use super::tree::Value;
use super::validate;
use crate::objects::{IpBlock, NetworkPolicy, Object, Peer, PolicyPort, PolicyRule, PortMatch, Protocol};

pub(crate) fn decode(object: &Fields<'_>, faults: &mut Faults) -> Option<Object> {
    let meta = meta::decode(object, Scope::Namespaced, validate::dns_subdomain, faults);
    let at = object.require("spec", "a mapping with podSelector", faults)?;
    let spec = at.fields(&["podSelector", "ingress", "egress", "policyTypes"], faults)?;
    at.notice_nulls(faults);

    let pod_selector = match spec.get_or_null("podSelector") {
        Some(at) => meta::selector(&at, faults),
        None => {
            spec.require("podSelector", "a selector; {} selects every pod of the namespace", faults);
            None
        }
    };
    let ingress = rules(&spec, "ingress", "from", faults);
    let egress = rules(&spec, "egress", "to", faults);
    let types = policy_types(&spec, faults);
    let (isolates_ingress, isolates_egress) = types.unwrap_or((true, !egress.is_empty()));
    for (isolates, direction, type_name, rules) in
        [(isolates_ingress, "ingress", "Ingress", &ingress), (isolates_egress, "egress", "Egress", &egress)]
    {
        if let Some(at) = spec.get(direction)
            && !isolates
            && !rules.is_empty()
        {
            faults.notice(&at, format_args!("has no effect: policyTypes does not list {type_name}"));
        }
    }
    let meta = meta?;
    Some(Object::NetworkPolicy(NetworkPolicy {
        namespace: meta.namespace,
        name: meta.name,
        pod_selector: pod_selector?,
        isolates_ingress,
        isolates_egress,
        ingress,
        egress,
    }))
}

/// (Ingress, Egress), or `None` where the defaults hold: absent and empty are the same to the API.
fn policy_types(spec: &Fields<'_>, faults: &mut Faults) -> Option<(bool, bool)> {
    let items = spec.get("policyTypes")?.items(faults);
    let (mut ingress, mut egress) = (false, false);
    for item in &items {
        match item.string(faults) {
            Some("Ingress") => ingress = true,
            Some("Egress") => egress = true,
            Some(other) => {
                faults.error(item, format_args!("{other:?} is no policy type; use Ingress or Egress"));
            }
            None => {}
        }
    }
    (!items.is_empty()).then_some((ingress, egress))
}

fn rules(spec: &Fields<'_>, direction: &str, peers_field: &str, faults: &mut Faults) -> Vec<PolicyRule> {
    let Some(at) = spec.get(direction) else { return Vec::new() };
    at.items(faults).iter().filter_map(|item| rule(item, peers_field, faults)).collect()
}

fn rule(at: &Cursor<'_>, peers_field: &str, faults: &mut Faults) -> Option<PolicyRule> {
    let fields = at.fields(&[peers_field, "ports"], faults)?;
    let mut rule = PolicyRule::default();
    if let Some(at) = fields.get(peers_field) {
        rule.peers = at.items(faults).iter().filter_map(|item| peer(item, faults)).collect();
    }
    if let Some(at) = fields.get("ports") {
        rule.ports = at.items(faults).iter().filter_map(|item| port(item, faults)).collect();
    }
    Some(rule)
}

fn peer(at: &Cursor<'_>, faults: &mut Faults) -> Option<Peer> {
    let errors_before = faults.errors.len();
    let fields = at.fields(&["podSelector", "namespaceSelector", "ipBlock"], faults)?;
    if faults.errors.len() > errors_before {
        return None;
    }
    let pods = fields.get("podSelector");
    let namespaces = fields.get("namespaceSelector");
    match fields.get("ipBlock") {
        Some(block) if pods.is_some() || namespaces.is_some() => {
            faults.error(
                &block,
                "cannot stand beside podSelector or namespaceSelector; make two peers of them",
            );
            None
        }
        Some(block) => ip_block(&block, faults).map(Peer::IpBlock),
        None if pods.is_none() && namespaces.is_none() => {
            faults.error(
                at,
                "this peer has nothing set; use podSelector, namespaceSelector or ipBlock ({} as a selector selects all)",
            );
            None
        }
        None => {
            let pods = pods.map(|at| meta::selector(&at, faults));
            let namespaces = namespaces.map(|at| meta::selector(&at, faults));
            // A selector that could not be read must not look like one that is not there.
            if pods == Some(None) || namespaces == Some(None) {
                return None;
            }
            Some(Peer::Pods { pods: pods.flatten(), namespaces: namespaces.flatten() })
        }
    }
}

fn ip_block(at: &Cursor<'_>, faults: &mut Faults) -> Option<IpBlock> {
    let fields = at.fields(&["cidr", "except"], faults)?;
    let cidr =
        fields.require("cidr", "a CIDR like 10.0.0.0/8", faults).and_then(|at| meta::cidr(&at, faults));
    let mut except = Vec::new();
    if let Some(list) = fields.get("except") {
        for item in list.items(faults) {
            let Some(net) = meta::cidr(&item, faults) else { continue };
            match cidr {
                Some(cidr) if net == cidr => {
                    faults.error(&item, format_args!("{net} excepts all of {cidr}; remove the peer instead"));
                }
                Some(cidr) if !cidr.contains(&net) => {
                    faults.error(
                        &item,
                        format_args!("{net} is not inside {cidr}; an except only takes from its own cidr"),
                    );
                }
                _ => except.push(net),
            }
        }
    }
    except.sort();
    except.dedup();
    Some(IpBlock { cidr: cidr?, except })
}

fn port(at: &Cursor<'_>, faults: &mut Faults) -> Option<PolicyPort> {
    let fields = at.fields(&["protocol", "port", "endPort"], faults)?;
    let protocol = protocol(&fields, faults);
    let port = fields.get("port");
    let end = fields.get("endPort");
    let matched = match (port, end) {
        (None, None) => PortMatch::All,
        (None, Some(end)) => {
            faults.error(&end, "needs port, the first of the range");
            return None;
        }
        (Some(port), end) if matches!(port.node.value, Value::String(_)) => {
            let name = checked(&port, validate::port_name, faults)?;
            if let Some(end) = end {
                faults.error(&end, format_args!("needs a numeric port; {name:?} is a name"));
                return None;
            }
            PortMatch::Named(name)
        }
        (Some(port), end) => {
            let first = port.port(faults)?;
            let last = match &end {
                Some(end) => end.port(faults)?,
                None => first,
            };
            if let Some(end) = end
                && last < first
            {
                faults.error(&end, format_args!("{last} is below port {first}"));
                return None;
            }
            PortMatch::Range { first, last }
        }
    };
    Some(PolicyPort { protocol: protocol?, port: matched })
}

/// TCP where it is not set; `None` after an error.
pub(crate) fn protocol(fields: &Fields<'_>, faults: &mut Faults) -> Option<Protocol> {
    let Some(at) = fields.get("protocol") else { return Some(Protocol::Tcp) };
    match at.string(faults)? {
        "TCP" => Some(Protocol::Tcp),
        "UDP" => Some(Protocol::Udp),
        "SCTP" => Some(Protocol::Sctp),
        other => {
            faults.error(&at, format_args!("{other:?} is no protocol; use TCP, UDP or SCTP"));
            None
        }
    }
}
