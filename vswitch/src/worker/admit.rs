//! The first stage: what is this frame, is it from whom it says, and whose flow is it?
//!
//! A frame leaves this stage as a packet in the batch, with what is known of its flow being fetched; or it was answered, handed
//! to the worker that owns its flow, held until its first piece comes, or dropped.

use super::engine::{Engine, Packet, Step};
use super::handover::Purpose;
use crate::flow::{Fate, Guess, Later, Piece, Released};
use crate::forward::{check_source, is_gateway, is_own};
use crate::io::memory::{FrameId, Place};
use crate::io::ring::Transport;
use crate::packet::{FlowKey, Fragment, Parsed, Payload, parse, quick};
use penstock_api::message::AreaKind;
use penstock_api::{DropReason, PortId};

impl Engine {
    /// `transport`: of a piece of a datagram, when it is known already.
    #[inline]
    pub(super) fn admit(&mut self, frame: FrameId, len: u32, port: PortId, transport: Option<Transport>) {
        self.make_place();
        let Some(from) = self.parts.snapshot.port(port) else {
            return self.drop_early(frame, port, DropReason::PortGone);
        };
        let head = self.parts.memory.head(frame);
        if let Some(quick) = quick(head, len as usize)
            && is_own(from, head, &quick)
            && self.is_ours(&quick.words)
        {
            let hash = self.parts.conntrack.hash_words(&quick.words);
            self.parts.cache.prefetch(hash);
            let packet = &mut self.batch[self.batched];
            quick.store(&mut packet.parsed);
            (packet.frame, packet.len, packet.port) = (frame, len, port);
            (packet.hash, packet.reply_hash, packet.step) = (hash, 0, Step::Lookup);
            self.batch_grew();
            return;
        }
        self.admit_any(frame, len, port, transport);
    }

    #[inline]
    fn is_ours(&self, words: &[u64; 5]) -> bool {
        let workers = self.parts.handover.workers();
        workers == 1 || FlowKey::of_words(words).owner(workers) == self.parts.worker.index()
    }

    /// Whatever it is.
    fn admit_any(&mut self, mut frame: FrameId, len: u32, port: PortId, transport: Option<Transport>) {
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
            Payload::IcmpError { .. } => Step::Related,
            Payload::Flow(_) if is_gateway(&parsed.key) => {
                return self.answer_gateway(frame, port, &parsed);
            }
            Payload::Flow(_) => Step::Lookup,
        };
        if parsed.fragment != Fragment::Whole {
            // It may be held for long: what a NIC receives into is not there for that.
            let Some(moved) = self.parts.memory.move_to(frame, AreaKind::Copy) else {
                return self.drop_early(frame, port, DropReason::NoFrame);
            };
            self.parts.counters.area_copies.add(u64::from(moved != frame));
            frame = moved;
            match transport {
                Some(transport) => transport.enter(&mut parsed.key),
                None => match self.track_piece(frame, port, &mut parsed) {
                    Ok(()) => {}
                    Err(next) => step = next,
                },
            }
        }
        let key = match (step, &parsed.payload) {
            (Step::Gone, _) => return,
            (Step::Related, Payload::IcmpError { about }) => about,
            _ => &parsed.key,
        };
        let mut hash = 0;
        if matches!(step, Step::Lookup | Step::Related) {
            let owner = key.owner(self.parts.handover.workers());
            if owner != self.parts.worker.index() {
                return self.pass_on(frame, len, port, &parsed, key, owner);
            }
            // What is known of the flow begins to be fetched.
            hash = self.parts.conntrack.hash(key);
            self.parts.cache.prefetch(hash);
        }
        self.batch[self.batched] =
            Packet { frame, len, port, parsed, hash, reply_hash: 0, guess: Guess::NONE, step };
        self.batch_grew();
    }

    /// A packet whose flow another worker owns.
    #[cold]
    fn pass_on(
        &mut self,
        frame: FrameId,
        len: u32,
        port: PortId,
        parsed: &Parsed,
        key: &FlowKey,
        owner: usize,
    ) {
        let purpose = match parsed.fragment {
            Fragment::Whole => Purpose::Process,
            _ => Purpose::ProcessPiece(Transport::of(key)),
        };
        self.hand_over(frame, len, port, owner, purpose);
    }

    /// Finds out which ports a piece has, or keeps it until that is known. `Err` says what happens instead of a look-up.
    #[cold]
    pub(super) fn track_piece(
        &mut self,
        frame: FrameId,
        port: PortId,
        parsed: &mut Parsed,
    ) -> Result<(), Step> {
        // One worker sees all pieces of a datagram: the one that owns its addresses without ports, and in IPv6 without the
        // protocol, which a later piece may not know.
        let protocol = if parsed.key.family == 4 { parsed.key.protocol } else { 0 };
        let portless = FlowKey { source_port: 0, destination_port: 0, protocol, ..parsed.key };
        let owner = portless.owner(self.parts.handover.workers());
        if owner != self.parts.worker.index() {
            let len = self.parts.memory.len(frame) as u32;
            self.hand_over(frame, len, port, owner, Purpose::Process);
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
    pub(super) fn settle_released(&mut self) {
        while let Some(Released { token, fate }) = self.released.pop() {
            let frame = FrameId(token);
            match fate {
                Fate::Judge(key) => self.pieces.push((frame, key)),
                Fate::Drop(reason) => self.drop_early(frame, self.held_from[token as usize], reason),
            }
        }
    }

    #[cold]
    pub(super) fn hand_over(
        &mut self,
        frame: FrameId,
        len: u32,
        port: PortId,
        worker: usize,
        purpose: Purpose,
    ) {
        let memory = &self.parts.memory;
        let pushed = self.parts.handover.inbox(worker).push(|slot| {
            slot.port = port;
            purpose.enter(slot);
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
}
