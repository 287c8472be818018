//! The switch on a bench: workers stepped by hand, ports that are memory, a clock that is set. No root, no thread, no kernel.
//!
//! What runs is the pipeline itself ([`Engine`]), with everything around it that is not: frames are put in as if a port had
//! sent them, and what the switch sends is found again with the port it was for. Tests use it, and whoever wants to know what
//! this switch would do with a frame.
//!
//! **Promise.** When a rig is dropped (or [`Rig::check`] is called) every frame is accounted for, or it panics: each chunk
//! of each worker's memory is in exactly one place, none in hand; every frame put in was received; and for every worker,
//! received + taken over + originated = transmitted + handed over + dropped.

mod account;

pub use account::Account;

use crate::flow::{Conntrack, Entry, FlowCache, FragmentLimits, FragmentTable, KeyHasher, Settings, Side};
use crate::io::device::{Device, MemoryLink};
use crate::io::memory::Memory;
use crate::io::xsk::ZERO_COPY_CHUNK;
use crate::packet::{FlowKey, Payload, parse};
use crate::snapshot::{self, PortKind, PortRecord, Snapshot};
use crate::worker::counters::Counters;
use crate::worker::engine::{Engine, Parts};
use crate::worker::handover::Handover;
use crate::worker::mailbox::{DropSample, Mailbox};
use ipnet::IpNet;
use penstock_api::artefact::PodKey;
use penstock_api::message::AreaKind;
use penstock_api::{Artefact, DropReason, EndpointId, PortId, WorkerId};
use penstock_lookup::Policy;
use std::net::IpAddr;
use std::sync::Arc;

/// How large everything is.
#[derive(Debug, Clone)]
pub struct Sizes {
    pub workers: usize,
    pub ports_max: usize,
    /// Of each worker's memory.
    pub chunks: u32,
    pub chunk_size: u32,
    /// Of each worker's second area, for direct ports that do not copy. 0: there is none.
    pub zero_copy_chunks: u32,
    /// How many direct ports there can be: worker by worker, in the second area if there is one.
    pub direct: usize,
    /// Of the rings between the outside and each worker.
    pub ring_slots: usize,
    pub handover_slots: usize,
    pub frame_len_max: usize,
    pub flows_max: usize,
    pub flows_per_port_max: usize,
    pub cache_entries: usize,
    pub fragments: FragmentLimits,
    /// Of the keyed hashes, so that a run can be repeated.
    pub hash_seed: u64,
}

impl Default for Sizes {
    fn default() -> Self {
        Sizes {
            workers: 1,
            ports_max: 64,
            chunks: 512,
            chunk_size: 2048,
            zero_copy_chunks: 0,
            direct: 0,
            ring_slots: 512,
            handover_slots: 256,
            frame_len_max: 9216,
            flows_max: 4096,
            flows_per_port_max: 4096,
            cache_entries: 4096,
            fragments: FragmentLimits { datagrams_max: 256, held_max: 256, ..FragmentLimits::default() },
            hash_seed: 1,
        }
    }
}

/// A frame the switch sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivered {
    pub port: PortId,
    /// As the endpoint behind the port sees it.
    pub frame: Vec<u8>,
}

/// A switch of memory ports.
#[derive(Debug)]
pub struct Rig {
    engines: Vec<Engine>,
    /// By worker.
    links: Vec<Arc<MemoryLink>>,
    /// By direct device.
    direct: Vec<Arc<MemoryLink>>,
    mailboxes: Vec<Arc<Mailbox>>,
    ports: Vec<PortRecord>,
    host_addresses: Vec<IpAddr>,
    pod_ranges: Vec<IpNet>,
    policy: Arc<Policy>,
    snapshot: Arc<Snapshot>,
    next_endpoint: u32,
    /// Milliseconds; what workers take for CLOCK_MONOTONIC.
    pub now_ms: u64,
    /// Frames put in, and frames found.
    injected: u64,
    collected: u64,
}

impl Rig {
    #[must_use]
    pub fn new(workers: usize) -> Rig {
        Rig::with(&Sizes { workers, ..Sizes::default() })
    }

