//! The commands of docs/performance.md, one for each table and more: scripts are run as they stand, the long ones with everything as
//! written but the time they take, and what they print is what the section says it is.

use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output};

const PROGRAM: &str = env!("CARGO_BIN_EXE_penstock-perf");
/// What makes a command short, instead of what it says itself.
const SEARCH: &[&str] =
    &["--trial", "0.05", "--confirm", "0.05", "--precision", "50", "--retries", "0", "--confirmations", "1"];
const THROUGHPUT: &[&str] = &["--sizes", "64", "--flows", "10", "--policies", "2"];
const LATENCY: &[&str] = &["--flows", "10", "--policies", "2", "--rounds", "1", "--duration", "0.1"];
const TCP: &[&str] = &["--policies", "2", "--rounds", "1", "--duration", "0.1"];
const ENGINE: &[&str] = &["--flows", "10000", "--frames", "4000", "--rounds", "1"];
const POLICY: &[&str] =
    &["--pods", "200", "--policies", "20", "--namespaces", "4", "--changes", "4", "--rounds", "1"];
/// Where a command does not choose subjects itself: all of them are for `compare --smoke`.
const COMPARE: &[&str] = &["--only", "bridge,userspace,engine"];

/// The fenced blocks of the section whose info string ends with `kind`.
fn blocks(kind: &str) -> Vec<String> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/performance.md");
    let text = std::fs::read_to_string(file).unwrap();
    let fenced = text.split("```").skip(1).step_by(2);
    let blocks = fenced.filter_map(|block| block.split_once('\n'));
    blocks.filter(|(info, _)| info.split(' ').nth(1) == Some(kind)).map(|(_, text)| text.to_owned()).collect()
}

/// The commands of the blocks that take long, without their comments.
fn commands() -> Vec<Vec<String>> {
    let text = blocks("quick").concat();
    let lines = text.lines().map(|line| line.split(" #").next().unwrap_or_default());
    lines
        .map(|line| line.split_whitespace().map(str::to_owned).collect())
        .filter(|w: &Vec<_>| !w.is_empty())
        .collect()
}

fn shortened(command: &[String]) -> Vec<String> {
    let short = match command[1].as_str() {
        "throughput" => [SEARCH, THROUGHPUT].concat(),
        "latency" => [SEARCH, LATENCY].concat(),
        "tcp" => TCP.to_vec(),
        "engine" => ENGINE.to_vec(),
        "policy" => POLICY.to_vec(),
        "compare" if command.iter().any(|word| word == "--only") => Vec::new(),
        "compare" => COMPARE.to_vec(),
        other => panic!("nobody says how {other} is made short"),
    };
    let mut words = vec![command[1].clone()];
    if command[1] == "compare" {
        words.push("--smoke".to_owned());
    }
    let mut rest = command[2..].iter();
    while let Some(word) = rest.next() {
        match short.iter().step_by(2).any(|option| option == word) {
            true => drop(rest.next()),
            false => words.push(word.clone()),
        }
    }
    words.extend(short.iter().map(|word| (*word).to_owned()));
    words.extend(["--output".to_owned(), "json".to_owned()]);
    words
}

fn document(output: &Output) -> Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    parsed(output)
}

