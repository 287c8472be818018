//! What a world can contain, and how often it does.
//!
//! A feature is three things at once: a dial of the generator, something that can be taken out of a world again (see
//! `ablate`), and a line of the measurement that says whether random questions ever depend on it.

/// One thing policy or the cluster can do that changes answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Feature {
    // The cluster.
    Ipv6,
    HostNetwork,
    Terminated,
    SharedAddress,
    RemotePod,
    SpoofedLabel,
    NamespaceMissing,
    OwnNode,
    // Words both APIs have.
    NamedPort,
    EndPort,
    Sctp,
    In,
    NotIn,
    Exists,
    DoesNotExist,
    PodsOnly,
    // NetworkPolicy.
    NetworkPolicy,
    PolicyTypes,
    Isolation,
    PodPeer,
    NamespacePeer,
    PodInNamespacePeer,
    IpBlock,
    IpBlockExcept,
    AnyPeer,
    AnyPort,
    ProtocolOnly,
    // CiliumNetworkPolicy.
    Cilium,
    Clusterwide,
    Specs,
    NodeSelector,
    Deny,
    EnableDefaultDeny,
    Endpoints,
    PeerScope,
    SubjectScope,
    NamespaceKey,
    NamespaceLabels,
    ServiceAccount,
    ReservedLabel,
    PrefixK8s,
    PrefixAny,
    Cidr,
    CidrExcept,
    CidrGroup,
    EntityAll,
    EntityWorld,
    EntityWorldOfFamily,
    EntityHost,
    EntityRemoteNode,
    EntityCluster,
    EntityApiServer,
    EntityNobody,
    ServiceWithSelector,
    ServiceWithoutSelector,
    EmptyList,
    EmptyRule,
    PortsOfAnyone,
    ZeroPort,
    AnyProtocol,
    Icmps,
    NotEnforced,
}

use Feature::*;

