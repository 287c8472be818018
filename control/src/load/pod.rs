//! `v1` Pod and Namespace: few fields are read, all names are checked.

use super::decode::{Cursor, Faults, Fields};
use super::meta::{self, Scope, checked};
use super::names::fields_of;
use super::policy::protocol;
use super::validate;
use crate::objects::{ContainerPort, NAMESPACE_NAME_LABEL, Namespace, Object, Phase, Pod};
use k8s_openapi::api::core::v1;

pub(crate) fn decode_namespace(object: &Fields<'_>, faults: &mut Faults) -> Option<Object> {
    let mut meta = meta::decode(object, Scope::Cluster, validate::dns_label, faults)?;
    let mut terminating = meta.deleting;
    if let Some(at) = object.get("spec") {
        at.fields(fields_of::<v1::NamespaceSpec>(), faults);
    }
    if let Some(at) = object.get("status")
        && let Some(status) = at.fields(fields_of::<v1::NamespaceStatus>(), faults)
        && let Some(at) = status.get("phase")
    {
        match at.string(faults) {
            Some("Terminating") => terminating = true,
            Some("Active") | None => {}
            Some(other) => {
                faults.error(&at, format_args!("{other:?} is no phase; use Active or Terminating"))
            }
        }
    }
    // The API server sets this label; whatever else is written there would let a namespace pass for another.
    if let Some(value) = meta.labels.insert(NAMESPACE_NAME_LABEL.to_owned(), meta.name.clone())
        && value != meta.name
        && let Some(at) = object.get("metadata")
    {
        faults.error(
            &at,
            format_args!("label {NAMESPACE_NAME_LABEL} is {value:?} but always is the namespace's name, {:?}; remove it", meta.name),
        );
    }
    Some(Object::Namespace(Namespace { name: meta.name, labels: meta.labels, terminating }))
}

pub(crate) fn decode_pod(object: &Fields<'_>, faults: &mut Faults) -> Option<Object> {
    let meta = meta::decode(object, Scope::Namespaced, validate::dns_subdomain, faults);
    let mut pod = Pod::default();
    if let Some(at) = object.require("spec", "a mapping with containers", faults) {
        spec(&at, &mut pod, faults);
    }
    if let Some(at) = object.get("status") {
        status(&at, &mut pod, faults);
    }
    let meta = meta?;
    Some(Object::Pod(Pod {
        namespace: meta.namespace,
        name: meta.name,
        uid: meta.uid,
        labels: meta.labels,
        ..pod
    }))
}

fn spec(at: &Cursor<'_>, pod: &mut Pod, faults: &mut Faults) -> Option<()> {
    let fields = at.fields(fields_of::<v1::PodSpec>(), faults)?;
    pod.node_name = fields.string("nodeName", faults).filter(|name| !name.is_empty()).map(str::to_owned);
    pod.service_account = fields.string("serviceAccountName", faults).map(str::to_owned);
    if let Some(at) = fields.get("hostNetwork") {
        pod.host_network = at.boolean(faults)?;
    }
    if let Some(at) = fields.get("containers") {
        for item in at.items(faults) {
            container(&item, false, pod, faults);
        }
    }
    if let Some(at) = fields.get("initContainers") {
        for item in at.items(faults) {
            container(&item, true, pod, faults);
        }
    }
    Some(())
}

/// Takes the ports of a container that runs as long as the pod does.
fn container(at: &Cursor<'_>, is_init: bool, pod: &mut Pod, faults: &mut Faults) -> Option<()> {
    let fields = at.fields(fields_of::<v1::Container>(), faults)?;
    fields.require("name", "the container's name", faults)?.string(faults);
    let stays = !is_init || fields.string("restartPolicy", faults) == Some("Always");
    for item in fields.get("ports")?.items(faults) {
        let Some(fields) = item.fields(fields_of::<v1::ContainerPort>(), faults) else { continue };
        let name = match fields.get("name") {
            Some(at) => match checked(&at, validate::port_name, faults) {
                Some(name) => Some(name),
                None => continue,
            },
            None => None,
        };
        let number = fields.require("containerPort", "a port number", faults).and_then(|at| at.port(faults));
        if let (Some(port), Some(protocol), true) = (number, protocol(&fields, faults), stays) {
            pod.ports.push(ContainerPort { name, port, protocol });
        }
    }
    Some(())
}

fn status(at: &Cursor<'_>, pod: &mut Pod, faults: &mut Faults) -> Option<()> {
    let fields = at.fields(fields_of::<v1::PodStatus>(), faults)?;
    if let Some(at) = fields.get("phase") {
        pod.phase = match at.string(faults)? {
            "" => None,
            "Pending" => Some(Phase::Pending),
            "Running" => Some(Phase::Running),
            "Succeeded" => Some(Phase::Succeeded),
            "Failed" => Some(Phase::Failed),
            "Unknown" => Some(Phase::Unknown),
            other => {
                faults.error(
                    &at,
                    format_args!("{other:?} is no phase; use Pending, Running, Succeeded, Failed or Unknown"),
                );
                None
            }
        };
    }
    let mut texts: Vec<Cursor<'_>> = fields.get("podIP").into_iter().collect();
    if let Some(at) = fields.get("podIPs") {
        for item in at.items(faults) {
            if let Some(fields) = item.fields(&["ip"], faults) {
                texts.extend(fields.require("ip", "an address", faults));
            }
        }
    }
    for at in texts {
        // An empty string is how the API says "none yet".
        let Some(text) = at.string(faults).filter(|text| !text.is_empty()) else { continue };
        match validate::ip(text) {
            Ok(address) if !pod.addresses.contains(&address) => pod.addresses.push(address),
            Ok(_) => {}
            Err(message) => faults.error(&at, message),
        }
    }
    Some(())
}
