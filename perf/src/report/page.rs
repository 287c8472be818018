//! The page: the machine, then for each command plots, targets, who measured what and how, and every figure. XML, so that it can be
//! checked; inline, so that it can be sent.

use super::sections::{self, text};
use crate::figures::FIELDS;
use serde_json::Value;
use std::fmt::Write;

const STYLE: &str = ":root{color-scheme:light}body{font:15px/1.5 system-ui,sans-serif;max-width:840px;margin:2em auto;padding:0 1em;\
color:#1c2430;background:#fff}h1{font-size:1.7em}h2{border-bottom:1px solid #ccd;margin-top:2em}svg{width:100%;margin:.8em 0;\
font:12px sans-serif;fill:#1c2430}.title{font-weight:bold;font-size:14px}.common,.axis{fill:#5a6472}table{border-collapse:collapse;\
font-size:13px;margin:.5em 0}td,th{padding:2px 12px 2px 0;text-align:left;vertical-align:top;border-bottom:1px solid #eee}\
.n{text-align:right;white-space:nowrap}.wide{overflow-x:auto}.reached{color:#1d7a2c}.missed{color:#b3202c}\
.not_measured,.not_comparable{color:#666}.reached,.missed,.not_measured,.not_comparable{white-space:nowrap}summary{cursor:pointer}";

/// Text as XML wants it, also within single quotes.
pub(super) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\'' => out.push_str("&#39;"),
            '"' => out.push_str("&#34;"),
            // XML has no word for these.
            c if c.is_control() && !matches!(c, '\n' | '\t') => out.push('\u{fffd}'),
            '\u{fffe}' | '\u{ffff}' => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// Of files by their names; those of one command together.
pub(super) fn page(documents: &[(String, Value)]) -> String {
    let mut html = format!(
        "<!DOCTYPE html>\n<html lang='en'><head><meta charset='utf-8'/><title>Penstock: measurements</title><meta \
         name='viewport' content='width=device-width'/><style>{STYLE}</style></head><body>\n<h1>Penstock: \
         measurements</h1>\n<p>Medians; thin lines are the smallest and the largest sample, a cross is what was looked for and not found. Only ratios of one run mean anything on \
         another machine.</p>\n"
    );
    html += &machines(documents);
    let mut commands: Vec<&str> = Vec::new();
    for (_, document) in documents {
        let command = text(document, "command");
        if !commands.contains(&command) {
            commands.push(command);
        }
    }
    commands.sort_by_key(|command| sections::place(command));
    for command in commands {
        let of: Vec<&(String, Value)> =
            documents.iter().filter(|(_, d)| text(d, "command") == command).collect();
        let all: Vec<&Value> = of.iter().map(|(_, document)| document).collect();
        let _ = writeln!(html, "<h2>{}</h2>", escaped(sections::title(command)));
        html += &sections::plots(&all);
        for (name, document) in of {
            html += &verdicts(document);
            let _ = write!(html, "<details><summary>{}: how it was measured</summary>", escaped(name));
            html += &facts(document);
            html += "</details>\n";
            let _ =
                write!(html, "<details><summary>{}: every figure</summary><div class='wide'>", escaped(name));
            html += &figures(document);
            html += &ratios(document);
            html += &others(document);
            html += "</div></details>\n";
        }
    }
    html + "</body></html>\n"
}

/// Each machine once, and what there was to do on it before each file's measurement.
fn machines(documents: &[(String, Value)]) -> String {
    let mut said: Vec<String> = Vec::new();
    let mut loads = String::new();
    for (name, document) in documents {
        let machine = &document["machine"];
        let word = |key: &str| escaped(&words(&machine[key]));
        let machine = format!(
            "{} {}CPUs ({}), {} MiB, Linux {}",
            word("cpus"),
            if machine["is_virtual"] == true { "virtual " } else { "" },
            word("model"),
            word("memory_mib"),
            word("kernel")
        );
        if !said.contains(&machine) {
            said.push(machine);
        }
        let _ = write!(
            loads,
            "{}{}: {}",
            if loads.is_empty() { "" } else { ", " },
            escaped(name),
            word("load_before")
        );
    }
    format!("<p><b>{}</b><br/>Load average before: {loads}</p>\n", said.join("<br/>"))
}

/// The method, who took part and who did not.
fn facts(document: &Value) -> String {
    let mut rows = String::new();
    let mut row = |key: &str, value: &str| {
        if !value.is_empty() {
            let _ = write!(rows, "<tr><th>{}</th><td>{}</td></tr>", escaped(key), escaped(value));
        }
    };
    for key in ["method", "placement"] {
        row(key, text(document, key));
    }
    for subject in list(document, "subjects") {
        row(text(subject, "subject"), &format!("{}; {}", text(subject, "version"), text(subject, "is")));
    }
    for skipped in list(document, "skipped") {
        row(text(skipped, "subject"), &format!("skipped: {}", text(skipped, "reason")));
    }
    for (key, value) in document["versions"].as_object().into_iter().flatten() {
        if !list(document, "subjects").iter().any(|subject| text(subject, "subject") == key) {
            row(key, &words(value));
        }
    }
    format!("<table>{rows}</table>\n")
}

