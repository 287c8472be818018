//! Lines of JSON to and from `penstock-vswitch judge`: what the switch itself does with the first frame of a flow.
//!
//! The first line in is a [`Node`], every other a [`Flow`]; for each of those one [`Outcome`] comes out, in order.

use crate::artefact::Artefact;
use crate::drops::DropReason;
use crate::ids::RuleId;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// The node to judge on: every pod of the artefact has a port, and the host has one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Node {
    pub artefact: Artefact,
    pub host_addresses: Vec<IpAddr>,
}

/// A flow to be opened. What belongs to no pod of the node is behind its host port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Flow {
    pub source: IpAddr,
    pub destination: IpAddr,
    /// IP protocol number.
    pub protocol: u8,
    /// Destination port, or ICMP type.
    pub port: u16,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Outcome {
    /// The first frame came out where it should, as it was sent.
    pub delivered: bool,
    /// And the answer to it came back. `None`: nothing was delivered, or nobody answers such a frame.
    pub answered: Option<bool>,
    /// Why it did not come out, or its answer did not.
    pub dropped: Option<DropReason>,
    /// What the pod it came from said, if that is one of this node's.
    pub egress: Option<Ruling>,
    /// What the pod it is for said, asked also when the other end had refused already.
    pub ingress: Option<Ruling>,
}

/// What one end's policy did with a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ruling {
    pub allowed: bool,
    pub rule: Option<RuleId>,
}
