//! `penstock up`: the switch and the control plane in one go, or nothing.
//!
//! Two programs are started, and the command returns when they work together: the switch answers, and the control plane
//! has installed a policy. When one of them fails, the end of its log is shown and what this command started is stopped.
//! A switch that runs without its control plane gets one; a control plane without its switch is replaced.

use crate::client::Client;
use crate::commands::status::{control_errors, control_file, error_line};
use crate::context::Context;
use crate::failure::Failure;
use crate::output::{duration, joined, print};
use crate::process::{LogTo, Program, stop, tail, wait_until};
use clap::ValueEnum;
use ipnet::IpNet;
use nix::sys::signal::{SigSet, Signal};
use penstock_api::message::{PROTOCOL, Request};
use serde_json::Value;
use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::Child;
use std::time::{Duration, Instant};

/// Old kernels take seconds to verify the programs, on an emulated or overloaded machine many.
const READY_TIMEOUT: Duration = Duration::from_secs(30);
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
const LOG_LINES: usize = 15;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The directory of Kubernetes objects (YAML), watched live.
    #[arg(long, value_name = "DIR", required_unless_present = "switch_only")]
    objects: Option<PathBuf>,
    /// The switch's configuration (TOML).
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Stay, log to standard error, and stop both on SIGINT or SIGTERM (interfaces stay, 'down' removes them).
    #[arg(long)]
    foreground: bool,
    /// Start no control plane: pods stay isolated until something installs a policy.
    #[arg(long, conflicts_with = "objects")]
    switch_only: bool,
    /// Packet-processing threads.
    #[arg(long, value_name = "N")]
    workers: Option<u8>,
    /// Addresses of this node's pods; give one of each family.
    #[arg(long, value_name = "CIDR")]
    pod_range: Vec<IpNet>,
    /// The largest packet, in bytes.
    #[arg(long, value_name = "BYTES")]
    mtu: Option<u16>,
    /// How workers wait for frames.
    #[arg(long, value_enum)]
    polling: Option<Polling>,
    /// Further arguments for penstock-vswitch, as they are.
    #[arg(last = true, value_name = "ARGUMENT")]
    switch: Vec<OsString>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Polling {
    /// Never sleep: least latency, a core each.
    Busy,
    /// Spin while there is work, sleep when there is none.
    Adaptive,
    /// Sleep until the kernel wakes.
    Interrupt,
}

impl Arguments {
    fn for_switch(&self, context: &Context) -> Result<Vec<OsString>, Failure> {
        let mut arguments: Vec<OsString> =
            vec!["run".into(), "--instance".into(), context.instance.name().into()];
        let mut flag = |name: &str, value: OsString| arguments.extend([OsString::from(name), value]);
        if let Some(config) = &self.config {
            let config = config.canonicalize().map_err(|error| {
                Failure::failed(format!(
                    "configuration {} cannot be read: {error}; name an existing file with --config, or leave it out for the defaults",
                    config.display()
                ))
            })?;
            flag("--config", config.into());
        }
        if let Some(workers) = self.workers {
            flag("--workers", workers.to_string().into());
        }
        for range in &self.pod_range {
            flag("--pod-range", range.to_string().into());
        }
        if let Some(mtu) = self.mtu {
            flag("--mtu", mtu.to_string().into());
        }
        if let Some(polling) = self.polling.and_then(|polling| polling.to_possible_value()) {
            flag("--polling", polling.get_name().into());
        }
        arguments.extend(self.switch.iter().cloned());
        Ok(arguments)
    }

    fn for_control(&self, context: &Context) -> Result<Option<Vec<OsString>>, Failure> {
        let Some(objects) = &self.objects else { return Ok(None) };
        let found = objects.canonicalize().and_then(|objects| objects.read_dir().map(|_| objects));
        let objects = found.map_err(|error| {
            Failure::failed(format!(
                "object directory {} cannot be read: {error}; name an existing directory with --objects",
                objects.display()
            ))
        })?;
        Ok(Some(vec![
            "--instance".into(),
            context.instance.name().into(),
            "--objects".into(),
            objects.into(),
        ]))
    }
}

/// The programs this command started, newest last. Stopped when dropped, unless released.
struct Started<'a> {
    context: &'a Context,
    children: Vec<(Program, Child)>,
}

impl Started<'_> {
    fn start(&mut self, program: Program, arguments: &[OsString], log_to: LogTo) -> Result<(), Failure> {
        self.children.push((program, program.start(self.context, arguments, log_to)?));
        Ok(())
    }

    /// The first of them that has ended by itself.
    fn ended(&mut self) -> Option<(Program, String)> {
        self.children.iter_mut().find_map(|(program, child)| match child.try_wait() {
            Ok(None) => None,
            Ok(Some(status)) => Some((*program, status.to_string())),
            Err(error) => Some((*program, error.to_string())),
        })
    }

    fn stop(&mut self) {
        while let Some((program, mut child)) = self.children.pop() {
            let Ok(pid) = i32::try_from(child.id()) else { continue };
            let child = std::cell::RefCell::new(&mut child);
            let is_alive = || child.borrow_mut().try_wait().is_ok_and(|status| status.is_none());
            if is_alive()
                && let Err(failure) = stop(pid, STOP_TIMEOUT, is_alive)
            {
                eprintln!("penstock: {failure}");
            }
            program.forget(self.context);
        }
    }
}

