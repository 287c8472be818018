//! `throughput`: the rates a path sustains without loss (NDR) and with half a per cent of it (PDR), as RFC 2544 looks for them.
//!
//! For every number of policies, size and number of flows: each flow is shown to the path, then it is overloaded twice (the second
//! time bounds the search), then [`search`]ed twice. A trial is a stream at a rate, a wait until nothing is under way any more, and every frame
//! accounted for: what came twice, changed, or cut counts as lost.

pub(crate) mod search;

use crate::figures::{Document, Figure, Output};
use crate::generate::seconds;
use crate::interrupt;
use crate::load::flows::FLOWS_MAX;
use crate::load::size::Sizes;
use crate::load::trial::{Outcome, Trial};
use crate::load::{Kind, Stream};
use crate::progress::Progress;
use crate::way::{Way, WayArguments, by_mtu};
use anyhow::{Result, ensure};
use search::{Found, Length, Search, Seen, better};
use std::time::Duration;

/// Frames a second at which a path gets to know flows: few enough for any.
const LEARNING_PPS: f64 = 200_000.0;
const LEARNING_MAX: Duration = Duration::from_secs(30);
const DRAIN_MAX: Duration = Duration::from_secs(2);

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    way: WayArguments,
    /// Bytes of a frame, a wire's checksum included, or `imix`: 64, 570 and 1518 bytes as 7 : 4 : 1.
    #[arg(long, default_value = "64,512,1518,9000,imix", value_name = "LIST", value_delimiter = ',')]
    sizes: Vec<Sizes>,
    /// Numbers of flows.
    #[arg(long, default_value = "1000", value_name = "LIST", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=i64::from(FLOWS_MAX)))]
    flows: Vec<u32>,
    /// Numbers of NetworkPolicies in force.
    #[arg(long, default_value = "1000", value_name = "LIST", value_delimiter = ',')]
    policies: Vec<usize>,
    #[command(flatten)]
    how: How,
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
}

/// How a rate is looked for.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct How {
    /// Seconds of a trial.
    #[arg(long, default_value = "1", value_name = "S", value_parser = seconds)]
    pub(crate) trial: Duration,
    /// Seconds of the longer trial that confirms a rate.
    #[arg(long, default_value = "5", value_name = "S", value_parser = seconds)]
    pub(crate) confirm: Duration,
    /// Per cent between the rate that passed and the one that did not.
    #[arg(long, default_value_t = 2.0, value_name = "PERCENT")]
    pub(crate) precision: f64,
    /// Per cent of loss that PDR allows.
    #[arg(long, default_value_t = 0.5, value_name = "PERCENT")]
    pub(crate) pdr_loss: f64,
    /// How often a trial that failed is repeated before its rate is given up.
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub(crate) retries: usize,
    /// Longer trials at most, at ever lower rates.
    #[arg(long, default_value_t = 5, value_name = "N")]
    pub(crate) confirmations: usize,
    #[arg(long, value_enum, default_value = "auto")]
    pub(crate) generator: Kind,
}

impl How {
    pub(crate) fn check(&self) -> Result<()> {
        ensure!((0.1..=50.0).contains(&self.precision), "--precision is between 0.1 and 50 per cent");
        ensure!((0.0..100.0).contains(&self.pdr_loss), "--pdr-loss is below 100 per cent");
        Ok(())
    }

    pub(crate) fn describe(&self) -> String {
        format!(
            "trials of {} s, a rate confirmed by one of {} s, searched to {} %, failed trials repeated {} times; frames that came \
             twice, cut or altered count as lost",
            self.trial.as_secs_f64(),
            self.confirm.as_secs_f64(),
            self.precision,
            self.retries
        )
    }
}

/// One combination, and what was found there.
pub(crate) struct Measured {
    pub(crate) kind: Kind,
    pub(crate) top: Seen,
    pub(crate) ndr: Found,
    pub(crate) pdr: Found,
    pub(crate) faults: Faults,
    /// Of the trials that confirmed, if any: the longest time nothing was offered, and the time slipped, ns.
    pub(crate) gap_max_ns: u64,
    pub(crate) slipped_ns: u64,
}

