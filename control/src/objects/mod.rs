//! What we understand of Kubernetes objects, after everything doubtful was refused.
//!
//! Own types instead of the API's: here an absent selector and an empty one are different things, a port is a number or a
//! name and never a string that might be either, and nothing is optional that the meaning needs. They are made by
//! [`crate::load`], read by [`crate::compile`], and written to disk as the last good versions, hence the serde derives.

mod cilium;
mod cluster;
mod selector;

pub use cilium::{
    CLUSTER_LABEL, CidrRule, CiliumCidrGroup, CiliumPeerRule, CiliumPeers, CiliumPolicy, CiliumPort,
    CiliumPortMatch, CiliumRequirement, CiliumRule, CiliumSelector, Entity, FqdnSelector, IcmpType, IpFamily,
    LabelSource, NAMESPACE_LABELS_PREFIX, NotEnforced, POD_NAMESPACE_LABEL, SERVICE_ACCOUNT_LABEL,
    ServiceSelector, Subject,
};
pub use cluster::{
    EndpointSlice, Node, Service, ServicePort, ServiceType, SliceEndpoint, SlicePort, TargetPort,
};
pub use selector::{LabelSelector, Operator, Requirement};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

pub type Labels = BTreeMap<String, String>;

/// The label every namespace carries, set by the API server to the namespace's name.
pub const NAMESPACE_NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// The kinds that policy needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Kind {
    Namespace,
    Pod,
    NetworkPolicy,
    CiliumNetworkPolicy,
    CiliumClusterwideNetworkPolicy,
    #[serde(rename = "CiliumCIDRGroup")]
    CiliumCidrGroup,
    Node,
    Service,
    EndpointSlice,
}

