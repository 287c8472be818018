//! Random clusters as JSON, and the naive reading of them.

use rand::rngs::StdRng;
use rand::{Rng, RngExt};
use serde_json::{Map, Value, json};
use std::net::IpAddr;

/// Small numbers of everything, so that random questions meet random rules.
pub(crate) const PORTS: &[u16] = &[80, 81, 85, 90, 8080, 53];
const NAMESPACES: &[&str] = &["alpha", "beta", "gamma"];
const KEYS: &[&str] = &["app", "tier", "team.example/x"];
const VALUES: &[&str] = &["a", "b", ""];
const PORT_NAMES: &[&str] = &["http", "dns"];
const PROTOCOLS: &[&str] = &["TCP", "UDP", "SCTP"];
const NETS: &[&str] = &[
    "0.0.0.0/0",
    "10.0.0.0/8",
    "10.1.0.0/16",
    "10.1.0.0/24",
    "10.1.0.4/30",
    "10.1.0.5/32",
    "10.9.0.1/32",
    "192.0.2.0/24",
    "192.0.2.128/25",
    "::/0",
    "fd00::/16",
    "fd00::/120",
    "fd00::5/128",
    "2001:db8::/32",
    "fd00:9::1/128",
];

pub(crate) struct WorldPod {
    pub namespace: String,
    pub name: String,
    pub addresses: Vec<IpAddr>,
    pub local: bool,
    json: Value,
}

pub(crate) struct World {
    pub objects: Vec<Value>,
    pub pods: Vec<WorldPod>,
    pub host_addresses: Vec<IpAddr>,
}

fn one_of<'a, T>(random: &mut StdRng, from: &'a [T]) -> &'a T {
    &from[random.random_range(0..from.len())]
}

fn chance(random: &mut StdRng, of_100: u32) -> bool {
    random.next_u32() % 100 < of_100
}

fn labels(random: &mut StdRng) -> Value {
    let mut labels = Map::new();
    for key in KEYS {
        if chance(random, 60) {
            labels.insert((*key).to_owned(), json!(one_of(random, VALUES)));
        }
    }
    // Labels that look like ours must mean nothing.
    if chance(random, 10) {
        labels.insert("io.kubernetes.pod.namespace".to_owned(), json!(one_of(random, NAMESPACES)));
    }
    if chance(random, 10) {
        labels.insert("kubernetes.io/metadata.name".to_owned(), json!(one_of(random, NAMESPACES)));
    }
    Value::Object(labels)
}

fn selector(random: &mut StdRng, of_namespaces: bool) -> Value {
    let mut selector = Map::new();
    if chance(random, 20) {
        return json!({});
    }
    if of_namespaces && chance(random, 30) {
        return json!({"matchLabels": {"kubernetes.io/metadata.name": one_of(random, NAMESPACES)}});
    }
    if chance(random, 50) {
        selector.insert("matchLabels".to_owned(), json!({*one_of(random, KEYS): one_of(random, VALUES)}));
    }
    if chance(random, 50) {
        let expressions: Vec<Value> = (0..random.random_range(1..3))
            .map(|_| {
                let operator = *one_of(random, &["In", "NotIn", "Exists", "DoesNotExist"]);
                let mut expression = json!({"key": one_of(random, KEYS), "operator": operator});
                if operator.ends_with("In") {
                    let values: Vec<_> =
                        (0..random.random_range(1..3)).map(|_| *one_of(random, VALUES)).collect();
                    expression["values"] = json!(values);
                }
                expression
            })
            .collect();
        selector.insert("matchExpressions".to_owned(), json!(expressions));
    }
    Value::Object(selector)
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6),
    }
}

/// Is the address inside the CIDR? By comparing bits one by one.
fn inside(address: IpAddr, cidr: &str) -> bool {
    let (net, length) = cidr.split_once('/').unwrap();
    let (net, length): (IpAddr, u32) = (net.parse().unwrap(), length.parse().unwrap());
    let width = if net.is_ipv4() { 32 } else { 128 };
    net.is_ipv4() == address.is_ipv4()
        && (0..length).all(|bit| {
            let shift = width - 1 - bit;
            (bits(net) >> shift) & 1 == (bits(address) >> shift) & 1
        })
}

