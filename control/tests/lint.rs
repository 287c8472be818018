//! What `lint` says of files, check by check, and what it does not say.

use penstock_control::lint::{Check, Finding, Report, Severity, lint};
use std::path::PathBuf;

fn check(text: &str) -> Report {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("a.yaml"), text).unwrap();
    lint(&[dir.path().to_owned()])
}

fn knp(name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: {name}}}\nspec: {spec}\n"
    )
}

fn cnp(name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: {name}}}\nspec: {spec}\n"
    )
}

fn pod(name: &str, labels: &str, more: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{{labels}}}}}\nspec: {{containers: [{{name: c{more}}}]}}\n"
    )
}

/// The findings of one check, as (field, message).
fn found(report: &Report, check: Check) -> Vec<(&str, &str)> {
    let of_check = report.findings.iter().filter(|finding| finding.check == check);
    of_check.map(|f| (f.error.field.as_deref().unwrap_or_default(), f.error.message.as_str())).collect()
}

#[track_caller]
fn warns(text: &str, check_: Check, field: &str, words: &str) {
    let report = check(text);
    let all = found(&report, check_);
    assert!(all.iter().any(|(f, m)| *f == field && m.contains(words)), "{:#?}", report.findings);
    assert!(report.findings.iter().all(|f| f.error.line > 0 || f.severity == Severity::Error));
}

#[track_caller]
fn silent(text: &str, of: Check) {
    let report = check(text);
    assert_eq!(report.count(Severity::Error), 0, "{:#?}", report.findings);
    assert_eq!(found(&report, of), [], "{text}");
}

#[test]
fn errors_are_the_loaders_and_a_good_object_says_nothing() {
    let report =
        check(&(knp("a", "{podselector: {}}") + &knp("b", "{podSelector: {}, policyTypes: [Ingress]}")));
    assert_eq!((report.objects, report.count(Severity::Error), report.count(Severity::Warning)), (1, 2, 0));
    let first: &Finding = &report.findings[0];
    assert_eq!((first.severity, first.check), (Severity::Error, Check::Refused));
    assert!(first.to_string().contains("error: NetworkPolicy default/a: spec"), "{first}");
    let twice = check(&(knp("a", "{podSelector: {}}") + &knp("a", "{podSelector: {}}")));
    assert_eq!(twice.count(Severity::Error), 2);
}

#[test]
fn kinds_that_are_no_policy_are_a_note() {
    let report = check("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\n");
    assert_eq!((report.findings.len(), report.count(Severity::Note)), (1, 1));
}

#[test]
fn notices_of_the_loader_are_warnings_with_a_place() {
    let text = knp("a", "{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.1.2.3/8}}]}]}");
    warns(&text, Check::Notice, "spec.ingress[0].from[0].ipBlock.cidr", "10.0.0.0/8");
    let http = cnp(
        "a",
        "{endpointSelector: {}, ingress: [{toPorts: [{ports: [{port: '80', protocol: TCP}], rules: {http: [{}]}}]}]}",
    );
    warns(&http, Check::NotEnforced, "spec.ingress[0].toPorts[0].rules.http", "allows nothing");
}

#[test]
fn a_policy_that_selects_nothing_is_told_when_there_are_pods_to_select() {
    let policy = knp("p", "{podSelector: {matchLabels: {app: db}}}");
    silent(&policy, Check::SelectsNothing);
    silent(&(policy.clone() + &pod("a", "app: db", "")), Check::SelectsNothing);
    warns(&(policy.clone() + &pod("a", "app: web", "")), Check::SelectsNothing, "spec.podSelector", "no pod");
    // One of another namespace, one that is over, one on its node's network.
    let elsewhere = pod("a", "app: db", "").replace("name: a,", "name: a, namespace: other,");
    let over = pod("a", "app: db", "") + "status: {phase: Succeeded}\n";
    let host = pod("a", "app: db", "").replace("spec: {", "spec: {hostNetwork: true, ");
    for pods in [elsewhere, over, host] {
        warns(&(policy.clone() + &pods), Check::SelectsNothing, "spec.podSelector", "no pod");
    }
    let cilium = cnp("p", "{endpointSelector: {matchLabels: {'k8s:app': db}}, ingress: [{}]}");
    warns(
        &(cilium.clone() + &pod("a", "app: web", "")),
        Check::SelectsNothing,
        "spec.endpointSelector",
        "no pod",
    );
    silent(&(cilium + &pod("a", "app: db", "")), Check::SelectsNothing);
}

