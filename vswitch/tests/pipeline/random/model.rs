//! The stupid oracle: what the switch must do with a frame, said plainly.
//!
//! Flows are a map, policy is the reference evaluator asked anew for every packet, ports are a list. No cache, no revisions,
//! no owners, no lookup tables: whatever of those is wrong in the switch shows as a difference. Two things are shared with it,
//! each held to models of its own elsewhere: the parser, and the function from state and segment to state
//! ([`Conntrack::touch`]), which this model uses on a table nobody searches, sweeps or evicts from.

use crate::world::HOST_MAC;
use penstock_api::artefact::{PodKey, PodPolicy, protocol};
use penstock_api::reference::{self, Question};
use penstock_api::{Action, Artefact, DropReason, EndpointId, IdentityId, PortId};
use penstock_vswitch::flow::{Conntrack, FlowId, Judged, NewFlow, Settings, Side, State, Timeouts, Touch};
use penstock_vswitch::packet::parsed::tcp as bits;
use penstock_vswitch::packet::{FlowKey, Fragment, L4, Parsed, Payload, parse};
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

const GATEWAY_MAC: [u8; 6] = [0x02, 0x50, 0x53, 0, 0, 1];

/// Who has a port.
#[derive(Debug, Clone)]
pub(crate) struct Owner {
    /// Different for every attachment there ever was.
    pub(crate) attachment: u32,
    /// `None`: the host.
    pub(crate) pod: Option<PodKey>,
    pub(crate) mac: [u8; 6],
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) mtu: u16,
}

/// A flow that was let through.
#[derive(Debug, Clone)]
pub(crate) struct Flow {
    state: FlowId,
    /// Attachments and ports of the first packet's sender and receiver.
    pub(crate) ends: [(u32, PortId); 2],
    last_seen_ms: u64,
}

/// A datagram in pieces.
#[derive(Debug, Clone)]
enum Datagram {
    /// Frames that wait for the first piece.
    Waiting {
        since_ms: u64,
        frames: Vec<Vec<u8>>,
    },
    Known {
        since_ms: u64,
        ports: (u16, u16),
    },
}

/// What becomes of a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// This frame leaves by this port.
    Sent(PortId, Vec<u8>),
    /// Pieces of it leave by this port.
    Split(PortId),
    Dropped(DropReason),
    /// A question for the gateway: the tests of answers judge it.
    Neighbour,
}

#[derive(Debug)]
pub(crate) struct Model {
    pub(crate) ports: BTreeMap<PortId, Owner>,
    pub(crate) host_addresses: Vec<IpAddr>,
    pub(crate) pod_ranges: Vec<ipnet::IpNet>,
    pub(crate) artefact: Artefact,
    /// By the first packet's key.
    pub(crate) flows: HashMap<FlowKey, Flow>,
    states: Conntrack,
    datagrams: HashMap<(PortId, IpAddr, IpAddr, u32), Datagram>,
    pub(crate) now_ms: u64,
}

impl Model {
    pub(crate) fn new(now_ms: u64) -> Model {
        Model {
            ports: BTreeMap::new(),
            host_addresses: Vec::new(),
            pod_ranges: Vec::new(),
            artefact: Artefact::empty(),
            flows: HashMap::new(),
            states: Conntrack::create(Settings {
                flows_per_port_max: usize::MAX >> 34,
                ..Settings::sized(1 << 14)
            })
            .unwrap(),
            datagrams: HashMap::new(),
            now_ms,
        }
    }

    pub(crate) fn state(&self, key: &FlowKey) -> Option<State> {
        Some(self.states.entry(self.flows.get(key)?.state).state())
    }

    /// What becomes of this frame, and of frames that waited for it.
    pub(crate) fn receive(&mut self, port: PortId, frame: &[u8]) -> Vec<Outcome> {
        self.admit(port, frame, None)
    }

