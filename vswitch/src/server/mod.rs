//! The server: the control socket, the port registry, persistence, adoption, status.
//!
//! The problem: policy, pods and the node's addresses change while packets flow, clients and disks fail halfway, and the
//! process itself may end at any moment. The shape: one state machine behind one mutex ([`switch`]), a thread per connection in
//! front of it, a slow thread beside it; to workers it speaks through mailboxes only, to the kernel through [`Kernel`] only.
//!
//! The promise: what was refused changed nothing; what was answered is in force on every worker and on disk; a port is never
//! in force without being recorded. Owner of all state here: [`Server`].
//!
//! | module | what it does |
//! |---|---|
//! | [`paths`] | directories, and the lock that makes a switch the only one of its instance |
//! | [`store`] | files that are whole or not there |
//! | [`registry`] | who has which port |
//! | [`switch`] | what may happen, in which order |
//! | [`start`] | policy from disk, ports adopted, the first snapshot |
//! | [`connection`] | the socket: who may connect, framing, streams |
//! | [`answer`] | requests that only look |
//! | [`slow`] | what is done from time to time |

mod answer;
mod connection;
mod failure;
mod host;
pub mod kernel;
pub mod paths;
mod registry;
mod slow;
mod start;
mod store;
mod subscribers;
mod switch;
mod tally;
mod words;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use host::HostAddresses;
pub use kernel::{Kernel, KernelError};
pub use paths::{InstanceLock, LockError, Paths};
pub use start::{Prepared, StartError};

use crate::config::Config;
use crate::worker::counters::Counters;
use crate::worker::mailbox::{Command, Mailbox};
use penstock_api::WorkerId;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// What the server is made of.
pub struct Parts {
    pub config: Config,
    pub paths: Paths,
    /// Taken before anything of the instance was touched.
    pub lock: InstanceLock,
    pub kernel: Box<dyn Kernel>,
    pub workers: Workers,
    /// Where to read the node's addresses.
    pub host_addresses: HostAddresses,
}

/// The server's ends of the workers. Index: [`WorkerId`].
#[derive(Debug, Clone, Default)]
pub struct Workers {
    pub mailboxes: Vec<Arc<Mailbox>>,
    pub counters: Vec<Arc<Counters>>,
}

impl Workers {
    /// A worker that does not run the snapshot of this serial yet.
    fn late(&self, serial: u64) -> Option<WorkerId> {
        self.counters
            .iter()
            .position(|counters| counters.serial.get() < serial)
            .map(|worker| WorkerId(worker as u8))
    }

    fn empty_bins(&self) {
        self.mailboxes.iter().for_each(|mailbox| mailbox.empty_bin());
    }

    fn ids(&self) -> impl Iterator<Item = WorkerId> + use<> {
        (0..self.mailboxes.len()).map(|worker| WorkerId(worker as u8))
    }
}

/// A running server. Dropping it stops it; what is attached stays attached.
pub struct Server {
    shared: Arc<switch::Shared>,
    listener: connection::Listener,
    threads: Vec<JoinHandle<()>>,
    _lock: InstanceLock,
}

impl Server {
    /// Everything except serving: policy from disk, ports adopted, the first snapshot left in every mailbox. Workers may be
    /// spawned before or after; they must not receive a frame before they have that snapshot.
    pub fn prepare(parts: Parts) -> Result<Prepared, StartError> {
        start::prepare(parts)
    }

    /// Stops serving and tells the workers to stop. Interfaces, programs and tables stay as they are.
    pub fn stop(self) {}
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        self.listener.close();
        for thread in self.threads.drain(..) {
            // A thread that panicked has said so already.
            let _ = thread.join();
        }
        for mailbox in &self.shared.workers.mailboxes {
            // A worker that does not read its mailbox ends with the process.
            let _ = mailbox.send(Command::Stop);
        }
    }
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("paths", &self.shared.paths).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Parts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parts").field("config", &self.config).finish_non_exhaustive()
    }
}

/// Locks. A thread that panicked with the lock held was caught between two whole states, not inside one: snapshots are built
/// before they are stored, and one lost request must not end the service of all others.
fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
