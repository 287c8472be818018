//! `v1` Node and Service, `discovery.k8s.io/v1` EndpointSlice: as the API server prints them, few fields read, and those
//! strictly.

use super::decode::{Cursor, Faults, Fields};
use super::meta::{self, Scope, checked};
use super::names::fields_of;
use super::policy::protocol;
use super::tree::Value;
use super::validate;
use crate::objects::{
    EndpointSlice, Node, Object, Service, ServicePort, ServiceType, SliceEndpoint, SlicePort, TargetPort,
};
use k8s_openapi::api::core::v1;
use k8s_openapi::api::discovery::v1 as discovery;
use std::net::IpAddr;

/// The label by which an EndpointSlice says whose it is.
const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

pub(super) fn decode_node(object: &Fields<'_>, faults: &mut Faults) -> Option<Object> {
    let meta = meta::decode(object, Scope::Cluster, validate::dns_subdomain, faults);
    let mut node = Node::default();
    if let Some(at) = object.get("spec")
        && let Some(spec) = at.fields(fields_of::<v1::NodeSpec>(), faults)
    {
        let mut texts: Vec<Cursor<'_>> = spec.get("podCIDR").into_iter().collect();
        texts.extend(spec.get("podCIDRs").map(|at| at.items(faults)).unwrap_or_default());
        for at in texts.iter().filter(|at| at.node.as_str() != Some("")) {
            if let Some(cidr) = meta::cidr(at, faults)
                && !node.pod_cidrs.contains(&cidr)
            {
                node.pod_cidrs.push(cidr);
            }
        }
    }
    if let Some(at) = object.get("status")
        && let Some(status) = at.fields(fields_of::<v1::NodeStatus>(), faults)
        && let Some(at) = status.get("addresses")
    {
        for item in at.items(faults) {
            node_address(&item, &mut node, faults);
        }
    }
    let meta = meta?;
    Some(Object::Node(Node { name: meta.name, labels: meta.labels, ..node }))
}

fn node_address(at: &Cursor<'_>, node: &mut Node, faults: &mut Faults) -> Option<()> {
    let fields = at.fields(fields_of::<v1::NodeAddress>(), faults)?;
    let of_type = fields.require("type", "InternalIP, ExternalIP, Hostname or the like", faults);
    let at = fields.require("address", "an address", faults)?;
    match of_type?.string(faults)? {
        "InternalIP" | "ExternalIP" => add(&at, &mut node.addresses, faults),
        // Names: who is behind them is not ours to find out.
        "Hostname" | "InternalDNS" | "ExternalDNS" => {
            at.string(faults);
        }
        other => faults.notice(&at, format_args!("addresses of the type {other:?} are not read")),
    }
    Some(())
}

pub(super) fn decode_service(object: &Fields<'_>, faults: &mut Faults) -> Option<Object> {
    let meta = meta::decode(object, Scope::Namespaced, validate::dns_label, faults);
    let mut service = Service::default();
    if let Some(at) = object.require("spec", "a mapping with ports and perhaps a selector", faults) {
        service_spec(&at, &mut service, faults);
    }
    if let Some(at) = object.get("status")
        && let Some(status) = at.fields(fields_of::<v1::ServiceStatus>(), faults)
        && let Some(at) = status.get("loadBalancer")
        && let Some(balancer) = at.fields(fields_of::<v1::LoadBalancerStatus>(), faults)
        && let Some(at) = balancer.get("ingress")
    {
        for item in at.items(faults) {
            if let Some(fields) = item.fields(fields_of::<v1::LoadBalancerIngress>(), faults)
                && let Some(at) = fields.get("ip")
            {
                add(&at, &mut service.load_balancer_ips, faults);
            }
        }
    }
    let meta = meta?;
    Some(Object::Service(Service {
        namespace: meta.namespace,
        name: meta.name,
        labels: meta.labels,
        ..service
    }))
}

fn service_spec(at: &Cursor<'_>, service: &mut Service, faults: &mut Faults) -> Option<()> {
    let fields = at.fields(fields_of::<v1::ServiceSpec>(), faults)?;
    if let Some(at) = fields.get("type") {
        service.service_type = match at.string(faults)? {
            "ClusterIP" => ServiceType::ClusterIp,
            "NodePort" => ServiceType::NodePort,
            "LoadBalancer" => ServiceType::LoadBalancer,
            "ExternalName" => ServiceType::ExternalName,
            other => {
                faults.error(
                    &at,
                    format_args!(
                        "{other:?} is no type; use ClusterIP, NodePort, LoadBalancer or ExternalName"
                    ),
                );
                return None;
            }
        };
    }
    if let Some(at) = fields.get("selector") {
        service.selector = meta::labels(&at, faults);
    }
    let mut texts: Vec<Cursor<'_>> = fields.get("clusterIP").into_iter().collect();
    texts.extend(fields.get("clusterIPs").map(|at| at.items(faults)).unwrap_or_default());
    // A headless service says so where others have an address.
    for at in texts.iter().filter(|at| at.node.as_str() != Some("None")) {
        add(at, &mut service.cluster_ips, faults);
    }
    for at in fields.get("externalIPs").map(|at| at.items(faults)).unwrap_or_default() {
        add(&at, &mut service.external_ips, faults);
    }
    if let Some(at) = fields.get("loadBalancerIP") {
        add(&at, &mut service.load_balancer_ips, faults);
    }
    for item in fields.get("ports").map(|at| at.items(faults)).unwrap_or_default() {
        service.ports.extend(service_port(&item, faults));
    }
    Some(())
}

