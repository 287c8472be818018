//! Direct ports in the shortcut: what the kernel is told of each, and why it does without where it cannot.
//!
//! A NIC is in the host's namespace, pods' host ends are in the instance's; frames cross over `penstock0`, whose outer end has
//! a program for that (`outer` in `bpf/penstock.bpf.c`). Nothing is attached where the shortcut is off or there is no direct port.

use super::shortcut;
use super::{Machine, lock};
use crate::io::bpf::{Programs, TcProgram};
use crate::io::maps::{PORTS_MAX, PortEntry};
use crate::snapshot::PortRecord;
use penstock_api::PortId;
use penstock_api::message::DirectShortcut;
use penstock_net::route::Netlink;
use std::collections::HashMap;

/// These are the direct ports now. The caller's namespace is the host's.
pub(super) fn set(machine: &mut Machine, ports: &[(PortRecord, String)]) {
    let is_on = shortcut::lock(&machine.shortcuts).is_on();
    let mut programs = lock(&machine.programs);
    let is_wanted = |id: PortId| is_on && ports.iter().any(|(port, _)| port.id == id);
    for id in (0..PORTS_MAX as u16).map(PortId).filter(|id| !is_wanted(*id)) {
        if programs.port(id).is_some_and(|entry| entry.is_direct())
            && let Err(error) = programs.clear_port(id)
        {
            tracing::warn!("{error}");
        }
    }
    if !is_on || ports.is_empty() {
        programs.detach_outside(&[]);
        return;
    }
    let crossing = programs.attach_tc(TcProgram::Outer, &machine.host_interface);
    if let Err(error) = &crossing {
        machine.notes.push(format!("flows between pods and direct ports cross userspace: {error}"));
    }
    let mut known = HashMap::new();
    for (port, interface) in ports {
        let told = match &crossing {
            Ok(_) => tell(&mut programs, port, interface, machine.links.host_inner),
            Err(error) => Err(error.to_string()),
        };
        let status = DirectShortcut {
            interface: interface.clone(),
            not_to_it: told.err(),
            not_from_it: Some("what it receives comes to a worker".to_owned()),
        };
        known.insert(port.id, status);
    }
    drop(programs);
    shortcut::lock(&machine.shortcuts).set_direct(known);
}

fn tell(programs: &mut Programs, port: &PortRecord, interface: &str, inner: u32) -> Result<(), String> {
    let link = Netlink::open().and_then(|netlink| netlink.existing(interface)).map_err(|e| e.to_string())?;
    let entry = PortEntry::new(inner, port.mtu, port.mac, &port.addresses)?.on_nic(link.index);
    programs.set_direct_port(port.id, entry).map_err(|e| e.to_string())
}
