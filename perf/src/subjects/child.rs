//! A peer's program: started in a namespace, stopped and continued in turns, ended with this process whatever happens.

use super::ground;
use anyhow::{Context, Result, bail};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use penstock_net::Netns;
use std::fs::File;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;

#[derive(Debug)]
pub(crate) struct Child(std::process::Child);

impl Child {
    /// `program` inside a namespace. `nsenter` and `setpriv` become the program: its process is the child itself.
    pub(crate) fn command(netns: &Netns, program: &str) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "nsenter"]);
        command.arg(format!("--net={}", netns.path().display())).arg("--").arg(program);
        command
    }

    pub(crate) fn start(command: &mut Command) -> Result<Child> {
        let what = || format!("{:?} cannot be started", command.get_program());
        let message = what();
        Ok(Child(command.spawn().context(message)?))
    }

    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }

    /// Waits for something this program brings about. An error when it ends before that, or when it takes too long.
    pub(crate) fn wait_until(&mut self, what: &str, mut is_so: impl FnMut() -> bool) -> Result<()> {
        const TIMEOUT: Duration = Duration::from_secs(20);
        let began = Instant::now();
        while !is_so() {
            if let Some(status) = self.0.try_wait()? {
                bail!("it ended ({status}) before {what}");
            }
            if began.elapsed() > TIMEOUT {
                bail!("{what} took longer than {} s", TIMEOUT.as_secs());
            }
            thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A program that is asked nothing and says in a log how it is doing.
#[derive(Debug)]
pub(crate) struct Logged {
    program: Child,
    log: PathBuf,
    /// Its own, for whatever it writes.
    _dir: TempDir,
}

impl Logged {
    /// `name`: of the directory of its files.
    pub(crate) fn start(name: &str, command: &mut Command) -> Result<Logged> {
        let dir = ground::directory(name)?;
        let log = dir.path().join("log");
        let file = File::create(&log)?;
        command.env("RUNTIME_DIRECTORY", dir.path()).stdin(Stdio::null());
        let program = Child::start(command.stdout(file.try_clone()?).stderr(file))?;
        Ok(Logged { program, log, _dir: dir })
    }

    pub(crate) fn id(&self) -> u32 {
        self.program.id()
    }

    pub(crate) fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// As [`Child::wait_until`], for something it says. What it said instead is in the error.
    pub(crate) fn wait_until_said(&mut self, what: &str, is_so: impl Fn(&str) -> bool) -> Result<()> {
        let log = self.log.clone();
        let said = || std::fs::read_to_string(&log).unwrap_or_default();
        self.program
            .wait_until(what, || is_so(&said()))
            .with_context(|| format!("it said: {}", tail(&said())))
    }
}

/// The last lines with something on them.
fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(5)..].join(" / ")
}

/// Runs a command to its end; what it printed.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("{:?} cannot be run", command.get_program()))?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Programs that poll without end share a core in turns: only the one that is measured runs.
pub(crate) fn set_running(process: u32, running: bool) -> Result<()> {
    let signal = if running { Signal::SIGCONT } else { Signal::SIGSTOP };
    kill(Pid::from_raw(process as i32), signal).with_context(|| format!("process {process}"))
}

/// Puts a program of one thread on one CPU.
pub(crate) fn pin(process: u32, cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu)
        .and_then(|()| sched_setaffinity(Pid::from_raw(process as i32), &set))
        .with_context(|| format!("process {process} on CPU {cpu}"))
}

/// Asks the scheduler to prefer a process's session: what else runs on the machine disturbs less. A kernel without session
/// groups refuses, and nothing is lost.
pub(crate) fn favour(process: u32) {
    let _ = std::fs::write(format!("/proc/{process}/autogroup"), "-20");
}

/// Is a program to be found?
pub(crate) fn find(program: &str) -> Result<()> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    match dirs.map(|dir| dir.join(program)).any(|file| file.is_file()) {
        true => Ok(()),
        false => bail!("{program} is not installed"),
    }
}
