//! What the server asks of the kernel side: programs, maps and links of ports.
//!
//! A trait, so that everything the server promises (undo, order, adoption, texts) is tested against a double that can be
//! told to fail, without root. Promise of an implementation: an error leaves nothing forwarding that was not before.

use crate::io::shortcut::{CarriedFlow, Epoch};
use crate::packet::FlowKey;
use crate::snapshot::PortRecord;
use crate::worker::counters::Counters;
use penstock_api::message::{DeviceStatus, ShortcutStatus};
use penstock_api::{DropReason, PortId, WorkerId};
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

/// Why the kernel side could not do what was asked. The text names the thing, the reason and the remedy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct KernelError {
    pub message: String,
}

impl KernelError {
    pub fn new(message: impl fmt::Display) -> Self {
        KernelError { message: message.to_string() }
    }
}

/// The kernel side of a switch. One thread at a time.
pub trait Kernel: Send {
    /// Program on, maps filled, then the host end is brought up. Also for a port that is attached already (adoption after
    /// a restart): brings it into the same state without an interruption.
    fn attach_pod(&mut self, port: &PortRecord, host_end: &str) -> Result<(), KernelError>;

    /// These are the direct ports, each on an interface of the host's namespace; what an earlier process left of others goes. Where
    /// the kernel cannot carry flows of one, workers do.
    fn set_direct(&mut self, _: &[(PortRecord, String)]) {}

    /// Undoes [`Kernel::attach_pod`], whole or half done. Idempotent: nothing to undo, the host end gone, is success.
    fn detach_pod(&mut self, port: PortId, host_end: &str) -> Result<(), KernelError>;

    /// Is everything as [`Kernel::attach_pod`] leaves it? The error names what is not.
    fn check_pod(&mut self, port: &PortRecord, host_end: &str) -> Result<(), KernelError>;

    /// Frames dropped in the kernel, by programs and rings, since the instance was set up. Only ever grows.
    fn drops(&mut self) -> Vec<(Option<PortId>, DropReason, u64)>;

    /// The sockets a worker holds, and how they are bound.
    fn devices(&self, worker: WorkerId) -> Vec<DeviceStatus>;

    /// Does an interface of this name exist in the instance's namespace? A question that could not be answered is an error:
    /// a pod is given up for a plain no only.
    fn host_end_exists(&mut self, host_end: &str) -> Result<bool, KernelError>;

    /// The MAC of the host's end of `penstock0`: what frames to the host are addressed to.
    fn host_mac(&self) -> [u8; 6];

    /// What is not as it could be, one sentence each, naming the remedy.
    fn notes(&self) -> Vec<String> {
        Vec::new()
    }

    /// The policy that ports are under from now on, where it changed. Whatever the kernel carries of a port by itself was judged
    /// under just this, or comes to a worker, from the next frame on.
    fn set_epochs(&mut self, _: &[(PortId, Epoch)]) {}

    /// What the kernel was told last of a port, perhaps by an earlier process.
    fn epoch(&self, _: PortId) -> Epoch {
        Epoch::NONE
    }

    /// Of the flows that an earlier process had the kernel carry, only those stay that are allowed. Each is asked about in its
    /// first packet's direction.
    fn keep_carried(&mut self, _: &mut dyn FnMut(&CarriedFlow) -> bool) {}

    /// Frames and bytes of flows that the kernel carried and that are not in a worker's account; none is moved `meanwhile`.
    fn carried_flows(&mut self, meanwhile: &mut dyn FnMut()) -> HashMap<FlowKey, (u64, u64)> {
        meanwhile();
        HashMap::new()
    }

    /// The same by ports, as workers count.
    fn carried_by_ports(&mut self) -> Option<Arc<Counters>> {
        None
    }

    fn shortcut(&mut self) -> ShortcutStatus {
        ShortcutStatus::default()
    }
}
