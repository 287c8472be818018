//! TCP as somebody in the middle can know it: a pure function from what was seen and a segment to what is known now.
//!
//! Liberal about data (each end judges its own window; we may have missed segments), strict where a packet would change
//! what is allowed: opening, closing, and sending after the end.
//!
//! - Only a SYN opens, and only the answer to its own sequence number, acknowledged in turn, establishes.
//! - A RST closes when it has exactly the number its receiver expects, as RFC 5961 section 3.2 has the receiver decide. One near
//!   that number passes and closes nothing: the receiver answers it with a challenge, and whoever meant it repeats it exactly. One far off is dropped.
//! - A SYN in a connection that lives changes nothing and passes (RFC 5961 section 4: the challenge sorts out
//!   an end that has forgotten), but only from the side that opened: the other would originate what nobody judged.
//! - After both FINs nothing new passes from either side; after a RST, nothing but RST from the side that sent it. The other may not
//!   have received it: for the little while the record lives, what it sends still draws the RST that ends it too.
//! - A SYN after the end is a new flow, in whichever direction.
//!
//! Simultaneous open is refused: its second SYN is a connection in a direction that was not judged.

use super::{Side, State, Touch};
use crate::packet::{L4, parsed::tcp as bits};
use penstock_api::DropReason;

/// How far behind what was acknowledged, and ahead of what was sent, a closing segment may be: segments lost before they
/// reached us, and those overtaken.
const BEHIND_MAX: u32 = 64 << 10;
const AHEAD_MAX: u32 = 1 << 20;
/// A segment that would move a side further than the largest window is not believed.
const STEP_MAX: u32 = 1 << 30;

/// What is known of a connection. Arrays are indexed by [`Side`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tcp {
    pub(super) state: State,
    /// [`END_KNOWN`] and its kin, shifted by the side.
    pub(super) flags: u8,
    /// Highest sequence number sent, plus one; SYN and FIN count.
    pub(super) ends: [u32; 2],
    /// Highest acknowledgement number sent.
    pub(super) acknowledged: [u32; 2],
}

const END_KNOWN: u8 = 1;
const ACK_KNOWN: u8 = 1 << 2;
const FIN_SENT: u8 = 1 << 4;
/// The other side has acknowledged this side's FIN.
const FIN_ACKED: u8 = 1 << 6;

/// The flags of a connection of which some passes unseen: of a side whose end is not known, any number is believed, until it closes.
/// That both ends speak for themselves is seen to before (source addresses are checked).
pub(super) fn loosened(flags: u8) -> u8 {
    flags & !(END_KNOWN | END_KNOWN << 1)
}

/// The header of one segment, with the sequence number after it.
#[derive(Clone, Copy)]
struct Segment {
    flags: u8,
    sequence: u32,
    acknowledgement: u32,
    payload_len: u16,
    end: u32,
}

impl Segment {
    fn of(l4: &L4) -> Option<Segment> {
        let L4::Tcp { flags, sequence, acknowledgement, payload_len, .. } = *l4 else { return None };
        let counted = u32::from(flags & bits::SYN != 0) + u32::from(flags & bits::FIN != 0);
        let end = sequence.wrapping_add(u32::from(payload_len)).wrapping_add(counted);
        Some(Segment { flags, sequence, acknowledgement, payload_len, end })
    }

    fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// Whether `number` lies in `from ..= to`, round the end of the number space.
fn between(number: u32, from: u32, to: u32) -> bool {
    number.wrapping_sub(from) <= to.wrapping_sub(from)
}

/// Whether `a` is `b` or after it.
fn at_or_after(a: u32, b: u32) -> bool {
    a.wrapping_sub(b) < 1 << 31
}

impl Tcp {
    /// A connection at its SYN.
    pub(super) fn opened_by(l4: &L4) -> Tcp {
        let mut tcp = Tcp { state: State::SynSent, flags: 0, ends: [0; 2], acknowledged: [0; 2] };
        if let Some(segment) = Segment::of(l4) {
            tcp.restart(Side::Forward, segment.end);
        }
        tcp
    }

