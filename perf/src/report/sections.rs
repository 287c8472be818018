//! Which plots a file of figures asks for. Files are read as they are, without the types that wrote them: a report of today has
//! to be readable by the tool of tomorrow, and what is not known is still listed.

use super::chart::{Bar, Series, bars, lines};
use serde_json::Value;

/// What a file is of, by what it says of itself and by what it has.
pub(super) fn title(document: &Value) -> &'static str {
    let named = document["kind"].as_str().or(document["command"].as_str());
    match named {
        Some("compare") => "Beside its peers",
        Some("throughput") => "Throughput",
        Some("latency") => "Latency",
        Some("tcp") => "TCP",
        Some(_) => "Figures",
        None if document["rows"][0]["mpps"].is_object() => "The pipeline from memory",
        None if document[0]["what"].is_string() => "What policy costs",
        None => "Figures",
    }
}

pub(super) fn plots(document: &Value) -> String {
    match title(document) {
        "Beside its peers" => compared(document),
        "The pipeline from memory" => engine(document),
        "What policy costs" => policy(document),
        _ => figures(document),
    }
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// Without repetition, in the order they come.
fn distinct(values: impl Iterator<Item = String>) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    values.for_each(|value| {
        if !found.contains(&value) {
            found.push(value)
        }
    });
    found
}

/// A plot for each measurement, a bar for each subject.
fn compared(document: &Value) -> String {
    let rows = list(&document["rows"]);
    let measurements = distinct(rows.iter().map(|row| text(row, "measurement").to_owned()));
    let of = |measurement: &String| {
        let rows = rows.iter().filter(|row| text(row, "measurement") == measurement);
        let all: Vec<Bar> = rows.map(|row| bar(text(row, "subject"), row)).collect();
        bars(measurement, &all)
    };
    let flows = scaling(rows);
    measurements.iter().map(of).collect::<String>() + &flows
}

fn bar(label: &str, figures: &Value) -> Bar {
    let number = |key: &str| figures[key].as_f64().unwrap_or(f64::NAN);
    let (value, is_emphasised) = (number("median"), label.starts_with("penstock"));
    Bar { label: label.to_owned(), value, min: number("min"), max: number("max"), is_emphasised }
}

/// The measurements from memory by their number of flows.
fn scaling(rows: &[Value]) -> String {
    let flows = |row: &Value| {
        let name = text(row, "measurement").strip_prefix("from memory, ")?.to_owned();
        let (flows, rest) = name.split_once(" flows, ")?;
        rest.contains("conntrack").then(|| flows.to_owned())
    };
    let steps = distinct(rows.iter().filter_map(flows));
    let with: Vec<&Value> = rows.iter().filter(|row| flows(row).is_some()).collect();
    let subjects = distinct(with.iter().map(|row| text(row, "subject").to_owned()));
    let series: Vec<Series> = subjects
        .into_iter()
        .map(|subject| {
            let value = |step: &String| {
                let row = with
                    .iter()
                    .find(|row| text(row, "subject") == subject && flows(row).as_ref() == Some(step))?;
                row["median"].as_f64()
            };
            (subject.clone(), steps.iter().map(value).collect())
        })
        .collect();
    lines("From memory, by the number of flows", "flows (Mpps)", &steps, &series)
}

fn engine(document: &Value) -> String {
    let rows = list(&document["rows"]);
    let number = |row: &Value, key: &str| row[key].as_u64().map_or_else(String::new, |n| n.to_string());
    let by = |key: &str, other: &str, title: &str| {
        let mut steps = distinct(rows.iter().map(|row| number(row, key)));
        steps.sort_by_key(|step| step.parse::<u64>().unwrap_or_default());
        let name = |row: &Value| format!("{}, {} {other}", text(row, "kind"), number(row, other));
        let names = distinct(rows.iter().map(name));
        let series: Vec<Series> = names
            .into_iter()
            .map(|wanted| {
                let value = |step: &String| {
                    let row = rows.iter().find(|row| name(row) == wanted && number(row, key) == *step)?;
                    row["mpps"]["median"].as_f64()
                };
                (wanted.clone(), steps.iter().map(value).collect::<Vec<_>>())
            })
            // A line has two points.
            .filter(|(_, values)| values.iter().flatten().count() > 1)
            .collect();
        lines(title, &format!("{key} (Mpps)"), &steps, &series)
    };
    by("flows", "rules", "Scaling with flows") + &by("rules", "flows", "Scaling with rules")
}

