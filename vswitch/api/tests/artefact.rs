//! What an artefact must be to be installed, and which endpoint it speaks of.

use penstock_api::artefact::{
    Action, Artefact, ArtefactError, Entry, Peers, PodKey, PodPolicy, PolicyInfo, Program, RuleInfo, Service,
    protocol::{ICMP, ICMPV6, SCTP, TCP, UDP},
    tier,
};
use penstock_api::ids::{IdentityId, PolicyId, ProgramId, RuleId};

/// One of everything, all references right.
fn artefact() -> Artefact {
    Artefact {
        policies: vec![PolicyInfo { kind: "NetworkPolicy".into(), namespace: "a".into(), name: "b".into() }],
        rules: vec![RuleInfo { policy: PolicyId(0), path: "spec.ingress[0]".into() }],
        programs: vec![Program {
            isolated: true,
            selected_by: vec![PolicyId(0)],
            entries: vec![Entry {
                tier: tier::NORMAL,
                priority: 0,
                action: Action::Allow,
                peers: Peers::Identities(vec![IdentityId::FIRST_COMPILED]),
                service: Service::Any,
                established_only: false,
                rule: RuleId(0),
            }],
        }],
        pods: vec![pod("web", None)],
        ..Artefact::empty()
    }
}

fn pod(name: &str, uid: Option<&str>) -> PodPolicy {
    PodPolicy {
        pod: PodKey { uid: uid.map(String::from), ..PodKey::new("default", name) },
        addresses: vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()],
        identity: IdentityId::FIRST_COMPILED,
        other_identities: Vec::new(),
        ingress: ProgramId(0),
        egress: ProgramId(0),
    }
}

fn refusal(change: impl FnOnce(&mut Artefact)) -> ArtefactError {
    let mut artefact = artefact();
    change(&mut artefact);
    artefact.validate().expect_err("the artefact is broken")
}

#[test]
fn a_whole_artefact_is_accepted() {
    assert_eq!(artefact().validate(), Ok(()));
    assert_eq!(Artefact::empty().validate(), Ok(()));
}

#[test]
fn an_artefact_of_another_schema_is_refused() {
    assert_eq!(refusal(|a| a.schema = 2), ArtefactError::Schema { offered: 2 });
}

#[test]
fn every_dangling_reference_is_refused_by_what_it_names() {
    type Change = fn(&mut Artefact);
    let changes: [(&str, Change); 5] = [
        ("policy", |a| a.rules[0].policy = PolicyId(1)),
        ("policy", |a| a.programs[0].selected_by.push(PolicyId(1))),
        ("rule", |a| a.programs[0].entries[0].rule = RuleId(1)),
        ("program", |a| a.pods[0].ingress = ProgramId(1)),
        ("program", |a| a.pods[0].egress = ProgramId(1)),
    ];
    for (named, change) in changes {
        assert!(
            matches!(refusal(change), ArtefactError::Dangling { what, index: 1, len: 1 } if what == named),
            "{named}"
        );
    }
}

#[test]
fn an_artefact_must_say_who_everybody_else_is() {
    for (left, missing) in [("0.0.0.0/0", "IPv6"), ("::/0", "IPv4")] {
        let left = left.parse().unwrap();
        assert_eq!(
            refusal(|a| a.prefixes.retain(|p| p.prefix == left)),
            ArtefactError::NoDefault { family: missing }
        );
    }
}

#[test]
fn ports_are_of_protocols_that_have_them_and_in_order() {
    for protocol in [TCP, UDP, SCTP] {
        let mut good = artefact();
        good.programs[0].entries[0].service = Service::Ports { protocol, first: 80, last: 80 };
        assert_eq!(good.validate(), Ok(()));
    }
    for (protocol, first, last) in [(TCP, 81, 80), (ICMP, 0, 0), (47, 0, 65535)] {
        let service = Service::Ports { protocol, first, last };
        assert!(matches!(
            refusal(|a| a.programs[0].entries[0].service = service),
            ArtefactError::Ports { .. }
        ));
    }
}

#[test]
fn icmp_types_are_of_icmp() {
    for protocol in [ICMP, ICMPV6] {
        let mut good = artefact();
        good.programs[0].entries[0].service = Service::Icmp { protocol, kind: 8 };
        assert_eq!(good.validate(), Ok(()));
    }
    // As a TCP rule it would open port 80.
    let service = Service::Icmp { protocol: TCP, kind: 80 };
    assert_eq!(
        refusal(|a| a.programs[0].entries[0].service = service),
        ArtefactError::Icmp { rule: RuleId(0), protocol: TCP }
    );
}

#[test]
fn no_entry_may_name_the_unknown_as_a_peer() {
    let peers = Peers::Identities(vec![IdentityId::UNKNOWN, IdentityId::FIRST_COMPILED]);
    assert_eq!(
        refusal(|a| a.programs[0].entries[0].peers = peers),
        ArtefactError::UnknownPeer { rule: RuleId(0) }
    );
}

#[test]
fn a_pod_stands_in_an_artefact_once() {
    assert!(matches!(refusal(|a| a.pods.push(pod("web", None))), ArtefactError::DuplicatePod { .. }));
}

#[test]
fn an_endpoint_is_known_when_all_its_addresses_are() {
    let artefact = artefact();
    let web = PodKey::new("default", "web");
    let [v4, v6, foreign] = ["10.0.0.1", "fd00::1", "10.0.0.2"].map(|a| a.parse().unwrap());
    assert!(artefact.pod_for(&web, &[v4, v6]).is_some());
    assert!(artefact.pod_for(&web, &[v6]).is_some());
    assert!(artefact.pod_for(&web, &[v4, foreign]).is_none(), "an address the compiler has not seen");
    assert!(artefact.pod_for(&PodKey::new("other", "web"), &[v4]).is_none());
}

#[test]
fn a_later_pod_of_the_same_name_is_another_pod() {
    let mut artefact = artefact();
    artefact.pods = vec![pod("web", Some("old"))];
    let key = |uid: Option<&str>| PodKey { uid: uid.map(String::from), ..PodKey::new("default", "web") };
    assert!(artefact.pod_for(&key(Some("old")), &[]).is_some());
    assert!(artefact.pod_for(&key(Some("new")), &[]).is_none());
    assert!(artefact.pod_for(&key(None), &[]).is_some(), "who has no uid is known by name");
}

#[test]
fn an_artefact_survives_json_and_one_with_a_stray_field_is_no_artefact() {
    let mut artefact = artefact();
    artefact.programs[0].entries[0].action = Action::ToProxy { listener: 10_000 };
    artefact.programs[0].entries[0].service = Service::Ports { protocol: TCP, first: 80, last: 90 };
    let text = serde_json::to_string(&artefact).unwrap();
    assert_eq!(serde_json::from_str::<Artefact>(&text).unwrap(), artefact);
    // A field this version does not know may be what restricts an entry: it must not be skipped.
    let stray = text.replacen(r#""established_only":false"#, r#""established_only":false,"unless":1"#, 1);
    assert!(serde_json::from_str::<Artefact>(&stray).is_err());
}
