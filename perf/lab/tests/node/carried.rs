//! What real stacks do with flows that the kernel carries: long segments, other MTUs, ends and new beginnings, errors.

use crate::common::{LONG, TCP, UDP, both, set_mtu, shop, udp_socket, until};
use crate::shortcut::{flow_to, received_by_workers, status, warm_up, with};
use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, SockaddrStorage, sockopt};
use penstock_api::DropReason;
use penstock_lab::{LabOptions, Place};
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Duration;

#[test]
fn segments_arrive_as_long_as_they_were_sent_whatever_the_mtu() {
    for mtu in [1500u16, 9000] {
        let (lab, web, db) = shop("gso", LabOptions { mtu, ..with("on", 1) });
        let mtu = usize::from(lab.status().unwrap().mtu);
        for (to, port) in both(&db).into_iter().zip([5001, 5002]) {
            let long = db.watch("eth0", move |frame| frame.len() > 4 * mtu);
            let before = status(&lab).frames;
            let done = web.start_transfer(&db, to, port, Duration::from_secs(1)).unwrap().finish().unwrap();
            let flow = flow_to(&lab, to, port);
            let carried = status(&lab).frames - before;
            eprintln!("{to} at {mtu}: {done:?}, {} long, {carried} carried, {flow:?}", long.count());
            assert!(carried * 10 > 9 * flow.forward_frames, "{carried} of {} frames", flow.forward_frames);
            // Each of them stands for more than four frames.
            assert!(long.count() > 100, "only {} frames were longer than four MTUs", long.count());
            assert!(
                flow.forward_frames as usize >= done.bytes as usize / mtu,
                "segments are counted as frames"
            );
        }
        lab.assert_frames_conserved();
    }
}

#[test]
fn what_is_too_long_for_the_receiver_is_answered_by_a_worker_and_the_rest_passes_in_the_kernel() {
    let (lab, web, _) = shop("smaller", with("on", 1));
    lab.declare_pod("shop", "small", &[]).unwrap();
    lab.settled().unwrap();
    let small = lab.attach_with("shop", "small", |call| call.configuration["mtu"] = 1400.into()).unwrap();
    small.listen_udp(UDP);
    set_mtu(&small, "eth0", 1500);
    for to in both(&small) {
        let socket = udp_socket(&web, to, UDP);
        warm_up(&lab, &socket);
        let (carried, refused) = (status(&lab).frames, lab.drops(DropReason::TooBig));
        let _ = socket.send(&[2; 1440]);
        let error = socket.recv(&mut [0; 2000]).expect_err("a datagram too large for the pod was answered");
        assert_eq!(error.raw_os_error(), Some(nix::libc::EMSGSIZE), "{to}: {error}");
        assert_eq!((status(&lab).frames, lab.drops(DropReason::TooBig)), (carried, refused + 1));
        warm_up(&lab, &socket);
    }
    lab.assert_frames_conserved();
}

/// A connection from this port of the place's own address, which may just have been used.
fn connect_from(place: &Place, port: u16, to: IpAddr) -> std::io::Result<TcpStream> {
    let own = place.addresses().iter().find(|own| own.is_ipv4() == to.is_ipv4()).copied().unwrap();
    place.run(|| {
        let family = if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let fd = socket::socket(family, SockType::Stream, SockFlag::empty(), None)?;
        socket::setsockopt(&fd, sockopt::ReuseAddr, &true)?;
        socket::bind(fd.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(own, port)))?;
        let stream = TcpStream::from(fd);
        stream.set_write_timeout(Some(Duration::from_secs(2)))?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        socket::connect(stream.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(to, TCP)))?;
        Ok(stream)
    })
}

fn echo(stream: &mut TcpStream) {
    stream.write_all(b"question").unwrap();
    stream.read_exact(&mut [0; 8]).unwrap();
    std::thread::sleep(Duration::from_millis(2));
}

#[test]
fn a_connection_that_ends_or_is_reset_leaves_the_kernel_and_the_next_of_its_ports_is_judged_anew() {
    let (lab, web, db) = shop("ends", with("on", 1));
    for (n, to) in both(&db).into_iter().chain(both(&db)).enumerate() {
        // The first two are closed in order, the others reset.
        let (is_reset, port) = (n >= 2, 40_000 + n as u16);
        let mut stream = connect_from(&web, port, to).unwrap();
        let before = status(&lab);
        for _ in 0..40 {
            echo(&mut stream);
        }
        let during = status(&lab);
        assert!(during.frames > before.frames + 20 && during.direct >= 2, "{during:?}");
        let workers = received_by_workers(&lab);
        if is_reset {
            let now = nix::libc::linger { l_onoff: 1, l_linger: 0 };
            socket::setsockopt(&stream, sockopt::Linger, &now).unwrap();
        }
        drop(stream);
        // Idle ones would go after ten seconds.
        until("no row of it is left", || status(&lab).flows == 0);
        assert!(received_by_workers(&lab) > workers, "nobody saw it end");
        if !is_reset {
            continue;
        }
        let mut again = connect_from(&web, port, to).expect("the ports are free, and policy allows it");
        echo(&mut again);
        let now = nix::libc::linger { l_onoff: 1, l_linger: 0 };
        socket::setsockopt(&again, sockopt::Linger, &now).unwrap();
        drop(again);
        lab.apply("deny", crate::common::DENY_INGRESS);
        connect_from(&web, port, to).expect_err("the same ports, under another policy");
        lab.remove("deny");
        lab.settled().unwrap();
    }
    lab.assert_frames_conserved();
}

#[test]
fn an_error_about_a_flow_that_the_kernel_carries_reaches_its_sender() {
    let (lab, web, db) = shop("errors", with("on", 1));
    for to in both(&db) {
        let receiver = db.run(|| UdpSocket::bind((to, 7777))).unwrap();
        let socket = udp_socket(&web, to, 7777);
        let before = status(&lab).frames;
        until("the stream passes in the kernel", || {
            let _ = socket.send(b"one way");
            std::thread::sleep(Duration::from_micros(300));
            status(&lab).frames > before
        });
        drop(receiver);
        socket.set_read_timeout(Some(LONG)).unwrap();
        let carried = status(&lab).frames;
        let mut told = false;
        for _ in 0..100 {
            let sent = socket.send(b"to nobody");
            std::thread::sleep(Duration::from_millis(1));
            told |= sent.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused);
        }
        assert!(told, "{to}: no error came back");
        assert!(status(&lab).frames > carried, "{to}: the frames it was about did not pass in the kernel");
    }
    lab.assert_frames_conserved();
}