    pub(super) fn advance(&mut self, side: Side, l4: &L4) -> Result<Touch, DropReason> {
        let Some(segment) = Segment::of(l4) else { return Err(DropReason::InvalidState) };
        match self.state {
            State::SynSent => self.syn_sent(side, &segment),
            State::SynReceived | State::Established | State::Closing => self.open(side, &segment),
            State::TimeWait | State::Closed => self.over(side, &segment),
            // A record of another protocol: the key says TCP, so it cannot be.
            State::Unreplied | State::Replied | State::Assured => Err(DropReason::InvalidState),
        }
    }

    fn syn_sent(&mut self, side: Side, segment: &Segment) -> Result<Touch, DropReason> {
        let (syn, ack, rst) = (segment.has(bits::SYN), segment.has(bits::ACK), segment.has(bits::RST));
        match side {
            Side::Forward if syn && !ack && !rst => {
                // The SYN again, or a second attempt with another number.
                self.restart(Side::Forward, segment.end);
                Ok(Touch::Tracked)
            }
            // Answers a challenge from a server that remembers an older connection.
            Side::Forward if rst => {
                if segment.sequence == self.ends[0] {
                    self.close(Side::Forward);
                }
                Ok(Touch::Tracked)
            }
            Side::Forward => Err(DropReason::InvalidState),
            Side::Reply => {
                // A server may acknowledge the SYN without the data that came with it (RFC 7413).
                let answers =
                    ack && between(segment.acknowledgement, self.ends[0].wrapping_sub(0xFFFF), self.ends[0]);
                if rst {
                    // RFC 9293 section 3.10.7.1: it acknowledges all of what it refuses.
                    if !ack || segment.acknowledgement != self.ends[0] {
                        return Err(DropReason::InvalidState);
                    }
                    self.close(Side::Reply);
                } else if syn && ack && answers {
                    self.restart(Side::Reply, segment.end);
                    self.note_ack(Side::Reply, segment.acknowledgement);
                    self.state = State::SynReceived;
                } else if !ack || (!syn && (segment.payload_len > 0 || segment.has(bits::FIN))) {
                    return Err(DropReason::InvalidState);
                }
                // What remains is a challenge from an older connection; the client's RST answers it.
                Ok(Touch::Tracked)
            }
        }
    }

    fn open(&mut self, side: Side, segment: &Segment) -> Result<Touch, DropReason> {
        let (syn, ack) = (segment.has(bits::SYN), segment.has(bits::ACK));
        if segment.has(bits::RST) {
            return self.reset(side, segment);
        }
        match (syn, ack, side) {
            (true, false, Side::Forward) => return Ok(Touch::Tracked),
            (true, true, Side::Reply) => {
                if self.state == State::SynReceived {
                    self.restart(Side::Reply, segment.end);
                }
                return Ok(Touch::Tracked);
            }
            (true, ..) | (false, false, _) => return Err(DropReason::InvalidState),
            (false, true, _) => {}
        }
        if self.state == State::SynReceived && side == Side::Forward {
            // Of the SYN, or of some of what the server sent along with it or after it.
            if !between(segment.acknowledgement, self.ends[1].wrapping_sub(0xFFFF), self.ends[1]) {
                return Err(DropReason::InvalidState);
            }
            self.state = State::Established;
        }
        if segment.has(bits::FIN) && !self.is_set(FIN_SENT, side) && self.is_near(side, segment.sequence) {
            self.note_end(side, segment.end);
            if self.is_loose(side) {
                // Whatever passed unseen: this is its end.
                self.set(END_KNOWN, side);
                self.acknowledged[side.other() as usize] = segment.sequence;
            }
            self.set(FIN_SENT, side);
            if self.state == State::Established {
                self.state = State::Closing;
            }
        } else if !self.is_set(FIN_SENT, side) {
            self.note_end(side, segment.sequence.wrapping_add(u32::from(segment.payload_len)));
        }
        self.note_ack(side, segment.acknowledgement);
        let other = side.other();
        if self.is_set(FIN_SENT, other) && at_or_after(segment.acknowledgement, self.ends[other as usize]) {
            self.set(FIN_ACKED, other);
        }
        if self.state == State::Established
            && (self.is_set(FIN_SENT, Side::Forward) || self.is_set(FIN_SENT, Side::Reply))
        {
            self.state = State::Closing;
        }
        if self.state == State::Closing
            && self.is_set(FIN_ACKED, Side::Forward)
            && self.is_set(FIN_ACKED, Side::Reply)
        {
            self.state = State::TimeWait;
        }
        Ok(Touch::Tracked)
    }

