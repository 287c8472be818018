//! The switch on a real machine: namespace, programs, sockets and workers, put together from a configuration.
//!
//! [`open`] makes or adopts everything and starts nothing; [`Workers::start`] starts the threads, once the server has left the
//! first snapshot in their mailboxes. [`Machine`] is the kernel side the server speaks to.

mod bulk;
mod direct;
mod shortcut;
mod sockets;
mod tables;
mod watch;

use crate::config::{BulkTransmit, Config, Polling, Shortcut};
use crate::flow::{self, FlowCache, FragmentLimits, FragmentTable, KeyHasher};
use crate::io::abilities::{self, Abilities, MTU_OF_ONE_BUFFER};
use crate::io::bpf::{BpfError, Programs, TcProgram};
use crate::io::coalesce::Coalesce;
use crate::io::maps::{PORTS_MAX, PortEntry, WORKERS_MAX, XSKS_MAX};
use crate::io::setup::{self, Links, Plan, SetupError};
use crate::io::shortcut::{CarriedFlow, Epoch};
use crate::io::xsk::{XskError, frames_lost};
use crate::packet::FlowKey;
use crate::server::{Kernel, KernelError, Workers};
use crate::snapshot::{PortRecord, Snapshot};
use crate::worker::counters::{Cell, Counters};
use crate::worker::engine::{Engine, Parts};
use crate::worker::handover::Handover;
use crate::worker::mailbox::Mailbox;
use crate::worker::run::{self, Idle, RunConfig};
use crate::worker::shortcut::Requests;
use bulk::BulkPort;
use penstock_api::instance::inside;
use penstock_api::message::{AreaKind, DeviceStatus, ShortcutStatus};
use penstock_api::{DropReason, PortId, WorkerId};
use penstock_net::netns::Netns;
use penstock_net::route::Netlink;
use penstock_net::xdp::XdpFeatures;
use shortcut::Shortcuts;
use sockets::{Bench, Builder, DirectQueue, direct_queues, direct_ways, fd_of};
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

const HANDOVER_SLOTS: usize = 512;
/// How long an adaptive worker looks for work before it sleeps. Waking takes the kernel tens of microseconds.
const ADAPTIVE_SPIN: Duration = Duration::from_micros(50);

#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    #[error("{0}")]
    Setup(#[from] SetupError),
    #[error(
        "there are no AF_XDP sockets: {0}; Linux 6.1 or newer with CONFIG_XDP_SOCKETS and CAP_NET_RAW are needed"
    )]
    NoAfXdp(std::io::Error),
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
    /// Open as long as direct ports are to receive.
    #[expect(dead_code, reason = "held, not used")]
    receptions: Vec<OwnedFd>,
    bulk_ports: Arc<[BulkPort]>,
    /// `penstock0`.
    host_interface: String,
    direct_queues: Vec<DirectQueue>,
    direct_ports: Vec<PortId>,
    ports: Vec<PortId>,
    counters: Vec<Arc<Counters>>,
    shortcuts: Arc<Mutex<Shortcuts>>,
    /// What had come back from trunks before the workers began to count what they send.
    returned_before: u64,
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
    bulk: bulk::Watcher,
    shortcuts: Arc<Mutex<Shortcuts>>,
    requests: Arc<Requests>,
}

/// Running workers, and the threads beside them.
#[derive(Debug)]
pub struct Crew {
    threads: Vec<JoinHandle<()>>,
    beside: Vec<JoinHandle<()>>,
    requests: Arc<Requests>,
    stopping: Arc<AtomicBool>,
}

fn lock(programs: &Mutex<Programs>) -> MutexGuard<'_, Programs> {
    // The maps are the kernel's; a panic elsewhere leaves nothing half done in them.
    programs.lock().unwrap_or_else(PoisonError::into_inner)
}

