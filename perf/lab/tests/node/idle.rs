//! A switch that has nothing to do.

use crate::common::{LONG, TCP, shop, workers};
use penstock_lab::Lab;
use penstock_lab::Outcome::Reached;
use std::time::{Duration, Instant};

/// Of the only worker's thread: how often it went to sleep of its own accord, and how long it ran.
fn thread_of_worker(lab: &Lab) -> (u64, Duration) {
    let tasks = format!("/proc/{}/task", lab.status().unwrap().pid);
    let read =
        |task: &std::path::Path, file: &str| std::fs::read_to_string(task.join(file)).unwrap_or_default();
    let task = std::fs::read_dir(&tasks)
        .unwrap()
        .flatten()
        .map(|task| task.path())
        .find(|task| read(task, "comm").trim() == "worker0")
        .expect("a thread named worker0");
    let status = read(&task, "status");
    let sleeps = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    // Nanoseconds on a CPU come first.
    let ran = read(&task, "schedstat").split_whitespace().next().and_then(|ns| ns.parse().ok());
    (sleeps.and_then(|n| n.trim().parse().ok()).unwrap(), Duration::from_nanos(ran.unwrap()))
}

/// Asked of adaptive polling. A machine that is busy lengthens what a thread waits, not what it runs; still the best of three counts.
#[test]
fn a_worker_without_work_sleeps_and_wakes_for_the_first_frame() {
    let (lab, web, db) = shop("idle", workers(1));
    assert_eq!(web.connect_within(db.v4(), TCP, LONG), Reached);
    let mut shares = [1.0; 3];
    for share in &mut shares {
        let (began, (sleeps, ran)) = (Instant::now(), thread_of_worker(&lab));
        std::thread::sleep(Duration::from_secs(1));
        let (sleeps_then, ran_then) = thread_of_worker(&lab);
        *share = (ran_then - ran).as_secs_f64() / began.elapsed().as_secs_f64();
        assert!(sleeps_then > sleeps, "it never slept in a second");
    }
    eprintln!("an idle worker runs for {shares:?} of the time");
    assert!(shares.iter().any(|share| *share < 0.03), "{shares:?} of a CPU without any work");
    assert_eq!(web.connect_within(db.v4(), TCP, LONG), Reached, "and it is awake at once");
}