impl Feature {
    /// All of them, each with its usual share in percent of the places where it could stand (for alternatives: its weight).
    pub const USUAL: &'static [(Feature, u32)] = &[
        (Ipv6, 35),
        (HostNetwork, 8),
        (Terminated, 12),
        (SharedAddress, 5),
        (RemotePod, 25),
        (SpoofedLabel, 8),
        (NamespaceMissing, 10),
        (OwnNode, 10),
        (NamedPort, 25),
        (EndPort, 25),
        (Sctp, 20),
        (In, 25),
        (NotIn, 25),
        (Exists, 25),
        (DoesNotExist, 25),
        (PodsOnly, 0),
        (NetworkPolicy, 45),
        (PolicyTypes, 60),
        (Isolation, 20),
        (PodPeer, 25),
        (NamespacePeer, 25),
        (PodInNamespacePeer, 25),
        (IpBlock, 25),
        (IpBlockExcept, 50),
        (AnyPeer, 15),
        (AnyPort, 30),
        (ProtocolOnly, 20),
        (Cilium, 40),
        (Clusterwide, 15),
        (Specs, 15),
        (NodeSelector, 5),
        (Deny, 30),
        (EnableDefaultDeny, 15),
        (Endpoints, 40),
        (PeerScope, 0),
        (SubjectScope, 5),
        (NamespaceKey, 20),
        (NamespaceLabels, 10),
        (ServiceAccount, 8),
        (ReservedLabel, 8),
        (PrefixK8s, 30),
        (PrefixAny, 20),
        (Cidr, 12),
        (CidrExcept, 12),
        (CidrGroup, 8),
        (EntityAll, 10),
        (EntityWorld, 15),
        (EntityWorldOfFamily, 8),
        (EntityHost, 12),
        (EntityRemoteNode, 12),
        (EntityCluster, 12),
        (EntityApiServer, 12),
        (EntityNobody, 10),
        (ServiceWithSelector, 8),
        (ServiceWithoutSelector, 8),
        (EmptyList, 4),
        (EmptyRule, 5),
        (PortsOfAnyone, 10),
        (ZeroPort, 10),
        (AnyProtocol, 25),
        (Icmps, 12),
        (NotEnforced, 8),
    ];

    pub fn all() -> impl Iterator<Item = Feature> {
        Self::USUAL.iter().map(|(feature, _)| *feature)
    }

    pub(crate) fn usual(self) -> u32 {
        Self::USUAL.iter().find(|(feature, _)| *feature == self).map_or(0, |(_, share)| *share)
    }

    /// What a world must have besides for this feature to show.
    pub(crate) fn needs(self) -> &'static [Feature] {
        match self {
            PolicyTypes | Isolation | AnyPort | IpBlock | AnyPeer => &[NetworkPolicy],
            PodPeer | NamespacePeer | PodInNamespacePeer => &[NetworkPolicy, AnyPort],
            ProtocolOnly => &[NetworkPolicy, AnyPeer],
            IpBlockExcept => &[NetworkPolicy, IpBlock, AnyPort],
            NamespaceMissing => &[NetworkPolicy, NamespacePeer, AnyPort],
            NamedPort | EndPort | Sctp => &[AnyPeer, PortsOfAnyone],
            In | NotIn | Exists | DoesNotExist => &[PodPeer, NamespacePeer, Endpoints, AnyPort],
            PodsOnly => &[NamespacePeer, Endpoints, NotIn, DoesNotExist, AnyPort],
            RemotePod | Terminated | HostNetwork => &[PodPeer, NamespacePeer, Endpoints, AnyPort],
            SharedAddress => &[RemotePod, PodPeer, NamespacePeer, Endpoints, AnyPort],
            Deny => &[Cilium, EnableDefaultDeny],
            ZeroPort | AnyProtocol | Icmps => &[Cilium, PortsOfAnyone],
            PeerScope | NamespaceKey | NamespaceLabels | ServiceAccount | ReservedLabel | PrefixK8s
            | PrefixAny => &[Cilium, Endpoints],
            SpoofedLabel => &[Cilium, Endpoints, NamespaceKey],
            Specs
            | EnableDefaultDeny
            | Endpoints
            | Cidr
            | CidrExcept
            | CidrGroup
            | EmptyList
            | EmptyRule
            | PortsOfAnyone
            | NotEnforced
            | SubjectScope
            | EntityAll
            | EntityWorld
            | EntityWorldOfFamily
            | EntityHost
            | EntityRemoteNode
            | EntityCluster
            | EntityApiServer
            | EntityNobody
            | ServiceWithSelector
            | ServiceWithoutSelector => &[Cilium],
            NodeSelector => &[Clusterwide],
            _ => &[],
        }
    }

    /// What would hide it: rules that match nobody or everybody, and other ways to say the same place.
    fn is_hidden_by(self, other: Feature) -> bool {
        let limits_ports =
            matches!(self, NamedPort | EndPort | Sctp | ZeroPort | AnyProtocol | Icmps | ProtocolOnly);
        match other {
            Isolation | EmptyRule | EmptyList | EntityNobody | NotEnforced | NodeSelector | SpoofedLabel
            | NamespaceMissing | SubjectScope => true,
            AnyPort | ProtocolOnly | ZeroPort => limits_ports,
            NamedPort | EndPort => limits_ports && self != Sctp && self != AnyProtocol,
            Sctp => limits_ports,
            AnyProtocol => matches!(self, NamedPort | EndPort | ZeroPort),
            Icmps => limits_ports || self == Deny,
            NamespaceKey | NamespaceLabels => self == PeerScope || self == PodsOnly,
            ReservedLabel => {
                matches!(self, PeerScope | PodsOnly | NamespaceKey | NamespaceLabels | ServiceAccount)
            }
            _ => false,
        }
    }
}

/// How often each feature stands where it could.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Mix {
    focus: Option<Feature>,
    kubernetes_only: bool,
}

impl Mix {
    /// A bit of everything.
    #[must_use]
    pub fn everything() -> Self {
        Mix::default()
    }

    /// Worlds in which one feature, and what it needs, is everywhere.
    #[must_use]
    pub fn about(feature: Feature) -> Self {
        Mix { focus: Some(feature), kubernetes_only: false }
    }

    /// No Cilium policies.
    #[must_use]
    pub fn kubernetes() -> Self {
        Mix { focus: None, kubernetes_only: true }
    }

    pub(crate) fn is_focussed(self) -> bool {
        self.focus.is_some()
    }

    pub(crate) fn is_about(self, feature: Feature) -> bool {
        self.focus == Some(feature)
    }

    pub(crate) fn is_about_any(self, features: &[Feature]) -> bool {
        self.focus.is_some_and(|focus| features.contains(&focus))
    }

    pub(crate) fn percent(self, feature: Feature) -> u32 {
        if self.kubernetes_only && matches!(feature, Cilium | Clusterwide | CidrGroup) {
            return 0;
        }
        match self.focus {
            Some(focus) if focus == feature => 90,
            Some(focus) if focus.needs().contains(&feature) => 75,
            Some(focus) if focus.is_hidden_by(feature) => 0,
            _ => feature.usual(),
        }
    }

    /// Of alternatives, one that is asked for outweighs the others.
    pub(crate) fn weight(self, feature: Feature) -> u32 {
        match self.percent(feature) {
            percent if self.is_about(feature) => percent * 12,
            percent if self.focus.is_some_and(|focus| focus.needs().contains(&feature)) => percent * 6,
            percent => percent,
        }
    }
}
