//! The program itself: environment and stdin in, one JSON document and an exit status out. Needs no root.

use serde_json::{Value, json};
use std::io::Write;
use std::process::{Command, Stdio};

/// Runs the plugin; whether it succeeded, and what it printed.
fn plugin(variables: &[(&str, &str)], stdin: &str) -> (bool, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_penstock-cni"))
        .env_clear()
        .envs(variables.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(stdin.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    (output.status.success(), String::from_utf8(output.stdout).unwrap())
}

fn json_of((success, stdout): (bool, String)) -> (bool, Value) {
    assert_eq!(stdout.matches('\n').count(), 1, "one line: {stdout:?}");
    (success, serde_json::from_str(&stdout).unwrap())
}

const CONFIG: &str = r#"{"cniVersion":"1.0.0","name":"pods","type":"penstock-cni","instance":"no-such-one"}"#;

#[test]
fn version_lists_the_versions_and_repeats_the_asked_one() {
    let asked = json_of(plugin(&[("CNI_COMMAND", "VERSION")], r#"{"cniVersion":"0.4.0"}"#));
    assert_eq!(
        asked,
        (true, json!({"cniVersion": "0.4.0", "supportedVersions": ["0.3.1", "0.4.0", "1.0.0"]}))
    );
    assert_eq!(json_of(plugin(&[("CNI_COMMAND", "VERSION")], "")).1["cniVersion"], "1.0.0");
}

#[test]
fn every_error_is_one_json_document_with_code_and_message_and_a_failing_status() {
    let add =
        [("CNI_COMMAND", "ADD"), ("CNI_CONTAINERID", "c1"), ("CNI_IFNAME", "eth0"), ("CNI_NETNS", "/none")];
    for (variables, stdin, code, words) in [
        (&[][..], CONFIG, 4, "CNI_COMMAND is not set"),
        (&[("CNI_COMMAND", "STATUS")], CONFIG, 4, "known are ADD, DEL, CHECK and VERSION"),
        (&add, "", 6, "stdin is empty"),
        (&add, "{\"cniVersion\": \"1.0.0\",\n nonsense", 6, "line 2"),
        (&add, r#"{"name":"pods"}"#, 1, "no cniVersion"),
        (&add, r#"{"cniVersion":"2.0.0","name":"pods"}"#, 1, "2.0.0"),
        (&add, r#"{"cniVersion":"0.3.1","name":"pods","type":"penstock-cni","colour":"red"}"#, 2, "colour"),
        (&add, CONFIG, 4, "K8S_POD_NAMESPACE and K8S_POD_NAME"),
        (&add[..1], CONFIG, 4, "CNI_CONTAINERID is not set"),
    ] {
        let (success, error) = json_of(plugin(variables, stdin));
        assert!(!success, "{words}");
        assert_eq!(error["code"], code, "{error}");
        assert!(error["msg"].as_str().unwrap().contains(words), "{words}: {error}");
    }
}

#[test]
fn an_error_is_of_the_version_that_was_spoken() {
    let config = r#"{"cniVersion":"0.3.1","name":"pods","type":"penstock-cni","colour":"red"}"#;
    assert_eq!(json_of(plugin(&[("CNI_COMMAND", "ADD")], config)).1["cniVersion"], "0.3.1");
}

#[test]
fn a_del_of_nothing_on_a_node_without_anything_succeeds_and_says_nothing() {
    let variables = [("CNI_COMMAND", "DEL"), ("CNI_CONTAINERID", "c1"), ("CNI_IFNAME", "eth0")];
    assert_eq!(plugin(&variables, CONFIG), (true, String::new()));
}
