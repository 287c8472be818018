//! One AF_XDP socket: the four rings, and as few syscalls as the kernel allows.
//!
//! Receive enters the kernel only when the fill ring asks for it; transmit is kicked once per batch, and again only while frames
//! are left that nobody else would send. Owner: one worker, which also owns the memory the rings speak of.
#![allow(unsafe_code)]

mod area;

use super::bulk::{self, Bulk};
use super::memory::{FrameId, Memory, Place};
pub use area::{Area, XskConfig, XskError, ZERO_COPY_CHUNK};
use area::{Rings, open_retrying};
use penstock_api::message::AreaKind;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;
use xsk_rs::umem::frame::FrameDesc;

/// Frames handled by one call.
pub const BATCH: usize = 64;
/// Where copying, a kernel before 6.17 takes 32 frames with a call, and a batch is more: what it left would stand in the ring until
/// that is full. So it is called again, as often as some batches need at most: to receive must not wait for all that stands there.
const KICKS_MAX: usize = 8;
const XDP_PKT_CONTD: u32 = 1;
pub(super) const SOL_XDP: libc::c_int = 283;
pub(super) const XDP_MAX_TX_SKB_BUDGET: libc::c_int = 9;

/// An open socket on one queue of one interface.
#[derive(Debug)]
pub struct Xsk {
    config: XskConfig,
    /// Always there when `rings` are.
    area: Option<Area>,
    rings: Option<Rings>,
    /// Chunks submitted to the transmit ring and not yet completed.
    outstanding: usize,
    /// Chunks completed since the beginning.
    completed: u64,
    /// Chunks in the fill ring, the driver or the receive ring.
    receiving: usize,
    /// Syscalls made.
    pub syscalls: u64,
    scratch: Vec<FrameDesc>,
    bulk: Option<Bulk>,
    /// Frames are set aside for `bulk`, whose gate was open at the end of the last batch.
    is_staging: bool,
    /// What they take of the room for a call.
    staged_bytes: usize,
    /// Frames on their way that the kernel was not told of yet: at most [`bulk::FRAMES_MAX`], each in one chunk.
    staged: Vec<FrameId>,
}

impl Xsk {
    /// Binds.
    pub fn bind(config: XskConfig, area: Area) -> Result<Xsk, XskError> {
        let rings = open_retrying(&config, &area.umem)?;
        Ok(Xsk::open(config, area, rings))
    }

    /// Binds the first socket that does not copy, and gives `memory` an area of `chunks` of [`ZERO_COPY_CHUNK`] bytes for it and
    /// those that follow. When the driver refuses, nothing has changed.
    pub fn bind_first(config: XskConfig, chunks: u32, memory: &mut Memory) -> Result<(Xsk, Area), XskError> {
        debug_assert_eq!(config.area, AreaKind::ZeroCopy);
        let (area, base) = Area::map(chunks, ZERO_COPY_CHUNK, &config)?;
        let rings = open_retrying(&config, &area.umem)?;
        // SAFETY: see `map`.
        unsafe { memory.add(base, chunks, ZERO_COPY_CHUNK, Box::new(area.umem.clone())) };
        let shared = area.share();
        Ok((Xsk::open(config, area, rings), shared))
    }

    fn open(config: XskConfig, area: Area, rings: Rings) -> Xsk {
        let scratch = vec![FrameDesc::default(); BATCH];
        let (area, rings) = (Some(area), Some(rings));
        Xsk {
            config,
            area,
            rings,
            outstanding: 0,
            completed: 0,
            receiving: 0,
            syscalls: 0,
            scratch,
            bulk: None,
            is_staging: false,
            staged_bytes: 0,
            staged: Vec::new(),
        }
    }

    /// The socket, for the socket map and for poll.
    pub fn fd(&self) -> Option<RawFd> {
        self.rings.as_ref().map(|rings| rings.tx.fd().as_raw_fd())
    }

    pub fn config(&self) -> &XskConfig {
        &self.config
    }

    /// Lets go of the socket. When all sockets of an area have, what was with the kernel can be reclaimed. Returns how many frames
    /// were lost in it, since it was bound: nobody can ask it afterwards. What has arrived and was not taken is lost now.
    pub fn close(&mut self) -> u64 {
        let lost = self.fd().map_or(0, frames_lost) + u64::from(self.waiting());
        self.rings = None;
        self.staged.clear();
        self.staged_bytes = 0;
        self.outstanding = 0;
        self.receiving = 0;
        if self.config.area == AreaKind::ZeroCopy {
            self.area = None;
        }
        lost
    }

