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

use super::counters::Counters;
use super::handover::{Handover, Purpose};
use super::mailbox::{Capture, DropSample, Mailbox};
use crate::flow::{
    CacheEntry, Conntrack, Entry, Fate, FlowCache, FlowId, FragmentTable, Judged, Later, NewFlow, Piece,
    Released, Side, Touch, may_open,
};
use crate::forward::{check_source, is_gateway, route};
use crate::io::device::{Device, Received};
use crate::io::memory::{FrameId, Memory, Place};
use crate::io::ring::Transport;
use crate::io::tag;
use crate::io::xsk::BATCH;
use crate::packet::{FlowKey, Fragment, L4, Parsed, Payload, decrement_ttl, parse, set_macs, split_ipv4};
use crate::policy::{self, Refusal};
use crate::snapshot::{Port, PortKind, Snapshot};
use penstock_api::message::{FrameCensus, gateway};
use penstock_api::{DropReason, EndpointId, PortId, WorkerId};
use std::sync::Arc;

/// What a worker is made of.
#[derive(Debug)]
pub struct Parts {
    pub worker: WorkerId,
    pub memory: Memory,
    /// `devices[0]` carries every port that has no device of its own.
    pub devices: Vec<Device>,
    /// For each direct device of the switch: the worker that has it, and its index there.
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
    received: Vec<Received>,
    scratch: Vec<(FrameId, u32)>,
    batch: Vec<Packet>,
    /// Pieces whose first has come, to be judged after it.
    pieces: Vec<(FrameId, FlowKey)>,
    released: Vec<Released>,
    /// By chunk: the port a held frame came from.
    held_from: Vec<PortId>,
    /// Answers (ICMP errors, resets) left for this millisecond.
    answers_left: u32,
    answers_at_ms: u64,
    /// Drops still to be sampled in this round.
    samples_left: u32,
    /// One bit per port that sent something since it was last asked.
    busy_ports: Vec<u64>,
    /// Workers that were handed something in this round.
    to_wake: u32,
    now_ms: u64,
}

/// A frame on its way through the batch.
#[derive(Debug, Clone, Copy)]
struct Packet {
    frame: FrameId,
    len: u32,
    port: PortId,
    parsed: Parsed,
    hash: u64,
    step: Step,
}

/// What is next for a packet.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// A packet of a flow, to be looked up.
    Lookup,
    /// An error about a flow.
    Related {
        about: FlowKey,
    },
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
/// Flow-table entries looked at per round for expiry.
const EXPIRE_BUDGET: usize = 32;

impl Engine {
    pub fn new(parts: Parts) -> Engine {
        let held_max = parts.memory.chunks();
        Engine {
            capture: None,
            received: Vec::with_capacity(BATCH * (parts.devices.len() + 2)),
            scratch: Vec::with_capacity(BATCH),
            batch: Vec::with_capacity(BATCH * (parts.devices.len() + 2)),
            pieces: Vec::with_capacity(held_max),
            released: Vec::with_capacity(held_max),
            held_from: vec![PortId::HOST; held_max],
            answers_left: ANSWERS_PER_MS,
            answers_at_ms: 0,
            samples_left: 0,
            busy_ports: vec![0; crate::io::maps::PORTS_MAX / 64],
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
            device.flush(&mut self.parts.memory);
        }
        if self.to_wake != 0 {
            self.parts.handover.wake(self.to_wake);
            self.to_wake = 0;
        }
        self.parts.conntrack.expire(now_ms, EXPIRE_BUDGET);
        self.parts.counters.flows.set(self.parts.conntrack.len() as u64);
        self.parts.fragments.expire(now_ms, EXPIRE_BUDGET, &mut self.released);
        self.settle_released();
        frames
    }

