//! The control socket: who may connect, how many, for how long, and the two requests that become streams.
//!
//! Promise: a client that is slow, silent, malformed or gone costs one thread of a bounded number, and nobody else anything.

use super::failure::Failure;
use super::start::StartError;
use super::switch::Shared;
use super::{answer, lock};
use crate::worker::mailbox::{Capture, Command};
use crossbeam::queue::ArrayQueue;
use nix::sys::socket::{self, MsgFlags, getsockopt, sockopt};
use penstock_api::PortId;
use penstock_api::message::{ErrorCode, PROTOCOL, Request, Response};
use penstock_api::wire::{self, WireError};
use std::collections::HashMap;
use std::io::{self, Read};
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Clients at a time. Above what one node's kubelet starts in parallel: each waiting ADD is one.
const CONNECTIONS_MAX: usize = 256;

/// Once a message has begun, how long until its next byte, and until its last.
const BYTE_TIMEOUT: Duration = Duration::from_secs(5);
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a client may take to read an answer.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);

/// Frames a capture may be behind.
const CAPTURE_FRAMES_MAX: usize = 4096;

/// Ordinary requests need little; the deepest is an artefact being read.
const STACK_BYTES: usize = 1 << 20;

pub(crate) struct Listener {
    socket: Arc<UnixListener>,
    path: PathBuf,
    connections: Arc<Connections>,
}

/// Open connections, so that stopping can close them.
#[derive(Default)]
struct Connections {
    streams: Mutex<HashMap<u64, UnixStream>>,
    next: AtomicU64,
}

impl Listener {
    /// Binds the socket, for the owner alone. A leftover of an earlier process is replaced: the instance's lock says that
    /// nobody serves it.
    pub(crate) fn open(shared: &Shared) -> Result<Self, StartError> {
        let path = shared.paths.control_socket();
        let bind = || -> io::Result<UnixListener> {
            // Under another name until its mode is right: nobody can connect to it before.
            let unready = path.with_extension("new");
            remove_file(&unready)?;
            let socket = UnixListener::bind(&unready)?;
            std::fs::set_permissions(&unready, std::fs::Permissions::from_mode(0o600))?;
            std::fs::rename(&unready, &path)?;
            Ok(socket)
        };
        match bind() {
            Ok(socket) => Ok(Listener { socket: Arc::new(socket), path, connections: Arc::default() }),
            Err(error) => Err(StartError::Socket { socket: path.clone(), error }),
        }
    }

    pub(crate) fn spawn(&self, shared: &Arc<Shared>) -> io::Result<JoinHandle<()>> {
        let (socket, shared, connections) = (self.socket.clone(), shared.clone(), self.connections.clone());
        std::thread::Builder::new()
            .name("control".into())
            .spawn(move || accept(&socket, &shared, &connections))
    }

