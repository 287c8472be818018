//! Doubles: a kernel that can be told to fail, and workers that only take up what is published.

use super::kernel::{Kernel, KernelError};
use super::{HostAddresses, InstanceLock, Parts, Paths, Server, StartError, Workers, lock};
use crate::config::Config;
use crate::packet::FlowKey;
use crate::snapshot::{PortRecord, Snapshot};
use crate::worker::counters::Counters;
use crate::worker::mailbox::{Capture, Command, DropSample, Mailbox};
use penstock_api::artefact::{PodKey, PodPolicy, PolicyInfo, Program};
use penstock_api::message::*;
use penstock_api::{
    Artefact, Difference, Direction, DropReason, EndpointId, Generation, IdentityId, PolicyId, PortId,
    ProgramId, WorkerId, wire,
};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What the kernel has, and what it was told to refuse.
#[derive(Debug, Default)]
pub(crate) struct Machine {
    /// Interfaces in the instance's namespace.
    pub(crate) host_ends: BTreeSet<String>,
    /// Host ends with programs on.
    pub(crate) attached: BTreeMap<String, PortId>,
    pub(crate) refuse_attach: Option<String>,
    pub(crate) refuse_detach: Option<String>,
    /// Whether an interface exists cannot be found out.
    pub(crate) answers_nothing: bool,
    pub(crate) drops: Vec<(Option<PortId>, DropReason, u64)>,
    /// In which order it was asked for what.
    pub(crate) calls: Vec<String>,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Double(pub(crate) Arc<Mutex<Machine>>);

impl Kernel for Double {
    fn attach_pod(&mut self, port: &PortRecord, host_end: &str) -> Result<(), KernelError> {
        let mut machine = lock(&self.0);
        machine.calls.push(format!("attach {host_end}"));
        if let Some(reason) = &machine.refuse_attach {
            return Err(KernelError::new(reason));
        }
        if !machine.host_ends.contains(host_end) {
            return Err(KernelError::new(format!("interface {host_end} does not exist")));
        }
        machine.attached.insert(host_end.to_owned(), port.id);
        Ok(())
    }

    fn detach_pod(&mut self, _: PortId, host_end: &str) -> Result<(), KernelError> {
        let mut machine = lock(&self.0);
        machine.calls.push(format!("detach {host_end}"));
        if let Some(reason) = &machine.refuse_detach {
            return Err(KernelError::new(reason));
        }
        machine.attached.remove(host_end);
        Ok(())
    }

    fn check_pod(&mut self, port: &PortRecord, host_end: &str) -> Result<(), KernelError> {
        match lock(&self.0).attached.get(host_end) {
            Some(id) if *id == port.id => Ok(()),
            _ => Err(KernelError::new(format!("the program on {host_end} is gone"))),
        }
    }

    fn drops(&mut self) -> Vec<(Option<PortId>, DropReason, u64)> {
        lock(&self.0).drops.clone()
    }

    fn devices(&self, _: WorkerId) -> Vec<DeviceStatus> {
        Vec::new()
    }

    fn host_end_exists(&mut self, host_end: &str) -> Result<bool, KernelError> {
        let machine = lock(&self.0);
        match machine.answers_nothing {
            true => Err(KernelError::new("too many open files")),
            false => Ok(machine.host_ends.contains(host_end)),
        }
    }

    fn host_mac(&self) -> [u8; 6] {
        [2, 0, 0, 0, 0, 0xff]
    }
}

/// What a worker was seen to hold.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) snapshot: Option<Arc<Snapshot>>,
    pub(crate) forgotten: Vec<EndpointId>,
    pub(crate) capture: Option<Arc<Capture>>,
    pub(crate) stopped: bool,
}

/// A worker without packets.
pub(crate) struct FakeWorker {
    pub(crate) mailbox: Arc<Mailbox>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) seen: Arc<Mutex<Seen>>,
    /// True: it does not look into its mailbox.
    pub(crate) stuck: Arc<AtomicBool>,
    end: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl FakeWorker {
    fn spawn(worker: u8, ports_max: usize) -> Self {
        let mailbox = Arc::new(Mailbox::new().unwrap());
        let counters = Arc::new(Counters::new(ports_max));
        let seen = Arc::new(Mutex::new(Seen::default()));
        let (stuck, end) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let thread = std::thread::spawn({
            let (mailbox, counters, seen) = (mailbox.clone(), counters.clone(), seen.clone());
            let (stuck, end) = (stuck.clone(), end.clone());
            move || {
                while !end.load(Ordering::Relaxed) {
                    counters.rounds.add(1);
                    while !stuck.load(Ordering::Relaxed)
                        && let Some(command) = mailbox.take()
                    {
                        counters.busy_rounds.add(1);
                        obey(command, worker, &mailbox, &counters, &mut lock(&seen));
                    }
                    std::thread::sleep(Duration::from_micros(500));
                }
            }
        });
        FakeWorker { mailbox, counters, seen, stuck, end, thread: Some(thread) }
    }
}

