//! `penstock flows`: what the connection tables hold.

use crate::client::{Client, unexpected};
use crate::context::{Context, Output};
use crate::failure::Failure;
use crate::output::{address, bytes, duration, or_dash, print, print_json, print_table, protocol, table};
use penstock_api::message::{FlowStatus, Request, Response};
use serde::Serialize;
use std::io::Write;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// How many to show, most recent first.
    #[arg(long, default_value_t = 100, value_name = "N")]
    limit: usize,
}

#[derive(Debug, Serialize)]
struct Report {
    total: usize,
    flows: Vec<FlowStatus>,
}

pub(crate) fn run(context: &Context, arguments: &Arguments, out: &mut dyn Write) -> Result<(), Failure> {
    let report = match Client::connect(context)?.ask(&Request::Flows { limit: arguments.limit })? {
        Response::Flows { flows, total } => Report { total, flows },
        other => return Err(unexpected("flows", &other)),
    };
    if context.output == Output::Json {
        return print_json(out, &report);
    }
    let mut table = table(&[
        "WORKER",
        "PROTOCOL",
        "SOURCE",
        "POD",
        "DESTINATION",
        "POD",
        "STATE",
        "IDLE",
        "GENERATION",
        "FRAMES",
        "BYTES",
        "REPLY FRAMES",
        "REPLY BYTES",
    ]);
    for flow in &report.flows {
        table.add_row([
            flow.worker.to_string(),
            protocol(flow.protocol),
            address(flow.source, flow.source_port, flow.protocol),
            or_dash(flow.source_pod.as_ref()),
            address(flow.destination, flow.destination_port, flow.protocol),
            or_dash(flow.destination_pod.as_ref()),
            flow.state.clone(),
            duration(flow.idle_ms),
            flow.generation.to_string(),
            flow.forward_frames.to_string(),
            bytes(flow.forward_bytes),
            flow.reply_frames.to_string(),
            bytes(flow.reply_bytes),
        ]);
    }
    print_table(out, &table)?;
    if report.total > report.flows.len() {
        print(out, format_args!("{} of {} flows; --limit shows more", report.flows.len(), report.total))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{context, printed, serve};
    use penstock_api::artefact::PodKey;
    use penstock_api::{Generation, WorkerId};

    #[test]
    fn a_flow_is_shown_with_both_ends_and_the_rest_is_counted() {
        let dir = tempfile::tempdir().unwrap();
        let context = context(dir.path());
        serve(&context, |request, _| {
            assert_eq!(request, Request::Flows { limit: 1 });
            Some(Response::Flows {
                flows: vec![FlowStatus {
                    worker: WorkerId(1),
                    protocol: 6,
                    source: "fd00::1".parse().unwrap(),
                    source_port: 40_000,
                    destination: "fd00::2".parse().unwrap(),
                    destination_port: 5432,
                    state: "established".into(),
                    source_pod: Some(PodKey::new("shop", "web")),
                    destination_pod: None,
                    generation: Generation(4),
                    idle_ms: 100,
                    forward_frames: 3,
                    forward_bytes: 300,
                    reply_frames: 2,
                    reply_bytes: 200,
                }],
                total: 9,
            })
        });
        let text = printed(|out| run(&context, &Arguments { limit: 1 }, out));
        assert!(text.contains("[fd00::1]:40000  shop/web"), "{text}");
        assert!(text.contains("[fd00::2]:5432  -"), "{text}");
        assert!(text.ends_with("1 of 9 flows; --limit shows more\n"), "{text}");
    }
}
