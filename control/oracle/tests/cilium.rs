//! CiliumNetworkPolicy v2 at layers 3 and 4, sentence by sentence: each test is one.

mod town;

use penstock_oracle::End::{Allow, Deny, Open};
use penstock_oracle::Enforcement;
use serde_json::{Value, json};
use town::{HOST, OUTSIDER, OUTSIDER6, REMOTE, ccnp, cnp, egress, ingress, knp, pod, town};

const EVERYONE: [&str; 5] = ["alpha/db", "beta/web", HOST, REMOTE, OUTSIDER];

/// Who may reach alpha/web by one ingress rule with these peers?
fn callers(field: &str, list: Value) -> Vec<&'static str> {
    town(&[ingress(json!([{field: list}]))]).callers()
}

#[test]
fn spec_and_specs_both_count() {
    let rule = |app: &str| json!({"endpointSelector": {}, "ingress": [{"fromEndpoints": [{"matchLabels": {"app": app}}]}]});
    let mut policy = cnp("alpha", rule("db"));
    policy["specs"] = json!([{"endpointSelector": {}, "ingress": [{"fromEntities": ["world"]}]}]);
    assert_eq!(town(&[policy]).callers(), ["alpha/db", HOST, OUTSIDER]);
}

#[test]
fn a_node_selector_selects_no_pods() {
    let town = town(&[ccnp(json!({"nodeSelector": {}, "ingress": [{}]}))]);
    assert_eq!(town.takes(OUTSIDER, "alpha/web", "TCP/80"), Open);
}

#[test]
fn a_section_isolates_its_own_direction() {
    for section in ["ingress", "ingressDeny"] {
        let town = town(&[cnp("alpha", json!({"endpointSelector": {}, section: [{}]}))]);
        assert_eq!(town.takes("alpha/db", "alpha/web", "TCP/80"), Deny, "{section}");
        assert_eq!(town.sends("alpha/db", "alpha/web", "TCP/80"), Open, "{section}");
    }
}

#[test]
fn a_section_that_is_empty_is_none() {
    let spec = json!({"endpointSelector": {}, "ingress": [], "egress": [{"toEntities": ["all"]}]});
    assert_eq!(town(&[cnp("alpha", spec)]).takes("alpha/db", "alpha/web", "TCP/80"), Open);
}

#[test]
fn enable_default_deny_overrides() {
    let off = json!({"endpointSelector": {}, "enableDefaultDeny": {"ingress": false}, "ingress": [{}]});
    assert_eq!(town(&[cnp("alpha", off)]).takes("alpha/db", "alpha/web", "TCP/80"), Open);
    let on = json!({"endpointSelector": {}, "enableDefaultDeny": {"egress": true}, "ingress": [{}]});
    assert_eq!(town(&[cnp("alpha", on)]).sends("alpha/web", "alpha/db", "TCP/80"), Deny);
}

#[test]
fn any_rule_asking_for_default_deny_wins() {
    let off = cnp(
        "alpha",
        json!({"endpointSelector": {}, "enableDefaultDeny": {"ingress": false}, "ingress": [{}]}),
    );
    let on = ccnp(json!({"endpointSelector": {}, "ingress": [{}]}));
    assert_eq!(town(&[off.clone(), on]).takes("alpha/db", "alpha/web", "TCP/80"), Deny);
    let kubernetes = knp("alpha", json!({"podSelector": {}}));
    assert_eq!(town(&[off, kubernetes]).takes("alpha/db", "alpha/web", "TCP/80"), Deny);
}

#[test]
fn a_deny_holds_without_default_deny() {
    let spec = json!({
        "endpointSelector": {}, "enableDefaultDeny": {"ingress": false}, "ingressDeny": [{"fromEntities": ["world"]}],
    });
    let town = town(&[cnp("alpha", spec)]);
    assert_eq!(town.takes("alpha/db", "alpha/web", "TCP/80"), Open);
    assert_eq!(town.takes(OUTSIDER, "alpha/web", "TCP/80"), Deny);
}

#[test]
fn mode_always_isolates_every_pod_and_never_none() {
    let mut always = town(&[]);
    always.world.enforcement = Enforcement::Always;
    assert_eq!(always.takes("alpha/db", "alpha/web", "TCP/80"), Deny);
    assert_eq!(always.sends("alpha/db", "alpha/web", "TCP/80"), Deny);
    assert_eq!(always.takes(HOST, "alpha/web", "TCP/80"), Allow);
    let mut never = town(&[
        ingress(json!([{}])),
        cnp("alpha", json!({"endpointSelector": {}, "ingressDeny": [{"fromEntities": ["all"]}]})),
    ]);
    never.world.enforcement = Enforcement::Never;
    assert_eq!(never.takes("alpha/db", "alpha/web", "TCP/80"), Open);
}

