//! The pipeline: one worker's frames, a batch at a time, from receive to transmit.
//!
//! ```text
//! receive -> admit (parse, source, fragments, owner) -> lookup --hit------------------> touch -> forward -> transmit
//!                                                          `- miss: find, judge, remember -'
//! ```
//!
//! Misses are decided in arrival order, and frames leave in arrival order. Nothing here allocates, locks, logs or enters the
//! kernel per packet; what the worker owns it alone touches. Every frame that comes in is transmitted, handed over, held by the
//! fragment table, or dropped for one counted reason.
//!
//! Here are the worker's state and its round. The stages are in `admit.rs`, `decide.rs` and `send.rs`; what the switch says
//! itself is in `answer.rs`.

use super::counters::Counters;
use super::echo::Echoes;
use super::handover::{Handover, Purpose};
use super::mailbox::{Capture, Mailbox};
use super::shortcut::Requests;
use super::stages::{Stage, Watch};
use crate::flow::{Ahead, Conntrack, FlowCache, FragmentTable, Guess, Released};
use crate::io::device::{Device, Received};
use crate::io::memory::{FrameId, Memory, Place};
use crate::io::ring::Transport;
use crate::io::xsk::BATCH;
use crate::packet::{FlowKey, Parsed};
use crate::snapshot::Snapshot;
use penstock_api::message::{AreaKind, FrameCensus, StageTimes};
use penstock_api::{DropReason, EndpointId, PortId, WorkerId};
use std::sync::Arc;

/// What a worker is made of.
#[derive(Debug)]
pub struct Parts {
    pub worker: WorkerId,
    pub memory: Memory,
    /// `devices[0]` carries every port that has no device of its own.
    pub devices: Vec<Device>,
    /// For each direct port of the switch: the worker that sends to it for this one, and the index of the device there.
    pub direct: Vec<(usize, usize)>,
    pub conntrack: Conntrack,
    pub cache: FlowCache,
    pub fragments: FragmentTable,
    pub snapshot: Arc<Snapshot>,
    pub counters: Arc<Counters>,
    pub mailbox: Arc<Mailbox>,
    pub handover: Handover,
}

/// One worker's state. [`Engine::round`] is its life.
#[derive(Debug)]
pub struct Engine {
    pub(super) parts: Parts,
    pub(super) capture: Option<Arc<Capture>>,
    /// Whom to ask that the kernel carry a flow; `None`: every frame comes here.
    pub(super) shortcut: Option<Arc<Requests>>,
    pub(super) echoes: Echoes,
    pub(super) received: Vec<Received>,
    pub(super) scratch: Vec<(FrameId, u32)>,
    /// Places for packets; the first `batched` are taken. Never empty, and packets are written where they stay.
    pub(super) batch: Box<[Packet]>,
    pub(super) batched: usize,
    /// Of those taken: for how many the flow cache's tags were read, and for how many what the tags led to.
    pub(super) guessed: usize,
    pub(super) fetched: usize,
    /// Of those, flows nobody knows.
    pub(super) ahead: Ahead,
    /// In the batch before this one the cache knew flows that had ended: there will be more.
    pub(super) ended: bool,
    /// Pieces whose first has come, to be judged after it.
    pub(super) pieces: Vec<(FrameId, FlowKey)>,
    pub(super) released: Vec<Released>,
    /// By chunk: the port a held frame came from.
    pub(super) held_from: Vec<PortId>,
    /// Answers (ICMP errors, resets) left for this millisecond.
    pub(super) answers_left: u32,
    pub(super) answers_at_ms: u64,
    /// Drops still to be sampled in this round.
    pub(super) samples_left: u32,
    /// One bit per port that sent something since it was last asked.
    pub(super) busy_ports: Vec<u64>,
    /// What was sent last and is not in the counters yet.
    pub(super) sent: Tally,
    /// There while somebody measures.
    watch: Option<Watch>,
    /// Workers that were handed something in this round.
    pub(super) to_wake: u32,
    pub(super) now_ms: u64,
}