    /// # Panics
    /// When the memory cannot be had.
    #[must_use]
    pub fn with(sizes: &Sizes) -> Rig {
        let mailboxes: Vec<_> =
            (0..sizes.workers).map(|_| Arc::new(Mailbox::new().expect("an eventfd"))).collect();
        let handover = Handover::new(mailboxes.clone(), sizes.handover_slots, sizes.frame_len_max);
        let hasher = KeyHasher::with_seed(sizes.hash_seed);
        let snapshot = Arc::new(Snapshot::empty());
        let links: Vec<_> = (0..sizes.workers)
            .map(|_| Arc::new(MemoryLink::new(sizes.ring_slots, sizes.frame_len_max)))
            .collect();
        let direct: Vec<Arc<MemoryLink>> = (0..sizes.direct)
            .map(|_| Arc::new(MemoryLink::new(sizes.ring_slots, sizes.frame_len_max)))
            .collect();
        let area = if sizes.zero_copy_chunks > 0 { AreaKind::ZeroCopy } else { AreaKind::Copy };
        let engines = (0..sizes.workers)
            .map(|worker| {
                let mut memory = Memory::private(sizes.chunks, sizes.chunk_size).expect("memory for frames");
                if area == AreaKind::ZeroCopy {
                    memory.add_private(sizes.zero_copy_chunks, ZERO_COPY_CHUNK).expect("memory for frames");
                }
                let trunk = Device::Memory { link: Arc::clone(&links[worker]), area: AreaKind::Copy };
                let own = direct.iter().skip(worker).step_by(sizes.workers);
                let own = own.map(|link| Device::Memory { link: Arc::clone(link), area });
                let settings = Settings {
                    flows_per_port_max: sizes.flows_per_port_max,
                    hasher: hasher.clone(),
                    ..Settings::sized(sizes.flows_max)
                };
                Engine::new(Parts {
                    worker: WorkerId(worker as u8),
                    memory,
                    devices: std::iter::once(trunk).chain(own).collect(),
                    direct: (0..sizes.direct)
                        .map(|port| (port % sizes.workers, 1 + port / sizes.workers))
                        .collect(),
                    conntrack: Conntrack::create(settings).expect("memory for flows"),
                    cache: FlowCache::new(sizes.cache_entries),
                    fragments: FragmentTable::new(sizes.fragments, hasher.clone()),
                    snapshot: Arc::clone(&snapshot),
                    counters: Arc::new(Counters::new(sizes.ports_max)),
                    mailbox: Arc::clone(&mailboxes[worker]),
                    handover: handover.clone(),
                })
            })
            .collect();
        let policy = Arc::clone(&snapshot.policy);
        Rig {
            engines,
            links,
            direct,
            mailboxes,
            ports: Vec::new(),
            host_addresses: Vec::new(),
            pod_ranges: Vec::new(),
            policy,
            snapshot,
            next_endpoint: 1,
            now_ms: 1_000_000,
            injected: 0,
            collected: 0,
        }
    }

    // ---- what the server does in life --------------------------------------------------------------------------------

    /// Attaches the host, or changes what it is: a MAC for its end, its addresses, and the ranges its pods have theirs from.
    pub fn host(&mut self, mac: [u8; 6], addresses: &[IpAddr], pod_ranges: &[IpNet], mtu: u16) -> PortId {
        self.host_addresses = addresses.to_vec();
        self.pod_ranges = pod_ranges.to_vec();
        self.ports.retain(|port| port.id != PortId::HOST);
        self.ports.push(PortRecord {
            id: PortId::HOST,
            kind: PortKind::Host,
            endpoint: EndpointId::NONE,
            pod: None,
            mac,
            addresses: Vec::new(),
            mtu,
            device: 0,
        });
        self.publish();
        PortId::HOST
    }

    /// Attaches a pod at the first free port, as a new endpoint.
    pub fn attach(&mut self, pod: PodKey, mac: [u8; 6], addresses: &[IpAddr], mtu: u16) -> PortId {
        let taken = |id: &PortId| self.ports.iter().any(|port| port.id == *id);
        let id = (1..).map(PortId).find(|id| !taken(id)).expect("a free port");
        let endpoint = EndpointId(self.next_endpoint);
        self.next_endpoint += 1;
        self.ports.push(PortRecord {
            id,
            kind: PortKind::Pod,
            endpoint,
            pod: Some(pod),
            mac,
            addresses: addresses.to_vec(),
            mtu,
            device: 0,
        });
        self.publish();
        id
    }

