//! The policies of four guides: what they allow, and the same texts with their indentation lost, which none may accept.

use crate::case::{Question, Tally, name_of, namespace, objects_file, pod, read, read_json, yaml_files};
use crate::ends::Cell;
use penstock_control::load::load_file;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// The checks of `truth_knp.json`.
pub(crate) fn checks(corpus: &Path) -> Tally {
    let mut tally = Tally::new("seeds, NetworkPolicy");
    let folder = corpus.join("seeds");
    let truth = read_json(&folder.join("truth_knp.json"));
    let mut world = Vec::new();
    for (name, n) in truth["world"].as_object().expect("namespaces") {
        world.push(namespace(name, &n["labels"]));
        for (pod_name, p) in n["pods"].as_object().expect("pods") {
            world.push(pod(&format!("{name}/{pod_name}"), &p["labels"], &p["ip"], &p["ports"]));
        }
    }
    for (number, check) in (1..).zip(truth["checks"].as_array().expect("checks")) {
        let text = |field: &str| check[field].as_str().expect("a text");
        let temporary = tempfile::tempdir().expect("a temporary folder");
        let mut objects = vec![objects_file(temporary.path(), &world)];
        for policy in check["policies"].as_array().expect("policies") {
            let name = policy.as_str().expect("a file");
            let file = temporary.path().join(name);
            std::fs::write(&file, applied_in(&read(&folder.join(name)), text("applied_in"))).expect("a file");
            objects.push(file);
        }
        let service = (text("proto"), check["port"].as_u64().expect("a port") as u16);
        let expect = Cell::allowed(check["allowed"].as_bool().expect("a verdict"));
        tally.ask(
            &format!("check {number}"),
            &objects,
            &[Question::new(text("src"), text("dst"), service, expect)],
        );
        tally.cases += 1;
    }
    tally
}

/// As `kubectl apply -n NAMESPACE` would: objects that name no namespace are in that one. One of the texts stands in a
/// namespace no API server would make.
fn applied_in(text: &str, namespace: &str) -> String {
    let text = text.replace("namespace: N2", "namespace: n2");
    match text.contains("  namespace:") {
        true => text,
        false => text.replace("metadata:\n", &format!("metadata:\n  namespace: {namespace}\n")),
    }
}

/// One Cilium seed: its file, the namespace it is applied in, and what `EXPECT.md` says must hold at L3 and L4.
type Seed = (&'static str, &'static str, &'static [(&'static str, &'static str, (&'static str, u16), bool)]);

const EMPIRE: &str = "empire/tiefighter";
const DNS: &str = "kube-system/kube-dns";
const STAR: &str = "empire/deathstar";

const CILIUM: &[Seed] = &[
    (
        "09-cilium-ns-allow-within-namespace.yaml",
        "empire",
        &[
            (EMPIRE, STAR, ("TCP", 80), true),
            (DNS, STAR, ("TCP", 80), false),
            (EMPIRE, DNS, ("UDP", 53), false),
            (EMPIRE, "203.0.113.7", ("TCP", 443), false),
            ("203.0.113.7", STAR, ("TCP", 80), false),
            ("192.168.0.1", STAR, ("TCP", 80), true),
            ("other/plain", DNS, ("UDP", 53), true),
        ],
    ),
    (
        "10-cilium-ns-plus-kube-dns-egress.yaml",
        "empire",
        &[
            (EMPIRE, STAR, ("TCP", 80), true),
            (EMPIRE, DNS, ("UDP", 53), true),
            (EMPIRE, DNS, ("TCP", 9153), true),
            (EMPIRE, "kube-system/dashboard", ("TCP", 443), false),
            (EMPIRE, "203.0.113.7", ("TCP", 443), false),
            (DNS, EMPIRE, ("TCP", 80), false),
        ],
    ),
    (
        "11-cilium-ns-plus-prometheus-l7.yaml",
        "empire",
        &[
            (EMPIRE, STAR, ("TCP", 8080), true),
            ("monitoring/prometheus", STAR, ("TCP", 80), false),
            ("monitoring/grafana", STAR, ("TCP", 8080), false),
            // Allowed with the HTTP requests the rule lists only: until those are looked at, nothing is.
            ("monitoring/prometheus", STAR, ("TCP", 8080), false),
            (EMPIRE, DNS, ("UDP", 53), true),
        ],
    ),
    (
        "12-cilium-ns-plus-tofqdns.yaml",
        "empire",
        &[
            (EMPIRE, STAR, ("TCP", 80), true),
            (EMPIRE, DNS, ("UDP", 53), true),
            ("monitoring/prometheus", STAR, ("TCP", 8080), false),
            // No name was learned.
            (EMPIRE, "203.0.113.7", ("TCP", 443), false),
        ],
    ),
    (
        "21-cilium-es-secure-empire-elasticsearch.yaml",
        "default",
        &[
            ("default/outpost", "default/elasticsearch", ("TCP", 9300), false),
            ("other/plain", "default/elasticsearch", ("TCP", 9200), false),
            ("other/plain", "default/outpost", ("TCP", 80), false),
            ("default/elasticsearch", "default/outpost", ("TCP", 80), false),
            ("default/outpost", DNS, ("UDP", 53), true),
            ("default/outpost", "192.168.0.1", ("TCP", 443), true),
            ("default/outpost", "203.0.113.7", ("TCP", 443), false),
        ],
    ),
];

