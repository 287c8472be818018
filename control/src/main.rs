//! `penstock-control`: watches objects, compiles what this node needs, installs it.
//!
//! Everything it does is in the library; here are the command line, the log and the signals.

use clap::Parser;
use nix::sys::signal::{SigSet, Signal};
use penstock_api::Instance;
use penstock_control::agent::{Agent, Config};
use penstock_control::compile::{Enforcement, Limits, Options, PodToHost};
use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

/// Penstock's control plane: reads policy from a directory of Kubernetes objects and keeps the switch up to date with it.
///
/// Packets flow without it: when it ends, the switch keeps the policy it has.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Directory of Kubernetes objects (*.yaml, *.yml, *.json), watched live, with everything below it.
    #[arg(long, value_name = "DIR")]
    objects: PathBuf,
    /// Which switch of this machine to serve.
    #[arg(long, default_value = Instance::DEFAULT, env = "PENSTOCK_INSTANCE")]
    instance: Instance,
    /// Where last good versions of objects are kept [default: /var/lib/penstock/INSTANCE].
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Where the switch's control socket is [default: /run/penstock/INSTANCE].
    #[arg(long, value_name = "DIR")]
    run_dir: Option<PathBuf>,
    /// What the Node object of this node is called [default: the one that has one of this node's addresses].
    #[arg(long, value_name = "NAME", env = "NODE_NAME")]
    node_name: Option<String>,
    /// Which pods are isolated: those a policy isolates, all, or none (then no policy is enforced).
    #[arg(long, value_enum, default_value_t)]
    policy_enforcement: Enforcement,
    /// What pods may say to their own node: what their policies let them, or everything that none of them denies.
    #[arg(long, value_enum, default_value_t)]
    pod_to_host: PodToHost,
    /// How many classes of peers policies may tell apart. Policy that needs more is not installed.
    #[arg(long, value_name = "NUMBER", default_value_t = Limits::default().identities_max)]
    identities_max: usize,
    /// Of how many addresses and CIDRs something particular may be known, likewise.
    #[arg(long, value_name = "NUMBER", default_value_t = Limits::default().prefixes_max)]
    prefixes_max: usize,
    /// How many entries all programs may have, and identities these name, likewise.
    #[arg(long, value_name = "NUMBER", default_value_t = Limits::default().entries_max)]
    entries_max: usize,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();

    let mut config = Config::new(arguments.instance, arguments.objects);
    config.state_dir = arguments.state_dir.unwrap_or(config.state_dir);
    config.run_dir = arguments.run_dir.unwrap_or(config.run_dir);
    config.node_name = arguments.node_name;
    config.options =
        Options { enforcement: arguments.policy_enforcement, pod_to_host: arguments.pod_to_host };
    config.limits = Limits {
        identities_max: arguments.identities_max,
        prefixes_max: arguments.prefixes_max,
        entries_max: arguments.entries_max,
    };

    // Before any thread starts: they all inherit the mask, and the signals come to the one that waits for them.
    let signals: SigSet = [Signal::SIGTERM, Signal::SIGINT].into_iter().collect();
    if let Err(error) = signals.thread_block() {
        tracing::error!("signals cannot be blocked: {error}");
        return ExitCode::FAILURE;
    }
    let agent = match Agent::new(config) {
        Ok(agent) => agent,
        Err(error) => {
            tracing::error!("{error}");
            return ExitCode::FAILURE;
        }
    };
    let stopper = agent.stopper();
    std::thread::spawn(move || {
        if let Ok(signal) = signals.wait() {
            tracing::info!("stopping: {signal}");
        }
        stopper.stop();
    });
    agent.run();
    ExitCode::SUCCESS
}
