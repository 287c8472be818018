//! The generator that is most like a pod: an AF_XDP socket (xsk-rs) on the pod's own interface, in copy mode. The kernel builds a
//! socket buffer for every frame, as it does for what a program sends, and the other end needs nothing. It sends some 1 Mpps, and
//! frames longer than a page (Linux 6.6).
#![allow(unsafe_code)]

use super::frame;
use super::pace::{Pace, Pacer};
use super::{Sent, Source, Stream};
use crate::placement::pin;
use anyhow::{Context, Result, bail};
use nix::time::{ClockId, clock_gettime};
use penstock_net::Netns;
use std::ffi::CString;
use std::num::NonZeroU32;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use xsk_rs::config::{BindFlags, FrameSize, Interface, LibxdpFlags, QueueSize, SocketConfig, UmemConfig};
use xsk_rs::umem::frame::FrameDesc;
use xsk_rs::{CompQueue, FillQueue, RxQueue, Socket, TxQueue, Umem};

const CHUNK_SIZE: u32 = 4096;
const CHUNKS: u32 = 4096;
const RING_LEN: u32 = 2048;
const BATCH: usize = 64;
const MARK_LEN: usize = 60;
const XDP_PKT_CONTD: u32 = 1;
const BUSY_TIME: Duration = Duration::from_millis(300);

#[derive(Debug)]
pub(crate) struct Xsk {
    sent: Arc<Mutex<Sent>>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Xsk {
    pub(crate) fn start(source: &Source<'_>, stream: &Stream) -> Result<Xsk> {
        let netns = Netns::open_path(source.netns.path())?;
        let (interface, headers, stream) = (source.interface.to_owned(), source.headers, *stream);
        let (sent, over) = (Arc::<Mutex<Sent>>::default(), Arc::new(AtomicBool::new(false)));
        let (sent_there, is_over) = (sent.clone(), over.clone());
        let (opened, is_open) = mpsc::channel();
        let thread = thread::Builder::new().name("generator".to_owned()).spawn(move || {
            netns.enter_current_thread()?;
            stream.cpu.map_or(Ok(()), pin)?;
            let mut socket = match Transmitter::open(&interface, &headers.frame(stream.sizes.len_max())) {
                Ok(socket) => socket,
                Err(error) => {
                    let _ = opened.send(Err(error));
                    return Ok(());
                }
            };
            let _ = opened.send(Ok(()));
            let lens = stream.sizes.lens();
            let by_len: Vec<_> = lens.iter().map(|len| (*len, headers.bytes(*len))).collect();
            socket.send(&by_len, &stream, &sent_there, &is_over)
        })?;
        is_open.recv().context("the generator's thread ended before it began")??;
        Ok(Xsk { sent, over, thread: Some(thread) })
    }

    pub(crate) fn sent(&self) -> Sent {
        *self.sent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn is_running(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    pub(crate) fn stop(mut self) -> Result<Sent> {
        match self.end() {
            Some(Ok(result)) => result?,
            Some(Err(_)) | None => bail!("the generator's thread ended badly"),
        }
        Ok(self.sent())
    }

    fn end(&mut self) -> Option<thread::Result<Result<()>>> {
        self.over.store(true, Ordering::Relaxed);
        Some(self.thread.take()?.join())
    }
}

impl Drop for Xsk {
    fn drop(&mut self) {
        self.end();
    }
}

/// The clock of `bpf_ktime_get_ns`.
fn now_ns() -> Result<u64> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC)?;
    Ok(now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64)
}

/// A socket that only sends. A slot is as many chunks as the longest frame needs, filled once; what differs is written each time.
struct Transmitter {
    tx: TxQueue,
    completion: CompQueue,
    umem: Umem,
    descs: Vec<FrameDesc>,
    chunks_per_slot: usize,
    chunk_len: usize,
    free: Vec<usize>,
    _unused: (RxQueue, FillQueue),
}

impl Transmitter {
    fn open(interface: &str, template: &[u8]) -> Result<Transmitter> {
        let ring_len = QueueSize::new(RING_LEN)?;
        let layout = UmemConfig::builder()
            .frame_size(FrameSize::new(CHUNK_SIZE)?)
            .fill_queue_size(ring_len)
            .comp_queue_size(QueueSize::new(CHUNKS)?)
            .build()?;
        let chunk_len = layout.mtu() as usize;
        let chunks_per_slot = template.len().div_ceil(chunk_len);
        let mut flags = BindFlags::XDP_USE_NEED_WAKEUP | BindFlags::XDP_COPY;
        if chunks_per_slot > 1 {
            flags |= BindFlags::XDP_USE_SG;
        }
        let config = SocketConfig::builder()
            .rx_queue_size(ring_len)
            .tx_queue_size(ring_len)
            .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
            .bind_flags(flags)
            .build();
        let name = Interface::new(CString::new(interface)?);
        let began = Instant::now();
        loop {
            let (umem, descs) = Umem::new(layout, NonZeroU32::new(CHUNKS).context("chunks")?, false)
                .map_err(|error| anyhow::anyhow!("no memory for AF_XDP: {}", said(&error)))?;
            // SAFETY: the only socket of a fresh area; its rings have one owner, the caller.
            match unsafe { Socket::new(config, &umem, &name, 0) } {
                Ok((tx, rx, rings)) => {
                    let (fill, completion) = rings.context("the area is in use by another socket")?;
                    set_send_budget(tx.fd().as_raw_fd());
                    let slots = descs.len() / chunks_per_slot;
                    let free = (0..slots).rev().collect();
                    let _unused = (rx, fill);
                    let mut made = Transmitter {
                        tx,
                        completion,
                        umem,
                        descs,
                        chunks_per_slot,
                        chunk_len,
                        free,
                        _unused,
                    };
                    (0..slots).for_each(|slot| made.fill(slot, template));
                    return Ok(made);
                }
                // The one before goes a moment after its descriptor was closed.
                Err(error) if said(&error).contains("os error 16") && began.elapsed() < BUSY_TIME => {
                    thread::sleep(Duration::from_millis(5));
                }
                Err(error) => {
                    let wants =
                        if chunks_per_slot > 1 { "; frames of several pages want Linux 6.6" } else { "" };
                    bail!("no AF_XDP socket on queue 0 of {interface}: {}{wants}", said(&error))
                }
            }
        }
    }

