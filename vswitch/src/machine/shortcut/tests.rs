//! Random histories of frames, flows, policy, pods and time against a stupid reference, by the real programs and maps.
//!
//! The kernel runs `pod` and `trunk` frame by frame (BPF_PROG_TEST_RUN: nothing is sent anywhere), [`Shortcuts`] keeps the maps. The reference
//! knows no rows, epochs or marks: a frame may pass in the kernel only if the flow is established between who has its addresses
//! now, policy allows it now, the frame is plain, and nothing of the flow is under way through userspace. What passed must be the
//! frame a worker would have sent, and be accounted for. Everybody else may be late: workers judge by snapshots of long ago, requests
//! wait in their queue, counts are read when they are read.
//!
//! Needs root. `PENSTOCK_SEED` repeats a run (the seed is printed), `PENSTOCK_STEPS` makes it longer.

mod frames;
mod world;

use rand::SeedableRng;
use rand::rngs::StdRng;
use std::time::Duration;
use world::{Fate, Tally, World};

const STEPS: usize = 6_000;
const RUNS: u64 = 4;

/// Runs in a namespace of its own, with what the programs need pinned in a directory of its own.
fn alone<T: Send>(name: &str, work: impl FnOnce(&std::path::Path) -> T + Send) -> T {
    assert!(
        nix::unistd::geteuid().is_root(),
        "this test makes a network namespace and loads programs: run it as root"
    );
    struct Pins(std::path::PathBuf);
    impl Drop for Pins {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }
    let pins = Pins(format!("/sys/fs/bpf/pt-{name}-{}", std::process::id()).into());
    let alone = || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        work(&pins.0)
    };
    std::thread::scope(|scope| scope.spawn(alone).join())
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

#[test]
fn whatever_happens_the_kernel_carries_only_what_is_allowed_at_that_moment() {
    let given =
        std::env::var("PENSTOCK_SEED").ok().map(|seed| seed.parse().expect("PENSTOCK_SEED is a number"));
    let steps = std::env::var("PENSTOCK_STEPS").map_or(STEPS, |steps| steps.parse().expect("a number"));
    let first = given.unwrap_or_else(|| rand::random::<u32>().into());
    let runs = if given.is_some() { 1 } else { RUNS };
    let mut tally = Tally::default();
    for seed in first..first + runs {
        tally += alone("model", |pins| {
            let mut world = World::new(pins, StdRng::seed_from_u64(seed));
            for step in 0..steps {
                if let Err(wrong) = world.step() {
                    panic!("{wrong}\nstep {step}; what led to it:\n{}\nPENSTOCK_SEED={seed}", world.told());
                }
            }
            if let Err(wrong) = world.balance() {
                panic!("{wrong}\nat the end; what led to it:\n{}\nPENSTOCK_SEED={seed}", world.told());
            }
            eprintln!("seed {seed}: {:?}", world.tally);
            world.tally
        });
    }
    tally.assert_telling(steps as u64 * runs);
}

#[test]
fn an_answer_to_less_than_all_waits_for_the_one_to_all_and_then_the_stream_is_in_the_kernel() {
    alone("stream", |pins| {
        let mut world = World::new(pins, StdRng::seed_from_u64(1));
        let stream = world.connect();
        assert_eq!(world.data(&stream, 5000, 100), Fate::Up);
        assert_eq!(world.data(&stream, 5100, 100), Fate::Up, "the first is still on its way");
        assert_eq!(world.acknowledge(&stream, 5100), Fate::Refused, "it would call for more");
        world.come_back().unwrap();
        world.come_back().unwrap();
        assert_eq!(world.acknowledge(&stream, 5200), Fate::Up);
        assert_eq!(world.data(&stream, 5200, 100), Fate::Passed, "nothing is under way, whatever the time");
        assert_eq!(world.acknowledge(&stream, 5250), Fate::Up, "nothing has to wait any more");
    });
}

#[test]
fn answers_are_not_kept_back_for_long_and_not_those_to_what_was_sent_again() {
    alone("stall", |pins| {
        let mut world = World::new(pins, StdRng::seed_from_u64(1));
        let stream = world.connect();
        // Around the end of sequence numbers.
        assert_eq!(world.data(&stream, u32::MAX - 49, 100), Fate::Up);
        assert_eq!(world.data(&stream, u32::MAX - 49, 10), Fate::Up, "again, and less of it");
        assert_eq!(world.acknowledge(&stream, u32::MAX - 39), Fate::Refused);
        assert_eq!(world.acknowledge(&stream, 51), Fate::Up, "more than was sent is answered");
        std::thread::sleep(Duration::from_millis(3));
        assert_eq!(world.acknowledge(&stream, u32::MAX - 39), Fate::Up);
    });
}
