//! Who is at an address.

use super::Naive;
use crate::feature::Feature;
use serde_json::Value;
use std::net::IpAddr;

/// Who is at an address, as this node sees it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Place<'a> {
    /// A pod with an address of its own.
    Pod(&'a Value),
    /// This node, and the pods on its network.
    Host,
    /// Another node, and the pods on its network.
    RemoteNode,
    /// Nobody of the cluster.
    Outside,
}

impl<'a> Place<'a> {
    pub(super) fn pod(self) -> Option<&'a Value> {
        match self {
            Place::Pod(pod) => Some(pod),
            _ => None,
        }
    }
}

/// Succeeded or failed: it owns no address any more.
fn is_over(pod: &Value) -> bool {
    matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"))
}

fn is_on_host_network(pod: &Value) -> bool {
    pod["spec"]["hostNetwork"] == true
}

fn shows(pod: &Value, address: IpAddr) -> bool {
    let text = address.to_string();
    let among = || {
        pod["status"]["podIPs"].as_array().is_some_and(|ips| ips.iter().any(|ip| ip["ip"] == text.as_str()))
    };
    pod["status"]["podIP"] == text.as_str() || among()
}

impl<'a> Naive<'a> {
    pub(super) fn pod_named(&self, namespace: &str, name: &str) -> Option<&'a Value> {
        self.world
            .of_kind("Pod")
            .find(|pod| pod["metadata"]["namespace"] == namespace && pod["metadata"]["name"] == name)
    }

    /// Who is at this address.
    pub fn place(&self, address: IpAddr) -> Place<'a> {
        let mistaken = |pod: &&Value| {
            (!self.reads(Feature::Terminated) && is_over(pod)
                || !self.reads(Feature::HostNetwork) && is_on_host_network(pod))
                && shows(pod, address)
        };
        if let Some(pod) = self.world.of_kind("Pod").find(mistaken) {
            return Place::Pod(pod);
        }
        if let Some(attached) = self.world.attached.iter().find(|pod| pod.addresses.contains(&address))
            && let Some(pod) = self.pod_named(&attached.namespace, &attached.name)
        {
            return Place::Pod(pod);
        }
        if self.world.host_addresses.contains(&address) {
            return Place::Host;
        }
        for node in self.world.of_kind("Node") {
            let addresses = node["status"]["addresses"].as_array().into_iter().flatten();
            if addresses.into_iter().any(|a| a["address"] == address.to_string()) {
                return self.node(node["metadata"]["name"].as_str());
            }
        }
        let live = || self.world.of_kind("Pod").filter(|pod| !is_over(pod) && shows(pod, address));
        if let Some(pod) = live().find(|pod| is_on_host_network(pod)) {
            return self.node(pod["spec"]["nodeName"].as_str());
        }
        // A pod attached here has the addresses it is attached with, and no others.
        let attached = |pod: &Value| {
            self.world.attached.iter().any(|attached| {
                pod["metadata"]["namespace"] == attached.namespace.as_str()
                    && pod["metadata"]["name"] == attached.name.as_str()
            })
        };
        live().find(|pod| !attached(pod)).map_or(Place::Outside, Place::Pod)
    }

    fn node(&self, name: Option<&str>) -> Place<'a> {
        if name == Some(self.world.node.as_str()) { Place::Host } else { Place::RemoteNode }
    }

    /// The API server is wherever the endpoints of the service `default/kubernetes` are.
    pub(super) fn is_api_server(&self, address: IpAddr) -> bool {
        self.endpoints_of("default", "kubernetes").contains(&address)
    }

    /// The addresses in a service's slices.
    pub(super) fn endpoints_of(&self, namespace: &str, service: &str) -> Vec<IpAddr> {
        self.world
            .of_kind("EndpointSlice")
            .filter(|slice| {
                slice["metadata"]["namespace"] == namespace
                    && slice["metadata"]["labels"]["kubernetes.io/service-name"] == service
            })
            .flat_map(|slice| slice["endpoints"].as_array().into_iter().flatten())
            .flat_map(|endpoint| endpoint["addresses"].as_array().into_iter().flatten())
            .filter_map(|address| address.as_str()?.parse().ok())
            .collect()
    }

    /// The labels of a namespace. The API server sees to it that its name is always among them.
    pub(super) fn namespace_labels(&self, namespace: &str) -> Vec<(String, String)> {
        let object = self.world.of_kind("Namespace").find(|object| object["metadata"]["name"] == namespace);
        if object.is_none() && !self.reads(Feature::NamespaceMissing) {
            return Vec::new();
        }
        let mut labels: Vec<(String, String)> = object
            .and_then(|object| object["metadata"]["labels"].as_object())
            .into_iter()
            .flatten()
            .filter(|(key, _)| *key != "kubernetes.io/metadata.name")
            .map(|(key, value)| (key.clone(), value.as_str().unwrap_or_default().to_owned()))
            .collect();
        labels.push(("kubernetes.io/metadata.name".to_owned(), namespace.to_owned()));
        labels
    }
}
