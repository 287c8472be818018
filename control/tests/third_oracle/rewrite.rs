//! The rewrites the rows are made of. Each says what the side that reads the rewritten world makes of the real one.

use penstock_oracle::World;
use serde_json::{Value, json};
use std::net::IpAddr;

const CILIUM: &[&str] = &["CiliumNetworkPolicy", "CiliumClusterwideNetworkPolicy"];

/// Calls `change` with every spec of every policy of these kinds.
fn each_spec(world: &mut World, kinds: &[&str], mut change: impl FnMut(&mut Value)) {
    let is_one = |object: &&mut Value| object["kind"].as_str().is_some_and(|kind| kinds.contains(&kind));
    for object in world.objects.iter_mut().filter(is_one) {
        object.get_mut("spec").into_iter().for_each(&mut change);
        object.get_mut("specs").and_then(Value::as_array_mut).into_iter().flatten().for_each(&mut change);
    }
}

/// Calls `change` with every rule of a spec, and with its section.
fn each_rule_of(spec: &mut Value, mut change: impl FnMut(&str, &mut Value)) {
    for section in ["ingress", "ingressDeny", "egress", "egressDeny"] {
        let rules = spec.get_mut(section).and_then(Value::as_array_mut);
        rules.into_iter().flatten().for_each(|rule| change(section, rule));
    }
}

/// Calls `change` with every rule of every policy of these kinds, and with its section.
fn each_rule(world: &mut World, kinds: &[&str], mut change: impl FnMut(&str, &mut Value)) {
    each_spec(world, kinds, |spec| each_rule_of(spec, &mut change));
}

fn each_item(rule: &mut Value, fields: &[&str], mut change: impl FnMut(&mut Value)) {
    for field in fields {
        rule.get_mut(*field).and_then(Value::as_array_mut).into_iter().flatten().for_each(&mut change);
    }
}

/// Cilium reads an ipBlock as a CIDR of outsiders: for a peer in the cluster it is as if it named somebody else.
pub(crate) fn without_ip_blocks(world: &mut World) {
    each_rule(world, &["NetworkPolicy"], |_, rule| {
        each_item(rule, &["from", "to"], |peer| {
            if peer.get("ipBlock").is_some_and(|block| !block.is_null()) {
                *peer = json!({"ipBlock": {"cidr": "203.0.113.255/32"}});
            }
        });
    });
}

fn express(selector: &mut Value, wanted: Value) {
    match selector.get_mut("matchExpressions").and_then(Value::as_array_mut) {
        Some(list) => list.push(wanted),
        None => selector["matchExpressions"] = json!([wanted]),
    }
}

fn require(selector: &mut Value, key: &str) {
    express(selector, json!({"key": key, "operator": "Exists"}));
}

/// A selector that only excludes holds for whoever has no labels at all. Asking for a namespace makes it speak of pods.
pub(crate) fn selectors_of_pods(world: &mut World) {
    each_rule(world, &["NetworkPolicy"], |_, rule| {
        each_item(rule, &["from", "to"], |peer| {
            let Some(selector) = peer.get_mut("namespaceSelector") else { return };
            // An empty one asks for a namespace already.
            if ["matchLabels", "matchExpressions"].iter().any(|part| !selector[*part].is_null()) {
                require(selector, "kubernetes.io/metadata.name");
            }
        });
    });
    let peers = ["fromEndpoints", "toEndpoints"];
    each_rule(world, CILIUM, |_, rule| {
        each_item(rule, &peers, |selector| {
            let text = selector.to_string();
            // Without a key for namespaces Cilium adds one, and adding one of ours would widen the rule.
            let of_namespaces = text.contains("io.kubernetes.pod.namespace")
                || text.contains("io.cilium.k8s.namespace.labels");
            if of_namespaces && !text.contains("reserved:") {
                require(selector, "k8s:io.kubernetes.pod.namespace");
            }
        });
    });
    // But not in a clusterwide policy whose subjects are told by reserved:init.
    each_spec(world, &["CiliumClusterwideNetworkPolicy"], |spec| {
        if spec["endpointSelector"].to_string().contains("reserved:init") {
            each_rule_of(spec, |_, rule| {
                each_item(rule, &peers, |selector| {
                    if !selector.to_string().contains("reserved:") {
                        require(selector, "k8s:io.kubernetes.pod.namespace");
                    }
                });
            });
        }
    });
}

