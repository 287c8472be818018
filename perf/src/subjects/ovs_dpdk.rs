//! OVS-DPDK without any interface: frames from a capture that DPDK holds in memory (`net_pcap`, `infinite_rx=1`), classified by
//! one polling thread, and thrown away (`net_null`). What the switch's own pipeline on memory ports is beside.

use super::child;
use super::ovs::Daemon;
use anyhow::{Context, Result, bail};
use penstock_net::Netns;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

const PROGRAM: &str = "/usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk";
/// OVS takes at most 262,144 frames' worth of memory for its ports, and the capture's frames are in it.
pub(crate) const FLOWS_MAX: usize = 200_000;
/// Memory without huge pages, in MiB: the captures and OVS's pool.
const MEMORY_MIB: usize = 3072;
const WARM_UP: Duration = Duration::from_millis(700);
/// What is asked of it for each frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rules {
    /// From one port to the other.
    None,
    /// Conntrack, and this many allowed ports for what is new and what is established.
    Acl(usize),
}

#[derive(Debug)]
pub(crate) struct OvsDpdk {
    daemon: Daemon,
    netns: String,
    ports: usize,
    rules: Option<Rules>,
}

impl OvsDpdk {
    /// Its polling thread runs on `cpu`, everything else on `main_cpu`.
    pub(crate) fn make(cpu: usize, main_cpu: usize) -> Result<OvsDpdk> {
        if !Path::new(PROGRAM).is_file() {
            bail!("{PROGRAM} is not installed (Debian: openvswitch-switch-dpdk)");
        }
        let name = super::ground::name("odpdk");
        let netns = Netns::create(&name)?;
        let settings = [
            "other_config:dpdk-init=true".to_owned(),
            format!("other_config:pmd-cpu-mask={:#x}", 1u64 << cpu),
            format!("other_config:dpdk-lcore-mask={:#x}", 1u64 << main_cpu),
            // For more flows than the exact-match cache holds, as OVS's documentation advises.
            "other_config:smc-enable=true".to_owned(),
            format!(
                "other_config:dpdk-extra=--no-pci --no-huge --legacy-mem --no-telemetry --file-prefix={name} -m {MEMORY_MIB}"
            ),
        ];
        let daemon = Daemon::start(&netns, "odpdk", PROGRAM, &settings);
        let daemon = daemon.inspect_err(|_| {
            let _ = Netns::delete(&name);
        })?;
        let ovs = OvsDpdk { daemon, netns: name, ports: 0, rules: None };
        // Without huge pages its memory takes seconds to come.
        ovs.daemon
            .add_port("out", &["type=dpdk", "ofport_request=2", "options:dpdk-devargs=net_null0,no-rx=1"])?;
        Ok(ovs)
    }

    pub(crate) fn version(&self) -> String {
        self.daemon.version.clone()
    }

    pub(crate) fn describe(&self) -> String {
        "net_pcap (infinite_rx) to net_null, smc-enable=true, no huge pages, one polling thread".to_owned()
    }

    pub(crate) fn process(&self) -> u32 {
        self.daemon.id()
    }

    /// Million frames a second that left, over and over the same capture.
    pub(crate) fn cached(&mut self, capture: &Path, rules: Rules, duration: Duration) -> Result<f64> {
        self.set_rules(rules)?;
        self.open(capture, "infinite_rx=1")?;
        thread::sleep(WARM_UP);
        let (began, before) = (Instant::now(), self.sent()?);
        thread::sleep(duration);
        let rate = (self.sent()? - before) as f64 / began.elapsed().as_secs_f64() / 1e6;
        self.close()?;
        Ok(rate)
    }

    /// Million frames a second, each of them of a flow that connection tracking has not seen. The capture is read from its file,
    /// once.
    pub(crate) fn new_flows(&mut self, capture: &Path, frames: u64, rules: Rules) -> Result<f64> {
        self.set_rules(rules)?;
        self.appctl(&["dpctl/flush-conntrack"])?;
        let before = self.sent()?;
        self.open(capture, "infinite_rx=0")?;
        // From when a tenth is through to when nine are.
        let (mut first, mut last) = (None, None);
        let began = Instant::now();
        while last.is_none() {
            if began.elapsed() > Duration::from_secs(20) {
                bail!("{} of {frames} new flows passed in 20 s", self.sent()? - before);
            }
            let sent = self.sent()? - before;
            let now = Instant::now();
            if first.is_none() && sent >= frames / 10 {
                first = Some((now, sent));
            }
            if sent >= frames * 9 / 10 {
                last = Some((now, sent));
            }
            thread::sleep(Duration::from_millis(10));
        }
        self.close()?;
        let ((began, before), (ended, after)) = first.zip(last).context("nothing passed")?;
        let elapsed = ended.duration_since(began).as_secs_f64();
        if elapsed < 0.02 {
            bail!("{frames} new flows are too few to time: they passed in {elapsed:.3} s");
        }
        Ok((after - before) as f64 / elapsed / 1e6)
    }

