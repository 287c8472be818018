//! The tables and the switch give one answer: random clusters, judged both ways, line for line.
//!
//! `PENSTOCK_SEED=<n>` replays one cluster, `PENSTOCK_CLUSTERS=<n>` asks for more. Needs `penstock-vswitch` beside `penstock`
//! (`cargo build -p penstock-vswitch`).

use penstock_oracle::World;
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::Value;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

const FLOWS: usize = 120;

fn env(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

/// What is printed; an error's text when nothing is.
fn simulate(objects: &Path, flows: &str, through: &str) -> Result<Vec<Value>, String> {
    let mut child = Command::new(env!("CARGO_BIN_EXE_penstock"))
        .args(["policy", "simulate", "--through", through, "--objects"])
        .arg(objects)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let _ = child.stdin.take().unwrap().write_all(flows.as_bytes());
    let output = child.wait_with_output().unwrap();
    match output.status.success() {
        true => {
            let text = String::from_utf8(output.stdout).unwrap();
            Ok(text.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
        }
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

#[test]
fn random_clusters_are_judged_alike_by_the_tables_and_by_frames_through_the_switch() {
    let first = env("PENSTOCK_SEED").unwrap_or_else(rand::random);
    let clusters = env("PENSTOCK_CLUSTERS").unwrap_or(if env("PENSTOCK_SEED").is_some() { 1 } else { 60 });
    let (mut answered, mut denied, mut dropped) = (0, 0, 0);
    for seed in (0..clusters).map(|number| first.wrapping_add(number)) {
        let mut random = StdRng::seed_from_u64(seed);
        let world = World::random(&mut random);
        // Protocols without a name of their own have no frame that opens them.
        let asked = world
            .questions(&mut random, FLOWS)
            .into_iter()
            .filter(|flow| [1, 6, 17, 58, 132].contains(&flow.protocol));
        let flows: String = asked.map(|flow| format!("{}\n", flow.to_json())).collect();
        let dir = tempfile::tempdir().unwrap();
        let objects = dir.path().join("objects.json");
        std::fs::write(&objects, world.text()).unwrap();
        let said = |error: String| panic!("seed {seed}: {error}\n{}", world.show());
        let lookup = simulate(&objects, &flows, "lookup").unwrap_or_else(said);
        let frames = simulate(&objects, &flows, "frames").unwrap_or_else(said);
        assert_eq!(lookup.len(), frames.len(), "seed {seed}");
        for (table, frame) in lookup.iter().zip(&frames) {
            if frame.get("dropped").is_some() {
                dropped += 1;
                continue;
            }
            assert_eq!(table, frame, "PENSTOCK_SEED={seed}\n{}", world.show());
            answered += 1;
            denied += usize::from(table["verdict"] == "deny");
        }
    }
    println!(
        "{clusters} clusters from seed {first}: {answered} answers, {denied} refusals, {dropped} dropped for what no policy says"
    );
    let seen = "clusters that decide nothing, or are not answered, show nothing";
    assert!(
        answered > dropped * 20 && denied * 20 > answered && answered > denied,
        "{seen}: {answered}, {denied}, {dropped}"
    );
}