#[test]
fn an_endpoint_selector_cannot_escape_its_namespace() {
    for selector in [
        json!({}),
        json!({"matchExpressions": [{"key": "reserved:init", "operator": "DoesNotExist"}]}),
        json!({"matchLabels": {"k8s:io.kubernetes.pod.namespace": "beta"}}),
        json!({"matchExpressions": [{"key": "io.kubernetes.pod.namespace", "operator": "Exists"}]}),
    ] {
        let town = town(&[cnp("alpha", json!({"endpointSelector": selector, "ingress": [{}]}))]);
        assert_eq!(town.takes("alpha/db", "beta/web", "TCP/80"), Open, "{selector}");
    }
}

#[test]
fn peers_are_of_the_policys_namespace() {
    assert_eq!(callers("fromEndpoints", json!([{}])), ["alpha/db", HOST]);
    assert_eq!(callers("fromEndpoints", json!([{"matchLabels": {"app": "web"}}])), [HOST]);
}

#[test]
fn peers_with_a_namespace_key_are_of_the_namespaces_it_says() {
    for key in
        ["io.kubernetes.pod.namespace", "k8s:io.kubernetes.pod.namespace", "any:io.kubernetes.pod.namespace"]
    {
        assert_eq!(
            callers("fromEndpoints", json!([{"matchLabels": {key: "beta"}}])),
            ["beta/web", HOST],
            "{key}"
        );
        let exists = json!([{"matchExpressions": [{"key": key, "operator": "Exists"}]}]);
        assert_eq!(callers("fromEndpoints", exists), ["alpha/db", "beta/web", HOST], "{key}");
    }
}

#[test]
fn peers_with_a_namespace_labels_key_are_of_any_namespace_that_has_it() {
    for prefix in ["", "k8s:", "any:"] {
        let key = format!("{prefix}io.cilium.k8s.namespace.labels.team");
        assert_eq!(
            callers("fromEndpoints", json!([{"matchLabels": {key.clone(): "b"}}])),
            ["beta/web", HOST],
            "{key}"
        );
    }
    let key = "io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name";
    assert_eq!(callers("fromEndpoints", json!([{"matchLabels": {key: "beta"}}])), ["beta/web", HOST]);
}

#[test]
fn reserved_selectors_are_left_alone() {
    assert_eq!(
        callers("fromEndpoints", json!([{"matchLabels": {"reserved:remote-node": ""}}])),
        [HOST, REMOTE]
    );
    assert_eq!(callers("fromEndpoints", json!([{"matchLabels": {"reserved:world": ""}}])), [HOST, OUTSIDER]);
    let nobody_init = json!([{"matchExpressions": [{"key": "reserved:init", "operator": "DoesNotExist"}]}]);
    assert_eq!(callers("fromEndpoints", nobody_init), EVERYONE);
}

#[test]
fn clusterwide_peers_are_any_pod_of_the_cluster_and_not_the_world() {
    let town = town(&[ccnp(json!({"endpointSelector": {}, "ingress": [{"fromEndpoints": [{}]}]}))]);
    assert_eq!(town.callers(), ["alpha/db", "beta/web", HOST]);
}

#[test]
fn a_peer_that_only_excludes_lets_no_outsider_in() {
    for key in ["io.kubernetes.pod.namespace", "io.cilium.k8s.namespace.labels.team", "app"] {
        for expression in [
            json!({"key": key, "operator": "NotIn", "values": ["nobody"]}),
            json!({"key": key, "operator": "DoesNotExist"}),
        ] {
            let peers = json!([{"fromEndpoints": [{"matchExpressions": [expression]}]}]);
            for policy in [ingress(peers.clone()), ccnp(json!({"endpointSelector": {}, "ingress": peers}))] {
                let town = town(&[policy]);
                assert_eq!(town.takes(OUTSIDER, "alpha/web", "TCP/80"), Deny, "{expression}");
                assert_eq!(town.takes(REMOTE, "alpha/web", "TCP/80"), Deny, "{expression}");
            }
        }
    }
}

