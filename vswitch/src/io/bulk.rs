//! Many frames to a system call: the way out of a busy worker.
//!
//! An AF_XDP socket that copies hands each frame to its interface alone: a socket buffer is built, the veth told, a soft
//! interrupt run to its end, then the next. *Measured*, Linux 6.18, 64 bytes, the receiving pod's soft interrupt included: 0.88 us
//! a frame, whatever the batch. The kernel has another way in: `BPF_PROG_TEST_RUN` with live frames runs an XDP program once for
//! each of a number of pages of its own, and what the program redirects goes where a NIC's frames would, in bulk, into the
//! veth's NAPI. Our program copies a frame from shared memory into the page. 14 us a call and 0.45 us a frame: dearer below 32
//! frames, half the price from 256 on. So a socket collects what it is to send; what comes to enough goes this way, the rest by its
//! ring. The order of frames stays: both end in the same queue of the veth, and nothing goes this way before what was sent by the
//! ring has come back from the far end's NAPI (`Xsk::send_staged`).
//!
//! Three things about the kernel's side:
//! - **The page pool of a call** lives on for a second when pages of it are still in some socket's queue at its end, and keeps the
//!   first that come back, as many as the kernel's bulk has frames. That is one page in 16 to 32 of those that are not read at
//!   once: 40 to 75 MB for 300,000 frames a second, which one reader takes. Whoever leaves data unread for a
//!   minute makes the kernel log `stalled pool shutdown`; nothing is wrong then but the reader.
//! - **The receiving side must run NAPI**: a veth does if GRO is on at the receiving end. The near end of a trunk has it; what is
//!   beyond a direct port is not ours. Where it is off, the kernel throws the frames away and tells nobody. So the [`Gate`] of each is
//!   watched and closed by somebody else (`machine/bulk.rs`), and what it counts compared with what the interface counted.
//! - **No grace period.** A program that is run gets a place in the XDP dispatcher, and taking it there waits for RCU, 10 ms. One that
//!   is attached somewhere has its place already: it is attached to a veth in a namespace nobody else sees.
//!
//! Owner: one socket of one worker. Linux 5.18; without it sockets do without.
#![allow(unsafe_code)]

use super::live;
use aya::maps::{DevMap, MapData};
use aya::programs::Xdp;
use aya::programs::xdp::XdpMode;
use aya::{Ebpf, EbpfLoader};
use memmap2::{MmapMut, MmapOptions};
use nix::sched::{CloneFlags, unshare};
use penstock_net::netns::Netns;
use penstock_net::route::{Netlink, VethSpec};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/bulk.bpf.o"));

/// `BULK_FRAMES`: of one call.
pub const FRAMES_MAX: usize = 1024;
/// Fewer are sent by the ring. So many there are only when a worker has found a whole batch at once.
pub const FRAMES_MIN: usize = 64;
/// `BULK_BYTES`.
const BYTES: usize = 1024 * 1024;
/// There is room for one more frame, each counted as a multiple of 64.
pub const BYTES_MAX: usize = BYTES - 2048;
/// `BULK_LEN_MAX`: longer frames are sent by the ring.
pub const LEN_MAX: usize = 2040;
/// The kernel wants a header to be there. Most short frames have this length, and need not be made shorter then.
const LEN_MIN: usize = 60;
/// Of the frames of a call, one in so many is the kernel's bulk: so many are sent between two soft interrupts, and so many pages the
/// page pool keeps of those that come back late. A veth's queue holds 256.
const BULKS: usize = 32;
const BULK_MIN: usize = 4;
const BULK_MAX: usize = 32;
/// What comes before the list of frames in the state.
const STATE_HEAD: usize = 8;

/// Whether this way is open, and what went it: between a worker, who looks once per batch, and those who watch the interface.
#[derive(Debug, Default)]
pub struct Gate {
    is_shut: AtomicBool,
    has_failed: AtomicBool,
    sent: AtomicU64,
}

impl Gate {
    pub fn set_open(&self, is_open: bool) {
        self.is_shut.store(!is_open, Ordering::Relaxed);
    }

    #[inline]
    pub fn is_open(&self) -> bool {
        !self.is_shut.load(Ordering::Relaxed)
    }

    /// The kernel refused a call. For good.
    pub fn fail(&self) {
        self.has_failed.store(true, Ordering::Relaxed);
    }

    pub fn has_failed(&self) -> bool {
        self.has_failed.load(Ordering::Relaxed)
    }

