//! `penstock policy explain`: why one connection is let through or not, in words.

use crate::client::Client;
use crate::context::{Context, Output};
use crate::failure::Failure;
use crate::output::{print, print_json};
use penstock_api::Direction;
use penstock_control::simulate::{
    End, EndAnswer, EndError, EndVerdict, Explanation, Flow, Reasons, Running, Service,
};
use std::io::Write;
use std::path::PathBuf;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Who opens the connection: a pod as namespace/name, or an address.
    #[arg(value_name = "FROM")]
    from: String,
    /// To whom.
    #[arg(value_name = "TO")]
    to: String,
    /// On which port: 80/TCP, 53/UDP, ICMP.
    #[arg(value_name = "PORT/PROTO")]
    service: Service,
    /// Explain the policy of a file or directory of objects instead of what the switch enforces; may be repeated.
    #[arg(long, value_name = "PATH")]
    objects: Vec<PathBuf>,
    #[command(flatten)]
    node: super::NodeOptions,
}

pub(crate) fn run(context: &Context, arguments: &Arguments, out: &mut dyn Write) -> Result<(), Failure> {
    let (flow, explanation) = match arguments.objects.as_slice() {
        [] => of_switch(context, arguments)?,
        _ => of_objects(arguments)?,
    };
    if context.output == Output::Json {
        return print_json(out, &explanation);
    }
    print(out, format_args!("{}: {}", title(arguments, &flow), explanation.answer.verdict))?;
    let Explanation { answer, egress, ingress } = &explanation;
    for (direction, own, peer, said, reasons) in [
        (Direction::Egress, &flow.from, &flow.to, &answer.egress, egress),
        (Direction::Ingress, &flow.to, &flow.from, &answer.ingress, ingress),
    ] {
        print(out, "")?;
        print_end(direction, own, peer, said, reasons, out)?;
    }
    for gap in &answer.not_enforced {
        print(out, format_args!("\nnot enforced: {gap}"))?;
    }
    Ok(())
}

fn of_objects(arguments: &Arguments) -> Result<(Flow, Explanation), Failure> {
    let world = super::world(&arguments.objects, &arguments.node)?;
    let flow = world.flow(&arguments.from, &arguments.to, arguments.service).map_err(wrong_end)?;
    let explanation = world.explain(&flow).map_err(|error| Failure::failed(error.to_string()))?;
    Ok((flow, explanation))
}

fn of_switch(context: &Context, arguments: &Arguments) -> Result<(Flow, Explanation), Failure> {
    let mut client = Client::connect(context)?;
    let artefact = client.artefact()?;
    let running = Running::new(artefact).map_err(|error| Failure::failed(error.to_string()))?;
    let flow = match running.flow(&arguments.from, &arguments.to, arguments.service) {
        Err(EndError::NotHere { text, .. }) if is_waiting(&mut client, &text)? => {
            return Err(Failure::failed(format!(
                "{text} is attached, and policy for it is not known yet: it is isolated, nothing reaches it and nothing it sends is let through; see 'penstock status'"
            )));
        }
        flow => flow.map_err(wrong_end)?,
    };
    let explanation = running.explain(&flow);
    Ok((flow, explanation))
}

/// Is a pod of this name attached?
fn is_waiting(client: &mut Client<'_>, name: &str) -> Result<bool, Failure> {
    let ports = client.ports()?;
    Ok(ports.iter().filter_map(|port| port.pod.as_ref()).any(|pod| pod.to_string() == name))
}

fn wrong_end(error: EndError) -> Failure {
    Failure::input(error.to_string())
}

fn title(arguments: &Arguments, flow: &Flow) -> String {
    let end = |text: &str, end: &End| match end.address.to_string() {
        address if address == text => match &end.pod {
            Some(pod) => format!("{text} ({pod})"),
            None => address,
        },
        address => format!("{text} ({address})"),
    };
    format!("{} to {}, {}", end(&arguments.from, &flow.from), end(&arguments.to, &flow.to), arguments.service)
}

fn name(end: &End) -> String {
    end.pod.as_ref().map_or_else(|| end.address.to_string(), ToString::to_string)
}

