//! The process itself, on a real kernel, in a network namespace that pretends to be the host: how it starts, refuses to
//! start, stops, and what it leaves. Needs root.

use penstock_api::Instance;
use penstock_api::message::{Request, Response, Status};
use penstock_api::wire;
use penstock_net::netns::Netns;
use penstock_net::route::{Netlink, VethSpec};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// A pretended host, and the instance that may run on it. Everything is removed when dropped.
struct Host {
    netns: Netns,
    instance: Instance,
}

impl Host {
    fn new(name: &str) -> Self {
        assert!(nix::unistd::geteuid().is_root(), "these tests make network namespaces and need root");
        let instance: Instance = format!("pt-{name}").parse().unwrap();
        let host = format!("pt-{name}-host");
        let _ = Netns::delete(&host);
        let netns = Netns::create(&host).unwrap();
        let host = Host { netns, instance };
        host.remove();
        host
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_penstock-vswitch"));
        command.args(arguments).args(["--instance", self.instance.name()]).env("PENSTOCK_LOG", "info");
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.netns.run(|| self.command(arguments).output().unwrap()).unwrap()
    }

    fn remove(&self) -> Output {
        self.run(&["remove", "--purge"])
    }

    /// Starts the switch and waits until it serves.
    fn start(&self) -> Running {
        let spawn = || self.command(&["run"]).stderr(Stdio::null()).spawn().unwrap();
        let child = self.netns.run(spawn).unwrap();
        let running = Running { child, socket: self.instance.control_socket() };
        let deadline = Instant::now() + Duration::from_secs(20);
        // The socket of an earlier process that was killed may still be there.
        while running.ask(&Request::Status).is_none() {
            assert!(Instant::now() < deadline, "the switch does not serve");
            std::thread::sleep(Duration::from_millis(10));
        }
        running
    }

    /// Everything of the instance that exists.
    fn leftovers(&self) -> Vec<String> {
        let instance = &self.instance;
        let mut found: Vec<PathBuf> =
            vec![PathBuf::from("/run/netns").join(instance.netns()), instance.bpf_dir()];
        found.extend([instance.run_dir(), instance.state_dir()]);
        found.push(format!("{}-flows-0", instance.shm_prefix().display()).into());
        found.retain(|path| path.exists());
        let mut found: Vec<String> = found.iter().map(|path| path.display().to_string()).collect();
        if self.link().is_some() {
            found.push(instance.host_interface());
        }
        found
    }

    fn link(&self) -> Option<u32> {
        let name = self.instance.host_interface();
        Netlink::open_in(&self.netns).unwrap().link(&name).unwrap().map(|link| link.index)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.remove();
        let _ = Netns::delete(self.netns.name().unwrap());
    }
}

struct Running {
    child: Child,
    socket: PathBuf,
}

impl Running {
    fn ask(&self, request: &Request) -> Option<Response> {
        let mut stream = UnixStream::connect(&self.socket).ok()?;
        wire::send(&mut stream, request).ok()?;
        wire::receive(&mut stream).ok()
    }

    fn status(&self) -> Status {
        match self.ask(&Request::Status) {
            Some(Response::Status(status)) => *status,
            other => panic!("{other:?}"),
        }
    }

    fn signal(&mut self, signal: nix::sys::signal::Signal) -> std::process::ExitStatus {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.child.id() as i32), signal).unwrap();
        self.child.wait().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a refusal must look like: a failure, and one line.
fn refusal(output: &Output) -> String {
    assert!(!output.status.success());
    let text = String::from_utf8_lossy(&output.stderr);
    let last: Vec<&str> = text.lines().filter(|line| line.starts_with("penstock-vswitch: ")).collect();
    assert_eq!(last.len(), 1, "{text}");
    last[0].to_owned()
}

#[test]
fn an_interface_name_that_is_taken_is_said_and_nothing_is_left_or_lost() {
    let host = Host::new("taken");
    let taken = host.instance.host_interface();
    Netlink::open_in(&host.netns).unwrap().create_veth(&VethSpec::new(&taken, "stranger")).unwrap();
    let strangers = host.link();
    let said = refusal(&host.run(&["run"]));
    assert!(said.contains(&format!("interface {taken} exists and is not ours")), "{said}");
    assert_eq!(host.link(), strangers, "it is not ours to remove");
    assert!(!PathBuf::from("/run/netns").join(host.instance.netns()).exists());
    assert!(!host.instance.bpf_dir().exists());
    assert!(host.remove().status.success());
    assert_eq!(host.link(), strangers, "by its name alone it is not ours either");
}

#[test]
fn a_namespace_of_that_name_that_is_not_a_switchs_is_left_alone() {
    let host = Host::new("netns");
    let theirs = Netns::create(host.instance.netns()).unwrap();
    Netlink::open_in(&theirs).unwrap().create_veth(&VethSpec::new("eth0", "eth1")).unwrap();
    for arguments in [&["run"][..], &["remove"]] {
        let said = refusal(&host.run(arguments));
        assert!(said.contains("exists and is not a switch's: it holds eth"), "{said}");
        assert!(Netlink::open_in(&theirs).unwrap().link("eth0").unwrap().is_some());
    }
    Netns::delete(host.instance.netns()).unwrap();
}

#[test]
fn a_configuration_with_an_unknown_key_is_refused_before_anything_is_made() {
    let host = Host::new("unknown");
    let file = std::env::temp_dir().join("pt-unknown.toml");
    std::fs::write(&file, "mtu = 1500\nworker = 1\n").unwrap();
    let said = refusal(&host.run(&["run", "--config", file.to_str().unwrap()]));
    std::fs::remove_file(&file).unwrap();
    assert!(said.contains("pt-unknown.toml, line 2: unknown field `worker`"), "{said}");
    assert_eq!(host.leftovers(), [""; 0]);
}

#[test]
fn one_switch_of_an_instance_runs_and_cannot_be_removed_meanwhile() {
    let host = Host::new("second");
    let running = host.start();
    let said = refusal(&host.run(&["run"]));
    assert!(said.contains(&format!("process {} ", running.child.id())), "{said}");
    let said = refusal(&host.remove());
    assert!(said.contains("stop the switch before removing"), "{said}");
    assert_eq!(running.status().pid, running.child.id(), "it runs on");
}

#[test]
fn stopping_leaves_what_removing_takes_away() {
    let host = Host::new("stop");
    assert_eq!(host.leftovers(), [""; 0]);
    let mut running = host.start();
    assert_eq!(running.status().workers.len(), 1.max(running.status().workers.len()));
    assert!(running.signal(nix::sys::signal::Signal::SIGTERM).success(), "asked for, so no failure");
    assert!(!host.instance.control_socket().exists());
    let index = host.link().expect("penstock0 stays");

    // Killed, it could not even take its socket away; the next one replaces it and finds everything else.
    let mut running = host.start();
    assert!(!running.signal(nix::sys::signal::Signal::SIGKILL).success());
    assert!(host.instance.control_socket().exists());
    let running = host.start();
    assert_eq!(host.link(), Some(index), "adopted, not made anew");
    drop(running);

    assert!(host.remove().status.success());
    assert_eq!(host.leftovers(), [""; 0]);
    assert!(host.remove().status.success(), "nothing to remove is success");
    assert_eq!(host.leftovers(), [""; 0]);
}