#[test]
fn a_namespace_selector_without_a_namespace_is_told() {
    let policy =
        knp("p", "{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {name: shop}}}]}]}");
    let namespace = |labels: &str| {
        format!("---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: shop, labels: {{{labels}}}}}\n")
    };
    silent(&policy, Check::SelectsNothing);
    silent(&(policy.clone() + &namespace("name: shop")), Check::SelectsNothing);
    let field = "spec.ingress[0].from[0].namespaceSelector";
    warns(&(policy + &namespace("")), Check::SelectsNothing, field, "labels, not names");
}

#[test]
fn a_rule_or_peer_that_another_one_covers_is_told() {
    for (spec, field, words) in [
        (
            "{podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {a: b}}}]}, {from: [{podSelector: {}}]}]}",
            "spec.ingress[0]",
            "spec.ingress[1] allows all of it",
        ),
        (
            "{podSelector: {}, ingress: [{ports: [{port: 80, endPort: 90}]}, {from: [{podSelector: {}}], ports: [{port: 85}]}]}",
            "spec.ingress[1]",
            "spec.ingress[0] allows",
        ),
        (
            "{podSelector: {}, ingress: [{from: [{podSelector: {}}, {podSelector: {matchLabels: {a: b}}}]}]}",
            "spec.ingress[0].from[1]",
            "spec.ingress[0].from[0] allows",
        ),
        (
            "{podSelector: {}, egress: [{to: [{ipBlock: {cidr: 10.1.0.0/16}}, {ipBlock: {cidr: 10.0.0.0/8, except: [10.2.0.0/16]}}]}]}",
            "spec.egress[0].to[0]",
            "spec.egress[0].to[1] allows",
        ),
        // Twice the same: the second is the one to remove.
        (
            "{podSelector: {}, ingress: [{ports: [{port: 80}]}, {ports: [{port: 80}]}]}",
            "spec.ingress[1]",
            "spec.ingress[0]",
        ),
    ] {
        warns(&knp("p", spec), Check::Shadowed, field, words);
        assert_eq!(found(&check(&knp("p", spec)), Check::Shadowed).len(), 1, "{spec}");
    }
    for spec in [
        "{podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {a: b}}}]}, {from: [{podSelector: {matchLabels: {a: c}}}]}]}",
        "{podSelector: {}, ingress: [{from: [{podSelector: {}}], ports: [{port: 80}]}, {from: [{podSelector: {matchLabels: {a: b}}}]}]}",
        "{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}}, {ipBlock: {cidr: 10.1.2.0/24}}]}]}",
        "{podSelector: {}, ingress: [{ports: [{port: 80}]}, {ports: [{port: 80, protocol: UDP}]}]}",
        // A namespace of its own is not every namespace.
        "{podSelector: {}, ingress: [{from: [{podSelector: {}}]}, {from: [{namespaceSelector: {}, podSelector: {matchLabels: {a: b}}}]}]}",
    ] {
        silent(&knp("p", spec), Check::Shadowed);
    }
}

