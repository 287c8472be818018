//! What is new in an artefact beside the one before.
//!
//! An artefact of a large cluster is a megabyte, and one changed label changes a line of it. So whoever installed the artefact in
//! force may send its successor as a [`Difference`]: for each list, which elements go and which come.
//!
//! Promise: applied to the artefact it was made for, a difference gives the successor to the byte; applied to any other it is
//! refused. Three things see to that: the generation it starts from, splices that must lie inside the lists, in order, and a
//! digest of what has to come out. Nothing is ever guessed: a refused difference changes nothing, and its sender installs the
//! whole artefact.

use crate::artefact::{Artefact, Identity, PodPolicy, PolicyInfo, PrefixIdentity, Program, RuleInfo, SCHEMA};
use crate::ids::Generation;
use serde::{Deserialize, Serialize};
use std::cmp::Ordering;
use std::hash::{DefaultHasher, Hash, Hasher};

/// From one artefact to its successor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Difference {
    pub schema: u32,
    /// What it starts from.
    pub base: Generation,
    pub generation: Generation,
    /// [`Artefact::digest`] of what comes out.
    pub digest: u64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub identities: Vec<Splice<Identity>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub prefixes: Vec<Splice<PrefixIdentity>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<Splice<PolicyInfo>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<Splice<RuleInfo>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub programs: Vec<Splice<Program>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pods: Vec<Splice<PodPolicy>>,
}

/// Some elements of a list go, others come in their place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Splice<T> {
    /// Index in the list as it was. Splices of a list stand in its order and do not overlap.
    pub at: usize,
    pub remove: usize,
    pub insert: Vec<T>,
}

/// Why a difference was refused. Nothing changed: what was enforced is still enforced.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DifferenceError {
    #[error(
        "the difference has schema {offered}, this switch reads {SCHEMA}; install matching versions of control plane and switch"
    )]
    Schema { offered: u32 },
    #[error(
        "the difference starts from generation {base}, but {running} is in force; install the whole artefact"
    )]
    Base { base: Generation, running: Generation },
    #[error("the difference replaces {what} that are not in generation {base}; install the whole artefact")]
    Splice { what: &'static str, base: Generation },
    #[error(
        "the difference does not give what it was made to give: generation {base} is not the one it was made for; install the whole artefact"
    )]
    Digest { base: Generation },
}

impl Artefact {
    /// Tells artefacts apart that differ by accident. Nobody has to be kept from making two with one digest: who may speak to
    /// the switch may install what he likes. Stays the same in one version of the product, and no longer.
    #[must_use]
    pub fn digest(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        hasher.finish()
    }
}

impl Difference {
    /// What leads from one artefact to the other. Small where they are alike; right in any case.
    #[must_use]
    pub fn between(base: &Artefact, next: &Artefact) -> Difference {
        Difference {
            schema: next.schema,
            base: base.generation,
            generation: next.generation,
            digest: next.digest(),
            identities: splices(&base.identities, &next.identities, |one, other| one.id.cmp(&other.id)),
            prefixes: splices(&base.prefixes, &next.prefixes, |one, other| one.prefix.cmp(&other.prefix)),
            policies: splices(&base.policies, &next.policies, PolicyInfo::cmp),
            rules: splices(&base.rules, &next.rules, in_place),
            programs: splices(&base.programs, &next.programs, in_place),
            pods: splices(&base.pods, &next.pods, |one, other| one.pod.cmp(&other.pod)),
        }
    }

    /// The successor, if this is the artefact the difference was made for. It is not validated.
    pub fn apply(self, base: &Artefact) -> Result<Artefact, DifferenceError> {
        if self.schema != SCHEMA {
            return Err(DifferenceError::Schema { offered: self.schema });
        }
        if self.base != base.generation {
            return Err(DifferenceError::Base { base: self.base, running: base.generation });
        }
        let misplaced = |what| DifferenceError::Splice { what, base: base.generation };
        let next = Artefact {
            schema: self.schema,
            generation: self.generation,
            identities: spliced(&base.identities, self.identities).ok_or(misplaced("identities"))?,
            prefixes: spliced(&base.prefixes, self.prefixes).ok_or(misplaced("prefixes"))?,
            policies: spliced(&base.policies, self.policies).ok_or(misplaced("policies"))?,
            rules: spliced(&base.rules, self.rules).ok_or(misplaced("rules"))?,
            programs: spliced(&base.programs, self.programs).ok_or(misplaced("programs"))?,
            pods: spliced(&base.pods, self.pods).ok_or(misplaced("pods"))?,
        };
        match next.digest() == self.digest {
            true => Ok(next),
            false => Err(DifferenceError::Digest { base: base.generation }),
        }
    }
}

