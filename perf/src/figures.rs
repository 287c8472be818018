//! What every measurement says in the end: figures, and beside them what makes them mean something.
//!
//! One schema for all commands, so that one reader does: a [`Document`] has the machine, the versions, who ran where, how it was
//! measured, who took part and who was left out, [`Figure`]s with a name, a unit, every sample, their median, smallest and largest,
//! and what set this one apart from the others of its name (`size`, `flows`, `subject`, ...); then ratios of figures, and which
//! targets they reach.

mod machine;
pub(crate) mod table;
mod verdict;

use anyhow::{Context, Result};
pub(crate) use machine::Machine;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;
pub(crate) use table::number;
pub(crate) use verdict::{Bound, Outcome, Ratio, Verdict};

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Output {
    #[default]
    Table,
    Json,
}

/// The same thing measured several times. Without samples all of it is NaN, `null` in JSON: it was looked for and not found.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
    pub(crate) samples: Vec<f64>,
}

impl Spread {
    pub(crate) fn of(samples: Vec<f64>) -> Spread {
        let mut sorted = samples.clone();
        sorted.sort_by(f64::total_cmp);
        let at = |n: usize| sorted.get(n).copied().unwrap_or(f64::NAN);
        Spread { median: at(sorted.len() / 2), min: at(0), max: at(sorted.len().saturating_sub(1)), samples }
    }

    /// This divided by the other, round by round: of two figures taken in turns, what disturbs a round disturbs both.
    pub(crate) fn by_round(&self, other: &Spread) -> Spread {
        Spread::of(self.samples.iter().zip(&other.samples).map(|(one, other)| one / other).collect())
    }

    /// Where the median of all rounds there could be lies, 19 times in 20, whatever they are distributed like: between two of the
    /// samples, chosen so that as many tosses of a coin would seldom fall outside. `None`: too few samples to say.
    pub(crate) fn median_within(&self) -> Option<[f64; 2]> {
        let mut sorted = self.samples.clone();
        sorted.sort_by(f64::total_cmp);
        let (tosses, mut left) = (sorted.len(), 0.025);
        let mut probability = 0.5_f64.powi(tosses as i32);
        let mut outside = 0;
        while outside < tosses / 2 && probability <= left {
            left -= probability;
            probability *= (tosses - outside) as f64 / (outside + 1) as f64;
            outside += 1;
        }
        (outside > 0).then(|| [sorted[outside - 1], sorted[tosses - outside]])
    }
}

#[derive(Debug, Clone, Serialize)]
pub(crate) struct Figure {
    pub(crate) name: String,
    pub(crate) unit: &'static str,
    #[serde(flatten)]
    pub(crate) spread: Spread,
    /// What sets it apart from the others of its name.
    pub(crate) of: BTreeMap<&'static str, String>,
    /// Where frames are offered: how many, in the figure's unit, and which share of them did not arrive.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) offered: Option<Spread>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) lost: Option<Spread>,
    /// Of whose figure it is, and who ran where for it; absent where the document's holds for all.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) version: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) placement: String,
    pub(crate) note: String,
}

