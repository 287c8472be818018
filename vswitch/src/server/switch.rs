//! The state machine: what may happen to ports and policy, and in which order.
//!
//! One mutex, held by whoever changes something. A change is: the registry, the disk, a new snapshot published and
//! acknowledged by every worker, the kernel, the event. Removing begins with the snapshot, so that at no moment anything is
//! forwarded for a port that is not recorded. Reading (status, ports, drops) looks at the last [`View`] and waits for nobody.
//!
//! Lock order: switch, then kernel, then tally; subscribers and view last, alone. Never the other way.

mod attach;
mod install;

use super::failure::Failure;
use super::kernel::Kernel;
use super::paths::Paths;
use super::registry::{Registered, Registry};
use super::subscribers::Subscribers;
use super::tally::Tally;
use super::{Workers, lock};
use crate::config::Config;
use crate::io::maps::PORTS_MAX;
use crate::io::shortcut::{CarriedFlow, Epoch};
use crate::policy;
use crate::snapshot::{Parts, Port, PortKind, PortRecord, Snapshot};
use crate::worker::mailbox::Command;
use crate::worker::shortcut::epoch_of;
use penstock_api::message::{DropEvent, ErrorCode, Event};
use penstock_api::{EndpointId, Generation, PortId, WorkerId};
use penstock_lookup::Policy;
use std::collections::VecDeque;
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant, SystemTime};

/// How long a worker may take to take up a snapshot. It takes a round; more means that it is stuck.
const ACKNOWLEDGE_TIMEOUT: Duration = Duration::from_secs(2);

/// Events a subscriber may be behind, beside those of its beginning.
const EVENTS_MAX: usize = 1024;

/// Everything the threads of the server share.
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) paths: Paths,
    pub(crate) started: Instant,
    pub(crate) workers: Workers,
    pub(crate) subscribers: Subscribers,
    pub(crate) kernel: Mutex<Box<dyn Kernel>>,
    pub(crate) tally: Mutex<Tally>,
    /// Newest last.
    pub(crate) recent_drops: Mutex<VecDeque<DropEvent>>,
    /// Share of busy rounds of each worker in the last second; `None`: it made no round at all.
    pub(crate) busy: Mutex<Vec<Option<f64>>>,
    /// Is a capture running? Workers have room for one.
    pub(crate) capturing: AtomicBool,
    pub(crate) stopping: AtomicBool,
    switch: Mutex<Switch>,
    changed: Condvar,
    view: Mutex<Arc<View>>,
    disk: Mutex<Disk>,
}

/// What changes.
struct Switch {
    registry: Registry,
    policy: Arc<Policy>,
    policy_since: SystemTime,
    host_addresses: Vec<IpAddr>,
    snapshot: Arc<Snapshot>,
    /// What the kernel was told last of each port, by slot.
    epochs: Vec<(PortId, Epoch)>,
    /// Which port's frames must all be seen, because somebody captures them; `Some(None)`: every port's.
    captured: Option<Option<PortId>>,
    /// Workers whose mailbox had no room for the last snapshot.
    unsent: Vec<WorkerId>,
    /// What was found amiss at the start, one sentence each.
    notes: Vec<String>,
}

/// What was true after the last change, for those who only look.
pub(crate) struct View {
    pub(crate) snapshot: Arc<Snapshot>,
    /// In force, by slot.
    pub(crate) ports: Vec<Registered>,
    pub(crate) leaving: Vec<Registered>,
    pub(crate) policy_since: SystemTime,
    pub(crate) notes: Vec<String>,
}

impl View {
    pub(crate) fn port(&self, id: PortId) -> Option<&Registered> {
        self.ports.iter().find(|port| port.id == id)
    }
}

/// What of the policy is on disk.
struct Disk {
    generation: Generation,
    /// The policy that should be there, and why it is not.
    failed: Option<(Arc<Policy>, String)>,
}

/// What [`Shared`] begins with.
pub(crate) struct Beginning {
    pub(crate) config: Config,
    pub(crate) paths: Paths,
    pub(crate) workers: Workers,
    pub(crate) kernel: Box<dyn Kernel>,
    pub(crate) registry: Registry,
    pub(crate) policy: Arc<Policy>,
    pub(crate) policy_since: SystemTime,
    pub(crate) host_addresses: Vec<IpAddr>,
    pub(crate) notes: Vec<String>,
}

/// An attach that succeeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Attached {
    pub(crate) port: PortId,
    pub(crate) endpoint: EndpointId,
}

