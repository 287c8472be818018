//! One laboratory: a node with a switch, a control plane, objects and pods.

use crate::cni::{self, CniCall, CniFailure};
use crate::leftovers::{self, Claim};
use crate::node::{self, NODE_V4, NODE_V6, OUTSIDE_V4, OUTSIDE_V6};
use crate::objects::{self, Labels, Objects};
use crate::place::Place;
use crate::pod::Pod;
use crate::probe::scaled;
use crate::programs::Programs;
use crate::switch;
use anyhow::{Context, Result, bail};
use ipnet::IpNet;
use penstock_api::artefact::Artefact;
use penstock_api::message::{DropEvent, FlowStatus, FrameCensus, PortStatus, Request, Response, Status};
use penstock_api::{DropReason, Generation, Instance};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long a change of an object may take to be in force.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(5);
const LOG_LINES: usize = 40;

/// How a laboratory differs from the default. `LabOptions { workers: Some(2), ..LabOptions::default() }`
#[derive(Debug, Clone)]
pub struct LabOptions {
    /// The instance's name; made from the laboratory's name, and unique, when absent.
    pub instance: Option<String>,
    pub workers: Option<u8>,
    /// Of the switch, the uplink and what lies outside, in bytes.
    pub mtu: u16,
    pub polling: Option<Polling>,
    /// The switch's default when empty.
    pub pod_ranges: Vec<IpNet>,
    /// The switch's configuration file.
    pub switch_config: Option<PathBuf>,
    /// Further arguments of `penstock-vswitch run`.
    pub switch_arguments: Vec<String>,
    /// False: no control plane; [`Lab::install`] says what is allowed.
    pub with_control: bool,
    /// Where the objects are; a temporary directory when absent.
    pub objects: Option<PathBuf>,
}

impl Default for LabOptions {
    fn default() -> Self {
        LabOptions {
            instance: None,
            workers: None,
            mtu: 1500,
            polling: None,
            pod_ranges: vec![],
            switch_config: None,
            switch_arguments: vec![],
            with_control: true,
            objects: None,
        }
    }
}

/// How workers wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Polling {
    /// Looks again at once
    Busy,
    /// Looks for a while, then sleeps until the kernel wakes it
    Adaptive,
    /// Sleeps at once
    Interrupt,
}

impl Polling {
    /// As the switch's argument has it.
    pub fn name(self) -> &'static str {
        match self {
            Polling::Busy => "busy",
            Polling::Adaptive => "adaptive",
            Polling::Interrupt => "interrupt",
        }
    }
}

/// A node in namespaces. See the crate's documentation.
#[derive(Debug)]
pub struct Lab {
    instance: Instance,
    options: LabOptions,
    programs: Programs,
    host: Place,
    outside: Place,
    objects: Objects,
    /// Namespaces of Kubernetes that have an object.
    namespaces: Mutex<Vec<String>>,
    /// Goes with the laboratory; none when the objects are somewhere the caller chose.
    dir: Option<TempDir>,
    claim: Option<Claim>,
}

impl Lab {
    /// A laboratory with the default options. Panics with the reason when there can be none.
    #[track_caller]
    pub fn new(name: &str) -> Lab {
        Lab::with(name, LabOptions::default())
    }

    /// As [`Lab::new`], with options.
    #[track_caller]
    pub fn with(name: &str, options: LabOptions) -> Lab {
        Lab::start(name, options).unwrap_or_else(|error| panic!("laboratory {name}: {error:#}"))
    }

