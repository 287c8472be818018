//! Random clusters: small numbers of everything, so that rules, pods and questions meet.

pub(crate) mod cilium;
mod cluster;
mod network_policy;

use crate::feature::{Feature, Mix};
use crate::world::World;
pub(crate) use cilium::{NAMESPACE_LABELS, POD_NAMESPACE, SERVICE_ACCOUNT};
pub(crate) use cluster::{Cluster, containers, labels};
use rand::rngs::StdRng;
use rand::{Rng, RngExt};
use serde_json::{Value, json};

pub(crate) const PORTS: &[u16] = &[80, 81, 85, 90, 8080, 53];
pub(crate) const PORT_NAMES: &[&str] = &["http", "dns"];
pub(crate) const KEYS: &[&str] = &["app", "tier", "team.example/x"];
pub(crate) const VALUES: &[&str] = &["a", "b", ""];
pub(crate) const NAMESPACES: &[&str] = &["alpha", "beta", "gamma"];
/// Addresses that are nobody's.
pub(crate) const OUTSIDE: &[&str] = &[
    "1.1.1.1",
    "10.200.0.1",
    "10.1.7.7",
    "10.1.0.6",
    "192.0.2.1",
    "192.0.2.200",
    "198.51.100.10",
    "2001:db8::1",
    "fd00::77",
    "fe00::1",
];
/// Nested, and around pods, nodes and outsiders.
pub(crate) const NETS: &[&str] = &[
    "0.0.0.0/0",
    "10.0.0.0/8",
    "10.1.0.0/16",
    "10.1.0.0/24",
    "10.1.0.4/30",
    "10.1.0.6/32",
    "10.1.0.2/32",
    "10.9.0.1/32",
    "10.9.0.0/24",
    "192.0.2.0/24",
    "192.0.2.128/25",
    "192.0.2.200/32",
    "198.51.100.0/24",
    "::/0",
    "fd00::/16",
    "fd00::/120",
    "fd00::2/128",
    "2001:db8::/32",
    "fd00:9::1/128",
];

/// What only shows where selectors are written as expressions.
pub(crate) const OPERATORS: &[Feature] =
    &[Feature::In, Feature::NotIn, Feature::Exists, Feature::DoesNotExist, Feature::PodsOnly];

/// Chance, seeded, with the dials it is thrown by.
pub(crate) struct Dice<'a> {
    pub(crate) random: &'a mut StdRng,
    pub(crate) mix: Mix,
}

