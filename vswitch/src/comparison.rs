//! Whom a new policy touches: endpoints whose programs may answer differently, and nobody else.
//!
//! Classes have numbers, and a number that changed is no change: what counts is who is allowed. So the old policy and the new
//! one are laid over each other once, giving for every address there is the pair of its old class and its new one; two
//! programs are the same when their entries are, one by one, and none names one of a pair without the other.
//!
//! Cost: linear in both tables, up to a logarithm, once per policy; then for each program its entries and the identities they
//! name. Rules are compared by number, because flows remember the number of the rule that allowed them.

use ahash::{HashSet, HashSetExt};
use ipnet::IpNet;
use penstock_api::artefact::{Peers, Program};
use penstock_api::{Artefact, IdentityId};
use std::net::IpAddr;

#[derive(Debug)]
pub(crate) struct Comparison {
    /// Classes that some address had before and has still.
    kept: HashSet<IdentityId>,
    /// (before, now), where they differ.
    moved: Vec<(IdentityId, IdentityId)>,
    same_rules: bool,
}

/// What one artefact says of one prefix. In the order in which it counts less and less.
#[derive(Debug, Clone, Copy)]
struct Saying {
    prefix: IpNet,
    is_new: bool,
    identity: IdentityId,
}

impl Comparison {
    pub(crate) fn new(old: &Artefact, new: &Artefact) -> Self {
        // The default routes are always there, so nothing is ever asked of this.
        let nobody = (IdentityId::UNKNOWN, IdentityId::UNKNOWN);
        let mut pairs: HashSet<(IdentityId, IdentityId)> = HashSet::new();
        // The host at large and who is not known are classes without an address.
        pairs.extend([nobody, (IdentityId::HOST, IdentityId::HOST)]);

        let mut sayings = sayings(old, false);
        sayings.extend(self::sayings(new, true));
        // Outer before inner; stable, so that what was said last of one prefix stands last.
        sayings.sort_by_key(|saying| saying.prefix);
        let mut around: Vec<(IpNet, (IdentityId, IdentityId))> = Vec::new();
        for of_prefix in sayings.chunk_by(|one, next| one.prefix == next.prefix) {
            let prefix = of_prefix[0].prefix;
            while around.last().is_some_and(|(outer, _)| !outer.contains(&prefix)) {
                around.pop();
            }
            let mut pair = around.last().map_or(nobody, |(_, pair)| *pair);
            for saying in of_prefix {
                match saying.is_new {
                    false => pair.0 = saying.identity,
                    true => pair.1 = saying.identity,
                }
            }
            pairs.insert(pair);
            around.push((prefix, pair));
        }
        let (kept, moved): (Vec<_>, Vec<_>) = pairs.into_iter().partition(|(before, now)| before == now);
        let same_rules = old.rules == new.rules && old.policies == new.policies;
        Comparison { kept: kept.into_iter().map(|(identity, _)| identity).collect(), moved, same_rules }
    }

    /// The programs answer the same about every address.
    pub(crate) fn is_same(&self, old: &Artefact, one: &Program, new: &Artefact, other: &Program) -> bool {
        one.isolated == other.isolated
            && one.entries.len() == other.entries.len()
            && one.entries.iter().zip(&other.entries).all(|(one, other)| {
                let parts = |e: &penstock_api::artefact::Entry| {
                    (e.tier, e.priority, e.action, e.service, e.established_only, e.rule)
                };
                let is_same_rule = || {
                    let rule = |artefact: &Artefact| {
                        let rule = artefact.rules.get(one.rule.index())?;
                        Some((rule.path.clone(), artefact.policies.get(rule.policy.index())?.clone()))
                    };
                    self.same_rules || rule(old) == rule(new)
                };
                parts(one) == parts(other) && self.are_same_peers(&one.peers, &other.peers) && is_same_rule()
            })
    }

    fn are_same_peers(&self, before: &Peers, now: &Peers) -> bool {
        let (Peers::Identities(before), Peers::Identities(now)) = (before, now) else { return before == now };
        // As they always are; but a search in what is not would find nothing and call it the same.
        if !before.is_sorted() || !now.is_sorted() {
            return before == now && self.moved.is_empty();
        }
        let names = |ids: &[IdentityId], id: &IdentityId| ids.binary_search(id).is_ok();
        let is_other = |id: &&IdentityId| names(before, id) != names(now, id) && self.kept.contains(*id);
        (before == now || !before.iter().chain(now).any(|id| is_other(&id)))
            && self.moved.iter().all(|(old, new)| names(before, old) == names(now, new))
    }
}