/// The Cilium seeds, one by one: their names are the same, so each replaces the former.
pub(crate) fn cilium(corpus: &Path) -> Tally {
    let mut tally = Tally::new("seeds, Cilium (L3/L4)");
    let folder = corpus.join("seeds");
    let world = cilium_world();
    for (file, namespace, questions) in CILIUM {
        let temporary = tempfile::tempdir().expect("a temporary folder");
        let policy = temporary.path().join(file);
        std::fs::write(&policy, applied_in(&read(&folder.join(file)), namespace)).expect("a file");
        let objects = [objects_file(temporary.path(), &world), policy];
        let questions: Vec<Question> = questions
            .iter()
            .map(|(from, to, service, allowed)| Question::new(from, to, *service, Cell::allowed(*allowed)))
            .collect();
        tally.ask(file, &objects, &questions);
        tally.cases += 1;
    }
    tally.notes.push("seeds: truth_l7.json (HTTP) was not put: nothing looks into requests yet".to_owned());
    tally
}

fn cilium_world() -> Vec<Value> {
    let pods = [
        (STAR, json!({"org": "empire", "class": "deathstar"})),
        (EMPIRE, json!({"org": "empire", "class": "tiefighter"})),
        (DNS, json!({"k8s-app": "kube-dns"})),
        ("kube-system/dashboard", json!({"k8s-app": "kubernetes-dashboard"})),
        ("monitoring/prometheus", json!({"app": "prometheus"})),
        ("monitoring/grafana", json!({"app": "grafana"})),
        ("default/elasticsearch", json!({"component": "elasticsearch"})),
        ("default/outpost", json!({"app": "outpost"})),
        ("other/plain", json!({})),
    ];
    let mut world = vec![json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": "one"},
        "status": {"addresses": [{"type": "InternalIP", "address": "192.168.0.1"}]},
    })];
    for name in ["empire", "kube-system", "monitoring", "default", "other"] {
        world.push(namespace(name, &json!({"kubernetes.io/metadata.name": name})));
    }
    for (number, (name, labels)) in (1..).zip(&pods) {
        let mut pod = pod(name, labels, &json!(format!("10.1.0.{number}")), &json!([]));
        pod["spec"]["nodeName"] = json!("one");
        world.push(pod);
    }
    world
}

/// Texts that must be refused, each with an error and without a single object.
pub(crate) fn refused(corpus: &Path) -> Tally {
    let mut tally = Tally::new("seeds, to be refused");
    let invalid = yaml_files(&corpus.join("seeds")).into_iter().filter(|f| name_of(f).contains("INVALID"));
    let files: Vec<PathBuf> =
        yaml_files(&corpus.join("seeds/lost-indent")).into_iter().chain(invalid).collect();
    for file in &files {
        let report = load_file(file);
        tally.check(report.objects.is_empty() && !report.errors.is_empty(), || {
            format!("{} was accepted", file.display())
        });
        tally.cases += 1;
    }
    tally
}