/// A frame on its way through the batch.
#[derive(Debug, Clone, Copy)]
pub(super) struct Packet {
    pub(super) frame: FrameId,
    pub(super) len: u32,
    pub(super) port: PortId,
    pub(super) parsed: Parsed,
    pub(super) hash: u64,
    /// Of the flow's other direction, where it was needed; 0: it was not.
    pub(super) reply_hash: u64,
    /// Where the flow cache may know its flow.
    pub(super) guess: Guess,
    pub(super) step: Step,
}

impl Packet {
    /// What stands in a place nobody has taken.
    const NONE: Packet = Packet {
        frame: FrameId(0),
        len: 0,
        port: PortId::HOST,
        parsed: Parsed::NOTHING,
        hash: 0,
        reply_hash: 0,
        guess: Guess::NONE,
        step: Step::Gone,
    };
}

/// Frames of one port that are not in its counters yet: most batches are of few ports.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tally {
    pub(super) port: PortId,
    pub(super) frames: u64,
    pub(super) bytes: u64,
}

impl Default for Tally {
    fn default() -> Self {
        Tally { port: PortId::HOST, frames: 0, bytes: 0 }
    }
}

impl Tally {
    /// One frame was sent.
    #[inline]
    pub(super) fn add(&mut self, counters: &Counters, port: PortId, len: u32) {
        if self.port != port {
            self.take(counters);
            self.port = port;
        }
        self.frames += 1;
        self.bytes += u64::from(len);
    }

    /// Puts what was sent into the counters.
    fn take(&mut self, counters: &Counters) {
        if self.frames > 0 {
            let counters = counters.port(self.port);
            counters.tx_frames.add(std::mem::take(&mut self.frames));
            counters.tx_bytes.add(std::mem::take(&mut self.bytes));
        }
    }
}

/// What is next for a packet.
#[derive(Debug, Clone, Copy)]
pub(super) enum Step {
    /// A packet of a flow, to be looked up.
    Lookup,
    /// An error about the flow that its payload names.
    Related,
    /// The flow is known and current; its conntrack entry was touched.
    Forward {
        out: PortId,
    },
    Drop(DropReason),
    /// Handed over, held or answered into: nothing is left to do.
    Gone,
}

/// Errors and resets per millisecond and worker: enough for any traceroute, too few to be a weapon.
const ANSWERS_PER_MS: u32 = 10;
const SAMPLES_PER_ROUND: u32 = 4;
/// Packets between asking for memory and reading it.
const AHEAD: usize = 8;
/// Flow-table entries looked at per round for expiry.
const EXPIRE_BUDGET: usize = 32;

impl Engine {
    pub fn new(parts: Parts) -> Engine {
        let held_max = parts.memory.chunks_total();
        Engine {
            capture: None,
            shortcut: None,
            echoes: Echoes::default(),
            received: Vec::with_capacity(BATCH * (parts.devices.len() + 2)),
            scratch: Vec::with_capacity(BATCH),
            batch: vec![Packet::NONE; 2 * BATCH].into_boxed_slice(),
            batched: 0,
            guessed: 0,
            fetched: 0,
            ahead: Ahead::default(),
            ended: false,
            pieces: Vec::with_capacity(held_max),
            released: Vec::with_capacity(held_max),
            held_from: vec![PortId::HOST; held_max],
            answers_left: ANSWERS_PER_MS,
            answers_at_ms: 0,
            samples_left: 0,
            busy_ports: vec![0; crate::io::maps::PORTS_MAX / 64],
            sent: Tally::default(),
            watch: None,
            to_wake: 0,
            now_ms: 0,
            parts,
        }
    }

