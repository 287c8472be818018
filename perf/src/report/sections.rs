//! Which plots figures ask for. Files are read as they are, without the types that wrote them: a report of today has to be readable
//! by the tool of tomorrow.
//!
//! Figures of one name and unit come together. What sets them apart (`size`, `flows`, `subject`, ...) decides how they are drawn: over
//! each thing that was varied in numbers a line for every combination of the others; where only names differ, bars; several
//! percentiles of one thing as a curve; the stages of one thing as a bar in parts.

use super::chart::{Bar, Point, Scale, Series, Title, bars, lines, stacks};
use serde_json::Value;

/// In the order in which a page has them.
const COMMANDS: [(&str, &str); 6] = [
    ("compare", "Beside its peers"),
    ("throughput", "Throughput"),
    ("latency", "Latency"),
    ("tcp", "TCP"),
    ("engine", "The pipeline from memory"),
    ("policy", "What policy costs"),
];

pub(super) fn title(command: &str) -> &str {
    COMMANDS.iter().find(|(known, _)| *known == command).map_or("Figures", |(_, title)| title)
}

/// Where a command's section stands.
pub(super) fn place(command: &str) -> usize {
    COMMANDS.iter().position(|(known, _)| *known == command).unwrap_or(COMMANDS.len())
}

/// Varied in numbers.
const STEPPED: [&str; 6] = ["size", "flows", "policies", "rules", "streams", "clients"];
const PERCENTILES: [&str; 5] = ["p50", "p90", "p99", "p99.9", "max"];
/// Says how a figure was made, not of what it is.
const ASIDE: &str = "generator";
/// More lines than that nobody tells apart.
const SERIES_MAX: usize = 10;

pub(super) fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

/// Without repetition, in the order they come.
fn distinct<T: PartialEq>(values: impl Iterator<Item = T>) -> Vec<T> {
    let mut found: Vec<T> = Vec::new();
    values.for_each(|value| {
        if !found.contains(&value) {
            found.push(value)
        }
    });
    found
}

fn of<'a>(figure: &'a Value, key: &str) -> Option<&'a str> {
    figure["of"][key].as_str()
}

/// What sets a figure apart, in words, of these keys.
fn apart(figure: &Value, keys: &[&str]) -> String {
    let word = |key: &&str| {
        let value = of(figure, key)?;
        Some(match *key {
            "over" | "subject" | "frames" | "stage" | "quantile" => value.to_owned(),
            "load" if value == "none" => "without load".to_owned(),
            "load" => format!("at {value} load"),
            "size" => format!("size {value}"),
            // "1 flows" is what a program says.
            key if value == "1" => format!(
                "1 {}",
                key.strip_suffix("ies")
                    .map_or_else(|| key.trim_end_matches('s').to_owned(), |k| format!("{k}y"))
            ),
            key => format!("{} {key}", grouped(value)),
        })
    };
    keys.iter().filter_map(word).collect::<Vec<_>>().join(", ")
}

/// Keys by which these differ, and those they have in common.
fn keys<'a>(figures: &[&'a Value]) -> (Vec<&'a str>, Vec<&'a str>) {
    // Who comes first, in every label.
    let first = ["over", "subject", "frames"];
    let all = figures.iter().filter_map(|figure| figure["of"].as_object()).flat_map(|of| of.keys());
    let mut all: Vec<&str> =
        distinct(all.map(String::as_str)).into_iter().filter(|key| *key != ASIDE).collect();
    all.sort_by_key(|key| first.iter().position(|known| known == key).unwrap_or(first.len()));
    all.into_iter().partition(|key| distinct(figures.iter().map(|figure| of(figure, key))).len() > 1)
}

fn point(figure: &Value) -> Point {
    let number = |key: &str| figure[key].as_f64();
    let median = number("median").unwrap_or(f64::NAN);
    Point { median, min: number("min").unwrap_or(median), max: number("max").unwrap_or(median) }
}

