//! From rounds to a table: medians, spreads, ratios, and which ratios mean something.

use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

/// What one subject gave in each round of one measurement.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Figures {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
    pub(crate) rounds: Vec<f64>,
}

impl Figures {
    pub(crate) fn of(rounds: Vec<f64>) -> Figures {
        let mut sorted = rounds.clone();
        sorted.sort_by(f64::total_cmp);
        let at = |n: usize| sorted.get(n).copied().unwrap_or(f64::NAN);
        Figures { median: at(sorted.len() / 2), min: at(0), max: at(sorted.len().saturating_sub(1)), rounds }
    }
}

/// One measurement of one subject.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Row {
    pub(crate) measurement: &'static str,
    pub(crate) subject: &'static str,
    #[serde(flatten)]
    pub(crate) figures: Figures,
    /// Of the kernel bridge's median.
    pub(crate) to_bridge: Option<f64>,
    /// Ours divided by this one's; absent where it would say nothing.
    pub(crate) ours_to_this: Option<f64>,
    /// As `ours_to_this`, for our switch with the same kind of ports as the peers'.
    pub(crate) direct_to_this: Option<f64>,
    /// The ratio that `ours_to_this` has to reach, where there is one.
    pub(crate) target: Option<f64>,
    pub(crate) note: String,
}

impl Row {
    pub(crate) fn is_missed(&self) -> bool {
        matches!((self.ours_to_this, self.target), (Some(ratio), Some(target)) if ratio < target)
    }
}

#[derive(Debug, Serialize)]
pub(crate) struct Account {
    pub(crate) subject: &'static str,
    pub(crate) is: String,
}

#[derive(Debug, Serialize)]
pub(crate) struct Skipped {
    pub(crate) subject: &'static str,
    pub(crate) reason: String,
}

#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) machine: String,
    pub(crate) method: String,
    pub(crate) subjects: Vec<Account>,
    pub(crate) skipped: Vec<Skipped>,
    pub(crate) rows: Vec<Row>,
}

impl Report {
    pub(crate) fn print(&self) {
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        table.set_header([
            "MEASUREMENT",
            "SUBJECT",
            "MEDIAN",
            "MIN",
            "MAX",
            "/BRIDGE",
            "OURS/THIS",
            "DIRECT/THIS",
            "TARGET",
            "NOTE",
        ]);
        let ratio = |value: Option<f64>| value.map_or_else(String::new, |value| format!("{value:.2}"));
        for row in &self.rows {
            let f = &row.figures;
            table.add_row([
                row.measurement.to_owned(),
                row.subject.to_owned(),
                format!("{:.3}", f.median),
                format!("{:.3}", f.min),
                format!("{:.3}", f.max),
                ratio(row.to_bridge),
                ratio(row.ours_to_this),
                ratio(row.direct_to_this),
                ratio(row.target),
                row.note.clone(),
            ]);
        }
        println!("{table}\n\n{}\n{}", self.machine, self.method);
        for subject in &self.subjects {
            println!("{}: {}", subject.subject, subject.is);
        }
        for skipped in &self.skipped {
            println!("{}: skipped, {}", skipped.subject, skipped.reason);
        }
    }

    pub(crate) fn missed(&self) -> Vec<String> {
        self.rows
            .iter()
            .filter(|row| row.is_missed())
            .map(|row| {
                let (ratio, target) = (row.ours_to_this.unwrap_or_default(), row.target.unwrap_or_default());
                format!("{}: {ratio:.2} times {}, {target:.2} is the target", row.measurement, row.subject)
            })
            .collect()
    }
}

/// A peer far from what it is known to give beside the kernel bridge is set up wrongly: a ratio to it would flatter us.
pub(crate) fn is_plausible(to_bridge: f64, known: f64) -> bool {
    (to_bridge / known - 1.0).abs() <= 0.20
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_untouched_by_one_wild_round() {
        assert_eq!(Figures::of(vec![3.0, 1.0, 2.0, 900.0, 2.5]).median, 2.5);
        assert_eq!(Figures::of(vec![7.0]).median, 7.0);
    }

    #[test]
    fn a_peer_is_plausible_within_a_fifth() {
        assert!(is_plausible(0.85, 0.85) && is_plausible(0.70, 0.85) && is_plausible(1.0, 0.85));
        assert!(!is_plausible(0.66, 0.85) && !is_plausible(1.03, 0.85));
    }

    #[test]
    fn a_target_is_missed_only_by_a_ratio_that_means_something() {
        let row = |ours_to_this| Row {
            measurement: "m",
            subject: "s",
            figures: Figures::of(vec![1.0]),
            to_bridge: None,
            ours_to_this,
            direct_to_this: None,
            target: Some(1.2),
            note: String::new(),
        };
        assert!(row(Some(1.19)).is_missed());
        assert!(!row(Some(1.2)).is_missed() && !row(None).is_missed());
    }
}
