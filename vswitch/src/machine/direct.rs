//! Direct ports in the shortcut: what the kernel is told of each, and why it does without where it cannot.
//!
//! A NIC is in the host's namespace, pods' host ends are in the instance's; frames cross over `penstock0`. To a NIC: its outer end
//! has a program (`outer` in `bpf/penstock.bpf.c`) that sends what `pod` marked for it. From a NIC: its XDP program lets flows that
//! are the kernel's pass, the stack merges their segments, and a tc program (`nic`) sends whatever comes there to the inner end, where
//! it is looked at as a pod's would be. Nothing passes before that program is there, and none of it goes to the host: what
//! should slip through is addressed to the gateway, whom the host's stack takes for somebody else.
//!
//! Nothing is attached where the shortcut is off or there is no direct port.

use super::bulk::BulkPort;
use super::shortcut;
use super::{Machine, lock};
use crate::io::bpf::{BpfError, Programs, TcProgram};
use crate::io::maps::{PORTS_MAX, PortEntry};
use crate::snapshot::PortRecord;
use penstock_api::PortId;
use penstock_api::message::{DeviceStatus, DirectShortcut};
use penstock_net::offload;
use penstock_net::route::{Link, Netlink};
use std::collections::HashMap;
use std::sync::Arc;

/// These are the direct ports now. The caller's namespace is the host's.
pub(super) fn set(machine: &mut Machine, ports: &[(PortRecord, String)]) {
    let is_on = shortcut::lock(&machine.shortcuts).is_on();
    let mut programs = lock(&machine.programs);
    let is_wanted = |id: PortId| is_on && ports.iter().any(|(port, _)| port.id == id);
    for id in (0..PORTS_MAX as u16).map(PortId).filter(|id| !is_wanted(*id)) {
        if let Some(entry) = programs.port(id).filter(PortEntry::is_direct)
            && let Err(error) = programs.set_nic(entry.nic, None).and_then(|()| programs.clear_port(id))
        {
            tracing::warn!("{error}");
        }
    }
    machine.direct_ports = ports.iter().map(|(port, _)| port.id).collect();
    if !is_on || ports.is_empty() {
        programs.detach_outside(&[]);
        return;
    }
    let crossing = cross(&mut programs, &machine.host_interface);
    if let Err(error) = &crossing {
        machine.notes.push(format!("flows between pods and direct ports cross userspace: {error}"));
    }
    let (mut ways, mut loans) = (HashMap::new(), HashMap::new());
    let mut attached: Vec<u32> = crossing.iter().copied().collect();
    let mut passing = Vec::new();
    for (port, interface) in ports {
        let to = match &crossing {
            Ok(_) => tell(&mut programs, port, interface, machine.links.host_inner),
            Err(error) => Err(error.clone()),
        };
        let is_alone = ports.iter().filter(|(_, other)| other == interface).count() == 1;
        let from = to.as_ref().map_err(String::clone).and_then(|link| {
            if !is_alone {
                Err(format!("{interface} is several ports, and what its NIC merged does not say whose it is"))
            } else if is_generic(&machine.devices, interface) {
                // *Seen* on 6.18: of a frame that it copied, tc programs are shown no Ethernet header.
                Err(format!("the driver of {interface} runs no XDP programs, and the kernel's own way of running them spoils frames"))
            } else {
                receive(&mut programs, port, link)?;
                attached.push(link.index);
                Ok(())
            }
        });
        match &from {
            Ok(()) => passing.push((port, interface)),
            Err(error) => {
                let note = format!("what {interface} receives crosses userspace: {error}");
                if to.is_ok() && !machine.notes.contains(&note) {
                    machine.notes.push(note);
                }
            }
        }
        if let Some(loan) =
            machine.bulk_ports.iter().find(|bulk| bulk.interface() == interface).and_then(BulkPort::loan)
        {
            loans.insert(port.id, Arc::clone(loan));
        }
        let (interface, not_to_it, not_from_it) = (interface.clone(), to.err(), from.err());
        ways.insert(port.id, DirectShortcut { interface, not_to_it, not_from_it });
    }
    programs.detach_outside(&attached);
    drop(programs);
    shortcut::lock(&machine.shortcuts).set_direct(ways, loans);
    for (port, interface) in passing {
        if let Err(error) = pass(machine, port, interface) {
            tracing::warn!("{error}");
        }
    }
}

/// Does the kernel run the interface's XDP program for a driver that cannot?
fn is_generic(devices: &[Vec<DeviceStatus>], interface: &str) -> bool {
    let mut devices = devices.iter().flatten();
    devices.any(|device| device.interface == interface && device.mode.starts_with("generic"))
}

/// Makes the way over `penstock0`. The number of its outer end.
fn cross(programs: &mut Programs, host_interface: &str) -> Result<u32, String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let outer = existing(host_interface)?;
    programs.set_outer(outer.index).map_err(|e| text(&e))?;
    programs.attach_tc(TcProgram::Outer, host_interface).map_err(|e| text(&e))?;
    Ok(outer.index)
}

fn existing(interface: &str) -> Result<Link, String> {
    Netlink::open().and_then(|netlink| netlink.existing(interface)).map_err(|error| error.to_string())
}

/// Tells the programs of the port.
fn tell(programs: &mut Programs, port: &PortRecord, interface: &str, inner: u32) -> Result<Link, String> {
    let link = existing(interface)?;
    let entry = PortEntry::new(inner, port.mtu, port.mac, &port.addresses)?.on_nic(link.index);
    programs.set_direct_port(port.id, entry).map_err(|error| error.to_string())?;
    Ok(link)
}

/// Attaches what takes the frames that are let pass.
fn receive(programs: &mut Programs, port: &PortRecord, link: &Link) -> Result<(), String> {
    programs.set_nic(link.index, Some(port.id)).map_err(|error| error.to_string())?;
    programs.attach_tc(TcProgram::Nic, &link.name).map_err(|error| error.to_string())?;
    Ok(())
}

/// From now on frames pass.
fn pass(machine: &Machine, port: &PortRecord, interface: &str) -> Result<(), BpfError> {
    // The program sees what arrives before it is merged.
    let _ = offload::set(interface, "gro", true);
    for queue in machine.direct_queues.iter().filter(|queue| queue.port == usize::from(port.device)) {
        lock(&machine.programs).set_passing(queue.slot, Some(port.id))?;
    }
    Ok(())
}