/// Everything an artefact says of addresses, later words outweighing earlier ones of the same prefix: of prefixes the last,
/// then pods, and of several with one address the first.
fn sayings(artefact: &Artefact, is_new: bool) -> Vec<Saying> {
    let prefixes =
        artefact.prefixes.iter().map(|p| Saying { prefix: p.prefix, is_new, identity: p.identity });
    let pods = artefact.pods.iter().rev().flat_map(|pod| {
        let of_pod = |address: &IpAddr| Saying {
            prefix: (*address).into(),
            is_new,
            identity: pod.identity_of(*address),
        };
        pod.addresses.iter().map(of_pod)
    });
    prefixes.chain(pods).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use penstock_api::artefact::{Action, Entry, PodKey, PodPolicy, PrefixIdentity, Service, tier};
    use penstock_api::{PolicyId, ProgramId, RuleId};

    fn artefact(prefixes: &[(&str, u32)]) -> Artefact {
        let mut artefact = Artefact::empty();
        artefact.prefixes.extend(prefixes.iter().map(|(prefix, identity)| PrefixIdentity {
            prefix: prefix.parse().unwrap(),
            identity: IdentityId(*identity),
        }));
        artefact.rules = vec![penstock_api::artefact::RuleInfo {
            policy: PolicyId(0),
            path: "spec.ingress[0]".to_owned(),
        }];
        artefact.policies = vec![penstock_api::artefact::PolicyInfo {
            kind: "NetworkPolicy".to_owned(),
            namespace: "a".to_owned(),
            name: "p".to_owned(),
        }];
        artefact
    }

    fn program(peers: &[u32]) -> Program {
        let entry = Entry {
            tier: tier::NORMAL,
            priority: 0,
            action: Action::Allow,
            peers: Peers::Identities(peers.iter().copied().map(IdentityId).collect()),
            service: Service::Any,
            established_only: false,
            rule: RuleId(0),
        };
        Program { isolated: true, selected_by: vec![], entries: vec![entry] }
    }

    fn is_same(old: (&Artefact, &[u32]), new: (&Artefact, &[u32])) -> bool {
        Comparison::new(old.0, new.0).is_same(old.0, &program(old.1), new.0, &program(new.1))
    }

    #[test]
    fn an_address_in_another_class_touches_only_who_tells_the_two_apart() {
        let before = artefact(&[("10.0.0.1/32", 300), ("10.0.0.2/32", 301)]);
        let after = artefact(&[("10.0.0.1/32", 300), ("10.0.0.2/32", 300)]);
        assert!(is_same((&before, &[]), (&after, &[])));
        assert!(is_same((&before, &[300, 301]), (&after, &[300])));
        assert!(!is_same((&before, &[300]), (&after, &[300])));
        assert!(!is_same((&before, &[301]), (&after, &[])));
    }

    #[test]
    fn other_numbers_for_the_same_classes_touch_nobody() {
        let before = artefact(&[("10.0.0.0/8", 300), ("10.0.0.2/32", 301)]);
        let after = artefact(&[("10.0.0.0/8", 301), ("10.0.0.2/32", 300)]);
        assert!(is_same((&before, &[300]), (&after, &[301])));
        assert!(is_same((&before, &[301]), (&after, &[300])));
        assert!(!is_same((&before, &[301]), (&after, &[301])));
    }

    #[test]
    fn what_was_around_an_address_counts_where_it_is_named_no_more() {
        let before = artefact(&[("10.0.0.0/8", 300), ("10.0.0.2/32", 301)]);
        let after = artefact(&[("10.0.0.0/8", 300)]);
        assert!(!is_same((&before, &[300]), (&after, &[300])));
        assert!(is_same((&before, &[300, 301]), (&after, &[300])));
        assert!(is_same((&before, &[2]), (&after, &[2])));
    }

    #[test]
    fn a_pod_that_comes_here_is_met_as_before_under_the_same_class() {
        let before = artefact(&[("10.0.0.2/32", 301)]);
        let mut after = artefact(&[]);
        after.pods.push(PodPolicy {
            pod: PodKey::new("a", "p"),
            addresses: vec!["10.0.0.2".parse().unwrap()],
            identity: IdentityId(301),
            other_identities: vec![],
            ingress: ProgramId(0),
            egress: ProgramId(0),
        });
        assert!(is_same((&before, &[301]), (&after, &[301])));
        after.pods[0].identity = IdentityId(302);
        assert!(!is_same((&before, &[301]), (&after, &[301])));
    }

    #[test]
    fn another_rule_of_the_same_number_is_another_program() {
        let before = artefact(&[]);
        let mut after = artefact(&[]);
        assert!(is_same((&before, &[2]), (&after, &[2])));
        after.rules[0].path = "spec.ingress[1]".to_owned();
        assert!(!is_same((&before, &[2]), (&after, &[2])));
    }

    /// The claim itself, on random artefacts: what is taken for the same answers the same about every address.
    #[test]
    fn programs_that_are_the_same_answer_the_same_about_every_address() {
        use penstock_api::reference::{Question, identity_of, judge};
        use rand::rngs::StdRng;
        use rand::{RngExt, SeedableRng};
        let seed = std::env::var("PENSTOCK_SEED").map_or_else(|_| rand::random(), |s| s.parse().unwrap());
        println!("seed {seed}");
        let mut random = StdRng::seed_from_u64(seed);
        let nets = ["10.0.0.0/8", "10.0.0.0/24", "10.0.0.1/32", "10.0.0.2/32", "10.1.0.0/16"];
        let addresses = ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.1.1", "10.1.0.1", "10.2.0.1", "11.0.0.1"];
        let (mut same, mut other) = (0, 0);
        for _ in 0..20_000 {
            let make = |random: &mut StdRng| {
                let mut prefixes = Vec::new();
                for net in nets {
                    if random.random_range(0..2) == 0 {
                        prefixes.push((net, random.random_range(300..303u32)));
                    }
                }
                let mut named: Vec<u32> = (300..303).filter(|_| random.random_range(0..2) == 0).collect();
                if random.random_range(0..4) == 0 {
                    named.insert(0, IdentityId::WORLD_V4.0);
                }
                (artefact(&prefixes), named)
            };
            let (before, before_named) = make(&mut random);
            let (after, after_named) = make(&mut random);
            let question = Question { protocol: 6, port: 80, established: false };
            let answers = |artefact: &Artefact, named: &[u32]| {
                addresses.map(|address| {
                    let peer = identity_of(artefact, address.parse().unwrap());
                    judge(&program(named), peer, question).action
                })
            };
            if is_same((&before, &before_named), (&after, &after_named)) {
                same += 1;
                assert_eq!(
                    answers(&before, &before_named),
                    answers(&after, &after_named),
                    "{before:?} {after:?}"
                );
            } else {
                other += 1;
            }
        }
        assert!(same > 200 && other > 200, "{same} {other}");
    }
}
