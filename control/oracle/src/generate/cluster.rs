//! The cluster policies speak of: namespaces, pods, nodes, services and their endpoints.

use super::{Dice, KEYS, NETS, OUTSIDE, PORT_NAMES, PORTS, VALUES};
use crate::feature::Feature;
use crate::world::{Attachment, Enforcement, OWN_NODE, World};
use serde_json::{Map, Value, json};

const OTHER_NODE: &str = "node-2";

pub(crate) struct Cluster {
    pub(crate) names: Vec<&'static str>,
    pub(crate) namespaces: Vec<Value>,
    pub(crate) pods: Vec<Value>,
    pub(crate) services: Vec<Value>,
    pub(crate) groups: Vec<Value>,
    pub(crate) policies: Vec<Value>,
    others: Vec<Value>,
    attached: Vec<Attachment>,
}

pub(crate) fn labels(dice: &mut Dice) -> Map<String, Value> {
    let mut labels = Map::new();
    for key in KEYS {
        if dice.chance(60) {
            labels.insert((*key).to_owned(), json!(dice.one_of(VALUES)));
        }
    }
    labels
}

impl Cluster {
    pub(crate) fn random(dice: &mut Dice) -> Cluster {
        let count = dice.between(1, 3).max(2);
        let names = super::NAMESPACES[..count].to_vec();
        let mut cluster = Cluster {
            names,
            namespaces: Vec::new(),
            pods: Vec::new(),
            services: Vec::new(),
            groups: Vec::new(),
            policies: Vec::new(),
            others: Vec::new(),
            attached: Vec::new(),
        };
        for name in cluster.names.clone() {
            if !dice.has(Feature::NamespaceMissing) {
                let labels = labels(dice);
                cluster.namespaces.push(
                    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}),
                );
            }
        }
        let pods = dice.between(if dice.mix.is_focussed() { 3 } else { 2 }, 4);
        for number in 0..pods {
            cluster.add_pod(dice, number);
        }
        cluster.add_doubles(dice);
        cluster.add_nodes(dice);
        cluster.add_services(dice);
        let groups = if dice.has(Feature::CidrGroup) { 2 } else { 0 };
        for number in 0..groups {
            let count = dice.between(0, 3);
            let labels = labels(dice);
            cluster.groups.push(json!({
                "apiVersion": "cilium.io/v2", "kind": "CiliumCIDRGroup",
                "metadata": {"name": format!("group-{number}"), "labels": labels},
                "spec": {"externalCIDRs": dice.some_of(NETS, count)},
            }));
        }
        cluster
    }

    /// What the generator needs to know of a world that is already there.
    pub(crate) fn of(world: &World) -> Cluster {
        let of_kind = |kind: &str| world.of_kind(kind).cloned().collect::<Vec<_>>();
        let pods = of_kind("Pod");
        let lives = |name: &&str| pods.iter().any(|pod| pod["metadata"]["namespace"] == *name);
        let mut names: Vec<&'static str> = super::NAMESPACES.iter().copied().filter(lives).collect();
        if names.is_empty() {
            names = super::NAMESPACES.to_vec();
        }
        Cluster {
            names,
            namespaces: of_kind("Namespace"),
            pods,
            services: of_kind("Service"),
            groups: of_kind("CiliumCIDRGroup"),
            policies: Vec::new(),
            others: Vec::new(),
            attached: Vec::new(),
        }
    }

    fn add_pod(&mut self, dice: &mut Dice, number: usize) {
        let namespace = *dice.one_of(&self.names);
        let name = format!("pod-{number}");
        // The first pod is here, or there would be nothing to ask about.
        let remote = number > 0 && dice.has(Feature::RemotePod);
        let host_network = number > 0 && dice.has(Feature::HostNetwork);
        let index = if remote { 2 } else { 1 };
        let mut addresses = Vec::new();
        if host_network {
            addresses.push(format!("10.9.0.{index}"));
        } else {
            let second = dice.has(Feature::Ipv6);
            if !second || dice.chance(60) {
                addresses.push(format!("10.1.0.{}", number + 1));
            }
            if second {
                addresses.push(format!("fd00::{}", number + 1));
            }
        }
        let mut labels = labels(dice);
        if dice.has(Feature::SpoofedLabel) {
            self.spoof(dice, namespace, &mut labels);
        }
        let mut spec = json!({
            "nodeName": if remote { OTHER_NODE } else { OWN_NODE },
            "containers": containers(dice),
        });
        if host_network {
            spec["hostNetwork"] = json!(true);
        }
        // The API server fills in the default one.
        spec["serviceAccountName"] = json!(dice.one_of(&["builder", "default"]));
        let ips: Vec<Value> = addresses.iter().map(|ip| json!({"ip": ip})).collect();
        let mut pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": namespace, "labels": labels},
            "spec": spec,
            "status": {"phase": "Running", "podIP": addresses[0], "podIPs": ips},
        });
        if !remote && !host_network {
            let parsed = addresses.iter().map(|ip| ip.parse().unwrap()).collect();
            self.attached.push(Attachment { namespace: namespace.to_owned(), name, addresses: parsed });
            // The switch knows a pod's address before the API does.
            if dice.chance(15) {
                pod["status"] = json!({"phase": "Pending"});
            }
        }
        self.pods.push(pod);
    }

    /// A namespace, most of the time one with pods in it.
    pub(crate) fn populated(&self, dice: &mut Dice) -> String {
        if dice.chance(15) || self.pods.is_empty() {
            return (*dice.one_of(&self.names)).to_owned();
        }
        dice.one_of(&self.pods)["metadata"]["namespace"].as_str().unwrap_or_default().to_owned()
    }

    /// Labels that look like those only the cluster itself may give.
    fn spoof(&self, dice: &mut Dice, own: &str, labels: &mut Map<String, Value>) {
        let others: Vec<&str> = self.names.iter().copied().filter(|name| *name != own).collect();
        let namespace = *dice.one_of(&others);
        let kinds = if dice.mix.is_about(Feature::SpoofedLabel) { 3 } else { 6 };
        let (key, value) = match dice.below(kinds) {
            0..3 => ("io.kubernetes.pod.namespace".to_owned(), namespace),
            3 => ("io.cilium.k8s.policy.serviceaccount".to_owned(), "builder"),
            4 => (format!("io.cilium.k8s.namespace.labels.{}", dice.one_of(KEYS)), *dice.one_of(VALUES)),
            _ => ("kubernetes.io/metadata.name".to_owned(), namespace),
        };
        labels.insert(key, json!(value));
    }

    /// Pods that share an address: one that is over and shows it still, or one that looks the same to every policy.
    fn add_doubles(&mut self, dice: &mut Dice) {
        let overs =
            if dice.mix.is_about(Feature::Terminated) { 3 } else { u32::from(dice.has(Feature::Terminated)) };
        for number in 0..overs {
            let mut over = json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": {
                    "name": format!("over-{number}"), "namespace": dice.one_of(&self.names), "labels": labels(dice),
                },
                "spec": {"nodeName": OWN_NODE, "serviceAccountName": "default", "containers": containers(dice)},
            });
            // The address of a pod that runs, or one nobody has any more.
            let alive = dice.one_of(&self.pods)["status"]["podIP"].clone();
            let ip = if dice.chance(70) && alive.is_string() { alive } else { json!("10.1.0.6") };
            over["status"] =
                json!({"phase": dice.one_of(&["Succeeded", "Failed"]), "podIP": ip, "podIPs": [{"ip": ip}]});
            let at = dice.below(self.pods.len() + 1);
            self.pods.insert(at, over);
        }
        if dice.has(Feature::SharedAddress) {
            let far =
                |pod: &&Value| pod["spec"]["nodeName"] == OTHER_NODE && pod["spec"]["hostNetwork"].is_null();
            let mut twins: Vec<Value> = self.pods.iter().filter(far).cloned().collect();
            for (number, twin) in twins.iter_mut().enumerate() {
                twin["metadata"]["name"] = json!(format!("twin-{number}"));
            }
            self.pods.extend(twins);
        }
    }

    fn add_nodes(&mut self, dice: &mut Dice) {
        for (name, index) in [(OWN_NODE, 1), (OTHER_NODE, 2)] {
            self.others.push(json!({
                "apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels(dice)},
                "status": {"addresses": [
                    {"type": "InternalIP", "address": format!("10.9.0.{index}")},
                    {"type": "InternalIP", "address": format!("fd00:9::{index}")},
                    {"type": "Hostname", "address": name},
                ]},
            }));
        }
    }

    fn add_services(&mut self, dice: &mut Dice) {
        if dice.has(Feature::EntityApiServer) || dice.chance(15) {
            let at = *dice.one_of(&["10.9.0.2", "10.9.0.2", "10.9.0.1", "198.51.100.10"]);
            self.others.push(service("default", "kubernetes", Map::new(), None));
            self.others.push(slice("default", "kubernetes", &[at]));
        }
        if dice.has(Feature::ServiceWithSelector) {
            let pod = dice.one_of(&self.pods).clone();
            let namespace = pod["metadata"]["namespace"].as_str().unwrap_or_default().to_owned();
            let (key, value) = dice.label(&[pod]);
            let labels = labels(dice);
            self.services.push(service(&namespace, "picked", labels, Some(json!({key: value}))));
        }
        if dice.has(Feature::ServiceWithoutSelector) {
            let namespace = *dice.one_of(&self.names);
            let labels = labels(dice);
            self.services.push(service(namespace, "bare", labels, None));
            let mut addresses = dice.some_of(OUTSIDE, 3);
            // A pod or a node among them stays out of reach: they are read as CIDRs.
            if dice.chance(40) {
                addresses.push(*dice.one_of(&["10.1.0.1", "10.1.0.2", "10.9.0.2"]));
            }
            for family in [true, false] {
                let of_family: Vec<&str> =
                    addresses.iter().copied().filter(|address| address.contains('.') == family).collect();
                if !of_family.is_empty() {
                    self.others.push(slice(namespace, "bare", &of_family));
                }
            }
        }
    }

    pub(crate) fn into_world(self, dice: &mut Dice) -> World {
        let mut objects = self.namespaces;
        objects.extend(self.pods);
        objects.extend(self.others);
        objects.extend(self.services);
        objects.extend(self.groups);
        objects.extend(self.policies);
        // Objects come in any order.
        for index in (1..objects.len()).rev() {
            let other = dice.below(index + 1);
            objects.swap(index, other);
        }
        World {
            objects,
            node: OWN_NODE.to_owned(),
            host_addresses: vec!["10.9.0.1".parse().unwrap(), "fd00:9::1".parse().unwrap()],
            attached: self.attached,
            enforcement: Enforcement::Default,
            pod_to_host: false,
        }
    }
}

