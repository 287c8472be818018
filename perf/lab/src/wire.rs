//! Whole frames on an interface: what no ordinary socket would send, and what really arrived.
//!
//! A pod with `CAP_NET_RAW` can put anything on its wire; whether it leaves is the switch's decision. And a probe that got
//! no answer does not say whether the question arrived: a [`Watch`] at the receiver does.
//!
//! Unsafe: nix cannot make the address of a packet socket from an interface's index, so four calls go to libc.
#![allow(unsafe_code)]

use anyhow::{Context, Result};
use penstock_net::{Netlink, Netns};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// `include/uapi/linux/if_packet.h`; libc has no name for it.
const PACKET_IGNORE_OUTGOING: libc::c_int = 23;
const FRAME_LEN_MAX: usize = 65_600;
const TICK_MS: i64 = 20;

/// A packet socket on one interface. It sends what it is given and receives what others sent.
#[derive(Debug)]
pub struct Wire {
    socket: OwnedFd,
}

impl Wire {
    pub fn open(netns: &Netns, interface: &str) -> Result<Wire> {
        let what = || format!("no packet socket on {interface} of {}", netns.path().display());
        let index = Netlink::open_in(netns)?.existing(interface).with_context(what)?.index;
        let socket = netns.run(|| open(index)).and_then(|result| result).with_context(what)?;
        Ok(Wire { socket })
    }

    /// Puts one frame on the wire, beginning with its Ethernet header.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        // SAFETY: the pointer and the length are those of one borrowed slice, which the kernel only reads.
        let sent = unsafe { libc::send(self.socket.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// The next frame that arrived, `None` when none does within the timeout.
    pub fn receive(&self, timeout: Duration) -> Option<Vec<u8>> {
        let deadline = Instant::now() + timeout;
        let mut frame = vec![0; FRAME_LEN_MAX];
        loop {
            if let Some(len) = self.receive_into(&mut frame) {
                frame.truncate(len);
                return Some(frame);
            }
            if Instant::now() >= deadline {
                return None;
            }
        }
    }

    /// The next frame that arrived and is `wanted`.
    pub fn receive_where(&self, timeout: Duration, wanted: impl Fn(&[u8]) -> bool) -> Option<Vec<u8>> {
        let deadline = Instant::now() + timeout;
        loop {
            let frame = self.receive(deadline.saturating_duration_since(Instant::now()))?;
            if wanted(&frame) {
                return Some(frame);
            }
        }
    }

    /// Waits for at most a tick.
    fn receive_into(&self, frame: &mut [u8]) -> Option<usize> {
        // SAFETY: as in `send`; the kernel writes at most the length it is told.
        let got = unsafe { libc::recv(self.socket.as_raw_fd(), frame.as_mut_ptr().cast(), frame.len(), 0) };
        usize::try_from(got).ok().filter(|got| *got > 0)
    }
}

/// A socket of the calling thread's namespace, bound to an interface of it.
fn open(index: u32) -> io::Result<OwnedFd> {
    let checked = |result: libc::c_int| {
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
    };
    let all = (libc::ETH_P_ALL as u16).to_be();
    // Protocol 0: nothing is received before the socket is bound to its interface.
    // SAFETY: no pointers.
    let fd = checked(unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) })?;
    // SAFETY: `fd` was just made and is nobody else's.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let option = |level, name, value: *const libc::c_void, len: usize| {
        // SAFETY: the callers below pass a living value and its size.
        checked(unsafe { libc::setsockopt(fd, level, name, value, len as libc::socklen_t) })
    };
    let one: libc::c_int = 1;
    let room: libc::c_int = 8 << 20;
    let tick = libc::timeval { tv_sec: 0, tv_usec: TICK_MS * 1000 };
    option(libc::SOL_PACKET, PACKET_IGNORE_OUTGOING, (&raw const one).cast(), size_of_val(&one))?;
    option(libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, (&raw const room).cast(), size_of_val(&room))?;
    option(libc::SOL_SOCKET, libc::SO_RCVTIMEO, (&raw const tick).cast(), size_of_val(&tick))?;
    // SAFETY: all fields of the struct are numbers, for which zero is a value.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = all;
    address.sll_ifindex = index as libc::c_int;
    // SAFETY: a living struct of the family it names, with its size.
    checked(unsafe {
        libc::bind(fd, (&raw const address).cast(), size_of_val(&address) as libc::socklen_t)
    })?;
    Ok(socket)
}

/// Counts frames until it is dropped.
#[derive(Debug)]
pub struct Watch {
    count: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    pub fn start(wire: Wire, wanted: impl Fn(&[u8]) -> bool + Send + 'static) -> Result<Watch> {
        let (count, over) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let (counter, end) = (count.clone(), over.clone());
        let thread = thread::Builder::new().name("watch".to_owned()).spawn(move || {
            let mut frame = vec![0; FRAME_LEN_MAX];
            while !end.load(Ordering::Relaxed) {
                if let Some(len) = wire.receive_into(&mut frame)
                    && wanted(&frame[..len])
                {
                    counter.fetch_add(1, Ordering::Relaxed);
                }
            }
        })?;
        Ok(Watch { count, over, thread: Some(thread) })
    }

    /// Wanted frames so far.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A closure that panicked has said so.
            let _ = thread.join();
        }
    }
}
