//! Cilium's policies against the loader: what each field becomes, and one refusal for each thing that can be wrong.

use ipnet::IpNet;
use penstock_control::load::{FileReport, load_text};
use penstock_control::objects::{
    CidrRule, CiliumPeerRule, CiliumPeers, CiliumPolicy, CiliumPortMatch, Entity, FqdnSelector, IcmpType,
    IpFamily, LabelSource, Object, Operator, Protocol, ServiceSelector, Subject,
};
use std::path::Path;

fn load(text: &str) -> FileReport {
    load_text(Path::new("policy.yaml"), text)
}

fn indented(text: &str, by: usize) -> String {
    text.lines().map(|line| format!("{}{line}\n", " ".repeat(by))).collect()
}

/// An object of this kind; the text stands below `metadata`.
fn object(kind: &str, text: &str) -> String {
    format!("apiVersion: cilium.io/v2\nkind: {kind}\nmetadata:\n  name: p\n{text}\n")
}

/// A policy whose spec is this text.
fn policy(spec: &str) -> String {
    object("CiliumNetworkPolicy", &format!("spec:\n{}", indented(spec, 2)))
}

fn clusterwide(spec: &str) -> String {
    object("CiliumClusterwideNetworkPolicy", &format!("spec:\n{}", indented(spec, 2)))
}

/// A spec that selects all pods and has one item in one of its lists.
fn with_item(section: &str, item: &str) -> String {
    format!("endpointSelector: {{}}\n{section}:\n- {}", indented(item, 2).trim_start())
}

