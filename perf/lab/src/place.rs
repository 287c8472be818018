//! A place to probe from: a pod, the node, or what lies behind the node.

use crate::probe::{self, Connection, DEFAULT_TIMEOUT, HttpAnswer, Outcome, scaled};
use crate::serve::{self, Server};
use crate::transfer::{self, Latency, RunningTransfer};
use crate::wire::{Watch, Wire};
use anyhow::Result;
use penstock_net::Netns;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// A namespace with addresses, servers and probes. Servers end with it.
#[derive(Debug)]
pub struct Place {
    name: String,
    netns: Netns,
    addresses: Vec<IpAddr>,
    servers: Mutex<Vec<Server>>,
}

/// What cannot fail but for a broken machine is not worth a `Result` in every test.
const GONE: &str = "the namespace cannot be entered";

impl Place {
    /// A namespace of the caller's making; the addresses are what others reach it by.
    pub fn new(name: impl Into<String>, netns: Netns, addresses: Vec<IpAddr>) -> Self {
        Place { name: name.into(), netns, addresses, servers: Mutex::default() }
    }

    /// A namespace that is there already, by its name. Its addresses are not looked up.
    pub fn open(netns: &str) -> Result<Self> {
        Ok(Place::new(netns, Netns::open(netns)?, vec![]))
    }

    /// `shop/db`, `host`, `outside`.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    pub fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    /// Its first IPv4 address. Panics when it has none.
    #[track_caller]
    pub fn v4(&self) -> Ipv4Addr {
        let first = self.addresses.iter().find_map(|a| if let IpAddr::V4(a) = a { Some(*a) } else { None });
        first.unwrap_or_else(|| panic!("{} has no IPv4 address, but {:?}", self.name, self.addresses))
    }

    /// Its first IPv6 address. Panics when it has none.
    #[track_caller]
    pub fn v6(&self) -> Ipv6Addr {
        let first = self.addresses.iter().find_map(|a| if let IpAddr::V6(a) = a { Some(*a) } else { None });
        first.unwrap_or_else(|| panic!("{} has no IPv6 address, but {:?}", self.name, self.addresses))
    }

    /// Runs anything inside.
    #[track_caller]
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        self.netns.run(f).expect(GONE)
    }

    fn keep(&self, server: Result<Server>) -> Result<()> {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner).push(server?);
        Ok(())
    }

    /// Echoes on a TCP port, both families. Panics when the port is taken.
    #[track_caller]
    pub fn listen_tcp(&self, port: u16) {
        self.keep(serve::tcp(&self.netns, port, serve::echo)).unwrap_or_else(|error| panic!("{error:#}"));
    }

    /// Echoes on a UDP port, both families. Panics when the port is taken.
    #[track_caller]
    pub fn listen_udp(&self, port: u16) {
        self.keep(serve::udp_echo(&self.netns, port)).unwrap_or_else(|error| panic!("{error:#}"));
    }

    /// Answers HTTP requests with `200` and the line `NAME METHOD PATH`, both families. Panics when the port is taken.
    #[track_caller]
    pub fn listen_http(&self, port: u16) {
        let name = self.name.clone();
        self.keep(serve::tcp(&self.netns, port, move |stream, over| serve::http(&name, stream, over)))
            .unwrap_or_else(|error| panic!("{error:#}"));
    }

    /// Ends every server; their ports are free again when their last connection is gone.
    pub fn stop_listening(&self) {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Connects to a TCP echo server and has a nonce echoed, within [`DEFAULT_TIMEOUT`].
    #[track_caller]
    pub fn connect(&self, to: impl Into<IpAddr>, port: u16) -> Outcome {
        self.connect_within(to, port, scaled(DEFAULT_TIMEOUT))
    }

    /// As [`Place::connect`] with another timeout.
    #[track_caller]
    pub fn connect_within(&self, to: impl Into<IpAddr>, port: u16, timeout: Duration) -> Outcome {
        let to = SocketAddr::new(to.into(), port);
        self.run(|| probe::tcp(to, timeout))
    }

    /// Opens a TCP connection to an echo server and keeps it.
    #[track_caller]
    pub fn open_connection(
        &self,
        to: impl Into<IpAddr>,
        port: u16,
        timeout: Duration,
    ) -> Result<Connection, Outcome> {
        let to = SocketAddr::new(to.into(), port);
        self.run(|| Connection::open(to, timeout))
    }

    /// Has a datagram of `payload_len` bytes echoed.
    #[track_caller]
    pub fn udp_echo(
        &self,
        to: impl Into<IpAddr>,
        port: u16,
        payload_len: usize,
        timeout: Duration,
    ) -> Outcome {
        let to = SocketAddr::new(to.into(), port);
        self.run(|| probe::udp(to, payload_len, timeout))
    }

    /// One ICMP or ICMPv6 echo with a payload of 56 bytes, within [`DEFAULT_TIMEOUT`].
    #[track_caller]
    pub fn ping(&self, to: impl Into<IpAddr>) -> Outcome {
        self.ping_with(to, 56, scaled(DEFAULT_TIMEOUT))
    }

    /// As [`Place::ping`], of another size.
    #[track_caller]
    pub fn ping_with(&self, to: impl Into<IpAddr>, payload_len: usize, timeout: Duration) -> Outcome {
        let to = to.into();
        self.run(|| probe::ping(to, payload_len, timeout))
    }

    /// `GET path`. Where no answer came, what happened instead.
    #[track_caller]
    pub fn http_get(
        &self,
        to: impl Into<IpAddr>,
        port: u16,
        path: &str,
        timeout: Duration,
    ) -> Result<HttpAnswer, Outcome> {
        let to = SocketAddr::new(to.into(), port);
        self.run(|| probe::http_get(to, path, timeout))
    }

    /// A socket for whole frames on one of its interfaces. Panics when there is no such interface.
    #[track_caller]
    pub fn wire(&self, interface: &str) -> Wire {
        Wire::open(&self.netns, interface).unwrap_or_else(|error| panic!("{error:#}"))
    }

    /// Counts the frames that arrive on one of its interfaces and are `wanted`, from now on.
    #[track_caller]
    pub fn watch(&self, interface: &str, wanted: impl Fn(&[u8]) -> bool + Send + 'static) -> Watch {
        Watch::start(self.wire(interface), wanted).unwrap_or_else(|error| panic!("{error:#}"))
    }

    /// Begins a bulk transfer to `address` of `to` over TCP `port`, which nobody may listen on.
    pub fn start_transfer(
        &self,
        to: &Place,
        address: impl Into<IpAddr>,
        port: u16,
        duration: Duration,
    ) -> Result<RunningTransfer> {
        transfer::start(self, to, address.into(), port, duration)
    }

    /// Asks `count` questions of 64 bytes of a TCP echo server over one connection.
    pub fn round_trips(&self, to: impl Into<IpAddr>, port: u16, count: usize) -> Result<Latency> {
        transfer::round_trips(self, SocketAddr::new(to.into(), port), count)
    }
}
