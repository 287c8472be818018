//! The kernel's part, loaded and attached.
//!
//! Maps are pinned and outlive the process: a new switch finds the ports of the old one. So are the links of the tc programs,
//! which live as long as their interface; the XDP programs of the trunks' far ends live as long as this process
//! (without it the far ends lead nowhere, which is what is wanted).

use super::maps::{
    PORT_COUNTERS, PORT_GUESSES, PORTS_MAX, PortEntry, QUEUE_COUNTERS, QUEUE_DIRECT, QueueKey, Rounds,
    Settings, WORKERS_MAX, XSKS_MAX,
};
use super::pins::{self, LINKS};
use super::shortcut::{Seeds, Table};
use aya::Ebpf;
use aya::maps::{Array, HashMap, Map, MapData, PerCpuArray, XskMap};
use aya::programs::links::{FdLink, LinkError, PinnedLink};
use aya::programs::tc::{NlOptions, TcAttachOptions, TcHandle};
use aya::programs::xdp::XdpMode;
use aya::programs::{LinkOrder, ProgramInfo, SchedClassifier, TcAttachType, Xdp, tc};
use penstock_api::{DropReason, PortId, WorkerId};
use std::collections::HashSet;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

/// The handle and priority our filters have: a second attempt to attach meets the first, whoever made it.
const FILTER_PRIORITY: u16 = 1;
const FILTER_HANDLE: u16 = 1;

#[derive(Debug, thiserror::Error)]
pub enum BpfError {
    #[error(
        "cannot prepare {0}: {1}; is a bpf file system mounted on /sys/fs/bpf, and is CAP_SYS_ADMIN there?"
    )]
    PinDirectory(String, std::io::Error),
    #[error(
        "the kernel refused the programs: {0}; the switch needs Linux 6.1 or newer, CAP_BPF and CAP_NET_ADMIN"
    )]
    Load(#[from] aya::EbpfError),
    #[error("program {program}: {error}")]
    Program { program: &'static str, error: aya::programs::ProgramError },
    #[error("cannot attach {program} to {interface}: {error}")]
    Attach { program: &'static str, interface: String, error: String },
    #[error("map {map}: {error}")]
    Map { map: &'static str, error: aya::maps::MapError },
    #[error("cannot map the rounds: {0}")]
    Rounds(std::io::Error),
    #[error("cannot map the tables of the shortcut: {0}")]
    Shortcut(std::io::Error),
    #[error("cannot find out how many CPUs there can be: {0}")]
    Cpus(std::io::Error),
    #[error("{0}")]
    Port(String),
}

/// Which tc program an interface gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TcProgram {
    Pod,
    Host,
    Trunk,
    /// For the host's end of `penstock0`.
    Outer,
    /// For the interfaces of direct ports.
    Nic,
}

impl TcProgram {
    const ALL: [TcProgram; 5] =
        [TcProgram::Pod, TcProgram::Host, TcProgram::Trunk, TcProgram::Outer, TcProgram::Nic];

    /// Its interface is in the host's namespace.
    const fn is_outside(self) -> bool {
        matches!(self, TcProgram::Outer | TcProgram::Nic)
    }

    const fn name(self) -> &'static str {
        match self {
            TcProgram::Pod => "pod",
            TcProgram::Host => "host",
            TcProgram::Trunk => "trunk",
            TcProgram::Outer => "outer",
            TcProgram::Nic => "nic",
        }
    }
}

/// Which XDP program an interface gets: interfaces' numbers are those of a namespace, and there are two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum XdpProgram {
    /// For trunks, in the instance's namespace.
    Trunk,
    /// For direct ports, in the host's.
    Direct,
}