#[test]
fn labels_match_from_kubernetes_or_any_source_and_from_no_other() {
    for prefix in ["", "k8s:", "any:"] {
        let key = format!("{prefix}app");
        assert_eq!(callers("fromEndpoints", json!([{"matchLabels": {key: "db"}}])), ["alpha/db", HOST]);
    }
    for prefix in ["container:", "cidr:", "fqdn:"] {
        let key = format!("{prefix}app");
        assert_eq!(callers("fromEndpoints", json!([{"matchLabels": {key: "db"}}])), [HOST]);
    }
}

#[test]
fn a_service_account_is_a_label() {
    let mut builder = pod("alpha/builder", &["10.1.0.8"], json!({}), &[]);
    builder["spec"]["serviceAccountName"] = json!("builder");
    let peer = json!({"matchLabels": {"io.cilium.k8s.policy.serviceaccount": "builder"}});
    let town = town(&[builder, ingress(json!([{"fromEndpoints": [peer]}]))]);
    assert_eq!(town.takes("alpha/builder", "alpha/web", "TCP/80"), Allow);
    assert_eq!(town.takes("alpha/db", "alpha/web", "TCP/80"), Deny);
}

#[test]
fn a_pod_label_cannot_spoof_what_the_cluster_gives() {
    let labels = json!({
        "io.kubernetes.pod.namespace": "beta", "io.cilium.k8s.policy.serviceaccount": "builder",
        "io.cilium.k8s.namespace.labels.team": "b",
    });
    for peer in [
        json!({"io.kubernetes.pod.namespace": "beta"}),
        json!({"io.cilium.k8s.policy.serviceaccount": "builder"}),
        json!({"io.cilium.k8s.namespace.labels.team": "b"}),
    ] {
        let spoofer = pod("alpha/spoofer", &["10.1.0.8"], labels.clone(), &[]);
        let town = town(&[spoofer, ingress(json!([{"fromEndpoints": [{"matchLabels": peer}]}]))]);
        assert_eq!(town.takes("alpha/spoofer", "alpha/web", "TCP/80"), Deny, "{peer}");
    }
}

#[test]
fn ports_without_peers_are_anyones() {
    let town = town(&[ingress(json!([{"toPorts": [{"ports": [{"port": "80"}]}]}]))]);
    assert_eq!(town.callers(), EVERYONE);
    assert_eq!(town.takes(OUTSIDER, "alpha/web", "TCP/81"), Deny);
}

#[test]
fn a_list_that_is_there_and_empty_names_nobody() {
    for field in ["fromEndpoints", "fromCIDR", "fromCIDRSet", "fromEntities"] {
        for rule in [json!({field: []}), json!({field: [], "toPorts": [{"ports": [{"port": "80"}]}]})] {
            assert_eq!(town(&[ingress(json!([rule]))]).callers(), [HOST], "{field}");
        }
    }
}

#[test]
fn a_rule_that_is_empty_allows_nothing_and_isolates() {
    assert_eq!(town(&[ingress(json!([{}]))]).callers(), [HOST]);
    assert_eq!(town(&[ingress(json!([{"toPorts": []}]))]).callers(), [HOST]);
}

#[test]
fn empty_ports_are_no_limit() {
    let town = town(&[ingress(json!([{"fromEntities": ["world"], "toPorts": []}]))]);
    assert_eq!(town.takes(OUTSIDER, "alpha/web", "ICMP/8"), Allow);
}

#[test]
fn entity_all_is_everyone_on_every_protocol() {
    let town = town(&[ingress(json!([{"fromEntities": ["all"]}]))]);
    assert_eq!(town.callers(), EVERYONE);
    assert_eq!(town.takes(OUTSIDER, "alpha/web", "47/0"), Allow);
}

#[test]
fn entity_world_is_outside_the_cluster() {
    assert_eq!(callers("fromEntities", json!(["world"])), [HOST, OUTSIDER]);
    let four = town(&[ingress(json!([{"fromEntities": ["world-ipv4"]}]))]);
    assert_eq!(four.takes(OUTSIDER, "alpha/web", "TCP/80"), Allow);
    assert_eq!(four.takes(OUTSIDER6, "alpha/web", "TCP/80"), Deny);
    let six = town(&[ingress(json!([{"fromEntities": ["world-ipv6"]}]))]);
    assert_eq!(six.takes(OUTSIDER, "alpha/web", "TCP/80"), Deny);
    assert_eq!(six.takes(OUTSIDER6, "alpha/web", "TCP/80"), Allow);
}