impl Dice<'_> {
    pub(crate) fn chance(&mut self, of_100: u32) -> bool {
        self.random.next_u32() % 100 < of_100
    }

    /// Should a feature stand here?
    pub(crate) fn has(&mut self, feature: Feature) -> bool {
        let percent = self.mix.percent(feature);
        self.chance(percent)
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        self.random.random_range(0..limit)
    }

    pub(crate) fn between(&mut self, first: usize, last: usize) -> usize {
        self.random.random_range(first..=last)
    }

    /// How many of something: of what is to be seen alone, one.
    pub(crate) fn some(&mut self, last: usize) -> usize {
        if self.mix.is_focussed() { 1 } else { self.between(1, last) }
    }

    pub(crate) fn one_of<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        let index = self.below(from.len());
        &from[index]
    }

    /// One of several alternatives by weight.
    pub(crate) fn pick<T: Copy>(&mut self, alternatives: &[(u32, T)]) -> T {
        let total: u32 = alternatives.iter().map(|(weight, _)| weight).sum();
        let mut point = self.random.next_u32() % total.max(1);
        for (weight, what) in alternatives {
            if point < *weight {
                return *what;
            }
            point -= weight;
        }
        alternatives[0].1
    }

    /// A choice between features, by their dials.
    pub(crate) fn among(&mut self, features: &[Feature]) -> Feature {
        let alternatives: Vec<_> = features.iter().map(|f| (self.mix.weight(*f), *f)).collect();
        self.pick(&alternatives)
    }

    /// Some different values of a list.
    pub(crate) fn some_of<'a>(&mut self, from: &[&'a str], count: usize) -> Vec<&'a str> {
        let mut chosen: Vec<&'a str> = Vec::new();
        for _ in 0..count {
            let one = *self.one_of(from);
            if !chosen.contains(&one) {
                chosen.push(one);
            }
        }
        chosen
    }

    /// A label some object of the cluster carries most of the time, any other else.
    pub(crate) fn label(&mut self, carriers: &[Value]) -> (String, String) {
        if !carriers.is_empty() && self.chance(75) {
            let carrier = self.one_of(carriers);
            let known: Vec<(String, String)> = carrier["metadata"]["labels"]
                .as_object()
                .into_iter()
                .flatten()
                .filter(|(key, _)| KEYS.contains(&key.as_str()))
                .map(|(key, value)| (key.clone(), value.as_str().unwrap_or_default().to_owned()))
                .collect();
            if !known.is_empty() {
                return self.one_of(&known).clone();
            }
        }
        ((*self.one_of(KEYS)).to_owned(), (*self.one_of(VALUES)).to_owned())
    }

    /// A requirement on one key.
    pub(crate) fn expression(&mut self, key: &str, value: &str, values: &[&str]) -> Value {
        let operator = self.among(&[Feature::In, Feature::NotIn, Feature::Exists, Feature::DoesNotExist]);
        match operator {
            Feature::In | Feature::NotIn => {
                let mut listed = vec![value];
                let other = *self.one_of(values);
                if other != value && self.chance(30) {
                    listed.push(other);
                }
                json!({"key": key, "operator": format!("{operator:?}"), "values": listed})
            }
            _ => json!({"key": key, "operator": format!("{operator:?}")}),
        }
    }

    /// A CIDR and, if asked for and there are any, CIDRs inside it.
    pub(crate) fn cidr(&mut self, excepts: bool) -> (&'static str, Vec<&'static str>) {
        let cidr = *self.one_of(NETS);
        let length = |net: &str| crate::address::parse_cidr(net).1;
        let within: Vec<&'static str> = NETS
            .iter()
            .copied()
            .filter(|net| {
                length(net) > length(cidr) && crate::inside(crate::address::parse_cidr(net).0, cidr)
            })
            .collect();
        if within.is_empty() || !excepts {
            return (cidr, Vec::new());
        }
        let count = self.some(2);
        (cidr, self.some_of(&within, count))
    }
}

impl World {
    /// A bit of everything.
    pub fn random(random: &mut StdRng) -> World {
        World::of(Mix::everything(), random)
    }

    /// A world in which one feature is everywhere.
    pub fn about(feature: Feature, random: &mut StdRng) -> World {
        World::of(Mix::about(feature), random)
    }

    pub fn of(mix: Mix, random: &mut StdRng) -> World {
        let mut dice = Dice { random, mix };
        let mut cluster = Cluster::random(&mut dice);
        // Rules hide each other: few where one is to be seen.
        let policies = dice.between(1, if mix.is_focussed() { 2 } else { 3 });
        for number in 0..policies {
            let policy = policy(&mut dice, &cluster, number);
            cluster.policies.push(policy);
        }
        cluster.into_world(&mut dice)
    }
}

/// A policy of any kind.
pub(crate) fn policy(dice: &mut Dice, cluster: &Cluster, number: usize) -> Value {
    let kind = match dice.among(&[Feature::NetworkPolicy, Feature::Cilium, Feature::Clusterwide]) {
        Feature::NetworkPolicy => "NetworkPolicy",
        Feature::Cilium => "CiliumNetworkPolicy",
        _ => "CiliumClusterwideNetworkPolicy",
    };
    policy_of_kind(dice, cluster, number, kind)
}

pub(crate) fn policy_of_kind(dice: &mut Dice, cluster: &Cluster, number: usize, kind: &str) -> Value {
    match kind {
        "NetworkPolicy" => network_policy::policy(dice, cluster, number),
        kind => cilium::policy(dice, cluster, number, kind == "CiliumClusterwideNetworkPolicy"),
    }
}