    /// Binds again after [`Xsk::close`] of all sockets, and after what was with the kernel was reclaimed. The socket map must
    /// be told the new descriptor. `fresh`: the area the sockets that do not copy share from now on; the first of them makes it.
    pub fn reopen(&mut self, memory: &mut Memory, fresh: &mut Option<Area>) -> Result<(), XskError> {
        let area = match (self.area.as_ref(), fresh.as_ref()) {
            (Some(area), _) | (None, Some(area)) => area.share(),
            (None, None) => {
                let chunks = memory.chunks(AreaKind::ZeroCopy) as u32;
                let (area, base) = Area::map(chunks, ZERO_COPY_CHUNK, &self.config)?;
                // SAFETY: see `map`; the size is the old one's. The old one goes here, and its descriptor with it.
                unsafe { memory.replace(base, Box::new(area.umem.clone())) };
                fresh.insert(area).share()
            }
        };
        self.rings = Some(open_retrying(&self.config, &area.umem)?);
        self.area = Some(area);
        Ok(())
    }

    /// The area of the kind asked for, if this socket is bound over it.
    pub fn share_area(&self, kind: AreaKind) -> Option<Area> {
        let area = self.area.as_ref().filter(|_| self.rings.is_some() && self.config.area == kind);
        area.map(Area::share)
    }

    /// Which of the worker's areas the socket uses.
    #[inline]
    pub fn area(&self) -> AreaKind {
        self.config.area
    }

    /// Gives the kernel frames to fill, as many as the ring has room for.
    #[inline]
    pub fn refill(&mut self, memory: &mut Memory) {
        let (Some(rings), Some(area)) = (&mut self.rings, &self.area) else { return };
        let kind = self.config.area;
        let target = (self.config.ring_len as usize).min(self.config.receiving_max);
        while self.receiving < target {
            let want = (target - self.receiving).min(BATCH);
            let mut have = 0;
            while have < want {
                let Some(frame) = memory.take_for_receive(kind) else { break };
                self.scratch[have] = area.descs[memory.index_of(frame) as usize];
                have += 1;
            }
            // SAFETY: the descriptors are of this area, and their chunks are nobody's but the kernel's from here on.
            let done = unsafe { rings.fill.produce(&self.scratch[..have]) };
            debug_assert!(done == have || done == 0);
            self.receiving += done;
            for desc in &self.scratch[done..have] {
                if let Some(frame) = memory.received(kind, desc.addr() as u64, 0) {
                    memory.release(frame);
                }
            }
            if done < want {
                break;
            }
        }
    }

    /// Takes up to a batch of frames. `out` gets whole frames in arrival order with their lengths.
    #[inline]
    pub fn receive(&mut self, memory: &mut Memory, out: &mut Vec<(FrameId, u32)>) {
        let Some(rings) = &mut self.rings else { return };
        let kind = self.config.area;
        // SAFETY: consumed descriptors are of this area; their chunks are ours again.
        let count = unsafe { rings.rx.consume(&mut self.scratch[..BATCH]) };
        if count == 0 {
            if rings.fill.needs_wakeup() {
                self.syscalls += 1;
                poll_now(rings.rx.fd().as_raw_fd());
            }
            return;
        }
        self.receiving -= count.min(self.receiving);
        let mut open: Option<(FrameId, FrameId, u32)> = None;
        let mut index = 0;
        loop {
            while index < BATCH.min(count) {
                let desc = self.scratch[index];
                index += 1;
                let Some(part) = memory.received(kind, desc.addr() as u64, desc.lengths().data() as u32)
                else {
                    continue;
                };
                let len = desc.lengths().data() as u32;
                let (first, _, total) = match open.take() {
                    None => (part, part, len),
                    Some((first, last, total)) => {
                        memory.chain(last, part);
                        (first, part, total + len)
                    }
                };
                match desc.has_more_frames() {
                    true => open = Some((first, part, total)),
                    false => out.push((first, total)),
                }
            }
            // The rest of a frame that spans chunks: the kernel publishes all its parts at once.
            if open.is_none() {
                return;
            }
            // SAFETY: as above.
            let more = unsafe { rings.rx.consume(&mut self.scratch[..1]) };
            if more == 0 {
                // Never seen; do not keep half a frame.
                if let Some((first, ..)) = open {
                    memory.release(first);
                }
                return;
            }
            self.receiving -= more.min(self.receiving);
            let desc = self.scratch[0];
            let Some(part) = memory.received(kind, desc.addr() as u64, desc.lengths().data() as u32) else {
                continue;
            };
            if let Some((first, last, total)) = open.take() {
                memory.chain(last, part);
                let total = total + desc.lengths().data() as u32;
                match desc.has_more_frames() {
                    true => open = Some((first, part, total)),
                    false => {
                        out.push((first, total));
                        return;
                    }
                }
            }
        }
    }

