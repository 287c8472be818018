//! The page: plots first, then who measured what on which machine, then every figure. XML, so that it can be checked; inline, so
//! that it can be sent.

use super::sections;
use serde_json::Value;
use std::fmt::Write;

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:820px;margin:2em auto;padding:0 1em;color:#1c2430}\
h1{font-size:1.7em}h2{border-bottom:1px solid #ccd;margin-top:2em}svg{width:100%;margin:1em 0;font:12px sans-serif}\
.title{font-weight:bold;font-size:14px}table{border-collapse:collapse;font-size:13px}td,th{padding:2px 10px 2px 0;\
text-align:left;vertical-align:top;border-bottom:1px solid #eee;overflow-wrap:anywhere}.reached{color:#1d7a2c}\
.missed{color:#b3202c}.not_measured,.not_comparable{color:#777}summary{cursor:pointer}";

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

/// Of files by their names.
pub(super) fn page(documents: &[(String, Value)]) -> String {
    let mut html = format!(
        "<!DOCTYPE html>\n<html lang='en'><head><meta charset='utf-8'/><title>Penstock: measurements</title><meta \
         name='viewport' content='width=device-width'/><style>{STYLE}</style></head><body>\n<h1>Penstock: \
         measurements</h1>\n<p>Medians; thin lines are the smallest and the largest round. Only ratios of one run mean anything on \
         another machine.</p>\n"
    );
    for (name, document) in documents {
        let _ = write!(html, "<h2>{}</h2>\n<p>{}</p>\n", sections::title(document), escaped(name));
        html += &facts(document);
        html += &verdicts(document);
        html += &sections::plots(document);
        html += "<details><summary>Every figure</summary><table>";
        every(document, "", &mut html);
        html += "</table></details>\n";
    }
    html + "</body></html>\n"
}

/// The machine, the method, who took part and who did not.
fn facts(document: &Value) -> String {
    let mut rows = String::new();
    let mut row = |key: &str, value: &str| {
        if !value.is_empty() {
            let _ = write!(rows, "<tr><th>{}</th><td>{}</td></tr>", escaped(key), escaped(value));
        }
    };
    for key in ["version", "machine", "method", "placement"] {
        row(key, &words(&document[key]));
    }
    for (key, value) in document["versions"].as_object().into_iter().flatten() {
        row(key, &words(value));
    }
    for (list, says) in [("subjects", "is"), ("skipped", "reason")] {
        for who in document[list].as_array().into_iter().flatten() {
            let skipped = if list == "skipped" { "skipped: " } else { "" };
            row(&words(&who["subject"]), &format!("{skipped}{}", words(&who[says])));
        }
    }
    if rows.is_empty() { rows } else { format!("<table>{rows}</table>\n") }
}

/// A value as a person would say it.
fn words(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        Value::Object(fields) => {
            let parts: Vec<String> = fields
                .iter()
                .map(|(key, value)| format!("{}: {}", key.replace('_', " "), words(value)))
                .collect();
            parts.join(", ")
        }
        other => other.to_string(),
    }
}

/// Targets: of a comparison, of the pipeline, of policy.
fn verdicts(document: &Value) -> String {
    let mut rows = String::new();
    for verdict in document["verdicts"].as_array().into_iter().flatten() {
        let outcome = words(&verdict["outcome"]);
        let _ = write!(
            rows,
            "<tr><td>{}</td><td>{}</td><td>{}</td><td class='{}'>{}</td></tr>",
            escaped(&words(&verdict["what"])),
            escaped(&words(&verdict["value"])),
            escaped(&words(&verdict["target"])),
            escaped(&outcome),
            escaped(&outcome.replace('_', " "))
        );
    }
    for ratio in document["ratios"].as_array().into_iter().flatten() {
        let target = words(&ratio["at_least"]);
        let _ = write!(
            rows,
            "<tr><td>{}</td><td>{}</td><td>{}</td><td></td></tr>",
            escaped(&words(&ratio["what"])),
            escaped(&words(&ratio["value"])),
            if target.is_empty() { target } else { format!("at least {}", escaped(&target)) }
        );
    }
    match rows.is_empty() {
        true => rows,
        false => {
            format!("<table><tr><th>target</th><th>measured</th><th>asked</th><th></th></tr>{rows}</table>\n")
        }
    }
}

/// A row for every number and word in it, with the way there.
fn every(value: &Value, path: &str, html: &mut String) {
    let below = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path} / {key}") };
    match value {
        Value::Object(fields) => fields.iter().for_each(|(key, value)| every(value, &below(key), html)),
        Value::Array(values) if values.iter().all(|v| !v.is_object() && !v.is_array()) => {
            let all: Vec<String> = values.iter().map(words).collect();
            let _ = write!(html, "<tr><td>{}</td><td>{}</td></tr>", escaped(path), escaped(&all.join(", ")));
        }
        Value::Array(values) => {
            for (n, value) in values.iter().enumerate() {
                // What an entry is about says more than its number.
                let named: Vec<&str> = ["measurement", "subject", "what", "name"]
                    .iter()
                    .filter_map(|key| value[*key].as_str())
                    .collect();
                let key = if named.is_empty() { (n + 1).to_string() } else { named.join(", ") };
                every(value, &below(&key), html);
            }
        }
        other => {
            let _ = write!(html, "<tr><td>{}</td><td>{}</td></tr>", escaped(path), escaped(&words(other)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn documents() -> Vec<(String, Value)> {
        let compare = json!({
            "kind": "compare", "version": "0.1.0", "machine": "2 CPUs: AMD <EPYC> & co", "method": "5 rounds", "placement": "CPU 0",
            "subjects": [{"subject": "kernel bridge", "is": "Linux 6.18"}],
            "skipped": [{"subject": "OVS afxdp", "reason": "'ovs-vswitchd' is not installed"}],
            "rows": [
                {"measurement": "UDP 64 B, Mpps", "subject": "penstock userspace", "median": 0.7831, "min": 0.61, "max": 0.8017,
                 "rounds": [0.7831, 0.61, 0.8017], "lost": {"median": 0.2913}, "ratios": []},
                {"measurement": "UDP 64 B, Mpps", "subject": "kernel bridge", "median": 0.7321, "min": 0.7111, "max": 0.7512,
                 "rounds": [0.7321], "lost": null, "ratios": [{"ours": "penstock userspace", "times": 1.0697}]},
                {"measurement": "from memory, 1,000 flows, conntrack, 1,000 rules, Mpps", "subject": "penstock engine", "median": 17.3},
                {"measurement": "from memory, 10,000 flows, conntrack, 1,000 rules, Mpps", "subject": "penstock engine", "median": 12.9},
            ],
            "verdicts": [{"what": "UDP", "target": {"at_least": 1.53}, "value": 0.8331, "outcome": "missed"}],
        });
        let throughput = json!({
            "command": "throughput", "machine": {"cpus": 2, "model": "AMD", "load_before": 0.37}, "method": "RFC 2544",
            "versions": {"linux": "6.18.44"}, "placement": "",
            "figures": [
                {"name": "ndr", "unit": "Mpps", "median": 0.4123, "min": 0.4, "max": 0.42, "samples": [0.4123], "of": {"size": "64", "flows": "1"}},
                {"name": "ndr", "unit": "Mpps", "median": 0.3777, "min": 0.3, "max": 0.39, "samples": [0.3777], "of": {"size": "1518", "flows": "1"}},
                {"name": "ndr", "unit": "Mpps", "median": null, "min": null, "max": null, "samples": [], "of": {"size": "9000", "flows": "1"}},
            ],
        });
        let latency = json!({"command": "latency", "figures": [
            {"name": "p50", "unit": "us", "median": 31.7, "of": {"load": "10 %"}},
            {"name": "p99.9", "unit": "us", "median": 207.4, "of": {"load": "10 %"}},
        ]});
        let engine = json!({"frame_bytes": 60, "bare": {"median": 31.9}, "ratios": [{"what": "1M beside 1k", "value": 0.571, "at_least": 0.5}],
        "rows": [
            {"kind": "hit", "flows": 1000, "rules": 1000, "mpps": {"median": 17.31, "rounds": [17.31]}, "ns_per_frame": 57.77},
            {"kind": "hit", "flows": 1_000_000, "rules": 1000, "mpps": {"median": 9.88, "rounds": [9.88]}, "ns_per_frame": 101.2},
        ]});
        let policy = json!([{"what": "compiling", "value": 0.0512, "unit": "s", "target": {"at_most": 2.0}}]);
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
        // UDP and two from memory, and their scaling; ndr by size; percentiles; the pipeline by flows; policy.
        assert_eq!(elements("svg"), 8);
    }

    #[test]
    fn every_figure_of_the_input_is_on_the_page() {
        let documents = documents();
        let page = page(&documents);
        let mut all = Vec::new();
        documents.iter().for_each(|(_, document)| numbers(document, &mut all));
        assert!(all.len() > 40);
        for number in all {
            let is_there = [">", ", "].iter().any(|before| page.contains(&format!("{before}{number}")));
            assert!(is_there, "{number} is missing");
        }
    }

    #[test]
    fn what_a_file_says_cannot_become_markup() {
        let hostile = json!({"kind": "compare", "machine": "</td><script>x</script>", "rows": [
            {"measurement": "<b>'\"&\u{0}", "subject": "</svg>", "median": 1.0, "min": 1.0, "max": 1.0}]});
        let page = page(&[("<i>.json".to_owned(), hostile)]);
        assert!(!page.contains("<script>") && !page.contains("<b>") && !page.contains("<i>"));
        let options = roxmltree::ParsingOptions { allow_dtd: true, ..Default::default() };
        roxmltree::Document::parse_with_options(&page, options).unwrap();
    }
}
