//! Connection tracking: which packets belong to a flow that was allowed, and in which direction they travel.
//!
//! **Shape.** Entries are plain records in one array, in memory that outlives the process: after a restart, replies do
//! not look new. Everything that finds them is private and rebuilt on start: an index of both tuples, a timer wheel, queues of
//! what may be evicted, a list of free slots.
//!
//! | part | file | cost |
//! |---|---|---|
//! | record | `entry.rs` | 192 bytes: one line that every packet writes, two that only lookups and judging read |
//! | index | `index.rs` | two buckets of 8 per tuple, never more: at most two lines read |
//! | TCP | `tcp.rs` | a pure function from state and segment to state |
//! | timers | `wheel.rs` | a packet writes its time only; the wheel looks again when it comes round |
//! | eviction | `../quota.rs` | constant |
//! | file | `../shared.rs`, `adopt.rs` | at start only |
//!
//! **Promise.** Every operation takes bounded time and allocates nothing. A port over its quota, or meeting a full table, loses its own
//! oldest half-open, unreplied or closed flow first; a full table also takes such a flow from a port that holds plainly more of them.
//! An established flow is never evicted for a new one. A flow that was closed can only be opened again by being judged again.
//!
//! **Owner.** One worker. Flows belong to the worker [`FlowKey::owner`] names.

mod adopt;
mod entry;
mod index;
mod tcp;
#[cfg(test)]
mod tests;
mod wheel;

use super::KeyHasher;
use super::prefetch::prefetch;
use super::quota::Quota;
use super::shared::Records;
use crate::packet::{FlowKey, L4, parsed::tcp as flags};
pub use adopt::{Adopted, OpenError, adopt_into};
pub use entry::{Entry, FlowId, Judged, NewFlow, Side, State};
use index::Index;
use penstock_api::artefact::protocol;
use penstock_api::{DropReason, EndpointId, PortId};
use std::collections::VecDeque;
use wheel::Wheel;

/// How much, how long, and hashed how.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Flows this worker tracks; below 2^29.
    pub flows_max: usize,
    /// Flows one source port may have here.
    pub flows_per_port_max: usize,
    pub timeouts: Timeouts,
    pub hasher: KeyHasher,
}

impl Settings {
    /// Defaults for a table of this size: a quarter of it for any one port, and random hash keys.
    #[must_use]
    pub fn sized(flows_max: usize) -> Self {
        Settings {
            flows_max,
            flows_per_port_max: (flows_max / 4).max(1),
            timeouts: Timeouts::default(),
            hasher: KeyHasher::random(),
        }
    }
}

/// After how much silence a flow is forgotten, in milliseconds. Checked once a second: a flow lives up to a second longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// SYN or SYN-ACK seen, handshake not complete.
    pub tcp_half_open_ms: u64,
    /// RFC 5382 REQ-5 asks for 2 h 4 min, so that default keepalives (2 h) keep a connection known.
    pub tcp_established_ms: u64,
    /// A FIN from one side or both, not both acknowledged.
    pub tcp_closing_ms: u64,
    /// Both FINs acknowledged: late retransmissions still pass.
    pub tcp_time_wait_ms: u64,
    /// Closed by RST.
    pub tcp_closed_ms: u64,
    pub udp_unreplied_ms: u64,
    pub udp_replied_ms: u64,
    pub icmp_ms: u64,
    pub other_unreplied_ms: u64,
    pub other_replied_ms: u64,
}

impl Default for Timeouts {
    fn default() -> Self {
        Timeouts {
            tcp_half_open_ms: 30_000,
            tcp_established_ms: 7_440_000,
            tcp_closing_ms: 60_000,
            tcp_time_wait_ms: 60_000,
            tcp_closed_ms: 10_000,
            udp_unreplied_ms: 30_000,
            udp_replied_ms: 180_000,
            icmp_ms: 30_000,
            other_unreplied_ms: 60_000,
            other_replied_ms: 180_000,
        }
    }
}

impl Timeouts {
    fn of(&self, ip_protocol: u8, state: State) -> u64 {
        match (state, ip_protocol) {
            (State::SynSent | State::SynReceived, _) => self.tcp_half_open_ms,
            (State::Established, _) => self.tcp_established_ms,
            (State::Closing, _) => self.tcp_closing_ms,
            (State::TimeWait, _) => self.tcp_time_wait_ms,
            (State::Closed, _) => self.tcp_closed_ms,
            (_, protocol::ICMP | protocol::ICMPV6) => self.icmp_ms,
            (State::Unreplied, protocol::UDP) => self.udp_unreplied_ms,
            (State::Replied | State::Assured, protocol::UDP) => self.udp_replied_ms,
            (State::Unreplied, _) => self.other_unreplied_ms,
            (State::Replied | State::Assured, _) => self.other_replied_ms,
        }
    }
}

