//! The lookup against the reference evaluator, on random artefacts and questions that aim at boundaries.
//!
//! One run asks a million questions. A failure prints its seed; `PENSTOCK_SEED=<seed>` replays it.

mod random;

use penstock_api::artefact::Artefact;
use penstock_api::ids::{IdentityId, ProgramId};
use penstock_api::reference;
use penstock_lookup::Policy;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use random::{Aim, Shape};
use std::cell::Cell;

/// Runs `check` on `count` artefacts, each from a seed of its own; a failure names the seed of its artefact.
fn for_random_artefacts(count: u64, shape: Shape, check: impl Fn(&Artefact, &Policy, &Aim, &mut StdRng)) {
    let replayed =
        std::env::var("PENSTOCK_SEED").ok().map(|seed| seed.parse::<u64>().expect("a seed is a number"));
    let seeds: Vec<u64> = match replayed {
        Some(seed) => vec![seed],
        None => {
            let first: u64 = rand::random();
            (0..count).map(|i| first.wrapping_add(i)).collect()
        }
    };
    for seed in seeds {
        let named = NameSeed(seed);
        let mut rng = StdRng::seed_from_u64(seed);
        let artefact = random::artefact(&mut rng, shape);
        let aim = Aim::at(&artefact);
        let policy = Policy::build(artefact.clone()).expect("the generator makes valid artefacts");
        check(&artefact, &policy, &aim, &mut rng);
        drop(named);
    }
}

struct NameSeed(u64);

impl Drop for NameSeed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("replay with PENSTOCK_SEED={}", self.0);
        }
    }
}

fn verdicts_agree(artefacts: u64, shape: Shape, questions_per_artefact: usize) {
    for_random_artefacts(artefacts, shape, |artefact, policy, aim, rng| {
        for _ in 0..questions_per_artefact {
            let program = ProgramId(rng.random_range(0..artefact.programs.len() as u32));
            let peer = aim.identity(rng);
            let question = aim.question(rng);
            assert_eq!(
                policy.judge(program, policy.class_of(peer), question),
                reference::judge(&artefact.programs[program.index()], peer, question),
                "program {program} about identity {peer}, {question:?}"
            );
        }
    });
}

#[test]
fn a_million_verdicts_and_the_rules_they_name_are_those_of_the_reference() {
    verdicts_agree(2_000, Shape::SMALL, 500);
}

#[test]
fn verdicts_of_programs_with_hundreds_of_entries_are_those_of_the_reference() {
    verdicts_agree(30, Shape::LARGE, 1_000);
}

#[test]
fn a_million_addresses_have_the_identity_the_reference_gives_them() {
    for_random_artefacts(1_000, Shape::SMALL, |artefact, policy, aim, rng| {
        for _ in 0..1_000 {
            let address = aim.address(rng);
            let expected = reference::identity_of(artefact, address);
            let peer = policy.classify(address);
            assert_eq!(peer.identity, expected, "{address}");
            assert_eq!(peer.class, policy.class_of(expected), "{address}");
        }
    });
}

#[test]
fn addresses_among_hundreds_of_prefixes_have_the_identity_the_reference_gives_them() {
    for_random_artefacts(30, Shape::LARGE, |artefact, policy, aim, rng| {
        for _ in 0..1_000 {
            let address = aim.address(rng);
            assert_eq!(policy.identity_of(address), reference::identity_of(artefact, address), "{address}");
        }
    });
}

#[test]
fn flows_meet_the_verdicts_the_reference_gives_them_at_both_ends() {
    for_random_artefacts(1_000, Shape::SMALL, |artefact, policy, aim, rng| {
        for _ in 0..100 {
            let (source, destination, question) = (aim.address(rng), aim.address(rng), aim.question(rng));
            assert_eq!(
                policy.judge_flow(source, destination, question),
                reference::judge_flow(artefact, source, destination, question),
                "{source} to {destination}, {question:?}"
            );
        }
    });
}

