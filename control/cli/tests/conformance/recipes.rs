//! The recipes: what their names promise, over a small world made for them.

use crate::case::{Question, Tally, name_of, namespace, objects_file, pod, yaml_files};
use crate::ends::Cell;
use penstock_control::load::load_file;
use serde_json::{Value, json};
use std::path::Path;

const WEB: &str = "default/web";
const API: &str = "default/api";
const FOO: &str = "default/foo";
const BOOK: &str = "default/book";
const MONITOR: &str = "default/monitor";
const PROD: &str = "prod/client";
const OPS: &str = "ops/monitor";
const OPS_OTHER: &str = "ops/other";
const DNS: &str = "kube-system/dns";
const WORLD: &str = "203.0.113.7";

/// From, to, port (TCP unless said otherwise), allowed.
type Check = (&'static str, &'static str, (&'static str, u16), bool);

const TCP_80: (&str, u16) = ("TCP", 80);

const MEANING: &[(&str, &[Check])] = &[
    (
        "01-deny-all-traffic-to-an-application-1",
        &[
            (API, WEB, TCP_80, false),
            (WORLD, WEB, TCP_80, false),
            (WEB, API, TCP_80, true),
            (WEB, WORLD, TCP_80, true),
        ],
    ),
    (
        "02-limit-traffic-to-an-application-1",
        &[
            (BOOK, API, TCP_80, true),
            (WEB, API, TCP_80, false),
            (PROD, API, TCP_80, false),
            (WORLD, API, TCP_80, false),
        ],
    ),
    (
        "02a-allow-all-traffic-to-an-application-1",
        &[(API, WEB, TCP_80, true), (PROD, WEB, ("UDP", 53), true), (WORLD, WEB, TCP_80, true)],
    ),
    (
        "03-deny-all-non-whitelisted-traffic-in-the-namespace-1",
        &[
            (API, WEB, TCP_80, false),
            (PROD, FOO, TCP_80, false),
            (WEB, PROD, TCP_80, true),
            (WORLD, WEB, TCP_80, false),
        ],
    ),
    (
        "04-deny-traffic-from-other-namespaces-1",
        &[
            (API, WEB, TCP_80, true),
            (PROD, WEB, TCP_80, false),
            (WORLD, WEB, TCP_80, false),
            (WEB, PROD, TCP_80, true),
        ],
    ),
    (
        "05-allow-traffic-from-all-namespaces-1",
        &[(API, WEB, TCP_80, true), (PROD, WEB, TCP_80, true), (WORLD, WEB, TCP_80, false)],
    ),
    (
        "06-allow-traffic-from-a-namespace-1",
        &[(PROD, WEB, TCP_80, true), (API, WEB, TCP_80, false), (OPS, WEB, TCP_80, false)],
    ),
    (
        "07-allow-traffic-from-some-pods-in-another-namespace-1",
        &[
            (OPS, WEB, TCP_80, true),
            (OPS_OTHER, WEB, TCP_80, false),
            (MONITOR, WEB, TCP_80, false),
            (PROD, WEB, TCP_80, false),
        ],
    ),
    (
        "08-allow-external-traffic-1",
        &[(WORLD, WEB, TCP_80, true), (PROD, WEB, ("TCP", 443), true), (WORLD, WEB, ("ICMP", 8), true)],
    ),
    (
        "09-allow-traffic-only-to-a-port-1",
        &[
            (MONITOR, "default/apiserver", ("TCP", 5000), true),
            (MONITOR, "default/apiserver", ("TCP", 8000), false),
            (MONITOR, "default/apiserver", ("UDP", 5000), false),
            (WEB, "default/apiserver", ("TCP", 5000), false),
        ],
    ),
    (
        "10-allowing-traffic-with-multiple-selectors-1",
        &[
            ("default/search", "default/db", TCP_80, true),
            (API, "default/db", TCP_80, true),
            ("default/inventory", "default/db", TCP_80, true),
            (BOOK, "default/db", TCP_80, false),
            ("prod/api", "default/db", TCP_80, false),
        ],
    ),
    (
        "11-deny-egress-traffic-from-an-application-1",
        &[
            (FOO, WEB, TCP_80, false),
            (FOO, DNS, ("UDP", 53), false),
            (FOO, WORLD, TCP_80, false),
            (WEB, FOO, TCP_80, true),
        ],
    ),
    (
        "11-deny-egress-traffic-from-an-application-2",
        &[
            (FOO, WEB, TCP_80, false),
            (FOO, DNS, ("UDP", 53), true),
            (FOO, DNS, ("TCP", 53), true),
            (FOO, "kube-system/other", ("UDP", 53), false),
            (FOO, WORLD, ("UDP", 53), false),
        ],
    ),
    (
        "12-deny-all-non-whitelisted-traffic-from-the-namespace-1",
        &[
            (WEB, API, TCP_80, false),
            (FOO, WORLD, TCP_80, false),
            (PROD, WEB, TCP_80, true),
            (WORLD, WEB, TCP_80, true),
        ],
    ),
    (
        "14-deny-external-egress-traffic-1",
        &[
            (FOO, WORLD, TCP_80, false),
            (FOO, DNS, ("UDP", 53), true),
            (FOO, DNS, ("UDP", 54), false),
            (WEB, WORLD, TCP_80, true),
        ],
    ),
];

fn world() -> Vec<Value> {
    let namespaces = [
        ("default", json!({})),
        ("prod", json!({"purpose": "production"})),
        ("ops", json!({"team": "operations"})),
        ("kube-system", json!({})),
    ];
    let pods = [
        (WEB, json!({"app": "web"})),
        (API, json!({"app": "bookstore", "role": "api"})),
        (BOOK, json!({"app": "bookstore"})),
        ("default/db", json!({"app": "bookstore", "role": "db"})),
        ("default/search", json!({"app": "bookstore", "role": "search"})),
        ("default/inventory", json!({"app": "inventory", "role": "web"})),
        ("default/apiserver", json!({"app": "apiserver"})),
        (MONITOR, json!({"role": "monitoring", "type": "monitoring"})),
        (FOO, json!({"app": "foo"})),
        (PROD, json!({"app": "client"})),
        ("prod/api", json!({"app": "bookstore", "role": "api"})),
        (OPS, json!({"type": "monitoring"})),
        (OPS_OTHER, json!({"type": "other"})),
        (DNS, json!({"k8s-app": "kube-dns"})),
        ("kube-system/other", json!({"k8s-app": "other"})),
    ];
    let mut world: Vec<Value> = namespaces.iter().map(|(name, labels)| namespace(name, labels)).collect();
    for (number, (name, labels)) in (1..).zip(&pods) {
        world.push(pod(name, labels, &json!(format!("10.2.0.{number}")), &json!([])));
    }
    world
}

pub(crate) fn meaning(corpus: &Path) -> Tally {
    let mut tally = Tally::new("ahmetb-recipes");
    let temporary = tempfile::tempdir().expect("a temporary folder");
    let world = objects_file(temporary.path(), &world());
    for (name, checks) in MEANING {
        let recipe = corpus.join("ahmetb-recipes").join(format!("{name}.yaml"));
        let questions: Vec<Question> = checks
            .iter()
            .map(|(from, to, service, allowed)| Question::new(from, to, *service, Cell::allowed(*allowed)))
            .collect();
        tally.ask(name, &[world.clone(), recipe], &questions);
        tally.cases += 1;
    }
    tally
}

/// Files of the folder that are pieces of text and no objects: refused like any other text.
pub(crate) fn fragments(corpus: &Path) -> Tally {
    let mut tally = Tally::new("ahmetb-recipes, fragments");
    for file in yaml_files(&corpus.join("ahmetb-recipes")) {
        let name = name_of(&file);
        if MEANING.iter().any(|(known, _)| name == format!("{known}.yaml")) {
            continue;
        }
        let report = load_file(&file);
        tally.check(report.objects.is_empty() && !report.errors.is_empty(), || {
            format!("{name} is in no table, and was read as an object")
        });
        tally.cases += 1;
    }
    tally
}
