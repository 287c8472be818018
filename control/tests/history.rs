//! The table of ways in which others enforced policy wrongly over time and across kinds, a test for each row that the compiler
//! decides. The row's number ends the name; `failures.rs` has NetworkPolicy's, and the switch's tests those that take frames.

mod small_cluster;

use penstock_api::EndpointId;
use penstock_api::artefact::PodKey;
use penstock_control::compile::{Enforcement, Limits, Options, PodToHost};
use penstock_control::objects::Kind;
use small_cluster::*;
use std::net::IpAddr;

#[test]
fn a_pod_that_attaches_under_an_existing_deny_is_isolated_at_once_1() {
    let mut cluster = Cluster::new(&knp("a/deny", DENY_ALL));
    let web = [WEB.parse::<IpAddr>().unwrap()];
    cluster.0.attach(EndpointId(1), PodKey::new("a", "web"), web);
    // Not known yet: no pod of the artefact, so the switch isolates it.
    assert!(cluster.artefact().pods.is_empty());
    cluster.apply(&pod("a/web", "app: web", WEB));
    let artefact = cluster.artefact();
    assert!(artefact.pods[0].addresses.contains(&web[0]));
    assert!(!cluster.connects(WEB, OUTSIDE));
}

#[test]
fn policies_of_a_dying_namespace_go_after_its_pods_3() {
    for policy in [knp("a/p", DENY_ALL), cnp("a/p", "{endpointSelector: {}, ingress: [{}], egress: [{}]}")] {
        let mut cluster = Cluster::usual(&policy);
        let kind = objects(&policy)[0].key().kind;
        cluster.apply(&namespace("a", "", "Terminating"));
        cluster.0.delete(&key(kind, "a/p"));
        assert!(!cluster.connects(WEB, OTHER));
        cluster.0.delete(&key(Kind::Namespace, "a"));
        assert!(!cluster.connects(WEB, OTHER));
        cluster.apply(&namespace("a", "", "Active"));
        assert!(cluster.connects(WEB, OTHER));
    }
}

const FROM_WEB: &str =
    "{podSelector: {matchLabels: {app: db}}, ingress: [{from: [{podSelector: {matchLabels: {app: web}}}]}]}";

#[test]
fn of_a_finished_and_a_running_pod_with_one_address_the_running_one_counts_4() {
    let finished = pod("a/job", "app: web", "10.1.0.7").replace("Running", "Succeeded");
    let running = pod("a/new", "app: new", "10.1.0.7");
    let mut cluster = Cluster::usual(&knp("a/p", FROM_WEB));
    cluster.apply(&finished);
    cluster.apply(&running);
    assert!(!cluster.connects("10.1.0.7", DB));
    cluster.0.delete(&key(Kind::Pod, "a/new"));
    cluster.apply(&finished.replace("Succeeded", "Running"));
    assert!(cluster.connects("10.1.0.7", DB));
}

#[test]
fn an_address_that_passes_to_another_pod_is_the_new_ones_whatever_the_order_of_events_5() {
    let old = pod("a/old", "app: web", "10.1.0.7");
    let new = pod("a/new", "app: new", "10.1.0.7");
    let mut cluster = Cluster::usual(&knp("a/p", FROM_WEB));
    cluster.apply(&old);
    assert!(cluster.connects("10.1.0.7", DB));
    // The new one before the old one's end: nothing is certain but what both may have.
    cluster.apply(&new);
    assert!(!cluster.connects("10.1.0.7", DB));
    cluster.0.delete(&key(Kind::Pod, "a/old"));
    assert!(!cluster.connects("10.1.0.7", DB));
    // And attached here before either is known to have gone.
    cluster.apply(&old);
    cluster.0.attach(EndpointId(77), PodKey::new("a", "new"), ["10.1.0.7".parse().unwrap()]);
    assert!(!cluster.connects("10.1.0.7", DB));
}

#[test]
fn where_it_is_not_certain_who_has_an_address_a_denial_of_either_holds_5() {
    let deny = "{endpointSelector: {matchLabels: {app: db}}, enableDefaultDeny: {ingress: false}, \
                ingressDeny: [{fromEndpoints: [{matchLabels: {app: bad}}]}]}";
    let mut cluster = Cluster::usual(&cnp("a/p", deny));
    cluster.apply(&pod("a/good", "app: good", "10.1.0.7"));
    assert!(cluster.connects("10.1.0.7", DB));
    cluster.apply(&pod("a/bad", "app: bad", "10.1.0.7"));
    assert!(!cluster.connects("10.1.0.7", DB));
    cluster.0.delete(&key(Kind::Pod, "a/bad"));
    assert!(cluster.connects("10.1.0.7", DB));
}

