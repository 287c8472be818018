//! Bad input: one line that names the thing, the reason and the remedy; nothing half made stays; what was enforced stays.

use crate::common::{LONG, TCP, shop, workers};
use nix::sys::signal::Signal;
use penstock_api::Instance;
use penstock_lab::Outcome::Reached;
use penstock_lab::{CniCall, Lab, LabOptions};
use penstock_net::route::VethSpec;
use penstock_net::{Netlink, Netns};
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// A node whose switch is not the laboratory's: it is started by hand, and expected to refuse.
struct Refusing {
    lab: Lab,
    instance: Instance,
    dir: tempfile::TempDir,
}

impl Refusing {
    fn new() -> Refusing {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let lab = Lab::with("bad", LabOptions { with_control: false, ..LabOptions::default() });
        let number = std::process::id() % 100_000 * 16 + NEXT.fetch_add(1, Ordering::Relaxed) % 16;
        let instance = format!("ptb-{number}").parse().unwrap();
        Refusing { lab, instance, dir: tempfile::tempdir().unwrap() }
    }

    fn config(&self, toml: &str) -> PathBuf {
        let file = self.dir.path().join("vswitch.toml");
        std::fs::write(&file, toml).unwrap();
        file
    }

    fn switch(&self) -> Command {
        Command::new(self.lab.program("penstock-vswitch"))
    }

    /// What the switch says, started on the node. It must refuse in one line, with a status that is not 0, and leave nothing.
    #[track_caller]
    fn refusal(&self, mut command: Command) -> String {
        let output = self.lab.host().run(|| ends(&mut command));
        assert!(!output.status.success(), "it was not refused: {output:?}");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        // Log lines are dated; what is meant for the operator is not.
        let lines: Vec<&str> = said.lines().filter(|line| !line.starts_with("20")).collect();
        assert_eq!(lines.len(), 1, "not one line:\n{said}");
        let left: Vec<String> = Lab::leftovers(&self.instance)
            .into_iter()
            .filter(|what| !what.starts_with("/run/penstock") && !what.starts_with("/var/lib/penstock"))
            .collect();
        assert!(left.is_empty(), "after {:?} there is left: {left:?}", lines[0]);
        lines[0].to_owned()
    }

    #[track_caller]
    fn run_refused(&self, arguments: &[&str]) -> String {
        let mut command = self.switch();
        command.args(["run", "--instance", self.instance.name()]).args(arguments);
        self.refusal(command)
    }

    #[track_caller]
    fn config_refused(&self, toml: &str) -> String {
        let file = self.config(toml);
        self.run_refused(&["--config", &file.display().to_string()])
    }
}

impl Drop for Refusing {
    fn drop(&mut self) {
        let mut command = self.switch();
        command.args(["remove", "--purge", "--instance", self.instance.name()]);
        let _ = self.lab.host().run(|| command.output());
    }
}