    /// Makes the node and starts what runs on it. `name` is for people: the instance is named after it.
    pub fn start(name: &str, options: LabOptions) -> Result<Lab> {
        if !nix::unistd::geteuid().is_root() {
            bail!("a laboratory makes network namespaces: run this as root");
        }
        let programs = Programs::find()?;
        leftovers::sweep(&programs);
        let (instance, claim) = match &options.instance {
            Some(instance) => {
                let claim = Claim::take(instance)?
                    .with_context(|| format!("{instance} is another process's laboratory"))?;
                (instance.parse()?, claim)
            }
            None => unused_instance(name)?,
        };
        let (dir, objects_dir) = match &options.objects {
            Some(objects) => (None, objects.clone()),
            None => {
                let dir = tempfile::Builder::new().prefix("penstock-lab-").tempdir()?;
                let objects = dir.path().join("objects");
                (Some(dir), objects)
            }
        };
        let objects = Objects::new(&objects_dir)?;
        let made = node::make(instance.name(), options.mtu)?;
        let lab = Lab {
            host: Place::new("host", made.host, vec![NODE_V4.into(), NODE_V6.into()]),
            outside: Place::new("outside", made.outside, vec![OUTSIDE_V4.into(), OUTSIDE_V6.into()]),
            instance,
            options,
            programs,
            objects,
            namespaces: Mutex::default(),
            dir,
            claim: Some(claim),
        };
        lab.start_switch()?;
        Ok(lab)
    }

    /// Starts the switch and the control plane, as after a stop or a crash.
    pub fn start_switch(&self) -> Result<()> {
        self.start_programs(self.options.with_control)
    }

    /// Starts the switch alone: it enforces what is kept on disk.
    pub fn start_switch_only(&self) -> Result<()> {
        self.start_programs(false)
    }

    fn start_programs(&self, with_control: bool) -> Result<()> {
        let o = &self.options;
        let mut arguments: Vec<String> = vec!["up".into(), "--mtu".into(), o.mtu.to_string()];
        match with_control {
            true => arguments.extend(["--objects".into(), self.objects.dir().display().to_string()]),
            false => arguments.push("--switch-only".into()),
        }
        if let Some(workers) = o.workers {
            arguments.extend(["--workers".into(), workers.to_string()]);
        }
        if let Some(polling) = o.polling {
            arguments.extend(["--polling".into(), polling.name().into()]);
        }
        for range in &o.pod_ranges {
            arguments.extend(["--pod-range".into(), range.to_string()]);
        }
        if let Some(config) = &o.switch_config {
            arguments.extend(["--config".into(), config.display().to_string()]);
        }
        if !o.switch_arguments.is_empty() {
            arguments.push("--".into());
            arguments.extend(o.switch_arguments.iter().cloned());
        }
        self.penstock(&arguments).map(drop)
    }

    pub fn instance(&self) -> &Instance {
        &self.instance
    }

    /// Where the programs of this laboratory are.
    pub fn program(&self, name: &str) -> PathBuf {
        self.programs.path(name)
    }

    /// The directory of objects the control plane watches.
    pub fn objects_dir(&self) -> &Path {
        self.objects.dir()
    }

    /// The node itself.
    pub fn host(&self) -> &Place {
        &self.host
    }

    /// What lies behind the node: it reaches pods through the node's routing only.
    pub fn outside(&self) -> &Place {
        &self.outside
    }

    /// The operator's command, about this instance, on the node: `lab.penstock(&["drops"])`. What it printed, or what it
    /// said went wrong.
    pub fn penstock<S: AsRef<std::ffi::OsStr>>(&self, arguments: &[S]) -> Result<String> {
        self.programs.penstock_succeeds(self.host.netns(), self.instance.name(), arguments)
    }

    // Objects.

    /// Declares a namespace of Kubernetes with labels. Namespaces of pods that were not declared have none of their own.
    #[track_caller]
    pub fn namespace(&self, name: &str, labels: &[(&str, &str)]) {
        self.try_namespace(name, labels).unwrap_or_else(|error| panic!("namespace {name}: {error:#}"));
    }

    pub fn try_namespace(&self, name: &str, labels: Labels<'_>) -> Result<()> {
        self.namespaces.lock().unwrap_or_else(PoisonError::into_inner).push(name.to_owned());
        self.change(|| self.objects.write(&format!("namespace-{name}"), &objects::namespace(name, labels)))
    }

