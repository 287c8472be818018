//! The maps of the shortcut, as the switch holds them: which flows the programs carry by themselves, and what they carried.
//!
//! All four are memory shared with the programs: a port's epoch (endpoint and revision of its policy), a row per direction of a
//! flow, what was carried, per CPU, and the index from a packet's key to its row. A row counts while the epochs it names are those
//! of its ports, so revoking is one store, whatever the number of flows.
//!
//! The index is a table of buckets, found by a keyed hash that a sender cannot make collide. The kernel's hash map would do; *measured*
//! it takes 32 ns of a frame's 110, this one 6. A flow whose bucket is full stays with its worker.
//!
//! Layouts mirror `bpf/penstock.h`. Owner: `machine/shortcut.rs`, one thread at a time; epochs may be stored by another, and workers
//! store the echoes of what they send by direct ports ([`Rows::note_echo`]).
#![allow(unsafe_code)]

use super::maps::{PORTS_MAX, PortEntry};
use crate::packet::FlowKey;
use memmap2::{MmapMut, MmapOptions};
use penstock_api::{EndpointId, PortId};
use std::mem::offset_of;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

pub const SHORTCUTS_MAX: usize = 32_768;
const BUCKET_BITS: u32 = 14;
const BUCKET_ENTRIES: usize = 8;
const SLOT_BITS: u32 = 15;
const TAG_BITS: u32 = 17;
const MARK_MAX: u32 = 0x3fff;

/// What makes the index's hash unlike any other's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Seeds([u64; 10]);

impl Seeds {
    pub fn random() -> Seeds {
        let source = ahash::RandomState::new();
        Seeds(std::array::from_fn(|n| source.hash_one(n as u64)))
    }

    /// Mirrors `hash_key` of the programs.
    fn hash(&self, key: &PacketKey) -> u64 {
        let sum = |hash: u64, (word, seeds): (u64, &[u64])| {
            let (low, high) = (word & 0xffff_ffff, word >> 32);
            hash.wrapping_add(low.wrapping_add(seeds[0]).wrapping_mul(high.wrapping_add(seeds[1])))
        };
        words(key).into_iter().zip(self.0.chunks_exact(2)).fold(0, sum)
    }

    /// The bucket of a key, and its tag there.
    fn place(&self, key: &PacketKey) -> (usize, u32) {
        let hash = self.hash(key);
        let tag = (hash >> (64 - BUCKET_BITS - TAG_BITS)) as u32 & ((1 << TAG_BITS) - 1);
        ((hash >> (64 - BUCKET_BITS)) as usize, tag.max(1))
    }
}

/// Its bucket has no room, or a key that cannot be told from it at first sight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoRoom;

/// `struct flow_key`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct PacketKey {
    source: [u8; 16],
    destination: [u8; 16],
    /// Big endian, as in the packet.
    ports: [[u8; 2]; 2],
    protocol: u8,
    family: u8,
    zero: u16,
}

/// `struct flow`.
#[derive(Debug)]
#[repr(C)]
struct Row {
    key: [AtomicU64; 5],
    source_epoch: AtomicU64,
    target_epoch: AtomicU64,
    /// Source port, target port: two halves of 16 bits.
    ports: AtomicU32,
    direct: AtomicU32,
    /// Mark and its frames, echo and its frames.
    marks: [AtomicU32; 4],
    echo_ns: AtomicU64,
    hold_ns: AtomicU64,
    kept_back_ns: AtomicU64,
    /// A sequence number, and nothing.
    end: [AtomicU32; 2],
    unused: [AtomicU64; 2],
}

/// `struct bucket`.
#[derive(Debug)]
#[repr(C)]
struct Bucket {
    entries: [AtomicU32; BUCKET_ENTRIES],
}

/// `struct carried`.
#[derive(Debug)]
#[repr(C)]
struct Cell {
    frames: AtomicU64,
    bytes: AtomicU64,
}

const _: () = assert!(size_of::<PacketKey>() == 40 && size_of::<Row>() == 128 && size_of::<Cell>() == 16);
const _: () =
    assert!(size_of::<Bucket>() == 32 && 1 << SLOT_BITS == SHORTCUTS_MAX && SLOT_BITS + TAG_BITS == 32);

/// Whose policy, and which of its revisions. 0 is nobody's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Epoch(pub u64);

impl Epoch {
    pub const NONE: Epoch = Epoch(0);

    pub fn new(endpoint: EndpointId, revision: u32) -> Epoch {
        Epoch(u64::from(endpoint.0) << 32 | u64::from(revision))
    }

    pub fn endpoint(self) -> EndpointId {
        EndpointId((self.0 >> 32) as u32)
    }

    pub fn revision(self) -> u32 {
        self.0 as u32
    }
}

