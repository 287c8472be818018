//! The first compilation of a large cluster, its memory, and what one changed label costs after it.

use super::{Arguments, cluster, judge, p99};
use crate::figures::{Bound, Document, Figure};
use crate::progress::Progress;
use anyhow::{Context, Result, ensure};
use penstock_api::artefact::PodKey;
use penstock_api::ids::EndpointId;
use penstock_control::compile::Compiler;
use penstock_control::load::load_text;
use penstock_control::objects::Object;
use serde_json::Value;
use std::net::IpAddr;
use std::path::Path;
use std::time::Instant;

pub(super) fn measure(arguments: &Arguments, document: &mut Document, progress: &mut Progress) -> Result<()> {
    progress.step("compiling the cluster")?;
    let namespaces = usize::from(arguments.namespaces);
    let text: String = cluster::objects(arguments.pods, arguments.policies, namespaces)
        .iter()
        .map(|object| format!("{object}\n"))
        .collect();
    let (objects, load) = timed(|| load(&text));
    let objects = objects?;
    let mut compiler = Compiler::new();
    let (artefact, first) = timed(|| {
        objects.into_iter().for_each(|object| compiler.apply(object));
        for n in 0..arguments.local.min(arguments.pods) {
            let key = PodKey::new(format!("ns{}", n % namespaces), format!("pod{n}"));
            compiler.attach(EndpointId(n as u32 + 1), key, [IpAddr::V4(cluster::address(n))]);
        }
        compiler.set_host_addresses([IpAddr::from([10, 0, 0, 1])]);
        compiler.artefact()
    });
    let memory = peak_mib()?;
    artefact.validate()?;
    ensure!(artefact.pods.len() == arguments.local.min(arguments.pods), "not every local pod was compiled");

    // Pods all over the cluster, on this node and elsewhere; what policies ask about, so that every change matters.
    let mut times = Vec::new();
    for change in 0..arguments.changes {
        let n = change * 7919 % arguments.pods;
        let version = if change % 2 == 0 { "b" } else { "a" };
        let pod = cluster::pod(n, namespaces, version).to_string();
        let pod = self::load(&pod)?.pop().context("a pod")?;
        let ((), time) = timed(|| {
            compiler.apply(pod);
            drop(compiler.artefact());
        });
        times.push(time * 1e3);
    }
    document.figures.push(Figure::one("text to objects", "s", load));
    judge(document, Figure::one("first compilation", "s", first), Bound::AtMost(2.0));
    let memory = Figure::one("peak memory: text, objects, compiler and artefact", "MiB", memory);
    judge(document, memory, Bound::AtMost(256.0));
    let p99 = p99(times.clone());
    document.figures.extend([
        Figure::one("compiled", "identities", artefact.identities.len() as f64),
        Figure::one("compiled", "rules", artefact.rules.len() as f64),
        Figure::of("artefact after one changed label", "ms", times).at("quantile", "p50"),
        Figure::one("artefact after one changed label", "ms", p99).at("quantile", "p99"),
    ]);
    Ok(())
}

fn load(text: &str) -> Result<Vec<Object>> {
    let report = load_text(Path::new("cluster.json"), text);
    ensure!(report.errors.is_empty(), "{}", report.errors[0]);
    Ok(report.objects.into_iter().map(|loaded| loaded.object).collect())
}

fn timed<T>(what: impl FnOnce() -> T) -> (T, f64) {
    let begin = Instant::now();
    let result = what();
    (result, begin.elapsed().as_secs_f64())
}

/// The most this process has ever used: the text of the cluster, read as a whole, is in it.
fn peak_mib() -> Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("VmHWM")?;
    let kib: f64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib / 1024.0)
}

/// Two policies of `rules` ports each way between pods `source` and `sink`; no rules: no policy.
pub(crate) fn pair(rules: usize) -> Result<penstock_api::Artefact> {
    let mut compiler = Compiler::new();
    let mut objects: Vec<Value> = Vec::new();
    for (n, name) in ["source", "sink"].into_iter().enumerate() {
        objects.push(serde_json::json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"namespace": "bench", "name": name, "labels": {"app": name}},
            "spec": {"containers": [{"name": "main"}]},
            "status": {"podIP": pair_address(n).to_string()},
        }));
    }
    for object in &objects {
        load(&object.to_string())?.into_iter().for_each(|object| compiler.apply(object));
    }
    if rules > 0 {
        let report = load_text(Path::new("policy.yaml"), &crate::subjects::ours::policy(rules, &[]));
        ensure!(report.errors.is_empty(), "{}", report.errors[0]);
        report.objects.into_iter().for_each(|loaded| compiler.apply(loaded.object));
    }
    for (n, name) in ["source", "sink"].into_iter().enumerate() {
        compiler.attach(EndpointId(n as u32 + 1), PodKey::new("bench", name), [pair_address(n)]);
    }
    Ok(compiler.artefact())
}

pub(crate) fn pair_address(n: usize) -> IpAddr {
    IpAddr::from([10, 244, 0, 2 + n as u8])
}