/// What is wrong with frames that did come, in all trials together.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Faults {
    out_of_order: u64,
    duplicates: u64,
    altered: u64,
    /// Flows that did not come in the confirming trials.
    flows_missing: u64,
}

pub(crate) fn run(arguments: &Arguments) -> Result<bool> {
    let a = arguments;
    a.how.check()?;
    interrupt::listen()?;
    let mut document = Document::new("throughput");
    let mut progress = Progress::new("throughput");
    let combinations = a.sizes.len() * a.flows.len() * a.policies.len();
    let mut done = 0;
    let flows_max = a.flows.iter().copied().max().unwrap_or(1);
    for (mtu, sizes) in &by_mtu(&a.sizes) {
        let mtu = *mtu;
        progress.show(done as f64 / combinations as f64, "making the pods and what is between them");
        let way = a.way.make(mtu, flows_max)?;
        document.placement = way.placement();
        document.method = a.how.describe();
        document.add_subject(way.account());
        if way.mtu() < mtu {
            for size in sizes {
                let reason =
                    format!("its pods have an MTU of {}, and these frames want {}", way.mtu(), size.mtu());
                document.skip(format!("{}, size {size}", way.name()), reason);
            }
            done += a.flows.len() * a.policies.len();
            continue;
        }
        for policies in &a.policies {
            let policies = way.set_policies(*policies)?.then_some(*policies);
            for (size, flows) in
                sizes.iter().flat_map(|size| a.flows.iter().map(move |flows| (*size, *flows)))
            {
                let mut tell = |share: f64, what: &str| {
                    let what = format!("{}, size {size}, {flows} flows: {what}", way.name());
                    progress.show((done as f64 + share) / combinations as f64, &what);
                };
                let measured = measure(&way, size, flows, &a.how, &mut tell)?;
                done += 1;
                let figures = figures(&measured).into_iter().map(|figure| {
                    let figure = figure
                        .at("size", size)
                        .at("flows", flows)
                        .at("over", way.name())
                        .at("generator", measured.kind.short());
                    match policies {
                        Some(policies) => figure.at("policies", policies),
                        None => figure,
                    }
                });
                document.figures.extend(figures);
            }
        }
    }
    drop(progress);
    document.print(a.output)?;
    Ok(true)
}

/// Both searches over one combination. `tell`: how far it is, and at what.
pub(crate) fn measure(
    way: &Way,
    size: Sizes,
    flows: u32,
    how: &How,
    tell: &mut dyn FnMut(f64, &str),
) -> Result<Measured> {
    let source = way.source()?;
    let to = (way.places()[1].netns(), "eth0");
    let kind = how.generator.for_sizes(size);
    let stream = Stream { sizes: size, flows, rate_pps: None, frames_max: None, cpu: Some(way.load_cpu()) };
    let trial =
        |stream, duration| Trial { kind, stream, duration, drain_max: DRAIN_MAX, words: 1, times: false };

    tell(0.0, "each flow once");
    let learning = Stream { rate_pps: Some(LEARNING_PPS), frames_max: Some(u64::from(flows) * 2), ..stream };
    trial(learning, LEARNING_MAX).run(&source, to)?;
    // And one trial that does not count: what a path does once it knows its flows, as ours that leaves them to the kernel, bounds
    // the search.
    trial(stream, how.trial).run(&source, to)?;

    let mut faults = Faults::default();
    let mut last: Option<Outcome> = None;
    let mut step = |rate_pps: Option<f64>, length: Length, tell: &mut dyn FnMut(f64, &str), share: f64| {
        let asked = rate_pps.map_or("as fast as it goes".to_owned(), |pps| format!("{:.3} Mpps", pps / 1e6));
        tell(share, &asked);
        let duration = if length == Length::Short { how.trial } else { how.confirm };
        let outcome = trial(Stream { rate_pps, ..stream }, duration).run(&source, to)?;
        let (sent, counts) = (&outcome.sent, &outcome.counts);
        faults.out_of_order += counts.out_of_order;
        faults.duplicates += counts.duplicates;
        faults.altered += counts.altered + counts.wrong_len;
        if length == Length::Confirming && outcome.loss() < 0.01 {
            let expected = u64::from(flows).min(sent.frames);
            faults.flows_missing = faults.flows_missing.max(expected.saturating_sub(counts.flows));
        }
        let seen = Seen { offered_pps: sent.rate_pps(), frames: sent.frames, lost: outcome.lost() };
        last = Some(outcome);
        anyhow::Ok(seen)
    };

    let top = step(None, Length::Short, tell, 0.1)?;
    let search = |loss_max| Search {
        loss_max,
        precision: how.precision / 100.0,
        retries: how.retries,
        confirmations_max: how.confirmations,
    };
    let mut pdr = search(how.pdr_loss / 100.0)
        .run(&top, top.received_pps(), |rate, length| step(rate, length, tell, 0.2))?;
    // What loses more than PDR allows loses more than nothing.
    let bound = pdr.confirmed.map_or(top, |seen| Seen {
        offered_pps: (seen.offered_pps * (1.0 + how.precision / 100.0)).min(top.offered_pps),
        frames: 1,
        lost: u64::from(seen.lost > 0 || !pdr.is_generator_limited),
    });
    let guess = bound.offered_pps * (1.0 - how.precision / 100.0);
    let mut ndr = search(0.0).run(&bound, guess, |rate, length| step(rate, length, tell, 0.6))?;
    // What loses nothing loses no more than PDR allows, whatever kept a longer trial from showing more.
    let is_lower = |seen: &Seen| pdr.confirmed.is_none_or(|pdr| pdr.offered_pps < seen.offered_pps);
    if let Some(seen) = ndr.confirmed.filter(is_lower) {
        (pdr.confirmed, pdr.is_generator_limited) = (Some(seen), ndr.is_generator_limited);
    }
    ndr.best = better(ndr.best, pdr.best);
    let (gap_max_ns, slipped_ns) =
        last.map_or((0, 0), |outcome| (outcome.sent.gap_max_ns, outcome.sent.slipped_ns));
    Ok(Measured { kind, top, ndr, pdr, faults, gap_max_ns, slipped_ns })
}