/// Runs a program that should end by itself; one that does not is killed.
fn ends(command: &mut Command) -> Output {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > deadline {
            child.kill().unwrap();
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    child.wait_with_output().unwrap()
}

#[track_caller]
fn names(said: &str, what: &[&str]) {
    for what in what {
        assert!(said.contains(what), "{what:?} is not in: {said}");
    }
}

#[test]
fn an_unknown_key_is_named_with_its_file_and_line_and_the_known_ones() {
    let node = Refusing::new();
    names(
        &node.config_refused("mtu = 1500\nwrokers = 2\n"),
        &["vswitch.toml", "line 2", "wrokers", "workers"],
    );
    names(&node.config_refused("mtu = \n"), &["vswitch.toml", "line 1"]);
    names(&node.config_refused("mtu = 64\n"), &["mtu", "64", "1280 to 9000"]);
    names(&node.run_refused(&["--config", "/nowhere.toml"]), &["/nowhere.toml", "No such file"]);
    names(&node.run_refused(&["--workers", "99"]), &["workers", "99", "1 to 16"]);
}

fn direct(interface: &str, mode: &str) -> String {
    format!(
        "[[direct]]\ninterface = \"{interface}\"\nmode = \"{mode}\"\naddresses = [\"10.244.0.200\"]\nmac = \"02:00:00:00:00:aa\"\npod = \"shop/direct\"\n"
    )
}

#[test]
fn an_unknown_direct_interface_is_named_and_nothing_stays() {
    let node = Refusing::new();
    names(&node.config_refused(&direct("nosuch0", "auto")), &["nosuch0", "no interface", "ip link"]);
}

#[test]
fn a_driver_that_refuses_the_mode_asked_for_is_named_and_nothing_stays() {
    let node = Refusing::new();
    let netlink = Netlink::open_in(node.lab.host().netns()).unwrap();
    netlink.create_veth(&VethSpec::new("dir0", "dir1")).unwrap();
    let said = node.config_refused(&direct("dir0", "zero-copy"));
    names(&said, &["dir0", "zero-copy", "veth refuses", "Operation not supported", "mode = \"auto\""]);
    assert!(netlink.link("dir0").unwrap().is_some(), "what is not ours was taken away");
}

#[test]
fn a_host_interface_whose_name_is_taken_is_named_and_left_alone() {
    let node = Refusing::new();
    let name = node.instance.host_interface();
    let netlink = Netlink::open_in(node.lab.host().netns()).unwrap();
    let theirs = netlink.create_veth(&VethSpec::new(&name, "theirs")).unwrap();
    names(&node.run_refused(&[]), &[&name, "not ours", "another instance name"]);
    assert_eq!(
        netlink.link(&name).unwrap().map(|link| link.index),
        Some(theirs.index),
        "after a refused start"
    );
    let mut remove = node.switch();
    remove.args(["remove", "--instance", node.instance.name()]);
    node.lab.host().run(|| ends(&mut remove));
    assert_eq!(netlink.link(&name).unwrap().map(|link| link.index), Some(theirs.index), "after a removal");
}

#[test]
fn a_missing_capability_is_named_and_nothing_stays() {
    let node = Refusing::new();
    let switch = node.lab.program("penstock-vswitch");
    for (dropped, named) in [("-net_admin", "CAP_NET_ADMIN"), ("-sys_admin", "CAP_SYS_ADMIN")] {
        let mut command = Command::new("setpriv");
        command.args(["--bounding-set", dropped, "--inh-caps", dropped]).arg(&switch).args([
            "run",
            "--instance",
            node.instance.name(),
        ]);
        names(&node.refusal(command), &[named]);
    }
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "--inh-caps", "-all"])
        .arg(&switch)
        .args(["run", "--instance", node.instance.name()]);
    names(&node.refusal(command), &["root"]);
}

#[test]
fn a_second_switch_of_an_instance_is_refused_by_name_and_process_and_changes_nothing() {
    let (lab, web, db) = shop("twice", workers(1));
    let pid = lab.status().unwrap().pid;
    let mut second = Command::new(lab.program("penstock-vswitch"));
    second.args(["run", "--instance", lab.instance().name()]);
    let output = lab.host().run(|| ends(&mut second));
    assert!(!output.status.success());
    names(&String::from_utf8_lossy(&output.stderr), &[lab.instance().name(), &pid.to_string(), "--instance"]);
    assert_eq!(lab.status().unwrap().pid, pid);
    assert_eq!(web.connect_within(db.v4(), TCP, LONG), Reached);
}

/// Feeds the plugin bytes that the laboratory would not write.
fn plugin(lab: &Lab, call: &CniCall, stdin: &[u8]) -> Output {
    let mut command = Command::new(lab.program("penstock-cni"));
    command
        .env("CNI_COMMAND", &call.command)
        .env("CNI_CONTAINERID", &call.container_id)
        .env("CNI_NETNS", &call.netns)
        .env("CNI_IFNAME", &call.interface)
        .env("CNI_ARGS", &call.arguments)
        .env("CNI_PATH", "/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    lab.host().run(|| {
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(stdin).unwrap();
        child.wait_with_output().unwrap()
    })
}