/// What a packet of a known flow means for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Touch {
    /// It belongs to the flow and was counted.
    Tracked,
    /// It asks for a new flow under a tuple that is still occupied: a SYN after the end, or a request against the direction of
    /// the flow. Nothing changed and nothing was counted: judge the packet as the first of a flow in its own direction, and if
    /// that is allowed, [`Conntrack::remove`] this one and [`Conntrack::insert`] the new.
    Reopen,
}

/// May a packet open a flow? Ask when [`Conntrack::find`] found none, before judging.
///
/// # Errors
/// [`DropReason::InvalidState`] for TCP that is no SYN, [`DropReason::UnrelatedIcmp`] for an answer to nothing.
pub fn may_open(key: &FlowKey, l4: &L4) -> Result<(), DropReason> {
    match (*l4, key.protocol) {
        (L4::Tcp { flags: bits, .. }, _) => {
            let handshake = bits & (flags::SYN | flags::ACK | flags::RST | flags::FIN);
            if handshake == flags::SYN { Ok(()) } else { Err(DropReason::InvalidState) }
        }
        (L4::Echo { request: true }, _) => Ok(()),
        (L4::Echo { request: false }, _) => Err(DropReason::UnrelatedIcmp),
        (L4::Icmp { kind, .. }, _) if is_icmp_answer(key.family, kind) => Err(DropReason::UnrelatedIcmp),
        // A later fragment: its first would have opened the flow.
        (L4::Other, protocol::TCP) => Err(DropReason::InvalidState),
        (L4::Other, protocol::ICMP | protocol::ICMPV6) => Err(DropReason::UnrelatedIcmp),
        (L4::Icmp { .. } | L4::Udp | L4::Sctp | L4::Other, _) => Ok(()),
    }
}

/// Timestamp, information and address mask replies; node information response.
fn is_icmp_answer(family: u8, kind: u8) -> bool {
    match family {
        4 => matches!(kind, 14 | 16 | 18),
        _ => kind == 140,
    }
}

/// A UDP (or ICMP, or other) flow answered for this long is no longer evicted for a newer one.
const ASSURED_AFTER_MS: u64 = 2_000;

/// Flows the wheel shows at a time.
const DUE_AT_ONCE: usize = 16;
/// Between both passes over what will be evicted.
const VICTIMS_AHEAD: usize = 8;

/// What was asked for on behalf of new flows of one batch, in the order they come in. A hint, as all that comes of it.
#[derive(Debug)]
pub struct Ahead {
    new: usize,
    port: PortId,
    /// Flows that will be evicted, between both passes over them; never more than [`VICTIMS_AHEAD`] and one.
    victims: VecDeque<u32>,
}

impl Default for Ahead {
    fn default() -> Self {
        Ahead { new: 0, port: PortId::HOST, victims: VecDeque::with_capacity(VICTIMS_AHEAD + 1) }
    }
}

/// Progress of a walk over the whole table, a bounded piece at a time. Begin with the default.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sweep {
    next: usize,
}

/// One worker's flows.
#[derive(Debug)]
pub struct Conntrack {
    records: Records,
    index: Index,
    wheel: Wheel,
    quota: Quota,
    free: Vec<u32>,
    settings: Settings,
}

impl Conntrack {
    /// A table in private memory, forgotten with the process: tests, memory and pcap ports.
    ///
    /// # Errors
    /// When the memory cannot be had.
    pub fn create(settings: Settings) -> Result<Self, OpenError> {
        let records = Records::private(settings.flows_max).map_err(OpenError::Memory)?;
        Ok(Self::over(records, settings, 0))
    }

    /// An empty table over records nobody has looked at yet.
    fn over(records: Records, settings: Settings, now_ms: u64) -> Self {
        let flows_max = records.len();
        Conntrack {
            records,
            index: Index::new(flows_max),
            wheel: Wheel::new(flows_max, now_ms),
            quota: Quota::new(flows_max),
            // Popped from the end: low slots first, so that a quiet table touches little memory.
            free: (0..flows_max as u32).rev().collect(),
            settings,
        }
    }

    /// Hash of a key, as [`Conntrack::find`] wants it.
    #[inline]
    #[must_use]
    pub fn hash(&self, key: &FlowKey) -> u64 {
        self.settings.hasher.hash(key)
    }

