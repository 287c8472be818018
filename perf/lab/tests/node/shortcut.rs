//! The shortcut: flows that are established and allowed pass in the kernel, and nobody can tell but by the speed.

use crate::common::{
    AtEnd, LONG, TCP, UDP, both, kill_switch, mac_of, shop, udp_frame, udp_socket, until, workers,
};
use nix::sys::signal::Signal;
use penstock_api::DropReason;
use penstock_api::message::{FlowStatus, PortStatus, Request, Response, ShortcutStatus, gateway};
use penstock_lab::Outcome::{Reached, TimedOut};
use penstock_lab::{Lab, LabOptions, Place, scaled};
use std::net::{IpAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

pub(crate) fn with(shortcut: &str, count: u8) -> LabOptions {
    let switch_arguments = vec!["--shortcut".to_owned(), shortcut.to_owned()];
    LabOptions { switch_arguments, ..workers(count) }
}

pub(crate) fn status(lab: &Lab) -> ShortcutStatus {
    lab.status().unwrap().shortcut
}

/// The flow to this port of this address that carried most.
pub(crate) fn flow_to(lab: &Lab, to: IpAddr, port: u16) -> FlowStatus {
    let flows = lab.flows().unwrap();
    let to_it = flows.into_iter().filter(|flow| flow.destination == to && flow.destination_port == port);
    to_it.max_by_key(|flow| flow.forward_bytes).expect("the flow is known")
}

pub(crate) fn received_by_workers(lab: &Lab) -> u64 {
    lab.status().unwrap().workers.iter().map(|worker| worker.rx_frames).sum()
}

/// Sends with pauses until the flow passes in the kernel.
#[track_caller]
pub(crate) fn warm_up(lab: &Lab, socket: &UdpSocket) {
    let before = status(lab).frames;
    until("the flow passes in the kernel", || {
        let _ = socket.send(b"warm");
        let _ = socket.recv(&mut [0; 100]);
        std::thread::sleep(Duration::from_millis(1));
        status(lab).frames > before
    });
}

fn bulk(shortcut: &str, family: usize) -> (f64, f64) {
    let (lab, web, db) = shop("bulk", with(shortcut, 1));
    let to = both(&db)[family];
    let done = web.start_transfer(&db, to, 5001, Duration::from_secs(2)).unwrap().finish().unwrap();
    let flow = flow_to(&lab, to, 5001);
    let (frames, carried) = (flow.forward_frames, status(&lab).frames);
    eprintln!("{shortcut} {to}: {:.2} Gb/s, {:?} {flow:?}", done.gigabits_per_second(), status(&lab));
    lab.assert_frames_conserved();
    (carried as f64 / (frames + flow.reply_frames) as f64, done.gigabits_per_second())
}

#[test]
fn bulk_passes_in_the_kernel_when_it_may() {
    for family in [0, 1] {
        let (share, _) = bulk("on", family);
        assert!(share >= 0.95, "only {share} of the frames passed in the kernel");
    }
}

#[test]
fn without_it_every_frame_crosses_userspace() {
    let (share, _) = bulk("off", 0);
    assert_eq!(share, 0.0);
}

/// Numbered datagrams, and how many of them overtook another.
pub(crate) struct Numbered<'a> {
    from: UdpSocket,
    to: UdpSocket,
    pub(crate) next: u64,
    seen: u64,
    pub(crate) received: u64,
    pub(crate) overtaken: u64,
    _places: (&'a Place, &'a Place),
}

impl<'a> Numbered<'a> {
    pub(crate) fn new(from: &'a Place, to: &'a Place, address: IpAddr) -> Numbered<'a> {
        let at = to.run(|| UdpSocket::bind((address, 7777))).unwrap();
        at.set_nonblocking(true).unwrap();
        let socket = udp_socket(from, address, 7777);
        Numbered { from: socket, to: at, next: 0, seen: 0, received: 0, overtaken: 0, _places: (from, to) }
    }

    pub(crate) fn send(&mut self) {
        self.next += 1;
        let _ = self.from.send(&self.next.to_be_bytes());
        self.receive();
    }

    pub(crate) fn receive(&mut self) {
        let mut buffer = [0; 8];
        while let Ok(8) = self.to.recv(&mut buffer) {
            let number = u64::from_be_bytes(buffer);
            self.received += 1;
            self.overtaken += u64::from(number < self.seen);
            self.seen = self.seen.max(number);
        }
    }
}