    /// Lets time pass to `now_ms`. What was held too long is dropped.
    pub(crate) fn pass(&mut self, now_ms: u64) -> Vec<Outcome> {
        self.now_ms = now_ms;
        let mut dropped = 0;
        self.datagrams.retain(|_, datagram| match datagram {
            Datagram::Waiting { since_ms, frames } if *since_ms + 1_000 <= now_ms => {
                dropped += frames.len();
                false
            }
            Datagram::Known { since_ms, .. } if *since_ms + 5_000 <= now_ms => false,
            _ => true,
        });
        vec![Outcome::Dropped(DropReason::FragmentUnknown); dropped]
    }

    /// Forgets flows that were silent for too long. Within a second after a flow's time the switch may still know it: then
    /// `is_known` says what it does.
    pub(crate) fn expire(&mut self, is_known: impl Fn(&FlowKey) -> bool) {
        let timeouts = Timeouts::default();
        let (states, now_ms) = (&mut self.states, self.now_ms);
        self.flows.retain(|key, flow| {
            let state = states.entry(flow.state).state();
            let due_ms = flow.last_seen_ms + silence_ms(&timeouts, key.protocol, state);
            let kept = if now_ms < due_ms {
                true
            } else if now_ms >= due_ms + 1_000 {
                false
            } else {
                is_known(key)
            };
            if !kept {
                states.remove(flow.state);
            }
            kept
        });
    }

    /// Forgets the flows of an attachment that is gone.
    pub(crate) fn forget(&mut self, attachment: u32) {
        let states = &mut self.states;
        self.flows.retain(|_, flow| {
            let kept = flow.ends.iter().all(|(a, _)| *a != attachment);
            if !kept {
                states.remove(flow.state);
            }
            kept
        });
    }

    fn admit(&mut self, port: PortId, frame: &[u8], ports: Option<(u16, u16)>) -> Vec<Outcome> {
        let one = |reason| vec![Outcome::Dropped(reason)];
        let Some(from) = self.ports.get(&port).cloned() else { return one(DropReason::PortGone) };
        let mut parsed = match parse(frame, frame.len()) {
            Ok(parsed) => parsed,
            Err(reason) => return one(reason),
        };
        if !self.is_honest(&from, frame, &parsed) {
            return one(DropReason::Spoofed);
        }
        let l4 = match parsed.payload {
            Payload::ArpRequest { .. } | Payload::NeighbourSolicitation { .. } => {
                return vec![Outcome::Neighbour];
            }
            Payload::IcmpError { about } => return vec![self.error(port, frame, &parsed, &about)],
            Payload::Flow(l4) => l4,
        };
        if is_gateway(parsed.key.destination_address()) {
            let is_ping = l4 == L4::Echo { request: true } && parsed.fragment == Fragment::Whole;
            return one(if is_ping { DropReason::Answered } else { DropReason::NoRoute });
        }
        if let Some(ports) = ports {
            (parsed.key.source_port, parsed.key.destination_port) = ports;
            return vec![self.packet(port, frame, &parsed, &l4)];
        }
        let (source, destination) = (parsed.key.source_address(), parsed.key.destination_address());
        match parsed.fragment {
            Fragment::Whole => vec![self.packet(port, frame, &parsed, &l4)],
            Fragment::First { id } => {
                let ports = (parsed.key.source_port, parsed.key.destination_port);
                let known = Datagram::Known { since_ms: self.now_ms, ports };
                let before = self.datagrams.insert((port, source, destination, id), known);
                let mut outcomes = vec![self.packet(port, frame, &parsed, &l4)];
                if let Some(Datagram::Waiting { frames, .. }) = before {
                    for frame in frames {
                        outcomes.extend(self.admit(port, &frame, Some(ports)));
                    }
                }
                outcomes
            }
            Fragment::Later { id, .. } => {
                let since_ms = self.now_ms;
                let datagram = self
                    .datagrams
                    .entry((port, source, destination, id))
                    .or_insert(Datagram::Waiting { since_ms, frames: Vec::new() });
                match datagram {
                    Datagram::Known { ports, .. } => {
                        (parsed.key.source_port, parsed.key.destination_port) = *ports;
                        vec![self.packet(port, frame, &parsed, &l4)]
                    }
                    Datagram::Waiting { frames, .. } => {
                        frames.push(frame.to_vec());
                        Vec::new()
                    }
                }
            }
        }
    }