/// One direction of a flow that the kernel is to carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CarriedFlow {
    pub key: FlowKey,
    pub source: PortId,
    pub target: PortId,
    /// What it was judged under.
    pub source_epoch: Epoch,
    pub target_epoch: Epoch,
}

impl CarriedFlow {
    /// The other direction of an untranslated flow.
    pub fn reversed(&self) -> CarriedFlow {
        CarriedFlow {
            key: self.key.reversed(),
            source: self.target,
            target: self.source,
            source_epoch: self.target_epoch,
            target_epoch: self.source_epoch,
        }
    }
}

fn packet_key(key: &FlowKey) -> PacketKey {
    PacketKey {
        source: key.source,
        destination: key.destination,
        ports: [key.source_port.to_be_bytes(), key.destination_port.to_be_bytes()],
        protocol: key.protocol,
        family: key.family,
        zero: 0,
    }
}

fn flow_key(key: &PacketKey) -> FlowKey {
    FlowKey {
        source: key.source,
        destination: key.destination,
        source_port: u16::from_be_bytes(key.ports[0]),
        destination_port: u16::from_be_bytes(key.ports[1]),
        protocol: key.protocol,
        family: key.family,
        zone: 0,
    }
}

/// The epochs of ports: what a row is held against.
#[derive(Debug)]
pub struct Epochs(MmapMut);

impl Epochs {
    fn cell(&self, port: PortId) -> Option<&AtomicU64> {
        if port.index() >= PORTS_MAX {
            return None;
        }
        let at = port.index() * size_of::<PortEntry>() + offset_of!(PortEntry, epoch);
        debug_assert!(at + 8 <= self.0.len());
        // SAFETY: the mapping is page-aligned and holds PORTS_MAX entries; entries and the field are 8-aligned (test); programs
        // only read the field, and whoever else writes it goes through here or keeps what is there (`Programs::set_port`).
        Some(unsafe { &*self.0.as_ptr().add(at).cast::<AtomicU64>() })
    }

    pub fn get(&self, port: PortId) -> Epoch {
        Epoch(self.cell(port).map_or(0, |cell| cell.load(Ordering::Relaxed)))
    }

    /// From now on no frame of this port passes by a flow that was judged under anything else.
    pub fn set(&self, port: PortId, epoch: Epoch) {
        if let Some(cell) = self.cell(port) {
            cell.store(epoch.0, Ordering::SeqCst);
        }
    }
}

/// A frame to be told of when it has left: which row's flow it is of, and the mark it came with. No mark: nobody waits for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Echo {
    slot: u32,
    mark: u16,
}

impl Echo {
    pub const NONE: Echo = Echo { slot: 0, mark: 0 };

    #[inline]
    pub fn is_some(self) -> bool {
        self.mark != 0
    }
}

/// The rows and their index: what workers see of the maps.
#[derive(Debug)]
pub struct Rows {
    rows: MmapMut,
    buckets: MmapMut,
    seeds: Seeds,
}

impl Rows {
    fn row(&self, slot: u32) -> &Row {
        let slot = slot as usize % SHORTCUTS_MAX;
        // SAFETY: the mapping is page-aligned and holds SHORTCUTS_MAX rows; all fields are atomics.
        unsafe { &*self.rows.as_ptr().cast::<Row>().add(slot) }
    }

    fn bucket(&self, place: usize) -> &Bucket {
        // SAFETY: the mapping is page-aligned and holds 1 << BUCKET_BITS buckets; all entries are atomics.
        unsafe { &*self.buckets.as_ptr().cast::<Bucket>().add(place % (1 << BUCKET_BITS)) }
    }

    fn key(&self, slot: u32) -> PacketKey {
        let row = self.row(slot);
        from_words(std::array::from_fn(|word| row.key[word].load(Ordering::Relaxed)))
    }

    /// What is to be told when a frame of this flow, which came with that mark, has left. Mirrors `find_flow` of the programs.
    #[cold]
    pub fn echo_of(&self, key: &FlowKey, mark: u16) -> Echo {
        let key = packet_key(key);
        let (place, tag) = self.seeds.place(&key);
        let entries = self.bucket(place).entries.iter().map(|entry| entry.load(Ordering::Relaxed));
        let slot = entries.filter(|entry| entry >> SLOT_BITS == tag).last();
        slot.map(|entry| entry & (SHORTCUTS_MAX as u32 - 1))
            .filter(|slot| self.key(*slot) == key)
            .map_or(Echo::NONE, |slot| Echo { slot, mark })
    }

