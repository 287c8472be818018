//! Which kinds there are, and what each is to us.

use super::tree::{Node, Value};
use crate::objects::Kind;

pub(super) enum Known {
    Ours(Kind),
    /// A list; the kind its items have where they do not say.
    List(Option<(&'static str, &'static str)>),
    /// Part of the API and no policy.
    Skipped,
    /// Policy that would be ignored: ignoring a policy widens.
    NotEnforced,
    /// Ours, under an apiVersion that is not.
    WrongVersion(&'static str),
    /// No such kind.
    Unknown,
}

/// The apiVersions we read a kind in; the first is the one to recommend.
const fn api_versions(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Namespace | Kind::Pod | Kind::Node | Kind::Service => &["v1"],
        Kind::NetworkPolicy => &["networking.k8s.io/v1"],
        Kind::EndpointSlice => &["discovery.k8s.io/v1"],
        Kind::CiliumNetworkPolicy | Kind::CiliumClusterwideNetworkPolicy => &["cilium.io/v2"],
        Kind::CiliumCidrGroup => &["cilium.io/v2", "cilium.io/v2alpha1"],
    }
}

/// What an object of this kind may have at its top.
pub(super) const fn top_level_fields(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::CiliumNetworkPolicy | Kind::CiliumClusterwideNetworkPolicy => {
            &["apiVersion", "kind", "metadata", "spec", "specs", "status"]
        }
        Kind::CiliumCidrGroup => &["apiVersion", "kind", "metadata", "spec"],
        Kind::EndpointSlice => &["apiVersion", "kind", "metadata", "addressType", "endpoints", "ports"],
        Kind::Namespace | Kind::Pod | Kind::NetworkPolicy | Kind::Node | Kind::Service => {
            &["apiVersion", "kind", "metadata", "spec", "status"]
        }
    }
}

/// Kinds of the built-in groups that are not policy. A kind that is in none of our lists is a misspelling.
const SKIPPED_KINDS: &[&str] = &[
    "APIService",
    "Binding",
    "CSIDriver",
    "CSINode",
    "CSIStorageCapacity",
    "CertificateSigningRequest",
    "ClusterRole",
    "ClusterRoleBinding",
    "ClusterTrustBundle",
    "ComponentStatus",
    "ConfigMap",
    "ControllerRevision",
    "CronJob",
    "CustomResourceDefinition",
    "DaemonSet",
    "Deployment",
    "DeviceClass",
    "Endpoints",
    "Event",
    "FlowSchema",
    "HorizontalPodAutoscaler",
    "IPAddress",
    "Ingress",
    "IngressClass",
    "Job",
    "Lease",
    "LimitRange",
    "MutatingAdmissionPolicy",
    "MutatingAdmissionPolicyBinding",
    "MutatingWebhookConfiguration",
    "PersistentVolume",
    "PersistentVolumeClaim",
    "PodDisruptionBudget",
    "PodTemplate",
    "PriorityClass",
    "PriorityLevelConfiguration",
    "ReplicaSet",
    "ReplicationController",
    "ResourceClaim",
    "ResourceClaimTemplate",
    "ResourceQuota",
    "ResourceSlice",
    "Role",
    "RoleBinding",
    "RuntimeClass",
    "Secret",
    "ServiceAccount",
    "ServiceCIDR",
    "StatefulSet",
    "StorageClass",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
    "ValidatingWebhookConfiguration",
    "VolumeAttachment",
    "VolumeAttributesClass",
    "Kustomization",
];

/// Kinds of cilium.io that say nothing about who may talk to whom.
const SKIPPED_CILIUM_KINDS: &[&str] = &[
    "CiliumBGPAdvertisement",
    "CiliumBGPClusterConfig",
    "CiliumBGPNodeConfig",
    "CiliumBGPNodeConfigOverride",
    "CiliumBGPPeerConfig",
    "CiliumBGPPeeringPolicy",
    "CiliumClusterwideEnvoyConfig",
    "CiliumEgressGatewayPolicy",
    "CiliumEndpoint",
    "CiliumEndpointSlice",
    "CiliumEnvoyConfig",
    "CiliumExternalWorkload",
    "CiliumGatewayClassConfig",
    "CiliumIdentity",
    "CiliumL2AnnouncementPolicy",
    "CiliumLoadBalancerIPPool",
    "CiliumLocalRedirectPolicy",
    "CiliumNode",
    "CiliumNodeConfig",
    "CiliumPodIPPool",
    "CiliumVTEPConfig",
];

pub(super) fn classify(api_version: &str, kind: &str) -> Known {
    if (api_version, kind) == ("v1", "List") {
        return Known::List(None);
    }
    let singular = kind.strip_suffix("List").unwrap_or(kind);
    if let Some(ours) = by_name(singular) {
        let versions = api_versions(ours);
        match versions.iter().find(|version| **version == api_version) {
            Some(version) if singular != kind => return Known::List(Some((version, ours.name()))),
            Some(_) => return Known::Ours(ours),
            // The names of Cilium's kinds are nobody else's; the others may be a custom resource's.
            None if is_built_in(api_version) || versions[0].starts_with("cilium.io/") => {
                return Known::WrongVersion(versions[0]);
            }
            None => {}
        }
    }
    if singular.ends_with("NetworkPolicy") {
        return Known::NotEnforced;
    }
    let is_cilium = api_version == "cilium.io" || api_version.starts_with("cilium.io/");
    let known = match is_cilium {
        true => SKIPPED_CILIUM_KINDS.contains(&singular),
        false => !is_built_in(api_version) || SKIPPED_KINDS.contains(&singular),
    };
    if known { Known::Skipped } else { Known::Unknown }
}

fn by_name(name: &str) -> Option<Kind> {
    Kind::ALL.into_iter().find(|kind| kind.name() == name)
}

/// An object of this kind without a namespace is in `default`.
pub(super) fn may_be_namespaced(kind: &str) -> bool {
    by_name(kind).is_none_or(Kind::is_namespaced)
}

/// Groups of Kubernetes itself: without a dot, or under k8s.io. Those of custom resources have another domain.
fn is_built_in(api_version: &str) -> bool {
    match api_version.split_once('/') {
        None => true,
        Some((group, _)) => !group.contains('.') || group.ends_with(".k8s.io"),
    }
}

/// What `cilium policy import` once took: rules in a list, without an object around them.
pub(super) fn is_bare_rule_list(node: &Node) -> bool {
    let is_rule = |item: &Node| item.get("endpointSelector").is_some() || item.get("nodeSelector").is_some();
    matches!(&node.value, Value::Sequence(items) if items.first().is_some_and(is_rule))
}
