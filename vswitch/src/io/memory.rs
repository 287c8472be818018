//! A worker's memory: areas cut into equal chunks, and the book that says where each chunk is.
//!
//! A frame is a chain of chunks (one at an MTU of 1500, up to three at 9000). The book has one byte per chunk; it is what the
//! census counts and what makes double use visible: a chunk changes place only through the methods here. Owner: one worker.
//!
//! **Areas.** The kernel decides once per registered area whether its sockets copy or not, and a veth cannot but copy. So a
//! worker has an area that copies, where its trunk and all that it makes itself are, and, if one of its ports is bound without
//! copying, a second one. Chunks are numbered through: a frame's number says which area it is in, and all its chunks are in
//! that one. Leaving by a port of the other area costs a frame one copy, [`Memory::move_to`].
#![allow(unsafe_code)]

use penstock_api::message::AreaKind;
use std::ptr::NonNull;

/// The first chunk of a frame, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FrameId(pub u32);

/// Where a chunk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Place {
    /// On the free list.
    Free,
    /// In the worker's hands: the only place where its bytes may be touched.
    Hand,
    /// With the kernel, to be filled: fill ring, driver, receive ring.
    Receiving,
    /// With the kernel, to be sent: transmit ring, driver, completion ring.
    Transmitting,
    /// Held by a table: a fragment that waits for its first.
    Held,
}

/// The bytes of a frame that lie in one chunk.
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    /// Offset of the first byte in its area.
    pub addr: u32,
    pub len: u32,
    next: u32,
}

const NONE: u32 = u32::MAX;
/// What the kernel leaves free at the head of each chunk (XDP_PACKET_HEADROOM), and so do we.
pub const HEADROOM: u32 = 256;

/// What keeps an area mapped.
pub trait Backing: Send {}
impl<T: Send> Backing for T {}

pub struct Memory {
    /// By chunk number, over all areas.
    segments: Vec<Segment>,
    places: Vec<Place>,
    /// Number of the first chunk that does not copy.
    split: u32,
    /// Index: `AreaKind as usize`. The second has no chunks unless one was added.
    areas: [Area; 2],
}

/// One mapping.
struct Area {
    base: NonNull<u8>,
    chunk_size: u32,
    free: Vec<u32>,
    _backing: Box<dyn Backing>,
}

// SAFETY: each `base` points into its `_backing`, which is Send and moves along; nothing else in this process touches it.
unsafe impl Send for Memory {}

impl std::fmt::Debug for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let free = self.areas.each_ref().map(|area| area.free.len());
        f.debug_struct("Memory").field("chunks", &self.places.len()).field("free", &free).finish()
    }
}

impl Memory {
    /// Memory of the process's own: for memory and pcap ports.
    pub fn private(chunks: u32, chunk_size: u32) -> std::io::Result<Memory> {
        let mut map = memmap2::MmapMut::map_anon(chunks as usize * chunk_size as usize)?;
        let base = NonNull::new(map.as_mut_ptr()).expect("a mapping is not null");
        // SAFETY: the mapping is `chunks * chunk_size` long, zeroed, and moves into the result.
        Ok(unsafe { Memory::over(base, chunks, chunk_size, Box::new(map)) })
    }

    /// # Safety
    /// `base` must point to `chunks * chunk_size` readable, writable bytes that live as long as `backing` and that nobody but
    /// this value and the kernel (within the chunks it was given) accesses.
    pub unsafe fn over(base: NonNull<u8>, chunks: u32, chunk_size: u32, backing: Box<dyn Backing>) -> Memory {
        let area = Area { base, chunk_size, free: Vec::new(), _backing: backing };
        let none = Area { base: NonNull::dangling(), chunk_size, free: Vec::new(), _backing: Box::new(()) };
        let mut memory =
            Memory { segments: Vec::new(), places: Vec::new(), split: chunks, areas: [area, none] };
        memory.number(AreaKind::Copy, chunks);
        memory
    }

    /// Adds the area of sockets that do not copy, of the process's own memory: for memory ports.
    pub fn add_private(&mut self, chunks: u32, chunk_size: u32) -> std::io::Result<()> {
        let mut map = memmap2::MmapMut::map_anon(chunks as usize * chunk_size as usize)?;
        let base = NonNull::new(map.as_mut_ptr()).expect("a mapping is not null");
        // SAFETY: as in `private`.
        unsafe { self.add(base, chunks, chunk_size, Box::new(map)) };
        Ok(())
    }

