//! What the events have said so far.

use super::Name;
use super::rule::{CLUSTER, CLUSTER_NAME, NAMESPACE, PortName, SERVICE_ACCOUNT};
use crate::objects::{EndpointSlice, Labels, NAMESPACE_NAME_LABEL, Namespace, Pod};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Label pairs as selectors want them.
pub(crate) fn pairs(labels: &Labels) -> impl Iterator<Item = (&str, &str)> {
    labels.iter().map(|(key, value)| (key.as_str(), value.as_str()))
}

/// Every number this pod gives the name, the first container's first.
pub(crate) fn named_ports(pod: &Pod, name: &PortName) -> impl Iterator<Item = u16> {
    let is_it = |port: &&crate::objects::ContainerPort| {
        port.protocol == name.protocol && port.name.as_deref() == Some(&name.name)
    };
    pod.ports.iter().filter(is_it).map(|port| port.port)
}

/// Adds what selectors may ask of a pod besides its own labels, under keys that no label can have.
pub(crate) fn complete(mut pod: Pod) -> Pod {
    // The API server fills in this one where a pod names none.
    let account = pod.service_account.as_deref().unwrap_or("default");
    pod.labels.insert(SERVICE_ACCOUNT.to_owned(), account.to_owned());
    pod
}

/// The addresses in a service's slices.
pub(crate) fn endpoints(
    slices: &BTreeMap<Name, EndpointSlice>,
    namespace: &str,
    service: &str,
) -> impl Iterator<Item = IpAddr> {
    let in_namespace = slices.range((namespace.to_owned(), String::new())..).map(|(_, slice)| slice);
    in_namespace
        .take_while(move |slice| slice.namespace == namespace)
        .filter(move |slice| slice.service.as_deref() == Some(service))
        .flat_map(|slice| &slice.endpoints)
        .flat_map(|endpoint| &endpoint.addresses)
        .copied()
}

/// Namespaces by name, and their labels as selectors see them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Names {
    namespaces: BTreeMap<String, Namespace>,
}

impl Names {
    /// False: it was known like this already.
    pub(crate) fn insert(&mut self, mut namespace: Namespace) -> bool {
        Self::complete(&mut namespace.labels, &namespace.name);
        let name = namespace.name.clone();
        if self.namespaces.get(&name) == Some(&namespace) {
            return false;
        }
        self.namespaces.insert(name, namespace);
        true
    }

    pub(crate) fn remove(&mut self, name: &str) -> bool {
        self.namespaces.remove(name).is_some()
    }

    pub(crate) fn clear(&mut self) {
        self.namespaces.clear();
    }

    pub(crate) fn is_terminating(&self, name: &str) -> bool {
        self.namespaces.get(name).is_some_and(|namespace| namespace.terminating)
    }

    /// The name labels are always there and always true, whether or not an object for the namespace is, and whatever it says.
    pub(crate) fn labels(&self, name: &str) -> Cow<'_, Labels> {
        match self.namespaces.get(name) {
            Some(namespace) => Cow::Borrowed(&namespace.labels),
            None => {
                let mut labels = Labels::new();
                Self::complete(&mut labels, name);
                Cow::Owned(labels)
            }
        }
    }

    fn complete(labels: &mut Labels, name: &str) {
        labels.insert(NAMESPACE_NAME_LABEL.to_owned(), name.to_owned());
        labels.insert(NAMESPACE.to_owned(), name.to_owned());
        labels.insert(CLUSTER.to_owned(), CLUSTER_NAME.to_owned());
    }
}
