//! `penstock drops`: every frame that did not arrive, and who said so.

use crate::client::{Client, unexpected};
use crate::context::{Context, Output};
use crate::failure::Failure;
use crate::output::{address, or_dash, print, print_json, print_table, protocol, table};
use penstock_api::DropReason;
use penstock_api::message::{DropCount, DropEvent, RefusedCount, Request, Response};
use serde::Serialize;
use std::io::Write;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// How many recent drops to show.
    #[arg(long, default_value_t = 20, value_name = "N")]
    recent: usize,
}

#[derive(Debug, Serialize)]
struct Report {
    drops: Vec<DropCount>,
    refused: Vec<RefusedCount>,
    recent: Vec<DropEvent>,
}

pub(crate) fn run(context: &Context, arguments: &Arguments, out: &mut dyn Write) -> Result<(), Failure> {
    let mut report = match Client::connect(context)?.ask(&Request::Drops)? {
        Response::Drops { drops, refused, recent } => Report { drops, refused, recent },
        other => return Err(unexpected("drops", &other)),
    };
    report.drops.sort_by_key(|drop| (std::cmp::Reverse(drop.frames), drop.reason, drop.port));
    report.refused.sort_by_key(|refused| std::cmp::Reverse(refused.frames));
    report.recent.sort_by_key(|event| std::cmp::Reverse(event.time_ms));
    report.recent.truncate(arguments.recent);
    if context.output == Output::Json {
        return print_json(out, &report);
    }
    if report.drops.is_empty() {
        return print(out, "no frame was dropped");
    }
    let mut counts = table(&["FRAMES", "REASON", "PORT", "POD", "MEANING"]);
    for drop in &report.drops {
        counts.add_row([
            drop.frames.to_string(),
            drop.reason.to_string(),
            or_dash(drop.port),
            or_dash(drop.pod.as_ref()),
            drop.reason.describe().trim().to_owned(),
        ]);
    }
    print_table(out, &counts)?;
    if !report.refused.is_empty() {
        print(out, "\nrefused by policy:")?;
        let mut refused = table(&["FRAMES", "WHOSE", "SELECTED BY"]);
        for count in &report.refused {
            let policies = match count.policies.as_slice() {
                [] => "no policy known".to_owned(),
                policies => policies.join(", "),
            };
            let whose = format!("{} of {}", count.direction, count.endpoint);
            refused.add_row([count.frames.to_string(), whose, policies]);
        }
        print_table(out, &refused)?;
    }
    if report.recent.is_empty() {
        return Ok(());
    }
    print(out, "\nmost recent, sampled:")?;
    let mut events = table(&["TIME (UTC)", "REASON", "PROTOCOL", "SOURCE", "DESTINATION", "SAID BY"]);
    for event in &report.recent {
        events.add_row([
            time_of_day(event.time_ms),
            event.reason.to_string(),
            protocol(event.protocol),
            address(event.source, event.source_port, event.protocol),
            address(event.destination, event.destination_port, event.protocol),
            said_by(event),
        ]);
    }
    print_table(out, &events)
}

/// Whose policy it was: `ingress of shop/db: no rule of NetworkPolicy shop/default-deny-all allows it`.
pub(crate) fn said_by(event: &DropEvent) -> String {
    let whose = match (&event.direction, &event.endpoint) {
        (Some(direction), Some(endpoint)) => format!("{direction} of {endpoint}"),
        (None, Some(endpoint)) => endpoint.to_string(),
        _ => return "-".to_owned(),
    };
    match (&event.rule, event.policies.as_slice()) {
        (Some(rule), policies) => {
            format!("{whose}: refused by {rule}; selected by {}", policies.join(", "))
        }
        (None, []) if event.reason == DropReason::NotReady => format!("{whose}: its policy is not known yet"),
        (None, []) => whose,
        (None, policies) => format!("{whose}: no rule of {} allows it", policies.join(", ")),
    }
}