#[test]
fn a_cilium_rule_that_is_covered_or_denied_is_told() {
    for (spec, field, words) in [
        (
            "{endpointSelector: {}, ingress: [{fromEntities: [all]}, {fromEndpoints: [{}]}]}",
            "spec.ingress[1]",
            "spec.ingress[0] allows",
        ),
        (
            "{endpointSelector: {}, egress: [{toCIDR: [10.1.0.0/16]}], egressDeny: [{toCIDRSet: [{cidr: 10.0.0.0/8}]}]}",
            "spec.egress[0]",
            "spec.egressDeny[0] denies all",
        ),
        (
            "{endpointSelector: {}, egress: [{toEntities: [world, cluster, host]}]}",
            "spec.egress[0].toEntities[2]",
            "toEntities[1] allows",
        ),
        (
            "{endpointSelector: {}, egress: [{toCIDRSet: [{cidr: 10.0.0.0/8}, {cidr: 10.1.0.0/16, except: [10.1.1.0/24]}]}]}",
            "spec.egress[0].toCIDRSet[1]",
            "toCIDRSet[0] allows",
        ),
    ] {
        warns(&cnp("p", spec), Check::Shadowed, field, words);
    }
    for spec in [
        "{endpointSelector: {}, ingress: [{}, {fromEndpoints: [{}]}]}",
        "{endpointSelector: {}, ingress: [{fromEndpoints: [{}]}], ingressDeny: [{fromEndpoints: [{}], toPorts: [{ports: [{port: '1'}]}]}]}",
        "{endpointSelector: {}, ingress: [{fromEntities: [world]}, {fromCIDR: [10.0.0.0/8]}]}",
    ] {
        silent(&cnp("p", spec), Check::Shadowed);
    }
}

#[test]
fn the_empty_item_that_means_two_things_is_told() {
    warns(
        &cnp("p", "{endpointSelector: {}, ingress: [{}]}"),
        Check::EmptyItem,
        "spec.ingress[0]",
        "fromEntities: [all]",
    );
    warns(
        &cnp("p", "{endpointSelector: {}, egressDeny: [{}]}"),
        Check::EmptyItem,
        "spec.egressDeny[0]",
        "denies nothing",
    );
    silent(&cnp("p", "{endpointSelector: {}, ingress: [{fromEndpoints: [{}]}]}"), Check::EmptyItem);
    silent(&knp("p", "{podSelector: {}, ingress: [{}]}"), Check::EmptyItem);
}

#[test]
fn dns_forgotten_under_isolated_egress_is_told() {
    let closed =
        "{podSelector: {}, policyTypes: [Egress], egress: [{to: [{podSelector: {}}], ports: [{port: 80}]}]}";
    warns(&knp("p", closed), Check::Dns, "spec.egress", "isolates egress");
    let udp = closed.replace("egress: [", "egress: [{ports: [{port: 53, protocol: UDP}]}, ");
    warns(&knp("p", &udp), Check::Dns, "spec.egress", "not over TCP");
    let both = closed.replace("egress: [", "egress: [{ports: [{port: 53, protocol: UDP}, {port: 53}]}, ");
    silent(&knp("p", &both), Check::Dns);
    // One policy for DNS and one for the rest.
    let dns = "{podSelector: {}, policyTypes: [Egress], egress: [{ports: [{port: 53, protocol: UDP}, {port: 53}]}]}";
    silent(&(knp("p", closed) + &knp("dns", dns)), Check::Dns);
    // But it must be about the same pods.
    let others = dns.replace("podSelector: {}", "podSelector: {matchLabels: {app: db}}");
    warns(&(knp("p", closed) + &knp("dns", &others)), Check::Dns, "spec.egress", "isolates egress");
    silent(&(knp("p", closed) + &knp("dns", &others) + &pod("a", "app: db", "")), Check::Dns);
    let web = check(&(knp("p", closed) + &knp("dns", &others) + &pod("a", "app: web", "")));
    assert!(found(&web, Check::Dns)[0].1.contains("default/a"));
    silent(&knp("p", "{podSelector: {}, policyTypes: [Ingress]}"), Check::Dns);
    warns(
        &cnp(
            "p",
            "{endpointSelector: {}, egress: [{toEndpoints: [{}], toPorts: [{ports: [{port: '80'}]}]}]}",
        ),
        Check::Dns,
        "spec.egress",
        "isolates egress",
    );
    silent(&cnp("p", "{endpointSelector: {}, egress: [{toEntities: [cluster]}]}"), Check::Dns);
    silent(&cnp("p", "{endpointSelector: {}, egress: [{toPorts: [{ports: [{port: dns}]}]}]}"), Check::Dns);
}