#[test]
fn entity_host_is_the_own_node_and_remote_node_the_others() {
    let called = |entity: &str| town(&[egress(json!([{"toEntities": [entity]}]))]).called();
    assert_eq!(called("host"), [HOST]);
    assert_eq!(called("remote-node"), [REMOTE]);
}

#[test]
fn entity_cluster_is_pods_and_nodes_and_the_api_server() {
    assert_eq!(
        town(&[egress(json!([{"toEntities": ["cluster"]}]))]).called(),
        ["alpha/db", "beta/web", HOST, REMOTE]
    );
    let mut objects = api_server(OUTSIDER);
    objects.push(egress(json!([{"toEntities": ["cluster"]}])));
    assert_eq!(town(&objects).sends("alpha/web", OUTSIDER, "TCP/443"), Allow);
}

fn service(namespace: &str, name: &str, labels: Value, selector: Option<Value>) -> Value {
    let mut service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": {"ports": [{"port": 80}]},
    });
    if let Some(selector) = selector {
        service["spec"]["selector"] = selector;
    }
    service
}

fn slice(namespace: &str, service: &str, addresses: &[&str]) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": service, "namespace": namespace, "labels": {"kubernetes.io/service-name": service}},
        "endpoints": addresses.iter().map(|address| json!({"addresses": [address]})).collect::<Vec<_>>(),
    })
}

fn api_server(address: &str) -> Vec<Value> {
    vec![service("default", "kubernetes", json!({}), None), slice("default", "kubernetes", &[address])]
}

#[test]
fn entity_kube_apiserver_is_wherever_it_runs() {
    for address in [HOST, REMOTE, OUTSIDER] {
        let mut objects = api_server(address);
        objects.push(egress(json!([{"toEntities": ["kube-apiserver"]}])));
        assert_eq!(town(&objects).called(), [address]);
    }
}

#[test]
fn entities_that_are_not_here_match_nobody() {
    for entity in ["init", "health", "ingress", "unmanaged", "none"] {
        assert_eq!(town(&[egress(json!([{"toEntities": [entity]}]))]).called(), [""; 0], "{entity}");
    }
}

#[test]
fn a_cidr_speaks_of_neither_pods_nor_nodes() {
    assert_eq!(town(&[egress(json!([{"toCIDR": ["0.0.0.0/0"]}]))]).called(), [OUTSIDER]);
    assert_eq!(town(&[egress(json!([{"toCIDR": ["10.1.0.2/32", "10.9.0.0/16"]}]))]).called(), [""; 0]);
    assert_eq!(town(&[egress(json!([{"toCIDR": [OUTSIDER]}]))]).called(), [OUTSIDER]);
}

#[test]
fn an_except_takes_out_of_its_own_cidr() {
    let set = json!([{"cidr": "192.0.2.0/24", "except": ["192.0.2.0/30"]}]);
    assert_eq!(town(&[egress(json!([{"toCIDRSet": set}]))]).called(), [""; 0]);
    let set = json!([{"cidr": "192.0.2.0/24", "except": ["192.0.2.0/30"]}, {"cidr": "192.0.2.1/32"}]);
    assert_eq!(town(&[egress(json!([{"toCIDRSet": set}]))]).called(), [OUTSIDER]);
}

#[test]
fn a_group_is_the_cidrs_it_holds_and_a_missing_group_none() {
    let group = json!({
        "apiVersion": "cilium.io/v2", "kind": "CiliumCIDRGroup", "metadata": {"name": "known"},
        "spec": {"externalCIDRs": ["192.0.2.0/24", "10.1.0.2/32"]},
    });
    let rule = |name: &str| egress(json!([{"toCIDRSet": [{"cidrGroupRef": name}]}]));
    assert_eq!(town(&[group.clone(), rule("known")]).called(), [OUTSIDER]);
    assert_eq!(town(&[group, rule("unknown")]).called(), [""; 0]);
}

#[test]
fn a_service_with_a_selector_is_its_backends() {
    let picked = service("beta", "picked", json!({"tier": "back"}), Some(json!({"app": "web"})));
    let by_name = json!({"k8sService": {"serviceName": "picked", "namespace": "beta"}});
    let by_label =
        json!({"k8sServiceSelector": {"selector": {"matchLabels": {"tier": "back"}}, "namespace": "beta"}});
    for service in [by_name, by_label] {
        assert_eq!(
            town(&[picked.clone(), egress(json!([{"toServices": [service]}]))]).called(),
            ["beta/web"]
        );
    }
    let elsewhere = json!({"k8sService": {"serviceName": "picked", "namespace": "alpha"}});
    assert_eq!(town(&[picked, egress(json!([{"toServices": [elsewhere]}]))]).called(), [""; 0]);
}

