//! Does the switch let this flow through? Asked of the switch itself, with frames.
//!
//! The question has an answer in the tables (`penstock_lookup`); this is the answer of everything around them too: parsing,
//! source checks, connection tracking, routing between ports. A flow is opened with the frame that would open it (TCP SYN, UDP
//! datagram, SCTP INIT, ICMP query) on a [`Rig`] of memory ports, and what comes out where, or which drop is counted, is the
//! answer. If it is delivered, its far end answers, and the answer must come back.
//!
//! A flow that one end refuses says nothing of the other end. So there are three rigs with one policy: the whole of it, one
//! whose ingress is open (there the sender alone judges), and one whose egress is open (there the receiver does).

mod frames;

use crate::packet::parse;
use crate::policy::NO_RULE;
use crate::rig::{Rig, Sizes};
use frames::Packet;
use penstock_api::artefact::{ArtefactError, Program};
use penstock_api::judge::{Flow, Node, Outcome, Ruling};
use penstock_api::message::gateway;
use penstock_api::{Artefact, Direction, DropReason, PortId, ProgramId, RuleId};
use std::collections::HashMap;
use std::net::IpAddr;

const MTU: u16 = 1500;

/// Source ports of flows, from and to. A port comes round again after longer than anything half-open is remembered: a flow
/// takes a millisecond.
const SOURCE_PORTS: (u16, u16) = (10_000, 60_000);

#[derive(Debug, thiserror::Error)]
pub enum JudgeError {
    #[error("{0}")]
    Artefact(#[from] ArtefactError),
    #[error("the node has {pods} pods; frames can be sent between {max} at most")]
    TooMany { pods: usize, max: usize },
    #[error("{from} and {to} are both outside this node: nothing of theirs passes its switch")]
    Outside { from: IpAddr, to: IpAddr },
    #[error("{from} and {to} are of different families")]
    Families { from: IpAddr, to: IpAddr },
    #[error("protocol {0} is not one of 1, 6, 17, 58 and 132")]
    Protocol(u8),
}

/// A node on memory ports.
#[derive(Debug)]
pub struct Judge {
    whole: Rig,
    /// Ingress is open.
    senders: Rig,
    /// Egress is open.
    receivers: Rig,
    /// Of pods.
    ports: HashMap<IpAddr, PortId>,
    /// Of the last flow.
    source_port: u16,
}

/// What came of one frame.
struct Sent {
    delivered: bool,
    dropped: Option<DropReason>,
    /// By policy, and by which rule of it.
    refused: Option<Option<RuleId>>,
}

impl Judge {
    /// # Errors
    /// When the artefact is one a switch would refuse, or has more pods than a switch has ports.
    pub fn new(node: &Node) -> Result<Judge, JudgeError> {
        node.artefact.validate()?;
        let (pods, max) = (node.artefact.pods.len(), crate::io::maps::PORTS_MAX - 1);
        if pods > max {
            return Err(JudgeError::TooMany { pods, max });
        }
        let (whole, ports) = rig(node, node.artefact.clone());
        let (senders, _) = rig(node, open(&node.artefact, Direction::Ingress));
        let (receivers, _) = rig(node, open(&node.artefact, Direction::Egress));
        Ok(Judge { whole, senders, receivers, ports, source_port: SOURCE_PORTS.0 })
    }