    /// Writes objects into a file of the directory and waits until they are in force. Replaces what the file held.
    #[track_caller]
    pub fn apply(&self, name: &str, yaml: &str) {
        self.try_apply(name, yaml).unwrap_or_else(|error| panic!("applying {name}: {error:#}"));
    }

    pub fn try_apply(&self, name: &str, yaml: &str) -> Result<()> {
        self.change(|| self.objects.write(name, yaml))
    }

    /// Removes such a file and waits until its objects are no longer in force.
    #[track_caller]
    pub fn remove(&self, name: &str) {
        self.try_remove(name).unwrap_or_else(|error| panic!("removing {name}: {error:#}"));
    }

    pub fn try_remove(&self, name: &str) -> Result<()> {
        self.change(|| self.objects.remove(name).map(|()| true))
    }

    /// Installs an artefact, in a laboratory without a control plane.
    pub fn install(&self, artefact: Artefact) -> Result<Generation> {
        switch::install(&self.instance, artefact)
    }

    /// Makes a change of objects (false: nothing changed) and waits until the switch enforces it.
    fn change(&self, change: impl FnOnce() -> Result<bool>) -> Result<()> {
        match change()? && self.options.with_control {
            true => self.settled(),
            false => Ok(()),
        }
    }

    /// Waits until the control plane has read every file there is and the switch enforces what they say (what of it was
    /// refused aside). After changes made with [`Lab::apply`] and its like this has been waited for already.
    pub fn settled(&self) -> Result<()> {
        let began = Instant::now();
        let file = self.instance.run_dir().join("control.json");
        loop {
            let account = std::fs::read(&file).unwrap_or_default();
            let account: Value = serde_json::from_slice(&account).unwrap_or_default();
            if account["synced"] == true && account["files"] == self.objects.count()? {
                return Ok(());
            }
            if began.elapsed() > scaled(SETTLE_TIMEOUT) {
                bail!(
                    "the objects are not in force after {} s: there are {} files, and {} says {account}",
                    scaled(SETTLE_TIMEOUT).as_secs(),
                    self.objects.count()?,
                    file.display()
                );
            }
            thread::sleep(Duration::from_millis(2));
        }
    }

    // Pods.

    /// Writes the Pod object, makes its namespace and attaches it by the real CNI plugin. Panics with the reason when the
    /// plugin refuses.
    #[track_caller]
    pub fn pod(&self, namespace: &str, name: &str, labels: &[(&str, &str)]) -> Pod {
        self.add_pod(namespace, name, labels)
            .unwrap_or_else(|error| panic!("pod {namespace}/{name}: {error:#}"))
    }

    pub fn add_pod(&self, namespace: &str, name: &str, labels: Labels<'_>) -> Result<Pod> {
        self.declare_pod(namespace, name, labels)?;
        self.attach(namespace, name)
    }

    /// Writes the Pod object (and its namespace's, where there is none), and attaches nothing yet.
    pub fn declare_pod(&self, namespace: &str, name: &str, labels: Labels<'_>) -> Result<()> {
        let undeclared = {
            let known = self.namespaces.lock().unwrap_or_else(PoisonError::into_inner);
            !known.iter().any(|known| known == namespace)
        };
        if undeclared {
            self.try_namespace(namespace, &[])?;
        }
        let object = objects::pod(namespace, name, &self.uid(namespace, name), labels);
        self.objects.write(&pod_file(namespace, name), &object).map(drop)
    }

    /// The name of the network namespace a pod has, or will have.
    pub fn netns_of(&self, namespace: &str, name: &str) -> String {
        format!("{}-p-{namespace}-{name}", self.instance)
    }

    fn uid(&self, namespace: &str, name: &str) -> String {
        format!("{}.{namespace}.{name}", self.instance)
    }

