//! One flow as it lies in shared memory: integers only, no pointers, every bit pattern readable.
//!
//! A process may be killed between any two stores. `live` is written last when a flow is opened and first when it is
//! forgotten, and a checksum covers what never changes while it lives; a record that fails either is discarded on adoption.

use super::super::prefetch::prefetch;
use super::{ASSURED_AFTER_MS, Touch, is_icmp_answer, tcp};
use crate::packet::{FlowKey, L4};
use penstock_api::artefact::protocol;
use penstock_api::{DropReason, EndpointId, PortId};
use std::sync::atomic::{AtomicU16, Ordering};

/// A slot of one worker's table. Slots are reused: remember [`Entry::stamp`] with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(transparent)]
pub struct FlowId(pub(super) u32);

impl FlowId {
    #[inline]
    #[must_use]
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// Direction of a packet within its flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Side {
    /// As the first packet.
    Forward = 0,
    /// Against it.
    Reply = 1,
}

impl Side {
    #[inline]
    #[must_use]
    pub fn other(self) -> Side {
        match self {
            Side::Forward => Side::Reply,
            Side::Reply => Side::Forward,
        }
    }
}

/// The generations a flow was last judged under: policy of each end that is local, and forwarding. Unequal to the present
/// ones, it has to be judged again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Judged {
    pub source: u32,
    pub destination: u32,
    pub forwarding: u32,
}

impl Judged {
    /// Of a flow taken over from an earlier process: whatever is in force, it has to be judged again. Generations begin at 1.
    pub const NEVER: Judged = Judged { source: 0, destination: 0, forwarding: 0 };
}

/// A flow to be remembered. Fields speak of its first packet's direction.
#[derive(Clone, Copy, Debug)]
pub struct NewFlow {
    pub key: FlowKey,
    /// What the answers look like: `key.reversed()` unless the flow is translated.
    pub reply_key: FlowKey,
    pub source: EndpointId,
    pub destination: EndpointId,
    /// Where the first packet came from; its quota pays.
    pub source_port: PortId,
    pub destination_port: PortId,
    pub judged: Judged,
    /// The rules that allowed it, for the caller to interpret.
    pub egress_rule: u32,
    pub ingress_rule: u32,
    /// Of the first packet.
    pub l4: L4,
}

/// Where a flow stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum State {
    SynSent = 1,
    SynReceived = 2,
    Established = 3,
    /// One side or both sent FIN.
    Closing = 4,
    /// Both FINs are acknowledged.
    TimeWait = 5,
    /// Closed by RST.
    Closed = 6,
    /// Not TCP, one direction seen.
    Unreplied = 7,
    /// Not TCP, both directions seen.
    Replied = 8,
    /// Not TCP, both directions seen for two seconds.
    Assured = 9,
}

impl State {
    /// What commands print.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            State::SynSent => "syn_sent",
            State::SynReceived => "syn_received",
            State::Established => "established",
            State::Closing => "closing",
            State::TimeWait => "time_wait",
            State::Closed => "closed",
            State::Unreplied => "unreplied",
            State::Replied => "replied",
            State::Assured => "assured",
        }
    }

    /// Losing it harms nobody who keeps to the protocol: it may be evicted for a newer flow.
    #[must_use]
    pub fn is_expendable(self) -> bool {
        !matches!(self, State::Established | State::Closing | State::Assured)
    }

    /// It has ended; its tuples may be used again.
    #[must_use]
    pub fn is_over(self) -> bool {
        matches!(self, State::TimeWait | State::Closed)
    }

    fn is_tcp(self) -> bool {
        !matches!(self, State::Unreplied | State::Replied | State::Assured)
    }

    fn from_byte(byte: u8) -> Option<State> {
        Some(match byte {
            1 => State::SynSent,
            2 => State::SynReceived,
            3 => State::Established,
            4 => State::Closing,
            5 => State::TimeWait,
            6 => State::Closed,
            7 => State::Unreplied,
            8 => State::Replied,
            9 => State::Assured,
            _ => return None,
        })
    }
}

const LIVE: u16 = 0x5046;

/// A tracked flow. Three cache lines; packets of a known flow write the first only.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct Entry {
    live: AtomicU16,
    state: u8,
    tcp_flags: u8,
    stamp: u32,
    last_seen_ms: u64,
    frames: [u64; 2],
    bytes: [u64; 2],
    /// TCP: the highest sequence number (and one) each side has sent, and the highest acknowledgement.
    ends: [u32; 2],
    acknowledged: [u32; 2],
    /// Words of the keys of both directions.
    tuples: [[u64; 5]; 2],
    source: u32,
    destination: u32,
    source_port: u16,
    destination_port: u16,
    egress_rule: u32,
    created_ms: u64,
    checksum: u64,
    judged: Judged,
    ingress_rule: u32,
}