/// Rules that ask for more than layers 3 and 4 allow nothing here, and isolate. An empty rule says just that.
pub(crate) fn without_unenforced_rules(world: &mut World) {
    each_rule(world, CILIUM, |section, rule| {
        let fields = ["toFQDNs", "toNodes", "fromNodes", "toGroups", "fromGroups", "authentication"];
        let mut asks = fields.iter().any(|field| !rule[*field].is_null());
        for entry in rule["toPorts"].as_array().into_iter().flatten() {
            let rules = entry["rules"].as_object().is_some_and(|rules| !rules.is_empty());
            let others = ["serverNames", "listener", "terminatingTLS", "originatingTLS"];
            asks |= rules || others.iter().any(|field| !entry[*field].is_null());
        }
        if asks && !section.ends_with("Deny") {
            *rule = json!({});
        }
    });
}

/// Cilium honours rules of a direction that policyTypes does not list, and isolates for them.
pub(crate) fn without_unlisted_directions(world: &mut World) {
    each_spec(world, &["NetworkPolicy"], |spec| {
        let listed = spec["policyTypes"].as_array().cloned().unwrap_or_default();
        for (policy_type, section) in [("Ingress", "ingress"), ("Egress", "egress")] {
            if !listed.is_empty() && !listed.contains(&json!(policy_type)) {
                spec.as_object_mut().map(|spec| spec.remove(section));
            }
        }
    });
}

/// Cilium isolates a direction for a rule there, and enableDefaultDeny changes what rules do: without any it does nothing.
pub(crate) fn with_rules_for_default_deny(world: &mut World) {
    each_spec(world, CILIUM, |spec| {
        for (allow, deny) in [("ingress", "ingressDeny"), ("egress", "egressDeny")] {
            let is_empty = |section: &str| spec[section].as_array().is_none_or(Vec::is_empty);
            if spec["enableDefaultDeny"][allow] == true && is_empty(allow) && is_empty(deny) {
                spec[allow] = json!([{}]);
            }
        }
    });
}

/// Cilium takes the peers of toServices from the services it finds. If it finds none, none is left, and a rule without peers
/// and with ports is for everybody. A service that selects no pod takes the place of those that are not there.
pub(crate) fn with_a_service_nobody_offers(world: &mut World) {
    let mut is_asked_for = false;
    each_rule(world, CILIUM, |_, rule| {
        if let Some(services) = rule.get_mut("toServices").and_then(Value::as_array_mut) {
            services.push(json!({"k8sService": {"serviceName": "nobody", "namespace": "nobody"}}));
            is_asked_for = true;
        }
    });
    if !is_asked_for {
        return;
    }
    world.objects.push(json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "nobody", "namespace": "nobody"},
        "spec": {"selector": {"nobody": "nobody"}, "ports": [{"port": 80}]},
    }));
}