    /// Ends accepting and every connection.
    pub(crate) fn close(&self) {
        // Gone already: the same to us.
        let _ = std::fs::remove_file(&self.path);
        let _ = socket::shutdown(self.socket.as_raw_fd(), socket::Shutdown::Both);
        for stream in lock(&self.connections.streams).values() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

fn remove_file(path: &std::path::Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn accept(socket: &UnixListener, shared: &Arc<Shared>, connections: &Arc<Connections>) {
    let mut failing = false;
    loop {
        let accepted = socket.accept();
        if shared.stopping.load(Ordering::SeqCst) {
            return;
        }
        match accepted {
            Ok((stream, _)) => {
                failing = false;
                welcome(stream, shared, connections);
            }
            Err(error) => {
                // Out of descriptors, mostly: it passes. Said once.
                if !std::mem::replace(&mut failing, true) {
                    tracing::error!("the control socket accepts nobody: {error}");
                }
                std::thread::sleep(Duration::from_millis(100));
            }
        }
    }
}

/// Decides whether to serve a client, and starts its thread.
fn welcome(mut stream: UnixStream, shared: &Arc<Shared>, connections: &Arc<Connections>) {
    let _ = stream.set_write_timeout(Some(SEND_TIMEOUT));
    let refuse = |stream: &mut UnixStream, failure: Failure| {
        let _ = stream.set_write_timeout(Some(Duration::from_millis(100)));
        let _ = wire::send(stream, &Response::from(failure));
    };
    match getsockopt(&stream, sockopt::PeerCredentials) {
        Ok(peer) if is_trusted(peer.uid(), nix::unistd::getuid().as_raw()) => {}
        Ok(peer) => {
            tracing::warn!(uid = peer.uid(), pid = peer.pid(), "a stranger was refused");
            return refuse(&mut stream, Failure::invalid("only root may control the switch"));
        }
        Err(error) => {
            tracing::warn!("a client was refused, the kernel does not say who it is: {error}");
            return;
        }
    }
    let Ok(handle) = stream.try_clone() else { return };
    let id = connections.next.fetch_add(1, Ordering::Relaxed);
    {
        let mut streams = lock(&connections.streams);
        if streams.len() >= CONNECTIONS_MAX {
            drop(streams);
            return refuse(
                &mut stream,
                Failure::new(
                    ErrorCode::NotReady,
                    format!("{CONNECTIONS_MAX} clients are connected, the most there can be; try again"),
                ),
            );
        }
        streams.insert(id, handle);
    }
    let (shared, theirs) = (shared.clone(), connections.clone());
    let thread = std::thread::Builder::new().name("client".into()).stack_size(STACK_BYTES).spawn(move || {
        let _leave = Leave { connections: theirs, id };
        serve(stream, &shared);
    });
    if let Err(error) = thread {
        tracing::error!("a client was refused, no thread can be started: {error}");
        lock(&connections.streams).remove(&id);
    }
}

/// Root, or whoever runs the switch.
fn is_trusted(uid: u32, own: u32) -> bool {
    uid == 0 || uid == own
}

/// Forgets a connection however its thread ends.
struct Leave {
    connections: Arc<Connections>,
    id: u64,
}

impl Drop for Leave {
    fn drop(&mut self) {
        lock(&self.connections.streams).remove(&self.id);
    }
}

/// Reads one message: waits for its first byte as long as the client likes, and not long for the others.
struct Patient<'a> {
    stream: &'a UnixStream,
    begun: Option<Instant>,
}

impl Read for Patient<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.begun {
            None => self.stream.set_read_timeout(None)?,
            Some(begun) if begun.elapsed() > MESSAGE_TIMEOUT => return Err(io::ErrorKind::TimedOut.into()),
            Some(_) => self.stream.set_read_timeout(Some(BYTE_TIMEOUT))?,
        }
        let read = (&mut &*self.stream).read(buffer)?;
        self.begun.get_or_insert_with(Instant::now);
        Ok(read)
    }
}

fn serve(mut stream: UnixStream, shared: &Shared) {
    loop {
        let request = match wire::receive(&mut Patient { stream: &stream, begun: None }) {
            Ok(request) => request,
            Err(error @ (WireError::Malformed(_) | WireError::TooLong(_))) => {
                // What follows on this connection cannot be trusted to begin where we think.
                let _ = wire::send(&mut stream, &Response::from(Failure::invalid(error)));
                return;
            }
            Err(WireError::Closed | WireError::Io(_)) => return,
        };
        let response = match request {
            Request::Subscribe => return subscribe(stream, shared),
            Request::Capture { port, snap_len } => match capture(&mut stream, shared, port, snap_len) {
                Ok(()) => return,
                Err(failure) => failure.into(),
            },
            request => respond(request, shared),
        };
        if wire::send(&mut stream, &response).is_err() {
            return;
        }
    }
}