    fn is_honest(&self, from: &Owner, frame: &[u8], parsed: &Parsed) -> bool {
        let source = parsed.key.source_address();
        let speaks_ip = matches!(parsed.payload, Payload::Flow(_) | Payload::IcmpError { .. });
        if from.pod.is_none() {
            let is_pods =
                self.port_of(source).is_some() || self.pod_ranges.iter().any(|r| r.contains(&source));
            return !speaks_ip || !is_pods || self.host_addresses.contains(&source);
        }
        let link_local = matches!(source, IpAddr::V6(v6) if v6.is_unicast_link_local());
        frame[6..12] == from.mac
            && (!speaks_ip
                || from.addresses.contains(&source)
                || (link_local && is_gateway(parsed.key.destination_address())))
    }

    fn port_of(&self, address: IpAddr) -> Option<PortId> {
        self.ports.iter().find(|(_, owner)| owner.addresses.contains(&address)).map(|(port, _)| *port)
    }

    fn route(&self, from: PortId, destination: IpAddr) -> Option<PortId> {
        if let Some(port) = self.port_of(destination) {
            return Some(port);
        }
        let is_host = self.host_addresses.contains(&destination);
        let is_ours = self.pod_ranges.iter().any(|range| range.contains(&destination));
        (from != PortId::HOST && (is_host || !is_ours)).then_some(PortId::HOST)
    }

    /// What the control plane says of a port's pod.
    fn policy_of(&self, port: PortId) -> Option<&PodPolicy> {
        let owner = &self.ports[&port];
        self.artefact.pod_for(owner.pod.as_ref()?, &owner.addresses)
    }

    fn identity_of(&self, address: IpAddr) -> IdentityId {
        match self.port_of(address) {
            Some(port) if self.policy_of(port).is_none() => IdentityId::UNKNOWN,
            _ => reference::identity_of(&self.artefact, address),
        }
    }

    /// Both ends' policy about a flow.
    fn judge(&self, ends: [PortId; 2], key: &FlowKey, established: bool) -> Result<(), DropReason> {
        let (source, destination) = (key.source_address(), key.destination_address());
        let port = match key.protocol {
            protocol::ICMP if key.source_port == key.destination_port => 8,
            protocol::ICMPV6 if key.source_port == key.destination_port => 128,
            protocol::ICMP | protocol::ICMPV6 => key.source_port,
            _ => key.destination_port,
        };
        let question = Question { protocol: key.protocol, port, established };
        for (end, peer, refusal) in
            [(ends[0], destination, DropReason::PolicyEgress), (ends[1], source, DropReason::PolicyIngress)]
        {
            if end == PortId::HOST {
                continue;
            }
            let Some(pod) = self.policy_of(end) else { return Err(DropReason::NotReady) };
            let program = if refusal == DropReason::PolicyEgress { pod.egress } else { pod.ingress };
            let program = &self.artefact.programs[program.index()];
            match reference::judge(program, self.identity_of(peer), question).action {
                Action::Allow => {}
                Action::Deny => return Err(refusal),
                Action::Reject => return Err(DropReason::Rejected),
                Action::Pass | Action::ToProxy { .. } | Action::HoldForDns => {
                    return Err(DropReason::NotEnforceable);
                }
            }
        }
        // The reference's own word for both ends at once, where it takes the same ones for pods of this node.
        let both = ends.into_iter().zip([source, destination]).all(|(end, address)| match end {
            PortId::HOST => self.artefact.pods.iter().all(|pod| !pod.addresses.contains(&address)),
            end => self.policy_of(end).is_some(),
        });
        if both {
            let answer = reference::judge_flow(&self.artefact, source, destination, question);
            assert!(answer.is_allowed(), "{answer:?}");
        }
        Ok(())
    }

