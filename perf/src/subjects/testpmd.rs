//! DPDK's testpmd: frames from one AF_XDP port to the other and nothing else (`io`), the least a userspace switch can do.

use super::Subject;
use super::child::{self, Child};
use super::ground::{self, Ground, PORTS};
use anyhow::{Context, Result};
use penstock_lab::Place;
use std::fs::File;
use std::process::Stdio;
use tempfile::TempDir;

#[derive(Debug)]
pub(crate) struct Testpmd {
    program: Child,
    ground: Ground,
    _dir: TempDir,
    describe: String,
}

impl Testpmd {
    /// Forwards on `cpu`; its idle main thread is on `main_cpu`.
    pub(crate) fn make(cpu: usize, main_cpu: usize) -> Result<Testpmd> {
        child::find("dpdk-testpmd")?;
        let ground = Ground::make("dpdk")?;
        ground.complete_checksums()?;
        let dir = ground::directory("dpdk")?;
        let log = dir.path().join("log");
        let file = File::create(&log)?;
        let devices = (0..)
            .zip(PORTS)
            .map(|(n, port)| format!("--vdev=net_af_xdp{n},iface={port},start_queue=0,queue_count=1"));
        let mut program = Child::start(
            ground
                .command("dpdk-testpmd")
                .arg(format!("--lcores={main_cpu},{cpu}"))
                .arg(format!("--main-lcore={main_cpu}"))
                .args([
                    "--no-pci",
                    "--no-huge",
                    "-m",
                    "512",
                    "--no-telemetry",
                    "-v",
                    "--file-prefix=pt-bench",
                ])
                .args(devices)
                .args([
                    "--",
                    "--forward-mode=io",
                    "--nb-cores=1",
                    "--auto-start",
                    "--total-num-mbufs=16384",
                    "--stats-period=3600",
                ])
                .env("RUNTIME_DIRECTORY", dir.path())
                .stdin(Stdio::null())
                .stdout(file.try_clone()?)
                .stderr(file),
        )?;
        let said = || std::fs::read_to_string(&log).unwrap_or_default();
        program
            .wait_until("forwarding began", || said().contains("packet forwarding - "))
            .with_context(|| format!("testpmd said: {}", tail(&said())))?;
        let said = said();
        let version = said.lines().find_map(|line| line.split("RTE Version: ").nth(1)).unwrap_or("DPDK");
        let describe = format!(
            "{}, net_af_xdp, io forwarding, no huge pages: no switching, no policy",
            version.trim_matches('\'')
        );
        Ok(Testpmd { program, ground, _dir: dir, describe })
    }
}

fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(5)..].join(" / ")
}

impl Subject for Testpmd {
    fn name(&self) -> &'static str {
        "testpmd io"
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