    /// Changes a pod's labels and waits until the change is in force.
    #[track_caller]
    pub fn relabel(&self, pod: &Pod, labels: &[(&str, &str)]) {
        let object = objects::pod(&pod.namespace, &pod.name, &self.uid(&pod.namespace, &pod.name), labels);
        self.change(|| self.objects.write(&pod_file(&pod.namespace, &pod.name), &object))
            .unwrap_or_else(|error| panic!("relabelling {}: {error:#}", pod.name()));
    }

    /// Makes a namespace and has the plugin attach it; the Pod object is the caller's business.
    pub fn attach(&self, namespace: &str, name: &str) -> Result<Pod> {
        self.attach_with(namespace, name, |_| {})
    }

    /// As [`Lab::attach`], with the call bent before it is made.
    pub fn attach_with(&self, namespace: &str, name: &str, bend: impl FnOnce(&mut CniCall)) -> Result<Pod> {
        let uid = self.uid(namespace, name);
        let netns_name = self.netns_of(namespace, name);
        let netns = node::make_netns(&netns_name)?;
        let mut add = CniCall::add(self.instance.name(), namespace, name, &uid, netns.path());
        bend(&mut add);
        let asked = Instant::now();
        let answer = self.cni(&add);
        let attach_time = asked.elapsed();
        match answer {
            Ok(result) => Ok(Pod {
                place: Place::new(format!("{namespace}/{name}"), netns, cni::addresses(&result)),
                namespace: namespace.to_owned(),
                name: name.to_owned(),
                add,
                result,
                attach_time,
            }),
            Err(failure) => {
                node::delete_netns(&netns_name);
                Err(failure.into())
            }
        }
    }

    /// Runs the plugin on the node, as a kubelet would.
    pub fn cni(&self, call: &CniCall) -> Result<serde_json::Value, CniFailure> {
        let plugin = self.programs.path("penstock-cni");
        self.host.run(|| call.run(&plugin))
    }

    /// Has the plugin detach a pod, removes its namespace and its object.
    pub fn detach(&self, pod: Pod) -> Result<()> {
        self.cni(&CniCall { command: "DEL".to_owned(), ..pod.add.clone() })?;
        if let Some(name) = pod.netns().name() {
            node::delete_netns(name);
        }
        match self.objects.file(&pod_file(&pod.namespace, &pod.name)).exists() {
            true => self.objects.remove(&pod_file(&pod.namespace, &pod.name)),
            false => Ok(()),
        }
    }

    // The switch's own account.

    pub fn ask(&self, request: &Request) -> Result<Response> {
        switch::ask(&self.instance, request)
    }

    pub fn status(&self) -> Result<Status> {
        switch::status(&self.instance)
    }

    pub fn ports(&self) -> Result<Vec<PortStatus>> {
        switch::ports(&self.instance)
    }

    pub fn flows(&self) -> Result<Vec<FlowStatus>> {
        switch::flows(&self.instance)
    }

    /// Frames dropped for a reason since the switch started. Panics when the switch does not answer.
    #[track_caller]
    pub fn drops(&self, reason: DropReason) -> u64 {
        match switch::drops(&self.instance) {
            Ok((drops, _)) => switch::count(&drops, reason),
            Err(error) => panic!("drops: {error:#}"),
        }
    }

    /// Every reason frames were dropped for, with their number, largest first.
    pub fn all_drops(&self) -> Result<Vec<(DropReason, u64)>> {
        let (drops, _) = switch::drops(&self.instance)?;
        let mut all: Vec<_> = DropReason::ALL
            .iter()
            .map(|reason| (*reason, switch::count(&drops, *reason)))
            .filter(|(_, frames)| *frames > 0)
            .collect();
        all.sort_by_key(|(_, frames)| std::cmp::Reverse(*frames));
        Ok(all)
    }

    /// Recent drops, sampled, as the switch tells them.
    pub fn recent_drops(&self) -> Result<Vec<DropEvent>> {
        Ok(switch::drops(&self.instance)?.1)
    }