    /// Adds the area of sockets that do not copy.
    ///
    /// # Safety
    /// As for [`Memory::over`].
    pub unsafe fn add(&mut self, base: NonNull<u8>, chunks: u32, chunk_size: u32, backing: Box<dyn Backing>) {
        assert_eq!(self.chunks(AreaKind::ZeroCopy), 0, "there is one already");
        self.areas[AreaKind::ZeroCopy as usize] =
            Area { base, chunk_size, free: Vec::new(), _backing: backing };
        self.number(AreaKind::ZeroCopy, chunks);
    }

    /// Puts other memory of the same size in the place of the area of sockets that do not copy. All of it must be free.
    ///
    /// # Safety
    /// As for [`Memory::over`].
    pub unsafe fn replace(&mut self, base: NonNull<u8>, backing: Box<dyn Backing>) {
        let area = &mut self.areas[AreaKind::ZeroCopy as usize];
        assert_eq!(area.free.len(), self.places.len() - self.split as usize, "some of it is in use");
        (area.base, area._backing) = (base, backing);
    }

    fn number(&mut self, kind: AreaKind, chunks: u32) {
        let size = self.chunk_size(kind);
        assert!(size > HEADROOM && u64::from(chunks) * u64::from(size) < u64::from(u32::MAX));
        let first = self.places.len() as u32;
        assert!(first.checked_add(chunks).is_some_and(|end| end < NONE), "chunk numbers do not suffice");
        let segment = |c: u32| Segment { addr: c * size + HEADROOM, len: 0, next: NONE };
        self.segments.extend((0..chunks).map(segment));
        self.places.resize((first + chunks) as usize, Place::Free);
        self.areas[kind as usize].free = (first..first + chunks).rev().collect();
    }

    /// The areas there are.
    pub fn kinds(&self) -> impl Iterator<Item = AreaKind> + use<> {
        let both = self.chunks(AreaKind::ZeroCopy) > 0;
        std::iter::once(AreaKind::Copy).chain(both.then_some(AreaKind::ZeroCopy))
    }

    /// Which area a frame is in.
    #[inline]
    pub fn kind_of(&self, frame: FrameId) -> AreaKind {
        if frame.0 < self.split { AreaKind::Copy } else { AreaKind::ZeroCopy }
    }

    /// The number of a chunk within its area.
    #[inline]
    pub fn index_of(&self, frame: FrameId) -> u32 {
        frame.0 - self.first(self.kind_of(frame))
    }

    #[inline]
    fn first(&self, kind: AreaKind) -> u32 {
        if kind == AreaKind::Copy { 0 } else { self.split }
    }

    /// The chunk of an area in which an offset lies.
    #[inline]
    fn chunk_at(&self, kind: AreaKind, addr: u64) -> Option<u32> {
        let index = u32::try_from(addr / u64::from(self.chunk_size(kind))).ok()?;
        let chunk = self.first(kind).checked_add(index)?;
        let end = if kind == AreaKind::Copy { self.split } else { self.places.len() as u32 };
        (chunk < end).then_some(chunk)
    }

    /// Where a chunk's data begin when nobody says otherwise, as an offset in its area.
    #[inline]
    fn data_at(&self, chunk: u32) -> u32 {
        self.index_of(FrameId(chunk)) * self.chunk_size(self.kind_of(FrameId(chunk))) + HEADROOM
    }

    #[inline]
    fn base(&self, chunk: u32) -> *mut u8 {
        self.areas[self.kind_of(FrameId(chunk)) as usize].base.as_ptr()
    }

    #[inline]
    fn give_back(&mut self, chunk: u32) {
        let kind = self.kind_of(FrameId(chunk));
        self.places[chunk as usize] = Place::Free;
        self.areas[kind as usize].free.push(chunk);
    }

    /// Of all areas, for tables by chunk number.
    pub fn chunks_total(&self) -> usize {
        self.places.len()
    }

    #[inline]
    pub fn chunks(&self, kind: AreaKind) -> usize {
        match kind {
            AreaKind::Copy => self.split as usize,
            AreaKind::ZeroCopy => self.places.len() - self.split as usize,
        }
    }

    #[inline]
    pub fn chunk_size(&self, kind: AreaKind) -> u32 {
        self.areas[kind as usize].chunk_size
    }

    pub fn bytes(&self, kind: AreaKind) -> u64 {
        self.chunks(kind) as u64 * u64::from(self.chunk_size(kind))
    }

    #[inline]
    pub fn free_len(&self, kind: AreaKind) -> usize {
        self.areas[kind as usize].free.len()
    }

