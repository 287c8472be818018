//! What the switch says itself: neighbour answers, echo replies, ICMP errors, resets. Built into a fresh frame, sent back to
//! the port the question came from.

use super::engine::Engine;
use crate::io::device::Device;
use crate::io::memory::FrameId;
use crate::io::shortcut::Echo;
use crate::io::tag;
use crate::packet::build::{self, IcmpError};
use crate::packet::{L4, Parsed, Payload, set_macs};
use crate::snapshot::PortKind;
use penstock_api::message::gateway;
use penstock_api::{DropReason, PortId};
use std::net::IpAddr;

impl Engine {
    /// ARP and neighbour discovery: every address but the asker's own is behind the gateway's MAC. Probes for one's own
    /// address are heard and not answered.
    #[cold]
    pub(super) fn answer_neighbour(&mut self, frame: FrameId, port: PortId, parsed: &Parsed) {
        let target = match parsed.payload {
            Payload::ArpRequest { target, sender: Some(_), .. }
            | Payload::NeighbourSolicitation { target, sender: Some(_), .. } => target,
            _ => return self.drop_early(frame, port, DropReason::NeighbourMessage),
        };
        let own = self.parts.snapshot.port(port).is_some_and(|p| match p.kind {
            PortKind::Host => self.parts.snapshot.host_addresses.contains(&target),
            _ => p.addresses.contains(&target),
        });
        let others_link_local =
            matches!(target, IpAddr::V6(v6) if v6.is_unicast_link_local() && v6 != gateway::V6);
        if own || others_link_local {
            return self.drop_early(frame, port, DropReason::NeighbourMessage);
        }
        let sent = self.answer(frame, port, |head, out| match parsed.payload {
            Payload::ArpRequest { .. } => build::arp_reply(parsed, gateway::MAC.0, out),
            _ => build::neighbour_advertisement(head, parsed, gateway::MAC.0, out),
        });
        self.drop_early(frame, port, if sent { DropReason::Answered } else { DropReason::NeighbourMessage });
    }

    /// Packets for the gateway itself: it answers echo, and nothing else.
    #[cold]
    pub(super) fn answer_gateway(&mut self, frame: FrameId, port: PortId, parsed: &Parsed) {
        let is_echo = matches!(parsed.payload, Payload::Flow(L4::Echo { request: true }));
        let sent = is_echo
            && self.spend_answer()
            && self.answer(frame, port, |head, out| build::echo_reply(head, parsed, gateway::MAC.0, out));
        self.drop_early(frame, port, if sent { DropReason::Answered } else { DropReason::NoRoute });
    }

    /// Tells the sender why its packet was dropped, where that is due and not too often.
    #[cold]
    pub(super) fn answer_drop(&mut self, frame: FrameId, port: PortId, parsed: &Parsed, reason: DropReason) {
        let error = match (reason, parsed.payload) {
            (DropReason::Rejected, Payload::Flow(L4::Tcp { .. })) => None,
            (DropReason::Rejected, _) => Some(IcmpError::Prohibited),
            (DropReason::NoRoute, _) => Some(IcmpError::HostUnreachable),
            (DropReason::TtlExceeded, _) => Some(IcmpError::TimeExceeded),
            _ => return,
        };
        if !self.spend_answer() {
            return;
        }
        self.answer(frame, port, |head, out| match error {
            Some(error) => build::icmp_error(head, parsed, error, gateway::MAC.0, out),
            None => build::tcp_reset(head, parsed, gateway::MAC.0, out),
        });
    }

    #[cold]
    pub(super) fn answer_too_big(&mut self, frame: FrameId, port: PortId, parsed: &Parsed, mtu: u16) {
        if self.spend_answer() {
            self.answer(frame, port, |head, out| {
                build::icmp_error(head, parsed, IcmpError::TooBig { mtu }, gateway::MAC.0, out)
            });
        }
    }

    /// Builds an answer to `question` into a fresh frame and sends it to `port`. False: none was due, or there was no room.
    fn answer(
        &mut self,
        question: FrameId,
        port: PortId,
        build: impl FnOnce(&[u8], &mut [u8]) -> Option<usize>,
    ) -> bool {
        let Some(to) = self.parts.snapshot.port(port) else { return false };
        let tagged = self.parts.devices.first().is_some_and(Device::is_tagged);
        let tag = (tagged && to.kind != PortKind::Direct).then(|| tag::to_port(port));
        let memory = &mut self.parts.memory;
        let Some(answer) = memory.allocate(memory.kind_of(question)) else { return false };
        let (head, out) = memory.head_and_space(question, answer);
        let Some(len) = build(head, out) else {
            memory.release(answer);
            return false;
        };
        memory.set_len(answer, len as u32);
        if let Some(tag) = tag {
            set_macs(memory.head_mut(answer), tag, gateway::MAC.0);
        }
        self.parts.counters.originated.add(1);
        self.transmit(answer, len as u32, port, Echo::NONE);
        true
    }
}
