//! `penstock policy explain` on files: both ends, the rule that decided, and what the nearest rules lack.

use std::process::{Command, Output};

const OBJECTS: &str = "\
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: web, labels: {app: web}}
spec: {containers: []}
status: {phase: Running, podIP: 10.0.0.1}
---
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: db, labels: {app: db}}
spec: {containers: []}
status: {phase: Running, podIP: 10.0.0.2}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: shop, name: to-db}
spec:
  podSelector: {matchLabels: {app: db}}
  ingress:
    - from: [{podSelector: {matchLabels: {app: web}}}]
      ports: [{port: 5432}, {port: 53, protocol: UDP}]
    - from: [{ipBlock: {cidr: 192.0.2.0/24}}]
    - from: [{podSelector: {matchLabels: {app: nobody}}}]
";

fn explain(arguments: &[&str]) -> Output {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("objects.yaml");
    std::fs::write(&file, OBJECTS).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_penstock"));
    command.args(["policy", "explain"]).args(arguments).arg("--objects").arg(&file);
    command.output().unwrap()
}

fn said(arguments: &[&str]) -> String {
    let output = explain(arguments);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn what_passes_is_explained_by_the_rule_that_lets_it() {
    let text = said(&["shop/web", "shop/db", "5432/TCP"]);
    assert!(text.starts_with("shop/web (10.0.0.1) to shop/db (10.0.0.2), 5432/TCP: allow\n"), "{text}");
    assert!(text.contains("egress of shop/web: open\n  No policy selects it in this direction.\n"), "{text}");
    assert!(text.contains("ingress of shop/db: allow\n  Selected by NetworkPolicy shop/to-db.\n"), "{text}");
    assert!(text.contains("Allowed by NetworkPolicy shop/to-db spec.ingress[0].\n"), "{text}");
}

#[test]
fn what_is_refused_is_explained_by_the_nearest_rules_and_what_each_lacks() {
    let text = said(&["shop/web", "shop/db", "5433/TCP"]);
    for line in [
        "ingress of shop/db: deny",
        "shop/web is known as k8s:app=web, k8s:io.kubernetes.pod.namespace=shop.",
        "NetworkPolicy shop/to-db spec.ingress[0] is for another port: it allows 5432/TCP",
        "NetworkPolicy shop/to-db spec.ingress[1] is for another source: it allows [cidr:192.0.2.0/24",
        "NetworkPolicy shop/to-db spec.ingress[2] allows nothing",
    ] {
        assert!(text.contains(line), "{line:?} is not in\n{text}");
    }
    assert!(!text.contains("builtin"), "{text}");
    let text = said(&["shop/web", "shop/db", "5432/SCTP"]);
    assert!(text.contains("spec.ingress[0] is for another protocol: it allows 5432/TCP"), "{text}");
}

#[test]
fn an_end_that_is_no_pod_has_no_policy() {
    let text = said(&["192.0.2.1", "10.0.0.2", "80/TCP"]);
    assert!(text.starts_with("192.0.2.1 to 10.0.0.2 (shop/db), 80/TCP: allow\n"), "{text}");
    assert!(text.contains("egress of 192.0.2.1: open\n  No pod, so no policy selects it.\n"), "{text}");
}

#[test]
fn programs_get_the_same_as_json() {
    let output = explain(&["shop/web", "shop/db", "5433/TCP", "--output", "json"]);
    let value: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(value["answer"]["verdict"], "deny");
    let nearest = value["ingress"]["nearest"].as_array().unwrap();
    let near =
        nearest.iter().find(|near| near["rule"] == "NetworkPolicy shop/to-db spec.ingress[0]").unwrap();
    assert_eq!(near["lacks"], serde_json::json!(["another port: it allows 5432/TCP, 53/UDP"]));
}

#[test]
fn an_end_that_is_not_there_ends_it_with_2() {
    let output = explain(&["shop/no", "shop/db", "80/TCP"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("shop/no"), "{output:?}");
}