#[test]
fn no_datagram_overtakes_another_on_the_way_into_the_kernel_and_back() {
    let (lab, web, db) = shop("order", with("on", 1));
    keeps_order(&lab, &web, &db, "db");
}

/// `app`: a label of one end, whose policy is changed time and again.
pub(crate) fn keeps_order(lab: &Lab, from: &Place, to: &Place, app: &str) {
    let mut numbered = Numbered::new(from, to, to.v4().into());
    let mut into_kernel = 0;
    for round in 0..20 {
        let before = status(lab).frames;
        for n in 0..3000 {
            numbered.send();
            // Bursts of every length up to 50, with pauses as long as a frame takes through userspace and much shorter ones.
            if n % (1 + round * 5 % 50) == 0 {
                std::thread::sleep(Duration::from_micros(20 * (round % 7)));
            }
        }
        into_kernel += u64::from(status(lab).frames > before);
        // Out again: what policy says of one end is another revision.
        lab.apply("none", &format!("{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{namespace: shop, name: none}}, \
             spec: {{podSelector: {{matchLabels: {{app: {app}}}}}, policyTypes: [Ingress], ingress: [{{}}, {{from: [{{ipBlock: {{cidr: 192.0.2.{round}/32}}}}]}}]}}}}"));
    }
    std::thread::sleep(Duration::from_millis(50));
    numbered.receive();
    eprintln!(
        "{} sent, {} received, in the kernel in {into_kernel} of 20 rounds",
        numbered.next, numbered.received
    );
    assert_eq!(numbered.overtaken, 0);
    assert!(into_kernel >= 5, "it was hardly ever in the kernel, which proves nothing");
    lab.assert_frames_conserved();
}

#[test]
fn a_policy_that_forbids_a_flow_cuts_it_in_the_kernel() {
    let (lab, web, db) = shop("revoke", with("on", 1));
    let socket = udp_socket(&web, db.v4(), UDP);
    let mut connection = web.open_connection(db.v4(), TCP, LONG).unwrap();
    warm_up(&lab, &socket);
    for _ in 0..10 {
        assert_eq!(connection.echo(LONG), Reached);
        std::thread::sleep(Duration::from_millis(2));
    }
    lab.apply("deny", crate::common::DENY_INGRESS);
    socket.set_read_timeout(Some(scaled(Duration::from_millis(300)))).unwrap();
    while socket.recv(&mut [0; 100]).is_ok() {}
    let before = status(&lab).frames;
    for _ in 0..20 {
        socket.send(b"refused").unwrap();
    }
    assert!(socket.recv(&mut [0; 100]).is_err(), "an answer although it is refused");
    assert_eq!(connection.echo(scaled(Duration::from_millis(300))), TimedOut);
    assert_eq!(status(&lab).frames, before, "the kernel carried a frame that policy forbids");
    lab.assert_frames_conserved();
}

#[test]
fn established_flows_go_on_without_a_switch_and_new_ones_do_not() {
    let (lab, web, db) = shop("alone", with("on", 1));
    let socket = udp_socket(&web, db.v4(), UDP);
    socket.set_read_timeout(Some(LONG)).unwrap();
    warm_up(&lab, &socket);
    let mut connection = web.open_connection(db.v4(), TCP, LONG).unwrap();
    for _ in 0..20 {
        assert_eq!(connection.echo(LONG), Reached);
        std::thread::sleep(Duration::from_millis(2));
    }
    kill_switch(&lab, Signal::SIGKILL);
    for _ in 0..20 {
        assert_eq!(connection.echo(LONG), Reached, "established, and the kernel carries it");
    }
    assert_eq!(web.connect(db.v4(), TCP), TimedOut, "a new flow");
    lab.start_switch_only().unwrap();
    assert!(status(&lab).direct >= 2, "{:?}", status(&lab));
    let before = received_by_workers(&lab);
    for _ in 0..20 {
        assert_eq!(connection.echo(LONG), Reached);
    }
    assert!(received_by_workers(&lab) - before < 20, "it is still the kernel that carries it");
    drop(connection);
    lab.assert_frames_conserved();
}

