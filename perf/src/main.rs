//! `penstock-perf`: the demo, and measurements.

mod compare;
mod demo;
mod engine;
mod load;
mod policy;
mod serve;
mod subjects;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

#[derive(Debug, Parser)]
#[command(name = "penstock-perf", version, about = "Show and measure Penstock")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Pods talk through the switch under policy: a node in network namespaces, and who reaches whom.
    Demo(demo::Arguments),
    /// The same work on the switch and on every peer this machine has, side by side.
    Compare(compare::Arguments),
    /// The pipeline from memory: hits, misses and new flows, by number of flows and rules.
    Engine(engine::Arguments),
    /// What policy costs: compiling, changing, looking up, forwarding under it.
    Policy(policy::Arguments),
    /// One probe from inside a network namespace.
    Probe(serve::ProbeArguments),
    /// Echo and HTTP servers inside a network namespace, until it is gone.
    Serve(serve::ServeArguments),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Demo(arguments) => demo::run(&arguments),
        Command::Compare(arguments) => compare::run(&arguments),
        Command::Engine(arguments) => engine::run(&arguments),
        Command::Policy(arguments) => policy::run(&arguments),
        Command::Probe(arguments) => serve::probe(&arguments),
        Command::Serve(arguments) => serve::serve(&arguments),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("penstock-perf: {error:#}");
            ExitCode::FAILURE
        }
    }
}
