#![allow(dead_code)]
#[path = "../../perf/src/engine/measure.rs"]
mod measure;
use measure::*;
use penstock_api::artefact::*;
use penstock_api::*;
fn artefact(rules: usize) -> Artefact {
    let ids = [IdentityId(300), IdentityId(301)];
    let program = |peer: IdentityId| Program {
        isolated: rules > 0,
        selected_by: vec![],
        entries: (0..rules)
            .map(|n| Entry {
                tier: tier::NORMAL,
                priority: 0,
                action: Action::Allow,
                peers: Peers::Identities(vec![peer]),
                service: Service::Ports {
                    protocol: 17,
                    first: 10_000 + 2 * n as u16,
                    last: 10_000 + 2 * n as u16,
                },
                established_only: false,
                rule: RuleId(0),
            })
            .collect(),
    };
    let pod = |n: usize, name: &str, i: u16, e: u16| PodPolicy {
        pod: PodKey::new("bench", name),
        addresses: vec![std::net::IpAddr::from([10, 244, 0, 2 + n as u8])],
        identity: ids[n],
        other_identities: vec![],
        ingress: ProgramId(i.into()),
        egress: ProgramId(e.into()),
    };
    Artefact {
        generation: Generation(1),
        policies: vec![PolicyInfo {
            kind: "NetworkPolicy".into(),
            namespace: "bench".into(),
            name: "p".into(),
        }],
        rules: vec![RuleInfo { policy: PolicyId(0), path: "x".into() }],
        programs: vec![program(ids[1]), program(ids[0]), Program::default()],
        identities: ids
            .iter()
            .map(|id| Identity { id: *id, labels: vec![format!("k8s:app={}", id.0)] })
            .collect(),
        pods: vec![pod(0, "source", 2, 0), pod(1, "sink", 1, 2)],
        ..Artefact::empty()
    }
}
fn main() {
    let args: Vec<String> = std::env::args().collect();
    let rounds: usize = args.get(1).map_or(5, |s| s.parse().unwrap());
    let only = args.get(2).cloned().unwrap_or_default();
    let cases = [
        (Kind::Hit, 1),
        (Kind::Hit, 1000),
        (Kind::Hit, 10_000),
        (Kind::Hit, 100_000),
        (Kind::Hit, 1_000_000),
        (Kind::Miss, 1000),
        (Kind::Miss, 100_000),
        (Kind::New, 1000),
        (Kind::New, 100_000),
        (Kind::New, 1_000_000),
    ];
    let pods = [[10, 244, 0, 2], [10, 244, 0, 3]];
    let mut benches: Vec<_> = cases
        .into_iter()
        .map(|(k, f)| (format!("{k:?}-{f}"), k, f))
        .filter(|(n, ..)| only.is_empty() || *n == only)
        .map(|(n, k, f)| {
            let b = Bench::new(artefact(1000), pods, k, f).unwrap();
            (n, b, f, Vec::new())
        })
        .collect();
    let mut bare_ = Vec::new();
    for _ in 0..rounds {
        if only.is_empty() {
            bare_.push(bare(1000, 2_000_000).unwrap());
        }
        for (_, b, f, out) in &mut benches {
            out.push(b.measure(if only.is_empty() { 2_000_000.max(*f as u64) } else { 10_000_000 }).unwrap());
        }
    }
    benches.into_iter().map(|(n, _, _, o)| (n, o)).chain([("bare".into(), bare_)]).for_each(|(n, mut o)| {
        o.sort_by(f64::total_cmp);
        if !o.is_empty() {
            println!("{n:<14} {:6.2} ({:.2}-{:.2})", o[o.len() / 2], o[0], o[o.len() - 1]);
        }
    });
}