    /// Has many frames sent with one system call from now on, where that is possible.
    pub fn set_bulk(&mut self, bulk: Bulk) {
        self.staged = Vec::with_capacity(bulk::FRAMES_MAX);
        self.is_staging = bulk.gate().is_open();
        self.bulk = Some(bulk);
    }

    /// Queues one frame. False: no room, the frame is still the caller's.
    #[inline]
    pub fn transmit(&mut self, memory: &mut Memory, frame: FrameId) -> bool {
        if self.is_staging {
            if memory.chunk_after(frame).is_none() && memory.len(frame) <= bulk::LEN_MAX {
                return self.stage(memory, frame);
            }
            self.send_staged(memory);
        }
        if !self.produce(memory, frame) {
            return false;
        }
        self.outstanding += memory.segments(frame).count();
        memory.put(frame, Place::Transmitting);
        true
    }

    /// Sets a frame aside until the next kick.
    #[inline]
    fn stage(&mut self, memory: &mut Memory, frame: FrameId) -> bool {
        let is_full = self.staged.len() == bulk::FRAMES_MAX || self.staged_bytes > bulk::BYTES_MAX;
        // Several devices that all wait for more must not leave the worker without memory.
        if is_full || memory.free_len(self.config.area) < memory.chunks(self.config.area) / 16 {
            self.send_staged(memory);
        }
        // Each finds room in the ring, should it come to that.
        let Some(rings) = &mut self.rings else { return false };
        if (rings.tx.nb_free(bulk::FRAMES_MAX as u32) as usize) <= self.staged.len() {
            return false;
        }
        self.outstanding += 1;
        self.staged_bytes += memory.len(frame).next_multiple_of(64);
        memory.put(frame, Place::Transmitting);
        self.staged.push(frame);
        true
    }

    /// Sends what was set aside: all at once if it is worth that, else by the ring. Not before all that went by the ring has come
    /// back: a veth's far end gives a frame back when it has taken it from its queue, and with several queues there or with its soft
    /// interrupts late, what was sent later could be taken earlier.
    fn send_staged(&mut self, memory: &mut Memory) {
        self.staged_bytes = 0;
        if self.rings.is_none() {
            return;
        }
        let is_worth_it = self.outstanding == self.staged.len() && self.staged.len() >= bulk::FRAMES_MIN;
        if let Some(bulk) = self.bulk.as_mut().filter(|bulk| is_worth_it && bulk.gate().is_open()) {
            for frame in &self.staged {
                memory.put(*frame, Place::Hand);
                bulk.fill(memory.head(*frame));
            }
            self.syscalls += 1;
            let (sent, error) = bulk.run();
            for frame in self.staged.drain(..sent) {
                memory.release(frame);
            }
            self.outstanding -= sent;
            self.completed += sent as u64;
            if let Some(error) = error {
                tracing::warn!("{}: frames are sent one by one from now on: {error}", self.config.interface);
                bulk.gate().fail();
                self.bulk = None;
            }
        }
        let mut staged = std::mem::take(&mut self.staged);
        for frame in staged.drain(..) {
            memory.put(frame, Place::Hand);
            let is_queued = self.produce(memory, frame);
            debug_assert!(is_queued, "`stage` saw to it that there is room");
            memory.put(frame, Place::Transmitting);
        }
        self.staged = staged;
    }

    /// Puts a frame into the transmit ring. False: no room.
    #[inline]
    fn produce(&mut self, memory: &mut Memory, frame: FrameId) -> bool {
        let (Some(rings), Some(area)) = (&mut self.rings, &self.area) else { return false };
        debug_assert_eq!(memory.kind_of(frame), self.config.area);
        let (mut count, mut next) = (0, Some(frame));
        while let Some(part) = next {
            let desc = &area.descs[memory.index_of(part) as usize];
            let Some((_, segment)) = memory.segments(part).next() else { return false };
            if count == BATCH || (desc.addr() as u32 != segment.addr && !memory.straighten(part)) {
                return false;
            }
            self.scratch[count] = *desc;
            let desc = &mut self.scratch[count];
            // SAFETY: the chunk is in our hands (`transmit` is given frames in hand), and only its length is set.
            unsafe { area.umem.data_mut(desc) }.cursor().set_pos(segment.len as usize);
            desc.set_options(XDP_PKT_CONTD);
            (count, next) = (count + 1, memory.chunk_after(part));
        }
        self.scratch[count - 1].set_options(0);
        if count > 1 && (rings.tx.nb_free(count as u32) as usize) < count {
            return false;
        }
        // SAFETY: the chunks are of this area and go to the kernel until they are completed: `put` below says so.
        let done = unsafe { rings.tx.produce(&self.scratch[..count]) };
        done > 0
    }

