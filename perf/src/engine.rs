//! `penstock-perf engine`: the pipeline from memory, without a kernel, a NIC or another process in it.
//!
//! What a worker does between receiving and sending, on one core: parse, source check, flow cache, connection tracking, policy,
//! rewriting. Every case is measured once in each round, so that a disturbance meets all of them alike; medians count. The
//! memory ports alone, which copy each frame in, are measured beside it and are part of every figure.

mod measure;

use crate::figures::{Bound, Document, Figure, Output, Ratio, Spread, Verdict};
use crate::placement::{self, on_cpu};
use crate::progress::Progress;
use anyhow::Result;
pub(crate) use measure::{Bench, Kind, bare};

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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Case {
    pub(crate) kind: Kind,
    /// Of new flows: as many are opened in one measurement, and none is known when it begins.
    pub(crate) flows: usize,
    /// Of the policy of each end; 0 is no policy.
    pub(crate) rules: usize,
}

impl Case {
    /// Says of a figure what it is of.
    pub(crate) fn mark(self, figure: Figure) -> Figure {
        figure.at("frames", self.kind.words()).at("flows", self.flows).at("rules", self.rules)
    }

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

/// A case, and what was measured of it.
struct Row {
    case: Case,
    /// Million frames a second.
    mpps: Spread,
    /// Nanoseconds per frame by stage, in the order of the pipeline.
    stages: Vec<(String, f64)>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<bool> {
    let cpu = placement::memory_cpu();
    let mut document = Document::new("engine");
    document.placement = placement::from_memory(cpu);
    document.method = format!(
        "{} rounds, cases in turns, {} frames of {} bytes each, copied in and let go where they leave; connection tracking on",
        arguments.rounds,
        arguments.frames,
        measure::FRAME_LEN
    );
    let (rows, bare) = on_cpu(cpu, || measured(arguments))?;
    document.figures = figures(&rows, bare);
    (document.ratios, document.verdicts) = ratios(&rows, arguments);
    document.print(arguments.output)?;
    Ok(document.is_reached())
}

/// Every case of the arguments, round by round, and the memory ports with nothing between them.
fn measured(arguments: &Arguments) -> Result<(Vec<Row>, Spread)> {
    let cases = cases(arguments);
    let rounds = arguments.rounds.max(1);
    let stages = usize::from(arguments.stages);
    let mut progress = Progress::of("engine", cases.len() * (rounds + 1 + stages));
    let mut benches = Vec::new();
    for case in &cases {
        progress.step(&format!("opening flows: {}", words(*case)))?;
        let mut bench = case.prepare()?;
        // Once for nothing: memory is touched, and what grows has grown.
        bench.measure(arguments.frames)?;
        benches.push((*case, bench, Vec::new()));
    }
    let mut bare = Vec::new();
    for _ in 0..rounds {
        bare.push(measure::bare(FEW_FLOWS, arguments.frames)?);
        for (case, bench, rates) in &mut benches {
            progress.step(&words(*case))?;
            rates.push(bench.measure(arguments.frames)?);
        }
    }
    let row = |(case, mut bench, rates): (Case, Bench, Vec<f64>)| {
        let mut stages = Vec::new();
        if arguments.stages {
            progress.step(&format!("by stage: {}", words(case)))?;
            stages = bench.stages(arguments.frames)?;
        }
        Ok(Row { case, mpps: Spread::of(rates), stages })
    };
    Ok((benches.into_iter().map(row).collect::<Result<_>>()?, Spread::of(bare)))
}

fn figures(rows: &[Row], bare: Spread) -> Vec<Figure> {
    let mut figures = Vec::new();
    for Row { case, mpps, .. } in rows {
        let note = format!("{:.0} ns a frame", 1e3 / mpps.median);
        figures.push(case.mark(Figure::of(FROM_MEMORY, "Mpps", mpps.samples.clone()).note(note)));
    }
    let note = format!("the memory ports alone, {:.0} ns a frame", 1e3 / bare.median);
    figures.push(
        Figure::of(FROM_MEMORY, "Mpps", bare.samples).at("frames", "bare").at("flows", FEW_FLOWS).note(note),
    );
    for Row { case, stages, .. } in rows {
        let stage =
            |(stage, nanos): &(String, f64)| case.mark(Figure::one("stage", "ns", *nanos)).at("stage", stage);
        figures.extend(stages.iter().map(stage));
    }
    figures
}

/// What figures of frames from memory are called, here and beside peers.
pub(crate) const FROM_MEMORY: &str = "from memory";

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

fn ratios(rows: &[Row], arguments: &Arguments) -> (Vec<Ratio>, Vec<Verdict>) {
    let median = |case: Case| rows.iter().find(|row| row.case == case).map(|row| row.mpps.median);
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
    let (mut ratios, mut verdicts) = (Vec::new(), Vec::new());
    for (what, one, other, at_least) in wanted {
        let Some((value, to)) = median(one).zip(median(other)) else { continue };
        let value = value / to;
        let (of, to) = (words(one), words(other));
        ratios.push(Ratio { what: what.to_owned(), of, to, value, known: None });
        verdicts.extend(at_least.map(|least| Verdict::of(what, value, Bound::AtLeast(least))));
    }
    (ratios, verdicts)
}

fn words(case: Case) -> String {
    format!("{}, {} flows, {} rules", case.kind.words(), case.flows, case.rules)
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
        let (rows, bare) = measured(&arguments).unwrap();
        assert!(bare.median > 0.0);
        for kind in [Kind::Hit, Kind::Miss, Kind::New] {
            let case = Case { kind, flows: 10_000, rules: 1_000 };
            let row = rows.iter().find(|row| row.case == case).unwrap();
            assert!(row.mpps.median > 0.0 && row.mpps.median.is_finite(), "{kind:?}");
            assert!(!row.stages.is_empty());
        }
        let (ratios, verdicts) = ratios(&rows, &arguments);
        let judged = "10,000 rules beside none, hits of 1,000 flows";
        assert!(ratios.iter().any(|ratio| ratio.what == judged) && verdicts[0].what == judged);
    }
}
