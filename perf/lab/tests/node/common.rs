//! What the tests of nodes share.

use etherparse::PacketBuilder;
use penstock_lab::{Lab, LabOptions, Place, Pod, scaled};
use penstock_net::Netlink;
use std::net::{IpAddr, UdpSocket};
use std::time::{Duration, Instant};

/// Longer than anything may take on a machine that compiles beside us, or has no CPU but an emulated one. Waited for by what fails.
pub(crate) const LONG: Duration = Duration::from_secs(20);

pub(crate) const TCP: u16 = 5432;
pub(crate) const UDP: u16 = 53;

/// Nobody may send to any pod of `shop`.
pub(crate) const DENY_INGRESS: &str = "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {namespace: shop, name: deny}, \
     spec: {podSelector: {}, policyTypes: [Ingress]}}";

/// A node with `shop/web` and `shop/db`; `db` echoes on [`TCP`] and [`UDP`].
pub(crate) fn shop(name: &str, options: LabOptions) -> (Lab, Pod, Pod) {
    let lab = Lab::with(name, options);
    let web = lab.pod("shop", "web", &[("app", "web")]);
    let db = lab.pod("shop", "db", &[("app", "db")]);
    db.listen_tcp(TCP);
    db.listen_udp(UDP);
    (lab, web, db)
}

pub(crate) fn workers(workers: u8) -> LabOptions {
    LabOptions { workers: Some(workers), ..LabOptions::default() }
}

/// Both addresses of a place.
pub(crate) fn both(place: &Place) -> [IpAddr; 2] {
    [place.v4().into(), place.v6().into()]
}

/// Waits until something is so. Panics with `what` when it does not become so.
#[track_caller]
pub(crate) fn until(what: &str, mut so: impl FnMut() -> bool) {
    let (began, most) = (Instant::now(), scaled(LONG));
    while !so() {
        assert!(began.elapsed() < most, "after {most:?} still not so: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Does the running kernel (`vmlinux`), or a module that is loaded, have a type, field or function of this name? What it can do
/// is asked of its own description of itself and not of its version: distributions carry features back.
pub(crate) fn kernel_has(module: &str, name: &str) -> bool {
    let path = format!("/sys/kernel/btf/{module}");
    let names =
        std::fs::read(&path).unwrap_or_else(|error| panic!("{path}, which says what it can do: {error}"));
    let name = [b"\0", name.as_bytes(), b"\0"].concat();
    names.windows(name.len()).any(|window| window == name)
}

/// Frames of several buffers. A kernel that has them tells of each NIC how many buffers it sends.
pub(crate) fn has_multi_buffer() -> bool {
    kernel_has("vmlinux", "xdp_zc_max_segs")
}

pub(crate) fn mac_of(place: &Place, interface: &str) -> [u8; 6] {
    Netlink::open_in(place.netns()).unwrap().existing(interface).unwrap().mac
}

pub(crate) fn set_mtu(place: &Place, interface: &str, mtu: u32) {
    let netlink = Netlink::open_in(place.netns()).unwrap();
    let index = netlink.existing(interface).unwrap().index;
    netlink.set_mtu(index, mtu).unwrap();
}

/// A whole UDP frame.
pub(crate) fn udp_frame(
    macs: ([u8; 6], [u8; 6]),
    addresses: (IpAddr, IpAddr),
    port: u16,
    payload: &[u8],
) -> Vec<u8> {
    let ethernet = PacketBuilder::ethernet2(macs.0, macs.1);
    let ip = match addresses {
        (IpAddr::V4(from), IpAddr::V4(to)) => ethernet.ipv4(from.octets(), to.octets(), 64),
        (IpAddr::V6(from), IpAddr::V6(to)) => ethernet.ipv6(from.octets(), to.octets(), 64),
        mixed => panic!("{mixed:?} are of two families"),
    };
    let mut frame = Vec::new();
    ip.udp(40_000, port).write(&mut frame, payload).unwrap();
    frame
}

/// Is it an IP packet to this address?
pub(crate) fn is_to(address: IpAddr) -> impl Fn(&[u8]) -> bool + Send + 'static {
    move |frame| {
        let (ether_type, range) = match address {
            IpAddr::V4(_) => ([0x08, 0x00], 30..34),
            IpAddr::V6(_) => ([0x86, 0xdd], 38..54),
        };
        let bytes = match address {
            IpAddr::V4(v4) => v4.octets().to_vec(),
            IpAddr::V6(v6) => v6.octets().to_vec(),
        };
        frame.get(12..14) == Some(&ether_type[..]) && frame.get(range) == Some(&bytes[..])
    }
}

/// A UDP socket of a place, of the family of `to` and connected to it.
pub(crate) fn udp_socket(place: &Place, to: impl Into<IpAddr>, port: u16) -> UdpSocket {
    let to = to.into();
    let any: IpAddr = if to.is_ipv4() { [0u8; 4].into() } else { [0u16; 8].into() };
    let socket = place.run(|| UdpSocket::bind((any, 0))).unwrap();
    socket.connect((to, port)).unwrap();
    socket.set_read_timeout(Some(LONG)).unwrap();
    socket
}

/// Something to be done at the end of a scope, whichever way it is left.
pub(crate) struct AtEnd<F: Fn()>(pub(crate) F);

impl<F: Fn()> Drop for AtEnd<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// Has a process ended, with all its threads? One that waits for its parent to ask has.
pub(crate) fn has_ended(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
    threads <= 1 && stat.rsplit_once(')').is_none_or(|(_, rest)| rest.trim_start().starts_with('Z'))
}

/// Sends the switch's process a signal and waits until it is gone. The control plane stays.
pub(crate) fn kill_switch(lab: &Lab, signal: nix::sys::signal::Signal) {
    let pid = lab.status().unwrap().pid;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap()), signal).unwrap();
    until("the switch has ended", || has_ended(pid));
}

/// The switch's own namespace.
pub(crate) fn inside(lab: &Lab) -> Place {
    Place::open(lab.instance().netns()).unwrap()
}

/// What an operator might do on the command line, inside a place. Panics when it fails.
#[track_caller]
pub(crate) fn by_hand(place: &Place, command: &[&str]) {
    let output = place.run(|| std::process::Command::new(command[0]).args(&command[1..]).output()).unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