fn peer(random: &mut StdRng) -> Value {
    match random.random_range(0..4) {
        0 => json!({"podSelector": selector(random, false)}),
        1 => json!({"namespaceSelector": selector(random, true)}),
        2 => json!({"podSelector": selector(random, false), "namespaceSelector": selector(random, true)}),
        _ => {
            let cidr = *one_of(random, NETS);
            let base: IpAddr = cidr.split_once('/').unwrap().0.parse().unwrap();
            let length = |net: &str| net.split_once('/').unwrap().1.parse::<u32>().unwrap();
            let within: Vec<&str> = NETS
                .iter()
                .copied()
                .filter(|net| {
                    let first: IpAddr = net.split_once('/').unwrap().0.parse().unwrap();
                    length(net) > length(cidr) && inside(first, cidr) && first.is_ipv4() == base.is_ipv4()
                })
                .collect();
            let mut block = json!({"cidr": cidr});
            if !within.is_empty() && chance(random, 60) {
                let except: Vec<_> =
                    (0..random.random_range(1..3)).map(|_| *one_of(random, &within)).collect();
                block["except"] = json!(except);
            }
            json!({"ipBlock": block})
        }
    }
}

fn port(random: &mut StdRng) -> Value {
    let mut port = Map::new();
    if chance(random, 70) {
        port.insert("protocol".to_owned(), json!(one_of(random, PROTOCOLS)));
    }
    match random.random_range(0..5) {
        0 => {}
        1 | 2 => {
            port.insert("port".to_owned(), json!(one_of(random, PORT_NAMES)));
        }
        _ => {
            let first = *one_of(random, PORTS);
            port.insert("port".to_owned(), json!(first));
            if chance(random, 30) {
                port.insert("endPort".to_owned(), json!(first + random.random_range(0..10u16)));
            }
        }
    }
    Value::Object(port)
}

fn rules(random: &mut StdRng, peers_field: &str) -> Value {
    let rules: Vec<Value> = (0..random.random_range(0..3))
        .map(|_| {
            let mut rule = Map::new();
            if chance(random, 85) {
                let peers: Vec<Value> = (0..random.random_range(0..3)).map(|_| peer(random)).collect();
                rule.insert(peers_field.to_owned(), json!(peers));
            }
            if chance(random, 70) {
                let ports: Vec<Value> = (0..random.random_range(0..3)).map(|_| port(random)).collect();
                rule.insert("ports".to_owned(), json!(ports));
            }
            Value::Object(rule)
        })
        .collect();
    json!(rules)
}

fn policy(random: &mut StdRng, number: usize) -> Value {
    let subjects = if chance(random, 40) { json!({}) } else { selector(random, false) };
    let mut spec = json!({"podSelector": subjects});
    if chance(random, 80) {
        spec["ingress"] = rules(random, "from");
    }
    if chance(random, 60) {
        spec["egress"] = rules(random, "to");
    }
    match random.random_range(0..4) {
        0 => spec["policyTypes"] = json!(["Ingress"]),
        1 => spec["policyTypes"] = json!(["Egress"]),
        2 => spec["policyTypes"] = json!(["Ingress", "Egress"]),
        _ => {}
    }
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": format!("policy-{number}"), "namespace": one_of(random, NAMESPACES)},
        "spec": spec,
    })
}

fn pod(random: &mut StdRng, number: usize) -> WorldPod {
    let namespace = (*one_of(random, NAMESPACES)).to_owned();
    let name = format!("pod-{number}");
    let mut addresses: Vec<IpAddr> = Vec::new();
    if chance(random, 90) {
        addresses.push(format!("10.1.0.{}", number + 1).parse().unwrap());
    }
    if addresses.is_empty() || chance(random, 40) {
        addresses.push(format!("fd00::{}", number + 1).parse().unwrap());
    }
    let ports: Vec<Value> = PORT_NAMES
        .iter()
        .filter_map(|name| {
            let port = json!({"name": name, "containerPort": one_of(random, PORTS), "protocol": one_of(random, PROTOCOLS)});
            chance(random, 60).then_some(port)
        })
        .collect();
    let host_network = chance(random, 8);
    if host_network {
        addresses = vec!["10.9.0.1".parse().unwrap()];
    }
    let ips: Vec<Value> = addresses.iter().map(|ip| json!({"ip": ip})).collect();
    let mut json = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": labels(random)},
        "spec": {"hostNetwork": host_network, "containers": [{"name": "c", "image": "x", "ports": ports}]},
        "status": {"phase": "Running", "podIP": addresses[0], "podIPs": ips},
    });
    let local = !host_network && chance(random, 70);
    if local && chance(random, 30) {
        json.as_object_mut().unwrap().remove("status");
    }
    WorldPod { namespace, name, addresses, local, json }
}

