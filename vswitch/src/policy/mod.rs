//! Judging a flow: each end that is local judges the other by its own program.

use crate::packet::FlowKey;
use crate::packet::key::halves;
use crate::snapshot::{Port, PortKind, Snapshot};
use penstock_api::artefact::protocol;
use penstock_api::reference::{Answer, Question};
use penstock_api::{Action, Direction, DropReason, PortId, RuleId};

/// Stands for "no rule" where a flow remembers which rule allowed it.
pub const NO_RULE: u32 = u32::MAX;

/// The rules that allowed a flow, for `penstock flows` and for the record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowed {
    pub egress_rule: u32,
    pub ingress_rule: u32,
}

/// Who refused a flow, and by which rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    pub reason: DropReason,
    /// The port whose policy it was.
    pub judge: PortId,
    pub direction: Option<Direction>,
    pub rule: Option<RuleId>,
}

/// What policy is asked about the flow that a packet with this key opens or opened: `established` when it is judged again.
///
/// The key says all of it, so that a flow is asked about the same whichever packet brings the question up.
pub fn question(key: &FlowKey, established: bool) -> Question {
    let port = match (key.protocol, key.source_port == key.destination_port) {
        // The identifier in both: echo, opened by a request.
        (protocol::ICMP, true) => 8,
        (protocol::ICMPV6, true) => 128,
        // (kind of the question, 65535): see `FlowKey`.
        (protocol::ICMP | protocol::ICMPV6, false) => key.source_port,
        _ => key.destination_port,
    };
    Question { protocol: key.protocol, port, established }
}

/// Judges a flow from `source` to `destination`. `key` is its first packet's.
pub fn judge(
    snapshot: &Snapshot,
    source: &Port,
    destination: &Port,
    key: &FlowKey,
    question: Question,
) -> Result<Allowed, Refusal> {
    let mut allowed = Allowed { egress_rule: NO_RULE, ingress_rule: NO_RULE };
    // A pod may always reach itself, once it is known who it is.
    if source.endpoint == destination.endpoint && source.kind != PortKind::Host && source.ready {
        return Ok(allowed);
    }
    if source.kind != PortKind::Host {
        let peer = snapshot.class_at(destination, halves(&key.destination), key.family);
        let answer = snapshot.policy.judge(source.egress, peer, question);
        allowed.egress_rule = permit(source, Direction::Egress, answer)?;
    }
    if destination.kind != PortKind::Host {
        let peer = snapshot.class_at(source, halves(&key.source), key.family);
        let answer = snapshot.policy.judge(destination.ingress, peer, question);
        allowed.ingress_rule = permit(destination, Direction::Ingress, answer)?;
    }
    Ok(allowed)
}

fn permit(judge: &Port, direction: Direction, answer: Answer) -> Result<u32, Refusal> {
    let refusal = |reason| Refusal { reason, judge: judge.id, direction: Some(direction), rule: answer.rule };
    match answer.action {
        Action::Allow => Ok(answer.rule.map_or(NO_RULE, |rule| rule.0)),
        Action::Deny if !judge.ready => Err(refusal(DropReason::NotReady)),
        Action::Deny => Err(refusal(match direction {
            Direction::Egress => DropReason::PolicyEgress,
            Direction::Ingress => DropReason::PolicyIngress,
        })),
        Action::Reject => Err(refusal(DropReason::Rejected)),
        // Fail closed: what looks into requests or answers is not here yet, and `Pass` is never an answer.
        Action::ToProxy { .. } | Action::HoldForDns | Action::Pass => {
            Err(refusal(DropReason::NotEnforceable))
        }
    }
}