#[test]
fn of_two_pods_with_one_address_in_a_set_one_goes_and_the_address_stays_6() {
    let mut cluster = Cluster::usual(&knp("a/p", FROM_WEB));
    cluster.apply(&pod("a/one", "app: web", "10.1.0.7"));
    cluster.apply(&pod("a/two", "app: web", "10.1.0.7"));
    assert!(cluster.connects("10.1.0.7", DB));
    cluster.0.delete(&key(Kind::Pod, "a/one"));
    assert!(cluster.connects("10.1.0.7", DB));
    cluster.0.delete(&key(Kind::Pod, "a/two"));
    assert!(!cluster.connects("10.1.0.7", DB));
}

#[test]
fn a_label_taken_from_a_namespace_takes_the_access_7() {
    let kubernetes = "{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: x}}}]}]}";
    let cilium = "{endpointSelector: {}, ingress: [{fromEndpoints: [{matchLabels: {'k8s:io.cilium.k8s.namespace.labels.team': x}}]}]}";
    for policy in [knp("a/p", kubernetes), cnp("a/p", cilium)] {
        let mut cluster = Cluster::usual(&policy);
        assert!(!cluster.connects(OTHER, DB));
        cluster.apply(&namespace("b", "team: x", "Active"));
        assert!(cluster.connects(OTHER, DB));
        cluster.apply(&namespace("b", "team: y", "Active"));
        assert!(!cluster.connects(OTHER, DB));
        cluster.apply(&namespace("b", "team: x", "Active"));
        cluster.0.delete(&key(Kind::Namespace, "b"));
        assert!(!cluster.connects(OTHER, DB));
    }
}

#[test]
fn no_label_of_a_pod_speaks_for_its_namespace_its_account_or_a_reserved_name_8() {
    let liar = "io.kubernetes.pod.namespace: a, io.cilium.k8s.namespace.labels.team: x, \
                io.cilium.k8s.policy.serviceaccount: admin, io.cilium.k8s.policy.cluster: other, host: ''";
    for peer in [
        "{matchLabels: {io.kubernetes.pod.namespace: a}}",
        "{matchLabels: {io.cilium.k8s.namespace.labels.team: x}}",
        "{matchLabels: {io.kubernetes.pod.namespace: b, io.cilium.k8s.policy.serviceaccount: admin}}",
        "{matchLabels: {io.kubernetes.pod.namespace: b, io.cilium.k8s.policy.cluster: other}}",
        "{matchLabels: {'reserved:host': ''}}",
    ] {
        let spec = format!("{{endpointSelector: {{}}, ingress: [{{fromEndpoints: [{peer}]}}]}}");
        let mut cluster = Cluster::usual(&cnp("a/p", &spec));
        cluster.apply(&pod("b/liar", liar, "10.1.0.8"));
        cluster.0.attach_all_by_status();
        assert!(!cluster.connects("10.1.0.8", DB), "{peer}");
    }
    // Nor does one pull a policy over, or get out from under one.
    let mut cluster = Cluster::usual(&cnp("a/p", "{endpointSelector: {}, ingress: [{}]}"));
    cluster.apply(&pod("b/liar", liar, "10.1.0.8"));
    cluster.apply(&pod("a/liar", "io.kubernetes.pod.namespace: b", "10.1.0.9"));
    cluster.0.attach_all_by_status();
    assert!(cluster.connects(WEB, "10.1.0.8"));
    assert!(!cluster.connects(WEB, "10.1.0.9"));
}

#[test]
fn no_selector_of_a_namespaced_policy_leaves_its_namespace_9() {
    for selector in [
        "{matchExpressions: [{key: 'reserved:init', operator: DoesNotExist}]}",
        "{matchExpressions: [{key: 'cidr:10.0.0.0/8', operator: DoesNotExist}]}",
        "{matchExpressions: [{key: 'k8s:io.kubernetes.pod.namespace', operator: Exists}]}",
        "{matchExpressions: [{key: 'k8s:io.kubernetes.pod.namespace', operator: NotIn, values: [x]}]}",
    ] {
        let cluster =
            Cluster::usual(&cnp("a/p", &format!("{{endpointSelector: {selector}, ingress: [{{}}]}}")));
        assert!(!cluster.connects(WEB, DB), "{selector}");
        assert!(cluster.connects(WEB, OTHER), "{selector}");
    }
    let cluster = Cluster::usual(&cnp(
        "a/p",
        "{endpointSelector: {matchLabels: {'k8s:io.kubernetes.pod.namespace': b}}, ingress: [{}]}",
    ));
    assert!(cluster.connects(WEB, OTHER));
    assert!(cluster.connects(WEB, DB));
}