fn policy(document: &Value) -> String {
    let mut plots = String::new();
    let figures = list(document);
    for unit in distinct(figures.iter().map(|figure| text(figure, "unit").to_owned())) {
        let of_unit = figures.iter().filter(|figure| text(figure, "unit") == unit);
        let all: Vec<Bar> = of_unit
            .map(|figure| {
                let value = figure["value"].as_f64().unwrap_or(f64::NAN);
                let label = text(figure, "what").chars().take(34).collect();
                Bar { label, value, min: value, max: value, is_emphasised: true }
            })
            .collect();
        plots += &bars(&unit, &all);
    }
    plots
}

const PERCENTILES: [&str; 5] = ["p50", "p90", "p99", "p99.9", "max"];

/// Figures with a name, a unit and what sets them apart: one plot for each thing that was varied.
fn figures(document: &Value) -> String {
    let figures = list(&document["figures"]);
    let mut plots = percentiles(figures);
    let is_percentile = |figure: &Value| PERCENTILES.contains(&text(figure, "name"));
    for name in distinct(figures.iter().map(|figure| text(figure, "name").to_owned())) {
        let named: Vec<&Value> =
            figures.iter().filter(|figure| text(figure, "name") == name && !is_percentile(figure)).collect();
        let keys = distinct(named.iter().flat_map(|figure| {
            figure["of"].as_object().into_iter().flat_map(|of| of.keys().cloned()).collect::<Vec<_>>()
        }));
        let unit = named.first().map_or("", |figure| text(figure, "unit"));
        let mut is_drawn = false;
        for key in &keys {
            let steps = distinct(named.iter().filter_map(|f| f["of"][key].as_str().map(str::to_owned)));
            let series = over(&named, key, &steps);
            if steps.len() > 1 && !series.is_empty() {
                plots += &lines(&format!("{name} by {key}"), &format!("{key} ({unit})"), &steps, &series);
                is_drawn = true;
            }
        }
        if !is_drawn {
            let all: Vec<Bar> = named.iter().map(|figure| bar(&apart(figure, ""), figure)).collect();
            plots += &bars(&format!("{name}, {unit}"), &all);
        }
    }
    plots
}

/// What sets a figure apart, but for one thing.
fn apart(figure: &Value, but: &str) -> String {
    let of = figure["of"].as_object();
    let parts = of.into_iter().flatten().filter(|(key, _)| *key != but);
    let parts: Vec<String> =
        parts.map(|(key, value)| format!("{key} {}", value.as_str().unwrap_or_default())).collect();
    if parts.is_empty() { text(figure, "name").to_owned() } else { parts.join(", ") }
}

fn over(named: &[&Value], key: &str, steps: &[String]) -> Vec<Series> {
    let names = distinct(named.iter().map(|figure| apart(figure, key)));
    let series = names.into_iter().map(|wanted| {
        let value = |step: &String| {
            let is_it = |f: &&&Value| apart(f, key) == wanted && f["of"][key].as_str() == Some(step);
            named.iter().find(is_it)?["median"].as_f64()
        };
        (wanted.clone(), steps.iter().map(value).collect::<Vec<_>>())
    });
    series.filter(|(_, values)| values.iter().flatten().count() > 1).collect()
}

fn percentiles(figures: &[Value]) -> String {
    let of: Vec<&Value> = figures.iter().filter(|f| PERCENTILES.contains(&text(f, "name"))).collect();
    let steps: Vec<String> = PERCENTILES
        .iter()
        .filter(|p| of.iter().any(|f| text(f, "name") == **p))
        .map(|p| (*p).to_owned())
        .collect();
    let who = |figure: &Value| {
        let apart = apart(figure, "");
        if apart == text(figure, "name") { "all".to_owned() } else { apart }
    };
    let series: Vec<Series> = distinct(of.iter().map(|figure| who(figure)))
        .into_iter()
        .map(|wanted| {
            let value = |step: &String| {
                let is_it = |f: &&&Value| who(f) == wanted && text(f, "name") == step;
                of.iter().find(is_it)?["median"].as_f64()
            };
            (wanted.clone(), steps.iter().map(value).collect())
        })
        .collect();
    let unit = of.first().map_or("", |figure| text(figure, "unit"));
    lines("Percentiles", unit, &steps, &series)
}
