//! The process around the compiler.
//!
//! ```text
//!  watcher thread (source) ─┐
//!                           ├─► one queue ─► main loop: compiler → artefact → install → report files
//!  follower thread (switch)─┘
//! ```
//! The main loop owns all state; the threads only wait for things to happen and say so. Changes that come together are
//! compiled together, and an artefact equal to the installed one is not installed again.
//!
//! Promises: nothing is installed before the objects have been seen whole and the switch has told all its endpoints; a
//! switch that is gone is waited for and told everything again when it is back; when we end, the switch keeps what it has.

mod follower;
mod installer;
mod report;
mod watcher;

use crate::compile::{Compiler, Limits, Options};
use crate::objects::Kind;
use crate::source::Change;
use installer::{Installer, Outcome};
use penstock_api::artefact::PodKey;
use penstock_api::ids::EndpointId;
use penstock_api::instance::Instance;
use penstock_api::message::Event;
use report::Report;
use std::collections::BTreeMap;
use std::fs::File;
use std::net::IpAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

/// A change is installed at once when it is the first in a while. Those that come within this time of each other after that are
/// installed together,
const DEBOUNCE: Duration = Duration::from_millis(5);
/// but never later than this after the first of them.
const DEBOUNCE_MAX: Duration = Duration::from_millis(25);
/// How long to wait after a refused installation, at first and at most.
const RETRY: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(15)];

#[derive(Debug, Clone)]
pub struct Config {
    pub instance: Instance,
    /// The directory of objects.
    pub objects: PathBuf,
    /// Where the switch's socket is, and where we report: `control.json`, `control-errors.json`.
    pub run_dir: PathBuf,
    /// Where last good versions are kept: `control-objects.json`.
    pub state_dir: PathBuf,
    /// What this node is called. Without a name it is known by its addresses.
    pub node_name: Option<String>,
    pub options: Options,
    pub limits: Limits,
}

impl Config {
    /// Everything where the instance has it.
    #[must_use]
    pub fn new(instance: Instance, objects: PathBuf) -> Self {
        Config {
            run_dir: instance.run_dir(),
            state_dir: instance.state_dir(),
            instance,
            objects,
            node_name: None,
            options: Options::default(),
            limits: Limits::default(),
        }
    }

    fn socket(&self) -> PathBuf {
        self.run_dir.join(self.instance.control_socket().file_name().unwrap_or_default())
    }
}

/// Why the agent did not start. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("object directory {} cannot be read: {error}; name an existing directory with --objects", .path.display())]
    Objects { path: PathBuf, error: std::io::Error },
    #[error("{} cannot be used: {error}; make it writable for this program", .path.display())]
    Directory { path: PathBuf, error: std::io::Error },
    #[error("another control plane of instance {instance} is running; stop it first")]
    Running { instance: Instance },
}

/// What the threads have to say.
enum Message {
    Objects(Box<watcher::Observation>),
    Connected,
    Disconnected,
    Event(Event),
    Stop,
}

/// Ends a running agent.
#[derive(Debug, Clone)]
pub struct Stopper(Sender<Message>);

impl Stopper {
    pub fn stop(&self) {
        // An agent that has ended already needs no telling.
        let _ = self.0.send(Message::Stop);
    }
}

/// A prepared agent: its directories are there, and no other one runs.
pub struct Agent {
    config: Config,
    queue: Receiver<Message>,
    sender: Sender<Message>,
    compiler: Compiler,
    /// The objects have been seen whole.
    objects_known: bool,
    switch: Switch,
    installer: Installer,
    report: Report,
    /// Something changed since the last artefact was compiled.
    is_dirty: bool,
    /// When something was last compiled for installation.
    installed: Option<Instant>,
    retry: Option<(Instant, Duration)>,
    _lock: File,
}