impl XdpProgram {
    const fn name(self) -> &'static str {
        match self {
            XdpProgram::Trunk => "queue",
            XdpProgram::Direct => "direct",
        }
    }

    /// What a queue of such an interface is called in the map.
    const fn key(self, ifindex: u32, queue: u32) -> QueueKey {
        let place = match self {
            XdpProgram::Trunk => 0,
            XdpProgram::Direct => QUEUE_DIRECT,
        };
        QueueKey { ifindex, queue: queue | place }
    }
}

/// The loaded programs and their maps. Methods that name an interface must run in the instance's namespace.
pub struct Programs {
    ebpf: Ebpf,
    pins: PathBuf,
    tc_filters: bool,
    /// Why a filter was attached although links were wanted.
    tcx_refused: Option<String>,
    /// Maps that another version left and that could not be taken up.
    replaced: Vec<&'static str>,
    /// Interfaces that have a filter of ours since then.
    renewed: HashSet<String>,
    shortcut: Option<Table>,
    ports: Array<MapData, PortEntry>,
    port_by_ifindex: HashMap<MapData, u32, u32>,
    port_by_guess: Array<MapData, u32>,
    settings: Array<MapData, Settings>,
    queues: HashMap<MapData, QueueKey, u32>,
    passing: Array<MapData, u32>,
    xsks: XskMap<MapData>,
    port_counts: PerCpuArray<MapData, u64>,
    queue_counts: PerCpuArray<MapData, u64>,
}

impl std::fmt::Debug for Programs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Programs").finish_non_exhaustive()
    }
}

impl Programs {
    /// Loads the programs over the maps pinned in `pins`, making those that are missing. `tc_filters`: tc programs are
    /// attached as filters also where links could be had.
    pub fn load(pins: &Path, tc_filters: bool) -> Result<Programs, BpfError> {
        let links = pins.join(LINKS);
        std::fs::create_dir_all(&links)
            .map_err(|e| BpfError::PinDirectory(links.display().to_string(), e))?;
        let cpus = aya::util::nr_cpus().map_err(|(_, error)| BpfError::Cpus(error))?;
        let replaced = pins::remove_strangers(pins, cpus)?;
        let mut ebpf = pins::load_over(pins, cpus)?;
        for program in TcProgram::ALL {
            let name = program.name();
            classifier(&mut ebpf, name)?
                .load()
                .map_err(|error| BpfError::Program { program: name, error })?;
        }
        for program in [XdpProgram::Trunk, XdpProgram::Direct] {
            let name = program.name();
            xdp(&mut ebpf, program)?.load().map_err(|error| BpfError::Program { program: name, error })?;
        }
        macro_rules! map {
            ($name:literal, $kind:ty) => {
                <$kind>::try_from(ebpf.take_map($name).expect("the object has this map"))
                    .map_err(|error| BpfError::Map { map: $name, error })?
            };
        }
        let mut settings = map!("SETTINGS", Array<MapData, Settings>);
        let seeds = seeds(&mut settings)?;
        let shortcut = shortcut(&ebpf, cpus, seeds)?;
        Ok(Programs {
            ports: map!("PORTS", Array<MapData, PortEntry>),
            port_by_ifindex: map!("PORT_BY_IFINDEX", HashMap<MapData, u32, u32>),
            port_by_guess: map!("PORT_BY_GUESS", Array<MapData, u32>),
            settings,
            queues: map!("QUEUES", HashMap<MapData, QueueKey, u32>),
            passing: map!("PASSING", Array<MapData, u32>),
            xsks: map!("XSKS", XskMap<MapData>),
            port_counts: map!("PORT_COUNTS", PerCpuArray<MapData, u64>),
            queue_counts: map!("QUEUE_COUNTS", PerCpuArray<MapData, u64>),
            ebpf,
            pins: pins.to_owned(),
            tc_filters,
            tcx_refused: None,
            replaced,
            renewed: HashSet::new(),
            shortcut: Some(shortcut),
        })
    }

    /// The shortcut's maps, for who asks first.
    pub fn take_shortcut(&mut self) -> Option<Table> {
        self.shortcut.take()
    }

