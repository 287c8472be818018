//! `penstock policy lint` as it is typed: what it prints, and how it ends.

use serde_json::Value;
use std::process::{Command, Output};

const GOOD: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: web
spec:
  podSelector: {}
  ingress:
  - ports:
    - port: 80
";

fn lint(text: &str, arguments: &[&str]) -> Output {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("policy.yaml");
    std::fs::write(&file, text).unwrap();
    Command::new(env!("CARGO_BIN_EXE_penstock"))
        .args(["policy", "lint"])
        .arg(&file)
        .args(arguments)
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn a_good_file_ends_with_0_and_a_summary() {
    let output = lint(GOOD, &["--strict"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(text(&output.stdout), "0 errors, 0 warnings, 1 object read\n");
    assert_eq!(text(&output.stderr), "");
}

#[test]
fn warnings_end_with_1_only_where_they_count() {
    let warned = format!("{GOOD}  - ports:\n    - port: 80\n");
    let output = lint(&warned, &[]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let stdout = text(&output.stdout);
    assert!(
        stdout
            .contains("policy.yaml:10:5: warning: NetworkPolicy default/web: spec.ingress[1]: has no effect"),
        "{stdout}"
    );
    assert!(stdout.ends_with("0 errors, 1 warning, 1 object read\n"), "{stdout}");
    assert_eq!(lint(&warned, &["--strict"]).status.code(), Some(1));
    // What is no policy is no warning.
    let other = format!("{GOOD}---\napiVersion: v1\nkind: Secret\nmetadata: {{name: s}}\n");
    assert_eq!(lint(&other, &["--strict"]).status.code(), Some(0));
}

#[test]
fn errors_end_with_2_and_name_file_line_object_and_field() {
    let output = lint(&GOOD.replace("ports:", "prts:"), &[]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let stdout = text(&output.stdout);
    assert!(
        stdout.contains(
            "policy.yaml:8:5: error: NetworkPolicy default/web: spec.ingress[0].prts: unknown field"
        ),
        "{stdout}"
    );
    assert_eq!(lint(GOOD, &["/nowhere/at/all"]).status.code(), Some(2));
}

#[test]
fn json_holds_the_same_for_programs() {
    let output = lint(&GOOD.replace("ports:", "prts:"), &["--output", "json"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((answer["errors"].as_u64(), answer["objects"].as_u64()), (Some(1), Some(0)));
    let finding = &answer["findings"][0];
    assert_eq!(finding["severity"], "error");
    assert_eq!(finding["check"], "refused");
    assert_eq!(
        (finding["line"].as_u64(), finding["field"].as_str()),
        (Some(8), Some("spec.ingress[0].prts"))
    );
    let lines = lint(&GOOD.replace("ports:", "prts:"), &["--output", "jsonl"]);
    assert!(text(&lines.stdout).lines().all(|line| serde_json::from_str::<Value>(line).is_ok()));
}