    /// The same of a key that is still in words.
    #[inline]
    #[must_use]
    pub fn hash_words(&self, words: &[u64; 5]) -> u64 {
        self.settings.hasher.hash_words(words, 0)
    }

    /// Asks for the lines [`Conntrack::find`] will read.
    #[inline]
    pub fn prefetch(&self, hash: u64) {
        self.index.prefetch(hash);
    }

    /// Second pass over what is in no cache: asks for the record of a tuple that may be known. If it cannot be, does what
    /// [`Conntrack::prefetch_new`] does.
    #[inline]
    pub fn prefetch_missed(&self, key: &FlowKey, hash: u64, port: PortId, ahead: &mut Ahead) -> Option<u64> {
        if let Some(slot) = self.index.candidate(hash) {
            if let Some(entry) = self.records.get(slot as usize) {
                entry.prefetch_all();
            }
            return None;
        }
        Some(self.prefetch_new(key, port, ahead))
    }

    /// Asks for what [`Conntrack::insert`] will read and write when it comes to a new flow of this port, after those in `ahead`.
    /// Returns the hash of the reply.
    #[inline]
    pub fn prefetch_new(&self, key: &FlowKey, port: PortId, ahead: &mut Ahead) -> u64 {
        let reply_hash = self.settings.hasher.hash_words(&key.reversed_words(), 0);
        self.index.prefetch(reply_hash);
        let is_over = self.quota.held(port) as usize + ahead.new >= self.settings.flows_per_port_max;
        let free = self.free.len().checked_sub(ahead.new + 1).filter(|_| !is_over);
        ahead.new += 1;
        match free {
            Some(at) => self.prefetch_slot(self.free[at]),
            None => self.prefetch_victim(port, ahead),
        }
        reply_hash
    }

    #[inline]
    fn prefetch_slot(&self, slot: u32) {
        self.records[slot as usize].prefetch_all();
        self.index.prefetch_places(slot);
        self.wheel.prefetch(slot);
        self.quota.prefetch(slot);
    }

    /// Second pass over a slot that will be freed.
    #[inline]
    fn prefetch_around(&self, slot: u32) {
        self.index.prefetch_tuples(slot);
        self.wheel.prefetch_neighbours(slot);
        self.quota.prefetch_neighbours(slot);
    }

    /// Whose place a new flow of this port will take, as far as can be told; the last but few of those found before is due for
    /// its second pass.
    fn prefetch_victim(&self, port: PortId, ahead: &mut Ahead) {
        let victim = match ahead.victims.back() {
            Some(&last) if ahead.port == port => self.quota.after(last),
            _ => self.quota.victim_for(port),
        };
        let Some(victim) = victim else { return };
        ahead.port = port;
        self.prefetch_slot(victim);
        ahead.victims.push_back(victim);
        if ahead.victims.len() > VICTIMS_AHEAD
            && let Some(slot) = ahead.victims.pop_front()
        {
            self.prefetch_around(slot);
        }
    }

    /// No more is asked for before flows are inserted.
    #[inline]
    pub fn prefetch_done(&self, ahead: &mut Ahead) {
        while let Some(slot) = ahead.victims.pop_front() {
            self.prefetch_around(slot);
        }
        ahead.new = 0;
    }

    /// Asks for the line [`Conntrack::touch`] will write.
    #[inline]
    pub fn prefetch_flow(&self, id: FlowId) {
        if let Some(entry) = self.records.get(id.index()) {
            prefetch(entry);
        }
    }

    /// The flow with this tuple, and whether the tuple is its original or its reply.
    #[inline]
    #[must_use]
    pub fn find(&self, key: &FlowKey, hash: u64) -> Option<(FlowId, Side)> {
        self.index.find(hash, |slot, side| key.is_of(self.records[slot as usize].tuple(side)))
    }

    /// The flow in a slot. Of a slot that was freed since, an entry that is not [live](Entry::is_live).
    ///
    /// # Panics
    /// When `id` is not from this table.
    #[inline]
    #[must_use]
    pub fn entry(&self, id: FlowId) -> &Entry {
        &self.records[id.index()]
    }

    /// The flow in a slot, if it is still the one that had this [stamp](Entry::stamp) and not another that took its place.
    #[inline]
    #[must_use]
    pub fn current(&self, id: FlowId, stamp: u32) -> Option<&Entry> {
        self.records.get(id.index()).filter(|entry| entry.is_live() && entry.stamp() == stamp)
    }