    /// The mapped budget array, for workers.
    pub fn rounds(&self) -> Result<Rounds, BpfError> {
        let Some(Map::Array(map)) = self.ebpf.map("ROUNDS") else { unreachable!("the object has this map") };
        Rounds::map(map.fd()).map_err(BpfError::Rounds)
    }

    /// Attaches a tc program to the ingress of an interface. One that is there already stays: true says it was.
    ///
    /// As a pinned TCX link where the kernel has those (6.6), which a frame reaches without the classifiers' machinery; as a
    /// filter of a `clsact` qdisc elsewhere. Both outlive this process.
    pub fn attach_tc(&mut self, program: TcProgram, interface: &str) -> Result<bool, BpfError> {
        let why = match self.attach_tcx(program, interface) {
            Ok(was_there) => return Ok(was_there),
            Err(why) => why,
        };
        if !self.tc_filters {
            self.tcx_refused.get_or_insert_with(|| why.clone());
        }
        self.attach_filter(program, interface).map_err(|filter| BpfError::Attach {
            program: program.name(),
            interface: interface.to_owned(),
            error: format!("as a filter: {filter}; as a TCX link: {why}"),
        })
    }

    /// Why tc programs are filters although links were wanted.
    pub fn tcx_refused(&self) -> Option<&str> {
        self.tcx_refused.as_deref()
    }

    /// Maps of another version that had to be replaced: what they held is gone.
    pub fn replaced(&self) -> &[&'static str] {
        &self.replaced
    }

    fn attach_tcx(&mut self, program: TcProgram, interface: &str) -> Result<bool, String> {
        if self.tc_filters {
            return Err("filters were asked for".to_owned());
        }
        let name = program.name();
        let (_, attached) =
            SchedClassifier::query_tcx(interface, TcAttachType::Ingress).map_err(|error| chain(&error))?;
        let pin = self.pin_of(program, interface)?;
        let classifier = classifier(&mut self.ebpf, name).map_err(|error| chain(&error))?;
        if let Some(there) = attached.iter().find(|program| program.name_as_str() == Some(name)) {
            let ours = classifier.info().map_err(|error| chain(&error))?;
            if there.tag() != ours.tag() || maps_of(there) != maps_of(&ours) {
                // Of another version of the switch, or over its maps. Its link gets ours, and no frame passes in between.
                replace(classifier, &pin).map_err(|error| {
                    format!("{name}, another version's, is there and cannot be replaced: {error}")
                })?;
                tracing::info!(interface, program = name, "replaced by this version's");
            }
            return Ok(true);
        }
        let options = TcAttachOptions::TcxOrder(LinkOrder::default());
        let link = classifier
            .attach_with_options(interface, TcAttachType::Ingress, options)
            .and_then(|link| classifier.take_link(link))
            .map_err(|error| chain(&error))?;
        // One of an earlier interface of that name leads nowhere.
        let _ = std::fs::remove_file(&pin);
        let link = FdLink::try_from(link).map_err(|error| chain(&error))?;
        link.pin(&pin).map_err(|error| format!("{}: {}", pin.display(), chain(&error)))?;
        Ok(false)
    }

    fn attach_filter(&mut self, program: TcProgram, interface: &str) -> Result<bool, String> {
        // An error here means there is one already, or that the next step fails and says why.
        let _ = tc::qdisc_add_clsact(interface);
        if !self.replaced.is_empty() && self.renewed.insert(interface.to_owned()) {
            // One over maps that are no more. There is none, perhaps.
            let _ = tc::qdisc_detach_program(interface, TcAttachType::Ingress, program.name());
        }
        let classifier = classifier(&mut self.ebpf, program.name()).map_err(|error| chain(&error))?;
        let options = TcAttachOptions::Netlink(NlOptions {
            priority: FILTER_PRIORITY,
            handle: TcHandle::new(0, FILTER_HANDLE),
            ..NlOptions::default()
        });
        if program.is_outside() {
            // `remove` must find it.
            pins::note_filter(&self.pins, interface, program.name())?;
        }
        match classifier.attach_with_options(interface, TcAttachType::Ingress, options) {
            Ok(link) => {
                let link = classifier.take_link(link).map_err(|error| chain(&error))?;
                // The filter belongs to the interface now, not to this process.
                std::mem::forget(link);
                Ok(false)
            }
            Err(error) if is_exists(&error) => Ok(true),
            Err(error) => Err(chain(&error)),
        }
    }