/// A datagram as `web` would send it to `db`, on the wire, with type of service and TTL (traffic class and hop limit).
pub(crate) fn datagram(
    web: &Place,
    db: &Place,
    family: usize,
    (service, ttl): (u8, u8),
    payload: &[u8],
) -> Vec<u8> {
    let addresses = (both(web)[family], both(db)[family]);
    let mut frame = udp_frame((mac_of(web, "eth0"), gateway::MAC.0), addresses, 9, payload);
    match family {
        0 => {
            (frame[15], frame[22]) = (service, ttl);
            frame[24..26].fill(0);
            let sum: u32 =
                frame[14..34].chunks(2).map(|two| u32::from(u16::from_be_bytes([two[0], two[1]]))).sum();
            let sum = (sum & 0xffff) + (sum >> 16);
            frame[24..26].copy_from_slice(&(!(sum as u16)).to_be_bytes());
        }
        _ => {
            (frame[14], frame[15]) = (0x60 | service >> 4, service << 4 | 0x7);
            frame[21] = ttl;
        }
    }
    frame
}

/// Sends until it passes in the kernel, and returns what arrived first and last: by the worker and by the kernel.
pub(crate) fn both_ways(lab: &Lab, web: &Place, db: &Place, frame: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let (wire, at) = (web.wire("eth0"), db.wire("eth0"));
    let payload = frame[frame.len() - 8..].to_vec();
    let arrives = || {
        wire.send(frame).unwrap();
        at.receive_where(LONG, |got| got.ends_with(&payload)).expect("it arrives")
    };
    let (before, first) = (status(lab).frames, arrives());
    assert_eq!(status(lab).frames, before, "the first frame of a flow is for the worker to see");
    let mut last = Vec::new();
    until("it passes in the kernel", || {
        last = arrives();
        status(lab).frames > before
    });
    (first, last)
}

#[test]
fn a_frame_is_the_same_whichever_way_it_went() {
    let (lab, web, db) = shop("same", with("on", 1));
    for family in [0, 1] {
        let frame = datagram(&web, &db, family, (0xb9, 17), b"the same");
        let (by_worker, by_kernel) = both_ways(&lab, &web, &db, &frame);
        assert_eq!(by_worker, by_kernel);
        assert_eq!(by_worker[if family == 0 { 22 } else { 21 }], 16, "one hop");
        assert_eq!((&by_worker[..6], &by_worker[6..12]), (&mac_of(&db, "eth0")[..], &gateway::MAC.0[..]));
    }
    lab.assert_frames_conserved();
}

#[test]
fn what_is_unusual_comes_to_the_worker_also_when_its_flow_passes_in_the_kernel() {
    let (lab, web, db) = shop("odd", with("on", 1));
    for family in [0, 1] {
        let plain = datagram(&web, &db, family, (0, 64), b"ordinary");
        both_ways(&lab, &web, &db, &plain);
        let wire = web.wire("eth0");
        let mut odd = vec![datagram(&web, &db, family, (0, 1), b"its last")];
        if family == 0 {
            // The first piece of a datagram of two.
            let mut piece = plain.clone();
            piece[20] = 0x20;
            // The sum of the header is off by as much.
            piece[24] = piece[24].wrapping_sub(0x20);
            odd.push(piece);
            let mut wrong = plain.clone();
            wrong[24] ^= 1;
            odd.push(wrong);
        }
        // A length that is not the frame's.
        odd.push([plain.as_slice(), &[0; 3]].concat());
        for frame in odd {
            warm(&lab, &web, &db, &plain);
            let (before, workers) = (status(&lab).frames, received_by_workers(&lab));
            wire.send(&frame).unwrap();
            until("a worker sees it", || received_by_workers(&lab) > workers);
            assert_eq!(status(&lab).frames, before, "the kernel carried {frame:02x?}");
        }
        let mut forged = plain.clone();
        forged[11] ^= 1;
        warm(&lab, &web, &db, &plain);
        let (before, spoofed) = (status(&lab).frames, lab.drops(DropReason::Spoofed));
        wire.send(&forged).unwrap();
        until("it is refused", || lab.drops(DropReason::Spoofed) > spoofed);
        assert_eq!(status(&lab).frames, before);
    }
}

/// Sends until one passes in the kernel again.
fn warm(lab: &Lab, web: &Place, db: &Place, frame: &[u8]) {
    let (wire, at) = (web.wire("eth0"), db.wire("eth0"));
    let before = status(lab).frames;
    until("it passes in the kernel again", || {
        wire.send(frame).unwrap();
        at.receive_where(LONG, |got| got.ends_with(&frame[frame.len() - 8..])).expect("it arrives");
        status(lab).frames > before
    });
}

