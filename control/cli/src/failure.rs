//! What can go wrong, as one line for the operator and one number for scripts.

use penstock_api::Instance;
use penstock_api::message::ErrorCode;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error(
        "no switch answers for instance {instance} on {}: {reason}; start it with 'penstock --instance {instance} up --objects DIR'",
        socket.display()
    )]
    NoSwitch { instance: Instance, socket: PathBuf, reason: String },
    #[error(
        "instance {instance} runs already (switch pid {pid}); look at it with 'penstock --instance {instance} status', or remove it first with 'penstock --instance {instance} down'"
    )]
    Running { instance: Instance, pid: i32 },
    /// The switch understood and refused. Its message names thing, reason and remedy.
    #[error("{message}")]
    Refused { code: ErrorCode, message: String },
    #[error("{0}")]
    Failed(String),
    /// What we were given to read is wrong; which line of which file was said already.
    #[error("{0}")]
    Input(String),
    /// The reader of our output went away (`penstock flows | head`): no failure of ours.
    #[error("standard output was closed")]
    OutputClosed,
}

impl Failure {
    pub(crate) fn failed(text: impl Into<String>) -> Self {
        Failure::Failed(text.into())
    }

    pub(crate) fn input(text: impl Into<String>) -> Self {
        Failure::Input(text.into())
    }

    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Failure::OutputClosed => 0,
            Failure::Refused { .. } | Failure::Failed(_) => 1,
            Failure::Input(_) => 2,
            Failure::NoSwitch { .. } => 3,
            Failure::Running { .. } => 4,
        })
    }
}

/// For writing results; every other I/O error is given words where it happens.
pub(crate) fn output_failure(error: io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::BrokenPipe => Failure::OutputClosed,
        _ => Failure::Failed(format!("standard output cannot be written: {error}")),
    }
}
