//! The thread beside the workers: sees trunks that stand still, has trunks of busy workers collect frames, and keeps the gates of
//! ports that are sent frames in bulk.

use super::bulk;
use super::lock;
use crate::io::bpf::Programs;
use crate::io::coalesce::{self, Coalesce, Rate};
use crate::io::setup::Links;
use crate::worker::counters::Counters;
use crate::worker::mailbox::{Command, Mailbox};
use crate::worker::prefer;
use crate::worker::watchdog::{self, Seen, Watched};
use penstock_api::WorkerId;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// What makes trunks collect frames, by worker. The operator is told once where the kernel does not have it.
pub(super) fn open_coalesce(links: &Links, notes: &mut Vec<String>) -> Vec<Option<Coalesce>> {
    let mut list = Vec::new();
    for trunk in &links.trunks {
        list.push(match Coalesce::open(&links.netns, &trunk.near.name) {
            Ok(coalesce) => Some(coalesce),
            Err(error) => {
                notes.push(format!(
                    "{} cannot collect frames into batches, bulk transfers are slower: {error}; Linux 5.8 or newer and \
                     CAP_SYS_ADMIN are needed",
                    trunk.near.name
                ));
                None
            }
        });
    }
    list
}

/// Sees trunks into which the port programs send while nothing arrives, and has their sockets bound anew. Has trunks of busy
/// workers collect frames. Between that it waits for what `bulk` is told.
pub(super) fn watch(
    programs: &Mutex<Programs>,
    counters: &[Arc<Counters>],
    mailboxes: &[Arc<Mailbox>],
    mut coalesce: Vec<Option<Coalesce>>,
    mut bulk: bulk::Watcher,
    stopping: &AtomicBool,
) {
    // It does little, and while it waits for a CPU frames may go where nobody takes them. The workers tell when they may not.
    let _ = prefer::thread();
    let look = |worker: usize| {
        let counters = &counters[worker];
        let sent = lock(programs).trunk_frames(WorkerId(worker as u8)).0;
        Seen { sent, received: counters.received.get(), rounds: counters.rounds.get() }
    };
    let mut workers: Vec<Watched> = (0..counters.len()).map(|worker| Watched::new(look(worker))).collect();
    let mut rates: Vec<Rate> = counters.iter().map(|_| Rate::default()).collect();
    let mut next_look = Instant::now() + watchdog::INTERVAL;
    while !stopping.load(Ordering::Relaxed) {
        bulk.wait(Instant::now() + coalesce::INTERVAL);
        for ((rate, counters), coalesce) in rates.iter_mut().zip(counters).zip(&mut coalesce) {
            if let (Some(is_on), Some(near)) = (rate.look(counters.received.get()), coalesce.as_mut())
                && let Err(error) = near.set(is_on)
            {
                tracing::warn!("a trunk's batching cannot be changed any more: {error}");
                *coalesce = None;
            }
        }
        let now = Instant::now();
        if now < next_look {
            continue;
        }
        // At the same pace although this thread wakes late; looks that were slept through are not made up for.
        next_look = (next_look + watchdog::INTERVAL).max(now);
        for (worker, watched) in workers.iter_mut().enumerate() {
            if watched.look(look(worker), now) {
                tracing::warn!(worker, "frames go into the trunk and none arrive: binding its socket anew");
                let _ = mailboxes[worker].send(Command::Rebind);
            }
        }
    }
}