    /// Where the link of a program at an interface of the caller's namespace is pinned. Namespaces may have interfaces of one name, and
    /// those of the host's may have a dot in theirs, which no pin may.
    fn pin_of(&self, program: TcProgram, interface: &str) -> Result<PathBuf, String> {
        let links = self.pins.join(LINKS);
        if !program.is_outside() {
            return Ok(links.join(interface));
        }
        let index = nix::net::if_::if_nametoindex(interface).map_err(|error| error.to_string())?;
        Ok(links.join(pins::outside(index)))
    }

    /// Forgets the link of an interface that is gone.
    pub fn forget_tc(&self, interface: &str) {
        let _ = std::fs::remove_file(self.pins.join(LINKS).join(interface));
    }

    /// Attaches the XDP program, natively if the driver can. Says which it was, and why not the better one.
    pub fn attach_xdp(
        &mut self,
        program: XdpProgram,
        interface: &str,
        allow_generic: bool,
    ) -> Result<(&'static str, String), BpfError> {
        let name = program.name();
        let failed =
            |error: String| BpfError::Attach { program: name, interface: interface.to_owned(), error };
        let program = xdp(&mut self.ebpf, program)?;
        match program.attach(interface, XdpMode::Driver) {
            Ok(_) => Ok(("native", String::new())),
            Err(native) if allow_generic => {
                let why = format!("native XDP refused: {}", chain(&native));
                program
                    .attach(interface, XdpMode::Skb)
                    .map_err(|e| failed(format!("{why}; generic: {}", chain(&e))))?;
                Ok(("generic", why))
            }
            Err(native) => Err(failed(format!("native XDP refused: {}", chain(&native)))),
        }
    }

    /// Attaches a trunk's XDP program where it is missing. True: it was there.
    pub fn ensure_xdp(&mut self, interface: &str) -> Result<bool, BpfError> {
        let program = xdp(&mut self.ebpf, XdpProgram::Trunk)?;
        match program.attach(interface, XdpMode::Driver) {
            Ok(_) => Ok(false),
            Err(error) if is_taken(&error) => Ok(true),
            Err(_) => match program.attach(interface, XdpMode::Skb) {
                Ok(_) => Ok(false),
                Err(error) if is_taken(&error) => Ok(true),
                Err(error) => Err(BpfError::Attach {
                    program: XdpProgram::Trunk.name(),
                    interface: interface.to_owned(),
                    error: chain(&error),
                }),
            },
        }
    }