impl Kind {
    pub const ALL: [Kind; 9] = [
        Kind::Namespace,
        Kind::Pod,
        Kind::NetworkPolicy,
        Kind::CiliumNetworkPolicy,
        Kind::CiliumClusterwideNetworkPolicy,
        Kind::CiliumCidrGroup,
        Kind::Node,
        Kind::Service,
        Kind::EndpointSlice,
    ];

    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Namespace => "Namespace",
            Kind::Pod => "Pod",
            Kind::NetworkPolicy => "NetworkPolicy",
            Kind::CiliumNetworkPolicy => "CiliumNetworkPolicy",
            Kind::CiliumClusterwideNetworkPolicy => "CiliumClusterwideNetworkPolicy",
            Kind::CiliumCidrGroup => "CiliumCIDRGroup",
            Kind::Node => "Node",
            Kind::Service => "Service",
            Kind::EndpointSlice => "EndpointSlice",
        }
    }

    /// Objects of this kind belong to a namespace.
    #[must_use]
    pub const fn is_namespaced(self) -> bool {
        match self {
            Kind::Namespace | Kind::CiliumClusterwideNetworkPolicy | Kind::CiliumCidrGroup | Kind::Node => {
                false
            }
            Kind::Pod
            | Kind::NetworkPolicy
            | Kind::CiliumNetworkPolicy
            | Kind::Service
            | Kind::EndpointSlice => true,
        }
    }

    /// Objects of this kind say who may talk to whom.
    #[must_use]
    pub const fn is_policy(self) -> bool {
        matches!(self, Kind::NetworkPolicy | Kind::CiliumNetworkPolicy | Kind::CiliumClusterwideNetworkPolicy)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What makes two objects the same object. `namespace` is empty for cluster-wide kinds.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ObjectKey {
    pub kind: Kind,
    pub namespace: String,
    pub name: String,
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.namespace.as_str() {
            "" => write!(f, "{} {}", self.kind, self.name),
            namespace => write!(f, "{} {namespace}/{}", self.kind, self.name),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind")]
pub enum Object {
    Namespace(Namespace),
    Pod(Pod),
    NetworkPolicy(NetworkPolicy),
    CiliumNetworkPolicy(CiliumPolicy),
    CiliumClusterwideNetworkPolicy(CiliumPolicy),
    #[serde(rename = "CiliumCIDRGroup")]
    CiliumCidrGroup(CiliumCidrGroup),
    Node(Node),
    Service(Service),
    EndpointSlice(EndpointSlice),
}

impl Object {
    #[must_use]
    pub fn key(&self) -> ObjectKey {
        let (kind, namespace, name) = match self {
            Object::Namespace(namespace) => (Kind::Namespace, "", &namespace.name),
            Object::Pod(pod) => (Kind::Pod, pod.namespace.as_str(), &pod.name),
            Object::NetworkPolicy(policy) => (Kind::NetworkPolicy, policy.namespace.as_str(), &policy.name),
            Object::CiliumNetworkPolicy(policy) => {
                (Kind::CiliumNetworkPolicy, policy.namespace.as_str(), &policy.name)
            }
            Object::CiliumClusterwideNetworkPolicy(policy) => {
                (Kind::CiliumClusterwideNetworkPolicy, "", &policy.name)
            }
            Object::CiliumCidrGroup(group) => (Kind::CiliumCidrGroup, "", &group.name),
            Object::Node(node) => (Kind::Node, "", &node.name),
            Object::Service(service) => (Kind::Service, service.namespace.as_str(), &service.name),
            Object::EndpointSlice(slice) => (Kind::EndpointSlice, slice.namespace.as_str(), &slice.name),
        };
        ObjectKey { kind, namespace: namespace.to_owned(), name: name.clone() }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Namespace {
    pub name: String,
    pub labels: Labels,
    /// Being deleted: its policies may disappear before its pods do.
    #[serde(default)]
    pub terminating: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pod {
    pub namespace: String,
    pub name: String,
    pub uid: Option<String>,
    pub labels: Labels,
    pub node_name: Option<String>,
    /// Uses its node's addresses: such a pod is never selected, neither as a subject nor as a peer.
    pub host_network: bool,
    pub service_account: Option<String>,
    pub phase: Option<Phase>,
    /// Of containers, then of sidecars (init containers that keep running), in the order they are listed.
    pub ports: Vec<ContainerPort>,
    /// `status.podIPs`, `status.podIP` among them.
    pub addresses: Vec<IpAddr>,
}

impl Pod {
    /// Succeeded or Failed: it owns no address any more.
    #[must_use]
    pub fn is_terminated(&self) -> bool {
        matches!(self.phase, Some(Phase::Succeeded | Phase::Failed))
    }

    /// The number behind a port's name on this pod; the first container that has it wins.
    #[must_use]
    pub fn named_port(&self, name: &str, protocol: Protocol) -> Option<u16> {
        self.ports
            .iter()
            .find(|port| port.protocol == protocol && port.name.as_deref() == Some(name))
            .map(|port| port.port)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    Pending,
    Running,
    Succeeded,
    Failed,
    Unknown,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContainerPort {
    pub name: Option<String>,
    pub port: u16,
    pub protocol: Protocol,
}

/// The protocols whose ports policy can name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    #[default]
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    /// The IP protocol number.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Protocol::Tcp => penstock_api::artefact::protocol::TCP,
            Protocol::Udp => penstock_api::artefact::protocol::UDP,
            Protocol::Sctp => penstock_api::artefact::protocol::SCTP,
        }
    }
}

/// `networking.k8s.io/v1` NetworkPolicy.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkPolicy {
    pub namespace: String,
    pub name: String,
    pub pod_selector: LabelSelector,
    /// As resolved from `policyTypes`: Ingress when absent, Egress when absent and there are egress rules.
    pub isolates_ingress: bool,
    pub isolates_egress: bool,
    pub ingress: Vec<PolicyRule>,
    pub egress: Vec<PolicyRule>,
}

/// One item of `ingress` or `egress`: any of the peers on any of the ports.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyRule {
    /// Empty: everyone.
    pub peers: Vec<Peer>,
    /// Empty: every port of every protocol, ICMP included.
    pub ports: Vec<PolicyPort>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Peer {
    /// Pods. Without a namespace selector: of the policy's own namespace. Without a pod selector: all of the namespaces'.
    /// At least one of the two is there.
    Pods { pods: Option<LabelSelector>, namespaces: Option<LabelSelector> },
    /// Addresses, pods' addresses included.
    IpBlock(IpBlock),
}

/// A CIDR without its exceptions. Host bits are masked; every exception lies inside.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IpBlock {
    pub cidr: IpNet,
    pub except: Vec<IpNet>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyPort {
    pub protocol: Protocol,
    pub port: PortMatch,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PortMatch {
    /// Every port of the protocol.
    All,
    /// Inclusive.
    Range { first: u16, last: u16 },
    /// Whatever number the destination's container gives this name.
    Named(String),
}
