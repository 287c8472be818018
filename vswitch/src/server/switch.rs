//! The state machine: what may happen to ports and policy, and in which order.
//!
//! One mutex, held by whoever changes something. A change is: the registry, the disk, a new snapshot published and
//! acknowledged by every worker, the kernel, the event. Removing begins with the snapshot, so that at no moment anything is
//! forwarded for a port that is not recorded. Reading (status, ports, drops) looks at the last [`View`] and waits for nobody.
//!
//! Lock order: switch, then kernel, then tally; subscribers and view last, alone. Never the other way.

use super::failure::Failure;
use super::kernel::Kernel;
use super::paths::Paths;
use super::registry::{self, Admission, Registered, Registry};
use super::subscribers::Subscribers;
use super::tally::Tally;
use super::{Workers, lock, store};
use crate::config::Config;
use crate::io::maps::PORTS_MAX;
use crate::io::shortcut::{CarriedFlow, Epoch};
use crate::policy;
use crate::snapshot::{Parts, Port, PortKind, PortRecord, Snapshot};
use crate::worker::counters::Counters;
use crate::worker::mailbox::Command;
use crate::worker::shortcut::epoch_of;
use penstock_api::message::{DropEvent, ErrorCode, Event, PodPort};
use penstock_api::{Artefact, Difference, EndpointId, Generation, PortId, WorkerId};
use penstock_lookup::Policy;
use std::collections::VecDeque;
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// How long a worker may take to take up a snapshot. It takes a round; more means that it is stuck.
const ACKNOWLEDGE_TIMEOUT: Duration = Duration::from_secs(2);

