//! The server over its socket, on a kernel double and workers that only acknowledge.

use super::testing::*;
use super::{InstanceLock, lock};
use crate::config::{Config, DirectPort};
use penstock_api::message::*;
use penstock_api::{Artefact, DropReason, EndpointId, Generation, PortId, wire};
use rand::{RngExt, SeedableRng};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

#[test]
fn attach_answers_when_policy_for_the_pod_is_in_force_on_every_worker() {
    let bench = Bench::new();
    let mut control_plane = bench.subscribe();
    bench.machine(|machine| machine.host_ends.insert("pt1".into()));
    let mut plugin = bench.connect();
    plugin.send(&Request::Attach { port: port(1), wait_ms: 10_000 });
    assert_eq!(control_plane.event(), Event::Attached { endpoint: EndpointId(1), port: port(1) });
    let isolated = bench.snapshot();
    assert!(!isolated.port(PortId(1)).unwrap().ready, "no policy yet, no traffic");

    assert!(matches!(bench.install(artefact(1, &[1])), Response::Installed { .. }));
    let attached = plugin.receive();
    assert_eq!(
        attached,
        Response::Attached { port: PortId(1), endpoint: EndpointId(1), gateway_mac: gateway::MAC }
    );
    assert!(bench.snapshot().port(PortId(1)).unwrap().ready);
    assert_eq!(bench.machine(|machine| machine.attached.clone()), [("pt1".to_owned(), PortId(1))].into());
}

#[test]
fn an_attach_is_not_answered_while_one_worker_lacks_the_policy() {
    let bench = Bench::new();
    bench.machine(|machine| machine.host_ends.insert("pt1".into()));
    let mut plugin = bench.connect();
    plugin.send(&Request::Attach { port: port(1), wait_ms: 60_000 });
    eventually("it is attached", || bench.pod_ports().len() == 1);
    bench.workers[1].stuck.store(true, Ordering::Relaxed);
    let (code, _) = error(bench.install(artefact(1, &[1])));
    assert_eq!(code, ErrorCode::NotReady);
    assert!(bench.pod_ports()[0].ready, "the other worker would let it through");
    plugin.0.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    assert!(plugin.0.read(&mut [0]).is_err(), "it was answered");
    bench.workers[1].stuck.store(false, Ordering::Relaxed);
    plugin.0.set_read_timeout(None).unwrap();
    assert!(is_attached(&plugin.receive()));
}

#[test]
fn without_policy_in_time_the_attach_is_undone_and_says_what_was_missing() {
    let bench = Bench::new();
    let (code, text) = error(bench.attach(&port(1)));
    assert_eq!(code, ErrorCode::NotReady);
    assert!(text.contains("within 100 ms: no control plane is connected"), "{text}");

    let mut control_plane = bench.subscribe();
    bench.install(artefact(1, &[2]));
    let (_, text) = error(bench.attach(&port(1)));
    assert!(text.contains("pod default/pod1 is not in generation 1"), "{text}");
    assert!(matches!(control_plane.event(), Event::Attached { .. }));
    assert_eq!(control_plane.event(), Event::Detached { endpoint: EndpointId(2), pod: port(1).pod });

    let mut moved = artefact(2, &[1]);
    moved.pods[0].addresses = vec!["10.244.0.99".parse().unwrap()];
    bench.install(moved);
    let (_, text) = error(bench.attach(&port(1)));
    assert!(text.contains("with addresses 10.244.0.99, not with 10.244.0.1, fd00:10:244::1"), "{text}");

    assert!(bench.pod_ports().is_empty());
    assert!(bench.machine(|machine| machine.attached.is_empty()));
    eventually("workers forget", || lock(&bench.workers[0].seen).forgotten == [1, 2, 3].map(EndpointId));
}

#[test]
fn while_one_attach_waits_everybody_else_is_served() {
    let bench = Bench::new();
    bench.install(artefact(1, &[2]));
    bench.machine(|machine| machine.host_ends.insert("pt1".into()));
    let mut waiting = bench.connect();
    waiting.send(&Request::Attach { port: port(1), wait_ms: 5_000 });
    eventually("the first is attached", || bench.pod_ports().len() == 1);
    let begun = Instant::now();
    assert!(is_attached(&bench.attach(&port(2))));
    assert!(begun.elapsed() < Duration::from_secs(2));
    bench.install(artefact(2, &[1, 2]));
    assert!(is_attached(&waiting.receive()));
}

