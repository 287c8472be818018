//! The shortcut: flows that are established and allowed pass in the kernel, and nobody can tell but by the speed.

use crate::common::{LONG, TCP, UDP, both, kill_switch, shop, udp_socket, until, workers};
use nix::sys::signal::Signal;
use penstock_api::message::{FlowStatus, ShortcutStatus};
use penstock_lab::Outcome::{Reached, TimedOut};
use penstock_lab::{Lab, LabOptions, Place};
use std::net::{IpAddr, UdpSocket};
use std::time::Duration;

fn with(shortcut: &str, count: u8) -> LabOptions {
    let switch_arguments = vec!["--shortcut".to_owned(), shortcut.to_owned()];
    LabOptions { switch_arguments, ..workers(count) }
}

fn status(lab: &Lab) -> ShortcutStatus {
    lab.status().unwrap().shortcut
}

/// The flow to this port of this address that carried most.
fn flow_to(lab: &Lab, to: IpAddr, port: u16) -> FlowStatus {
    let flows = lab.flows().unwrap();
    let to_it = flows.into_iter().filter(|flow| flow.destination == to && flow.destination_port == port);
    to_it.max_by_key(|flow| flow.forward_bytes).expect("the flow is known")
}

fn received_by_workers(lab: &Lab) -> u64 {
    lab.status().unwrap().workers.iter().map(|worker| worker.rx_frames).sum()
}

/// Sends with pauses until the flow passes in the kernel.
#[track_caller]
fn warm_up(lab: &Lab, socket: &UdpSocket) {
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
struct Numbered<'a> {
    from: UdpSocket,
    to: UdpSocket,
    next: u64,
    seen: u64,
    received: u64,
    overtaken: u64,
    _places: (&'a Place, &'a Place),
}

impl<'a> Numbered<'a> {
    fn new(from: &'a Place, to: &'a Place, address: IpAddr) -> Numbered<'a> {
        let at = to.run(|| UdpSocket::bind((address, 7777))).unwrap();
        at.set_nonblocking(true).unwrap();
        let socket = udp_socket(from, address, 7777);
        Numbered { from: socket, to: at, next: 0, seen: 0, received: 0, overtaken: 0, _places: (from, to) }
    }

    fn send(&mut self) {
        self.next += 1;
        let _ = self.from.send(&self.next.to_be_bytes());
        self.receive();
    }

    fn receive(&mut self) {
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
    let mut numbered = Numbered::new(&web, &db, db.v4().into());
    let mut into_kernel = 0;
    for round in 0..20 {
        let before = status(&lab).frames;
        for n in 0..3000 {
            numbered.send();
            // Bursts of every length up to 50, with pauses as long as a frame takes through userspace and much shorter ones.
            if n % (1 + round * 5 % 50) == 0 {
                std::thread::sleep(Duration::from_micros(20 * (round % 7)));
            }
        }
        into_kernel += u64::from(status(&lab).frames > before);
        // Out again: what policy says of one end is another revision.
        lab.apply("none", &format!("{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{namespace: shop, name: none}}, \
             spec: {{podSelector: {{matchLabels: {{app: db}}}}, policyTypes: [Ingress], ingress: [{{}}, {{from: [{{ipBlock: {{cidr: 192.0.2.{round}/32}}}}]}}]}}}}"));
    }
    std::thread::sleep(Duration::from_millis(50));
    numbered.receive();
    eprintln!("{} sent, {} received, in the kernel in {into_kernel} of 20 rounds", numbered.next, numbered.received);
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
    socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    while socket.recv(&mut [0; 100]).is_ok() {}
    let before = status(&lab).frames;
    for _ in 0..20 {
        socket.send(b"refused").unwrap();
    }
    assert!(socket.recv(&mut [0; 100]).is_err(), "an answer although it is refused");
    assert_eq!(connection.echo(Duration::from_millis(300)), TimedOut);
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
