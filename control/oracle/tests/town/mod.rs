//! A small town with known addresses, for truth tables.
#![allow(dead_code, unreachable_pub)]

use penstock_oracle::{Attachment, End, Enforcement, Flow, Naive, World};
use serde_json::{Value, json};
use std::net::IpAddr;

pub const HOST: &str = "10.9.0.1";
pub const REMOTE: &str = "10.9.0.2";
pub const OUTSIDER: &str = "192.0.2.1";
pub const OUTSIDER6: &str = "2001:db8::1";

pub struct Town {
    pub world: World,
}

pub fn namespace(name: &str, labels: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
}

/// `namespace/name`, its addresses, its labels, and its ports as `(name, number, protocol)`.
pub fn pod(name: &str, addresses: &[&str], labels: Value, ports: &[(&str, u16, &str)]) -> Value {
    let (namespace, name) = name.split_once('/').unwrap();
    let ports: Vec<Value> = ports
        .iter()
        .map(|(name, port, protocol)| json!({"name": name, "containerPort": port, "protocol": protocol}))
        .collect();
    let ips: Vec<Value> = addresses.iter().map(|ip| json!({"ip": ip})).collect();
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": {"nodeName": "node-1", "serviceAccountName": "default", "containers": [{"name": "c", "ports": ports}]},
        "status": {"phase": "Running", "podIP": addresses[0], "podIPs": ips},
    })
}

fn node(name: &str, addresses: &[&str]) -> Value {
    let addresses: Vec<Value> =
        addresses.iter().map(|address| json!({"type": "InternalIP", "address": address})).collect();
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "status": {"addresses": addresses}})
}

pub fn knp(namespace: &str, spec: Value) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": "p", "namespace": namespace}, "spec": spec,
    })
}

pub fn cnp(namespace: &str, spec: Value) -> Value {
    json!({
        "apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy",
        "metadata": {"name": "p", "namespace": namespace}, "spec": spec,
    })
}

pub fn ccnp(spec: Value) -> Value {
    json!({
        "apiVersion": "cilium.io/v2", "kind": "CiliumClusterwideNetworkPolicy", "metadata": {"name": "p"}, "spec": spec,
    })
}

/// A CiliumNetworkPolicy of alpha over all its pods, with these ingress rules.
pub fn ingress(rules: Value) -> Value {
    cnp("alpha", json!({"endpointSelector": {}, "ingress": rules}))
}

pub fn egress(rules: Value) -> Value {
    cnp("alpha", json!({"endpointSelector": {}, "egress": rules}))
}

/// Two namespaces, three pods, two nodes, and what else a test brings.
pub fn town(more: &[Value]) -> Town {
    let mut objects = vec![
        namespace("alpha", json!({"team": "a"})),
        namespace("beta", json!({"team": "b"})),
        pod(
            "alpha/web",
            &["10.1.0.1", "fd00::1"],
            json!({"app": "web"}),
            &[("http", 8080, "TCP"), ("dns", 53, "UDP")],
        ),
        pod("alpha/db", &["10.1.0.2", "fd00::2"], json!({"app": "db"}), &[("http", 9090, "TCP")]),
        pod("beta/web", &["10.1.0.3", "fd00::3"], json!({"app": "web"}), &[("http", 80, "TCP")]),
        node("node-1", &[HOST, "fd00:9::1"]),
        node("node-2", &[REMOTE]),
    ];
    objects.extend_from_slice(more);
    let attached = objects
        .iter()
        .filter(|object| {
            object["kind"] == "Pod"
                && object["spec"]["hostNetwork"].is_null()
                && object["status"]["phase"] == "Running"
                && object["spec"]["nodeName"] == "node-1"
        })
        .map(|pod| Attachment {
            namespace: pod["metadata"]["namespace"].as_str().unwrap().to_owned(),
            name: pod["metadata"]["name"].as_str().unwrap().to_owned(),
            addresses: pod["status"]["podIPs"]
                .as_array()
                .unwrap()
                .iter()
                .map(|ip| ip["ip"].as_str().unwrap().parse().unwrap())
                .collect(),
        })
        .collect();
    let host_addresses = vec![HOST.parse().unwrap(), "fd00:9::1".parse().unwrap()];
    let node = "node-1".to_owned();
    let enforcement = Enforcement::Default;
    Town { world: World { objects, node, host_addresses, attached, enforcement, pod_to_host: false } }
}

impl Town {
    fn address(&self, who: &str, six: bool) -> IpAddr {
        if let Ok(address) = who.parse() {
            return address;
        }
        let pod = self.world.attached.iter().find(|pod| format!("{}/{}", pod.namespace, pod.name) == who);
        let addresses = &pod.unwrap_or_else(|| panic!("nobody is called {who}")).addresses;
        *addresses.iter().find(|address| address.is_ipv6() == six).unwrap_or(&addresses[0])
    }

    /// `TCP/80`, `ICMP/8`, `47/0`.
    fn flow(&self, from: &str, to: &str, service: &str) -> Flow {
        let (protocol, port) = service.split_once('/').unwrap();
        let protocol = match protocol {
            "TCP" => 6,
            "UDP" => 17,
            "SCTP" => 132,
            "ICMP" => 1,
            "ICMPv6" => 58,
            number => number.parse().unwrap(),
        };
        let six = from.contains(':') || to.contains(':') || protocol == 58;
        Flow {
            from: self.address(from, six),
            to: self.address(to, six),
            protocol,
            port: port.parse().unwrap(),
        }
    }

    /// What the destination says.
    pub fn takes(&self, from: &str, to: &str, service: &str) -> End {
        Naive::new(&self.world).judge(self.flow(from, to, service)).ingress.expect("the destination is local")
    }

    /// What the source says.
    pub fn sends(&self, from: &str, to: &str, service: &str) -> End {
        Naive::new(&self.world).judge(self.flow(from, to, service)).egress.expect("the source is local")
    }

    /// Who of these may reach alpha/web on TCP 80?
    pub fn callers(&self) -> Vec<&'static str> {
        let all = ["alpha/db", "beta/web", HOST, REMOTE, OUTSIDER];
        all.into_iter().filter(|who| self.takes(who, "alpha/web", "TCP/80") != End::Deny).collect()
    }

    /// Whom of these may alpha/web reach on TCP 80?
    pub fn called(&self) -> Vec<&'static str> {
        let all = ["alpha/db", "beta/web", HOST, REMOTE, OUTSIDER];
        all.into_iter().filter(|who| self.sends("alpha/web", who, "TCP/80") != End::Deny).collect()
    }
}