fn respond(request: Request, shared: &Shared) -> Response {
    let result = match request {
        Request::Hello { protocol: PROTOCOL } => {
            Ok(Response::Hello { protocol: PROTOCOL, version: env!("CARGO_PKG_VERSION").to_owned() })
        }
        Request::Hello { protocol } => Err(Failure::invalid(format!(
            "this switch speaks protocol {PROTOCOL}, not {protocol}; install matching versions"
        ))),
        Request::Attach { port, wait_ms } => {
            shared.attach(&port, Duration::from_millis(wait_ms)).map(|attached| Response::Attached {
                port: attached.port,
                endpoint: attached.endpoint,
                gateway_mac: penstock_api::message::gateway::MAC,
            })
        }
        Request::Detach { container_id, interface } => {
            shared.detach(&container_id, &interface);
            Ok(Response::Done)
        }
        Request::Check { port } => shared.check(&port).map(|()| Response::Done),
        Request::Install { artefact } => shared
            .install(*artefact)
            .map(|(generation, took)| Response::Installed { generation, took_us: took.as_micros() as u64 }),
        Request::Change { difference } => shared
            .change(*difference)
            .map(|(generation, took)| Response::Installed { generation, took_us: took.as_micros() as u64 }),
        Request::Status => Ok(Response::Status(Box::new(answer::status(shared)))),
        Request::Artefact => {
            let artefact = Box::new(shared.view().snapshot.policy.artefact().clone());
            Ok(Response::Artefact { artefact })
        }
        Request::Ports => Ok(Response::Ports { ports: answer::ports(shared) }),
        Request::Flows { limit } => {
            answer::flows(shared, limit).map(|(flows, total)| Response::Flows { flows, total })
        }
        Request::Drops => Ok(answer::drops(shared)),
        Request::Frames => answer::frames(shared).map(|workers| Response::Frames { workers }),
        Request::Stages { on } => answer::stages(shared, on).map(|workers| Response::Stages { workers }),
        Request::Subscribe | Request::Capture { .. } => Err(Failure::invalid("streams are served elsewhere")),
    };
    result.unwrap_or_else(Response::from)
}

/// Has the client closed, or spoken where it should only listen?
fn has_ended(stream: &UnixStream) -> bool {
    let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
    !matches!(socket::recv(stream.as_raw_fd(), &mut [0], flags), Err(nix::errno::Errno::EAGAIN))
}

fn subscribe(mut stream: UnixStream, shared: &Shared) {
    let Ok(handle) = stream.try_clone() else { return };
    if wire::send(&mut stream, &Response::Subscribed).is_err() {
        return;
    }
    let (id, events) = shared.subscribe(handle);
    loop {
        match events.recv_timeout(Duration::from_millis(100)) {
            Ok(event) => {
                if wire::send(&mut stream, &event).is_err() {
                    break;
                }
            }
            Err(RecvTimeoutError::Timeout) if has_ended(&stream) => break,
            Err(RecvTimeoutError::Timeout) => {}
            // Given up on as too slow.
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    shared.subscribers.remove(id);
}

fn capture(
    stream: &mut UnixStream,
    shared: &Shared,
    port: Option<PortId>,
    snap_len: u16,
) -> Result<(), Failure> {
    if let Some(id) = port
        && shared.view().snapshot.port(id).is_none()
    {
        return Err(Failure::new(
            ErrorCode::NotFound,
            format!("there is no port {id}; see `penstock ports`"),
        ));
    }
    if shared.capturing.swap(true, Ordering::SeqCst) {
        return Err(Failure::conflict("another capture is running; stop that one first"));
    }
    let capture = Arc::new(Capture {
        port,
        snap_len,
        frames: ArrayQueue::new(CAPTURE_FRAMES_MAX),
        missed: AtomicU64::new(0),
    });
    let tell = |capture: Option<&Arc<Capture>>| {
        for mailbox in &shared.workers.mailboxes {
            if mailbox.send(Command::Capture(capture.cloned())).is_err() {
                tracing::error!("a worker does not read its mailbox; its frames are not captured");
            }
        }
    };
    if wire::send(stream, &Response::Capturing).is_ok() {
        tell(Some(&capture));
        shared.set_captured(Some(port));
        'client: while !has_ended(stream) && !shared.stopping.load(Ordering::SeqCst) {
            while let Some(frame) = capture.frames.pop() {
                if wire::send(stream, &frame).is_err() {
                    break 'client;
                }
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        tell(None);
        shared.set_captured(None);
    }
    shared.capturing.store(false, Ordering::SeqCst);
    let missed = capture.missed.load(Ordering::Relaxed);
    if missed > 0 {
        tracing::warn!(missed, "frames were not captured: the client did not read fast enough");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_root_and_the_switchs_own_user_are_trusted() {
        assert!(is_trusted(0, 0) && is_trusted(0, 1000) && is_trusted(1000, 1000));
        assert!(!is_trusted(1000, 0) && !is_trusted(1001, 1000));
    }
}
