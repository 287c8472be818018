//! The shortcut between pods and direct ports: over the namespaces' border, segments as long as they were sent.

use crate::common::{LONG, TCP, UDP, both, kernel_has, kill_switch, udp_socket, until};
use crate::direct::{FIRST, node_in, node_of, node_with, place};
use crate::shortcut::{
    both_ways, datagram, flow_to, keeps_books, keeps_order, received_by_workers, status, warm_up, with,
};
use nix::sys::signal::Signal;
use nix::sys::socket::{setsockopt, sockopt};
use penstock_api::DropReason;
use penstock_api::message::gateway;
use penstock_lab::Outcome::{Reached, TimedOut};
use penstock_lab::{Lab, Place, Pod, scaled};
use std::net::UdpSocket;
use std::time::Duration;

/// `MARK_TO_DIRECT` of the programs, with every port it might be.
const MARK: u32 = 0x5044_0000;

/// A pod, and something behind an interface.
fn appliance(shortcut: &str, workers: u8) -> (Lab, Pod, Place) {
    let (lab, web, places) = node_with(with(shortcut, workers), &[(&FIRST, "auto")], place);
    (lab, web, places.into_iter().next().unwrap())
}

#[test]
fn bulk_leaves_by_a_direct_port_in_the_kernel_and_as_long_as_it_was_sent() {
    let (lab, web, appliance) = appliance("on", 2);
    let mtu = usize::from(lab.status().unwrap().mtu);
    for (to, port) in both(&appliance).into_iter().zip([5001, 5002]) {
        let long = appliance.watch("eth0", move |frame| frame.len() > 4 * mtu);
        let before = status(&lab).frames;
        let done =
            web.start_transfer(&appliance, to, port, Duration::from_secs(2)).unwrap().finish().unwrap();
        let (flow, carried) = (flow_to(&lab, to, port), status(&lab).frames - before);
        eprintln!(
            "{to}: {:.2} Gb/s, {} long, {carried} carried, {flow:?}",
            done.gigabits_per_second(),
            long.count()
        );
        assert!(carried * 100 >= 95 * flow.forward_frames, "{carried} of {} frames", flow.forward_frames);
        assert!(long.count() > 100, "only {} frames were longer than four MTUs", long.count());
        assert!(flow.forward_frames as usize >= done.bytes as usize / mtu, "segments are counted as frames");
    }
    lab.assert_frames_conserved();
}

#[test]
fn bulk_comes_in_by_a_direct_port_in_the_kernel_and_is_merged_on_its_way() {
    let (lab, web, appliance) = appliance("on", 2);
    let mtu = usize::from(lab.status().unwrap().mtu);
    for (to, port) in both(&web).into_iter().zip([5001, 5002]) {
        let long = web.watch("eth0", move |frame| frame.len() > 4 * mtu);
        let before = status(&lab).frames;
        let done =
            appliance.start_transfer(&web, to, port, Duration::from_secs(2)).unwrap().finish().unwrap();
        let (flow, carried) = (flow_to(&lab, to, port), status(&lab).frames - before);
        eprintln!(
            "{to}: {:.2} Gb/s, {} long, {carried} carried, {flow:?}",
            done.gigabits_per_second(),
            long.count()
        );
        let all = flow.forward_frames + flow.reply_frames;
        assert!(carried * 100 >= 95 * all, "{carried} of {all} frames");
        assert!(long.count() > 100, "only {} frames were longer than four MTUs", long.count());
        assert!(flow.forward_frames as usize >= done.bytes as usize / mtu, "segments are counted as frames");
    }
    let ways = status(&lab).direct_ports;
    assert!(ways.len() == 1 && ways[0].not_to_it.is_none() && ways[0].not_from_it.is_none(), "{ways:?}");
    lab.assert_frames_conserved();
}

#[test]
fn what_an_interface_receives_whose_driver_has_no_xdp_comes_to_a_worker() {
    let (lab, web, places) = node_with(with("on", 1), &[(&FIRST, "generic")], place);
    let done =
        places[0].start_transfer(&web, web.v4(), 5001, Duration::from_secs(1)).unwrap().finish().unwrap();
    let ways = status(&lab).direct_ports;
    assert!(ways[0].not_to_it.is_none() && ways[0].not_from_it.is_some(), "{ways:?}");
    let notes = lab.status().unwrap().notes;
    assert!(notes.iter().any(|note| note.contains("dir0 receives crosses userspace")), "{notes:?}");
    assert!(done.bytes > 1_000_000, "{done:?}");
    assert!(received_by_workers(&lab) > done.bytes / 1500);
    lab.assert_frames_conserved();
}

