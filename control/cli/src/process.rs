//! Starting, recognising and stopping the long-lived programs.
//!
//! A pid file names a number, and numbers are reused: before anything is signalled, `/proc` must say that the number
//! is that program, of that instance. Programs are started through ourselves ([`become_session`]), which makes them
//! leaders of sessions of their own with an empty signal mask, so that no closed terminal takes the network down.

use crate::context::Context;
use crate::failure::Failure;
use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::{Pid, setsid};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A long-lived program of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Program {
    Switch,
    Control,
}

impl Program {
    pub(crate) const fn executable(self) -> &'static str {
        match self {
            Program::Switch => "penstock-vswitch",
            Program::Control => "penstock-control",
        }
    }

    const fn short(self) -> &'static str {
        match self {
            Program::Switch => "vswitch",
            Program::Control => "control",
        }
    }

    pub(crate) fn log(self, context: &Context) -> PathBuf {
        context.run_dir.join(format!("{}.log", self.short()))
    }

    fn pid_file(self, context: &Context) -> PathBuf {
        context.run_dir.join(format!("{}.pid", self.short()))
    }

    /// The process the pid file names, if it is alive and really this program of this instance.
    pub(crate) fn running(self, context: &Context) -> Option<i32> {
        let pid = fs::read_to_string(self.pid_file(context)).ok()?.trim().parse().ok()?;
        self.is_process(context, pid).then_some(pid)
    }

    /// Is `pid` this program of this instance?
    pub(crate) fn is_process(self, context: &Context, pid: i32) -> bool {
        let Ok(exe) = fs::read_link(format!("/proc/{pid}/exe")) else { return false };
        // An upgrade replaces the file under a running process.
        let name = exe.file_name().map(|name| name.as_bytes()).unwrap_or_default();
        let name = name.strip_suffix(b" (deleted)").unwrap_or(name);
        let cmdline = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        name == self.executable().as_bytes() && is_of_instance(&cmdline, context.instance.name())
    }

    /// Finds the executable: beside ourselves, then in `PATH`.
    pub(crate) fn find(self, context: &Context) -> Result<PathBuf, Failure> {
        find_executable(self.executable(), context)
    }

    /// Starts it in a session of its own, with its log and pid file. The caller keeps the child to see it fail.
    pub(crate) fn start(
        self,
        context: &Context,
        arguments: &[OsString],
        log_to: LogTo,
    ) -> Result<Child, Failure> {
        let executable = self.find(context)?;
        let what = |error: std::io::Error| {
            Failure::failed(format!(
                "{} cannot be started: {error}; check the file and the permissions of {}",
                executable.display(),
                context.run_dir.display()
            ))
        };
        create_private_dir(&context.run_dir).map_err(what)?;
        let ourselves = std::env::current_exe().map_err(what)?;
        let mut command = Command::new(ourselves);
        command.arg(SESSION_COMMAND).arg("--").arg(&executable).args(arguments).stdin(Stdio::null());
        if log_to == LogTo::File {
            let log = File::create(self.log(context)).map_err(what)?;
            command.stdout(log.try_clone().map_err(what)?).stderr(log);
        }
        let child = command.spawn().map_err(what)?;
        fs::write(self.pid_file(context), format!("{}\n", child.id())).map_err(what)?;
        Ok(child)
    }

    pub(crate) fn forget(self, context: &Context) {
        // Absent is what we want.
        let _ = fs::remove_file(self.pid_file(context));
    }
}

/// Where a started program's log lines go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LogTo {
    File,
    /// Our own standard error: `up --foreground`.
    Inherit,
}

/// The value of `--instance` in a command line as `/proc` shows it; programs started without one have the default's.
fn is_of_instance(cmdline: &[u8], instance: &str) -> bool {
    let arguments: Vec<&[u8]> = cmdline.split(|byte| *byte == 0).collect();
    let named =
        arguments.windows(2).find(|pair| pair[0] == b"--instance").map(|pair| pair[1]).or_else(|| {
            arguments.iter().find_map(|argument| argument.strip_prefix(b"--instance=".as_slice()))
        });
    named.unwrap_or(penstock_api::Instance::DEFAULT.as_bytes()) == instance.as_bytes()
}

pub(crate) fn find_executable(name: &str, context: &Context) -> Result<PathBuf, Failure> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    context.bin_dirs.iter().cloned().chain(std::env::split_paths(&path)).map(|dir| dir.join(name))
        .find(|file| is_executable(file))
        .ok_or_else(|| {
            Failure::failed(format!(
                "{name} was found neither beside this program nor in PATH; install it there, or name its directory in PENSTOCK_BIN_DIR"
            ))
        })
}

