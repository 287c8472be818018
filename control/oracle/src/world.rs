//! A cluster as one node sees it, and a question about it.

use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

/// The node whose policy is asked about.
pub(crate) const OWN_NODE: &str = "node-1";

/// A pod's interface on this node, as the switch would report it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    pub namespace: String,
    pub name: String,
    pub addresses: Vec<IpAddr>,
}

/// A node's enforcement mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Enforcement {
    /// A pod is isolated in a direction when a policy asks for it.
    #[default]
    Default,
    /// Every pod is isolated in both directions.
    Always,
    /// No policy is enforced.
    Never,
}

/// Everything an answer depends on.
#[derive(Debug, Clone, PartialEq)]
pub struct World {
    /// Kubernetes objects as an API server would hand them out, complete with `apiVersion` and `kind`.
    pub objects: Vec<Value>,
    /// The name of the node that enforces.
    pub node: String,
    /// Its addresses.
    pub host_addresses: Vec<IpAddr>,
    /// The pods attached to its switch. Only their ends of a flow are judged.
    pub attached: Vec<Attachment>,
    pub enforcement: Enforcement,
    /// Pods may always reach their own node, unless a policy denies it: Kubernetes' words, and an option.
    pub pod_to_host: bool,
}

/// May a new flow start? The port is the destination's; the type for ICMP and ICMPv6; 0 where a protocol has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Flow {
    pub from: IpAddr,
    pub to: IpAddr,
    /// IP protocol number.
    pub protocol: u8,
    pub port: u16,
}

pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const SCTP: u8 = 132;
pub(crate) const ICMP: u8 = 1;
pub(crate) const ICMPV6: u8 = 58;

impl Flow {
    /// The protocol as the flows of `penstock policy simulate` call it, or its number where they have no name for it.
    pub fn protocol_name(&self) -> String {
        match self.protocol {
            TCP => "TCP".to_owned(),
            UDP => "UDP".to_owned(),
            SCTP => "SCTP".to_owned(),
            ICMP => "ICMP".to_owned(),
            ICMPV6 => "ICMPv6".to_owned(),
            number => number.to_string(),
        }
    }

    pub fn to_json(&self) -> Value {
        json!({"from": self.from, "to": self.to, "protocol": self.protocol_name(), "port": self.port})
    }
}

impl fmt::Display for Flow {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} to {}, {} {}", self.from, self.to, self.protocol_name(), self.port)
    }
}

impl World {
    /// The objects of one kind.
    pub fn of_kind<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Value> + 'a {
        self.objects.iter().filter(move |object| object["kind"] == kind)
    }

    /// Has every pod that is attached an object?
    pub fn is_whole(&self) -> bool {
        self.attached.iter().all(|pod| {
            self.of_kind("Pod").any(|object| {
                object["metadata"]["name"] == pod.name.as_str()
                    && object["metadata"]["namespace"] == pod.namespace.as_str()
            })
        })
    }

    /// The objects as one JSON text per line, which the loader takes.
    pub fn text(&self) -> String {
        self.objects.iter().map(|object| format!("{object}\n")).collect()
    }

    /// One line for evaluators that are other programs.
    pub fn json_line(&self, seed: u64, flows: &[Flow]) -> String {
        json!({
            "seed": seed,
            "node": self.node,
            "host_addresses": self.host_addresses,
            "attached": self.attached.iter().map(|pod| json!({
                "namespace": pod.namespace, "name": pod.name, "addresses": pod.addresses,
            })).collect::<Vec<_>>(),
            "objects": self.objects,
            "flows": flows.iter().map(Flow::to_json).collect::<Vec<_>>(),
        })
        .to_string()
    }

    /// The words its policies use, each once: worlds that differ in names and numbers alone have the same.
    pub fn words(&self) -> BTreeSet<String> {
        fn gather(value: &Value, words: &mut BTreeSet<String>) {
            match value {
                Value::Object(map) => {
                    for (key, value) in map {
                        words.insert(key.clone());
                        gather(value, words);
                    }
                }
                Value::Array(list) => list.iter().for_each(|value| gather(value, words)),
                _ => {}
            }
        }
        let mut words = BTreeSet::new();
        for object in self.objects.iter().filter(|object| object["kind"].to_string().contains("Policy")) {
            words.insert(object["kind"].as_str().unwrap_or_default().to_owned());
            gather(object, &mut words);
        }
        words
    }

    /// For a person: the objects, and what is attached.
    pub fn show(&self) -> String {
        let mut text: String =
            self.objects.iter().map(|object| format!("---\n{}\n", indented(object))).collect();
        text.push_str(&format!("node: {} {:?} {:?}\n", self.node, self.host_addresses, self.enforcement));
        for pod in &self.attached {
            text.push_str(&format!("attached: {}/{} {:?}\n", pod.namespace, pod.name, pod.addresses));
        }
        text
    }
}

fn indented(object: &Value) -> String {
    let mut text = String::new();
    write_yaml(object, 0, &mut text);
    text.trim_end().to_owned()
}

/// YAML with every leaf as JSON, which is YAML too: short, and fit to be pasted into a file.
fn write_yaml(value: &Value, depth: usize, text: &mut String) {
    let flat = value.to_string();
    match value {
        Value::Object(map) if flat.len() > 70 => {
            for (key, value) in map {
                text.push_str(&format!("{}{}:", "  ".repeat(depth), json!(key)));
                nested(value, depth, text);
            }
        }
        Value::Array(list) if flat.len() > 70 => {
            for value in list {
                text.push_str(&format!("{}-", "  ".repeat(depth)));
                nested(value, depth, text);
            }
        }
        _ => text.push_str(&format!("{}{flat}\n", "  ".repeat(depth))),
    }
}

fn nested(value: &Value, depth: usize, text: &mut String) {
    if value.to_string().len() > 70 {
        text.push('\n');
        write_yaml(value, depth + 1, text);
    } else {
        text.push_str(&format!(" {value}\n"));
    }
}