impl Shared {
    /// Builds the first snapshot and leaves it in every mailbox: a worker started after this knows everything before it
    /// receives its first frame.
    pub(crate) fn new(beginning: Beginning) -> Self {
        let Beginning {
            config,
            paths,
            workers,
            mut kernel,
            registry,
            policy,
            policy_since,
            host_addresses,
            notes,
        } = beginning;
        let generation = policy.generation();
        let parts = parts(&config, kernel.host_mac(), &registry, &policy, &host_addresses);
        let mut snapshot = Snapshot::build(None, parts);
        // What the kernel carries by itself goes on under the same revisions, as far as it would be allowed now.
        snapshot.resume(|port, endpoint| {
            let epoch = kernel.epoch(port);
            (epoch.endpoint() == endpoint).then(|| epoch.revision())
        });
        let snapshot = Arc::new(snapshot);
        let mut switch = Switch {
            registry,
            policy,
            policy_since,
            host_addresses,
            snapshot,
            epochs: Vec::new(),
            captured: None,
            unsent: Vec::new(),
            notes,
        };
        switch.epochs = switch.new_epochs();
        kernel.set_epochs(&switch.epochs);
        kernel.keep_carried(&mut |flow| is_carried_on(&switch.snapshot, flow));
        let view = Mutex::new(Arc::new(switch.view()));
        send_snapshot(&workers, &mut switch);
        Shared {
            busy: Mutex::new(vec![Some(0.0); workers.mailboxes.len()]),
            config,
            paths,
            started: Instant::now(),
            workers,
            subscribers: Subscribers::default(),
            kernel: Mutex::new(kernel),
            tally: Mutex::default(),
            recent_drops: Mutex::default(),
            capturing: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            switch: Mutex::new(switch),
            changed: Condvar::new(),
            view,
            disk: Mutex::new(Disk { generation, failed: None }),
        }
    }

    pub(crate) fn view(&self) -> Arc<View> {
        lock(&self.view).clone()
    }

    /// What is tried again from time to time.
    pub(crate) fn retry(&self) {
        let failed = lock(&self.disk).failed.as_ref().map(|(policy, _)| policy.clone());
        if let Some(policy) = failed {
            self.keep(&policy);
        }
        let mut switch = lock(&self.switch);
        if !switch.registry.leaving().is_empty() {
            self.retry_leaving(&mut switch);
        }
        if !switch.unsent.is_empty() {
            send_snapshot(&self.workers, &mut switch);
        }
        self.workers.empty_bins();
    }

    /// The node's addresses, as they are now. Publishes when they changed.
    pub(crate) fn set_host_addresses(&self, addresses: Vec<IpAddr>) {
        let mut switch = lock(&self.switch);
        if switch.host_addresses == addresses {
            return;
        }
        tracing::info!(addresses = crate::config::list(&addresses), "addresses of the node changed");
        switch.host_addresses = addresses.clone();
        if let Err(failure) = self.publish(&mut switch) {
            tracing::error!("addresses of the node changed, but {failure}");
        }
        self.subscribers.tell(&Event::HostAddresses { host_addresses: addresses });
    }

    /// Adds a subscriber: what is attached, then that this was all, then whatever happens.
    pub(crate) fn subscribe(&self, stream: UnixStream) -> (u64, Receiver<Event>) {
        let switch = lock(&self.switch);
        let mut first: Vec<Event> = switch
            .registry
            .present()
            .map(|port| Event::Attached { endpoint: port.endpoint, port: port.port.clone() })
            .collect();
        first.push(Event::Synced {
            host_addresses: switch.host_addresses.clone(),
            pod_ranges: self.config.pod_ranges.clone(),
        });
        self.subscribers.add(stream, EVENTS_MAX, first)
    }

    /// Waits until every worker runs the first snapshot.
    pub(crate) fn await_workers(&self) -> Result<(), Failure> {
        self.acknowledged(&lock(&self.switch))
    }

    fn publish(&self, switch: &mut Switch) -> Result<(), Failure> {
        let host_mac = lock(&self.kernel).host_mac();
        let parts = parts(&self.config, host_mac, &switch.registry, &switch.policy, &switch.host_addresses);
        switch.snapshot = Arc::new(Snapshot::build(Some(&switch.snapshot), parts));
        *lock(&self.view) = Arc::new(switch.view());
        // First what the kernel does by itself: from here on it asks the workers, about what the old policy allowed too.
        self.tell_epochs(switch);
        send_snapshot(&self.workers, switch);
        let result = self.acknowledged(switch);
        self.workers.empty_bins();
        self.changed.notify_all();
        result
    }