fn is_executable(file: &Path) -> bool {
    fs::metadata(file).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// The directory holds a control socket and logs: the operator's alone.
pub(crate) fn create_private_dir(dir: &Path) -> std::io::Result<()> {
    if let Some(parent) = dir.parent() {
        fs::create_dir_all(parent)?;
    }
    match fs::DirBuilder::new().mode(0o700).create(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

pub(crate) const SESSION_COMMAND: &str = "become-session";

#[derive(Debug, clap::Args)]
pub(crate) struct SessionArguments {
    /// The program and its arguments.
    #[arg(last = true, required = true)]
    program: Vec<OsString>,
}

/// Leaves the terminal's session and becomes the program. Comes back only with a failure.
pub(crate) fn become_session(arguments: &SessionArguments) -> Result<(), Failure> {
    // EPERM: a leader already, which is the point.
    let _ = setsid();
    let _ = SigSet::empty().thread_set_mask();
    let Some((program, rest)) = arguments.program.split_first() else {
        return Err(Failure::failed("there is no program to become"));
    };
    let error = Command::new(program).args(rest).exec();
    Err(Failure::failed(format!("{} cannot be started: {error}", Path::new(program).display())))
}

/// How a process ended that was asked to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stopped {
    Asked,
    /// It did not listen and was killed.
    Killed,
}

/// SIGTERM, and SIGKILL when `patience` is over. `is_alive` says whether the number is still the process we mean.
pub(crate) fn stop(pid: i32, patience: Duration, is_alive: impl Fn() -> bool) -> Result<Stopped, Failure> {
    for (signal, stopped) in [(Signal::SIGTERM, Stopped::Asked), (Signal::SIGKILL, Stopped::Killed)] {
        match kill(Pid::from_raw(pid), signal) {
            Err(Errno::ESRCH) => return Ok(stopped),
            Err(error) => {
                return Err(Failure::failed(format!(
                    "process {pid} cannot be stopped: {error}; run this as root"
                )));
            }
            Ok(()) => {}
        }
        if wait_until(patience, || !is_alive()) {
            return Ok(stopped);
        }
    }
    Err(Failure::failed(format!(
        "process {pid} survived SIGKILL: it is stuck in the kernel; see /proc/{pid}/stack, a reboot ends it"
    )))
}

/// Polls until `done`, at most for `timeout`.
pub(crate) fn wait_until(timeout: Duration, mut done: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + timeout;
    loop {
        if done() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The last `lines` lines of a file; empty when there is no such file.
pub(crate) fn tail(file: &Path, lines: usize) -> String {
    const TAIL_BYTES: u64 = 16 * 1024;
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(file)?;
        let len = file.metadata()?.len();
        file.seek(SeekFrom::Start(len.saturating_sub(TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let text = String::from_utf8_lossy(&read().unwrap_or_default()).into_owned();
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::context;

    #[test]
    fn a_pid_file_that_names_another_program_is_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        // This test's own command line names no instance, so it is the default's: only the program is wrong.
        let context = Context { instance: penstock_api::Instance::default(), ..context(dir.path()) };
        fs::create_dir_all(&context.run_dir).unwrap();
        fs::write(Program::Switch.pid_file(&context), format!("{}\n", std::process::id())).unwrap();
        assert_eq!(Program::Switch.running(&context), None);
        fs::write(Program::Switch.pid_file(&context), "not a number").unwrap();
        assert_eq!(Program::Switch.running(&context), None);
    }

    #[test]
    fn a_process_of_another_instance_is_told_apart_by_its_command_line() {
        assert!(is_of_instance(b"penstock-vswitch\0run\0--instance\0a\0", "a"));
        assert!(is_of_instance(b"penstock-vswitch\0--instance=a\0", "a"));
        assert!(!is_of_instance(b"penstock-vswitch\0--instance\0b\0", "a"));
        assert!(is_of_instance(b"penstock-vswitch\0", "penstock"));
        assert!(!is_of_instance(b"penstock-vswitch\0", "a"));
    }

    #[test]
    fn a_child_that_ignores_sigterm_is_killed() {
        let mut child = Command::new("sh")
            .args(["-c", "trap '' TERM; echo; sleep 30 & wait; wait"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // The trap is set once the line is there.
        let mut byte = [0];
        child.stdout.take().unwrap().read_exact(&mut byte).unwrap();
        let pid = child.id() as i32;
        let child = std::cell::RefCell::new(child);
        let alive = || child.borrow_mut().try_wait().unwrap().is_none();
        assert_eq!(stop(pid, Duration::from_millis(100), alive).unwrap(), Stopped::Killed);
    }

    #[test]
    fn the_tail_of_a_log_is_its_last_lines_and_of_no_log_is_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        fs::write(&log, (0..10_000).map(|n| format!("line {n}\n")).collect::<String>()).unwrap();
        assert_eq!(tail(&log, 2), "line 9998\nline 9999");
        assert_eq!(tail(&dir.path().join("none"), 2), "");
    }
}