    fn reset(&mut self, side: Side, segment: &Segment) -> Result<Touch, DropReason> {
        let expected = self.acknowledged[side.other() as usize];
        let exact = (self.is_set(ACK_KNOWN, side.other()) && segment.sequence == expected)
            || (self.is_set(END_KNOWN, side) && segment.sequence == self.ends[side as usize])
            || self.is_loose(side);
        if exact {
            self.close(side);
        } else if !self.is_near(side, segment.sequence) {
            return Err(DropReason::InvalidState);
        }
        Ok(Touch::Tracked)
    }

    fn close(&mut self, side: Side) {
        self.state = State::Closed;
        // Of the two, only who closed has nothing more to say.
        self.flags &= !(FIN_SENT | FIN_SENT << 1);
        self.set(FIN_SENT, side);
    }

    fn over(&mut self, side: Side, segment: &Segment) -> Result<Touch, DropReason> {
        let (syn, ack, rst) = (segment.has(bits::SYN), segment.has(bits::ACK), segment.has(bits::RST));
        if syn && !ack && !rst {
            return Ok(Touch::Reopen);
        }
        if rst {
            let passes = self.is_near(side, segment.sequence);
            return if passes { Ok(Touch::Tracked) } else { Err(DropReason::InvalidState) };
        }
        let passes = match self.state {
            State::Closed => {
                ack && !syn && !self.is_set(FIN_SENT, side) && self.is_near(side, segment.sequence)
            }
            // The last acknowledgement was lost: the FIN comes again, with what was sent before it, and so does its answer.
            _ => {
                ack && !syn
                    && self.is_set(END_KNOWN, side)
                    && at_or_after(self.ends[side as usize], segment.end)
            }
        };
        if passes { Ok(Touch::Tracked) } else { Err(DropReason::InvalidState) }
    }

    /// Whether a closing segment from `side` may be where it says it is.
    fn is_near(&self, side: Side, sequence: u32) -> bool {
        if self.is_loose(side) {
            return true;
        }
        let other = side.other();
        let (end, acknowledged) = (self.ends[side as usize], self.acknowledged[other as usize]);
        match (self.is_set(END_KNOWN, side), self.is_set(ACK_KNOWN, other)) {
            (true, true) => {
                // What is acknowledged can be after what we saw sent, when we missed some of it.
                let (from, to) =
                    if at_or_after(end, acknowledged) { (acknowledged, end) } else { (end, acknowledged) };
                between(sequence, from.wrapping_sub(BEHIND_MAX), to.wrapping_add(AHEAD_MAX))
            }
            (true, false) => between(sequence, end.wrapping_sub(BEHIND_MAX), end.wrapping_add(AHEAD_MAX)),
            (false, true) => {
                between(sequence, acknowledged.wrapping_sub(BEHIND_MAX), acknowledged.wrapping_add(AHEAD_MAX))
            }
            (false, false) => false,
        }
    }

    /// Does some of what this side sends pass unseen?
    fn is_loose(&self, side: Side) -> bool {
        // Both ends of a connection that was established are known, unless they were forgotten on purpose.
        let was_established = self.is_set(ACK_KNOWN, Side::Forward) && self.is_set(ACK_KNOWN, Side::Reply);
        was_established && !self.is_set(END_KNOWN, side)
    }

    fn is_set(&self, flag: u8, side: Side) -> bool {
        self.flags & flag << side as u8 != 0
    }

    fn set(&mut self, flag: u8, side: Side) {
        self.flags |= flag << side as u8;
    }

    /// A side begins to count, or begins again.
    fn restart(&mut self, side: Side, end: u32) {
        self.ends[side as usize] = end;
        self.set(END_KNOWN, side);
    }

    fn note_end(&mut self, side: Side, end: u32) {
        let is_loose = self.is_loose(side);
        let known = &mut self.ends[side as usize];
        if is_loose || end.wrapping_sub(*known) < STEP_MAX {
            *known = end;
        }
    }

    fn note_ack(&mut self, side: Side, acknowledgement: u32) {
        let known = self.is_set(ACK_KNOWN, side) && !self.is_loose(side.other());
        let value = &mut self.acknowledged[side as usize];
        if !known || acknowledgement.wrapping_sub(*value) < STEP_MAX {
            *value = acknowledgement;
            self.set(ACK_KNOWN, side);
        }
    }
}
