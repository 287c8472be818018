//! `ADD`: from nothing to an interface that policy is live for, or back to nothing.

use crate::config::{Config, Document, MTU_MIN_V6, check_ranges};
use crate::environment::Environment;
use crate::error::{CniError, code};
use crate::ipam::{Owner, Store};
use crate::pod::{PodEnd, silence_host_end};
use crate::result::{Attachment, Interface};
use crate::step::{Observer, Step};
use crate::switch::{ANSWER_WAIT, Switch};
use crate::{del, names};
use ipnet::IpNet;
use penstock_api::Instance;
use penstock_api::message::{Mac, PodPort, Request, Response};
use penstock_net::route::VethSpec;
use penstock_net::{NetError, Netlink, Netns};
use std::os::fd::AsFd;
use std::time::Duration;

pub(crate) fn add(
    environment: &Environment,
    document: &Document,
    observer: Observer<'_>,
) -> Result<Attachment, CniError> {
    // First all that can be refused without touching anything.
    let config = document.config()?;
    let container_id = environment.container_id()?;
    let interface = environment.interface()?;
    let netns_path = environment.netns()?;
    let owner = Owner {
        container_id: container_id.to_owned(),
        interface: interface.to_owned(),
        pod: environment.pod()?,
    };
    if config.prev_result.is_some() {
        return Err(CniError::config("prevResult is given with ADD, which this plugin cannot build upon")
            .with_details("it makes the pod's interface: put it first in the list of plugins"));
    }
    let pod = open_pod(&netns_path)?;
    let instance = open_instance(&config.instance)?;
    refuse_wrong_namespace(&pod, &instance)?;
    let mut switch = Switch::connect(&config.instance)?;
    let (mtu, ranges) = complete(&config, &mut switch)?;
    let host_end = names::host_end(container_id, interface);
    refuse_what_is_there(&pod, interface, &instance, &host_end)?;

    // From here on there is something to undo.
    let mut undo = Undo { instance: &config.instance, owner: &owner, attach_sent: false, armed: false };
    let store = Store::open(&config.instance.state_dir().join(ADDRESSES))?;
    if let Some((address, _)) = store.owned_by(container_id, interface)?.first() {
        return Err(attached_already(&format!("container {container_id} has {address} on {interface}")));
    }
    undo.armed = true;
    let addresses = store.allocate(&ranges, &owner, observer)?;
    drop(store);

    let pod_end = PodEnd::new(container_id, interface, addresses, mtu);
    let host_link = Netlink::open_in(&instance)?.create_veth(&VethSpec {
        mtu: mtu.into(),
        peer_mac: Some(pod_end.mac.0),
        peer_netns: Some(pod.as_fd()),
        ..VethSpec::new(&host_end, interface)
    })?;
    observer(Step::VethMade);
    silence_host_end(&instance, &host_end)?;
    observer(Step::HostEndQuiet);
    pod.run(|| pod_end.set_up(observer)).map_err(|e| NetError::entering(&pod, &e))??;

    let port = PodPort {
        container_id: container_id.to_owned(),
        interface: interface.to_owned(),
        host_end: host_end.clone(),
        pod: owner.pod.clone(),
        mac: pod_end.mac,
        addresses: pod_end.addresses.clone(),
        mtu,
    };
    undo.attach_sent = true;
    switch.send(&Request::Attach { port, wait_ms: config.wait_ms })?;
    observer(Step::AttachSent);
    match switch.receive(Duration::from_millis(config.wait_ms) + ANSWER_WAIT)? {
        Response::Attached { .. } => {}
        other => return Err(switch.strange(&other).into()),
    }
    observer(Step::Attached);
    undo.armed = false;
    Ok(Attachment {
        cni_version: config.cni_version,
        host_end: Interface { name: host_end, mac: Mac(host_link.mac), sandbox: instance.path().to_owned() },
        pod_end: Interface { name: interface.to_owned(), mac: pod_end.mac, sandbox: netns_path },
        addresses: pod_end.addresses,
        dns: config.dns,
    })
}

/// The directory of address files below an instance's state.
pub(crate) const ADDRESSES: &str = "addresses";

/// Takes an attachment apart again unless it was committed.
struct Undo<'a> {
    instance: &'a Instance,
    owner: &'a Owner,
    attach_sent: bool,
    armed: bool,
}

