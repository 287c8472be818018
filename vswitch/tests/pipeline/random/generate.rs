//! Random policy, and random frames that mean something under it.

use super::model::fix_checksum;
use super::{PODS, PORTS, Run, v4, v6};
use crate::frames::*;
use crate::world::{HOST_MAC, OUTSIDE4, OUTSIDE6, host_end};
use penstock_api::artefact::{
    Entry, Peers, PodKey, PodPolicy, PolicyInfo, PrefixIdentity, Program, RuleInfo, Service,
};
use penstock_api::{Action, Artefact, IdentityId, PolicyId, PortId, ProgramId, RuleId};
use penstock_vswitch::flow::State;
use penstock_vswitch::packet::FlowKey;
use rand::RngExt;
use rand::seq::IndexedRandom;
use std::net::IpAddr;

impl Run {
    // ---- policy ------------------------------------------------------------------------------------------------------

    pub(super) fn artefact(&mut self) -> Artefact {
        let programs: Vec<_> = (0..self.rng.random_range(2..6)).map(|i| self.program(i)).collect();
        let count = programs.len() as u32;
        let mut pods = Vec::new();
        for n in 1..=PODS {
            if self.rng.random_ratio(1, 10) {
                continue;
            }
            pods.push(PodPolicy {
                pod: PodKey::new("test", format!("pod{n}")),
                addresses: vec![v4(n), v6(n)],
                identity: self.identity(),
                other_identities: Vec::new(),
                ingress: ProgramId(self.rng.random_range(0..count)),
                egress: ProgramId(self.rng.random_range(0..count)),
            });
        }
        let mut artefact = Artefact {
            policies: vec![PolicyInfo {
                kind: "NetworkPolicy".into(),
                namespace: "test".into(),
                name: "p".into(),
            }],
            rules: vec![RuleInfo { policy: PolicyId(0), path: "spec".into() }],
            programs,
            pods,
            ..Artefact::empty()
        };
        let mut prefix = |net: &str, identity| {
            let prefix = net.parse().unwrap();
            artefact.prefixes.push(PrefixIdentity { prefix, identity });
        };
        for address in host_end().addresses() {
            prefix(&format!("{address}/{}", if address.is_ipv4() { 32 } else { 128 }), IdentityId::HOST);
        }
        prefix("198.51.100.0/24", self.identity());
        prefix("198.51.100.7/32", self.identity());
        prefix("2001:db8::/32", self.identity());
        prefix("10.0.0.0/28", self.identity());
        artefact
    }

    pub(super) fn identity(&mut self) -> IdentityId {
        IdentityId(*[256, 257, 258, 259, 2, 3, 1].choose(&mut self.rng).unwrap())
    }

    pub(super) fn program(&mut self, i: usize) -> Program {
        // The first is open, and most of the others say something about everything.
        let isolated = i > 0 && self.rng.random_ratio(1, 2);
        let entries = (0..self.rng.random_range(0..5)).map(|_| self.entry()).collect();
        Program { isolated, selected_by: vec![PolicyId(0)], entries }
    }

    pub(super) fn entry(&mut self) -> Entry {
        let rng = &mut self.rng;
        let peers = match rng.random_range(0..3) {
            0 => Peers::Any,
            _ => {
                let mut ids: Vec<_> = [256, 257, 258, 259, 1, 2, 3]
                    .map(IdentityId)
                    .into_iter()
                    .filter(|_| rng.random())
                    .collect();
                ids.sort_unstable();
                Peers::Identities(ids)
            }
        };
        let with_ports = *[TCP, TCP, UDP, UDP, SCTP].choose(rng).unwrap();
        let first = *PORTS.choose(rng).unwrap();
        let service = match rng.random_range(0..8) {
            0 | 1 => Service::Any,
            2 => Service::Protocol(*[ICMP, ICMPV6, TCP, UDP, 47].choose(rng).unwrap()),
            3 => match rng.random() {
                true => Service::Icmp { protocol: ICMP, kind: *[8, 13].choose(rng).unwrap() },
                false => Service::Icmp { protocol: ICMPV6, kind: *[128, 139].choose(rng).unwrap() },
            },
            4 => Service::Ports { protocol: with_ports, first, last: u16::MAX },
            _ => Service::Ports { protocol: with_ports, first, last: first },
        };
        let action = *[
            Action::Allow,
            Action::Allow,
            Action::Allow,
            Action::Allow,
            Action::Allow,
            Action::Allow,
            Action::Deny,
            Action::Reject,
            Action::Pass,
            Action::ToProxy { listener: 1 },
            Action::HoldForDns,
        ]
        .choose(rng)
        .unwrap();
        Entry {
            tier: *[10, 100, 100, 200].choose(rng).unwrap(),
            priority: rng.random_range(0..3),
            action,
            peers,
            service,
            // Keeps what lives and starts nothing: never a refusal.
            established_only: action == Action::Allow && rng.random_ratio(1, 6),
            rule: RuleId(0),
        }
    }

