//! Flows a worker would rather not see: it asks that the kernel carry them, and takes back what the kernel carried.
//!
//! A flow is asked for when it is established between a pod behind a trunk and another one or a direct port, which both allow it
//! at L3/L4: TCP after its handshake, anything of UDP that was answered, and UDP that is not answered after some frames, which then is no question but
//! a stream. A request names what the worker judged the flow under. Whether that still holds when it reaches the kernel is
//! not decided here, nor by who installs it: the programs compare it with the ports' epochs, frame by frame.
//!
//! A request is a push into a bounded queue, every [`EVERY`] frames of a flow; full, the flow asks again later.

use super::echo::Echoes;
use super::engine::{Engine, Packet};
use super::mailbox::WakeFd;
use crate::flow::{FlowId, Side, State};
use crate::io::shortcut::{CarriedFlow, Epoch, Rows};
use crate::packet::{FlowKey, L4, parsed::tcp};
use crate::snapshot::{Port, PortKind};
use crossbeam::queue::ArrayQueue;
use penstock_api::PortId;
use penstock_api::artefact::protocol;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Frames of one direction between two requests, and the first that makes one: a connection that carries a question and its answer
/// never gets there, and what it would cost to carry it pays for nothing. What has bulk to send does with its first window.
const EVERY: u64 = 64;
const FIRST: u64 = 8;
/// Frames of UDP without an answer after which it is a stream.
const STREAM_FRAMES: u64 = 64;

#[derive(Debug, Clone, Copy)]
pub enum Request {
    /// Carry a flow, in both directions. This one is its first packet's.
    Carry(CarriedFlow),
    /// It is over, or nobody knows it any more. Both directions.
    Leave(FlowKey),
}

/// What a direction of a flow has done in the kernel since it was last told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Carried {
    pub key: FlowKey,
    /// To be added to what the worker counted.
    pub frames: u64,
    pub bytes: u64,
}

/// The way from workers to who installs.
#[derive(Debug)]
pub struct Requests {
    queue: ArrayQueue<Request>,
    /// Requests that found no room.
    pub missed: AtomicU64,
    sleeping: AtomicBool,
    wake: WakeFd,
}

impl Requests {
    pub fn new() -> std::io::Result<Requests> {
        Ok(Requests {
            queue: ArrayQueue::new(4096),
            missed: AtomicU64::new(0),
            sleeping: AtomicBool::new(false),
            wake: WakeFd::new()?,
        })
    }

    pub fn push(&self, request: Request) {
        if self.queue.push(request).is_err() {
            self.missed.fetch_add(1, Ordering::Relaxed);
        }
        self.wake();
    }

    /// Wakes who waits.
    pub fn wake(&self) {
        // Pairs with the fence in `wait`.
        std::sync::atomic::fence(Ordering::SeqCst);
        if self.sleeping.swap(false, Ordering::Relaxed) {
            self.wake.ring();
        }
    }

    pub fn pop(&self) -> Option<Request> {
        self.queue.pop()
    }

    /// Waits for a request, or for so long.
    pub fn wait(&self, timeout_ms: u16) {
        use nix::poll::{PollFd, PollFlags, poll};
        self.sleeping.store(true, Ordering::Relaxed);
        std::sync::atomic::fence(Ordering::SeqCst);
        if self.queue.is_empty() {
            // Interrupted or not: who waits looks anyway.
            let _ = poll(&mut [PollFd::new(self.wake.fd(), PollFlags::POLLIN)], timeout_ms);
        }
        self.sleeping.store(false, Ordering::Relaxed);
        self.wake.clear();
    }
}

impl Engine {
    pub fn set_shortcut(&mut self, requests: Arc<Requests>, rows: Arc<Rows>) {
        self.shortcut = Some(requests);
        self.echoes = Echoes::new(rows, self.parts.devices.len());
    }

    /// A packet of a known flow passes: is it time to ask?
    #[inline]
    pub(super) fn consider(&mut self, packet: &Packet, l4: &L4, flow: FlowId, side: Side, out: PortId) {
        if self.shortcut.is_none() {
            return;
        }
        let entry = self.parts.conntrack.entry(flow);
        let ends = matches!(*l4, L4::Tcp { flags, .. } if flags & (tcp::FIN | tcp::RST) != 0);
        // The last of a connection that is closed in order is a mere acknowledgement.
        if ends || entry.state().is_over() {
            self.end_shortcut(flow);
        } else if entry.frames(side) % EVERY == FIRST {
            self.ask_for_shortcut(packet, flow, side, out);
        }
    }

    #[cold]
    fn end_shortcut(&mut self, flow: FlowId) {
        let entry = self.parts.conntrack.entry(flow);
        // Who never asked has nothing to take back.
        let has_asked = entry.frames(Side::Forward).max(entry.frames(Side::Reply)) >= FIRST;
        if has_asked
            && entry.state().is_over()
            && let Some(requests) = &self.shortcut
        {
            requests.push(Request::Leave(entry.key()));
        }
    }

    #[cold]
    fn ask_for_shortcut(&mut self, packet: &Packet, flow: FlowId, side: Side, out: PortId) {
        let snapshot = &self.parts.snapshot;
        let (Some(from), Some(to)) = (snapshot.port(packet.port), snapshot.port(out)) else { return };
        let (source, destination) = match side {
            Side::Forward => (from, to),
            Side::Reply => (to, from),
        };
        let entry = self.parts.conntrack.entry(flow);
        let key = entry.key();
        let is_established = match entry.state() {
            State::Established => true,
            State::Replied | State::Assured => key.protocol == protocol::UDP,
            State::Unreplied => key.protocol == protocol::UDP && entry.frames(Side::Forward) >= STREAM_FRAMES,
            _ => false,
        };
        let may_pass = match (source.kind, destination.kind) {
            (PortKind::Pod, PortKind::Pod) => source.id != destination.id,
            (PortKind::Pod, PortKind::Direct) | (PortKind::Direct, PortKind::Pod) => true,
            _ => false,
        };
        let is_plain = key.zone == 0 && entry.reply_key() == key.reversed();
        if !is_established || !may_pass || !is_plain {
            return;
        }
        debug_assert_eq!(entry.judged(), super::decide::judged_now(snapshot, source, destination));
        let flow_to_carry = CarriedFlow {
            key,
            source: source.id,
            target: destination.id,
            source_epoch: epoch_of(source),
            target_epoch: epoch_of(destination),
        };
        // Its numbers will move on unseen.
        self.parts.conntrack.loosen(flow);
        if let Some(requests) = &self.shortcut {
            requests.push(Request::Carry(flow_to_carry));
        }
    }

    /// What the kernel carried is added to what was counted here, and keeps the flow from ageing.
    pub fn take_carried(&mut self, carried: &[Carried], now_ms: u64) {
        for &Carried { ref key, frames, bytes } in carried {
            let hash = self.parts.conntrack.hash(key);
            match self.parts.conntrack.find(key, hash) {
                Some((flow, side)) => self.parts.conntrack.carried(flow, side, frames, bytes, now_ms),
                // Nobody here knows it any more: then nobody may carry it.
                None => {
                    if let Some(requests) = &self.shortcut {
                        requests.push(Request::Leave(*key));
                    }
                }
            }
        }
    }
}

/// The policy a port is under, as the programs know it.
pub fn epoch_of(port: &Port) -> Epoch {
    Epoch::new(port.endpoint, port.revision)
}
