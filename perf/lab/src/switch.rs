//! Asking the switch of a laboratory over its control socket.

use anyhow::{Context, Result, bail};
use penstock_api::artefact::Artefact;
use penstock_api::message::{
    DropCount, DropEvent, FlowStatus, FrameCensus, PortStatus, Request, Response, Status,
};
use penstock_api::wire;
use penstock_api::{DropReason, Generation, Instance};
use std::os::unix::net::UnixStream;
use std::time::Duration;

const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// One request, one connection: nothing to go stale when the switch is restarted.
pub(crate) fn ask(instance: &Instance, request: &Request) -> Result<Response> {
    let socket = instance.control_socket();
    let what = || format!("the switch does not answer on {}", socket.display());
    let mut stream = UnixStream::connect(&socket).with_context(what)?;
    stream.set_read_timeout(Some(ANSWER_TIMEOUT)).with_context(what)?;
    wire::send(&mut stream, request).with_context(what)?;
    match wire::receive(&mut stream).with_context(what)? {
        Response::Error { code, message } => bail!("the switch refused ({code:?}): {message}"),
        answer => Ok(answer),
    }
}

macro_rules! questions {
    ($($(#[$doc:meta])* $name:ident($request:expr) -> $type:ty = $pattern:pat => $value:expr;)+) => {
        $($(#[$doc])*
        pub(crate) fn $name(instance: &Instance) -> Result<$type> {
            match ask(instance, &$request)? {
                $pattern => Ok($value),
                other => bail!("the switch answered something else: {other:?}"),
            }
        })+
    };
}

questions! {
    status(Request::Status) -> Status = Response::Status(status) => *status;
    ports(Request::Ports) -> Vec<PortStatus> = Response::Ports { ports } => ports;
    drops(Request::Drops) -> (Vec<DropCount>, Vec<DropEvent>) = Response::Drops { drops, recent, .. } => (drops, recent);
    flows(Request::Flows { limit: usize::MAX }) -> Vec<FlowStatus> = Response::Flows { flows, .. } => flows;
    frames(Request::Frames) -> Vec<FrameCensus> = Response::Frames { workers } => workers;
}

pub(crate) fn install(instance: &Instance, artefact: Artefact) -> Result<Generation> {
    match ask(instance, &Request::Install { artefact: Box::new(artefact) })? {
        Response::Installed { generation, .. } => Ok(generation),
        other => bail!("the switch answered something else: {other:?}"),
    }
}

/// Frames dropped for a reason, from all ports.
pub(crate) fn count(drops: &[DropCount], reason: DropReason) -> u64 {
    drops.iter().filter(|drop| drop.reason == reason).map(|drop| drop.frames).sum()
}

/// What is wrong with a census; empty when every frame is there exactly once.
pub(crate) fn census_faults(workers: &[FrameCensus]) -> Vec<String> {
    let mut faults = Vec::new();
    if workers.is_empty() {
        faults.push("the census has no workers".to_owned());
    }
    for w in workers {
        let found = w.free + w.receiving + w.transmitting + w.held + w.lent;
        if found != w.total {
            faults.push(format!("worker {}: {found} frames of {} were found: {w:?}", w.worker, w.total));
        }
        if !w.wrong.is_empty() {
            faults.push(format!("worker {}: frames twice or nowhere: {:x?}", w.worker, w.wrong));
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_frame_and_a_doubled_one_are_faults() {
        let good =
            FrameCensus { total: 10, free: 4, receiving: 3, transmitting: 2, lent: 1, ..Default::default() };
        assert!(census_faults(std::slice::from_ref(&good)).is_empty());
        assert_eq!(census_faults(&[FrameCensus { free: 3, ..good.clone() }]).len(), 1);
        assert_eq!(census_faults(&[FrameCensus { wrong: vec![4096], ..good }]).len(), 1);
        assert_eq!(census_faults(&[]).len(), 1, "nothing counted proves nothing");
    }
}
