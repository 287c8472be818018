//! Label selectors, in both dialects.

use super::{Naive, Place};
use crate::feature::Feature;
use crate::generate::{NAMESPACE_LABELS, POD_NAMESPACE, SERVICE_ACCOUNT};
use serde_json::Value;
use std::net::IpAddr;

/// Does a selector hold, when `values_of` says which values a key has?
pub(super) fn holds(selector: &Value, values_of: impl Fn(&str) -> Vec<String>) -> bool {
    let wanted = selector["matchLabels"].as_object().into_iter().flatten();
    let mut expressions = selector["matchExpressions"].as_array().into_iter().flatten();
    wanted.into_iter().all(|(key, value)| values_of(key).iter().any(|has| value == has.as_str()))
        && expressions.all(|expression| {
            let has = values_of(expression["key"].as_str().unwrap_or_default());
            let listed = expression["values"].as_array().cloned().unwrap_or_default();
            let is_listed = has.iter().any(|value| listed.iter().any(|wanted| wanted == value.as_str()));
            match expression["operator"].as_str() {
                Some("In") => is_listed,
                // Where the key is absent there is nothing in the list.
                Some("NotIn") => !is_listed,
                Some("Exists") => !has.is_empty(),
                Some("DoesNotExist") => has.is_empty(),
                other => panic!("no operator: {other:?}"),
            }
        })
}

/// Kubernetes: keys are keys.
pub(super) fn selects(selector: &Value, labels: &Value) -> bool {
    holds(selector, |key| labels[key].as_str().map(str::to_owned).into_iter().collect())
}

/// A label with its source, as Cilium has them: `k8s:app=web`.
pub(super) struct Label {
    source: &'static str,
    key: String,
    value: String,
}

/// Cilium: keys may say where the label comes from; `any:` and nothing mean from wherever.
pub(super) fn selects_sourced(selector: &Value, labels: &[Label]) -> bool {
    holds(selector, |key| {
        let (source, key) = key.split_once(':').unwrap_or(("any", key));
        let of_source = labels.iter().filter(|label| source == "any" || source == label.source);
        of_source.filter(|label| label.key == key).map(|label| label.value.clone()).collect()
    })
}

/// The keys a selector speaks of.
pub(super) fn keys(selector: &Value) -> Vec<&str> {
    let labels = selector["matchLabels"].as_object().into_iter().flatten().map(|(key, _)| key.as_str());
    let expressions = selector["matchExpressions"].as_array().into_iter().flatten();
    labels.chain(expressions.filter_map(|expression| expression["key"].as_str())).collect()
}

/// The key without `k8s:` or `any:`.
fn of_kubernetes(key: &str) -> &str {
    key.strip_prefix("k8s:").or_else(|| key.strip_prefix("any:")).unwrap_or(key)
}

/// Does the selector say which namespaces it means?
pub(super) fn speaks_of_namespaces(selector: &Value) -> bool {
    keys(selector)
        .into_iter()
        .map(of_kubernetes)
        .any(|key| key == POD_NAMESPACE || key.starts_with(NAMESPACE_LABELS.trim_end_matches('.')))
}

pub(super) fn is_reserved(selector: &Value) -> bool {
    keys(selector).iter().any(|key| key.starts_with("reserved:"))
}

impl Naive<'_> {
    /// The labels of whoever is at an address.
    pub(super) fn labels_at(&self, place: Place<'_>, address: IpAddr) -> Vec<Label> {
        let reserved = |name: &str| Label { source: "reserved", key: name.to_owned(), value: String::new() };
        let mut labels = match place {
            Place::Pod(pod) => self.pod_labels(pod),
            Place::Host => vec![reserved("host")],
            Place::RemoteNode => vec![reserved("remote-node")],
            Place::Outside => {
                vec![reserved("world"), reserved(if address.is_ipv4() { "world-ipv4" } else { "world-ipv6" })]
            }
        };
        if self.is_api_server(address) {
            labels.push(reserved("kube-apiserver"));
        }
        labels
    }

    /// A pod's own labels and those the cluster gives it. It can not give itself the latter.
    pub(super) fn pod_labels(&self, pod: &Value) -> Vec<Label> {
        let of_cluster = |key: &str| key == POD_NAMESPACE || key.starts_with("io.cilium.k8s.");
        let label =
            |key: &str, value: &str| Label { source: "k8s", key: key.to_owned(), value: value.to_owned() };
        let own = pod["metadata"]["labels"].as_object();
        let (spoofed, mut labels): (Vec<Label>, Vec<Label>) = own
            .into_iter()
            .flatten()
            .map(|(key, value)| label(key, value.as_str().unwrap_or_default()))
            .partition(|label| of_cluster(&label.key));
        let namespace = pod["metadata"]["namespace"].as_str().unwrap_or_default();
        let account = pod["spec"]["serviceAccountName"].as_str().unwrap_or("default");
        let mut given = vec![label(POD_NAMESPACE, namespace), label(SERVICE_ACCOUNT, account)];
        for (key, value) in self.namespace_labels(namespace) {
            given.push(label(&format!("{NAMESPACE_LABELS}{key}"), &value));
        }
        if !self.reads(Feature::SpoofedLabel) {
            given.retain(|given| spoofed.iter().all(|spoofed| spoofed.key != given.key));
            labels.extend(spoofed);
        }
        labels.extend(given);
        labels
    }
}