#[test]
fn accounts_are_exact_whichever_way_frames_went() {
    let (lab, web, db) = shop("books", with("on", 1));
    keeps_books(&lab, &web, &db);
}

pub(crate) fn keeps_books(lab: &Lab, web: &Place, db: &Place) {
    for family in [0, 1] {
        let frame = datagram(web, db, family, (0, 64), b"count me");
        both_ways(lab, web, db, &frame);
        let (wire, flow) = (web.wire("eth0"), || flow_to(lab, both(db)[family], 9));
        let (before, ports) = (flow(), lab.ports().unwrap());
        let carried = status(lab).frames;
        for n in 0..1000 {
            wire.send(&frame).unwrap();
            // Some by the worker: what has a tail behind its packet, and what comes soon after it.
            if n % 100 == 0 {
                wire.send(&[frame.as_slice(), b"tail"].concat()).unwrap();
            }
            if n % 10 == 0 {
                std::thread::sleep(scaled(Duration::from_micros(500)));
            }
        }
        let bytes = 1000 * frame.len() as u64 + 10 * (frame.len() as u64 + 4);
        until("all are counted", || flow().forward_frames == before.forward_frames + 1010);
        assert_eq!(flow().forward_bytes, before.forward_bytes + bytes);
        assert!(status(lab).frames > carried + 500, "hardly any passed in the kernel");
        let sums = |ports: &[PortStatus], place: &Place| {
            let port = ports.iter().find(|port| port.addresses.contains(&both(place)[0])).unwrap();
            (port.rx_frames, port.rx_bytes, port.tx_frames, port.tx_bytes)
        };
        let now = lab.ports().unwrap();
        let (sender, receiver) = ((sums(&ports, web), sums(&now, web)), (sums(&ports, db), sums(&now, db)));
        let grew = |frames: (u64, u64), octets: (u64, u64)| {
            // A pod may say something of its own accord meanwhile, of no more than a few dozen bytes.
            let (more_frames, more_bytes) = (frames.1 - frames.0 - 1010, octets.1 - octets.0 - bytes);
            assert!(more_frames <= 5 && more_bytes <= more_frames * 200, "{sender:?} {receiver:?}");
        };
        grew((sender.0.0, sender.1.0), (sender.0.1, sender.1.1));
        grew((receiver.0.2, receiver.1.2), (receiver.0.3, receiver.1.3));
    }
    lab.assert_frames_conserved();
}

#[test]
fn flows_beyond_the_room_there_is_stay_with_the_worker() {
    let mut options = with("on", 1);
    options.switch_arguments.extend(["--shortcuts-max".to_owned(), "4".to_owned()]);
    let (lab, web, db) = shop("full", options);
    let sockets: Vec<UdpSocket> = (0..8).map(|_| udp_socket(&web, db.v4(), UDP)).collect();
    until("there is no room for some", || {
        for socket in &sockets {
            socket.send(b"hello").unwrap();
            assert!(socket.recv(&mut [0; 100]).is_ok(), "an answer, whoever carries it");
        }
        status(&lab).overflow > 0 && status(&lab).direct > 0
    });
    assert!(status(&lab).flows <= 4, "{:?}", status(&lab));
    lab.assert_frames_conserved();
}

