//! `latency`: how long a frame is under way, at shares of the rate the path sustains without loss, and how long an answer takes.
//!
//! The generator writes the time into the frame and the sink's program reads the same clock where the frame enters the receiving
//! pod: nothing of either end's program is in between. What live frames wait for the rest of their batch is: at most 8 frames' time.

use crate::figures::{Document, Output};
use crate::generate::seconds;
use crate::interrupt;
use crate::load::Stream;
use crate::load::flows::FLOWS_MAX;
use crate::load::size::Sizes;
use crate::load::trial::Trial;
use crate::placement::on_cpu;
use crate::progress::Progress;
use crate::rate::Rate;
use crate::tcp::{self, Samples, Until};
use crate::throughput::{self, How};
use crate::wake;
use crate::way::{Way, WayArguments};
use anyhow::{Context, Result, ensure};
use std::time::Duration;

/// Wakings of a round.
const WAKINGS: usize = 100;
const DRAIN_MAX: Duration = Duration::from_secs(2);

/// The sink counts gaps by powers of two: 2^20 ns and more.
const LONG_GAP_POWER: usize = 20;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    way: WayArguments,
    /// Bytes of a frame, a wire's checksum included, or `imix`.
    #[arg(long, default_value = "64", value_name = "BYTES")]
    size: Sizes,
    #[arg(long, default_value_t = 1000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(FLOWS_MAX)))]
    flows: u32,
    /// NetworkPolicies in force.
    #[arg(long, default_value_t = 1000, value_name = "N")]
    policies: usize,
    /// The rate without loss, frames a second; looked for when absent.
    #[arg(long, value_name = "RATE")]
    ndr: Option<Rate>,
    /// Per cent of that rate.
    #[arg(long, default_value = "10,50,90", value_name = "LIST", value_delimiter = ',', value_parser = clap::value_parser!(u16).range(1..=200))]
    shares: Vec<u16>,
    /// Rounds; the median counts.
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// Seconds of each measurement.
    #[arg(long, default_value = "3", value_name = "S", value_parser = seconds)]
    duration: Duration,
    #[command(flatten)]
    how: How,
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
}

pub(crate) fn run(arguments: &Arguments) -> Result<bool> {
    let a = arguments;
    a.how.check()?;
    interrupt::listen()?;
    let mut document = Document::new("latency");
    let mut progress = Progress::new("latency");
    progress.show(0.0, "making the pods and what is between them");
    let way = a.way.make(a.size.mtu(), a.flows)?;
    let has_policies = way.set_policies(a.policies)?;
    let (ndr_pps, said) = rate(&way, a, &mut progress)?;
    let mut samples = Samples::default();
    let mut lost = vec![(0, 0); a.shares.len()];
    for round in 0..a.rounds {
        for (nth, (share, lost)) in a.shares.iter().zip(&mut lost).enumerate() {
            let rate_pps = ndr_pps * f64::from(*share) / 100.0;
            let done = (f64::from(round) + nth as f64 / (a.shares.len() + 1) as f64) / f64::from(a.rounds);
            progress.show(0.4 + 0.6 * done, &format!("{share} %: {:.3} Mpps", rate_pps / 1e6));
            let cpu = Some(way.load_cpu());
            let trial = Trial {
                kind: a.how.generator.for_sizes(a.size),
                stream: Stream {
                    sizes: a.size,
                    flows: a.flows,
                    rate_pps: Some(rate_pps),
                    frames_max: None,
                    cpu,
                },
                duration: a.duration,
                drain_max: DRAIN_MAX,
                words: 1,
                times: true,
            };
            let outcome = trial.run(&way.source()?, (way.places()[1].netns(), "eth0"))?;
            ensure!(outcome.counts.good() > 0, "of {} frames none arrived", outcome.sent.frames);
            let at = ("load", format!("{share} %"));
            samples.add("offered", "Mpps", at.clone(), outcome.sent.rate_pps() / 1e6);
            // Is the stream steady, and does it arrive so?
            samples.add("longest gap offered", "us", at.clone(), outcome.sent.gap_max_ns as f64 / 1e3);
            samples.add("longest gap arrived", "us", at.clone(), outcome.counts.gap_max_ns as f64 / 1e3);
            let long: u64 = outcome.gaps.iter().skip(LONG_GAP_POWER).sum();
            samples.add("gaps above 1 ms arrived", "gaps", at.clone(), long as f64);
            samples.add_times("frame", at, &outcome.latencies);
            *lost = (lost.0 + outcome.lost(), lost.1 + outcome.sent.frames);
        }
        interrupt::check()?;
        let [from, to] = way.places();
        let asked = on_cpu(way.load_cpu(), || tcp::questions(from, to, Until::Elapsed(a.duration)))?;
        samples.add_times("TCP request", ("load", "none"), &asked.times);
        let woken = wake::measure(way.load_cpu(), a.way.worker_cpu, WAKINGS)?;
        samples.add_times("thread woken", ("load", "none"), &woken);
    }
    drop(progress);
    document.placement = way.placement();
    document.add_subject(way.account());
    document.method = format!(
        "{said}; {} rounds of {} s; frames of {} bytes, {} flows, generator: {}; frame times are one way, from the generator's \
         stamp to the receiving interface, one clock, within 1 % of what they were; thread woken: from the load's CPU to the polling \
         thread's, which a worker that sleeps cannot be faster than",
        a.rounds,
        a.duration.as_secs_f64(),
        a.size,
        a.flows,
        a.how.generator.for_sizes(a.size).name()
    );
    document.figures = samples.figures();
    for figure in &mut document.figures {
        figure.of.insert("over", way.name().to_owned());
        if has_policies {
            figure.of.insert("policies", a.policies.to_string());
        }
        let share = a.shares.iter().position(|share| figure.of.get("load") == Some(&format!("{share} %")));
        if let (Some(share), "offered") = (share, figure.name.as_str()) {
            let (lost, sent) = lost[share];
            figure.note = format!("{lost} of {sent} frames lost");
        }
    }
    document.print(a.output)?;
    Ok(true)
}

/// The rate shares are taken of, and where it is from.
fn rate(way: &Way, a: &Arguments, progress: &mut Progress) -> Result<(f64, String)> {
    if let Some(rate) = a.ndr {
        let Rate::FramesPerSecond(pps) = rate else {
            anyhow::bail!("--ndr is a number of frames a second");
        };
        return Ok((pps, format!("shares of {:.3} Mpps, as it was told", pps / 1e6)));
    }
    let mut tell =
        |share: f64, what: &str| progress.show(share * 0.4, &format!("the rate without loss: {what}"));
    let measured = throughput::measure(way, a.size, a.flows, &a.how, &mut tell)?;
    let (found, what) = match (measured.ndr.confirmed, measured.pdr.confirmed) {
        (Some(seen), _) => (seen, "the rate without loss (NDR)"),
        (None, Some(seen)) => (seen, "the rate with little loss (PDR), for none was without"),
        (None, None) => {
            let (_, best) = measured.pdr.best.context("no trial sent anything")?;
            anyhow::bail!(
                "no rate is sustained: the smallest loss was {:.2} % at {:.3} Mpps",
                best.loss() * 100.0,
                best.offered_pps / 1e6
            );
        }
    };
    Ok((found.offered_pps, format!("shares of {what}, {:.3} Mpps", found.offered_pps / 1e6)))
}
