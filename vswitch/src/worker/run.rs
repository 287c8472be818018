//! The thread around an engine: pinning, polling, sleeping, commands, the budget of ports, and the watchdog of its own rings.

use super::engine::Engine;
use super::mailbox::Command;
use super::prefer;
use super::report;
use crate::io::maps::Rounds;
use crate::io::xsk::BATCH;
use penstock_api::message::AreaKind;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What a worker without work does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Idle {
    /// Looks again at once.
    Spin,
    /// Looks for this long, then sleeps until something comes; longer where sleeps are short ([`Patience`]).
    SpinThenSleep(Duration),
    /// Sleeps at once.
    Sleep,
}

/// Tells the kernel which socket a device has now. Index of the device, its descriptor.
pub type Announce = Box<dyn FnMut(usize, RawFd) -> Result<(), String> + Send>;

/// How a worker runs.
pub struct RunConfig {
    pub idle: Idle,
    pub cpu: Option<usize>,
    /// Where ports' budgets are.
    pub rounds: Option<Arc<Rounds>>,
    pub announce: Option<Announce>,
}

impl std::fmt::Debug for RunConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RunConfig").field("idle", &self.idle).field("cpu", &self.cpu).finish_non_exhaustive()
    }
}

/// Frames all ports together may have on their way to a worker: half of what the socket's ring holds. The other half is for
/// ports that were silent so far.
const QUOTA: u32 = 2048;
const QUOTA_MIN: u32 = 16;
/// Shorter than the watchdog's interval: to it a worker that sleeps through one looks like one that gets no CPU.
const SLEEP_MAX: Duration = Duration::from_millis(40);
const _: () = assert!(SLEEP_MAX.as_millis() < super::watchdog::INTERVAL.as_millis());
/// While frames are out whose leaving a flow waits for to change over.
const ECHO_SLEEP: Duration = Duration::from_micros(100);

/// Starts the worker. It ends on [`Command::Stop`].
pub fn spawn(engine: Engine, config: RunConfig) -> std::io::Result<JoinHandle<()>> {
    let name = format!("worker{}", engine.worker());
    std::thread::Builder::new().name(name).spawn(move || Runner::new(engine, config).run())
}

/// No completion for this long although frames are out: the sockets are bound anew.
const STUCK_MS: u64 = 250;
/// A socket that could not be bound is tried again after this long.
const UNBOUND_MS: u64 = 20;
/// A NIC without a link sends nothing, however often it is bound: then less and less often, down to this.
const STUCK_MS_MAX: u64 = 30_000;

/// Sees what should move and does not.
#[derive(Debug, Default)]
struct Standstill {
    /// When it last moved, and what had come back by then. Not how many are out: one in, one out is no standstill.
    moved_ms: u64,
    completed: u64,
    /// Of the next attempt, if the last did not help.
    patience_ms: u64,
}

impl Standstill {
    /// Is it time to do something about it? `waits`: there is something that should move. `patience_ms`: at first.
    #[inline]
    fn look(&mut self, waits: bool, completed: u64, patience_ms: u64, now_ms: u64) -> bool {
        let patience_ms = self.patience_ms.max(patience_ms);
        if completed != self.completed {
            (self.completed, self.moved_ms, self.patience_ms) = (completed, now_ms, 0);
        } else if !waits {
            self.moved_ms = now_ms;
        } else if now_ms.saturating_sub(self.moved_ms) > patience_ms {
            self.moved_ms = now_ms;
            self.patience_ms = (patience_ms * 2).min(STUCK_MS_MAX);
            return true;
        }
        false
    }
}

/// How much longer than at first a worker looks before it sleeps: being woken costs its own time and the waker's, some tens of
/// microseconds on virtual machines, and is a waste where the next frame was to come sooner than that.
#[derive(Debug)]
struct Patience(u32);

impl Patience {
    const MAX: u32 = 4;

    /// It slept for so long. `spin`: how long it looks at first.
    fn slept(&mut self, slept: Duration, spin: Duration) {
        self.0 = if slept < spin * Self::MAX { (self.0 * 2).min(Self::MAX) } else { 1 };
    }
}

struct Runner {
    engine: Engine,
    config: RunConfig,
    number: u32,
    patience: Patience,
    poll_fds: Vec<libc::pollfd>,
    /// By area: sockets of one are bound anew together, and those of the other are left alone.
    transmit: [Standstill; 2],
    unbound: [Standstill; 2],
}