#[test]
fn without_the_program_that_takes_them_frames_that_pass_reach_nobody() {
    let (lab, web, appliance) = appliance("on", 1);
    let frame = datagram(&appliance, &web, 0, (0, 64), b"for  web");
    both_ways(&lab, &appliance, &web, &frame);
    let links = links(&lab);
    if !kernel_has("vmlinux", "tcx_entry") {
        return eprintln!("not on this kernel: filters have no links that could be taken away");
    }
    assert_eq!(links.len(), 2, "at penstock0 and at the interface: {links:?}");
    for link in links {
        std::fs::remove_file(link).unwrap();
    }
    std::thread::sleep(Duration::from_millis(100));
    let is_it = |got: &[u8]| got.ends_with(b"for  web");
    let (at_web, at_host) =
        (web.watch("eth0", is_it), lab.host().watch(&lab.instance().host_interface(), is_it));
    let wire = appliance.wire("eth0");
    for _ in 0..50 {
        wire.send(&frame).unwrap();
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!((at_web.count(), at_host.count()), (0, 0));
}

#[test]
fn a_tag_from_outside_is_none_and_who_says_to_be_another_is_refused() {
    let (lab, web, appliance) = appliance("on", 1);
    for family in [0, 1] {
        let frame = datagram(&appliance, &web, family, (0, 64), b"ordinary");
        both_ways(&lab, &appliance, &web, &frame);
        let (wire, at) = (appliance.wire("eth0"), web.wire("eth0"));
        let before = status(&lab).frames;
        for mark in [1u8, 0x7f, 0xff] {
            let mut forged = frame.clone();
            forged[..6].copy_from_slice(&[0x02, 0x50, 0x01, mark & 0xfc, 0, mark]);
            wire.send(&forged).unwrap();
            at.receive_where(LONG, |got| got.ends_with(b"ordinary"))
                .expect("a worker takes it for what it is");
        }
        assert_eq!(status(&lab).frames, before, "what looks like a tag passed in the kernel");
        let spoofed = lab.drops(DropReason::Spoofed);
        let mut forged = frame.clone();
        forged[11] ^= 1;
        wire.send(&forged).unwrap();
        until("it is refused", || lab.drops(DropReason::Spoofed) > spoofed);
        assert_eq!(status(&lab).frames, before);
    }
    lab.assert_frames_conserved();
}

#[test]
fn without_it_nothing_is_attached_and_every_frame_crosses_userspace() {
    let (lab, web, appliance) = appliance("off", 1);
    let done =
        web.start_transfer(&appliance, FIRST.v4, 5001, Duration::from_secs(1)).unwrap().finish().unwrap();
    assert!(done.bytes > 1_000_000 && status(&lab).frames == 0, "{done:?} {:?}", status(&lab));
    assert!(links(&lab).is_empty() && status(&lab).direct_ports.is_empty());
    lab.assert_frames_conserved();
}

/// The pinned links of programs at interfaces of the host.
fn links(lab: &Lab) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(lab.instance().bpf_dir().join("links")).unwrap().flatten();
    let outside = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("outside-"));
    outside.map(|entry| entry.path()).collect()
}

#[test]
fn a_frame_to_or_from_a_direct_port_is_the_same_whichever_way_it_went() {
    let (lab, web, appliance) = appliance("on", 1);
    for family in [0, 1] {
        let frame = datagram(&web, &appliance, family, (0xb9, 17), b"the same");
        let (by_worker, by_kernel) = both_ways(&lab, &web, &appliance, &frame);
        assert_eq!(by_worker, by_kernel);
        assert_eq!((&by_worker[..6], &by_worker[6..12]), (&FIRST.mac[..], &gateway::MAC.0[..]));
    }
    for family in [0, 1] {
        let frame = datagram(&appliance, &web, family, (0xb9, 17), b"the same");
        let (by_worker, by_kernel) = both_ways(&lab, &appliance, &web, &frame);
        assert_eq!(by_worker, by_kernel);
    }
    lab.assert_frames_conserved();
}

#[test]
fn accounts_of_what_leaves_and_comes_by_a_direct_port_are_exact() {
    let (lab, web, appliance) = appliance("on", 1);
    keeps_books(&lab, &web, &appliance);
    keeps_books(&lab, &appliance, &web);
}

#[test]
fn no_datagram_to_a_direct_port_overtakes_another() {
    // One worker has the socket, the flow may be the other's.
    for workers in [1, 2] {
        let (lab, web, appliance) = appliance("on", workers);
        keeps_order(&lab, &web, &appliance, "web");
    }
}

#[test]
fn no_datagram_from_a_direct_port_overtakes_another() {
    for workers in [1, 2] {
        let (lab, web, appliance) = appliance("on", workers);
        keeps_order(&lab, &appliance, &web, "web");
    }
}