    // ---- frames ------------------------------------------------------------------------------------------------------

    /// A packet of a flow that exists, or of one that might.
    pub(super) fn packet(&mut self) -> (PortId, Packet) {
        if self.rng.random_ratio(7, 10) {
            // Of flows whose ends are gone a few will do.
            let gone = self.rng.random_ratio(1, 20);
            let has_port = |address: IpAddr| match address {
                IpAddr::V4(v4) if v4.octets()[0] != 10 => true,
                IpAddr::V6(v6) if v6.segments()[0] != 0xfd00 => true,
                _ => self.model.ports.values().any(|owner| owner.addresses.contains(&address)),
            };
            let mut keys: Vec<FlowKey> = self
                .model
                .flows
                .keys()
                .copied()
                .filter(|k| gone || (has_port(k.source_address()) && has_port(k.destination_address())))
                .collect();
            // The map's order is another in every run.
            keys.sort_unstable_by_key(FlowKey::words);
            if let Some(key) = keys.choose(&mut self.rng) {
                return self.packet_of(*key);
            }
        }
        let source = self.source();
        let is_v4 = source.1.is_ipv4();
        let attached: Vec<IpAddr> = self
            .model
            .ports
            .iter()
            .filter(|(port, _)| **port != source.0)
            .flat_map(|(_, owner)| owner.addresses.iter().copied())
            .filter(|address| address.is_ipv4() == is_v4)
            .collect();
        let to = self.rng.random_range(0..30u8);
        let destination = match (to, is_v4) {
            (0..3, true) => OUTSIDE4,
            (0..3, false) => OUTSIDE6,
            (3, true) => host_end().v4,
            (3, false) => host_end().v6,
            (4, true) => v4(200),
            (4, false) => v6(200),
            (5, true) => GATEWAY4,
            (5, false) => GATEWAY6,
            (n, _) if n > 7 && !attached.is_empty() => *attached.choose(&mut self.rng).unwrap(),
            (n, true) => v4(n % PODS + 1),
            (n, false) => v6(n % PODS + 1),
        };
        let source_port = self.rng.random_range(40_000..40_004);
        let destination_port = *PORTS.choose(&mut self.rng).unwrap();
        let packet = Packet::new(source.1, source_port, destination, destination_port).with_mac(source.2);
        let id = self.rng.random_range(0..3);
        let packet = match self.rng.random_range(0..10) {
            0..4 => packet.tcp(SYN, 1000, 0),
            4..7 => packet.data("datagram"),
            7 => packet.sctp().data([1, 0, 0, 4]),
            8 if is_v4 && id == 0 => packet.icmp(13, 0, [0, 1, 0, 1]).data([0; 12]),
            8 if id == 0 => packet.icmp(139, 0, [0, 1, 0, 1]).data([0; 8]),
            8 => packet.echo(true, id),
            _ => packet.raw(47).data([0, 0, 8, 0, 1, 2, 3, 4]),
        };
        (source.0, packet)
    }

    /// A port, an address it may use, its MAC.
    pub(super) fn source(&mut self) -> (PortId, IpAddr, [u8; 6]) {
        let ports: Vec<_> = self.model.ports.keys().copied().collect();
        let port = *ports.choose(&mut self.rng).unwrap();
        let owner = &self.model.ports[&port];
        let address = if port == PortId::HOST {
            let host = host_end();
            *[host.v4, host.v6, OUTSIDE4, OUTSIDE6].choose(&mut self.rng).unwrap()
        } else {
            *owner.addresses.choose(&mut self.rng).unwrap()
        };
        (port, address, owner.mac)
    }

