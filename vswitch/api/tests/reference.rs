//! The reference evaluator against the meaning of policy, one sentence at a time.
//!
//! Everything fast is compared with the reference, so nothing else would notice if the reference itself were wrong. These
//! cases are written by hand from the semantics of NetworkPolicy, CiliumNetworkPolicy and ClusterNetworkPolicy; what
//! belongs to compiling objects (selectors, namespaces, named ports) is not here.

use penstock_api::artefact::{
    Action, AddressIdentity, Artefact, Entry, Peers, PodKey, PodPolicy, PolicyInfo, PrefixIdentity, Program,
    RuleInfo, Service,
    protocol::{ICMP, ICMPV6, SCTP, TCP, UDP},
    tier,
};
use penstock_api::ids::{IdentityId, PolicyId, ProgramId, RuleId};
use penstock_api::reference::{Answer, Question, identity_of, judge, judge_flow, policies_behind};
use std::net::IpAddr;

const WEB: IdentityId = IdentityId(256);
const DB: IdentityId = IdentityId(257);
const CRAWLER: IdentityId = IdentityId(258);

/// An entry in the making: `allow(1).from([WEB]).on(tcp(80))`. The number is its rule.
fn entry(action: Action, rule: u32) -> Entry {
    Entry {
        tier: tier::NORMAL,
        priority: 0,
        action,
        peers: Peers::Any,
        service: Service::Any,
        established_only: false,
        rule: RuleId(rule),
    }
}

fn allow(rule: u32) -> Entry {
    entry(Action::Allow, rule)
}

fn deny(rule: u32) -> Entry {
    entry(Action::Deny, rule)
}

fn pass(rule: u32) -> Entry {
    entry(Action::Pass, rule)
}

fn proxy(rule: u32) -> Entry {
    entry(Action::ToProxy { listener: 1 }, rule)
}

trait With {
    fn from<const N: usize>(self, peers: [IdentityId; N]) -> Entry;
    fn on(self, service: Service) -> Entry;
    fn tier(self, tier: u8) -> Entry;
    fn priority(self, priority: u32) -> Entry;
    fn established_only(self) -> Entry;
}

impl With for Entry {
    fn from<const N: usize>(self, peers: [IdentityId; N]) -> Entry {
        Entry { peers: Peers::Identities(peers.to_vec()), ..self }
    }
    fn on(self, service: Service) -> Entry {
        Entry { service, ..self }
    }
    fn tier(self, tier: u8) -> Entry {
        Entry { tier, ..self }
    }
    fn priority(self, priority: u32) -> Entry {
        Entry { priority, ..self }
    }
    fn established_only(self) -> Entry {
        Entry { established_only: true, ..self }
    }
}

fn tcp(port: u16) -> Service {
    ports(TCP, port, port)
}

fn ports(protocol: u8, first: u16, last: u16) -> Service {
    Service::Ports { protocol, first, last }
}

fn isolated<const N: usize>(entries: [Entry; N]) -> Program {
    Program { isolated: true, selected_by: vec![PolicyId(0)], entries: entries.to_vec() }
}

fn open<const N: usize>(entries: [Entry; N]) -> Program {
    Program { isolated: false, selected_by: Vec::new(), entries: entries.to_vec() }
}

fn reversed(program: &Program) -> Program {
    let mut reversed = program.clone();
    reversed.entries.reverse();
    reversed
}

fn to(protocol: u8, port: u16) -> Question {
    Question { protocol, port, established: false }
}

fn allowed_by(rule: u32) -> Answer {
    Answer { action: Action::Allow, rule: Some(RuleId(rule)) }
}

fn denied_by(rule: u32) -> Answer {
    Answer { action: Action::Deny, rule: Some(RuleId(rule)) }
}

const DENIED_BY_DEFAULT: Answer = Answer { action: Action::Deny, rule: None };
const ALLOWED_BY_DEFAULT: Answer = Answer { action: Action::Allow, rule: None };

// Isolation.