#[test]
fn malformed_input_of_the_plugin_is_answered_with_one_error_object_and_attaches_nothing() {
    let (lab, web, db) = shop("stdin", workers(1));
    let ports = lab.ports().unwrap().len();
    let netns = format!("{}-p-x", lab.instance());
    let pod = Netns::create(&netns).unwrap();
    let call = CniCall::add(lab.instance().name(), "shop", "x", "1", pod.path());
    let good = call.configuration.to_string();
    let unknown = good.replace("\"instance\"", "\"mut\":1500,\"instance\"");
    let bad_mtu = good.replace("\"instance\"", "\"mtu\":\"big\",\"instance\"");
    for (stdin, named) in [
        ("", "stdin is empty"),
        (&good[..good.len() - 5], "JSON"),
        ("[1, 2]", "not an object"),
        ("\u{0}\u{1}", "JSON"),
        (&unknown, "mut"),
        (&bad_mtu, "mtu"),
    ] {
        let output = plugin(&lab, &call, stdin.as_bytes());
        assert!(!output.status.success(), "{stdin:?} was accepted");
        let error: serde_json::Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|why| panic!("{stdin:?}: no error object ({why}): {output:?}"));
        assert!(error["code"].as_u64().is_some_and(|code| code > 0), "{error}");
        names(&format!("{} {}", error["msg"], error["details"]), &[named]);
    }
    assert_eq!(lab.ports().unwrap().len(), ports);
    assert!(Netlink::open_in(&pod).unwrap().link("eth0").unwrap().is_none());
    assert_eq!(web.connect_within(db.v4(), TCP, LONG), Reached);
}

#[test]
fn a_pod_whose_namespace_is_gone_is_refused_and_takes_no_address() {
    let (lab, _web, _db) = shop("nons", workers(1));
    let ports = lab.ports().unwrap().len();
    let taken = || std::fs::read_dir(lab.instance().state_dir().join("addresses")).unwrap().count();
    let addresses = taken();
    lab.declare_pod("shop", "x", &[]).unwrap();
    lab.settled().unwrap();
    let path = PathBuf::from(format!("/run/netns/{}-p-gone", lab.instance()));
    let call = CniCall::add(lab.instance().name(), "shop", "x", "1", &path);
    let failure = lab.cni(&call).expect_err("there is no such namespace").to_string();
    names(&failure, &[&path.display().to_string()]);
    assert_eq!((lab.ports().unwrap().len(), taken()), (ports, addresses));
}

#[test]
fn a_jumbo_pod_on_a_switch_of_1500_bytes_is_refused_at_add() {
    let (lab, _web, _db) = shop("toobig", workers(1));
    lab.declare_pod("shop", "x", &[]).unwrap();
    lab.settled().unwrap();
    let failure = lab
        .attach_with("shop", "x", |call| call.configuration["mtu"] = 9000.into())
        .expect_err("a pod may have more than the switch carries")
        .to_string();
    names(&failure, &["9000", "1500"]);
    assert_eq!(lab.ports().unwrap().iter().filter(|port| port.pod.is_some()).count(), 2);
}

#[test]
fn an_up_with_a_bad_configuration_leaves_neither_switch_nor_control_plane() {
    let (lab, web, db) = shop("upbad", workers(1));
    crate::common::kill_switch(&lab, Signal::SIGTERM);
    let objects = lab.objects_dir().display().to_string();
    let said = lab
        .penstock(&["up", "--objects", &objects, "--", "--workers", "99"])
        .expect_err("99 workers were accepted")
        .to_string();
    names(&said, &["workers = 99"]);
    // Pods are still there for a start that works.
    lab.start_switch().unwrap();
    assert_eq!(web.connect_within(db.v4(), TCP, LONG), Reached);
}
