//! The loader against text that people and broken tools write.

use penstock_control::load::{FileReport, combine, load_text};
use penstock_control::objects::{NetworkPolicy, Object, PortMatch};
use std::path::Path;

fn load(text: &str) -> FileReport {
    load_text(Path::new("policy.yaml"), text)
}

fn policy(spec: &str) -> String {
    let mut text =
        String::from("apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata:\n  name: p\nspec:\n");
    for line in spec.lines() {
        text.push_str(&format!("  {line}\n"));
    }
    text
}

#[track_caller]
fn good(spec: &str) -> NetworkPolicy {
    let report = load(&policy(spec));
    assert_eq!(report.errors, []);
    match report.objects.into_iter().next().unwrap().object {
        Object::NetworkPolicy(policy) => policy,
        other => panic!("{other:?}"),
    }
}

/// Refused, with this field and these words in one error.
#[track_caller]
fn refused(spec: &str, field: &str, words: &str) {
    let report = load(&policy(spec));
    assert!(report.objects.is_empty(), "accepted:\n{spec}");
    let found = report
        .errors
        .iter()
        .any(|e| e.field.as_deref() == Some(field) && e.message.contains(words) && e.line > 0);
    assert!(found, "no error at {field} saying {words:?}:\n{:#?}", report.errors);
}

#[test]
fn policy_types_default_to_ingress_and_to_egress_where_there_are_egress_rules() {
    let only_ingress = good("podSelector: {}");
    assert!(only_ingress.isolates_ingress && !only_ingress.isolates_egress);
    let both = good("podSelector: {}\negress:\n- {}");
    assert!(both.isolates_ingress && both.isolates_egress);
    let empty_egress = good("podSelector: {}\negress: []");
    assert!(!empty_egress.isolates_egress);
    let egress = good("podSelector:\npolicyTypes: [Egress]");
    assert!(!egress.isolates_ingress && egress.isolates_egress && egress.pod_selector.is_everything());
}

#[test]
fn contradictions_are_refused_by_field() {
    let rule = |text: &str| format!("podSelector: {{}}\ningress:\n- {}", text.replace('\n', "\n  "));
    for (text, field, words) in [
        ("from:\n- {}", "from[0]", "nothing set"),
        ("from:\n- podSelector:", "from[0]", "nothing set"),
        ("from:\n- ipBlock: {cidr: 10.0.0.0/8}\n  podSelector: {}", "from[0].ipBlock", "beside"),
        (
            "from:\n- ipBlock: {cidr: 10.0.0.0/8, except: [11.0.0.0/16]}",
            "from[0].ipBlock.except[0]",
            "inside",
        ),
        ("from:\n- ipBlock: {cidr: 10.0.0.0/8, except: [10.0.0.0/8]}", "from[0].ipBlock.except[0]", "all of"),
        ("from:\n- ipBlock: {cidr: 10.0.0.0/33}", "from[0].ipBlock.cidr", "CIDR"),
        ("from:\n- ipBlock: {except: [10.0.0.0/8]}", "from[0].ipBlock.cidr", "missing"),
        ("from:\n- podSelector: {matchLabels: {a: 1}}", "from[0].podSelector.matchLabels.a", "quotes"),
        ("from:\n- podSelector: {matchLabels: {a: yes}}", "from[0].podSelector.matchLabels.a", "quotes"),
        (
            "from:\n- podSelector: {matchLabels: {'a b': c}}",
            "from[0].podSelector.matchLabels[\"a b\"]",
            "label key",
        ),
        (
            "from:\n- podSelector: {matchLabels: {a: 'b c'}}",
            "from[0].podSelector.matchLabels.a",
            "label value",
        ),
        ("from:\n- podSelector: {app: web}", "from[0].podSelector.app", "unknown field"),
        (
            "from:\n- podSelector: {matchExpressions: [{key: a, operator: Is}]}",
            "from[0].podSelector.matchExpressions[0].operator",
            "NotIn",
        ),
        (
            "from:\n- podSelector: {matchExpressions: [{key: a, operator: In}]}",
            "from[0].podSelector.matchExpressions[0]",
            "at least one",
        ),
        (
            "from:\n- podSelector: {matchExpressions: [{key: a, operator: Exists, values: [b]}]}",
            "from[0].podSelector.matchExpressions[0]",
            "no values",
        ),
        (
            "from:\n- podSelector: {matchExpressions: [{operator: Exists}]}",
            "from[0].podSelector.matchExpressions[0].key",
            "missing",
        ),
        ("from: {podSelector: {}}", "from", "list"),
        ("from:\n-", "from[0]", "mapping"),
        ("ports:\n- 80", "ports[0]", "mapping"),
        ("ports:\n- port: 80\n  endPort: 79", "ports[0].endPort", "below"),
        ("ports:\n- endPort: 79", "ports[0].endPort", "needs port"),
        ("ports:\n- port: http\n  endPort: 79", "ports[0].endPort", "numeric"),
        ("ports:\n- port: '80'", "ports[0].port", "without quotes"),
        ("ports:\n- port: 0", "ports[0].port", "1 to 65535"),
        ("ports:\n- port: 65536", "ports[0].port", "1 to 65535"),
        ("ports:\n- port: 080", "ports[0].port", "decimal"),
        ("ports:\n- port: 80.0", "ports[0].port", "decimal"),
        ("ports:\n- port: 80\n  protocol: tcp", "ports[0].protocol", "SCTP"),
        ("ports:\n- port: 80\n  protocol: ICMP", "ports[0].protocol", "SCTP"),
        ("ports:\n- prt: 80", "ports[0].prt", "did you mean port?"),
        ("to:\n- podSelector: {}", "to", "unknown field"),
    ] {
        refused(&rule(text), &format!("spec.ingress[0].{field}"), words);
    }
    refused("podSelector: {}\ningress:\n-", "spec.ingress[0]", "mapping");
    refused("podSelector: {}\npolicyTypes: [Both]", "spec.policyTypes[0]", "Ingress or Egress");
    refused("policyTypes: [Ingress]", "spec.podSelector", "missing");
    refused("podSelector: {}\npodselector: {}", "spec.podselector", "did you mean podSelector?");
}

