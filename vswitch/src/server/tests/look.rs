//! Requests that look, and those that listen.

use crate::config::Config;
use crate::server::lock;
use crate::server::testing::*;
use penstock_api::message::*;
use penstock_api::{Direction, DropReason, EndpointId, Generation, PortId, wire};
use std::io::Read;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

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
        Response::Drops { drops, recent, .. } => (drops, recent),
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
fn every_frame_policy_refused_is_counted_where_it_was_refused_and_with_the_policies_that_select() {
    let bench = Bench::new();
    bench.install(artefact(1, &[1, 2]));
    bench.attach(&port(1));
    bench.attach(&port(2));
    bench.workers[0].counters.port(PortId(2)).refused[Direction::Ingress as usize].add(3);
    bench.workers[1].counters.port(PortId(2)).refused[Direction::Ingress as usize].add(4);
    let refused = || match bench.ask(&Request::Drops) {
        Response::Drops { refused, .. } => refused,
        other => panic!("{other:?}"),
    };
    let expected = RefusedCount {
        endpoint: port(2).pod,
        direction: Direction::Ingress,
        policies: vec!["NetworkPolicy default/deny".into()],
        frames: 7,
    };
    assert_eq!(refused(), [expected]);
}

#[test]
fn the_artefact_in_force_is_told_as_it_was_installed() {
    let bench = Bench::new();
    let installed = artefact(3, &[1]);
    bench.install(installed.clone());
    assert_eq!(bench.ask(&Request::Artefact), Response::Artefact { artefact: Box::new(installed) });
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
