//! Attaching, detaching, checking: what must be true before the answer, and what is undone.

use crate::server::lock;
use crate::server::testing::*;
use penstock_api::message::*;
use penstock_api::{EndpointId, PortId};
use std::io::Read;
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
fn a_pod_that_vanished_without_a_word_gives_way_and_one_that_did_not_does_not() {
    let bench = Bench::new();
    bench.install(artefact(1, &[1, 2]));
    bench.attach(&port(1));
    // The next pod was given the same addresses, since the plugin knows that they are free again.
    let next = PodPort { addresses: port(1).addresses, pod: port(1).pod, ..port(2) };
    assert_eq!(error(bench.attach(&next)).0, ErrorCode::Conflict);
    bench.machine(|machine| {
        machine.host_ends.remove("pt1");
        machine.answers_nothing = true;
    });
    assert_eq!(error(bench.attach(&next)).0, ErrorCode::Conflict, "not known is not gone");
    bench.machine(|machine| machine.answers_nothing = false);
    let mut control_plane = bench.subscribe();
    assert!(is_attached(&bench.attach(&next)));
    assert_eq!(control_plane.event(), Event::Detached { endpoint: EndpointId(1), pod: port(1).pod });
    assert_eq!(bench.pod_ports().len(), 1);
}

#[test]
fn an_attach_that_is_repeated_mends_what_the_kernel_lost() {
    let bench = Bench::new();
    bench.install(artefact(1, &[1]));
    let first = bench.attach(&port(1));
    bench.machine(|machine| machine.attached.clear());
    assert_eq!(bench.attach(&port(1)), first);
    assert_eq!(bench.machine(|machine| machine.attached.len()), 1);
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
