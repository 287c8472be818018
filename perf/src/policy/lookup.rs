//! The lookup alone: peer to identity, identity and port to verdict, with many rules beside few.

use super::beside;
use crate::figures::{Bound, Document, Figure};
use crate::progress::Progress;
use anyhow::Result;
use penstock_api::Action;
use penstock_api::artefact::{
    Artefact, Entry, Peers, PodKey, PodPolicy, PolicyInfo, PrefixIdentity, Program, RuleInfo, Service,
    protocol, tier,
};
use penstock_api::ids::{IdentityId, PolicyId, ProgramId, RuleId};
use penstock_api::reference::Question;
use penstock_lookup::Policy;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

const FEW: usize = 10;
const MANY: usize = 10_000;
const LOOKUPS: usize = 1_000_000;

pub(super) fn measure(rounds: usize, document: &mut Document, progress: &mut Progress) -> Result<()> {
    let (few, many) = (Policy::build(artefact(FEW))?, Policy::build(artefact(MANY))?);
    let (mut of_few, mut of_many) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        progress.step("looking up")?;
        of_few.push(nanoseconds(&few, FEW));
        of_many.push(nanoseconds(&many, MANY));
    }
    let figure = |rules, times| {
        Figure::of("lookup", "ns", times).at("rules", rules).note("peers uniform over all rules")
    };
    beside(document, [figure(MANY, of_many), figure(FEW, of_few)], Some(Bound::AtMost(2.0)));
    Ok(())
}

/// One pod under `rules` rules, each for one peer of its own and one port of its own.
fn artefact(rules: usize) -> Artefact {
    let identity = |n: usize| IdentityId(IdentityId::FIRST_COMPILED.0 + n as u32);
    let entry = |n: usize| Entry {
        tier: tier::NORMAL,
        priority: 0,
        action: Action::Allow,
        peers: Peers::Identities(vec![identity(n)]),
        service: Service::Ports { protocol: protocol::TCP, first: port(n), last: port(n) },
        established_only: false,
        rule: RuleId(n as u32),
    };
    let mut artefact = Artefact::empty();
    artefact.policies =
        vec![PolicyInfo { kind: "NetworkPolicy".into(), namespace: "bench".into(), name: "many".into() }];
    artefact.rules =
        (0..rules).map(|n| RuleInfo { policy: PolicyId(0), path: format!("spec.ingress[{n}]") }).collect();
    artefact.programs = vec![
        Program { isolated: true, selected_by: vec![PolicyId(0)], entries: (0..rules).map(entry).collect() },
        Program::default(),
    ];
    artefact.prefixes.extend(
        (0..rules).map(|n| PrefixIdentity { prefix: IpAddr::V4(peer(n)).into(), identity: identity(n) }),
    );
    artefact.pods = vec![PodPolicy {
        pod: PodKey::new("bench", "pod"),
        addresses: vec![POD],
        identity: identity(rules),
        other_identities: Vec::new(),
        ingress: ProgramId(0),
        egress: ProgramId(1),
    }];
    artefact
}

const POD: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 244, 0, 2));

fn peer(n: usize) -> Ipv4Addr {
    Ipv4Addr::from(0x0a80_0000 + 1 + n as u32)
}

fn port(n: usize) -> u16 {
    1000 + n as u16
}

fn nanoseconds(policy: &Policy, rules: usize) -> f64 {
    let pod = policy.pod_at(POD).expect("the pod of the artefact");
    // A cheap generator: what is measured is not chance.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let questions: Vec<(IpAddr, u16)> = (0..LOOKUPS)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let n = (state >> 33) as usize % rules;
            (IpAddr::V4(peer(n)), port(n))
        })
        .collect();
    let begin = Instant::now();
    for (peer, port) in &questions {
        let question = Question { protocol: protocol::TCP, port: *port, established: false };
        let class = policy.classify(*peer).class;
        black_box(policy.judge(pod.ingress, class, question));
    }
    begin.elapsed().as_secs_f64() * 1e9 / LOOKUPS as f64
}
