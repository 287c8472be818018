//! Memory registered with the kernel, and how sockets are opened on it.
//!
//! Done at start and when the watchdog has a socket bound anew; what a worker does with an open one is in [`super`].
#![allow(unsafe_code)]

use super::{SOL_XDP, XDP_MAX_TX_SKB_BUDGET};
use crate::io::memory::Memory;
use penstock_api::message::AreaKind;
use penstock_net::netns::Netns;
use std::ffi::CString;
use std::io;
use std::num::NonZeroU32;
use std::os::fd::{AsRawFd, RawFd};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use xsk_rs::config::{BindFlags, FrameSize, Interface, LibxdpFlags, QueueSize, SocketConfig, UmemConfig};
use xsk_rs::umem::frame::FrameDesc;
use xsk_rs::{CompQueue, FillQueue, RxQueue, Socket, TxQueue, Umem};

/// How long a busy queue is waited for: 100 times 2 ms.
const BUSY_RETRIES: usize = 100;
const BUSY_PAUSE: Duration = Duration::from_millis(2);
/// Of an area whose sockets do not copy. Of 2048 bytes less the headroom igb and ixgbe tell their NIC 1024, which counts in whole
/// KiB, and a frame of 1500 bytes arrives as two that are none (*seen*).
pub const ZERO_COPY_CHUNK: u32 = 4096;

#[derive(Debug, Clone)]
pub struct XskConfig {
    pub interface: String,
    pub queue: u32,
    /// Where the interface is; the caller's namespace when absent.
    pub netns: Option<Arc<Netns>>,
    /// How it is bound, and which of the worker's areas it uses.
    pub area: AreaKind,
    /// XDP_USE_SG: frames longer than a chunk. Wants Linux 6.6.
    pub multi_buffer: bool,
    /// Entries of each ring, a power of two.
    pub ring_len: u32,
    /// Frames given to the kernel to fill, at most; the ring may hold fewer.
    pub receiving_max: usize,
}

#[derive(Debug, thiserror::Error)]
pub enum XskError {
    #[error(
        "cannot reserve {bytes} bytes of packet memory: {error}; is CAP_IPC_LOCK or a higher memlock limit there?"
    )]
    Umem { bytes: u64, error: String },
    #[error("cannot bind an AF_XDP socket to {interface} queue {queue} ({mode}): {error}")]
    Bind { interface: String, queue: u32, mode: AreaKind, error: String },
}

impl XskError {
    /// What the kernel said, without what was tried.
    pub fn reason(&self) -> &str {
        let (XskError::Umem { error, .. } | XskError::Bind { error, .. }) = self;
        error
    }
}

/// A registered memory area: what a [`Memory`] is made over, and what sockets are made from.
///
/// libxdp makes the first socket of an area out of the descriptor the area was registered on, and keeps that descriptor open
/// when the socket is closed: it can never be bound again. So the first socket of an area that copies is one that carries
/// nothing, the anchor, and every other one shares the area with it and can be closed and opened as often as the watchdog
/// likes. A NIC has no queue to spare for an anchor: an area that does not copy is registered anew when its sockets are bound
/// anew ([`super::Xsk::reopen`]). That is also what is safe, since the driver may write for a moment to what it was given before.
#[derive(Debug)]
pub struct Area {
    pub(super) umem: Umem,
    pub(super) descs: Arc<[FrameDesc]>,
    anchor: Option<Arc<Mutex<Rings>>>,
}

impl Area {
    /// The same memory for another socket of the same worker.
    pub fn share(&self) -> Area {
        Area { umem: self.umem.clone(), descs: Arc::clone(&self.descs), anchor: self.anchor.clone() }
    }

    /// Registers `chunks` of `chunk_size` (2048 or 4096) bytes with the kernel, for sockets that copy. `anchor` says where the
    /// socket that carries nothing is bound: a queue on which no program sends anything to a socket. Every socket made from the
    /// area has the anchor's `multi_buffer`, the kernel sees to that, and the length of its rings.
    pub fn register(chunks: u32, chunk_size: u32, anchor: &XskConfig) -> Result<(Area, Memory), XskError> {
        let (mut area, base) = Area::map(chunks, chunk_size, anchor)?;
        // SAFETY: see `map`.
        let memory = unsafe { Memory::over(base, chunks, chunk_size, Box::new(area.umem.clone())) };
        area.anchor = Some(Arc::new(Mutex::new(open_retrying(anchor, &area.umem)?)));
        Ok((area, memory))
    }

