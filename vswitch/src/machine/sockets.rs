//! A worker's sockets and the memory areas they use: the trunk's first, then those of its direct ports, each bound the best
//! way its driver offers, with what stood in the way of a better one.

use super::bulk::{BulkPort, Loan};
use super::{MachineError, Sockets, lock};
use crate::config::{BulkTransmit, Config, DirectPort, Shortcut, XdpMode};
use crate::io::abilities::MTU_OF_ONE_BUFFER;
use crate::io::bpf::{Programs, XdpProgram};
use crate::io::bulk::{Bulk, Gate};
use crate::io::device::Device;
use crate::io::maps::WORKERS_MAX;
use crate::io::memory::Memory;
use crate::io::setup::{Links, SetupError};
use crate::io::xsk::{Area, Xsk, XskConfig, XskError, ZERO_COPY_CHUNK};
use penstock_api::WorkerId;
use penstock_api::instance::inside;
use penstock_api::message::{AreaKind, DeviceStatus, gateway};
use penstock_net::netns::Netns;
use penstock_net::route::Netlink;
use penstock_net::xdp::XdpFeatures;
use penstock_net::{offload, reception};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

/// Of a socket's rings: some 5 ms of what a worker can do, for when the scheduler gives its CPU to somebody else.
const RING_LEN: u32 = 4096;
const ETHERNET_LEN: u16 = 14;

/// A queue of a direct port, and who has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DirectQueue {
    /// Index of the port among the direct ones.
    pub(super) port: usize,
    pub(super) queue: u32,
    pub(super) worker: usize,
    /// The index of its device there; 0 is the trunk.
    pub(super) device: usize,
    /// Where its socket is in the socket map.
    pub(super) slot: u32,
}

/// The queues of all direct ports, dealt out to the workers in turn.
pub(super) fn direct_queues(ports: &[DirectPort], workers: usize) -> Vec<DirectQueue> {
    let queues =
        ports.iter().enumerate().flat_map(|(port, direct)| direct.all_queues().map(move |q| (port, q)));
    queues
        .enumerate()
        .map(|(n, (port, queue))| DirectQueue {
            port,
            queue,
            worker: n % workers,
            device: 1 + n / workers,
            slot: (WORKERS_MAX + n) as u32,
        })
        .collect()
}

/// For each direct port, the worker by which this one sends to it, and the device there: itself where it has a queue of the port.
pub(super) fn direct_ways(queues: &[DirectQueue], worker: usize) -> Vec<(usize, usize)> {
    let ports = queues.iter().map(|queue| queue.port + 1).max().unwrap_or_default();
    let way = |port: usize| {
        let mut own = queues.iter().filter(|queue| queue.port == port);
        let first = own.clone().next();
        own.find(|queue| queue.worker == worker).or(first).map(|queue| (queue.worker, queue.device))
    };
    (0..ports).filter_map(way).collect()
}

/// A descriptor by number: aya wants something that has one.
pub(super) fn fd_of(fd: RawFd) -> impl AsRawFd {
    struct Number(RawFd);
    impl AsRawFd for Number {
        fn as_raw_fd(&self) -> RawFd {
            self.0
        }
    }
    Number(fd)
}