fn obey(command: Command, worker: u8, mailbox: &Mailbox, counters: &Counters, seen: &mut Seen) {
    match command {
        Command::Snapshot(snapshot) => {
            let (serial, generation) = (snapshot.serial, snapshot.generation().0);
            if let Some(old) = seen.snapshot.replace(snapshot) {
                mailbox.discard(old);
            }
            counters.generation.set(generation);
            counters.serial.set(serial);
        }
        Command::ForgetEndpoint(endpoint) => seen.forgotten.push(endpoint),
        Command::Carried(_) => {}
        Command::Capture(capture) => seen.capture = capture,
        Command::Flows { reply, .. } => {
            let flow = FlowStatus {
                worker: WorkerId(worker),
                protocol: 6,
                source: "10.244.0.1".parse().unwrap(),
                source_port: 40_000,
                destination: "10.244.0.2".parse().unwrap(),
                destination_port: 80,
                state: "established".into(),
                source_pod: None,
                destination_pod: None,
                generation: Generation(1),
                idle_ms: 10 - u64::from(worker),
                forward_frames: 1,
                forward_bytes: 1,
                reply_frames: 1,
                reply_bytes: 1,
            };
            let _ = reply.send((vec![flow], 1));
        }
        Command::Census { reply } => {
            let _ = reply.send(vec![FrameCensus { worker: WorkerId(worker), ..FrameCensus::default() }]);
        }
        Command::Stages { reply, .. } => {
            let _ = reply.send(StageTimes { worker: WorkerId(worker), ..StageTimes::default() });
        }
        Command::Rebind => counters.rebinds.add(1),
        Command::Stop => seen.stopped = true,
    }
}

impl FakeWorker {
    pub(crate) fn end(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for FakeWorker {
    fn drop(&mut self) {
        self.end();
    }
}

/// A switch on doubles, in directories of its own. Fields are dropped in order: the server before what it speaks to.
pub(crate) struct Bench {
    pub(crate) server: Option<Server>,
    pub(crate) workers: Vec<FakeWorker>,
    pub(crate) machine: Arc<Mutex<Machine>>,
    pub(crate) host_addresses: Arc<Mutex<Vec<IpAddr>>>,
    pub(crate) config: Config,
    pub(crate) dir: tempfile::TempDir,
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self::with(Config::default())
    }

    pub(crate) fn with(config: Config) -> Self {
        let mut bench = Self::unstarted(config);
        bench.start().unwrap();
        bench
    }

    pub(crate) fn unstarted(config: Config) -> Self {
        Bench {
            server: None,
            workers: Vec::new(),
            machine: Arc::default(),
            host_addresses: Arc::new(Mutex::new(vec!["192.0.2.7".parse().unwrap()])),
            config,
            dir: tempfile::tempdir().unwrap(),
        }
    }

    pub(crate) fn paths(&self) -> Paths {
        paths(self.dir.path())
    }

    /// A new process: new workers, new counters, the same disk and kernel.
    pub(crate) fn start(&mut self) -> Result<(), StartError> {
        self.stop();
        self.workers = (0..2).map(|worker| FakeWorker::spawn(worker, self.config.ports_max)).collect();
        let addresses = self.host_addresses.clone();
        let prepared = Server::prepare(Parts {
            config: self.config.clone(),
            paths: self.paths(),
            lock: InstanceLock::take(&self.paths()).unwrap(),
            kernel: Box::new(Double(self.machine.clone())),
            workers: Workers {
                mailboxes: self.workers.iter().map(|worker| worker.mailbox.clone()).collect(),
                counters: self.workers.iter().map(|worker| worker.counters.clone()).collect(),
            },
            host_addresses: HostAddresses::from_fn(move || Ok(lock(&addresses).clone())),
        })?;
        self.server = Some(prepared.serve()?);
        Ok(())
    }

    pub(crate) fn stop(&mut self) {
        self.server = None;
        self.workers.clear();
    }

    pub(crate) fn machine<T>(&self, f: impl FnOnce(&mut Machine) -> T) -> T {
        f(&mut lock(&self.machine))
    }

    pub(crate) fn connect(&self) -> Client {
        Client::connect(&self.paths())
    }

    pub(crate) fn ask(&self, request: &Request) -> Response {
        self.connect().ask(request)
    }

    /// A subscriber, everything before `Synced` read.
    pub(crate) fn subscribe(&self) -> Client {
        let mut client = self.connect();
        assert_eq!(client.ask(&Request::Subscribe), Response::Subscribed);
        while !matches!(client.event(), Event::Synced { .. }) {}
        client
    }

    /// Attaches without a control plane: policy for the pod has to be there.
    pub(crate) fn attach(&self, port: &PodPort) -> Response {
        self.machine(|machine| machine.host_ends.insert(port.host_end.clone()));
        self.ask(&Request::Attach { port: port.clone(), wait_ms: 100 })
    }

    pub(crate) fn install(&self, artefact: Artefact) -> Response {
        self.ask(&Request::Install { artefact: Box::new(artefact) })
    }

    pub(crate) fn change(&self, difference: Difference) -> Response {
        self.ask(&Request::Change { difference: Box::new(difference) })
    }

    pub(crate) fn ports(&self) -> Vec<PortStatus> {
        match self.ask(&Request::Ports) {
            Response::Ports { ports } => ports,
            other => panic!("{other:?}"),
        }
    }

    /// Pods' ports only.
    pub(crate) fn pod_ports(&self) -> Vec<PortStatus> {
        self.ports().into_iter().filter(|port| port.kind == "pod").collect()
    }

    pub(crate) fn status(&self) -> Status {
        match self.ask(&Request::Status) {
            Response::Status(status) => *status,
            other => panic!("{other:?}"),
        }
    }

    /// What both workers run must be one and the same.
    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        let mut snapshots = self.workers.iter().map(|w| lock(&w.seen).snapshot.clone().unwrap());
        let first = snapshots.next().unwrap();
        assert!(snapshots.all(|other| Arc::ptr_eq(&first, &other)), "workers run different snapshots");
        first
    }
}

