//! `penstock policy`: what policy says, before and while it is enforced.

mod explain;
mod flows;
mod frames;
mod lint;
mod simulate;

use crate::context::{Context, Format};
use crate::failure::Failure;
use penstock_control::compile::{Enforcement, Options, PodToHost};
use penstock_control::load::{LoadReport, load_paths};
use penstock_control::simulate::World;
use std::io::Write;
use std::path::PathBuf;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Check files of objects: errors, and warnings of what is probably not meant.
    Lint(lint::Arguments),
    /// Judge connections under the policy of files, without a switch.
    Simulate(simulate::Arguments),
    /// Say why a connection is let through or not: by which policies and rules, or which came nearest.
    Explain(explain::Arguments),
}

/// `output`: as given on the command line, for what prints otherwise when nothing is said.
pub(crate) fn run(
    context: &Context,
    arguments: &Arguments,
    output: Option<Format>,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    match &arguments.command {
        Command::Lint(arguments) => lint::run(arguments, output, out),
        Command::Explain(arguments) => explain::run(context, arguments, out),
        Command::Simulate(arguments) => simulate::run(context, arguments, output, out),
    }
}

/// Reads objects of which none may be wrong, and says aloud what is not enforced of them.
fn read_objects(paths: &[PathBuf]) -> Result<LoadReport, Failure> {
    let report = load_paths(paths);
    for notice in report.notices.iter().chain(&report.skipped) {
        match (notice.not_enforced(), &notice.object, &notice.field) {
            (Some(why), Some(object), Some(field)) => eprintln!(
                "not enforced: {object} {field} ({why}); {}:{}:{}",
                notice.file.display(),
                notice.line,
                notice.column
            ),
            _ => eprintln!("notice: {notice}"),
        }
    }
    for error in &report.errors {
        eprintln!("error: {error}");
    }
    match report.errors.len() {
        0 => Ok(report),
        1 => Err(Failure::input("one error in the objects; nothing was evaluated")),
        errors => Err(Failure::input(format!("{errors} errors in the objects; nothing was evaluated"))),
    }
}

/// The options of the control plane whose answers are asked for.
#[derive(Debug, Default, clap::Args)]
struct NodeOptions {
    /// Which pods are isolated: those a policy isolates, all, or none (then no policy is enforced).
    #[arg(long, value_enum, default_value_t, requires = "objects")]
    policy_enforcement: Enforcement,
    /// What pods may say to their own node: what their policies let them, or everything that none of them denies.
    #[arg(long, value_enum, default_value_t, requires = "objects")]
    pod_to_host: PodToHost,
}

/// The world that objects make, and aloud what had to be assumed.
fn world(paths: &[PathBuf], node: &NodeOptions) -> Result<World, Failure> {
    let report = read_objects(paths)?;
    let options = Options { enforcement: node.policy_enforcement, pod_to_host: node.pod_to_host };
    let world = World::under(report.objects.into_iter().map(|loaded| loaded.object), options);
    for notice in world.notices() {
        eprintln!("notice: {notice}");
    }
    Ok(world)
}