#[test]
fn what_no_policy_selects_is_open() {
    assert_eq!(judge(&open([]), WEB, to(TCP, 80)), ALLOWED_BY_DEFAULT);
    assert_eq!(judge(&open([]), IdentityId::UNKNOWN, to(255, 0)), ALLOWED_BY_DEFAULT);
}

#[test]
fn what_a_policy_selects_is_closed_to_everything_no_entry_matches() {
    assert_eq!(judge(&isolated([]), WEB, to(TCP, 80)), DENIED_BY_DEFAULT);
    assert_eq!(judge(&isolated([]), IdentityId::HOST, to(ICMP, 8)), DENIED_BY_DEFAULT);
    let program = isolated([allow(1).from([WEB]).on(tcp(80))]);
    assert_eq!(judge(&program, WEB, to(TCP, 81)), DENIED_BY_DEFAULT);
    assert_eq!(judge(&program, DB, to(TCP, 80)), DENIED_BY_DEFAULT);
}

#[test]
fn a_deny_without_isolation_leaves_everything_else_open() {
    let program = open([deny(1).from([CRAWLER])]);
    assert_eq!(judge(&program, CRAWLER, to(TCP, 80)), denied_by(1));
    assert_eq!(judge(&program, WEB, to(TCP, 80)), ALLOWED_BY_DEFAULT);
}

// Union.

#[test]
fn entries_are_a_union_in_any_order() {
    let program = isolated([allow(1).from([WEB]).on(tcp(80)), allow(2).from([DB]).on(tcp(81))]);
    for program in [&program, &reversed(&program)] {
        assert_eq!(judge(program, WEB, to(TCP, 80)), allowed_by(1));
        assert_eq!(judge(program, DB, to(TCP, 81)), allowed_by(2));
        // Peers and ports of one rule belong together: the union is of rules, not of their parts.
        assert_eq!(judge(program, WEB, to(TCP, 81)), DENIED_BY_DEFAULT);
        assert_eq!(judge(program, DB, to(TCP, 80)), DENIED_BY_DEFAULT);
    }
}

#[test]
fn one_entry_may_name_several_peers() {
    let program = isolated([allow(1).from([WEB, DB])]);
    assert_eq!(judge(&program, WEB, to(TCP, 80)), allowed_by(1));
    assert_eq!(judge(&program, DB, to(TCP, 80)), allowed_by(1));
    assert_eq!(judge(&program, CRAWLER, to(TCP, 80)), DENIED_BY_DEFAULT);
}

/// A name without addresses, a selector without pods, a present but empty list.
#[test]
fn an_entry_for_nobody_opens_nothing_and_isolates_all_the_same() {
    let program = isolated([allow(1).from([]).on(tcp(80))]);
    for peer in [WEB, IdentityId::WORLD_V4, IdentityId::UNKNOWN] {
        assert_eq!(judge(&program, peer, to(TCP, 80)), DENIED_BY_DEFAULT);
    }
}

#[test]
fn of_entries_that_say_the_same_the_first_is_named() {
    let program = isolated([allow(1), allow(2)]);
    assert_eq!(judge(&program, WEB, to(TCP, 80)), allowed_by(1));
    assert_eq!(judge(&reversed(&program), WEB, to(TCP, 80)), allowed_by(2));
}

// Deny.

#[test]
fn deny_beats_allow_whatever_the_order() {
    let program = isolated([allow(1).from([WEB]).on(tcp(80)), deny(2)]);
    for program in [&program, &reversed(&program)] {
        assert_eq!(judge(program, WEB, to(TCP, 80)), denied_by(2));
    }
}

#[test]
fn deny_beats_allow_whichever_is_narrower() {
    let narrow_allow = isolated([deny(1).on(ports(TCP, 1, 1000)), allow(2).from([WEB]).on(tcp(80))]);
    let narrow_deny = isolated([deny(1).from([WEB]).on(tcp(80)), allow(2)]);
    assert_eq!(judge(&narrow_allow, WEB, to(TCP, 80)), denied_by(1));
    assert_eq!(judge(&narrow_deny, WEB, to(TCP, 80)), denied_by(1));
    assert_eq!(judge(&narrow_deny, WEB, to(TCP, 81)), allowed_by(2));
    assert_eq!(judge(&narrow_deny, DB, to(TCP, 80)), allowed_by(2));
}

