//! A sample of others' policy cases between real pods, over AF_XDP: real handshakes and datagrams, or their absence.
//!
//! The cases live outside the project; see `control/cli/tests/conformance`. Needs root.

use penstock_lab::Outcome::{Reached, TimedOut};
use penstock_lab::{Lab, LabOptions, Outcome, Pod};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A machine that compiles beside us is slow; what is allowed gets this long.
const LONG: Duration = Duration::from_secs(5);
const CASES: usize = 5;
const PORT: u16 = 80;

fn corpus() -> PathBuf {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/policy-corpus");
    std::env::var_os("PENSTOCK_CORPUS").map_or_else(beside, PathBuf::from)
}

/// Single-step cases about labels and ports: pods here have addresses and ports of their own.
fn sample(cases: &str) -> Vec<Value> {
    let cases = cases.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let fits = |case: &Value| {
        let text = case["steps"].to_string();
        let steps = case["steps"].as_array().unwrap();
        let creates = |action: &Value| action.get("createPolicy").is_some();
        steps.len() == 1
            && steps[0]["actions"].as_array().unwrap().iter().all(creates)
            && !["ipBlock", "serve-"].iter().any(|other| text.contains(other))
            && ["E", "I"].iter().all(|cell| steps[0]["expect"]["TCP/80"].to_string().contains(cell))
    };
    let fitting: Vec<Value> = cases.filter(fits).collect();
    let step = (fitting.len() / CASES).max(1);
    fitting.into_iter().step_by(step).take(CASES).collect()
}

fn probe(from: &Pod, to: &Pod, protocol: &str, timeout: Duration) -> Outcome {
    match protocol {
        "TCP" => from.connect_within(to.v4(), PORT, timeout),
        _ => from.udp_echo(to.v4(), PORT, 100, timeout),
    }
}

/// What differs from one truth table.
fn differences(pods: &[Pod], order: &[&str], table: &Value, protocol: &str) -> Vec<String> {
    let pod = |name: &str| pods.iter().find(|pod| pod.name() == name).unwrap();
    let row = |from: &str| {
        let mut differences = Vec::new();
        let cells = table[from].as_str().unwrap().chars();
        for (to, cell) in order.iter().zip(cells).filter(|(_, cell)| !"#-".contains(*cell)) {
            let timeout = if cell == '.' { LONG } else { Duration::from_millis(300) };
            let found = probe(pod(from), pod(to), protocol, timeout);
            if found != if cell == '.' { Reached } else { TimedOut } {
                differences.push(format!("{protocol} {from} to {to}: {found}, where the table has {cell:?}"));
            }
        }
        differences
    };
    std::thread::scope(|scope| {
        let rows: Vec<_> = order.iter().map(|from| scope.spawn(move || row(from))).collect();
        rows.into_iter().flat_map(|row| row.join().unwrap()).collect()
    })
}

#[test]
#[ignore = "'make conformance' runs it, where the corpus is at hand"]
fn a_sample_of_the_cyclonus_cases_holds_between_real_pods() {
    let folder = corpus().join("cyclonus-derived");
    if !folder.is_dir() {
        eprintln!("conformance between pods: NOT RUN: there is no {}", folder.display());
        return;
    }
    let cases = sample(&std::fs::read_to_string(folder.join("cases.jsonl")).unwrap());
    assert_eq!(cases.len(), CASES);
    let lab = Lab::with("conf", LabOptions { workers: Some(2), ..LabOptions::default() });
    let mut pods = Vec::new();
    for namespace in ["x", "y", "z"] {
        lab.namespace(namespace, &[("ns", namespace)]);
        for name in ["a", "b", "c"] {
            let pod = lab.pod(namespace, name, &[("pod", name)]);
            pod.listen_tcp(PORT);
            pod.listen_udp(PORT);
            pods.push(pod);
        }
    }
    let mut wrong = Vec::new();
    let mut probes = 0;
    for (number, case) in cases.iter().enumerate() {
        let step = &case["steps"][0];
        let policies = step["actions"].as_array().unwrap().iter().map(|action| &action["createPolicy"]);
        let text: Vec<String> = policies.map(|policy| format!("---\n{policy}\n")).collect();
        lab.apply("case", &text.concat());
        let order: Vec<&str> = step["order"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
        // UDP costs as much again and says little more: once is enough.
        for protocol in if number == 0 { ["TCP", "UDP"].as_slice() } else { &["TCP"] } {
            let table = &step["expect"][format!("{protocol}/{PORT}")];
            let differences = differences(&pods, &order, table, protocol);
            wrong.extend(
                differences.into_iter().map(|d| format!("case {} {}: {d}", case["id"], case["desc"])),
            );
            probes += order.len() * (order.len() - 1);
        }
        lab.remove("case");
    }
    let ids: Vec<String> = cases.iter().map(|case| case["id"].to_string()).collect();
    println!(
        "between real pods over AF_XDP: cases {}: {probes} probes, {} wrong",
        ids.join(", "),
        wrong.len()
    );
    assert!(wrong.is_empty(), "{wrong:#?}");
    lab.assert_frames_conserved();
}