fn list<'a>(document: &'a Value, key: &str) -> &'a [Value] {
    document[key].as_array().map_or(&[], Vec::as_slice)
}

/// A value as a person would say it.
fn words(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        Value::Array(values) => values.iter().map(words).collect::<Vec<_>>().join(", "),
        Value::Object(fields) => {
            let parts: Vec<String> = fields
                .iter()
                .map(|(key, value)| format!("{} {}", key.replace('_', " "), words(value)))
                .collect();
            parts.join(", ")
        }
        other => other.to_string(),
    }
}

/// Rows of cells under a head; numbers stand at the right.
fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let head: String = head.iter().map(|cell| format!("<th>{cell}</th>")).collect();
    let cell = |cell: &String| match cell.parse::<f64>() {
        Ok(_) => format!("<td class='n'>{}</td>", escaped(cell)),
        Err(_) => format!("<td>{}</td>", escaped(cell)),
    };
    let rows: String =
        rows.iter().map(|row| format!("<tr>{}</tr>\n", row.iter().map(cell).collect::<String>())).collect();
    format!("<table><tr>{head}</tr>\n{rows}</table>\n")
}

/// Targets, and what became of them.
fn verdicts(document: &Value) -> String {
    let mut rows = String::new();
    for verdict in list(document, "verdicts") {
        let outcome = text(verdict, "outcome");
        let aim = verdict["aim"].as_f64().map_or_else(String::new, |aim| format!(", aim {aim}"));
        let _ = writeln!(
            rows,
            "<tr><td>{}</td><td class='n'>{}</td><td>{}{aim}</td><td class='{}'>{}</td></tr>",
            escaped(text(verdict, "what")),
            verdict["value"]
                .as_f64()
                .map_or_else(String::new, |value| format!("<span title='{value}'>{value:.2}</span>")),
            escaped(&words(&verdict["target"])),
            escaped(outcome),
            escaped(&outcome.replace('_', " "))
        );
    }
    match rows.is_empty() {
        true => rows,
        false => {
            format!(
                "<table><tr><th>target</th><th>measured</th><th>asked</th><th></th></tr>\n{rows}</table>\n"
            )
        }
    }
}

fn figures(document: &Value) -> String {
    let head = [
        "figure",
        "of",
        "median",
        "min",
        "max",
        "unit",
        "samples",
        "offered",
        "lost",
        "note",
        "whose, where",
    ];
    let row = |figure: &Value| {
        let mut row = vec![words(&figure["name"]), words(&figure["of"])];
        row.extend(["median", "min", "max", "unit", "samples"].map(|key| words(&figure[key])));
        row.extend(["offered", "lost", "note"].map(|key| words(&figure[key])));
        row.push([words(&figure["version"]), words(&figure["placement"])].join(" "));
        row
    };
    table(&head, &list(document, "figures").iter().map(row).collect::<Vec<_>>())
}

fn ratios(document: &Value) -> String {
    let row = |ratio: &Value| ["what", "of", "to", "value", "known"].map(|key| words(&ratio[key])).to_vec();
    table(
        &["ratio", "of", "to", "times", "known"],
        &list(document, "ratios").iter().map(row).collect::<Vec<_>>(),
    )
}