    /// Attaches a pod behind a device of its own, the first that is free. `None`: none is.
    pub fn attach_direct(
        &mut self,
        pod: PodKey,
        mac: [u8; 6],
        addresses: &[IpAddr],
        mtu: u16,
    ) -> Option<PortId> {
        let is_taken = |device: u16| {
            self.ports.iter().any(|port| port.kind == PortKind::Direct && port.device == device)
        };
        let device = (0..self.direct.len() as u16).find(|device| !is_taken(*device))?;
        let id = self.attach(pod, mac, addresses, mtu);
        let record = self.ports.last_mut()?;
        (record.kind, record.device) = (PortKind::Direct, device);
        self.publish();
        Some(id)
    }

    /// Detaches a port. Flows of its endpoint stay in the tables, as they do until workers have swept them:
    /// [`Rig::forget`] does that.
    pub fn detach(&mut self, port: PortId) -> Option<EndpointId> {
        let at = self.ports.iter().position(|record| record.id == port)?;
        let record = self.ports.remove(at);
        self.publish();
        Some(record.endpoint)
    }

    /// Sweeps the flows of an endpoint that is gone.
    pub fn forget(&mut self, endpoint: EndpointId) {
        for engine in &mut self.engines {
            engine.forget_endpoint(endpoint);
        }
    }

    /// Changes a port's MTU.
    pub fn set_mtu(&mut self, port: PortId, mtu: u16) {
        if let Some(record) = self.ports.iter_mut().find(|record| record.id == port) {
            record.mtu = mtu;
        }
        self.publish();
    }

    /// Puts policy in force.
    ///
    /// # Panics
    /// When the artefact is refused.
    pub fn install(&mut self, artefact: Artefact) {
        self.policy = Arc::new(Policy::build(artefact).expect("a valid artefact"));
        self.publish();
    }

    fn publish(&mut self) {
        let parts = snapshot::Parts {
            policy: Arc::clone(&self.policy),
            ports: self.ports.clone(),
            host_addresses: self.host_addresses.clone(),
            pod_ranges: self.pod_ranges.clone(),
        };
        self.snapshot = Arc::new(Snapshot::build(Some(&self.snapshot), parts));
        for engine in &mut self.engines {
            engine.install(Arc::clone(&self.snapshot));
        }
        for mailbox in &self.mailboxes {
            mailbox.empty_bin();
        }
    }

    // ---- what ports do -----------------------------------------------------------------------------------------------

    /// The device of a direct port.
    fn direct_of(&self, port: PortId) -> Option<&MemoryLink> {
        let record = self.ports.iter().find(|p| p.id == port && p.kind == PortKind::Direct)?;
        Some(&self.direct[usize::from(record.device)])
    }

    /// The worker the kernel's programs would give this frame to.
    #[must_use]
    pub fn steer(&self, frame: &[u8]) -> usize {
        let workers = self.engines.len();
        match parse(frame, frame.len()) {
            Ok(parsed) => match parsed.payload {
                Payload::Flow(_) | Payload::IcmpError { .. } => parsed.key.owner(workers),
                _ => 0,
            },
            Err(_) => 0,
        }
    }

    /// Puts a frame in at the worker the kernel would choose.
    pub fn send(&mut self, port: PortId, frame: &[u8]) {
        self.send_to(self.steer(frame), port, frame);
    }

    /// Puts a frame in at a worker of one's choice; a direct port has no choice.
    ///
    /// # Panics
    /// When the worker's ring is full; see [`Rig::try_send_to`].
    pub fn send_to(&mut self, worker: usize, port: PortId, frame: &[u8]) {
        assert!(self.try_send_to(worker, port, frame), "the ring to worker {worker} is full: run first");
    }

    /// Puts a frame in at a worker. False: no room, as if the kernel had dropped it.
    pub fn try_send_to(&mut self, worker: usize, port: PortId, frame: &[u8]) -> bool {
        let sent = match self.direct_of(port) {
            Some(link) => link.inject(port, frame),
            None => self.links[worker].inject(port, frame),
        };
        self.injected += u64::from(sent);
        sent
    }

    /// One turn of one worker. Nothing is done here but the turn itself.
    pub fn round(&mut self, worker: usize) -> usize {
        self.engines[worker].round(self.now_ms)
    }

    /// Turns of all workers until none of them does anything. What they sent stays where it is; so does what they could not
    /// receive, for want of memory.
    pub fn settle(&mut self) {
        let mut quiet = 0;
        while quiet < 2 {
            let frames: usize = (0..self.engines.len()).map(|worker| self.round(worker)).sum();
            quiet = if frames == 0 { quiet + 1 } else { 0 };
        }
    }

