//! Claims about the whole that do not come from comparing answers: cost, size, and what the accessors say.

use super::*;
use penstock_api::Action;
use penstock_api::artefact::{
    Entry, PodPolicy, PolicyInfo, PrefixIdentity, RuleInfo, Service, protocol::TCP, tier,
};

/// Each allows one class of peers one port.
fn entry(rule: u32, peers: Peers, service: Service) -> Entry {
    Entry {
        tier: tier::NORMAL,
        priority: 0,
        action: Action::Allow,
        peers,
        service,
        established_only: false,
        rule: RuleId(rule),
    }
}

fn port(port: u16) -> Service {
    Service::Ports { protocol: TCP, first: port, last: port }
}

fn program(entries: Vec<Entry>) -> Program {
    Program { isolated: true, selected_by: vec![PolicyId(0)], entries }
}

fn artefact(programs: Vec<Program>) -> Artefact {
    let rules = programs.iter().flat_map(|p| &p.entries).map(|e| e.rule.0 + 1).max().unwrap_or(0);
    Artefact {
        policies: vec![PolicyInfo { kind: "NetworkPolicy".into(), namespace: "a".into(), name: "b".into() }],
        rules: (0..rules).map(|_| RuleInfo { policy: PolicyId(0), path: "spec.ingress[0]".into() }).collect(),
        programs,
        ..Artefact::empty()
    }
}

fn new_flow(port: u16) -> Question {
    Question { protocol: TCP, port, established: false }
}

fn pod(index: u32) -> PodPolicy {
    PodPolicy {
        pod: PodKey::new(format!("namespace-{}", index % 50), format!("pod-{index}")),
        addresses: vec![address(index)],
        identity: identity(index),
        other_identities: Vec::new(),
        ingress: ProgramId(0),
        egress: ProgramId(0),
    }
}

fn identity(index: u32) -> IdentityId {
    IdentityId(IdentityId::FIRST_COMPILED.0 + index)
}

fn address(index: u32) -> IpAddr {
    IpAddr::V4((0x0a00_0000 + index).into())
}

/// The most steps any of `count` peers takes to be classified and judged.
fn steps_max(policy: &Policy, count: u32, peer: impl Fn(u32) -> IpAddr, port: impl Fn(u32) -> u16) -> usize {
    let steps = (0..count).map(|i| {
        let (answer, steps) =
            steps::counted(|| policy.judge(ProgramId(0), policy.classify(peer(i)).class, new_flow(port(i))));
        assert_eq!(answer.rule, Some(RuleId(i)), "each question must meet a rule of its own");
        steps
    });
    steps.max().expect("at least one")
}

#[test]
fn ten_thousand_rules_about_ten_thousand_peers_cost_what_ten_do() {
    let steps = |count: u32| {
        let entries =
            (0..count).map(|i| entry(i, Peers::Identities(vec![identity(i)]), port(i as u16))).collect();
        let mut artefact = artefact(vec![program(entries)]);
        // Half of the peers live here, half elsewhere.
        artefact.pods = (0..count / 2).map(pod).collect();
        artefact.prefixes.extend(
            (count / 2..count).map(|i| PrefixIdentity { prefix: address(i).into(), identity: identity(i) }),
        );
        steps_max(&Policy::build(artefact).unwrap(), count, address, |i| i as u16)
    };
    assert_eq!(steps(10), 3, "a probe for the address, one for the class, one interval");
    assert_eq!(steps(10_000), 3);
}

#[test]
fn ten_thousand_ports_for_one_and_the_same_peer_cost_their_logarithm() {
    let steps = |count: u32| {
        let entries = (0..count).map(|i| entry(i, Peers::Any, port(6 * i as u16))).collect();
        let policy = Policy::build(artefact(vec![program(entries)])).unwrap();
        steps_max(&policy, count, |_| address(0), |i| 6 * i as u16)
    };
    // Three for the address, which is found among the prefixes, and for the class; the rest for the port.
    assert_eq!(steps(10), 3 + 1);
    assert_eq!(steps(10_000), 3 + 4);
}

