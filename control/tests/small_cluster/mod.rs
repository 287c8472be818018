//! A cluster of three pods and a node, written as text, and what its first node's compiler makes of it.

// Each test program uses some of this.
#![allow(dead_code)]

use penstock_api::Artefact;
use penstock_api::reference::{Question, judge_flow};
use penstock_control::compile::Compiler;
use penstock_control::load::load_text;
use penstock_control::objects::{Kind, Object, ObjectKey};
use std::path::Path;

/// The spec of a NetworkPolicy.
pub(crate) const DENY_ALL: &str = "{podSelector: {}, policyTypes: [Ingress, Egress]}";

pub(crate) const WEB: &str = "10.1.0.1";
pub(crate) const DB: &str = "10.1.0.2";
pub(crate) const OTHER: &str = "10.1.0.3";
pub(crate) const OUTSIDE: &str = "192.0.2.1";
pub(crate) const HOST: &str = "10.9.0.1";
pub(crate) const REMOTE_NODE: &str = "10.9.0.2";
pub(crate) const TCP: u8 = 6;
pub(crate) const ICMP: u8 = 1;

pub(crate) fn objects(text: &str) -> Vec<Object> {
    let report = load_text(Path::new("test.yaml"), text);
    assert_eq!(report.errors, [], "{text}");
    report.objects.into_iter().map(|loaded| loaded.object).collect()
}

pub(crate) fn object(kind: &str, version: &str, name: &str, rest: &str) -> String {
    let metadata = match name.split_once('/') {
        Some((namespace, name)) => format!("name: {name}, namespace: {namespace}"),
        None => format!("name: {name}"),
    };
    format!("---\napiVersion: {version}\nkind: {kind}\nmetadata: {{{metadata}}}\n{rest}\n")
}

pub(crate) fn pod(name: &str, labels: &str, ip: &str) -> String {
    object(
        "Pod",
        "v1",
        name,
        &format!("spec: {{containers: [{{name: c}}]}}\nstatus: {{phase: Running, podIP: {ip}}}"),
    )
    .replace("metadata: {", &format!("metadata: {{labels: {{{labels}}}, "))
}

pub(crate) fn knp(name: &str, spec: &str) -> String {
    object("NetworkPolicy", "networking.k8s.io/v1", name, &format!("spec: {spec}"))
}

pub(crate) fn cnp(name: &str, spec: &str) -> String {
    object("CiliumNetworkPolicy", "cilium.io/v2", name, &format!("spec: {spec}"))
}

pub(crate) fn ccnp(name: &str, spec: &str) -> String {
    object("CiliumClusterwideNetworkPolicy", "cilium.io/v2", name, &format!("spec: {spec}"))
}

pub(crate) fn namespace(name: &str, labels: &str, phase: &str) -> String {
    object("Namespace", "v1", name, &format!("status: {{phase: {phase}}}"))
        .replace("metadata: {", &format!("metadata: {{labels: {{{labels}}}, "))
}

pub(crate) fn key(kind: Kind, name: &str) -> ObjectKey {
    let (namespace, name) = name.split_once('/').unwrap_or(("", name));
    ObjectKey { kind, namespace: namespace.to_owned(), name: name.to_owned() }
}

/// A cluster whose every change is compiled with a memory and without.
pub(crate) struct Cluster(pub(crate) Compiler);

impl Cluster {
    pub(crate) fn new(text: &str) -> Self {
        let mut compiler = Compiler::new();
        compiler.set_host_addresses([HOST.parse().unwrap()]);
        compiler.reset(objects(text));
        compiler.attach_all_by_status();
        Cluster(compiler)
    }

    /// a/web, a/db, b/other, and a node that is not this one.
    pub(crate) fn usual(policies: &str) -> Self {
        let node = object(
            "Node",
            "v1",
            "far",
            &format!("status: {{addresses: [{{type: InternalIP, address: {REMOTE_NODE}}}]}}"),
        );
        Cluster::new(
            &(pod("a/web", "app: web", WEB)
                + &pod("a/db", "app: db", DB)
                + &pod("b/other", "app: web", OTHER)
                + &node
                + policies),
        )
    }

    pub(crate) fn apply(&mut self, text: &str) {
        objects(text).into_iter().for_each(|object| self.0.apply(object));
    }

    pub(crate) fn artefact(&self) -> Artefact {
        let artefact = self.0.artefact();
        artefact.validate().unwrap();
        assert_eq!(artefact, self.0.artefact_afresh());
        artefact
    }

    pub(crate) fn asks(&self, from: &str, to: &str, protocol: u8, port: u16) -> bool {
        let question = Question { protocol, port, established: false };
        judge_flow(&self.artefact(), from.parse().unwrap(), to.parse().unwrap(), question).is_allowed()
    }

    pub(crate) fn connects(&self, from: &str, to: &str) -> bool {
        self.asks(from, to, TCP, 80)
    }
}