/// With both address families in use Cilium labels outsiders by family, and nobody is reserved:world.
pub(crate) fn with_worlds_of_both_families(world: &mut World) {
    const WORLD: &str = "reserved:world";
    let of = |family: &str, value: &Value| {
        serde_json::from_str(
            &value
                .to_string()
                .replace(&json!(WORLD).to_string(), &json!(format!("{WORLD}-{family}")).to_string()),
        )
        .unwrap_or_default()
    };
    each_rule(world, CILIUM, |_, rule| {
        for field in ["fromEndpoints", "toEndpoints"] {
            let Some(selectors) = rule.get_mut(field).and_then(Value::as_array_mut) else { continue };
            *selectors = selectors
                .iter()
                .flat_map(|selector| {
                    let excludes = |expression: &Value| {
                        expression["key"] == WORLD
                            && ["NotIn", "DoesNotExist"].iter().any(|o| expression["operator"] == *o)
                    };
                    let mut selector = selector.clone();
                    if let Some(expressions) =
                        selector.get_mut("matchExpressions").and_then(Value::as_array_mut)
                    {
                        let excluding: Vec<Value> =
                            expressions.iter().filter(|e| excludes(e)).cloned().collect();
                        expressions.retain(|e| !excludes(e));
                        expressions.extend(excluding.iter().flat_map(|e| [of("ipv4", e), of("ipv6", e)]));
                    }
                    if selector.to_string().contains(&json!(WORLD).to_string()) {
                        vec![of("ipv4", &selector), of("ipv6", &selector)]
                    } else {
                        vec![selector]
                    }
                })
                .collect();
        }
    });
}

/// Cilium puts a CiliumNetworkPolicy's own namespace in the place of another one under matchLabels. Said as an expression, the
/// other one stays, too.
pub(crate) fn with_subjects_in_both_namespaces(world: &mut World) {
    const NAMESPACE: &str = "k8s:io.kubernetes.pod.namespace";
    each_spec(world, &["CiliumNetworkPolicy"], |spec| {
        let labels = spec.pointer_mut("/endpointSelector/matchLabels").and_then(Value::as_object_mut);
        let Some(wanted) = labels.and_then(|labels| labels.remove(NAMESPACE)) else { return };
        express(
            &mut spec["endpointSelector"],
            json!({"key": NAMESPACE, "operator": "In", "values": [wanted]}),
        );
    });
}

/// Cilium resolves toServices in rules that allow and not in those that deny. There nothing is left of it.
pub(crate) fn without_services_in_denials(world: &mut World) {
    each_rule(world, CILIUM, |section, rule| {
        if section == "egressDeny" {
            rule.as_object_mut().map(|rule| rule.remove("toServices"));
        }
    });
}

/// A key without a source and the same key with `any:` are one key to Cilium, and one of two values for it is lost. As
/// expressions both stay.
pub(crate) fn with_both_labels_of_a_key(world: &mut World) {
    let apart = |selector: &mut Value| {
        let Some(labels) = selector.get_mut("matchLabels").and_then(Value::as_object_mut) else { return };
        let twice = |key: &&String| labels.contains_key(&format!("any:{key}"));
        let keys: Vec<String> = labels.keys().filter(twice).cloned().collect();
        let values: Vec<_> = keys.iter().map(|key| labels.remove(key)).collect();
        for (key, value) in keys.iter().zip(values) {
            express(selector, json!({"key": key, "operator": "In", "values": [value]}));
        }
    };
    each_spec(world, CILIUM, |spec| {
        spec.get_mut("endpointSelector").into_iter().for_each(apart);
        each_rule_of(spec, |_, rule| each_item(rule, &["fromEndpoints", "toEndpoints"], apart));
    });
}

/// Cilium knows one identity for all addresses of its own node: if the API server is at one of them, it is at all.
pub(crate) fn with_the_whole_host_as_api_server(world: &mut World) {
    let host = world.host_addresses.clone();
    let is_host = |address: &Value| {
        address
            .as_str()
            .and_then(|text| text.parse::<IpAddr>().ok())
            .is_some_and(|address| host.contains(&address))
    };
    let of_api_server = |slice: &&Value| {
        slice["metadata"]["namespace"] == "default"
            && slice["metadata"]["labels"]["kubernetes.io/service-name"] == "kubernetes"
            && slice["endpoints"]
                .as_array()
                .into_iter()
                .flatten()
                .any(|endpoint| endpoint["addresses"].as_array().into_iter().flatten().any(is_host))
    };
    if world.of_kind("EndpointSlice").any(|slice| of_api_server(&slice)) {
        for family in ["IPv4", "IPv6"] {
            let addresses: Vec<&IpAddr> =
                world.host_addresses.iter().filter(|a| a.is_ipv4() == (family == "IPv4")).collect();
            let endpoints: Vec<Value> =
                addresses.iter().map(|address| json!({"addresses": [address]})).collect();
            if !endpoints.is_empty() {
                let slice = json!({
                    "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": family,
                    "metadata": {
                        "name": format!("all-of-the-host-{}", family.to_lowercase()), "namespace": "default",
                        "labels": {"kubernetes.io/service-name": "kubernetes"},
                    },
                    "endpoints": endpoints, "ports": [{"port": 80, "protocol": "TCP"}],
                });
                world.objects.push(slice);
            }
        }
    }
}