#[test]
fn a_silent_refusal_beats_a_spoken_one_and_both_beat_an_allow() {
    let reject = entry(Action::Reject, 2);
    let all = isolated([allow(1), reject.clone(), deny(3)]);
    assert_eq!(judge(&all, WEB, to(TCP, 80)), denied_by(3));
    assert_eq!(judge(&isolated([allow(1), reject]), WEB, to(TCP, 80)).action, Action::Reject);
}

// Requests and names.

#[test]
fn a_plain_allow_beside_an_allow_that_looks_into_requests_is_a_plain_allow_for_that_peer_only() {
    let program = isolated([proxy(1).from([WEB, DB]).on(tcp(80)), allow(2).from([WEB])]);
    for program in [&program, &reversed(&program)] {
        assert_eq!(judge(program, WEB, to(TCP, 80)), allowed_by(2));
        assert_eq!(judge(program, DB, to(TCP, 80)).action, Action::ToProxy { listener: 1 });
    }
}

#[test]
fn a_deny_beats_an_allow_that_looks_into_requests() {
    let program = isolated([proxy(1).on(tcp(80)), deny(2).from([WEB])]);
    assert_eq!(judge(&program, WEB, to(TCP, 80)), denied_by(2));
}

#[test]
fn a_plain_allow_beats_holding_for_names_and_holding_beats_the_proxy() {
    let hold = entry(Action::HoldForDns, 1);
    assert_eq!(judge(&isolated([hold.clone(), allow(2)]), WEB, to(UDP, 53)), allowed_by(2));
    assert_eq!(judge(&isolated([proxy(2), hold]), WEB, to(UDP, 53)).action, Action::HoldForDns);
}

// Services.

#[test]
fn both_ends_of_a_port_range_belong_to_it() {
    for (first, last) in [(80, 90), (0, 0), (0, 65535), (65535, 65535), (1, 65534)] {
        let program = isolated([allow(1).on(ports(TCP, first, last))]);
        assert_eq!(judge(&program, WEB, to(TCP, first)), allowed_by(1), "{first} of {first}-{last}");
        assert_eq!(judge(&program, WEB, to(TCP, last)), allowed_by(1), "{last} of {first}-{last}");
        if let Some(below) = first.checked_sub(1) {
            assert_eq!(judge(&program, WEB, to(TCP, below)), DENIED_BY_DEFAULT, "{below} is below");
        }
        if let Some(above) = last.checked_add(1) {
            assert_eq!(judge(&program, WEB, to(TCP, above)), DENIED_BY_DEFAULT, "{above} is above");
        }
    }
}

#[test]
fn a_port_of_one_protocol_opens_no_other_protocol() {
    for protocol in [TCP, UDP, SCTP] {
        let program = isolated([allow(1).on(ports(protocol, 80, 80))]);
        for asked in [TCP, UDP, SCTP, ICMP, ICMPV6, 47] {
            let is_allowed = judge(&program, WEB, to(asked, 80)) == allowed_by(1);
            assert_eq!(is_allowed, asked == protocol, "{asked} under a rule for {protocol}");
        }
    }
}

#[test]
fn a_policy_about_sctp_only_still_isolates_from_tcp() {
    let program = isolated([allow(1).on(Service::Protocol(SCTP))]);
    assert_eq!(judge(&program, WEB, to(SCTP, 7)), allowed_by(1));
    assert_eq!(judge(&program, WEB, to(TCP, 7)), DENIED_BY_DEFAULT);
}

#[test]
fn a_rule_without_a_port_opens_every_port_of_its_protocol() {
    let program = isolated([allow(1).on(Service::Protocol(UDP))]);
    for port in [0, 53, 65535] {
        assert_eq!(judge(&program, WEB, to(UDP, port)), allowed_by(1));
        assert_eq!(judge(&program, WEB, to(TCP, port)), DENIED_BY_DEFAULT);
    }
}

