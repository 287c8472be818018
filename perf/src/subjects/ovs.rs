//! Open vSwitch with its userspace datapath on `type=afxdp` ports: a database and a daemon of our own, which know nothing of
//! the machine's.

use super::Subject;
use super::child::{self, Child};
use super::ground::{self, Ground, PORTS};
use anyhow::{Context, Result, bail};
use penstock_lab::Place;
use penstock_net::Netns;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tempfile::TempDir;

const SCHEMA: &str = "/usr/share/openvswitch/vswitch.ovsschema";
/// Debian's build without DPDK; where both are installed, `ovs-vswitchd` is whichever was chosen last.
const PLAIN: &str = "/usr/lib/openvswitch-switch/ovs-vswitchd";
const TIMEOUT: &str = "--timeout=15";

/// A daemon with its database. Fields are dropped in order: programs before what they stand on.
#[derive(Debug)]
pub(super) struct Daemon {
    program: Child,
    _database: Child,
    pub(super) dir: TempDir,
    pub(super) version: String,
}

impl Daemon {
    /// `settings`: of the database's one `Open_vSwitch` row, before the daemon starts.
    pub(super) fn start(netns: &Netns, name: &str, program: &str, settings: &[String]) -> Result<Daemon> {
        for program in ["ovsdb-server", "ovsdb-tool", "ovs-vsctl", "ovs-ofctl", "ovs-appctl"] {
            child::find(program)?;
        }
        let dir = ground::directory(name)?;
        let at = |name: &str| dir.path().join(name).display().to_string();
        let private = |mut command: Command| {
            for variable in ["OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR", "RUNTIME_DIRECTORY"] {
                command.env(variable, dir.path());
            }
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            command
        };
        child::output(Command::new("ovsdb-tool").arg("create").arg(at("conf.db")).arg(SCHEMA))?;
        let socket = format!("unix:{}", at("db.sock"));
        let mut database = Child::start(
            private(Child::command(netns, "ovsdb-server"))
                .arg(at("conf.db"))
                .arg(format!("--remote=p{socket}"))
                .arg(format!("--unixctl={}", at("db.ctl"))),
        )?;
        database.wait_until("the database answered", || Path::new(&at("db.sock")).exists())?;
        vsctl(dir.path(), &["--no-wait", "init"])?;
        let mut set = vec!["--no-wait", "set", "Open_vSwitch", "."];
        set.extend(settings.iter().map(String::as_str));
        vsctl(dir.path(), &set)?;
        let program_child = Child::start(
            private(Child::command(netns, program))
                .arg(&socket)
                .arg(format!("--unixctl={}", at("vswitchd.ctl")))
                .arg(format!("--log-file={}", at("log")))
                .arg("-vconsole:off"),
        )?;
        let version = child::output(Command::new(program).arg("--version"))?;
        let version = version.lines().collect::<Vec<_>>().join(", ");
        let daemon = Daemon { program: program_child, _database: database, dir, version };
        daemon.vsctl(&["add-br", "br0", "--", "set", "bridge", "br0", "datapath_type=netdev"])?;
        Ok(daemon)
    }

    pub(super) fn id(&self) -> u32 {
        self.program.id()
    }

    /// What failed is in the daemon's log.
    pub(super) fn vsctl(&self, arguments: &[&str]) -> Result<String> {
        vsctl(self.dir.path(), arguments).with_context(|| self.log_tail())
    }

    pub(super) fn add_port(&self, port: &str, settings: &[&str]) -> Result<()> {
        let mut arguments = vec!["add-port", "br0", port, "--", "set", "interface", port];
        arguments.extend(settings);
        self.vsctl(&arguments)?;
        let error = self.vsctl(&["get", "interface", port, "error"])?;
        if error.trim() != "[]" {
            bail!("port {port}: {}; {}", error.trim(), self.log_tail());
        }
        Ok(())
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn log_tail(&self) -> String {
        let text = std::fs::read_to_string(self.path("log")).unwrap_or_default();
        let lines: Vec<&str> =
            text.lines().filter(|line| line.contains("|WARN|") || line.contains("|ERR|")).collect();
        format!("its log ends: {}", lines[lines.len().saturating_sub(4)..].join(" / "))
    }
}

fn vsctl(dir: &Path, arguments: &[&str]) -> Result<String> {
    let database = format!("--db=unix:{}", dir.join("db.sock").display());
    child::output(Command::new("ovs-vsctl").args([&database, TIMEOUT]).args(arguments))
}

#[derive(Debug)]
pub(crate) struct Ovs {
    daemon: Daemon,
    ground: Ground,
}

impl Ovs {
    /// Its polling thread runs on `cpu`.
    pub(crate) fn make(cpu: usize) -> Result<Ovs> {
        let program = if Path::new(PLAIN).is_file() { PLAIN } else { "ovs-vswitchd" };
        if program != PLAIN {
            child::find(program)?;
        }
        let ground = Ground::make("ovs")?;
        // A frame with an unfinished checksum leaves an AF_XDP port as it is: OVS's own documentation asks for this.
        ground.be_wires()?;
        let mask = format!("other_config:pmd-cpu-mask={:#x}", 1u64 << cpu);
        let daemon = Daemon::start(&ground.middle, "ovs", program, &[mask])?;
        for port in PORTS {
            // Native XDP in copy mode is what a veth has; waking up is left out there, as OVS's documentation says.
            daemon.add_port(
                port,
                &[
                    "type=afxdp",
                    "options:n_rxq=1",
                    "options:xdp-mode=native",
                    "options:use-need-wakeup=false",
                ],
            )?;
        }
        Ok(Ovs { daemon, ground })
    }
}

impl Subject for Ovs {
    fn name(&self) -> &'static str {
        super::OVS
    }

    fn version(&self) -> String {
        self.daemon.version.clone()
    }

    fn describe(&self) -> String {
        "datapath netdev, type=afxdp xdp-mode=native use-need-wakeup=false n_rxq=1, action NORMAL, no policy, no conntrack"
            .to_owned()
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
