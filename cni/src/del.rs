//! `DEL`: removes whatever there is of an attachment, and is content when there is nothing.
//!
//! It needs neither the pod's namespace (which may be gone) nor the switch (which may be down; it notices when it is back
//! that the host end is gone). The order matters: an address is released when no interface can use it any more.

use crate::add::ADDRESSES;
use crate::config::Document;
use crate::environment::Environment;
use crate::error::CniError;
use crate::ipam::Store;
use crate::names;
use crate::switch::{Switch, SwitchError};
use penstock_api::Instance;
use penstock_api::message::Request;
use penstock_net::{NetError, Netlink, Netns};
use std::time::Duration;

/// How long the switch may take to forget an attachment before we go on without it.
const DETACH_WAIT: Duration = Duration::from_secs(5);

pub(crate) fn del(environment: &Environment, document: &Document) -> Result<(), CniError> {
    let instance = document.instance()?;
    let container_id = environment.container_id()?;
    let interface = environment.interface()?;
    detach(&instance, container_id, interface);
    remove(&instance, container_id, interface)
}

/// Asks the switch to forget the attachment. Whether it does or not, the rest is done.
pub(crate) fn detach(instance: &Instance, container_id: &str, interface: &str) {
    let request = Request::Detach { container_id: container_id.to_owned(), interface: interface.to_owned() };
    match Switch::connect(instance).and_then(|mut switch| switch.ask(&request, DETACH_WAIT)) {
        Ok(_) | Err(SwitchError::Absent { .. }) => {}
        Err(error) => eprintln!("penstock-cni: detaching {container_id} {interface}: {error}"),
    }
}

/// Removes the interface, then releases the addresses.
pub(crate) fn remove(instance: &Instance, container_id: &str, interface: &str) -> Result<(), CniError> {
    remove_link(instance, &names::host_end(container_id, interface))?;
    if let Some(store) = Store::open_existing(&instance.state_dir().join(ADDRESSES))? {
        for path in store.release(container_id, interface)?.unreadable {
            eprintln!(
                "penstock-cni: the address file {} does not read; if it was of {container_id}, it has to be removed by hand",
                path.display()
            );
        }
    }
    Ok(())
}

/// Deletes the host end, and the pod's end with it.
fn remove_link(instance: &Instance, host_end: &str) -> Result<(), NetError> {
    let not_found_is_fine = |error: NetError| if error.is_not_found() { Ok(()) } else { Err(error) };
    let netns = match Netns::open(instance.netns()) {
        Ok(netns) => netns,
        // A file that is no namespace: nothing can be left in it.
        Err(error) if error.errno() == Some(libc::EINVAL) => return Ok(()),
        Err(error) => return not_found_is_fine(error),
    };
    let netlink = Netlink::open_in(&netns)?;
    match netlink.link(host_end)? {
        Some(link) => netlink.delete_link(link.index).or_else(not_found_is_fine),
        None => Ok(()),
    }
}
