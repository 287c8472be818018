//! Cilium's policies against the loader: what each field becomes, and one refusal for each thing that can be wrong.

mod noticed;
mod read;
mod refused;

use ipnet::IpNet;
use penstock_control::load::{FileReport, load_text};
use penstock_control::objects::{
    CidrRule, CiliumPeerRule, CiliumPeers, CiliumPolicy, CiliumPortMatch, Entity, FqdnSelector, IcmpType,
    IpFamily, LabelSource, Object, Operator, Protocol, ServiceSelector, Subject,
};
use std::path::Path;

fn load(text: &str) -> FileReport {
    load_text(Path::new("policy.yaml"), text)
}

fn indented(text: &str, by: usize) -> String {
    text.lines().map(|line| format!("{}{line}\n", " ".repeat(by))).collect()
}

/// An object of this kind; the text stands below `metadata`.
fn object(kind: &str, text: &str) -> String {
    format!("apiVersion: cilium.io/v2\nkind: {kind}\nmetadata:\n  name: p\n{text}\n")
}

/// A policy whose spec is this text.
fn policy(spec: &str) -> String {
    object("CiliumNetworkPolicy", &format!("spec:\n{}", indented(spec, 2)))
}

fn clusterwide(spec: &str) -> String {
    object("CiliumClusterwideNetworkPolicy", &format!("spec:\n{}", indented(spec, 2)))
}

/// A spec that selects all pods and has one item in one of its lists.
fn with_item(section: &str, item: &str) -> String {
    format!("endpointSelector: {{}}\n{section}:\n- {}", indented(item, 2).trim_start())
}

#[track_caller]
fn good(text: &str) -> CiliumPolicy {
    let report = load(text);
    assert_eq!(report.errors, [], "{text}");
    match report.objects.into_iter().next().unwrap().object {
        Object::CiliumNetworkPolicy(policy) | Object::CiliumClusterwideNetworkPolicy(policy) => policy,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn good_item(section: &str, item: &str) -> CiliumPeerRule {
    let rule = good(&policy(&with_item(section, item))).rules.remove(0);
    let list = match section {
        "ingress" => rule.ingress,
        "ingressDeny" => rule.ingress_deny,
        "egress" => rule.egress,
        _ => rule.egress_deny,
    };
    list.unwrap().remove(0)
}

/// Refused, with this field and these words in one error that has a line.
#[track_caller]
fn refused(text: &str, field: &str, words: &str) {
    let report = load(text);
    assert!(report.objects.is_empty(), "accepted:\n{text}");
    let field = Some(field).filter(|field| !field.is_empty());
    let found = report
        .errors
        .iter()
        .any(|error| error.field.as_deref() == field && error.message.contains(words) && error.line > 0);
    assert!(found, "no error at {field:?} saying {words:?}:\n{:#?}\n{text}", report.errors);
}

#[track_caller]
fn refused_item(section: &str, item: &str, field: &str, words: &str) {
    let path = match field {
        "" => format!("spec.{section}[0]"),
        field => format!("spec.{section}[0].{field}"),
    };
    refused(&policy(&with_item(section, item)), &path, words);
}

fn nets(texts: &[&str]) -> Vec<IpNet> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}
