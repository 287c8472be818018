//! What every kind of policy becomes, so that everything behind this line knows one kind of rule.
//!
//! A peer is known by three sets of labels, and a [`Selector`] asks all three:
//!
//! | part | labels | whose |
//! |---|---|---|
//! | `pod` | those of the Pod object, and its [`SERVICE_ACCOUNT`] | pods |
//! | `namespace` | those of the Namespace object, its [`NAMESPACE`] name, the [`CLUSTER`] | pods |
//! | `place` | one of `host`, `remote-node`, `world`, `world-ipv4`, `world-ipv6`, `init` | who is no pod |
//! |         | `kube-apiserver` | who has its address, pods too |
//!
//! The parts are what makes spoofing impossible: whatever a pod writes into its labels stays in its own part, and the keys of
//! ours in there are no label's syntax.

use crate::objects::{LabelSelector, Labels, NotEnforced, Operator, Protocol, Requirement};
use ipnet::IpNet;
use penstock_api::artefact::PolicyInfo;
use std::net::IpAddr;

/// Key of the pod part: the service account's name.
pub(crate) const SERVICE_ACCOUNT: &str = "\0service-account";
/// Key of the namespace part: the namespace's name.
pub(crate) const NAMESPACE: &str = "\0namespace";
/// Key of the namespace part: the cluster's name.
pub(crate) const CLUSTER: &str = "\0cluster";
/// The only cluster there is.
pub(crate) const CLUSTER_NAME: &str = "default";

/// The place of whoever has an address of the API server, besides any other.
pub(crate) const KUBE_APISERVER: &str = "kube-apiserver";

/// One policy object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Policy {
    pub(crate) info: PolicyInfo,
    pub(crate) parts: Vec<Part>,
    /// What came out of its rules besides what the loader already says.
    pub(crate) not_enforced: Vec<NotEnforced>,
}

/// One subject and what is said of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) subject: Selector,
    pub(crate) ingress: Side,
    pub(crate) egress: Side,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Side {
    /// What no rule allows is denied.
    pub(crate) isolates: bool,
    pub(crate) rules: Vec<Rule>,
}

impl Side {
    /// Says anything at all.
    pub(crate) fn speaks(&self) -> bool {
        self.isolates || !self.rules.is_empty()
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rule {
    /// The field, as `spec.ingress[0]`.
    pub(crate) path: String,
    /// Denies what it matches; otherwise allows it.
    pub(crate) denies: bool,
    pub(crate) peers: Peers,
    pub(crate) ports: Ports,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Peers {
    /// Everyone, known or not.
    Any,
    Some(PeerSet),
}

impl Peers {
    pub(crate) fn nobody() -> Self {
        Peers::Some(PeerSet::default())
    }
}

/// Whoever one of the selectors selects or one of the blocks covers.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(crate) struct PeerSet {
    pub(crate) selectors: Vec<Selector>,
    pub(crate) blocks: Vec<Block>,
}

impl PeerSet {
    pub(crate) fn is_nobody(&self) -> bool {
        self.selectors.is_empty() && self.blocks.is_empty()
    }

    /// In one spelling: equal sets are mostly equal values.
    pub(crate) fn canonical(mut self) -> Self {
        self.selectors.sort();
        self.selectors.dedup();
        self.blocks.sort();
        self.blocks.dedup();
        self
    }
}

/// Addresses.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Block {
    pub(crate) cidr: IpNet,
    /// Inside `cidr`, all of them.
    pub(crate) except: Vec<IpNet>,
    pub(crate) reach: Reach,
}

impl Block {
    pub(crate) fn of_address(address: IpAddr, reach: Reach) -> Self {
        Block { cidr: address.into(), except: Vec::new(), reach }
    }
}

/// Whom a block speaks of, of those whose address it covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Reach {
    /// As NetworkPolicy's ipBlock: pods and nodes too.
    Everyone,
    /// As Cilium's CIDRs: who is neither a pod nor a node.
    Outsiders,
    Nodes,
}

/// True of a peer when all three parts are.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(crate) struct Selector {
    pub(crate) pod: LabelSelector,
    pub(crate) namespace: LabelSelector,
    pub(crate) place: LabelSelector,
}

impl Selector {
    /// Every pod of the cluster.
    pub(crate) fn any_pod() -> Self {
        let mut selector = Selector::default();
        selector.in_some_namespace();
        selector
    }

    /// Everyone at a place, by its reserved name.
    pub(crate) fn place(name: &str) -> Self {
        let mut selector = Selector::default();
        selector.place.requirements.push(requirement(name, Operator::Exists, &[]));
        selector
    }

    /// Of pods only.
    pub(crate) fn in_some_namespace(&mut self) {
        self.namespace.requirements.push(requirement(NAMESPACE, Operator::Exists, &[]));
    }

    pub(crate) fn in_namespace(&mut self, name: &str) {
        self.namespace.requirements.push(requirement(NAMESPACE, Operator::In, &[name]));
    }

    pub(crate) fn canonical(&self) -> Self {
        Selector {
            pod: self.pod.canonical(),
            namespace: self.namespace.canonical(),
            place: self.place.canonical(),
        }
    }

    /// The one namespace whose pods this can select, where it says so.
    pub(crate) fn only_namespace(&self) -> Option<&str> {
        self.namespace.requirements.iter().find_map(|requirement| match requirement.values.as_slice() {
            [name] if requirement.key == NAMESPACE && requirement.operator == Operator::In => {
                Some(name.as_str())
            }
            _ => None,
        })
    }

    /// Does it select a pod with these labels? Pods are at no place.
    pub(crate) fn selects_pod(&self, pod: &Labels, namespace: &Labels) -> bool {
        self.place.matches(&Labels::new()) && self.namespace.matches(namespace) && self.pod.matches(pod)
    }
}

pub(crate) fn requirement(key: &str, operator: Operator, values: &[&str]) -> Requirement {
    Requirement {
        key: key.to_owned(),
        operator,
        values: values.iter().map(|value| (*value).to_owned()).collect(),
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ports {
    /// Every protocol, ICMP and the ones nobody has heard of included.
    Any,
    /// One of these.
    Some(Vec<Port>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Port {
    All(Protocol),
    /// Inclusive.
    Range {
        protocol: Protocol,
        first: u16,
        last: u16,
    },
    /// Whatever number the destination's container gives this name.
    Named(PortName),
    Icmp {
        /// 1 or 58.
        protocol: u8,
        kind: u8,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct PortName {
    pub(crate) protocol: Protocol,
    pub(crate) name: String,
}