#[test]
fn a_key_that_stands_twice_is_refused_wherever_it_is() {
    refused("podSelector: {}\npodSelector: {}", "spec.podSelector", "twice");
    refused("podSelector:\n  matchLabels: {a: b, a: c}", "spec.podSelector.matchLabels.a", "twice");
    let text = policy("podSelector: {}").replace("name: p", "name: p\n  annotations: {a: b, a: c}");
    assert!(load(&text).objects.is_empty());
}

#[test]
fn errors_name_file_line_object_and_field() {
    let report = load(&policy("podSelector: {}\ningress:\n- from:\n  - podSelectr: {}"));
    let texts: Vec<String> = report.errors.iter().map(ToString::to_string).collect();
    assert!(
        texts[0].starts_with(
            "policy.yaml:9:7: NetworkPolicy default/p: spec.ingress[0].from[0].podSelectr: unknown field"
        ),
        "{texts:#?}"
    );
}

#[test]
fn ports_are_numbers_ranges_names_or_all() {
    let policy = good(
        "podSelector: {}\ningress:\n- ports:\n  - port: 80\n  - {port: 1, endPort: 65535, protocol: UDP}\n  - port: http\n  - protocol: SCTP",
    );
    let ports: Vec<_> = policy.ingress[0].ports.iter().map(|p| p.port.clone()).collect();
    assert_eq!(
        ports,
        [
            PortMatch::Range { first: 80, last: 80 },
            PortMatch::Range { first: 1, last: 65535 },
            PortMatch::Named("http".to_owned()),
            PortMatch::All
        ]
    );
}

#[test]
fn host_bits_are_masked_and_said() {
    let report = load(&policy("podSelector: {}\ningress:\n- from:\n  - ipBlock: {cidr: 10.1.2.3/8}"));
    assert_eq!((report.objects.len(), report.notices.len()), (1, 1));
}