impl Figure {
    pub(crate) fn of(name: impl Into<String>, unit: &'static str, samples: Vec<f64>) -> Figure {
        Figure {
            name: name.into(),
            unit,
            spread: Spread::of(samples),
            of: BTreeMap::new(),
            offered: None,
            lost: None,
            version: String::new(),
            placement: String::new(),
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

/// Who took part.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Account {
    pub(crate) subject: String,
    pub(crate) version: String,
    /// How it is set up.
    pub(crate) is: String,
}

/// Who, or what, was left out.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Skipped {
    pub(crate) subject: String,
    pub(crate) reason: String,
}

#[derive(Debug, Clone, Serialize)]
pub(crate) struct Document {
    pub(crate) command: &'static str,
    pub(crate) machine: Machine,
    /// Of everything that took part.
    pub(crate) versions: BTreeMap<String, String>,
    /// Who ran on which core.
    pub(crate) placement: String,
    pub(crate) method: String,
    pub(crate) subjects: Vec<Account>,
    pub(crate) skipped: Vec<Skipped>,
    pub(crate) figures: Vec<Figure>,
    pub(crate) ratios: Vec<Ratio>,
    pub(crate) verdicts: Vec<Verdict>,
}

/// The names of what a [`Document`] has.
pub(crate) const FIELDS: [&str; 10] = [
    "command",
    "machine",
    "versions",
    "placement",
    "method",
    "subjects",
    "skipped",
    "figures",
    "ratios",
    "verdicts",
];

impl Document {
    /// Made before anything is measured.
    pub(crate) fn new(command: &'static str) -> Document {
        let machine = Machine::here();
        let optimised =
            if cfg!(debug_assertions) { " (NOT OPTIMISED: our figures mean nothing)" } else { "" };
        let versions = BTreeMap::from([
            ("penstock-perf".to_owned(), format!("{}{optimised}", env!("CARGO_PKG_VERSION"))),
            ("linux".to_owned(), machine.kernel.clone()),
        ]);
        Document {
            command,
            machine,
            versions,
            placement: String::new(),
            method: String::new(),
            subjects: vec![],
            skipped: vec![],
            figures: vec![],
            ratios: vec![],
            verdicts: vec![],
        }
    }

    /// Somebody takes part.
    pub(crate) fn add_subject(&mut self, account: Account) {
        self.versions.insert(account.subject.clone(), account.version.clone());
        self.subjects.push(account);
    }

    pub(crate) fn skip(&mut self, subject: impl Into<String>, reason: impl Into<String>) {
        self.skipped.push(Skipped { subject: subject.into(), reason: reason.into() });
    }

    pub(crate) fn save(&self, file: &Path) -> Result<()> {
        let json = serde_json::to_string_pretty(self)?;
        std::fs::write(file, json + "\n").with_context(|| file.display().to_string())
    }

    pub(crate) fn print(&self, output: Output) -> Result<()> {
        match output {
            Output::Json => println!("{}", serde_json::to_string_pretty(self)?),
            Output::Table => table::print(self),
        }
        Ok(())
    }

    /// Says on standard error which targets were missed. True when none was.
    pub(crate) fn is_reached(&self) -> bool {
        let missed: Vec<&Verdict> = self.verdicts.iter().filter(|verdict| verdict.is_missed()).collect();
        for verdict in &missed {
            eprintln!("{}: not reached: {}: {}", self.command, verdict.what, verdict.words());
        }
        missed.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_untouched_by_one_wild_sample() {
        let spread = Spread::of(vec![3.0, 1.0, 2.0, 900.0, 2.5]);
        assert_eq!((spread.median, spread.min, spread.max), (2.5, 1.0, 900.0));
        assert_eq!(spread.samples, [3.0, 1.0, 2.0, 900.0, 2.5]);
        assert_eq!(Spread::of(vec![7.0]).median, 7.0);
    }

    #[test]
    fn where_a_median_lies_is_said_from_six_samples_on_and_closer_with_more() {
        let within = |samples: u32| Spread::of((1..=samples).map(f64::from).collect()).median_within();
        assert_eq!(within(5), None);
        assert_eq!(within(6), Some([1.0, 6.0]));
        assert_eq!(within(20), Some([6.0, 15.0]), "as in any table of the sign test");
        assert_eq!(within(100), Some([40.0, 61.0]));
        assert_eq!(within(0), None);
    }

    #[test]
    fn what_was_not_found_is_null_and_not_nought() {
        let figure = Figure::of("ndr", "Mpps", vec![]);
        assert!(serde_json::to_value(&figure).unwrap()["median"].is_null());
    }

    #[test]
    fn a_document_says_of_itself_what_a_reader_asks_of_any() {
        let json = serde_json::to_value(Document::new("any")).unwrap();
        let keys: Vec<&str> = json.as_object().unwrap().keys().map(String::as_str).collect();
        let mut expected = FIELDS;
        expected.sort_unstable();
        let mut keys = keys;
        keys.sort_unstable();
        assert_eq!(keys, expected);
    }
}
