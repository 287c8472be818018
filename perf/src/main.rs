//! `penstock-perf`: the demo, and measurements.

mod compare;
mod demo;
mod engine;
mod figures;
mod generate;
mod interrupt;
mod latency;
mod load;
mod placement;
mod policy;
mod progress;
mod rate;
mod report;
mod serve;
mod subjects;
mod tcp;
mod throughput;
mod wake;
mod way;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Tests hold this and docs/performance.md together.
const TABLES: &str = "\
To repeat the tables of docs/performance.md (as root, the release build, nothing else running; --output json for programs):
  penstock-perf compare --save figures.json        this switch beside every peer this machine has, and the targets
  penstock-perf compare --only engine,ovs-dpdk     classification alone, from memory
  penstock-perf throughput                         rates without loss; --sizes, --flows, --policies, --over another path
  penstock-perf latency                            one way at shares of that rate, and of questions over TCP
  penstock-perf tcp                                streams, questions, connections
  penstock-perf engine --stages                    the pipeline by flows and rules, and what each stage costs
  penstock-perf policy                             compiling, changing, looking up
Then look at all of it:
  penstock-perf report figures.json ... --out figures.html
Whether everything works here, in a minute: penstock-perf compare --smoke";

#[derive(Debug, Parser)]
#[command(name = "penstock-perf", version, about = "Show and measure Penstock", after_help = TABLES)]
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
    /// Send a load: counted, paced, every frame recognisable.
    Generate(generate::GenerateArguments),
    /// Count and verify what arrives of a load.
    Sink(generate::SinkArguments),
    /// The rates a path sustains without loss and with a little of it, searched as RFC 2544 does.
    Throughput(throughput::Arguments),
    /// How long frames are under way at shares of the rate without loss, and how long an answer takes over TCP.
    Latency(latency::Arguments),
    /// TCP: streams, questions and answers, connections made and closed.
    Tcp(tcp::Arguments),
    /// Figures of any of these as one HTML page, with plots.
    Report(report::Arguments),
    /// Frames between two interfaces over AF_XDP, as a peer of the comparison.
    #[command(hide = true)]
    AfxdpLoop(subjects::loops::bare::Arguments),
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
        Command::Generate(arguments) => generate::generate(&arguments),
        Command::Sink(arguments) => generate::sink(&arguments),
        Command::Throughput(arguments) => throughput::run(&arguments),
        Command::Latency(arguments) => latency::run(&arguments),
        Command::Tcp(arguments) => tcp::run(&arguments),
        Command::Report(arguments) => report::run(&arguments),
        Command::AfxdpLoop(arguments) => subjects::loops::bare::run(&arguments),
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