pub(crate) fn paths(dir: &Path) -> Paths {
    Paths { run_dir: dir.join("run"), state_dir: dir.join("state") }
}

pub(crate) struct Client(pub(crate) UnixStream);

impl Client {
    pub(crate) fn connect(paths: &Paths) -> Self {
        let stream = UnixStream::connect(paths.control_socket()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        Client(stream)
    }

    pub(crate) fn send(&mut self, request: &Request) {
        wire::send(&mut self.0, request).unwrap();
    }

    pub(crate) fn receive(&mut self) -> Response {
        wire::receive(&mut self.0).unwrap()
    }

    pub(crate) fn ask(&mut self, request: &Request) -> Response {
        self.send(request);
        self.receive()
    }

    pub(crate) fn event(&mut self) -> Event {
        wire::receive(&mut self.0).unwrap()
    }
}

pub(crate) fn port(n: u8) -> PodPort {
    PodPort {
        container_id: format!("c{n}"),
        interface: "eth0".into(),
        host_end: format!("pt{n}"),
        pod: PodKey::new("default", format!("pod{n}")),
        mac: Mac([2, 0, 0, 0, 0, n]),
        addresses: vec![
            format!("10.244.0.{n}").parse().unwrap(),
            format!("fd00:10:244::{n:x}").parse().unwrap(),
        ],
        mtu: 1500,
    }
}

/// Knows `pods`; every one is isolated by the policy `deny`.
pub(crate) fn artefact(generation: u64, pods: &[u8]) -> Artefact {
    Artefact {
        generation: Generation(generation),
        policies: vec![PolicyInfo {
            kind: "NetworkPolicy".into(),
            namespace: "default".into(),
            name: "deny".into(),
        }],
        programs: vec![Program { isolated: true, selected_by: vec![PolicyId(0)], entries: Vec::new() }],
        pods: pods
            .iter()
            .map(|&n| PodPolicy {
                pod: port(n).pod,
                addresses: port(n).addresses,
                identity: IdentityId::FIRST_COMPILED,
                other_identities: Vec::new(),
                ingress: ProgramId(0),
                egress: ProgramId(0),
            })
            .collect(),
        ..Artefact::empty()
    }
}

/// A drop of a TCP segment from pod 1 to pod 2, refused by pod 2's ingress policy.
pub(crate) fn sample(port: PortId, judge: PortId) -> DropSample {
    DropSample {
        reason: DropReason::PolicyIngress,
        port,
        key: FlowKey::new(6, "10.244.0.1".parse().unwrap(), 40_000, "10.244.0.2".parse().unwrap(), 80),
        judge,
        direction: Some(Direction::Ingress),
        rule: None,
    }
}

/// Code and text of an error, or a failed test.
pub(crate) fn error(response: Response) -> (ErrorCode, String) {
    match response {
        Response::Error { code, message } => (code, message),
        other => panic!("expected an error, got {other:?}"),
    }
}

pub(crate) fn is_attached(response: &Response) -> bool {
    matches!(response, Response::Attached { .. })
}

/// Polls until `done`; what takes a thread of its own takes a moment.
pub(crate) fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..500 {
        if done() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("not within 5 s: {what}");
}