/// Steps in the order of their numbers; words behind them.
fn sorted(mut steps: Vec<&str>) -> Vec<&str> {
    let number = |step: &str| step.trim_end_matches([' ', '%']).parse::<f64>().unwrap_or(f64::INFINITY);
    steps.sort_by(|a, b| number(a).total_cmp(&number(b)));
    steps
}

/// Of all documents of one command. A figure that is there twice counts as it was seen last.
pub(super) fn plots(documents: &[&Value]) -> String {
    let mut figures: Vec<&Value> = Vec::new();
    for figure in documents.iter().filter_map(|document| document["figures"].as_array()).flatten() {
        let is_same = |known: &&Value| ["name", "unit", "of"].iter().all(|key| known[key] == figure[key]);
        match figures.iter().position(is_same) {
            Some(at) => figures[at] = figure,
            None => figures.push(figure),
        }
    }
    let (mut plots, curves) = percentiles(&figures);
    figures.retain(|figure| {
        !curves.iter().any(|(name, unit)| {
            (percentile_of(figure).map(|(n, _)| n), text(figure, "unit")) == (Some(*name), *unit)
        })
    });
    let groups = distinct(figures.iter().map(|figure| (text(figure, "name"), text(figure, "unit"))));
    let (mut singles, mut drawn) = (Vec::new(), String::new());
    for (name, unit) in groups {
        let group: Vec<&Value> =
            figures.iter().copied().filter(|f| (text(f, "name"), text(f, "unit")) == (name, unit)).collect();
        match group.as_slice() {
            [single] => singles.push(*single),
            group if of(group[0], "stage").is_some() => drawn += &by_stage(name, unit, group),
            group => drawn += &group_plots(name, unit, group),
        }
    }
    plots = drawn + &plots;
    for unit in distinct(singles.iter().map(|figure| text(figure, "unit"))) {
        let of_unit: Vec<&Value> =
            singles.iter().copied().filter(|figure| text(figure, "unit") == unit).collect();
        let all: Vec<Bar> = of_unit.iter().map(|figure| bar(text(figure, "name"), figure)).collect();
        let title = if let [one] = of_unit.as_slice() { text(one, "name") } else { "Others" };
        plots += &bars(Title { name: title, unit, common: "" }, &all);
    }
    plots
}

fn bar(label: &str, figure: &Value) -> Bar {
    let who = of(figure, "subject").or(of(figure, "over"));
    let is_emphasised = who.is_none_or(|who| who.starts_with("penstock"));
    Bar { label: label.to_owned(), point: point(figure), is_emphasised }
}