impl Drop for Undo<'_> {
    fn drop(&mut self) {
        if !self.armed {
            return;
        }
        let Owner { container_id, interface, .. } = self.owner;
        // A switch that was asked may attach after we gave up, so it is told; one that was not has nothing to forget.
        if self.attach_sent {
            del::detach(self.instance, container_id, interface);
        }
        if let Err(error) = del::remove(self.instance, container_id, interface) {
            // The first error is the one that is answered. The runtime's DEL finds what is left.
            eprintln!("penstock-cni: undoing the ADD of {container_id} {interface}: {error}");
        }
    }
}

pub(crate) fn open_pod(path: &std::path::Path) -> Result<Netns, CniError> {
    Netns::open_path(path).map_err(|error| {
        CniError::environment(format!("CNI_NETNS: {error}")).with_details(
            "it must be the path of the pod's network namespace, made before the plugin is called",
        )
    })
}

/// The instance's namespace. The switch makes it; without it there is nothing to attach to.
pub(crate) fn open_instance(instance: &Instance) -> Result<Netns, CniError> {
    Netns::open(instance.netns()).map_err(|error| match error.is_not_found() {
        true => CniError::new(code::TRY_AGAIN, format!("instance {instance} is not up: {error}")).with_details(
            format!("start penstock-vswitch for instance {instance}, or correct \"instance\" in the network configuration"),
        ),
        false => error.into(),
    })
}

/// A runtime that mixes namespaces up must not make us configure the host's.
fn refuse_wrong_namespace(pod: &Netns, instance: &Netns) -> Result<(), CniError> {
    let is_same = |other: &Netns| pod.is_same(other).map_err(|e| CniError::io(format!("CNI_NETNS: {e}")));
    let shown = pod.path().display();
    if is_same(&Netns::current()?)? {
        return Err(CniError::environment(format!(
            "CNI_NETNS {shown} is the namespace the plugin itself runs in, not a pod's"
        )));
    }
    if is_same(instance)? {
        return Err(CniError::environment(format!(
            "CNI_NETNS {shown} is the switch's own namespace, not a pod's"
        )));
    }
    Ok(())
}

/// The MTU and the ranges: the configuration's, else the switch's.
fn complete(config: &Config, switch: &mut Switch) -> Result<(u16, Vec<IpNet>), CniError> {
    if let (Some(mtu), Some(ranges)) = (config.mtu, &config.ranges) {
        return Ok((mtu, ranges.clone()));
    }
    let status = switch.status()?;
    let ranges = match &config.ranges {
        Some(ranges) => ranges.clone(),
        None => {
            check_ranges(&status.pod_ranges).map_err(|what| {
                CniError::config(format!("the switch of instance {} has unusable pod ranges: {what}", config.instance))
                    .with_details("correct them in the switch's configuration, or say \"ranges\" in the network configuration")
            })?;
            status.pod_ranges
        }
    };
    let mtu = config.mtu.unwrap_or(status.mtu);
    // Where one of the two is the configuration's and the other the switch's, nobody has compared them yet.
    if u64::from(mtu) < MTU_MIN_V6 && ranges.iter().any(|range| range.addr().is_ipv6()) {
        return Err(CniError::config(format!("mtu is {mtu}, and IPv6 needs {MTU_MIN_V6}"))
            .with_details("raise it, or take the IPv6 range out of \"ranges\""));
    }
    Ok((mtu, ranges))
}

/// Whatever has one of our names is not ours, or is ours and in use: neither is touched.
fn refuse_what_is_there(
    pod: &Netns,
    interface: &str,
    instance: &Netns,
    host_end: &str,
) -> Result<(), CniError> {
    if Netlink::open_in(instance)?.link(host_end)?.is_some() {
        return Err(attached_already(&format!(
            "its host end {host_end} is in {}",
            instance.path().display()
        )));
    }
    if Netlink::open_in(pod)?.link(interface)?.is_some() {
        return Err(CniError::new(
            code::CONFLICT,
            format!("the pod has an interface {interface} already (in {})", pod.path().display()),
        )
        .with_details("CNI_IFNAME must be a name that is free in the pod; what is there was left alone"));
    }
    Ok(())
}

fn attached_already(how: &str) -> CniError {
    CniError::new(code::CONFLICT, format!("the interface is attached already: {how}"))
        .with_details("it was left as it is; a DEL for the same container and interface removes it")
}