#[test]
fn a_rule_without_ports_opens_every_protocol() {
    let program = isolated([allow(1).from([WEB])]);
    for protocol in 0..=255 {
        assert_eq!(judge(&program, WEB, to(protocol, 8)), allowed_by(1), "protocol {protocol}");
    }
}

#[test]
fn a_rule_with_ports_opens_no_icmp() {
    let program = isolated([
        allow(1).on(ports(TCP, 0, 65535)),
        allow(2).on(ports(UDP, 0, 65535)),
        allow(3).on(ports(SCTP, 0, 65535)),
    ]);
    assert_eq!(judge(&program, WEB, to(ICMP, 8)), DENIED_BY_DEFAULT);
    assert_eq!(judge(&program, WEB, to(ICMPV6, 128)), DENIED_BY_DEFAULT);
}

#[test]
fn an_icmp_rule_opens_its_type_of_its_family() {
    let program = isolated([allow(1).on(Service::Icmp { protocol: ICMP, kind: 8 })]);
    assert_eq!(judge(&program, WEB, to(ICMP, 8)), allowed_by(1));
    assert_eq!(judge(&program, WEB, to(ICMP, 0)), DENIED_BY_DEFAULT);
    assert_eq!(judge(&program, WEB, to(ICMPV6, 8)), DENIED_BY_DEFAULT);
    assert_eq!(judge(&program, WEB, to(TCP, 8)), DENIED_BY_DEFAULT);
}

// Learned names.

#[test]
fn an_expired_name_keeps_flows_that_live_and_starts_none() {
    let program = isolated([allow(1).from([WEB]).on(tcp(443)).established_only()]);
    let asked = to(TCP, 443);
    assert_eq!(judge(&program, WEB, Question { established: true, ..asked }), allowed_by(1));
    assert_eq!(judge(&program, WEB, asked), DENIED_BY_DEFAULT);
    assert_eq!(judge(&program, DB, Question { established: true, ..asked }), DENIED_BY_DEFAULT);
}

#[test]
fn a_revoked_policy_cuts_established_flows() {
    let program = isolated([]);
    assert_eq!(judge(&program, WEB, Question { established: true, ..to(TCP, 80) }), DENIED_BY_DEFAULT);
}

#[test]
fn an_entry_for_new_flows_holds_for_established_ones_too() {
    let program = isolated([allow(1)]);
    assert_eq!(judge(&program, WEB, Question { established: true, ..to(TCP, 80) }), allowed_by(1));
}

// Tiers.

#[test]
fn a_lower_tier_decides_first_whatever_it_says() {
    let admin_allows = isolated([deny(1), allow(2).tier(tier::ADMIN)]);
    let admin_denies = isolated([allow(1), deny(2).tier(tier::ADMIN)]);
    let baseline_denies = isolated([deny(1).tier(tier::BASELINE), allow(2)]);
    for (program, expected) in
        [(admin_allows, allowed_by(2)), (admin_denies, denied_by(2)), (baseline_denies, allowed_by(2))]
    {
        assert_eq!(judge(&program, WEB, to(TCP, 80)), expected);
        assert_eq!(judge(&reversed(&program), WEB, to(TCP, 80)), expected);
    }
}

#[test]
fn within_a_tier_the_lower_priority_decides_before_strength_does() {
    let program = isolated([deny(1).priority(20), allow(2).priority(10)]);
    for program in [&program, &reversed(&program)] {
        assert_eq!(judge(program, WEB, to(TCP, 80)), allowed_by(2));
    }
}

#[test]
fn a_priority_counts_within_its_tier_only() {
    let program = isolated([allow(1).priority(0), deny(2).tier(tier::ADMIN).priority(1000)]);
    assert_eq!(judge(&program, WEB, to(TCP, 80)), denied_by(2));
}

