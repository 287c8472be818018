//! DPDK's testpmd: frames from one AF_XDP port to the other and nothing else (`io`), the least a userspace switch can do.

use super::Subject;
use super::child::{self, Logged};
use super::ground::{Ground, PORTS};
use crate::figures::Spread;
use anyhow::{Result, ensure};
use penstock_lab::Place;
use std::path::Path;
use std::process::{Command, Stdio};

#[derive(Debug)]
pub(crate) struct Testpmd {
    program: Logged,
    ground: Ground,
    version: String,
}

impl Testpmd {
    /// Forwards on `cpu`; its idle main thread is on `main_cpu`.
    pub(crate) fn make(cpu: usize, main_cpu: usize) -> Result<Testpmd> {
        child::find("dpdk-testpmd")?;
        let ground = Ground::make("dpdk")?;
        ground.be_wires()?;
        let devices = (0..)
            .zip(PORTS)
            .map(|(n, port)| format!("--vdev=net_af_xdp{n},iface={port},start_queue=0,queue_count=1"));
        let mut program = Logged::start(
            "dpdk",
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
                ]),
        )?;
        program.wait_until_said("forwarding began", |said| said.contains("packet forwarding - "))?;
        let version = version_in(&program.said()).unwrap_or_else(|| "DPDK".to_owned());
        Ok(Testpmd { program, ground, version })
    }
}

/// As the program says it of itself, on its way to telling its usage.
pub(crate) fn version() -> Option<String> {
    let asked = [
        "-v",
        "--no-pci",
        "--no-huge",
        "--no-telemetry",
        "-m",
        "64",
        "--file-prefix=pt-bench",
        "--",
        "--help",
    ];
    let said = Command::new("dpdk-testpmd").args(asked).stdin(Stdio::null()).output().ok()?;
    version_in(&String::from_utf8_lossy(&[said.stdout, said.stderr].concat()))
}

fn version_in(log: &str) -> Option<String> {
    let version = log.lines().find_map(|line| line.split("RTE Version: ").nth(1))?;
    Some(version.trim_matches('\'').to_owned())
}

/// Million frames a second that testpmd takes from a capture and throws away: DPDK's part of what OVS-DPDK does with it.
pub(crate) fn capture_to_nowhere(capture: &Path, cpu: usize, main_cpu: usize) -> Result<f64> {
    child::find("dpdk-testpmd")?;
    let mut program = Logged::start(
        "dpcap",
        Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "dpdk-testpmd"])
            .arg(format!("--lcores={main_cpu},{cpu}"))
            .arg(format!("--main-lcore={main_cpu}"))
            .args(["--no-pci", "--no-huge", "-m", "2048", "--no-telemetry", "--file-prefix=pt-bench-pcap"])
            .arg(format!("--vdev=net_pcap0,rx_pcap={},infinite_rx=1", capture.display()))
            .arg("--vdev=net_null0,no-rx=1")
            .args(["--", "--forward-mode=io", "--nb-cores=1", "--auto-start", "--total-num-mbufs=160000"])
            .args(["--port-topology=paired", "--stats-period=1"]),
    )?;
    program.wait_until_said("it counted", |said| rates(said).len() >= 4)?;
    // The first second has the start in it.
    let rate = Spread::of(rates(&program.said()).split_off(1)).median;
    ensure!(rate > 0.0, "testpmd passed nothing: {}", program.said());
    Ok(rate)
}

/// Million frames a second of each period that `--stats-period` reported, of all ports together.
fn rates(log: &str) -> Vec<f64> {
    // "  Tx-pps:     23211111          Tx-bps: ..." for each port; frames leave by one of them.
    let seen: Vec<f64> = log
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Tx-pps:")?.split_whitespace().next()?.parse().ok())
        .collect();
    seen.chunks_exact(2).map(|ports| ports.iter().sum::<f64>() / 1e6).collect()
}

impl Subject for Testpmd {
    fn name(&self) -> &'static str {
        super::TESTPMD
    }

    fn version(&self) -> String {
        self.version.clone()
    }

    fn describe(&self) -> String {
        "net_af_xdp, io forwarding, no huge pages: no switching, no policy".to_owned()
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

#[cfg(test)]
mod tests {
    use super::{rates, version_in};

    #[test]
    fn the_version_is_the_one_the_log_names() {
        let log = "EAL: Detected CPU lcores: 2\nEAL: RTE Version: 'DPDK 22.11.11'\n";
        assert_eq!(version_in(log).as_deref(), Some("DPDK 22.11.11"));
    }

    #[test]
    fn a_rate_is_of_both_ports_and_of_one_second() {
        let port = |rate: u32| {
            format!("  Rx-pps:  5  Rx-bps: 0\n  Tx-pps:     {rate}          Tx-bps:            0\n")
        };
        let log = [port(0), port(0), port(1_000_000), port(500_000), port(9)].concat();
        assert_eq!(rates(&log), [0.0, 1.5]);
    }
}
