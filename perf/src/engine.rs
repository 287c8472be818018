//! `penstock-perf engine`: the pipeline from memory, without a kernel, a NIC or another process in it.
//!
//! What a worker does between receiving and sending, on one core: parse, source check, flow cache, connection tracking, policy,
//! rewriting. Every case is measured once in each round, so that a disturbance meets all of them alike; medians count. The
//! memory ports alone, which copy each frame in, are measured beside it and are part of every figure.

mod measure;

use anyhow::Result;
use comfy_table::{ContentArrangement, Table, presets};
pub(crate) use measure::{Bench, Kind, bare};
use serde::Serialize;
use std::io::{IsTerminal, Write};

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Arguments {
    /// How many flows the frames belong to, one measurement for each.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 1_000, 10_000, 100_000, 1_000_000], value_name = "N,...")]
    flows: Vec<usize>,
    /// Rules of each of the two policies, everywhere but where the number of rules is the question.
    #[arg(long, default_value_t = 1_000, value_name = "N", value_parser = rules)]
    rules: usize,
    /// Frames of one measurement.
    #[arg(long, default_value_t = 2_000_000, value_name = "N")]
    frames: u64,
    /// The median of this many counts.
    #[arg(long, default_value_t = 5, value_name = "N")]
    rounds: usize,
    /// Also: what each stage of the pipeline costs, measured apart from the rates.
    #[arg(long)]
    stages: bool,
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    Table,
    Json,
}

/// The policies open every flow's destination port, or there are none.
fn rules(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Ok(0),
        Ok(rules @ 1_000..=20_000) => Ok(rules),
        _ => Err("0, or a number from 1000 to 20000".to_owned()),
    }
}

/// Flows of the measurements in which the number of rules is the question.
const FEW_FLOWS: usize = 1_000;
const MANY_RULES: usize = 10_000;

/// One thing to be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Case {
    pub(crate) kind: Kind,
    /// Of new flows: as many are opened in one measurement, and none is known when it begins.
    pub(crate) flows: usize,
    /// Of the policy of each end; 0 is no policy.
    pub(crate) rules: usize,
}

impl Case {
    /// The pipeline, with its flows.
    pub(crate) fn prepare(self) -> Result<Bench> {
        Bench::new(crate::policy::pair(self.rules)?, pods(), self.kind, self.flows)
    }
}

/// The frames of so many flows, one of each, in the order the pipeline gets them.
pub(crate) fn frames(flows: usize) -> impl Iterator<Item = [u8; measure::FRAME_LEN]> {
    let [from, to] = pods();
    measure::shuffled(flows).into_iter().map(move |flow| measure::frame(flow, from, to))
}

fn pods() -> [[u8; 4]; 2] {
    [0, 1].map(|n| match crate::policy::pair_address(n) {
        std::net::IpAddr::V4(address) => address.octets(),
        std::net::IpAddr::V6(_) => unreachable!("pairs are IPv4"),
    })
}

/// Million frames a second.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Rate {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
    pub(crate) rounds: Vec<f64>,
}

impl Rate {
    fn of(rounds: Vec<f64>) -> Rate {
        let mut sorted = rounds.clone();
        sorted.sort_by(f64::total_cmp);
        let at = |n: usize| sorted.get(n).copied().unwrap_or(f64::NAN);
        Rate { median: at(sorted.len() / 2), min: at(0), max: at(sorted.len().saturating_sub(1)), rounds }
    }
}

#[derive(Debug, Serialize)]
pub(crate) struct Row {
    #[serde(flatten)]
    pub(crate) case: Case,
    pub(crate) mpps: Rate,
    pub(crate) ns_per_frame: f64,
    /// By stage, in the order of the pipeline.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) stages_ns: Vec<(String, f64)>,
}

/// One figure beside another of the same run.
#[derive(Debug, Serialize)]
pub(crate) struct Ratio {
    pub(crate) what: String,
    pub(crate) value: f64,
    pub(crate) at_least: Option<f64>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// Of a frame without the wire's checksum.
    pub(crate) frame_bytes: usize,
    pub(crate) rows: Vec<Row>,
    /// The memory ports with nothing between them.
    pub(crate) bare: Rate,
    pub(crate) ratios: Vec<Ratio>,
}