    fn fill(&mut self, slot: usize, template: &[u8]) {
        for (n, part) in template.chunks(self.chunk_len).enumerate() {
            let desc = &mut self.descs[slot * self.chunks_per_slot + n];
            // SAFETY: before anything was sent every chunk is ours.
            let mut data = unsafe { self.umem.data_mut(desc) };
            data.cursor().set_pos(part.len());
            data.contents_mut().copy_from_slice(part);
        }
    }

    fn send(
        &mut self,
        by_len: &[(u16, [u8; frame::HEADERS_LEN])],
        stream: &Stream,
        published: &Mutex<Sent>,
        over: &AtomicBool,
    ) -> Result<()> {
        let flows = stream.flows.max(1);
        let frames_max = stream.frames_max.unwrap_or(u64::MAX);
        // Frames of a paced stream leave one by one; a batch would make the first of them wait.
        let batch = if stream.rate_pps.is_some() { 8 } else { BATCH };
        let (mut flow, mut sequence, mut nth) = (0, 0, 0);
        let mut sent = Sent::default();
        let mut pacer = Pacer::new(Pace::new(stream.rate_pps), now_ns()?);
        let mut queue = Vec::with_capacity(BATCH * self.chunks_per_slot);
        let mut rounds = 0u32;
        while !over.load(Ordering::Relaxed) {
            queue.clear();
            for _ in 0..batch {
                let now = now_ns()?;
                let is_allowed = sent.frames < frames_max && !self.free.is_empty();
                if !is_allowed || !pacer.is_due(now) {
                    break;
                }
                let Some(slot) = self.free.pop() else { break };
                let (len, headers) = &by_len[nth];
                self.write(slot, *len, headers, (flow, sequence, now), &mut queue);
                sent.add(*len, now);
                nth = (nth + 1) % by_len.len();
                flow += 1;
                if flow >= flows {
                    (flow, sequence) = (0, sequence + 1);
                }
            }
            sent.slipped_ns = pacer.slipped_ns;
            let mut rest = queue.as_slice();
            while !rest.is_empty() && !over.load(Ordering::Relaxed) {
                // SAFETY: the descriptors are of this area, and their chunks are not touched until they are completed.
                rest = &rest[unsafe { self.tx.produce(rest) }..];
                self.kick()?;
                self.complete();
            }
            if queue.is_empty() {
                self.kick()?;
                self.complete();
                std::hint::spin_loop();
            }
            rounds = rounds.wrapping_add(1);
            if rounds.is_multiple_of(64) || sent.frames >= frames_max {
                *published.lock().unwrap_or_else(PoisonError::into_inner) = sent;
            }
        }
        // What is queued was counted: it is sent.
        let began = Instant::now();
        while self.tx.nb_free_exact() < RING_LEN && began.elapsed() < BUSY_TIME {
            self.kick()?;
            self.complete();
        }
        *published.lock().unwrap_or_else(PoisonError::into_inner) = sent;
        Ok(())
    }

