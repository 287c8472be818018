//! Frames that land on the wrong worker: fragments, which carry no ports, and ICMP errors, which come from elsewhere.

use crate::common::{LONG, both, shop, workers};
use penstock_lab::Outcome::{Reached, Refused};

fn pieces_and_errors_arrive(count: u8) {
    let (lab, web, db) = shop("steer", workers(count));
    for to in both(&db) {
        // The ports of a server that was stopped are not free at once.
        let first = if to.is_ipv4() { 7000 } else { 8000 };
        for n in 0..8 {
            let port = first + n;
            db.listen_udp(port);
            assert_eq!(web.udp_echo(to, port, 65_000, LONG), Reached, "64 KB to port {port} of {to}");
            assert_eq!(web.udp_echo(to, port, 3_000, LONG), Reached, "three pieces to port {port} of {to}");
        }
        assert_eq!(web.ping_with(to, 20_000, LONG), Reached, "{to}");
        db.stop_listening();
        for n in 0..8 {
            // The answer is an ICMP error about a flow whose owner another hash chose.
            let port = first + 100 + n;
            assert_eq!(web.udp_echo(to, port, 100, LONG), Refused, "port {port} of {to}");
            assert_eq!(web.udp_echo(to, port, 4_000, LONG), Refused, "in pieces, port {port} of {to}");
        }
    }
    if count > 1 {
        let status = lab.status().unwrap();
        let handed: u64 = status.workers.iter().map(|worker| worker.handed_over).sum();
        assert!(handed > 0, "nothing landed on the wrong worker, which proves nothing");
        assert!(status.workers.iter().all(|worker| worker.rx_frames > 0), "one worker saw nothing");
    }
    lab.assert_frames_conserved();
}

#[test]
fn fragments_and_icmp_errors_find_their_flow_on_one_worker() {
    pieces_and_errors_arrive(1);
}

#[test]
fn fragments_and_icmp_errors_find_their_flow_on_two_workers() {
    pieces_and_errors_arrive(2);
}
