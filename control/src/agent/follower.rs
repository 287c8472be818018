//! The thread that follows the switch's endpoints.

use super::Message;
use penstock_api::message::{Event, PROTOCOL, Request, Response};
use penstock_api::wire::{self, WireError};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Between attempts to reach a switch that is not there.
const RETRY: Duration = Duration::from_millis(200);
/// Between log lines that say so.
const REMIND: Duration = Duration::from_secs(30);

/// Ends the thread when dropped, by closing its connection.
pub(super) struct Follower(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    stopped: bool,
    stream: Option<UnixStream>,
}

impl Drop for Follower {
    fn drop(&mut self) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.stopped = true;
        if let Some(stream) = state.stream.take() {
            // Already closed is as good.
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
    }
}

pub(super) fn start(socket: PathBuf, queue: Sender<Message>) -> Follower {
    let state = Arc::new(Mutex::new(State::default()));
    let follower = Follower(state.clone());
    std::thread::spawn(move || run(&socket, &state, &queue));
    follower
}

fn run(socket: &Path, state: &Mutex<State>, queue: &Sender<Message>) {
    let mut said: Option<(String, Instant)> = None;
    loop {
        let mut was_connected = false;
        let result = follow(socket, state, queue, &mut was_connected);
        if was_connected {
            said = None;
            if queue.send(Message::Disconnected).is_err() {
                return;
            }
        }
        if state.lock().unwrap_or_else(PoisonError::into_inner).stopped {
            return;
        }
        if let Err(error) = result {
            let text = error.to_string();
            let is_news = said.as_ref().is_none_or(|(last, at)| *last != text || at.elapsed() > REMIND);
            if is_news {
                tracing::warn!(
                    "no connection to the switch at {}: {text}; trying again until penstock-vswitch answers",
                    socket.display()
                );
                said = Some((text, Instant::now()));
            }
        }
        std::thread::sleep(RETRY);
    }
}

#[derive(Debug, thiserror::Error)]
enum FollowError {
    #[error("{0}")]
    Connect(std::io::Error),
    #[error("{0}")]
    Wire(#[from] WireError),
    #[error("it speaks protocol {theirs}, this program speaks {PROTOCOL}; install matching versions")]
    Protocol { theirs: u32 },
    #[error("it answered {0}")]
    Refused(String),
}

fn follow(
    socket: &Path,
    state: &Mutex<State>,
    queue: &Sender<Message>,
    connected: &mut bool,
) -> Result<(), FollowError> {
    let mut stream = UnixStream::connect(socket).map_err(FollowError::Connect)?;
    {
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.stopped {
            return Ok(());
        }
        state.stream = stream.try_clone().ok();
    }
    wire::send(&mut stream, &Request::Hello { protocol: PROTOCOL })?;
    match wire::receive::<Response>(&mut stream)? {
        Response::Hello { protocol: PROTOCOL, .. } => {}
        Response::Hello { protocol: theirs, .. } => return Err(FollowError::Protocol { theirs }),
        other => return Err(FollowError::Refused(describe(other))),
    }
    wire::send(&mut stream, &Request::Subscribe)?;
    match wire::receive::<Response>(&mut stream)? {
        Response::Subscribed => {}
        other => return Err(FollowError::Refused(describe(other))),
    }
    *connected = true;
    let mut message = Message::Connected;
    while queue.send(message).is_ok() {
        message = Message::Event(wire::receive::<Event>(&mut stream)?);
    }
    Ok(())
}

fn describe(response: Response) -> String {
    match response {
        Response::Error { message, .. } => message,
        _ => "something else than was asked".to_owned(),
    }
}
