//! A node's life: what is left after it, and after whoever was killed with it. Needs root.

use penstock_lab::Outcome::Reached;
use penstock_lab::{Lab, Pod};
use std::time::Duration;

const LONG: Duration = Duration::from_secs(3);

#[test]
fn nothing_is_left_of_a_laboratory_with_pods() {
    let lab = Lab::new("clean");
    let instance = lab.instance().clone();
    let _pod = lab.pod("shop", "web", &[]);
    assert!(!Lab::leftovers(&instance).is_empty());
    drop(lab);
    assert_eq!(Lab::leftovers(&instance), Vec::<String>::new());
}

#[test]
fn two_laboratories_with_the_same_addresses_do_not_know_of_each_other() {
    let (one, two) = (Lab::new("same"), Lab::new("same"));
    let (a, b) = (one.pod("shop", "web", &[]), two.pod("shop", "web", &[]));
    assert_eq!(a.v4(), b.v4());
    a.listen_tcp(80);
    assert_eq!(one.host().connect_within(a.v4(), 80, LONG), Reached);
    assert_ne!(two.host().connect_within(b.v4(), 80, LONG), Reached);
}

#[test]
fn a_second_up_is_refused_and_changes_nothing() {
    let lab = Lab::new("twice");
    let pid = lab.status().unwrap().pid;
    let refusal = lab.start_switch().unwrap_err().to_string();
    assert!(refusal.contains("runs already") && refusal.contains(&pid.to_string()), "{refusal}");
    assert_eq!(lab.status().unwrap().pid, pid);
}

#[test]
fn a_killed_switch_leaves_pods_attached_and_the_next_one_takes_them_up() {
    let lab = Lab::new("adopt");
    let (web, db) = (lab.pod("shop", "web", &[]), lab.pod("shop", "db", &[]));
    db.listen_tcp(5432);
    let mut connection = web.open_connection(db.v4(), 5432, LONG).unwrap();
    assert_eq!(connection.echo(LONG), Reached);
    let pid = i32::try_from(lab.status().unwrap().pid).unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
    // Closed to new flows while nobody is there.
    assert_ne!(web.connect(db.v4(), 5432), Reached);
    lab.start_switch().unwrap();
    assert_eq!(connection.echo(LONG), Reached, "the connection lives on");
    assert_eq!(web.connect_within(db.v6(), 5432, LONG), Reached);
    assert_eq!(lab.ports().unwrap().iter().filter(|port| port.pod.is_some()).count(), 2);
    lab.assert_frames_conserved();
}

#[test]
fn a_hundred_pods_are_attached_quickly_with_the_memory_of_one() {
    // What is promised is promised of optimised programs; of others, on a machine that compiles beside them, only the end.
    let promise = Duration::from_millis(if cfg!(debug_assertions) { 10_000 } else { 100 });
    let lab = Lab::new("many");
    let umem = |lab: &Lab| lab.status().unwrap().workers.iter().map(|worker| worker.umem_bytes).sum::<u64>();
    for n in 0..100 {
        lab.declare_pod("shop", &format!("pod-{n}"), &[]).unwrap();
    }
    lab.settled().unwrap();
    let first = lab.attach("shop", "pod-0").unwrap();
    first.listen_tcp(80);
    let memory_of_one = umem(&lab);
    let pods: Vec<Pod> = (1..100).map(|n| lab.attach("shop", &format!("pod-{n}")).unwrap()).collect();
    let mut times: Vec<Duration> = pods.iter().map(|pod| pod.attach_time()).collect();
    times.sort();
    // Of 99: all but the last.
    let (p50, p99) = (times[49], times[97]);
    let process = std::fs::read_to_string(format!("/proc/{}/status", lab.status().unwrap().pid)).unwrap();
    let resident = process.lines().find(|line| line.starts_with("VmRSS")).unwrap_or("VmRSS unknown");
    eprintln!("attach p50 {p50:?}, p99 {p99:?}; packet memory {memory_of_one} bytes; {resident}");
    assert!(p99 <= promise, "attach p50 {p50:?}, p99 {p99:?}");
    assert_eq!(umem(&lab), memory_of_one);
    for pod in pods.iter().step_by(10) {
        assert_eq!(pod.connect_within(first.v4(), 80, LONG), Reached, "{}", pod.name());
        assert_eq!(pod.connect_within(first.v6(), 80, LONG), Reached, "{}", pod.name());
    }
    lab.assert_frames_conserved();
}