/// The longest an attach may wait, whatever it asks for.
const WAIT_MAX: Duration = Duration::from_secs(120);

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

    /// Attaches a pod's interface and waits until policy for it is in force on every worker. When that does not happen in
    /// time, nothing was attached.
    pub(crate) fn attach(&self, port: &PodPort, wait: Duration) -> Result<Attached, Failure> {
        registry::validate(port, &self.config)?;
        let deadline = Instant::now() + wait.min(WAIT_MAX);
        let mut switch = lock(&self.switch);
        let mut admission = switch.registry.admit(port, &switch.host_addresses);
        if admission.is_err() {
            let rivals = switch.registry.rivals(port);
            if self.remove_dead(&mut switch, &rivals) {
                admission = switch.registry.admit(port, &switch.host_addresses);
            }
        }
        let (id, is_ours) = match admission? {
            Admission::Already(id) => {
                // Whoever asks again may have lost more than our answer.
                self.attach_in_kernel(&switch, id)?;
                (id, false)
            }
            Admission::New => (self.admit(&mut switch, port)?, true),
        };
        let endpoint = switch.endpoint(id).expect("it was found or added under this lock");
        loop {
            if switch.endpoint(id) != Some(endpoint) {
                return Err(Failure::conflict(format!(
                    "{} of container {} was detached while it was being attached; add it again",
                    port.interface, port.container_id
                )));
            }
            let ready = switch.snapshot.port(id).is_some_and(|port| port.ready);
            if ready && self.workers.late(switch.snapshot.serial).is_none() {
                return Ok(Attached { port: id, endpoint });
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            // Woken by every publication; in slices, because a late worker tells nobody when it has caught up.
            let slice = left.min(Duration::from_millis(50));
            switch = self.changed.wait_timeout(switch, slice).unwrap_or_else(PoisonError::into_inner).0;
        }
        let failure = self.why_not_ready(&switch, port, wait);
        if is_ours {
            self.remove(&mut switch, id);
        }
        Err(failure)
    }

    /// Records, publishes and attaches a new port, isolated as yet. All or nothing.
    fn admit(&self, switch: &mut Switch, port: &PodPort) -> Result<PortId, Failure> {
        // One that left under this name must be gone entirely, or undoing it later would undo us.
        self.retry_leaving(switch);
        if let Some(old) = switch.registry.leaving().iter().find(|old| old.port.host_end == port.host_end) {
            return Err(Failure::new(
                ErrorCode::Kernel,
                format!(
                    "host end {} is still being detached from port {}; see `penstock status`",
                    port.host_end, old.id
                ),
            ));
        }
        let id = switch.registry.add(port.clone())?;
        if let Err(error) = store::write(&self.paths.ports(), &switch.registry.stored()) {
            switch.registry.remove(id);
            return Err(Failure::new(ErrorCode::Kernel, format!("nothing was attached: {error}")));
        }
        let carried = Vec::from_iter(lock(&self.kernel).carried_by_ports());
        self.turn_over(&mut lock(&self.tally), &carried, id);
        let attached = self.publish(switch).and_then(|()| self.attach_in_kernel(switch, id)).map(|()| {
            let drops = lock(&self.kernel).drops();
            lock(&self.tally).turn_over_kernel(&drops, id);
        });
        if let Err(failure) = attached {
            self.remove(switch, id);
            return Err(failure);
        }
        let endpoint = switch.endpoint(id).expect("it was added above");
        tracing::info!(%id, %endpoint, pod = %port.pod, container = port.container_id, "attached");
        self.subscribers.tell(&Event::Attached { endpoint, port: port.clone() });
        Ok(id)
    }

    fn attach_in_kernel(&self, switch: &Switch, id: PortId) -> Result<(), Failure> {
        let port = switch.registry.get(id).expect("the caller has found or added it under this lock");
        lock(&self.kernel)
            .attach_pod(&port.record(), &port.port.host_end)
            .map_err(|error| Failure::new(ErrorCode::Kernel, error))
    }

    /// Removes those of these ports whose interface is gone: pods that ended without anybody telling us. Was there one?
    fn remove_dead(&self, switch: &mut Switch, ports: &[Registered]) -> bool {
        let mut removed = false;
        for port in ports {
            let exists = lock(&self.kernel).host_end_exists(&port.port.host_end);
            if let Ok(false) = exists {
                tracing::warn!(id = %port.id, pod = %port.port.pod, "detached: its interface is gone, and somebody needs its place");
                self.remove(switch, port.id);
                removed = true;
            }
        }
        removed
    }

    fn why_not_ready(&self, switch: &Switch, port: &PodPort, waited: Duration) -> Failure {
        let artefact = switch.policy.artefact();
        let generation = artefact.generation;
        let reason = if let Some(worker) = self.workers.late(switch.snapshot.serial) {
            format!("worker {worker} does not take up changes; see `penstock status`, and restart the switch")
        } else if self.subscribers.count() == 0 {
            "no control plane is connected; start penstock-control".to_owned()
        } else {
            match artefact.pods.iter().find(|pod| pod.pod.is_same_pod(&port.pod)) {
                None => format!(
                    "the control plane is connected, but pod {} is not in generation {generation}, the last it installed; does the Pod object exist, and can the control plane read it?",
                    port.pod
                ),
                Some(pod) => format!(
                    "generation {generation} knows pod {} with addresses {}, not with {}",
                    port.pod,
                    crate::config::list(&pod.addresses),
                    crate::config::list(&port.addresses)
                ),
            }
        };
        Failure::new(
            ErrorCode::NotReady,
            format!(
                "policy for pod {} did not become live within {} ms: {reason}",
                port.pod,
                waited.as_millis()
            ),
        )
    }

    /// Detaches; nothing to detach is success.
    pub(crate) fn detach(&self, container_id: &str, interface: &str) {
        let mut switch = lock(&self.switch);
        if let Some(id) = switch.registry.find(container_id, interface).map(|port| port.id) {
            self.remove(&mut switch, id);
        }
    }

    /// Takes a port out of force. Goes all the way whatever fails on it: what the kernel does not let go of yet keeps its
    /// slot and is tried again.
    fn remove(&self, switch: &mut Switch, id: PortId) {
        let Some(endpoint) = switch.endpoint(id) else { return };
        switch.registry.leave(id);
        if let Err(error) = store::write(&self.paths.ports(), &switch.registry.stored()) {
            tracing::error!("port {id} is detached, but not on disk: {error}");
        }
        if let Err(failure) = self.publish(switch) {
            tracing::error!("port {id} is detached, but {failure}");
        }
        for (worker, mailbox) in self.workers.mailboxes.iter().enumerate() {
            if mailbox.send(Command::ForgetEndpoint(endpoint)).is_err() {
                tracing::error!(
                    "worker {worker} does not read its mailbox; flows of port {id} stay until they age"
                );
            }
        }
        let pod = switch.registry.get(id).map(|port| port.port.pod.clone());
        self.retry_leaving(switch);
        if let Some(pod) = pod {
            tracing::info!(%id, %endpoint, %pod, "detached");
            self.subscribers.tell(&Event::Detached { endpoint, pod });
        }
    }

    /// Has the kernel let go of ports that left? Their slots become free.
    fn retry_leaving(&self, switch: &mut Switch) {
        for port in switch.registry.leaving() {
            let (drops, carried, result) = {
                let mut kernel = lock(&self.kernel);
                let carried = Vec::from_iter(kernel.carried_by_ports());
                (kernel.drops(), carried, kernel.detach_pod(port.id, &port.port.host_end))
            };
            match result {
                Ok(()) => {
                    let mut tally = lock(&self.tally);
                    self.turn_over(&mut tally, &carried, port.id);
                    tally.turn_over_kernel(&drops, port.id);
                    switch.registry.remove(port.id);
                }
                Err(error) => {
                    tracing::warn!("port {} is detached, but the kernel keeps it: {error}", port.id)
                }
            }
        }
        *lock(&self.view) = Arc::new(switch.view());
    }

    fn turn_over(&self, tally: &mut Tally, carried: &[Arc<Counters>], id: PortId) {
        tally.turn_over(&[self.workers.counters.as_slice(), carried].concat(), id);
        tally.turn_over_carried(carried, id);
    }

    /// Is it attached as said, programs and all?
    pub(crate) fn check(&self, port: &PodPort) -> Result<(), Failure> {
        let switch = lock(&self.switch);
        match switch.registry.find(&port.container_id, &port.interface) {
            None => Err(registry::gone(&port.container_id, &port.interface)),
            Some(_) => match switch.registry.admit(port, &[])? {
                Admission::New => Err(registry::gone(&port.container_id, &port.interface)),
                Admission::Already(id) => {
                    let record = switch.registry.get(id).map(Registered::record).expect("it was just found");
                    lock(&self.kernel)
                        .check_pod(&record, &port.host_end)
                        .map_err(|error| Failure::new(ErrorCode::Kernel, error))
                }
            },
        }
    }

    /// Puts a policy in force. Returns the generation and the time it took until every worker ran it.
    pub(crate) fn install(&self, artefact: Artefact) -> Result<(Generation, Duration), Failure> {
        self.put_in_force(artefact, Instant::now())
    }

    /// The same with the successor of what is in force.
    pub(crate) fn change(&self, difference: Difference) -> Result<(Generation, Duration), Failure> {
        let begun = Instant::now();
        let base = self.view().snapshot.policy.clone();
        // The result is whole. Should another one come into force meanwhile, its generation is too low or its content another.
        let artefact = difference
            .apply(base.artefact())
            .map_err(|error| Failure::new(ErrorCode::Artefact, format!("{error}; nothing changed")))?;
        self.put_in_force(artefact, begun)
    }

    fn put_in_force(&self, artefact: Artefact, begun: Instant) -> Result<(Generation, Duration), Failure> {
        let offered = artefact.generation;
        let refused = |text: String| Err(Failure::new(ErrorCode::Artefact, text));
        let stale = |running: Generation| {
            refused(format!(
                "generation {offered} is not newer than {running}, which is running and stays in force; install a higher one"
            ))
        };
        // Before the work of building; again under the lock, which is what counts.
        let running = self.view().snapshot.generation();
        if offered < running {
            return stale(running);
        }
        let policy = match Policy::build(artefact) {
            Ok(policy) => Arc::new(policy),
            Err(error) => return refused(format!("{error}; generation {running} stays in force")),
        };

        let mut switch = lock(&self.switch);
        let running = switch.policy.generation();
        let published = if offered > running {
            switch.policy = policy.clone();
            switch.policy_since = SystemTime::now();
            self.publish(&mut switch)
        } else if offered == running && policy.artefact() == switch.policy.artefact() {
            // The answer to the first attempt was lost. It is in force; is it everywhere?
            self.acknowledged(&switch)
        } else {
            return stale(running);
        };
        let took = begun.elapsed();
        drop(switch);
        // In force first, on disk second: a full disk must not keep a refusal from taking effect.
        self.keep(&policy);
        published?;
        tracing::info!(generation = %offered, took_us = took.as_micros() as u64, "installed");
        Ok((offered, took))
    }

    /// Writes a policy to disk unless a newer one is there. A failure is remembered and tried again.
    fn keep(&self, policy: &Arc<Policy>) {
        let mut disk = lock(&self.disk);
        let generation = policy.generation();
        if generation <= disk.generation {
            return;
        }
        match store::write(&self.paths.artefact(), policy.artefact()) {
            Ok(()) => {
                disk.generation = generation;
                // A newer one may have failed meanwhile, and still has to be tried again.
                disk.failed = disk.failed.take().filter(|(failed, _)| failed.generation() > generation);
            }
            Err(error) => {
                tracing::error!(
                    "generation {generation} is in force, but a restart would not know it: {error}"
                );
                let newest = match disk.failed.take() {
                    Some((failed, _)) if failed.generation() > generation => failed,
                    _ => policy.clone(),
                };
                disk.failed = Some((newest, error.to_string()));
            }
        }
    }

    /// What went wrong on disk, for the status.
    pub(crate) fn disk_trouble(&self) -> Option<String> {
        let disk = lock(&self.disk);
        disk.failed.as_ref().map(|(policy, error)| {
            format!(
                "generation {} is in force but not on disk, and a restart would begin with {}: {error}",
                policy.generation(),
                disk.generation
            )
        })
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