#[test]
fn endpoints_get_the_policy_the_artefact_has_for_them() {
    for_random_artefacts(1_000, Shape::SMALL, |artefact, policy, aim, rng| {
        for _ in 0..50 {
            let pod = aim.pod(rng);
            let addresses: Vec<_> = (0..rng.random_range(0..3)).map(|_| aim.address(rng)).collect();
            let expected = artefact.pod_for(&pod, &addresses);
            let found = policy.pod(&pod, &addresses);
            assert_eq!(
                found.map(|found| (found.identity, found.ingress, found.egress)),
                expected.map(|pod| (pod.identity, pod.ingress, pod.egress)),
                "{pod} with {addresses:?}"
            );
            if let Some(found) = found {
                assert_eq!(found.class, policy.class_of(found.identity));
            }
        }
    });
}

/// The tests above would prove nothing if the generator made only artefacts whose every answer is the default.
#[test]
fn the_generator_reaches_every_kind_of_answer() {
    use penstock_api::Action;
    let mut seen = std::collections::BTreeMap::new();
    let mut rng = StdRng::seed_from_u64(1);
    for _ in 0..200 {
        let artefact = random::artefact(&mut rng, Shape::SMALL);
        let aim = Aim::at(&artefact);
        for _ in 0..100 {
            let program = &artefact.programs[rng.random_range(0..artefact.programs.len())];
            let question = aim.question(&mut rng);
            let answer = reference::judge(program, aim.identity(&mut rng), question);
            let action = match answer.action {
                Action::Allow => "allow",
                Action::Deny => "deny",
                Action::Reject => "reject",
                Action::Pass => panic!("a verdict is never pass"),
                Action::ToProxy { .. } => "proxy",
                Action::HoldForDns => "hold",
            };
            *seen.entry((action, answer.rule.is_some())).or_insert(0) += 1;
        }
    }
    for kind in [
        ("allow", true),
        ("allow", false),
        ("deny", true),
        ("deny", false),
        ("reject", true),
        ("proxy", true),
        ("hold", true),
    ] {
        assert!(seen.get(&kind).is_some_and(|count| *count > 100), "{kind:?} is rare: {seen:?}");
    }
}

#[test]
fn an_identity_nobody_names_is_matched_by_entries_for_everyone_only() {
    for_random_artefacts(200, Shape::SMALL, |artefact, policy, aim, rng| {
        assert_eq!(
            policy.class_of(IdentityId::UNKNOWN),
            penstock_lookup::Class::UNNAMED,
            "nothing may name the unknown"
        );
        let question = aim.question(rng);
        for (index, program) in artefact.programs.iter().enumerate() {
            let mut of_everyone = program.clone();
            of_everyone.entries.retain(|entry| entry.peers == penstock_api::artefact::Peers::Any);
            assert_eq!(
                policy.judge(ProgramId(index as u32), penstock_lookup::Class::UNNAMED, question),
                reference::judge(&of_everyone, IdentityId(7), question)
            );
        }
    });
}

/// Artefacts come from a socket and from disk. Whatever is wrong with one, it is refused; and what is accepted can be asked.
#[test]
fn a_damaged_artefact_is_refused_or_judged_but_never_a_panic() {
    let (accepted, refused) = (Cell::new(0), Cell::new(0));
    for_random_artefacts(2_000, Shape::SMALL, |artefact, _, aim, rng| {
        let mut damaged = artefact.clone();
        random::damage(rng, &mut damaged);
        assert_eq!(Policy::build(damaged.clone()).err(), damaged.validate().err());
        let Ok(policy) = Policy::build(damaged.clone()) else {
            return refused.set(refused.get() + 1);
        };
        accepted.set(accepted.get() + 1);
        for _ in 0..20 {
            let (source, destination, question) = (aim.address(rng), aim.address(rng), aim.question(rng));
            assert_eq!(
                policy.judge_flow(source, destination, question),
                reference::judge_flow(&damaged, source, destination, question)
            );
        }
    });
    if std::env::var_os("PENSTOCK_SEED").is_none() {
        let (accepted, refused) = (accepted.get(), refused.get());
        assert!(accepted > 100 && refused > 100, "{accepted} accepted, {refused} refused: aim better");
    }
}
