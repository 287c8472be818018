//! A sampled drop, put into words for people: whose policy, which objects, which rule.

use super::switch::View;
use crate::worker::mailbox::DropSample;
use penstock_api::message::DropEvent;
use penstock_api::{Direction, DropReason, PolicyId, RuleId};

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
    let policy = |id: PolicyId| artefact.policies.get(id.index()).map(ToString::to_string);
    let rule_info = |id: RuleId| artefact.rules.get(id.index());
    let policies = match (sample.rule.and_then(rule_info), judge, sample.direction) {
        // One rule denied it.
        (Some(rule), ..) => policy(rule.policy).into_iter().collect(),
        // Nothing allowed it: everything that selects the endpoint in this direction is why.
        (None, Some(judge), Some(direction)) => {
            let program = match direction {
                Direction::Ingress => judge.ingress,
                Direction::Egress => judge.egress,
            };
            view.snapshot.policy.selected_by(program).iter().filter_map(|&id| policy(id)).collect()
        }
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
        rule: sample.rule.and_then(rule_info).map(|rule| rule.path.clone()),
    }
}
