//! What is read and said aloud: fields that nothing enforces, and surprises.

use super::*;

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