    /// What one chunk holds of a frame.
    #[inline]
    pub fn chunk_capacity(&self, kind: AreaKind) -> usize {
        (self.chunk_size(kind) - HEADROOM) as usize
    }

    /// A chunk to write an answer into.
    #[inline]
    pub fn allocate(&mut self, kind: AreaKind) -> Option<FrameId> {
        let chunk = self.areas[kind as usize].free.pop()?;
        debug_assert_eq!(self.places[chunk as usize], Place::Free);
        self.places[chunk as usize] = Place::Hand;
        self.segments[chunk as usize] = Segment { addr: self.data_at(chunk), len: 0, next: NONE };
        Some(FrameId(chunk))
    }

    /// Gives a whole frame back to the free list.
    #[inline]
    pub fn release(&mut self, frame: FrameId) {
        let mut chunk = frame.0;
        while chunk != NONE {
            debug_assert_ne!(self.places[chunk as usize], Place::Free, "chunk {chunk} freed twice");
            self.give_back(chunk);
            chunk = self.segments[chunk as usize].next;
        }
    }

    /// Moves all chunks of a frame.
    #[inline]
    pub fn put(&mut self, frame: FrameId, place: Place) {
        let mut chunk = frame.0;
        while chunk != NONE {
            self.places[chunk as usize] = place;
            chunk = self.segments[chunk as usize].next;
        }
    }

    pub fn place(&self, frame: FrameId) -> Place {
        self.places[frame.0 as usize]
    }

    /// A free chunk for the kernel to fill.
    #[inline]
    pub fn take_for_receive(&mut self, kind: AreaKind) -> Option<FrameId> {
        let chunk = self.areas[kind as usize].free.pop()?;
        self.places[chunk as usize] = Place::Receiving;
        Some(FrameId(chunk))
    }

    /// Takes what the kernel received. `None` when it names a chunk it was not given, which must never happen.
    #[inline]
    pub fn received(&mut self, kind: AreaKind, addr: u64, len: u32) -> Option<FrameId> {
        let chunk = self.chunk_at(kind, addr)?;
        let size = self.chunk_size(kind);
        let place = &mut self.places[chunk as usize];
        if *place != Place::Receiving || (addr as u32 % size).checked_add(len)? > size {
            return None;
        }
        *place = Place::Hand;
        self.segments[chunk as usize] = Segment { addr: addr as u32, len, next: NONE };
        Some(FrameId(chunk))
    }

    /// Takes back one chunk that the kernel has sent.
    #[inline]
    pub fn sent(&mut self, kind: AreaKind, addr: u64) -> Option<FrameId> {
        let chunk = self.chunk_at(kind, addr)?;
        if self.places[chunk as usize] != Place::Transmitting {
            return None;
        }
        self.give_back(chunk);
        Some(FrameId(chunk))
    }

    /// Appends `more`, a single chunk, to the chain that ends in `last`.
    pub fn chain(&mut self, last: FrameId, more: FrameId) {
        self.segments[last.0 as usize].next = more.0;
    }

