//! The last stage: rewritten and transmitted, split where it must be, or dropped for one counted reason.

use super::engine::{Engine, Packet, Step};
use super::handover::Purpose;
use crate::io::device::Device;
use crate::io::memory::{FrameId, Memory, Place};
use crate::io::shortcut::Echo;
use crate::io::tag;
use crate::packet::{decrement_ttl, set_macs, split_ipv4};
use crate::snapshot::{Port, PortKind, Snapshot};
use penstock_api::message::gateway;
use penstock_api::{DropReason, PortId};

/// What a port's frames leave by.
#[derive(Clone, Copy)]
enum Way {
    Trunk,
    /// Of the switch's direct devices.
    Direct {
        device: u16,
    },
}

impl Way {
    #[inline]
    fn of(port: &Port) -> Way {
        match port.kind {
            PortKind::Host | PortKind::Pod => Way::Trunk,
            PortKind::Direct => Way::Direct { device: port.device },
        }
    }
}

impl Engine {
    #[inline]
    pub(super) fn finish(&mut self, snapshot: &Snapshot, packet: &Packet) {
        match packet.step {
            Step::Forward { out } => self.forward(snapshot, packet, out),
            Step::Drop(reason) => self.drop_packet(packet, reason),
            Step::Lookup | Step::Related | Step::Gone => {}
        }
    }

    #[inline]
    fn forward(&mut self, snapshot: &Snapshot, packet: &Packet, out: PortId) {
        let Some(port) = snapshot.port(out) else {
            return self.drop_packet(packet, DropReason::PortGone);
        };
        let (mut mac, mtu, way) = (self.mac_for(port), port.mtu, Way::of(port));
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
        tag::keep_mark(&mut mac, head);
        // What leaves by a direct port passes no program that would see its mark come back.
        let echo = match (way, tag::mark(head)) {
            (Way::Trunk, _) | (_, 0) => Echo::NONE,
            (Way::Direct { .. }, mark) => self.echoes.of(&packet.parsed.key, mark),
        };
        set_macs(head, mac, gateway::MAC.0);
        if too_big {
            return self.send_split(packet, out, mtu);
        }
        self.transmit_by(way, packet.frame, packet.len, out, echo);
    }

    /// What the destination MAC of a frame to this port is: a tag on a trunk, its own elsewhere.
    pub(super) fn mac_for(&self, port: &Port) -> [u8; 6] {
        let tagged = self.parts.devices.first().is_some_and(Device::is_tagged);
        if tagged && port.kind != PortKind::Direct { tag::to_port(port.id) } else { port.mac }
    }

    /// Sends one frame, ready as it is, by `out`.
    #[inline]
    pub(super) fn transmit(&mut self, frame: FrameId, len: u32, out: PortId, echo: Echo) {
        let Some(port) = self.parts.snapshot.port(out) else {
            return self.drop_early(frame, out, DropReason::PortGone);
        };
        let way = Way::of(port);
        self.transmit_by(way, frame, len, out, echo);
    }

    #[inline(always)]
    fn transmit_by(&mut self, way: Way, frame: FrameId, len: u32, out: PortId, echo: Echo) {
        let device = match way {
            Way::Trunk => 0,
            Way::Direct { device } => match self.parts.direct.get(usize::from(device)) {
                Some(&(worker, device)) if worker == self.parts.worker.index() => device,
                Some(&(worker, _)) => {
                    return self.hand_over(frame, len, out, worker, Purpose::Transmit(echo));
                }
                None => return self.drop_early(frame, out, DropReason::PortGone),
            },
        };
        let parts = &mut self.parts;
        let (index, is_trunk) = (device, device == 0);
        let device = &mut parts.devices[device];
        let frame = match parts.memory.kind_of(frame) == device.area() {
            true => frame,
            false => match move_to(&mut parts.memory, frame, device) {
                Some(moved) => {
                    parts.counters.area_copies.add(1);
                    moved
                }
                None => return self.drop_early(frame, out, DropReason::NoFrame),
            },
        };
        if !device.transmit(&mut parts.memory, frame, out) {
            // Perhaps what was queued before has gone meanwhile.
            device.flush(&mut parts.memory, false);
            if !device.transmit(&mut parts.memory, frame, out) {
                return self.drop_early(frame, out, DropReason::TxFull);
            }
        }
        if echo.is_some() {
            self.echoes.expect(index, device, echo);
        }
        self.parts.counters.trunk_sent.add(is_trunk.into());
        self.sent.add(&self.parts.counters, out, len);
    }

    /// A packet that may be fragmented and must be.
    #[cold]
    pub(super) fn send_split(&mut self, packet: &Packet, out: PortId, mtu: u16) {
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
            self.transmit(frame, piece.frame_len() as u32, out, Echo::NONE);
        }
        // One of them stands for the frame that is no more.
        self.parts.counters.originated.add(sent - 1);
        self.parts.memory.release(packet.frame);
    }

    /// A frame with a piece's header and its bytes of the old frame; either may lie in several chunks. `None`: not enough are free.
    pub(super) fn copy_piece(&mut self, old: FrameId, piece: &crate::packet::Piece) -> Option<FrameId> {
        let memory = &mut self.parts.memory;
        let kind = memory.kind_of(old);
        let capacity = memory.chunk_capacity(kind);
        let frame = memory.allocate_chain(kind, piece.frame_len())?;
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
    pub(super) fn drop_packet(&mut self, packet: &Packet, reason: DropReason) {
        self.answer_drop(packet.frame, packet.port, &packet.parsed, reason);
        self.drop_early(packet.frame, packet.port, reason);
    }

    #[cold]
    pub(super) fn drop_too_big(&mut self, packet: &Packet, mtu: u16) {
        self.answer_too_big(packet.frame, packet.port, &packet.parsed, mtu);
        self.drop_early(packet.frame, packet.port, DropReason::TooBig);
    }
}

/// Copies a frame into the area of the device it leaves by. `None`: there is no room in it, the frame is where it was.
fn move_to(memory: &mut Memory, frame: FrameId, device: &mut Device) -> Option<FrameId> {
    memory.move_to(frame, device.area()).or_else(|| {
        // Perhaps what was sent before has gone meanwhile.
        device.flush(memory, false);
        memory.move_to(frame, device.area())
    })
}
