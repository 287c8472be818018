//! The switch process: `penstock-vswitch run` (the default) and `penstock-vswitch remove`.

use anyhow::{Context, bail};
use clap::{Parser, Subcommand};
use nix::sys::signal::{SigSet, Signal};
use penstock_api::Instance;
use penstock_vswitch::config::{Config, Flags, cpus_allowed};
use penstock_vswitch::machine;
use penstock_vswitch::server::{self, HostAddresses, InstanceLock, Paths, Server};
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
    /// Remove everything a stopped switch left: interfaces, namespace, programs, maps, tables and state.
    Remove {
        #[arg(long, env = "PENSTOCK_INSTANCE", default_value = Instance::DEFAULT)]
        instance: Instance,
        /// Keep the state directory: addresses in use and the last policy.
        #[arg(long)]
        keep_state: bool,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = tracing_subscriber::EnvFilter::try_new(&cli.log).unwrap_or_else(|_| "info".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
    let result = match cli.command {
        None => run(&cli.flags),
        Some(Command::Run { flags }) => run(&flags),
        Some(Command::Remove { instance, keep_state }) => remove(&instance, keep_state),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("penstock-vswitch: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(flags: &Flags) -> anyhow::Result<()> {
    let mut config = Config::load(flags, &cpus_allowed())?;
    require_root()?;
    let paths = Paths::of(&config.instance);
    let lock = InstanceLock::take(&paths)?;
    // Blocked in every thread to come; taken by `wait` below.
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    signals.thread_block().context("cannot block signals")?;

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
    let server = prepared.serve()?;
    let signal = signals.wait().context("cannot wait for signals")?;
    tracing::info!("{signal}: stopping; what is attached stays attached");
    server.stop();
    crew.join();
    Ok(())
}

fn remove(instance: &Instance, keep_state: bool) -> anyhow::Result<()> {
    require_root()?;
    let paths = Paths::of(instance);
    let lock = InstanceLock::take(&paths).context("stop the switch before removing what it runs on")?;
    machine::remove(instance)?;
    drop(lock);
    let mut directories = vec![instance.run_dir()];
    if !keep_state {
        directories.push(instance.state_dir());
    }
    for directory in directories {
        match std::fs::remove_dir_all(&directory) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                bail!("cannot remove {}: {error}", directory.display())
            }
            _ => {}
        }
    }
    Ok(())
}

fn require_root() -> anyhow::Result<()> {
    if nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    bail!(
        "the switch needs root (CAP_NET_ADMIN, CAP_NET_RAW, CAP_BPF, CAP_SYS_ADMIN, CAP_IPC_LOCK); use sudo"
    )
}
