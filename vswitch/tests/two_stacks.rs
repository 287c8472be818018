//! Two real TCP stacks talk through the switch, without root: smoltcp on both sides of a rig.
//!
//! What frames built one by one cannot show: that a stack finds its peer by ARP or neighbour discovery, completes a
//! handshake, keeps a window full, and closes, with every frame of it through the pipeline.

use penstock_api::artefact::{PodKey, PodPolicy, Program};
use penstock_api::{Artefact, DropReason, Generation, IdentityId, PortId, ProgramId};
use penstock_vswitch::rig::Rig;
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp;
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpAddress, IpCidr};
use std::collections::VecDeque;
use std::net::IpAddr;

/// A pod's interface: frames in and out.
#[derive(Default)]
struct Wire {
    received: VecDeque<Vec<u8>>,
    sent: VecDeque<Vec<u8>>,
}

struct Rx(Vec<u8>);
struct Tx<'a>(&'a mut VecDeque<Vec<u8>>);

impl RxToken for Rx {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl TxToken for Tx<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut frame = vec![0; len];
        let result = f(&mut frame);
        self.0.push_back(frame);
        result
    }
}

impl Device for Wire {
    type RxToken<'a> = Rx;
    type TxToken<'a> = Tx<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Rx, Tx<'_>)> {
        Some((Rx(self.received.pop_front()?), Tx(&mut self.sent)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Tx<'_>> {
        Some(Tx(&mut self.sent))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = 1514;
        capabilities
    }
}

/// A pod: a stack with one TCP socket.
struct Host {
    wire: Wire,
    interface: Interface,
    sockets: SocketSet<'static>,
    socket: SocketHandle,
    port: PortId,
}

impl Host {
    fn new(port: PortId, mac: [u8; 6], addresses: &[IpAddr]) -> Host {
        let mut wire = Wire::default();
        let config = Config::new(HardwareAddress::Ethernet(EthernetAddress(mac)));
        let mut interface = Interface::new(config, &mut wire, Instant::ZERO);
        interface.update_ip_addrs(|list| {
            for &address in addresses {
                // To such a stack all pods are on one link, and it asks for each of them.
                let cidr = IpCidr::new(IpAddress::from(address), if address.is_ipv4() { 24 } else { 64 });
                list.push(cidr).unwrap();
            }
        });
        let buffer = || tcp::SocketBuffer::new(vec![0; 64 * 1024]);
        let mut sockets = SocketSet::new(Vec::new());
        let socket = sockets.add(tcp::Socket::new(buffer(), buffer()));
        Host { wire, interface, sockets, socket, port }
    }

    fn socket(&mut self) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(self.socket)
    }
}

/// A switch, two pods that are open to each other, and a clock.
struct Bench {
    rig: Rig,
    hosts: [Host; 2],
    frames: u64,
}

impl Bench {
    fn new(workers: usize, isolated: bool) -> Bench {
        let mut rig = Rig::new(workers);
        let range = ["10.0.0.0/24".parse().unwrap(), "fd00::/64".parse().unwrap()];
        rig.host([2, 0, 0, 0, 0, 99], &["10.0.0.1".parse().unwrap()], &range, 1500);
        let mut artefact = Artefact { generation: Generation(1), ..Artefact::empty() };
        artefact.programs.push(Program::default());
        artefact.programs.push(Program { isolated, ..Program::default() });
        let hosts = [2u8, 3].map(|n| {
            let addresses: [IpAddr; 2] = [[10, 0, 0, n].into(), format!("fd00::{n}").parse().unwrap()];
            let (pod, mac) = (PodKey::new("ns", format!("pod{n}")), [2, 0, 0, 0, 0, n]);
            let port = rig.attach(pod.clone(), mac, &addresses, 1500);
            artefact.pods.push(PodPolicy {
                pod,
                addresses: addresses.to_vec(),
                identity: IdentityId(256 + u32::from(n)),
                other_identities: vec![],
                ingress: ProgramId(u32::from(n == 3)),
                egress: ProgramId(0),
            });
            Host::new(port, mac, &addresses)
        });
        rig.install(artefact);
        Bench { rig, hosts, frames: 0 }
    }

