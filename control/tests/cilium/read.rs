//! What each field becomes.

use super::*;

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
