//! `docs/policy-differences.md`, read by a program: its examples are worlds, and its claims are answers.

use crate::engine::End;
use penstock_oracle::{Attachment, Enforcement, Flow, World};
use serde_json::Value;
use std::path::Path;

pub(crate) struct Example {
    pub(crate) row: String,
    pub(crate) world: World,
    pub(crate) flow: Flow,
    /// 0 is egress, 1 ingress.
    pub(crate) end: usize,
    pub(crate) ours: End,
    pub(crate) theirs: End,
}

pub(crate) fn text() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/policy-differences.md");
    std::fs::read_to_string(path).expect("the document is there")
}

/// The rows of the table, in their order.
pub(crate) fn table(text: &str) -> Vec<&str> {
    text.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect()
}

pub(crate) fn examples(text: &str) -> Vec<Example> {
    let mut sections = text.split_once("## The examples").expect("a chapter of examples").1.split("\n### `");
    let common = objects(sections.next().expect("the cluster of all examples"));
    sections.map(|section| example(&common, section)).collect()
}

fn objects(section: &str) -> Vec<Value> {
    let block =
        section.split("```json\n").nth(1).and_then(|rest| rest.split("```").next()).expect("a block of JSON");
    block
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect()
}

fn example(common: &[Value], section: &str) -> Example {
    let row = section.split('`').next().expect("a name").to_owned();
    let claim = section.trim_end().lines().last().expect("a claim").trim_end_matches('.');
    let no_claim = || -> ! {
        panic!("{row}: 'A to B, TCP 80, egress: deny here, allow in Cilium' is wanted, not {claim:?}")
    };
    let (ends, rest) = claim.split_once(", ").unwrap_or_else(|| no_claim());
    let (from, to) = ends.split_once(" to ").unwrap_or_else(|| no_claim());
    let service: Vec<&str> = rest.split([' ', ',']).filter(|word| !word.is_empty()).collect();
    let [protocol, port, direction, ours, "here", theirs, "in", "Cilium"] = service[..] else { no_claim() };
    let end = |word| match word {
        "open" => End::Open,
        "allow" => End::Allow,
        "deny" => End::Deny,
        _ => no_claim(),
    };
    let mut objects: Vec<Value> = common.to_vec();
    objects.extend(self::objects(section));
    let world = World {
        attached: objects.iter().filter(|object| object["kind"] == "Pod").map(attached).collect(),
        objects,
        node: "node-1".to_owned(),
        host_addresses: ["10.9.0.1", "fd00:9::1"].map(|text| text.parse().expect("an address")).to_vec(),
        enforcement: Enforcement::Default,
        pod_to_host: false,
    };
    let protocol = if protocol == "TCP" { 6 } else { no_claim() };
    let address = |text: &str| text.parse().unwrap_or_else(|_| no_claim());
    Example {
        flow: Flow {
            from: address(from),
            to: address(to),
            protocol,
            port: port.parse().unwrap_or_else(|_| no_claim()),
        },
        end: if direction == "egress:" { 0 } else { 1 },
        ours: end(ours),
        theirs: end(theirs),
        world,
        row,
    }
}

fn attached(pod: &Value) -> Attachment {
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let ips = pod["status"]["podIPs"].as_array().expect("addresses");
    Attachment {
        namespace: text(&pod["metadata"]["namespace"]),
        name: text(&pod["metadata"]["name"]),
        addresses: ips.iter().map(|ip| text(&ip["ip"]).parse().expect("an address")).collect(),
    }
}