impl World {
    pub(crate) fn random(random: &mut StdRng) -> World {
        let mut pods: Vec<WorldPod> =
            (0..random.random_range(2..8)).map(|number| pod(random, number)).collect();
        let mut objects = Vec::new();
        for namespace in NAMESPACES {
            if chance(random, 85) {
                let mut labels = labels(random);
                labels.as_object_mut().unwrap().remove("kubernetes.io/metadata.name");
                objects.push(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace, "labels": labels}}));
            }
        }
        // A pod that is over still shows the address a running one has by now.
        if chance(random, 20) {
            let mut over = pod(random, 7);
            over.addresses = pods[0].addresses.clone();
            over.local = false;
            over.json["spec"]["hostNetwork"] = json!(false);
            let phase = *one_of(random, &["Succeeded", "Failed"]);
            over.json["status"] = json!({"phase": phase, "podIP": over.addresses[0]});
            pods.push(over);
        }
        objects.extend(pods.iter().map(|pod| pod.json.clone()));
        objects.extend((0..random.random_range(0..9)).map(|number| policy(random, number)));
        let host_addresses = vec!["10.9.0.1".parse().unwrap(), "fd00:9::1".parse().unwrap()];
        World { objects, pods, host_addresses }
    }

    pub(crate) fn local_pods(&self) -> impl Iterator<Item = &WorldPod> {
        self.pods.iter().filter(|pod| pod.local)
    }

    pub(crate) fn interesting_addresses(&self) -> Vec<IpAddr> {
        let mut addresses: Vec<IpAddr> =
            self.pods.iter().flat_map(|pod| pod.addresses.iter().copied()).collect();
        addresses.extend(addresses.clone());
        addresses.extend(&self.host_addresses);
        let outside = [
            "1.1.1.1",
            "10.200.0.1",
            "10.1.7.7",
            "10.1.0.6",
            "192.0.2.1",
            "192.0.2.200",
            "2001:db8::1",
            "fd00::77",
            "fe00::1",
        ];
        addresses.extend(outside.iter().map(|text| text.parse::<IpAddr>().unwrap()));
        addresses
    }

    /// Now and then: a port that a pod of this address has a name for.
    pub(crate) fn named_port(&self, address: IpAddr, random: &mut StdRng) -> Option<(u8, u16)> {
        let pod = self.pods.iter().find(|pod| pod.addresses.contains(&address))?;
        let ports = pod.json["spec"]["containers"][0]["ports"].as_array()?;
        if ports.is_empty() || !chance(random, 40) {
            return None;
        }
        let port = one_of(random, ports);
        let protocol = match port["protocol"].as_str()? {
            "TCP" => 6,
            "UDP" => 17,
            _ => 132,
        };
        Some((protocol, u16::try_from(port["containerPort"].as_u64()?).ok()?))
    }

    pub(crate) fn show(&self) -> String {
        let mut text: String =
            self.objects.iter().map(|o| serde_json::to_string_pretty(o).unwrap() + "\n").collect();
        for pod in self.local_pods() {
            text.push_str(&format!("local: {}/{} {:?}\n", pod.namespace, pod.name, pod.addresses));
        }
        text
    }
}

/// The Kubernetes documentation, read aloud.
pub(crate) struct Naive<'a> {
    world: &'a World,
}

impl<'a> Naive<'a> {
    pub(crate) fn new(world: &'a World) -> Self {
        Naive { world }
    }