impl Runner {
    fn new(engine: Engine, config: RunConfig) -> Runner {
        Runner {
            engine,
            config,
            number: 0,
            patience: Patience(1),
            poll_fds: Vec::new(),
            transmit: Default::default(),
            unbound: Default::default(),
        }
    }

    fn run(mut self) {
        if let Some(cpu) = self.config.cpu
            && let Err(error) = pin(cpu)
        {
            tracing::warn!(
                "worker {} cannot be pinned to CPU {cpu}: {error}; it runs unpinned",
                self.engine.worker()
            );
        }
        if let Err(error) = prefer::worker(self.config.cpu) {
            let worker = self.engine.worker();
            tracing::warn!(%worker, "cannot be preferred by the scheduler ({error}; CAP_SYS_NICE): it may wait for its CPU");
        }
        self.list_poll_fds();
        let mailbox = self.engine.mailbox();
        let begin = Instant::now();
        let now_ms = monotonic_ms();
        let mut idle_since: Option<Instant> = None;
        loop {
            while let Some(command) = mailbox.take() {
                if !self.obey(command) {
                    return;
                }
            }
            let now = Instant::now();
            let now_ms = now_ms + now.duration_since(begin).as_millis() as u64;
            let frames = self.engine.round(now_ms);
            self.begin_round(frames);
            let counters = self.engine.counters();
            counters.rounds.add(1);
            self.watch(now_ms);
            if frames > 0 {
                self.engine.counters().busy_rounds.add(1);
                idle_since = None;
                continue;
            }
            let sleepy = match self.config.idle {
                Idle::Spin => false,
                Idle::Sleep => true,
                Idle::SpinThenSleep(spin) => {
                    now.duration_since(*idle_since.get_or_insert(now)) >= spin * self.patience.0
                }
            };
            if sleepy {
                self.sleep();
                if let Idle::SpinThenSleep(spin) = self.config.idle {
                    self.patience.slept(now.elapsed(), spin);
                }
            } else {
                std::hint::spin_loop();
            }
        }
    }

    /// Refills every port's budget. While the worker keeps up it is generous. When a round brings a full batch, the ports that
    /// send share what half of the ring still has room for: also one alone must not fill it, or the first frame of another
    /// finds no place.
    #[inline]
    fn begin_round(&mut self, frames: usize) {
        let Some(rounds) = &self.config.rounds else { return };
        self.number = self.number.wrapping_add(1);
        let room = match frames >= BATCH {
            true => QUOTA.saturating_sub(self.engine.waiting()),
            false => QUOTA,
        };
        let quota = (room / self.engine.take_busy_ports().max(1)).max(QUOTA_MIN);
        rounds.begin(self.engine.worker(), self.number, quota);
    }

    /// Sees transmit rings that stopped moving. Receive rings are watched by the server, which can ask the kernel.
    fn watch(&mut self, now_ms: u64) {
        for area in [AreaKind::Copy, AreaKind::ZeroCopy] {
            let (outstanding, completed) = self.engine.transmitting(area);
            let at = area as usize;
            if self.transmit[at].look(outstanding > 0, completed, STUCK_MS, now_ms) {
                let worker = self.engine.worker();
                tracing::warn!(
                    "worker {worker}: {outstanding} frames stuck in transmission ({area}), binding anew"
                );
                self.rebind(area);
            }
            // Being bound is what moves here: patience begins anew with it.
            let is_unbound = self.engine.is_unbound(area);
            if self.unbound[at].look(is_unbound, (!is_unbound).into(), UNBOUND_MS, now_ms) {
                let began = Instant::now();
                let results = self.engine.bind_missing(area);
                self.announce(results, began);
            }
        }
    }

    fn rebind(&mut self, area: AreaKind) {
        let began = Instant::now();
        let results = self.engine.rebind(area);
        self.announce(results, began);
    }

