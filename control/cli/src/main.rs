//! `penstock`: the operator's command.
//!
//! It holds no state of its own. What runs is asked of the switch over its control socket; what was started is found by
//! the pid files in the instance's run directory, and believed only when `/proc` agrees. Tables for people, `--output
//! json` for programs. Every failure is one line on standard error: the thing, the reason, the remedy.
//!
//! | exit status | meaning |
//! |---|---|
//! | 0 | done |
//! | 1 | the operation failed or was refused; nothing half-done is left |
//! | 2 | the command line, or a file it names, is wrong; nothing was done |
//! | 3 | no switch answers for this instance |
//! | 4 | `up`: the instance runs already |

mod client;
mod commands;
mod context;
mod failure;
mod output;
mod process;
#[cfg(test)]
mod testing;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, Subcommand};
use context::{Context, Format, Output};
use failure::Failure;
use penstock_api::Instance;
use std::process::ExitCode;

#[derive(Debug, Parser)]
#[command(name = "penstock", version, about = "Run and look into a Penstock switch", after_help = EXIT_STATUS)]
struct Cli {
    /// Which switch of this machine: everything it owns is named after it.
    #[arg(long, global = true, env = "PENSTOCK_INSTANCE", default_value = Instance::DEFAULT, value_name = "NAME")]
    instance: Instance,
    /// Tables for people or JSON for programs [default: table; policy simulate: jsonl].
    #[arg(long, global = true, value_enum)]
    output: Option<Format>,
    #[command(subcommand)]
    command: Command,
}

const EXIT_STATUS: &str = "Exit status: 0 done, 1 failed or refused, 2 wrong command line or input, 3 no switch answers, \
                           4 'up' of an instance that runs already.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Start the switch and the control plane.
    Up(commands::up::Arguments),
    /// Stop both and remove every interface, namespace, program, map and file of the instance.
    Down(commands::down::Arguments),
    /// Is it running, which policy is in force, what could be better?
    Status {
        /// Instead: what each stage of the workers costs per frame, measured for so many seconds.
        #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "1", value_parser = clap::value_parser!(u8).range(1..=50))]
        stages: Option<u8>,
    },
    /// Ports with their pods, addresses and counters.
    Ports,
    /// Tracked flows, most recent first.
    Flows(commands::flows::Arguments),
    /// What was dropped: by reason, port and pod, with the policies that said so.
    Drops(commands::drops::Arguments),
    /// Record the frames of a port together with the switch's verdicts.
    Capture(commands::capture::Arguments),
    /// What policy says about connections, from files or from the running switch.
    Policy(commands::policy::Arguments),
    /// Attach and detach laboratory pods through the CNI plugin.
    Pod(commands::pod::Arguments),
    /// Detach from the terminal and become another program; how `up` starts the others.
    #[command(name = process::SESSION_COMMAND, hide = true)]
    Session(process::SessionArguments),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    if cli.output == Some(Format::Jsonl) && !matches!(cli.command, Command::Policy(_)) {
        let text = "'--output jsonl' is for 'penstock policy simulate'; use '--output json'";
        Cli::command().error(ErrorKind::InvalidValue, text).exit();
    }
    let context = Context::new(
        cli.instance,
        match cli.output {
            Some(Format::Json) => Output::Json,
            _ => Output::Table,
        },
    );
    let out = &mut std::io::stdout();
    let result = match cli.command {
        Command::Up(arguments) => commands::up::run(&context, &arguments, out),
        Command::Down(arguments) => commands::down::run(&context, &arguments, out),
        Command::Status { stages: Some(seconds) } => commands::stages::run(&context, seconds, out),
        Command::Status { stages: None } => commands::status::run(&context, out),
        Command::Ports => commands::ports::run(&context, out),
        Command::Flows(arguments) => commands::flows::run(&context, &arguments, out),
        Command::Drops(arguments) => commands::drops::run(&context, &arguments, out),
        Command::Capture(arguments) => commands::capture::run(&context, &arguments, out),
        Command::Policy(arguments) => commands::policy::run(&context, &arguments, cli.output, out),
        Command::Pod(arguments) => commands::pod::run(&context, &arguments, out),
        Command::Session(arguments) => process::become_session(&arguments),
    };
    match result {
        Ok(()) | Err(Failure::OutputClosed) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("penstock: {failure}");
            failure.exit_code()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Cli, CommandFactory};

    #[test]
    fn the_command_line_contradicts_itself_nowhere() {
        Cli::command().debug_assert();
    }
}