/// What is known of the switch's endpoints.
enum Switch {
    Absent,
    /// Connected; endpoints are being told.
    Listing(BTreeMap<EndpointId, (PodKey, Vec<IpAddr>)>),
    /// Every endpoint is in the compiler.
    Synced,
}

impl std::fmt::Debug for Agent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Agent").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Agent {
    pub fn new(config: Config) -> Result<Self, StartError> {
        let config = Config {
            objects: config
                .objects
                .canonicalize()
                .and_then(|objects| objects.read_dir().map(|_| objects))
                .map_err(|error| StartError::Objects { path: config.objects.clone(), error })?,
            ..config
        };
        for path in [&config.run_dir, &config.state_dir] {
            let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
            made.map_err(|error| StartError::Directory { path: path.clone(), error })?;
        }
        let lock = lock(&config)?;
        let (sender, queue) = channel();
        let mut compiler = Compiler::new();
        compiler.set_options(config.options.clone());
        compiler.set_node_name(config.node_name.clone());
        Ok(Agent {
            installer: Installer::new(config.socket()),
            report: Report::new(&config),
            queue,
            sender,
            compiler,
            objects_known: false,
            switch: Switch::Absent,
            is_dirty: false,
            installed: None,
            retry: None,
            _lock: lock,
            config,
        })
    }

    #[must_use]
    pub fn stopper(&self) -> Stopper {
        Stopper(self.sender.clone())
    }

    /// Runs until stopped.
    pub fn run(mut self) {
        tracing::info!(instance = %self.config.instance, objects = %self.config.objects.display(), "control plane started");
        self.report.write();
        let watcher = watcher::start(&self.config, self.sender.clone());
        let follower = follower::start(self.config.socket(), self.sender.clone());
        while self.turn() {}
        drop((watcher, follower));
        self.report.stopped();
        tracing::info!("control plane stopped; the switch keeps the policy it has");
    }

    /// Waits for something, takes in all that comes with it, and installs what follows from it. False: stop.
    fn turn(&mut self) -> bool {
        let first = match self.retry {
            None => self.queue.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some((at, _)) => self.queue.recv_timeout(at.saturating_duration_since(Instant::now())),
        };
        match first {
            Ok(message) => {
                if !self.take(message) {
                    return false;
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return false,
        }
        let began = Instant::now();
        let pause = match self.installed.is_some_and(|at| at.elapsed() < DEBOUNCE_MAX) {
            true => DEBOUNCE,
            false => Duration::ZERO,
        };
        while self.is_dirty && began.elapsed() < DEBOUNCE_MAX {
            let Ok(message) = self.queue.recv_timeout(pause) else { break };
            if !self.take(message) {
                return false;
            }
        }
        if self.is_dirty {
            self.installed = Some(Instant::now());
        }
        self.install();
        self.report.write();
        true
    }

    fn take(&mut self, message: Message) -> bool {
        match message {
            Message::Stop => return false,
            Message::Objects(observation) => self.take_objects(*observation),
            Message::Connected => {
                tracing::info!(socket = %self.config.socket().display(), "connected to the switch");
                self.switch = Switch::Listing(BTreeMap::new());
                self.installer.new_session();
                self.report.connected = true;
            }
            Message::Disconnected => {
                self.switch = Switch::Absent;
                self.installer.new_session();
                self.retry = None;
                self.report.connected = false;
                self.report.synced = false;
            }
            Message::Event(event) => self.take_event(event),
        }
        true
    }

    fn take_objects(&mut self, observation: watcher::Observation) {
        let says_more = |kind: Kind| !matches!(kind, Kind::Pod | Kind::Namespace | Kind::NetworkPolicy);
        let may_enforce_other_fields = observation.changes.iter().any(|change| match change {
            Change::Apply(object) => says_more(object.key().kind),
            Change::Delete(key) => says_more(key.kind),
        });
        if !self.objects_known && observation.is_first {
            let objects = observation.changes.iter().filter_map(|change| match change {
                Change::Apply(object) => Some(object.clone()),
                Change::Delete(_) => None,
            });
            self.compiler.reset(objects);
            self.objects_known = true;
            self.is_dirty = true;
        } else {
            self.is_dirty |= !observation.changes.is_empty();
            for change in &observation.changes {
                match change {
                    Change::Apply(object) => self.compiler.apply(object.clone()),
                    Change::Delete(key) => self.compiler.delete(key),
                }
            }
        }
        self.report.take_objects(observation);
        if may_enforce_other_fields {
            self.report.take_not_enforced(self.compiler.not_enforced());
        }
    }

    fn take_event(&mut self, event: Event) {
        match (event, &mut self.switch) {
            (Event::Attached { endpoint, port }, Switch::Listing(listed)) => {
                listed.insert(endpoint, (port.pod, port.addresses));
            }
            (Event::Detached { endpoint, .. }, Switch::Listing(listed)) => {
                listed.remove(&endpoint);
            }
            (Event::Synced { host_addresses, .. }, switch) => {
                if let Switch::Listing(listed) = std::mem::replace(switch, Switch::Synced) {
                    self.compiler.detach_all();
                    for (endpoint, (pod, addresses)) in listed {
                        self.compiler.attach(endpoint, pod, addresses);
                    }
                }
                self.compiler.set_host_addresses(host_addresses);
                self.is_dirty = true;
            }
            (Event::Attached { endpoint, port }, _) => {
                self.compiler.attach(endpoint, port.pod, port.addresses);
                self.is_dirty = true;
            }
            (Event::Detached { endpoint, .. }, _) => {
                self.compiler.detach(endpoint);
                self.is_dirty = true;
            }
            (Event::HostAddresses { host_addresses }, _) => {
                self.compiler.set_host_addresses(host_addresses);
                self.is_dirty = true;
            }
        }
    }

    fn install(&mut self) {
        let is_due = self.retry.is_some_and(|(at, _)| Instant::now() >= at);
        if !self.objects_known || !matches!(self.switch, Switch::Synced) || !(self.is_dirty || is_due) {
            return;
        }
        let began = Instant::now();
        let artefact = self.compiler.artefact_within(&self.config.limits);
        let compile_time = began.elapsed();
        self.is_dirty = false;
        let artefact = match artefact {
            Ok(artefact) => artefact,
            Err(overflow) => {
                // Trying again is of no use before something changes.
                self.retry = None;
                tracing::error!("policy was not installed, what was in force stays in force: {overflow}");
                self.report.not_installed(overflow.to_string());
                return;
            }
        };
        match self.installer.install(artefact) {
            Outcome::Unchanged => {
                self.retry = None;
                self.report.in_force(None, compile_time);
            }
            Outcome::Installed { generation, took } => {
                self.retry = None;
                tracing::info!(%generation, compile_us = compile_time.as_micros() as u64, install_us = took.as_micros() as u64, "policy installed");
                self.report.in_force(Some((generation, took)), compile_time);
            }
            Outcome::Failed(why) => {
                let wait = self.retry.map_or(RETRY[0], |(_, wait)| (wait * 2).min(RETRY[1]));
                self.retry = Some((Instant::now() + wait, wait));
                tracing::error!(
                    "policy was not installed, what was in force stays in force: {why}; next attempt in {} s",
                    wait.as_secs()
                );
                self.report.not_installed(why);
            }
        }
    }
}

/// Two control planes of one instance would undo each other's work.
fn lock(config: &Config) -> Result<File, StartError> {
    let path = config.run_dir.join("control.lock");
    let unusable = |path: &Path, error| StartError::Directory { path: path.to_owned(), error };
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|error| unusable(&path, error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => {
            Err(StartError::Running { instance: config.instance.clone() })
        }
        Err(std::fs::TryLockError::Error(error)) => Err(unusable(&path, error)),
    }
}
