//! What a comparison has to say, as a table and as JSON.

use comfy_table::{ContentArrangement, Table, presets};
use serde::{Deserialize, Serialize};

/// Says which measurement a file of figures is of.
pub(crate) const KIND: &str = "compare";

/// What one subject gave in each round of one measurement.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Figures {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
    pub(crate) rounds: Vec<f64>,
}

impl Figures {
    /// Nothing measured is zero: JSON has no other word for it that a reader takes as a number.
    pub(crate) fn of(rounds: Vec<f64>) -> Figures {
        let mut sorted = rounds.clone();
        sorted.sort_by(f64::total_cmp);
        let at = |n: usize| sorted.get(n).copied().unwrap_or_default();
        Figures { median: at(sorted.len() / 2), min: at(0), max: at(sorted.len().saturating_sub(1)), rounds }
    }
}

/// One measurement of one subject.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) measurement: String,
    pub(crate) subject: String,
    #[serde(flatten)]
    pub(crate) figures: Figures,
    /// Where frames are offered: million frames a second, and the share of all that did not arrive.
    pub(crate) offered: Option<Figures>,
    pub(crate) lost: Option<Figures>,
    /// Of the baseline's median: the kernel's bridge, or DPDK's bare I/O of the same frames.
    pub(crate) to_baseline: Option<f64>,
    /// What this is known to be.
    pub(crate) known: Option<f64>,
    /// False: too far from what is known; a ratio to it would say nothing.
    pub(crate) is_comparable: bool,
    /// Ours divided by this one's.
    pub(crate) ratios: Vec<Ratio>,
    pub(crate) note: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Ratio {
    pub(crate) ours: String,
    pub(crate) times: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

impl Bound {
    pub(crate) fn holds(self, value: f64) -> bool {
        match self {
            Bound::AtLeast(bound) => value >= bound,
            Bound::AtMost(bound) => value <= bound,
        }
    }

    pub(crate) fn words(self) -> String {
        match self {
            Bound::AtLeast(bound) => format!("at least {bound:.2}"),
            Bound::AtMost(bound) => format!("at most {bound:.2}"),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Outcome {
    Reached,
    Missed,
    /// One of the two was not measured in this run.
    NotMeasured,
    /// The peer is not what it is known to be: it has to be mended first.
    NotComparable,
}

/// A target, and what became of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Verdict {
    pub(crate) what: String,
    pub(crate) target: Bound,
    /// What is hoped for beyond the target.
    pub(crate) aim: Option<f64>,
    pub(crate) value: Option<f64>,
    pub(crate) outcome: Outcome,
}

impl Verdict {
    pub(crate) fn is_missed(&self) -> bool {
        self.outcome == Outcome::Missed
    }

    pub(crate) fn words(&self) -> String {
        let target = self.target.words();
        let value = self.value.map_or_else(String::new, |value| format!("{value:.2}, "));
        match self.outcome {
            Outcome::Reached => format!("{value}{target}: reached"),
            Outcome::Missed => format!("{value}{target}: missed"),
            Outcome::NotMeasured => format!("{target}: not measured"),
            Outcome::NotComparable => {
                format!("{target}: the peer is not what it is known to be, no ratio")
            }
        }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Account {
    pub(crate) subject: String,
    pub(crate) is: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Skipped {
    pub(crate) subject: String,
    pub(crate) reason: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) kind: String,
    /// Of this tool, and of the switch with it.
    pub(crate) version: String,
    pub(crate) machine: String,
    pub(crate) method: String,
    pub(crate) placement: String,
    pub(crate) subjects: Vec<Account>,
    pub(crate) skipped: Vec<Skipped>,
    pub(crate) rows: Vec<Row>,
    pub(crate) verdicts: Vec<Verdict>,
}

impl Report {
    pub(crate) fn row(&self, measurement: &str, subject: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.measurement == measurement && row.subject == subject)
    }

    pub(crate) fn median(&self, measurement: &str, subject: &str) -> Option<f64> {
        self.row(measurement, subject).map(|row| row.figures.median)
    }

    pub(super) fn print(&self) {
        println!("{}\n{}\n{}\n", self.machine, self.method, self.placement);
        let mut measurement = "";
        let mut table = new_table();
        for row in &self.rows {
            if row.measurement != measurement {
                if !measurement.is_empty() {
                    println!("{table}\n");
                }
                measurement = &row.measurement;
                table = new_table();
                table.set_header([
                    measurement,
                    "MEDIAN",
                    "MIN",
                    "MAX",
                    "OFFERED",
                    "LOST",
                    "/BASE",
                    "OURS/THIS",
                    "NOTE",
                ]);
            }
            table.add_row(cells(row));
        }
        println!("{table}\n");
        let mut table = new_table();
        table.set_header(["TARGET", "VERDICT"]);
        for verdict in &self.verdicts {
            table.add_row([verdict.what.clone(), verdict.words()]);
        }
        println!("{table}\n");
        for subject in &self.subjects {
            println!("{}: {}", subject.subject, subject.is);
        }
        for skipped in &self.skipped {
            println!("{}: skipped, {}", skipped.subject, skipped.reason);
        }
    }
}

fn new_table() -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table
}

/// Three figures that mean something, whatever the unit.
pub(crate) fn number(value: f64) -> String {
    match value.abs() {
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        _ => format!("{value:.3}"),
    }
}

fn cells(row: &Row) -> [String; 9] {
    let ratios: Vec<String> = row
        .ratios
        .iter()
        .map(|ratio| format!("{} {:.2}", ratio.ours.trim_start_matches("penstock "), ratio.times))
        .collect();
    let optional = |value: Option<f64>| value.map_or_else(String::new, |value| format!("{value:.2}"));
    [
        row.subject.clone(),
        number(row.figures.median),
        number(row.figures.min),
        number(row.figures.max),
        optional(row.offered.as_ref().map(|offered| offered.median)),
        row.lost.as_ref().map_or_else(String::new, |lost| format!("{:.0} %", lost.median * 100.0)),
        optional(row.to_baseline),
        ratios.join(", "),
        row.note.clone(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_untouched_by_one_wild_round() {
        assert_eq!(Figures::of(vec![3.0, 1.0, 2.0, 900.0, 2.5]).median, 2.5);
        assert_eq!(Figures::of(vec![7.0]).median, 7.0);
        assert_eq!(Figures::of(vec![]).median, 0.0);
    }

    #[test]
    fn a_bound_holds_on_its_own_side_and_at_its_edge() {
        assert!(Bound::AtLeast(1.5).holds(1.5) && !Bound::AtLeast(1.5).holds(1.49));
        assert!(Bound::AtMost(1.1).holds(1.1) && !Bound::AtMost(1.1).holds(1.11));
    }

    #[test]
    fn a_number_is_not_longer_than_it_is_worth() {
        assert_eq!([0.94123, 17.73, 3412.6].map(number), ["0.941", "17.7", "3413"]);
    }
}
