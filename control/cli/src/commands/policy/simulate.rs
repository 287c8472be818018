//! `penstock policy simulate`: who may talk to whom, by the objects in files.
//!
//! All or nothing: an object that is refused or a line that is no question ends it before anything is answered, so that an
//! answer always stands for all the objects and a line of output for its line of input.

use super::flows::{Asked, Fields};
use crate::context::{Context, Format};
use crate::failure::{Failure, output_failure};
use crate::output::{print, print_table, table};
use penstock_control::simulate::{Answer, EndAnswer, EndVerdict, Flow, Service, World};
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// A file of objects, or a directory of such files; may be repeated.
    #[arg(long, value_name = "PATH", required = true)]
    objects: Vec<PathBuf>,
    #[command(flatten)]
    node: super::NodeOptions,
    /// Connections to judge, one JSON object per line, from a file or ('-', also when nothing is said) standard input.
    #[arg(long, value_name = "FILE")]
    flows: Option<PathBuf>,
    /// Judge connections from every pod to every pod on this port.
    #[arg(long, value_name = "PORT/PROTO")]
    matrix: Option<Service>,
    /// Who answers: the tables the switch looks up in, or the switch itself, given the frames on ports of memory.
    #[arg(long, value_enum, default_value_t = Through::Lookup)]
    through: Through,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Through {
    Lookup,
    Frames,
}

/// Fields of an answer line that are ours.
const ANSWERED: [&str; 5] = ["verdict", "egress", "ingress", "dropped", "notEnforced"];

struct Judged {
    asked: Asked,
    answer: Answer,
}

#[derive(Serialize)]
struct Line<'a> {
    #[serde(flatten)]
    echo: Fields,
    #[serde(flatten)]
    answer: &'a Answer,
}

pub(crate) fn run(
    context: &Context,
    arguments: &Arguments,
    output: Option<Format>,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let mut asked = Vec::new();
    if arguments.flows.is_some() || arguments.matrix.is_none() {
        asked = read_flows(arguments.flows.as_deref().unwrap_or(Path::new("-")))?;
    }
    let world = super::world(&arguments.objects, &arguments.node)?;
    let mut questions = find(&world, asked)?;
    let of_flows = questions.len();
    if let Some(service) = arguments.matrix {
        questions.extend(matrix(&world, service)?);
    }
    let (asked, flows): (Vec<Asked>, Vec<Flow>) = questions.into_iter().unzip();
    let answers = match arguments.through {
        Through::Lookup => flows
            .iter()
            .map(|flow| world.judge(flow))
            .collect::<Result<Vec<Answer>, _>>()
            .map_err(|error| Failure::failed(error.to_string()))?,
        Through::Frames => super::frames::judge(context, &world, &flows)?,
    };
    let judged: Vec<Judged> =
        asked.into_iter().zip(answers).map(|(asked, answer)| Judged { asked, answer }).collect();
    let mut out = BufWriter::new(out);
    match output {
        Some(Format::Table) => {
            let (flows, matrix) = judged.split_at(of_flows);
            if !flows.is_empty() {
                print_flows(flows, &mut out)?;
            }
            if arguments.matrix.is_some() {
                print_matrix(&world.pods(), matrix, &mut out)?;
            }
        }
        _ => {
            for Judged { asked, answer } in &judged {
                let line = Line { echo: asked.echo(&ANSWERED), answer };
                let line = serde_json::to_string(&line)
                    .map_err(|error| Failure::failed(format!("an answer cannot be written: {error}")))?;
                print(&mut out, line)?;
            }
        }
    }
    out.flush().map_err(output_failure)
}

/// Reads all questions, or says of every line that is none what is wrong with it.
fn read_flows(file: &Path) -> Result<Vec<(usize, Asked)>, Failure> {
    let mut text = String::new();
    let name = if file == Path::new("-") { "standard input".to_owned() } else { file.display().to_string() };
    let read = match file == Path::new("-") {
        true => std::io::stdin().read_to_string(&mut text),
        false => std::fs::File::open(file).and_then(|mut file| file.read_to_string(&mut text)),
    };
    read.map_err(|error| Failure::input(format!("{name} cannot be read: {error}; nothing was evaluated")))?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let mut asked = Vec::new();
    let mut wrong = 0;
    for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
        match Asked::read(line) {
            Ok(question) => asked.push((number, question)),
            Err(error) => {
                wrong += 1;
                eprintln!("error: {name}:{number}: {error}");
            }
        }
    }
    if wrong == 0 { Ok(asked) } else { Err(wrong_lines(wrong)) }
}

