//! The switch on a real machine: namespace, programs, sockets and workers, put together from a configuration.
//!
//! [`open`] makes or adopts everything and starts nothing; [`Workers::start`] starts the threads, once the server has left the
//! first snapshot in their mailboxes. [`Machine`] is the kernel side the server speaks to.

use crate::config::{Config, DirectPort, Polling, XdpMode};
use crate::flow::{self, Conntrack, FlowCache, FragmentLimits, FragmentTable, KeyHasher};
use crate::io::bpf::{BpfError, Programs, TcProgram};
use crate::io::coalesce::{self, Coalesce, Rate};
use crate::io::device::Device;
use crate::io::maps::{PORTS_MAX, PortEntry, WORKERS_MAX};
use crate::io::setup::{self, Links, Plan, SetupError};
use crate::io::xsk::{Area, Bind, Xsk, XskConfig, XskError, frames_lost};
use crate::server::{Kernel, KernelError, Workers};
use crate::snapshot::{PortRecord, Snapshot};
use crate::worker::counters::Counters;
use crate::worker::engine::{Engine, Parts};
use crate::worker::handover::Handover;
use crate::worker::mailbox::{Command, Mailbox};
use crate::worker::run::{self, Idle, RunConfig};
use crate::worker::watchdog::{self, Seen, Watched};
use penstock_api::instance::inside;
use penstock_api::message::DeviceStatus;
use penstock_api::{DropReason, PortId, WorkerId};
use penstock_net::netns::Netns;
use penstock_net::route::Netlink;
use std::os::fd::{AsRawFd, RawFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Of a socket's rings: some 5 ms of what a worker can do, for when the scheduler gives its CPU to somebody else.
const RING_LEN: u32 = 4096;
const HANDOVER_SLOTS: usize = 512;
/// How long an adaptive worker looks for work before it sleeps. Waking takes the kernel tens of microseconds.
const ADAPTIVE_SPIN: Duration = Duration::from_micros(50);
const ETHERNET_LEN: u16 = 14;

#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    #[error("{0}")]
    Setup(#[from] SetupError),
    #[error("{0}")]
    Bpf(#[from] BpfError),
    #[error("{0}")]
    Xsk(#[from] XskError),
    #[error("flow table {0}: {1}")]
    Flows(String, flow::OpenError),
    #[error("direct port {interface}: {reason}")]
    Direct { interface: String, reason: String },
    #[error("cannot start a worker: {0}")]
    Thread(std::io::Error),
}

/// The kernel side of a running switch.
#[derive(Debug)]
pub struct Machine {
    links: Links,
    programs: Arc<Mutex<Programs>>,
    devices: Vec<Vec<DeviceStatus>>,
    sockets: Sockets,
    ports: Vec<PortId>,
    notes: Vec<String>,
}

/// The present descriptor of each socket, by slot of the socket map; -1 where there is none.
type Sockets = Arc<Vec<AtomicI32>>;

/// Workers that are ready and do not run yet.
#[derive(Debug)]
pub struct Idlers {
    engines: Vec<(Engine, RunConfig)>,
    programs: Arc<Mutex<Programs>>,
    counters: Vec<Arc<Counters>>,
    mailboxes: Vec<Arc<Mailbox>>,
    coalesce: Vec<Option<Coalesce>>,
}

/// Running workers, and the thread that watches them.
#[derive(Debug)]
pub struct Crew {
    threads: Vec<JoinHandle<()>>,
    watch: Option<JoinHandle<()>>,
    stopping: Arc<AtomicBool>,
}

fn lock(programs: &Mutex<Programs>) -> MutexGuard<'_, Programs> {
    // The maps are the kernel's; a panic elsewhere leaves nothing half done in them.
    programs.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes or adopts the instance. The caller's namespace is the host's. Lowers `config.mtu` when the kernel cannot do it.
pub fn open(config: &mut Config) -> Result<(Machine, Workers, Idlers), MachineError> {
    let plan = |config: &Config| Plan {
        instance: config.instance.clone(),
        workers: config.workers,
        mtu: config.mtu,
        pod_ranges: config.pod_ranges.clone(),
    };
    let mut notes = Vec::new();
    if config.ports_max > PORTS_MAX {
        notes.push(format!("ports_max is {}, the kernel programs know {PORTS_MAX}", config.ports_max));
        config.ports_max = PORTS_MAX;
    }
    let (mut links, programs) = setup::ensure(&plan(config))?;
    notes.append(&mut links.notes);
    let rounds = Arc::new(programs.rounds()?);
    let programs = Arc::new(Mutex::new(programs));
    let sockets: Sockets = Arc::new((0..64).map(|_| AtomicI32::new(-1)).collect());

    let counters: Vec<_> = (0..config.workers).map(|_| Arc::new(Counters::new(config.ports_max))).collect();
    let mailboxes = (0..config.workers)
        .map(|_| Mailbox::new().map(Arc::new))
        .collect::<Result<Vec<_>, _>>()
        .map_err(MachineError::Thread)?;
    let handover = Handover::new(mailboxes.clone(), HANDOVER_SLOTS, usize::from(config.mtu) + 64);
    let direct: Vec<(usize, usize)> = direct_places(config.direct.len(), config.workers);
    let empty = Arc::new(Snapshot::empty());
    let tables = open_flow_tables(config, &mut notes)?;
    let inside = Arc::new(Netns::open(config.instance.netns()).map_err(SetupError::from)?);
    let outside = Arc::new(Netns::current().map_err(SetupError::from)?);

    let mut builder = Builder { config, sockets: &sockets, programs: &programs, notes: &mut notes };
    let mut engines = Vec::new();
    let mut devices = Vec::new();
    for (worker, conntrack) in tables.into_iter().enumerate() {
        let mut statuses = Vec::new();
        let (area, memory, trunk) = builder.trunk(worker, &links, &inside, &mut statuses)?;
        let mut list = vec![trunk];
        for (index, port) in builder.config.direct.iter().enumerate() {
            if direct[index].0 == worker {
                list.push(builder.direct(index, port, &area, &outside, &mut statuses)?);
            }
        }
        let id = WorkerId(worker as u8);
        counters[worker].umem_bytes.set(memory.bytes());
        counters[worker].flows_max.set(conntrack.capacity() as u64);
        let announce_slots: Vec<u32> = std::iter::once(worker as u32)
            .chain((0..direct.len()).filter(|i| direct[*i].0 == worker).map(direct_slot))
            .collect();
        let (announce_programs, announce_sockets) = (Arc::clone(&programs), Arc::clone(&sockets));
        let engine = Engine::new(Parts {
            worker: id,
            devices: list,
            direct: direct.clone(),
            cache: FlowCache::new(builder.config.flows_max / 2),
            fragments: FragmentTable::new(
                FragmentLimits { held_max: (memory.chunks() / 8).min(1024), ..FragmentLimits::default() },
                KeyHasher::random(),
            ),
            memory,
            conntrack,
            snapshot: Arc::clone(&empty),
            counters: Arc::clone(&counters[worker]),
            mailbox: Arc::clone(&mailboxes[worker]),
            handover: handover.clone(),
        });
        let run = RunConfig {
            idle: match builder.config.polling {
                Polling::Busy => Idle::Spin,
                Polling::Adaptive => Idle::SpinThenSleep(ADAPTIVE_SPIN),
                Polling::Interrupt => Idle::Sleep,
            },
            cpu: builder.config.cpu_of(id),
            rounds: Some(Arc::clone(&rounds)),
            announce: Some(Box::new(move |device, fd| {
                let slot = *announce_slots.get(device).ok_or("no slot for the device")?;
                announce_sockets[slot as usize].store(fd, Ordering::Relaxed);
                lock(&announce_programs).set_socket(slot, fd_of(fd)).map_err(|e| e.to_string())
            })),
        };
        engines.push((engine, run));
        devices.push(statuses);
    }
    let coalesce = open_coalesce(&links, &mut notes);
    let machine =
        Machine { links, programs: Arc::clone(&programs), devices, sockets, ports: Vec::new(), notes };
    let workers = Workers { mailboxes: mailboxes.clone(), counters: counters.clone() };
    Ok((machine, workers, Idlers { engines, programs, counters, mailboxes, coalesce }))
}

/// What makes trunks collect frames, by worker. The operator is told once where the kernel does not have it.
fn open_coalesce(links: &Links, notes: &mut Vec<String>) -> Vec<Option<Coalesce>> {
    let mut list = Vec::new();
    for trunk in &links.trunks {
        list.push(match Coalesce::open(&links.netns, &trunk.near.name) {
            Ok(coalesce) => Some(coalesce),
            Err(error) => {
                notes.push(format!(
                    "{} cannot collect frames into batches, bulk transfers are slower: {error}; Linux 5.8 or newer and \
                     CAP_SYS_ADMIN are needed",
                    trunk.near.name
                ));
                None
            }
        });
    }
    list
}

/// A descriptor by number: aya wants something that has one.
fn fd_of(fd: RawFd) -> impl AsRawFd {
    struct Number(RawFd);
    impl AsRawFd for Number {
        fn as_raw_fd(&self) -> RawFd {
            self.0
        }
    }
    Number(fd)
}

/// For each direct port: its worker, and the index of its device there (0 is the trunk).
fn direct_places(ports: usize, workers: usize) -> Vec<(usize, usize)> {
    (0..ports).map(|port| (port % workers, 1 + port / workers)).collect()
}

fn direct_slot(index: usize) -> u32 {
    (WORKERS_MAX + index) as u32
}

/// What is needed to make sockets.
struct Builder<'a> {
    config: &'a mut Config,
    sockets: &'a Sockets,
    programs: &'a Arc<Mutex<Programs>>,
    notes: &'a mut Vec<String>,
}

impl Builder<'_> {
    /// How many frames each socket of a worker may wait with: at most three quarters of the memory together, since answers,
    /// hand-overs and what is being sent need frames too.
    fn receiving_max(&self, worker: usize) -> usize {
        let direct = direct_places(self.config.direct.len(), self.config.workers);
        let sockets = 1 + direct.iter().filter(|(owner, _)| *owner == worker).count();
        self.config.frames_per_worker * 3 / 4 / sockets
    }

    /// A worker's memory and its trunk's socket.
    fn trunk(
        &mut self,
        worker: usize,
        links: &Links,
        netns: &Arc<Netns>,
        statuses: &mut Vec<DeviceStatus>,
    ) -> Result<(Area, crate::io::memory::Memory, Device), MachineError> {
        let frame_len = u32::from(self.config.mtu + ETHERNET_LEN);
        let chunk_size = if frame_len <= 2048 - 256 { 2048 } else { 4096 };
        let trunk = &links.trunks[worker];
        let multi_buffer = frame_len > chunk_size - 256;
        let mut config = XskConfig {
            interface: trunk.far_name.clone(),
            queue: 0,
            netns: Some(Arc::clone(netns)),
            bind: Bind::Copy,
            multi_buffer,
            ring_len: RING_LEN,
            receiving_max: self.receiving_max(worker),
        };
        // Nothing arrives at the near end but what tc programs send out of it: no queue of it ever feeds a socket.
        let near = inside::trunk_near(WorkerId(worker as u8));
        let register = |config: &XskConfig| {
            let anchor = XskConfig { interface: near.clone(), ..config.clone() };
            Area::register(self.config.frames_per_worker as u32, chunk_size, &anchor)
        };
        let (area, mut memory) = match register(&config) {
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
        let shared = area.share();
        let mut xsk = Xsk::bind(config, area)?;
        xsk.refill(&mut memory);
        self.announce(worker as u32, &xsk)?;
        let why = match trunk.xdp.0 {
            "native" => "a veth has no zero-copy".to_owned(),
            _ => trunk.xdp.1.clone(),
        };
        let mode = format!("{} copy", trunk.xdp.0);
        statuses.push(DeviceStatus { interface: trunk.far_name.clone(), queue: 0, mode, why });
        Ok((shared, memory, Device::Trunk(Box::new(xsk))))
    }

    /// A direct port's socket, over its worker's memory.
    fn direct(
        &self,
        index: usize,
        port: &DirectPort,
        area: &Area,
        netns: &Arc<Netns>,
        statuses: &mut Vec<DeviceStatus>,
    ) -> Result<Device, MachineError> {
        let failed = |reason: String| MachineError::Direct { interface: port.interface.clone(), reason };
        // The kernel would bind it copying and say nothing: a socket that shares an area has the mode of its first.
        if port.mode == XdpMode::ZeroCopy {
            return Err(failed(
                "zero-copy needs memory of its own, which this version has not; set mode = \"auto\"".into(),
            ));
        }
        let netlink = Netlink::open().map_err(SetupError::from)?;
        let link = netlink.link(&port.interface).map_err(SetupError::from)?.ok_or_else(|| {
            failed("there is no interface of this name in the switch's namespace; see `ip link`".into())
        })?;
        let mut programs = lock(self.programs);
        let generic_only = port.mode == XdpMode::Generic;
        let (xdp, mut why) = match generic_only {
            true => (programs.attach_xdp_generic(&port.interface)?, "generic was asked for".to_owned()),
            false => programs.attach_xdp(&port.interface, port.mode == XdpMode::Auto)?,
        };
        programs.set_queue(link.index, port.queue, direct_slot(index))?;
        drop(programs);
        let config = XskConfig {
            interface: port.interface.clone(),
            queue: port.queue,
            netns: Some(Arc::clone(netns)),
            bind: Bind::Copy,
            multi_buffer: false,
            ring_len: RING_LEN,
            receiving_max: self.receiving_max(index % self.config.workers),
        };
        if why.is_empty() {
            why = "the worker's memory is registered for copying, with its trunk".to_owned();
        }
        let (xsk, mode) = (Xsk::bind(config, area.share())?, format!("{xdp} copy"));
        self.announce(direct_slot(index), &xsk)?;
        statuses.push(DeviceStatus { interface: port.interface.clone(), queue: port.queue, mode, why });
        Ok(Device::Direct { xsk: Box::new(xsk), index: index as u16, port: None })
    }

    fn announce(&self, slot: u32, xsk: &Xsk) -> Result<(), MachineError> {
        if let Some(fd) = xsk.fd() {
            self.sockets[slot as usize].store(fd, Ordering::Relaxed);
            lock(self.programs).set_socket(slot, fd_of(fd))?;
        }
        Ok(())
    }
}

/// One table per worker, each flow at its owner, also after the number of workers changed.
fn open_flow_tables(config: &Config, notes: &mut Vec<String>) -> Result<Vec<Conntrack>, MachineError> {
    let now_ms = run::monotonic_ms();
    let settings = flow::Settings::sized(config.flows_max);
    let path = |worker: usize| -> PathBuf {
        let mut path = config.instance.shm_prefix().into_os_string();
        path.push(format!("-flows-{worker}"));
        path.into()
    };
    let mut tables = Vec::new();
    for worker in 0..config.workers {
        let path = path(worker);
        let table = match config.shm {
            true => match Conntrack::open(&path, settings.clone(), now_ms) {
                Ok((table, adopted)) => {
                    tracing::info!(
                        worker,
                        kept = adopted.kept,
                        discarded = adopted.discarded,
                        "flow table open"
                    );
                    table
                }
                Err(error) => return Err(MachineError::Flows(path.display().to_string(), error)),
            },
            false => Conntrack::create(settings.clone())
                .map_err(|error| MachineError::Flows("in private memory".to_owned(), error))?,
        };
        tables.push(table);
    }
    if config.shm {
        let leftovers: Vec<PathBuf> =
            (config.workers..WORKERS_MAX).map(path).filter(|path| path.exists()).collect();
        let owner = |key: &crate::packet::FlowKey| key.owner(config.workers);
        if let Err(error) = flow::adopt_into(&leftovers, &mut tables, owner, now_ms) {
            notes.push(format!("flows of workers there no longer are were not taken over: {error}"));
        }
    }
    Ok(tables)
}

impl Idlers {
    /// Starts the threads.
    pub fn start(self) -> Result<Crew, MachineError> {
        let Idlers { engines, programs, counters, mailboxes, coalesce } = self;
        let stopping = Arc::new(AtomicBool::new(false));
        let threads = engines
            .into_iter()
            .map(|(engine, config)| run::spawn(engine, config))
            .collect::<Result<Vec<_>, _>>()
            .map_err(MachineError::Thread)?;
        let flag = Arc::clone(&stopping);
        let watch = std::thread::Builder::new()
            .name("watchdog".to_owned())
            .spawn(move || watch(&programs, &counters, &mailboxes, coalesce, &flag))
            .map_err(MachineError::Thread)?;
        Ok(Crew { threads, watch: Some(watch), stopping })
    }
}

impl Crew {
    /// Has a thread ended although nobody told it to?
    pub fn has_lost_one(&self) -> bool {
        self.threads.iter().chain(&self.watch).any(JoinHandle::is_finished)
    }

    /// Waits for the workers, which were told to stop through their mailboxes.
    pub fn join(mut self) {
        self.stopping.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..).chain(self.watch.take()) {
            if thread.join().is_err() {
                tracing::error!("a worker had panicked");
            }
        }
    }
}

/// Sees trunks into which the port programs send while nothing arrives, and has their sockets bound anew. Has trunks of busy
/// workers collect frames.
fn watch(
    programs: &Mutex<Programs>,
    counters: &[Arc<Counters>],
    mailboxes: &[Arc<Mailbox>],
    mut coalesce: Vec<Option<Coalesce>>,
    stopping: &AtomicBool,
) {
    let look = |worker: usize| {
        let counters = &counters[worker];
        let sent = lock(programs).trunk_frames(WorkerId(worker as u8)).0;
        Seen { sent, received: counters.received.get(), rounds: counters.rounds.get() }
    };
    let mut workers: Vec<Watched> = (0..counters.len()).map(|worker| Watched::new(look(worker))).collect();
    let mut rates: Vec<Rate> = counters.iter().map(|_| Rate::default()).collect();
    let mut next_look = Instant::now() + watchdog::INTERVAL;
    while !stopping.load(Ordering::Relaxed) {
        std::thread::sleep(coalesce::INTERVAL);
        for ((rate, counters), coalesce) in rates.iter_mut().zip(counters).zip(&mut coalesce) {
            if let (Some(is_on), Some(near)) = (rate.look(counters.received.get()), coalesce.as_mut())
                && let Err(error) = near.set(is_on)
            {
                tracing::warn!("a trunk's batching cannot be changed any more: {error}");
                *coalesce = None;
            }
        }
        let now = Instant::now();
        if now < next_look {
            continue;
        }
        next_look = now + watchdog::INTERVAL;
        for (worker, watched) in workers.iter_mut().enumerate() {
            if watched.look(look(worker), now) {
                tracing::warn!(worker, "frames go into the trunk and none arrive: binding its socket anew");
                let _ = mailboxes[worker].send(Command::Rebind);
            }
        }
    }
}

impl Machine {
    fn inside<T: Send>(
        &self,
        f: impl FnOnce(&mut Programs, &Netlink) -> Result<T, KernelError> + Send,
    ) -> Result<T, KernelError> {
        let programs = &self.programs;
        self.links
            .netns
            .run(|| {
                let netlink = Netlink::open().map_err(KernelError::new)?;
                f(&mut lock(programs), &netlink)
            })
            .map_err(|e| KernelError::new(format!("cannot enter the switch's namespace: {e}")))?
    }
}

impl Kernel for Machine {
    fn attach_pod(&mut self, port: &PortRecord, host_end: &str) -> Result<(), KernelError> {
        self.inside(|programs, netlink| {
            let link = netlink.existing(host_end).map_err(KernelError::new)?;
            let entry =
                PortEntry::new(link.index, port.mtu, port.mac, &port.addresses).map_err(KernelError::new)?;
            // An entry of an earlier interface must not stay behind under its old index.
            if programs.port(port.id).is_some_and(|old| old.ifindex != link.index) {
                programs.clear_port(port.id).map_err(KernelError::new)?;
            }
            programs.set_port(port.id, entry).map_err(KernelError::new)?;
            programs.attach_tc(TcProgram::Pod, host_end).map_err(KernelError::new)?;
            netlink.set_up(link.index, true).map_err(KernelError::new)
        })?;
        if !self.ports.contains(&port.id) {
            self.ports.push(port.id);
        }
        Ok(())
    }

    fn detach_pod(&mut self, port: PortId, host_end: &str) -> Result<(), KernelError> {
        self.ports.retain(|known| *known != port);
        self.inside(|programs, netlink| {
            if let Some(link) = netlink.link(host_end).map_err(KernelError::new)? {
                match netlink.set_up(link.index, false) {
                    Err(error) if !error.is_not_found() => return Err(KernelError::new(error)),
                    _ => {}
                }
            }
            programs.clear_port(port).map_err(KernelError::new)
        })
    }

    fn check_pod(&mut self, port: &PortRecord, host_end: &str) -> Result<(), KernelError> {
        let trunks = &self.links.trunks;
        self.inside(|programs, netlink| {
            let link = netlink.existing(host_end).map_err(KernelError::new)?;
            let wrong = |what: &str| {
                Err(KernelError::new(format!("{host_end}: {what}; delete the pod and create it anew")))
            };
            match programs.port(port.id) {
                Some(entry) if entry.ifindex == link.index && entry.mac == port.mac => {}
                _ => return wrong("the kernel's port table does not hold it"),
            }
            if !link.is_up {
                return wrong("the interface is down");
            }
            // What every pod depends on, too: nobody else asks.
            let mut gone = Vec::new();
            let mut missing = |is_there: Result<bool, BpfError>, interface: &str| {
                is_there
                    .map(|there| gone.extend((!there).then(|| interface.to_owned())))
                    .map_err(KernelError::new)
            };
            missing(programs.attach_tc(TcProgram::Pod, host_end), host_end)?;
            missing(programs.attach_tc(TcProgram::Host, inside::HOST), inside::HOST)?;
            for trunk in trunks {
                missing(programs.attach_tc(TcProgram::Trunk, &trunk.near.name), &trunk.near.name)?;
                missing(programs.ensure_xdp(&trunk.far_name), &trunk.far_name)?;
            }
            match gone.as_slice() {
                [] => Ok(()),
                _ => Err(KernelError::new(format!(
                    "the program of {} was gone; it has been attached again",
                    gone.join(", ")
                ))),
            }
        })
    }

    fn drops(&mut self) -> Vec<(Option<PortId>, DropReason, u64)> {
        let ports = self.ports.iter().copied().chain([PortId::HOST]);
        let mut drops = lock(&self.programs).drops(ports);
        let lost: u64 = self
            .sockets
            .iter()
            .map(|socket| socket.load(Ordering::Relaxed))
            .filter(|socket| *socket >= 0)
            .map(frames_lost)
            .sum();
        if lost > 0 {
            drops.push((None, DropReason::RxFull, lost));
        }
        drops
    }

    fn devices(&self, worker: WorkerId) -> Vec<DeviceStatus> {
        self.devices.get(worker.index()).cloned().unwrap_or_default()
    }

    fn host_end_exists(&mut self, host_end: &str) -> Result<bool, KernelError> {
        self.inside(|_, netlink| Ok(netlink.link(host_end).map_err(KernelError::new)?.is_some()))
    }

    fn host_mac(&self) -> [u8; 6] {
        self.links.host_mac
    }

    fn notes(&self) -> Vec<String> {
        self.notes.clone()
    }
}

/// Removes everything of an instance: interfaces, namespace, programs, maps, tables. State on disk is the caller's.
pub fn remove(instance: &penstock_api::Instance) -> Result<(), MachineError> {
    setup::remove(instance)?;
    for worker in 0..WORKERS_MAX {
        let mut path = instance.shm_prefix().into_os_string();
        path.push(format!("-flows-{worker}"));
        let _ = std::fs::remove_file(path);
    }
    Ok(())
}