#[test]
fn names_that_nothing_answers_to_are_told() {
    let named = knp("p", "{podSelector: {}, ingress: [{ports: [{port: web}]}]}");
    silent(&named, Check::PortName);
    warns(&(named.clone() + &pod("a", "", "")), Check::PortName, "spec.ingress[0].ports[0].port", "\"web\"");
    silent(&(named.clone() + &pod("a", "", ", ports: [{name: web, containerPort: 80}]")), Check::PortName);
    let udp = ", ports: [{name: web, containerPort: 80, protocol: UDP}]";
    warns(&(named + &pod("a", "", udp)), Check::PortName, "spec.ingress[0].ports[0].port", "this protocol");
    let cilium = cnp("p", "{endpointSelector: {}, ingress: [{toPorts: [{ports: [{port: web}]}]}]}");
    silent(&(cilium.clone() + &pod("a", "", udp)), Check::PortName);
    warns(
        &(cilium + &pod("a", "", "")),
        Check::PortName,
        "spec.ingress[0].toPorts[0].ports[0].port",
        "matches nothing",
    );
    let group = cnp("p", "{endpointSelector: {}, egress: [{toCIDRSet: [{cidrGroupRef: g}]}]}");
    warns(&group, Check::Reference, "spec.egress[0]", "CiliumCIDRGroup g");
    let there = "---\napiVersion: cilium.io/v2\nkind: CiliumCIDRGroup\nmetadata: {name: g}\nspec: {externalCIDRs: []}\n";
    silent(&(group + there), Check::Reference);
    let service = |namespace: &str| {
        format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: s, namespace: {namespace}}}\nspec: {{ports: [{{port: 1}}]}}\n"
        )
    };
    let to = |name: &str| {
        cnp(
            "p",
            &format!(
                "{{endpointSelector: {{}}, egress: [{{toServices: [{{k8sService: {{serviceName: {name}}}}}]}}]}}"
            ),
        )
    };
    silent(&to("s"), Check::Reference);
    silent(&(to("s") + &service("default")), Check::Reference);
    warns(&(to("x") + &service("default")), Check::Reference, "spec.egress[0].toServices[0]", "no service");
    warns(
        &(to("s") + &service("other")),
        Check::Reference,
        "spec.egress[0].toServices[0]",
        "services of other",
    );
}

#[test]
fn all_of_ipv4_alone_is_told_where_both_are_spoken() {
    let world = knp("p", "{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 0.0.0.0/0}}]}]}");
    let v6 = pod("a", "", "") + "status: {podIPs: [{ip: 10.0.0.1}, {ip: 'fd00::1'}]}\n";
    silent(&world, Check::OneFamily);
    warns(&(world.clone() + &v6), Check::OneFamily, "spec.ingress[0].from[0]", "::/0");
    let both = world.replace("0.0.0.0/0}}", "0.0.0.0/0}}, {ipBlock: {cidr: '::/0'}}");
    silent(&(both + &v6), Check::OneFamily);
}

#[test]
fn findings_say_where_the_field_stands() {
    let text = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata:\n  name: p\nspec:\n  podSelector: {}\n  ingress:\n  \
                - ports:\n    - port: 80\n  - ports:\n    - port: 80\n";
    let report = check(text);
    let shadowed = report.findings.iter().find(|f| f.check == Check::Shadowed).unwrap();
    assert_eq!((shadowed.error.line, shadowed.error.column), (10, 5));
    assert!(shadowed.to_string().ends_with("spec.ingress[0] allows all of it [shadowed]"), "{shadowed}");
    assert!(shadowed.error.file.ends_with(PathBuf::from("a.yaml")));
}