fn wrong_lines(wrong: usize) -> Failure {
    Failure::input(match wrong {
        1 => "one flow cannot be judged; nothing was evaluated".to_owned(),
        wrong => format!("{wrong} flows cannot be judged; nothing was evaluated"),
    })
}

/// Finds both ends of every question.
fn find(world: &World, asked: Vec<(usize, Asked)>) -> Result<Vec<(Asked, Flow)>, Failure> {
    let mut found = Vec::with_capacity(asked.len());
    let mut wrong = 0;
    for (number, asked) in asked {
        match world.flow(&asked.from, &asked.to, asked.service) {
            Ok(flow) => found.push((asked, flow)),
            Err(error) => {
                wrong += 1;
                eprintln!("error: flow on line {number}: {error}");
            }
        }
    }
    if wrong == 0 { Ok(found) } else { Err(wrong_lines(wrong)) }
}

/// Everybody to everybody, themselves included. Pairs without a family in common are left out, aloud.
fn matrix(world: &World, service: Service) -> Result<Vec<(Asked, Flow)>, Failure> {
    let pods = world.pods();
    let mut all = Vec::with_capacity(pods.len() * pods.len());
    for from in &pods {
        for to in &pods {
            match world.flow(from, to, service) {
                Ok(flow) => all.push((Asked::new(from, to, service), flow)),
                Err(error) => eprintln!("notice: {error}"),
            }
        }
    }
    Ok(all)
}

fn print_flows(judged: &[Judged], out: &mut dyn Write) -> Result<(), Failure> {
    let mut rows = table(&["FROM", "TO", "SERVICE", "VERDICT", "EGRESS", "INGRESS"]);
    for Judged { asked, answer } in judged {
        rows.add_row([
            asked.from.clone(),
            asked.to.clone(),
            asked.service.to_string(),
            answer.verdict.to_string(),
            end(&answer.egress),
            end(&answer.ingress),
        ]);
    }
    print_table(out, &rows)
}

/// `deny: NetworkPolicy shop/default-deny-all`.
fn end(end: &EndAnswer) -> String {
    match (&end.rule, end.policies.as_slice()) {
        (Some(rule), _) => format!("{}: {rule}", end.verdict),
        (None, []) => end.verdict.to_string(),
        (None, policies) => format!("{}: {}", end.verdict, policies.join(", ")),
    }
}

/// A square of pods, in the notation of `LEGEND`.
fn print_matrix(pods: &[String], judged: &[Judged], out: &mut dyn Write) -> Result<(), Failure> {
    let cells: BTreeMap<(&str, &str), char> =
        judged.iter().map(|j| ((j.asked.from.as_str(), j.asked.to.as_str()), cell(&j.answer))).collect();
    let mut header = vec!["FROM \\ TO"];
    header.extend(pods.iter().map(String::as_str));
    let mut rows = table(&header);
    for from in pods {
        let row = pods.iter().map(|to| match cells.get(&(from.as_str(), to.as_str())) {
            Some(_) if from == to => '#',
            Some(cell) => *cell,
            None => '-',
        });
        rows.add_row(std::iter::once(from.clone()).chain(row.map(String::from)));
    }
    print_table(out, &rows)?;
    print(out, LEGEND)
}

const LEGEND: &str = "\n. allowed   E refused by egress of the row   I refused by ingress of the column   X by both   \
                      # the pod itself   - no addresses of one family";

fn cell(answer: &Answer) -> char {
    match (answer.egress.verdict == EndVerdict::Deny, answer.ingress.verdict == EndVerdict::Deny) {
        (false, false) => '.',
        (true, false) => 'E',
        (false, true) => 'I',
        (true, true) => 'X',
    }
}