#[test]
fn ten_thousand_prefixes_cost_their_logarithm() {
    let steps = |count: u32| {
        let mut artefact = artefact(vec![program(vec![entry(0, Peers::Any, Service::Any)])]);
        artefact.prefixes.extend((0..count).map(|i| PrefixIdentity {
            prefix: ipnet::Ipv4Net::new((i << 9).into(), 24).unwrap().into(),
            identity: identity(i),
        }));
        let policy = Policy::build(artefact).unwrap();
        let steps = (0..count).map(|i| {
            let address = IpAddr::V4((i << 9 | 7).into());
            let (found, steps) = steps::counted(|| policy.identity_of(address));
            assert_eq!(found, identity(i));
            steps
        });
        steps.max().unwrap()
    };
    assert_eq!(steps(10), 1 + 2);
    assert_eq!(steps(10_000), 1 + 4);
}

#[test]
fn entries_for_everyone_are_not_multiplied_by_the_peers_others_name() {
    let size = |count: u16| {
        let for_everyone = (0..count).map(|i| entry(0, Peers::Any, port(2 * i)));
        let for_one =
            (0..count).map(|i| entry(0, Peers::Identities(vec![identity(i.into())]), port(2 * i + 1)));
        let policy = Policy::build(artefact(vec![program(for_everyone.chain(for_one).collect())])).unwrap();
        policy.programs.iter().map(program::Compiled::intervals).sum::<usize>()
    };
    assert_eq!(size(100), 200);
    assert_eq!(size(2_000), 4_000);
}

#[test]
fn peers_named_by_the_same_entries_share_a_set() {
    let everybody = (0..1_000).map(identity).collect::<Vec<_>>();
    let entries =
        (0..5).map(|i| entry(i, Peers::Identities(everybody.clone()), port(2 * i as u16))).collect();
    let policy = Policy::build(artefact(vec![program(entries)])).unwrap();
    assert_eq!(policy.programs[0].intervals(), 5);
}

#[test]
fn equal_programs_are_compiled_once_and_keep_their_ids() {
    let entries = vec![entry(0, Peers::Any, port(80))];
    let other = vec![entry(0, Peers::Any, port(81))];
    let policy =
        Policy::build(artefact(vec![program(entries.clone()), program(other), program(entries)])).unwrap();
    assert_eq!(policy.programs.len(), 2);
    for (id, open) in [(0, 80), (1, 81), (2, 80)] {
        assert_eq!(policy.judge(ProgramId(id), Class::UNNAMED, new_flow(open)).action, Action::Allow);
        assert_eq!(policy.judge(ProgramId(id), Class::UNNAMED, new_flow(open ^ 1)).action, Action::Deny);
    }
}

#[test]
fn the_isolated_program_and_every_program_that_does_not_exist_deny() {
    let open = Program { isolated: false, ..program(Vec::new()) };
    let policy = Policy::build(artefact(vec![open])).unwrap();
    assert_eq!(policy.judge(ProgramId(0), Class::UNNAMED, new_flow(80)).action, Action::Allow);
    for program in [policy.isolated(), ProgramId(u32::MAX)] {
        assert_eq!(policy.judge(program, Class::UNNAMED, new_flow(80)), program::DENIED);
        assert!(policy.is_isolating(program));
        assert_eq!(policy.selected_by(program), &[]);
    }
}