    /// One turn: receive what is there, deal with it, let time pass. Returns how many frames there were.
    pub fn round(&mut self, now_ms: u64) -> usize {
        self.now_ms = now_ms;
        self.samples_left = SAMPLES_PER_ROUND;
        if self.answers_at_ms != now_ms {
            self.answers_at_ms = now_ms;
            self.answers_left = ANSWERS_PER_MS;
        }
        if let Some(watch) = &mut self.watch {
            watch.begin();
        }
        let mut frames = 0;
        for device in 0..self.parts.devices.len() {
            frames += self.receive(device);
        }
        if self.parts.handover.workers() > 1 {
            frames += self.take_handed_over();
        }
        while !self.pieces.is_empty() {
            self.take_pieces();
        }
        for device in &mut self.parts.devices {
            device.flush(&mut self.parts.memory, frames >= BATCH);
        }
        if self.echoes.are_awaited() {
            self.echoes.tell(&self.parts.devices);
        }
        self.mark(Stage::Flush);
        self.sent.take(&self.parts.counters);
        if self.to_wake != 0 {
            self.parts.handover.wake(self.to_wake);
            self.to_wake = 0;
        }
        // As many may end as may have begun.
        self.parts.conntrack.expire(now_ms, frames.max(EXPIRE_BUDGET));
        self.parts.counters.flows.set(self.parts.conntrack.len() as u64);
        self.parts.fragments.expire(now_ms, EXPIRE_BUDGET, &mut self.released);
        self.settle_released();
        if let Some(watch) = &mut self.watch {
            watch.mark(Stage::Upkeep);
            watch.end(frames);
            if watch.is_over() {
                self.watch = None;
            }
        }
        frames
    }

    /// The time since the last mark was this stage's. Costs a branch per batch while nobody measures.
    #[inline]
    fn mark(&mut self, stage: Stage) {
        if let Some(watch) = &mut self.watch {
            watch.mark(stage);
        }
    }

    /// Begins to measure what the stages cost, from nothing, or ends it. Returns what was counted until now.
    pub fn measure_stages(&mut self, on: bool) -> StageTimes {
        let counted = self.watch.as_ref().map(|watch| watch.times(self.parts.worker)).unwrap_or_default();
        self.watch = on.then(Watch::new);
        StageTimes { worker: self.parts.worker, ..counted }
    }

    fn receive(&mut self, device: usize) -> usize {
        let parts = &mut self.parts;
        parts.devices[device].receive(&mut parts.memory, &mut self.scratch, &mut self.received);
        self.mark(Stage::Receive);
        let frames = self.received.len();
        if frames == 0 {
            return 0;
        }
        self.parts.counters.received.add(frames as u64);
        let mut received = std::mem::take(&mut self.received);
        let mut tally = Tally::default();
        for frame in received.drain(..) {
            let Some(port) = frame.port else {
                self.parts.counters.drop_frame(PortId::HOST, DropReason::BadTag);
                self.parts.memory.release(frame.frame);
                continue;
            };
            if tally.port != port {
                self.count_received(tally);
                tally = Tally { port, ..Tally::default() };
            }
            tally.frames += 1;
            tally.bytes += u64::from(frame.len);
            self.admit(frame.frame, frame.len, port, None);
        }
        self.count_received(tally);
        self.received = received;
        self.run_batch();
        frames
    }

    fn count_received(&mut self, tally: Tally) {
        let Tally { port, frames, bytes } = tally;
        if frames == 0 {
            return;
        }
        let counters = self.parts.counters.port(port);
        counters.rx_frames.add(frames);
        counters.rx_bytes.add(bytes);
        if let Some(word) = self.busy_ports.get_mut(port.index() / 64) {
            *word |= 1 << (port.index() % 64);
        }
    }

