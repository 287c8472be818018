//! What every measurement says in the end: figures, and beside them what makes them mean something.
//!
//! One schema for all commands, so that one reader does: a [`Document`] has the machine, the versions, who ran where and how it was
//! measured, and [`Figure`]s with a name, a unit, every sample, their median, smallest and largest, and what set this one apart
//! from the others of its name (`size`, `flows`, `policies`, ...).

use anyhow::Result;
use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;
use std::collections::BTreeMap;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Output {
    #[default]
    Table,
    Json,
}

#[derive(Debug, Clone, Serialize)]
pub(crate) struct Machine {
    pub(crate) cpus: usize,
    pub(crate) model: String,
    pub(crate) is_virtual: bool,
    pub(crate) memory_mib: u64,
    pub(crate) kernel: String,
    /// The one-minute load average when it began: what else there was to do.
    pub(crate) load_before: f64,
}

impl Machine {
    pub(crate) fn here() -> Machine {
        let read = |file: &str| std::fs::read_to_string(file).unwrap_or_default();
        let cpu = read("/proc/cpuinfo");
        let after = |key: &str| {
            let line = cpu.lines().find(|line| line.starts_with(key))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let memory = read("/proc/meminfo");
        let memory_kib: Option<u64> = memory.split_whitespace().nth(1).and_then(|n| n.parse().ok());
        let load = read("/proc/loadavg");
        Machine {
            cpus: std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
            model: after("model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
            is_virtual: after("flags").is_some_and(|flags| flags.contains("hypervisor")),
            memory_mib: memory_kib.unwrap_or_default() / 1024,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            load_before: load.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or_default(),
        }
    }

    pub(crate) fn describe(&self) -> String {
        format!(
            "{} {}CPUs ({}), {} MiB, Linux {}, load average {} before",
            self.cpus,
            if self.is_virtual { "virtual " } else { "" },
            self.model,
            self.memory_mib,
            self.kernel,
            self.load_before
        )
    }
}

#[derive(Debug, Clone, Serialize)]
pub(crate) struct Figure {
    pub(crate) name: String,
    pub(crate) unit: &'static str,
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
    pub(crate) samples: Vec<f64>,
    /// What sets it apart from the others of its name.
    pub(crate) of: BTreeMap<&'static str, String>,
    pub(crate) note: String,
}

impl Figure {
    /// Without samples all of it is NaN, `null` in JSON: it was looked for and not found.
    pub(crate) fn of(name: impl Into<String>, unit: &'static str, samples: Vec<f64>) -> Figure {
        let mut sorted = samples.clone();
        sorted.sort_by(f64::total_cmp);
        let at = |n: usize| sorted.get(n).copied().unwrap_or(f64::NAN);
        Figure {
            name: name.into(),
            unit,
            median: at(sorted.len() / 2),
            min: at(0),
            max: at(sorted.len().saturating_sub(1)),
            samples,
            of: BTreeMap::new(),
            note: String::new(),
        }
    }

    pub(crate) fn one(name: impl Into<String>, unit: &'static str, value: f64) -> Figure {
        Figure::of(name, unit, vec![value])
    }

    pub(crate) fn at(mut self, key: &'static str, value: impl ToString) -> Figure {
        self.of.insert(key, value.to_string());
        self
    }

    pub(crate) fn note(mut self, note: impl Into<String>) -> Figure {
        self.note = note.into();
        self
    }
}

#[derive(Debug, Clone, Serialize)]
pub(crate) struct Document {
    pub(crate) command: &'static str,
    pub(crate) machine: Machine,
    /// Of everything that took part.
    pub(crate) versions: BTreeMap<&'static str, String>,
    /// Who ran on which core.
    pub(crate) placement: String,
    pub(crate) method: String,
    pub(crate) figures: Vec<Figure>,
}

impl Document {
    /// Made before anything is measured.
    pub(crate) fn new(command: &'static str) -> Document {
        let machine = Machine::here();
        let versions = BTreeMap::from([
            ("penstock-perf", env!("CARGO_PKG_VERSION").to_owned()),
            ("linux", machine.kernel.clone()),
        ]);
        let (placement, method) = (String::new(), String::new());
        Document { command, machine, versions, placement, method, figures: vec![] }
    }

    pub(crate) fn print(&self, output: Output) -> Result<()> {
        if output == Output::Json {
            println!("{}", serde_json::to_string_pretty(self)?);
            return Ok(());
        }
        let mut keys: Vec<&str> = Vec::new();
        for key in self.figures.iter().flat_map(|figure| figure.of.keys()) {
            if !keys.contains(key) {
                keys.push(key);
            }
        }
        let is_spread = self.figures.iter().any(|figure| figure.samples.len() > 1);
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        let spread = if is_spread { &["MEDIAN", "MIN", "MAX"][..] } else { &["VALUE"] };
        let keys_shown = keys.iter().map(|key| key.to_uppercase());
        let header = ["FIGURE".to_owned()].into_iter().chain(keys_shown);
        table.set_header(
            header.chain(spread.iter().map(ToString::to_string)).chain(["UNIT".into(), "NOTE".into()]),
        );
        for figure in &self.figures {
            let mut row = vec![figure.name.clone()];
            row.extend(keys.iter().map(|key| figure.of.get(key).cloned().unwrap_or_default()));
            let values = [figure.median, figure.min, figure.max];
            row.extend(values[..spread.len()].iter().map(|value| shown(*value)));
            row.extend([figure.unit.to_owned(), figure.note.clone()]);
            table.add_row(row);
        }
        println!("{table}\n\n{}", self.machine.describe());
        for text in [&self.placement, &self.method].into_iter().filter(|text| !text.is_empty()) {
            println!("{text}");
        }
        let versions = self.versions.iter().map(|(name, version)| format!("{name} {version}"));
        println!("{}", versions.collect::<Vec<_>>().join(", "));
        Ok(())
    }
}

/// Four digits that say something, counts whole.
fn shown(value: f64) -> String {
    match value.abs() {
        _ if value.is_nan() => "-".to_owned(),
        _ if value.fract() == 0.0 && value.abs() < 1e15 => format!("{value}"),
        1000.0.. => format!("{value:.0}"),
        100.0.. => format!("{value:.1}"),
        10.0.. => format!("{value:.2}"),
        0.01.. => format!("{value:.3}"),
        _ => format!("{value:.2e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_untouched_by_one_wild_sample() {
        let figure = Figure::of("rate", "Mpps", vec![3.0, 1.0, 2.0, 900.0, 2.5]);
        assert_eq!((figure.median, figure.min, figure.max), (2.5, 1.0, 900.0));
        assert_eq!(figure.samples, [3.0, 1.0, 2.0, 900.0, 2.5]);
    }

    #[test]
    fn what_was_not_found_is_null_and_not_nought() {
        let figure = Figure::of("ndr", "Mpps", vec![]);
        assert!(serde_json::to_value(&figure).unwrap()["median"].is_null());
        assert_eq!(shown(figure.median), "-");
    }

    #[test]
    fn values_are_shown_with_the_digits_that_mean_something() {
        for (value, text) in [
            (0.0, "0"),
            (12.0, "12"),
            (0.78312, "0.783"),
            (43.219, "43.22"),
            (123_456.7, "123457"),
            (1.2e-6, "1.20e-6"),
        ] {
            assert_eq!(shown(value), text);
        }
    }
}