#[track_caller]
fn good(text: &str) -> CiliumPolicy {
    let report = load(text);
    assert_eq!(report.errors, [], "{text}");
    match report.objects.into_iter().next().unwrap().object {
        Object::CiliumNetworkPolicy(policy) | Object::CiliumClusterwideNetworkPolicy(policy) => policy,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn good_item(section: &str, item: &str) -> CiliumPeerRule {
    let rule = good(&policy(&with_item(section, item))).rules.remove(0);
    let list = match section {
        "ingress" => rule.ingress,
        "ingressDeny" => rule.ingress_deny,
        "egress" => rule.egress,
        _ => rule.egress_deny,
    };
    list.unwrap().remove(0)
}

/// Refused, with this field and these words in one error that has a line.
#[track_caller]
fn refused(text: &str, field: &str, words: &str) {
    let report = load(text);
    assert!(report.objects.is_empty(), "accepted:\n{text}");
    let field = Some(field).filter(|field| !field.is_empty());
    let found = report
        .errors
        .iter()
        .any(|error| error.field.as_deref() == field && error.message.contains(words) && error.line > 0);
    assert!(found, "no error at {field:?} saying {words:?}:\n{:#?}\n{text}", report.errors);
}

#[track_caller]
fn refused_item(section: &str, item: &str, field: &str, words: &str) {
    let path = match field {
        "" => format!("spec.{section}[0]"),
        field => format!("spec.{section}[0].{field}"),
    };
    refused(&policy(&with_item(section, item)), &path, words);
}

fn nets(texts: &[&str]) -> Vec<IpNet> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

#[test]
fn spec_comes_before_specs_and_absent_lists_differ_from_empty_ones() {
    let rules = good(&object(
        "CiliumNetworkPolicy",
        "spec:\n  endpointSelector: {}\n  ingress: [{}]\n  egress: []\nspecs:\n- endpointSelector: {}\n  egressDeny: [{}]\n  \
         enableDefaultDeny: {egress: false}",
    ))
    .rules;
    assert_eq!(rules.iter().map(|rule| rule.path.as_str()).collect::<Vec<_>>(), ["spec", "specs[0]"]);
    assert_eq!(rules[0].ingress.as_ref().map(Vec::len), Some(1));
    assert_eq!((&rules[0].egress, &rules[0].egress_deny), (&Some(Vec::new()), &None));
    assert_eq!((rules[1].default_deny_ingress, rules[1].default_deny_egress), (None, Some(false)));
    assert_eq!(rules[1].egress_deny.as_ref().unwrap()[0].path, "specs[0].egressDeny[0]");
}

#[test]
fn an_absent_peer_is_anybody_and_an_empty_list_is_nobody() {
    assert_eq!(good_item("ingress", "{}").peers, CiliumPeers::Any);
    assert_eq!(good_item("ingress", "toPorts: [{ports: [{port: '1'}]}]").peers, CiliumPeers::Any);
    for field in
        ["toEndpoints", "toCIDR", "toCIDRSet", "toEntities", "toServices", "toFQDNs", "toGroups", "toNodes"]
    {
        assert_eq!(good_item("egress", &format!("{field}: []")).peers, CiliumPeers::None, "{field}");
    }
    assert_eq!(good_item("egress", "toEndpoints: []\ntoCIDR: [10.0.0.0/8]").peers, CiliumPeers::None);
    let all = good_item("ingress", "fromEndpoints: [{}]");
    assert!(matches!(&all.peers, CiliumPeers::Endpoints(list) if list[0].requirements.is_empty()));
}

#[test]
fn ports_are_absent_or_listed_and_an_item_without_ports_matches_nothing() {
    assert_eq!(good_item("ingress", "fromEndpoints: [{}]").ports, None);
    assert_eq!(good_item("ingress", "toPorts: []").ports, None);
    assert_eq!(good_item("ingress", "toPorts: [{}]").ports, Some(Vec::new()));
    let found = good_item(
        "egress",
        "toPorts:\n- ports:\n  - {port: '80', protocol: TCP}\n  - {port: '0', protocol: SCTP}\n- ports:\n  - {port: HTTP-alt}\n  - \
         {port: '1', endPort: 9, protocol: ANY}\n  - {port: '7', endPort: 0}",
    )
    .ports
    .unwrap();
    let range = |first, last| CiliumPortMatch::Range { first, last };
    let read: Vec<_> = found.iter().map(|port| (port.protocol, port.port.clone())).collect();
    assert_eq!(
        read,
        [
            (Some(Protocol::Tcp), range(80, 80)),
            (Some(Protocol::Sctp), CiliumPortMatch::All),
            (None, CiliumPortMatch::Name("http-alt".to_owned())),
            (None, range(1, 9)),
            (None, range(7, 7)),
        ]
    );
    assert_eq!(found[3].path, "spec.egress[0].toPorts[1].ports[1]");
}

#[test]
fn icmp_types_are_numbers_or_names_of_their_family() {
    let found = good_item(
        "ingress",
        "icmps:\n- fields: [{type: 8}, {type: '0', family: IPv4}]\n- fields: [{type: EchoRequest, family: IPv6}, {type: EchoRequest}]",
    );
    let icmp = |family, number| IcmpType { family, number };
    let v4 = IpFamily::V4;
    assert_eq!(found.icmps, Some(vec![icmp(v4, 8), icmp(v4, 0), icmp(IpFamily::V6, 128), icmp(v4, 8)]));
    assert_eq!(found.ports, None);
}

#[test]
fn label_keys_carry_their_source() {
    let CiliumPeers::Endpoints(list) = good_item(
        "ingress",
        "fromEndpoints:\n- matchLabels:\n    app: a\n    'k8s:io.kubernetes.pod.namespace': b\n    'reserved:host': ''\n    \
         io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name: c\n  matchExpressions:\n  - {key: any:x, operator: NotIn, values: [y]}",
    )
    .peers
    else {
        panic!()
    };
    let read: Vec<_> = list[0].requirements.iter().map(|r| (&r.source, r.key.as_str(), r.operator)).collect();
    assert_eq!(
        read,
        [
            (&LabelSource::Any, "app", Operator::In),
            (&LabelSource::K8s, "io.kubernetes.pod.namespace", Operator::In),
            (&LabelSource::Reserved, "host", Operator::In),
            (&LabelSource::Any, "io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name", Operator::In),
            (&LabelSource::Any, "x", Operator::NotIn),
        ]
    );
}

#[test]
fn addresses_entities_services_and_names_are_read() {
    let block = |cidr: &str, except: &[&str]| {
        CidrRule::Block(penstock_control::objects::IpBlock {
            cidr: cidr.parse().unwrap(),
            except: nets(except),
        })
    };
    assert_eq!(
        good_item("egress", "toCIDR: [10.1.2.3, '10.1.2.3/8', 'fd00::/8']").peers,
        CiliumPeers::Cidrs(vec![block("10.1.2.3/32", &[]), block("10.0.0.0/8", &[]), block("fd00::/8", &[])])
    );
    let CiliumPeers::Cidrs(rules) = good_item(
        "ingress",
        "fromCIDRSet:\n- {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}\n- {cidrGroupRef: g, except: [1.0.0.0/8]}\n- cidrGroupSelector: \
         {matchLabels: {a: b}}",
    )
    .peers
    else {
        panic!()
    };
    assert_eq!(rules[0], block("10.0.0.0/8", &["10.1.0.0/16"]));
    assert_eq!(rules[1], CidrRule::Group { name: "g".to_owned(), except: nets(&["1.0.0.0/8"]) });
    assert!(matches!(&rules[2], CidrRule::Groups { selector, .. } if selector.requirements.len() == 1));
    assert_eq!(
        good_item("ingress", "fromEntities: [world, kube-apiserver, world-ipv6, none]").peers,
        CiliumPeers::Entities(vec![Entity::World, Entity::KubeApiserver, Entity::WorldIpv6, Entity::None])
    );
    let CiliumPeers::Services(services) = good_item(
        "egress",
        "toServices:\n- k8sService: {serviceName: s}\n- k8sServiceSelector: {selector: {matchLabels: {a: b}}, namespace: n}",
    )
    .peers
    else {
        panic!()
    };
    assert_eq!(services[0], ServiceSelector::Name { namespace: None, name: "s".to_owned() });
    assert!(matches!(&services[1], ServiceSelector::Labels { namespace: Some(n), .. } if n == "n"));
    let names =
        good_item("egress", "toFQDNs: [{matchName: Cilium.IO}, {matchPattern: '*.a.'}, {matchPattern: '*'}]");
    assert_eq!(
        names.peers,
        CiliumPeers::Fqdns(vec![
            FqdnSelector::Name("cilium.io.".to_owned()),
            FqdnSelector::Pattern("*.a.".to_owned()),
            FqdnSelector::Pattern("*".to_owned()),
        ])
    );
    assert_eq!(names.not_enforced[0].field, "spec.egress[0].toFQDNs");
}

#[test]
fn cidr_groups_of_both_versions_are_read() {
    for version in ["v2", "v2alpha1"] {
        let report = load(&format!(
            "apiVersion: cilium.io/{version}\nkind: CiliumCIDRGroup\nmetadata: {{name: g, labels: {{a: b}}}}\nspec: {{externalCIDRs: \
             [10.0.0.9/8, 1.2.3.4, 10.0.0.0/8]}}\n"
        ));
        assert_eq!(report.errors, []);
        let Object::CiliumCidrGroup(group) = &report.objects[0].object else { panic!() };
        assert_eq!(group.cidrs, nets(&["1.2.3.4/32", "10.0.0.0/8"]));
        assert_eq!(group.labels["a"], "b");
    }
    for (spec, field, words) in [
        ("", "spec", "missing"),
        ("spec: {}", "spec.externalCIDRs", "missing"),
        ("spec: {externalCIDRs: [x]}", "spec.externalCIDRs[0]", "CIDR"),
        ("spec: {externalCIDRS: []}", "spec.externalCIDRS", "did you mean externalCIDRs?"),
        ("specs: []", "specs", "unknown field"),
    ] {
        refused(&object("CiliumCIDRGroup", spec), field, words);
    }
}

/// What is understood and not enforced is named, with the field's path; the object stands.
#[test]
fn fields_that_are_not_enforced_are_named_and_said_aloud() {
    let port = |more: &str| format!("toPorts:\n- ports: [{{port: '80', protocol: TCP}}]\n  {more}");
    for (section, item, field) in [
        ("ingress", port("rules: {http: [{}]}"), "toPorts[0].rules.http"),
        ("ingress", port("rules: {http: []}"), "toPorts[0].rules.http"),
        ("ingress", port("rules: {kafka: [{topic: a}]}"), "toPorts[0].rules.kafka"),
        ("ingress", port("rules: {l7proto: r2d2, l7: [{cmd: HALT}]}"), "toPorts[0].rules.l7proto"),
        (
            "egress",
            "toPorts: [{ports: [{port: '53'}], rules: {dns: [{matchPattern: '*'}]}}]".to_owned(),
            "toPorts[0].rules.dns",
        ),
        ("ingress", port("serverNames: ['*.a.b']"), "toPorts[0].serverNames"),
        ("ingress", port("terminatingTLS: {secret: {name: s}}"), "toPorts[0].terminatingTLS"),
        ("ingress", port("originatingTLS: {secret: {name: s, namespace: n}}"), "toPorts[0].originatingTLS"),
        ("egress", port("listener: {envoyConfig: {name: e}, name: l}"), "toPorts[0].listener"),
        ("ingress", "authentication: {mode: required}".to_owned(), "authentication"),
        ("ingress", "fromRequires: [{matchLabels: {a: b}}]".to_owned(), "fromRequires"),
        ("ingress", "fromNodes: [{}]".to_owned(), "fromNodes"),
        ("egressDeny", "toNodes: [{}]".to_owned(), "toNodes"),
        (
            "egress",
            "toGroups: [{aws: {region: r, labels: {a: b}, securityGroupsIds: [s]}}]".to_owned(),
            "toGroups",
        ),
        ("egress", "toFQDNs: [{matchName: a.b}]".to_owned(), "toFQDNs"),
    ] {
        let text = policy(&with_item(section, &item));
        let path = format!("spec.{section}[0].{field}");
        let named: Vec<String> =
            good_item(section, &item).not_enforced.into_iter().map(|n| n.field).collect();
        assert_eq!(named, [path.as_str()], "{text}");
        let notices = load(&text).notices;
        let said =
            notices.iter().find(|n| n.field.as_deref() == Some(&path) && n.message.contains("not enforced"));
        assert!(said.is_some_and(|notice| notice.line > 0), "{notices:#?}");
    }
    let host = good(&clusterwide("nodeSelector: {}\ningress: [{}]"));
    assert!(matches!(host.rules[0].subject, Subject::Nodes(_)));
    assert_eq!(host.rules[0].not_enforced[0].field, "spec.nodeSelector");
    // These change nothing, so there is nothing to enforce.
    let quiet = policy(
        "endpointSelector: {}\ndescription: d\nlabels: [{key: a, value: b, source: c}]\nlog: {value: v}\ningress:\n- authentication: \
         {mode: disabled}\n  toPorts: [{ports: [{port: '1'}], rules: {}}]",
    );
    assert_eq!(good(&quiet).rules[0].ingress.as_ref().unwrap()[0].not_enforced, []);
    assert_eq!(load(&quiet).notices, []);
}

#[test]
fn rules_are_refused_that_select_wrongly_or_say_nothing() {
    for (text, field, words) in [
        (object("CiliumNetworkPolicy", ""), "spec", "missing"),
        (object("CiliumNetworkPolicy", "spec:"), "spec", "null"),
        (object("CiliumNetworkPolicy", "specs: []"), "spec", "missing"),
        (object("CiliumNetworkPolicy", "specs:"), "specs", "null"),
        (object("CiliumNetworkPolicy", "specs: {}"), "specs", "expected a list"),
        (object("CiliumNetworkPolicy", "spec: []"), "spec", "expected a mapping"),
        (policy("endpointSelector: {}"), "spec", "neither isolate nor allow"),
        (policy("endpointSelector: {}\ningress: []\negressDeny: []"), "spec", "neither isolate nor allow"),
        (policy("ingress: [{}]"), "spec", "endpointSelector is missing"),
        (policy("endpointSelector:\ningress: [{}]"), "spec.endpointSelector", "null"),
        (policy("endpointSelector: {}\nnodeSelector: {}\ningress: [{}]"), "spec.nodeSelector", "beside"),
        (policy("nodeSelector: {}\ningress: [{}]"), "spec.nodeSelector", "Clusterwide"),
        (clusterwide("ingress: [{}]"), "spec", "or nodeSelector"),
        (
            clusterwide("endpointSelector: {}\ningress: [{}]").replace("name: p", "name: p\n  namespace: n"),
            "metadata.namespace",
            "no namespace",
        ),
        (policy("endpointSelector: {app: a}\ningress: [{}]"), "spec.endpointSelector.app", "unknown field"),
        (
            policy("endpointSelector: {matchLabels: }\ningress: [{}]"),
            "spec.endpointSelector.matchLabels",
            "null",
        ),
        (policy("endpointSelector: {}\ningres: [{}]"), "spec.ingres", "did you mean ingress?"),
        (policy("endpointSelector: {}\ningress:"), "spec.ingress", "null"),
        (policy("endpointSelector: {}\ningress:\n-"), "spec.ingress[0]", "expected a mapping"),
        (policy("endpointSelector: {}\ningress: {}"), "spec.ingress", "expected a list"),
        (policy("endpointSelector: {}\ningress: [{}]\ningress: [{}]"), "spec.ingress", "twice"),
        (
            policy("endpointSelector: {}\ningress: [{}]\nenableDefaultDeny: true"),
            "spec.enableDefaultDeny",
            "mapping",
        ),
        (
            policy("endpointSelector: {}\ningress: [{}]\nenableDefaultDeny: {ingress: 'no'}"),
            "spec.enableDefaultDeny.ingress",
            "true or false",
        ),
        (
            policy("endpointSelector: {}\ningress: [{}]\nenableDefaultDeny: {ingress: }"),
            "spec.enableDefaultDeny.ingress",
            "null",
        ),
        (
            policy("endpointSelector: {}\ningress: [{}]\nlabels: [{value: a}]"),
            "spec.labels[0].key",
            "missing",
        ),
        (
            policy("endpointSelector: {}\ningress: [{}]\nlog: {value: 0123456789012345678901234567890123}"),
            "spec.log.value",
            "quotes",
        ),
        (
            policy("endpointSelector: {}\ningress: [{}]\nlog: {value: abcdefghijklmnopqrstuvwxyzabcdefg}"),
            "spec.log.value",
            "too long",
        ),
        (policy("endpointSelector: {}\ningress: [{}]\npodSelector: {}"), "spec.podSelector", "unknown field"),
        (
            policy("endpointSelector: {}\ningress: [{}]").replace("cilium.io/v2", "cilium.io/v1"),
            "apiVersion",
            "cilium.io/v2",
        ),
        (
            policy("endpointSelector: {}\ningress: [{}]").replace("NetworkPolicy", "NetworkPolice"),
            "kind",
            "spelling",
        ),
    ] {
        refused(&text, field, words);
    }
}

#[test]
fn peers_are_refused_by_field() {
    for (item, field, words) in [
        ("toEndpoints: [{}]", "toEndpoints", "an item of egress"),
        ("toFQDNs: [{matchName: a.b}]", "toFQDNs", "an item of egress"),
        ("fromEndpoints:", "fromEndpoints", "null"),
        ("fromEndpoints: {}", "fromEndpoints", "expected a list"),
        ("fromEndpoints: ['']", "fromEndpoints[0]", "expected a mapping"),
        ("fromEndpoints:\n-", "fromEndpoints[0]", "expected a mapping"),
        ("fromEndpoints: [{}]\nfromCIDR: [1.0.0.0/8]", "fromCIDR", "beside fromEndpoints"),
        ("fromCIDR: [1.0.0.0/8]\nfromCIDRSet: [{cidr: 1.0.0.0/8}]", "fromCIDRSet", "beside fromCIDR"),
        ("fromEntities: [all]\nfromEndpoints: [{}]", "fromEntities", "beside fromEndpoints"),
        ("fromEndpoints: [{matchLabels: {a: 1}}]", "fromEndpoints[0].matchLabels.a", "quotes"),
        ("fromEndpoints: [{matchLabels: {a: 'b c'}}]", "fromEndpoints[0].matchLabels.a", "label value"),
        (
            "fromEndpoints: [{matchLabels: {'k8s:': b}}]",
            "fromEndpoints[0].matchLabels[\"k8s:\"]",
            "label key",
        ),
        (
            "fromEndpoints: [{matchLabels: {'reserved:Host': ''}}]",
            "fromEndpoints[0].matchLabels[\"reserved:Host\"]",
            "valid name",
        ),
        (
            "fromEndpoints: [{matchLabels: {'cidr:10.0.0': ''}}]",
            "fromEndpoints[0].matchLabels[\"cidr:10.0.0\"]",
            "CIDR",
        ),
        (
            "fromEndpoints: [{matchExpressions: [{key: a, operator: In}]}]",
            "fromEndpoints[0].matchExpressions[0]",
            "at least one",
        ),
        (
            "fromEndpoints: [{matchExpressions: [{key: a, operator: Exists, values: [b]}]}]",
            "fromEndpoints[0].matchExpressions[0]",
            "no values",
        ),
        (
            "fromEndpoints: [{matchExpressions: [{key: a, operator: Gt, values: ['1']}]}]",
            "fromEndpoints[0].matchExpressions[0].operator",
            "no operator",
        ),
        (
            "fromEndpoints: [{matchExpressions: [{operator: Exists}]}]",
            "fromEndpoints[0].matchExpressions[0].key",
            "missing",
        ),
        ("fromEntities: [World]", "fromEntities[0]", "no entity"),
        ("fromEntities: [1]", "fromEntities[0]", "quotes"),
        ("fromCIDR: [10.0.0.0/33]", "fromCIDR[0]", "CIDR"),
        ("fromCIDR: [010.0.0.0/8]", "fromCIDR[0]", "CIDR"),
        ("fromCIDR: ['::ffff:1.2.3.4']", "fromCIDR[0]", "CIDR"),
        ("fromCIDR: [{cidr: 10.0.0.0/8}]", "fromCIDR[0]", "expected a string"),
        ("fromCIDRSet: [10.0.0.0/8]", "fromCIDRSet[0]", "expected a mapping"),
        ("fromCIDRSet: [{cidr: 10.0.0.1}]", "fromCIDRSet[0].cidr", "prefix length"),
        (
            "fromCIDRSet: [{cidr: 10.0.0.0/8, except: [11.0.0.0/16]}]",
            "fromCIDRSet[0].except[0]",
            "not inside",
        ),
        (
            "fromCIDRSet: [{cidr: 10.1.0.0/16, except: [10.0.0.0/8]}]",
            "fromCIDRSet[0].except[0]",
            "not inside",
        ),
        ("fromCIDRSet: [{cidr: 10.1.0.0/16, except: }]", "fromCIDRSet[0].except", "null"),
        ("fromCIDRSet: [{except: [10.0.0.0/8]}]", "fromCIDRSet[0]", "nothing set"),
        ("fromCIDRSet: [{cidr: 1.0.0.0/8, cidrGroupRef: g}]", "fromCIDRSet[0].cidrGroupRef", "together"),
        ("fromCIDRSet: [{cidrGroupRef: G}]", "fromCIDRSet[0].cidrGroupRef", "valid name"),
        (
            "fromCIDRSet: [{cidrGroupSelector: {matchLabels: }}]",
            "fromCIDRSet[0].cidrGroupSelector.matchLabels",
            "null",
        ),
        ("fromCIDRSet: [{cidrGroupReff: g}]", "fromCIDRSet[0].cidrGroupReff", "did you mean cidrGroupRef?"),
        ("fromGroups: [{}]", "fromGroups[0].aws", "missing"),
        ("fromGroups: [{gcp: {}}]", "fromGroups[0].gcp", "unknown field"),
        ("authentication: {}", "authentication.mode", "missing"),
        ("authentication: {mode: maybe}", "authentication.mode", "no mode"),
    ] {
        refused_item("ingress", item, field, words);
    }
    for (item, field, words) in [
        ("fromEndpoints: [{}]", "fromEndpoints", "an item of ingress"),
        ("toServices: [{}]", "toServices[0]", "nothing set"),
        ("toServices: [{k8sService: {namespace: a}}]", "toServices[0].k8sService.serviceName", "missing"),
        (
            "toServices: [{k8sServiceSelector: {namespace: a}}]",
            "toServices[0].k8sServiceSelector.selector",
            "missing",
        ),
        (
            "toServices: [{k8sService: {serviceName: a}, k8sServiceSelector: {selector: {}}}]",
            "toServices[0].k8sServiceSelector",
            "beside",
        ),
        (
            "toServices: [{k8sService: {serviceName: a}}]\ntoEntities: [all]",
            "toServices",
            "beside toEntities",
        ),
        ("toFQDNs: [{}]", "toFQDNs[0]", "nothing set"),
        ("toFQDNs: [{matchName: a, matchPattern: b}]", "toFQDNs[0].matchPattern", "beside"),
        ("toFQDNs: [{matchName: '*.a'}]", "toFQDNs[0].matchName", "matchPattern"),
        ("toFQDNs: [{matchName: 'a..b'}]", "toFQDNs[0].matchName", "DNS name"),
        ("toFQDNs: [{matchPattern: 'a b'}]", "toFQDNs[0].matchPattern", "pattern"),
        ("toFQDNs: [{matchName: ''}]", "toFQDNs[0].matchName", "DNS name"),
        ("toFQDNs: [{matchName: a.b}]\ntoEndpoints: [{}]", "toFQDNs", "beside toEndpoints"),
    ] {
        refused_item("egress", item, field, words);
    }
    refused_item("egressDeny", "toFQDNs: [{matchName: a.b}]", "toFQDNs", "unknown field");
    refused_item("ingressDeny", "authentication: {mode: disabled}", "authentication", "unknown field");
}

#[test]
fn ports_and_icmp_types_are_refused_by_field() {
    let many = format!("toPorts: [{{ports: [{}]}}]", vec!["{port: '1'}"; 41].join(", "));
    let many_types = format!("icmps: [{{fields: [{}]}}]", vec!["{type: 1}"; 41].join(", "));
    for (item, field, words) in [
        ("toPorts:", "toPorts", "null"),
        ("toPorts: {}", "toPorts", "expected a list"),
        ("toPorts: [{port: '80'}]", "toPorts[0].port", "did you mean ports?"),
        ("toPorts: [{ports: }]", "toPorts[0].ports", "null"),
        ("toPorts: [{ports: ['80']}]", "toPorts[0].ports[0]", "expected a mapping"),
        ("toPorts: [{ports: [{protocol: TCP}]}]", "toPorts[0].ports[0].port", "missing"),
        ("toPorts: [{ports: [{port: 80}]}]", "toPorts[0].ports[0].port", "write it in quotes"),
        ("toPorts: [{ports: [{port: '080'}]}]", "toPorts[0].ports[0].port", "decimal"),
        ("toPorts: [{ports: [{port: '65536'}]}]", "toPorts[0].ports[0].port", "65535"),
        ("toPorts: [{ports: [{port: '-1'}]}]", "toPorts[0].ports[0].port", "decimal"),
        ("toPorts: [{ports: [{port: 'a--b'}]}]", "toPorts[0].ports[0].port", "name"),
        ("toPorts: [{ports: [{port: 'abcdefghijklmnop'}]}]", "toPorts[0].ports[0].port", "15 letters"),
        ("toPorts: [{ports: [{port: ''}]}]", "toPorts[0].ports[0].port", "name"),
        ("toPorts: [{ports: [{port: '80', endPort: 79}]}]", "toPorts[0].ports[0].endPort", "below"),
        (
            "toPorts: [{ports: [{port: '80', endPort: '90'}]}]",
            "toPorts[0].ports[0].endPort",
            "expected a number",
        ),
        ("toPorts: [{ports: [{port: '80', endPort: 65536}]}]", "toPorts[0].ports[0].endPort", "out of range"),
        ("toPorts: [{ports: [{port: 'http', endPort: 90}]}]", "toPorts[0].ports[0].endPort", "numeric"),
        ("toPorts: [{ports: [{port: '0', endPort: 90}]}]", "toPorts[0].ports[0].endPort", "every port"),
        ("toPorts: [{ports: [{port: '80', protocol: tcp}]}]", "toPorts[0].ports[0].protocol", "TCP"),
        ("toPorts: [{ports: [{port: '8', protocol: ICMP}]}]", "toPorts[0].ports[0].protocol", "use icmps"),
        ("toPorts: [{ports: [{port: '8', protocol: ICMPv6}]}]", "toPorts[0].ports[0].protocol", "use icmps"),
        (
            "toPorts: [{ports: [{port: '0', protocol: VRRP}]}]",
            "toPorts[0].ports[0].protocol",
            "no protocol with ports",
        ),
        (many.as_str(), "toPorts[0].ports", "40 is the most"),
        (many_types.as_str(), "icmps[0].fields", "40 is the most"),
        ("icmps: [{type: 8}]", "icmps[0].type", "unknown field"),
        ("icmps: [{fields: [{family: IPv4}]}]", "icmps[0].fields[0].type", "missing"),
        ("icmps: [{fields: [{type: 256}]}]", "icmps[0].fields[0].type", "out of range"),
        ("icmps: [{fields: [{type: Ping}]}]", "icmps[0].fields[0].type", "EchoRequest"),
        ("icmps: [{fields: [{type: PacketTooBig}]}]", "icmps[0].fields[0].type", "of this family"),
        ("icmps: [{fields: [{type: 8, family: ipv4}]}]", "icmps[0].fields[0].family", "IPv6"),
        ("icmps: [{fields: [{type: 8}]}]\ntoPorts: [{ports: [{port: '1'}]}]", "icmps", "beside toPorts"),
    ] {
        refused_item("ingress", item, field, words);
        refused_item("egressDeny", item, field, words);
    }
}

#[test]
fn what_is_above_l4_is_refused_by_field() {
    let tcp = "ports: [{port: '80', protocol: TCP}]";
    let long = format!("path: {}", "a".repeat(5000));
    for (section, item, field, words) in [
        (
            "ingress",
            format!("{tcp}\nrules: {{http: [{{path: '('}}]}}"),
            "rules.http[0].path",
            "regular expression",
        ),
        (
            "ingress",
            format!("{tcp}\nrules: {{http: [{{method: '[a'}}]}}"),
            "rules.http[0].method",
            "regular expression",
        ),
        ("ingress", format!("{tcp}\nrules: {{http: [{{host: 'a{{99999999}}'}}]}}"), "rules.http[0].host", ""),
        ("ingress", format!("{tcp}\nrules: {{http: [{{{long}}}]}}"), "rules.http[0].path", "4096"),
        (
            "ingress",
            format!("{tcp}\nrules: {{http: [{{path: '(a{{1000}}){{1000}}'}}]}}"),
            "rules.http[0].path",
            "too large",
        ),
        ("ingress", format!("{tcp}\nrules: {{http: [{{path: 1}}]}}"), "rules.http[0].path", "quotes"),
        ("ingress", format!("{tcp}\nrules: {{http: [{{url: /}}]}}"), "rules.http[0].url", "unknown field"),
        (
            "ingress",
            format!("{tcp}\nrules: {{http: [{{headers: ['a b: c']}}]}}"),
            "rules.http[0].headers[0]",
            "header",
        ),
        (
            "ingress",
            format!("{tcp}\nrules: {{http: [{{headerMatches: [{{value: a}}]}}]}}"),
            "rules.http[0].headerMatches[0].name",
            "missing",
        ),
        (
            "ingress",
            format!("{tcp}\nrules: {{http: [{{headerMatches: [{{name: a, mismatch: DROP}}]}}]}}"),
            "rules.http[0].headerMatches[0].mismatch",
            "REPLACE",
        ),
        (
            "ingress",
            format!("{tcp}\nrules: {{http: [{{headerMatches: [{{name: a, secret: {{}}}}]}}]}}"),
            "rules.http[0].headerMatches[0].secret.name",
            "missing",
        ),
        ("ingress", format!("{tcp}\nrules: {{http: }}"), "rules.http", "null"),
        ("ingress", format!("{tcp}\nrules:"), "rules", "null"),
        ("ingress", format!("{tcp}\nrules: {{http: [{{}}], kafka: [{{}}]}}"), "rules.kafka", "only one"),
        ("ingress", format!("{tcp}\nrules: {{grpc: [{{}}]}}"), "rules.grpc", "unknown field"),
        ("ingress", format!("{tcp}\nrules: {{l7: [{{a: b}}]}}"), "rules.l7", "needs l7proto"),
        ("ingress", format!("{tcp}\nrules: {{l7proto: x, l7: [{{'': b}}]}}"), "rules.l7[0]", "empty"),
        ("ingress", format!("{tcp}\nrules: {{kafka: [{{role: both}}]}}"), "rules.kafka[0].role", "produce"),
        (
            "ingress",
            format!("{tcp}\nrules: {{kafka: [{{role: produce, apiKey: fetch}}]}}"),
            "rules.kafka[0].apiKey",
            "beside",
        ),
        ("ingress", "ports: [{port: '80'}]\nrules: {http: [{}]}".to_owned(), "rules.http", "needs TCP"),
        (
            "ingress",
            "ports: [{port: '80', protocol: UDP}]\nrules: {http: [{}]}".to_owned(),
            "rules.http",
            "needs TCP",
        ),
        (
            "ingress",
            "ports: [{port: '0', protocol: TCP}]\nrules: {http: [{}]}".to_owned(),
            "rules.http",
            "every port",
        ),
        (
            "ingress",
            "ports: [{port: '53'}]\nrules: {dns: [{matchPattern: '*'}]}".to_owned(),
            "rules.dns",
            "egress",
        ),
        ("egress", "rules: {dns: [{matchPattern: '*'}]}".to_owned(), "rules.dns", "needs the port"),
        (
            "egress",
            "ports: [{port: '53', endPort: 54}]\nrules: {dns: [{matchPattern: '*'}]}".to_owned(),
            "rules.dns",
            "range",
        ),
        ("egress", "ports: [{port: '53'}]\nrules: {dns: [{}]}".to_owned(), "rules.dns[0]", "nothing set"),
        ("ingress", format!("{tcp}\nserverNames: []"), "serverNames", "empty list"),
        ("ingress", format!("{tcp}\nserverNames: ['']"), "serverNames[0]", "server name"),
        (
            "ingress",
            format!("{tcp}\nserverNames: [a.b]\nrules: {{http: [{{}}]}}"),
            "serverNames",
            "terminatingTLS",
        ),
        ("ingress", format!("{tcp}\nterminatingTLS: {{}}"), "terminatingTLS.secret", "missing"),
        (
            "ingress",
            format!("{tcp}\noriginatingTLS: {{secret: {{namespace: a}}}}"),
            "originatingTLS.secret.name",
            "missing",
        ),
        (
            "ingress",
            format!("{tcp}\nlistener: {{envoyConfig: {{name: a}}, name: b}}"),
            "listener",
            "egress only",
        ),
        ("egress", format!("{tcp}\nlistener: {{name: b}}"), "listener.envoyConfig", "missing"),
        (
            "egress",
            format!("{tcp}\nlistener: {{envoyConfig: {{name: a, kind: b}}, name: b}}"),
            "listener.envoyConfig.kind",
            "CiliumEnvoyConfig",
        ),
        (
            "egress",
            format!("{tcp}\nlistener: {{envoyConfig: {{name: a}}, name: b, priority: 101}}"),
            "listener.priority",
            "out of range",
        ),
        (
            "egress",
            format!("{tcp}\nlistener: {{envoyConfig: {{name: a}}, name: b}}\nrules: {{http: [{{}}]}}"),
            "listener",
            "beside rules",
        ),
        ("ingressDeny", format!("{tcp}\nrules: {{http: [{{}}]}}"), "rules", "ports only"),
        ("egressDeny", format!("{tcp}\nserverNames: [a.b]"), "serverNames", "ports only"),
        ("ingressDeny", format!("{tcp}\nrules:"), "rules", "ports only"),
    ] {
        let item = format!("toPorts:\n- {}", indented(&item, 2).trim_start());
        refused_item(section, &item, &format!("toPorts[0].{field}"), words);
    }
    let host = |section: &str, rules: &str| {
        clusterwide(&format!(
            "nodeSelector: {{}}\n{section}: [{{toPorts: [{{ports: [{{port: '80', protocol: TCP}}], rules: {rules}}}]}}]"
        ))
    };
    refused(&host("ingress", "{http: [{}]}"), "spec.ingress[0].toPorts[0].rules.http", "rule about nodes");
    refused(&host("egress", "{http: [{}]}"), "spec.egress[0].toPorts[0].rules.http", "rule about nodes");
    assert_eq!(load(&host("egress", "{dns: [{matchPattern: '*'}]}")).errors, []);
}

#[test]
fn surprises_that_change_nothing_are_noticed() {
    for (section, item, words) in [
        ("ingress", "fromCIDR: [10.1.2.3/8]", "read as 10.0.0.0/8"),
        ("ingress", "fromCIDRSet: [{cidr: 10.0.0.0/8, except: [10.0.0.0/8]}]", "nobody"),
        ("ingress", "fromEndpoints: []", "nobody"),
        ("ingress", "toPorts: []", "same as not set"),
        ("ingress", "toPorts: [{}]", "matches nothing"),
        ("ingress", "fromEndpoints: [{matchLabels: {'k9s:app': a}}]", "did you mean k8s:app?"),
        ("ingress", "fromEndpoints: [{matchLabels: {'reserved:nobody': ''}}]", "no label reserved:nobody"),
        (
            "ingress",
            "fromEndpoints: [{matchExpressions: [{key: a, operator: in, values: [b]}]}]",
            "read as In",
        ),
    ] {
        good_item(section, item);
        let notices = load(&policy(&with_item(section, item))).notices;
        assert!(notices.iter().any(|notice| notice.message.contains(words)), "{item}: {notices:#?}");
    }
    let text =
        policy("endpointSelector: {matchLabels: {'k8s:io.kubernetes.pod.namespace': other}}\ningress: [{}]");
    assert!(load(&text).notices[0].message.contains("selects nothing"));
}

/// What no pod can have selects none, and what none can have is missing from all: dropping the rule would open them.
#[test]
fn a_subject_without_a_label_of_addresses_is_every_pod() {
    let with = |operator: &str| {
        let selector = format!(
            "matchExpressions: [{{key: 'cidr:10.0.0.0/8', operator: {operator}}}, {{key: app, operator: Exists}}]"
        );
        good(&policy(&format!("endpointSelector: {{{selector}}}\ningress: [{{}}]")))
    };
    let asked = |operator: &str| match &with(operator).rules[0].subject {
        Subject::Endpoints(selector) => selector.requirements.len(),
        Subject::Nodes(_) => panic!(),
    };
    assert_eq!((asked("DoesNotExist"), asked("Exists")), (1, 2));
}

#[test]
fn rules_without_an_object_around_them_are_told_what_they_lack() {
    let text = r#"[{"labels": [{"key": "name", "value": "a"}], "endpointSelector": {}, "ingress": [{}]}]"#;
    let report = load_text(Path::new("rules.json"), text);
    assert!(report.objects.is_empty() && report.errors[0].message.contains("CiliumNetworkPolicy"));
}

/// As `kubectl get -o yaml` prints it: status, managed fields, annotations, in a list.
#[test]
fn what_an_api_server_prints_is_read() {
    let text = "apiVersion: v1\nkind: List\nmetadata:\n  resourceVersion: \"\"\nitems:\n- apiVersion: cilium.io/v2\n  kind: \
                CiliumNetworkPolicy\n  metadata:\n    annotations:\n      a: b\n    creationTimestamp: \"2026-01-01T00:00:00Z\"\n    \
                generation: 1\n    managedFields:\n    - apiVersion: cilium.io/v2\n      fieldsType: FieldsV1\n      fieldsV1:\n        \
                f:spec:\n          .: {}\n      manager: kubectl\n      operation: Update\n      time: \"2026-01-01T00:00:00Z\"\n    name: \
                p\n    namespace: n\n    resourceVersion: \"1\"\n    uid: a-b\n  spec:\n    endpointSelector: {}\n    ingress:\n    - {}\n  \
                status:\n    conditions:\n    - lastTransitionTime: \"2026-01-01T00:00:00Z\"\n      message: Policy validation succeeded\n      \
                status: \"True\"\n      type: Valid\n";
    let found = good(text);
    assert_eq!((found.namespace.as_str(), found.name.as_str()), ("n", "p"));
    let list = "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicyList\nitems:\n- metadata: {name: q}\n  spec: {endpointSelector: {}, ingress: \
                [{}]}\n";
    assert_eq!(good(list).name, "q");
}