#[test]
fn a_policy_tells_what_it_was_made_of() {
    let isolating = program(vec![entry(0, Peers::Any, port(80))]);
    let open = Program { isolated: false, selected_by: Vec::new(), entries: Vec::new() };
    let mut artefact = artefact(vec![isolating, open]);
    artefact.generation = Generation(7);
    artefact.pods = vec![pod(0), pod(1)];
    let policy = Policy::build(artefact.clone()).unwrap();
    assert_eq!(policy.artefact(), &artefact);
    assert_eq!(policy.generation(), Generation(7));
    assert!(policy.is_isolating(ProgramId(0)) && !policy.is_isolating(ProgramId(1)));
    assert_eq!(policy.selected_by(ProgramId(0)), [PolicyId(0)]);
    assert_eq!(policy.selected_by(ProgramId(1)), []);
    assert!(format!("{policy:?}").contains("pods: 2"), "{policy:?}");
}

#[test]
fn an_artefact_with_a_dangling_reference_is_refused() {
    let mut artefact = artefact(vec![program(vec![entry(0, Peers::Any, port(80))])]);
    artefact.rules.clear();
    assert!(matches!(Policy::build(artefact), Err(ArtefactError::Dangling { what: "rule", .. })));
}

#[test]
fn the_empty_artefact_knows_nobody() {
    let policy = Policy::build(Artefact::empty()).unwrap();
    assert_eq!(policy.pod(&PodKey::new("a", "b"), &[]), None);
    assert_eq!(policy.identity_of(address(1)), IdentityId::WORLD_V4);
    assert_eq!(policy.identity_of("fd00::1".parse().unwrap()), IdentityId::WORLD_V6);
    assert!(policy.is_isolating(policy.isolated()));
}

#[test]
fn a_policy_can_be_shared_between_threads() {
    fn is_shared<T: Send + Sync + 'static>() {}
    is_shared::<Policy>();
}

#[test]
fn the_nearest_rules_miss_in_one_thing_only() {
    let web = Peers::Identities(vec![identity(0)]);
    let policy = Policy::build(artefact(vec![program(vec![
        entry(0, web.clone(), port(80)),
        entry(1, web.clone(), port(81)),
        entry(2, Peers::Identities(vec![identity(1)]), port(80)),
        entry(3, Peers::Identities(vec![identity(1)]), port(81)),
        entry(4, web.clone(), Service::Ports { protocol: 17, first: 80, last: 80 }),
        entry(5, web.clone(), Service::Ports { protocol: 17, first: 81, last: 81 }),
        entry(6, web.clone(), Service::Icmp { protocol: 1, kind: 80 }),
        Entry { established_only: true, ..entry(7, web, port(81)) },
    ])]))
    .unwrap();
    let near = policy.nearest(ProgramId(0), policy.class_of(identity(0)), new_flow(80));
    assert_eq!(near, [1, 2, 4].map(RuleId), "wrong port, wrong peer, wrong protocol");
    let near = policy.nearest(ProgramId(0), Class::UNNAMED, new_flow(80));
    assert_eq!(near, [0, 2].map(RuleId), "nobody names this peer");
    assert!(policy.nearest(policy.isolated(), Class::UNNAMED, new_flow(80)).is_empty());
}

#[test]
fn a_rule_about_a_whole_protocol_or_an_icmp_type_comes_near_by_what_it_lacks() {
    const ICMP: u8 = 1;
    let policy = Policy::build(artefact(vec![program(vec![
        entry(0, Peers::Any, Service::Protocol(TCP)),
        entry(1, Peers::Any, Service::Protocol(ICMP)),
        entry(2, Peers::Any, Service::Icmp { protocol: ICMP, kind: 8 }),
        entry(3, Peers::Any, Service::Icmp { protocol: ICMP, kind: 0 }),
        entry(4, Peers::Any, Service::Icmp { protocol: 58, kind: 128 }),
    ])]))
    .unwrap();
    let near = |question| policy.nearest(ProgramId(0), Class::UNNAMED, question);
    assert_eq!(near(new_flow(80)), [RuleId(1)], "the other protocol; what matches is not near");
    let echo = Question { protocol: ICMP, port: 8, established: false };
    assert_eq!(near(echo), [0, 3].map(RuleId), "the other protocol, the other type");
}