/// What is needed to make sockets.
pub(super) struct Builder<'a> {
    pub(super) config: &'a mut Config,
    pub(super) trunks_in_bulk: bool,
    pub(super) sockets: &'a Sockets,
    pub(super) programs: &'a Arc<Mutex<Programs>>,
    pub(super) notes: &'a mut Vec<String>,
    /// Interfaces of direct ports that have their program, how, and why not better.
    pub(super) attached: Vec<(String, (&'static str, String))>,
    /// What makes NICs let through what is for the gateway.
    pub(super) receptions: Vec<OwnedFd>,
    /// Direct ports frames may be sent to in bulk.
    pub(super) bulk_ports: Vec<BulkPort>,
    /// What tells which of them take such frames. Asked for once, when there is one.
    pub(super) features: Option<Result<XdpFeatures, String>>,
}

/// As many bytes as the area that copies has.
fn zero_copy_chunks(bench: &Bench) -> usize {
    (bench.memory.bytes(AreaKind::Copy) / u64::from(ZERO_COPY_CHUNK)) as usize
}

/// A worker's memory and devices, as they are being made.
pub(super) struct Bench {
    pub(super) memory: Memory,
    pub(super) devices: Vec<Device>,
    pub(super) statuses: Vec<DeviceStatus>,
    worker: usize,
    copy: Area,
    zero_copy: Option<Area>,
    multi_buffer: bool,
}

impl Builder<'_> {
    /// How many of an area's chunks each of its sockets may wait with: at most three quarters of them together, since answers,
    /// hand-overs and what is being sent need some too.
    fn receiving_max(&self, worker: usize, area: AreaKind, chunks: usize) -> usize {
        let queues = direct_queues(&self.config.direct, self.config.workers);
        let direct = queues.iter().filter(|queue| queue.worker == worker).count();
        let sockets = direct + usize::from(area == AreaKind::Copy);
        chunks * 3 / 4 / sockets.max(1)
    }

    /// A worker's memory and its trunk's socket.
    pub(super) fn trunk(
        &mut self,
        worker: usize,
        links: &Links,
        netns: &Arc<Netns>,
    ) -> Result<Bench, MachineError> {
        let frame_len = u32::from(self.config.mtu + ETHERNET_LEN);
        let chunk_size = if frame_len <= 2048 - 256 { 2048 } else { 4096 };
        let trunk = &links.trunks[worker];
        let multi_buffer = self.config.mtu > MTU_OF_ONE_BUFFER;
        let config = XskConfig {
            interface: trunk.far_name.clone(),
            queue: 0,
            netns: Some(Arc::clone(netns)),
            area: AreaKind::Copy,
            multi_buffer,
            ring_len: RING_LEN,
            receiving_max: self.receiving_max(worker, AreaKind::Copy, self.config.frames_per_worker),
        };
        // Nothing arrives at the near end but what tc programs send out of it: no queue of it ever feeds a socket.
        let near = inside::trunk_near(WorkerId(worker as u8));
        let anchor = XskConfig { interface: near, ..config.clone() };
        let (copy, mut memory) = Area::register(self.config.frames_per_worker as u32, chunk_size, &anchor)?;
        let mut xsk = Xsk::bind(config, copy.share())?;
        xsk.refill(&mut memory);
        self.announce(worker as u32, &xsk)?;
        // The near end is ours, and has GRO on.
        let bulk = self.trunks_in_bulk.then(|| self.bulk(&mut xsk, netns, trunk.far.index)).flatten();
        let why = match trunk.xdp.0 {
            "native" => "a veth has no zero-copy".to_owned(),
            _ => trunk.xdp.1.clone(),
        };
        let mode = format!("{} copy{}", trunk.xdp.0, if bulk.is_some() { ", bulk" } else { "" });
        let status = DeviceStatus { interface: trunk.far_name.clone(), queue: 0, mode, why };
        Ok(Bench {
            memory,
            devices: vec![Device::Trunk(Box::new(xsk))],
            statuses: vec![status],
            worker,
            copy,
            zero_copy: None,
            multi_buffer,
        })
    }

    /// Adds a queue of a direct port: without copying if it may be and the driver can, else copying, in the area of the trunk.
    pub(super) fn direct(
        &mut self,
        bench: &mut Bench,
        DirectQueue { port: index, queue, slot, .. }: DirectQueue,
        netns: &Arc<Netns>,
    ) -> Result<(), MachineError> {
        let port = &self.config.direct[index].clone();
        let failed = |reason: String| MachineError::Direct { interface: port.interface.clone(), reason };
        let netlink = Netlink::open().map_err(SetupError::from)?;
        let link = netlink.link(&port.interface).map_err(SetupError::from)?.ok_or_else(|| {
            failed("there is no interface of this name in the switch's namespace; see `ip link`".into())
        })?;
        let mtu = u16::try_from(link.mtu).unwrap_or(u16::MAX);
        self.config.direct[index].mtu = Some(mtu);
        // A tag must be seen to be refused, and what is merged no longer fits a frame. A NIC that does neither does without.
        for feature in ["rxvlan", "gro", "lro"] {
            let _ = offload::set(&port.interface, feature, false);
        }
        let (xdp, mut why) = self.attach(port)?;
        lock(self.programs).set_queue(XdpProgram::Direct, (link.index, queue), slot)?;
        let mut config = XskConfig {
            interface: port.interface.clone(),
            queue,
            netns: Some(Arc::clone(netns)),
            area: AreaKind::ZeroCopy,
            // Few drivers can do it without copying, and where the NIC receives nothing that long it would be asked for in vain.
            multi_buffer: bench.multi_buffer && mtu > MTU_OF_ONE_BUFFER,
            ring_len: RING_LEN,
            receiving_max: self.receiving_max(bench.worker, AreaKind::ZeroCopy, zero_copy_chunks(bench)),
        };
        let mut bound = None;
        match (port.mode, xdp) {
            (XdpMode::Auto | XdpMode::ZeroCopy, "native") => match self.zero_copy(bench, &config) {
                Ok(xsk) => bound = Some(xsk),
                Err(error) => {
                    let driver = offload::driver(&port.interface).unwrap_or_else(|_| "its driver".to_owned());
                    why = format!("{driver} refuses zero-copy: {}", error.reason());
                }
            },
            (XdpMode::Native, _) => why = "native, copying, was asked for".to_owned(),
            // The driver said no to the program; without that it would say no to the socket.
            _ => {}
        }
        let mut xsk = match bound {
            Some(xsk) => xsk,
            None if port.mode == XdpMode::ZeroCopy => {
                return Err(failed(format!(
                    "zero-copy was asked for, and {why}; set mode = \"auto\" to have it copy"
                )));
            }
            None => {
                config.area = AreaKind::Copy;
                config.multi_buffer = bench.multi_buffer;
                let chunks = bench.memory.chunks(AreaKind::Copy);
                config.receiving_max = self.receiving_max(bench.worker, AreaKind::Copy, chunks);
                Xsk::bind(config, bench.copy.share())?
            }
        };
        // Before the link goes up: igb looks for frames to fill when it starts, and never again until something is received.
        xsk.refill(&mut bench.memory);
        self.announce(slot, &xsk)?;
        // The far side speaks to the gateway, whose address is no NIC's.
        let accepted = reception::accept(link.index, gateway::MAC.0).map_err(|e| failed(e.to_string()))?;
        self.receptions.push(accepted);
        netlink.set_up(link.index, true).map_err(|e| failed(e.to_string()))?;
        let mode = match xsk.area() {
            AreaKind::ZeroCopy => "zero-copy".to_owned(),
            AreaKind::Copy => format!("{xdp} copy"),
        };
        if xsk.area() == AreaKind::Copy
            && let Some(reason) = self.direct_bulk(&mut xsk, netns, link.index)
        {
            why = format!("{why}; sent one by one: {reason}");
        }
        bench.statuses.push(DeviceStatus { interface: port.interface.clone(), queue, mode, why });
        bench.devices.push(Device::Direct { xsk: Box::new(xsk), index: index as u16, port: None });
        self.note_other_queues(port);
        Ok(())
    }

    /// Lets the frames of a direct port's socket be sent in bulk where that is wanted and possible. Why not, if it is a veth.
    fn direct_bulk(&mut self, xsk: &mut Xsk, netns: &Netns, ifindex: u32) -> Option<String> {
        let interface = xsk.config().interface.clone();
        let wanted = self.config.bulk_transmit;
        if wanted == BulkTransmit::Off || offload::driver(&interface).is_ok_and(|driver| driver != "veth") {
            return None;
        }
        // What comes this way goes into the far end's queue of this CPU, and what comes by a ring into that of the ring.
        if offload::transmit_queues(&interface).map_or(true, |queues| queues > 1) {
            return Some("it has several queues".to_owned());
        }
        let features = self.features.get_or_insert_with(|| XdpFeatures::open().map_err(|e| e.to_string()));
        if let Err(error) = features
            && wanted == BulkTransmit::Auto
        {
            let note = format!(
                "frames for direct ports are sent one by one: {error}; Linux 6.3 or newer tells which veths take many at once. \
                 bulk_transmit = \"on\" sends without asking"
            );
            if !self.notes.contains(&note) {
                self.notes.push(note);
            }
            return Some("the kernel does not tell whether it takes many at once".to_owned());
        }
        let counted_before = match BulkPort::counted(&interface) {
            Ok(counted) => counted,
            Err(error) => return Some(error.to_string()),
        };
        let loan = (self.config.shortcut == Shortcut::On).then(|| Arc::new(Loan::new()));
        // A veth with TSO on takes single frames past its queue, and they would overtake.
        if let Err(error) = offload::set(&interface, "tso", loan.is_some()) {
            return Some(error.to_string());
        }
        let Some(gate) = self.bulk(xsk, netns, ifindex) else {
            return Some("the kernel refused to send many at once, see the notes".to_owned());
        };
        self.bulk_ports.push(BulkPort::new(&interface, ifindex, gate, counted_before, loan));
        None
    }

    /// Gives the socket on a veth a second way, if the kernel can. What opens and shuts it.
    fn bulk(&mut self, xsk: &mut Xsk, netns: &Netns, ifindex: u32) -> Option<Arc<Gate>> {
        match Bulk::open(netns, ifindex) {
            Ok(bulk) => {
                let gate = Arc::clone(bulk.gate());
                xsk.set_bulk(bulk);
                Some(gate)
            }
            Err(error) => {
                let interface = &xsk.config().interface;
                self.notes.push(format!(
                    "{interface}: frames are not sent in bulk: {error}; Linux 5.18 or newer is needed"
                ));
                None
            }
        }
    }

    /// Attaches the program, once for all queues of an interface: `native` or `generic`, and why not better.
    fn attach(&mut self, port: &DirectPort) -> Result<(&'static str, String), MachineError> {
        let name = &port.interface;
        if let Some((_, attached)) = self.attached.iter().find(|(other, _)| other == name) {
            return Ok(attached.clone());
        }
        let mut programs = lock(self.programs);
        let attached = match port.mode {
            XdpMode::Generic => {
                let mode = programs.attach_xdp_generic(XdpProgram::Direct, name)?;
                (mode, "generic was asked for".to_owned())
            }
            XdpMode::Auto => programs.attach_xdp(XdpProgram::Direct, name, true)?,
            XdpMode::Native | XdpMode::ZeroCopy => programs.attach_xdp(XdpProgram::Direct, name, false)?,
        };
        self.attached.push((name.clone(), attached.clone()));
        Ok(attached)
    }

    /// A socket that does not copy. The worker's first makes the area.
    fn zero_copy(&self, bench: &mut Bench, config: &XskConfig) -> Result<Xsk, XskError> {
        if let Some(area) = &bench.zero_copy {
            return Xsk::bind(config.clone(), area.share());
        }
        let chunks = zero_copy_chunks(bench) as u32;
        let (xsk, area) = Xsk::bind_first(config.clone(), chunks, &mut bench.memory)?;
        bench.zero_copy = Some(area);
        Ok(xsk)
    }

    /// The program of an interface drops what arrives on a queue that is no port.
    fn note_other_queues(&mut self, port: &DirectPort) {
        let name = &port.interface;
        let ours = self.config.direct.iter().filter(|other| other.interface == *name);
        let ports: u32 = ours.map(|port| port.queues).sum();
        if let Ok(queues) = offload::receive_queues(name)
            && queues > ports
        {
            let note = format!(
                "{name} spreads what it receives over {queues} queues and {ports} of them are ports: what arrives on another is \
                 dropped; run `ethtool -L {name} combined {ports}`, or give a port more of them (queues)"
            );
            if !self.notes.contains(&note) {
                self.notes.push(note);
            }
        }
    }

    fn announce(&self, slot: u32, xsk: &Xsk) -> Result<(), MachineError> {
        if let Some(fd) = xsk.fd() {
            self.sockets[slot as usize].store(fd, Ordering::Relaxed);
            lock(self.programs).set_socket(slot, fd_of(fd))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports(queues: &[u32]) -> Vec<DirectPort> {
        let port = |queues: &u32| DirectPort {
            interface: "ens5".into(),
            queue: 0,
            queues: *queues,
            mode: XdpMode::Auto,
            addresses: Vec::new(),
            mac: Default::default(),
            pod: penstock_api::artefact::PodKey::new("a", "b"),
            mtu: None,
        };
        queues.iter().map(port).collect()
    }

    #[test]
    fn queues_go_to_the_workers_in_turn_and_each_worker_sends_by_its_own() {
        let queues = direct_queues(&ports(&[2, 1]), 2);
        let places: Vec<_> = queues.iter().map(|q| (q.port, q.queue, q.worker, q.device, q.slot)).collect();
        assert_eq!(places, [(0, 0, 0, 1, 16), (0, 1, 1, 1, 17), (1, 0, 0, 2, 18)]);
        assert_eq!(direct_ways(&queues, 0), [(0, 1), (0, 2)]);
        assert_eq!(direct_ways(&queues, 1), [(1, 1), (0, 2)]);
    }
}
