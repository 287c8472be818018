//! `penstock policy simulate` as it is typed: lines in, lines out, and nothing when something is wrong.

use serde_json::{Value, json};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

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
  policyTypes: [Ingress]
  ingress:
    - from: [{podSelector: {matchLabels: {app: web}}}]
      ports: [{port: 5432}]
";

fn simulate(objects: &str, arguments: &[&str], flows: &str) -> Output {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("objects.yaml");
    std::fs::write(&file, objects).unwrap();
    run(&file, arguments, flows)
}

fn run(objects: &Path, arguments: &[&str], flows: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_penstock"))
        .args(["policy", "simulate", "--objects"])
        .arg(objects)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It may have ended without reading.
    let _ = child.stdin.take().unwrap().write_all(flows.as_bytes());
    child.wait_with_output().unwrap()
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

fn lines(output: &Output) -> Vec<Value> {
    assert_eq!(output.status.code(), Some(0), "{}", stderr(output));
    stdout(output).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn every_flow_is_answered_in_its_order_with_what_it_said_before_the_answer() {
    let flows = r#"{"id":7,"from":"shop/web","to":"shop/db","protocol":"TCP","port":5432}
{"from":"192.0.2.1","to":"shop/db","protocol":"TCP","port":5432,"expect":"deny"}

{"from":"shop/db","to":"shop/web","protocol":"ICMP"}
"#;
    let output = simulate(OBJECTS, &["--flows", "-"], flows);
    let first = r#"{"id":7,"from":"shop/web","to":"shop/db","protocol":"TCP","port":5432,"verdict":"allow","egress":{"verdict":"open","policies":[],"rule":null},"ingress":{"verdict":"allow","policies":["NetworkPolicy shop/to-db"],"rule":"NetworkPolicy shop/to-db spec.ingress[0]"}}"#;
    assert_eq!(stdout(&output).lines().next(), Some(first));
    let lines = lines(&output);
    assert_eq!(lines.len(), 3);
    assert_eq!(
        lines[1],
        json!({"from": "192.0.2.1", "to": "shop/db", "protocol": "TCP", "port": 5432, "expect": "deny", "verdict": "deny",
            "egress": {"verdict": "open", "policies": [], "rule": null},
            "ingress": {"verdict": "deny", "policies": ["NetworkPolicy shop/to-db"], "rule": null}})
    );
    assert_eq!(lines[2]["verdict"], "allow");
    assert_eq!(lines[2].get("port"), None);
}

#[test]
fn an_object_that_is_refused_ends_it_with_2_and_nothing_is_answered() {
    let wrong = OBJECTS.replace("podSelector: {matchLabels: {app: db}}", "podSelectors: {}");
    let output = simulate(&wrong, &[], r#"{"from":"shop/web","to":"shop/db","protocol":"TCP","port":1}"#);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(stdout(&output), "");
    assert!(stderr(&output).contains("objects.yaml:1") && stderr(&output).contains("to-db"), "{output:?}");
}

#[test]
fn a_line_that_is_no_flow_ends_it_with_2_and_names_the_line() {
    let good = r#"{"from":"shop/web","to":"shop/db","protocol":"TCP","port":1}"#;
    for bad in
        [r#"{"from":"shop/web"}"#, "{", r#"{"from":"shop/no","to":"shop/db","protocol":"TCP","port":1}"#]
    {
        let output = simulate(OBJECTS, &[], &format!("{good}\n\n{bad}\n{good}\n"));
        assert_eq!(output.status.code(), Some(2), "{bad}");
        assert_eq!(stdout(&output), "", "{bad}");
        let error = stderr(&output);
        assert!(error.contains(":3") || error.contains("line 3"), "{bad}: {error}");
    }
}

#[test]
fn a_field_that_nothing_enforces_is_named_aloud_and_in_the_answers_it_touches() {
    let policy = "\
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {namespace: shop, name: requests}
spec:
  endpointSelector: {matchLabels: {app: web}}
  ingress:
    - fromEndpoints: [{}]
      toPorts: [{ports: [{port: '80', protocol: TCP}], rules: {http: [{method: GET}]}}]
";
    let flows = r#"{"from":"shop/db","to":"shop/web","protocol":"TCP","port":80}
{"from":"shop/web","to":"shop/db","protocol":"TCP","port":5432}
"#;
    let output = simulate(&format!("{OBJECTS}{policy}"), &[], flows);
    let gap = "CiliumNetworkPolicy shop/requests spec.ingress[0].toPorts[0].rules.http";
    let said: Vec<&str> = stderr(&output).lines().filter(|line| line.contains("rules.http")).collect();
    assert_eq!(said.len(), 1, "it is said once: {output:?}");
    assert!(said[0].starts_with(&format!("not enforced: {gap} (")), "{output:?}");
    assert!(said[0].contains("objects.yaml:30:"), "and where it stands: {output:?}");
    let lines = lines(&output);
    assert_eq!((&lines[0]["verdict"], &lines[0]["notEnforced"]), (&json!("deny"), &json!([gap])));
    assert_eq!((&lines[1]["verdict"], lines[1].get("notEnforced")), (&json!("allow"), None));
}

#[test]
fn answers_are_those_of_a_node_with_the_options_asked_for() {
    let node = "---\napiVersion: v1\nkind: Node\nmetadata: {name: n}\nstatus: {addresses: [{type: InternalIP, address: 10.9.0.1}]}\n";
    let placed = OBJECTS.replace("spec: {containers: []}", "spec: {containers: [], nodeName: n}");
    let closed = "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {namespace: shop, name: closed}\n\
                  spec: {podSelector: {matchLabels: {app: web}}, policyTypes: [Egress]}\n";
    let flows = r#"{"from":"shop/db","to":"shop/web","protocol":"TCP","port":80}
{"from":"shop/web","to":"shop/db","protocol":"TCP","port":1}
{"from":"shop/web","to":"10.9.0.1","protocol":"TCP","port":80}
"#;
    for (arguments, wanted) in [
        (&[][..], ["allow", "deny", "deny"]),
        (&["--policy-enforcement", "always"], ["deny", "deny", "deny"]),
        (&["--policy-enforcement", "never"], ["allow", "allow", "allow"]),
        (&["--pod-to-host", "allow"], ["allow", "deny", "allow"]),
    ] {
        let output = simulate(&format!("{placed}{node}{closed}"), arguments, flows);
        let verdicts: Vec<Value> = lines(&output).iter().map(|line| line["verdict"].clone()).collect();
        assert_eq!(verdicts, wanted, "{arguments:?} {output:?}");
    }
}

#[test]
fn a_matrix_asks_every_pod_about_every_pod() {
    let output = simulate(OBJECTS, &["--matrix", "80/TCP"], "");
    let lines = lines(&output);
    let asked: Vec<_> = lines.iter().map(|line| (line["from"].as_str(), line["to"].as_str())).collect();
    let (db, web) = (Some("shop/db"), Some("shop/web"));
    assert_eq!(asked, [(db, db), (db, web), (web, db), (web, web)]);
    let verdicts: Vec<_> = lines.iter().map(|line| line["verdict"].as_str().unwrap()).collect();
    assert_eq!(verdicts, ["allow", "allow", "deny", "allow"]);

    let table = simulate(OBJECTS, &["--matrix", "80/TCP", "--output", "table"], "");
    let text = stdout(&table);
    let row = |name: &str| {
        text.lines().find(|l| l.starts_with(name)).unwrap().split_whitespace().collect::<Vec<_>>()
    };
    assert_eq!(row("shop/web"), ["shop/web", "I", "#"], "{text}");
    assert_eq!(row("shop/db"), ["shop/db", "#", "."], "{text}");
}

#[test]
fn a_table_of_flows_is_for_people() {
    let flow = r#"{"from":"shop/web","to":"shop/db","protocol":"UDP","port":53}"#;
    let output = simulate(OBJECTS, &["--output", "table"], flow);
    assert!(stdout(&output).contains("53/UDP"), "{output:?}");
    assert!(stdout(&output).contains("deny: NetworkPolicy shop/to-db"), "{output:?}");
}

#[test]
fn no_objects_are_a_wrong_command_line() {
    let output = Command::new(env!("CARGO_BIN_EXE_penstock")).args(["policy", "simulate"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
}
