//! The table of supported fields says what the loader and the compiler do, and leaves no field out.

use penstock_control::compile::Compiler;
use penstock_control::load::{FileReport, load_text};
use std::collections::BTreeMap;
use std::path::Path;

/// Every field of a rule of Cilium 1.19, of ingress and egress; what is deeper is in their examples.
const CILIUM_FIELDS: &[&str] = &[
    "endpointSelector",
    "endpointSelector.matchLabels",
    "endpointSelector.matchExpressions",
    "nodeSelector",
    "ingress",
    "ingressDeny",
    "egress",
    "egressDeny",
    "enableDefaultDeny.ingress",
    "enableDefaultDeny.egress",
    "labels",
    "description",
    "log.value",
];
const BOTH: &[&str] = &[
    "toPorts[].ports[].port",
    "toPorts[].ports[].endPort",
    "toPorts[].ports[].protocol",
    "toPorts[].rules.http",
    "toPorts[].rules.kafka",
    "toPorts[].rules.dns",
    "toPorts[].rules.l7proto",
    "toPorts[].serverNames",
    "toPorts[].terminatingTLS",
    "toPorts[].originatingTLS",
    "toPorts[].listener",
    "icmps[].fields[].type",
    "icmps[].fields[].family",
    "authentication.mode",
];
const PEERS: &[&str] = &[
    "Endpoints",
    "Entities",
    "CIDR",
    "CIDRSet[].cidr",
    "CIDRSet[].except",
    "CIDRSet[].cidrGroupRef",
    "CIDRSet[].cidrGroupSelector",
    "Nodes",
    "Groups",
    "Requires",
];
const EGRESS_PEERS: &[&str] = &[
    "toServices[].k8sService",
    "toServices[].k8sServiceSelector",
    "toFQDNs[].matchName",
    "toFQDNs[].matchPattern",
];

struct Row {
    heading: String,
    field: String,
    support: String,
    example: String,
}

fn rows() -> Vec<Row> {
    let guide = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/policy-support.md");
    let text = std::fs::read_to_string(guide).unwrap();
    let mut heading = String::new();
    let mut rows = Vec::new();
    for line in text.lines() {
        if let Some(title) = line.strip_prefix('#') {
            heading = title.trim_start_matches('#').trim().to_owned();
        }
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let code = |cell: &str| cell.strip_prefix('`').and_then(|c| c.strip_suffix('`')).map(str::to_owned);
        if let [field, support, example] = cells.as_slice()
            && let (Some(field), Some(example)) = (code(field), code(example))
        {
            rows.push(Row { heading: heading.clone(), field, support: (*support).to_owned(), example });
        }
    }
    rows
}

/// The object an example stands for, and where its field is.
fn object(row: &Row) -> (String, String) {
    let object = |version: &str, kind: &str, spec: &str| {
        format!("apiVersion: {version}\nkind: {kind}\nmetadata: {{name: p}}\nspec: {spec}\n")
    };
    let path = format!("spec.{}", row.field.replace("[]", "[0]"));
    let kind = match row.field.as_str() {
        "nodeSelector" => "CiliumClusterwideNetworkPolicy",
        _ => "CiliumNetworkPolicy",
    };
    let text = match row.heading.as_str() {
        "NetworkPolicy" => object("networking.k8s.io/v1", "NetworkPolicy", &row.example),
        "CiliumCIDRGroup" => object("cilium.io/v2", "CiliumCIDRGroup", &row.example),
        heading if heading.starts_with("Items") => {
            let section = row.field.split('[').next().unwrap();
            let spec = format!("{{endpointSelector: {{}}, {section}: [{}]}}", row.example);
            object("cilium.io/v2", kind, &spec)
        }
        _ => object("cilium.io/v2", kind, &row.example),
    };
    (text, path)
}

fn load(text: &str) -> FileReport {
    load_text(Path::new("example.yaml"), text)
}

/// What the loader named, and what the compiler adds to it.
fn not_enforced(report: &FileReport) -> Vec<String> {
    let mut compiler = Compiler::new();
    report.objects.iter().for_each(|loaded| compiler.apply(loaded.object.clone()));
    compiler.not_enforced().into_iter().map(|(_, gap)| gap.field).collect()
}

#[test]
fn every_row_says_what_is_done_with_its_example() {
    let rows = rows();
    assert!(rows.len() > 70, "{}", rows.len());
    for row in &rows {
        let (text, path) = object(row);
        let report = load(&text);
        let name = format!("{}: {}", row.heading, row.field);
        if row.support == "refused" {
            let at_field = |field: &str| path.starts_with(field) && field.len() > "spec.ingress[0]".len();
            let named = report.errors.iter().any(|error| error.field.as_deref().is_some_and(at_field));
            assert!(report.objects.is_empty() && named, "{name}: {:#?}", report.errors);
            continue;
        }
        assert_eq!(report.errors, [], "{name}");
        let gaps = not_enforced(&report);
        match row.support.as_str() {
            "enforced" | "no effect" => {
                assert_eq!(gaps, [] as [String; 0], "{name}");
                assert_eq!(report.notices, [], "{name}");
            }
            "not enforced yet" => {
                assert!(
                    !gaps.is_empty() && gaps.iter().all(|gap| path.starts_with(gap.as_str())),
                    "{name}: {gaps:?}"
                );
            }
            other => panic!("{name}: {other:?} is not one of the words"),
        }
        // The example is about the field: without it, it would say something else.
        let last = row.field.rsplit(['.', ']']).find(|part| !part.is_empty()).unwrap();
        assert!(row.example.contains(&format!("{last}:")), "{name}");
    }
}

#[test]
fn no_field_is_left_out_and_none_stands_twice() {
    let mut listed: BTreeMap<(bool, String), usize> = BTreeMap::new();
    for row in rows() {
        *listed.entry((row.heading == "NetworkPolicy", row.field)).or_default() += 1;
    }
    let twice: Vec<_> = listed.iter().filter(|(_, count)| **count > 1).collect();
    assert!(twice.is_empty(), "{twice:?}");
    let mut wanted: Vec<String> = CILIUM_FIELDS.iter().map(|field| (*field).to_owned()).collect();
    for (section, prefix) in [("ingress", "from"), ("egress", "to")] {
        wanted.extend(BOTH.iter().map(|field| format!("{section}[].{field}")));
        wanted.extend(PEERS.iter().map(|field| format!("{section}[].{prefix}{field}")));
    }
    wanted.extend(EGRESS_PEERS.iter().map(|field| format!("egress[].{field}")));
    wanted.push("externalCIDRs".to_owned());
    let missing: Vec<_> = wanted.iter().filter(|f| !listed.contains_key(&(false, (*f).clone()))).collect();
    assert!(missing.is_empty(), "{missing:?}");
    let of_cilium = listed.keys().filter(|(is_kubernetes, _)| !is_kubernetes).count();
    assert_eq!(of_cilium, wanted.len(), "a field that no API has");
}

#[test]
fn items_of_deny_lists_have_the_same_fields_but_those_named() {
    for row in rows().iter().filter(|row| row.heading.starts_with("Items")) {
        let (text, _) = object(row);
        let section = row.field.split('[').next().unwrap();
        let report = load(&text.replace(&format!(" {section}: ["), &format!(" {section}Deny: [")));
        let only_allowed = ["toFQDNs", "authentication", "rules", "serverNames", "TLS", "listener"];
        let is_only_allowed = only_allowed.iter().any(|part| row.field.contains(part));
        assert_eq!(report.objects.is_empty(), is_only_allowed, "{}: {:?}", row.field, report.errors);
    }
}