    /// A frame has left: as if the program at a trunk had seen it. `now_ns`: of the monotonic clock.
    #[cold]
    pub fn note_echo(&self, Echo { slot, mark }: Echo, now_ns: u64) {
        let row = self.row(slot);
        let [own, _, echo, echo_frames] = &row.marks;
        let mark = u32::from(mark);
        // Later ones went up since, or it is another flow's row.
        if own.load(Ordering::Relaxed) != mark {
            return;
        }
        if echo.load(Ordering::Relaxed) != mark {
            echo_frames.store(0, Ordering::Relaxed);
            echo.store(mark, Ordering::Release);
        }
        row.echo_ns.store(now_ns, Ordering::Release);
        echo_frames.fetch_add(1, Ordering::Release);
    }
}

/// The maps, mapped.
pub struct Table {
    pub epochs: Epochs,
    shared: Arc<Rows>,
    cells: MmapMut,
    cpus: usize,
    next_mark: u32,
}

impl std::fmt::Debug for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Table").field("cpus", &self.cpus).finish_non_exhaustive()
    }
}

fn map(fd: impl AsFd, len: usize) -> std::io::Result<MmapMut> {
    // SAFETY: the map is BPF_F_MMAPABLE and at least `len` bytes long, rounded up to a page by the kernel; what is shared with
    // programs is accessed through atomics only.
    unsafe { MmapOptions::new().len(len).map_mut(fd.as_fd().as_raw_fd()) }
}

impl Table {
    /// `cpus`: how many times SHORTCUTS_MAX rows CARRIED has.
    pub fn map(
        ports: impl AsFd,
        flows: impl AsFd,
        carried: impl AsFd,
        index: impl AsFd,
        cpus: usize,
        seeds: Seeds,
    ) -> std::io::Result<Table> {
        Ok(Table {
            epochs: Epochs(map(ports, PORTS_MAX * size_of::<PortEntry>())?),
            shared: Arc::new(Rows {
                rows: map(flows, SHORTCUTS_MAX * size_of::<Row>())?,
                buckets: map(index, size_of::<Bucket>() << BUCKET_BITS)?,
                seeds,
            }),
            cells: map(carried, cpus * SHORTCUTS_MAX * size_of::<Cell>())?,
            cpus,
            next_mark: seeds.0[0] as u32,
        })
    }

    /// What workers tell of frames that left.
    pub fn rows(&self) -> Arc<Rows> {
        Arc::clone(&self.shared)
    }

    fn row(&self, slot: u32) -> &Row {
        self.shared.row(slot)
    }

    fn cells(&self, slot: u32) -> impl Iterator<Item = &Cell> {
        let slot = slot as usize % SHORTCUTS_MAX;
        (0..self.cpus).map(move |cpu| {
            // SAFETY: the mapping is page-aligned and holds `cpus` times SHORTCUTS_MAX cells; all fields are atomics.
            unsafe { &*self.cells.as_ptr().cast::<Cell>().add(cpu * SHORTCUTS_MAX + slot) }
        })
    }

    /// Where in its bucket a row is indexed.
    fn entry(&self, slot: u32, key: &PacketKey) -> Option<&AtomicU32> {
        let (place, tag) = self.shared.seeds.place(key);
        let wanted = tag << SLOT_BITS | slot;
        self.shared.bucket(place).entries.iter().find(|entry| entry.load(Ordering::Relaxed) == wanted)
    }

    /// Has the programs carry a flow, once nothing of it is under way. The row must have been left alone for a while.
    pub fn put(&mut self, slot: u32, flow: &CarriedFlow) -> Result<(), NoRoom> {
        self.next_mark = self.next_mark.wrapping_add(0x9e37);
        let key = packet_key(&flow.key);
        let (place, tag) = self.shared.seeds.place(&key);
        let entries = &self.shared.bucket(place).entries;
        if entries.iter().any(|entry| entry.load(Ordering::Relaxed) >> SLOT_BITS == tag) {
            return Err(NoRoom);
        }
        let free = entries.iter().find(|entry| entry.load(Ordering::Relaxed) == 0).ok_or(NoRoom)?;
        let row = self.row(slot);
        row.source_epoch.store(0, Ordering::SeqCst);
        for (cell, word) in row.key.iter().zip(words(&key)) {
            cell.store(word, Ordering::Relaxed);
        }
        // What an earlier row of this flow left under way has other marks, nearly always.
        let [mark, others @ ..] = &row.marks;
        mark.store(self.next_mark % MARK_MAX, Ordering::Relaxed);
        for cell in others.iter().chain([&row.direct]) {
            cell.store(0, Ordering::Relaxed);
        }
        row.echo_ns.store(0, Ordering::Relaxed);
        row.hold_ns.store(0, Ordering::Relaxed);
        row.kept_back_ns.store(0, Ordering::Relaxed);
        row.end[0].store(0, Ordering::Relaxed);
        row.ports.store(u32::from(flow.source.0) | u32::from(flow.target.0) << 16, Ordering::Relaxed);
        row.target_epoch.store(flow.target_epoch.0, Ordering::Relaxed);
        row.source_epoch.store(flow.source_epoch.0, Ordering::SeqCst);
        free.store(tag << SLOT_BITS | slot, Ordering::SeqCst);
        Ok(())
    }