    /// Remembers a new flow. Does not count its first packet: [`Conntrack::touch`] does, as for every other.
    ///
    /// # Errors
    /// [`DropReason::ConntrackFull`] when the port is over its quota or the table full and nothing may be evicted, or when one
    /// of the tuples belongs to another flow that is not over (a translation that collides: choose another port).
    pub fn insert(&mut self, new: &NewFlow, now_ms: u64) -> Result<FlowId, DropReason> {
        self.insert_hashed(new, [self.hash(&new.key), self.hash(&new.reply_key)], now_ms)
    }

    /// [`Conntrack::insert`], with the hashes of both keys at hand.
    ///
    /// # Errors
    /// As there.
    pub fn insert_hashed(
        &mut self,
        new: &NewFlow,
        hashes: [u64; 2],
        now_ms: u64,
    ) -> Result<FlowId, DropReason> {
        debug_assert_eq!(hashes, [self.hash(&new.key), self.hash(&new.reply_key)]);
        for (key, hash) in [(&new.key, hashes[0]), (&new.reply_key, hashes[1])] {
            if let Some((known, _)) = self.find(key, hash) {
                if !self.entry(known).state().is_over() {
                    return Err(DropReason::ConntrackFull);
                }
                self.remove(known);
            }
        }
        if self.quota.held(new.source_port) as usize >= self.settings.flows_per_port_max {
            let victim = self.quota.oldest_of(new.source_port).ok_or(DropReason::ConntrackFull)?;
            self.remove(FlowId(victim));
        }
        if self.free.is_empty() {
            let victim = self.quota.victim_for(new.source_port).ok_or(DropReason::ConntrackFull)?;
            self.remove(FlowId(victim));
        }
        let slot = *self.free.last().ok_or(DropReason::ConntrackFull)?;
        if !self.index.insert_both(hashes, slot, new.key.is_of(&new.reply_key.words())) {
            return Err(DropReason::ConntrackFull);
        }
        self.free.pop();
        self.records[slot as usize].open(new, now_ms);
        self.enlist(slot);
        Ok(FlowId(slot))
    }

    /// Puts a live record that is in the index under quota and timer.
    fn enlist(&mut self, slot: u32) {
        let entry = &self.records[slot as usize];
        let (port, expendable, deadline_ms) =
            (entry.source_port(), entry.state().is_expendable(), self.deadline_ms(entry));
        self.quota.add(port);
        if expendable {
            self.quota.make_expendable(port, slot);
        }
        self.wheel.schedule(slot, deadline_ms);
    }

    fn deadline_ms(&self, entry: &Entry) -> u64 {
        entry.last_seen_ms().saturating_add(self.settings.timeouts.of(entry.protocol(), entry.state()))
    }

    /// Counts one packet of the flow, in `bytes` of frame, and moves its state on. `l4` is [`L4::Other`] for later fragments.
    ///
    /// # Errors
    /// [`DropReason::InvalidState`] or [`DropReason::UnrelatedIcmp`] when the flow cannot have this packet (or is gone); nothing
    /// was counted.
    #[inline(always)]
    pub fn touch(
        &mut self,
        id: FlowId,
        side: Side,
        l4: &L4,
        bytes: u32,
        now_ms: u64,
    ) -> Result<Touch, DropReason> {
        let entry = &mut self.records[id.index()];
        if !entry.is_live() {
            return Err(DropReason::InvalidState);
        }
        let before = entry.state();
        if let Touch::Reopen = entry.advance(side, l4, now_ms)? {
            return Ok(Touch::Reopen);
        }
        entry.count(side, bytes, before, now_ms);
        if entry.state() != before {
            self.changed(id, before);
        }
        Ok(Touch::Tracked)
    }

    /// [`Conntrack::touch`], if the slot still has the flow with this stamp; `None` if not.
    ///
    /// # Errors
    /// As there.
    #[inline]
    pub fn touch_current(
        &mut self,
        id: FlowId,
        stamp: u32,
        side: Side,
        l4: &L4,
        bytes: u32,
        now_ms: u64,
    ) -> Result<Option<Touch>, DropReason> {
        match self.current(id, stamp) {
            Some(_) => self.touch(id, side, l4, bytes, now_ms).map(Some),
            None => Ok(None),
        }
    }

    /// The rare part of [`Conntrack::touch`]: a new state has another timer, and may be worth more or less than the old.
    #[cold]
    fn changed(&mut self, id: FlowId, before: State) {
        let entry = &self.records[id.index()];
        let (port, after, deadline_ms) = (entry.source_port(), entry.state(), self.deadline_ms(entry));
        if before.is_expendable() {
            self.quota.keep(port, id.0);
        }
        if after.is_expendable() {
            self.quota.make_expendable(port, id.0);
        }
        self.wheel.unschedule(id.0);
        self.wheel.schedule(id.0, deadline_ms);
    }