#[test]
fn required_parts_that_are_missing_or_null_are_refused() {
    let whole = policy("podSelector: {}");
    for (from, to, field) in [
        ("apiVersion: networking.k8s.io/v1\n", "", "apiVersion"),
        ("kind: NetworkPolicy\n", "", "kind"),
        ("metadata:\n  name: p\n", "", "metadata"),
        ("metadata:\n  name: p\n", "metadata:\n", "metadata"),
        ("  name: p\n", "  namespace: p\n", "metadata.name"),
        ("  name: p\n", "  name: 7\n", "metadata.name"),
        ("  name: p\n", "  name: P\n", "metadata.name"),
        ("  name: p\n", "  name: p\n  namespace: N2\n", "metadata.namespace"),
        ("spec:\n  podSelector: {}\n", "", "spec"),
        ("spec:\n  podSelector: {}\n", "spec:\n", "spec"),
        ("networking.k8s.io/v1", "extensions/v1beta1", "apiVersion"),
        ("networking.k8s.io/v1", "v1", "apiVersion"),
        ("kind: NetworkPolicy", "kind: NetworkPolcy", "kind"),
    ] {
        let text = whole.replace(from, to);
        assert_ne!(text, whole);
        let report = load(&text);
        assert!(report.objects.is_empty(), "accepted:\n{text}");
        assert!(
            report.errors.iter().any(|e| e.field.as_deref() == Some(field)),
            "{text}\n{:#?}",
            report.errors
        );
    }
}

/// Documents copied from web pages that lost their indentation: most still parse, into something else.
#[test]
fn text_that_lost_its_indentation_is_refused_whole() {
    let spec_variants = [
        "podSelector: {}\npolicyTypes:\n- Ingress",
        "podSelector:\nmatchLabels:\napp: db\npolicyTypes:\n- Ingress\ningress:\n- {}",
        "podSelector: {}\npolicyTypes:\n- Ingress\ningress:\n- from:\n- podSelector: {}",
        "podSelector:\nmatchLabels:\napp: web\ningress:\n- from: []\nports:\n- port: 80",
        "podSelector:\ningress:\n- from:\n- namespaceSelector:\nmatchLabels:\nname: freeforall",
        "podSelector: {}\ningress:\n- from:\n- ipBlock:\ncidr: 172.17.0.0/16\n- podSelector:\nmatchLabels:\napp: a",
    ];
    for spec in spec_variants {
        for head in ["metadata:\nname: p\nspec:\n", "metadata:\n  name: p\nspec:\n", "metadata:\n  name: p\n"]
        {
            let text = format!("apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n{head}{spec}\n");
            let report = load(&text);
            assert!(report.objects.is_empty(), "accepted:\n{text}");
            assert!(!report.errors.is_empty());
        }
    }
    let namespace =
        "apiVersion: v1\nkind: Namespace\nmetadata:\nname: freeforall\nlabels:\nname: freeforall\n";
    assert!(load(namespace).objects.is_empty());
}

#[test]
fn one_bad_document_leaves_the_others_good() {
    let a = policy("podSelector: {}");
    let b = a.replace("name: p", "name: q").replace("podSelector", "podselector");
    let c = a.replace("name: p", "name: r");
    let report = load(&format!("{a}---\n{b}---\n{c}---\nx: [\n"));
    assert_eq!(report.objects.len(), 2);
    assert_eq!(
        report.refused.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["NetworkPolicy default/q"]
    );
    assert!(report.has_unreadable);
    assert_eq!(report.objects[1].place.line, 15);
}

#[test]
fn the_same_object_twice_counts_not_at_all_and_both_places_are_named() {
    let text = policy("podSelector: {}");
    let report = combine([load_text(Path::new("a.yaml"), &text), load_text(Path::new("b.yaml"), &text)]);
    assert!(report.objects.is_empty());
    let texts: Vec<String> = report.errors.iter().map(ToString::to_string).collect();
    assert_eq!(texts.len(), 2);
    assert!(texts[0].starts_with("a.yaml:1") && texts[0].contains("b.yaml:1"), "{texts:?}");
}