    /// From now on frames of the flow go to userspace. Its row keeps what was carried.
    pub fn take(&mut self, slot: u32, key: &FlowKey) {
        self.row(slot).source_epoch.store(0, Ordering::SeqCst);
        // Not there is fine.
        if let Some(entry) = self.entry(slot, &packet_key(key)) {
            entry.store(0, Ordering::Relaxed);
        }
    }

    /// The flow in a row, if one is.
    pub fn get(&self, slot: u32) -> Option<CarriedFlow> {
        let row = self.row(slot);
        let source_epoch = Epoch(row.source_epoch.load(Ordering::Acquire));
        let ports = row.ports.load(Ordering::Relaxed);
        let key = self.shared.key(slot);
        (source_epoch != Epoch::NONE).then(|| CarriedFlow {
            key: flow_key(&key),
            source: PortId(ports as u16),
            target: PortId((ports >> 16) as u16),
            source_epoch,
            target_epoch: Epoch(row.target_epoch.load(Ordering::Relaxed)),
        })
    }

    /// From now on frames of the flow come up again until none is under way.
    pub fn begin_anew(&self, slot: u32) {
        let row = self.row(slot);
        row.direct.store(0, Ordering::SeqCst);
        row.marks[1].store(0, Ordering::SeqCst);
    }

    /// Do frames of it pass in the kernel by now?
    pub fn is_direct(&self, slot: u32) -> bool {
        self.row(slot).direct.load(Ordering::Relaxed) != 0
    }

    /// Frames and bytes carried since [`Table::forget_carried`].
    pub fn carried(&self, slot: u32) -> (u64, u64) {
        self.cells(slot).fold((0, 0), |(frames, bytes), cell| {
            (frames + cell.frames.load(Ordering::Relaxed), bytes + cell.bytes.load(Ordering::Relaxed))
        })
    }

    /// Of a row that is nobody's any more.
    pub fn forget_carried(&self, slot: u32) {
        for cell in self.cells(slot) {
            cell.frames.store(0, Ordering::Relaxed);
            cell.bytes.store(0, Ordering::Relaxed);
        }
    }

    /// Do the programs find the row by this key?
    pub fn is_indexed(&self, slot: u32, key: &FlowKey) -> bool {
        self.entry(slot, &packet_key(key)).is_some()
    }

    /// Clears what the index holds of rows that nobody has.
    pub fn unindex(&mut self, is_in_use: impl Fn(u32, &FlowKey) -> bool) {
        for place in 0..1 << BUCKET_BITS {
            for entry in &self.shared.bucket(place).entries {
                let value = entry.load(Ordering::Relaxed);
                let slot = value & (SHORTCUTS_MAX as u32 - 1);
                let is_known = self.get(slot).is_some_and(|flow| {
                    let own = self.shared.seeds.place(&packet_key(&flow.key));
                    own == (place, value >> SLOT_BITS) && is_in_use(slot, &flow.key)
                });
                if value != 0 && !is_known {
                    entry.store(0, Ordering::Relaxed);
                }
            }
        }
    }
}

fn words(key: &PacketKey) -> [u64; 5] {
    // SAFETY: both are 40 bytes of integers without padding.
    unsafe { std::mem::transmute::<PacketKey, [u64; 5]>(*key) }
}

fn from_words(words: [u64; 5]) -> PacketKey {
    // SAFETY: as above, and every bit pattern is valid.
    unsafe { std::mem::transmute::<[u64; 5], PacketKey>(words) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_are_those_of_the_header() {
        assert_eq!(offset_of!(Row, source_epoch), 40);
        assert_eq!(offset_of!(Row, direct), 60, "what is read for every frame is one line");
        assert_eq!(offset_of!(Row, marks), 64);
        assert_eq!(offset_of!(Row, echo_ns), 80);
        assert_eq!((size_of::<PortEntry>() % 8, offset_of!(PortEntry, epoch) % 8), (0, 0));
    }

    #[test]
    fn a_key_comes_back_as_it_was() {
        for (source, destination) in [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")] {
            let key = FlowKey::new(6, source.parse().unwrap(), 40_000, destination.parse().unwrap(), 0x1234);
            let packet = packet_key(&key);
            assert_eq!(packet.ports[1], [0x12, 0x34]);
            assert_eq!(flow_key(&from_words(words(&packet))), key);
        }
    }
}