    fn tell_epochs(&self, switch: &mut Switch) {
        let epochs = switch.new_epochs();
        let is_old = |new: &&(PortId, Epoch)| switch.epochs.get(new.0.index()).is_some_and(|old| old == *new);
        let changed: Vec<_> = epochs.iter().filter(|new| !is_old(new)).copied().collect();
        if !changed.is_empty() {
            lock(&self.kernel).set_epochs(&changed);
        }
        switch.epochs = epochs;
    }

    /// While somebody captures a port's frames, all of them come to a worker. `None`: nobody does.
    pub(crate) fn set_captured(&self, captured: Option<Option<PortId>>) {
        let mut switch = lock(&self.switch);
        switch.captured = captured;
        self.tell_epochs(&mut switch);
    }

    fn acknowledged(&self, switch: &Switch) -> Result<(), Failure> {
        let begun = Instant::now();
        loop {
            let Some(worker) = self.workers.late(switch.snapshot.serial) else { return Ok(()) };
            let waited = begun.elapsed();
            if waited >= ACKNOWLEDGE_TIMEOUT {
                return Err(Failure::new(
                    ErrorCode::NotReady,
                    format!(
                        "worker {worker} did not take up the change within {} ms (the others did what they could); see `penstock status`, and restart the switch if it stays so",
                        ACKNOWLEDGE_TIMEOUT.as_millis()
                    ),
                ));
            }
            // A worker's round takes microseconds; one that sleeps is woken by its mailbox.
            match waited < Duration::from_micros(200) {
                true => std::thread::yield_now(),
                false => std::thread::sleep(Duration::from_micros(100)),
            }
        }
    }
}

impl Switch {
    /// Of a port in force.
    fn endpoint(&self, id: PortId) -> Option<EndpointId> {
        self.registry.get(id).filter(|port| !port.leaving).map(|port| port.endpoint)
    }

    /// By slot: whose flows the kernel may carry, and under which revision of their policy they must have been judged.
    fn new_epochs(&self) -> Vec<(PortId, Epoch)> {
        let is_captured = |id| self.captured.is_some_and(|captured| captured.is_none_or(|only| only == id));
        let epoch = |id| match self.snapshot.port(id) {
            Some(port) if port.kind != PortKind::Host && port.ready && !is_captured(id) => epoch_of(port),
            _ => Epoch::NONE,
        };
        (0..PORTS_MAX as u16).map(PortId).map(|id| (id, epoch(id))).collect()
    }

    fn view(&self) -> View {
        View {
            snapshot: self.snapshot.clone(),
            ports: self.registry.present().cloned().collect(),
            leaving: self.registry.leaving(),
            policy_since: self.policy_since,
            notes: self.notes.clone(),
        }
    }
}

/// Would policy let this flow go on, between the ports it was between? `flow` is its first packet's direction.
fn is_carried_on(snapshot: &Snapshot, flow: &CarriedFlow) -> bool {
    let (Some(source), Some(target)) = (snapshot.port(flow.source), snapshot.port(flow.target)) else {
        return false;
    };
    let is_whose = |port: &Port, address| snapshot.port_of(address).is_some_and(|owner| owner.id == port.id);
    is_whose(source, flow.key.source_address())
        && is_whose(target, flow.key.destination_address())
        && policy::judge(snapshot, source, target, &flow.key, policy::question(&flow.key, true)).is_ok()
}

/// Leaves the present snapshot in every mailbox. Those without room are tried again by [`Shared::retry`].
fn send_snapshot(workers: &Workers, switch: &mut Switch) {
    switch.unsent.clear();
    for (worker, mailbox) in workers.mailboxes.iter().enumerate() {
        if mailbox.send(Command::Snapshot(switch.snapshot.clone())).is_err() {
            switch.unsent.push(WorkerId(worker as u8));
        }
    }
}

fn parts(
    config: &Config,
    host_mac: [u8; 6],
    registry: &Registry,
    policy: &Arc<Policy>,
    host_addresses: &[IpAddr],
) -> Parts {
    let host = PortRecord {
        id: PortId::HOST,
        kind: PortKind::Host,
        endpoint: EndpointId::NONE,
        pod: None,
        mac: host_mac,
        addresses: Vec::new(),
        mtu: config.mtu,
        device: 0,
    };
    Parts {
        policy: policy.clone(),
        ports: std::iter::once(host).chain(registry.present().map(Registered::record)).collect(),
        host_addresses: host_addresses.to_vec(),
        pod_ranges: config.pod_ranges.clone(),
    }
}
