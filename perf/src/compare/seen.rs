//! What was measured, by measurement and subject, in rounds.

use super::report::Row;
use crate::figures::Spread;

/// One measurement of one subject.
#[derive(Debug, Clone)]
struct Entry {
    measurement: String,
    subject: String,
    values: Vec<f64>,
    /// Where frames are offered: how many million a second, and which share of them was lost.
    offered: Vec<f64>,
    lost: Vec<f64>,
    note: String,
}

/// In the order in which things were first seen.
#[derive(Debug, Default)]
pub(super) struct Seen(Vec<Entry>);

impl Seen {
    pub(super) fn add(&mut self, measurement: &str, subject: &str, value: f64) {
        self.entry(measurement, subject).values.push(value);
    }

    pub(super) fn add_load(&mut self, measurement: &str, subject: &str, value: f64, offered: f64, lost: f64) {
        let entry = self.entry(measurement, subject);
        entry.values.push(value);
        entry.offered.push(offered);
        entry.lost.push(lost);
    }

    /// What the last round has to say counts.
    pub(super) fn note(&mut self, measurement: &str, subject: &str, note: &str) {
        self.entry(measurement, subject).note = note.to_owned();
    }

    fn entry(&mut self, measurement: &str, subject: &str) -> &mut Entry {
        let is_it = |entry: &Entry| entry.measurement == measurement && entry.subject == subject;
        let at = self.0.iter().position(is_it).unwrap_or_else(|| {
            self.0.push(Entry {
                measurement: measurement.to_owned(),
                subject: subject.to_owned(),
                values: Vec::new(),
                offered: Vec::new(),
                lost: Vec::new(),
                note: String::new(),
            });
            self.0.len() - 1
        });
        &mut self.0[at]
    }

    /// One row for each, those of one measurement together.
    pub(super) fn rows(&self) -> Vec<Row> {
        let mut measurements: Vec<&str> = Vec::new();
        for entry in &self.0 {
            if !measurements.contains(&entry.measurement.as_str()) {
                measurements.push(&entry.measurement);
            }
        }
        let of = |measurement: &str| {
            let entries = self.0.iter().filter(move |entry| entry.measurement == measurement);
            entries.map(Entry::row).collect::<Vec<_>>()
        };
        measurements.into_iter().flat_map(of).collect()
    }
}

impl Entry {
    fn row(&self) -> Row {
        let some = |values: &Vec<f64>| (!values.is_empty()).then(|| Spread::of(values.clone()));
        Row {
            measurement: self.measurement.clone(),
            subject: self.subject.clone(),
            rounds: Spread::of(self.values.clone()),
            offered: some(&self.offered),
            lost: some(&self.lost),
            to_baseline: None,
            known: None,
            is_comparable: true,
            ratios: Vec::new(),
            note: self.note.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_of_one_thing_come_together_and_measurements_stay_in_order() {
        let mut seen = Seen::default();
        for round in 0..3 {
            for subject in ["a", "b"] {
                seen.add_load("UDP", subject, f64::from(round), 9.0, 0.5);
                seen.add("TCP", subject, 1.0);
            }
        }
        let rows = seen.rows();
        let order: Vec<_> = rows.iter().map(|row| (row.measurement.as_str(), row.subject.as_str())).collect();
        assert_eq!(order, [("UDP", "a"), ("UDP", "b"), ("TCP", "a"), ("TCP", "b")]);
        assert_eq!(rows[0].rounds.samples, [0.0, 1.0, 2.0]);
        assert_eq!(rows[0].offered.as_ref().unwrap().median, 9.0);
        assert!(rows[2].offered.is_none());
    }
}