    /// Frames other workers had and that are ours.
    fn take_handed_over(&mut self) -> usize {
        let mut frames = 0;
        let handover = self.parts.handover.clone();
        let inbox = handover.inbox(self.parts.worker.index());
        while frames < BATCH && !inbox.is_empty() {
            let memory = &mut self.parts.memory;
            let taken = inbox.pop(|slot| {
                let frame = memory.copy_in(AreaKind::Copy, slot.frame());
                (frame, slot.len as u32, slot.port, Purpose::of(slot))
            });
            let Some((frame, len, port, purpose)) = taken else { break };
            frames += 1;
            let Some(frame) = frame else {
                self.parts.counters.drop_frame(port, DropReason::NoFrame);
                continue;
            };
            match purpose {
                Purpose::Process => self.admit(frame, len, port, None),
                Purpose::ProcessPiece(transport) => self.admit(frame, len, port, Some(transport)),
                Purpose::Transmit(echo) => self.transmit(frame, len, port, echo),
            }
        }
        self.run_batch();
        frames
    }

    fn take_pieces(&mut self) {
        for _ in 0..BATCH {
            let Some((frame, key)) = self.pieces.pop() else { break };
            let (len, port) = (self.parts.memory.len(frame) as u32, self.held_from[frame.0 as usize]);
            self.parts.memory.put(frame, Place::Hand);
            self.admit(frame, len, port, Some(Transport::of(&key)));
        }
        self.run_batch();
    }

    /// One more place is taken. Memory is asked for while others are parsed: what was asked for [`AHEAD`] packets ago has
    /// arrived, and says what to ask for next.
    #[inline(always)]
    pub(super) fn batch_grew(&mut self) {
        self.batched += 1;
        if self.guessed + AHEAD < self.batched {
            self.guess_next();
        }
        if self.fetched + 2 * AHEAD < self.batched {
            self.fetch_next();
        }
    }

    /// A packet's tags have arrived: asks for the entry they point to; where there is none, for what connection tracking will
    /// look at, and the place where the answer will be remembered.
    #[inline(always)]
    fn guess_next(&mut self) {
        let packet = &mut self.batch[self.guessed];
        self.guessed += 1;
        packet.guess = self.parts.cache.guess(packet.hash);
        if packet.guess == Guess::NONE {
            self.parts.conntrack.prefetch(packet.hash);
            self.parts.cache.prefetch_room(packet.hash);
        }
    }

    /// A packet's entry has arrived: asks for its flow's own line; or for all that a miss will read and write.
    #[inline(always)]
    fn fetch_next(&mut self) {
        let packet = &mut self.batch[self.fetched];
        self.fetched += 1;
        match self.parts.cache.flow_at(packet.guess) {
            Some((flow, _)) => self.parts.conntrack.prefetch_flow(flow),
            None => {
                let Packet { parsed, hash, port, .. } = &*packet;
                let reply = self.parts.conntrack.prefetch_missed(&parsed.key, *hash, *port, &mut self.ahead);
                packet.reply_hash = reply.unwrap_or(0);
            }
        }
    }

    /// The batch's flows have arrived: where the cache's entry is of one that ended, asks for what a new one needs.
    #[cold]
    fn fetch_anew(&mut self) {
        let Parts { cache, conntrack, .. } = &self.parts;
        for packet in &mut self.batch[..self.batched] {
            if let Some((flow, stamp)) = cache.flow_at(packet.guess)
                && conntrack.current(flow, stamp).is_none()
            {
                conntrack.prefetch(packet.hash);
                let Packet { parsed, port, .. } = &*packet;
                packet.reply_hash = conntrack.prefetch_new(&parsed.key, *port, &mut self.ahead);
            }
        }
    }

    /// All that is known of a batch is on its way; now, in arrival order, the work.
    fn run_batch(&mut self) {
        if self.batched == 0 {
            return;
        }
        self.mark(Stage::Admit);
        while self.guessed < self.batched {
            self.guess_next();
        }
        while self.fetched < self.batched {
            self.fetch_next();
        }
        if std::mem::take(&mut self.ended) {
            self.fetch_anew();
        }
        self.parts.conntrack.prefetch_done(&mut self.ahead);
        self.mark(Stage::Fetch);
        let mut places = std::mem::take(&mut self.batch);
        let batch = &mut places[..self.batched];
        // One reference for the batch: workers share the count, and what they share they wait for.
        let snapshot = Arc::clone(&self.parts.snapshot);
        let mut hits = 0;
        for packet in &mut *batch {
            match packet.step {
                Step::Lookup => packet.step = self.lookup(&snapshot, packet, &mut hits),
                Step::Related => packet.step = self.relate(&snapshot, packet),
                _ => {}
            }
        }
        self.mark(Stage::Lookup);
        for packet in batch {
            self.finish(&snapshot, packet);
        }
        // Never the last reference: the mailbox's owner frees snapshots, not a worker.
        drop(snapshot);
        self.mark(Stage::Forward);
        self.parts.counters.cache_hits.add(hits);
        (self.batched, self.guessed, self.fetched) = (0, 0, 0);
        self.batch = places;
    }