    fn receive(&mut self, device: usize) -> usize {
        let parts = &mut self.parts;
        parts.devices[device].receive(&mut parts.memory, &mut self.scratch, &mut self.received);
        let frames = self.received.len();
        if frames == 0 {
            return 0;
        }
        self.parts.counters.received.add(frames as u64);
        let mut received = std::mem::take(&mut self.received);
        for frame in received.drain(..) {
            let Some(port) = frame.port else {
                self.parts.counters.drop_frame(PortId::HOST, DropReason::BadTag);
                self.parts.memory.release(frame.frame);
                continue;
            };
            let counters = self.parts.counters.port(port);
            counters.rx_frames.add(1);
            counters.rx_bytes.add(frame.len.into());
            if let Some(word) = self.busy_ports.get_mut(port.index() / 64) {
                *word |= 1 << (port.index() % 64);
            }
            self.admit(frame.frame, frame.len, port, None);
        }
        self.received = received;
        self.run_batch();
        frames
    }

    /// Frames other workers had and that are ours.
    fn take_handed_over(&mut self) -> usize {
        let mut frames = 0;
        let handover = self.parts.handover.clone();
        let inbox = handover.inbox(self.parts.worker.index());
        while frames < BATCH && !inbox.is_empty() {
            let memory = &mut self.parts.memory;
            let taken = inbox.pop(|slot| {
                (memory.copy_in(slot.frame()), slot.len as u32, slot.port, slot.kind, slot.transport)
            });
            let Some((frame, len, port, kind, transport)) = taken else { break };
            frames += 1;
            let Some(frame) = frame else {
                self.parts.counters.drop_frame(port, DropReason::NoFrame);
                continue;
            };
            match Purpose::from_code(kind) {
                Purpose::Process => self.admit(frame, len, port, None),
                Purpose::ProcessPiece => self.admit(frame, len, port, Some(transport)),
                Purpose::Transmit => self.transmit(frame, len, port),
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

    // ---- admit: what is it, from whom, and whose is it? ------------------------------------------------------------

    /// `transport`: of a piece of a datagram, when it is known already.
    fn admit(&mut self, frame: FrameId, len: u32, port: PortId, transport: Option<Transport>) {
        let Some(from) = self.parts.snapshot.port(port) else {
            return self.drop_early(frame, port, DropReason::PortGone);
        };
        let head = self.parts.memory.head(frame);
        let mut parsed = match parse(head, len as usize) {
            Ok(parsed) => parsed,
            Err(reason) => return self.drop_early(frame, port, reason),
        };
        if let Err(reason) = check_source(&self.parts.snapshot, from, head, &parsed) {
            return self.drop_early(frame, port, reason);
        }
        let mut step = match parsed.payload {
            Payload::ArpRequest { .. } | Payload::NeighbourSolicitation { .. } => {
                return self.answer_neighbour(frame, port, &parsed);
            }
            Payload::IcmpError { about } => Step::Related { about },
            Payload::Flow(_) if is_gateway(parsed.key.destination_address()) => {
                return self.answer_gateway(frame, port, &parsed);
            }
            Payload::Flow(_) => Step::Lookup,
        };
        if parsed.fragment != Fragment::Whole {
            match transport {
                Some(transport) => transport.enter(&mut parsed.key),
                None => match self.track_piece(frame, port, &mut parsed) {
                    Ok(()) => {}
                    Err(next) => step = next,
                },
            }
        }
        let mut packet = Packet { frame, len, port, parsed, hash: 0, step };
        match packet.step {
            Step::Gone => return,
            Step::Drop(_) | Step::Forward { .. } => {}
            Step::Lookup => self.claim(&mut packet, parsed.key),
            Step::Related { about } => self.claim(&mut packet, about),
        }
        if !matches!(packet.step, Step::Gone) {
            self.batch.push(packet);
        }
    }

    /// Keeps a packet whose flow is ours, and begins to fetch what is known of it; hands over any other.
    #[inline]
    fn claim(&mut self, packet: &mut Packet, key: FlowKey) {
        let owner = key.owner(self.parts.handover.workers());
        if owner != self.parts.worker.index() {
            let purpose = match packet.parsed.fragment {
                Fragment::Whole => Purpose::Process,
                _ => Purpose::ProcessPiece,
            };
            let transport = Transport::of(&key);
            self.hand_over(packet.frame, packet.len, packet.port, owner, purpose, transport);
            packet.step = Step::Gone;
            return;
        }
        packet.hash = self.parts.conntrack.hash(&key);
        self.parts.cache.prefetch(packet.hash);
    }

    /// Finds out which ports a piece has, or keeps it until that is known. `Err` says what happens instead of a look-up.
    #[cold]
    fn track_piece(&mut self, frame: FrameId, port: PortId, parsed: &mut Parsed) -> Result<(), Step> {
        // One worker sees all pieces of a datagram: the one that owns its addresses without ports, and in IPv6 without the
        // protocol, which a later piece may not know.
        let protocol = if parsed.key.family == 4 { parsed.key.protocol } else { 0 };
        let portless = FlowKey { source_port: 0, destination_port: 0, protocol, ..parsed.key };
        let owner = portless.owner(self.parts.handover.workers());
        if owner != self.parts.worker.index() {
            let len = self.parts.memory.len(frame) as u32;
            self.hand_over(frame, len, port, owner, Purpose::Process, Transport::default());
            return Err(Step::Gone);
        }
        let Some(piece) = Piece::of(parsed, port) else { return Ok(()) };
        let (fragments, now_ms) = (&mut self.parts.fragments, self.now_ms);
        let outcome = match parsed.fragment {
            Fragment::First { .. } => fragments.first(&piece, now_ms, &mut self.released).map(|()| None),
            _ => fragments.later(&piece, frame.0, now_ms, &mut self.released).map(Some),
        };
        let result = match outcome {
            Ok(None) => Ok(()),
            Ok(Some(Later::Known(key))) => {
                Transport::of(&key).enter(&mut parsed.key);
                Ok(())
            }
            Ok(Some(Later::Held)) => {
                self.parts.memory.put(frame, Place::Held);
                self.held_from[frame.0 as usize] = port;
                Err(Step::Gone)
            }
            Err(reason) => Err(Step::Drop(reason)),
        };
        self.settle_released();
        result
    }

    /// Frames the fragment table gave back: to be judged after their first, or dropped.
    fn settle_released(&mut self) {
        while let Some(Released { token, fate }) = self.released.pop() {
            let frame = FrameId(token);
            match fate {
                Fate::Judge(key) => self.pieces.push((frame, key)),
                Fate::Drop(reason) => self.drop_early(frame, self.held_from[token as usize], reason),
            }
        }
    }

    #[cold]
    fn hand_over(
        &mut self,
        frame: FrameId,
        len: u32,
        port: PortId,
        worker: usize,
        purpose: Purpose,
        transport: Transport,
    ) {
        let memory = &self.parts.memory;
        let pushed = self.parts.handover.inbox(worker).push(|slot| {
            slot.port = port;
            slot.kind = purpose.code();
            slot.transport = transport;
            slot.len = memory.copy_out(frame, &mut slot.bytes).min(slot.bytes.len());
            debug_assert_eq!(slot.len, len as usize);
        });
        if !pushed {
            return self.drop_early(frame, port, DropReason::HandoverFull);
        }
        self.parts.counters.handed_over.add(1);
        self.parts.memory.release(frame);
        self.to_wake |= 1 << worker;
    }

    // ---- the batch: lookup, touch, forward -------------------------------------------------------------------------

    fn run_batch(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        let mut batch = std::mem::take(&mut self.batch);
        for packet in &batch {
            self.parts.cache.prefetch_entry(packet.hash);
        }
        for packet in &mut batch {
            match packet.step {
                Step::Lookup => packet.step = self.lookup(packet),
                Step::Related { about } => packet.step = self.relate(packet, &about),
                _ => {}
            }
        }
        for packet in batch.drain(..) {
            self.finish(packet);
        }
        self.batch = batch;
    }

    /// Finds the flow a packet belongs to, or makes it. The answer is [`Step::Forward`] or [`Step::Drop`].
    #[inline]
    fn lookup(&mut self, packet: &Packet) -> Step {
        let Payload::Flow(l4) = packet.parsed.payload else { return Step::Drop(DropReason::InvalidState) };
        if let Some(&CacheEntry { flow, stamp, side, out, .. }) =
            self.parts.cache.get(packet.hash, &packet.parsed.key)
            && self.is_current(flow, stamp, side, packet.port, out)
        {
            match self.parts.conntrack.touch(flow, side, &l4, packet.len, self.now_ms) {
                Ok(Touch::Tracked) => {
                    self.parts.counters.cache_hits.add(1);
                    return Step::Forward { out };
                }
                Ok(Touch::Reopen) => {}
                Err(reason) => return Step::Drop(reason),
            }
        }
        self.parts.counters.cache_misses.add(1);
        match self.decide(packet, &l4) {
            Ok(out) => Step::Forward { out },
            Err(reason) => Step::Drop(reason),
        }
    }

    /// Was the flow judged under what is in force now, between the endpoints that are there now?
    #[inline]
    fn is_current(&self, flow: FlowId, stamp: u32, side: Side, from: PortId, out: PortId) -> bool {
        let Some(entry) = self.parts.conntrack.current(flow, stamp) else { return false };
        let (source, destination) = match side {
            Side::Forward => (from, out),
            Side::Reply => (out, from),
        };
        let (Some(source), Some(destination)) =
            (self.parts.snapshot.port(source), self.parts.snapshot.port(destination))
        else {
            return false;
        };
        is_between(entry, source, destination) && entry.judged() == self.judged_now(source, destination)
    }

    #[inline]
    fn judged_now(&self, source: &Port, destination: &Port) -> Judged {
        Judged {
            source: source.revision,
            destination: destination.revision,
            forwarding: self.parts.snapshot.forwarding,
        }
    }

    /// The slow road: conntrack, policy, remember.
    fn decide(&mut self, packet: &Packet, l4: &L4) -> Result<PortId, DropReason> {
        let snapshot = Arc::clone(&self.parts.snapshot);
        let result = self.decide_under(&snapshot, packet, l4);
        // Never the last reference: the mailbox's owner frees snapshots, not a worker.
        drop(snapshot);
        result
    }

    fn decide_under(&mut self, snapshot: &Snapshot, packet: &Packet, l4: &L4) -> Result<PortId, DropReason> {
        let key = &packet.parsed.key;
        let from = snapshot.port(packet.port).ok_or(DropReason::PortGone)?;
        let to = route(snapshot, from, key.destination_address())?;
        if let Some((flow, side)) = self.parts.conntrack.find(key, packet.hash)
            && self.renew(snapshot, flow, side, from, to, packet)?
        {
            match self.parts.conntrack.touch(flow, side, l4, packet.len, self.now_ms)? {
                Touch::Tracked => {
                    self.remember(packet, flow, side, to.id);
                    return Ok(to.id);
                }
                // Judged below as the first packet of another flow, whose tuple this one gives up if that is allowed.
                Touch::Reopen => {
                    self.admit_flow(snapshot, from, to, packet, l4)?;
                    self.parts.conntrack.remove(flow);
                    return self.open(snapshot, from, to, packet, l4);
                }
            }
        }
        self.open(snapshot, from, to, packet, l4)
    }

    /// Judges a known flow again if what is in force has changed. False: the flow was between other endpoints and is gone.
    #[allow(clippy::too_many_arguments)]
    fn renew(
        &mut self,
        snapshot: &Snapshot,
        flow: FlowId,
        side: Side,
        from: &Port,
        to: &Port,
        packet: &Packet,
    ) -> Result<bool, DropReason> {
        let (source, destination) = match side {
            Side::Forward => (from, to),
            Side::Reply => (to, from),
        };
        let entry = self.parts.conntrack.entry(flow);
        if !is_between(entry, source, destination) {
            self.parts.conntrack.remove(flow);
            return Ok(false);
        }
        let judged = self.judged_now(source, destination);
        if entry.judged() == judged {
            return Ok(true);
        }
        let first = entry.key();
        let question = policy::question(&first, true);
        match policy::judge(snapshot, source, destination, &first, question) {
            Ok(allowed) => {
                self.parts.conntrack.rejudged(flow, judged, allowed.egress_rule, allowed.ingress_rule);
                Ok(true)
            }
            Err(refusal) => {
                self.parts.conntrack.remove(flow);
                Err(self.refuse(refusal, packet))
            }
        }
    }

    /// May this packet open a flow, and does policy let it?
    fn admit_flow(
        &mut self,
        snapshot: &Snapshot,
        from: &Port,
        to: &Port,
        packet: &Packet,
        l4: &L4,
    ) -> Result<policy::Allowed, DropReason> {
        let key = &packet.parsed.key;
        may_open(key, l4)?;
        let question = policy::question(key, false);
        policy::judge(snapshot, from, to, key, question).map_err(|refusal| self.refuse(refusal, packet))
    }

    fn open(
        &mut self,
        snapshot: &Snapshot,
        from: &Port,
        to: &Port,
        packet: &Packet,
        l4: &L4,
    ) -> Result<PortId, DropReason> {
        let allowed = self.admit_flow(snapshot, from, to, packet, l4)?;
        let key = packet.parsed.key;
        let flow = self.parts.conntrack.insert(
            &NewFlow {
                key,
                reply_key: key.reversed(),
                source: from.endpoint,
                destination: to.endpoint,
                source_port: from.id,
                destination_port: to.id,
                judged: self.judged_now(from, to),
                egress_rule: allowed.egress_rule,
                ingress_rule: allowed.ingress_rule,
                l4: *l4,
            },
            self.now_ms,
        )?;
        match self.parts.conntrack.touch(flow, Side::Forward, l4, packet.len, self.now_ms)? {
            Touch::Tracked => {
                self.remember(packet, flow, Side::Forward, to.id);
                Ok(to.id)
            }
            Touch::Reopen => Err(DropReason::InvalidState),
        }
    }

    fn remember(&mut self, packet: &Packet, flow: FlowId, side: Side, out: PortId) {
        let entry = self.parts.conntrack.entry(flow);
        let remembered = CacheEntry {
            key: packet.parsed.key,
            flow,
            stamp: entry.stamp(),
            judged: entry.judged(),
            out,
            side,
            flags: 0,
        };
        self.parts.cache.insert(packet.hash, remembered);
    }

    /// An ICMP error passes when it is about a flow that is allowed, comes from the flow's other end and goes to the one that
    /// sent what it quotes.
    #[cold]
    fn relate(&mut self, packet: &Packet, about: &FlowKey) -> Step {
        let snapshot = Arc::clone(&self.parts.snapshot);
        let result = self.relate_under(&snapshot, packet, about);
        match result {
            Ok(out) => Step::Forward { out },
            Err(reason) => Step::Drop(reason),
        }
    }

    fn relate_under(
        &mut self,
        snapshot: &Snapshot,
        packet: &Packet,
        about: &FlowKey,
    ) -> Result<PortId, DropReason> {
        let unrelated = DropReason::UnrelatedIcmp;
        if packet.parsed.key.destination != about.source {
            return Err(unrelated);
        }
        let (flow, side) = self.parts.conntrack.find(about, packet.hash).ok_or(unrelated)?;
        let from = snapshot.port(packet.port).ok_or(DropReason::PortGone)?;
        let to = route(snapshot, from, about.source_address())?;
        // The quoted packet went from `to` to `from`. Somebody else's word about it changes nothing, not even the table.
        let (source, destination) = match side {
            Side::Forward => (to, from),
            Side::Reply => (from, to),
        };
        if !is_between(self.parts.conntrack.entry(flow), source, destination)
            || !self.renew(snapshot, flow, side, to, from, packet)?
        {
            return Err(unrelated);
        }
        Ok(to.id)
    }

    /// Notes who refused, for the operator.
    #[cold]
    fn refuse(&mut self, refusal: Refusal, packet: &Packet) -> DropReason {
        if self.samples_left > 0 {
            self.samples_left -= 1;
            // Full: counted all the same.
            let _ = self.parts.mailbox.drop_events.push(DropSample {
                reason: refusal.reason,
                port: packet.port,
                key: packet.parsed.key,
                judge: refusal.judge,
                direction: refusal.direction,
                rule: refusal.rule,
            });
        }
        refusal.reason
    }

    #[inline]
    fn finish(&mut self, packet: Packet) {
        match packet.step {
            Step::Forward { out } => self.forward(packet, out),
            Step::Drop(reason) => self.drop_packet(packet, reason),
            Step::Lookup | Step::Related { .. } | Step::Gone => {}
        }
    }

    #[inline]
    fn forward(&mut self, packet: Packet, out: PortId) {
        let Some(port) = self.parts.snapshot.port(out) else {
            return self.drop_packet(packet, DropReason::PortGone);
        };
        let (mac, mtu) = (self.mac_for(port), port.mtu);
        if packet.parsed.ttl <= 1 {
            return self.drop_packet(packet, DropReason::TtlExceeded);
        }
        let too_big = packet.parsed.ip_len > mtu;
        if too_big && packet.parsed.dont_fragment {
            return self.drop_too_big(packet, mtu);
        }
        if let Some(capture) = &self.capture {
            super::capture::record(capture, &self.parts.memory, packet.frame, packet.port, out, Ok(()));
        }
        let head = self.parts.memory.head_mut(packet.frame);
        decrement_ttl(head, &packet.parsed);
        set_macs(head, mac, gateway::MAC.0);
        if too_big {
            return self.send_split(packet, out, mtu);
        }
        self.transmit(packet.frame, packet.len, out);
    }

    /// What the destination MAC of a frame to this port is: a tag on a trunk, its own elsewhere.
    fn mac_for(&self, port: &Port) -> [u8; 6] {
        let tagged = self.parts.devices.first().is_some_and(Device::is_tagged);
        if tagged && port.kind != PortKind::Direct { tag::to_port(port.id) } else { port.mac }
    }

    /// Sends one frame, ready as it is, by `out`.
    #[inline]
    pub(super) fn transmit(&mut self, frame: FrameId, len: u32, out: PortId) {
        let Some(port) = self.parts.snapshot.port(out) else {
            return self.drop_early(frame, out, DropReason::PortGone);
        };
        let device = match port.kind {
            PortKind::Host | PortKind::Pod => 0,
            PortKind::Direct => match self.parts.direct.get(usize::from(port.device)) {
                Some(&(worker, device)) if worker == self.parts.worker.index() => device,
                Some(&(worker, _)) => {
                    return self.hand_over(frame, len, out, worker, Purpose::Transmit, Transport::default());
                }
                None => return self.drop_early(frame, out, DropReason::PortGone),
            },
        };
        let parts = &mut self.parts;
        let device = &mut parts.devices[device];
        if !device.transmit(&mut parts.memory, frame, out) {
            // Perhaps what was queued before has gone meanwhile.
            device.flush(&mut parts.memory);
            if !device.transmit(&mut parts.memory, frame, out) {
                return self.drop_early(frame, out, DropReason::TxFull);
            }
        }
        let counters = self.parts.counters.port(out);
        counters.tx_frames.add(1);
        counters.tx_bytes.add(len.into());
    }

    /// A packet that may be fragmented and must be.
    #[cold]
    fn send_split(&mut self, packet: Packet, out: PortId, mtu: u16) {
        let head = self.parts.memory.head(packet.frame);
        let Some(pieces) = split_ipv4(head, &packet.parsed, mtu) else {
            return self.drop_packet(packet, DropReason::TooBig);
        };
        let mut sent = 0;
        for piece in pieces {
            let Some(frame) = self.copy_piece(packet.frame, &piece) else {
                self.parts.counters.originated.add(sent);
                return self.drop_packet(packet, DropReason::NoFrame);
            };
            sent += 1;
            self.transmit(frame, piece.frame_len() as u32, out);
        }
        // One of them stands for the frame that is no more.
        self.parts.counters.originated.add(sent - 1);
        self.parts.memory.release(packet.frame);
    }

    /// A frame with a piece's header and its bytes of the old frame; either may lie in several chunks. `None`: not enough are free.
    fn copy_piece(&mut self, old: FrameId, piece: &crate::packet::Piece) -> Option<FrameId> {
        let memory = &mut self.parts.memory;
        let capacity = memory.chunk_capacity();
        let frame = memory.allocate_chain(piece.frame_len())?;
        let header = piece.header.len();
        memory.head_mut(frame)[..header].copy_from_slice(&piece.header);
        let (mut chunk, mut at, mut done) = (Some(frame), header, 0);
        while let Some(id) = chunk {
            let here = (capacity - at).min(piece.data_len - done);
            memory.copy_between(old, piece.data_at + done, id, at, here);
            (chunk, at, done) = (memory.chunk_after(id), 0, done + here);
        }
        Some(frame)
    }

    // ---- drops -----------------------------------------------------------------------------------------------------

    /// Drops a frame that never became a packet, or already was on its way out.
    #[cold]
    pub(super) fn drop_early(&mut self, frame: FrameId, port: PortId, reason: DropReason) {
        self.parts.memory.put(frame, Place::Hand);
        if let Some(capture) = &self.capture {
            super::capture::record(capture, &self.parts.memory, frame, port, port, Err(reason));
        }
        self.parts.counters.drop_frame(port, reason);
        self.parts.memory.release(frame);
    }

    /// Drops a packet, and tells its sender where that is due.
    #[cold]
    fn drop_packet(&mut self, packet: Packet, reason: DropReason) {
        self.answer_drop(packet.frame, packet.port, &packet.parsed, reason);
        self.drop_early(packet.frame, packet.port, reason);
    }

    #[cold]
    fn drop_too_big(&mut self, packet: Packet, mtu: u16) {
        self.answer_too_big(packet.frame, packet.port, &packet.parsed, mtu);
        self.drop_early(packet.frame, packet.port, DropReason::TooBig);
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

    /// Chunks that have arrived at the trunk and wait for a later round.
    #[inline]
    pub fn waiting(&mut self) -> u32 {
        self.parts.devices.first_mut().and_then(Device::xsk_mut).map_or(0, |xsk| xsk.waiting())
    }

    /// Chunks that were sent and came back, of all sockets.
    #[inline]
    pub fn completed(&self) -> u64 {
        self.parts.devices.iter().filter_map(Device::xsk).map(|xsk| xsk.completed()).sum()
    }

    /// Frames with the kernel, to be sent.
    #[inline]
    pub fn outstanding(&self) -> usize {
        self.parts.devices.iter().filter_map(Device::xsk).map(|xsk| xsk.outstanding()).sum()
    }

    /// Something waits that no descriptor tells of.
    pub fn has_work(&self) -> bool {
        self.parts.devices.iter().any(Device::has_work)
            || !self.parts.handover.inbox(self.parts.worker.index()).is_empty()
    }

    /// Frames other workers have put into this one's inbox.
    pub fn inbox_len(&self) -> u64 {
        self.parts.handover.inbox(self.parts.worker.index()).len() as u64
    }

    /// Where every frame is: exact between two rounds.
    #[must_use]
    pub fn census(&self) -> FrameCensus {
        super::report::census(self)
    }

    pub fn socket_fds(&self) -> impl Iterator<Item = std::os::fd::RawFd> + '_ {
        self.parts.devices.iter().filter_map(|device| device.xsk()?.fd())
    }

    /// Binds every socket anew; what was with the kernel comes home. For each device its new descriptor, if it has one.
    pub fn rebind(&mut self) -> Vec<Result<Option<std::os::fd::RawFd>, String>> {
        let Parts { devices, memory, counters, .. } = &mut self.parts;
        devices.iter_mut().filter_map(Device::xsk_mut).for_each(|xsk| xsk.close());
        memory.reclaim_from_kernel();
        counters.rebinds.add(1);
        devices
            .iter_mut()
            .map(|device| match device.xsk_mut() {
                None => Ok(None),
                Some(xsk) => {
                    let result = xsk.reopen().map_err(|error| error.to_string());
                    xsk.refill(memory);
                    result.map(|()| xsk.fd())
                }
            })
            .collect()
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

/// Is this a flow from one endpoint to another, as they are attached now?
#[inline]
fn is_between(flow: &Entry, source: &Port, destination: &Port) -> bool {
    flow.source() == source.endpoint
        && flow.destination() == destination.endpoint
        && flow.source_port() == source.id
        && flow.destination_port() == destination.id
}
