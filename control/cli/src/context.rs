//! What every command is told: which instance, where its files are, how to print.

use clap::ValueEnum;
use penstock_api::Instance;
use std::path::{Path, PathBuf};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Output {
    Table,
    Json,
}

/// What can be said on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Table,
    Json,
    /// One object per line: answers of `policy simulate`.
    Jsonl,
}

/// Paths are kept here instead of being asked of the instance each time, so that tests can put them elsewhere.
#[derive(Debug, Clone)]
pub(crate) struct Context {
    pub(crate) instance: Instance,
    pub(crate) output: Output,
    pub(crate) socket: PathBuf,
    pub(crate) run_dir: PathBuf,
    pub(crate) state_dir: PathBuf,
    /// Where to look for the other programs before `PATH`.
    pub(crate) bin_dirs: Vec<PathBuf>,
}

impl Context {
    pub(crate) fn new(instance: Instance, output: Output) -> Self {
        let beside_us = std::env::current_exe().ok().and_then(|exe| exe.parent().map(Path::to_owned));
        Context {
            socket: instance.control_socket(),
            run_dir: instance.run_dir(),
            state_dir: instance.state_dir(),
            bin_dirs: std::env::var_os("PENSTOCK_BIN_DIR")
                .map(PathBuf::from)
                .into_iter()
                .chain(beside_us)
                .collect(),
            instance,
            output,
        }
    }
}