/// Lines over each thing that was varied in numbers; bars of what is on none of them.
fn group_plots(name: &str, unit: &str, group: &[&Value]) -> String {
    let (differ, _) = keys(group);
    let mut plots = String::new();
    let mut rest: Vec<&Value> = group.to_vec();
    for axis in STEPPED.into_iter().filter(|key| differ.contains(key)) {
        // What is off an axis, a pair of few, would be a line of one point.
        let with: Vec<&Value> = group.iter().copied().filter(|figure| of(figure, axis).is_some()).collect();
        let others: Vec<&str> = differ.iter().copied().filter(|key| *key != axis).collect();
        let lines_of = distinct(with.iter().map(|figure| apart(figure, &others)));
        let of_line = |line: &String| {
            with.iter().copied().filter(|figure| apart(figure, &others) == *line).collect::<Vec<_>>()
        };
        let long: Vec<Vec<&Value>> = lines_of.iter().map(of_line).filter(|line| line.len() > 1).collect();
        let drawn: Vec<&Value> = long.iter().flatten().copied().collect();
        // Two steps are two bars.
        let is_line = long.iter().any(|line| line.len() > 2);
        if !is_line || long.len() > SERIES_MAX {
            continue;
        }
        let (differ, common) = keys(&drawn);
        let others: Vec<&str> = differ.into_iter().filter(|key| *key != axis).collect();
        let steps = sorted(distinct(drawn.iter().filter_map(|figure| of(figure, axis))));
        let series: Vec<Series> = long
            .iter()
            .map(|line| {
                let at = |step: &&str| {
                    line.iter().find(|figure| of(figure, axis) == Some(step)).map(|figure| point(figure))
                };
                let label = apart(line[0], &others);
                (if label.is_empty() { name.to_owned() } else { label }, steps.iter().map(at).collect())
            })
            .collect();
        let (title, common) = (format!("{name} by {axis}"), apart(drawn[0], &common));
        let steps: Vec<String> = steps.into_iter().map(grouped).collect();
        let words = match axis {
            "size" => "size of a frame, bytes, a wire's checksum included",
            "flows" => "flows",
            other => other,
        };
        let scale = scale(drawn.iter().filter_map(|figure| figure["median"].as_f64()));
        plots += &lines(Title { name: &title, unit, common: &common }, words, &steps, &series, scale);
        rest.retain(|figure| !drawn.iter().any(|drawn| std::ptr::eq(*drawn, *figure)));
    }
    let (differ, common) = keys(&rest);
    let common = rest.first().map(|figure| apart(figure, &common)).unwrap_or_default();
    let label = |figure: &Value| if rest.len() > 1 { apart(figure, &differ) } else { common.clone() };
    let all: Vec<Bar> = rest.iter().map(|figure| bar(&label(figure), figure)).collect();
    let common = if rest.len() > 1 { common.as_str() } else { "" };
    plots + &bars(Title { name, unit, common }, &all)
}

/// What differs more than this is not seen on one scale from zero.
const FROM_ZERO_MAX: f64 = 15.0;

fn scale(values: impl Iterator<Item = f64> + Clone) -> Scale {
    let least = values.clone().fold(f64::INFINITY, f64::min);
    let most = values.fold(0.0, f64::max);
    if least > 0.0 && most > FROM_ZERO_MAX * least { Scale::Logarithmic } else { Scale::FromZero }
}

/// 100000 as people write it.
fn grouped(step: &str) -> String {
    if step.len() < 5 || !step.bytes().all(|byte| byte.is_ascii_digit()) {
        return step.to_owned();
    }
    let digits: Vec<char> = step.chars().collect();
    let groups: Vec<String> = digits.rchunks(3).rev().map(|group| group.iter().collect()).collect();
    groups.join(",")
}

fn by_stage(name: &str, unit: &str, group: &[&Value]) -> String {
    let (differ, common) = keys(group);
    let others: Vec<&str> = differ.into_iter().filter(|key| *key != "stage").collect();
    let stages = distinct(group.iter().filter_map(|figure| of(figure, "stage")));
    let cases = distinct(group.iter().map(|figure| apart(figure, &others)));
    let of_case = |case: String| {
        let at = |stage: &&str| {
            group
                .iter()
                .find(|figure| of(figure, "stage") == Some(stage) && apart(figure, &others) == case)
                .map(|figure| point(figure))
                .map_or(f64::NAN, |point| point.median)
        };
        let values = stages.iter().map(at).collect();
        (case, values)
    };
    let all: Vec<(String, Vec<f64>)> = cases.into_iter().map(of_case).collect();
    let parts: Vec<String> = stages.iter().map(|stage| (*stage).to_owned()).collect();
    let common = apart(group[0], &common);
    stacks(Title { name: &format!("{name}s of a frame"), unit, common: &common }, &parts, &all)
}

/// "frame p99.9" is the 99.9th percentile of "frame".
fn percentile_of(figure: &Value) -> Option<(&str, &'static str)> {
    let (name, last) = text(figure, "name").rsplit_once(' ')?;
    Some((name, PERCENTILES.into_iter().find(|known| *known == last)?))
}

type Names<'a> = Vec<(&'a str, &'a str)>;

