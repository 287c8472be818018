//! How the server speaks to a worker, and what comes back: bounded queues and one wake-up, no lock.
//!
//! A worker looks into its mailbox once per round. What it must not free itself (snapshots: large, shared) it puts into the
//! bin, which the server empties.

use super::shortcut::Carried;
use crate::snapshot::Snapshot;
use crossbeam::queue::ArrayQueue;
use penstock_api::message::{CapturedFrame, FlowStatus, FrameCensus, StageTimes};
use penstock_api::{EndpointId, PortId};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::SyncSender;

/// What a worker can be asked for between two batches.
#[derive(Debug)]
pub enum Command {
    /// Judge and forward by this from now on.
    Snapshot(Arc<Snapshot>),
    /// Forget the flows of an endpoint that is gone.
    ForgetEndpoint(EndpointId),
    /// Begin (or with `None` end) to copy frames.
    Capture(Option<Arc<Capture>>),
    /// Take into account what the kernel carried.
    Carried(Box<[Carried]>),
    /// List up to `limit` flows.
    Flows {
        limit: usize,
        reply: SyncSender<(Vec<FlowStatus>, usize)>,
    },
    /// Count every frame.
    Census {
        reply: SyncSender<Vec<FrameCensus>>,
    },
    /// Begin, or end, to measure what the stages cost; answered with what was counted until now.
    Stages {
        on: bool,
        reply: SyncSender<StageTimes>,
    },
    /// Forget and bind the sockets anew.
    Rebind,
    Stop,
}

/// A capture in progress. Frames that find no room are counted, not waited for.
#[derive(Debug)]
pub struct Capture {
    /// `None`: every port.
    pub port: Option<PortId>,
    pub snap_len: u16,
    pub frames: ArrayQueue<CapturedFrame>,
    pub missed: std::sync::atomic::AtomicU64,
}

/// One worker's mailbox.
#[derive(Debug)]
pub struct Mailbox {
    commands: ArrayQueue<Command>,
    bin: ArrayQueue<Arc<Snapshot>>,
    /// Sampled drops, for `penstock drops`. Full: the newest is not recorded (the counters are).
    pub drop_events: ArrayQueue<DropSample>,
    /// True while the worker sleeps in the kernel, or is about to.
    sleeping: AtomicBool,
    wake: WakeFd,
}

/// A drop as a worker notes it: plain data, no strings; the server puts it into words.
#[derive(Debug, Clone, Copy)]
pub struct DropSample {
    pub reason: penstock_api::DropReason,
    pub port: PortId,
    pub key: crate::packet::FlowKey,
    /// For policy drops: the port whose policy it was.
    pub judge: PortId,
    pub direction: Option<penstock_api::Direction>,
    pub rule: Option<penstock_api::RuleId>,
}

impl Mailbox {
    pub fn new() -> std::io::Result<Self> {
        Ok(Mailbox {
            commands: ArrayQueue::new(256),
            bin: ArrayQueue::new(256),
            drop_events: ArrayQueue::new(1024),
            sleeping: AtomicBool::new(false),
            wake: WakeFd::new()?,
        })
    }

    /// Leaves a command. `Err` gives it back when the worker has not looked for a long time.
    pub fn send(&self, command: Command) -> Result<(), Command> {
        self.commands.push(command)?;
        self.wake();
        Ok(())
    }

    /// The worker's side: the next command.
    #[inline]
    pub fn take(&self) -> Option<Command> {
        if self.commands.is_empty() {
            return None;
        }
        self.commands.pop()
    }

    /// The worker's side: lets go of a snapshot without freeing it.
    pub fn discard(&self, snapshot: Arc<Snapshot>) {
        // A full bin means the server is gone or stuck: then freeing here is the lesser evil.
        drop(self.bin.push(snapshot));
    }

    /// The server's side: frees what workers let go of.
    pub fn empty_bin(&self) {
        while self.bin.pop().is_some() {}
    }

    /// Wakes the worker if it sleeps.
    pub fn wake(&self) {
        // Pairs with the fence in `sleep_if_idle`: either the sleeper sees our message or we see it sleeping.
        std::sync::atomic::fence(Ordering::SeqCst);
        if self.sleeping.load(Ordering::Relaxed) {
            self.wake.ring();
        }
    }

    /// The worker's side, before sleeping: true when it may sleep on [`Mailbox::wake_fd`].
    pub fn prepare_sleep(&self) -> bool {
        self.sleeping.store(true, Ordering::Relaxed);
        std::sync::atomic::fence(Ordering::SeqCst);
        self.commands.is_empty()
    }

    /// The worker's side, after sleeping.
    pub fn awake(&self) {
        self.sleeping.store(false, Ordering::Relaxed);
        self.wake.clear();
    }

    pub fn wake_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.wake.fd()
    }
}

/// An eventfd.
#[derive(Debug)]
pub(super) struct WakeFd(nix::sys::eventfd::EventFd);

impl WakeFd {
    pub(super) fn new() -> std::io::Result<Self> {
        use nix::sys::eventfd::{EfdFlags, EventFd};
        Ok(WakeFd(EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?))
    }

    pub(super) fn ring(&self) {
        // EAGAIN: it has rung 2^64 - 2 times and still rings.
        let _ = self.0.write(1);
    }

    pub(super) fn clear(&self) {
        let _ = self.0.read();
    }

    pub(super) fn fd(&self) -> std::os::fd::BorrowedFd<'_> {
        use std::os::fd::AsFd;
        self.0.as_fd()
    }
}
