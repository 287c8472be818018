//! The same questions put to us: to the product (loader, compiler, and the reference evaluator of what they make) or to our
//! naive reading.

use crate::engine::{End, Ends};
use penstock_api::artefact::{Action, Artefact, Direction, PodKey};
use penstock_api::ids::EndpointId;
use penstock_api::reference::{Question, judge_flow};
use penstock_control::compile::{Compiler, Enforcement, Options};
use penstock_control::load::load_text;
use penstock_oracle::{Flow, Naive, World};
use std::net::IpAddr;
use std::path::Path;

/// Who answers for us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reading {
    /// The product.
    Compiled,
    /// Our own naive evaluator, which the product is tested against, too.
    Naive,
}

/// A world that has been read.
pub(crate) enum Read<'a> {
    Compiled(Box<Artefact>),
    Naive(Naive<'a>),
}

impl Reading {
    /// Or the objects that are refused. Whether objects are valid is the loader's business in both cases.
    pub(crate) fn read(self, world: &World) -> Result<Read<'_>, Vec<String>> {
        let report = load_text(Path::new("world.json"), &world.text());
        if !report.errors.is_empty() {
            return Err(report.errors.iter().map(ToString::to_string).collect());
        }
        if self == Reading::Naive {
            return Ok(Read::Naive(Naive::new(world)));
        }
        let mut compiler = Compiler::new();
        compiler.set_options(Options { enforcement: enforcement(world), ..Options::default() });
        compiler.reset(report.objects.into_iter().map(|loaded| loaded.object));
        compiler.set_host_addresses(world.host_addresses.iter().copied());
        for (number, pod) in (1..).zip(&world.attached) {
            let key = PodKey::new(pod.namespace.clone(), pod.name.clone());
            compiler.attach(EndpointId(number), key, pod.addresses.iter().copied());
        }
        Ok(Read::Compiled(Box::new(compiler.artefact())))
    }
}

impl Read<'_> {
    pub(crate) fn answer(&self, flow: Flow) -> Ends {
        match self {
            Read::Compiled(artefact) => answer(artefact, flow),
            Read::Naive(naive) => {
                let judged = naive.judge(flow);
                [judged.egress, judged.ingress].map(|end| {
                    end.map(|end| match end {
                        penstock_oracle::End::Open => End::Open,
                        penstock_oracle::End::Allow => End::Allow,
                        penstock_oracle::End::Deny => End::Deny,
                    })
                })
            }
        }
    }
}

fn enforcement(world: &World) -> Enforcement {
    match world.enforcement {
        penstock_oracle::Enforcement::Default => Enforcement::Default,
        penstock_oracle::Enforcement::Always => Enforcement::Always,
        penstock_oracle::Enforcement::Never => Enforcement::Never,
    }
}

fn answer(artefact: &Artefact, flow: Flow) -> Ends {
    let question = Question { protocol: flow.protocol, port: flow.port, established: false };
    let judged = judge_flow(artefact, flow.from, flow.to, question);
    let end = |address: IpAddr, direction, answer: Option<penstock_api::reference::Answer>| {
        let answer = answer?;
        let pod = artefact.pods.iter().find(|pod| pod.addresses.contains(&address))?;
        let program = if direction == Direction::Egress { pod.egress } else { pod.ingress };
        Some(match answer.action {
            Action::Allow if answer.rule.is_none() && !artefact.programs[program.index()].isolated => {
                End::Open
            }
            Action::Allow => End::Allow,
            _ => End::Deny,
        })
    };
    [end(flow.from, Direction::Egress, judged.egress), end(flow.to, Direction::Ingress, judged.ingress)]
}

/// Do two ends say the same? Where no rule of Cilium's selects an end, none of ours may isolate it either. The other way
/// round open and allowed are one: rules that select without isolating are no business of ours.
pub(crate) fn agree(ours: Option<End>, theirs: Option<End>) -> bool {
    match (ours, theirs) {
        (None, None) => true,
        (Some(_), Some(End::Conflict)) => false,
        (Some(ours), Some(End::Open)) => ours == End::Open,
        (Some(ours), Some(theirs)) => (ours == End::Deny) == (theirs == End::Deny),
        _ => false,
    }
}