/// What a later tool may have written beside.
fn others(document: &Value) -> String {
    let others =
        document.as_object().into_iter().flatten().filter(|(key, _)| !FIELDS.contains(&key.as_str()));
    table(&["other", ""], &others.map(|(key, value)| vec![key.clone(), words(value)]).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn documents() -> Vec<(String, Value)> {
        let of_compare = |name: &str, unit: &str, subject: &str, median: f64| {
            json!({"name": name, "unit": unit, "median": median, "min": median - 0.0101, "max": median + 0.0103, "samples": [median],
                   "of": {"subject": subject}, "offered": {"median": 3.7171}, "lost": {"median": 0.2913}, "version": "3.1",
                   "placement": "CPU 0", "note": ""})
        };
        let compare = json!({
            "command": "compare", "machine": {"cpus": 2, "model": "AMD <EPYC> & co", "load_before": 0.37}, "method": "5 rounds",
            "placement": "CPU 0", "versions": {"linux": "6.18.44"},
            "subjects": [{"subject": "kernel bridge", "version": "Linux 6.18", "is": "a bridge"}],
            "skipped": [{"subject": "OVS afxdp", "reason": "'ovs-vswitchd' is not installed"}],
            "figures": [
                of_compare("UDP 64 B", "Mpps", "penstock userspace", 0.7831),
                of_compare("UDP 64 B", "Mpps", "kernel bridge", 0.7321),
                {"name": "from memory", "unit": "Mpps", "median": 17.3, "of": {"subject": "penstock engine", "flows": "1000"}},
                {"name": "from memory", "unit": "Mpps", "median": 12.9, "of": {"subject": "penstock engine", "flows": "10000"}},
            ],
            "ratios": [{"what": "UDP", "of": "penstock userspace", "to": "kernel bridge", "value": 1.0697, "known": 1.29}],
            "verdicts": [{"what": "UDP", "target": {"at_least": 1.53}, "value": 0.8331, "outcome": "missed", "aim": 2.25}],
        });
        let throughput = json!({
            "command": "throughput", "machine": {"cpus": 2, "model": "AMD", "load_before": 0.38}, "method": "RFC 2544",
            "versions": {"linux": "6.18.44"}, "placement": "",
            "figures": [
                {"name": "ndr", "unit": "Mpps", "median": 0.4123, "min": 0.4, "max": 0.42, "samples": [0.4123], "of": {"size": "64", "flows": "1"}},
                {"name": "ndr", "unit": "Mpps", "median": 0.3777, "min": 0.3, "max": 0.39, "samples": [0.3777], "of": {"size": "1518", "flows": "1"}},
                {"name": "ndr", "unit": "Mpps", "median": null, "min": null, "max": null, "samples": [], "of": {"size": "9000", "flows": "1"}},
            ],
        });
        let latency = json!({"command": "latency", "machine": {}, "of tomorrow": 47.11, "figures": [
            {"name": "frame p50", "unit": "us", "median": 31.7, "of": {"load": "10 %"}},
            {"name": "frame p99", "unit": "us", "median": 101.7, "of": {"load": "10 %"}},
            {"name": "frame p99.9", "unit": "us", "median": 207.4, "of": {"load": "10 %"}},
        ]});
        let engine = json!({"command": "engine", "machine": {}, "figures": [
            {"name": "stage", "unit": "ns", "median": 17.31, "of": {"stage": "parse", "flows": "1000"}},
            {"name": "stage", "unit": "ns", "median": 9.88, "of": {"stage": "send", "flows": "1000"}},
        ]});
        let policy = json!({"command": "policy", "machine": {}, "figures": [{"name": "compiling", "unit": "s", "median": 0.0512, "of": {}}],
            "verdicts": [{"what": "compiling, s", "value": 0.0512, "target": {"at_most": 2.0}, "outcome": "reached"}]});
        [
            ("c.json", compare),
            ("t.json", throughput),
            ("l.json", latency),
            ("e.json", engine),
            ("p.json", policy),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
    }

    fn numbers(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Number(number) => found.push(number.to_string()),
            Value::Array(values) => values.iter().for_each(|value| numbers(value, found)),
            Value::Object(fields) => fields.values().for_each(|value| numbers(value, found)),
            _ => {}
        }
    }

    #[test]
    fn the_page_is_well_formed_and_asks_for_nothing_from_elsewhere() {
        let page = page(&documents());
        let options = roxmltree::ParsingOptions { allow_dtd: true, ..Default::default() };
        let tree = roxmltree::Document::parse_with_options(&page, options).unwrap();
        for outside in ["://", "url(", "@import"] {
            assert!(!page.contains(outside), "{outside}");
        }
        let elements = |name: &str| tree.descendants().filter(|node| node.has_tag_name(name)).count();
        assert_eq!(elements("script") + elements("link") + elements("img"), 0);
        // UDP, from memory by flows; ndr by size; percentiles; stages; policy.
        assert_eq!(elements("svg"), 6);
    }

    #[test]
    fn every_figure_of_the_input_is_on_the_page() {
        let documents = documents();
        let page = page(&documents);
        let mut all = Vec::new();
        documents.iter().for_each(|(_, document)| numbers(document, &mut all));
        assert!(all.len() > 30, "{}", all.len());
        for number in all {
            let is_there =
                [">", ", ", " ", "'"].iter().any(|before| page.contains(&format!("{before}{number}")));
            assert!(is_there, "{number} is missing");
        }
    }

    #[test]
    fn what_a_file_says_cannot_become_markup() {
        let hostile = json!({"command": "<u>", "machine": {"model": "</td><script>x</script>"}, "<s>": "<s>", "figures": [
            {"name": "<b>'\"&\u{0}", "unit": "</svg>", "median": 1.0, "min": 1.0, "max": 1.0, "of": {"subject": "</svg>", "<p>": "<a>"}}],
            "verdicts": [{"what": "<i>", "outcome": "'><i>", "target": {"<i>": "<i>"}}]});
        let page = page(&[("<i>.json".to_owned(), hostile)]);
        for markup in ["<script>", "<b>'", "<i>", "<u>", "<s>", "<a>", "<p>\u{0}"] {
            assert!(!page.contains(markup), "{markup}");
        }
        let options = roxmltree::ParsingOptions { allow_dtd: true, ..Default::default() };
        roxmltree::Document::parse_with_options(&page, options).unwrap();
    }
}
