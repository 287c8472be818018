//! NetworkPolicy v1, sentence by sentence: each test is one.

mod town;

use penstock_oracle::End::{Allow, Deny, Open};
use serde_json::{Value, json};
use town::{HOST, OUTSIDER, REMOTE, knp, namespace, pod, town};

/// A policy of alpha over all its pods, with these ingress rules.
fn ingress(rules: Value) -> Value {
    knp("alpha", json!({"podSelector": {}, "ingress": rules}))
}

#[test]
fn isolation_is_per_direction() {
    let town = town(&[ingress(json!([]))]);
    assert_eq!(town.takes("alpha/db", "alpha/web", "TCP/80"), Deny);
    assert_eq!(town.sends("alpha/db", "alpha/web", "TCP/80"), Open);
}

#[test]
fn a_policy_isolates_pods_of_its_own_namespace_only() {
    let town = town(&[ingress(json!([]))]);
    assert_eq!(town.takes("alpha/db", "beta/web", "TCP/80"), Open);
}

#[test]
fn without_a_policy_both_directions_are_open() {
    let town = town(&[]);
    assert_eq!(town.takes(OUTSIDER, "alpha/web", "TCP/80"), Open);
    assert_eq!(town.sends("alpha/web", OUTSIDER, "TCP/80"), Open);
}