impl Drop for Started<'_> {
    fn drop(&mut self) {
        self.stop();
    }
}

pub(crate) fn run(context: &Context, arguments: &Arguments, out: &mut dyn Write) -> Result<(), Failure> {
    let for_switch = arguments.for_switch(context)?;
    let for_control = arguments.for_control(context)?;
    let log_to = if arguments.foreground { LogTo::Inherit } else { LogTo::File };
    let began = Instant::now();
    let signals = hold_signals()?;

    let switch_pid = answering_pid(context).or_else(|| Program::Switch.running(context));
    let control_pid = Program::Control.running(context);
    match (switch_pid, control_pid) {
        (Some(pid), Some(_)) => return Err(Failure::Running { instance: context.instance.clone(), pid }),
        (Some(pid), None) if for_control.is_none() || for_switch.len() > 3 => {
            return Err(Failure::Running { instance: context.instance.clone(), pid });
        }
        (Some(_), None) => {}
        (None, Some(pid)) => {
            stop(pid, STOP_TIMEOUT, || Program::Control.is_process(context, pid))?;
        }
        (None, None) => {}
    }
    // Both are looked for before anything is started.
    Program::Switch.find(context)?;
    if for_control.is_some() {
        Program::Control.find(context)?;
    }

    let mut started = Started { context, children: vec![] };
    if switch_pid.is_none() {
        started.start(Program::Switch, &for_switch, log_to)?;
        await_ready(context, &mut started, Program::Switch, || answers(context))?;
    }
    if let Some(for_control) = &for_control {
        // What an earlier control plane left must not be taken for this one's.
        let _ = std::fs::remove_file(context.run_dir.join("control.json"));
        started.start(Program::Control, for_control, log_to)?;
        await_ready(context, &mut started, Program::Control, || is_in_force(context))?;
    }
    report(context, began.elapsed(), out)?;
    if arguments.foreground {
        return stay(context, started, &signals, out);
    }
    // They live on without us.
    started.children.clear();
    Ok(())
}

fn answers(context: &Context) -> bool {
    Client::connect(context).and_then(|mut client| client.ask(&Request::Hello { protocol: PROTOCOL })).is_ok()
}

fn answering_pid(context: &Context) -> Option<i32> {
    let status = Client::connect(context).ok()?.status().ok()?;
    i32::try_from(status.pid).ok()
}

/// Has the control plane told the switch what it knows?
fn is_in_force(context: &Context) -> bool {
    let Ok(status) = Client::connect(context).and_then(|mut client| client.status()) else { return false };
    // Its file says more than the switch can: the generation in force may be one that was kept on disk.
    let synced = control_file(context).and_then(|control| control.get("synced").and_then(Value::as_bool));
    status.generation.0 > 0 && status.subscribers > 0 && synced != Some(false)
}

fn await_ready(
    context: &Context,
    started: &mut Started<'_>,
    program: Program,
    ready: impl Fn() -> bool,
) -> Result<(), Failure> {
    let mut ended = None;
    let done = wait_until(READY_TIMEOUT, || {
        ended = started.ended();
        ended.is_some() || ready()
    });
    match ended {
        Some((program, how)) => Err(with_log(context, program, &format!("ended at once ({how})"))),
        None if done => Ok(()),
        None => {
            let seconds = READY_TIMEOUT.as_secs();
            let what = match program {
                Program::Switch => {
                    format!("did not answer on {} within {seconds} s", context.socket.display())
                }
                Program::Control => format!("installed no policy within {seconds} s"),
            };
            Err(with_log(context, program, &what))
        }
    }
}

fn with_log(context: &Context, program: Program, what: &str) -> Failure {
    let log = program.log(context);
    let lines = tail(&log, LOG_LINES);
    let name = program.executable();
    Failure::failed(match lines.is_empty() {
        true => format!("{name} {what}; nothing was left running"),
        false => format!("{name} {what}; nothing was left running; the end of {}:\n{lines}", log.display()),
    })
}

fn report(context: &Context, took: Duration, out: &mut dyn Write) -> Result<(), Failure> {
    let status = Client::connect(context)?.status()?;
    let took = duration(u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
    let policy = match status.generation.0 {
        0 => "no policy: every pod is isolated".to_owned(),
        generation => format!("policy generation {generation}"),
    };
    print(
        out,
        format_args!(
            "{} is up after {took}: switch pid {}, {} workers, pods {}, {policy}",
            status.instance,
            status.pid,
            status.workers.len(),
            joined(&status.pod_ranges)
        ),
    )?;
    for note in &status.notes {
        print(out, format_args!("note: {note}"))?;
    }
    for error in control_errors(context) {
        print(out, format_args!("refused: {}", error_line(&error)))?;
    }
    Ok(())
}

/// An interrupted start would leave one program without the other, so signals wait until both are up, which takes a bounded
/// time. The programs start with none blocked.
fn hold_signals() -> Result<SigSet, Failure> {
    let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGCHLD].into_iter().collect();
    signals.thread_block().map_err(|error| Failure::failed(format!("signals cannot be blocked: {error}")))?;
    Ok(signals)
}