/// A curve for each thing of which there are three percentiles and more; and which those are.
fn percentiles<'a>(figures: &[&'a Value]) -> (String, Names<'a>) {
    let (mut plots, mut names) = (String::new(), Vec::new());
    let all = figures.iter().filter_map(|figure| Some((percentile_of(figure)?.0, text(figure, "unit"))));
    for (name, unit) in distinct(all) {
        let group: Vec<&Value> = figures
            .iter()
            .copied()
            .filter(|f| percentile_of(f).is_some_and(|(n, _)| n == name) && text(f, "unit") == unit)
            .collect();
        let steps: Vec<&str> = PERCENTILES
            .into_iter()
            .filter(|step| group.iter().any(|f| percentile_of(f).is_some_and(|(_, p)| p == *step)))
            .collect();
        if steps.len() < 3 {
            continue;
        }
        let (differ, common) = keys(&group);
        let series: Vec<Series> = distinct(group.iter().map(|figure| apart(figure, &differ)))
            .into_iter()
            .map(|label| {
                let at = |step: &&str| {
                    group
                        .iter()
                        .find(|f| {
                            percentile_of(f).is_some_and(|(_, p)| p == *step) && apart(f, &differ) == label
                        })
                        .map(|f| point(f))
                };
                let points = steps.iter().map(at).collect();
                (if label.is_empty() { name.to_owned() } else { label }, points)
            })
            .collect();
        let (title, common) = (format!("{name}: percentiles of the time it takes"), apart(group[0], &common));
        let steps: Vec<String> = steps.iter().map(|step| (*step).to_owned()).collect();
        plots += &lines(
            Title { name: &title, unit, common: &common },
            "percentile",
            &steps,
            &series,
            Scale::Logarithmic,
        );
        names.push((name, unit));
    }
    (plots, names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_cross_of_sizes_flows_and_policies_is_a_line_over_each_of_them() {
        let figure = |size: &str, flows: &str, policies: &str| json!({"name": "pdr", "unit": "Mpps", "median": 1.0, "of": {"size": size, "flows": flows, "policies": policies, "over": "a"}});
        let figures: Vec<Value> = [
            ("64", "1000", "1000"),
            ("imix", "1000", "1000"),
            ("1518", "1000", "1000"),
            ("64", "1", "1000"),
            ("64", "100000", "1000"),
            ("64", "1000", "0"),
            ("64", "1000", "10000"),
        ]
        .into_iter()
        .map(|(size, flows, policies)| figure(size, flows, policies))
        .collect();
        let document = json!({"figures": figures});
        let svg = plots(&[&document]);
        for title in ["pdr by size, Mpps", "pdr by flows, Mpps", "pdr by policies, Mpps"] {
            assert!(svg.contains(title), "{title}");
        }
        assert_eq!(svg.matches("<svg").count(), 3, "nothing is left for bars");
        let place = |step: &str| svg.find(&format!(">{step}</text>")).unwrap();
        assert!(place("64") < place("1518") && place("1518") < place("imix"));
        assert!(svg.contains(">100,000</text>"));
    }

    #[test]
    fn percentiles_are_a_curve_and_not_drawn_again() {
        let figure =
            |name: &str, load: &str| json!({"name": name, "unit": "us", "median": 2.0, "of": {"load": load}});
        let names = ["frame p50", "frame p99", "frame max"];
        let figures: Vec<Value> =
            ["10 %", "90 %"].iter().flat_map(|load| names.iter().map(|name| figure(name, load))).collect();
        let svg = plots(&[&json!({"figures": figures})]);
        assert_eq!(svg.matches("<svg").count(), 1);
        assert_eq!(svg.matches("<polyline").count(), 2);
    }

    #[test]
    fn the_figure_seen_last_counts() {
        let document =
            |median: f64| json!({"figures": [{"name": "x", "unit": "s", "median": median, "of": {}}]});
        let svg = plots(&[&document(3.25), &document(4.75)]);
        assert!(svg.contains(">4.750<") && !svg.contains(">3.250<"), "{svg}");
    }
}