#[test]
fn a_service_without_a_selector_is_its_endpoints_as_cidrs() {
    let bare = service("alpha", "bare", json!({}), None);
    let ends = slice("alpha", "bare", &[OUTSIDER, "10.1.0.2", REMOTE]);
    let wanted = json!({"k8sService": {"serviceName": "bare", "namespace": "alpha"}});
    assert_eq!(town(&[bare, ends, egress(json!([{"toServices": [wanted]}]))]).called(), [OUTSIDER]);
}

#[test]
fn a_service_nobody_has_is_nobody_on_any_port() {
    let wanted = json!({"k8sService": {"serviceName": "unknown", "namespace": "alpha"}});
    let rule = json!({"toServices": [wanted], "toPorts": [{"ports": [{"port": "80"}]}]});
    assert_eq!(town(&[egress(json!([rule]))]).called(), [""; 0]);
}

/// Which of these does a rule with this port let through to alpha/web?
fn passes(port: Value) -> Vec<&'static str> {
    let town = town(&[ingress(json!([{"toPorts": [{"ports": [port]}]}]))]);
    let all = ["TCP/80", "TCP/81", "TCP/8080", "TCP/9090", "UDP/53", "UDP/80", "SCTP/80", "ICMP/8", "47/0"];
    all.into_iter().filter(|service| town.takes("beta/web", "alpha/web", service) == Allow).collect()
}

#[test]
fn a_port_is_a_number_as_text_or_not() {
    assert_eq!(passes(json!({"port": "80", "protocol": "TCP"})), ["TCP/80"]);
    assert_eq!(passes(json!({"port": 80, "protocol": "TCP"})), ["TCP/80"]);
}

#[test]
fn a_port_by_name_is_the_pods_own() {
    assert_eq!(passes(json!({"port": "http", "protocol": "TCP"})), ["TCP/8080"]);
    assert_eq!(passes(json!({"port": "dns", "protocol": "TCP"})), [""; 0]);
    assert_eq!(passes(json!({"port": "dns"})), ["UDP/53"]);
    assert_eq!(passes(json!({"port": "unknown"})), [""; 0]);
}

#[test]
fn port_zero_is_every_port_of_the_protocol() {
    assert_eq!(passes(json!({"port": "0", "protocol": "UDP"})), ["UDP/53", "UDP/80"]);
}

#[test]
fn an_end_port_is_inclusive() {
    assert_eq!(passes(json!({"port": "80", "endPort": 81, "protocol": "TCP"})), ["TCP/80", "TCP/81"]);
}

#[test]
fn protocol_any_is_tcp_udp_and_sctp_and_so_is_none() {
    assert_eq!(passes(json!({"port": "80", "protocol": "ANY"})), ["TCP/80", "UDP/80", "SCTP/80"]);
    assert_eq!(passes(json!({"port": "80"})), ["TCP/80", "UDP/80", "SCTP/80"]);
    assert!(!passes(json!({"port": "0", "protocol": "ANY"})).contains(&"ICMP/8"));
}

#[test]
fn icmps_are_family_and_type() {
    let town = town(&[ingress(
        json!([{"icmps": [{"fields": [{"type": 8}, {"family": "IPv6", "type": "EchoRequest"}]}]}]),
    )]);
    assert_eq!(town.takes("beta/web", "alpha/web", "ICMP/8"), Allow);
    assert_eq!(town.takes("beta/web", "alpha/web", "ICMP/13"), Deny);
    assert_eq!(town.takes("beta/web", "alpha/web", "ICMPv6/128"), Allow);
    assert_eq!(town.takes("beta/web", "alpha/web", "ICMPv6/8"), Deny);
    assert_eq!(town.takes("beta/web", "alpha/web", "TCP/8"), Deny);
}

#[test]
fn where_ports_are_limited_icmp_does_not_pass() {
    let town = town(&[ingress(json!([{"fromEntities": ["all"], "toPorts": [{"ports": [{"port": "0"}]}]}]))]);
    assert_eq!(town.takes("beta/web", "alpha/web", "TCP/80"), Allow);
    assert_eq!(town.takes("beta/web", "alpha/web", "ICMP/8"), Deny);
}

