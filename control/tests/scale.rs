//! Measurements, to be run in release: `cargo test --release -p penstock-control --test scale -- --ignored --nocapture`.

use penstock_api::EndpointId;
use penstock_control::compile::Compiler;
use penstock_control::load::load_text;
use penstock_control::objects::{Labels, Object};
use std::path::Path;
use std::time::{Duration, Instant};

const PODS: usize = 10_000;
const POLICIES: usize = 1_000;
const NAMESPACES: usize = 100;
const LOCAL: usize = 100;

fn cluster() -> Vec<Object> {
    let mut text = String::new();
    for number in 0..NAMESPACES {
        text += &format!(
            "---\n{{apiVersion: v1, kind: Namespace, metadata: {{name: ns-{number}, labels: {{team: t{}}}}}}}\n",
            number % 7
        );
    }
    for number in 0..PODS {
        text += &format!(
            "---\n{{apiVersion: v1, kind: Pod, metadata: {{name: pod-{number}, namespace: ns-{}, labels: {{app: app-{}, tier: t{}, \
             pod-index: i{number}}}}}, spec: {{containers: [{{name: c, ports: [{{name: http, containerPort: 80}}]}}]}}, \
             status: {{phase: Running, podIP: 10.{}.{}.{}}}}}\n",
            number % NAMESPACES,
            number / NAMESPACES % 50,
            number % 3,
            64 + number / 65_536,
            number / 256 % 256,
            number % 256
        );
    }
    for number in 0..POLICIES {
        let (namespace, app, peer) = (number % NAMESPACES, number / NAMESPACES * 5 % 50, number * 7 % 50);
        let metadata = format!("metadata: {{name: policy-{number}, namespace: ns-{namespace}}}");
        text += &match number % 2 {
            0 => format!(
                "---\n{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, {metadata}, spec: {{podSelector: {{matchLabels: \
                 {{app: app-{app}}}}}, policyTypes: [Ingress, Egress], ingress: [{{from: [{{podSelector: {{matchLabels: \
                 {{app: app-{peer}}}}}}}, {{namespaceSelector: {{matchLabels: {{kubernetes.io/metadata.name: ns-{}}}}}}}, \
                 {{ipBlock: {{cidr: 10.{}.0.0/16, except: [10.{}.{}.0/24]}}}}], ports: [{{port: http}}, {{port: 443}}]}}], \
                 egress: [{{to: [{{namespaceSelector: {{}}, podSelector: {{matchLabels: {{tier: t{}}}}}}}], \
                 ports: [{{port: http}}]}}]}}}}\n",
                number % 97,
                number % 200,
                number % 200,
                number % 250,
                number % 3
            ),
            _ => format!(
                "---\n{{apiVersion: cilium.io/v2, kind: CiliumNetworkPolicy, {metadata}, spec: {{endpointSelector: {{matchLabels: \
                 {{app: app-{app}}}}}, ingress: [{{fromEndpoints: [{{matchLabels: {{app: app-{peer}}}}}], toPorts: [{{ports: \
                 [{{port: '{}', protocol: TCP}}]}}]}}], ingressDeny: [{{fromCIDR: [198.51.{}.0/24]}}], egress: [{{toEntities: \
                 [cluster]}}]}}}}\n",
                1000 + number,
                number % 256
            ),
        };
    }
    let report = load_text(Path::new("all.yaml"), &text);
    assert_eq!(report.errors, []);
    report.objects.into_iter().map(|loaded| loaded.object).collect()
}

/// The change of this number.
type Change<'a> = Box<dyn FnMut(usize, &mut Compiler) + 'a>;

fn resident_mib() -> f64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    line.trim().trim_end_matches(" kB").trim().parse::<f64>().unwrap_or(0.0) / 1024.0
}

fn times(what: &str, mut all: Vec<Duration>) {
    all.sort();
    println!(
        "{what}: p50 {:?}, p99 {:?}, max {:?} of {}",
        all[all.len() / 2],
        all[all.len() * 99 / 100],
        all[all.len() - 1],
        all.len()
    );
}

