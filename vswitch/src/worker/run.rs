//! The thread around an engine: pinning, polling, sleeping, commands, the budget of ports, and the watchdog of its own rings.

use super::engine::Engine;
use super::mailbox::Command;
use super::report;
use crate::io::maps::Rounds;
use crate::io::xsk::BATCH;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What a worker without work does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Idle {
    /// Looks again at once.
    Spin,
    /// Looks for this long, then sleeps until something comes.
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
/// No completion for this long although frames are out: the socket is bound anew.
const STUCK_MS: u64 = 250;
const SLEEP_MS_MAX: i32 = 100;

/// Starts the worker. It ends on [`Command::Stop`].
pub fn spawn(engine: Engine, config: RunConfig) -> std::io::Result<JoinHandle<()>> {
    let name = format!("worker{}", engine.worker());
    std::thread::Builder::new().name(name).spawn(move || Runner::new(engine, config).run())
}

struct Runner {
    engine: Engine,
    config: RunConfig,
    number: u32,
    poll_fds: Vec<libc::pollfd>,
    /// When the transmit side last moved, and what had come back by then. Not how many are out: one in, one out is no standstill.
    moved_ms: u64,
    completed: u64,
}

impl Runner {
    fn new(engine: Engine, config: RunConfig) -> Runner {
        Runner { engine, config, number: 0, poll_fds: Vec::new(), moved_ms: 0, completed: 0 }
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
        if let Err(error) = prefer() {
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
                Idle::SpinThenSleep(spin) => now.duration_since(*idle_since.get_or_insert(now)) >= spin,
            };
            if sleepy {
                self.sleep();
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
        let outstanding = self.engine.outstanding();
        let completed = self.engine.completed();
        if outstanding == 0 || completed != self.completed {
            self.completed = completed;
            self.moved_ms = now_ms;
        } else if now_ms.saturating_sub(self.moved_ms) > STUCK_MS {
            tracing::warn!(
                "worker {}: {outstanding} frames stuck in transmission, binding anew",
                self.engine.worker()
            );
            self.moved_ms = now_ms;
            self.rebind();
        }
    }

    fn rebind(&mut self) {
        for (device, result) in self.engine.rebind().into_iter().enumerate() {
            let announced = match (result, &mut self.config.announce) {
                (Ok(Some(fd)), Some(announce)) => announce(device, fd),
                (Ok(_), _) => Ok(()),
                (Err(error), _) => Err(error),
            };
            if let Err(error) = announced {
                tracing::error!("worker {}: {error}; trying again", self.engine.worker());
            }
        }
        self.list_poll_fds();
    }

    /// False: stop.
    fn obey(&mut self, command: Command) -> bool {
        match command {
            Command::Snapshot(snapshot) => self.engine.install(snapshot),
            Command::ForgetEndpoint(endpoint) => self.engine.forget_endpoint(endpoint),
            Command::Capture(capture) => self.engine.set_capture(capture),
            // A reader that went away does not want the answer.
            Command::Flows { limit, reply } => drop(reply.try_send(report::flows(&self.engine, limit))),
            Command::Census { reply } => drop(reply.try_send(report::census(&self.engine))),
            Command::Rebind => self.rebind(),
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
            // Time must pass for what expires; a memory device has nothing to wake us by.
            let timeout_ms = if self.poll_fds.len() > 1 { SLEEP_MS_MAX } else { 1 };
            crate::io::xsk::poll(&mut self.poll_fds, timeout_ms);
        }
        mailbox.awake();
    }
}

/// Asks the scheduler to let this thread go first: while it waits for a CPU, every pod waits. Where sessions are scheduled as
/// groups (autogroup), the group has to be preferred too.
fn prefer() -> Result<(), String> {
    const FIRST: i32 = -20;
    rustix::process::setpriority_process(Some(rustix::thread::gettid()), FIRST).map_err(|e| e.to_string())?;
    match std::fs::write("/proc/self/autogroup", FIRST.to_string()) {
        // A kernel without autogroups.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        result => result.map_err(|e| format!("autogroup: {e}")),
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