#[test]
fn a_deny_beats_an_allow_whatever_the_prefix() {
    for (allow, deny) in [("192.0.2.1/32", "192.0.2.0/24"), ("192.0.2.0/24", "192.0.2.1/32")] {
        let spec = json!({"endpointSelector": {}, "egress": [{"toCIDR": [allow]}], "egressDeny": [{"toCIDR": [deny]}]});
        assert_eq!(town(&[cnp("alpha", spec)]).called(), [""; 0]);
    }
}

#[test]
fn a_deny_beats_an_allow_of_the_other_kind_of_policy() {
    let allow = knp("alpha", json!({"podSelector": {}, "ingress": [{}]}));
    let deny = ccnp(
        json!({"endpointSelector": {}, "ingressDeny": [{"fromEndpoints": [{"matchLabels": {"app": "db"}}]}]}),
    );
    assert_eq!(town(&[allow, deny]).callers(), ["beta/web", HOST, REMOTE, OUTSIDER]);
}

#[test]
fn a_deny_is_of_its_ports_only() {
    let spec = json!({
        "endpointSelector": {}, "ingress": [{"fromEntities": ["all"]}],
        "ingressDeny": [{"toPorts": [{"ports": [{"port": "80", "protocol": "TCP"}]}]}],
    });
    let town = town(&[cnp("alpha", spec)]);
    assert_eq!(town.takes("beta/web", "alpha/web", "TCP/80"), Deny);
    assert_eq!(town.takes("beta/web", "alpha/web", "TCP/81"), Allow);
    assert_eq!(town.takes("beta/web", "alpha/web", "ICMP/8"), Allow);
}

#[test]
fn a_deny_rule_that_is_empty_denies_nothing_by_itself() {
    for rule in [json!({}), json!({"fromEndpoints": []})] {
        let spec =
            json!({"endpointSelector": {}, "ingress": [{"fromEntities": ["all"]}], "ingressDeny": [rule]});
        assert_eq!(town(&[cnp("alpha", spec)]).callers(), EVERYONE);
    }
}

#[test]
fn the_own_node_reaches_its_pods_unless_a_deny_says_otherwise() {
    assert_eq!(town(&[ingress(json!([{}]))]).callers(), [HOST]);
    for deny in [
        json!({"fromEntities": ["host"]}),
        json!({"toPorts": [{"ports": [{"port": "80"}]}]}),
        json!({"fromEndpoints": [{"matchLabels": {"reserved:host": ""}}]}),
    ] {
        let town = town(&[cnp("alpha", json!({"endpointSelector": {}, "ingressDeny": [deny]}))]);
        assert_eq!(town.callers(), [""; 0], "{deny}");
    }
}

#[test]
fn a_cidr_deny_does_not_deny_the_own_node() {
    let deny = json!({"endpointSelector": {}, "ingressDeny": [{"fromCIDR": ["0.0.0.0/0"]}]});
    assert_eq!(town(&[cnp("alpha", deny)]).callers(), [HOST]);
}

#[test]
fn a_rule_that_asks_for_what_is_not_enforced_isolates_and_allows_nothing() {
    let tcp = json!([{"port": "80", "protocol": "TCP"}]);
    for rule in [
        json!({"toPorts": [{"ports": tcp, "rules": {"http": [{}]}}]}),
        json!({"toPorts": [{"ports": [{"port": "53"}], "rules": {"dns": [{"matchPattern": "*"}]}}]}),
        json!({"toFQDNs": [{"matchPattern": "*"}]}),
        json!({"toEntities": ["all"], "authentication": {"mode": "required"}}),
        json!({"toEntities": ["all"], "toPorts": [{"ports": tcp, "serverNames": ["one.example"]}]}),
    ] {
        let town = town(&[egress(json!([rule]))]);
        assert_eq!(town.called(), [""; 0], "{rule}");
    }
}

#[test]
fn a_plain_allow_beside_a_rule_that_is_not_enforced_still_allows() {
    let http = json!({"toPorts": [{"ports": [{"port": "80", "protocol": "TCP"}], "rules": {"http": [{"method": "GET"}]}}]});
    let plain = json!({"fromEndpoints": [{}], "toPorts": [{"ports": [{"port": "80"}]}]});
    assert_eq!(town(&[ingress(json!([http, plain]))]).callers(), ["alpha/db", HOST]);
}
