//! Nodes, Services and EndpointSlices: what "the cluster", "a node" and "that service" mean in addresses.

use super::{Labels, Protocol};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Node {
    pub name: String,
    pub labels: Labels,
    /// `status.addresses` that are addresses (InternalIP, ExternalIP), each once.
    pub addresses: Vec<IpAddr>,
    pub pod_cidrs: Vec<IpNet>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Service {
    pub namespace: String,
    pub name: String,
    pub labels: Labels,
    /// Empty: none. The service's endpoints are then what its EndpointSlices say.
    pub selector: Labels,
    pub service_type: ServiceType,
    /// Empty for a headless service, an external name, and one that has none yet.
    pub cluster_ips: Vec<IpAddr>,
    pub external_ips: Vec<IpAddr>,
    pub load_balancer_ips: Vec<IpAddr>,
    pub ports: Vec<ServicePort>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum ServiceType {
    #[default]
    #[serde(rename = "ClusterIP")]
    ClusterIp,
    NodePort,
    LoadBalancer,
    ExternalName,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServicePort {
    pub name: Option<String>,
    pub protocol: Protocol,
    pub port: u16,
    pub target: TargetPort,
    pub node_port: Option<u16>,
}

/// The port on the backend.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TargetPort {
    Number(u16),
    Name(String),
}

/// `discovery.k8s.io/v1` EndpointSlice.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndpointSlice {
    pub namespace: String,
    pub name: String,
    pub labels: Labels,
    /// The service it belongs to, by the label `kubernetes.io/service-name`.
    pub service: Option<String>,
    /// Those with addresses; a slice of names (`addressType: FQDN`) has none.
    pub endpoints: Vec<SliceEndpoint>,
    pub ports: Vec<SlicePort>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SliceEndpoint {
    pub addresses: Vec<IpAddr>,
    /// `conditions.ready`; absent means yes, as the API says.
    pub ready: bool,
    /// `conditions.serving`; absent means as ready.
    pub serving: bool,
    pub terminating: bool,
    pub node_name: Option<String>,
    /// The Pod behind it, by namespace and name.
    pub pod: Option<(String, String)>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SlicePort {
    pub name: Option<String>,
    pub protocol: Protocol,
    /// `None`: every port.
    pub port: Option<u16>,
}