    /// Attaches an XDP program in generic mode, as asked for.
    pub fn attach_xdp_generic(
        &mut self,
        program: XdpProgram,
        interface: &str,
    ) -> Result<&'static str, BpfError> {
        let name = program.name();
        let failed =
            |error: String| BpfError::Attach { program: name, interface: interface.to_owned(), error };
        xdp(&mut self.ebpf, program)?.attach(interface, XdpMode::Skb).map_err(|e| failed(chain(&e)))?;
        Ok("generic")
    }

    pub fn set_settings(&mut self, near_ends: &[u32]) -> Result<(), BpfError> {
        let old = self.settings.get(&0, 0).unwrap_or_default();
        let mut settings =
            Settings { workers: near_ends.len() as u32, trunk_ifindex: [0; WORKERS_MAX], ..old };
        settings.trunk_ifindex[..near_ends.len()].copy_from_slice(near_ends);
        self.settings.set(0, settings, 0).map_err(|error| BpfError::Map { map: "SETTINGS", error })
    }

    /// Tells the programs of a port, before its interface goes up.
    pub fn set_port(&mut self, id: PortId, entry: PortEntry) -> Result<(), BpfError> {
        if id.index() >= PORTS_MAX {
            return Err(BpfError::Port(format!("port {id}: the programs know {PORTS_MAX} ports")));
        }
        let entry = PortEntry { epoch: self.epoch(id), ..entry };
        self.ports.set(id.0.into(), entry, 0).map_err(|error| BpfError::Map { map: "PORTS", error })?;
        self.port_by_ifindex
            .insert(entry.ifindex, u32::from(id.0), 0)
            .map_err(|error| BpfError::Map { map: "PORT_BY_IFINDEX", error })?;
        // Whose it was is found in the other map from now on.
        self.port_by_guess
            .set(entry.ifindex % PORT_GUESSES, u32::from(id.0), 0)
            .map_err(|error| BpfError::Map { map: "PORT_BY_GUESS", error })
    }

    /// Tells the programs of a direct port: none of the interfaces in the instance's namespace is its own.
    pub fn set_direct_port(&mut self, id: PortId, entry: PortEntry) -> Result<(), BpfError> {
        debug_assert!(entry.is_direct() && id.index() < PORTS_MAX);
        if self.port(id).is_some_and(|old| !old.is_direct()) {
            self.clear_port(id)?;
        }
        let entry = PortEntry { epoch: self.epoch(id), ..entry };
        self.ports.set(id.0.into(), entry, 0).map_err(|error| BpfError::Map { map: "PORTS", error })
    }

    /// The outer end of `penstock0`, by which direct ports' frames enter the instance's namespace.
    pub fn set_outer(&mut self, ifindex: u32) -> Result<(), BpfError> {
        let failed = |error| BpfError::Map { map: "SETTINGS", error };
        let settings = self.settings.get(&0, 0).map_err(failed)?;
        self.settings.set(0, Settings { outer_ifindex: ifindex, ..settings }, 0).map_err(failed)
    }

    /// Whose frames are those that pass at an interface of the host's namespace; nobody's any more.
    pub fn set_nic(&mut self, ifindex: u32, port: Option<PortId>) -> Result<(), BpfError> {
        let key = ifindex | QUEUE_DIRECT;
        let result = match port {
            Some(port) => self.port_by_ifindex.insert(key, u32::from(port.0), 0),
            None => {
                let _ = self.port_by_ifindex.remove(&key);
                Ok(())
            }
        };
        result.map_err(|error| BpfError::Map { map: "PORT_BY_IFINDEX", error })
    }

    /// Lets frames of flows that are the kernel's pass, instead of going to the socket in `slot`; `None`: no more.
    pub fn set_passing(&mut self, slot: u32, port: Option<PortId>) -> Result<(), BpfError> {
        let value = port.map_or(0, |port| u32::from(port.0));
        self.passing.set(slot, value, 0).map_err(|error| BpfError::Map { map: "PASSING", error })
    }

    /// Takes tc programs away from interfaces of the host's namespace, which is the caller's, but for those with these numbers.
    pub fn detach_outside(&self, but: &[u32]) {
        pins::detach_outside(&self.pins, but);
    }

    /// Forgets a port. Nothing of it there is fine.
    pub fn clear_port(&mut self, id: PortId) -> Result<(), BpfError> {
        if let Ok(entry) = self.ports.get(&id.0.into(), 0)
            && entry.ifindex != 0
            && !entry.is_direct()
        {
            let _ = self.port_by_ifindex.remove(&entry.ifindex);
        }
        let nobody = PortEntry { epoch: self.epoch(id), ..PortEntry::default() };
        self.ports.set(id.0.into(), nobody, 0).map_err(|error| BpfError::Map { map: "PORTS", error })
    }

    /// It has an owner of its own, and stays as it is.
    fn epoch(&self, id: PortId) -> u64 {
        self.ports.get(&id.0.into(), 0).map_or(0, |entry| entry.epoch)
    }

    pub fn port(&self, id: PortId) -> Option<PortEntry> {
        self.ports.get(&id.0.into(), 0).ok().filter(|entry| entry.ifindex != 0)
    }

    /// Sends what arrives on a queue to the socket in `slot`.
    pub fn set_queue(
        &mut self,
        program: XdpProgram,
        (ifindex, queue): (u32, u32),
        slot: u32,
    ) -> Result<(), BpfError> {
        self.queues
            .insert(program.key(ifindex, queue), slot, 0)
            .map_err(|error| BpfError::Map { map: "QUEUES", error })
    }

    pub fn set_socket(&mut self, slot: u32, socket: impl AsRawFd) -> Result<(), BpfError> {
        self.xsks.set(slot, socket, 0).map_err(|error| BpfError::Map { map: "XSKS", error })
    }

    /// Forgets queues of interfaces that are gone.
    pub fn clear_queues(&mut self) {
        let keys: Vec<QueueKey> = self.queues.keys().flatten().collect();
        for key in keys {
            let _ = self.queues.remove(&key);
        }
        for slot in 0..XSKS_MAX as u32 {
            let _ = self.set_passing(slot, None);
        }
    }

    fn port_count(&self, port: usize, what: u32) -> u64 {
        let index = port as u32 * PORT_COUNTERS + what;
        self.port_counts.get(&index, 0).map_or(0, |values| values.iter().sum())
    }

    fn queue_count(&self, slot: u32, what: u32) -> u64 {
        let index = slot * QUEUE_COUNTERS + what;
        self.queue_counts.get(&index, 0).map_or(0, |values| values.iter().sum())
    }

    /// Frames (port sent to a trunk, trunk delivered to port).
    pub fn port_frames(&self, port: PortId) -> (u64, u64) {
        (self.port_count(port.index(), 0), self.port_count(port.index(), 1))
    }

    /// Frames of a worker's trunk: redirected into it by port programs, and seen at its far end.
    pub fn trunk_frames(&self, worker: WorkerId) -> (u64, u64) {
        (self.queue_count(worker.0.into(), 2), self.queue_count(worker.0.into(), 0))
    }

    /// Frames that came back from workers' trunks.
    pub fn returned_frames(&self) -> u64 {
        self.queue_count(XSKS_MAX as u32 - 1, 0)
    }

    /// What the programs dropped, by port and reason.
    pub fn drops(&self, ports: impl IntoIterator<Item = PortId>) -> Vec<(Option<PortId>, DropReason, u64)> {
        const REASONS: [(u32, DropReason); 6] = [
            (2, DropReason::Spoofed),
            (3, DropReason::Budget),
            (4, DropReason::VlanTagged),
            (5, DropReason::KernelTooBig),
            (6, DropReason::UnknownEtherType),
            (7, DropReason::Truncated),
        ];
        let mut drops = Vec::new();
        for port in ports {
            for (what, reason) in REASONS {
                drops.push((Some(port), reason, self.port_count(port.index(), what)));
            }
        }
        let mut unseen = 0;
        for slot in 0..WORKERS_MAX as u32 {
            unseen += self.queue_count(slot, 2).saturating_sub(self.queue_count(slot, 0));
        }
        drops.push((None, DropReason::TrunkFull, unseen));
        // Of trunks, of direct ports, and of queues that are no port.
        let without_socket = (0..XSKS_MAX as u32).map(|slot| self.queue_count(slot, 1)).sum();
        drops.push((None, DropReason::NoSocket, without_socket));
        // Of trunks, and of interfaces.
        let of_no_port = self.queue_count(0, 3) + self.queue_count(XSKS_MAX as u32 - 1, 3);
        drops.push((None, DropReason::KernelNoPort, of_no_port));
        drops.retain(|(_, _, count)| *count > 0);
        drops
    }
}

