//! `cilium.io` CiliumNetworkPolicy, CiliumClusterwideNetworkPolicy and CiliumCIDRGroup.
//!
//! What the API says in absent, empty and filled lists is said here in names, because to Cilium the three differ: an absent
//! peer field is anybody ([`CiliumPeers::Any`]), an empty one is nobody ([`CiliumPeers::None`]). What can be read but is not
//! enforced yet is named by its field ([`NotEnforced`]): whoever compiles such a rule lets it isolate and allow nothing.

use super::{IpBlock, LabelSelector, Labels, Operator, Protocol};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// By this key (source k8s) a selector asks for the namespace of a pod.
pub const POD_NAMESPACE_LABEL: &str = "io.kubernetes.pod.namespace";
/// This stands before the key of a label of the pod's namespace.
pub const NAMESPACE_LABELS_PREFIX: &str = "io.cilium.k8s.namespace.labels.";
/// By this key a selector asks for the service account of a pod.
pub const SERVICE_ACCOUNT_LABEL: &str = "io.cilium.k8s.policy.serviceaccount";
/// By this key a selector asks for the cluster of a pod.
pub const CLUSTER_LABEL: &str = "io.cilium.k8s.policy.cluster";

/// A CiliumNetworkPolicy, or a CiliumClusterwideNetworkPolicy: then the namespace is empty.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CiliumPolicy {
    pub namespace: String,
    pub name: String,
    /// `spec` where there is one, then `specs` in their order. Never empty.
    pub rules: Vec<CiliumRule>,
}

impl CiliumPolicy {
    #[must_use]
    pub fn is_clusterwide(&self) -> bool {
        self.namespace.is_empty()
    }
}

/// What the API calls a Rule: a subject and its four lists. At least one of the lists has an item.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CiliumRule {
    /// `spec`, `specs[1]`.
    pub path: String,
    pub subject: Subject,
    /// `None`: the field is absent. An empty list is one that is there and has no items.
    pub ingress: Option<Vec<CiliumPeerRule>>,
    pub ingress_deny: Option<Vec<CiliumPeerRule>>,
    pub egress: Option<Vec<CiliumPeerRule>>,
    pub egress_deny: Option<Vec<CiliumPeerRule>>,
    /// `enableDefaultDeny`, as far as it is set.
    pub default_deny_ingress: Option<bool>,
    pub default_deny_egress: Option<bool>,
    /// Fields of the rule itself, not of its lists' items.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_enforced: Vec<NotEnforced>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Subject {
    Endpoints(CiliumSelector),
    /// Clusterwide policies only.
    Nodes(CiliumSelector),
}

/// One item of `ingress`, `ingressDeny`, `egress` or `egressDeny`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CiliumPeerRule {
    /// `spec.ingress[0]`.
    pub path: String,
    pub peers: CiliumPeers,
    /// Every port of every item of `toPorts`. `None`: absent, or a list without items, which says as little.
    pub ports: Option<Vec<CiliumPort>>,
    /// Every field of every item of `icmps`; likewise. Never together with `ports`.
    pub icmps: Option<Vec<IcmpType>>,
    /// Not empty: an allowing rule isolates and allows nothing. A denying one denies the rest of what it says, which these
    /// fields could only narrow; groups of a cloud provider stand as the world that they are a part of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_enforced: Vec<NotEnforced>,
}

/// The one L3 field a rule has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CiliumPeers {
    /// No L3 field: anybody, if there are ports or ICMP types. A rule with nothing in it at all allows nothing.
    Any,
    /// An L3 field without items: nobody.
    None,
    Endpoints(Vec<CiliumSelector>),
    Nodes(Vec<CiliumSelector>),
    Entities(Vec<Entity>),
    Cidrs(Vec<CidrRule>),
    Services(Vec<ServiceSelector>),
    Fqdns(Vec<FqdnSelector>),
}

/// An item of `toCIDR` or `toCIDRSet`, or of their siblings for ingress.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum CidrRule {
    Block(IpBlock),
    /// The CiliumCIDRGroup of this name. Exceptions may lie anywhere.
    Group {
        name: String,
        except: Vec<IpNet>,
    },
    /// Every CiliumCIDRGroup with such labels.
    Groups {
        selector: LabelSelector,
        except: Vec<IpNet>,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum ServiceSelector {
    /// `namespace` is `None` where the policy does not say: a service of that name in any.
    Name { namespace: Option<String>, name: String },
    /// By the services' own labels. `None`: services of every namespace.
    Labels { namespace: Option<String>, selector: LabelSelector },
}

/// Lower case, with the trailing dot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FqdnSelector {
    Name(String),
    Pattern(String),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CiliumPort {
    /// `spec.ingress[0].toPorts[0].ports[0]`.
    pub path: String,
    /// `None`: ANY, that is TCP, UDP and SCTP.
    pub protocol: Option<Protocol>,
    pub port: CiliumPortMatch,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CiliumPortMatch {
    /// "0": every port of the protocol.
    All,
    /// Inclusive.
    Range { first: u16, last: u16 },
    /// A port's name, in lower case: whatever number the destination's container gives it.
    Name(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IcmpType {
    pub family: IpFamily,
    pub number: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum IpFamily {
    #[serde(rename = "IPv4")]
    V4,
    #[serde(rename = "IPv6")]
    V6,
}

/// All requirements hold; without any it selects everything it may.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CiliumSelector {
    pub requirements: Vec<CiliumRequirement>,
}

/// Like [`super::Requirement`], with the source a label must come from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CiliumRequirement {
    pub source: LabelSource,
    /// Without its source.
    pub key: String,
    pub operator: Operator,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<String>,
}

/// What stands before the first ':' of a label.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LabelSource {
    /// `any:`, or nothing.
    Any,
    K8s,
    Reserved,
    Cidr,
    Fqdn,
    /// One that nothing here ever carries.
    Other(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Entity {
    All,
    World,
    #[serde(rename = "world-ipv4")]
    WorldIpv4,
    #[serde(rename = "world-ipv6")]
    WorldIpv6,
    Host,
    RemoteNode,
    Cluster,
    Init,
    Health,
    Ingress,
    Unmanaged,
    KubeApiserver,
    None,
}

/// A field that was read and understood, and that nothing enforces yet.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NotEnforced {
    /// `spec.ingress[0].toPorts[0].rules.http`.
    pub field: String,
    pub why: String,
}

/// CiliumCIDRGroup, of v2 and v2alpha1 alike.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CiliumCidrGroup {
    pub name: String,
    pub labels: Labels,
    /// Host bits masked, sorted, each once.
    pub cidrs: Vec<IpNet>,
}