#[test]
fn a_port_name_is_each_destinations_own_10() {
    let text = |name: &str, app: &str, ip: &str, port: u16| {
        pod(name, app, ip)
            .replace("{name: c}", &format!("{{name: c, ports: [{{name: http, containerPort: {port}}}]}}"))
    };
    let pods = text("a/one", "app: s", "10.1.0.7", 8080) + &text("a/two", "app: s", "10.1.0.8", 9090);
    for spec in [
        "{endpointSelector: {matchLabels: {app: s}}, ingress: [{toPorts: [{ports: [{port: http, protocol: TCP}]}]}]}",
        "{endpointSelector: {matchLabels: {app: web}}, egress: [{toPorts: [{ports: [{port: http, protocol: TCP}]}]}]}",
    ] {
        let cluster = Cluster::usual(&(pods.clone() + &cnp("a/p", spec)));
        for (to, port, wanted) in [
            ("10.1.0.7", 8080, true),
            ("10.1.0.7", 9090, false),
            ("10.1.0.8", 9090, true),
            ("10.1.0.8", 8080, false),
        ] {
            assert_eq!(cluster.asks(WEB, to, TCP, port), wanted, "{to}:{port} {spec}");
        }
    }
}

#[test]
fn an_exception_denies_nothing_11() {
    let from = |peer: &str| {
        format!("{{endpointSelector: {{matchLabels: {{app: db}}}}, ingress: [{{fromCIDRSet: [{peer}]}}]}}")
    };
    let wide = cnp("a/wide", &from("{cidr: 192.0.2.0/24, except: [192.0.2.0/28]}"));
    let narrow = cnp("a/narrow", &from("{cidr: 192.0.2.0/30}"));
    let cluster = Cluster::usual(&wide);
    assert!(!cluster.connects(OUTSIDE, DB));
    assert!(cluster.connects("192.0.2.100", DB));
    let cluster = Cluster::usual(&(wide + &narrow));
    assert!(cluster.connects(OUTSIDE, DB));
}

#[test]
fn a_broad_denial_beats_a_narrow_allowance_in_any_order_12() {
    let deny = "{endpointSelector: {}, ingressDeny: [{fromCIDR: [192.0.2.0/24]}]}";
    let allow = "{endpointSelector: {}, ingress: [{fromCIDR: [192.0.2.1/32]}]}";
    // Of the other kind too.
    let other = "{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 192.0.2.1/32}}]}]}";
    for policies in [
        [cnp("a/p1", deny), cnp("a/p2", allow), knp("a/p3", other)],
        [knp("a/p1", other), cnp("a/p2", allow), cnp("a/p3", deny)],
        [cnp("a/p1", allow), ccnp("p2", deny), knp("a/p3", other)],
    ] {
        let mut cluster = Cluster::usual("");
        for policy in &policies {
            cluster.apply(policy);
        }
        for source in [OUTSIDE, "192.0.2.200"] {
            assert!(!cluster.connects(source, DB), "{policies:?}");
        }
    }
    let cluster = Cluster::usual(&cnp("a/p2", allow));
    assert!(cluster.connects(OUTSIDE, DB));
}

#[test]
fn both_ends_of_one_node_are_asked_21() {
    let policies = knp("a/in", "{podSelector: {matchLabels: {app: db}}}")
        + &cnp("a/out", "{endpointSelector: {matchLabels: {app: web}}, egress: [{toEntities: [all]}]}");
    let cluster = Cluster::usual(&policies);
    assert!(!cluster.connects(WEB, DB));
    assert!(cluster.connects(WEB, OTHER));
}

