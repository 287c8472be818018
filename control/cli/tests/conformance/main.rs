//! Conformance: cases that others wrote, put to `penstock policy simulate` as they would be typed.
//!
//! The cases live outside the project: in the folder `PENSTOCK_CORPUS` names, or in `../shared/policy-corpus` beside the
//! repository. Each is answered twice, from the tables (`simulate`) and by frames through the whole switch (`--through
//! frames`), and both must say what the case says, end by end. `make conformance` runs this; it prints what was counted, and
//! fails on any mismatch.

mod case;
mod cyclonus;
mod ends;
mod examples;
mod recipes;
mod seeds;

use case::Tally;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Set by `make conformance`: other test runs do not wait for this.
const WANTED: &str = "PENSTOCK_CONFORMANCE";

fn corpus() -> PathBuf {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/policy-corpus");
    std::env::var_os("PENSTOCK_CORPUS").map_or_else(beside, PathBuf::from)
}

fn main() -> ExitCode {
    if std::env::var_os(WANTED).is_none() {
        println!("conformance: skipped; 'make conformance' runs it");
        return ExitCode::SUCCESS;
    }
    let corpus = corpus();
    if !corpus.is_dir() {
        eprintln!(
            "conformance: NOT RUN: there is no corpus at {}; put one there, or name its folder in PENSTOCK_CORPUS",
            corpus.display()
        );
        return ExitCode::SUCCESS;
    }
    let tallies: Vec<Tally> = vec![
        cyclonus::run(&corpus),
        seeds::checks(&corpus),
        seeds::cilium(&corpus),
        seeds::refused(&corpus),
        recipes::meaning(&corpus),
        recipes::fragments(&corpus),
        examples::run(&corpus),
    ];
    println!(
        "\n{:<34} {:>6} {:>10} {:>10} {:>10} {:>10}",
        "cases", "files", "questions", "wrong", "as frames", "wrong"
    );
    for tally in &tallies {
        println!(
            "{:<34} {:>6} {:>10} {:>10} {:>10} {:>10}",
            tally.name,
            tally.cases,
            tally.lookup.asked,
            tally.lookup.wrong.len(),
            tally.frames.asked,
            tally.frames.wrong.len()
        );
    }
    let wrong: Vec<String> = tallies.iter().flat_map(Tally::mismatches).collect();
    for line in wrong.iter().take(40) {
        println!("MISMATCH {line}");
    }
    for note in tallies.iter().flat_map(|tally| &tally.notes) {
        println!("note: {note}");
    }
    match wrong.len() {
        0 => ExitCode::SUCCESS,
        wrong => {
            println!("{wrong} mismatches");
            ExitCode::FAILURE
        }
    }
}