/// Waits for a signal, or for one of the programs to end, and stops what is left.
fn stay(
    context: &Context,
    mut started: Started<'_>,
    signals: &SigSet,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    loop {
        if let Some((program, how)) = started.ended() {
            return Err(Failure::failed(format!(
                "{} ended ({how}); the rest was stopped, its interfaces and the pods stay; 'penstock --instance {} up' takes them up again",
                program.executable(),
                context.instance
            )));
        }
        match signals.wait() {
            Ok(Signal::SIGCHLD) => {}
            Ok(signal) => {
                started.stop();
                return print(
                    out,
                    format_args!("stopped by {signal}; interfaces and pods stay until 'penstock down'"),
                );
            }
            Err(error) => return Err(Failure::failed(format!("signals cannot be waited for: {error}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::status::tests::status;
    use crate::testing::{context, serve};
    use clap::Parser;
    use penstock_api::message::Response;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }

    fn arguments(line: &[&str]) -> Arguments {
        Line::try_parse_from([&["up"], line].concat()).unwrap().arguments
    }

    #[test]
    fn flags_for_the_switch_are_handed_on_and_what_follows_two_dashes_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let arguments = arguments(&[
            "--objects",
            "/",
            "--workers",
            "2",
            "--pod-range",
            "10.1.0.0/24",
            "--pod-range",
            "fd00::/64",
            "--polling",
            "busy",
            "--",
            "--flows-max",
            "9",
        ]);
        let handed: Vec<_> = arguments.for_switch(&context(dir.path())).unwrap();
        let expected = "run --instance test --workers 2 --pod-range 10.1.0.0/24 --pod-range fd00::/64 --polling busy --flows-max 9";
        assert_eq!(handed.join(&OsString::from(" ")), OsString::from(expected));
    }

    #[test]
    fn an_object_directory_that_is_not_there_is_named_before_anything_starts() {
        let dir = tempfile::tempdir().unwrap();
        let context = context(dir.path());
        let failure =
            run(&context, &arguments(&["--objects", "/nowhere/at/all"]), &mut Vec::new()).unwrap_err();
        assert!(failure.to_string().contains("/nowhere/at/all"), "{failure}");
        assert!(!context.run_dir.exists());
    }

    #[test]
    fn up_on_a_running_instance_is_refused_with_its_pid() {
        let dir = tempfile::tempdir().unwrap();
        let context = context(dir.path());
        serve(&context, |_, _| Some(Response::Status(Box::new(status()))));
        let failure = run(&context, &arguments(&["--switch-only"]), &mut Vec::new()).unwrap_err();
        assert!(matches!(failure, Failure::Running { pid: 7, .. }), "{failure}");
    }

    #[test]
    fn policy_is_in_force_only_when_the_control_plane_says_it_is_synced() {
        let dir = tempfile::tempdir().unwrap();
        let context = context(dir.path());
        serve(&context, |_, _| Some(Response::Status(Box::new(status()))));
        assert!(is_in_force(&context));
        std::fs::write(context.run_dir.join("control.json"), r#"{"synced":false}"#).unwrap();
        assert!(!is_in_force(&context));
        std::fs::write(context.run_dir.join("control.json"), r#"{"synced":true}"#).unwrap();
        assert!(is_in_force(&context));
    }

    #[test]
    fn a_program_that_ends_at_once_is_named_with_the_end_of_its_log() {
        let dir = tempfile::tempdir().unwrap();
        let context = context(dir.path());
        std::fs::create_dir_all(&context.run_dir).unwrap();
        std::fs::write(Program::Switch.log(&context), "first\nno capability CAP_NET_ADMIN; run as root\n")
            .unwrap();
        let child = std::process::Command::new("false").spawn().unwrap();
        let mut started = Started { context: &context, children: vec![(Program::Switch, child)] };
        let failure = await_ready(&context, &mut started, Program::Switch, || false).unwrap_err().to_string();
        assert!(failure.starts_with("penstock-vswitch ended at once (exit status: 1)"), "{failure}");
        assert!(failure.ends_with("no capability CAP_NET_ADMIN; run as root"), "{failure}");
    }

    #[test]
    fn what_was_started_is_stopped_when_starting_fails() {
        let dir = tempfile::tempdir().unwrap();
        let context = context(dir.path());
        let child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pid = child.id();
        drop(Started { context: &context, children: vec![(Program::Switch, child)] });
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists(), "process {pid} lives on");
    }
}
