//! The reference evaluator: what an artefact means, said as plainly as it can be said.
//!
//! Linear scans and no shared code with `penstock-lookup`: being slow and obvious is its whole purpose. Nobody optimises
//! this file. It is the hinge of two proofs: Kubernetes' meaning = reference(compile(objects)), and fast lookup = reference.

use crate::artefact::{Action, Artefact, Direction, Peers, PodPolicy, Program, Service};
use crate::ids::{IdentityId, PolicyId, RuleId};
use std::net::IpAddr;

/// What is asked for: the destination's protocol and port, or the ICMP type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Question {
    /// IP protocol number.
    pub protocol: u8,
    /// Destination port of TCP, UDP and SCTP; ICMP type of ICMP and ICMPv6; 0 otherwise.
    pub port: u16,
    /// True when the flow exists and is being judged again under newer policy.
    pub established: bool,
}

/// An answer and where it came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// Never [`Action::Pass`].
    pub action: Action,
    /// The rule that decided, or `None` when nothing matched and the program's default did.
    pub rule: Option<RuleId>,
}

/// Both ends of a flow, judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlowAnswer {
    /// `None`: that end is not local, so it is not judged here.
    pub egress: Option<Answer>,
    pub ingress: Option<Answer>,
}

impl FlowAnswer {
    /// A flow is let through when no local end refuses it.
    pub fn is_allowed(&self) -> bool {
        [self.egress, self.ingress]
            .into_iter()
            .flatten()
            .all(|answer| !matches!(answer.action, Action::Deny | Action::Reject))
    }
}

/// The class an address belongs to: local pods by their own entry, everyone else by the longest prefix.
pub fn identity_of(artefact: &Artefact, address: IpAddr) -> IdentityId {
    if let Some(pod) = artefact.pods.iter().find(|pod| pod.addresses.contains(&address)) {
        return pod.identity_of(address);
    }
    artefact
        .prefixes
        .iter()
        .filter(|p| p.prefix.contains(&address))
        .max_by_key(|p| p.prefix.prefix_len())
        .map_or(IdentityId::UNKNOWN, |p| p.identity)
}

/// What one program answers about one peer.
pub fn judge(program: &Program, peer: IdentityId, question: Question) -> Answer {
    let mut best: Option<(&crate::artefact::Entry, (u8, u32, u8))> = None;
    let mut passed_tiers: Vec<u8> = Vec::new();
    loop {
        for entry in &program.entries {
            if passed_tiers.contains(&entry.tier) || !matches(entry, peer, question) {
                continue;
            }
            let rank = (entry.tier, entry.priority, u8::MAX - entry.action.strength());
            if best.is_none_or(|(_, best_rank)| rank < best_rank) {
                best = Some((entry, rank));
            }
        }
        match best.take() {
            Some((entry, _)) if entry.action == Action::Pass => passed_tiers.push(entry.tier),
            Some((entry, _)) => return Answer { action: entry.action, rule: Some(entry.rule) },
            None if program.isolated => return Answer { action: Action::Deny, rule: None },
            None => return Answer { action: Action::Allow, rule: None },
        }
    }
}

fn matches(entry: &crate::artefact::Entry, peer: IdentityId, question: Question) -> bool {
    if entry.established_only && !question.established {
        return false;
    }
    let peer_matches = match &entry.peers {
        Peers::Any => true,
        Peers::Identities(ids) => ids.contains(&peer),
    };
    peer_matches
        && match entry.service {
            Service::Any => true,
            Service::Protocol(protocol) => protocol == question.protocol,
            Service::Ports { protocol, first, last } => {
                protocol == question.protocol && (first..=last).contains(&question.port)
            }
            Service::Icmp { protocol, kind } => {
                protocol == question.protocol && u16::from(kind) == question.port
            }
        }
}

/// What a flow from `source` to `destination` meets: each end that is a pod of this artefact judges the other. A pod may
/// always reach itself, under any of its addresses and whatever its programs say.
pub fn judge_flow(
    artefact: &Artefact,
    source: IpAddr,
    destination: IpAddr,
    question: Question,
) -> FlowAnswer {
    let local = |address| artefact.pods.iter().find(|pod: &&PodPolicy| pod.addresses.contains(&address));
    let answer = |pod: Option<&PodPolicy>, direction, peer| {
        pod.map(|pod| {
            let program = match direction {
                Direction::Ingress => pod.ingress,
                Direction::Egress => pod.egress,
            };
            judge(&artefact.programs[program.index()], identity_of(artefact, peer), question)
        })
    };
    if let (Some(one), Some(other)) = (local(source), local(destination))
        && std::ptr::eq(one, other)
    {
        let itself = Some(Answer { action: Action::Allow, rule: None });
        return FlowAnswer { egress: itself, ingress: itself };
    }
    FlowAnswer {
        egress: answer(local(source), Direction::Egress, destination),
        ingress: answer(local(destination), Direction::Ingress, source),
    }
}

/// The objects to name for a refusal: the rule's own, or all that select the endpoint when nothing matched.
pub fn policies_behind(artefact: &Artefact, program: &Program, answer: Answer) -> Vec<PolicyId> {
    match answer.rule {
        Some(rule) => vec![artefact.rules[rule.index()].policy],
        None => program.selected_by.clone(),
    }
}
