//! From what an earlier process left to a switch that serves.
//!
//! Order: policy from disk, ports from disk, the ports the kernel still has adopted, the first snapshot, and only then
//! workers and clients. Nothing on disk can keep the switch from starting: what cannot be read is put aside and said aloud,
//! and whatever it would have allowed is refused until the control plane says it anew.

use super::host::HostAddresses;
use super::kernel::Kernel;
use super::registry::{self, Registry};
use super::switch::{Beginning, Shared};
use super::{InstanceLock, Parts, Paths, Server, connection, slow, store};
use crate::config::{Config, list};
use crate::snapshot::Snapshot;
use penstock_api::Artefact;
use penstock_lookup::Policy;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Why the switch does not serve. What an earlier process left is as it was.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("the node's own addresses cannot be read: {0}")]
    HostAddresses(String),
    #[error("{0}")]
    Direct(String),
    #[error("the switch does not start: {0}")]
    Workers(String),
    #[error("the control socket {} cannot be opened: {error}; run this as root", socket.display())]
    Socket { socket: std::path::PathBuf, error: std::io::Error },
    #[error("no thread can be started: {0}")]
    Thread(std::io::Error),
}

/// A server that knows everything and serves nobody yet. The first snapshot is in every mailbox.
pub struct Prepared {
    shared: Arc<Shared>,
    host_addresses: HostAddresses,
    lock: InstanceLock,
}

impl Prepared {
    /// The first snapshot, to build workers with.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.shared.view().snapshot.clone()
    }

    /// Waits until every worker runs the first snapshot, then opens the control socket.
    pub fn serve(self) -> Result<Server, StartError> {
        let Prepared { shared, host_addresses, lock } = self;
        shared.await_workers().map_err(|failure| StartError::Workers(failure.message))?;
        let listener = connection::Listener::open(&shared)?;
        let mut server = Server { shared, listener, threads: Vec::new(), _lock: lock };
        // From here on a failure stops what was started, by dropping the server.
        server.threads.push(slow::spawn(&server.shared, host_addresses).map_err(StartError::Thread)?);
        server.threads.push(server.listener.spawn(&server.shared).map_err(StartError::Thread)?);
        Ok(server)
    }
}

impl std::fmt::Debug for Prepared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Prepared").field("paths", &self.shared.paths).finish_non_exhaustive()
    }
}

pub(super) fn prepare(parts: Parts) -> Result<Prepared, StartError> {
    let Parts { config, paths, lock, mut kernel, workers, mut host_addresses } = parts;
    let mut notes = Vec::new();
    let (policy, policy_since) = policy_from_disk(&paths, &mut notes);
    let mut registry = registry_from_disk(&paths, &config, &mut notes);
    adopt(&mut registry, kernel.as_mut(), &config, &mut notes);
    registry.set_direct(&config.direct, config.mtu).map_err(|failure| StartError::Direct(failure.message))?;
    let direct = registry.present().filter(|port| port.is_direct());
    let direct: Vec<_> = direct.map(|port| (port.record(), port.port.interface.clone())).collect();
    kernel.set_direct(&direct);
    if let Err(error) = store::write(&paths.ports(), &registry.stored()) {
        say(&mut notes, format!("{error}; pods cannot be attached until it can"));
    }
    let addresses = all_host_addresses(&mut host_addresses, &config).map_err(StartError::HostAddresses)?;
    tracing::info!(
        generation = %policy.generation(),
        ports = registry.present().count(),
        addresses = list(&addresses),
        "prepared"
    );
    let shared = Arc::new(Shared::new(Beginning {
        config,
        paths,
        workers,
        kernel,
        registry,
        policy: Arc::new(policy),
        policy_since,
        host_addresses: addresses,
        notes,
    }));
    Ok(Prepared { shared, host_addresses, lock })
}

/// Those of the interfaces and those of the configuration.
pub(super) fn all_host_addresses(from: &mut HostAddresses, config: &Config) -> Result<Vec<IpAddr>, String> {
    let mut addresses = from.read()?;
    addresses.extend(&config.host_addresses);
    addresses.sort();
    addresses.dedup();
    Ok(addresses)
}

