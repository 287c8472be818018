//! Rules that came close, for explaining a refusal. Scans; never on the packet path.

use penstock_api::artefact::{Entry, Peers, Program, Service};
use penstock_api::ids::{IdentityId, RuleId};
use penstock_api::reference::Question;

/// The rules of entries that match all but one of peer, protocol and port, in the order of the program, each once.
/// `peer` is absent when no entry names the peer's class.
pub(crate) fn nearest(program: &Program, peer: Option<IdentityId>, question: Question) -> Vec<RuleId> {
    let mut rules: Vec<RuleId> = Vec::new();
    for entry in &program.entries {
        if misses(entry, peer, question) == Some(1) && !rules.contains(&entry.rule) {
            rules.push(entry.rule);
        }
    }
    rules
}

/// How many of peer, protocol and port the entry is not about; `None` when it is not for new flows and this is one.
fn misses(entry: &Entry, peer: Option<IdentityId>, question: Question) -> Option<usize> {
    if entry.established_only && !question.established {
        return None;
    }
    let is_peer = match &entry.peers {
        Peers::Any => true,
        Peers::Identities(ids) => peer.is_some_and(|peer| ids.contains(&peer)),
    };
    let is_icmp = |protocol| matches!(protocol, 1 | 58);
    let (is_protocol, is_port) = match entry.service {
        Service::Any => (true, true),
        Service::Protocol(protocol) => (protocol == question.protocol, true),
        // A port is never near an ICMP type, whatever the numbers.
        Service::Ports { protocol, first, last } => (
            protocol == question.protocol,
            !is_icmp(question.protocol) && (first..=last).contains(&question.port),
        ),
        Service::Icmp { protocol, kind } => {
            (protocol == question.protocol, is_icmp(question.protocol) && u16::from(kind) == question.port)
        }
    };
    Some([is_peer, is_protocol, is_port].into_iter().filter(|is_met| !is_met).count())
}
