//! Pods on a real switch: every protocol, every direction, one worker and two. Needs root.

use penstock_api::DropReason;
use penstock_lab::Outcome::{Reached, Refused, TimedOut, Unreachable};
use penstock_lab::{Lab, LabOptions, Pod, scaled};
use std::net::IpAddr;
use std::time::Duration;

const LONG: Duration = Duration::from_secs(3);
const DENY_ALL: &str = "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {namespace: shop, name: deny}, \
                        spec: {podSelector: {}, policyTypes: [Ingress]}}";

fn shop(workers: u8) -> (Lab, Pod, Pod) {
    let lab = Lab::with("shop", LabOptions { workers: Some(workers), ..LabOptions::default() });
    let web = lab.pod("shop", "web", &[("app", "web")]);
    let db = lab.pod("shop", "db", &[("app", "db")]);
    db.listen_tcp(5432);
    db.listen_udp(53);
    (lab, web, db)
}

fn every_protocol_arrives(workers: u8) {
    let (lab, web, db) = shop(workers);
    for to in [IpAddr::from(db.v4()), db.v6().into()] {
        assert_eq!(web.connect_within(to, 5432, LONG), Reached, "{to}");
        assert_eq!(web.connect_within(to, 5433, LONG), Refused, "{to}");
        assert_eq!(web.udp_echo(to, 53, 512, LONG), Reached, "{to}");
        assert_eq!(web.ping_with(to, 56, LONG), Reached, "{to}");
        // Many flows, so that with two workers half of them land on the wrong one first.
        for n in 0..40 {
            assert_eq!(web.connect_within(to, 5432, LONG), Reached, "connection {n} to {to}");
        }
    }
    lab.assert_frames_conserved();
}

#[test]
fn tcp_udp_and_icmp_arrive_over_both_families_on_one_worker() {
    every_protocol_arrives(1);
}

#[test]
fn tcp_udp_and_icmp_arrive_over_both_families_on_two_workers() {
    every_protocol_arrives(2);
}

#[test]
fn a_datagram_of_64_kilobytes_arrives_in_pieces() {
    let (lab, web, db) = shop(2);
    for to in [IpAddr::from(db.v4()), db.v6().into()] {
        assert_eq!(web.udp_echo(to, 53, 65_000, LONG), Reached, "{to}");
    }
    lab.assert_frames_conserved();
}

#[test]
fn a_policy_silences_pods_and_its_removal_lets_them_speak_again() {
    let (lab, web, db) = shop(1);
    assert_eq!(web.connect_within(db.v4(), 5432, LONG), Reached);
    lab.apply("deny", DENY_ALL);
    for to in [IpAddr::from(db.v4()), db.v6().into()] {
        assert_eq!(web.connect(to, 5432), TimedOut, "{to}");
        assert_eq!(web.ping(to), TimedOut, "{to}");
        assert_eq!(lab.host().connect_within(to, 5432, LONG), Reached, "the node itself, {to}");
    }
    assert!(lab.drops(DropReason::PolicyIngress) > 0);
    lab.remove("deny");
    for to in [IpAddr::from(db.v4()), db.v6().into()] {
        assert_eq!(web.connect_within(to, 5432, LONG), Reached, "{to}");
    }
    lab.assert_frames_conserved();
}

#[test]
fn the_node_and_what_lies_behind_it_reach_pods_and_are_reached() {
    let (lab, web, db) = shop(1);
    for place in [lab.host(), lab.outside()] {
        place.listen_tcp(80);
        for (from_pod, to_pod) in
            [(IpAddr::from(place.v4()), IpAddr::from(db.v4())), (place.v6().into(), db.v6().into())]
        {
            assert_eq!(place.connect_within(to_pod, 5432, LONG), Reached, "{} to {to_pod}", place.name());
            assert_eq!(place.ping_with(to_pod, 56, LONG), Reached, "{} to {to_pod}", place.name());
            assert_eq!(web.connect_within(from_pod, 80, LONG), Reached, "pod to {}", place.name());
            assert_eq!(web.ping_with(from_pod, 56, LONG), Reached, "pod to {}", place.name());
        }
    }
}

#[test]
fn an_address_of_the_range_that_nobody_has_is_unreachable_at_once() {
    let (lab, web, _db) = shop(1);
    for range in lab.status().unwrap().pod_ranges {
        let nobody = range.hosts().nth(200).unwrap();
        for place in [&*web, lab.host()] {
            let outcome = place.connect_within(nobody, 80, LONG);
            assert!(matches!(outcome, Unreachable(_)), "{} to {nobody}: {outcome}", place.name());
        }
    }
}

#[test]
fn a_transfer_goes_on_while_the_pod_toggles_its_offloads() {
    let (lab, web, db) = shop(1);
    let transfer = web.start_transfer(&db, db.v4(), 5001, scaled(Duration::from_secs(2))).unwrap();
    for n in 0..10 {
        let on = n % 2 == 1;
        for feature in ["tx-checksum-ip-generic", "tx-tcp-segmentation", "tx-generic-segmentation"] {
            web.run(|| penstock_net::offload::set("eth0", feature, on)).unwrap();
        }
        std::thread::sleep(scaled(Duration::from_millis(150)));
    }
    let result = transfer.finish().unwrap();
    assert!(result.bytes > 10_000_000, "{result:?}");
    lab.assert_frames_conserved();
}

#[test]
fn a_pod_that_is_detached_is_gone_and_its_name_and_address_can_be_used_again() {
    let (lab, web, db) = shop(1);
    let old = db.v4();
    lab.detach(db).unwrap();
    assert_ne!(web.connect(old, 5432), Reached);
    let db = lab.pod("shop", "db", &[("app", "db")]);
    db.listen_tcp(5432);
    assert_eq!(web.connect_within(db.v4(), 5432, LONG), Reached);
}
