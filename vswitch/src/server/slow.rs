//! What is done from time to time, beside the workers: sampled drops into words, busy shares, the node's addresses, and
//! whatever failed and may succeed now.

use super::host::HostAddresses;
use super::switch::Shared;
use super::{lock, start, words};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

const TICK: Duration = Duration::from_millis(100);
const TICKS_PER_SECOND: u32 = 10;

/// Sampled drops that are kept.
const RECENT_MAX: usize = 256;

pub(crate) fn spawn(
    shared: &Arc<Shared>,
    mut host_addresses: HostAddresses,
) -> std::io::Result<JoinHandle<()>> {
    let shared = shared.clone();
    std::thread::Builder::new().name("slow".into()).spawn(move || {
        let mut busy = Busy::new(&shared);
        let mut addresses_fail = false;
        for tick in 1u32.. {
            std::thread::sleep(TICK);
            if shared.stopping.load(Ordering::SeqCst) {
                return;
            }
            collect_drops(&shared);
            if tick.is_multiple_of(TICKS_PER_SECOND) {
                busy.measure(&shared);
                shared.retry();
                match start::all_host_addresses(&mut host_addresses, &shared.config) {
                    Ok(addresses) => {
                        addresses_fail = false;
                        shared.set_host_addresses(addresses);
                    }
                    // The last ones known stay in force. Said once.
                    Err(error) => {
                        if !std::mem::replace(&mut addresses_fail, true) {
                            tracing::error!("the node's addresses cannot be read: {error}");
                        }
                    }
                }
            }
        }
    })
}

/// Moves samples from workers to where clients can see them.
fn collect_drops(shared: &Shared) {
    let time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let view = shared.view();
    for mailbox in &shared.workers.mailboxes {
        // Bounded by the queue's length: a worker that samples as fast as we read must not keep us here.
        for _ in 0..mailbox.drop_events.capacity() {
            let Some(sample) = mailbox.drop_events.pop() else { break };
            let event = words::event(&sample, &view, time.as_millis() as u64);
            let mut recent = lock(&shared.recent_drops);
            if recent.len() == RECENT_MAX {
                recent.pop_front();
            }
            recent.push_back(event);
        }
    }
}

/// Rounds at the last look.
struct Busy {
    last: Vec<(u64, u64)>,
}

impl Busy {
    fn new(shared: &Shared) -> Self {
        Busy { last: vec![(0, 0); shared.workers.counters.len()] }
    }

    fn measure(&mut self, shared: &Shared) {
        let mut shares = lock(&shared.busy);
        for ((last, share), counters) in
            self.last.iter_mut().zip(shares.iter_mut()).zip(&shared.workers.counters)
        {
            let now = (counters.rounds.get(), counters.busy_rounds.get());
            let (rounds, busy) = (now.0.wrapping_sub(last.0), now.1.wrapping_sub(last.1));
            // Even a worker that sleeps makes some rounds a second.
            *share = (rounds > 0).then(|| (busy as f64 / rounds as f64).min(1.0));
            *last = now;
        }
    }
}