const _: () = assert!(size_of::<Entry>() == 192);

impl Entry {
    /// Whether the slot holds a flow.
    #[inline]
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.live.load(Ordering::Relaxed) == LIVE
    }

    /// Asks for all three lines.
    #[inline]
    pub(super) fn prefetch_all(&self) {
        prefetch(&self.live);
        prefetch(&self.tuples[0]);
        prefetch(&self.judged);
    }

    /// Which flow of this slot's many: changes whenever the slot is given to another.
    #[inline]
    #[must_use]
    pub fn stamp(&self) -> u32 {
        self.stamp
    }

    /// Of packets in the first one's direction.
    #[must_use]
    pub fn key(&self) -> FlowKey {
        FlowKey::of_words(&self.tuples[0])
    }

    /// Of packets that come back.
    #[must_use]
    pub fn reply_key(&self) -> FlowKey {
        FlowKey::of_words(&self.tuples[1])
    }

    #[inline]
    pub(super) fn tuple(&self, side: Side) -> &[u64; 5] {
        &self.tuples[side as usize]
    }

    /// The IP protocol.
    #[inline]
    #[must_use]
    pub fn protocol(&self) -> u8 {
        (self.tuples[0][4] >> 32) as u8
    }

    fn family(&self) -> u8 {
        (self.tuples[0][4] >> 40) as u8
    }

    #[must_use]
    pub fn source(&self) -> EndpointId {
        EndpointId(self.source)
    }

    #[must_use]
    pub fn destination(&self) -> EndpointId {
        EndpointId(self.destination)
    }

    #[must_use]
    pub fn source_port(&self) -> PortId {
        PortId(self.source_port)
    }

    #[must_use]
    pub fn destination_port(&self) -> PortId {
        PortId(self.destination_port)
    }

    #[inline]
    #[must_use]
    pub fn judged(&self) -> Judged {
        self.judged
    }

    #[must_use]
    pub fn egress_rule(&self) -> u32 {
        self.egress_rule
    }

    #[must_use]
    pub fn ingress_rule(&self) -> u32 {
        self.ingress_rule
    }

    /// # Panics
    /// Never on an entry that is or was live.
    #[inline]
    #[must_use]
    pub fn state(&self) -> State {
        State::from_byte(self.state).unwrap_or(State::Closed)
    }

    #[must_use]
    pub fn created_ms(&self) -> u64 {
        self.created_ms
    }

    #[must_use]
    pub fn last_seen_ms(&self) -> u64 {
        self.last_seen_ms
    }

    /// Frames counted in one direction.
    #[must_use]
    pub fn frames(&self, side: Side) -> u64 {
        self.frames[side as usize]
    }

    /// Bytes of those frames.
    #[must_use]
    pub fn bytes(&self, side: Side) -> u64 {
        self.bytes[side as usize]
    }

    /// Fills a free slot. The order of stores is the promise of the module header.
    pub(super) fn open(&mut self, new: &NewFlow, now_ms: u64) {
        self.close();
        self.stamp = self.stamp.wrapping_add(1);
        self.last_seen_ms = now_ms;
        self.frames = [0; 2];
        self.bytes = [0; 2];
        let tcp::Tcp { state, flags, ends, acknowledged } = match new.l4 {
            L4::Tcp { .. } => tcp::Tcp::opened_by(&new.l4),
            _ => tcp::Tcp { state: State::Unreplied, flags: 0, ends: [0; 2], acknowledged: [0; 2] },
        };
        (self.state, self.tcp_flags, self.ends, self.acknowledged) = (state as u8, flags, ends, acknowledged);
        self.tuples = [new.key.words(), new.reply_key.words()];
        self.source = new.source.0;
        self.destination = new.destination.0;
        self.source_port = new.source_port.0;
        self.destination_port = new.destination_port.0;
        self.created_ms = now_ms;
        self.rejudge(new.judged, new.egress_rule, new.ingress_rule);
        self.checksum = self.expected_checksum();
        self.live.store(LIVE, Ordering::Release);
    }

    pub(super) fn close(&mut self) {
        self.live.store(0, Ordering::Release);
        // Stores that follow must not move before this one, in the program: nobody reads along, and whoever is killed was
        // killed between two instructions.
        std::sync::atomic::compiler_fence(Ordering::SeqCst);
    }

    /// Whether a record found in a file is one that was written whole; then it is made ready for this process.
    pub(super) fn settle_after_adoption(&mut self, now_ms: u64) -> bool {
        let state = State::from_byte(self.state);
        let sound = self.is_live()
            && self.checksum == self.expected_checksum()
            && state.is_some_and(|state| state.is_tcp() == (self.protocol() == protocol::TCP));
        // Nothing was seen in the future: a flow must not live longer for a damaged time.
        self.last_seen_ms = self.last_seen_ms.min(now_ms);
        self.judged = Judged::NEVER;
        sound
    }

    /// Fills a free slot with another table's flow; false when that is not sound.
    pub(super) fn copy_from(&mut self, other: &Entry, now_ms: u64) -> bool {
        if other.checksum != other.expected_checksum() {
            return false;
        }
        self.close();
        let stamp = self.stamp.wrapping_add(1);
        *self = Entry { live: AtomicU16::new(0), stamp, judged: Judged::NEVER, ..*other };
        self.checksum = self.expected_checksum();
        self.live.store(LIVE, Ordering::Release);
        self.settle_after_adoption(now_ms)
    }

    pub(super) fn rejudge(&mut self, judged: Judged, egress_rule: u32, ingress_rule: u32) {
        self.judged = judged;
        self.egress_rule = egress_rule;
        self.ingress_rule = ingress_rule;
    }

    #[inline]
    pub(super) fn count(&mut self, side: Side, bytes: u32, before: State, now_ms: u64) {
        // What is closed stays known for its time, whatever its ends still send.
        if before != State::Closed {
            self.last_seen_ms = now_ms;
        }
        self.frames[side as usize] += 1;
        self.bytes[side as usize] += u64::from(bytes);
    }

    pub(super) fn loosen(&mut self) {
        if self.protocol() == protocol::TCP {
            self.tcp_flags = tcp::loosened(self.tcp_flags);
        }
    }

    pub(super) fn carried(&mut self, side: Side, frames: u64, bytes: u64, now_ms: u64) {
        if !self.state().is_over() {
            self.last_seen_ms = self.last_seen_ms.max(now_ms);
        }
        match (self.state(), side) {
            (State::Unreplied, Side::Reply) => self.state = State::Replied as u8,
            (State::Replied, _) if now_ms.saturating_sub(self.created_ms) >= ASSURED_AFTER_MS => {
                self.state = State::Assured as u8;
            }
            _ => {}
        }
        self.frames[side as usize] += frames;
        self.bytes[side as usize] += bytes;
    }

    /// Moves the state on by one packet.
    #[inline]
    pub(super) fn advance(&mut self, side: Side, l4: &L4, now_ms: u64) -> Result<Touch, DropReason> {
        match *l4 {
            L4::Tcp { .. } => {
                let mut tcp = tcp::Tcp {
                    state: self.state(),
                    flags: self.tcp_flags,
                    ends: self.ends,
                    acknowledged: self.acknowledged,
                };
                let touch = tcp.advance(side, l4)?;
                (self.state, self.tcp_flags, self.ends, self.acknowledged) =
                    (tcp.state as u8, tcp.flags, tcp.ends, tcp.acknowledged);
                return Ok(touch);
            }
            // With both tuples occupied by a flow from the other side, a request back is a question of its own.
            L4::Echo { request: true } if side == Side::Reply => return Ok(Touch::Reopen),
            L4::Echo { request: false } if side == Side::Forward => return Err(DropReason::UnrelatedIcmp),
            L4::Icmp { kind, .. } if is_icmp_answer(self.family(), kind) != (side == Side::Reply) => {
                return if side == Side::Reply { Ok(Touch::Reopen) } else { Err(DropReason::UnrelatedIcmp) };
            }
            // A later fragment belongs to a first that moved the state already.
            L4::Other if matches!(self.protocol(), protocol::TCP) => {
                let over = self.state() == State::Closed;
                return if over { Err(DropReason::InvalidState) } else { Ok(Touch::Tracked) };
            }
            _ => {}
        }
        match (self.state(), side) {
            (State::Unreplied, Side::Reply) => self.state = State::Replied as u8,
            (State::Replied, _) if now_ms.saturating_sub(self.created_ms) >= ASSURED_AFTER_MS => {
                self.state = State::Assured as u8;
            }
            _ => {}
        }
        Ok(Touch::Tracked)
    }

    /// Over everything that does not change while the flow lives. What is done to a word can be undone, so a change of any one
    /// word always changes the sum; each is multiplied by itself, so that none waits for another.
    fn expected_checksum(&self) -> u64 {
        let ends = [
            u64::from(self.source) | u64::from(self.destination) << 32,
            u64::from(self.source_port)
                | u64::from(self.destination_port) << 16
                | u64::from(self.stamp) << 32,
            self.created_ms,
        ];
        let mut sum = 0x7065_6E73_746F_636B_u64;
        for (place, word) in (1u64..).zip(self.tuples.iter().flatten().chain(&ends)) {
            let mixed =
                (word ^ place.wrapping_mul(0xD6E8_FEB8_6659_FD93)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            sum = sum.wrapping_add(mixed ^ mixed >> 32);
        }
        sum
    }
}