#[test]
fn json_and_lists_are_read_like_yaml() {
    let json = r#"{"apiVersion": "v1", "kind": "List", "items": [
      {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a", "labels": {"x": "y"}}},
      {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "a", "uid": "u"},
       "spec": {"containers": [{"name": "c", "ports": [{"containerPort": 80, "name": "http"}]}]},
       "status": {"phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]}}]}"#;
    let report = load_text(Path::new("x.json"), json);
    assert_eq!(report.errors, []);
    let Object::Pod(pod) = &report.objects[1].object else { panic!() };
    assert_eq!((pod.ports[0].port, pod.addresses.len(), pod.namespace.as_str()), (80, 2, "a"));
    assert_eq!(load(json).objects, load_text(Path::new("policy.yaml"), json).objects);
    let typed = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicyList\nitems:\n- metadata: {name: p}\n  spec: {podSelector: {}}\n";
    assert_eq!(load(typed).objects.len(), 1);
}

#[test]
fn pods_are_read_for_what_policy_needs_and_misspelt_fields_are_refused() {
    let pod = |rest: &str| {
        load(&format!("apiVersion: v1\nkind: Pod\nmetadata:\n  name: p\n  labels: {{app: web}}\n{rest}"))
    };
    let report = pod(
        "spec:\n  hostNetwork: true\n  nodeName: n1\n  restartPolicy: Always\n  initContainers:\n  - name: once\n    ports: [{containerPort: 1}]\n  - name: sidecar\n    restartPolicy: Always\n    ports: [{containerPort: 2, protocol: UDP}]\n  containers:\n  - name: c\n    image: x\n    ports: [{containerPort: 3, name: web}]\n",
    );
    assert_eq!(report.errors, []);
    let Object::Pod(found) = &report.objects[0].object else { panic!() };
    assert!(found.host_network);
    assert_eq!(found.ports.iter().map(|p| p.port).collect::<Vec<_>>(), [3, 2]);
    for bad in [
        "spec:\n  hostNetwrk: true\n  containers: []\n",
        "spec:\n  hostNetwork: maybe\n",
        "spec:\n",
        "",
        "spec: {}\nstatus:\n  podIp: 10.0.0.1\n",
        "spec: {}\nstatus:\n  podIP: 10.0.0\n",
        "spec: {}\nstatus:\n  phase: Done\n",
        "spec:\n  containers:\n  - name: c\n    ports: [{containerPort: http}]\n",
    ] {
        assert!(pod(bad).objects.is_empty(), "accepted:\n{bad}");
    }
}

#[test]
fn other_kinds_are_skipped_and_other_policies_are_refused() {
    let skipped = load("apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d}\nspec: {anything: 1}\n");
    assert_eq!((skipped.errors.len(), skipped.notices.len(), skipped.skipped.len()), (0, 0, 1));
    for (version, kind) in [
        ("projectcalico.org/v3", "GlobalNetworkPolicy"),
        ("policy.networking.k8s.io/v1alpha2", "ClusterNetworkPolicy"),
    ] {
        let report =
            load(&format!("apiVersion: {version}\nkind: {kind}\nmetadata: {{name: d}}\nspec: {{}}\n"));
        assert_eq!(report.errors.len(), 1, "{kind}");
        assert!(report.errors[0].message.contains("not enforced yet"));
    }
}

#[test]
fn a_namespace_cannot_claim_another_ones_name() {
    let namespace = |label: &str| {
        load(&format!(
            "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: a\n  labels: {{kubernetes.io/metadata.name: {label}}}\n"
        ))
    };
    assert_eq!(namespace("a").objects.len(), 1);
    assert!(namespace("b").objects.is_empty());
}

/// No text may make the loader panic or hang: cuts and single-character changes of a good document.
#[test]
fn damaged_text_is_read_or_refused_but_never_breaks_the_loader() {
    let text = format!(
        "{}---\n{}",
        policy(
            "podSelector: {matchLabels: {a: b}}\ningress:\n- from:\n  - ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}\n  ports:\n  - {port: 80, endPort: 90}"
        ),
        policy("podSelector:")
    );
    for cut in 0..text.len() {
        for name in ["x.yaml", "x.json"] {
            let _ = load_text(Path::new(name), &text[..cut]);
            for replacement in ["", "{", "[", "\"", "&a ", "*a ", "!x ", "\t", ":", "- ", "\u{0}", "é"] {
                let damaged = format!("{}{replacement}{}", &text[..cut], &text[(cut + 1).min(text.len())..]);
                let _ = load_text(Path::new(name), &damaged);
            }
        }
    }
}