/// To the log at once, and to the status for as long as the process lives.
fn say(notes: &mut Vec<String>, note: String) {
    tracing::error!("{note}");
    notes.push(note);
}

/// The last good artefact. Without one everything is isolated.
fn policy_from_disk(paths: &Paths, notes: &mut Vec<String>) -> (Policy, SystemTime) {
    let file = paths.artefact();
    let built = match store::read::<Artefact>(&file) {
        Ok(None) => None,
        Ok(Some(artefact)) => Some(Policy::build(artefact).map_err(|error| error.to_string())),
        Err(error) => Some(Err(error.to_string())),
    };
    match built {
        Some(Ok(policy)) => {
            let since = std::fs::metadata(&file).and_then(|meta| meta.modified());
            return (policy, since.unwrap_or_else(|_| SystemTime::now()));
        }
        Some(Err(error)) => say(
            notes,
            format!(
                "the policy kept on disk cannot be used ({error}); every pod is isolated until the control plane installs one; the file is now {}",
                store::put_aside(&file).display()
            ),
        ),
        None => {}
    }
    (Policy::build(Artefact::empty()).expect("the empty artefact is valid"), SystemTime::now())
}

fn registry_from_disk(paths: &Paths, config: &Config, notes: &mut Vec<String>) -> Registry {
    let file = paths.ports();
    match store::read(&file) {
        Ok(None) => Registry::new(config.ports_max, 1),
        Ok(Some(stored)) => {
            let (registry, refused) = Registry::restore(stored, config.ports_max);
            for (port, reason) in refused {
                say(
                    notes,
                    format!(
                        "port {} of pod {} was not adopted: {reason}; create the pod anew",
                        port.id, port.port.pod
                    ),
                );
            }
            registry
        }
        Err(error) => {
            say(
                notes,
                format!(
                    "ports attached earlier are not known any more ({error}); their pods are cut off, create them anew; the file is now {}",
                    store::put_aside(&file).display()
                ),
            );
            Registry::new(config.ports_max, endpoint_from_clock())
        }
    }
}

/// Where endpoint ids begin when nobody knows which were given out: flow tables may still name them. Attachments are rarer
/// than seconds, so the seconds since 2020 are ahead of any count that began at 1.
fn endpoint_from_clock() -> u32 {
    const Y2020: Duration = Duration::from_secs(1_577_836_800);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u32::try_from(now.saturating_sub(Y2020).as_secs()).unwrap_or(u32::MAX / 2)
}

/// Keeps the ports the kernel still has, and lets go of the others.
fn adopt(registry: &mut Registry, kernel: &mut dyn Kernel, config: &Config, notes: &mut Vec<String>) {
    let pods: Vec<_> = registry.present().filter(|port| !port.is_direct()).cloned().collect();
    for port in pods {
        let (id, pod, host_end) = (port.id, &port.port.pod, &port.port.host_end);
        // One whose interface cannot even be asked for fails below, and is named.
        if let Ok(false) = kernel.host_end_exists(host_end) {
            // The machine was rebooted, or the pod was deleted while nobody was listening.
            tracing::warn!(%id, %pod, host_end, "not adopted: its interface is gone");
            registry.leave(id);
            continue;
        }
        if let Err(failure) = registry::validate(&port.port, config) {
            say(
                notes,
                format!("pod {pod} was adopted although it does not fit the configuration: {failure}"),
            );
        }
        match kernel.attach_pod(&port.record(), host_end) {
            Ok(()) => tracing::info!(%id, endpoint = %port.endpoint, %pod, "adopted"),
            Err(error) => {
                say(notes, format!("pod {pod} was not adopted and is cut off, create it anew: {error}"));
                registry.leave(id);
            }
        }
    }
    for port in registry.leaving() {
        match kernel.detach_pod(port.id, &port.port.host_end) {
            Ok(()) => drop(registry.remove(port.id)),
            Err(error) => tracing::warn!("port {} is detached, but the kernel keeps it: {error}", port.id),
        }
    }
}