    fn remove(&mut self, key: &FlowKey) {
        if let Some(flow) = self.flows.remove(key) {
            self.states.remove(flow.state);
        }
    }

    fn find(&self, key: &FlowKey) -> Option<(FlowKey, Side)> {
        if self.flows.contains_key(key) {
            return Some((*key, Side::Forward));
        }
        self.flows.contains_key(&key.reversed()).then(|| (key.reversed(), Side::Reply))
    }

    fn ends(&self, side: Side, from: PortId, to: PortId) -> [(u32, PortId); 2] {
        let of = |port| (self.ports[&port].attachment, port);
        match side {
            Side::Forward => [of(from), of(to)],
            Side::Reply => [of(to), of(from)],
        }
    }

    /// A packet of a flow, or one that opens it.
    fn packet(&mut self, port: PortId, frame: &[u8], parsed: &Parsed, l4: &L4) -> Outcome {
        let Some(to) = self.route(port, parsed.key.destination_address()) else {
            return Outcome::Dropped(DropReason::NoRoute);
        };
        match self.track(port, to, frame, &parsed.key, l4) {
            Ok(()) => self.send(to, frame, parsed),
            Err(reason) => Outcome::Dropped(reason),
        }
    }

    fn track(
        &mut self,
        port: PortId,
        to: PortId,
        frame: &[u8],
        key: &FlowKey,
        l4: &L4,
    ) -> Result<(), DropReason> {
        if let Some((first, side)) = self.find(key) {
            let ends = self.ends(side, port, to);
            if self.flows[&first].ends != ends {
                self.remove(&first);
            } else {
                if let Err(reason) = self.judge(ends.map(|(_, port)| port), &first, true) {
                    self.remove(&first);
                    return Err(reason);
                }
                let state = self.flows[&first].state;
                let was_closed = self.states.entry(state).state() == State::Closed;
                match self.states.touch(state, side, l4, frame.len() as u32, self.now_ms)? {
                    Touch::Tracked => {
                        // What is closed stays known for its time, whatever its ends still send.
                        if !was_closed {
                            self.flows.get_mut(&first).unwrap().last_seen_ms = self.now_ms;
                        }
                        return Ok(());
                    }
                    Touch::Reopen => {
                        self.may_open([port, to], key, l4)?;
                        self.remove(&first);
                    }
                }
            }
        }
        self.may_open([port, to], key, l4)?;
        let ends = self.ends(Side::Forward, port, to);
        let new = NewFlow {
            key: *key,
            reply_key: key.reversed(),
            source: EndpointId(ends[0].0),
            destination: EndpointId(ends[1].0),
            source_port: port,
            destination_port: to,
            judged: Judged::NEVER,
            egress_rule: 0,
            ingress_rule: 0,
            l4: *l4,
        };
        let state = self.states.insert(&new, self.now_ms)?;
        let touch = self.states.touch(state, Side::Forward, l4, frame.len() as u32, self.now_ms);
        assert_eq!(touch, Ok(Touch::Tracked));
        self.flows.insert(*key, Flow { state, ends, last_seen_ms: self.now_ms });
        Ok(())
    }