    /// The chunks of a frame, in order.
    pub fn segments(&self, frame: FrameId) -> Segments<'_> {
        Segments { memory: self, next: frame.0 }
    }

    /// Length of a whole frame.
    pub fn len(&self, frame: FrameId) -> usize {
        self.segments(frame).map(|(_, s)| s.len as usize).sum()
    }

    /// The first chunk's bytes: all headers are in it.
    #[inline]
    pub fn head(&self, frame: FrameId) -> &[u8] {
        let segment = self.segments[frame.0 as usize];
        debug_assert!(matches!(self.places[frame.0 as usize], Place::Hand | Place::Held));
        // SAFETY: `received`, `allocate` and `set_len` keep addr + len within the chunk, which is within the area; the chunk
        // is in the worker's hands, so the kernel does not write it.
        unsafe {
            std::slice::from_raw_parts(self.base(frame.0).add(segment.addr as usize), segment.len as usize)
        }
    }

    #[inline]
    pub fn head_mut(&mut self, frame: FrameId) -> &mut [u8] {
        let segment = self.segments[frame.0 as usize];
        debug_assert_eq!(self.places[frame.0 as usize], Place::Hand);
        // SAFETY: as in `head`; `&mut self` makes the slice the only one.
        unsafe {
            std::slice::from_raw_parts_mut(
                self.base(frame.0).add(segment.addr as usize),
                segment.len as usize,
            )
        }
    }

    /// Two different frames at once: an original to read, and all the room of a fresh chunk to write an answer into;
    /// [`Memory::set_len`] then says how much was written.
    pub fn head_and_space(&mut self, read: FrameId, write: FrameId) -> (&[u8], &mut [u8]) {
        let capacity = self.chunk_capacity(self.kind_of(write)) as u32;
        self.set_len(write, capacity);
        self.two_heads(read, write)
    }

    /// One chunk to read and another to write.
    fn two_heads(&mut self, read: FrameId, write: FrameId) -> (&[u8], &mut [u8]) {
        assert_ne!(read, write);
        let (source, target) = (self.segments[read.0 as usize], self.segments[write.0 as usize]);
        debug_assert_eq!(self.places[read.0 as usize], Place::Hand);
        debug_assert_eq!(self.places[write.0 as usize], Place::Hand);
        // SAFETY: as in `head` and `head_mut`; the two chunks are different, so the slices do not overlap.
        unsafe {
            (
                std::slice::from_raw_parts(self.base(read.0).add(source.addr as usize), source.len as usize),
                std::slice::from_raw_parts_mut(
                    self.base(write.0).add(target.addr as usize),
                    target.len as usize,
                ),
            )
        }
    }

    /// Says how long a single-chunk frame is. More than a chunk holds is a bug.
    pub fn set_len(&mut self, frame: FrameId, len: u32) {
        let size = self.chunk_size(self.kind_of(frame));
        let segment = &mut self.segments[frame.0 as usize];
        assert!(segment.addr % size + len <= size, "frame longer than its chunk");
        segment.len = len;
        segment.next = NONE;
    }

    /// A frame of `len` bytes to write, over as many chunks as it takes, all but the last full. `None` when there are not
    /// enough: nothing is lost.
    pub fn allocate_chain(&mut self, kind: AreaKind, len: usize) -> Option<FrameId> {
        let capacity = self.chunk_capacity(kind);
        if self.free_len(kind) < len.div_ceil(capacity).max(1) {
            return None;
        }
        let first = self.allocate(kind)?;
        self.set_len(first, len.min(capacity) as u32);
        let (mut last, mut left) = (first, len.saturating_sub(capacity));
        while left > 0 {
            let chunk = self.allocate(kind)?;
            self.set_len(chunk, left.min(capacity) as u32);
            self.chain(last, chunk);
            (last, left) = (chunk, left.saturating_sub(capacity));
        }
        Some(first)
    }

    /// The frame itself if it is in the area already, else a copy of it there, and the frame is released. `None`: not enough
    /// chunks are free there, and nothing has changed.
    #[inline]
    pub fn move_to(&mut self, frame: FrameId, kind: AreaKind) -> Option<FrameId> {
        if self.kind_of(frame) == kind { Some(frame) } else { self.copy_to(frame, kind) }
    }

    fn copy_to(&mut self, frame: FrameId, kind: AreaKind) -> Option<FrameId> {
        let copy = self.allocate_chain(kind, self.len(frame))?;
        let (mut chunk, mut at) = (Some(copy), 0);
        while let Some(to) = chunk {
            let here = self.segments[to.0 as usize].len as usize;
            self.copy_between(frame, at, to, 0, here);
            (chunk, at) = (self.chunk_after(to), at + here);
        }
        self.release(frame);
        Some(copy)
    }

    /// Moves the bytes of a chunk to where sockets expect them, should a driver have put them elsewhere (igb does, behind a
    /// timestamp). False: they do not fit there.
    #[cold]
    pub fn straighten(&mut self, chunk: FrameId) -> bool {
        let Segment { addr, len, .. } = self.segments[chunk.0 as usize];
        let to = self.data_at(chunk.0);
        if len as usize > self.chunk_capacity(self.kind_of(chunk)) {
            return false;
        }
        debug_assert_eq!(self.places[chunk.0 as usize], Place::Hand);
        let base = self.base(chunk.0);
        // SAFETY: both ranges lie in the chunk (`received` saw to the first, the line above to the second); it is in the
        // worker's hands; `copy` allows them to overlap.
        unsafe { std::ptr::copy(base.add(addr as usize), base.add(to as usize), len as usize) };
        self.segments[chunk.0 as usize].addr = to;
        true
    }

    /// The chunk a frame goes on in.
    pub fn chunk_after(&self, chunk: FrameId) -> Option<FrameId> {
        let next = self.segments[chunk.0 as usize].next;
        (next != NONE).then_some(FrameId(next))
    }

    /// Copies a whole frame out; returns its length, which may exceed `to` (then it was cut).
    pub fn copy_out(&self, frame: FrameId, to: &mut [u8]) -> usize {
        let mut at = 0;
        for (id, _) in self.segments(frame) {
            let bytes = self.head(id);
            let room = to.len().saturating_sub(at).min(bytes.len());
            if room > 0 {
                to[at..at + room].copy_from_slice(&bytes[..room]);
            }
            at += bytes.len();
        }
        at
    }

    /// Copies `len` bytes from `at` of a whole frame to `to_at` of another frame's first chunk.
    pub fn copy_between(&mut self, from: FrameId, at: usize, to: FrameId, to_at: usize, len: usize) {
        let (mut skip, mut done) = (at, 0);
        let mut part = from.0;
        while part != NONE && done < len {
            let segment = self.segments[part as usize];
            let here = (segment.len as usize).saturating_sub(skip).min(len - done);
            if here > 0 {
                let (read, write) = self.two_heads(FrameId(part), to);
                write[to_at + done..to_at + done + here].copy_from_slice(&read[skip..skip + here]);
                done += here;
            }
            skip = skip.saturating_sub(segment.len as usize);
            part = segment.next;
        }
    }

    /// A frame with these bytes, over as many chunks as it takes. `None` when there are not enough: nothing is lost.
    #[inline]
    pub fn copy_in(&mut self, kind: AreaKind, bytes: &[u8]) -> Option<FrameId> {
        if bytes.len() > self.chunk_capacity(kind) {
            return self.copy_in_chain(kind, bytes);
        }
        let frame = self.allocate(kind)?;
        // It fits behind the headroom, where `allocate` lets data begin.
        self.segments[frame.0 as usize].len = bytes.len() as u32;
        self.head_mut(frame).copy_from_slice(bytes);
        Some(frame)
    }

    fn copy_in_chain(&mut self, kind: AreaKind, bytes: &[u8]) -> Option<FrameId> {
        let first = self.allocate_chain(kind, bytes.len())?;
        let (mut chunk, capacity) = (Some(first), self.chunk_capacity(kind));
        for part in bytes.chunks(capacity) {
            let Some(to) = chunk else { break };
            self.head_mut(to).copy_from_slice(part);
            chunk = self.chunk_after(to);
        }
        Some(first)
    }

    /// How many chunks of an area are in each place (order: as [`Place`]), and the offsets of those its free list contradicts.
    pub fn count(&self, kind: AreaKind) -> ([usize; 5], Vec<u64>) {
        let first = self.first(kind) as usize;
        let places = &self.places[first..first + self.chunks(kind)];
        let mut counts = [0; 5];
        for place in places {
            counts[*place as usize] += 1;
        }
        let mut on_free_list = vec![0u8; places.len()];
        let mut wrong = Vec::new();
        for chunk in &self.areas[kind as usize].free {
            match (*chunk as usize).checked_sub(first).and_then(|index| on_free_list.get_mut(index)) {
                Some(times) => *times = times.saturating_add(1),
                // Another area's.
                None => wrong.push(u64::from(*chunk) * u64::from(self.chunk_size(kind))),
            }
        }
        let contradicted = (0..places.len())
            .filter(|&c| on_free_list[c] != u8::from(places[c] == Place::Free))
            .map(|c| c as u64 * u64::from(self.chunk_size(kind)));
        wrong.extend(contradicted);
        (counts, wrong)
    }

    /// After all sockets of an area are gone: what was with the kernel is ours again. Returns how many chunks came home.
    pub fn reclaim_from_kernel(&mut self, kind: AreaKind) -> usize {
        let mut home = 0;
        let first = self.first(kind) as usize;
        for chunk in first..first + self.chunks(kind) {
            if matches!(self.places[chunk], Place::Receiving | Place::Transmitting) {
                self.give_back(chunk as u32);
                home += 1;
            }
        }
        home
    }
}

#[derive(Debug)]
pub struct Segments<'a> {
    memory: &'a Memory,
    next: u32,
}

impl Iterator for Segments<'_> {
    type Item = (FrameId, Segment);

    #[inline]
    fn next(&mut self) -> Option<(FrameId, Segment)> {
        if self.next == NONE {
            return None;
        }
        let id = FrameId(self.next);
        let segment = self.memory.segments[self.next as usize];
        self.next = segment.next;
        Some((id, segment))
    }
}

#[cfg(test)]
mod tests;