fn maps_of(program: &ProgramInfo) -> Option<Vec<u32>> {
    program.map_ids().ok()?
}

/// The seeds of the shortcut's hash: as old as the maps.
fn seeds(settings: &mut Array<MapData, Settings>) -> Result<Seeds, BpfError> {
    let failed = |error| BpfError::Map { map: "SETTINGS", error };
    let mut all = settings.get(&0, 0).map_err(failed)?;
    if all.seeds == Seeds::default() {
        all.seeds = Seeds::random();
        settings.set(0, all, 0).map_err(failed)?;
    }
    Ok(all.seeds)
}

fn shortcut(ebpf: &Ebpf, cpus: usize, seeds: Seeds) -> Result<Table, BpfError> {
    let fd = |name: &str| match ebpf.map(name) {
        Some(Map::Array(map)) => map.fd(),
        _ => unreachable!("the object has this map"),
    };
    Table::map(fd("PORTS"), fd("FLOWS"), fd("CARRIED"), fd("SHORTCUTS"), cpus, seeds)
        .map_err(BpfError::Shortcut)
}

#[cfg(test)]
impl Programs {
    /// Has the kernel run a tc program on a frame, so many times over, and sends it nowhere: what the program said, what it made of the
    /// frame, and the nanoseconds of one time. `context`: a `struct __sk_buff`.
    pub(crate) fn try_out(
        &mut self,
        program: TcProgram,
        frame: &[u8],
        context: &[u8],
        repeat: u32,
    ) -> (u32, Vec<u8>, u128) {
        use aya::programs::{TestRun, TestRunOptions};
        let mut out = vec![0; frame.len() + 64];
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ctx_in: Some(context),
            repeat,
            ..TestRunOptions::new()
        };
        let classifier = classifier(&mut self.ebpf, program.name()).expect("a program of ours");
        let result = classifier.test_run(options).expect("the kernel can run programs by themselves");
        out.truncate(result.data_size_out as usize);
        (result.return_value, out, result.duration.as_nanos())
    }
}

