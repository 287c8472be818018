//! Why: which rule decided, or for a refusal which came nearest and what each lacked.

use super::{Answer, EndAnswer, EndVerdict, rule_name};
use penstock_api::artefact::{Action, Artefact, Direction, Entry, Peers, Program, Service as Target};
use penstock_api::ids::{IdentityId, ProgramId, RuleId};
use penstock_api::reference::Question;
use penstock_lookup::Policy;
use serde::Serialize;
use std::collections::BTreeSet;
use std::net::IpAddr;

/// An answer with its reasons.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Explanation {
    pub answer: Answer,
    pub egress: Reasons,
    pub ingress: Reasons,
}

/// Why one end says what it says.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Reasons {
    /// As whom this end knows the other: labels, CIDRs, `reserved:host`.
    pub peer_is: Vec<String>,
    /// For a refusal: rules that would have allowed it but for one thing.
    pub nearest: Vec<Near>,
    /// For a refusal: rules that allow nobody at all as things are.
    pub idle: Vec<String>,
}

/// A rule that came near.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Near {
    pub rule: String,
    /// One sentence each.
    pub lacks: Vec<String>,
}

/// The end whose program is asked, and about whom.
pub(super) struct Asked<'a> {
    pub(super) policy: &'a Policy,
    pub(super) program: ProgramId,
    pub(super) direction: Direction,
    pub(super) peer: IpAddr,
    pub(super) question: Question,
}

/// More peers or services than these are counted, not listed.
const LISTED_MAX: usize = 4;

impl Asked<'_> {
    pub(super) fn reasons(&self, answer: &EndAnswer) -> Reasons {
        let artefact = self.policy.artefact();
        let peer = self.policy.classify(self.peer);
        let mut reasons = Reasons { peer_is: labels(artefact, peer.identity), ..Reasons::default() };
        let Some(program) = artefact.programs.get(self.program.index()) else { return reasons };
        // A rule that denies is the whole reason.
        if answer.verdict != EndVerdict::Deny || answer.rule.is_some() {
            return reasons;
        }
        let allows = |entry: &&Entry| entry.action == Action::Allow && !entry.established_only;
        for rule in self.policy.nearest(self.program, peer.class, self.question) {
            let of_rule: Vec<&Entry> =
                program.entries.iter().filter(allows).filter(|entry| entry.rule == rule).collect();
            let lacks = self.lacks(&of_rule, peer.identity);
            let is_builtin = is_builtin(artefact, rule);
            if let (Some(rule), false, false) = (rule_name(artefact, rule), lacks.is_empty(), is_builtin) {
                reasons.nearest.push(Near { rule, lacks });
            }
        }
        reasons.idle = self.idle(program);
        reasons
    }

    /// What keeps the rule's entries from matching, of those that one thing keeps.
    fn lacks(&self, entries: &[&Entry], peer: IdentityId) -> Vec<String> {
        let artefact = self.policy.artefact();
        let (mut services, mut peers) = (BTreeSet::new(), BTreeSet::new());
        let mut is_other_protocol = true;
        for entry in entries {
            let (is_protocol, is_port) = serves(entry.service, self.question);
            match (names(&entry.peers, peer), is_protocol && is_port) {
                (true, false) => {
                    is_other_protocol &= !is_protocol;
                    services.insert(entry.service);
                }
                (false, true) => {
                    if let Peers::Identities(ids) = &entry.peers {
                        peers.extend(ids.iter().copied());
                    }
                }
                _ => {}
            }
        }
        let mut lacks = Vec::new();
        if !services.is_empty() {
            let what = if is_other_protocol { "protocol" } else { "port" };
            let named: Vec<String> = services.iter().map(|service| service_name(*service)).collect();
            lacks.push(format!("another {what}: it allows {}", listed(&named)));
        }
        if !peers.is_empty() {
            let who = if self.direction == Direction::Ingress { "source" } else { "destination" };
            let named: Vec<String> = peers.iter().map(|id| class_name(artefact, *id)).collect();
            lacks.push(format!("another {who}: it allows {}", listed(&named)));
        }
        lacks
    }

    /// Rules of the policies that select this end which came to nothing: nobody is there whom they name, or a port by a name
    /// that no container has.
    fn idle(&self, program: &Program) -> Vec<String> {
        let artefact = self.policy.artefact();
        let is_used = |rule: RuleId| program.entries.iter().any(|entry| entry.rule == rule);
        let section = match self.direction {
            Direction::Ingress => "ingress[",
            Direction::Egress => "egress[",
        };
        (0..)
            .map(RuleId)
            .zip(&artefact.rules)
            .filter(|(id, rule)| {
                program.selected_by.contains(&rule.policy) && rule.path.contains(section) && !is_used(*id)
            })
            .filter_map(|(id, _)| rule_name(artefact, id))
            .collect()
    }
}

/// What the product itself allows is nobody's to change.
fn is_builtin(artefact: &Artefact, rule: RuleId) -> bool {
    let policy = artefact.rules.get(rule.index()).and_then(|rule| artefact.policies.get(rule.policy.index()));
    policy.is_some_and(|policy| policy.kind == "builtin")
}

/// Does an entry speak of the protocol, and of the port?
fn serves(service: Target, question: Question) -> (bool, bool) {
    match service {
        Target::Any => (true, true),
        Target::Protocol(protocol) => (protocol == question.protocol, true),
        Target::Ports { protocol, first, last } => {
            (protocol == question.protocol, (first..=last).contains(&question.port))
        }
        Target::Icmp { protocol, kind } => (protocol == question.protocol, u16::from(kind) == question.port),
    }
}

fn names(peers: &Peers, peer: IdentityId) -> bool {
    match peers {
        Peers::Any => true,
        Peers::Identities(ids) => ids.contains(&peer),
    }
}

fn labels(artefact: &Artefact, identity: IdentityId) -> Vec<String> {
    let found = artefact.identities.iter().find(|known| known.id == identity);
    found.map(|identity| identity.labels.clone()).unwrap_or_default()
}

/// `[k8s:app=web, k8s:io.kubernetes.pod.namespace=shop]`.
fn class_name(artefact: &Artefact, identity: IdentityId) -> String {
    match labels(artefact, identity).as_slice() {
        [] => format!("class {identity}"),
        labels => format!("[{}]", labels.join(", ")),
    }
}

fn service_name(service: Target) -> String {
    let protocol = |number: u8| match number {
        1 => "ICMP".to_owned(),
        6 => "TCP".to_owned(),
        17 => "UDP".to_owned(),
        58 => "ICMPv6".to_owned(),
        132 => "SCTP".to_owned(),
        other => format!("protocol {other}"),
    };
    match service {
        Target::Any => "everything".to_owned(),
        Target::Protocol(number) => format!("all of {}", protocol(number)),
        Target::Ports { protocol: number, first, last } if first == last => {
            format!("{first}/{}", protocol(number))
        }
        Target::Ports { protocol: number, first, last } => format!("{first}-{last}/{}", protocol(number)),
        Target::Icmp { protocol: number, kind } => format!("type {kind} of {}", protocol(number)),
    }
}

fn listed(items: &[String]) -> String {
    let shown = items.iter().take(LISTED_MAX).cloned().collect::<Vec<_>>().join(", ");
    match items.len().saturating_sub(LISTED_MAX) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}