    /// Turns of all workers until none of them has anything to do, and what they sent: each worker's in order, one
    /// worker's after the other's.
    pub fn run(&mut self) -> Vec<Delivered> {
        let mut delivered = Vec::new();
        loop {
            self.settle();
            let before = delivered.len();
            self.collect(&mut delivered);
            if delivered.len() == before {
                return delivered;
            }
        }
    }

    /// What workers have sent so far.
    pub fn collect(&mut self, delivered: &mut Vec<Delivered>) {
        for link in self.links.iter().chain(&self.direct) {
            while let Some((port, frame)) = link.collect() {
                delivered.push(Delivered { port, frame });
                self.collected += 1;
            }
        }
    }

    /// Puts one frame in and returns what came of it.
    pub fn exchange(&mut self, port: PortId, frame: &[u8]) -> Vec<Delivered> {
        self.send(port, frame);
        self.run()
    }

    /// Lets time pass.
    pub fn pass(&mut self, ms: u64) -> Vec<Delivered> {
        self.now_ms += ms;
        self.run()
    }

    // ---- what can be seen --------------------------------------------------------------------------------------------

    #[must_use]
    pub fn workers(&self) -> usize {
        self.engines.len()
    }

    #[must_use]
    pub fn engine(&self, worker: usize) -> &Engine {
        &self.engines[worker]
    }

    #[must_use]
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// Frames dropped for a reason, all ports and workers.
    #[must_use]
    pub fn drops(&self, reason: DropReason) -> u64 {
        self.engines
            .iter()
            .flat_map(|engine| engine.counters().ports())
            .map(|(_, port)| port.drops[reason as usize].get())
            .sum()
    }

    /// Frames dropped for a reason on account of one port.
    #[must_use]
    pub fn drops_of(&self, port: PortId, reason: DropReason) -> u64 {
        self.engines.iter().map(|e| e.counters().port(port).drops[reason as usize].get()).sum()
    }

    /// All drops so far: reasons that have any, and how many.
    #[must_use]
    pub fn all_drops(&self) -> Vec<(DropReason, u64)> {
        DropReason::ALL.iter().map(|r| (*r, self.drops(*r))).filter(|(_, n)| *n > 0).collect()
    }

    /// Samples of drops by policy, and who refused, since this was last asked.
    pub fn drop_samples(&mut self) -> Vec<DropSample> {
        let mut samples = Vec::new();
        for mailbox in &self.mailboxes {
            samples.extend(std::iter::from_fn(|| mailbox.drop_events.pop()));
        }
        samples
    }

    /// Answers given by flow caches.
    #[must_use]
    pub fn cache_hits(&self) -> u64 {
        self.engines.iter().map(|engine| engine.counters().cache_hits.get()).sum()
    }

    /// Frames copied from one area to the other.
    #[must_use]
    pub fn area_copies(&self) -> u64 {
        self.engines.iter().map(|engine| engine.counters().area_copies.get()).sum()
    }

    #[must_use]
    pub fn handed_over(&self) -> u64 {
        self.engines.iter().map(|engine| engine.counters().handed_over.get()).sum()
    }

    /// Flows tracked.
    #[must_use]
    pub fn flows(&self) -> usize {
        self.engines.iter().map(|engine| engine.conntrack().len()).sum()
    }

    /// The flow this key belongs to, in either direction: the worker that has it, the direction, the record.
    #[must_use]
    pub fn flow(&self, key: &FlowKey) -> Option<(usize, Side, &Entry)> {
        self.engines.iter().enumerate().find_map(|(worker, engine)| {
            let conntrack = engine.conntrack();
            let (id, side) = conntrack.find(key, conntrack.hash(key))?;
            Some((worker, side, conntrack.entry(id)))
        })
    }

    /// The books of all workers together.
    #[must_use]
    pub fn account(&self) -> Account {
        let links: Vec<_> = self.links.iter().chain(&self.direct).collect();
        Account::of(&self.engines, self.injected, self.collected, &links)
    }

    /// Every frame is in exactly one place and every count is right.
    ///
    /// # Panics
    /// When that is not so.
    pub fn check(&self) {
        self.account().check();
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.check();
        }
    }
}
