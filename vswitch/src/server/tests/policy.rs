//! Artefacts: refused, in force, and workers that do not take them up.

use crate::server::testing::*;
use penstock_api::message::*;
use penstock_api::{Artefact, Difference, Generation};
use std::sync::atomic::Ordering;

#[test]
fn an_artefact_that_is_stale_or_wrong_leaves_the_old_one_in_force() {
    let bench = Bench::new();
    bench.install(artefact(5, &[1]));
    let running = bench.snapshot().serial;
    let mut dangling = artefact(6, &[1]);
    dangling.pods[0].ingress = penstock_api::ProgramId(9);
    for (offered, says) in [
        (artefact(4, &[]), "generation 4 is not newer than 5"),
        (artefact(5, &[]), "generation 5 is not newer than 5"),
        (Artefact { schema: 99, ..artefact(6, &[]) }, "schema 99"),
        (dangling, "program 9"),
    ] {
        let (code, text) = error(bench.install(offered));
        assert_eq!(code, ErrorCode::Artefact);
        assert!(text.contains(says) && text.contains("stays in force"), "{text}");
    }
    assert_eq!(bench.snapshot().serial, running);
    assert_eq!(bench.status().generation, Generation(5));
    // The same again is the same answer: the first may have been lost.
    assert!(matches!(bench.install(artefact(5, &[1])), Response::Installed { .. }));
}

#[test]
fn what_is_new_is_in_force_and_on_disk_as_the_whole_would_be() {
    let bench = Bench::new();
    bench.install(artefact(5, &[1]));
    let next = artefact(6, &[1, 2]);
    let response = bench.change(Difference::between(&artefact(5, &[1]), &next));
    assert!(matches!(response, Response::Installed { generation: Generation(6), .. }), "{response:?}");
    assert_eq!(*bench.snapshot().policy.artefact(), next);
    let on_disk = std::fs::read(bench.paths().artefact()).unwrap();
    assert_eq!(serde_json::from_slice::<Artefact>(&on_disk).unwrap(), next);
}

#[test]
fn what_is_new_beside_something_else_than_what_runs_changes_nothing() {
    let bench = Bench::new();
    bench.install(artefact(5, &[1]));
    let running = bench.snapshot().serial;
    let mut dangling = artefact(6, &[1]);
    dangling.pods[0].ingress = penstock_api::ProgramId(9);
    let from = |base: Artefact, next: Artefact| Difference::between(&base, &next);
    for (difference, says) in [
        (from(artefact(4, &[1]), artefact(6, &[1])), "starts from generation 4, but 5 is in force"),
        (from(artefact(5, &[1, 2]), artefact(6, &[1, 2, 3])), "pods that are not in generation 5"),
        (from(artefact(5, &[2]), artefact(6, &[2, 3])), "generation 5 is not the one it was made for"),
        (from(artefact(5, &[1]), artefact(5, &[2])), "generation 5 is not newer than 5"),
        (from(artefact(5, &[1]), dangling), "program 9"),
    ] {
        let (code, text) = error(bench.change(difference));
        assert_eq!(code, ErrorCode::Artefact);
        assert!(text.contains(says), "{text}");
    }
    assert_eq!(bench.snapshot().serial, running);
    assert_eq!(*bench.snapshot().policy.artefact(), artefact(5, &[1]));
}

#[test]
fn a_worker_that_does_not_acknowledge_is_named_and_catches_up_later() {
    let bench = Bench::new();
    bench.workers[1].stuck.store(true, Ordering::Relaxed);
    let (code, text) = error(bench.install(artefact(1, &[])));
    assert_eq!(code, ErrorCode::NotReady);
    assert!(text.contains("worker 1 did not take up"), "{text}");
    assert!(bench.status().notes.iter().any(|note| note.contains("worker 1 has not taken up")));
    bench.workers[1].stuck.store(false, Ordering::Relaxed);
    eventually("it caught up", || bench.workers[1].counters.generation.get() == 1);
    assert!(matches!(bench.install(artefact(1, &[])), Response::Installed { .. }));
}

#[test]
fn a_full_mailbox_gets_the_last_snapshot_when_it_has_room() {
    let bench = Bench::new();
    let worker = &bench.workers[0];
    worker.stuck.store(true, Ordering::Relaxed);
    while worker.mailbox.send(crate::worker::mailbox::Command::Rebind).is_ok() {}
    error(bench.install(artefact(1, &[])));
    worker.stuck.store(false, Ordering::Relaxed);
    eventually("it was sent again", || worker.counters.generation.get() == 1);
}
