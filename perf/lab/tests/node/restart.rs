//! Stopping is not removing: what lives on while the switch is down, and what does not come to life.

use crate::common::{LONG, TCP, UDP, both, kill_switch, shop, udp_socket, until, workers};
use nix::sys::signal::Signal;
use penstock_lab::Outcome::{Reached, TimedOut};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// `db` may be reached by `web` over TCP, and over nothing else.
const ONLY_TCP: &str = "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {namespace: shop, name: db}, \
     spec: {podSelector: {matchLabels: {app: db}}, policyTypes: [Ingress], \
            ingress: [{from: [{podSelector: {matchLabels: {app: web}}}], \
                       ports: [{protocol: TCP, port: 5432}, {protocol: TCP, port: 5001}]}]}}";

fn a_restart_cuts_nothing_and_opens_nothing(signal: Signal, count: u8) {
    let (lab, web, db) = shop("again", workers(count));
    lab.apply("db", ONLY_TCP);
    let mut connections =
        both(&db).map(|to| web.open_connection(to, TCP, LONG).unwrap_or_else(|why| panic!("{to}: {why}")));
    for connection in &mut connections {
        assert_eq!(connection.echo(LONG), Reached);
    }
    let refused = db.watch("eth0", |frame| frame.ends_with(b"refused"));
    let (over, sent) = (AtomicBool::new(false), AtomicU64::new(0));
    let sockets = both(&db).map(|to| udp_socket(&web, to, UDP));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                for socket in &sockets {
                    sent.fetch_add(u64::from(socket.send(b"refused").is_ok()), Ordering::Relaxed);
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        // Whatever fails in here, the sender must end.
        let _over = crate::common::AtEnd(|| over.store(true, Ordering::Relaxed));
        let transfer = web.start_transfer(&db, db.v4(), 5001, Duration::from_secs(4)).unwrap();
        until("the transfer runs", || transfer.bytes() > 500_000);

        kill_switch(&lab, signal);
        for to in both(&db) {
            assert_eq!(web.connect(to, TCP), TimedOut, "{to}: a new flow while there is no switch");
        }
        let while_down = transfer.bytes();
        lab.start_switch_only().unwrap();
        let status = lab.status().unwrap();
        assert_eq!((status.subscribers, status.endpoints, status.endpoints_ready), (0, 2, 2));
        assert!(status.generation.0 > 0, "policy comes from disk");

        for connection in &mut connections {
            assert_eq!(connection.echo(LONG), Reached, "the same connection goes on");
        }
        for to in both(&db) {
            assert_eq!(web.connect_within(to, TCP, LONG), Reached, "{to}: a new flow that policy allows");
            assert_eq!(web.ping(to), TimedOut, "{to}: and nothing else");
        }
        let done = transfer.finish().unwrap();
        assert!(done.bytes > while_down + 500_000, "the transfer goes on: {while_down}, then {done:?}");
        // Now the control plane, beside the running switch.
        lab.penstock(&["up", "--objects", &lab.objects_dir().display().to_string()]).unwrap();
    });
    assert!(sent.load(Ordering::Relaxed) > 200, "hardly anything was sent, which proves nothing");
    assert_eq!(refused.count(), 0, "refused frames passed");
    lab.remove("db");
    sockets[0].send(b"refused").unwrap();
    until("the watch sees a frame that may pass", || refused.count() > 0);
    lab.assert_frames_conserved();
}

#[test]
fn after_sigterm_connections_go_on_and_what_was_refused_stays_refused() {
    a_restart_cuts_nothing_and_opens_nothing(Signal::SIGTERM, 1);
}

#[test]
fn after_sigkill_connections_go_on_and_what_was_refused_stays_refused() {
    a_restart_cuts_nothing_and_opens_nothing(Signal::SIGKILL, 2);
}

#[test]
fn connections_outlive_a_change_of_the_number_of_workers() {
    let (lab, web, db) = shop("cores", workers(2));
    let mut connections: Vec<_> =
        (0..16).map(|n| web.open_connection(both(&db)[n % 2], TCP, LONG).unwrap()).collect();
    kill_switch(&lab, Signal::SIGTERM);
    lab.penstock(&["up", "--switch-only", "--workers", "1"]).unwrap();
    assert_eq!(lab.status().unwrap().workers.len(), 1);
    for connection in &mut connections {
        assert_eq!(connection.echo(LONG), Reached);
    }
    lab.assert_frames_conserved();
    kill_switch(&lab, Signal::SIGKILL);
    lab.penstock(&["up", "--switch-only", "--workers", "2"]).unwrap();
    for connection in &mut connections {
        assert_eq!(connection.echo(LONG), Reached);
    }
    lab.assert_frames_conserved();
}

#[test]
fn a_pod_can_be_deleted_while_there_is_no_switch_and_is_not_adopted() {
    let (lab, web, db) = shop("gone", workers(1));
    kill_switch(&lab, Signal::SIGKILL);
    let address = db.v4();
    lab.detach(db).unwrap();
    lab.start_switch().unwrap();
    let ports = lab.ports().unwrap();
    assert!(ports.iter().all(|port| port.pod.as_ref().is_none_or(|pod| pod.name != "db")), "{ports:#?}");
    assert_ne!(web.connect(address, TCP), Reached);
    let db = lab.pod("shop", "db", &[("app", "db")]);
    db.listen_tcp(TCP);
    assert_eq!(web.connect_within(db.v4(), TCP, LONG), Reached);
    lab.assert_frames_conserved();
}