    /// Opens a flow.
    ///
    /// # Errors
    /// When no frame of it would ever be on this node.
    pub fn judge(&mut self, flow: &Flow) -> Result<Outcome, JudgeError> {
        let (source, destination) = (flow.source, flow.destination);
        if source.is_ipv4() != destination.is_ipv4() {
            return Err(JudgeError::Families { from: source, to: destination });
        }
        let port = |address| self.ports.get(&address).copied().unwrap_or(PortId::HOST);
        let (from, to) = (port(source), port(destination));
        if (from, to) == (PortId::HOST, PortId::HOST) {
            return Err(JudgeError::Outside { from: source, to: destination });
        }
        self.source_port += 1;
        if self.source_port == SOURCE_PORTS.1 {
            self.source_port = SOURCE_PORTS.0;
        }
        let packet = Packet::opening(flow, self.source_port).ok_or(JudgeError::Protocol(flow.protocol))?;

        let sent = exchange(&mut self.whole, from, to, &packet);
        let answer = packet.answer().filter(|_| sent.delivered);
        let answer = answer.map(|answer| exchange(&mut self.whole, to, from, &answer));
        let ruling = |rig: &mut Rig, judge: PortId, direction| {
            (judge != PortId::HOST).then(|| one_end(rig, from, to, &packet, direction)).flatten()
        };
        Ok(Outcome {
            delivered: sent.delivered,
            answered: answer.as_ref().map(|answer| answer.delivered),
            dropped: sent.dropped.or(answer.and_then(|answer| answer.dropped)),
            egress: ruling(&mut self.senders, from, Direction::Egress),
            ingress: ruling(&mut self.receivers, to, Direction::Ingress),
        })
    }
}

/// What the only end that judges in this rig says. `None`: the frame was dropped before anybody was asked.
fn one_end(rig: &mut Rig, from: PortId, to: PortId, packet: &Packet, direction: Direction) -> Option<Ruling> {
    let sent = exchange(rig, from, to, packet);
    if let Some(rule) = sent.refused {
        return Some(Ruling { allowed: false, rule });
    }
    let (_, _, flow) = rig.flow(&packet.key())?;
    let rule = match direction {
        Direction::Egress => flow.egress_rule(),
        Direction::Ingress => flow.ingress_rule(),
    };
    Some(Ruling { allowed: true, rule: (rule != NO_RULE).then_some(RuleId(rule)) })
}

/// Sends a frame and looks for it where it should come out. That it comes out anywhere else, or changed, is no delivery.
fn exchange(rig: &mut Rig, from: PortId, to: PortId, packet: &Packet) -> Sent {
    rig.now_ms += 1;
    let before = rig.all_drops();
    let frame = packet.frame(mac_of(from));
    let delivered = rig.exchange(from, &frame);
    let is_it = |out: &[u8]| {
        let (out, sent) = (parse(out, out.len()), parse(&frame, frame.len()));
        matches!((out, sent), (Ok(out), Ok(sent)) if out.key == sent.key && out.payload == sent.payload)
    };
    let refused = rig.drop_samples().into_iter().find(|sample| sample.direction.is_some());
    Sent {
        delivered: delivered.iter().any(|d| d.port == to && is_it(&d.frame)),
        dropped: rig.all_drops().into_iter().find(|now| !before.contains(now)).map(|(reason, _)| reason),
        refused: refused.map(|sample| sample.rule),
    }
}

/// A rig with a port for the host and one for each pod.
fn rig(node: &Node, artefact: Artefact) -> (Rig, HashMap<IpAddr, PortId>) {
    let pods = &node.artefact.pods;
    let mut rig = Rig::with(&Sizes { ports_max: pods.len() + 1, chunks: 64, ..Sizes::default() });
    rig.host(mac_of(PortId::HOST), &node.host_addresses, &[], MTU);
    let mut ports = HashMap::new();
    for (number, pod) in (1..).zip(pods) {
        let port = rig.attach(pod.pod.clone(), mac_of(PortId(number)), &pod.addresses, MTU);
        ports.extend(pod.addresses.iter().map(|address| (*address, port)));
    }
    rig.install(artefact);
    (rig, ports)
}

/// The same policy with one direction open to everything.
fn open(artefact: &Artefact, direction: Direction) -> Artefact {
    let mut artefact = artefact.clone();
    let open = ProgramId(artefact.programs.len() as u32);
    artefact.programs.push(Program::default());
    for pod in &mut artefact.pods {
        match direction {
            Direction::Ingress => pod.ingress = open,
            Direction::Egress => pod.egress = open,
        }
    }
    artefact
}

fn mac_of(port: PortId) -> [u8; 6] {
    let [high, low] = port.0.to_be_bytes();
    let [a, b, c, ..] = gateway::MAC.0;
    [a, b, c, 1, high, low]
}