    /// The pod that has an address: one that is not over and not on its node's network.
    fn owner(&self, address: IpAddr) -> Option<&'a WorldPod> {
        self.world.pods.iter().find(|pod| {
            let over = matches!(pod.json["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
            pod.addresses.contains(&address) && !over && pod.json["spec"]["hostNetwork"] != json!(true)
        })
    }

    fn is_host(&self, address: IpAddr) -> bool {
        self.world.host_addresses.contains(&address)
    }

    /// What the source's end says; `None` where it is not a pod of this node.
    pub(crate) fn egress(
        &self,
        source: IpAddr,
        destination: IpAddr,
        protocol: u8,
        port: u16,
    ) -> Option<bool> {
        let subject = self.owner(source).filter(|pod| pod.local)?;
        Some(self.judge(
            subject,
            "Egress",
            "egress",
            "to",
            destination,
            self.owner(destination),
            protocol,
            port,
        ))
    }

    pub(crate) fn ingress(
        &self,
        source: IpAddr,
        destination: IpAddr,
        protocol: u8,
        port: u16,
    ) -> Option<bool> {
        let subject = self.owner(destination).filter(|pod| pod.local)?;
        Some(
            self.is_host(source)
                || self.judge(subject, "Ingress", "ingress", "from", source, Some(subject), protocol, port),
        )
    }

    #[allow(clippy::too_many_arguments)]
    fn judge(
        &self,
        subject: &WorldPod,
        policy_type: &str,
        rules_field: &str,
        peers_field: &str,
        peer: IpAddr,
        destination: Option<&WorldPod>,
        protocol: u8,
        port: u16,
    ) -> bool {
        let mut isolated = false;
        for policy in self.world.objects.iter().filter(|object| object["kind"] == "NetworkPolicy") {
            let namespace = policy["metadata"]["namespace"].as_str().unwrap();
            let spec = &policy["spec"];
            let rules = spec[rules_field].as_array().cloned().unwrap_or_default();
            let in_force = match spec["policyTypes"].as_array() {
                Some(types) => types.contains(&json!(policy_type)),
                None => policy_type == "Ingress" || !rules.is_empty(),
            };
            if !in_force
                || namespace != subject.namespace
                || !selects(&spec["podSelector"], &subject.json["metadata"]["labels"])
            {
                continue;
            }
            isolated = true;
            for rule in &rules {
                let peers = rule[peers_field].as_array().cloned().unwrap_or_default();
                let ports = rule["ports"].as_array().cloned().unwrap_or_default();
                if (peers.is_empty() || peers.iter().any(|p| self.is_peer(p, namespace, peer)))
                    && (ports.is_empty() || ports.iter().any(|p| is_port(p, destination, protocol, port)))
                {
                    return true;
                }
            }
        }
        !isolated
    }

    fn is_peer(&self, peer: &Value, policy_namespace: &str, address: IpAddr) -> bool {
        if let Some(block) = peer.get("ipBlock") {
            let excepted = block["except"]
                .as_array()
                .is_some_and(|list| list.iter().any(|net| inside(address, net.as_str().unwrap())));
            return inside(address, block["cidr"].as_str().unwrap()) && !excepted;
        }
        let Some(pod) = self.owner(address) else { return false };
        let namespace_matches = match peer.get("namespaceSelector") {
            None => pod.namespace == policy_namespace,
            Some(selector) => {
                let object =
                    self.world.objects.iter().find(|o| {
                        o["kind"] == "Namespace" && o["metadata"]["name"] == pod.namespace.as_str()
                    });
                let mut labels = object.map_or(json!({}), |object| object["metadata"]["labels"].clone());
                labels["kubernetes.io/metadata.name"] = json!(pod.namespace);
                selects(selector, &labels)
            }
        };
        namespace_matches
            && peer
                .get("podSelector")
                .is_none_or(|selector| selects(selector, &pod.json["metadata"]["labels"]))
    }
}

fn is_port(rule: &Value, destination: Option<&WorldPod>, protocol: u8, port: u16) -> bool {
    let name = rule["protocol"].as_str().unwrap_or("TCP");
    let number = match name {
        "TCP" => 6,
        "UDP" => 17,
        _ => 132,
    };
    number == protocol
        && match &rule["port"] {
            Value::Null => true,
            Value::String(wanted) => {
                let Some(pod) = destination else { return false };
                let ports = pod.json["spec"]["containers"][0]["ports"].as_array().unwrap();
                ports.iter().any(|p| {
                    p["name"] == wanted.as_str() && p["protocol"] == name && p["containerPort"] == json!(port)
                })
            }
            first => {
                let first = first.as_u64().unwrap();
                let last = rule["endPort"].as_u64().unwrap_or(first);
                (first..=last).contains(&u64::from(port))
            }
        }
}

fn selects(selector: &Value, labels: &Value) -> bool {
    let wanted = selector["matchLabels"].as_object().cloned().unwrap_or_default();
    let expressions = selector["matchExpressions"].as_array().cloned().unwrap_or_default();
    wanted.iter().all(|(key, value)| labels.get(key) == Some(value))
        && expressions.iter().all(|expression| {
            let value = labels.get(expression["key"].as_str().unwrap());
            let listed = || {
                let values = expression["values"].as_array().unwrap();
                value.is_some_and(|value| values.contains(value))
            };
            match expression["operator"].as_str().unwrap() {
                "In" => listed(),
                "NotIn" => !listed(),
                "Exists" => value.is_some(),
                _ => value.is_none(),
            }
        })
}