#[test]
fn an_entry_that_does_not_match_leaves_the_decision_to_the_next() {
    let program = isolated([deny(1).tier(tier::ADMIN).from([CRAWLER]), allow(2)]);
    assert_eq!(judge(&program, WEB, to(TCP, 80)), allowed_by(2));
    assert_eq!(judge(&program, CRAWLER, to(TCP, 80)), denied_by(1));
}

#[test]
fn pass_skips_the_rest_of_its_tier() {
    let program =
        isolated([pass(1).tier(tier::ADMIN).priority(1), deny(2).tier(tier::ADMIN).priority(2), allow(3)]);
    for program in [&program, &reversed(&program)] {
        assert_eq!(judge(program, WEB, to(TCP, 80)), allowed_by(3));
    }
}

#[test]
fn pass_skips_its_tier_for_whom_and_what_it_names_only() {
    let program = isolated([
        pass(1).tier(tier::ADMIN).priority(1).from([WEB]).on(tcp(80)),
        deny(2).tier(tier::ADMIN).priority(2),
        allow(3),
    ]);
    assert_eq!(judge(&program, WEB, to(TCP, 80)), allowed_by(3));
    assert_eq!(judge(&program, WEB, to(TCP, 81)), denied_by(2));
    assert_eq!(judge(&program, DB, to(TCP, 80)), denied_by(2));
}

#[test]
fn pass_gives_way_to_every_answer_of_its_own_priority_or_a_better_one() {
    let equal = isolated([pass(1).tier(tier::ADMIN), deny(2).tier(tier::ADMIN), allow(3)]);
    let better =
        isolated([pass(1).tier(tier::ADMIN).priority(2), deny(2).tier(tier::ADMIN).priority(1), allow(3)]);
    assert_eq!(judge(&equal, WEB, to(TCP, 80)), denied_by(2));
    assert_eq!(judge(&better, WEB, to(TCP, 80)), denied_by(2));
}

#[test]
fn pass_from_the_last_tier_with_a_say_leads_to_the_default() {
    for t in [tier::ADMIN, tier::BASELINE] {
        assert_eq!(judge(&isolated([pass(1).tier(t)]), WEB, to(TCP, 80)), DENIED_BY_DEFAULT);
        assert_eq!(judge(&open([pass(1).tier(t)]), WEB, to(TCP, 80)), ALLOWED_BY_DEFAULT);
    }
}

#[test]
fn passes_in_several_tiers_skip_each_of_them() {
    let program = isolated([
        pass(1).tier(tier::ADMIN),
        pass(2).priority(1),
        deny(3).priority(2),
        allow(4).tier(tier::BASELINE),
    ]);
    assert_eq!(judge(&program, WEB, to(TCP, 80)), allowed_by(4));
}

/// Where isolation must come before the Baseline tier, the compiler says so with an entry of the normal tier.
#[test]
fn the_default_comes_after_every_tier() {
    let program = isolated([allow(1).tier(tier::BASELINE)]);
    assert_eq!(judge(&program, WEB, to(TCP, 80)), allowed_by(1));
    let told = isolated([allow(1).tier(tier::BASELINE), deny(2).priority(u32::MAX)]);
    assert_eq!(judge(&told, WEB, to(TCP, 80)), denied_by(2));
}

// Who is whom.

