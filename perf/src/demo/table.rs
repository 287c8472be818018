//! What was expected against what was seen, and the count of both agreeing.

use super::story::{Expected, PHASES, Row};
use comfy_table::{ContentArrangement, Table, presets};
use penstock_lab::Outcome;

/// Checks, passed and made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: usize,
    pub(crate) made: usize,
}

impl Tally {
    /// Counts a check and says it when it failed.
    pub(crate) fn check(&mut self, passed: bool, what: impl std::fmt::Display) {
        self.made += 1;
        self.passed += usize::from(passed);
        println!("  {} {what}", if passed { "ok    " } else { "FAILED" });
    }

    fn count(&mut self, passed: bool) {
        self.made += 1;
        self.passed += usize::from(passed);
    }
}

/// What one probe of one row saw, IPv4 and IPv6.
pub(crate) type Seen = [Outcome; 2];

pub(crate) fn is_as(expected: Expected, seen: &Outcome) -> bool {
    match expected {
        Expected::Reached => *seen == Outcome::Reached,
        Expected::Dropped => *seen == Outcome::TimedOut,
    }
}

/// One column per phase that was seen.
pub(crate) fn connectivity(
    rows: &[Row],
    name: impl Fn(super::story::Who) -> String,
    columns: &[Vec<Seen>],
    tally: &mut Tally,
) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    let titles = PHASES.iter().take(columns.len()).map(|phase| phase.title.to_uppercase());
    table.set_header(["FROM", "TO", "PROBE"].map(str::to_owned).into_iter().chain(titles));
    for (index, row) in rows.iter().enumerate() {
        let mut line = vec![name(row.from), name(row.to), row.what.name().to_owned()];
        for (phase, column) in columns.iter().enumerate() {
            for seen in &column[index] {
                tally.count(is_as(row.expected[phase], seen));
            }
            line.push(cell(row.expected[phase], &column[index]));
        }
        table.add_row(line);
    }
    table.lines().map(|line| format!("  {}\n", line.trim())).collect()
}

/// What was expected, and what else was seen where it was not.
fn cell(expected: Expected, seen: &Seen) -> String {
    let word = match expected {
        Expected::Reached => "reached",
        Expected::Dropped => "dropped",
    };
    let wrong: Vec<String> = ["v4", "v6"]
        .iter()
        .zip(seen)
        .filter(|(_, seen)| !is_as(expected, seen))
        .map(|(family, seen)| format!("{family} {seen}"))
        .collect();
    match wrong.is_empty() {
        true => word.to_owned(),
        false => format!("{word}: NO, {}", wrong.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_names_the_family_that_disagrees() {
        use Outcome::{Reached, Refused, TimedOut};
        assert_eq!(cell(Expected::Reached, &[Reached, Reached]), "reached");
        assert_eq!(cell(Expected::Dropped, &[TimedOut, TimedOut]), "dropped");
        assert_eq!(cell(Expected::Dropped, &[TimedOut, Reached]), "dropped: NO, v6 reached");
        // A refusal that is heard is no silent drop.
        assert_eq!(cell(Expected::Dropped, &[Refused, TimedOut]), "dropped: NO, v4 refused");
    }
}
