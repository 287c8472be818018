//! Probes: one question to the network, answered with what a user would see.
//!
//! Everything is done with sockets of this process, no external program, and takes at most its timeout.

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::socket::sockopt::ReceiveTimeout;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockProtocol, SockType, SockaddrIn, SockaddrIn6, connect, recv, send,
    setsockopt, socket,
};
use nix::sys::time::{TimeVal, TimeValLike};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, SocketAddrV4, SocketAddrV6, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

/// How long a probe waits when nothing is said, [`scaled`]: many times a round trip, little enough for a table of refusals.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_millis(300);

/// A time within which something comes or does not, as long as this machine needs it: `PENSTOCK_TIME_SCALE` times, a whole number
/// that is 1 unless somebody knows that the machine is slow. One whose CPU is emulated is. Too short a time would not only fail
/// what passes: it would take an answer that is late for one that does not come.
pub fn scaled(time: Duration) -> Duration {
    static SCALE: OnceLock<u32> = OnceLock::new();
    time * *SCALE.get_or_init(|| {
        let Ok(text) = std::env::var("PENSTOCK_TIME_SCALE") else { return 1 };
        match text.parse() {
            Ok(scale) if scale > 0 => scale,
            _ => panic!("PENSTOCK_TIME_SCALE is {text:?}, which is no whole number above 0"),
        }
    })
}

/// What became of a probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The other end answered with what it was sent.
    Reached,
    /// Somebody said no: a reset, or a closed port.
    Refused,
    /// Nobody said anything: what a silent drop looks like.
    TimedOut,
    /// Somebody on the way said that it is impossible, or the answer was wrong; in words.
    Unreachable(String),
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Outcome::Reached => f.write_str("reached"),
            Outcome::Refused => f.write_str("refused"),
            Outcome::TimedOut => f.write_str("timed out"),
            Outcome::Unreachable(why) => write!(f, "unreachable ({why})"),
        }
    }
}

impl From<io::Error> for Outcome {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => {
                Outcome::Refused
            }
            ErrorKind::TimedOut | ErrorKind::WouldBlock => Outcome::TimedOut,
            _ => Outcome::Unreachable(error.to_string()),
        }
    }
}

/// An answer of an HTTP server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpAnswer {
    pub status: u16,
    pub body: String,
}

/// Different for each probe of each process: an answer to an earlier one is not taken for this one's.
fn nonce() -> [u8; 16] {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let time = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |elapsed| elapsed.as_nanos() as u64);
    let mut nonce = [0; 16];
    nonce[..8].copy_from_slice(&time.to_be_bytes());
    nonce[8..].copy_from_slice(&NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes());
    nonce
}

fn as_expected(got: &[u8], sent: &[u8]) -> Outcome {
    match got == sent {
        true => Outcome::Reached,
        false => Outcome::Unreachable(format!("{} bytes came back that are not what was sent", got.len())),
    }
}

pub(crate) fn tcp(to: SocketAddr, timeout: Duration) -> Outcome {
    Connection::open(to, timeout).map_or_else(|outcome| outcome, |mut connection| connection.echo(timeout))
}

/// A TCP connection to an echo server, kept open: does it survive a change of policy?
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
}

impl Connection {
    pub(crate) fn open(to: SocketAddr, timeout: Duration) -> Result<Connection, Outcome> {
        let stream = TcpStream::connect_timeout(&to, timeout)?;
        stream.set_nodelay(true)?;
        Ok(Connection { stream })
    }

    /// Has a nonce echoed. After anything but [`Outcome::Reached`] later answers may be earlier ones: open another.
    pub fn echo(&mut self, timeout: Duration) -> Outcome {
        let sent = nonce();
        let mut attempt = || -> io::Result<Outcome> {
            self.stream.set_read_timeout(Some(timeout))?;
            self.stream.write_all(&sent)?;
            let mut got = [0; 16];
            self.stream.read_exact(&mut got)?;
            Ok(as_expected(&got, &sent))
        };
        attempt().unwrap_or_else(Outcome::from)
    }
}