    /// Frames handed to the interface since the beginning.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}

/// The program, what it reads, and the place it is attached to.
#[derive(Debug)]
pub struct Bulk {
    bytes: MmapMut,
    state: MmapMut,
    program: OwnedFd,
    filled: usize,
    end: usize,
    longest: usize,
    gate: Arc<Gate>,
    _ebpf: Ebpf,
    _hidden: Netns,
}

impl Bulk {
    /// For what is to leave by the interface of that number in `netns`.
    pub fn open(netns: &Netns, ifindex: u32) -> Result<Bulk, String> {
        let text = |error: &dyn std::error::Error| super::bpf::chain(error);
        let mut ebpf = EbpfLoader::new().load(OBJECT).map_err(|e| text(&e))?;
        let map = |ebpf: &Ebpf, name: &str, len: usize| -> Result<MmapMut, String> {
            let Some(aya::maps::Map::Array(map)) = ebpf.map(name) else { unreachable!("the object has it") };
            // SAFETY: an array of BPF_F_MMAPABLE whose values are `len` bytes together; the program reads it only while this
            // thread is inside `run`.
            unsafe { MmapOptions::new().len(len).map_mut(map.fd().as_fd().as_raw_fd()) }.map_err(|e| text(&e))
        };
        let bytes = map(&ebpf, "BYTES", BYTES)?;
        let state = map(&ebpf, "STATE", STATE_HEAD + FRAMES_MAX * 8)?;
        let out = ebpf.take_map("OUT").expect("the object has it");
        let mut out = DevMap::<MapData>::try_from(out).map_err(|e| text(&e))?;
        // Interfaces' numbers are those of the namespace of who says them.
        let named = netns.run(|| out.set(0, ifindex, None, 0)).map_err(|e| text(&e))?;
        named.map_err(|e| text(&e))?;
        let program: &mut Xdp =
            ebpf.program_mut("bulk").expect("the object has it").try_into().map_err(|e| text(&e))?;
        program.load().map_err(|e| text(&e).lines().next().unwrap_or_default().to_owned())?;
        let hidden = std::thread::scope(|scope| scope.spawn(|| hide(program)).join())
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        let program =
            program.fd().map_err(|e| text(&e))?.as_fd().try_clone_to_owned().map_err(|e| text(&e))?;
        let mut bulk = Bulk {
            bytes,
            state,
            program,
            filled: 0,
            end: 0,
            longest: 0,
            gate: Arc::default(),
            _ebpf: ebpf,
            _hidden: hidden,
        };
        // A kernel that knows no live frames says so here: with nothing filled the program refuses and nothing is sent.
        bulk.call(1, LEN_MIN, 1).map_err(|e| format!("the kernel makes no live frames: {e}"))?;
        Ok(bulk)
    }

    /// Appends a frame of at most [`LEN_MAX`] bytes. There may be [`FRAMES_MAX`], of [`BYTES_MAX`] together before the last.
    #[inline]
    pub fn fill(&mut self, frame: &[u8]) {
        let at = self.end;
        self.bytes[at..][..frame.len()].copy_from_slice(frame);
        let entry = &mut self.state[STATE_HEAD + self.filled * 8..][..8];
        entry[..4].copy_from_slice(&(at as u32).to_ne_bytes());
        entry[4..].copy_from_slice(&(frame.len() as u32).to_ne_bytes());
        self.filled += 1;
        self.end = (at + frame.len()).next_multiple_of(64);
        self.longest = self.longest.max(frame.len());
    }

    /// Sends what was filled. Returns how many were sent, the first ones, and why not the others.
    pub fn run(&mut self) -> (usize, Option<io::Error>) {
        let (filled, longest) = (self.filled, self.longest);
        (self.filled, self.longest, self.end) = (0, 0, 0);
        let bulk = (filled / BULKS).clamp(BULK_MIN, BULK_MAX) as u32;
        self.state[..4].fill(0);
        let (mut done, mut failure) = (0, None);
        while done < filled && failure.is_none() {
            let result = self.call((filled - done) as u32, longest.max(LEN_MIN), bulk);
            let before = std::mem::replace(&mut done, self.next().min(filled));
            failure = match result {
                // A signal ends a call early.
                Err(error) if error.kind() != io::ErrorKind::Interrupted => Some(error),
                _ if done == before => Some(io::Error::other("the kernel sent nothing and said nothing")),
                _ => None,
            };
        }
        self.gate.sent.fetch_add(done as u64, Ordering::Relaxed);
        (done, failure)
    }

    /// Open at first.
    pub fn gate(&self) -> &Arc<Gate> {
        &self.gate
    }

    fn next(&self) -> usize {
        u32::from_ne_bytes([self.state[0], self.state[1], self.state[2], self.state[3]]) as usize
    }

    fn call(&mut self, frames: u32, len: usize, bulk: u32) -> io::Result<()> {
        live::run(self.program.as_fd(), &self.bytes[..len], frames, bulk)
    }
}

/// Attaches the program where no frame ever comes.
fn hide(program: &mut Xdp) -> Result<Netns, String> {
    let text = |error: &dyn std::error::Error| super::bpf::chain(error);
    unshare(CloneFlags::CLONE_NEWNET).map_err(|e| text(&e))?;
    let netlink = Netlink::open().map_err(|e| text(&e))?;
    netlink.create_veth(&VethSpec::new("bulk0", "bulk1")).map_err(|e| text(&e))?;
    program.attach("bulk0", XdpMode::Driver).map_err(|e| text(&e))?;
    Netns::current().map_err(|e| text(&e))
}
