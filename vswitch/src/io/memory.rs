//! A worker's memory: one area cut into equal chunks, and the book that says where each chunk is.
//!
//! A frame is a chain of chunks (one at an MTU of 1500, up to three at 9000). The book has one byte per chunk; it is what the
//! census counts and what makes double use visible: a chunk changes place only through the methods here. Owner: one worker.
#![allow(unsafe_code)]

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
    /// Offset of the first byte in the area.
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
    base: NonNull<u8>,
    chunk_size: u32,
    segments: Vec<Segment>,
    places: Vec<Place>,
    free: Vec<u32>,
    _backing: Box<dyn Backing>,
}

// SAFETY: `base` points into `_backing`, which is Send and moves along; nothing else in this process touches the area.
unsafe impl Send for Memory {}

impl std::fmt::Debug for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Memory").field("chunks", &self.places.len()).field("free", &self.free.len()).finish()
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
        assert!(chunk_size > HEADROOM && u64::from(chunks) * u64::from(chunk_size) < u64::from(u32::MAX));
        let segments =
            (0..chunks).map(|c| Segment { addr: c * chunk_size + HEADROOM, len: 0, next: NONE }).collect();
        Memory {
            base,
            chunk_size,
            segments,
            places: vec![Place::Free; chunks as usize],
            free: (0..chunks).rev().collect(),
            _backing: backing,
        }
    }

    pub fn chunks(&self) -> usize {
        self.places.len()
    }

    pub fn bytes(&self) -> u64 {
        self.places.len() as u64 * u64::from(self.chunk_size)
    }

    pub fn free_len(&self) -> usize {
        self.free.len()
    }

    /// What one chunk holds of a frame.
    pub fn chunk_capacity(&self) -> usize {
        (self.chunk_size - HEADROOM) as usize
    }

    /// A chunk to write an answer into.
    #[inline]
    pub fn allocate(&mut self) -> Option<FrameId> {
        let chunk = self.free.pop()?;
        debug_assert_eq!(self.places[chunk as usize], Place::Free);
        self.places[chunk as usize] = Place::Hand;
        self.segments[chunk as usize] =
            Segment { addr: chunk * self.chunk_size + HEADROOM, len: 0, next: NONE };
        Some(FrameId(chunk))
    }

    /// Gives a whole frame back to the free list.
    #[inline]
    pub fn release(&mut self, frame: FrameId) {
        let mut chunk = frame.0;
        while chunk != NONE {
            debug_assert_ne!(self.places[chunk as usize], Place::Free, "chunk {chunk} freed twice");
            self.places[chunk as usize] = Place::Free;
            self.free.push(chunk);
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
    pub fn take_for_receive(&mut self) -> Option<FrameId> {
        let chunk = self.free.pop()?;
        self.places[chunk as usize] = Place::Receiving;
        Some(FrameId(chunk))
    }

    /// Takes what the kernel received. `None` when it names a chunk it was not given, which must never happen.
    #[inline]
    pub fn received(&mut self, addr: u64, len: u32) -> Option<FrameId> {
        let chunk = u32::try_from(addr / u64::from(self.chunk_size)).ok()?;
        let place = self.places.get_mut(chunk as usize)?;
        let offset = addr as u32 - chunk * self.chunk_size;
        if *place != Place::Receiving || offset.checked_add(len)? > self.chunk_size {
            return None;
        }
        *place = Place::Hand;
        self.segments[chunk as usize] = Segment { addr: addr as u32, len, next: NONE };
        Some(FrameId(chunk))
    }

    /// Takes back one chunk that the kernel has sent.
    #[inline]
    pub fn sent(&mut self, addr: u64) -> Option<FrameId> {
        let chunk = u32::try_from(addr / u64::from(self.chunk_size)).ok()?;
        if *self.places.get(chunk as usize)? != Place::Transmitting {
            return None;
        }
        self.places[chunk as usize] = Place::Free;
        self.free.push(chunk);
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
            std::slice::from_raw_parts(self.base.as_ptr().add(segment.addr as usize), segment.len as usize)
        }
    }

    #[inline]
    pub fn head_mut(&mut self, frame: FrameId) -> &mut [u8] {
        let segment = self.segments[frame.0 as usize];
        debug_assert_eq!(self.places[frame.0 as usize], Place::Hand);
        // SAFETY: as in `head`; `&mut self` makes the slice the only one.
        unsafe {
            std::slice::from_raw_parts_mut(
                self.base.as_ptr().add(segment.addr as usize),
                segment.len as usize,
            )
        }
    }

    /// Two different frames at once: an original to read, and all the room of a fresh chunk to write an answer into;
    /// [`Memory::set_len`] then says how much was written.
    pub fn head_and_space(&mut self, read: FrameId, write: FrameId) -> (&[u8], &mut [u8]) {
        let capacity = self.chunk_capacity() as u32;
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
                std::slice::from_raw_parts(self.base.as_ptr().add(source.addr as usize), source.len as usize),
                std::slice::from_raw_parts_mut(
                    self.base.as_ptr().add(target.addr as usize),
                    target.len as usize,
                ),
            )
        }
    }

    /// Says how long a single-chunk frame is. More than a chunk holds is a bug.
    pub fn set_len(&mut self, frame: FrameId, len: u32) {
        let segment = &mut self.segments[frame.0 as usize];
        assert!(segment.addr % self.chunk_size + len <= self.chunk_size, "frame longer than its chunk");
        segment.len = len;
        segment.next = NONE;
    }

    /// A frame of `len` bytes to write, over as many chunks as it takes, all but the last full. `None` when there are not
    /// enough: nothing is lost.
    pub fn allocate_chain(&mut self, len: usize) -> Option<FrameId> {
        let capacity = self.chunk_capacity();
        if self.free.len() < len.div_ceil(capacity).max(1) {
            return None;
        }
        let first = self.allocate()?;
        self.set_len(first, len.min(capacity) as u32);
        let (mut last, mut left) = (first, len.saturating_sub(capacity));
        while left > 0 {
            let chunk = self.allocate()?;
            self.set_len(chunk, left.min(capacity) as u32);
            self.chain(last, chunk);
            (last, left) = (chunk, left.saturating_sub(capacity));
        }
        Some(first)
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
    pub fn copy_in(&mut self, bytes: &[u8]) -> Option<FrameId> {
        let capacity = self.chunk_capacity();
        if self.free.len() < bytes.len().div_ceil(capacity).max(1) {
            return None;
        }
        let first = self.allocate()?;
        let mut last = first;
        for (i, part) in bytes.chunks(capacity).enumerate() {
            let chunk = if i == 0 { first } else { self.allocate()? };
            self.set_len(chunk, part.len() as u32);
            self.head_mut(chunk).copy_from_slice(part);
            if i > 0 {
                self.chain(last, chunk);
                last = chunk;
            }
        }
        Some(first)
    }

    /// How many chunks are in each place (order: as [`Place`]), and the addresses of those the free list contradicts.
    pub fn count(&self) -> ([usize; 5], Vec<u64>) {
        let mut counts = [0; 5];
        for place in &self.places {
            counts[*place as usize] += 1;
        }
        let mut on_free_list = vec![0u8; self.places.len()];
        for chunk in &self.free {
            on_free_list[*chunk as usize] = on_free_list[*chunk as usize].saturating_add(1);
        }
        let wrong = (0..self.places.len())
            .filter(|&c| on_free_list[c] != u8::from(self.places[c] == Place::Free))
            .map(|c| c as u64 * u64::from(self.chunk_size))
            .collect();
        (counts, wrong)
    }

    /// After a socket is gone: what was with the kernel is ours again. Returns how many chunks came home.
    pub fn reclaim_from_kernel(&mut self) -> usize {
        let mut home = 0;
        for chunk in 0..self.places.len() {
            if matches!(self.places[chunk], Place::Receiving | Place::Transmitting) {
                self.places[chunk] = Place::Free;
                self.free.push(chunk as u32);
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
mod tests {
    use super::*;

    #[test]
    fn a_long_frame_spans_chunks_and_comes_back_whole() {
        let mut memory = Memory::private(8, 2048).unwrap();
        let bytes: Vec<u8> = (0..5000).map(|i| i as u8).collect();
        let frame = memory.copy_in(&bytes).unwrap();
        assert_eq!(memory.len(frame), 5000);
        assert_eq!(memory.segments(frame).count(), 3);
        let mut out = vec![0; 5000];
        assert_eq!(memory.copy_out(frame, &mut out), 5000);
        assert_eq!(out, bytes);
        assert_eq!(memory.free_len(), 5);
        memory.release(frame);
        assert_eq!(memory.count(), ([8, 0, 0, 0, 0], vec![]));
    }

    #[test]
    fn a_chunk_the_kernel_was_not_given_is_refused() {
        let mut memory = Memory::private(4, 2048).unwrap();
        assert_eq!(memory.received(256, 64), None, "chunk 0 was free");
        let chunk = memory.take_for_receive().unwrap();
        assert_eq!(memory.received(99 * 2048, 64), None, "beyond the area");
        assert_eq!(memory.received(256, 2000), None, "beyond the chunk");
        assert_eq!(memory.received(256, 64), Some(chunk));
        assert_eq!(memory.received(256, 64), None, "received twice");
    }
}
