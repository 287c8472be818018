//! Questions aimed at what the rules speak of: their peers and the neighbours of those, their ports and the ports beside them.

use crate::address::edges;
use crate::generate::{OUTSIDE, PORTS};
use crate::naive::Naive;
use crate::world::{Attachment, Flow, ICMP, ICMPV6, SCTP, TCP, UDP, World};
use rand::rngs::StdRng;
use rand::{Rng, RngExt};
use serde_json::Value;
use std::net::IpAddr;

/// A rule of any policy, and which end of a flow its subject is.
struct Aim<'a> {
    egress: bool,
    policy: &'a Value,
    rule: &'a Value,
    /// The pods here it is for.
    subjects: Vec<&'a Attachment>,
    /// Addresses its words lead to.
    named: Vec<IpAddr>,
    /// Addresses its exceptions take out of its blocks.
    excepted: Vec<IpAddr>,
}

/// So often a question is thrown until the rule it is aimed at matches.
const THROWS: usize = 8;

/// Whom a question may be about that is aimed at nobody.
struct Targets {
    pods: Vec<IpAddr>,
    everyone: Vec<IpAddr>,
}

fn chance(random: &mut StdRng, of_100: u32) -> bool {
    random.next_u32() % 100 < of_100
}

fn one_of<T: Copy>(random: &mut StdRng, from: &[T]) -> Option<T> {
    if from.is_empty() { None } else { Some(from[random.random_range(0..from.len())]) }
}

/// Calls `visit` with every value inside this one, itself included.
fn walk<'a>(value: &'a Value, visit: &mut impl FnMut(&'a Value)) {
    visit(value);
    match value {
        Value::Array(list) => list.iter().for_each(|value| walk(value, visit)),
        Value::Object(map) => map.values().for_each(|value| walk(value, visit)),
        _ => {}
    }
}

pub(crate) fn protocol_number(name: &str) -> u8 {
    match name {
        "UDP" => UDP,
        "SCTP" => SCTP,
        _ => TCP,
    }
}

/// If the word is a CIDR: its edges, and everyone inside.
fn around(word: &str, everyone: &[IpAddr], found: &mut Vec<IpAddr>) {
    if let Ok(address) = word.parse::<IpAddr>() {
        found.push(address);
    }
    let is_cidr = word
        .split_once('/')
        .is_some_and(|(net, length)| net.parse::<IpAddr>().is_ok() && length.parse::<u32>().is_ok());
    if is_cidr {
        found.extend(edges(word));
        found.extend(everyone.iter().filter(|address| crate::inside(**address, word)));
    }
}

/// Addresses that exceptions of a rule take out of its blocks.
fn excepted(rule: &Value, everyone: &[IpAddr]) -> Vec<IpAddr> {
    let mut found = Vec::new();
    walk(rule, &mut |value| {
        for except in value["except"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            found.push(crate::address::parse_cidr(except).0);
            found.extend(everyone.iter().filter(|address| crate::inside(**address, except)));
        }
    });
    found
}

impl World {
    fn aims<'a>(&'a self, naive: &Naive<'a>, everyone: &[IpAddr]) -> Vec<Aim<'a>> {
        let mut aims = Vec::new();
        for object in &self.objects {
            let specs =
                std::iter::once(&object["spec"]).chain(object["specs"].as_array().into_iter().flatten());
            for spec in specs.filter(|spec| !spec.is_null()) {
                for (section, egress) in
                    [("ingress", false), ("ingressDeny", false), ("egress", true), ("egressDeny", true)]
                {
                    let Some(rules) = spec[section].as_array() else { continue };
                    let subjects = naive.subjects(object, spec);
                    // Where no pod is selected there is hardly anything to hit.
                    let few = subjects.is_empty() && !aims.is_empty();
                    let rules = rules.iter().filter(|_| !few);
                    aims.extend(rules.map(|rule| Aim {
                        egress,
                        policy: object,
                        rule,
                        subjects: subjects.clone(),
                        named: self.named_addresses(rule, everyone),
                        excepted: excepted(rule, everyone),
                    }));
                }
            }
        }
        aims
    }

    /// Every address that is somebody's, and some that are nobody's.
    pub fn addresses(&self) -> Vec<IpAddr> {
        let mut addresses: Vec<IpAddr> = Vec::new();
        for pod in &self.attached {
            addresses.extend(&pod.addresses);
        }
        addresses.extend(&self.host_addresses);
        for object in &self.objects {
            walk(&object["status"], &mut |value| {
                addresses.extend(value.as_str().and_then(|s| s.parse::<IpAddr>().ok()))
            });
            walk(&object["endpoints"], &mut |value| {
                addresses.extend(value.as_str().and_then(|s| s.parse::<IpAddr>().ok()));
            });
        }
        addresses.extend(OUTSIDE.iter().filter_map(|text| text.parse::<IpAddr>().ok()));
        addresses.sort();
        addresses.dedup();
        addresses
    }