/// Cilium takes what stands before the first dot of a key in a service's selector, and in a selector of services, for the
/// source of the label, where its other selectors have `any.` put before their keys first.
pub(crate) fn with_keys_of_any_source(world: &mut World) {
    let with_source = |key: &str| format!("any.{key}");
    let rename = |labels: &mut Value| {
        let Some(labels) = labels.as_object_mut() else { return };
        *labels = std::mem::take(labels)
            .into_iter()
            .map(|(key, value)| if key.contains('.') { (with_source(&key), value) } else { (key, value) })
            .collect();
    };
    for service in world.objects.iter_mut().filter(|object| object["kind"] == "Service") {
        service.pointer_mut("/spec/selector").into_iter().for_each(rename);
    }
    each_rule(world, CILIUM, |_, rule| {
        each_item(rule, &["toServices"], |service| {
            let Some(selector) = service.pointer_mut("/k8sServiceSelector/selector") else { return };
            selector.get_mut("matchLabels").into_iter().for_each(rename);
            each_item(selector, &["matchExpressions"], |expression| {
                if let Some(key) = expression["key"].as_str().filter(|key| key.contains('.')) {
                    expression["key"] = json!(with_source(key));
                }
            });
        });
    });
}

/// Cilium holds a cidrGroupSelector against the labels of an address: those of all groups it is in, one value for each key,
/// and none for a pod or for somebody in no group. By name the groups are just those it selects.
pub(crate) fn with_groups_by_name(world: &mut World) {
    let groups: Vec<Value> =
        world.of_kind("CiliumCIDRGroup").map(|group| group["metadata"].clone()).collect();
    each_rule(world, CILIUM, |_, rule| {
        for field in ["fromCIDRSet", "toCIDRSet"] {
            let Some(items) = rule.get_mut(field).and_then(Value::as_array_mut) else { continue };
            *items = items.iter().flat_map(|item| by_name(item, &groups)).collect();
        }
    });
}

fn by_name(item: &Value, groups: &[Value]) -> Vec<Value> {
    let selector = &item["cidrGroupSelector"];
    if selector.is_null() {
        return vec![item.clone()];
    }
    let selected =
        groups.iter().filter(|group| selects(selector, &group["labels"])).map(|group| group["name"].clone());
    // An empty list would be another thing to say.
    let names: Vec<Value> = selected.chain([json!("no-such-group")]).collect();
    let named = |name: &Value| {
        let mut item = item.clone();
        item.as_object_mut().map(|item| item.remove("cidrGroupSelector"));
        item["cidrGroupRef"] = name.clone();
        item
    };
    names.iter().map(named).collect()
}

fn selects(selector: &Value, labels: &Value) -> bool {
    let wanted = selector["matchLabels"].as_object().into_iter().flatten();
    let mut expressions = selector["matchExpressions"].as_array().into_iter().flatten();
    wanted.into_iter().all(|(key, value)| labels.get(key) == Some(value))
        && expressions.all(|expression| {
            let value = expression["key"].as_str().and_then(|key| labels.get(key));
            let is_listed = || {
                value.is_some_and(|value| expression["values"].as_array().is_some_and(|v| v.contains(value)))
            };
            match expression["operator"].as_str() {
                Some("In") => is_listed(),
                Some("NotIn") => !is_listed(),
                Some("Exists") => value.is_some(),
                _ => value.is_none(),
            }
        })
}
