//! What policy refuses: nothing of it passes, and the operator is told whose policy it was.

use crate::common::{DENY_INGRESS, LONG, TCP, UDP, both, shop, udp_socket, until, workers};
use penstock_api::{Direction, DropReason};
use penstock_lab::Outcome::{Reached, TimedOut};
use penstock_lab::{Lab, LabOptions, Place, scaled};
use penstock_net::Netns;
use std::net::{IpAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

const DENY_EGRESS_OF_WEB: &str = "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {namespace: shop, name: silent}, \
     spec: {podSelector: {matchLabels: {app: web}}, policyTypes: [Egress]}}";

/// Refused flows of all protocols are among the recent drops with everything an operator asks for.
fn refused_flows_are_told(
    policy: &str,
    reason: DropReason,
    direction: Direction,
    endpoint: &str,
    name: &str,
) {
    let (lab, web, db) = shop("told", workers(1));
    lab.apply("policy", policy);
    let before = lab.drops(reason);
    for to in both(&db) {
        assert_eq!(web.connect(to, TCP), TimedOut, "{to}");
        assert_eq!(web.udp_echo(to, UDP, 10, scaled(Duration::from_millis(200))), TimedOut, "{to}");
        assert_eq!(web.ping(to), TimedOut, "{to}");
    }
    assert!(lab.drops(reason) >= before + 6);
    let recent = lab.recent_drops().unwrap();
    for to in both(&db) {
        let icmp = if to.is_ipv4() { 1 } else { 58 };
        for (protocol, port) in [(6, Some(TCP)), (17, Some(UDP)), (icmp, None)] {
            let told = recent.iter().find(|drop| {
                drop.reason == reason
                    && drop.destination == to
                    && drop.protocol == protocol
                    && port.is_none_or(|port| drop.destination_port == port)
            });
            let told = told.unwrap_or_else(|| panic!("no drop of {protocol} to {to}: {recent:#?}"));
            assert!(both(&web).contains(&told.source), "{told:?}");
            assert_eq!(told.policies, [format!("NetworkPolicy shop/{name}")], "{told:?}");
            assert_eq!(told.direction, Some(direction), "{told:?}");
            assert_eq!(told.endpoint.as_ref().map(|pod| pod.name.as_str()), Some(endpoint), "{told:?}");
        }
    }
    lab.assert_frames_conserved();
}

#[test]
fn flows_refused_by_the_receiver_are_told_with_reason_pod_and_policy() {
    refused_flows_are_told(DENY_INGRESS, DropReason::PolicyIngress, Direction::Ingress, "db", "deny");
}

#[test]
fn flows_refused_by_the_sender_are_told_with_reason_pod_and_policy() {
    refused_flows_are_told(DENY_EGRESS_OF_WEB, DropReason::PolicyEgress, Direction::Egress, "web", "silent");
}

/// Sends to `to` from a namespace as soon as there is one, as fast as errors allow, until told to stop.
fn send_from_the_first_moment(netns: &str, to: &[IpAddr], over: &AtomicBool) -> u64 {
    let netns = loop {
        match Netns::open(netns) {
            Ok(netns) => break netns,
            Err(_) if over.load(Ordering::Relaxed) => return 0,
            Err(_) => std::thread::sleep(Duration::from_micros(200)),
        }
    };
    let sockets: Vec<UdpSocket> = netns
        .run(|| {
            let any: [IpAddr; 2] = [[0u8; 4].into(), [0u16; 8].into()];
            any.map(|any| UdpSocket::bind((any, 0)).unwrap()).into()
        })
        .unwrap();
    let mut sent = 0;
    while !over.load(Ordering::Relaxed) {
        for to in to {
            let socket = &sockets[usize::from(to.is_ipv6())];
            // Without an interface there is no route, which is what the beginning is like.
            sent += u64::from(socket.send_to(b"first", (*to, UDP)).is_ok());
        }
        std::thread::sleep(Duration::from_micros(300));
    }
    sent
}

#[test]
fn not_one_frame_of_a_new_pod_arrives_under_a_policy_that_refuses_it() {
    let (lab, _web, db) = shop("first", workers(2));
    lab.apply("deny", DENY_INGRESS);
    let to = both(&db);
    let watch = db.watch("eth0", |frame| frame.ends_with(b"first"));
    for n in 0..3 {
        let name = format!("new-{n}");
        lab.declare_pod("shop", &name, &[("app", "new")]).unwrap();
        let (over, sent) = (AtomicBool::new(false), AtomicU64::new(0));
        let netns = lab.netns_of("shop", &name);
        let pod = std::thread::scope(|scope| {
            let sending =
                scope.spawn(|| sent.store(send_from_the_first_moment(&netns, &to, &over), Ordering::Relaxed));
            let pod = lab.attach("shop", &name);
            std::thread::sleep(Duration::from_millis(100));
            over.store(true, Ordering::Relaxed);
            sending.join().unwrap();
            pod.unwrap()
        });
        assert!(sent.load(Ordering::Relaxed) > 20, "nothing was sent, which proves nothing");
        assert!(lab.drops(DropReason::PolicyIngress) > 0);
        assert_eq!(pod.connect(db.v4(), TCP), TimedOut);
    }
    assert_eq!(watch.count(), 0);
    // The watch sees what is let through.
    lab.remove("deny");
    udp_socket(&_web, db.v4(), UDP).send(b"first").unwrap();
    until("the watch sees a frame that may pass", || watch.count() > 0);
    lab.assert_frames_conserved();
}

#[test]
fn a_pod_nobody_declared_is_refused_at_add_and_nothing_of_it_stays() {
    let lab = Lab::new("nobod");
    let _web = lab.pod("shop", "web", &[]);
    let ports = lab.ports().unwrap().len();
    let failure = lab
        .attach_with("shop", "ghost", |call| call.configuration["waitSeconds"] = 1.into())
        .expect_err("a pod was attached without policy for it")
        .to_string();
    assert!(failure.contains("shop/ghost"), "{failure}");
    assert_eq!(lab.ports().unwrap().len(), ports);
    let node = Place::open(lab.instance().netns()).unwrap();
    let links = penstock_net::Netlink::open_in(node.netns()).unwrap().links().unwrap();
    let host_ends: Vec<_> =
        links.iter().map(|link| &link.name).filter(|name| !is_of_the_switch(name)).collect();
    assert_eq!(host_ends.len(), 1, "{host_ends:?}");
}

fn is_of_the_switch(interface: &str) -> bool {
    interface == "lo" || ["host0", "trunk", "xsk"].iter().any(|own| interface.starts_with(own))
}

#[test]
fn without_a_control_plane_no_pod_is_attached_and_the_plugin_says_what_is_missing() {
    let lab = Lab::with("alone", LabOptions { with_control: false, ..LabOptions::default() });
    let failure = lab
        .attach_with("shop", "web", |call| call.configuration["waitSeconds"] = 1.into())
        .expect_err("a pod was attached without policy for it")
        .to_string();
    assert!(failure.contains("control plane"), "{failure}");
    assert!(lab.ports().unwrap().iter().all(|port| port.pod.is_none()));
}

const GOOD: &str = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata:\n  namespace: shop\n  name: deny\nspec:\n  podSelector: {}\n  policyTypes: [Ingress]\n";

/// A file that held a policy is replaced by rubbish: what it held stays in force, and the operator is told which file.
fn rubbish_changes_nothing(rubbish: &str) {
    let (lab, web, db) = shop("rubb", workers(1));
    lab.apply("deny", GOOD);
    assert_eq!(web.connect(db.v4(), TCP), TimedOut);
    lab.try_apply("deny", rubbish).unwrap();
    until("the operator is told", || lab.penstock(&["status"]).is_ok_and(|said| said.contains("deny.yaml")));
    for to in both(&db) {
        assert_eq!(web.connect(to, TCP), TimedOut, "{to}: what was enforced is no longer");
    }
    // It is not that nothing works any more.
    lab.remove("deny");
    assert_eq!(web.connect_within(db.v4(), TCP, LONG), Reached);
}

#[test]
fn a_policy_overwritten_by_malformed_yaml_stays_in_force() {
    rubbish_changes_nothing("apiVersion: networking.k8s.io/v1\nkind: [NetworkPolicy\n");
}

#[test]
fn a_policy_that_lost_its_indentation_stays_in_force_as_it_was() {
    let de_indented: String = GOOD.lines().map(|line| format!("{}\n", line.trim_start())).collect();
    rubbish_changes_nothing(&de_indented);
    let half = GOOD.replace("  podSelector", "podSelector").replace("  policyTypes", "policyTypes");
    rubbish_changes_nothing(&half);
}