pub(crate) fn udp(to: SocketAddr, payload_len: usize, timeout: Duration) -> Outcome {
    let attempt = || -> io::Result<Outcome> {
        let any: IpAddr = if to.is_ipv4() { [0u8; 4].into() } else { [0u16; 8].into() };
        let socket = UdpSocket::bind((any, 0))?;
        // Connected, so that ICMP errors come back as errors.
        socket.connect(to)?;
        socket.set_read_timeout(Some(timeout))?;
        let mut sent = vec![0x5a; payload_len];
        let nonce = nonce();
        let nonce_len = nonce.len().min(payload_len);
        sent[..nonce_len].copy_from_slice(&nonce[..nonce_len]);
        socket.send(&sent)?;
        let mut got = vec![0; payload_len + 1];
        let len = socket.recv(&mut got)?;
        Ok(as_expected(&got[..len], &sent))
    };
    attempt().unwrap_or_else(Outcome::from)
}

/// An echo request on a ping socket: the kernel chooses the identifier and gives us the answers to it only.
pub(crate) fn ping(to: IpAddr, payload_len: usize, timeout: Duration) -> Outcome {
    let attempt = || -> nix::Result<Outcome> {
        let (family, protocol, request, reply) = match to {
            IpAddr::V4(_) => (AddressFamily::Inet, SockProtocol::Icmp, 8, 0),
            IpAddr::V6(_) => (AddressFamily::Inet6, SockProtocol::IcmpV6, 128, 129),
        };
        let socket = socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC, protocol)?;
        let fd = socket.as_raw_fd();
        setsockopt(&socket, ReceiveTimeout, &TimeVal::milliseconds(timeout.as_millis() as i64))?;
        match to {
            IpAddr::V4(to) => connect(fd, &SockaddrIn::from(SocketAddrV4::new(to, 0)))?,
            IpAddr::V6(to) => connect(fd, &SockaddrIn6::from(SocketAddrV6::new(to, 0, 0, 0)))?,
        }
        // Type, code, checksum (the kernel's work), identifier (the kernel's), sequence number 1, payload.
        let mut sent = vec![request, 0, 0, 0, 0, 0, 0, 1];
        sent.extend(nonce().iter().cycle().take(payload_len));
        send(fd, &sent, nix::sys::socket::MsgFlags::empty())?;
        let deadline = Instant::now() + timeout;
        let mut got = vec![0; sent.len() + 1];
        while Instant::now() < deadline {
            let len = recv(fd, &mut got, nix::sys::socket::MsgFlags::empty())?;
            if len >= 8 && got[0] == reply {
                return Ok(as_expected(&got[8..len], &sent[8..]));
            }
        }
        Ok(Outcome::TimedOut)
    };
    attempt().unwrap_or_else(|errno: Errno| Outcome::from(io::Error::from(errno)))
}

/// `GET path`, the whole answer within the timeout. An error is an [`Outcome`] in disguise.
pub(crate) fn http_get(to: SocketAddr, path: &str, timeout: Duration) -> Result<HttpAnswer, Outcome> {
    let mut stream = TcpStream::connect_timeout(&to, timeout)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    parse_http(&String::from_utf8_lossy(&answer)).map_err(|error| Outcome::Unreachable(error.to_string()))
}

fn parse_http(answer: &str) -> Result<HttpAnswer> {
    let (head, body) = answer.split_once("\r\n\r\n").context("the answer ends before its headers do")?;
    let status =
        head.strip_prefix("HTTP/1.").and_then(|rest| rest.split(' ').nth(1)?.parse().ok()).with_context(
            || format!("{:?} is no status line of HTTP/1", head.lines().next().unwrap_or_default()),
        )?;
    Ok(HttpAnswer { status, body: body.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_sockets_become_what_a_user_sees() {
        let of = |errno: Errno| Outcome::from(io::Error::from(errno));
        assert_eq!(of(Errno::ECONNREFUSED), Outcome::Refused);
        assert_eq!(of(Errno::EAGAIN), Outcome::TimedOut);
        assert!(
            matches!(of(Errno::EHOSTUNREACH), Outcome::Unreachable(why) if why.contains("No route to host"))
        );
    }

    #[test]
    fn an_http_answer_needs_a_status_and_an_end_of_headers() {
        let answer = parse_http("HTTP/1.1 403 Forbidden\r\nX: y\r\n\r\nAccess denied\r\n").unwrap();
        assert_eq!(answer, HttpAnswer { status: 403, body: "Access denied\r\n".into() });
        for bad in ["", "HTTP/1.1 200 OK\r\n", "SSH-2.0\r\n\r\n"] {
            assert!(parse_http(bad).is_err(), "{bad:?}");
        }
    }
}