/// Also of a command that says with its status that a target was missed, which a short run of this build says nothing about.
fn parsed(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

/// What every document has, so that one reader reads all of them.
fn assert_schema(document: &Value) {
    assert!(document["machine"]["cpus"].as_u64() > Some(0), "{document}");
    assert!(document["versions"]["penstock-perf"].is_string());
    assert!(document["placement"].is_string() && document["method"].is_string());
    for list in ["subjects", "skipped", "ratios", "verdicts"] {
        assert!(document[list].is_array(), "{list}");
    }
    let figures = document["figures"].as_array().unwrap();
    assert!(!figures.is_empty());
    for figure in figures {
        assert!(figure["name"].is_string() && figure["unit"].is_string(), "{figure}");
        let samples = figure["samples"].as_array().unwrap();
        assert_eq!(samples.is_empty(), figure["median"].is_null(), "{figure}");
    }
}

fn value(document: &Value, name: &str, unit: &str) -> f64 {
    let figures = document["figures"].as_array().unwrap();
    let figure = figures.iter().find(|figure| figure["name"] == name && figure["unit"] == unit);
    figure
        .and_then(|figure| figure["median"].as_f64())
        .unwrap_or_else(|| panic!("{name}, {unit}: {document}"))
}

#[test]
fn every_command_is_understood_as_it_stands() {
    let commands = commands();
    assert!(commands.len() >= 5, "{commands:?}");
    for command in commands {
        assert_eq!(command[0], "penstock-perf", "{command:?}");
        let output = Command::new(PROGRAM).args(&command[1..]).arg("--help").output().unwrap();
        assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn every_long_command_measures_and_says_so_in_the_one_schema() {
    assert!(nix::unistd::geteuid().is_root(), "this makes network namespaces: run it as root");
    let dir = tempfile::tempdir().unwrap();
    let mut run = Vec::new();
    for command in commands() {
        let words = shortened(&command);
        // Some differ only in what takes time.
        if run.contains(&words) {
            continue;
        }
        run.push(words.clone());
        println!("{words:?}");
        let output = Command::new(PROGRAM).args(&words).current_dir(dir.path()).output().unwrap();
        let judges = ["engine", "policy"].contains(&command[1].as_str());
        let document = if judges { parsed(&output) } else { document(&output) };
        assert_schema(&document);
        assert_eq!(document["command"], command[1].as_str());
        let is_from_memory = command.iter().any(|word| word.contains("engine"));
        let (name, unit) = match command[1].as_str() {
            "throughput" => ("overload", "Mpps"),
            "latency" => ("frame p50", "us"),
            "tcp" => ("throughput", "Gb/s"),
            "policy" => ("first compilation", "s"),
            "compare" if !is_from_memory => ("UDP 64 B", "Mpps"),
            _ => ("from memory", "Mpps"),
        };
        assert!(value(&document, name, unit) > 0.0);
    }
}

/// `penstock-perf --help` is where somebody begins who believes no table.
#[test]
fn the_help_names_commands_the_documentation_has() {
    let output = Command::new(PROGRAM).arg("--help").output().unwrap();
    let help = String::from_utf8_lossy(&output.stdout);
    let lines = help.lines().filter_map(|line| line.strip_prefix("  penstock-perf "));
    let named: Vec<&str> = lines.map(|line| line.split("   ").next().unwrap_or_default().trim()).collect();
    assert!(named.len() >= 8, "{help}");
    let commands: Vec<String> = commands().iter().map(|words| words[1..].join(" ")).collect();
    for name in named.into_iter().filter(|name| !name.starts_with("report")) {
        assert!(commands.iter().any(|command| command == name), "{name}: {commands:?}");
    }
}

#[test]
fn the_figures_beside_the_documentation_are_a_page() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/figures");
    let files: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(!files.is_empty());
    for file in &files {
        assert_schema(&serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap());
    }
    let output = Command::new(PROGRAM).arg("report").args(&files).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8_lossy(&output.stdout).contains("<svg"));
}

/// What a script that failed would leave.
struct Namespaces(&'static [&'static str]);

impl Namespaces {
    fn remove(&self) {
        for name in self.0 {
            let _ = Command::new("ip").args(["netns", "delete", name]).output();
        }
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        self.remove();
    }
}

#[test]
fn the_script_of_generator_and_sink_accounts_for_every_frame() {
    assert!(nix::unistd::geteuid().is_root(), "this makes network namespaces: run it as root");
    let scripts = blocks("run");
    assert!(!scripts.is_empty());
    let namespaces = Namespaces(&["pt-a", "pt-b"]);
    namespaces.remove();
    let dir = tempfile::tempdir().unwrap();
    let path =
        format!("{}:{}", Path::new(PROGRAM).parent().unwrap().display(), std::env::var("PATH").unwrap());
    for script in scripts {
        let output = Command::new("bash")
            .args(["-euo", "pipefail", "-c", &script])
            .env("PATH", &path)
            .current_dir(dir.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let read = |name: &str| -> Value {
        serde_json::from_slice(&std::fs::read(dir.path().join(name)).unwrap()).unwrap()
    };
    let (sent, arrived) = (read("sent.json"), read("arrived.json"));
    assert_schema(&sent);
    assert_schema(&arrived);
    let frames = value(&sent, "sent", "frames");
    assert!(frames > 0.0);
    assert_eq!(value(&arrived, "received", "frames"), frames);
    for fault in ["out of order", "duplicates", "wrong length", "altered"] {
        assert_eq!(value(&arrived, fault, "frames"), 0.0, "{fault}");
    }
}

#[test]
fn an_interface_that_is_not_there_is_named() {
    for command in ["generate", "sink"] {
        let to: &[&str] = if command == "generate" { &["--to", "192.0.2.2"] } else { &[] };
        let output =
            Command::new(PROGRAM).args([command, "--interface", "pt-none"]).args(to).output().unwrap();
        assert!(!output.status.success());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains("pt-none") || said.contains("run this as root"), "{said}");
    }
}

#[test]
fn an_interrupted_measurement_leaves_nothing() {
    assert!(nix::unistd::geteuid().is_root(), "this makes network namespaces: run it as root");
    let mut child = Command::new(PROGRAM)
        .args(["throughput", "--over", "bridge", "--sizes", "64", "--flows", "10"])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let mine = format!("pt-bench-{}", child.id());
    let namespaces = || {
        let entries = std::fs::read_dir("/run/netns").unwrap().flatten();
        entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(&mine)).count()
    };
    let began = std::time::Instant::now();
    while namespaces() < 3 && began.elapsed().as_secs() < 10 {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert_eq!(namespaces(), 3);
    std::thread::sleep(std::time::Duration::from_millis(300));
    let process = nix::unistd::Pid::from_raw(child.id() as i32);
    nix::sys::signal::kill(process, nix::sys::signal::Signal::SIGINT).unwrap();
    assert!(!child.wait().unwrap().success());
    assert_eq!(namespaces(), 0);
}
