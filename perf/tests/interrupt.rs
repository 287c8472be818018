//! Ctrl-C at any moment: whatever a measurement made is removed, in the order in which it can be, whoever stood still included.

use penstock_api::Instance;
use penstock_lab::Lab;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const PROGRAM: &str = env!("CARGO_BIN_EXE_penstock-perf");
const PATIENCE: Duration = Duration::from_secs(30);
/// Something is being measured by then; before, it is being made.
const LATER: Duration = Duration::from_secs(3);

/// What there is of a process's peers, and of an instance.
fn made(process: u32, instance: &Option<Instance>) -> Vec<String> {
    let prefix = format!("pt-bench-{process}-");
    let dirs = ["/run/netns".into(), std::env::temp_dir()];
    let entries = dirs.iter().filter_map(|dir| std::fs::read_dir(dir).ok()).flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let of_peers = names.filter(|name| name.starts_with(&prefix));
    of_peers.chain(instance.iter().flat_map(Lab::leftovers)).collect()
}

/// Ended when a test fails.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `instance`: by the process's number, where a node is made.
#[track_caller]
fn leaves_nothing(arguments: &str, instance: impl Fn(u32) -> Option<String>) {
    assert!(nix::unistd::geteuid().is_root(), "this makes network namespaces: run it as root");
    for after in [Duration::ZERO, LATER] {
        let child = Command::new(PROGRAM)
            .args(arguments.split(' '))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut running = Running(child);
        let process = running.0.id();
        let instance = instance(process).map(|name| name.parse::<Instance>().unwrap());
        let began = Instant::now();
        while made(process, &instance).is_empty() {
            assert!(began.elapsed() < PATIENCE, "{arguments}: nothing was made");
            std::thread::sleep(Duration::from_millis(20));
        }
        std::thread::sleep(after);
        let signalled = Instant::now();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(process as i32), nix::sys::signal::Signal::SIGINT)
            .unwrap();
        let status = loop {
            if let Some(status) = running.0.try_wait().unwrap() {
                break status;
            }
            assert!(signalled.elapsed() < PATIENCE, "{arguments}, interrupted after {after:?}: it goes on");
            std::thread::sleep(Duration::from_millis(50));
        };
        let said = std::io::read_to_string(running.0.stderr.take().unwrap()).unwrap();
        assert!(!status.success() && said.contains("cleaning up"), "{arguments}: {status}: {said}");
        assert_eq!(made(process, &instance), [""; 0], "{arguments}, interrupted after {after:?}: {said}");
    }
}

fn none(_: u32) -> Option<String> {
    None
}

/// As a laboratory is named after "load" by its process.
fn load(process: u32) -> Option<String> {
    Some(format!("pt-load-{:04x}", process.wrapping_mul(7919) % 0x10000))
}

#[test]
fn of_a_search_over_a_path_in_the_kernel() {
    leaves_nothing("throughput --over bridge --sizes 64 --flows 10", none);
}

#[test]
fn of_a_search_over_the_switch() {
    leaves_nothing("throughput --over userspace --sizes 64 --flows 10 --policies 2", load);
}

#[test]
fn of_latencies() {
    leaves_nothing("latency --over shortcut --ndr 10k --policies 2 --flows 10", load);
}

#[test]
fn of_tcp_over_a_peer_with_a_program_of_its_own() {
    leaves_nothing("tcp --over loop", none);
}

#[test]
fn of_a_comparison_in_which_some_stand_still() {
    leaves_nothing("compare --only bridge,userspace,loop --rounds 3", |_| Some("pt-measure".to_owned()));
}

#[test]
fn of_what_policy_costs() {
    leaves_nothing("policy --pods 200 --policies 20 --namespaces 4", |_| Some("pt-change".to_owned()));
}