fn service_port(at: &Cursor<'_>, faults: &mut Faults) -> Option<ServicePort> {
    let fields = at.fields(fields_of::<v1::ServicePort>(), faults)?;
    let name = port_name(&fields, faults);
    let port = fields.require("port", "a port number", faults).and_then(|at| at.port(faults));
    let protocol = protocol(&fields, faults);
    let target = match fields.get("targetPort") {
        Some(at) if matches!(at.node.value, Value::String(_)) => {
            TargetPort::Name(checked(&at, validate::port_name, faults)?)
        }
        Some(at) => TargetPort::Number(at.port(faults)?),
        None => TargetPort::Number(port?),
    };
    let node_port = match fields.get("nodePort") {
        // 0 is how the API says "none yet".
        Some(at) => Some(at.number(0, 65535, faults)? as u16).filter(|port| *port > 0),
        None => None,
    };
    Some(ServicePort { name: name?, protocol: protocol?, port: port?, target, node_port })
}

pub(super) fn decode_slice(object: &Fields<'_>, faults: &mut Faults) -> Option<Object> {
    let meta = meta::decode(object, Scope::Namespaced, validate::dns_subdomain, faults);
    let mut slice = EndpointSlice::default();
    let of_type = object.require("addressType", "IPv4, IPv6 or FQDN", faults)?;
    let is_family: fn(&IpAddr) -> bool = match of_type.string(faults)? {
        "IPv4" => IpAddr::is_ipv4,
        "IPv6" => IpAddr::is_ipv6,
        "FQDN" => |_| false,
        other => {
            faults.error(&of_type, format_args!("{other:?} is no addressType; use IPv4, IPv6 or FQDN"));
            return None;
        }
    };
    let has_addresses = of_type.node.as_str() != Some("FQDN");
    if let Some(at) = object.get("endpoints") {
        for item in at.items(faults) {
            let Some(endpoint) = slice_endpoint(&item, has_addresses.then_some(is_family), faults) else {
                continue;
            };
            if !endpoint.addresses.is_empty() {
                slice.endpoints.push(endpoint);
            }
        }
    }
    for item in object.get("ports").map(|at| at.items(faults)).unwrap_or_default() {
        slice.ports.extend(slice_port(&item, faults));
    }
    let meta = meta?;
    Some(Object::EndpointSlice(EndpointSlice {
        service: meta.labels.get(SERVICE_NAME_LABEL).cloned(),
        namespace: meta.namespace,
        name: meta.name,
        labels: meta.labels,
        ..slice
    }))
}

/// `is_family` is `None` where addresses are names.
fn slice_endpoint(
    at: &Cursor<'_>,
    is_family: Option<fn(&IpAddr) -> bool>,
    faults: &mut Faults,
) -> Option<SliceEndpoint> {
    let fields = at.fields(fields_of::<discovery::Endpoint>(), faults)?;
    let mut addresses = Vec::new();
    for at in fields.require("addresses", "a list of addresses", faults)?.items(faults) {
        let Some(is_family) = is_family else {
            at.string(faults);
            continue;
        };
        add(&at, &mut addresses, faults);
        if addresses.last().is_some_and(|address| !is_family(address)) {
            faults.error(&at, "is not of the slice's addressType");
        }
    }
    let (mut ready, mut serving, mut terminating) = (None, None, None);
    if let Some(at) = fields.get("conditions")
        && let Some(conditions) = at.fields(fields_of::<discovery::EndpointConditions>(), faults)
    {
        let mut condition = |name| conditions.get(name).and_then(|at| at.boolean(faults));
        (ready, serving, terminating) = (condition("ready"), condition("serving"), condition("terminating"));
    }
    let ready = ready.unwrap_or(true);
    let mut pod = None;
    if let Some(at) = fields.get("targetRef")
        && let Some(target) = at.fields(fields_of::<v1::ObjectReference>(), faults)
        && target.string("kind", faults) == Some("Pod")
    {
        let namespace = target.string("namespace", faults).unwrap_or("default");
        pod = target.string("name", faults).map(|name| (namespace.to_owned(), name.to_owned()));
    }
    Some(SliceEndpoint {
        addresses,
        ready,
        serving: serving.unwrap_or(ready),
        terminating: terminating.unwrap_or(false),
        node_name: fields.string("nodeName", faults).map(str::to_owned),
        pod,
    })
}

fn slice_port(at: &Cursor<'_>, faults: &mut Faults) -> Option<SlicePort> {
    let fields = at.fields(fields_of::<discovery::EndpointPort>(), faults)?;
    let name = port_name(&fields, faults);
    let port = match fields.get("port") {
        Some(at) => Some(at.port(faults)?),
        None => None,
    };
    Some(SlicePort { name: name?, protocol: protocol(&fields, faults)?, port })
}

/// A port's name, where it has one: of a service it may be any DNS label. The outer `None` is an error.
#[expect(clippy::option_option, reason = "the outer one is an error")]
fn port_name(fields: &Fields<'_>, faults: &mut Faults) -> Option<Option<String>> {
    match fields.get("name").filter(|at| at.node.as_str() != Some("")) {
        Some(at) => checked(&at, validate::dns_label, faults).map(Some),
        None => Some(None),
    }
}

/// Adds an address that is not there yet. An empty string is how the API says "none yet".
fn add(at: &Cursor<'_>, addresses: &mut Vec<IpAddr>, faults: &mut Faults) {
    let Some(text) = at.string(faults).filter(|text| !text.is_empty()) else { return };
    match validate::ip(text) {
        Ok(address) if !addresses.contains(&address) => addresses.push(address),
        Ok(_) => {}
        Err(message) => faults.error(at, message),
    }
}