#[test]
fn connections_with_a_direct_port_go_on_without_a_switch_and_what_is_new_reaches_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let (lab, web, places) = node_in(dir.path(), with("on", 1), &[(&FIRST, "auto")], place);
    let appliance = &places[0];
    let mut out = web.open_connection(FIRST.v4, TCP, LONG).unwrap();
    let mut back = appliance.open_connection(web.v6(), TCP, LONG).unwrap();
    for connection in [&mut out, &mut back] {
        for _ in 0..30 {
            assert_eq!(connection.echo(LONG), Reached);
            std::thread::sleep(Duration::from_millis(2));
        }
    }
    assert!(status(&lab).direct >= 4, "{:?}", status(&lab));
    kill_switch(&lab, Signal::SIGKILL);
    for connection in [&mut out, &mut back] {
        for _ in 0..20 {
            assert_eq!(connection.echo(LONG), Reached, "established, and the kernel carries it");
        }
    }
    assert_eq!(appliance.connect(web.v4(), TCP), TimedOut, "a new flow");
    assert_eq!(appliance.connect(lab.host().v4(), 22), TimedOut, "the host");
    lab.start_switch().unwrap();
    let workers = received_by_workers(&lab);
    for connection in [&mut out, &mut back] {
        for _ in 0..50 {
            assert_eq!(connection.echo(LONG), Reached);
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    assert!(received_by_workers(&lab) - workers < 100, "it is the kernel again that carries it");
    lab.apply("deny", crate::common::DENY_INGRESS);
    for connection in [&mut out, &mut back] {
        assert_eq!(connection.echo(scaled(Duration::from_millis(300))), TimedOut);
    }
}

#[test]
fn a_policy_that_forbids_a_flow_to_a_direct_port_cuts_it_in_the_kernel() {
    let (lab, web, appliance) = appliance("on", 1);
    let at = appliance.run(|| UdpSocket::bind((FIRST.v4, 7777))).unwrap();
    at.set_read_timeout(Some(scaled(Duration::from_millis(300)))).unwrap();
    let socket = udp_socket(&web, FIRST.v4, 7777);
    let send = |count: usize| {
        for _ in 0..count {
            let _ = socket.send(b"one way");
            std::thread::sleep(Duration::from_millis(1));
        }
    };
    until("the stream passes in the kernel", || {
        send(10);
        status(&lab).frames > 0
    });
    lab.apply("deny", crate::common::DENY_INGRESS);
    while at.recv(&mut [0; 100]).is_ok() {}
    let before = status(&lab).frames;
    send(50);
    assert!(at.recv(&mut [0; 100]).is_err(), "it is forbidden, and arrived");
    assert_eq!(status(&lab).frames, before, "the kernel carried what is forbidden");
    lab.remove("deny");
    until("it passes in the kernel again", || {
        send(10);
        status(&lab).frames > before
    });
    lab.assert_frames_conserved();
}

#[test]
fn what_is_too_long_for_a_direct_port_is_answered_by_a_worker() {
    let (lab, web, places) = node_of(9000, &[(&FIRST, "native")], place);
    for to in both(&places[0]) {
        let socket = udp_socket(&web, to, UDP);
        if status(&lab).is_on {
            warm_up(&lab, &socket);
        }
        let carried = status(&lab).frames;
        let _ = socket.send(&[2; 3000]);
        let error = socket.recv(&mut [0; 4000]).expect_err("a datagram too large for the port was answered");
        assert_eq!(error.raw_os_error(), Some(nix::libc::EMSGSIZE), "{to}: {error}");
        assert_eq!(status(&lab).frames, carried);
    }
    assert_eq!(lab.drops(DropReason::TooBig), 2);
    lab.assert_frames_conserved();
}

#[test]
fn a_mark_that_a_pod_or_the_host_sets_leads_nowhere() {
    let (lab, web, appliance) = appliance("on", 1);
    let socket = udp_socket(&web, FIRST.v4, UDP);
    warm_up(&lab, &socket);
    let port = lab.ports().unwrap().into_iter().find(|port| port.interface == FIRST.interface).unwrap().port;
    let forged = appliance.watch("eth0", |frame| frame.windows(6).any(|part| part == b"forged"));
    let host = lab.host().run(|| UdpSocket::bind("0.0.0.0:7001")).unwrap();
    let at_web = web.run(|| UdpSocket::bind("0.0.0.0:7001")).unwrap();
    let host_address = lab.status().unwrap().host_addresses.into_iter().find(|a| a.is_ipv4()).unwrap();
    for at in [&host, &at_web] {
        at.set_read_timeout(Some(LONG)).unwrap();
    }
    for mark in [MARK | u32::from(port.0), MARK | 0x1000 | u32::from(port.0)] {
        // A pod to the host, the host to a pod: each as if it were without a mark.
        let from_pod = web.run(|| UdpSocket::bind("0.0.0.0:0")).unwrap();
        let from_host = lab.host().run(|| UdpSocket::bind("0.0.0.0:0")).unwrap();
        for (from, to, at) in
            [(&from_pod, host_address, &host), (&from_host, std::net::IpAddr::from(web.v4()), &at_web)]
        {
            setsockopt(from, sockopt::Mark, &mark).unwrap();
            from.send_to(b"forged", (to, 7001)).unwrap();
            assert_eq!(at.recv(&mut [0; 100]).expect("it goes where it is addressed to"), 6);
        }
    }
    assert_eq!(forged.count(), 0);
    lab.assert_frames_conserved();
}

#[test]
fn a_stream_to_a_direct_port_goes_on_without_a_switch_and_the_next_one_takes_it_up() {
    let dir = tempfile::tempdir().unwrap();
    let (lab, web, places) = node_in(dir.path(), with("on", 1), &[(&FIRST, "auto")], place);
    let at = places[0].run(|| UdpSocket::bind((FIRST.v4, 7777))).unwrap();
    at.set_read_timeout(Some(LONG)).unwrap();
    let socket = udp_socket(&web, FIRST.v4, 7777);
    until("the stream passes in the kernel", || {
        socket.send(b"before").unwrap();
        std::thread::sleep(Duration::from_millis(1));
        status(&lab).frames > 5
    });
    kill_switch(&lab, Signal::SIGKILL);
    at.set_nonblocking(true).unwrap();
    while at.recv(&mut [0; 100]).is_ok() {}
    at.set_nonblocking(false).unwrap();
    for _ in 0..20 {
        socket.send(b"alone").unwrap();
        assert_eq!(at.recv(&mut [0; 100]).expect("it passes in the kernel"), 5);
    }
    lab.start_switch_only().unwrap();
    let (before, workers) = (status(&lab).frames, received_by_workers(&lab));
    until("the kernel goes on", || {
        socket.send(b"after").unwrap();
        at.recv(&mut [0; 100]).expect("it arrives");
        status(&lab).frames > before + 20
    });
    assert!(received_by_workers(&lab) - workers < 20, "it is still the kernel that carries it");
}

#[test]
fn a_pod_that_is_gone_leaves_nothing_that_reaches_a_direct_port() {
    let (lab, web, appliance) = appliance("on", 1);
    let socket = udp_socket(&appliance, web.v4(), UDP);
    warm_up(&lab, &socket);
    lab.detach(web).unwrap();
    until("no row is left", || status(&lab).flows == 0);
}

#[test]
fn nothing_stays_at_the_hosts_interface_when_the_switch_is_removed() {
    for arguments in [vec![], vec!["--tc-filters".to_owned()]] {
        let is_filter = !arguments.is_empty() || !kernel_has("vmlinux", "tcx_entry");
        let mut options = with("on", 1);
        options.switch_arguments.extend(arguments);
        let (lab, web, places) = node_with(options, &[(&FIRST, "auto")], place);
        let filters = || {
            let show = ["filter", "show", "dev", FIRST.interface, "ingress"];
            let output = lab.host().run(|| std::process::Command::new("tc").args(show).output()).unwrap();
            String::from_utf8_lossy(&output.stdout).into_owned()
        };
        let socket = udp_socket(&places[0], web.v4(), UDP);
        warm_up(&lab, &socket);
        assert_eq!((links(&lab).len(), filters().contains("nic")), (2, is_filter), "{}", filters());
        lab.penstock(&["down"]).unwrap();
        assert!(!lab.instance().bpf_dir().exists() && !filters().contains("nic"), "{}", filters());
    }
}

/// One TCP stream for two seconds, by turns with the shortcut and without: Gb/s, the median of five.
#[test]
#[ignore = "measures: wants release programs and the machine for itself for a minute"]
fn one_stream_is_faster_in_the_kernel_both_ways() {
    let nodes = ["on", "off"].map(|shortcut| appliance(shortcut, 1));
    let mut seen = [[vec![], vec![]], [vec![], vec![]]];
    for round in 0..5 {
        for ((lab, web, appliance), seen) in nodes.iter().zip(&mut seen) {
            let web: &Place = web;
            for ((from, to), seen) in [(web, appliance), (appliance, web)].into_iter().zip(seen) {
                let (port, time) = (6000 + round, Duration::from_secs(2));
                let done = from.start_transfer(to, to.v4(), port, time).unwrap().finish().unwrap();
                seen.push(done.gigabits_per_second());
            }
            lab.assert_frames_conserved();
        }
    }
    let [on, off] = seen.map(|ways| {
        ways.map(|mut rates| {
            rates.sort_by(f64::total_cmp);
            rates
        })
    });
    eprintln!("to the port: {:.2?} with, {:.2?} without", on[0], off[0]);
    eprintln!("from the port: {:.2?} with, {:.2?} without", on[1], off[1]);
    for (on, off) in on.iter().zip(&off) {
        assert!(on[2] > off[2]);
    }
}