    /// Every frame of every worker is in exactly one place. Panics with what is not.
    #[track_caller]
    pub fn assert_frames_conserved(&self) {
        match self.frame_faults() {
            Ok(faults) if faults.is_empty() => {}
            Ok(faults) => panic!("frames are not conserved: {}", faults.join("; ")),
            Err(error) => panic!("the census of frames: {error:#}"),
        }
    }

    /// Where the frames of each area of each worker are.
    pub fn frames(&self) -> Result<Vec<FrameCensus>> {
        switch::frames(&self.instance)
    }

    /// What a census of all frames finds wrong; frames in motion are given a moment to come to rest.
    pub fn frame_faults(&self) -> Result<Vec<String>> {
        const TRIES: usize = 20;
        let mut faults = Vec::new();
        for _ in 0..TRIES {
            faults = switch::census_faults(&switch::frames(&self.instance)?);
            if faults.is_empty() {
                break;
            }
            thread::sleep(Duration::from_millis(50));
        }
        Ok(faults)
    }

    /// Leaves everything running and returns; what was made stays until [`Lab::remove_instance`] or a reboot.
    pub fn keep(mut self) {
        if let Some(dir) = self.dir.take() {
            let _ = dir.keep();
        }
        if let Some(claim) = self.claim.take() {
            claim.release();
        }
    }

    /// Removes an instance that was kept, and every namespace that carries its name.
    pub fn remove_instance(instance: &str) -> Result<()> {
        leftovers::remove(&Programs::find()?, instance);
        Ok(())
    }

    /// What there is of an instance on this machine, for people: namespaces, directories, pins, tables. Empty after a
    /// laboratory is dropped.
    pub fn leftovers(instance: &Instance) -> Vec<String> {
        leftovers::of(instance)
    }

    /// Everything there is to know about the switch, for a failed test.
    pub fn report(&self) -> String {
        let mut report = String::new();
        for command in ["status", "ports", "drops", "flows"] {
            let said = self.penstock(&[command]).unwrap_or_else(|error| format!("{error:#}"));
            report.push_str(&format!("--- penstock {command}\n{}\n", said.trim_end()));
        }
        for log in ["vswitch.log", "control.log"] {
            let text = std::fs::read(self.instance.run_dir().join(log)).unwrap_or_default();
            let text = String::from_utf8_lossy(&text);
            let lines: Vec<&str> = text.lines().collect();
            report.push_str(&format!("--- the end of {log}\n"));
            for line in &lines[lines.len().saturating_sub(LOG_LINES)..] {
                report.push_str(line);
                report.push('\n');
            }
        }
        report
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let Some(claim) = self.claim.take() else { return };
        if thread::panicking() {
            eprintln!("{}", self.report());
        }
        leftovers::remove(&self.programs, self.instance.name());
        drop(claim);
    }
}

fn pod_file(namespace: &str, name: &str) -> String {
    format!("pod-{namespace}-{name}")
}

/// `pt-`, the beginning of the name, and what makes it unique: at most 13 characters.
fn unused_instance(name: &str) -> Result<(Instance, Claim)> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    const TRIES: u32 = 1000;
    let short: String =
        name.chars().filter(|c| c.is_ascii_alphanumeric()).map(|c| c.to_ascii_lowercase()).take(5).collect();
    for _ in 0..TRIES {
        let number = std::process::id().wrapping_mul(7919).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed))
            % 0x10000;
        let instance: Instance = format!("pt-{short}-{number:04x}").parse()?;
        if penstock_net::Netns::exists(&node::host_name(instance.name())) {
            continue;
        }
        if let Some(claim) = Claim::take(instance.name())? {
            return Ok((instance, claim));
        }
    }
    bail!(
        "no unused name for laboratory {name} was found in {TRIES} tries; see 'ip netns' for what is left over"
    )
}