#[test]
fn two_hundred_pods_attach_at_once() {
    let bench = Bench::new();
    let everybody: Vec<u8> = (1..=200).collect();
    bench.install(artefact(1, &everybody));
    bench.machine(|machine| machine.host_ends.extend(everybody.iter().map(|&n| port(n).host_end)));
    std::thread::scope(|scope| {
        for &n in &everybody {
            let bench = &bench;
            scope.spawn(move || {
                let answer = bench.ask(&Request::Attach { port: port(n), wait_ms: 10_000 });
                assert!(is_attached(&answer), "{answer:?}");
            });
        }
    });
    let endpoints: std::collections::BTreeSet<_> = bench.pod_ports().iter().map(|p| p.endpoint).collect();
    assert_eq!((endpoints.len(), bench.status().endpoints_ready), (200, 200));
    assert_eq!(bench.machine(|machine| machine.attached.len()), 200);
}

#[test]
fn a_detach_ends_the_attach_that_waits() {
    let bench = Bench::new();
    bench.machine(|machine| machine.host_ends.insert("pt1".into()));
    let mut waiting = bench.connect();
    waiting.send(&Request::Attach { port: port(1), wait_ms: 60_000 });
    eventually("it is attached", || bench.pod_ports().len() == 1);
    bench.ask(&Request::Detach { container_id: "c1".into(), interface: "eth0".into() });
    let (_, text) = error(waiting.receive());
    assert!(text.contains("was detached while it was being attached"), "{text}");
}

#[test]
fn the_same_attach_again_has_the_same_answer_and_another_is_a_conflict() {
    let bench = Bench::new();
    bench.install(artefact(1, &[1, 2]));
    let first = bench.attach(&port(1));
    assert_eq!(bench.attach(&port(1)), first);
    assert_eq!(bench.pod_ports().len(), 1);

    let (code, text) = error(bench.attach(&PodPort { mtu: 1400, ..port(1) }));
    assert_eq!(code, ErrorCode::Conflict);
    assert!(text.contains("mtu 1500 (not 1400); detach it first"), "{text}");
    let (code, text) = error(bench.attach(&PodPort { addresses: port(1).addresses, ..port(2) }));
    assert_eq!(code, ErrorCode::Conflict);
    assert!(text.contains("10.244.0.1 is in use by default/pod1"), "{text}");
    let (code, text) = error(bench.attach(&PodPort { mtu: 9000, ..port(2) }));
    assert_eq!(code, ErrorCode::Invalid);
    assert!(text.contains("above 1500"), "{text}");
}

#[test]
fn detach_removes_everything_and_succeeds_without_anything() {
    let bench = Bench::new();
    bench.install(artefact(1, &[1]));
    bench.attach(&port(1));
    let mut control_plane = bench.subscribe();
    let detach = Request::Detach { container_id: "c1".into(), interface: "eth0".into() };
    assert_eq!(bench.ask(&detach), Response::Done);
    assert_eq!(control_plane.event(), Event::Detached { endpoint: EndpointId(1), pod: port(1).pod });
    assert!(bench.snapshot().port(PortId(1)).is_none());
    eventually("flows are forgotten", || lock(&bench.workers[1].seen).forgotten == [EndpointId(1)]);
    assert!(bench.machine(|machine| machine.attached.is_empty()));
    assert_eq!(bench.ask(&detach), Response::Done);
}

#[test]
fn what_the_kernel_refuses_to_attach_is_undone_whole() {
    let mut bench = Bench::new();
    bench.install(artefact(1, &[1]));
    bench.machine(|machine| machine.refuse_attach = Some("pt1: no such device".into()));
    let (code, text) = error(bench.attach(&port(1)));
    assert_eq!((code, text.as_str()), (ErrorCode::Kernel, "pt1: no such device"));
    assert!(bench.pod_ports().is_empty());
    assert_eq!(bench.machine(|machine| machine.calls.clone()), ["attach pt1", "detach pt1"]);
    bench.machine(|machine| machine.refuse_attach = None);
    bench.start().unwrap();
    assert!(bench.pod_ports().is_empty(), "nothing was left on disk");
}

#[test]
fn what_the_kernel_refuses_to_detach_is_out_of_force_and_tried_again() {
    let bench = Bench::new();
    bench.install(artefact(1, &[1]));
    bench.attach(&port(1));
    bench.machine(|machine| machine.refuse_detach = Some("busy".into()));
    let detach = Request::Detach { container_id: "c1".into(), interface: "eth0".into() };
    assert_eq!(bench.ask(&detach), Response::Done);
    assert!(bench.snapshot().port(PortId(1)).is_none(), "nothing is forwarded for it");
    assert!(bench.status().notes.iter().any(|note| note.contains("the kernel keeps it: port 1")));
    bench.machine(|machine| machine.refuse_detach = None);
    eventually("it is tried again", || !bench.status().notes.iter().any(|n| n.contains("keeps it")));
    assert!(bench.machine(|machine| machine.attached.is_empty()));
}

