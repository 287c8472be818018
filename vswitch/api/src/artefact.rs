//! Compiled policy, as the control plane installs it and the switch enforces it.
//!
//! The artefact knows no selectors, no namespaces and no YAML: labels have become [`Identity`]s, policies have become
//! [`Program`]s. It is plain data, complete in itself, and means what [`crate::reference`] says it means.
//!
//! Shape: peers are classified once (`address -> identity`, longest prefix first), then each end that is local judges the
//! other by the program of its own direction (`identity x protocol x port -> verdict and the rule that gave it`).

use crate::ids::{Generation, IdentityId, PolicyId, ProgramId, RuleId};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::IpAddr;

/// The version of this format. A switch refuses an artefact of another one.
pub const SCHEMA: u32 = 1;

/// Everything one node needs to enforce policy.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Artefact {
    pub schema: u32,
    pub generation: Generation,
    /// What each identity stands for, for people. Sorted by id.
    pub identities: Vec<Identity>,
    /// Address to identity by longest prefix. Must hold `0.0.0.0/0` and `::/0`. Pods and nodes are /32 or /128 entries.
    /// Endpoints attached to this switch are in [`Artefact::pods`] instead, which wins.
    pub prefixes: Vec<PrefixIdentity>,
    /// The objects rules come from. Index: [`PolicyId`].
    pub policies: Vec<PolicyInfo>,
    /// The rules programs refer to. Index: [`RuleId`].
    pub rules: Vec<RuleInfo>,
    /// One direction's policy of a set of endpoints. Index: [`ProgramId`]. Shared between endpoints that are told the same.
    pub programs: Vec<Program>,
    /// Pods of this node: who they are, and which programs judge their traffic.
    pub pods: Vec<PodPolicy>,
}

/// Who a class of peers is, for `explain` and for drop messages.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    pub id: IdentityId,
    /// Labels as `k8s:app=web`, or the reserved name as `reserved:world`.
    pub labels: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PrefixIdentity {
    pub prefix: IpNet,
    pub identity: IdentityId,
}

/// An object a rule comes from.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyInfo {
    /// `NetworkPolicy`, `CiliumNetworkPolicy`, ...; `builtin` for what the product itself always allows.
    pub kind: String,
    /// Empty for cluster-wide objects.
    pub namespace: String,
    pub name: String,
}

impl fmt::Display for PolicyInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.namespace.as_str() {
            "" => write!(f, "{} {}", self.kind, self.name),
            namespace => write!(f, "{} {namespace}/{}", self.kind, self.name),
        }
    }
}

/// Where in its object a rule stands.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuleInfo {
    pub policy: PolicyId,
    /// The field, as `spec.ingress[0]`.
    pub path: String,
}

/// Which end of a connection is judging.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// Towards the endpoint: its peer is the source.
    Ingress,
    /// From the endpoint: its peer is the destination.
    Egress,
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Direction::Ingress => "ingress",
            Direction::Egress => "egress",
        })
    }
}

/// One direction's policy.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Program {
    /// True: what no entry matches is denied. False: what no entry matches is allowed.
    pub isolated: bool,
    /// The objects that select the endpoint in this direction: whom to name when nothing matched.
    pub selected_by: Vec<PolicyId>,
    pub entries: Vec<Entry>,
}

/// One line of a program: who, on what, with which answer.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Lower decides first. See [`tier`].
    pub tier: u8,
    /// Within a tier, lower decides first; at equal priority [`Action::strength`] decides.
    pub priority: u32,
    pub action: Action,
    pub peers: Peers,
    pub service: Service,
    /// True for learned names that have expired: keeps flows that live, starts none.
    #[serde(default)]
    pub established_only: bool,
    pub rule: RuleId,
}

/// The tiers, in the order in which they decide.
pub mod tier {
    /// ClusterNetworkPolicy, Admin.
    pub const ADMIN: u8 = 10;
    /// NetworkPolicy, CiliumNetworkPolicy and CiliumClusterwideNetworkPolicy.
    pub const NORMAL: u8 = 100;
    /// ClusterNetworkPolicy, Baseline.
    pub const BASELINE: u8 = 200;
}