    fn open(&mut self, capture: &Path, how: &str) -> Result<()> {
        self.ports += 1;
        let devargs =
            format!("options:dpdk-devargs=net_pcap{},rx_pcap={},{how}", self.ports, capture.display());
        self.daemon.add_port("in", &["type=dpdk", "ofport_request=1", &devargs])
    }

    /// OVS attached the device, and detaches it with its port.
    fn close(&self) -> Result<()> {
        self.daemon.vsctl(&["del-port", "br0", "in"]).map(drop)
    }

    fn set_rules(&mut self, rules: Rules) -> Result<()> {
        if self.rules == Some(rules) {
            return Ok(());
        }
        let file = self.daemon.path("flows");
        std::fs::write(&file, flows(rules))?;
        let bridge = self.bridge();
        child::output(Command::new("ovs-ofctl").arg("del-flows").arg(&bridge))?;
        child::output(Command::new("ovs-ofctl").arg("add-flows").arg(&bridge).arg(&file))?;
        self.rules = Some(rules);
        Ok(())
    }

    fn bridge(&self) -> String {
        format!("unix:{}", self.daemon.path("br0.mgmt").display())
    }

    fn appctl(&self, arguments: &[&str]) -> Result<String> {
        child::output(
            Command::new("ovs-appctl").arg("-t").arg(self.daemon.path("vswitchd.ctl")).args(arguments),
        )
    }

    /// Frames that left.
    fn sent(&self) -> Result<u64> {
        let said = child::output(Command::new("ovs-ofctl").arg("dump-ports").arg(self.bridge()).arg("2"))?;
        sent_frames(&said).with_context(|| format!("ovs-ofctl dump-ports said {said:?}"))
    }
}

impl Drop for OvsDpdk {
    fn drop(&mut self) {
        // A stopped program does not hear that it is to end; it is killed.
        let _ = child::set_running(self.daemon.id(), true);
        let _ = Netns::delete(&self.netns);
    }
}

fn sent_frames(dump: &str) -> Option<u64> {
    dump.split("tx pkts=").nth(1)?.split(',').next()?.trim().parse().ok()
}

/// In ovs-ofctl's language.
fn flows(rules: Rules) -> String {
    let Rules::Acl(count) = rules else { return "priority=10,in_port=1,actions=output:2\n".to_owned() };
    let mut text = String::from("table=0,priority=10,ip,ct_state=-trk,actions=ct(table=1)\n");
    // The ports the policy of the pipeline opens.
    let others = (0..).map(|n| 10_000 + 2 * n);
    for port in std::iter::once(crate::load::DESTINATION_PORT).chain(others).take(count) {
        let _ = writeln!(text, "table=1,priority=100,ct_state=+trk+est,udp,tp_dst={port},actions=output:2");
        let _ = writeln!(
            text,
            "table=1,priority=100,ct_state=+trk+new,udp,tp_dst={port},actions=ct(commit),output:2"
        );
    }
    text
}

/// Writes a capture of one frame for each flow: those the pipeline gets, in the same order.
pub(crate) fn write_capture(dir: &Path, flows: usize) -> Result<PathBuf> {
    let path = dir.join(format!("{flows}.pcap"));
    let mut bytes = Vec::with_capacity(24 + flows * (16 + 60));
    for word in [0xa1b2_c3d4_u32, 2 | 4 << 16, 0, 0, 65_535, 1] {
        bytes.extend_from_slice(&word.to_ne_bytes());
    }
    for frame in crate::engine::frames(flows) {
        for word in [0, 0, frame.len() as u32, frame.len() as u32] {
            bytes.extend_from_slice(&word.to_ne_bytes());
        }
        bytes.extend_from_slice(&frame);
    }
    std::fs::write(&path, bytes).with_context(|| path.display().to_string())?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_of_frames_sent_is_read_from_what_ovs_says() {
        let dump = "OFPST_PORT reply (xid=0x4): 1 ports\n  port  2: rx pkts=0, bytes=0, drop=0, errs=0, frame=0, over=0, crc=0\n           \
                    tx pkts=17314523, bytes=0, drop=0, errs=0, coll=?\n";
        assert_eq!(sent_frames(dump), Some(17_314_523));
        assert_eq!(sent_frames(""), None);
    }

    #[test]
    fn an_acl_has_a_rule_for_what_is_new_and_one_for_what_is_known_per_port() {
        assert_eq!(flows(Rules::Acl(1000)).lines().count(), 2001);
        assert!(flows(Rules::Acl(2)).contains("+new,udp,tp_dst=5001,"));
    }
}