impl Report {
    pub(crate) fn median(&self, case: Case) -> Option<f64> {
        self.rows.iter().find(|row| row.case == case).map(|row| row.mpps.median)
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<bool> {
    let report = report(arguments)?;
    match arguments.output {
        Output::Json => println!("{}", serde_json::to_string_pretty(&report)?),
        Output::Table => print(&report),
    }
    let mut is_reached = true;
    for ratio in &report.ratios {
        if ratio.at_least.is_some_and(|least| ratio.value < least) {
            eprintln!("engine: not reached: {}", ratio.what);
            is_reached = false;
        }
    }
    Ok(is_reached)
}

/// Every case of the arguments, round by round.
pub(crate) fn report(arguments: &Arguments) -> Result<Report> {
    let cases = cases(arguments);
    let mut progress = Progress::new(cases.len() * (arguments.rounds.max(1) + 1));
    let mut benches = Vec::new();
    for case in &cases {
        progress.step(&format!("opening flows: {}", words(*case)));
        let mut bench = case.prepare()?;
        // Once for nothing: memory is touched, and what grows has grown.
        bench.measure(arguments.frames)?;
        benches.push((*case, bench, Vec::new()));
    }
    let mut bare = Vec::new();
    for _ in 0..arguments.rounds.max(1) {
        bare.push(measure::bare(FEW_FLOWS, arguments.frames)?);
        for (case, bench, rates) in &mut benches {
            progress.step(&words(*case));
            rates.push(bench.measure(arguments.frames)?);
        }
    }
    progress.end();
    let rows = benches
        .into_iter()
        .map(|(case, mut bench, rates)| {
            let mpps = Rate::of(rates);
            let stages_ns = if arguments.stages { bench.stages(arguments.frames)? } else { Vec::new() };
            Ok(Row { case, ns_per_frame: 1e3 / mpps.median, mpps, stages_ns })
        })
        .collect::<Result<_>>()?;
    let mut report =
        Report { frame_bytes: measure::FRAME_LEN, rows, bare: Rate::of(bare), ratios: Vec::new() };
    report.ratios = ratios(&report, arguments);
    Ok(report)
}

fn cases(arguments: &Arguments) -> Vec<Case> {
    let rules = arguments.rules;
    let mut cases = Vec::new();
    for kind in [Kind::Hit, Kind::Miss, Kind::New] {
        cases.extend(arguments.flows.iter().map(|&flows| Case { kind, flows, rules }));
    }
    for rules in [0, MANY_RULES] {
        cases.push(Case { kind: Kind::Hit, flows: FEW_FLOWS, rules });
        cases.push(Case { kind: Kind::New, flows: NEW_FLOWS, rules });
    }
    // A few new flows are over before the clock has ticked.
    cases.retain(|case| case.kind != Kind::New || case.flows >= NEW_FLOWS_MIN);
    // All misses of one flow are hits.
    cases.retain(|case| case.kind != Kind::Miss || case.flows >= FEW_FLOWS);
    let mut seen = Vec::new();
    cases.retain(|case| {
        !seen.contains(case) && {
            seen.push(*case);
            true
        }
    });
    cases
}

const NEW_FLOWS: usize = 100_000;
const NEW_FLOWS_MIN: usize = 10_000;

fn ratios(report: &Report, arguments: &Arguments) -> Vec<Ratio> {
    let hit = |flows| Case { kind: Kind::Hit, flows, rules: arguments.rules };
    let ruled = |kind, flows, rules| Case { kind, flows, rules };
    let wanted = [
        ("1,000,000 flows beside 1,000, hits", hit(1_000_000), hit(1_000), Some(0.5)),
        (
            "10,000 rules beside none, hits of 1,000 flows",
            ruled(Kind::Hit, FEW_FLOWS, MANY_RULES),
            ruled(Kind::Hit, FEW_FLOWS, 0),
            Some(0.95),
        ),
        (
            "10,000 rules beside none, every frame a new flow",
            ruled(Kind::New, NEW_FLOWS, MANY_RULES),
            ruled(Kind::New, NEW_FLOWS, 0),
            None,
        ),
        (
            "10,000 rules beside 1,000, every frame a new flow",
            ruled(Kind::New, NEW_FLOWS, MANY_RULES),
            ruled(Kind::New, NEW_FLOWS, 1_000),
            None,
        ),
    ];
    wanted
        .into_iter()
        .filter_map(|(what, one, other, at_least)| {
            let value = report.median(one)? / report.median(other)?;
            Some(Ratio { what: what.to_owned(), value, at_least })
        })
        .collect()
}

fn words(case: Case) -> String {
    let what = match case.kind {
        Kind::Hit => "hits",
        Kind::Miss => "misses of known flows",
        Kind::New => "new flows",
    };
    format!("{what}, {} flows, {} rules", case.flows, case.rules)
}

fn print(report: &Report) {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(["what", "flows", "rules", "Mpps", "from - to", "ns/frame"]);
    for Row { case, mpps, ns_per_frame, .. } in &report.rows {
        let what = match case.kind {
            Kind::Hit => "hit",
            Kind::Miss => "miss, flow known",
            Kind::New => "new flow",
        };
        table.add_row([
            what.to_owned(),
            case.flows.to_string(),
            case.rules.to_string(),
            format!("{:.2}", mpps.median),
            format!("{:.2} - {:.2}", mpps.min, mpps.max),
            format!("{ns_per_frame:.0}"),
        ]);
    }
    let bare = &report.bare;
    table.add_row([
        "memory ports alone".to_owned(),
        FEW_FLOWS.to_string(),
        String::new(),
        format!("{:.2}", bare.median),
        format!("{:.2} - {:.2}", bare.min, bare.max),
        format!("{:.0}", 1e3 / bare.median),
    ]);
    println!("{table}\n");
    let mut stages = Table::new();
    stages.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    if let Some(first) = report.rows.iter().find(|row| !row.stages_ns.is_empty()) {
        let names = first.stages_ns.iter().map(|(name, _)| name.clone());
        stages.set_header(std::iter::once("ns per frame".to_owned()).chain(names));
        for row in &report.rows {
            let times = row.stages_ns.iter().map(|(_, nanos)| format!("{nanos:.1}"));
            stages.add_row(std::iter::once(words(row.case)).chain(times));
        }
        println!("{stages}\n");
    }
    for ratio in &report.ratios {
        let target = ratio.at_least.map(|least| format!(" (at least {least})")).unwrap_or_default();
        println!("{}: {:.2}{target}", ratio.what, ratio.value);
    }
}

/// One line on a terminal, overwritten.
struct Progress {
    steps: usize,
    done: usize,
    is_shown: bool,
}

impl Progress {
    fn new(steps: usize) -> Progress {
        Progress { steps, done: 0, is_shown: std::io::stderr().is_terminal() }
    }

    fn step(&mut self, what: &str) {
        self.done += 1;
        if self.is_shown {
            let filled = 24 * self.done / self.steps.max(1);
            eprint!("\r\x1b[K[{:<24}] {}/{} {what}", "=".repeat(filled), self.done, self.steps);
            let _ = std::io::stderr().flush();
        }
    }

    fn end(&self) {
        if self.is_shown {
            eprint!("\r\x1b[K");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_run_measures_every_kind_and_checks_itself() {
        let arguments = Arguments {
            flows: vec![1, 2_000, 10_000],
            rules: 1_000,
            frames: 4_000,
            rounds: 1,
            stages: true,
            output: Output::Json,
        };
        let report = report(&arguments).unwrap();
        for kind in [Kind::Hit, Kind::Miss, Kind::New] {
            let rate = report.median(Case { kind, flows: 10_000, rules: 1_000 }).unwrap();
            assert!(rate > 0.0 && rate.is_finite(), "{kind:?}: {rate}");
        }
        assert!(report.ratios.iter().any(|ratio| ratio.what.starts_with("10,000 rules beside none")));
    }
}