#[test]
fn both_ends_must_agree() {
    let out = knp("alpha", json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": [{}]}));
    let town = town(&[out, knp("beta", json!({"podSelector": {}}))]);
    assert_eq!(town.sends("alpha/web", "beta/web", "TCP/80"), Allow);
    assert_eq!(town.takes("alpha/web", "beta/web", "TCP/80"), Deny);
}

#[test]
fn policies_and_rules_are_united() {
    let web = knp(
        "alpha",
        json!({"podSelector": {}, "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "db"}}}]}]}),
    );
    let mut beta = ingress(
        json!([{"ports": [{"port": 81}]}, {"from": [{"namespaceSelector": {"matchLabels": {"team": "b"}}}]}]),
    );
    beta["metadata"]["name"] = json!("q");
    assert_eq!(town(&[web, beta]).callers(), ["alpha/db", "beta/web", HOST]);
}

#[test]
fn policy_types_absent_are_ingress_always_and_egress_only_with_egress_rules() {
    let none = town(&[knp("alpha", json!({"podSelector": {}, "egress": []}))]);
    assert_eq!(none.takes("beta/web", "alpha/web", "TCP/80"), Deny);
    assert_eq!(none.sends("alpha/web", "beta/web", "TCP/80"), Open);
    let some = town(&[knp("alpha", json!({"podSelector": {}, "egress": [{"ports": [{"port": 81}]}]}))]);
    assert_eq!(some.takes("beta/web", "alpha/web", "TCP/80"), Deny);
    assert_eq!(some.sends("alpha/web", "beta/web", "TCP/80"), Deny);
}

#[test]
fn policy_types_decide_which_rules_are_in_force() {
    let spec = json!({"podSelector": {}, "policyTypes": ["Egress"], "ingress": [], "egress": [{"ports": [{"port": 81}]}]});
    let town = town(&[knp("alpha", spec)]);
    assert_eq!(town.takes("beta/web", "alpha/web", "TCP/80"), Open);
    assert_eq!(town.sends("alpha/web", "beta/web", "TCP/80"), Deny);
}

#[test]
fn from_empty_or_missing_is_any_peer() {
    for rule in [json!({"from": []}), json!({})] {
        assert_eq!(
            town(&[ingress(json!([rule]))]).callers(),
            ["alpha/db", "beta/web", HOST, REMOTE, OUTSIDER]
        );
    }
}

#[test]
fn ports_empty_or_missing_are_any_port_and_protocol() {
    for rule in [json!({"ports": []}), json!({})] {
        let town = town(&[ingress(json!([rule]))]);
        for service in ["TCP/1", "UDP/65535", "SCTP/80", "ICMP/8", "47/0"] {
            assert_eq!(town.takes("alpha/db", "alpha/web", service), Allow, "{service}");
        }
    }
}

#[test]
fn peers_and_ports_of_a_rule_must_both_match() {
    let rule = json!({"from": [{"podSelector": {"matchLabels": {"app": "db"}}}], "ports": [{"port": 80}]});
    let town = town(&[ingress(json!([rule]))]);
    assert_eq!(town.takes("alpha/db", "alpha/web", "TCP/80"), Allow);
    assert_eq!(town.takes("alpha/db", "alpha/web", "TCP/81"), Deny);
    assert_eq!(town.takes("beta/web", "alpha/web", "TCP/80"), Deny);
}

#[test]
fn a_null_pod_selector_of_the_spec_is_every_pod() {
    let town = town(&[knp("alpha", json!({"podSelector": null}))]);
    assert_eq!(town.takes("beta/web", "alpha/web", "TCP/80"), Deny);
}

#[test]
fn a_null_selector_of_a_peer_is_not_set() {
    let peer = json!({"podSelector": null, "namespaceSelector": {"matchLabels": {"team": "b"}}});
    assert_eq!(town(&[ingress(json!([{"from": [peer]}]))]).callers(), ["beta/web", HOST]);
}

#[test]
fn a_pod_selector_alone_means_the_policys_own_namespace() {
    assert_eq!(town(&[ingress(json!([{"from": [{"podSelector": {}}]}]))]).callers(), ["alpha/db", HOST]);
}

#[test]
fn a_namespace_selector_alone_means_all_pods_of_those_namespaces() {
    let peer = json!({"namespaceSelector": {}});
    assert_eq!(town(&[ingress(json!([{"from": [peer]}]))]).callers(), ["alpha/db", "beta/web", HOST]);
}

#[test]
fn both_selectors_in_one_peer_must_hold_and_two_peers_are_either() {
    let pods = json!({"matchLabels": {"app": "db"}});
    let namespaces = json!({"matchLabels": {"team": "b"}});
    let one = json!([{"from": [{"podSelector": pods, "namespaceSelector": namespaces}]}]);
    assert_eq!(town(&[ingress(one)]).callers(), [HOST]);
    let two = json!([{"from": [{"podSelector": pods}, {"namespaceSelector": namespaces}]}]);
    assert_eq!(town(&[ingress(two)]).callers(), ["alpha/db", "beta/web", HOST]);
}

#[test]
fn not_in_matches_where_the_key_is_absent() {
    let selector = json!({"matchExpressions": [{"key": "color", "operator": "NotIn", "values": ["red"]}]});
    assert_eq!(
        town(&[ingress(json!([{"from": [{"podSelector": selector}]}]))]).callers(),
        ["alpha/db", HOST]
    );
}

#[test]
fn namespace_selectors_see_labels_and_the_name_as_one_of_them() {
    let selector = json!({"matchLabels": {"kubernetes.io/metadata.name": "beta"}});
    assert_eq!(
        town(&[ingress(json!([{"from": [{"namespaceSelector": selector}]}]))]).callers(),
        ["beta/web", HOST]
    );
    let selector = json!({"matchLabels": {"name": "beta"}});
    assert_eq!(town(&[ingress(json!([{"from": [{"namespaceSelector": selector}]}]))]).callers(), [HOST]);
}

#[test]
fn a_selector_that_only_excludes_lets_no_outsider_in() {
    for operator in ["NotIn", "DoesNotExist"] {
        let mut expression = json!({"key": "team", "operator": operator});
        if operator == "NotIn" {
            expression["values"] = json!(["b"]);
        }
        let selector = json!({"matchExpressions": [expression]});
        let town = town(&[ingress(json!([{"from": [{"namespaceSelector": selector}]}]))]);
        assert_eq!(town.takes(OUTSIDER, "alpha/web", "TCP/80"), Deny);
        assert_eq!(town.takes(REMOTE, "alpha/web", "TCP/80"), Deny);
    }
}

#[test]
fn an_ip_block_matches_pods_and_nodes_too() {
    let peers = json!([{"from": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}]);
    assert_eq!(town(&[ingress(peers)]).callers(), ["alpha/db", "beta/web", HOST, REMOTE]);
}

#[test]
fn an_except_takes_out_of_its_own_block_and_denies_nothing() {
    let block = json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/24"]}});
    assert_eq!(town(&[ingress(json!([{"from": [block]}]))]).callers(), [HOST, REMOTE]);
    let other = json!({"ipBlock": {"cidr": "10.1.0.0/24"}});
    assert_eq!(
        town(&[ingress(json!([{"from": [block, other]}]))]).callers(),
        ["alpha/db", "beta/web", HOST, REMOTE]
    );
    let pods = json!({"podSelector": {}});
    assert_eq!(
        town(&[ingress(json!([{"from": [block]}, {"from": [pods]}]))]).callers(),
        ["alpha/db", HOST, REMOTE]
    );
}

#[test]
fn the_protocol_of_a_port_is_tcp_unless_it_says_otherwise() {
    let town = town(&[ingress(json!([{"ports": [{"port": 80}]}]))]);
    assert_eq!(town.takes("alpha/db", "alpha/web", "TCP/80"), Allow);
    assert_eq!(town.takes("alpha/db", "alpha/web", "UDP/80"), Deny);
}

#[test]
fn a_port_missing_is_every_port_of_the_protocol() {
    let town = town(&[ingress(json!([{"ports": [{"protocol": "UDP"}]}]))]);
    assert_eq!(town.takes("alpha/db", "alpha/web", "UDP/1234"), Allow);
    assert_eq!(town.takes("alpha/db", "alpha/web", "TCP/1234"), Deny);
}

#[test]
fn a_named_port_is_the_destinations_own() {
    let town_in = town(&[ingress(json!([{"ports": [{"port": "http"}]}]))]);
    assert_eq!(town_in.takes("beta/web", "alpha/web", "TCP/8080"), Allow);
    assert_eq!(town_in.takes("beta/web", "alpha/web", "TCP/9090"), Deny);
    assert_eq!(town_in.takes("beta/web", "alpha/db", "TCP/9090"), Allow);
    assert_eq!(town_in.takes("beta/web", "alpha/db", "TCP/8080"), Deny);
    let town_out =
        town(&[knp("alpha", json!({"podSelector": {}, "egress": [{"ports": [{"port": "http"}]}]}))]);
    assert_eq!(town_out.sends("alpha/web", "beta/web", "TCP/80"), Allow);
    assert_eq!(town_out.sends("alpha/web", "beta/web", "TCP/8080"), Deny);
    assert_eq!(town_out.sends("alpha/web", OUTSIDER, "TCP/80"), Deny);
}

#[test]
fn a_named_port_has_its_protocol() {
    let town = town(&[ingress(
        json!([{"ports": [{"port": "dns"}]}, {"ports": [{"port": "http", "protocol": "UDP"}]}]),
    )]);
    assert_eq!(town.takes("beta/web", "alpha/web", "UDP/53"), Deny);
    assert_eq!(town.takes("beta/web", "alpha/web", "UDP/8080"), Deny);
    assert_eq!(town.takes("beta/web", "alpha/web", "TCP/8080"), Deny);
}

#[test]
fn an_end_port_is_inclusive() {
    let town = town(&[ingress(json!([{"ports": [{"port": 80, "endPort": 90}]}]))]);
    let answers =
        ["TCP/79", "TCP/80", "TCP/85", "TCP/90", "TCP/91"].map(|s| town.takes("alpha/db", "alpha/web", s));
    assert_eq!(answers, [Deny, Allow, Allow, Allow, Deny]);
}

#[test]
fn sctp_never_widens_to_tcp_and_isolates_all_the_same() {
    let town = town(&[ingress(json!([{"ports": [{"port": 80, "protocol": "SCTP"}]}]))]);
    assert_eq!(town.takes("alpha/db", "alpha/web", "SCTP/80"), Allow);
    assert_eq!(town.takes("alpha/db", "alpha/web", "TCP/80"), Deny);
}

#[test]
fn echo_passes_only_by_rules_without_ports() {
    let ports = town(&[ingress(
        json!([{"ports": [{"protocol": "TCP"}, {"protocol": "UDP"}, {"protocol": "SCTP"}]}]),
    )]);
    assert_eq!(ports.takes("alpha/db", "alpha/web", "ICMP/8"), Deny);
    let none = town(&[ingress(json!([{"from": [{"podSelector": {}}]}]))]);
    assert_eq!(none.takes("alpha/db", "alpha/web", "ICMP/8"), Allow);
    assert_eq!(none.takes("beta/web", "alpha/web", "ICMP/8"), Deny);
}

/// A pod of alpha on the network of a node.
fn on_host_network(node: &str, address: &str) -> Value {
    let mut pod = pod("alpha/agent", &[address], json!({"app": "agent"}), &[]);
    pod["spec"]["hostNetwork"] = json!(true);
    pod["spec"]["nodeName"] = json!(node);
    pod
}

#[test]
fn a_host_network_pod_is_its_nodes_address_and_no_pod() {
    let rule = json!([{"from": [{"podSelector": {"matchLabels": {"app": "agent"}}}]}]);
    let by_label = town(&[on_host_network("node-2", REMOTE), ingress(rule)]);
    assert_eq!(by_label.takes(REMOTE, "alpha/web", "TCP/80"), Deny);
    let by_address = town(&[
        on_host_network("node-2", REMOTE),
        ingress(json!([{"from": [{"ipBlock": {"cidr": "10.9.0.2/32"}}]}])),
    ]);
    assert_eq!(by_address.takes(REMOTE, "alpha/web", "TCP/80"), Allow);
}

#[test]
fn a_pods_own_node_may_always_reach_it_and_other_nodes_may_not() {
    assert_eq!(town(&[ingress(json!([]))]).callers(), [HOST]);
}

#[test]
fn a_pod_to_its_own_node_is_judged_but_for_the_option() {
    let mut town = town(&[knp("alpha", json!({"podSelector": {}, "policyTypes": ["Egress"]}))]);
    assert_eq!(town.sends("alpha/web", HOST, "TCP/10250"), Deny);
    town.world.pod_to_host = true;
    assert_eq!(town.sends("alpha/web", HOST, "TCP/10250"), Allow);
    assert_eq!(town.sends("alpha/web", REMOTE, "TCP/10250"), Deny);
}

#[test]
fn a_pod_may_always_reach_itself() {
    let town = town(&[knp("alpha", json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}))]);
    assert_eq!(town.sends("alpha/web", "alpha/web", "TCP/80"), Allow);
    assert_eq!(town.takes("alpha/web", "alpha/web", "TCP/80"), Allow);
}

#[test]
fn a_pod_that_is_over_owns_no_address() {
    let rule = json!([{"from": [{"podSelector": {"matchLabels": {"app": "job"}}}]}]);
    for phase in ["Succeeded", "Failed"] {
        let mut over = pod("alpha/job", &["10.1.0.2"], json!({"app": "job"}), &[]);
        over["status"]["phase"] = json!(phase);
        let mut alone = over.clone();
        alone["status"]["podIP"] = json!("10.1.0.9");
        alone["status"]["podIPs"] = json!([{"ip": "10.1.0.9"}]);
        let town = town(&[over, alone, ingress(rule.clone())]);
        // The running pod's labels count, and nobody's do where there is none.
        assert_eq!(town.takes("alpha/db", "alpha/web", "TCP/80"), Deny);
        assert_eq!(town.takes("10.1.0.9", "alpha/web", "TCP/80"), Deny);
    }
}

#[test]
fn pods_of_other_nodes_are_peers_and_no_subjects() {
    let mut far = pod("alpha/far", &["10.1.9.9"], json!({"app": "far"}), &[]);
    far["spec"]["nodeName"] = json!("node-2");
    let town = town(&[far, ingress(json!([{"from": [{"podSelector": {"matchLabels": {"app": "far"}}}]}]))]);
    assert_eq!(town.takes("10.1.9.9", "alpha/web", "TCP/80"), Allow);
    assert!(town.world.attached.iter().all(|pod| pod.name != "far"));
}

#[test]
fn a_namespace_without_an_object_still_has_its_name() {
    let selector = json!({"matchLabels": {"kubernetes.io/metadata.name": "gamma"}});
    let stray = pod("gamma/stray", &["10.1.0.7"], json!({}), &[]);
    let town = town(&[stray, ingress(json!([{"from": [{"namespaceSelector": selector}]}]))]);
    assert_eq!(town.takes("gamma/stray", "alpha/web", "TCP/80"), Allow);
}

#[test]
fn a_label_of_a_namespace_taken_away_takes_access_away() {
    let rule = json!([{"from": [{"namespaceSelector": {"matchLabels": {"team": "b"}}}]}]);
    let mut town = town(&[ingress(rule)]);
    assert_eq!(town.takes("beta/web", "alpha/web", "TCP/80"), Allow);
    let beta = town.world.objects.iter_mut().find(|object| object["metadata"]["name"] == "beta").unwrap();
    *beta = namespace("beta", json!({}));
    assert_eq!(town.takes("beta/web", "alpha/web", "TCP/80"), Deny);
}
