//! The switch process: `penstock-vswitch run` (the default), `remove`, `replay` and `judge`.

mod judged;
mod replayed;
mod signals;

use anyhow::{Context, bail};
use clap::{Parser, Subcommand};
use penstock_api::Instance;
use penstock_net::Netns;
use penstock_vswitch::config::{Config, Flags, cpus_allowed};
use penstock_vswitch::machine::{self, Crew};
use penstock_vswitch::server::{self, HostAddresses, InstanceLock, Paths, Server};
use signals::{End, Signals};
use std::io::ErrorKind;
use std::process::ExitCode;

/// The userspace switch: pods' frames through AF_XDP, under policy.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    flags: Flags,
    /// What to log: error, warn, info, debug, trace, or per module as `penstock_vswitch::server=debug`
    #[arg(long, env = "PENSTOCK_LOG", default_value = "info", global = true)]
    log: String,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the switch until SIGTERM or SIGINT. What is attached stays attached, also afterwards.
    Run {
        #[command(flatten)]
        flags: Box<Flags>,
    },
    /// Send captured frames through the pipeline on memory, without root, and say what becomes of each.
    Replay(replayed::ReplayArgs),
    /// Open flows with frames on memory ports, without root, and say what becomes of each: JSON lines in and out.
    #[command(hide = true)]
    Judge,
    /// Remove what a stopped switch left in the kernel: interfaces, namespace, programs, maps and tables.
    Remove {
        #[arg(long, env = "PENSTOCK_INSTANCE", default_value = Instance::DEFAULT)]
        instance: Instance,
        /// Remove the run and state directories too: addresses in use, attached ports and the last policy.
        #[arg(long)]
        purge: bool,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = match tracing_subscriber::EnvFilter::try_new(&cli.log) {
        Ok(filter) => filter,
        Err(error) => {
            eprintln!(
                "penstock-vswitch: --log {:?}: {error}; write a level, as info, or module=level",
                cli.log
            );
            return ExitCode::FAILURE;
        }
    };
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
    let result = match cli.command {
        None => run(&cli.flags),
        Some(Command::Run { flags }) => run(&flags),
        Some(Command::Replay(args)) => replayed::run(args),
        Some(Command::Judge) => judged::run(),
        Some(Command::Remove { instance, purge }) => remove(&instance, purge),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("penstock-vswitch: {}", one_line(&error));
            ExitCode::FAILURE
        }
    }
}

/// The error and what caused it, as far as its own text does not say so already.
fn one_line(error: &anyhow::Error) -> String {
    error.chain().fold(String::new(), |text, cause| {
        let cause = cause.to_string();
        match text.as_str() {
            "" => cause,
            said if said.contains(&cause) => text,
            _ => format!("{text}: {cause}"),
        }
    })
}

fn run(flags: &Flags) -> anyhow::Result<()> {
    let config = Config::load(flags, &cpus_allowed())?;
    require_root()?;
    let paths = Paths::of(&config.instance);
    let lock = InstanceLock::take(&paths)?;
    let signals = Signals::block().context("cannot block signals")?;
    let instance = config.instance.clone();
    let is_new = !Netns::exists(instance.netns());
    let (server, crew) = match start(config, paths, lock) {
        Ok(running) => running,
        Err(error) => {
            // What was there before stays for the next attempt; what this one made for nothing goes.
            if is_new && let Err(error) = machine::remove(&instance) {
                tracing::warn!("what was begun could not be removed again: {error}");
            }
            return Err(error);
        }
    };
    let end = signals.wait(|| crew.has_lost_one()).context("cannot wait for signals")?;
    if let End::Asked(signal) = end {
        tracing::info!("{signal}: stopping; what is attached stays attached");
    }
    server.stop();
    crew.join();
    match end {
        End::Asked(_) => Ok(()),
        // Whoever restarts us must know that it was not meant.
        End::Worker => bail!(
            "a worker ended by itself, which is a defect; what is attached stays attached; restart the switch"
        ),
    }
}

fn start(mut config: Config, paths: Paths, lock: InstanceLock) -> anyhow::Result<(Server, Crew)> {
    let (machine, workers, idlers) = machine::open(&mut config)?;
    let host_addresses = HostAddresses::of_this_namespace(&config.instance)?;
    let prepared = Server::prepare(server::Parts {
        config,
        paths,
        lock,
        kernel: Box::new(machine),
        workers,
        host_addresses,
    })?;
    let crew = idlers.start()?;
    Ok((prepared.serve()?, crew))
}

/// Directories are the caller's: others keep things there too (pods of the laboratory, addresses in use), and
/// `penstock down` has its own order.
fn remove(instance: &Instance, purge: bool) -> anyhow::Result<()> {
    require_root()?;
    let paths = Paths::of(instance);
    let directories = [&paths.run_dir, &paths.state_dir];
    let existed = directories.map(|directory| directory.exists());
    // Also keeps a switch from starting while its interfaces go away.
    let lock = InstanceLock::take(&paths).context("stop the switch before removing what it runs on")?;
    machine::remove(instance)?;
    match std::fs::remove_file(paths.control_socket()) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            bail!("cannot remove {}: {error}", paths.control_socket().display())
        }
        _ => {}
    }
    for (directory, existed) in directories.into_iter().zip(existed) {
        // One that was made only to hold the lock goes again.
        if !purge && existed {
            continue;
        }
        match std::fs::remove_dir_all(directory) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                bail!("cannot remove {}: {error}", directory.display())
            }
            _ => {}
        }
    }
    drop(lock);
    Ok(())
}

/// What the kernel asks for at different moments of a start is asked for here, before anything is made.
fn require_root() -> anyhow::Result<()> {
    // `include/uapi/linux/capability.h`. CAP_SYS_ADMIN stands for CAP_BPF and CAP_PERFMON too.
    const NEEDED: [(&str, u32); 3] = [("CAP_NET_ADMIN", 12), ("CAP_NET_RAW", 13), ("CAP_SYS_ADMIN", 21)];
    let status = std::fs::read_to_string("/proc/self/status").context("/proc/self/status cannot be read")?;
    let effective = status
        .lines()
        .find_map(|line| u64::from_str_radix(line.strip_prefix("CapEff:")?.trim(), 16).ok())
        .context("/proc/self/status does not say which capabilities there are")?;
    let missing: Vec<&str> =
        NEEDED.iter().filter(|(_, bit)| effective >> bit & 1 == 0).map(|(name, _)| *name).collect();
    if missing.is_empty() {
        return Ok(());
    }
    bail!(
        "the switch may not use interfaces, programs and namespaces: {} missing; run it as root (sudo), or give the service these capabilities",
        match missing.as_slice() {
            [one] => format!("{one} is"),
            many => format!("{} are", many.join(", ")),
        }
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent_and_run_is_the_default() {
        Cli::command().debug_assert();
        let default = Cli::try_parse_from(["penstock-vswitch", "--instance", "a"]).unwrap();
        assert_eq!(default.flags.instance.as_deref(), Some("a"));
        let run =
            Cli::try_parse_from(["penstock-vswitch", "run", "--instance", "a", "--log", "debug"]).unwrap();
        assert!(
            matches!(run.command, Some(Command::Run { flags }) if flags.instance.as_deref() == Some("a"))
        );
    }
}
