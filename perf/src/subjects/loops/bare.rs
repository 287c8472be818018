//! Frames from one interface to another and back, over AF_XDP with `xsk-rs`: no parsing, no look-up, no copy. Runs until it is
//! killed, in the namespace and with the interfaces it was started with.
#![allow(unsafe_code)]

use anyhow::{Context, Result};
use aya::Ebpf;
use aya::maps::XskMap;
use aya::programs::Xdp;
use aya::programs::xdp::XdpMode;
use nix::net::if_::if_nametoindex;
use std::ffi::CString;
use std::num::NonZeroU32;
use std::os::fd::AsRawFd;
use xsk_rs::config::{BindFlags, FrameSize, Interface, LibxdpFlags, QueueSize, SocketConfig, UmemConfig};
use xsk_rs::umem::frame::FrameDesc;
use xsk_rs::{CompQueue, FillQueue, RxQueue, Socket, TxQueue, Umem};

pub(crate) const BATCH: usize = 64;
const RING_LEN: u32 = 4096;
const CHUNK_LEN: u32 = 2048;
/// Both fill rings, and as many on their way.
const CHUNKS: u32 = 4 * RING_LEN;
const SOL_XDP: libc::c_int = 283;
const XDP_MAX_TX_SKB_BUDGET: libc::c_int = 9;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    interfaces: Vec<String>,
}

struct Port {
    rx: RxQueue,
    tx: TxQueue,
    fill: FillQueue,
    completion: CompQueue,
    /// Chunks the fill ring could take.
    wanted: usize,
    /// Received on the other port, and not yet in this one's ring.
    pending: Vec<FrameDesc>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<bool> {
    let [one, two] = arguments.interfaces.as_slice() else { anyhow::bail!("two interfaces are needed") };
    let size = QueueSize::new(RING_LEN)?;
    let layout = UmemConfig::builder()
        .frame_size(FrameSize::new(CHUNK_LEN)?)
        .fill_queue_size(size)
        .comp_queue_size(size)
        .build()?;
    let chunks = NonZeroU32::new(CHUNKS).context("no chunks")?;
    let (umem, mut free) = Umem::new(layout, chunks, false).context("packet memory")?;
    let mut ebpf = Ebpf::load(super::super::redirect::OBJECT).context("the kernel refused the program")?;
    let mut sockets = XskMap::try_from(ebpf.take_map("SOCKETS").context("no SOCKETS")?)?;
    let program: &mut Xdp = ebpf.program_mut("to_socket").context("no to_socket")?.try_into()?;
    program.load()?;
    let mut ports = [open(one, &umem)?, open(two, &umem)?];
    for (port, interface) in ports.iter().zip([one, two]) {
        sockets.set(if_nametoindex(interface.as_str())?, port.rx.fd().as_raw_fd(), 0)?;
        program.attach(interface, XdpMode::Driver).with_context(|| format!("native XDP on {interface}"))?;
    }
    println!("{}", super::READY);
    loop {
        let [one, two] = &mut ports;
        forward(one, two, &mut free);
        forward(two, one, &mut free);
    }
}

fn open(interface: &str, umem: &Umem) -> Result<Port> {
    let size = QueueSize::new(RING_LEN)?;
    let config = SocketConfig::builder()
        .rx_queue_size(size)
        .tx_queue_size(size)
        .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
        .bind_flags(BindFlags::XDP_USE_NEED_WAKEUP | BindFlags::XDP_COPY)
        .build();
    let name = Interface::new(CString::new(interface)?);
    // SAFETY: the only socket on this queue, and its rings go to one owner.
    let (tx, rx, rings) = unsafe { Socket::new(config, umem, &name, 0) }
        .with_context(|| format!("an AF_XDP socket on {interface}"))?;
    let (fill, completion) = rings.context("the queue is in use")?;
    // One kick is to send a whole batch; kernels before 6.17 send 32 and do not know the option.
    let budget = RING_LEN;
    // SAFETY: a valid descriptor, and a pointer to an integer of the length given.
    unsafe {
        libc::setsockopt(
            tx.fd().as_raw_fd(),
            SOL_XDP,
            XDP_MAX_TX_SKB_BUDGET,
            std::ptr::from_ref(&budget).cast(),
            size_of::<u32>() as u32,
        );
    }
    Ok(Port { rx, tx, fill, completion, wanted: RING_LEN as usize, pending: Vec::with_capacity(BATCH) })
}

/// One batch from `from` to `to`.
fn forward(from: &mut Port, to: &mut Port, free: &mut Vec<FrameDesc>) {
    let mut batch = [FrameDesc::default(); BATCH];
    // SAFETY of all ring operations: every chunk is of the one area, and is in `free`, in one ring or in `pending`, never in two.
    let completed = unsafe { to.completion.consume(&mut batch) };
    free.extend_from_slice(&batch[..completed]);
    if from.wanted >= BATCH && free.len() >= BATCH {
        let at = free.len() - BATCH;
        // SAFETY: see above.
        let filled = unsafe { from.fill.produce(&free[at..]) };
        from.wanted -= filled;
        if filled > 0 {
            free.truncate(at);
        }
    }
    if to.pending.is_empty() {
        // SAFETY: see above.
        let received = unsafe { from.rx.consume(&mut batch) };
        from.wanted += received;
        to.pending.extend_from_slice(&batch[..received]);
        if received == 0 && from.fill.needs_wakeup() {
            let _ = from.rx.poll(0);
        }
    }
    if !to.pending.is_empty() {
        // SAFETY: see above. All are taken or none.
        let queued = unsafe { to.tx.produce(&to.pending) };
        to.pending.drain(..queued);
    }
    if to.tx.nb_free(RING_LEN) < RING_LEN && to.tx.needs_wakeup() {
        let _ = to.tx.wakeup();
    }
}
