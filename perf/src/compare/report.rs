//! What a comparison has to say: rows while it is judged, a [`Document`] in the end, and a table that has the peers side by side.

use super::{memory, work};
use crate::figures::{Document, Figure, Ratio, Spread, Verdict, number, table};
use crate::placement::{self, LOAD_CPU, WORKER_CPU};

/// One measurement of one subject.
#[derive(Debug, Clone)]
pub(super) struct Row {
    /// With its unit behind a comma.
    pub(super) measurement: String,
    pub(super) subject: String,
    pub(super) rounds: Spread,
    /// Where frames are offered: million frames a second, and the share of all that did not arrive.
    pub(super) offered: Option<Spread>,
    pub(super) lost: Option<Spread>,
    /// Of the baseline's median: the kernel's bridge, or DPDK's bare I/O of the same frames; and who that is.
    pub(super) to_baseline: Option<(f64, &'static str)>,
    /// What this is known to be.
    pub(super) known: Option<f64>,
    /// False: too far from what is known; a ratio to it would say nothing.
    pub(super) is_comparable: bool,
    /// Ours divided by this one's.
    pub(super) ratios: Vec<(String, f64)>,
    pub(super) note: String,
}

#[derive(Debug, Clone)]
pub(super) struct Report {
    pub(super) rows: Vec<Row>,
    pub(super) verdicts: Vec<Verdict>,
}

impl Report {
    pub(super) fn row(&self, measurement: &str, subject: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.measurement == measurement && row.subject == subject)
    }

    pub(super) fn median(&self, measurement: &str, subject: &str) -> Option<f64> {
        self.row(measurement, subject).map(|row| row.rounds.median)
    }

    /// All of it goes into the document, which knows the versions of those who took part.
    pub(super) fn fill(&self, document: &mut Document) {
        document.figures = self.rows.iter().map(|row| row.figure(document)).collect();
        document.ratios = self.rows.iter().flat_map(Row::all_ratios).collect();
        document.verdicts.clone_from(&self.verdicts);
    }

    pub(super) fn print(&self, document: &Document) {
        let mut measurement = "";
        let mut rows = table::new();
        for row in &self.rows {
            if row.measurement != measurement {
                if !measurement.is_empty() {
                    println!("{rows}\n");
                }
                measurement = &row.measurement;
                rows = table::new();
                rows.set_header([
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
            rows.add_row(row.cells());
        }
        println!("{rows}\n");
        let mut verdicts = table::new();
        verdicts.set_header(["TARGET", "VERDICT"]);
        for verdict in &self.verdicts {
            verdicts.add_row([verdict.what.clone(), verdict.words()]);
        }
        println!("{verdicts}\n");
        table::about(document);
    }
}

/// Units figures have here; a measurement's name ends with one.
const UNITS: [&str; 5] = ["Mpps", "Gb/s", "us", "1/s", "share"];

/// "UDP 64 B, Mpps" is "UDP 64 B" in Mpps.
fn name_and_unit(measurement: &str) -> (&str, &'static str) {
    let parts = measurement.rsplit_once(", ");
    let found = parts.and_then(|(name, unit)| Some((name, *UNITS.iter().find(|known| **known == unit)?)));
    found.unwrap_or((measurement, ""))
}

impl Row {
    fn figure(&self, document: &Document) -> Figure {
        let (name, unit) = name_and_unit(&self.measurement);
        let figure = match memory::case(&self.measurement) {
            // A kind of its own in the picture: there is no flow in it.
            Some(case) => {
                case.mark(Figure::of(crate::engine::FROM_MEMORY, unit, self.rounds.samples.clone()))
            }
            None => Figure::of(name, unit, self.rounds.samples.clone()),
        };
        Figure {
            offered: self.offered.clone(),
            lost: self.lost.clone(),
            version: document.versions.get(&self.subject).cloned().unwrap_or_default(),
            placement: match self.measurement.as_str() {
                name if memory::case(name).is_some() => placement::from_memory(WORKER_CPU),
                name if work::is_free(name) => placement::ends_free(WORKER_CPU),
                _ => placement::between_pods(LOAD_CPU, WORKER_CPU),
            },
            ..figure.at("subject", &self.subject).note(&self.note)
        }
    }

    fn all_ratios(&self) -> Vec<Ratio> {
        let ratio = |of: &str, to: &str, value, known| Ratio {
            what: self.measurement.clone(),
            of: of.to_owned(),
            to: to.to_owned(),
            value,
            known,
        };
        let ours = self.ratios.iter().map(|(ours, times)| ratio(ours, &self.subject, *times, None));
        // Of ours to the baseline there is one among the others.
        let baseline = self.to_baseline.filter(|_| !self.subject.starts_with("penstock"));
        let baseline = baseline.map(|(value, to)| ratio(&self.subject, to, value, self.known));
        ours.chain(baseline).collect()
    }

    fn cells(&self) -> [String; 9] {
        let row = self;
        let ratios: Vec<String> = row
            .ratios
            .iter()
            .map(|(ours, times)| format!("{} {times:.2}", ours.trim_start_matches("penstock ")))
            .collect();
        let optional = |value: Option<f64>| value.map_or_else(String::new, |value| format!("{value:.2}"));
        [
            row.subject.clone(),
            number(row.rounds.median),
            number(row.rounds.min),
            number(row.rounds.max),
            optional(row.offered.as_ref().map(|offered| offered.median)),
            row.lost.as_ref().map_or_else(String::new, |lost| format!("{:.0} %", lost.median * 100.0)),
            optional(row.to_baseline.map(|(value, _)| value)),
            ratios.join(", "),
            row.note.clone(),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_measurement_is_a_name_and_a_unit() {
        assert_eq!(name_and_unit(work::UDP), ("UDP 64 B", "Mpps"));
        assert_eq!(name_and_unit(work::TCP_FREE), ("TCP 1 stream, CPUs free", "Gb/s"));
        assert_eq!(name_and_unit(work::CONNECTS), ("TCP connect, ask, close", "1/s"));
        assert_eq!(name_and_unit("what is that"), ("what is that", ""));
    }
}