fn figures(measured: &Measured) -> Vec<Figure> {
    let m = measured;
    let of = |name, found: &Found| {
        let rate = found.confirmed.map(|seen| seen.offered_pps / 1e6);
        let mut note = format!("{} trials", found.trials);
        if found.unconfirmed > 0 {
            note.push_str(&format!(", {} higher rates failed the longer one", found.unconfirmed));
        }
        if found.is_generator_limited {
            note.push_str(", the generator offered no more");
        }
        match (found.confirmed, found.best) {
            (Some(seen), _) if seen.lost > 0 => {
                note.push_str(&format!(", {:.3} % lost", seen.loss() * 100.0))
            }
            (None, Some((length, best))) => note.push_str(&format!(
                "; none found: the smallest loss of a {} was {} of {} frames at {:.3} Mpps",
                length.words(),
                best.lost,
                best.frames,
                best.offered_pps / 1e6
            )),
            _ => {}
        }
        Figure::of(name, "Mpps", rate.into_iter().collect()).note(note)
    };
    let mut faults = Vec::new();
    for (count, what) in [
        (m.faults.out_of_order, "out of order"),
        (m.faults.duplicates, "twice"),
        (m.faults.altered, "cut or altered"),
        (m.faults.flows_missing, "flows missing"),
    ] {
        if count > 0 {
            faults.push(format!("{count} {what}"));
        }
    }
    let overload_note = format!("of {:.3} offered", m.top.offered_pps / 1e6);
    let overload = Figure::one("overload", "Mpps", m.top.received_pps() / 1e6)
        .note([overload_note].into_iter().chain(faults).collect::<Vec<_>>().join(", "));
    let steadiness = Figure::one("longest gap offered", "us", m.gap_max_ns as f64 / 1e3)
        .note(format!("in the last trial; kept from sending {:.1} ms", m.slipped_ns as f64 / 1e6));
    let smallest = m.ndr.best.map(|(length, best)| {
        let note = format!("of a {}, at {:.3} Mpps", length.words(), best.offered_pps / 1e6);
        Figure::one("smallest loss", "share", best.loss()).note(note)
    });
    [of("ndr", &m.ndr), of("pdr", &m.pdr), overload, steadiness].into_iter().chain(smallest).collect()
}