#[test]
fn a_host_end_the_kernel_keeps_cannot_be_attached_anew_yet() {
    let bench = Bench::new();
    bench.install(artefact(1, &[1]));
    bench.attach(&port(1));
    bench.machine(|machine| machine.refuse_detach = Some("busy".into()));
    bench.ask(&Request::Detach { container_id: "c1".into(), interface: "eth0".into() });
    let again = PodPort { container_id: "c2".into(), ..port(1) };
    let (code, text) = error(bench.attach(&again));
    assert_eq!(code, ErrorCode::Kernel);
    assert!(text.contains("pt1 is still being detached from port 1"), "{text}");
    bench.machine(|machine| machine.refuse_detach = None);
    assert!(is_attached(&bench.attach(&again)), "tried again at once, not only every second");
}

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
fn a_port_that_cannot_be_recorded_is_not_attached() {
    let bench = Bench::new();
    bench.install(artefact(1, &[1]));
    let blocked = bench.paths().state_dir.join("ports.json.new");
    std::fs::create_dir(&blocked).unwrap();
    let (_, text) = error(bench.attach(&port(1)));
    assert!(text.contains("nothing was attached") && text.contains("ports.json"), "{text}");
    assert!(bench.machine(|machine| machine.calls.is_empty()));
    std::fs::remove_dir(&blocked).unwrap();
    assert!(is_attached(&bench.attach(&port(1))));
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

#[test]
fn a_worker_that_makes_no_rounds_is_named_in_the_status() {
    let mut bench = Bench::new();
    assert!(bench.status().notes.iter().all(|note| !note.contains("does nothing")));
    bench.workers[1].end();
    eventually("it is noticed", || {
        bench.status().notes.iter().any(|note| note.contains("worker 1 does nothing at all"))
    });
}

#[test]
fn a_second_switch_of_the_instance_is_refused() {
    let bench = Bench::new();
    let refused = InstanceLock::take(&bench.paths()).unwrap_err().to_string();
    assert!(refused.contains("another switch of this instance is running"), "{refused}");
}

#[test]
fn the_socket_is_the_owners_alone() {
    let bench = Bench::new();
    let mode = std::fs::metadata(bench.paths().control_socket()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
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
fn a_subscriber_is_told_what_there_is_and_then_what_changes() {
    let bench = Bench::new();
    bench.install(artefact(1, &[1]));
    bench.attach(&port(1));
    let mut control_plane = bench.connect();
    assert_eq!(control_plane.ask(&Request::Subscribe), Response::Subscribed);
    assert_eq!(control_plane.event(), Event::Attached { endpoint: EndpointId(1), port: port(1) });
    assert_eq!(
        control_plane.event(),
        Event::Synced {
            host_addresses: vec!["192.0.2.7".parse().unwrap()],
            pod_ranges: Config::default().pod_ranges
        }
    );
    eventually("it is counted", || bench.status().subscribers == 1);
    lock(&bench.host_addresses).push("192.0.2.8".parse().unwrap());
    let both = vec!["192.0.2.7".parse().unwrap(), "192.0.2.8".parse().unwrap()];
    assert_eq!(control_plane.event(), Event::HostAddresses { host_addresses: both.clone() });
    assert_eq!(bench.snapshot().host_addresses, both);
    drop(control_plane);
    eventually("it is gone", || bench.status().subscribers == 0);
}

#[test]
fn a_subscriber_that_does_not_read_is_disconnected_and_holds_nobody_up() {
    let bench = Bench::new();
    let mut slow = bench.connect();
    assert_eq!(slow.ask(&Request::Subscribe), Response::Subscribed);
    eventually("it is counted", || bench.status().subscribers == 1);
    let shared = bench.server.as_ref().unwrap().shared.clone();
    let event = Event::Detached { endpoint: EndpointId(1), pod: port(1).pod };
    // More than its queue and the socket's buffer hold.
    let begun = Instant::now();
    for _ in 0..20_000 {
        shared.subscribers.tell(&event);
    }
    assert!(begun.elapsed() < Duration::from_secs(5), "telling waited");
    eventually("it was given up", || bench.status().subscribers == 0);
    let mut rest = Vec::new();
    slow.0.read_to_end(&mut rest).unwrap();
}

#[test]
fn status_says_what_is_not_as_it_could_be() {
    let bench = Bench::new();
    let status = bench.status();
    assert!(status.notes.iter().any(|note| note.contains("no policy was ever installed")));
    bench.install(artefact(3, &[1]));
    bench.attach(&port(1));
    let status = bench.status();
    assert!(status.notes.iter().any(|note| note.contains("no control plane is connected: generation 3")));
    let _control_plane = bench.subscribe();
    let status = bench.status();
    assert!(status.notes.is_empty(), "{:?}", status.notes);
    assert_eq!((status.endpoints, status.endpoints_ready, status.workers.len()), (1, 1, 2));
    assert_eq!((status.host_interface.as_str(), status.pid), ("penstock0", std::process::id()));
    assert!(status.workers.iter().all(|worker| worker.generation == Generation(3)));
}

#[test]
fn drops_are_counted_by_port_and_reason_and_put_into_words() {
    let bench = Bench::new();
    bench.install(artefact(1, &[1, 2]));
    bench.attach(&port(1));
    bench.attach(&port(2));
    for worker in &bench.workers {
        worker.counters.drop_frame(PortId(1), DropReason::PolicyIngress);
    }
    bench.machine(|machine| machine.drops = vec![(Some(PortId(1)), DropReason::Budget, 5)]);
    bench.workers[0].mailbox.drop_events.push(sample(PortId(1), PortId(2))).unwrap();
    let answer = || match bench.ask(&Request::Drops) {
        Response::Drops { drops, recent } => (drops, recent),
        other => panic!("{other:?}"),
    };
    eventually("the sample is there", || !answer().1.is_empty());
    let (drops, recent) = answer();
    let pod = Some(port(1).pod);
    assert_eq!(
        drops,
        [(DropReason::PolicyIngress, 2), (DropReason::Budget, 5)].map(|(reason, frames)| DropCount {
            reason,
            port: Some(PortId(1)),
            pod: pod.clone(),
            frames
        })
    );
    assert_eq!(recent[0].endpoint, Some(port(2).pod), "whose policy it was");
    assert_eq!(recent[0].policies, ["NetworkPolicy default/deny"]);
    assert_eq!(bench.pod_ports()[0].drops, 7);
}

#[test]
fn flows_of_all_workers_come_with_the_names_of_their_pods_most_recent_first() {
    let bench = Bench::new();
    bench.install(artefact(1, &[1]));
    bench.attach(&port(1));
    match bench.ask(&Request::Flows { limit: 10 }) {
        Response::Flows { flows, total } => {
            assert_eq!((flows.len(), total), (2, 2));
            assert!(flows[0].idle_ms < flows[1].idle_ms);
            assert_eq!((&flows[0].source_pod, &flows[0].destination_pod), (&Some(port(1).pod), &None));
        }
        other => panic!("{other:?}"),
    }
    bench.workers[1].stuck.store(true, Ordering::Relaxed);
    let (_, text) = error(bench.ask(&Request::Flows { limit: 10 }));
    assert!(text.contains("worker 1 does not answer"), "{text}");
}

#[test]
fn a_capture_streams_until_the_client_closes_and_there_is_one_at_a_time() {
    let bench = Bench::new();
    let mut client = bench.connect();
    assert_eq!(client.ask(&Request::Capture { port: None, snap_len: 64 }), Response::Capturing);
    let (_, text) = error(bench.ask(&Request::Capture { port: None, snap_len: 64 }));
    assert!(text.contains("another capture is running"), "{text}");
    let (code, _) = error(bench.ask(&Request::Capture { port: Some(PortId(9)), snap_len: 64 }));
    assert_eq!(code, ErrorCode::NotFound);

    let seen = &bench.workers[0].seen;
    eventually("workers capture", || lock(seen).capture.is_some());
    let frame = CapturedFrame {
        time_ns: 1,
        port: PortId(1),
        inbound: true,
        verdict: "forwarded".into(),
        len: 3,
        bytes: vec![1, 2, 3],
    };
    lock(seen).capture.as_ref().unwrap().frames.push(frame.clone()).unwrap();
    assert_eq!(wire::receive::<CapturedFrame>(&mut client.0).unwrap(), frame);
    drop(client);
    eventually("workers stop capturing", || lock(seen).capture.is_none());
}

#[test]
fn check_names_what_is_wrong() {
    let bench = Bench::new();
    bench.install(artefact(1, &[1]));
    let (code, _) = error(bench.ask(&Request::Check { port: port(1) }));
    assert_eq!(code, ErrorCode::NotFound);
    bench.attach(&port(1));
    assert_eq!(bench.ask(&Request::Check { port: port(1) }), Response::Done);
    let (code, _) = error(bench.ask(&Request::Check { port: PodPort { mtu: 1400, ..port(1) } }));
    assert_eq!(code, ErrorCode::Conflict);
    bench.machine(|machine| machine.attached.clear());
    let (code, text) = error(bench.ask(&Request::Check { port: port(1) }));
    assert_eq!((code, text.as_str()), (ErrorCode::Kernel, "the program on pt1 is gone"));
}

#[test]
fn a_direct_port_is_there_from_the_start_and_waits_for_policy_like_any_other() {
    let direct = DirectPort {
        interface: "ve0".into(),
        queue: 0,
        mode: Default::default(),
        addresses: port(9).addresses,
        mac: port(9).mac,
        pod: port(9).pod,
    };
    let bench = Bench::with(Config { direct: vec![direct], ..Config::default() });
    let ready = || bench.ports().iter().find(|p| p.kind == "direct").map(|p| p.ready);
    assert_eq!(ready(), Some(false));
    bench.install(artefact(1, &[9]));
    assert_eq!(ready(), Some(true));
    let (_, text) = error(bench.attach(&PodPort { addresses: port(9).addresses, ..port(1) }));
    assert!(text.contains("(direct port 1, interface ve0)"), "{text}");
}

#[test]
fn hello_tells_protocol_and_version_and_refuses_another() {
    let bench = Bench::new();
    assert!(matches!(bench.ask(&Request::Hello { protocol: PROTOCOL }), Response::Hello { .. }));
    let (_, text) = error(bench.ask(&Request::Hello { protocol: 99 }));
    assert!(text.contains("speaks protocol 1, not 99"), "{text}");
}

#[test]
fn whatever_bytes_arrive_the_switch_answers_the_next_client() {
    let bench = Bench::new();
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut random = rand::rngs::SmallRng::seed_from_u64(seed);
    let mut whole = Vec::new();
    wire::send(&mut whole, &Request::Attach { port: port(1), wait_ms: 0 }).unwrap();
    for _ in 0..200 {
        let mut bytes = whole.clone();
        for _ in 0..random.random_range(1..8) {
            let at = random.random_range(0..bytes.len());
            match random.random_range(0..3) {
                0 => bytes[at] = random.random(),
                1 => bytes.truncate(at.max(1)),
                _ => bytes.insert(at, random.random()),
            }
        }
        let mut client = bench.connect();
        // It may hang up on us in the middle.
        let _ = client.0.write_all(&bytes);
        let _ = client.0.shutdown(std::net::Shutdown::Write);
        let _ = client.0.read_to_end(&mut Vec::new());
    }
    assert!(matches!(bench.ask(&Request::Hello { protocol: PROTOCOL }), Response::Hello { .. }));
    assert!(bench.pod_ports().is_empty());
}

#[test]
fn a_malformed_request_is_told_so_and_the_connection_closed() {
    let bench = Bench::new();
    for body in [
        &b"{}"[..],
        b"{\"request\":\"reboot\"}",
        br#"{"request":"hello","protocol":1,"extra":1}"#,
        b"\xff\xfe",
        b"",
    ] {
        let mut client = bench.connect();
        client.0.write_all(&(body.len() as u32).to_be_bytes()).unwrap();
        client.0.write_all(body).unwrap();
        let (code, text) = error(client.receive());
        assert_eq!(code, ErrorCode::Invalid, "{text}");
        assert_eq!(client.0.read(&mut [0]).unwrap(), 0, "closed after {body:?}");
    }
    let mut client = bench.connect();
    client.0.write_all(&u32::MAX.to_be_bytes()).unwrap();
    let (_, text) = error(client.receive());
    assert!(text.contains("exceeds the limit"), "{text}");
}

#[test]
fn a_half_sent_request_is_given_up_after_a_while() {
    let bench = Bench::new();
    let mut client = bench.connect();
    client.0.write_all(&[0, 0]).unwrap();
    let begun = Instant::now();
    assert_eq!(client.0.read(&mut [0]).unwrap(), 0, "it was closed");
    assert!((Duration::from_secs(3)..Duration::from_secs(15)).contains(&begun.elapsed()));
}

#[test]
fn clients_beyond_the_limit_are_told_to_come_again() {
    let bench = Bench::new();
    let _crowd: Vec<_> = (0..256).map(|_| bench.connect()).collect();
    let mut one_more = bench.connect();
    let (code, text) = error(one_more.receive());
    assert_eq!(code, ErrorCode::NotReady);
    assert!(text.contains("256 clients are connected"), "{text}");
}