#[test]
fn a_pod_that_gets_the_address_of_one_that_is_gone_gets_none_of_its_flows() {
    let pod_ranges = ["10.244.0.0/29", "fd00:10:244::/64"].map(|range| range.parse().unwrap()).to_vec();
    let (lab, web, db) = shop("reuse", LabOptions { pod_ranges, ..with("on", 1) });
    let address = db.v4();
    let socket = udp_socket(&web, address, UDP);
    warm_up(&lab, &socket);
    let before = status(&lab).frames;
    lab.detach(db).unwrap();
    for _ in 0..10 {
        let _ = socket.send(b"anybody");
    }
    assert_eq!(status(&lab).frames, before, "the kernel carried a frame to nobody");
    lab.apply("closed", crate::common::DENY_INGRESS);
    // Addresses are given out in turn: until it is this one's again.
    let mut others = Vec::new();
    let heir = loop {
        let pod = lab.pod("shop", &format!("heir{}", others.len()), &[("app", "db")]);
        if pod.v4() == address {
            break pod;
        }
        others.push(pod);
    };
    let arrived = heir.watch("eth0", |frame| frame.ends_with(b"anybody"));
    for _ in 0..20 {
        let _ = socket.send(b"anybody");
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!((arrived.count(), status(&lab).frames), (0, before));
}

#[test]
fn a_capture_sees_every_frame_of_a_flow_that_passed_in_the_kernel() {
    let (lab, web, db) = shop("seen", with("on", 1));
    let socket = udp_socket(&web, db.v4(), UDP);
    warm_up(&lab, &socket);
    let port =
        lab.ports().unwrap().into_iter().find(|port| port.addresses.contains(&db.v4().into())).unwrap().port;
    let mut stream = std::os::unix::net::UnixStream::connect(lab.instance().control_socket()).unwrap();
    let request = Request::Capture { port: Some(port), snap_len: 64 };
    penstock_api::wire::send(&mut stream, &request).unwrap();
    assert!(matches!(penstock_api::wire::receive(&mut stream), Ok(Response::Capturing)));
    std::thread::sleep(Duration::from_millis(100));
    let before = status(&lab).frames;
    for _ in 0..100 {
        socket.send(b"warm").unwrap();
        assert!(socket.recv(&mut [0; 100]).is_ok());
    }
    assert_eq!(status(&lab).frames, before);
    drop(stream);
    warm_up(&lab, &socket);
}

#[test]
fn however_often_policy_changes_nothing_passes_once_a_refusal_is_in_force() {
    let (lab, web, db) = shop("toggle", with("on", 2));
    let at = db.run(|| UdpSocket::bind((db.v4(), 7777))).unwrap();
    at.set_nonblocking(true).unwrap();
    let over = AtomicBool::new(false);
    let from: Vec<UdpSocket> = (0..4).map(|_| udp_socket(&web, db.v4(), 7777)).collect();
    let drain = || {
        let mut count = 0;
        while at.recv(&mut [0; 100]).is_ok() {
            count += 1;
        }
        count
    };
    std::thread::scope(|scope| {
        // Flows ask for the kernel at every moment of a change.
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                for socket in &from {
                    let _ = socket.send(b"again");
                }
                std::thread::sleep(Duration::from_micros(100));
            }
        });
        let _over = AtEnd(|| over.store(true, Ordering::Relaxed));
        for round in 0..20 {
            let before = status(&lab).frames;
            until("they pass in the kernel", || status(&lab).frames > before + 50);
            lab.apply("deny", crate::common::DENY_INGRESS);
            // What had arrived before.
            std::thread::sleep(scaled(Duration::from_millis(5)));
            drain();
            let carried = status(&lab).frames;
            std::thread::sleep(scaled(Duration::from_millis(30)));
            assert_eq!((drain(), status(&lab).frames), (0, carried), "round {round}");
            lab.remove("deny");
        }
    });
    lab.assert_frames_conserved();
}

#[test]
fn a_switch_that_finds_maps_of_another_version_replaces_them_and_pods_stay() {
    for arguments in [vec![], vec!["--tc-filters".to_owned()]] {
        let mut options = with("on", 1);
        options.switch_arguments.extend(arguments);
        let (lab, web, db) = shop("shapes", options);
        let socket = udp_socket(&web, db.v4(), UDP);
        warm_up(&lab, &socket);
        kill_switch(&lab, Signal::SIGTERM);
        let pin = lab.instance().bpf_dir().join("FLOWS");
        std::fs::remove_file(&pin).unwrap();
        let create = ["bpftool", "map", "create", pin.to_str().unwrap(), "type", "array", "key", "4"];
        let rest = ["value", "64", "entries", "16", "name", "FLOWS", "flags", "1024"];
        crate::common::by_hand(lab.host(), &[&create[..], &rest[..]].concat());
        lab.start_switch().unwrap();
        let notes = lab.status().unwrap().notes;
        assert!(notes.iter().any(|note| note.contains("another shape (FLOWS)")), "{notes:?}");
        assert_eq!(web.connect_within(db.v4(), TCP, LONG), Reached);
        web.listen_tcp(TCP);
        assert_eq!(db.connect_within(web.v6(), TCP, LONG), Reached);
        warm_up(&lab, &socket);
        lab.assert_frames_conserved();
    }
}