    /// Up to `count` different questions; every one has at least one end attached here.
    pub fn questions(&self, random: &mut StdRng, count: usize) -> Vec<Flow> {
        let naive = Naive::new(self);
        let targets = Targets { pods: self.pod_addresses(), everyone: self.addresses() };
        let aims = self.aims(&naive, &targets.everyone);
        let mut flows = Vec::new();
        for _ in 0..count * 4 {
            if flows.len() >= count {
                break;
            }
            let aimed = !aims.is_empty() && chance(random, 90);
            let aim = aimed.then(|| &aims[random.random_range(0..aims.len())]);
            let by_exception = aim.is_some_and(|aim| !aim.excepted.is_empty());
            let to_hit = chance(random, if by_exception { 20 } else { 50 });
            let throws = if to_hit { THROWS } else { 1 };
            let mut thrown = None;
            for _ in 0..throws {
                thrown = self.throw(random, aim, &targets).or(thrown);
                let hit = thrown.zip(aim).is_none_or(|((flow, pod), aim)| {
                    naive.rule_matches(aim.policy, aim.rule, pod, flow, aim.egress)
                });
                if hit {
                    break;
                }
            }
            if let Some((flow, _)) = thrown.filter(|(flow, _)| !flows.contains(flow)) {
                flows.push(flow);
            }
        }
        flows
    }

