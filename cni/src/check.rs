//! `CHECK`: is everything as the `ADD` made it?

use crate::add::{ADDRESSES, open_instance, open_pod};
use crate::config::{Config, Document};
use crate::environment::Environment;
use crate::error::{CniError, code};
use crate::ipam::{Owner, Store};
use crate::names;
use crate::pod::PodEnd;
use crate::result::Attachment;
use crate::switch::{ANSWER_WAIT, Switch};
use penstock_api::message::{Mac, PodPort, Request, Response};
use penstock_net::{NetError, Netlink, Netns};
use std::net::IpAddr;

pub(crate) fn check(environment: &Environment, document: &Document) -> Result<(), CniError> {
    let config = document.config()?;
    if config.cni_version == "0.3.1" {
        return Err(CniError::new(
            code::INCOMPATIBLE_VERSION,
            "CHECK is asked with cniVersion \"0.3.1\", which has no such command",
        )
        .with_details("CHECK came with 0.4.0"));
    }
    let container_id = environment.container_id()?;
    let interface = environment.interface()?;
    let netns_path = environment.netns()?;
    let previous = config.prev_result.as_ref().ok_or_else(|| {
        CniError::config("prevResult is missing")
            .with_details("a CHECK compares with the result of the ADD: the runtime must hand it over")
    })?;
    let host_end = names::host_end(container_id, interface);
    let made = Attachment::from_json(previous, config.cni_version, interface, &netns_path, &host_end)?;

    let mut faults = Vec::new();
    let owner = check_addresses(&config, container_id, interface, &made.addresses, &mut faults)?;
    let pod = open_pod(&netns_path)?;
    let instance = open_instance(&config.instance)?;
    let mtu = check_host_end(&config, &made, &pod, &instance, &mut faults)?;
    let pod_end = PodEnd {
        interface: interface.to_owned(),
        mac: made.pod_end.mac,
        addresses: made.addresses.clone(),
        mtu,
    };
    faults.extend(pod.run(|| pod_end.faults()).map_err(|e| NetError::entering(&pod, &e))??);
    if !faults.is_empty() {
        return Err(CniError::new(code::NOT_AS_MADE, faults.join("; "))
            .with_details("delete the pod, so that it is made anew"));
    }
    let Some(owner) = owner else { return Ok(()) };
    let port = PodPort {
        container_id: container_id.to_owned(),
        interface: interface.to_owned(),
        host_end,
        pod: owner.pod,
        mac: pod_end.mac,
        addresses: pod_end.addresses,
        mtu,
    };
    let mut switch = Switch::connect(&config.instance)?;
    match switch.ask(&Request::Check { port }, ANSWER_WAIT)? {
        Response::Done => Ok(()),
        other => Err(switch.strange(&other).into()),
    }
}

/// Do the files on disk say what the result says?
fn check_addresses(
    config: &Config,
    container_id: &str,
    interface: &str,
    made: &[IpAddr],
    faults: &mut Vec<String>,
) -> Result<Option<Owner>, CniError> {
    let directory = config.instance.state_dir().join(ADDRESSES);
    let owned = match Store::open_existing(&directory)? {
        Some(store) => store.owned_by(container_id, interface)?,
        None => Vec::new(),
    };
    for address in made.iter().filter(|address| owned.iter().all(|(owned, _)| owned != *address)) {
        faults.push(format!("no file in {} says that {address} is this container's", directory.display()));
    }
    for (address, _) in owned.iter().filter(|(address, _)| !made.contains(address)) {
        faults.push(format!(
            "{} says that {address} is this container's, prevResult does not",
            directory.join(address.to_string()).display()
        ));
    }
    Ok(owned.into_iter().next().map(|(_, owner)| owner))
}

/// The host end; the MTU that both ends should have.
fn check_host_end(
    config: &Config,
    made: &Attachment,
    pod: &Netns,
    instance: &Netns,
    faults: &mut Vec<String>,
) -> Result<u16, CniError> {
    let name = &made.host_end.name;
    let wanted = config.mtu;
    let Some(link) = Netlink::open_in(instance)?.link(name)? else {
        faults.push(format!("the host end {name} is gone from {}", instance.path().display()));
        return Ok(wanted.unwrap_or_default());
    };
    let mtu = u16::try_from(link.mtu).unwrap_or(u16::MAX);
    if wanted.is_some_and(|wanted| wanted != mtu) {
        faults.push(format!(
            "the host end {name} has MTU {mtu}, the network configuration says {}",
            wanted.unwrap_or_default()
        ));
    }
    if Mac(link.mac) != made.host_end.mac {
        faults.push(format!(
            "the host end {name} has the MAC address {}, it was made with {}",
            Mac(link.mac),
            made.host_end.mac
        ));
    }
    if !link.is_up {
        faults.push(format!("the host end {name} is down"));
    }
    let pod_index = Netlink::open_in(pod)?.link(&made.pod_end.name)?.map(|link| link.index);
    if pod_index.is_some() && link.peer_index != pod_index {
        faults.push(format!("the other end of {name} is not {} of the pod", made.pod_end.name));
    }
    Ok(mtu)
}
