//! The generator makes worlds worth asking about.

use penstock_oracle::{End, Feature, Naive, World};
use rand::SeedableRng;
use rand::rngs::StdRng;

#[test]
fn one_seed_makes_one_world_and_one_list_of_questions() {
    for seed in 0..50 {
        let make = || {
            let mut random = StdRng::seed_from_u64(seed);
            let world = World::random(&mut random);
            let flows = world.questions(&mut random, 30);
            world.json_line(seed, &flows)
        };
        assert_eq!(make(), make());
    }
}

#[test]
fn random_questions_are_answered_in_every_way() {
    let (mut allowed, mut open, mut refused_out, mut refused_in) = (0u32, 0u32, 0u32, 0u32);
    for seed in 0..2_000 {
        let mut random = StdRng::seed_from_u64(seed);
        let world = World::random(&mut random);
        let naive = Naive::new(&world);
        for flow in world.questions(&mut random, 30) {
            let answer = naive.judge(flow);
            assert!(answer.egress.is_some() || answer.ingress.is_some(), "seed {seed}: {flow}");
            match (answer.egress, answer.ingress) {
                (Some(End::Deny), _) => refused_out += 1,
                (_, Some(End::Deny)) => refused_in += 1,
                (Some(End::Allow), _) | (_, Some(End::Allow)) => allowed += 1,
                _ => open += 1,
            }
        }
    }
    let total = f64::from(allowed + open + refused_out + refused_in);
    println!(
        "{total} answers: {allowed} allowed, {open} open, {refused_out} refused at egress, {refused_in} at ingress"
    );
    for count in [allowed, open, refused_out, refused_in] {
        assert!(f64::from(count) / total > 0.05, "{allowed} {open} {refused_out} {refused_in}");
    }
}

/// A feature that no answer depends on is not tested, however often it stands in a file.
#[test]
fn every_feature_decides_at_least_a_twentieth_of_the_answers_of_its_batch() {
    let mut rare = Vec::new();
    for feature in Feature::all() {
        let (mut answers, mut decided) = (0, 0);
        for seed in 0..200 {
            let mut random = StdRng::seed_from_u64(seed);
            let world = World::about(feature, &mut random);
            let flows = world.questions(&mut random, 30);
            answers += flows.len();
            decided += world.decided_by(feature, &flows);
        }
        let percent = 100.0 * decided as f64 / answers as f64;
        println!("{percent:5.1} %  {feature:?}");
        if percent < 5.0 {
            rare.push(feature);
        }
    }
    assert!(rare.is_empty(), "hardly any answer depends on {rare:?}");
}