/// Elements that have no order of their own are compared place by place.
fn in_place<T>(_: &T, _: &T) -> Ordering {
    Ordering::Equal
}

/// Lists that are in this order give the fewest splices; of others they are more, and right all the same.
fn splices<T: Clone + PartialEq>(old: &[T], new: &[T], order: impl Fn(&T, &T) -> Ordering) -> Vec<Splice<T>> {
    let mut splices: Vec<Splice<T>> = Vec::new();
    let (mut at, mut next) = (0, 0);
    loop {
        let (goes, comes) = match (old.get(at), new.get(next)) {
            (None, None) => return splices,
            (Some(one), Some(other)) if one == other => {
                (at, next) = (at + 1, next + 1);
                continue;
            }
            (Some(one), Some(other)) => {
                let order = order(one, other);
                (order.is_le(), order.is_ge())
            }
            (one, other) => (one.is_some(), other.is_some()),
        };
        if splices.last().is_none_or(|last| last.at + last.remove < at) {
            splices.push(Splice { at, remove: 0, insert: Vec::new() });
        }
        let splice = splices.last_mut().expect("one was pushed if there was none");
        splice.remove += usize::from(goes);
        splice.insert.extend(new[next..].iter().take(usize::from(comes)).cloned());
        (at, next) = (at + usize::from(goes), next + usize::from(comes));
    }
}