    fn may_open(&self, ends: [PortId; 2], key: &FlowKey, l4: &L4) -> Result<(), DropReason> {
        let reason = match (*l4, key.protocol) {
            (L4::Tcp { flags, .. }, _) => {
                let opens = flags & (bits::SYN | bits::ACK | bits::RST | bits::FIN) == bits::SYN;
                if opens { None } else { Some(DropReason::InvalidState) }
            }
            (L4::Other, protocol::TCP) => Some(DropReason::InvalidState),
            (L4::Other, protocol::ICMP | protocol::ICMPV6) => Some(DropReason::UnrelatedIcmp),
            (L4::Echo { request: false }, _) => Some(DropReason::UnrelatedIcmp),
            (L4::Icmp { kind: 14 | 16 | 18, .. }, protocol::ICMP) => Some(DropReason::UnrelatedIcmp),
            (L4::Icmp { kind: 140, .. }, protocol::ICMPV6) => Some(DropReason::UnrelatedIcmp),
            _ => None,
        };
        match reason {
            Some(reason) => Err(reason),
            None => self.judge(ends, key, false),
        }
    }

    /// An ICMP error about a packet that went from `about`'s source to its destination.
    fn error(&mut self, port: PortId, frame: &[u8], parsed: &Parsed, about: &FlowKey) -> Outcome {
        let unrelated = Outcome::Dropped(DropReason::UnrelatedIcmp);
        let Some((first, side)) = self.find(about) else { return unrelated };
        let Some(to) = self.route(port, about.source_address()) else {
            return Outcome::Dropped(DropReason::NoRoute);
        };
        let ends = self.ends(side, to, port);
        if self.flows[&first].ends != ends {
            return unrelated;
        }
        if let Err(reason) = self.judge(ends.map(|(_, port)| port), &first, true) {
            self.remove(&first);
            return Outcome::Dropped(reason);
        }
        self.send(to, frame, parsed)
    }

    fn send(&self, to: PortId, frame: &[u8], parsed: &Parsed) -> Outcome {
        let owner = &self.ports[&to];
        if parsed.ttl <= 1 {
            return Outcome::Dropped(DropReason::TtlExceeded);
        }
        if parsed.ip_len > owner.mtu {
            return if parsed.dont_fragment {
                Outcome::Dropped(DropReason::TooBig)
            } else {
                Outcome::Split(to)
            };
        }
        let mut sent = frame.to_vec();
        sent[..6].copy_from_slice(&if to == PortId::HOST { HOST_MAC } else { owner.mac });
        sent[6..12].copy_from_slice(&GATEWAY_MAC);
        if parsed.key.family == 4 {
            sent[22] -= 1;
            fix_checksum(&mut sent);
        } else {
            sent[21] -= 1;
        }
        Outcome::Sent(to, sent)
    }
}

/// Makes the checksum of an IPv4 header without options right, as RFC 791 describes it.
pub(crate) fn fix_checksum(frame: &mut [u8]) {
    frame[24..26].fill(0);
    let mut sum: u32 = frame[14..34].chunks(2).map(|w| u32::from(w[0]) << 8 | u32::from(w[1])).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    frame[24..26].copy_from_slice(&(!(sum as u16)).to_be_bytes());
}

fn is_gateway(address: IpAddr) -> bool {
    [crate::frames::GATEWAY4, crate::frames::GATEWAY6].contains(&address)
}

fn silence_ms(timeouts: &Timeouts, ip_protocol: u8, state: State) -> u64 {
    match state {
        State::SynSent | State::SynReceived => timeouts.tcp_half_open_ms,
        State::Established => timeouts.tcp_established_ms,
        State::Closing => timeouts.tcp_closing_ms,
        State::TimeWait => timeouts.tcp_time_wait_ms,
        State::Closed => timeouts.tcp_closed_ms,
        State::Unreplied | State::Replied | State::Assured => match (ip_protocol, state) {
            (protocol::ICMP | protocol::ICMPV6, _) => timeouts.icmp_ms,
            (protocol::UDP, State::Unreplied) => timeouts.udp_unreplied_ms,
            (protocol::UDP, _) => timeouts.udp_replied_ms,
            (_, State::Unreplied) => timeouts.other_unreplied_ms,
            _ => timeouts.other_replied_ms,
        },
    }
}
