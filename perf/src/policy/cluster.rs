//! A large cluster, as text: what the control plane of one node has to make sense of.

use serde_json::{Value, json};
use std::net::Ipv4Addr;

/// Deployments of a namespace; labels come from these.
const APPS: usize = 20;

/// Everything in it, in no order that matters.
pub(super) fn objects(pods: usize, policies: usize, namespaces: usize) -> Vec<Value> {
    let mut objects: Vec<Value> = (0..namespaces).map(namespace).collect();
    objects.extend((0..pods).map(|n| pod(n, namespaces, "a")));
    objects.extend((0..policies).map(|n| policy(n, namespaces)));
    objects
}

fn namespace(n: usize) -> Value {
    let name = format!("ns{n}");
    let labels = json!({"kubernetes.io/metadata.name": name, "team": format!("team{}", n % 10)});
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
}

/// `version`: a label that can be changed.
pub(super) fn pod(n: usize, namespaces: usize, version: &str) -> Value {
    let app = format!("app{}", n / namespaces % APPS);
    let labels = json!({"app": app, "version": version, "pod-template-hash": format!("{:08x}", n % 977)});
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"namespace": format!("ns{}", n % namespaces), "name": format!("pod{n}"), "labels": labels},
        "spec": {
            "nodeName": "node",
            "containers": [{"name": "main", "ports": [{"name": "http", "containerPort": 8000 + n % 10}]}]
        },
        "status": {"podIP": address(n).to_string(), "phase": "Running"},
    })
}

pub(super) fn address(n: usize) -> Ipv4Addr {
    Ipv4Addr::from(0x0a80_0000 + 1 + n as u32)
}

/// Isolates one deployment both ways and lets in another, a team, a block, and a named port; some look at the version.
fn policy(n: usize, namespaces: usize) -> Value {
    let app = |shift: usize| format!("app{}", (n / namespaces + shift) % APPS);
    let other = match n % 4 {
        0 => json!({"podSelector": {"matchLabels": {"app": app(1), "version": "b"}}}),
        _ => json!({"podSelector": {"matchLabels": {"app": app(1)}}}),
    };
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"namespace": format!("ns{}", n % namespaces), "name": format!("policy{n}")},
        "spec": {
            "podSelector": {"matchLabels": {"app": app(0)}},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [
                {"from": [other], "ports": [{"port": "http"}, {"port": 5000 + n % 500, "endPort": 6000}]},
                {"from": [{"namespaceSelector": {"matchLabels": {"team": format!("team{}", n % 10)}}}], "ports": [{"port": 9100}]},
                {"from": [{"ipBlock": {"cidr": format!("192.168.{}.0/24", n % 256), "except": [format!("192.168.{}.0/28", n % 256)]}}]},
            ],
            "egress": [
                {"to": [{"podSelector": {}}]},
                {"to": [{"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": app(3)}}}], "ports": [{"port": 53, "protocol": "UDP"}]},
            ],
        },
    })
}