#[test]
fn what_outgrows_a_limit_is_refused_and_named_and_a_smaller_state_compiles_again_25() {
    let spec = "{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/30]}}]}]}";
    let mut cluster = Cluster::usual(&knp("a/p", spec));
    for limits in [
        Limits { identities_max: 3, ..Limits::default() },
        Limits { prefixes_max: 3, ..Limits::default() },
        Limits { entries_max: 1, ..Limits::default() },
    ] {
        let overflow = cluster.0.artefact_within(&limits).unwrap_err().to_string();
        assert!(overflow.contains("-max"), "{overflow}");
        assert!(limits.check(&cluster.artefact()).is_err());
    }
    cluster.0.delete(&key(Kind::NetworkPolicy, "a/p"));
    assert!(cluster.0.artefact_within(&Limits { entries_max: 10, ..Limits::default() }).is_ok());
    cluster.artefact();
}

#[test]
fn an_address_of_a_node_is_never_a_pods_25() {
    let any_pod = "{endpointSelector: {}, ingress: [{fromEndpoints: [{matchExpressions: [\
                   {key: 'k8s:io.kubernetes.pod.namespace', operator: Exists}]}]}]}";
    let mut cluster = Cluster::usual(&cnp("a/p", any_pod));
    cluster.apply(&pod("a/liar", "app: web", REMOTE_NODE));
    let agent = pod("a/agent", "app: web", "10.9.0.3").replace("spec: {", "spec: {hostNetwork: true, ");
    cluster.apply(&agent);
    assert!(cluster.connects(OTHER, DB));
    assert!(!cluster.connects(REMOTE_NODE, DB));
    assert!(!cluster.connects("10.9.0.3", DB));
}

#[test]
fn selectors_that_only_exclude_let_in_no_outsider_host_or_node_26() {
    let excludes = "{matchExpressions: [{key: KEY, operator: DoesNotExist}]}";
    for (policy, key) in [
        (knp("a/p", "{podSelector: {}, ingress: [{from: [{namespaceSelector: PEER}]}]}"), "x"),
        (cnp("a/p", "{endpointSelector: {}, ingress: [{fromEndpoints: [PEER]}]}"), "x"),
        (
            cnp("a/p", "{endpointSelector: {}, ingress: [{fromEndpoints: [PEER]}]}"),
            "io.cilium.k8s.namespace.labels.x",
        ),
        (ccnp("p", "{endpointSelector: {}, ingress: [{fromEndpoints: [PEER]}]}"), "x"),
    ] {
        let cluster = Cluster::usual(&policy.replace("PEER", &excludes.replace("KEY", key)));
        assert!(cluster.connects(WEB, DB), "{policy}");
        assert!(!cluster.connects(OUTSIDE, DB), "{policy}");
        assert!(!cluster.connects(REMOTE_NODE, DB), "{policy}");
    }
}

#[test]
fn the_own_node_may_always_unless_a_policy_denies_it() {
    let isolate = knp("a/p", DENY_ALL);
    let deny = cnp("a/d", "{endpointSelector: {}, ingressDeny: [{fromEntities: [host]}]}");
    assert!(Cluster::usual(&isolate).connects(HOST, DB));
    assert!(!Cluster::usual(&(isolate.clone() + &deny)).connects(HOST, DB));
    let mut cluster = Cluster::usual(&isolate);
    assert!(!cluster.connects(DB, HOST));
    cluster.0.set_options(Options { pod_to_host: PodToHost::Allow, ..Options::default() });
    assert!(cluster.connects(DB, HOST));
    assert!(!cluster.connects(DB, REMOTE_NODE));
}

#[test]
fn a_pod_may_always_reach_itself() {
    let deny = cnp(
        "a/d",
        "{endpointSelector: {}, ingressDeny: [{fromEntities: [all]}], egressDeny: [{toEntities: [all]}]}",
    );
    let cluster = Cluster::usual(&deny);
    assert!(cluster.connects(DB, DB));
    assert!(!cluster.connects(WEB, DB));
}

#[test]
fn every_pod_is_isolated_in_the_mode_always_and_none_in_the_mode_never() {
    let mut cluster = Cluster::usual(&knp("a/p", FROM_WEB));
    let mode = |enforcement| Options { enforcement, ..Options::default() };
    cluster.0.set_options(mode(Enforcement::Always));
    assert!(!cluster.connects(DB, OTHER));
    assert!(cluster.connects(HOST, OTHER));
    cluster.0.set_options(mode(Enforcement::Never));
    assert!(cluster.connects(OTHER, DB));
    cluster.0.set_options(mode(Enforcement::Default));
    assert!(!cluster.connects(OTHER, DB));
}