/// *Seen* on 6.1: a pod that floods fills the ring of the trunk, and of what others send most is lost. That kernel puts soft
/// interrupts off while their thread has work, which may be why. Those tried that tell what links can do with XDP are fair.
fn takes_trunks_in_bulk(notes: &mut Vec<String>) -> bool {
    let asked = XdpFeatures::open();
    if let Err(error) = &asked {
        notes.push(format!(
            "trunks are sent to one by one although bulk_transmit is \"on\": Linux 6.3 or newer is needed, or a pod that floods would \
             take the trunk from the others ({error})"
        ));
    }
    asked.is_ok()
}

/// Makes or adopts the instance. The caller's namespace is the host's. Lowers `config.mtu` when the kernel cannot do it.
pub fn open(config: &mut Config) -> Result<(Machine, Workers, Idlers), MachineError> {
    let plan = |config: &Config| Plan {
        instance: config.instance.clone(),
        workers: config.workers,
        mtu: config.mtu,
        pod_ranges: config.pod_ranges.clone(),
        tc_filters: config.tc_filters,
    };
    let mut notes = Vec::new();
    if config.ports_max > PORTS_MAX {
        notes.push(format!("ports_max is {}, the kernel programs know {PORTS_MAX}", config.ports_max));
        config.ports_max = PORTS_MAX;
    }
    let abilities = Abilities::of_this_kernel().map_err(MachineError::NoAfXdp)?;
    let release = abilities::release();
    if !abilities.multi_buffer && config.mtu > MTU_OF_ONE_BUFFER {
        notes.push(format!(
            "Linux {release} has no AF_XDP sockets for frames of several buffers, 6.6 and newer have: the MTU is {MTU_OF_ONE_BUFFER}, not {}",
            config.mtu
        ));
        config.mtu = MTU_OF_ONE_BUFFER;
    }
    notes.append(&mut abilities.notes(&release));
    let (mut links, programs) = setup::ensure(&plan(config))?;
    notes.append(&mut links.notes);
    let rounds = Arc::new(programs.rounds()?);
    let mut programs = programs;
    let table = programs.take_shortcut().expect("nobody took it before");
    let rows = table.rows();
    let requests = Arc::new(Requests::new().map_err(MachineError::Thread)?);
    let programs = Arc::new(Mutex::new(programs));
    let sockets: Sockets = Arc::new((0..XSKS_MAX).map(|_| AtomicI32::new(-1)).collect());

    let counters: Vec<_> = (0..config.workers).map(|_| Arc::new(Counters::new(config.ports_max))).collect();
    let mailboxes = (0..config.workers)
        .map(|_| Mailbox::new().map(Arc::new))
        .collect::<Result<Vec<_>, _>>()
        .map_err(MachineError::Thread)?;
    let handover = Handover::new(mailboxes.clone(), HANDOVER_SLOTS, usize::from(config.mtu) + 64);
    let direct = direct_queues(&config.direct, config.workers);
    let empty = Arc::new(Snapshot::empty());
    let tables = tables::open_flow_tables(config, &mut notes)?;
    let shortcuts = Shortcuts::new(config, table, mailboxes.clone(), Arc::clone(&requests), &tables);
    let shortcuts = Arc::new(Mutex::new(shortcuts));
    let inside = Arc::new(Netns::open(config.instance.netns()).map_err(SetupError::from)?);
    let outside = Arc::new(Netns::current().map_err(SetupError::from)?);

    let trunks_in_bulk = config.bulk_transmit == BulkTransmit::On && takes_trunks_in_bulk(&mut notes);
    let mut builder = Builder {
        config,
        trunks_in_bulk,
        sockets: &sockets,
        programs: &programs,
        notes: &mut notes,
        attached: Vec::new(),
        receptions: Vec::new(),
        bulk_ports: Vec::new(),
        features: None,
    };
    let mut engines = Vec::new();
    let mut devices = Vec::new();
    for (worker, conntrack) in tables.into_iter().enumerate() {
        let mut bench = builder.trunk(worker, &links, &inside)?;
        let queues = || direct.iter().filter(|queue| queue.worker == worker);
        for queue in queues() {
            builder.direct(&mut bench, *queue, &outside)?;
        }
        let Bench { memory, devices: list, statuses, .. } = bench;
        let id = WorkerId(worker as u8);
        counters[worker].umem_bytes.set(memory.kinds().map(|kind| memory.bytes(kind)).sum());
        counters[worker].umem_zero_copy_bytes.set(memory.bytes(AreaKind::ZeroCopy));
        counters[worker].flows_max.set(conntrack.capacity() as u64);
        let announce_slots: Vec<u32> =
            std::iter::once(worker as u32).chain(queues().map(|queue| queue.slot)).collect();
        let (announce_programs, announce_sockets) = (Arc::clone(&programs), Arc::clone(&sockets));
        let mut engine = Engine::new(Parts {
            worker: id,
            devices: list,
            direct: direct_ways(&direct, worker),
            cache: FlowCache::new(builder.config.flows_max / 2),
            fragments: FragmentTable::new(
                FragmentLimits {
                    held_max: (memory.chunks(AreaKind::Copy) / 8).min(1024),
                    ..FragmentLimits::default()
                },
                KeyHasher::random(),
            ),
            memory,
            conntrack,
            snapshot: Arc::clone(&empty),
            counters: Arc::clone(&counters[worker]),
            mailbox: Arc::clone(&mailboxes[worker]),
            handover: handover.clone(),
        });
        if builder.config.shortcut == Shortcut::On {
            engine.set_shortcut(Arc::clone(&requests), Arc::clone(&rows));
        }
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
    let Builder { receptions, bulk_ports, features, .. } = builder;
    let bulk_ports: Arc<[BulkPort]> = bulk_ports.into();
    let bulk = bulk::Watcher::new(features.and_then(Result::ok), Arc::clone(&bulk_ports));
    let returned_before = lock(&programs).returned_frames();
    let coalesce = match trunks_in_bulk {
        // A near end that waits for its timer would have no room for them.
        true => links.trunks.iter().map(|_| None).collect(),
        false => watch::open_coalesce(&links, &mut notes),
    };
    let machine = Machine {
        links,
        programs: Arc::clone(&programs),
        devices,
        sockets,
        receptions,
        bulk_ports,
        host_interface: config.instance.host_interface(),
        direct_queues: direct,
        direct_ports: Vec::new(),
        ports: Vec::new(),
        counters: counters.clone(),
        shortcuts: Arc::clone(&shortcuts),
        returned_before,
        notes,
    };
    let workers = Workers { mailboxes: mailboxes.clone(), counters: counters.clone() };
    let idlers = Idlers { engines, programs, counters, mailboxes, coalesce, bulk, shortcuts, requests };
    Ok((machine, workers, idlers))
}

impl Idlers {
    /// Starts the threads.
    pub fn start(self) -> Result<Crew, MachineError> {
        let Idlers { engines, programs, counters, mailboxes, coalesce, bulk, shortcuts, requests } = self;
        let stopping = Arc::new(AtomicBool::new(false));
        let threads = engines
            .into_iter()
            .map(|(engine, config)| run::spawn(engine, config))
            .collect::<Result<Vec<_>, _>>()
            .map_err(MachineError::Thread)?;
        let flag = Arc::clone(&stopping);
        let watch = std::thread::Builder::new()
            .name("watchdog".to_owned())
            .spawn(move || watch::watch(&programs, &counters, &mailboxes, coalesce, bulk, &flag))
            .map_err(MachineError::Thread)?;
        let (flag, asked) = (Arc::clone(&stopping), Arc::clone(&requests));
        let shortcut = std::thread::Builder::new()
            .name("shortcut".to_owned())
            .spawn(move || shortcut::run(&shortcuts, &asked, &flag))
            .map_err(MachineError::Thread)?;
        Ok(Crew { threads, beside: vec![watch, shortcut], requests, stopping })
    }
}

impl Crew {
    /// Has a thread ended although nobody told it to?
    pub fn has_lost_one(&self) -> bool {
        self.threads.iter().chain(&self.beside).any(JoinHandle::is_finished)
    }

    /// Waits for the workers, which were told to stop through their mailboxes.
    pub fn join(mut self) {
        self.stopping.store(true, Ordering::Relaxed);
        self.requests.wake();
        for thread in self.threads.drain(..).chain(self.beside.drain(..)) {
            if thread.join().is_err() {
                tracing::error!("a worker had panicked");
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
            programs.forget_tc(host_end);
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
        let ports = || self.ports.iter().copied().chain([PortId::HOST]);
        let mut drops = lock(&self.programs).drops(ports().chain(self.direct_ports.iter().copied()));
        // Without an answer the interfaces' own drops are not told; everything else still is.
        let refused = self.inside(|_, netlink| netlink.dropped_on_receipt().map_err(KernelError::new));
        if let Ok(refused) = refused {
            let programs = lock(&self.programs);
            drops.extend(ports().filter_map(|port| {
                let count = *refused.get(&programs.port(port)?.ifindex)?;
                (count > 0).then_some((Some(port), DropReason::Interface, count))
            }));
        }
        let lost: u64 = self
            .sockets
            .iter()
            .map(|socket| socket.load(Ordering::Relaxed))
            .filter(|socket| *socket >= 0)
            .map(frames_lost)
            .sum();
        let sum = |count: fn(&Counters) -> &Cell| -> u64 {
            self.counters.iter().map(|counters| count(counters).get()).sum()
        };
        // Sockets that were bound anew began to count anew.
        drops.push((None, DropReason::RxFull, lost + sum(|counters| &counters.lost_earlier)));
        // The way back: what workers sent, and what the programs at the other end saw.
        let sent = sum(|counters| &counters.trunk_sent);
        let returned = lock(&self.programs).returned_frames().saturating_sub(self.returned_before);
        drops.push((None, DropReason::TrunkFull, sent.saturating_sub(returned)));
        let refused = |ports: &[BulkPort]| ports.iter().map(BulkPort::lost).sum();
        // The veths are where the switch was started, as is this thread.
        drops.push((None, DropReason::Interface, refused(&self.bulk_ports)));
        drops.retain(|(_, _, frames)| *frames > 0);
        drops
    }

    fn set_direct(&mut self, ports: &[(PortRecord, String)]) {
        direct::set(self, ports);
    }

    fn devices(&self, worker: WorkerId) -> Vec<DeviceStatus> {
        let mut devices = self.devices.get(worker.index()).cloned().unwrap_or_default();
        for device in &mut devices {
            if let Some(port) = self.bulk_ports.iter().find(|port| port.is_of(device)) {
                port.describe(device);
            }
        }
        devices
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

    fn set_epochs(&mut self, epochs: &[(PortId, Epoch)]) {
        shortcut::lock(&self.shortcuts).set_epochs(epochs);
    }

    fn epoch(&self, port: PortId) -> Epoch {
        shortcut::lock(&self.shortcuts).epoch(port)
    }

    fn keep_carried(&mut self, is_allowed: &mut dyn FnMut(&CarriedFlow) -> bool) {
        shortcut::lock(&self.shortcuts).keep(is_allowed);
    }

    fn carried_flows(&mut self, meanwhile: &mut dyn FnMut()) -> HashMap<FlowKey, (u64, u64)> {
        let shortcuts = shortcut::lock(&self.shortcuts);
        meanwhile();
        shortcuts.uncredited()
    }

    fn carried_by_ports(&mut self) -> Option<Arc<Counters>> {
        Some(shortcut::lock(&self.shortcuts).counters())
    }

    fn shortcut(&mut self) -> ShortcutStatus {
        shortcut::lock(&self.shortcuts).status()
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
