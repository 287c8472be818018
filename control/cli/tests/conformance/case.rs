//! One case: objects, questions, what the answers must be, and the command that gives them.

use crate::ends::{Cell, cell};
use serde_json::{Value, json};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What one way of asking gave.
#[derive(Debug, Default)]
pub(crate) struct Count {
    pub(crate) asked: usize,
    pub(crate) wrong: Vec<String>,
}

/// What one set of cases gave.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) name: &'static str,
    pub(crate) cases: usize,
    pub(crate) lookup: Count,
    pub(crate) frames: Count,
    pub(crate) notes: Vec<String>,
}

/// A question with its answer.
#[derive(Debug, Clone)]
pub(crate) struct Question {
    pub(crate) from: String,
    pub(crate) to: String,
    pub(crate) protocol: String,
    pub(crate) port: u16,
    pub(crate) expect: Cell,
}

impl Question {
    pub(crate) fn new(from: &str, to: &str, service: (&str, u16), expect: Cell) -> Question {
        let (protocol, port) = service;
        Question { from: from.to_owned(), to: to.to_owned(), protocol: protocol.to_owned(), port, expect }
    }

    fn line(&self) -> String {
        format!(
            "{}\n",
            json!({"from": self.from, "to": self.to, "protocol": self.protocol, "port": self.port})
        )
    }
}

impl Tally {
    pub(crate) fn new(name: &'static str) -> Tally {
        Tally { name, ..Tally::default() }
    }

    /// Asks both ways and compares.
    pub(crate) fn ask(&mut self, case: &str, objects: &[PathBuf], questions: &[Question]) {
        for (through, count) in [("lookup", &mut self.lookup), ("frames", &mut self.frames)] {
            count.asked += questions.len();
            let answers = match simulate(objects, questions, through) {
                Ok(answers) => answers,
                Err(error) => {
                    count.wrong.push(format!("{case} through {through}: {error}"));
                    continue;
                }
            };
            for (question, answer) in questions.iter().zip(&answers) {
                let Question { from, to, protocol, port, expect } = question;
                if !expect.is(answer) {
                    count.wrong.push(format!(
                        "{case} through {through}: {from} to {to} {protocol}/{port}: wanted {expect:?}, got {:?} ({answer})",
                        cell(answer)
                    ));
                }
            }
        }
    }

    /// Counts something that was not a question put to the command.
    pub(crate) fn check(&mut self, is_right: bool, what: impl FnOnce() -> String) {
        self.lookup.asked += 1;
        if !is_right {
            self.lookup.wrong.push(what());
        }
    }

    pub(crate) fn mismatches(&self) -> Vec<String> {
        let of =
            |count: &Count| count.wrong.iter().map(|w| format!("{}: {w}", self.name)).collect::<Vec<_>>();
        [of(&self.lookup), of(&self.frames)].concat()
    }
}

fn simulate(objects: &[PathBuf], questions: &[Question], through: &str) -> Result<Vec<Value>, String> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_penstock"));
    command.args(["policy", "simulate", "--flows", "-", "--through", through]);
    for path in objects {
        command.arg("--objects").arg(path);
    }
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| error.to_string())?;
    let lines: String = questions.iter().map(Question::line).collect();
    // It reads all of them before it answers, or ends with a reason.
    let _ = child.stdin.take().expect("a pipe").write_all(lines.as_bytes());
    let output = child.wait_with_output().map_err(|error| error.to_string())?;
    if !output.status.success() {
        return Err(format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim()));
    }
    let answers: Vec<Value> = String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()
        .map_err(|error| error.to_string())?;
    match answers.len() == questions.len() {
        true => Ok(answers),
        false => Err(format!("{} answers to {} questions", answers.len(), questions.len())),
    }
}

/// A file with these objects, in a folder that goes when the case is over.
pub(crate) fn objects_file(folder: &Path, objects: &[Value]) -> PathBuf {
    let file = folder.join("objects.json");
    let text: String = objects.iter().map(|object| format!("{object}\n")).collect();
    std::fs::write(&file, text).expect("a temporary folder");
    file
}

pub(crate) fn namespace(name: &str, labels: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
}

/// `name` is namespace/name; `ports` are as the corpus writes them: number, protocol, name.
pub(crate) fn pod(name: &str, labels: &Value, ip: &Value, ports: &Value) -> Value {
    let (namespace, name) = name.split_once('/').expect("namespace/name");
    let port = |port: &Value| match port[2].as_str().unwrap_or_default() {
        "" => json!({"containerPort": port[0], "protocol": port[1]}),
        name => json!({"containerPort": port[0], "protocol": port[1], "name": name}),
    };
    let ports: Vec<Value> = ports.as_array().into_iter().flatten().map(port).collect();
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": {"containers": [{"name": "c", "ports": ports}]}, "status": {"phase": "Running", "podIP": ip},
    })
}

/// The YAML files of a folder, in the order of their names.
pub(crate) fn yaml_files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    files.retain(|file| file.extension().is_some_and(|e| e == "yaml"));
    files.sort();
    files
}

pub(crate) fn read(file: &Path) -> String {
    std::fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

pub(crate) fn read_json(file: &Path) -> Value {
    serde_json::from_str(&read(file)).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// The last part of a path.
pub(crate) fn name_of(file: &Path) -> String {
    file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}
