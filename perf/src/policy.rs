//! What policy costs: compiling it, changing it, looking it up, and forwarding under it.
//!
//! Four measurements, each beside a baseline of the same run: a large cluster compiled and one label changed ([`compile`]), the
//! lookup with many rules beside few ([`lookup`]), frames through the pipeline on memory ports with many rules beside none
//! ([`forward`]), and, as root, a label changed in a file until frames between two pods show it ([`change`]).

mod change;
mod cluster;
mod compile;
mod forward;
mod lookup;

use crate::figures::{Bound, Document, Figure, Output, Ratio, Verdict};
use crate::interrupt;
use crate::placement::{self, on_cpu};
use crate::progress::Progress;
use anyhow::Result;
pub(crate) use compile::{pair, pair_address};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Pods of the cluster.
    #[arg(long, default_value_t = 10_000, value_name = "N")]
    pods: usize,
    /// NetworkPolicies of the cluster.
    #[arg(long, default_value_t = 1_000, value_name = "N")]
    policies: usize,
    /// Namespaces of the cluster.
    #[arg(long, default_value_t = 100, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
    namespaces: u16,
    /// Pods of the cluster that are on this node.
    #[arg(long, default_value_t = 110, value_name = "N")]
    local: usize,
    /// Changes of a label.
    #[arg(long, default_value_t = 100, value_name = "N")]
    changes: usize,
    /// Rounds of lookups and of forwarding; the median counts.
    #[arg(long, default_value_t = 5, value_name = "N")]
    rounds: usize,
    /// Leave out what needs root: the change seen by real pods.
    #[arg(long)]
    no_pods: bool,
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
}

pub(crate) fn run(arguments: &Arguments) -> Result<bool> {
    interrupt::listen()?;
    let rounds = arguments.rounds.max(1);
    let cpu = placement::memory_cpu();
    let mut document = Document::new("policy");
    document.placement =
        format!("{}; pods and the control plane wherever the scheduler likes", placement::from_memory(cpu));
    document.method = format!(
        "a cluster of {} pods, {} policies and {} namespaces, {} of the pods here; {} changes of a label; lookups and frames from \
         memory in {rounds} rounds, few rules and many in turns",
        arguments.pods, arguments.policies, arguments.namespaces, arguments.local, arguments.changes
    );
    let changes = if arguments.no_pods { 0 } else { 1 + arguments.changes };
    let mut progress = Progress::of("policy", 1 + 3 * rounds + changes);
    compile::measure(arguments, &mut document, &mut progress)?;
    on_cpu(cpu, || {
        lookup::measure(rounds, &mut document, &mut progress)?;
        forward::measure(rounds, &mut document, &mut progress)
    })?;
    if arguments.no_pods {
        document.skip("a change seen by real pods", "--no-pods");
    } else {
        change::measure(arguments, &mut document, &mut progress)?;
    }
    drop(progress);
    document.print(arguments.output)?;
    Ok(document.is_reached())
}

/// A figure that has to be at most or at least something.
fn judge(document: &mut Document, figure: Figure, bound: Bound) {
    let what = match figure.of.get("quantile") {
        Some(quantile) => format!("{}, {quantile}, {}", figure.name, figure.unit),
        None => format!("{}, {}", figure.name, figure.unit),
    };
    document.verdicts.push(Verdict::of(what, figure.spread.median, bound));
    document.figures.push(figure);
}

/// Two figures of the same name, and the first divided by the second.
fn beside(document: &mut Document, [one, other]: [Figure; 2], bound: Option<Bound>) {
    let value = one.spread.median / other.spread.median;
    let rules = |figure: &Figure| format!("{} rules", figure.of.get("rules").map_or("", String::as_str));
    let what = format!("{}, {} beside {}", one.name, rules(&one), rules(&other));
    document.verdicts.extend(bound.map(|bound| Verdict::of(what.clone(), value, bound)));
    document.ratios.push(Ratio { what, of: rules(&one), to: rules(&other), value, known: None });
    document.figures.extend([other, one]);
}

/// The value that 99 of 100 do not exceed.
fn p99(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get((values.len() * 99 / 100).min(values.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
}
