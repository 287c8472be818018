//! Flows put to the switch on memory ports: what it delivers, and which end refused.

use penstock_api::artefact::{
    Action, Entry, Peers, PodKey, PodPolicy, PolicyInfo, PrefixIdentity, Program, RuleInfo, Service, tier,
};
use penstock_api::judge::{Flow, Node, Outcome, Ruling};
use penstock_api::{Artefact, DropReason, Generation, IdentityId, PolicyId, ProgramId, RuleId};
use penstock_vswitch::judge::{Judge, JudgeError};
use std::net::IpAddr;

const OPEN: u32 = 0;
const ONLY_80: u32 = 1;
const NOTHING: u32 = 2;

fn pod(number: u8, ingress: u32, egress: u32) -> PodPolicy {
    PodPolicy {
        pod: PodKey::new("ns", format!("pod{number}")),
        addresses: vec![IpAddr::from([10, 0, 0, number]), format!("fd00::{number}").parse().unwrap()],
        identity: IdentityId(IdentityId::FIRST_COMPILED.0 + u32::from(number)),
        other_identities: vec![],
        ingress: ProgramId(ingress),
        egress: ProgramId(egress),
    }
}

fn node() -> Node {
    let isolated = |entries: Vec<Entry>| Program { isolated: true, selected_by: vec![PolicyId(0)], entries };
    let allow = |service| Entry {
        tier: tier::NORMAL,
        priority: 0,
        action: Action::Allow,
        peers: Peers::Any,
        service,
        established_only: false,
        rule: RuleId(0),
    };
    let port_80 = [6, 17, 132].map(|protocol| allow(Service::Ports { protocol, first: 80, last: 80 }));
    let host: IpAddr = "192.0.2.1".parse().unwrap();
    let mut artefact = Artefact {
        generation: Generation(1),
        policies: vec![PolicyInfo { kind: "NetworkPolicy".into(), namespace: "ns".into(), name: "p".into() }],
        rules: vec![RuleInfo { policy: PolicyId(0), path: "spec.ingress[0]".into() }],
        programs: vec![Program::default(), isolated(port_80.into()), isolated(vec![])],
        pods: vec![pod(1, OPEN, OPEN), pod(2, ONLY_80, OPEN), pod(3, NOTHING, NOTHING)],
        ..Artefact::empty()
    };
    artefact.prefixes.push(PrefixIdentity { prefix: host.into(), identity: IdentityId::HOST });
    Node { artefact, host_addresses: vec![host] }
}

fn ask(judge: &mut Judge, from: &str, to: &str, protocol: u8, port: u16) -> Outcome {
    let flow = Flow { source: from.parse().unwrap(), destination: to.parse().unwrap(), protocol, port };
    judge.judge(&flow).unwrap()
}

const ALLOWED: Option<Ruling> = Some(Ruling { allowed: true, rule: None });
const BY_RULE: Option<Ruling> = Some(Ruling { allowed: true, rule: Some(RuleId(0)) });
const REFUSED: Option<Ruling> = Some(Ruling { allowed: false, rule: None });

fn passed(egress: Option<Ruling>, ingress: Option<Ruling>) -> Outcome {
    Outcome { delivered: true, answered: Some(true), dropped: None, egress, ingress }
}

fn dropped(reason: DropReason, egress: Option<Ruling>, ingress: Option<Ruling>) -> Outcome {
    Outcome { delivered: false, answered: None, dropped: Some(reason), egress, ingress }
}

#[test]
fn what_policy_allows_is_delivered_and_answered_in_both_families() {
    let mut judge = Judge::new(&node()).unwrap();
    for (one, two) in [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")] {
        for protocol in [6, 17, 132] {
            assert_eq!(ask(&mut judge, one, two, protocol, 80), passed(ALLOWED, BY_RULE), "{protocol}");
        }
        let icmp = if one.contains(':') { (58, 128) } else { (1, 8) };
        assert_eq!(ask(&mut judge, two, one, icmp.0, icmp.1), passed(ALLOWED, ALLOWED));
    }
}

#[test]
fn both_ends_are_asked_whichever_refuses() {
    let mut judge = Judge::new(&node()).unwrap();
    let (one, two, three) = ("10.0.0.1", "10.0.0.2", "10.0.0.3");
    let (egress, ingress) = (DropReason::PolicyEgress, DropReason::PolicyIngress);
    for protocol in [6, 17, 132] {
        assert_eq!(ask(&mut judge, one, two, protocol, 81), dropped(ingress, ALLOWED, REFUSED));
        assert_eq!(ask(&mut judge, three, two, protocol, 80), dropped(egress, REFUSED, BY_RULE));
        assert_eq!(ask(&mut judge, three, two, protocol, 81), dropped(egress, REFUSED, REFUSED));
    }
    assert_eq!(ask(&mut judge, one, two, 1, 8), dropped(ingress, ALLOWED, REFUSED), "80 is not for ICMP");
}

#[test]
fn what_lies_outside_is_behind_the_host_port_and_has_no_policy() {
    let mut judge = Judge::new(&node()).unwrap();
    for outside in ["198.51.100.7", "192.0.2.1"] {
        assert_eq!(ask(&mut judge, outside, "10.0.0.2", 6, 80), passed(None, BY_RULE));
        assert_eq!(ask(&mut judge, "10.0.0.2", outside, 6, 443), passed(ALLOWED, None));
        let refused = dropped(DropReason::PolicyEgress, REFUSED, None);
        assert_eq!(ask(&mut judge, "10.0.0.3", outside, 6, 443), refused);
    }
    let flow = Flow {
        source: "198.51.100.7".parse().unwrap(),
        destination: "192.0.2.1".parse().unwrap(),
        protocol: 6,
        port: 80,
    };
    assert!(matches!(judge.judge(&flow), Err(JudgeError::Outside { .. })));
}

#[test]
fn what_the_switch_drops_for_another_reason_is_said_by_that_reason() {
    let mut judge = Judge::new(&node()).unwrap();
    assert_eq!(ask(&mut judge, "10.0.0.1", "127.0.0.1", 6, 80), dropped(DropReason::Martian, None, None));
}

#[test]
fn every_flow_is_a_fresh_one_however_many_there_are() {
    let mut judge = Judge::new(&node()).unwrap();
    for _ in 0..51_000 {
        assert!(ask(&mut judge, "10.0.0.1", "10.0.0.2", 6, 80).delivered);
    }
    assert!(!ask(&mut judge, "10.0.0.1", "10.0.0.2", 6, 81).delivered);
}