pub(crate) fn containers(dice: &mut Dice) -> Value {
    let mut lists: [Vec<Value>; 2] = [Vec::new(), Vec::new()];
    for name in PORT_NAMES {
        if dice.chance(if dice.mix.is_about(Feature::NamedPort) { 95 } else { 60 }) {
            let protocol = *dice.one_of(&["TCP", "TCP", "UDP", "SCTP", ""]);
            let mut port = json!({"name": name, "containerPort": dice.one_of(PORTS)});
            if !protocol.is_empty() {
                port["protocol"] = json!(protocol);
            }
            lists[dice.below(2)].push(port);
        }
    }
    let [first, second] = lists;
    if second.is_empty() {
        return json!([{"name": "one", "image": "x", "ports": first}]);
    }
    json!([{"name": "one", "image": "x", "ports": first}, {"name": "two", "image": "x", "ports": second}])
}

fn service(namespace: &str, name: &str, labels: Map<String, Value>, selector: Option<Value>) -> Value {
    let mut spec = json!({"ports": [{"port": 80, "protocol": "TCP"}]});
    if let Some(selector) = selector {
        spec["selector"] = selector;
    }
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": spec,
    })
}

fn slice(namespace: &str, service: &str, addresses: &[&str]) -> Value {
    let family = if addresses[0].contains('.') { "IPv4" } else { "IPv6" };
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": format!("{service}-{}", family.to_lowercase()), "namespace": namespace,
            "labels": {"kubernetes.io/service-name": service},
        },
        "addressType": family,
        "endpoints": addresses.iter().map(|address| json!({"addresses": [address]})).collect::<Vec<_>>(),
        "ports": [{"port": 80, "protocol": "TCP"}],
    })
}