#[test]
fn the_unknown_are_matched_by_entries_for_everyone_only() {
    let known = [IdentityId::HOST, IdentityId::WORLD_V4, IdentityId::WORLD_V6, IdentityId::REMOTE_NODE, WEB];
    let program = isolated([allow(1).from(known).on(tcp(80)), allow(2).on(tcp(81))]);
    assert_eq!(judge(&program, IdentityId::UNKNOWN, to(TCP, 80)), DENIED_BY_DEFAULT);
    assert_eq!(judge(&program, IdentityId::UNKNOWN, to(TCP, 81)), allowed_by(2));
    for peer in known {
        assert_eq!(judge(&program, peer, to(TCP, 80)), allowed_by(1));
    }
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn prefixes(list: &[(&str, IdentityId)]) -> Vec<PrefixIdentity> {
    list.iter()
        .map(|(prefix, identity)| PrefixIdentity { prefix: prefix.parse().unwrap(), identity: *identity })
        .collect()
}

fn pod(name: &str, addresses: &[&str], identity: IdentityId, ingress: u32, egress: u32) -> PodPolicy {
    PodPolicy {
        pod: PodKey::new("default", name),
        addresses: addresses.iter().map(|a| address(a)).collect(),
        identity,
        other_identities: Vec::new(),
        ingress: ProgramId(ingress),
        egress: ProgramId(egress),
    }
}

#[test]
fn the_longest_prefix_names_an_address_whatever_the_order() {
    let mut artefact = Artefact {
        prefixes: prefixes(&[
            ("10.1.0.0/16", WEB),
            ("0.0.0.0/0", IdentityId::WORLD_V4),
            ("10.1.2.3/32", CRAWLER),
            ("10.1.2.0/24", DB),
            ("::/0", IdentityId::WORLD_V6),
            ("fd00::/8", WEB),
            ("fd00::1/128", DB),
        ]),
        ..Artefact::empty()
    };
    for _ in 0..2 {
        for (text, identity) in [
            ("10.1.2.3", CRAWLER),
            ("10.1.2.4", DB),
            ("10.1.3.4", WEB),
            ("10.0.255.255", IdentityId::WORLD_V4),
            ("10.2.0.0", IdentityId::WORLD_V4),
            ("fd00::1", DB),
            ("fd00::2", WEB),
            ("fe00::", IdentityId::WORLD_V6),
        ] {
            assert_eq!(identity_of(&artefact, address(text)), identity, "{text}");
        }
        artefact.prefixes.reverse();
    }
}

/// A socket that speaks both families shows IPv4 peers like this; on the wire no peer has such an address.
#[test]
fn an_ipv4_address_written_as_ipv6_is_not_the_ipv4_address() {
    let artefact = Artefact {
        prefixes: prefixes(&[
            ("0.0.0.0/0", IdentityId::WORLD_V4),
            ("10.0.0.0/8", WEB),
            ("::/0", IdentityId::WORLD_V6),
        ]),
        ..Artefact::empty()
    };
    assert_eq!(identity_of(&artefact, address("::ffff:10.0.0.1")), IdentityId::WORLD_V6);
}

#[test]
fn a_pod_of_this_node_is_itself_even_where_a_prefix_says_otherwise() {
    let artefact = Artefact {
        pods: vec![pod("web", &["10.0.0.1", "fd00::1"], WEB, 0, 0)],
        prefixes: prefixes(&[
            ("0.0.0.0/0", IdentityId::WORLD_V4),
            ("::/0", IdentityId::WORLD_V6),
            ("10.0.0.1/32", DB),
            ("fd00::1/128", DB),
        ]),
        ..Artefact::empty()
    };
    assert_eq!(identity_of(&artefact, address("10.0.0.1")), WEB);
    assert_eq!(identity_of(&artefact, address("fd00::1")), WEB);
    assert_eq!(identity_of(&artefact, address("10.0.0.2")), IdentityId::WORLD_V4);
}

#[test]
fn an_ip_block_over_one_address_of_a_pod_says_nothing_of_its_other_address() {
    let mut dual = pod("web", &["10.0.0.1", "fd00::1"], WEB, 0, 0);
    dual.other_identities = vec![AddressIdentity { address: address("10.0.0.1"), identity: DB }];
    let artefact = Artefact { pods: vec![dual], ..Artefact::empty() };
    assert_eq!(identity_of(&artefact, address("10.0.0.1")), DB);
    assert_eq!(identity_of(&artefact, address("fd00::1")), WEB);
}

// Both ends.

/// `web` and `db` live here, the crawler does not. Programs: 0 open, 1 closed, 2 open to web, 3 open to db.
fn two_pods(web: (u32, u32), db: (u32, u32)) -> Artefact {
    Artefact {
        policies: vec![PolicyInfo {
            kind: "NetworkPolicy".into(),
            namespace: "default".into(),
            name: "p".into(),
        }],
        rules: (0..4).map(|_| RuleInfo { policy: PolicyId(0), path: "spec.ingress[0]".into() }).collect(),
        programs: vec![
            open([]),
            isolated([]),
            isolated([allow(2).from([WEB])]),
            isolated([allow(3).from([DB])]),
        ],
        pods: vec![pod("web", &["10.0.0.1"], WEB, web.0, web.1), pod("db", &["10.0.0.2"], DB, db.0, db.1)],
        ..Artefact::empty()
    }
}

fn web_to_db(artefact: &Artefact) -> bool {
    artefact.validate().unwrap();
    judge_flow(artefact, address("10.0.0.1"), address("10.0.0.2"), to(TCP, 5432)).is_allowed()
}

#[test]
fn a_flow_needs_the_leave_of_both_ends() {
    // (ingress, egress) of web, then of db.
    assert!(web_to_db(&two_pods((0, 0), (0, 0))), "both open");
    assert!(web_to_db(&two_pods((0, 3), (2, 0))), "both let the other");
    assert!(!web_to_db(&two_pods((0, 1), (2, 0))), "the source may not");
    assert!(!web_to_db(&two_pods((0, 3), (1, 0))), "the destination does not");
    assert!(!web_to_db(&two_pods((0, 0), (3, 0))), "the destination lets somebody else");
}

#[test]
fn isolation_is_per_direction() {
    assert!(
        web_to_db(&two_pods((1, 0), (0, 1))),
        "neither ingress of the source nor egress of the destination counts"
    );
    assert!(!web_to_db(&two_pods((0, 1), (0, 0))));
    assert!(!web_to_db(&two_pods((0, 0), (1, 0))));
}

#[test]
fn an_end_that_is_not_local_is_not_judged_here() {
    let artefact = two_pods((0, 1), (1, 0));
    let outside = address("192.0.2.1");
    let inwards = judge_flow(&artefact, outside, address("10.0.0.2"), to(TCP, 80));
    assert_eq!((inwards.egress, inwards.ingress), (None, Some(DENIED_BY_DEFAULT)));
    let outwards = judge_flow(&artefact, address("10.0.0.1"), outside, to(TCP, 80));
    assert_eq!((outwards.egress, outwards.ingress), (Some(DENIED_BY_DEFAULT), None));
    let through = judge_flow(&artefact, outside, outside, to(TCP, 80));
    assert!(through.is_allowed() && through.egress.is_none() && through.ingress.is_none());
}

#[test]
fn a_reject_at_either_end_refuses_the_flow() {
    let mut artefact = two_pods((0, 0), (2, 0));
    artefact.programs[2].entries = vec![entry(Action::Reject, 0)];
    assert!(!web_to_db(&artefact));
}

#[test]
fn the_proxy_and_the_hold_let_a_flow_through() {
    for action in [Action::ToProxy { listener: 1 }, Action::HoldForDns] {
        let mut artefact = two_pods((0, 0), (2, 0));
        artefact.programs[2].entries = vec![entry(action, 0)];
        assert!(web_to_db(&artefact), "{action:?}");
    }
}

#[test]
fn a_refusal_names_the_rule_that_denied_or_all_objects_that_isolate() {
    let mut artefact = two_pods((0, 0), (1, 0));
    artefact.policies = (0..3)
        .map(|i| PolicyInfo {
            kind: "NetworkPolicy".into(),
            namespace: "default".into(),
            name: i.to_string(),
        })
        .collect();
    artefact.rules[1].policy = PolicyId(2);
    let by_two =
        Program { selected_by: vec![PolicyId(0), PolicyId(1)], ..isolated([deny(1).from([CRAWLER])]) };
    let by_default = judge(&by_two, WEB, to(TCP, 80));
    assert_eq!(policies_behind(&artefact, &by_two, by_default), [PolicyId(0), PolicyId(1)]);
    let by_rule = judge(&by_two, CRAWLER, to(TCP, 80));
    assert_eq!(policies_behind(&artefact, &by_two, by_rule), [PolicyId(2)]);
}
