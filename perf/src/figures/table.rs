//! A document as a person reads it in a terminal.

use super::Document;
use comfy_table::{ContentArrangement, Table, presets};

pub(super) fn print(document: &Document) {
    figures(document);
    let mut table = new();
    for verdict in &document.verdicts {
        table.add_row([verdict.what.clone(), verdict.words()]);
    }
    // What a verdict is of stands there.
    let is_judged = |what: &str| document.verdicts.iter().any(|verdict| verdict.what == what);
    for ratio in document.ratios.iter().filter(|ratio| !is_judged(&ratio.what)) {
        table
            .add_row([format!("{}: {} / {}", ratio.what, ratio.of, ratio.to), format!("{:.2}", ratio.value)]);
    }
    if table.row_count() > 0 {
        println!("{table}\n");
    }
    about(document);
}

fn figures(document: &Document) {
    let mut keys: Vec<&str> = Vec::new();
    for key in document.figures.iter().flat_map(|figure| figure.of.keys()) {
        if !keys.contains(key) {
            keys.push(key);
        }
    }
    let is_spread = document.figures.iter().any(|figure| figure.spread.samples.len() > 1);
    let mut table = new();
    let spread = if is_spread { &["MEDIAN", "MIN", "MAX"][..] } else { &["VALUE"] };
    let keys_shown = keys.iter().map(|key| key.to_uppercase());
    let header = ["FIGURE".to_owned()].into_iter().chain(keys_shown);
    table.set_header(
        header.chain(spread.iter().map(ToString::to_string)).chain(["UNIT".into(), "NOTE".into()]),
    );
    for figure in &document.figures {
        let mut row = vec![figure.name.clone()];
        row.extend(keys.iter().map(|key| figure.of.get(key).cloned().unwrap_or_default()));
        let values = [figure.spread.median, figure.spread.min, figure.spread.max];
        row.extend(values[..spread.len()].iter().map(|value| number(*value)));
        row.extend([figure.unit.to_owned(), figure.note.clone()]);
        table.add_row(row);
    }
    println!("{table}\n");
}

/// What makes figures mean something.
pub(crate) fn about(document: &Document) {
    println!("{}", document.machine.describe());
    for text in [&document.placement, &document.method].into_iter().filter(|text| !text.is_empty()) {
        println!("{text}");
    }
    for subject in &document.subjects {
        println!("{}: {}; {}", subject.subject, subject.version, subject.is);
    }
    for skipped in &document.skipped {
        println!("{}: skipped, {}", skipped.subject, skipped.reason);
    }
    let is_subject = |name: &str| document.subjects.iter().any(|subject| subject.subject == name);
    let versions = document.versions.iter().filter(|(name, _)| !is_subject(name));
    let versions = versions.map(|(name, version)| format!("{name} {version}"));
    println!("{}", versions.collect::<Vec<_>>().join(", "));
}

pub(crate) fn new() -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table
}

/// The digits that say something, counts whole.
pub(crate) fn number(value: f64) -> String {
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
    fn values_are_shown_with_the_digits_that_mean_something() {
        for (value, text) in [
            (0.0, "0"),
            (12.0, "12"),
            (0.78312, "0.783"),
            (43.219, "43.22"),
            (123_456.7, "123457"),
            (1.2e-6, "1.20e-6"),
            (f64::NAN, "-"),
        ] {
            assert_eq!(number(value), text);
        }
    }
}