    /// Makes the kernel send what was queued, once per batch. `more`: the next batch is there already.
    #[inline]
    pub fn kick(&mut self, memory: &mut Memory, more: bool) {
        let is_open = self.bulk.as_ref().is_some_and(|bulk| bulk.gate().is_open());
        if !self.staged.is_empty() && (!more || !is_open || self.staged.len() == bulk::FRAMES_MAX) {
            self.send_staged(memory);
        }
        self.is_staging = is_open;
        let Some(rings) = &mut self.rings else { return };
        // What was taken from the ring and has not come back waits for nobody's call.
        let ring_len = self.config.ring_len;
        let mut queued = ring_len.saturating_sub(rings.tx.nb_free(ring_len));
        for _ in 0..KICKS_MAX {
            if queued == 0 || !rings.tx.needs_wakeup() {
                break;
            }
            self.syscalls += 1;
            // An error here is the interface's (down, gone): frames stay queued and the watchdog sees it.
            let _ = rings.tx.wakeup();
            let before = queued;
            queued = ring_len.saturating_sub(rings.tx.nb_free(ring_len));
            if queued >= before || self.config.area == AreaKind::ZeroCopy {
                break;
            }
        }
    }

    /// Takes back frames that were sent. Returns how many.
    #[inline]
    pub fn complete(&mut self, memory: &mut Memory) -> usize {
        let Some(rings) = &mut self.rings else { return 0 };
        if self.outstanding == 0 {
            return 0;
        }
        let mut total = 0;
        loop {
            // SAFETY: completed descriptors are of this area; their chunks are ours again.
            let count = unsafe { rings.completion.consume(&mut self.scratch[..BATCH]) };
            for desc in &self.scratch[..count] {
                memory.sent(self.config.area, desc.addr() as u64);
            }
            self.outstanding -= count.min(self.outstanding);
            total += count;
            self.completed += count as u64;
            if count < BATCH {
                return total;
            }
        }
    }

    pub fn outstanding(&self) -> usize {
        self.outstanding
    }

    /// Of those, chunks the kernel has. What is set aside does not move until a batch is whole, however long a slow machine takes.
    pub fn with_kernel(&self) -> usize {
        self.outstanding.saturating_sub(self.staged.len())
    }

    /// Chunks that were sent and came back since the socket was first bound.
    pub fn completed(&self) -> u64 {
        self.completed
    }

    /// Chunks that have arrived and were not taken yet.
    #[inline]
    pub fn waiting(&mut self) -> u32 {
        self.rings.as_mut().map_or(0, |rings| rings.rx.nb_avail_exact())
    }

    pub fn receiving(&self) -> usize {
        self.receiving
    }
}

/// Frames that reached a socket and found no room: receive ring full, fill ring empty, or dropped otherwise. Since it was bound.
pub fn frames_lost(socket: RawFd) -> u64 {
    // struct xdp_statistics: rx_dropped, rx_invalid_descs, tx_invalid_descs, rx_ring_full, rx_fill_ring_empty_descs, ...
    const XDP_STATISTICS: libc::c_int = 7;
    let mut statistics = [0u64; 6];
    let mut len = size_of_val(&statistics) as libc::socklen_t;
    // SAFETY: the buffer is `len` bytes long and the kernel writes no more than that.
    let result = unsafe {
        libc::getsockopt(socket, SOL_XDP, XDP_STATISTICS, statistics.as_mut_ptr().cast(), &mut len)
    };
    if result == 0 { statistics[0] + statistics[3] } else { 0 }
}

fn poll_now(fd: RawFd) {
    poll(&mut [libc::pollfd { fd, events: libc::POLLIN, revents: 0 }], Duration::ZERO);
}

/// Waits until one of the descriptors is ready, a signal comes or the time is over; the caller looks at everything anyway.
pub fn poll(fds: &mut [libc::pollfd], timeout: Duration) {
    let timeout = libc::timespec {
        tv_sec: timeout.as_secs() as libc::time_t,
        tv_nsec: libc::c_long::from(timeout.subsec_nanos()),
    };
    // SAFETY: a valid slice of pollfds of the length given, a time, and no set of signals.
    unsafe { libc::ppoll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, &timeout, std::ptr::null()) };
}
