//! Open vSwitch with its userspace datapath on `type=afxdp` ports: a database and a daemon of our own, which know nothing of
//! the machine's.

use super::Subject;
use super::child::{self, Child};
use super::ground::{self, Ground, PORTS};
use anyhow::{Context, Result, bail};
use penstock_lab::Place;
use std::path::Path;
use std::process::{Command, Stdio};
use tempfile::TempDir;

const SCHEMA: &str = "/usr/share/openvswitch/vswitch.ovsschema";

/// Fields are dropped in order: programs before what they stand on.
#[derive(Debug)]
pub(crate) struct Ovs {
    daemon: Child,
    _database: Child,
    ground: Ground,
    _dir: TempDir,
    describe: String,
}

impl Ovs {
    /// Its polling thread runs on `cpu`.
    pub(crate) fn make(cpu: usize) -> Result<Ovs> {
        for program in ["ovs-vswitchd", "ovsdb-server", "ovsdb-tool", "ovs-vsctl"] {
            child::find(program)?;
        }
        let ground = Ground::make("ovs")?;
        // A frame with an unfinished checksum leaves an AF_XDP port as it is: OVS's own documentation asks for this.
        ground.complete_checksums()?;
        let dir = ground::directory("ovs")?;
        let at = |name: &str| dir.path().join(name).display().to_string();
        let private = |mut command: Command| {
            for variable in ["OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR"] {
                command.env(variable, dir.path());
            }
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            command
        };
        child::output(Command::new("ovsdb-tool").arg("create").arg(at("conf.db")).arg(SCHEMA))?;
        let socket = format!("unix:{}", at("db.sock"));
        let mut database = Child::start(
            private(ground.command("ovsdb-server"))
                .arg(at("conf.db"))
                .arg(format!("--remote=p{socket}"))
                .arg(format!("--unixctl={}", at("db.ctl"))),
        )?;
        database.wait_until("the database answered", || Path::new(&at("db.sock")).exists())?;
        let vsctl = |arguments: &[&str]| {
            child::output(
                Command::new("ovs-vsctl").arg(format!("--db={socket}")).arg("--timeout=15").args(arguments),
            )
        };
        let mask = format!("other_config:pmd-cpu-mask={:#x}", 1u64 << cpu);
        vsctl(&["--no-wait", "init"])?;
        vsctl(&["--no-wait", "set", "Open_vSwitch", ".", &mask])?;
        let daemon = Child::start(
            private(ground.command("ovs-vswitchd"))
                .arg(&socket)
                .arg(format!("--unixctl={}", at("vswitchd.ctl")))
                .arg(format!("--log-file={}", at("log")))
                .arg("-vconsole:off"),
        )?;
        let bridge = ["add-br", "br0", "--", "set", "bridge", "br0", "datapath_type=netdev"];
        vsctl(&bridge).with_context(|| tail(&at("log")))?;
        for port in PORTS {
            // Native XDP in copy mode is what a veth has; waking up is left out there, as OVS's documentation says.
            vsctl(&[
                "add-port",
                "br0",
                port,
                "--",
                "set",
                "interface",
                port,
                "type=afxdp",
                "options:n_rxq=1",
                "options:xdp-mode=native",
                "options:use-need-wakeup=false",
            ])
            .with_context(|| tail(&at("log")))?;
            let error = vsctl(&["get", "interface", port, "error"])?;
            if error.trim() != "[]" {
                bail!("port {port}: {}; {}", error.trim(), tail(&at("log")));
            }
        }
        let version = child::output(Command::new("ovs-vswitchd").arg("--version"))?;
        let describe = format!(
            "{}; datapath netdev, type=afxdp xdp-mode=native use-need-wakeup=false n_rxq=1, action NORMAL, no policy, no \
             conntrack",
            version.lines().next().unwrap_or_default()
        );
        Ok(Ovs { daemon, _database: database, ground, _dir: dir, describe })
    }
}

fn tail(log: &str) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> =
        text.lines().filter(|line| line.contains("|WARN|") || line.contains("|ERR|")).collect();
    format!("its log ends: {}", lines[lines.len().saturating_sub(4)..].join(" / "))
}

impl Subject for Ovs {
    fn name(&self) -> &'static str {
        "OVS afxdp"
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
        Some(self.daemon.id())
    }
}
