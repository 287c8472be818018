//! How large an artefact may become.
//!
//! The limits are there so that a mistake (or a tenant) cannot make the switch's tables outgrow the machine: what is above
//! them is not installed, and what was enforced before stays.

use penstock_api::Artefact;
use penstock_api::artefact::{Peers, Program};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Classes of peers that rules tell apart.
    pub identities_max: usize,
    /// Addresses and CIDRs of which something particular is known: pods and nodes of the cluster, blocks in rules.
    pub prefixes_max: usize,
    /// Lines of all programs, and the identities they name, together.
    pub entries_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { identities_max: 65_536, prefixes_max: 1_000_000, entries_max: 8_000_000 }
    }
}

impl Limits {
    pub(crate) const NONE: Limits =
        Limits { identities_max: usize::MAX, prefixes_max: usize::MAX, entries_max: usize::MAX };

    pub(crate) fn identities(&self, needed: usize) -> Result<(), Overflow> {
        check("identities", needed, self.identities_max)
    }

    pub(crate) fn prefixes(&self, needed: usize) -> Result<(), Overflow> {
        check("prefixes", needed, self.prefixes_max)
    }

    pub(crate) fn entries(&self, needed: usize) -> Result<(), Overflow> {
        check("entries", needed, self.entries_max)
    }

    /// The same of an artefact that is there already.
    pub fn check(&self, artefact: &Artefact) -> Result<(), Overflow> {
        self.identities(artefact.identities.len())?;
        self.prefixes(artefact.prefixes.len())?;
        self.entries(artefact.programs.iter().map(size).sum())
    }
}

/// Lines of a program, and the identities they name, together.
pub(crate) fn size(program: &Program) -> usize {
    let named = program.entries.iter().map(|entry| match &entry.peers {
        Peers::Any => 0,
        Peers::Identities(ids) => ids.len(),
    });
    program.entries.len() + named.sum::<usize>()
}

fn check(what: &'static str, needed: usize, max: usize) -> Result<(), Overflow> {
    if needed <= max { Ok(()) } else { Err(Overflow { what, needed, max }) }
}

/// The policies in force need more than there may be. What was installed before stays in force.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the policies that select this node's pods need {needed} {what} or more, and {max} is the most; make them name fewer \
     different peers, or raise --{what}-max"
)]
pub struct Overflow {
    what: &'static str,
    needed: usize,
    max: usize,
}

#[cfg(test)]
mod tests {
    use super::*;
    use penstock_api::artefact::{Action, Entry, Service, tier};
    use penstock_api::ids::{IdentityId, RuleId};

    #[test]
    fn a_line_counts_and_so_does_each_identity_it_names() {
        let entry = |peers| Entry {
            tier: tier::NORMAL,
            priority: 0,
            action: Action::Allow,
            peers,
            service: Service::Any,
            established_only: false,
            rule: RuleId(0),
        };
        let three = Peers::Identities((0..3).map(IdentityId).collect());
        let program = Program { entries: vec![entry(Peers::Any), entry(three)], ..Program::default() };
        let artefact = Artefact { programs: vec![program.clone(), program], ..Artefact::empty() };
        let within = |entries_max| Limits { entries_max, ..Limits::NONE }.check(&artefact).is_ok();
        assert!(within(10), "two programs of two lines and three identities");
        assert!(!within(9));
    }
}
