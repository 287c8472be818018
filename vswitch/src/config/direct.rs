//! Direct ports: what the configuration says of them, and what it may not say.

use super::{ConfigError, list};
use ipnet::IpNet;
use penstock_api::artefact::PodKey;
use penstock_api::message::Mac;
use serde::Deserialize;
use std::fmt;
use std::net::IpAddr;

/// An interface with an AF_XDP socket of its own, on which one pod sits.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DirectPort {
    pub interface: String,
    #[serde(default)]
    pub queue: u32,
    /// How many queues are this port, from `queue` on: a worker for each, in turn.
    #[serde(default = "one")]
    pub queues: u32,
    #[serde(default)]
    pub mode: XdpMode,
    /// Of the far side. Host addresses, no prefixes.
    pub addresses: Vec<IpAddr>,
    pub mac: Mac,
    /// Whose policy the port is under, `namespace/name`.
    #[serde(deserialize_with = "pod_key")]
    pub pod: PodKey,
    /// Of the interface, if that is less than the switch's. Found out when it is opened.
    #[serde(skip)]
    pub mtu: Option<u16>,
}

impl DirectPort {
    pub fn all_queues(&self) -> std::ops::Range<u32> {
        self.queue..self.queue.saturating_add(self.queues)
    }

    /// Beside those that stand before it.
    pub(super) fn check(&self, before: &[DirectPort], pod_ranges: &[IpNet]) -> Result<(), ConfigError> {
        let bad = |key, value: String, reason: String| Err(ConfigError::Value { key, value, reason });
        let name = &self.interface;
        if name.is_empty() || name.len() > 15 || name.contains(['/', ' ', ':']) || name.starts_with('.') {
            return bad(
                "direct.interface",
                format!("{name:?}"),
                "it is not an interface name of 1 to 15 characters".to_owned(),
            );
        }
        if self.queues == 0 {
            return bad("direct.queues", "0".to_owned(), format!("{name} needs at least one"));
        }
        let is_taken = |queue: &u32| {
            before.iter().any(|other| other.interface == *name && other.all_queues().contains(queue))
        };
        if let Some(queue) = self.all_queues().find(is_taken) {
            return bad("direct.interface", name.clone(), format!("queue {queue} of it stands twice"));
        }
        if let Some(other) = before.iter().find(|other| other.interface == *name && other.mode != self.mode) {
            return bad(
                "direct.mode",
                self.mode.to_string(),
                format!(
                    "queue {} of {name} is to be {}, and an interface has one mode",
                    other.queue, other.mode
                ),
            );
        }
        if self.mac.0[0] & 1 != 0 || self.mac == Mac::default() {
            return bad(
                "direct.mac",
                self.mac.to_string(),
                "it is not the address of one interface".to_owned(),
            );
        }
        if self.addresses.is_empty() {
            return bad("direct.addresses", "[]".to_owned(), format!("{name} needs at least one"));
        }
        for address in &self.addresses {
            if !pod_ranges.iter().any(|range| range.contains(address)) {
                return bad(
                    "direct.addresses",
                    address.to_string(),
                    format!("it lies in none of pod_ranges, {}", list(pod_ranges)),
                );
            }
            let times =
                before.iter().chain([self]).flat_map(|d| &d.addresses).filter(|a| *a == address).count();
            if times > 1 {
                return bad("direct.addresses", address.to_string(), "it stands twice".to_owned());
            }
        }
        Ok(())
    }
}

fn one() -> u32 {
    1
}

/// How an AF_XDP socket is bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum XdpMode {
    /// The best the driver offers.
    #[default]
    Auto,
    ZeroCopy,
    /// Native XDP, copying.
    Native,
    /// Works on every interface, slowest.
    Generic,
}

impl fmt::Display for XdpMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            XdpMode::Auto => "auto",
            XdpMode::ZeroCopy => "zero-copy",
            XdpMode::Native => "native",
            XdpMode::Generic => "generic",
        })
    }
}

fn pod_key<'de, D: serde::Deserializer<'de>>(from: D) -> Result<PodKey, D::Error> {
    let text = String::deserialize(from)?;
    match text.split_once('/') {
        Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
            Ok(PodKey::new(namespace, name))
        }
        _ => Err(serde::de::Error::custom(format!("{text:?} is not a pod; write \"namespace/name\""))),
    }
}
