//! The other program: Cilium's engine behind a pipe.

use penstock_oracle::{Enforcement, Flow, World};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// What one end of a flow says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// No policy speaks of this end.
    Open,
    Allow,
    Deny,
    /// Rules for Cilium's proxy contradict each other. Never said by us.
    Conflict,
}

/// Egress, then ingress; `None` where the end is no endpoint.
pub(crate) type Ends = [Option<End>; 2];

pub(crate) struct Engine {
    child: Child,
    ask: BufWriter<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

/// The answers to one world's questions.
pub(crate) struct Answers {
    /// Objects it does not take, and why.
    pub(crate) refused: Vec<String>,
    pub(crate) flows: Vec<Ends>,
}

impl Engine {
    pub(crate) fn start(program: &Path) -> Engine {
        let mut child =
            Command::new(program).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap_or_else(
                |error| panic!("cannot start {}: {error}; build it with 'make oracle'", program.display()),
            );
        let ask = BufWriter::new(child.stdin.take().expect("piped"));
        let answers = BufReader::new(child.stdout.take().expect("piped"));
        Engine { child, ask, answers }
    }

    /// Sends a world and its questions. Every `ask` is followed by one [`Engine::read`]; between the two the engine works.
    pub(crate) fn ask(&mut self, seed: u64, world: &World, flows: &[Flow]) {
        let attached: Vec<Value> = world
            .attached
            .iter()
            .map(|pod| json!({"namespace": pod.namespace, "name": pod.name, "addresses": pod.addresses}))
            .collect();
        let enforcement = match world.enforcement {
            Enforcement::Default => "default",
            Enforcement::Always => "always",
            Enforcement::Never => "never",
        };
        let line = json!({
            "seed": seed, "node": world.node, "host_addresses": world.host_addresses, "attached": attached,
            "enforcement": enforcement, "objects": world.objects,
            "flows": flows.iter().map(Flow::to_json).collect::<Vec<_>>(),
        });
        let sent = writeln!(self.ask, "{line}").and_then(|()| self.ask.flush());
        sent.unwrap_or_else(|error| panic!("seed {seed}: the engine takes no questions: {error}"));
    }

    /// The answers, or why there are none.
    pub(crate) fn read(&mut self, seed: u64) -> Result<Answers, String> {
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("the engine answers in UTF-8");
        let answer: Value = serde_json::from_str(&line)
            .unwrap_or_else(|error| panic!("seed {seed}: no answer but {line:?}: {error}"));
        assert_eq!(answer["seed"].as_u64(), Some(seed), "the answer to another question");
        if let Some(error) = answer["error"].as_str() {
            return Err(error.to_owned());
        }
        let end = |value: &Value| match value.as_str() {
            None => None,
            Some("allow") => Some(End::Allow),
            Some("deny") => Some(End::Deny),
            Some("open") => Some(End::Open),
            Some("conflict") => Some(End::Conflict),
            Some(other) => panic!("seed {seed}: no verdict: {other}"),
        };
        let list = |field: &str| answer[field].as_array().cloned().unwrap_or_default();
        let refused = list("refused")
            .iter()
            .map(|refusal| format!("{}: {}", refusal["object"], refusal["error"]))
            .collect();
        let flows = list("flows").iter().map(|flow| [end(&flow["egress"]), end(&flow["ingress"])]).collect();
        Ok(Answers { refused, flows })
    }

    /// A few questions more. `None`: it does not take all of the objects.
    pub(crate) fn answers(&mut self, world: &World, flows: &[Flow]) -> Option<Vec<Ends>> {
        self.ask(0, world, flows);
        let answers = self.read(0).ok()?;
        answers.refused.is_empty().then_some(answers.flows)
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // It ends by itself when nobody asks any more; whether it does is not our test.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
