//! `penstock down`: nothing of the instance is left, and nothing there to begin with is success too.

use crate::client::Client;
use crate::commands::pod;
use crate::context::Context;
use crate::failure::Failure;
use crate::output::print;
use crate::process::{Program, Stopped, find_executable, stop};
use std::fs;
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Keep the state directory: addresses in use and the last good policy.
    #[arg(long)]
    keep_state: bool,
}

const STOP_TIMEOUT: Duration = Duration::from_secs(5);

pub(crate) fn run(context: &Context, arguments: &Arguments, out: &mut dyn Write) -> Result<(), Failure> {
    // The control plane first: it would see its switch go and complain.
    for program in [Program::Control, Program::Switch] {
        let pid = program.running(context).or_else(|| match program {
            Program::Switch => started_by_another(context),
            Program::Control => None,
        });
        let Some(pid) = pid else { continue };
        let how = match stop(pid, STOP_TIMEOUT, || program.is_process(context, pid))? {
            Stopped::Asked => "stopped",
            Stopped::Killed => "did not stop within 5 s and was killed",
        };
        print(out, format_args!("{} (pid {pid}) {how}", program.executable()))?;
    }
    remove_from_kernel(context)?;
    for netns in pod::forget_all(context) {
        print(out, format_args!("namespace {netns} of a laboratory pod removed"))?;
    }
    remove_dir(&context.run_dir)?;
    if !arguments.keep_state {
        remove_dir(&context.state_dir)?;
    }
    print(out, format_args!("{} is down", context.instance))
}

/// A switch without our pid file, as a service manager starts it: it says itself who it is, and `/proc` must agree.
fn started_by_another(context: &Context) -> Option<i32> {
    let pid = i32::try_from(Client::connect(context).ok()?.status().ok()?.pid).ok()?;
    Program::Switch.is_process(context, pid).then_some(pid)
}

/// The switch knows what it made; this program does not.
fn remove_from_kernel(context: &Context) -> Result<(), Failure> {
    let switch = find_executable(Program::Switch.executable(), context)?;
    let result = Command::new(&switch)
        .args(["remove", "--instance", context.instance.name()])
        .output()
        .map_err(|error| Failure::failed(format!("{} cannot be run: {error}", switch.display())))?;
    if result.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&result.stderr);
    Err(Failure::failed(format!(
        "interfaces and programs of {} were not removed ({}): {}",
        context.instance,
        result.status,
        said.trim()
    )))
}

fn remove_dir(dir: &Path) -> Result<(), Failure> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(Failure::failed(format!("{} cannot be removed: {error}; remove it by hand", dir.display())))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{context, printed, write_program};

    fn with_switch_that(script: &str) -> (tempfile::TempDir, Context) {
        let dir = tempfile::tempdir().unwrap();
        let mut context = context(dir.path());
        let program = dir.path().join("penstock-vswitch");
        write_program(&program, script);
        context.bin_dirs = vec![dir.path().to_owned()];
        (dir, context)
    }

    #[test]
    fn down_with_nothing_there_succeeds_and_asks_the_switch_to_remove_its_instance() {
        let (dir, context) = with_switch_that("echo \"$@\" > \"$(dirname \"$0\")/asked\"");
        assert_eq!(printed(|out| run(&context, &Arguments { keep_state: false }, out)), "test is down\n");
        assert_eq!(fs::read_to_string(dir.path().join("asked")).unwrap(), "remove --instance test\n");
    }

    #[test]
    fn a_removal_that_fails_is_quoted_and_the_state_stays_for_the_next_try() {
        let (_dir, context) =
            with_switch_that("echo 'xsk0: Operation not permitted; run as root' >&2; exit 1");
        fs::create_dir_all(&context.state_dir).unwrap();
        let failure =
            run(&context, &Arguments { keep_state: false }, &mut Vec::new()).unwrap_err().to_string();
        assert!(failure.contains("xsk0: Operation not permitted"), "{failure}");
        assert!(context.state_dir.exists());
    }
}
