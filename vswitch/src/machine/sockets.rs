//! A worker's sockets and the memory areas they use: the trunk's first, then those of its direct ports, each bound the best
//! way its driver offers, with what stood in the way of a better one.

use super::{MachineError, Sockets, lock};
use crate::config::{Config, DirectPort, XdpMode};
use crate::io::bpf::{Programs, XdpProgram};
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
use penstock_net::{offload, reception};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

/// Of a socket's rings: some 5 ms of what a worker can do, for when the scheduler gives its CPU to somebody else.
const RING_LEN: u32 = 4096;
const ETHERNET_LEN: u16 = 14;

/// For each direct port: its worker, and the index of its device there (0 is the trunk).
pub(super) fn direct_places(ports: usize, workers: usize) -> Vec<(usize, usize)> {
    (0..ports).map(|port| (port % workers, 1 + port / workers)).collect()
}

/// Where a direct port's socket is in the socket map.
pub(super) fn direct_slot(index: usize) -> u32 {
    (WORKERS_MAX + index) as u32
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
    pub(super) sockets: &'a Sockets,
    pub(super) programs: &'a Arc<Mutex<Programs>>,
    pub(super) notes: &'a mut Vec<String>,
    /// Interfaces of direct ports that have their program, how, and why not better.
    pub(super) attached: Vec<(String, (&'static str, String))>,
    /// What makes NICs let through what is for the gateway.
    pub(super) receptions: Vec<OwnedFd>,
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
        let places = direct_places(self.config.direct.len(), self.config.workers);
        let direct = places.iter().filter(|(owner, _)| *owner == worker).count();
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
        let multi_buffer = frame_len > chunk_size - 256;
        let mut config = XskConfig {
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
        let register = |config: &XskConfig| {
            let anchor = XskConfig { interface: near.clone(), ..config.clone() };
            Area::register(self.config.frames_per_worker as u32, chunk_size, &anchor)
        };
        let (copy, mut memory) = match register(&config) {
            Err(error) if multi_buffer => {
                // Before Linux 6.6 a frame is one chunk.
                let mtu = (chunk_size - 256) as u16 - ETHERNET_LEN;
                let note = format!(
                    "{error}; without multi-buffer the MTU is {mtu} at most, not {}",
                    self.config.mtu
                );
                self.notes.push(note);
                config.multi_buffer = false;
                let registered = register(&config)?;
                self.config.mtu = mtu;
                registered
            }
            other => other?,
        };
        let multi_buffer = config.multi_buffer;
        let mut xsk = Xsk::bind(config, copy.share())?;
        xsk.refill(&mut memory);
        self.announce(worker as u32, &xsk)?;
        let why = match trunk.xdp.0 {
            "native" => "a veth has no zero-copy".to_owned(),
            _ => trunk.xdp.1.clone(),
        };
        let mode = format!("{} copy", trunk.xdp.0);
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

    /// Adds a direct port: without copying if it may be and the driver can, else copying, in the area of the trunk.
    pub(super) fn direct(
        &mut self,
        bench: &mut Bench,
        index: usize,
        port: &DirectPort,
        netns: &Arc<Netns>,
    ) -> Result<(), MachineError> {
        let failed = |reason: String| MachineError::Direct { interface: port.interface.clone(), reason };
        let netlink = Netlink::open().map_err(SetupError::from)?;
        let link = netlink.link(&port.interface).map_err(SetupError::from)?.ok_or_else(|| {
            failed("there is no interface of this name in the switch's namespace; see `ip link`".into())
        })?;
        // A tag must be seen to be refused, and what is merged no longer fits a frame. A NIC that does neither does without.
        for feature in ["rxvlan", "gro", "lro"] {
            let _ = offload::set(&port.interface, feature, false);
        }
        let (xdp, mut why) = self.attach(port)?;
        let queue = (link.index, port.queue);
        lock(self.programs).set_queue(XdpProgram::Direct, queue, direct_slot(index))?;
        let mut config = XskConfig {
            interface: port.interface.clone(),
            queue: port.queue,
            netns: Some(Arc::clone(netns)),
            area: AreaKind::ZeroCopy,
            multi_buffer: bench.multi_buffer,
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
                let chunks = bench.memory.chunks(AreaKind::Copy);
                config.receiving_max = self.receiving_max(bench.worker, AreaKind::Copy, chunks);
                Xsk::bind(config, bench.copy.share())?
            }
        };
        // Before the link goes up: igb looks for frames to fill when it starts, and never again until something is received.
        xsk.refill(&mut bench.memory);
        self.announce(direct_slot(index), &xsk)?;
        // The far side speaks to the gateway, whose address is no NIC's.
        let accepted = reception::accept(link.index, gateway::MAC.0).map_err(|e| failed(e.to_string()))?;
        self.receptions.push(accepted);
        netlink.set_up(link.index, true).map_err(|e| failed(e.to_string()))?;
        let mode = match xsk.area() {
            AreaKind::ZeroCopy => "zero-copy".to_owned(),
            AreaKind::Copy => format!("{xdp} copy"),
        };
        bench.statuses.push(DeviceStatus { interface: port.interface.clone(), queue: port.queue, mode, why });
        bench.devices.push(Device::Direct { xsk: Box::new(xsk), index: index as u16, port: None });
        self.note_other_queues(port);
        Ok(())
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
        let ports = self.config.direct.iter().filter(|other| other.interface == *name).count();
        if let Ok(queues) = offload::receive_queues(name)
            && queues as usize > ports
        {
            let note = format!(
                "{name} spreads what it receives over {queues} queues and {ports} of them are ports: what arrives on another is \
                 dropped; run `ethtool -L {name} combined {ports}`"
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
