//! A sampled drop, put into words for people: whose policy, which objects, which rule.

use super::switch::View;
use crate::snapshot::{Port, Snapshot};
use crate::worker::mailbox::DropSample;
use penstock_api::message::DropEvent;
use penstock_api::{Artefact, Direction, DropReason, RuleId};

/// Ports and programs are those of the present view: a sample is at most a moment old, and one whose port has gone loses
/// its names, not its addresses.
pub(crate) fn event(sample: &DropSample, view: &View, time_ms: u64) -> DropEvent {
    let artefact = view.snapshot.policy.artefact();
    let judged = matches!(
        sample.reason,
        DropReason::PolicyIngress
            | DropReason::PolicyEgress
            | DropReason::Rejected
            | DropReason::NotEnforceable
            | DropReason::NotReady
    );
    let judge = view.snapshot.port(sample.judge).filter(|_| judged);
    let policies = match (judge, sample.direction) {
        (Some(judge), Some(direction)) => selecting(&view.snapshot, judge, direction),
        _ => Vec::new(),
    };
    DropEvent {
        time_ms,
        reason: sample.reason,
        port: sample.port,
        protocol: sample.key.protocol,
        source: sample.key.source_address(),
        source_port: sample.key.source_port,
        destination: sample.key.destination_address(),
        destination_port: sample.key.destination_port,
        endpoint: judge.and_then(|port| port.pod.clone()),
        direction: sample.direction,
        policies,
        rule: sample.rule.and_then(|rule| rule_name(artefact, rule)),
    }
}

/// The objects that select an endpoint in a direction: why nothing passes that no rule allows.
pub(crate) fn selecting(snapshot: &Snapshot, port: &Port, direction: Direction) -> Vec<String> {
    let program = match direction {
        Direction::Ingress => port.ingress,
        Direction::Egress => port.egress,
    };
    let policies = &snapshot.policy.artefact().policies;
    let selecting = snapshot.policy.selected_by(program).iter();
    selecting.filter_map(|id| policies.get(id.index())).map(ToString::to_string).collect()
}

/// `CiliumNetworkPolicy shop/web spec.ingressDeny[0]`.
fn rule_name(artefact: &Artefact, rule: RuleId) -> Option<String> {
    let rule = artefact.rules.get(rule.index())?;
    let policy = artefact.policies.get(rule.policy.index())?;
    Some(format!("{policy} {}", rule.path))
}