/// Which peers an entry speaks of.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Peers {
    /// Everyone, known or not.
    Any,
    /// These classes only. Sorted, no duplicates, never [`IdentityId::UNKNOWN`]; empty matches nobody.
    Identities(Vec<IdentityId>),
}

/// Which service on the destination an entry speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Service {
    /// Every protocol, ICMP and the ones nobody has heard of included.
    Any,
    /// One IP protocol with every port it may have.
    Protocol(u8),
    /// Destination ports `first..=last` of TCP (6), UDP (17) or SCTP (132).
    Ports { protocol: u8, first: u16, last: u16 },
    /// One ICMP (1) or ICMPv6 (58) type.
    Icmp { protocol: u8, kind: u8 },
}

/// IP protocol numbers that policy speaks of.
pub mod protocol {
    pub const ICMP: u8 = 1;
    pub const TCP: u8 = 6;
    pub const UDP: u8 = 17;
    pub const ICMPV6: u8 = 58;
    pub const SCTP: u8 = 132;
}

/// What to do with a new flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    Allow,
    /// Drop in silence.
    Deny,
    /// Drop and say so (TCP RST, ICMP administratively prohibited).
    Reject,
    /// Leave the decision to the next tier.
    Pass,
    /// Allow through the HTTP proxy under this rule set.
    ToProxy {
        listener: u16,
    },
    /// Hold a DNS answer until the names in it are learned.
    HoldForDns,
}

impl Action {
    /// Of two actions of one tier and priority the stronger holds: refusing beats allowing, and a plain allow beats an
    /// allow that looks into requests (their union is a plain allow).
    pub const fn strength(self) -> u8 {
        match self {
            Action::Deny => 5,
            Action::Reject => 4,
            Action::Allow => 3,
            Action::HoldForDns => 2,
            Action::ToProxy { .. } => 1,
            Action::Pass => 0,
        }
    }
}

/// A pod of this node.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PodPolicy {
    pub pod: PodKey,
    /// The addresses the compiler took into account. An endpoint with an address that is not here is not known yet.
    pub addresses: Vec<IpAddr>,
    pub identity: IdentityId,
    /// Those of `addresses` that are of another class than `identity`: an ipBlock may cover a pod's IPv4 address and say
    /// nothing of its IPv6 one. Mostly empty. Read through [`PodPolicy::identity_of`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub other_identities: Vec<AddressIdentity>,
    pub ingress: ProgramId,
    pub egress: ProgramId,
}

/// One address of a pod and the class it is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddressIdentity {
    pub address: IpAddr,
    pub identity: IdentityId,
}

impl PodPolicy {
    /// The class this pod is in when it is met under `address`, one of its own.
    pub fn identity_of(&self, address: IpAddr) -> IdentityId {
        self.other_identities.iter().find(|o| o.address == address).map_or(self.identity, |o| o.identity)
    }
}

/// Which pod. The uid tells a pod from a later one of the same name; absent where the source of truth has none.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PodKey {
    pub namespace: String,
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
}

impl PodKey {
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        PodKey { namespace: namespace.into(), name: name.into(), uid: None }
    }

    /// Same pod: namespace and name agree, and so do the uids where both sides have one.
    pub fn is_same_pod(&self, other: &PodKey) -> bool {
        self.namespace == other.namespace
            && self.name == other.name
            && match (&self.uid, &other.uid) {
                (Some(mine), Some(theirs)) => mine == theirs,
                _ => true,
            }
    }
}

