//! What is on disk, what a new process makes of it, and what stopping leaves.

use crate::config::{Config, DirectPort};
use crate::server::lock;
use crate::server::testing::*;
use penstock_api::message::*;
use penstock_api::{EndpointId, Generation, PortId};
use std::io::Read;

#[test]
fn a_pod_that_cannot_be_adopted_is_out_of_force_and_named() {
    let mut bench = Bench::new();
    bench.install(artefact(1, &[1]));
    bench.attach(&port(1));
    bench.stop();
    bench.machine(|machine| machine.refuse_attach = Some("pt1: the program was refused".into()));
    bench.start().unwrap();
    assert!(bench.pod_ports().is_empty());
    let notes = bench.status().notes;
    assert!(notes.iter().any(|note| note.contains("default/pod1 was not adopted")), "{notes:?}");
    assert_eq!(bench.machine(|machine| machine.calls.last().cloned()), Some("detach pt1".into()));
}

#[test]
fn a_restart_keeps_policy_ports_and_endpoint_ids() {
    let mut bench = Bench::new();
    bench.install(artefact(7, &[1, 2, 3]));
    for n in 1..=3 {
        assert!(is_attached(&bench.attach(&port(n))));
    }
    bench.ask(&Request::Detach { container_id: "c1".into(), interface: "eth0".into() });
    bench.stop();
    // While nobody was listening, a pod went away.
    bench.machine(|machine| machine.host_ends.remove("pt3"));
    bench.start().unwrap();

    let status = bench.status();
    assert_eq!((status.generation, status.endpoints, status.endpoints_ready), (Generation(7), 1, 1));
    let ports = bench.pod_ports();
    assert_eq!((ports[0].port, ports[0].endpoint), (PortId(2), EndpointId(2)));
    assert_eq!(bench.machine(|m| m.attached.keys().cloned().collect::<Vec<_>>()), ["pt2"]);
    assert!(is_attached(&bench.attach(&port(1))));
    assert_eq!(bench.pod_ports().last().unwrap().endpoint, EndpointId(4), "ids are never used again");
}

#[test]
fn a_worker_has_the_kept_policy_before_anybody_can_connect() {
    let mut bench = Bench::new();
    bench.install(artefact(7, &[1]));
    bench.attach(&port(1));
    bench.stop();
    bench.start().unwrap();
    // `start` returned: the socket is there. The first snapshot of the new process is the only one there was.
    let snapshot = bench.snapshot();
    assert_eq!((snapshot.serial, snapshot.generation()), (1, Generation(7)));
    assert!(snapshot.port(PortId(1)).unwrap().ready);
}

#[test]
fn damaged_files_isolate_everything_and_are_kept_for_a_look() {
    let mut bench = Bench::new();
    bench.install(artefact(7, &[1]));
    bench.attach(&port(1));
    bench.stop();
    for file in [bench.paths().ports(), bench.paths().artefact()] {
        let whole = std::fs::read(&file).unwrap();
        std::fs::write(&file, &whole[..whole.len() / 2]).unwrap();
    }
    bench.start().unwrap();
    let status = bench.status();
    assert_eq!((status.generation, status.endpoints), (Generation(0), 0));
    assert!(status.notes.iter().any(|note| note.contains("artefact.json is damaged")), "{:?}", status.notes);
    assert!(status.notes.iter().any(|note| note.contains("ports.json.damaged")), "{:?}", status.notes);
    assert!(bench.paths().state_dir.join("artefact.json.damaged").exists());
    // Flow tables may remember endpoint 1: whoever comes now must not be taken for it.
    bench.install(artefact(1, &[1]));
    assert!(is_attached(&bench.attach(&port(1))));
    assert!(bench.pod_ports()[0].endpoint > EndpointId(1000));
}

#[test]
fn a_full_disk_keeps_no_policy_from_taking_effect_and_is_told() {
    let bench = Bench::new();
    // The name of the new file is taken.
    let blocked = bench.paths().state_dir.join("artefact.json.new");
    std::fs::create_dir(&blocked).unwrap();
    assert!(matches!(bench.install(artefact(1, &[1])), Response::Installed { .. }));
    assert!(bench.status().notes.iter().any(|n| n.contains("generation 1 is in force but not on disk")));
    std::fs::remove_dir(&blocked).unwrap();
    eventually("it is tried again", || bench.paths().artefact().exists());
}

#[test]
fn stopping_tells_the_workers_and_leaves_everything_attached() {
    let mut bench = Bench::new();
    bench.install(artefact(1, &[1]));
    bench.attach(&port(1));
    let mut idle = bench.connect();
    bench.server.take().unwrap().stop();
    eventually("workers stop", || bench.workers.iter().all(|w| lock(&w.seen).stopped));
    assert_eq!(bench.machine(|machine| machine.attached.len()), 1);
    assert!(!bench.paths().control_socket().exists());
    assert_eq!(idle.0.read(&mut [0]).unwrap(), 0, "its connection is closed");
}

#[test]
fn a_direct_port_is_there_from_the_start_and_waits_for_policy_like_any_other() {
    let direct = DirectPort {
        interface: "ve0".into(),
        queue: 0,
        queues: 1,
        mode: Default::default(),
        addresses: port(9).addresses,
        mac: port(9).mac,
        pod: port(9).pod,
        mtu: None,
    };
    let bench = Bench::with(Config { direct: vec![direct], ..Config::default() });
    let ready = || bench.ports().iter().find(|p| p.kind == "direct").map(|p| p.ready);
    assert_eq!(ready(), Some(false));
    bench.install(artefact(1, &[9]));
    assert_eq!(ready(), Some(true));
    let (_, text) = error(bench.attach(&PodPort { addresses: port(9).addresses, ..port(1) }));
    assert!(text.contains("(direct port 1, interface ve0)"), "{text}");
}