#[test]
fn echo_needs_a_rule_without_ports_or_one_about_icmp() {
    let rule = |rest: &str| {
        cnp("a/p", &format!("{{endpointSelector: {{}}, ingress: [{{fromEntities: [all]{rest}}}]}}"))
    };
    assert!(Cluster::usual(&rule("")).asks(WEB, DB, ICMP, 8));
    let every_port = rule(", toPorts: [{ports: [{port: '0'}]}]");
    assert!(!Cluster::usual(&every_port).asks(WEB, DB, ICMP, 8));
    assert!(Cluster::usual(&every_port).asks(WEB, DB, 132, 1));
    let echo = rule(", icmps: [{fields: [{type: 8, family: IPv4}]}]");
    assert!(Cluster::usual(&echo).asks(WEB, DB, ICMP, 8));
    assert!(!Cluster::usual(&echo).asks(WEB, DB, ICMP, 13));
    assert!(!Cluster::usual(&echo).connects(WEB, DB));
}

#[test]
fn what_is_not_enforced_is_named_isolates_and_allows_nothing() {
    let http = "{endpointSelector: {}, ingress: [{fromEntities: [all], toPorts: [{ports: [{port: '80', protocol: TCP}], \
                rules: {http: [{path: /}]}}]}]}";
    let cluster = Cluster::usual(&cnp("a/p", http));
    assert!(!cluster.connects(WEB, DB));
    let fields: Vec<String> = cluster.0.not_enforced().into_iter().map(|(_, field)| field.field).collect();
    assert_eq!(fields, ["spec.ingress[0].toPorts[0].rules.http"]);
    // A plain rule beside it is enforced.
    let beside =
        cnp("a/q", "{endpointSelector: {}, ingress: [{fromEndpoints: [{matchLabels: {app: web}}]}]}");
    let cluster = Cluster::usual(&(cnp("a/p", http) + &beside));
    assert!(cluster.connects(WEB, DB));
    assert!(!cluster.connects(OTHER, DB));
}

#[test]
fn a_group_of_cidrs_and_a_service_are_what_they_are_now() {
    let policies = cnp(
        "a/p",
        "{endpointSelector: {matchLabels: {app: web}}, egress: [{toCIDRSet: [{cidrGroupRef: g}]}, \
         {toServices: [{k8sService: {serviceName: s, namespace: b}}]}]}",
    );
    let group = |cidr: &str| {
        object("CiliumCIDRGroup", "cilium.io/v2", "g", &format!("spec: {{externalCIDRs: [{cidr}]}}"))
    };
    let service = |selector: &str| {
        object("Service", "v1", "b/s", &format!("spec: {{{selector}ports: [{{port: 80}}]}}"))
    };
    let slice = object(
        "EndpointSlice",
        "discovery.k8s.io/v1",
        "b/s-1",
        "addressType: IPv4\nendpoints: [{addresses: [198.51.100.9]}]\nports: []",
    )
    .replace("metadata: {", "metadata: {labels: {kubernetes.io/service-name: s}, ");
    let mut cluster = Cluster::usual(&policies);
    assert!(!cluster.connects(WEB, OUTSIDE));
    cluster.apply(&group("192.0.2.0/24"));
    assert!(cluster.connects(WEB, OUTSIDE));
    cluster.apply(&group("198.18.0.0/15"));
    assert!(!cluster.connects(WEB, OUTSIDE));
    assert!(!cluster.connects(WEB, OTHER));
    cluster.apply(&service("selector: {app: web}, "));
    assert!(cluster.connects(WEB, OTHER));
    cluster.apply(&service(""));
    assert!(!cluster.connects(WEB, OTHER));
    assert!(!cluster.connects(WEB, "198.51.100.9"));
    cluster.apply(&slice);
    assert!(cluster.connects(WEB, "198.51.100.9"));
    cluster.0.delete(&key(Kind::EndpointSlice, "b/s-1"));
    assert!(!cluster.connects(WEB, "198.51.100.9"));
}

#[test]
fn a_change_leaves_the_numbers_of_classes_alone_that_it_does_not_speak_of() {
    let mut cluster = Cluster::usual(&knp("a/p", FROM_WEB));
    let before = cluster.artefact();
    cluster.apply(&cnp("b/new", "{endpointSelector: {}, ingress: [{fromCIDR: [192.0.2.0/24]}]}"));
    let after = cluster.artefact();
    for prefix in &before.prefixes {
        assert!(after.prefixes.contains(prefix), "{prefix:?}");
    }
    for (old, new) in before.pods.iter().zip(&after.pods) {
        assert_eq!((&old.pod, old.identity), (&new.pod, new.identity));
    }
}