    /// Notes that the flow was judged again and under what, and the rules that decided.
    pub fn rejudged(&mut self, id: FlowId, judged: Judged, egress_rule: u32, ingress_rule: u32) {
        self.records[id.index()].rejudge(judged, egress_rule, ingress_rule);
    }

    /// From now on packets of the flow may pass unseen. What closes it is believed of whoever is one of its ends: the numbers known
    /// here say nothing any more.
    pub fn loosen(&mut self, id: FlowId) {
        self.records[id.index()].loosen();
    }

    /// Adds what passed unseen in one direction. The flow is not silent.
    pub fn carried(&mut self, id: FlowId, side: Side, frames: u64, bytes: u64, now_ms: u64) {
        let entry = &mut self.records[id.index()];
        if !entry.is_live() {
            return;
        }
        let before = entry.state();
        entry.carried(side, frames, bytes, now_ms);
        if entry.state() != before {
            self.changed(id, before);
        }
    }

    /// Forgets a flow. Nothing happens when the slot is free.
    pub fn remove(&mut self, id: FlowId) {
        let Some(entry) = self.records.get_mut(id.index()).filter(|entry| entry.is_live()) else { return };
        entry.close();
        let (port, expendable) = (entry.source_port(), entry.state().is_expendable());
        self.index.remove(id.0);
        self.quota.sub(port);
        if expendable {
            self.quota.keep(port, id.0);
        }
        self.wheel.unschedule(id.0);
        self.free.push(id.0);
    }

    /// Forgets flows that were silent for too long; looks at no more than `budget` of them. Returns how many went. Call it
    /// once per round with what the round can spare: what was not reached is reached next time.
    pub fn expire(&mut self, now_ms: u64, budget: usize) -> usize {
        let (mut gone, mut left) = (0, budget);
        let mut due = [0; DUE_AT_ONCE];
        while left > 0 {
            // Each flow is memory in a dozen places: asked for together.
            let Conntrack { records, index, quota, wheel, .. } = self;
            let room = &mut due[..left.min(DUE_AT_ONCE)];
            let found = wheel.due(now_ms, room, |slot| {
                records[slot as usize].prefetch_all();
                index.prefetch_places(slot);
                quota.prefetch(slot);
            });
            if found == 0 {
                break;
            }
            left -= found;
            for &slot in &due[..found] {
                self.prefetch_around(slot);
            }
            for &slot in &due[..found] {
                let deadline_ms = self.deadline_ms(&self.records[slot as usize]);
                if deadline_ms <= now_ms {
                    self.remove(FlowId(slot));
                    gone += 1;
                } else {
                    self.wheel.unschedule(slot);
                    self.wheel.schedule(slot, deadline_ms);
                }
            }
        }
        gone
    }

    /// Forgets every flow that `doomed` names, `budget` slots per call. True when the walk is complete.
    pub fn sweep(&mut self, progress: &mut Sweep, budget: usize, doomed: impl Fn(&Entry) -> bool) -> bool {
        let end = self.records.len().min(progress.next.saturating_add(budget));
        for slot in progress.next..end {
            let entry = &self.records[slot];
            if entry.is_live() && doomed(entry) {
                self.remove(FlowId(slot as u32));
            }
        }
        progress.next = end;
        end == self.records.len()
    }

    /// Forgets the flows of an endpoint that is gone, `budget` slots per call. True when none is left. Hygiene: endpoint
    /// numbers are not used again, so the pipeline refuses such flows already.
    pub fn remove_endpoint(&mut self, endpoint: EndpointId, progress: &mut Sweep, budget: usize) -> bool {
        self.sweep(progress, budget, |entry| entry.source() == endpoint || entry.destination() == endpoint)
    }

    /// Flows tracked now.
    #[must_use]
    pub fn len(&self) -> usize {
        self.records.len() - self.free.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Flows there is room for.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.records.len()
    }

    /// All flows, in no order. Walks the whole table: not for the packet path.
    pub fn iter(&self) -> impl Iterator<Item = (FlowId, &Entry)> {
        self.page(0, self.records.len())
    }

    /// The flows in `slots` slots from slot `from` on: how a worker reports its flows a piece per round.
    pub fn page(&self, from: usize, slots: usize) -> impl Iterator<Item = (FlowId, &Entry)> {
        (from..self.records.len().min(from.saturating_add(slots)))
            .map(|slot| (FlowId(slot as u32), &self.records[slot]))
            .filter(|(_, entry)| entry.is_live())
    }
}