    /// A millisecond passes.
    fn step(&mut self) {
        self.rig.now_ms += 1;
        let now = Instant::from_millis(self.rig.now_ms as i64);
        for host in &mut self.hosts {
            host.interface.poll(now, &mut host.wire, &mut host.sockets);
            while let Some(frame) = host.wire.sent.pop_front() {
                self.rig.send(host.port, &frame);
            }
        }
        for delivered in self.rig.run() {
            self.frames += 1;
            if let Some(host) = self.hosts.iter_mut().find(|host| host.port == delivered.port) {
                host.wire.received.push_back(delivered.frame);
            }
        }
    }

    fn connect(&mut self, to: &str) {
        self.hosts[1].socket().listen(80).unwrap();
        let address: IpAddr = to.parse().unwrap();
        let Host { interface, sockets, socket, .. } = &mut self.hosts[0];
        sockets.get_mut::<tcp::Socket>(*socket).connect(interface.context(), (address, 80), 40_000).unwrap();
    }

    /// Sends `len` bytes, checks each of them, and closes both sides.
    fn transfer(&mut self, len: usize) {
        let byte = |at: usize| (at / 7 % 251) as u8;
        let (mut sent, mut received) = (0, 0);
        for _ in 0..20_000 {
            self.step();
            let sender = self.hosts[0].socket();
            if sender.may_send() && sent < len {
                sent += sender
                    .send(|room| {
                        let n = room.len().min(len - sent);
                        (0..n).for_each(|i| room[i] = byte(sent + i));
                        (n, n)
                    })
                    .unwrap();
                if sent == len {
                    sender.close();
                }
            }
            let receiver = self.hosts[1].socket();
            while receiver.can_recv() {
                received += receiver
                    .recv(|data| {
                        assert!(
                            data.iter().enumerate().all(|(i, b)| *b == byte(received + i)),
                            "bytes differ"
                        );
                        (data.len(), data.len())
                    })
                    .unwrap();
            }
            if received == len && !receiver.may_recv() {
                receiver.close();
                if receiver.state() == tcp::State::Closed {
                    return;
                }
            }
        }
        panic!("{received} of {len} bytes arrived; drops: {:?}", self.rig.all_drops());
    }
}

#[test]
fn a_megabyte_crosses_the_switch_over_ipv4_and_the_connection_closes() {
    let mut bench = Bench::new(1, false);
    bench.connect("10.0.0.3");
    bench.transfer(1 << 20);
    assert!(bench.frames > 700, "a megabyte is more than {} frames", bench.frames);
    assert!(
        bench.rig.drops(DropReason::Answered) > 0,
        "the peer was asked for by ARP, and the switch answered for it"
    );
}

#[test]
fn a_megabyte_crosses_the_switch_over_ipv6_with_two_workers() {
    let mut bench = Bench::new(2, false);
    bench.connect("fd00::3");
    bench.transfer(1 << 20);
    assert!(
        bench.rig.drops(DropReason::Answered) > 0,
        "the peer was asked for by neighbour discovery, and the switch answered for it"
    );
}

#[test]
fn a_stack_behind_a_deny_never_hears_of_the_connection() {
    let mut bench = Bench::new(1, true);
    bench.connect("10.0.0.3");
    for _ in 0..3_000 {
        bench.step();
    }
    assert_eq!(bench.hosts[0].socket().state(), tcp::State::SynSent);
    assert_eq!(bench.hosts[1].socket().state(), tcp::State::Listen);
    assert!(bench.rig.drops(DropReason::PolicyIngress) >= 2, "the handshake was tried again");
}
