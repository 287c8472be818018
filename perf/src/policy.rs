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

use anyhow::Result;
pub(crate) use compile::{pair, pair_address};
use serde::Serialize;

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

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    Table,
    Json,
}

/// One figure, and what it has to be.
#[derive(Debug, Serialize)]
struct Figure {
    what: String,
    value: f64,
    unit: &'static str,
    /// At most or at least this, where it is a target.
    target: Option<Target>,
}

#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
enum Target {
    AtMost(f64),
    AtLeast(f64),
}

impl Figure {
    fn new(what: impl Into<String>, value: f64, unit: &'static str) -> Figure {
        Figure { what: what.into(), value, unit, target: None }
    }

    fn at_most(self, limit: f64) -> Figure {
        Figure { target: Some(Target::AtMost(limit)), ..self }
    }

    fn at_least(self, limit: f64) -> Figure {
        Figure { target: Some(Target::AtLeast(limit)), ..self }
    }

    fn is_missed(&self) -> bool {
        match self.target {
            Some(Target::AtMost(limit)) => self.value > limit,
            Some(Target::AtLeast(limit)) => self.value < limit,
            None => false,
        }
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<bool> {
    let mut figures = compile::measure(arguments)?;
    figures.extend(lookup::measure(arguments)?);
    figures.extend(forward::measure(arguments)?);
    if arguments.no_pods {
        eprintln!("policy: the change seen by real pods is left out");
    } else {
        figures.extend(change::measure(arguments)?);
    }
    match arguments.output {
        Output::Json => println!("{}", serde_json::to_string_pretty(&figures)?),
        Output::Table => {
            for figure in &figures {
                let target = match figure.target {
                    Some(Target::AtMost(limit)) => format!("at most {limit}"),
                    Some(Target::AtLeast(limit)) => format!("at least {limit}"),
                    None => String::new(),
                };
                println!("{:<72} {:>12.3} {:<8} {target}", figure.what, figure.value, figure.unit);
            }
        }
    }
    let mut missed = figures.iter().filter(|figure| figure.is_missed()).peekable();
    let is_reached = missed.peek().is_none();
    missed.for_each(|figure| eprintln!("policy: not reached: {}", figure.what));
    Ok(is_reached)
}

/// The middle one, or the upper of two.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The value that 99 of 100 do not exceed.
fn p99(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get((values.len() * 99 / 100).min(values.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
}