fn print_end(
    direction: Direction,
    own: &End,
    peer: &End,
    said: &EndAnswer,
    reasons: &Reasons,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    print(out, format_args!("{direction} of {}: {}", name(own), said.verdict))?;
    if own.pod.is_none() {
        return print(out, "  No pod, so no policy selects it.");
    }
    match said.policies.as_slice() {
        [] => print(out, "  No policy selects it in this direction.")?,
        policies => print(out, format_args!("  Selected by {}.", policies.join(", ")))?,
    }
    match (&said.rule, said.verdict) {
        (Some(rule), EndVerdict::Deny) => return print(out, format_args!("  Refused by {rule}.")),
        (Some(rule), _) => return print(out, format_args!("  Allowed by {rule}.")),
        (None, EndVerdict::Deny) => {}
        (None, _) => return Ok(()),
    }
    print(out, "  No rule of theirs allows it, and what no rule allows is refused.")?;
    if !reasons.peer_is.is_empty() {
        print(out, format_args!("  {} is known as {}.", name(peer), reasons.peer_is.join(", ")))?;
    }
    match reasons.nearest.as_slice() {
        [] => print(out, "  No rule comes near: none is but for one thing about this.")?,
        nearest => {
            print(out, "  Nearest:")?;
            for near in nearest {
                print(out, format_args!("    {} is for {}", near.rule, near.lacks.join("; and for ")))?;
            }
        }
    }
    for rule in &reasons.idle {
        print(
            out,
            format_args!("  {rule} allows nothing: nobody is there whom it names, or no port of that name."),
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{context, printed, serve};
    use penstock_api::artefact::{PodKey, PodPolicy, PolicyInfo, Program};
    use penstock_api::message::{Request, Response};
    use penstock_api::{Artefact, Generation, IdentityId, PolicyId, ProgramId};

    fn arguments(from: &str, to: &str) -> Arguments {
        Arguments {
            from: from.to_owned(),
            to: to.to_owned(),
            service: "80/TCP".parse().unwrap(),
            node: super::super::NodeOptions::default(),
            objects: vec![],
        }
    }

    fn artefact() -> Artefact {
        Artefact {
            generation: Generation(4),
            policies: vec![PolicyInfo {
                kind: "NetworkPolicy".into(),
                namespace: "shop".into(),
                name: "deny".into(),
            }],
            programs: vec![
                Program { isolated: true, selected_by: vec![PolicyId(0)], entries: vec![] },
                Program::default(),
            ],
            pods: vec![PodPolicy {
                pod: PodKey { uid: Some("u".into()), ..PodKey::new("shop", "db") },
                addresses: vec!["10.0.0.2".parse().unwrap()],
                identity: IdentityId::FIRST_COMPILED,
                other_identities: vec![],
                ingress: ProgramId(0),
                egress: ProgramId(1),
            }],
            ..Artefact::empty()
        }
    }

    #[test]
    fn without_files_the_switch_is_asked_what_it_enforces() {
        let dir = tempfile::tempdir().unwrap();
        let context = context(dir.path());
        serve(&context, |request, _| match request {
            Request::Artefact => Some(Response::Artefact { artefact: Box::new(artefact()) }),
            _ => Some(Response::Ports {
                ports: vec![crate::commands::ports::tests::port(2, Some(("shop", "new")))],
            }),
        });
        let text = printed(|out| run(&context, &arguments("192.0.2.9", "shop/db"), out));
        assert!(text.starts_with("192.0.2.9 to shop/db (10.0.0.2), 80/TCP: deny\n"), "{text}");
        assert!(text.contains("Selected by NetworkPolicy shop/deny."), "{text}");

        let waiting = run(&context, &arguments("shop/new", "shop/db"), &mut Vec::new()).unwrap_err();
        assert!(waiting.to_string().contains("isolated"), "{waiting}");
        let unknown = run(&context, &arguments("shop/far", "shop/db"), &mut Vec::new()).unwrap_err();
        assert!(unknown.to_string().contains("by its address"), "{unknown}");
    }
}