    fn announce(&mut self, results: Vec<Result<Option<RawFd>, String>>, began: Instant) {
        let mut is_whole = true;
        for (device, result) in results.into_iter().enumerate() {
            let announced = match (result, &mut self.config.announce) {
                (Ok(Some(fd)), Some(announce)) => announce(device, fd),
                (Ok(_), _) => Ok(()),
                (Err(error), _) => Err(error),
            };
            if let Err(error) = announced {
                tracing::error!("worker {}: {error}; trying again", self.engine.worker());
                is_whole = false;
            }
        }
        self.list_poll_fds();
        if is_whole {
            tracing::info!(worker = %self.engine.worker(), took = ?began.elapsed(), "bound anew");
        }
    }

    /// False: stop.
    fn obey(&mut self, command: Command) -> bool {
        match command {
            Command::Snapshot(snapshot) => self.engine.install(snapshot),
            Command::ForgetEndpoint(endpoint) => self.engine.forget_endpoint(endpoint),
            Command::Capture(capture) => self.engine.set_capture(capture),
            Command::Carried(carried) => self.engine.take_carried(&carried, monotonic_ms()),
            // A reader that went away does not want the answer.
            Command::Flows { limit, reply } => drop(reply.try_send(report::flows(&self.engine, limit))),
            Command::Census { reply } => drop(reply.try_send(report::census(&self.engine))),
            Command::Stages { on, reply } => drop(reply.try_send(self.engine.measure_stages(on))),
            // The trunk's.
            Command::Rebind => self.rebind(AreaKind::Copy),
            Command::Stop => return false,
        }
        true
    }

    fn list_poll_fds(&mut self) {
        let wake = self.engine.mailbox().wake_fd().as_raw_fd();
        self.poll_fds.clear();
        for fd in self.engine.socket_fds().chain([wake]) {
            self.poll_fds.push(libc::pollfd { fd, events: libc::POLLIN, revents: 0 });
        }
    }

    fn sleep(&mut self) {
        let mailbox = self.engine.mailbox();
        if mailbox.prepare_sleep() && !self.engine.has_work() {
            // Time must pass for what expires; a memory device has nothing to wake us by, nor has a frame that was sent.
            let timeout = match (self.engine.awaits_echo(), self.poll_fds.len()) {
                (true, _) => ECHO_SLEEP,
                (false, 0..=1) => Duration::from_millis(1),
                (false, _) => SLEEP_MAX,
            };
            crate::io::xsk::poll(&mut self.poll_fds, timeout);
        }
        mailbox.awake();
    }
}

fn pin(cpu: usize) -> nix::Result<()> {
    let mut set = nix::sched::CpuSet::new();
    set.set(cpu)?;
    nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &set)
}

/// Milliseconds of CLOCK_MONOTONIC: the same clock for every process of one boot.
pub fn monotonic_ms() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)
        .unwrap_or(nix::sys::time::TimeSpec::new(0, 0));
    now.tv_sec() as u64 * 1000 + now.tv_nsec() as u64 / 1_000_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_that_do_not_come_back_have_their_sockets_bound_anew_less_and_less_often() {
        let mut standstill = Standstill::default();
        let times: Vec<u64> = (0..100_000).filter(|&ms| standstill.look(true, 7, STUCK_MS, ms)).collect();
        assert_eq!(times[..4], [251, 752, 1753, 3754]);
        assert!(times.len() < 12, "{times:?}");
        assert!(!standstill.look(true, 8, STUCK_MS, 100_000), "one came back");
        assert!(
            !standstill.look(true, 8, STUCK_MS, 100_250) && standstill.look(true, 8, STUCK_MS, 100_251),
            "and it is as before"
        );
    }

    #[test]
    fn a_worker_whose_sleeps_are_short_looks_longer_and_one_long_sleep_ends_that() {
        let (spin, mut patience) = (Duration::from_micros(50), Patience(1));
        let mut after = |micros| {
            patience.slept(Duration::from_micros(micros), spin);
            patience.0
        };
        assert_eq!([20, 199, 3].map(&mut after), [2, 4, 4]);
        assert_eq!([200, 40_000].map(&mut after), [1, 1]);
    }

    #[test]
    fn a_transmit_side_with_nothing_to_do_does_not_stand_still() {
        let mut standstill = Standstill::default();
        assert!((0..10_000).all(|ms| !standstill.look(false, 0, STUCK_MS, ms)));
        assert!(
            (10_000..10_240).all(|ms| !standstill.look(true, 0, STUCK_MS, ms)),
            "only now is there something"
        );
    }
}
