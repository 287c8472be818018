//! Sizes: jumbo frames, pods of different MTUs, and a pod that gives itself a larger one than it was given.

use crate::common::{LONG, TCP, UDP, both, has_multi_buffer, set_mtu, shop, udp_socket, until, workers};
use penstock_api::DropReason;
use penstock_lab::LabOptions;
use penstock_lab::Outcome::Reached;
use std::net::UdpSocket;
use std::time::Duration;

#[test]
fn jumbo_frames_carry_tcp_and_datagrams_whole() {
    frames_are_carried_whole(9000);
}

#[test]
fn frames_of_nearly_a_page_are_carried_whole() {
    frames_are_carried_whole(3506);
    frames_are_carried_whole(3507);
}

fn frames_are_carried_whole(mtu: u16) {
    let (lab, web, db) = shop("jumbo", LabOptions { mtu, ..workers(1) });
    // Of kernels that cannot, less is asked.
    let mtu = lab.status().unwrap().mtu;
    for to in both(&db) {
        let whole = db.watch("eth0", move |frame| frame.len() == usize::from(mtu) + 14);
        let headers = if to.is_ipv4() { 28 } else { 48 };
        assert_eq!(web.udp_echo(to, UDP, usize::from(mtu) - headers, LONG), Reached, "{to}");
        until("the datagram arrived in one frame", || whole.count() == 1);
        assert_eq!(web.udp_echo(to, UDP, 60_000, LONG), Reached, "{to}");
        assert_eq!(web.ping_with(to, 20_000, LONG), Reached, "{to}");
        let port = if to.is_ipv4() { 5001 } else { 5002 };
        let done = web.start_transfer(&db, to, port, Duration::from_secs(1)).unwrap().finish().unwrap();
        eprintln!("{to}: {:.2} Gb/s at MTU {mtu}", done.gigabits_per_second());
        assert!(done.bytes > 1_000_000, "{to}: {done:?}");
        assert_eq!(lab.host().connect_within(to, TCP, LONG), Reached);
    }
    lab.assert_frames_conserved();
}

#[test]
fn a_kernel_without_frames_of_several_buffers_has_the_mtu_lowered_and_pods_refused_what_is_more() {
    let (lab, web, db) = shop("lower", LabOptions { mtu: 9000, ..workers(1) });
    let (most, pods) = if has_multi_buffer() { (9000, 3) } else { (3506, 2) };
    let status = lab.status().unwrap();
    assert_eq!(status.mtu, most, "{status:#?}");
    let told = |what: &str| status.notes.iter().any(|note| note.contains(what));
    assert_eq!(told("the MTU is 3506, not 9000"), most == 3506, "{:?}", status.notes);
    lab.declare_pod("shop", "large", &[]).unwrap();
    lab.settled().unwrap();
    match lab.attach_with("shop", "large", |call| call.configuration["mtu"] = 9000.into()) {
        Ok(large) => {
            assert_eq!(most, 9000);
            assert_eq!(large.udp_echo(db.v4(), UDP, 8_000, LONG), Reached);
        }
        Err(refused) => {
            let said = refused.to_string();
            assert!(said.contains("9000") && said.contains("3506") && said.contains("Linux 6.6"), "{said}");
        }
    }
    assert_eq!(lab.ports().unwrap().iter().filter(|port| port.pod.is_some()).count(), pods);
    assert_eq!(web.udp_echo(db.v6(), UDP, 3_000, LONG), Reached);
    lab.assert_frames_conserved();
}

#[test]
fn a_pod_with_a_small_mtu_is_found_out_by_path_mtu_discovery() {
    let (lab, web, _) = shop("mixed", workers(2));
    lab.declare_pod("shop", "small", &[]).unwrap();
    lab.settled().unwrap();
    let small = lab.attach_with("shop", "small", |call| call.configuration["mtu"] = 1400.into()).unwrap();
    let receiver = small.run(|| UdpSocket::bind(("::", UDP))).unwrap();
    receiver.set_read_timeout(Some(LONG)).unwrap();
    // It says that it takes 1500 bytes, so that senders do not know better from the start.
    set_mtu(&small, "eth0", 1500);
    for to in both(&small) {
        // Linux forbids routers to cut what fits its own interface, until it is told of a smaller one.
        let socket = udp_socket(&web, to, UDP);
        let mut buffer = [0; 2000];
        socket.send(&[1; 1300]).unwrap();
        assert_eq!(receiver.recv(&mut buffer).unwrap(), 1300, "{to}: what fits passes");
        let before = lab.drops(DropReason::TooBig);
        socket.send(&[2; 1440]).unwrap();
        let error = socket.recv(&mut buffer).expect_err("a datagram too large for the pod was answered");
        assert_eq!(error.raw_os_error(), Some(nix::libc::EMSGSIZE), "{to}: {error}");
        assert!(lab.drops(DropReason::TooBig) > before);
        socket.send(&[3; 1440]).unwrap();
        assert_eq!(receiver.recv(&mut buffer).unwrap(), 1440, "{to}: now in pieces");
        let port = if to.is_ipv4() { 5001 } else { 5002 };
        let done = web.start_transfer(&small, to, port, Duration::from_secs(1)).unwrap().finish().unwrap();
        assert!(done.bytes > 1_000_000, "{to}: {done:?}");
    }
    lab.assert_frames_conserved();
}

#[test]
fn tcp_finds_the_small_mtu_of_a_pod_that_lies_about_it() {
    let (lab, web, _) = shop("mtcp", workers(1));
    lab.declare_pod("shop", "small", &[]).unwrap();
    lab.settled().unwrap();
    let small = lab.attach_with("shop", "small", |call| call.configuration["mtu"] = 1400.into()).unwrap();
    set_mtu(&small, "eth0", 1500);
    for to in both(&small) {
        // Nobody has learned anything yet: the first segments are too large.
        let port = if to.is_ipv4() { 5001 } else { 5002 };
        let done = web.start_transfer(&small, to, port, Duration::from_secs(1)).unwrap().finish().unwrap();
        assert!(done.bytes > 1_000_000, "{to}: {done:?}");
    }
    assert!(lab.drops(DropReason::TooBig) > 0, "nothing was too big, which proves nothing");
    lab.assert_frames_conserved();
}

#[test]
fn a_pod_that_raises_its_own_mtu_loses_its_big_frames_and_keeps_its_small_ones() {
    let (lab, web, db) = shop("raise", workers(1));
    set_mtu(&web, "eth0", 9000);
    for to in both(&db) {
        let watch = db.watch("eth0", |frame| frame.len() > 1514);
        let socket = udp_socket(&web, to, UDP);
        for _ in 0..10 {
            socket.send(&[7; 4000]).unwrap();
        }
        assert_eq!(web.udp_echo(to, UDP, 1000, LONG), Reached, "{to}: small ones pass");
        assert_eq!(web.connect_within(to, TCP, LONG), Reached, "{to}");
        assert_eq!(watch.count(), 0);
    }
    let counted = lab.drops(DropReason::Interface) + lab.drops(DropReason::KernelTooBig);
    assert_eq!(counted, 20, "ten datagrams of each family went nowhere");
    lab.assert_frames_conserved();
}