    fn throw<'a>(
        &'a self,
        random: &mut StdRng,
        aim: Option<&Aim<'a>>,
        targets: &Targets,
    ) -> Option<(Flow, &'a Attachment)> {
        let egress = aim.map_or_else(|| chance(random, 50), |aim| aim.egress);
        let subjects =
            aim.map(|aim| aim.subjects.clone()).filter(|subjects| !subjects.is_empty() && chance(random, 90));
        let subjects = subjects.unwrap_or_else(|| self.attached.iter().collect());
        let pod = one_of(random, &subjects)?;
        let here = one_of(random, &pod.addresses)?;
        let mut candidates: Vec<IpAddr> = aim.map(|aim| aim.named.clone()).unwrap_or_default();
        let excepted = aim.map(|aim| aim.excepted.clone()).unwrap_or_default();
        // What is taken out of a block is its most interesting part.
        if !excepted.is_empty() && chance(random, 60) {
            candidates = excepted;
        } else if candidates.is_empty() || chance(random, 35) {
            // Pods first: most rules are about them.
            candidates = if chance(random, 50) { targets.pods.clone() } else { targets.everyone.clone() };
        }
        if !egress && chance(random, 18) {
            candidates.clone_from(&self.host_addresses);
        }
        candidates.retain(|address| address.is_ipv4() == here.is_ipv4() && !pod.addresses.contains(address));
        let there = one_of(random, &candidates)?;
        let (from, to) = if egress { (here, there) } else { (there, here) };
        let (protocol, port) = self.service(random, aim.map(|aim| aim.rule), to);
        Some((Flow { from, to, protocol, port }, pod))
    }

    fn pod_addresses(&self) -> Vec<IpAddr> {
        let mut addresses: Vec<IpAddr> =
            self.attached.iter().flat_map(|pod| pod.addresses.iter().copied()).collect();
        for pod in self.of_kind("Pod") {
            walk(&pod["status"], &mut |value| {
                addresses.extend(value.as_str().and_then(|s| s.parse::<IpAddr>().ok()))
            });
        }
        addresses
    }

    /// Addresses a rule's words lead to.
    fn named_addresses(&self, rule: &Value, everyone: &[IpAddr]) -> Vec<IpAddr> {
        let mut found: Vec<IpAddr> = Vec::new();
        let mut words: Vec<&str> = Vec::new();
        walk(rule, &mut |value| {
            if let Some(text) = value.as_str() {
                words.push(text);
            }
            if let Value::Object(map) = value {
                words.extend(map.keys().map(String::as_str));
            }
        });
        let text = |text: &str| text.parse::<IpAddr>().ok();
        for word in words {
            match word.trim_start_matches("reserved:") {
                "host" => found.extend(&self.host_addresses),
                "remote-node" => found.extend(["10.9.0.2", "fd00:9::2"].into_iter().filter_map(text)),
                "kube-apiserver" => self.slices_of("kubernetes", &mut found),
                "world" | "world-ipv4" | "world-ipv6" => found.extend(OUTSIDE.iter().filter_map(|o| text(o))),
                "cluster" | "all" => {
                    found.extend(self.pod_addresses());
                    found.extend(
                        ["10.9.0.1", "10.9.0.2", "192.0.2.1", "2001:db8::1"].into_iter().filter_map(text),
                    );
                }
                "toServices" => self.slices_of("bare", &mut found),
                word if word.starts_with("group-") => {
                    for group in self.of_kind("CiliumCIDRGroup").filter(|g| g["metadata"]["name"] == word) {
                        let cidrs = group["spec"]["externalCIDRs"].as_array().into_iter().flatten();
                        cidrs.filter_map(Value::as_str).for_each(|cidr| around(cidr, everyone, &mut found));
                    }
                }
                word => around(word, everyone, &mut found),
            }
        }
        if rule.to_string().contains("Selector\":") || rule.to_string().contains("Endpoints\":") {
            found.extend(self.pod_addresses());
            // Whom a selector must not mean, whatever it leaves out.
            found.extend(["10.9.0.2", "192.0.2.1", "2001:db8::1"].into_iter().filter_map(text));
        }
        found
    }

    fn slices_of(&self, service: &str, found: &mut Vec<IpAddr>) {
        for slice in self.of_kind("EndpointSlice") {
            if slice["metadata"]["labels"]["kubernetes.io/service-name"] == service {
                walk(&slice["endpoints"], &mut |value| {
                    found.extend(value.as_str().and_then(|s| s.parse::<IpAddr>().ok()));
                });
            }
        }
    }

    /// A protocol and a port the rule has something to say about, or nearly.
    fn service(&self, random: &mut StdRng, rule: Option<&Value>, to: IpAddr) -> (u8, u16) {
        let mut candidates: Vec<(u8, u16)> = Vec::new();
        if let Some(rule) = rule {
            walk(rule, &mut |value| self.services_of(value, to, &mut candidates));
        }
        if candidates.is_empty() || chance(random, 20) {
            let family = if to.is_ipv4() { ICMP } else { ICMPV6 };
            let protocol = one_of(random, &[TCP, TCP, TCP, UDP, UDP, SCTP, family, 47]).unwrap_or(TCP);
            let port = match protocol {
                TCP | UDP | SCTP => one_of(random, PORTS).unwrap_or(80),
                ICMP => one_of(random, &[8, 8, 13, 0]).unwrap_or(8),
                ICMPV6 => one_of(random, &[128, 128, 129]).unwrap_or(128),
                _ => 0,
            };
            return (protocol, port);
        }
        one_of(random, &candidates).unwrap_or((TCP, 80))
    }

    fn services_of(&self, value: &Value, to: IpAddr, candidates: &mut Vec<(u8, u16)>) {
        let family = if to.is_ipv4() { ICMP } else { ICMPV6 };
        if value.get("fields").is_some() {
            let types: &[u16] = if to.is_ipv4() { &[8, 13] } else { &[128, 129] };
            candidates.extend(types.iter().map(|kind| (family, *kind)));
            candidates.push((TCP, 80));
            return;
        }
        let is_port = value.get("port").is_some() || value.get("protocol").is_some();
        if !is_port {
            return;
        }
        let protocols = match value["protocol"].as_str() {
            Some("ANY") => vec![TCP, UDP, SCTP, family],
            Some(name) => vec![protocol_number(name), protocol_number(name), UDP],
            // TCP for Kubernetes, any for Cilium: what tells them apart is asked.
            None => vec![TCP, TCP, UDP, SCTP, family],
        };
        let number = match &value["port"] {
            Value::Number(number) => number.as_u64(),
            Value::String(text) => text.parse().ok(),
            _ => Some(u64::from(PORTS[0])),
        };
        let Some(number) = number.and_then(|number| u16::try_from(number).ok()) else {
            return self.named(value["port"].as_str().unwrap_or_default(), to, candidates);
        };
        let last = value["endPort"].as_u64().and_then(|last| u16::try_from(last).ok()).unwrap_or(number);
        let mut ports =
            vec![number, last, number.midpoint(last), last.saturating_add(1), number.saturating_sub(1)];
        if number == 0 {
            ports = PORTS.to_vec();
        } else if last == number {
            ports = vec![number, number, number, number.saturating_add(1)];
        }
        for protocol in protocols {
            let of_icmp = matches!(protocol, ICMP | ICMPV6);
            let kind = if protocol == ICMP { 8 } else { 128 };
            candidates.extend(ports.iter().map(|port| (protocol, if of_icmp { kind } else { *port })));
        }
    }

    /// The ports of that name: the destination's own, and any other pod's, which must not do.
    fn named(&self, name: &str, to: IpAddr, candidates: &mut Vec<(u8, u16)>) {
        for pod in self.of_kind("Pod") {
            let attached = self.attached.iter().any(|attached| {
                attached.addresses.contains(&to)
                    && pod["metadata"]["name"] == attached.name.as_str()
                    && pod["metadata"]["namespace"] == attached.namespace.as_str()
            });
            let own = attached || pod["status"]["podIP"] == to.to_string();
            walk(&pod["spec"], &mut |value| {
                if value["name"] == name
                    && let Some(port) =
                        value["containerPort"].as_u64().and_then(|port| u16::try_from(port).ok())
                {
                    let protocol = protocol_number(value["protocol"].as_str().unwrap_or("TCP"));
                    candidates.extend(vec![(protocol, port); if own { 4 } else { 1 }]);
                }
            });
        }
    }
}
