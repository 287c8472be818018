//! Links, addresses, routes and neighbours: one netlink socket, one request and one answer at a time.
//!
//! A netlink socket belongs to the namespace it was opened in and stays there, whichever thread uses it later. So
//! [`Netlink::open_in`] gives a handle on another namespace that can be used from anywhere.

mod address;
mod link;
mod neighbour;
mod routes;

pub use address::Address;
pub use link::{Link, NAME_LEN_MAX, VethSpec};
pub use neighbour::Neighbour;
pub use routes::{Route, RouteKind};

use crate::{NetError, Netns};
use netlink_packet_core::{
    ErrorMessage, NLM_F_ACK, NLM_F_ACK_TLVS, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use std::cell::Cell;
use std::fmt;
use std::io;

/// The kernel sends at most 32 KiB per message of a dump (`netlink_recvmsg`); twice that is room to spare.
const RECEIVE_MAX: usize = 64 * 1024;

/// How often a dump that the kernel reports as torn is asked for again.
const DUMP_TRIES_MAX: usize = 20;

/// A NETLINK_ROUTE socket of one namespace.
pub struct Netlink {
    socket: Socket,
    sequence: Cell<u32>,
}

impl fmt::Debug for Netlink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Netlink").field("sequence", &self.sequence.get()).finish_non_exhaustive()
    }
}

/// What a request is about, for its error.
#[derive(Clone, Copy)]
pub(crate) struct About<'a> {
    operation: &'static str,
    object: &'a dyn fmt::Display,
}

impl<'a> About<'a> {
    pub(crate) fn new(operation: &'static str, object: &'a dyn fmt::Display) -> Self {
        About { operation, object }
    }

    fn io(self, error: &io::Error) -> NetError {
        NetError::io(self.operation, self.object.to_string(), error)
    }

    fn refused(self, errno: i32, reason: impl Into<String>) -> NetError {
        NetError::refused(self.operation, self.object.to_string(), errno, reason)
    }
}

impl Netlink {
    /// Opens a socket in the namespace of the calling thread.
    pub fn open() -> Result<Netlink, NetError> {
        let about = About::new("open", &"a netlink socket");
        let open = || -> io::Result<Socket> {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind_auto()?;
            socket.connect(&SocketAddr::new(0, 0))?;
            // The kernel's own words in errors, and not our request echoed back before them. Not all kernels have them.
            let _ = socket.set_ext_ack(true);
            let _ = socket.set_cap_ack(true);
            Ok(socket)
        };
        Ok(Netlink { socket: open().map_err(|e| about.io(&e))?, sequence: Cell::new(0) })
    }

    /// Opens a socket in another namespace. It acts there whichever thread uses it.
    pub fn open_in(netns: &Netns) -> Result<Netlink, NetError> {
        netns.run(Netlink::open).map_err(|e| {
            NetError::io("enter the network namespace", netns.path().display().to_string(), &e)
        })?
    }

    /// Sends a request that changes something; `Ok` once the kernel has done it.
    pub(crate) fn change(
        &self,
        about: About<'_>,
        request: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<(), NetError> {
        self.ask(about, request, NLM_F_REQUEST | NLM_F_ACK | flags).map(drop)
    }

    /// Asks for one object.
    pub(crate) fn get(
        &self,
        about: About<'_>,
        request: RouteNetlinkMessage,
    ) -> Result<Vec<RouteNetlinkMessage>, NetError> {
        self.ask(about, request, NLM_F_REQUEST | NLM_F_ACK).map(|(answers, _)| answers)
    }

    /// Asks for all objects of a kind. A list that changed while it was read is read again.
    pub(crate) fn dump(
        &self,
        about: About<'_>,
        request: RouteNetlinkMessage,
    ) -> Result<Vec<RouteNetlinkMessage>, NetError> {
        for _ in 0..DUMP_TRIES_MAX {
            let (answers, torn) = self.ask(about, request.clone(), NLM_F_REQUEST | NLM_F_DUMP)?;
            if !torn {
                return Ok(answers);
            }
        }
        Err(about.refused(libc::EAGAIN, "the list kept changing while it was read"))
    }

    /// One request and all that comes back for it; true when the kernel says that a dump was torn.
    fn ask(
        &self,
        about: About<'_>,
        request: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<(Vec<RouteNetlinkMessage>, bool), NetError> {
        let sequence = self.sequence.get().wrapping_add(1);
        self.sequence.set(sequence);
        let mut message = NetlinkMessage::from(request);
        message.header.flags = flags;
        message.header.sequence_number = sequence;
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        retry(|| self.socket.send(&bytes, 0)).map_err(|e| about.io(&e))?;

        let mut answers = Vec::new();
        let mut torn = false;
        let mut buffer = Vec::with_capacity(RECEIVE_MAX);
        loop {
            buffer.clear();
            let len = retry(|| self.socket.recv(&mut buffer, libc::MSG_TRUNC)).map_err(|e| about.io(&e))?;
            if len > buffer.len() {
                return Err(about.refused(
                    libc::EMSGSIZE,
                    format!("the kernel's answer of {len} bytes exceeds the buffer of {RECEIVE_MAX}"),
                ));
            }
            let mut rest = buffer.as_slice();
            while !rest.is_empty() {
                let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest).map_err(|e| {
                    about.refused(libc::EBADMSG, format!("the kernel's answer is unreadable: {e}"))
                })?;
                // Messages are padded to four bytes, the last one perhaps not.
                let step = (answer.header.length as usize).next_multiple_of(4).max(16);
                rest = rest.get(step..).unwrap_or_default();
                if answer.header.sequence_number != sequence {
                    // An answer to an earlier request that failed half-way.
                    continue;
                }
                torn |= answer.header.flags & NLM_F_DUMP_INTR != 0;
                match answer.payload {
                    NetlinkPayload::Error(error) => {
                        return match error.raw_code() {
                            0 => Ok((answers, torn)),
                            code => Err(NetError::kernel(
                                about.operation,
                                about.object.to_string(),
                                code.saturating_abs(),
                                explanation(&error, answer.header.flags),
                            )),
                        };
                    }
                    NetlinkPayload::Done(done) if done.code < 0 => {
                        return Err(about.io(&io::Error::from_raw_os_error(done.code.saturating_abs())));
                    }
                    NetlinkPayload::Done(_) => return Ok((answers, torn)),
                    NetlinkPayload::InnerMessage(answer) => answers.push(answer),
                    _ => {}
                }
            }
        }
    }
}

fn retry<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

/// The kernel's own words about an error (`NLMSGERR_ATTR_MSG`), where it has any.
fn explanation(error: &ErrorMessage, flags: u16) -> Option<String> {
    const MESSAGE_HEADER_LEN: usize = 16;
    const NLMSGERR_ATTR_MSG: u16 = 1;
    if flags & NLM_F_ACK_TLVS == 0 {
        return None;
    }
    let mut rest = error.header.get(MESSAGE_HEADER_LEN..)?;
    loop {
        let (head, _) = rest.split_at_checked(4)?;
        let len = usize::from(u16::from_ne_bytes([head[0], head[1]]));
        let kind = u16::from_ne_bytes([head[2], head[3]]);
        let value = rest.get(4..len)?;
        if kind == NLMSGERR_ATTR_MSG {
            let text = value.split(|&byte| byte == 0).next().unwrap_or_default();
            return Some(String::from_utf8_lossy(text).into_owned());
        }
        rest = rest.get(len.next_multiple_of(4)..)?;
    }
}