#[test]
#[ignore = "a measurement; run it in release"]
fn one_change_of_a_large_cluster_is_compiled_in_milliseconds() {
    let objects = cluster();
    let before = resident_mib();
    let mut compiler = Compiler::new();
    compiler.reset(objects.clone());
    compiler.attach_all_by_status();
    let start = Instant::now();
    let all = compiler.artefact();
    println!(
        "all {PODS} pods here: first compile {:?}, {} identities, {:.0} MiB",
        start.elapsed(),
        all.identities.len(),
        resident_mib() - before
    );

    let mut compiler = Compiler::new();
    compiler.reset(objects.clone());
    for (number, pod) in all.pods.iter().step_by(PODS / LOCAL).enumerate() {
        compiler.attach(EndpointId(number as u32 + 1), pod.pod.clone(), pod.addresses.clone());
    }
    drop(all);
    let start = Instant::now();
    let artefact = compiler.artefact();
    println!(
        "{LOCAL} pods here: first compile {:?}, {} identities, {} programs, {} entries, {} prefixes, {} bytes as JSON",
        start.elapsed(),
        artefact.identities.len(),
        artefact.programs.len(),
        artefact.programs.iter().map(|program| program.entries.len()).sum::<usize>(),
        artefact.prefixes.len(),
        serde_json::to_vec(&artefact).unwrap().len()
    );

    let mut measure = |what: &str, mut change: Change<'_>| {
        let mut all = Vec::new();
        for number in 0..300 {
            change(number, &mut compiler);
            let start = Instant::now();
            let artefact = compiler.artefact();
            all.push(start.elapsed());
            drop(artefact);
        }
        assert_eq!(compiler.artefact(), compiler.artefact_afresh());
        times(what, all);
    };
    let pods: Vec<_> = objects
        .iter()
        .filter_map(|object| match object {
            Object::Pod(pod) => Some(pod.clone()),
            _ => None,
        })
        .collect();
    let relabelled = |step: usize, key: &'static str, values: usize| {
        let pods = pods.clone();
        Box::new(move |number: usize, compiler: &mut Compiler| {
            let mut pod = pods[number * step % PODS].clone();
            let labels: &mut Labels = &mut pod.labels;
            labels.insert(key.to_owned(), format!("app-{}", (number * 13 + 1) % values));
            compiler.apply(Object::Pod(pod));
        })
    };
    measure("a label no rule asks for", relabelled(31, "note", 1000));
    measure("a label of a pod elsewhere", relabelled(31, "app", 50));
    measure("a label of a pod here", relabelled(PODS / LOCAL, "app", 50));
    let policies: Vec<Object> = objects.iter().filter(|o| o.key().kind.is_policy()).cloned().collect();
    measure(
        "a policy deleted or made again",
        Box::new(move |number, compiler| {
            let policy = &policies[number / 2 * 7 % policies.len()];
            match number % 2 {
                0 => compiler.delete(&policy.key()),
                _ => compiler.apply(policy.clone()),
            }
        }),
    );
    let namespaces: Vec<_> = objects
        .iter()
        .filter_map(|object| match object {
            Object::Namespace(namespace) => Some(namespace.clone()),
            _ => None,
        })
        .collect();
    measure(
        "a label of a namespace",
        Box::new(move |number, compiler| {
            let mut namespace = namespaces[number * 7 % NAMESPACES].clone();
            namespace.labels.insert("team".to_owned(), format!("t{}", number % 5));
            compiler.apply(Object::Namespace(namespace));
        }),
    );
    measure(
        "a pod that attaches or detaches",
        Box::new(move |number, compiler| {
            let pod = &pods[number / 2 * 37 + 1];
            match number % 2 {
                0 => {
                    let key = penstock_api::artefact::PodKey::new(pod.namespace.clone(), pod.name.clone());
                    compiler.attach(EndpointId(1_000_000), key, pod.addresses.clone());
                }
                _ => compiler.detach(EndpointId(1_000_000)),
            }
        }),
    );
}