    /// A plausible packet of this flow, in either direction, from whoever has the address now.
    pub(super) fn packet_of(&mut self, first: FlowKey) -> (PortId, Packet) {
        let state = self.model.state(&first);
        let reply = match state {
            Some(State::SynSent | State::Unreplied) => self.rng.random_ratio(3, 4),
            Some(State::SynReceived) => self.rng.random_ratio(1, 4),
            _ => self.rng.random(),
        };
        let key = if reply { first.reversed() } else { first };
        let (source, destination) = (key.source_address(), key.destination_address());
        let owner = self.model.ports.iter().find(|(_, owner)| owner.addresses.contains(&source));
        let (port, mac) = owner.map_or((PortId::HOST, HOST_MAC), |(port, owner)| (*port, owner.mac));
        let packet = Packet::new(source, key.source_port, destination, key.destination_port).with_mac(mac);
        let rng = &mut self.rng;
        let len = rng.random_range(0..80);
        let packet = match key.protocol {
            TCP => {
                let (own, other) = if reply { (5000, 1000) } else { (1000, 5000) };
                let (flags, sequence, acknowledgement) = match (state, reply, rng.random_range(0..12)) {
                    (Some(State::SynSent), true, 0..9) => (SYN | ACK, own, other + 1),
                    (Some(State::SynReceived), false, 0..9) => (ACK, own + 1, other + 1),
                    (Some(State::Established), _, 0..8) => (ACK | PSH, own + 1, other + 1),
                    (_, _, 0..2) => (ACK, own + 1, other + 1),
                    (_, _, 2..5) => (ACK | FIN, own + 1, other + 1),
                    (_, _, 5) => (RST, own + 1, 0),
                    (_, _, 6) => (SYN, own, 0),
                    (_, _, 7) => (SYN, rng.random(), 0),
                    (_, _, 8) => (SYN | ACK, own, other + 1),
                    (_, _, 9) => (ACK, own + 1, other + 2),
                    (_, _, 10) => (rng.random_range(1..0x40) & 0x1f | ACK, rng.random(), rng.random()),
                    _ => (
                        rng.random_range(1..0x20),
                        own + rng.random_range(0..3),
                        other + rng.random_range(0..3),
                    ),
                };
                let len = if flags == ACK | PSH { len } else { 0 };
                packet.tcp(flags, sequence, acknowledgement).data(vec![7; len])
            }
            UDP => packet.data(vec![1; len]),
            SCTP => packet.sctp().data(vec![2; len]),
            ICMP | ICMPV6 if key.source_port == key.destination_port => {
                let request = if rng.random_ratio(1, 8) { reply } else { !reply };
                packet.echo(request, key.source_port).data(vec![3; len])
            }
            ICMP => packet.icmp(if reply { 14 } else { 13 }, 0, [0, 1, 0, 1]).data([0; 12]),
            ICMPV6 => packet.icmp(if reply { 140 } else { 139 }, 0, [0, 1, 0, 1]).data([0; 8]),
            protocol => packet.raw(protocol).data(vec![4; len]),
        };
        (port, packet)
    }

    /// An ICMP error about a packet, from whoever got it, or from somebody who did not.
    pub(super) fn error(&mut self) -> (PortId, Packet) {
        let (_, packet) = self.packet();
        let (kind, code) = if packet.source.is_ipv4() { (3, 3) } else { (1, 4) };
        let owner = self.model.ports.iter().find(|(_, owner)| owner.addresses.contains(&packet.destination));
        let (mut port, mut from, mut mac) = owner
            .map_or((PortId::HOST, packet.destination, HOST_MAC), |(port, owner)| {
                (*port, packet.destination, owner.mac)
            });
        if self.rng.random_ratio(1, 3) {
            let other = self.source();
            if other.1.is_ipv4() == packet.source.is_ipv4() {
                (port, from, mac) = other;
            }
        }
        self.tally.errors += 1;
        (port, packet.error(from, kind, code).with_mac(mac))
    }

    /// Flips bits in the headers, and makes the checksum right again more often than not.
    pub(super) fn mutate(&mut self, frame: &mut [u8]) {
        for _ in 0..self.rng.random_range(1..4) {
            let at = self.rng.random_range(0..frame.len().min(80));
            frame[at] ^= 1 << self.rng.random_range(0..8u8);
        }
        if frame[12..15] == [8, 0, 0x45] && self.rng.random_ratio(4, 5) {
            fix_checksum(frame);
        }
    }
}
