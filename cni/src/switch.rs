//! Requests to the switch, with an end to every wait.

use crate::error::{CniError, code};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, setsockopt, socket, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};
use penstock_api::Instance;
use penstock_api::message::{ErrorCode, Request, Response, Status};
use penstock_api::wire::{self, WireError};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

/// For everything the switch can answer at once.
pub const ANSWER_WAIT: Duration = Duration::from_secs(5);

/// Why the switch did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum SwitchError {
    #[error("the switch of instance {instance} is not running: {}: {source}", path.display())]
    Absent { instance: String, path: PathBuf, source: io::Error },
    #[error("the switch of instance {instance} did not answer within {} s", waited.as_secs_f32())]
    Silent { instance: String, waited: Duration },
    #[error("the switch of instance {instance} went away before it answered")]
    Gone { instance: String },
    #[error("the switch of instance {instance} refused: {message}")]
    Refused { instance: String, code: ErrorCode, message: String },
    #[error("the switch of instance {instance} answered what this plugin does not understand: {what}")]
    Strange { instance: String, what: String },
}

impl From<SwitchError> for CniError {
    fn from(error: SwitchError) -> Self {
        let (code, details) = match &error {
            SwitchError::Absent { instance, .. } => (
                code::TRY_AGAIN,
                format!("start penstock-vswitch for instance {instance}, or correct \"instance\" in the network configuration"),
            ),
            SwitchError::Silent { .. } => (
                code::TRY_AGAIN,
                "see the switch's log; pods that are attached go on as they are".to_owned(),
            ),
            SwitchError::Gone { .. } => {
                (code::TRY_AGAIN, "it may be restarting; the runtime will try again".to_owned())
            }
            SwitchError::Refused { code: ErrorCode::NotReady, .. } => (
                code::TRY_AGAIN,
                "no policy for the pod yet: is the control plane running, and does it know the pod (`penstock status`)?".to_owned(),
            ),
            SwitchError::Refused { code: ErrorCode::Conflict, .. } => (code::CONFLICT, String::new()),
            SwitchError::Refused { .. } => (code::SWITCH, String::new()),
            SwitchError::Strange { .. } => {
                (code::SWITCH, "install matching versions of the switch and of this plugin".to_owned())
            }
        };
        CniError::new(code, error.to_string()).with_details(details)
    }
}

/// A connection to the switch's control socket.
#[derive(Debug)]
pub struct Switch {
    instance: String,
    stream: UnixStream,
}

impl Switch {
    pub fn connect(instance: &Instance) -> Result<Switch, SwitchError> {
        let path = instance.control_socket();
        // Not `UnixStream::connect`: on a switch that hangs its queue is full, and that call has no end.
        let open = || -> io::Result<UnixStream> {
            let fd = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
            setsockopt(&fd, sockopt::SendTimeout, &TimeVal::seconds(ANSWER_WAIT.as_secs() as i64))?;
            connect(fd.as_raw_fd(), &UnixAddr::new(&path)?)?;
            Ok(UnixStream::from(fd))
        };
        let instance = instance.name().to_owned();
        match open() {
            Ok(stream) => Ok(Switch { instance, stream }),
            Err(e) if is_timeout(&e) => Err(SwitchError::Silent { instance, waited: ANSWER_WAIT }),
            Err(source) => Err(SwitchError::Absent { instance, path, source }),
        }
    }

    /// Asks, and waits for the answer this long. An answer that is an error is an error.
    pub fn ask(&mut self, request: &Request, wait: Duration) -> Result<Response, SwitchError> {
        self.send(request)?;
        self.receive(wait)
    }

    pub fn send(&mut self, request: &Request) -> Result<(), SwitchError> {
        wire::send(&mut self.stream, request).map_err(|e| self.failed(e, ANSWER_WAIT))
    }

    pub fn receive(&mut self, wait: Duration) -> Result<Response, SwitchError> {
        // Zero would mean no limit.
        let limit = wait.max(Duration::from_millis(1));
        self.stream.set_read_timeout(Some(limit)).map_err(|e| self.failed(e.into(), wait))?;
        match wire::receive(&mut self.stream) {
            Ok(Response::Error { code, message }) => {
                Err(SwitchError::Refused { instance: self.instance.clone(), code, message })
            }
            Ok(response) => Ok(response),
            Err(e) => Err(self.failed(e, wait)),
        }
    }

    pub fn status(&mut self) -> Result<Status, SwitchError> {
        match self.ask(&Request::Status, ANSWER_WAIT)? {
            Response::Status(status) => Ok(*status),
            other => Err(self.strange(&other)),
        }
    }

    /// An answer to another question than ours.
    pub fn strange(&self, response: &Response) -> SwitchError {
        let what = serde_json::to_value(response)
            .ok()
            .and_then(|json| Some(json.get("response")?.as_str()?.to_owned()))
            .unwrap_or_default();
        SwitchError::Strange { instance: self.instance.clone(), what: format!("an unexpected {what:?}") }
    }

    fn failed(&self, error: WireError, waited: Duration) -> SwitchError {
        let instance = self.instance.clone();
        match error {
            WireError::Io(e) if is_timeout(&e) => SwitchError::Silent { instance, waited },
            WireError::Closed | WireError::Io(_) => SwitchError::Gone { instance },
            other => SwitchError::Strange { instance, what: other.to_string() },
        }
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
        || error.raw_os_error() == Some(libc::EINPROGRESS)
}