    /// Memory of `chunks` frames registered with the kernel and used by no socket yet, and where it begins. It is
    /// `chunks * chunk_size` bytes long, mapped as long as there is a clone of its `Umem`, and nobody else's.
    pub(super) fn map(
        chunks: u32,
        chunk_size: u32,
        config: &XskConfig,
    ) -> Result<(Area, NonNull<u8>), XskError> {
        let bytes = u64::from(chunks) * u64::from(chunk_size);
        let failed = |error: String| XskError::Umem { bytes, error };
        let count = NonZeroU32::new(chunks).ok_or_else(|| failed("no frames were asked for".into()))?;
        let size = QueueSize::new(config.ring_len).map_err(|e| failed(e.to_string()))?;
        let layout = UmemConfig::builder()
            .frame_size(FrameSize::new(chunk_size).map_err(|e| failed(e.to_string()))?)
            .fill_queue_size(size)
            .comp_queue_size(size)
            .build()
            .map_err(|e| failed(e.to_string()))?;
        let (umem, descs) = in_netns(config.netns.as_deref(), || Umem::new(layout, count, false))
            .map_err(|e| failed(format!("cannot enter its namespace: {e}")))?
            .map_err(|e| failed(with_source(&e)))?;
        let first = descs[0];
        // SAFETY: the first chunk of a fresh area: nobody else has it. An empty slice still points at where data begin.
        let data = unsafe { umem.data(&first) }.contents().as_ptr();
        // xsk-rs maps `chunks * chunk_size` bytes and lays chunk i at i * chunk_size; a descriptor's data begin at its address,
        // which is an offset from the base.
        let base = NonNull::new(data.wrapping_sub(first.addr()).cast_mut())
            .ok_or_else(|| failed("the area has no address".into()))?;
        Ok((Area { umem, descs: descs.into(), anchor: None }, base))
    }
}

#[derive(Debug)]
pub(super) struct Rings {
    pub(super) tx: TxQueue,
    pub(super) rx: RxQueue,
    pub(super) fill: FillQueue,
    pub(super) completion: CompQueue,
}

/// Opens a socket. The kernel lets go of a queue a moment after its last socket was closed, so a busy queue is tried again.
pub(super) fn open_retrying(config: &XskConfig, umem: &Umem) -> Result<Rings, XskError> {
    let mut opened = open(config, umem);
    for _ in 0..BUSY_RETRIES {
        match &opened {
            Err(XskError::Bind { error, .. }) if error.contains("os error 16") => {}
            _ => break,
        }
        std::thread::sleep(BUSY_PAUSE);
        opened = open(config, umem);
    }
    opened
}

fn open(config: &XskConfig, umem: &Umem) -> Result<Rings, XskError> {
    let failed = |error: String| XskError::Bind {
        interface: config.interface.clone(),
        queue: config.queue,
        mode: config.area,
        error,
    };
    let name = CString::new(config.interface.as_str()).map_err(|e| failed(e.to_string()))?;
    let size = QueueSize::new(config.ring_len).map_err(|e| failed(e.to_string()))?;
    let mut flags = BindFlags::XDP_USE_NEED_WAKEUP
        | match config.area {
            AreaKind::ZeroCopy => BindFlags::XDP_ZEROCOPY,
            AreaKind::Copy => BindFlags::XDP_COPY,
        };
    if config.multi_buffer {
        flags |= BindFlags::XDP_USE_SG;
    }
    let socket = SocketConfig::builder()
        .rx_queue_size(size)
        .tx_queue_size(size)
        // Our own program is attached: one that drops when no socket is bound.
        .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
        .bind_flags(flags)
        .build();
    let (interface, queue) = (Interface::new(name), config.queue);
    // SAFETY: this is the only socket on this queue that uses this area, and its rings go to one owner.
    let open = || unsafe { Socket::new(socket, umem, &interface, queue) };
    let opened = in_netns(config.netns.as_deref(), open)
        .map_err(|e| failed(format!("cannot enter its namespace: {e}")))?;
    let (tx, rx, rings) = opened.map_err(|e| failed(with_source(&e)))?;
    let (fill, completion) =
        rings.ok_or_else(|| failed("the queue is in use by another socket of ours".into()))?;
    set_send_budget(tx.fd().as_raw_fd(), config.ring_len);
    Ok(Rings { tx, rx, fill, completion })
}

/// A socket belongs to the namespace of the thread that makes it.
fn in_netns<T: Send>(netns: Option<&Netns>, make: impl FnOnce() -> T + Send) -> io::Result<T> {
    match netns {
        Some(netns) => netns.run(make),
        None => Ok(make()),
    }
}

/// A kick sends 32 frames unless told otherwise; kernels before 6.17 know no better.
fn set_send_budget(fd: RawFd, frames: u32) {
    let frames = frames.max(32);
    // SAFETY: a valid descriptor and a pointer to an integer of the length given.
    unsafe {
        libc::setsockopt(
            fd,
            SOL_XDP,
            XDP_MAX_TX_SKB_BUDGET,
            std::ptr::from_ref(&frames).cast(),
            size_of::<u32>() as u32,
        );
    }
}

fn with_source(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => match source.downcast_ref::<io::Error>() {
            // What the kernel said says it all.
            Some(os) => os.to_string(),
            None => format!("{error}: {source}"),
        },
        None => error.to_string(),
    }
}