fn time_of_day(time_ms: u64) -> String {
    let seconds = time_ms / 1000 % 86_400;
    format!("{:02}:{:02}:{:02}.{:03}", seconds / 3600, seconds / 60 % 60, seconds % 60, time_ms % 1000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{context, printed, serve};
    use penstock_api::artefact::PodKey;
    use penstock_api::{Direction, PortId};

    #[test]
    fn a_policy_drop_names_the_policies_and_counts_come_largest_first() {
        let dir = tempfile::tempdir().unwrap();
        let context = context(dir.path());
        serve(&context, |_, _| {
            let count = |reason, frames| DropCount {
                reason,
                port: Some(PortId(2)),
                pod: Some(PodKey::new("shop", "web")),
                frames,
            };
            Some(Response::Drops {
                refused: vec![RefusedCount {
                    endpoint: PodKey::new("shop", "db"),
                    direction: Direction::Ingress,
                    policies: vec![
                        "NetworkPolicy shop/default-deny-all".into(),
                        "NetworkPolicy shop/b".into(),
                    ],
                    frames: 7,
                }],
                drops: vec![count(DropReason::Spoofed, 1), count(DropReason::PolicyIngress, 7)],
                recent: vec![DropEvent {
                    time_ms: 3_600_000 + 61_002,
                    reason: DropReason::PolicyIngress,
                    port: PortId(2),
                    protocol: 6,
                    source: "10.1.0.2".parse().unwrap(),
                    source_port: 4000,
                    destination: "10.1.0.3".parse().unwrap(),
                    destination_port: 5432,
                    endpoint: Some(PodKey::new("shop", "db")),
                    direction: Some(Direction::Ingress),
                    policies: vec!["NetworkPolicy shop/default-deny-all".into()],
                    rule: None,
                }],
            })
        });
        let text = printed(|out| run(&context, &Arguments { recent: 5 }, out));
        let implicit = "ingress of shop/db: no rule of NetworkPolicy shop/default-deny-all allows it";
        assert!(text.contains(implicit), "{text}");
        let counted = text.lines().find(|line| line.starts_with("7 ") && line.contains("ingress of shop/db"));
        assert!(
            counted.is_some_and(|line| line.contains("shop/default-deny-all, NetworkPolicy shop/b")),
            "{text}"
        );
        assert!(text.contains("01:01:01.002"), "{text}");
        assert!(text.find("policy_ingress").unwrap() < text.find("spoofed").unwrap(), "{text}");
    }

    #[test]
    fn a_rule_that_denied_is_named_beside_the_policies_that_select_the_endpoint() {
        let event = DropEvent {
            time_ms: 0,
            reason: DropReason::PolicyEgress,
            port: PortId(1),
            protocol: 6,
            source: "10.1.0.2".parse().unwrap(),
            source_port: 4000,
            destination: "10.1.0.3".parse().unwrap(),
            destination_port: 5432,
            endpoint: Some(PodKey::new("shop", "web")),
            direction: Some(Direction::Egress),
            policies: vec!["CiliumNetworkPolicy shop/no".into(), "NetworkPolicy shop/a".into()],
            rule: Some("CiliumNetworkPolicy shop/no spec.egressDeny[0]".into()),
        };
        let said = "egress of shop/web: refused by CiliumNetworkPolicy shop/no spec.egressDeny[0]; \
                    selected by CiliumNetworkPolicy shop/no, NetworkPolicy shop/a";
        assert_eq!(said_by(&event), said);
        let waiting = DropEvent { reason: DropReason::NotReady, policies: vec![], rule: None, ..event };
        assert_eq!(said_by(&waiting), "egress of shop/web: its policy is not known yet");
    }

    #[test]
    fn nothing_dropped_is_said_in_words() {
        let dir = tempfile::tempdir().unwrap();
        let context = context(dir.path());
        serve(&context, |_, _| Some(Response::Drops { drops: vec![], refused: vec![], recent: vec![] }));
        assert_eq!(printed(|out| run(&context, &Arguments { recent: 5 }, out)), "no frame was dropped\n");
    }
}
