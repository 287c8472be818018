//! The generator that costs a pod's CPU least: the kernel makes the frames (`BPF_PROG_TEST_RUN` with live frames, some 4 Mpps a
//! core), and the sending pod's own interface transmits them. What they reach must run NAPI, which a veth's other end does when it
//! has XDP or GRO.
//!
//! One system call lasts as long as the load and ends by a signal: between two calls the kernel waits for a grace period, some
//! 25 ms in which nothing would be offered. The program keeps the rate itself.
#![allow(unsafe_code)]

use super::frame::HEADERS_LEN;
use super::pace::Pace;
use super::{Sent, Source, Stream};
use crate::placement::pin;
use anyhow::{Context, Result, bail, ensure};
use aya::maps::{Array, MapData};
use aya::programs::Xdp;
use aya::{Ebpf, Pod};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use penstock_net::{Netlink, Netns};
use penstock_vswitch::io::live;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::thread::JoinHandleExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/generate.bpf.o"));

/// What the kernel takes is a page less headroom and its own notes.
pub(crate) const LEN_MAX: u16 = 3300;
const SIZES_MAX: usize = 12;
/// Frames between two looks at signals and soft interrupts. Those that are paced wait for the last of their batch.
const BATCH: u32 = 64;
const BATCH_PACED: u32 = 8;
const NUDGE: Signal = Signal::SIGUSR2;

/// `struct size` of generate.bpf.c; big-endian but for `len`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct SizeRow {
    len: u16,
    ip_len: u16,
    ip_check: u16,
    udp_len: u16,
}

/// `struct plan`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Plan {
    frames_max: u64,
    interval: u64,
    burst: u64,
    ifindex: u32,
    flows: u32,
    sizes: u32,
    len_max: u32,
    size: [SizeRow; SIZES_MAX],
    headers: [u8; 48],
}

/// `struct sent`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct SentRow {
    frames: u64,
    bytes: u64,
    first_ns: u64,
    last_ns: u64,
    gap_max_ns: u64,
    gaps_long: u64,
    slipped_ns: u64,
    due: u64,
    place: [u32; 6],
}

// SAFETY: both are made of integers alone, without padding, and any bytes are values of them.
unsafe impl Pod for Plan {}
// SAFETY: as above.
unsafe impl Pod for SentRow {}

pub(crate) struct Live {
    /// Keeps the program.
    _ebpf: Ebpf,
    sent: Array<MapData, SentRow>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl Live {
    pub(crate) fn start(source: &Source<'_>, stream: &Stream) -> Result<Live> {
        let len_max = stream.sizes.len_max();
        ensure!(
            len_max <= LEN_MAX,
            "live frames have at most {LEN_MAX} bytes; --generator xdp sends frames of size {}",
            stream.sizes
        );
        // A call that lasts as long as the load ends by a signal, and one that nobody handles would end us.
        let handler = SigAction::new(SigHandler::Handler(ignore), SaFlags::empty(), SigSet::empty());
        // SAFETY: the handler does nothing.
        unsafe { sigaction(NUDGE, &handler) }?;

        let mut ebpf = Ebpf::load(OBJECT).context("the kernel refused the program of the generator")?;
        let mut plan = Array::<MapData, Plan>::try_from(ebpf.take_map("PLAN").context("no PLAN")?)?;
        let sent = Array::try_from(ebpf.take_map("SENT").context("no SENT")?)?;
        let ifindex = Netlink::open_in(source.netns)?.existing(source.interface)?.index;
        plan.set(0, make_plan(source, stream, ifindex), 0)?;
        let program: &mut Xdp = ebpf.program_mut("generate").context("no generate")?.try_into()?;
        program.load()?;
        let program = program.fd()?.try_clone()?;

        let netns = Netns::open_path(source.netns.path())?;
        let template = source.headers.frame(len_max);
        let (over, cpu) = (Arc::new(AtomicBool::new(false)), stream.cpu);
        let batch = if stream.rate_pps.is_some() { BATCH_PACED } else { BATCH };
        let is_over = over.clone();
        let thread = thread::Builder::new().name("generator".to_owned()).spawn(move || {
            netns.enter_current_thread()?;
            cpu.map_or(Ok(()), pin).map_err(io::Error::other)?;
            while !is_over.load(Ordering::Relaxed) {
                make_frames(program.as_fd(), &template, batch)?;
            }
            Ok(())
        })?;
        Ok(Live { _ebpf: ebpf, sent, over, thread: Some(thread) })
    }

    pub(crate) fn sent(&self) -> Result<Sent> {
        let row = self.sent.get(&0, 0)?;
        Ok(Sent {
            frames: row.frames,
            bytes: row.bytes,
            first_ns: row.first_ns,
            last_ns: row.last_ns,
            gap_max_ns: row.gap_max_ns,
            gaps_long: row.gaps_long,
            slipped_ns: row.slipped_ns,
        })
    }

    /// False when it has ended by itself, which it does only by an error; [`Live::stop`] tells it.
    pub(crate) fn is_running(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    pub(crate) fn stop(mut self) -> Result<Sent> {
        match self.end() {
            Some(Ok(result)) => result.context(
                "the kernel makes no live frames: Linux 5.18 or newer is needed, and CAP_NET_ADMIN with CAP_BPF; \
                 --generator xdp does without",
            )?,
            Some(Err(_)) | None => bail!("the generator's thread ended badly"),
        }
        self.sent()
    }

    fn end(&mut self) -> Option<thread::Result<io::Result<()>>> {
        self.over.store(true, Ordering::Relaxed);
        let thread = self.thread.take()?;
        // It may not have entered the call when the first signal comes.
        while !thread.is_finished() {
            // SAFETY: the thread has not been joined, so its id is its own.
            unsafe { libc::pthread_kill(thread.as_pthread_t(), NUDGE as libc::c_int) };
            thread::sleep(Duration::from_millis(1));
        }
        Some(thread.join())
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.end();
    }
}

extern "C" fn ignore(_: libc::c_int) {}

fn make_plan(source: &Source<'_>, stream: &Stream, ifindex: u32) -> Plan {
    let Pace { interval, burst } = Pace::new(stream.rate_pps);
    let lens = stream.sizes.lens();
    let mut size = [SizeRow::default(); SIZES_MAX];
    for (row, len) in size.iter_mut().zip(&lens) {
        let headers = source.headers.bytes(*len);
        let at = |at: usize| u16::from_ne_bytes([headers[at], headers[at + 1]]);
        *row = SizeRow { len: *len, ip_len: at(16), ip_check: at(24), udp_len: at(38) };
    }
    let mut headers = [0; 48];
    headers[..HEADERS_LEN].copy_from_slice(&source.headers.bytes(lens[0]));
    Plan {
        frames_max: stream.frames_max.unwrap_or(u64::MAX),
        interval,
        burst,
        ifindex,
        flows: stream.flows.max(1),
        sizes: lens.len() as u32,
        len_max: stream.sizes.len_max().into(),
        size,
        headers,
    }
}

/// Runs the program until a signal comes (or four thousand million times).
fn make_frames(program: BorrowedFd<'_>, template: &[u8], batch: u32) -> io::Result<()> {
    // The kernel adds whole batches to a counter of 32 bits: one that wraps would still end by the signal.
    match live::run(program, template, u32::MAX - 4096, batch) {
        // What was sent was counted.
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_as_long_as_the_program_says() {
        assert_eq!(size_of::<Plan>(), 3 * 8 + 4 * 4 + SIZES_MAX * 8 + 48);
        assert_eq!(size_of::<SentRow>(), 8 * 8 + 6 * 4);
    }
}
