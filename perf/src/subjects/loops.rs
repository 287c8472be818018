//! The least a userspace path can do: a loop between two AF_XDP sockets that looks at nothing. Once with the library the switch
//! uses (`xsk-rs`, the loop of [`bare`]), once with the `afxdp` crate, so that the choice between them is a figure. That one's
//! libbpf and the other's libxdp define the same symbols: it is a program of its own (perf/afxdp-loop).

pub(crate) mod bare;

use super::Subject;
use super::child::{self, Logged};
use super::ground::{Ground, PORTS};
use anyhow::{Context, Result, bail};
use penstock_lab::Place;
use std::path::{Path, PathBuf};

/// Built by `make bench`, beside this program.
const AFXDP_PROGRAM: &str = "penstock-afxdp-loop";
/// What a loop prints when frames may come.
pub(crate) const READY: &str = "forwarding";

#[derive(Debug)]
pub(crate) struct Loop {
    program: Logged,
    ground: Ground,
    name: &'static str,
    version: String,
    describe: String,
}

impl Loop {
    /// On `cpu`.
    pub(crate) fn with_xsk_rs(cpu: usize) -> Result<Loop> {
        let program = std::env::current_exe().context("this program does not find itself")?;
        let describe = format!(
            "two sockets over one area, native copy, need_wakeup, one kick per batch of {}",
            bare::BATCH
        );
        Loop::start(super::LOOP, "xsk", &program, &["afxdp-loop"], cpu, ["xsk-rs 0.11".to_owned(), describe])
    }

    /// As [`Loop::with_xsk_rs`].
    pub(crate) fn with_afxdp(cpu: usize) -> Result<Loop> {
        let program = beside_this(AFXDP_PROGRAM)?;
        let version = child::output(std::process::Command::new(&program).arg("--version"))?;
        let describe = "two areas over one memory, native copy, need_wakeup, one kick per batch of 32";
        let says = [version.trim(), describe].map(str::to_owned);
        Loop::start(super::LOOP_AFXDP, "afx", &program, &[], cpu, says)
    }

    fn start(
        name: &'static str,
        short: &str,
        program: &Path,
        arguments: &[&str],
        cpu: usize,
        [version, describe]: [String; 2],
    ) -> Result<Loop> {
        let ground = Ground::make(short)?;
        // A frame with an unfinished checksum leaves an AF_XDP port as it is.
        ground.be_wires()?;
        let mut command = ground.command(&program.display().to_string());
        let mut program = Logged::start(short, command.args(arguments).args(PORTS))?;
        child::pin(program.id(), cpu)?;
        program.wait_until_said("it forwarded", |said| said.contains(READY))?;
        Ok(Loop { program, ground, name, version, describe })
    }
}

fn beside_this(program: &str) -> Result<PathBuf> {
    let path = std::env::current_exe()?.with_file_name(program);
    match path.is_file() {
        true => Ok(path),
        false => bail!("{program} is not beside this program; 'make bench' builds it"),
    }
}

impl Subject for Loop {
    fn name(&self) -> &'static str {
        self.name
    }

    fn version(&self) -> String {
        self.version.clone()
    }

    fn describe(&self) -> String {
        self.describe.clone()
    }

    fn places(&self) -> [&Place; 2] {
        self.ground.places.each_ref()
    }

    fn next_hop(&self) -> [u8; 6] {
        self.ground.macs[1]
    }

    fn process(&self) -> Option<u32> {
        Some(self.program.id())
    }
}
