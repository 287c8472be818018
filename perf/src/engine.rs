//! `penstock-perf engine`: the pipeline from memory, without a kernel, a NIC or another process in it.
//!
//! What a worker does between receiving and sending, on one core: parse, source check, flow cache, connection tracking, policy,
//! rewriting. Every case is measured once in each round, so that a disturbance meets all of them alike; medians count. Numbers
//! of rules take turns on one and the same pipeline, and figures are compared round by round. The memory ports alone, which copy
//! each frame in, are measured beside it and are part of every figure.

mod measure;

use crate::figures::{Bound, Document, Figure, Output, Ratio, Spread, Verdict};
use crate::placement::{self, on_cpu};
use crate::progress::Progress;
use anyhow::Result;
use clap::ValueEnum;
pub(crate) use measure::{Bench, Kind, bare};
use penstock_lookup::Policy;
use std::sync::Arc;

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Arguments {
    /// How many flows the frames belong to, one measurement for each.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 1_000, 10_000, 100_000, 1_000_000], value_name = "N,...")]
    flows: Vec<usize>,
    /// Rules of each of the two policies, one measurement of everything for each; 0 is no policy.
    #[arg(long, value_delimiter = ',', default_values_t = [0, 1_000, 10_000], value_name = "N,...", value_parser = rules)]
    rules: Vec<usize>,
    /// What frames meet: all of it unless named.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Kind::value_variants().iter().copied(), value_name = "KIND,...")]
    kinds: Vec<Kind>,
    /// Frames of one measurement.
    #[arg(long, default_value_t = 1_000_000, value_name = "N")]
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

/// Of bare memory ports, and the least whose misses are not nearly all hits.
const FEW_FLOWS: usize = 1_000;
/// A few new flows are over before the clock has ticked.
const NEW_FLOWS_MIN: usize = 10_000;
const MANY_FLOWS: usize = 1_000_000;
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
}

/// Policies of so many rules, for [`prepare`].
pub(crate) fn policies(rules: &[usize]) -> Result<Vec<measure::Ruled>> {
    let policy = |rules: &usize| Ok((*rules, Arc::new(Policy::build(crate::policy::pair(*rules)?)?)));
    rules.iter().map(policy).collect()
}

/// A pipeline with its flows, under the first of these policies.
pub(crate) fn prepare(kind: Kind, flows: usize, policies: &[measure::Ruled]) -> Result<Bench> {
    Bench::new(policies, pods(), kind, flows)
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
    let policies = policies(&arguments.rules)?;
    let pipelines = pipelines(arguments);
    let rounds = arguments.rounds.max(1);
    let turns = policies.len() * (rounds + usize::from(arguments.stages));
    let mut progress = Progress::of("engine", pipelines.len() * (1 + turns));
    let mut benches = Vec::new();
    for (kind, flows) in pipelines {
        progress.step(&format!("opening flows: {}, {flows} flows", kind.words()))?;
        let mut bench = prepare(kind, flows, &policies)?;
        // Once for nothing: memory is touched, and what grows has grown.
        bench.measure(arguments.frames)?;
        let cases = arguments.rules.iter().map(|&rules| (Case { kind, flows, rules }, Vec::new()));
        benches.push((bench, cases.collect::<Vec<_>>()));
    }
    let mut bare = Vec::new();
    for _ in 0..rounds {
        bare.push(measure::bare(FEW_FLOWS, arguments.frames)?);
        for (bench, cases) in &mut benches {
            // Who came last is first now: what drifts favours nobody.
            cases.reverse();
            for (case, rates) in cases {
                progress.step(&words(*case))?;
                bench.rule(case.rules)?;
                rates.push(bench.measure(arguments.frames)?);
            }
        }
    }
    let mut rows = Vec::new();
    for (mut bench, mut cases) in benches {
        cases.sort_by_key(|(case, _)| case.rules);
        for (case, rates) in cases {
            let mut stages = Vec::new();
            if arguments.stages {
                progress.step(&format!("by stage: {}", words(case)))?;
                bench.rule(case.rules)?;
                stages = bench.stages(arguments.frames)?;
            }
            rows.push(Row { case, mpps: Spread::of(rates), stages });
        }
    }
    Ok((rows, Spread::of(bare)))
}

fn pipelines(arguments: &Arguments) -> Vec<(Kind, usize)> {
    let mut pipelines = Vec::new();
    for &kind in Kind::value_variants() {
        let least = match kind {
            Kind::Hit => 1,
            Kind::Miss => FEW_FLOWS,
            _ => NEW_FLOWS_MIN,
        };
        let flows = arguments.flows.iter().filter(|flows| **flows >= least);
        if arguments.kinds.contains(&kind) {
            pipelines.extend(flows.map(|&flows| (kind, flows)));
        }
    }
    pipelines
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

/// One figure divided by another, and how much it has to be.
type Wanted = (String, Case, Case, Option<f64>);

fn ratios(rows: &[Row], arguments: &Arguments) -> (Vec<Ratio>, Vec<Verdict>) {
    let row = |case: Case| rows.iter().find(|row| row.case == case);
    let mut wanted: Vec<Wanted> = Vec::new();
    for &rules in &arguments.rules {
        let hit = |flows| Case { kind: Kind::Hit, flows, rules };
        let what = format!("hits, {rules} rules: 1,000,000 flows beside 1,000");
        wanted.push((what, hit(MANY_FLOWS), hit(FEW_FLOWS), Some(0.5)));
    }
    for case in rows.iter().map(|row| row.case).filter(|case| case.rules == MANY_RULES) {
        let what = format!("{}, {} flows: 10,000 rules beside none", case.kind.words(), case.flows);
        let least = (case.kind == Kind::Hit).then_some(0.95);
        wanted.push((what, case, Case { rules: 0, ..case }, least));
    }
    let (mut ratios, mut verdicts) = (Vec::new(), Vec::new());
    for (what, one, other, at_least) in wanted {
        let Some((of, to)) = row(one).zip(row(other)) else { continue };
        let value = of.mpps.by_round(&to.mpps).median;
        verdicts.extend(at_least.map(|least| Verdict::of(&*what, value, Bound::AtLeast(least))));
        ratios.push(Ratio { what, of: words(one), to: words(other), value, known: None });
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
            rules: vec![0, 10_000],
            kinds: Kind::value_variants().to_vec(),
            frames: 4_000,
            rounds: 2,
            stages: true,
            output: Output::Json,
        };
        let (rows, bare) = measured(&arguments).unwrap();
        assert!(bare.median > 0.0);
        for &kind in Kind::value_variants() {
            for rules in [0, 10_000] {
                let case = Case { kind, flows: 10_000, rules };
                let row = rows.iter().find(|row| row.case == case).unwrap();
                assert!(row.mpps.median > 0.0 && row.mpps.median.is_finite(), "{kind:?}");
                assert_eq!((row.mpps.samples.len(), row.stages.is_empty()), (2, false));
            }
        }
        let (ratios, verdicts) = ratios(&rows, &arguments);
        let judged = "hit, 10000 flows: 10,000 rules beside none";
        assert!(ratios.iter().any(|ratio| ratio.what == judged));
        assert!(verdicts.iter().any(|verdict| verdict.what == judged));
    }
}