    fn write(
        &mut self,
        slot: usize,
        len: u16,
        headers: &[u8; frame::HEADERS_LEN],
        (flow, sequence, now): (u32, u32, u64),
        queue: &mut Vec<FrameDesc>,
    ) {
        let mut rest = usize::from(len);
        for desc in &mut self.descs[slot * self.chunks_per_slot..][..self.chunks_per_slot] {
            let part = rest.min(self.chunk_len);
            // SAFETY: the slot was free: none of its chunks is the kernel's.
            let mut data = unsafe { self.umem.data_mut(desc) };
            data.cursor().set_pos(part);
            if rest == usize::from(len) {
                let contents = data.contents_mut();
                contents[..frame::HEADERS_LEN].copy_from_slice(headers);
                frame::mark(&mut contents[..MARK_LEN], len, flow, sequence, now);
            }
            rest -= part;
            desc.set_options(if rest > 0 { XDP_PKT_CONTD } else { 0 });
            queue.push(*desc);
            if rest == 0 {
                break;
            }
        }
    }

    fn kick(&mut self) -> Result<()> {
        if self.tx.nb_free_exact() < RING_LEN {
            self.tx.wakeup().context("the kernel does not send: is the interface up?")?;
        }
        Ok(())
    }

    fn complete(&mut self) {
        let mut done = [FrameDesc::default(); BATCH];
        // SAFETY: completed descriptors are of this area; their chunks are ours again.
        let count = unsafe { self.completion.consume(&mut done) };
        for desc in &done[..count] {
            // All chunks of a frame are completed together; the first stands for them.
            let chunk = desc.addr() / CHUNK_SIZE as usize;
            if chunk.is_multiple_of(self.chunks_per_slot) {
                self.free.push(chunk / self.chunks_per_slot);
            }
        }
    }
}

/// A kick sends 32 frames unless told otherwise; kernels before 6.17 know no better.
fn set_send_budget(fd: i32) {
    const SOL_XDP: libc::c_int = 283;
    const XDP_MAX_TX_SKB_BUDGET: libc::c_int = 9;
    let frames = RING_LEN;
    // SAFETY: a valid descriptor and a pointer to an integer of the length given.
    unsafe {
        let at = std::ptr::from_ref(&frames).cast();
        libc::setsockopt(fd, SOL_XDP, XDP_MAX_TX_SKB_BUDGET, at, size_of::<u32>() as u32);
    }
}

/// What the kernel said, which the crate keeps as a source.
fn said(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), ToString::to_string)
}
