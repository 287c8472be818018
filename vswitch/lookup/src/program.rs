//! One program, compiled: who asks, for what, and which entry answers.
//!
//! Entries are put in the order in which they decide: tier, priority, strength, place in the program. The first that matches
//! then decides, and its position is its *rank*. Only `Pass` is not that simple: it sends the question past the rest of its
//! tier. So the order is broken into *stages*, one ending behind each tier that holds a `Pass`; whatever a stage's first
//! match is, `Pass` leads to the next stage and everything else is the answer. Most programs have one stage.
//!
//! In a stage two interval sets (see [`crate::ports`]) are asked, and the lower rank wins: that of the entries for
//! everyone, and that of the entries naming this class of peers. Keeping them apart is what bounds the memory: nothing is
//! multiplied, each entry is stored once for everyone, or once per class it names. Classes named by the same entries
//! share a set.
//!
//! Established flows see entries that new ones do not; a stage with such entries has a second pair of sets.

use crate::ports::{self, Ranked, Span, Store};
use crate::{Class, Map, steps};
use ahash::RandomState;
use penstock_api::Action;
use penstock_api::artefact::{Entry, Peers, Program};
use penstock_api::ids::IdentityId;
use penstock_api::reference::{Answer, Question};
use std::collections::BTreeSet;

/// What a program without a matching entry answers when it isolates, and what is answered where there is no program.
pub(crate) const DENIED: Answer = Answer { action: Action::Deny, rule: None };

#[derive(Debug)]
pub(crate) struct Compiled {
    stages: Box<[Stage]>,
    default: Answer,
}

#[derive(Debug)]
struct Stage {
    store: Store,
    new: Layer,
    /// Absent: as for new flows.
    established: Option<Layer>,
}

#[derive(Debug)]
struct Layer {
    everyone: Span,
    named: Map<Class, Span>,
}

impl Compiled {
    pub(crate) fn new(
        program: &Program,
        class_of: impl Fn(IdentityId) -> Class,
        hasher: &RandomState,
    ) -> Compiled {
        let mut order: Vec<&Entry> = program.entries.iter().collect();
        // Stable: of equal entries the first decides.
        order.sort_by_key(|entry| (entry.tier, entry.priority, u8::MAX - entry.action.strength()));
        let passing: BTreeSet<u8> =
            order.iter().filter(|entry| entry.action == Action::Pass).map(|entry| entry.tier).collect();
        let stages = order
            .chunk_by(|entry, next| entry.tier == next.tier || !passing.contains(&entry.tier))
            .map(|entries| Stage::new(entries, &class_of, hasher))
            .collect();
        let default = match program.isolated {
            true => DENIED,
            false => Answer { action: Action::Allow, rule: None },
        };
        Compiled { stages, default }
    }

    #[inline]
    pub(crate) fn judge(&self, peer: Class, question: Question) -> Answer {
        let key = ports::key(question.protocol, question.port);
        for stage in &self.stages {
            match stage.first_match(peer, key, question.established) {
                Some(entry) if entry.action != Action::Pass => {
                    return Answer { action: entry.action, rule: Some(entry.rule) };
                }
                _ => {}
            }
        }
        self.default
    }

    #[cfg(test)]
    pub(crate) fn intervals(&self) -> usize {
        self.stages.iter().map(|stage| stage.store.intervals()).sum()
    }
}

impl Stage {
    fn new(entries: &[&Entry], class_of: impl Fn(IdentityId) -> Class, hasher: &RandomState) -> Stage {
        let mut builder = Builder {
            entries,
            class_of,
            store: Store::default(),
            sets: Map::with_hasher(hasher.clone()),
            hasher,
        };
        let new = builder.layer(|entry| !entry.established_only);
        let established = entries.iter().any(|entry| entry.established_only).then(|| builder.layer(|_| true));
        let mut store = builder.store;
        store.shrink();
        Stage { store, new, established }
    }

    #[inline]
    fn first_match(&self, peer: Class, key: u32, established: bool) -> Option<Ranked> {
        let layer = match &self.established {
            Some(layer) if established => layer,
            _ => &self.new,
        };
        let everyones = self.store.find(layer.everyone, key);
        steps::count();
        let Some(named) = layer.named.get(&peer) else { return everyones };
        match (everyones, self.store.find(*named, key)) {
            (Some(everyones), Some(own)) if everyones.rank < own.rank => Some(everyones),
            (everyones, own) => own.or(everyones),
        }
    }
}

struct Builder<'a, F> {
    /// In the order in which they decide: the position is the rank.
    entries: &'a [&'a Entry],
    class_of: F,
    store: Store,
    /// Sets made so far, by the ranks in them.
    sets: Map<Box<[u32]>, Span>,
    hasher: &'a RandomState,
}

impl<F: Fn(IdentityId) -> Class> Builder<'_, F> {
    fn layer(&mut self, is_seen: impl Fn(&Entry) -> bool) -> Layer {
        let mut everyone: Vec<u32> = Vec::new();
        let mut named: Vec<(Class, u32)> = Vec::new();
        for (rank, entry) in (0u32..).zip(self.entries).filter(|(_, entry)| is_seen(entry)) {
            match &entry.peers {
                Peers::Any => everyone.push(rank),
                Peers::Identities(ids) => named.extend(ids.iter().map(|id| ((self.class_of)(*id), rank))),
            }
        }
        named.sort_unstable();
        named.dedup();
        let everyone = self.set(everyone);
        let mut spans = Map::with_hasher(self.hasher.clone());
        for of_class in named.chunk_by(|a, b| a.0 == b.0) {
            spans.insert(of_class[0].0, self.set(of_class.iter().map(|(_, rank)| *rank).collect()));
        }
        spans.shrink_to_fit();
        Layer { everyone, named: spans }
    }

    /// The set of these entries, shared where there is one already.
    fn set(&mut self, ranks: Vec<u32>) -> Span {
        if ranks.is_empty() {
            return Span::EMPTY;
        }
        if let Some(span) = self.sets.get(ranks.as_slice()) {
            return *span;
        }
        let span = self.store.add(ranks.iter().map(|rank| {
            let entry = self.entries[*rank as usize];
            (entry.service, Ranked { rank: *rank, rule: entry.rule, action: entry.action })
        }));
        self.sets.insert(ranks.into_boxed_slice(), span);
        span
    }
}
