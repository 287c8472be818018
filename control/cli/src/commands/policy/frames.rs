//! `simulate --through frames`: the switch itself is asked, on ports of memory.
//!
//! For each node with a pod in question one `penstock-vswitch judge` is started, given what that node's switch would be given,
//! and sent the flows its pods take part in. A flow between two nodes is sent on both: it leaves the one by its host port and
//! comes in by the other's.

use crate::context::Context;
use crate::failure::Failure;
use crate::process::Program;
use penstock_api::judge::{self, Node, Outcome};
use penstock_control::simulate::{Answer, Flow, Verdict, World};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::process::{Child, Command, Stdio};

/// The answers to all flows, in their order.
pub(super) fn judge(context: &Context, world: &World, flows: &[Flow]) -> Result<Vec<Answer>, Failure> {
    // By node: which flows it sees.
    let mut seen: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (number, flow) in flows.iter().enumerate().filter(|(_, flow)| !flow.is_to_itself()) {
        let (from, to) = (world.node_of(&flow.from), world.node_of(&flow.to));
        for node in [from, to.filter(|_| to != from)].into_iter().flatten() {
            seen.entry(node).or_default().push(number);
        }
    }
    let mut outcomes: Vec<Vec<Outcome>> = vec![Vec::new(); flows.len()];
    for (node, numbers) in seen {
        let switch = world.switch(node).map_err(|error| Failure::failed(error.to_string()))?;
        let sent: Vec<&Flow> = numbers.iter().map(|number| &flows[*number]).collect();
        for (number, outcome) in numbers.iter().zip(ask(context, &switch, &sent)?) {
            outcomes[*number].push(outcome);
        }
    }
    let answers = flows.iter().zip(outcomes).map(|(flow, outcomes)| answer(world, flow, &outcomes));
    answers.collect()
}

fn answer(world: &World, flow: &Flow, outcomes: &[Outcome]) -> Result<Answer, Failure> {
    let answered = match outcomes {
        // Nothing is sent: it stays within a pod, or passes no switch.
        [] => world.judge(flow),
        outcomes => world.answer(
            flow,
            outcomes.iter().find_map(|outcome| outcome.egress),
            outcomes.iter().find_map(|outcome| outcome.ingress),
        ),
    };
    let mut answer = answered.map_err(|error| Failure::failed(error.to_string()))?;
    let passed = outcomes.iter().all(|outcome| outcome.delivered && outcome.answered != Some(false));
    if passed != (answer.verdict == Verdict::Allow) {
        answer.verdict = if passed { Verdict::Allow } else { Verdict::Deny };
        answer.dropped = outcomes.iter().find_map(|outcome| outcome.dropped);
    }
    Ok(answer)
}

/// What one node's switch does with these flows.
fn ask(context: &Context, node: &Node, flows: &[&Flow]) -> Result<Vec<Outcome>, Failure> {
    let executable = Program::Switch.find(context)?;
    let failed = |what: &str| Failure::failed(format!("{} {what}", executable.display()));
    let mut child = Command::new(&executable)
        .arg("judge")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| failed(&format!("cannot be started: {error}")))?;
    let outcomes = std::thread::scope(|scope| {
        let input = child.stdin.take();
        scope.spawn(|| {
            // If it ends early its exit status says so.
            let _ = input.map(|input| write_questions(BufWriter::new(input), node, flows));
        });
        read_outcomes(&mut child)
    });
    let status = child.wait().map_err(|error| failed(&format!("cannot be waited for: {error}")))?;
    let outcomes = outcomes.map_err(|error| failed(&format!("answered what is no outcome: {error}")))?;
    if !status.success() || outcomes.len() != flows.len() {
        return Err(failed(&format!(
            "judged {} of {} flows and ended with {status}; use the one of this program's version",
            outcomes.len(),
            flows.len()
        )));
    }
    Ok(outcomes)
}

fn write_questions(mut out: impl Write, node: &Node, flows: &[&Flow]) -> std::io::Result<()> {
    let mut line = |value: serde_json::Result<String>| writeln!(out, "{}", value?);
    line(serde_json::to_string(node))?;
    for flow in flows {
        line(serde_json::to_string(&judge::Flow {
            source: flow.from.address,
            destination: flow.to.address,
            protocol: flow.service.protocol(),
            port: flow.service.port(),
        }))?;
    }
    out.flush()
}

fn read_outcomes(child: &mut Child) -> std::io::Result<Vec<Outcome>> {
    let Some(output) = child.stdout.take() else { return Ok(Vec::new()) };
    BufReader::new(output).lines().map(|line| Ok(serde_json::from_str(&line?)?)).collect()
}
