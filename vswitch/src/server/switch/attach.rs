//! Ports come and go. In that order: what is recorded, the snapshot, the kernel, and whoever is told; on the way out the snapshot comes first.

use super::{Attached, Shared, Switch};
use crate::server::failure::Failure;
use crate::server::registry::{self, Admission, Registered};
use crate::server::tally::Tally;
use crate::server::{lock, store};
use crate::worker::counters::Counters;
use crate::worker::mailbox::Command;
use penstock_api::PortId;
use penstock_api::message::{ErrorCode, Event, PodPort};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

/// The longest an attach may wait, whatever it asks for.
const WAIT_MAX: Duration = Duration::from_secs(120);

impl Shared {
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
    pub(super) fn retry_leaving(&self, switch: &mut Switch) {
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
}
