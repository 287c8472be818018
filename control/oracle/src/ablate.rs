//! Taking a feature out of a world again, to see whether any answer depends on it.
//!
//! Most features are words of policies or objects of the cluster: without them the objects are others, and the evaluator is
//! asked again. Where taking a rule out would also take isolation away, the rule is replaced by one that matches nobody.
//! Features that are sentences of the text and not words of an object are left out by the evaluator ([`Naive::unread`]).

use crate::feature::Feature;
use crate::generate::{NAMESPACE_LABELS, POD_NAMESPACE, SERVICE_ACCOUNT};
use crate::naive::Naive;
use crate::world::{Flow, World};
use serde_json::{Value, json};

struct Rule<'a> {
    cilium: bool,
    egress: bool,
    deny: bool,
    rule: &'a mut Value,
}

impl Rule<'_> {
    /// `from` or `to`, and what.
    fn list(&self, what: &str) -> Option<&Vec<Value>> {
        self.rule[format!("{}{what}", if self.egress { "to" } else { "from" })].as_array()
    }

    /// Is there a peer of Kubernetes' that has these selectors, and no others?
    fn has_peer(&self, pods: bool, namespaces: bool) -> bool {
        !self.cilium
            && self.list("").into_iter().flatten().any(|peer| {
                peer["ipBlock"].is_null()
                    && peer["podSelector"].is_null() != pods
                    && peer["namespaceSelector"].is_null() != namespaces
            })
    }

    fn has_entity(&self, names: &[&str]) -> bool {
        self.list("Entities").into_iter().flatten().any(|entity| names.iter().any(|name| entity == name))
    }

    /// Does a key of one of its selectors begin with this, whatever its source?
    fn has_key(&self, beginning: &str) -> bool {
        let mut found = false;
        self.list("Endpoints").into_iter().flatten().for_each(|selector| {
            let keys = selector["matchLabels"].as_object().into_iter().flatten().map(|(key, _)| key.as_str());
            let expressions = selector["matchExpressions"].as_array().into_iter().flatten();
            let mut keys = keys.chain(expressions.filter_map(|expression| expression["key"].as_str()));
            found |= keys
                .any(|key| key.trim_start_matches("k8s:").trim_start_matches("any:").starts_with(beginning));
        });
        found
    }

    fn has_peers(&self) -> bool {
        ["Endpoints", "CIDR", "CIDRSet", "Entities", "Services", "FQDNs"]
            .iter()
            .any(|what| self.list(what).is_some())
    }

    fn matches_nobody(&mut self) {
        let field = if self.egress { "to" } else { "from" };
        *self.rule = if self.cilium {
            json!({})
        } else {
            json!({field: [{"ipBlock": {"cidr": "255.255.255.255/32"}}]})
        };
    }

    fn matches_everybody(&mut self) {
        *self.rule = json!({if self.egress { "toEntities" } else { "fromEntities" }: ["all"]});
    }
}

fn is_cilium(object: &Value) -> bool {
    object["kind"].as_str().is_some_and(|kind| kind.starts_with("Cilium") && kind.ends_with("NetworkPolicy"))
}

impl World {
    fn specs_mut(&mut self) -> Vec<(bool, &mut Value)> {
        let mut specs = Vec::new();
        for object in &mut self.objects {
            let cilium = is_cilium(object);
            if !cilium && object["kind"] != "NetworkPolicy" {
                continue;
            }
            let Some(object) = object.as_object_mut() else { continue };
            for (field, value) in object {
                match (field.as_str(), value) {
                    ("spec", value) => specs.push((cilium, value)),
                    ("specs", Value::Array(list)) => specs.extend(list.iter_mut().map(|spec| (cilium, spec))),
                    _ => {}
                }
            }
        }
        specs
    }

