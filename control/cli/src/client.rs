//! The client's side of the control socket: one request, one answer, within a time that is always bounded.

use crate::context::Context;
use crate::failure::Failure;
use penstock_api::Artefact;
use penstock_api::message::{PortStatus, Request, Response, Status};
use penstock_api::wire::{self, WireError};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// The switch answers from a thread that does nothing slow; a second would do.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(crate) struct Client<'a> {
    context: &'a Context,
    stream: UnixStream,
}

impl<'a> Client<'a> {
    pub(crate) fn connect(context: &'a Context) -> Result<Self, Failure> {
        let stream = UnixStream::connect(&context.socket)
            .and_then(|stream| {
                stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
                stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
                Ok(stream)
            })
            .map_err(|error| no_switch(context, &error.to_string()))?;
        Ok(Client { context, stream })
    }

    /// Sends one request and reads its answer. An answer of [`Response::Error`] is a failure.
    pub(crate) fn ask(&mut self, request: &Request) -> Result<Response, Failure> {
        wire::send(&mut self.stream, request).map_err(|error| self.lost(error))?;
        match wire::receive(&mut self.stream).map_err(|error| self.lost(error))? {
            Response::Error { code, message } => Err(Failure::Refused { code, message }),
            answer => Ok(answer),
        }
    }

    pub(crate) fn status(&mut self) -> Result<Status, Failure> {
        match self.ask(&Request::Status)? {
            Response::Status(status) => Ok(*status),
            other => Err(unexpected("status", &other)),
        }
    }

    /// The policy in force.
    pub(crate) fn artefact(&mut self) -> Result<Artefact, Failure> {
        match self.ask(&Request::Artefact)? {
            Response::Artefact { artefact } => Ok(*artefact),
            other => Err(unexpected("the policy in force", &other)),
        }
    }

    pub(crate) fn ports(&mut self) -> Result<Vec<PortStatus>, Failure> {
        match self.ask(&Request::Ports)? {
            Response::Ports { ports } => Ok(ports),
            other => Err(unexpected("ports", &other)),
        }
    }

    /// The connection as a stream, after a request that turned it into one. No timeout any more.
    pub(crate) fn into_stream(self) -> Result<UnixStream, Failure> {
        self.stream
            .set_read_timeout(None)
            .map_err(|error| Failure::failed(format!("the control socket cannot be set up: {error}")))?;
        Ok(self.stream)
    }

    fn lost(&self, error: WireError) -> Failure {
        let reason = match error {
            WireError::Closed => "it closed the connection instead of answering".to_owned(),
            WireError::Io(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                format!("it gave no answer within {} s", ANSWER_TIMEOUT.as_secs())
            }
            other => other.to_string(),
        };
        no_switch(self.context, &reason)
    }
}

pub(crate) fn close(stream: &UnixStream) {
    // Failing means that it is closed already.
    let _ = stream.shutdown(Shutdown::Both);
}

fn no_switch(context: &Context, reason: &str) -> Failure {
    Failure::NoSwitch {
        instance: context.instance.clone(),
        socket: context.socket.clone(),
        reason: reason.to_owned(),
    }
}

/// The switch answered something that does not fit the question: the versions differ.
pub(crate) fn unexpected(question: &str, answer: &Response) -> Failure {
    let kind = serde_json::to_value(answer)
        .ok()
        .and_then(|value| value.get("response").and_then(|kind| kind.as_str().map(str::to_owned)))
        .unwrap_or_else(|| "something else".to_owned());
    Failure::failed(format!(
        "the switch answered {kind:?} to a question for {question}; use the penstock of the same version as the switch"
    ))
}
