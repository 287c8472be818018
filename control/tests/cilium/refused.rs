//! One refusal for each thing that can be wrong.

use super::*;

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
fn rules_without_an_object_around_them_are_told_what_they_lack() {
    let text = r#"[{"labels": [{"key": "name", "value": "a"}], "endpointSelector": {}, "ingress": [{}]}]"#;
    let report = load_text(Path::new("rules.json"), text);
    assert!(report.objects.is_empty() && report.errors[0].message.contains("CiliumNetworkPolicy"));
}