    /// A place for one more packet.
    #[inline]
    pub(super) fn make_place(&mut self) {
        if self.batched == self.batch.len() {
            self.run_batch();
        }
    }

    /// One answer less for this millisecond. False: none is left.
    pub(super) fn spend_answer(&mut self) -> bool {
        let left = self.answers_left > 0;
        self.answers_left = self.answers_left.saturating_sub(1);
        left
    }

    /// How many ports sent something since this was last asked.
    #[inline]
    pub fn take_busy_ports(&mut self) -> u32 {
        self.busy_ports.iter_mut().map(|word| std::mem::take(word).count_ones()).sum()
    }

    /// Something waits that no descriptor tells of.
    pub fn has_work(&self) -> bool {
        self.parts.devices.iter().any(Device::has_work)
            || !self.parts.handover.inbox(self.parts.worker.index()).is_empty()
    }

    /// Is there something to be done when a frame that was sent comes back, which wakes nobody?
    pub fn awaits_echo(&self) -> bool {
        self.echoes.are_awaited()
    }

    /// Frames other workers have put into this one's inbox.
    pub fn inbox_len(&self) -> u64 {
        self.parts.handover.inbox(self.parts.worker.index()).len() as u64
    }

    /// Where every frame is, area by area: exact between two rounds.
    #[must_use]
    pub fn census(&self) -> Vec<FrameCensus> {
        super::report::census(self)
    }

    pub fn set_capture(&mut self, capture: Option<Arc<Capture>>) {
        self.capture = capture;
    }

    pub fn worker(&self) -> WorkerId {
        self.parts.worker
    }

    pub fn mailbox(&self) -> Arc<Mailbox> {
        Arc::clone(&self.parts.mailbox)
    }

    pub fn fragments(&self) -> &FragmentTable {
        &self.parts.fragments
    }

    pub fn devices(&self) -> &[Device] {
        &self.parts.devices
    }

    pub fn memory(&self) -> &Memory {
        &self.parts.memory
    }

    pub fn conntrack(&self) -> &Conntrack {
        &self.parts.conntrack
    }

    pub fn counters(&self) -> &Counters {
        &self.parts.counters
    }

    pub fn snapshot(&self) -> &Arc<Snapshot> {
        &self.parts.snapshot
    }

    /// Takes up a newer view between two batches. The old one goes to the mailbox's bin.
    pub fn install(&mut self, snapshot: Arc<Snapshot>) {
        let old = std::mem::replace(&mut self.parts.snapshot, snapshot);
        self.parts.mailbox.discard(old);
        let snapshot = &self.parts.snapshot;
        for device in &mut self.parts.devices {
            if let Device::Direct { index, port, .. } = device {
                *port = snapshot.direct_port(*index);
            }
        }
        self.parts.counters.generation.set(snapshot.generation().0);
        self.parts.counters.serial.set(snapshot.serial);
    }

    /// Forgets the flows of an endpoint that is gone: hygiene, since an endpoint is never reused.
    pub fn forget_endpoint(&mut self, endpoint: EndpointId) {
        let mut progress = crate::flow::conntrack::Sweep::default();
        while !self.parts.conntrack.remove_endpoint(endpoint, &mut progress, usize::MAX / 2) {}
    }
}