fn classifier<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut SchedClassifier, BpfError> {
    let program = ebpf.program_mut(name).expect("the object has this program");
    program.try_into().map_err(|error| BpfError::Program { program: name, error })
}

/// Puts a program into a pinned link in place of the one that is there.
fn replace(classifier: &mut SchedClassifier, pin: &Path) -> Result<(), String> {
    let pinned = PinnedLink::from_pin(pin).map_err(|error| chain(&error))?;
    let link = FdLink::from(pinned).try_into().map_err(|error: LinkError| chain(&error))?;
    let link = classifier
        .attach_to_link(link)
        .and_then(|link| classifier.take_link(link))
        .map_err(|error| chain(&error))?;
    // The pin holds it.
    drop(link);
    Ok(())
}

fn xdp(ebpf: &mut Ebpf, program: XdpProgram) -> Result<&mut Xdp, BpfError> {
    let name = program.name();
    let program = ebpf.program_mut(name).expect("the object has this program");
    program.try_into().map_err(|error| BpfError::Program { program: name, error })
}

fn is_exists(error: &aya::programs::ProgramError) -> bool {
    use aya::programs::{ProgramError, TcError};
    matches!(error, ProgramError::TcError(TcError::NetlinkError(e)) if e.raw_os_error() == Some(libc::EEXIST))
}

/// An XDP program is attached already, in this mode or in the other.
fn is_taken(error: &aya::programs::ProgramError) -> bool {
    use aya::programs::ProgramError;
    matches!(error, ProgramError::SyscallError(e)
        if matches!(e.io_error.raw_os_error(), Some(libc::EBUSY | libc::EEXIST)))
}

/// An error with what caused it: aya's outer texts alone say little.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        source = inner.source();
    }
    text
}