impl fmt::Display for PodKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Why an artefact was refused. Nothing changed: what was enforced is still enforced.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ArtefactError {
    #[error(
        "the artefact has schema {offered}, this switch reads {SCHEMA}; install matching versions of control plane and switch"
    )]
    Schema { offered: u32 },
    #[error(
        "the artefact names {what} {index} but has {len}; this is a defect of the control plane that made it"
    )]
    Dangling { what: &'static str, index: usize, len: usize },
    #[error("the artefact has no identity for {family}; it must hold 0.0.0.0/0 and ::/0")]
    NoDefault { family: &'static str },
    #[error("pod {pod} stands twice in the artefact")]
    DuplicatePod { pod: String },
    #[error(
        "entry of rule {rule} has ports {first}-{last} of protocol {protocol}; ports want TCP, UDP or SCTP and first <= last"
    )]
    Ports { rule: RuleId, protocol: u8, first: u16, last: u16 },
    #[error(
        "entry of rule {rule} has an ICMP type of protocol {protocol}; only ICMP (1) and ICMPv6 (58) have types"
    )]
    Icmp { rule: RuleId, protocol: u8 },
    #[error(
        "entry of rule {rule} names identity 0 as a peer; nobody knows who that is, so only entries for everyone may match it"
    )]
    UnknownPeer { rule: RuleId },
}

impl Artefact {
    /// An artefact that knows nobody: every endpoint stays isolated. What a switch without a control plane enforces.
    pub fn empty() -> Self {
        Artefact {
            schema: SCHEMA,
            generation: Generation(0),
            prefixes: vec![
                PrefixIdentity {
                    prefix: "0.0.0.0/0".parse().expect("a literal"),
                    identity: IdentityId::WORLD_V4,
                },
                PrefixIdentity { prefix: "::/0".parse().expect("a literal"), identity: IdentityId::WORLD_V6 },
            ],
            ..Artefact::default()
        }
    }

    /// Checks that every reference leads somewhere. After this no lookup by id can fail.
    pub fn validate(&self) -> Result<(), ArtefactError> {
        if self.schema != SCHEMA {
            return Err(ArtefactError::Schema { offered: self.schema });
        }
        let within = |what, index: usize, len: usize| match index < len {
            true => Ok(()),
            false => Err(ArtefactError::Dangling { what, index, len }),
        };
        for rule in &self.rules {
            within("policy", rule.policy.index(), self.policies.len())?;
        }
        for program in &self.programs {
            for policy in &program.selected_by {
                within("policy", policy.index(), self.policies.len())?;
            }
            for entry in &program.entries {
                within("rule", entry.rule.index(), self.rules.len())?;
                if let Service::Ports { protocol, first, last } = entry.service
                    && (first > last || ![protocol::TCP, protocol::UDP, protocol::SCTP].contains(&protocol))
                {
                    return Err(ArtefactError::Ports { rule: entry.rule, protocol, first, last });
                }
                if let Service::Icmp { protocol, .. } = entry.service
                    && ![protocol::ICMP, protocol::ICMPV6].contains(&protocol)
                {
                    return Err(ArtefactError::Icmp { rule: entry.rule, protocol });
                }
                if let Peers::Identities(ids) = &entry.peers
                    && ids.contains(&IdentityId::UNKNOWN)
                {
                    return Err(ArtefactError::UnknownPeer { rule: entry.rule });
                }
            }
        }
        let mut seen = std::collections::BTreeSet::new();
        for pod in &self.pods {
            within("program", pod.ingress.index(), self.programs.len())?;
            within("program", pod.egress.index(), self.programs.len())?;
            if !seen.insert(&pod.pod) {
                return Err(ArtefactError::DuplicatePod { pod: pod.pod.to_string() });
            }
        }
        for (family, is_family) in
            [("IPv4", IpNet::V4(Default::default())), ("IPv6", IpNet::V6(Default::default()))]
        {
            if !self.prefixes.iter().any(|p| p.prefix == is_family) {
                return Err(ArtefactError::NoDefault { family });
            }
        }
        Ok(())
    }

    /// The pod policy for an attached endpoint: same pod, and every one of its addresses was taken into account.
    pub fn pod_for(&self, pod: &PodKey, addresses: &[IpAddr]) -> Option<&PodPolicy> {
        self.pods.iter().find(|p| p.pod.is_same_pod(pod) && addresses.iter().all(|a| p.addresses.contains(a)))
    }
}