/// `None`: a splice is not inside the list, or not behind the one before it.
fn spliced<T: Clone>(old: &[T], splices: Vec<Splice<T>>) -> Option<Vec<T>> {
    let comes: usize = splices.iter().map(|splice| splice.insert.len()).sum();
    let mut new = Vec::with_capacity(old.len() + comes);
    let mut done = 0;
    for Splice { at, remove, insert } in splices {
        new.extend_from_slice(old.get(done..at)?);
        new.extend(insert);
        done = at.checked_add(remove)?;
    }
    new.extend_from_slice(old.get(done..)?);
    Some(new)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::artefact::{Peers, PodKey, Service};
    use crate::{Action, IdentityId, PolicyId, ProgramId, RuleId};
    use proptest::collection::vec;
    use proptest::prelude::*;

    /// Makes artefacts whose lists have elements in common. They need not be valid: a difference does not ask.
    fn artefact(numbers: &[u8]) -> Artefact {
        let mut sorted = numbers.to_vec();
        sorted.sort_unstable();
        let identity = |n: u8| IdentityId(u32::from(n));
        let policy = |n: u8| PolicyInfo {
            kind: "NetworkPolicy".to_owned(),
            namespace: "a".to_owned(),
            name: n.to_string(),
        };
        let program = |n: u8| Program {
            isolated: n.is_multiple_of(2),
            selected_by: vec![PolicyId(u32::from(n))],
            entries: vec![crate::artefact::Entry {
                tier: n,
                priority: 0,
                action: Action::Allow,
                peers: Peers::Identities(vec![identity(n)]),
                service: Service::Any,
                established_only: false,
                rule: RuleId(0),
            }],
        };
        let pod = |n: u8| PodPolicy {
            pod: PodKey::new("a", (n % 16).to_string()),
            addresses: vec![[10, 0, 0, n].into()],
            identity: identity(n),
            other_identities: vec![],
            ingress: ProgramId(0),
            egress: ProgramId(0),
        };
        let mut artefact = Artefact::empty();
        artefact.identities = sorted.iter().map(|n| Identity { id: identity(*n), labels: vec![] }).collect();
        artefact.prefixes.extend(sorted.iter().map(|n| PrefixIdentity {
            prefix: std::net::IpAddr::from([10, 0, 0, n / 4]).into(),
            identity: identity(n % 4),
        }));
        artefact.policies = sorted.iter().map(|n| policy(*n)).collect();
        artefact.rules =
            numbers.iter().map(|n| RuleInfo { policy: PolicyId(0), path: n.to_string() }).collect();
        artefact.programs = numbers.iter().map(|n| program(*n)).collect();
        artefact.pods = numbers.iter().map(|n| pod(*n)).collect();
        artefact
    }

    fn of_generation(generation: u64, numbers: &[u8]) -> Artefact {
        Artefact { generation: Generation(generation), ..artefact(numbers) }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn a_difference_over_the_wire_gives_the_artefact_to_the_byte(
            one in vec(any::<u8>(), 0..40), other in vec(any::<u8>(), 0..40)
        ) {
            let (base, next) = (of_generation(3, &one), of_generation(4, &other));
            let text = serde_json::to_vec(&Difference::between(&base, &next)).unwrap();
            let told: Difference = serde_json::from_slice(&text).unwrap();
            prop_assert_eq!(told.apply(&base), Ok(next));
        }

        #[test]
        fn a_difference_to_another_artefact_of_the_same_generation_is_refused(
            one in vec(any::<u8>(), 0..20), other in vec(any::<u8>(), 0..20), third in vec(any::<u8>(), 0..20)
        ) {
            let (base, next, stranger) =
                (of_generation(3, &one), of_generation(4, &other), of_generation(3, &third));
            let applied = Difference::between(&base, &next).apply(&stranger);
            // Where nothing of the base is kept, the base is of no consequence.
            prop_assert!(applied.is_err() || applied == Ok(next));
        }

        #[test]
        fn a_damaged_difference_is_refused(
            one in vec(any::<u8>(), 1..20), other in vec(any::<u8>(), 1..20), at: prop::sample::Index, by in 1usize..30
        ) {
            let (base, next) = (of_generation(3, &one), of_generation(4, &other));
            let mut difference = Difference::between(&base, &next);
            if difference.programs.is_empty() {
                return Ok(());
            }
            let at = at.index(difference.programs.len());
            difference.programs[at].at += by;
            let applied = difference.apply(&base);
            prop_assert!(applied.is_err() || applied == Ok(next));
        }
    }

    #[test]
    fn one_changed_prefix_among_many_is_one_splice() {
        let base = of_generation(3, &(0..=255).step_by(4).collect::<Vec<u8>>());
        let mut next = Artefact { generation: Generation(4), ..base.clone() };
        next.prefixes.remove(50);
        next.prefixes[7].identity = IdentityId(77);
        let difference = Difference::between(&base, &next);
        let changed: Vec<(usize, usize, usize)> =
            difference.prefixes.iter().map(|s| (s.at, s.remove, s.insert.len())).collect();
        assert_eq!(changed, [(7, 1, 1), (50, 1, 0)]);
        assert!(difference.programs.is_empty() && difference.pods.is_empty());
    }

    #[test]
    fn another_base_and_another_schema_are_named() {
        let base = of_generation(3, &[1]);
        let next = of_generation(4, &[2]);
        let difference = Difference::between(&base, &next);
        let later = of_generation(5, &[1]);
        let (running, base_generation) = (later.generation, base.generation);
        assert_eq!(
            difference.clone().apply(&later),
            Err(DifferenceError::Base { base: base_generation, running })
        );
        let foreign = Difference { schema: SCHEMA + 1, ..difference };
        assert_eq!(foreign.apply(&base), Err(DifferenceError::Schema { offered: SCHEMA + 1 }));
    }

    #[test]
    fn splices_that_overlap_or_leave_the_list_are_refused() {
        let splice = |at, remove| Splice { at, remove, insert: vec![9u8] };
        let old = [1u8, 2, 3];
        assert_eq!(spliced(&old, vec![splice(1, 1), splice(3, 0)]), Some(vec![1, 9, 3, 9]));
        for wrong in [
            vec![splice(4, 0)],
            vec![splice(2, 2)],
            vec![splice(1, usize::MAX)],
            vec![splice(1, 2), splice(2, 0)],
            vec![splice(2, 0), splice(1, 0)],
        ] {
            assert_eq!(spliced(&old, wrong.clone()), None, "{wrong:?}");
        }
    }
}