    fn rules_mut(&mut self) -> Vec<Rule<'_>> {
        let mut rules = Vec::new();
        for (cilium, spec) in self.specs_mut() {
            let Some(spec) = spec.as_object_mut() else { continue };
            for (section, list) in spec {
                let (egress, deny) = match section.as_str() {
                    "ingress" => (false, false),
                    "ingressDeny" => (false, true),
                    "egress" => (true, false),
                    "egressDeny" => (true, true),
                    _ => continue,
                };
                let list = list.as_array_mut().into_iter().flatten();
                rules.extend(list.map(|rule| Rule { cilium, egress, deny, rule }));
            }
        }
        rules
    }

    /// Rules of which this holds match nobody.
    fn silence(&mut self, which: impl Fn(&Rule<'_>) -> bool) {
        self.rules_mut().into_iter().filter(|rule| which(rule)).for_each(|mut rule| rule.matches_nobody());
    }

    /// Changes every value of the policies, inner ones first.
    fn edit_policies(&mut self, mut edit: impl FnMut(&mut Value)) {
        fn walk(value: &mut Value, edit: &mut impl FnMut(&mut Value)) {
            match value {
                Value::Array(list) => list.iter_mut().for_each(|value| walk(value, edit)),
                Value::Object(map) => map.values_mut().for_each(|value| walk(value, edit)),
                _ => {}
            }
            edit(value);
        }
        self.specs_mut().into_iter().for_each(|(_, spec)| walk(spec, &mut edit));
    }

    /// Takes a key out of every map of the policies.
    fn forget(&mut self, key: &str) {
        self.edit_policies(|value| {
            if let Some(map) = value.as_object_mut() {
                map.remove(key);
            }
        });
    }

    fn forget_operator(&mut self, operator: Feature) {
        let name = format!("{operator:?}");
        self.edit_policies(|value| {
            if let Some(list) = value.get_mut("matchExpressions").and_then(Value::as_array_mut) {
                list.retain(|expression| expression["operator"] != name.as_str());
            }
        });
    }

    fn replace_ports(&mut self, edit: impl Fn(&mut Value)) {
        self.edit_policies(|value| {
            if value.get("port").is_some() || value.get("protocol").is_some() {
                edit(value);
            }
        });
    }

    /// The source of a label read as part of its key.
    fn misread_prefix(&mut self, prefix: &str) {
        self.edit_policies(|value| {
            if let Some(map) = value.as_object_mut() {
                let keys: Vec<String> = map.keys().filter(|key| key.starts_with(prefix)).cloned().collect();
                for key in keys {
                    let value = map.remove(&key).unwrap_or_default();
                    map.insert(key.replace(':', "."), value);
                }
                if let Some(key) =
                    map.get("key").and_then(Value::as_str).filter(|key| key.starts_with(prefix))
                {
                    let key = key.replace(':', ".");
                    map.insert("key".to_owned(), json!(key));
                }
            }
        });
    }

    /// The world without a feature.
    pub fn without(&self, feature: Feature) -> World {
        let mut world = self.clone();
        let kind = |world: &mut World, gone: &str| world.objects.retain(|object| object["kind"] != gone);
        match feature {
            Feature::SharedAddress => {
                let ips: Vec<Value> =
                    world.of_kind("Pod").map(|pod| pod["status"]["podIP"].clone()).collect();
                world.objects.retain(|object| {
                    object["kind"] != "Pod"
                        || object["spec"]["hostNetwork"] == true
                        || ips.iter().filter(|ip| !ip.is_null() && **ip == object["status"]["podIP"]).count()
                            < 2
                        || object["spec"]["nodeName"] == world.node.as_str()
                });
            }
            Feature::RemotePod => {
                let node = world.node.clone();
                world.objects.retain(|object| {
                    object["kind"] != "Pod"
                        || object["spec"]["nodeName"] == node.as_str()
                        || object["spec"]["hostNetwork"] == true
                });
            }
            Feature::NamedPort => world.replace_ports(|port| {
                if port["port"].as_str().is_some_and(|name| name.parse::<u16>().is_err()) {
                    port["port"] = json!("nobody-has-this");
                }
            }),
            Feature::EndPort => world.forget("endPort"),
            Feature::Sctp => world.replace_ports(|port| {
                if port["protocol"] == "SCTP" {
                    port["protocol"] = json!("TCP");
                }
            }),
            Feature::In | Feature::NotIn | Feature::Exists | Feature::DoesNotExist => {
                world.forget_operator(feature)
            }
            Feature::NetworkPolicy => kind(&mut world, "NetworkPolicy"),
            Feature::PolicyTypes => world.forget("policyTypes"),
            Feature::Isolation => world.objects.retain(|object| {
                let has =
                    |section: &str| object["spec"][section].as_array().is_some_and(|rules| !rules.is_empty());
                object["kind"] != "NetworkPolicy" || has("ingress") || has("egress")
            }),
            Feature::PodPeer => world.silence(|rule| rule.has_peer(true, false)),
            Feature::NamespacePeer => world.silence(|rule| rule.has_peer(false, true)),
            Feature::PodInNamespacePeer => world.silence(|rule| rule.has_peer(true, true)),
            Feature::IpBlock => world.silence(|rule| {
                !rule.cilium && rule.list("").into_iter().flatten().any(|peer| !peer["ipBlock"].is_null())
            }),
            Feature::IpBlockExcept | Feature::CidrExcept => world.forget("except"),
            Feature::AnyPeer => world.silence(|rule| !rule.cilium && rule.list("").is_none_or(Vec::is_empty)),
            Feature::AnyPort => {
                world.silence(|rule| !rule.cilium && rule.rule["ports"].as_array().is_none_or(Vec::is_empty))
            }
            Feature::ProtocolOnly => world.silence(|rule| {
                !rule.cilium
                    && rule.rule["ports"].as_array().into_iter().flatten().any(|port| port["port"].is_null())
            }),
            Feature::Cilium => kind(&mut world, "CiliumNetworkPolicy"),
            Feature::Clusterwide => kind(&mut world, "CiliumClusterwideNetworkPolicy"),
            Feature::Specs => world.objects.iter_mut().filter_map(Value::as_object_mut).for_each(|object| {
                object.remove("specs");
            }),
            Feature::NodeSelector => world.specs_mut().into_iter().for_each(|(_, spec)| {
                if spec.get("nodeSelector").is_some() {
                    spec["endpointSelector"] = json!({});
                }
            }),
            Feature::Deny => world.silence(|rule| rule.deny),
            Feature::EnableDefaultDeny => world.forget("enableDefaultDeny"),
            Feature::Endpoints => world.silence(|rule| rule.cilium && rule.list("Endpoints").is_some()),
            Feature::NamespaceKey => world.silence(|rule| rule.has_key(POD_NAMESPACE)),
            Feature::NamespaceLabels => world.silence(|rule| rule.has_key(NAMESPACE_LABELS)),
            Feature::ServiceAccount => world.silence(|rule| rule.has_key(SERVICE_ACCOUNT)),
            Feature::ReservedLabel => world.silence(|rule| rule.has_key("reserved:")),
            Feature::PrefixK8s => world.misread_prefix("k8s:"),
            Feature::PrefixAny => world.misread_prefix("any:"),
            Feature::Cidr => world.silence(|rule| rule.list("CIDR").is_some()),
            Feature::CidrGroup => kind(&mut world, "CiliumCIDRGroup"),
            Feature::EntityAll => world.silence(|rule| rule.has_entity(&["all"])),
            Feature::EntityWorld => world.silence(|rule| rule.has_entity(&["world"])),
            Feature::EntityWorldOfFamily => {
                world.silence(|rule| rule.has_entity(&["world-ipv4", "world-ipv6"]))
            }
            Feature::EntityHost => world.silence(|rule| rule.has_entity(&["host"])),
            Feature::EntityRemoteNode => world.silence(|rule| rule.has_entity(&["remote-node"])),
            Feature::EntityCluster => world.silence(|rule| rule.has_entity(&["cluster"])),
            Feature::EntityApiServer => world.silence(|rule| rule.has_entity(&["kube-apiserver"])),
            // Those that allow nothing: what if they were read as something?
            Feature::EntityNobody => {
                let nobody = ["init", "health", "ingress", "unmanaged", "none"];
                let rules = world.rules_mut().into_iter().filter(|rule| rule.has_entity(&nobody));
                rules.for_each(|mut rule| rule.matches_everybody());
            }
            Feature::EmptyList => {
                let rules = world.rules_mut().into_iter().filter(|rule| {
                    let empty = |what: &&str| rule.list(what).is_some_and(Vec::is_empty);
                    rule.cilium && ["Endpoints", "CIDR", "CIDRSet", "Entities"].iter().any(empty)
                });
                rules.for_each(|mut rule| rule.matches_everybody());
            }
            Feature::EmptyRule => {
                let rules =
                    world.rules_mut().into_iter().filter(|rule| rule.cilium && *rule.rule == json!({}));
                rules.for_each(|mut rule| rule.matches_everybody());
            }
            Feature::NotEnforced => {
                world.rules_mut().into_iter().filter(|rule| rule.cilium).for_each(|rule| {
                    let fqdns = rule.rule.as_object_mut().is_some_and(|map| {
                        map.remove("authentication");
                        map.remove("toFQDNs").is_some()
                    });
                    if fqdns && rule.rule["toPorts"].is_null() {
                        rule.rule["toEntities"] = json!(["all"]);
                    }
                    for entry in rule.rule["toPorts"].as_array_mut().into_iter().flatten() {
                        entry
                            .as_object_mut()
                            .into_iter()
                            .for_each(|entry| entry.retain(|field, _| field == "ports"));
                    }
                })
            }
            Feature::ServiceWithSelector => world
                .objects
                .retain(|object| object["kind"] != "Service" || object["spec"]["selector"].is_null()),
            Feature::ServiceWithoutSelector => world
                .objects
                .retain(|object| object["kind"] != "Service" || !object["spec"]["selector"].is_null()),
            Feature::PortsOfAnyone => world.silence(|rule| rule.cilium && !rule.has_peers()),
            Feature::ZeroPort => world.replace_ports(|port| {
                if port["port"] == "0" {
                    port["port"] = json!("65000");
                }
            }),
            Feature::AnyProtocol => {
                world.rules_mut().into_iter().filter(|rule| rule.cilium).for_each(|rule| {
                    for entry in rule.rule["toPorts"].as_array_mut().into_iter().flatten() {
                        for port in entry["ports"].as_array_mut().into_iter().flatten() {
                            if port["protocol"].is_null() || port["protocol"] == "ANY" {
                                port["protocol"] = json!("TCP");
                            }
                        }
                    }
                })
            }
            Feature::Icmps => world.silence(|rule| rule.rule.get("icmps").is_some()),
            // Sentences, and what is measured by the questions themselves.
            Feature::Ipv6
            | Feature::HostNetwork
            | Feature::Terminated
            | Feature::SpoofedLabel
            | Feature::NamespaceMissing
            | Feature::OwnNode
            | Feature::PodsOnly
            | Feature::PeerScope
            | Feature::SubjectScope => {}
        }
        world
    }

    /// Of these questions, how many have another answer without the feature?
    pub fn decided_by(&self, feature: Feature, flows: &[Flow]) -> usize {
        let without = self.without(feature);
        let (with, without) = (Naive::new(self), Naive::unread(&without, feature));
        let decided = |flow: &&Flow| match feature {
            // What differs is who asks.
            Feature::Ipv6 => flow.from.is_ipv6() && with.judge(**flow).is_judged(),
            _ => with.judge(**flow) != without.judge(**flow),
        };
        flows.iter().filter(decided).count()
    }
}
