//! Flow records in memory that outlives the process: a file of one header page and an array of [`Entry`], mapped.
//!
//! The only file of `flow/` that maps memory. What it promises the rest: a slice of records of fixed length whose every byte is
//! backed (the file's blocks are allocated before it is mapped, so that a full file system is an error at start and not SIGBUS
//! later) and that nobody else writes. The last rests on the mode 0600, on the owner check, and on the instance's lock,
//! which keeps a second switch away.
#![allow(unsafe_code)]

use super::conntrack::Entry;
use super::huge::{self, HUGE_PAGE_LEN};
use nix::fcntl::posix_fallocate;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};
use std::ffi::c_void;
use std::fs::{File, OpenOptions};
use std::io;
use std::num::NonZeroUsize;
use std::ops::{Deref, DerefMut};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::ptr::NonNull;

/// One page: records begin aligned.
const HEADER_LEN: usize = 4096;
const MAGIC: u64 = u64::from_be_bytes(*b"PSTKFLOW");
/// Changes whenever the meaning of a record does.
const LAYOUT: u32 = 2;
const RECORDS_MAX: usize = 1 << 29;

/// The array of records of one table.
#[derive(Debug)]
pub(super) struct Records {
    /// `HEADER_LEN + len * size_of::<Entry>()` bytes.
    map: Map,
    len: usize,
}

/// Memory that begins where a huge page may: the kernel backs nothing with huge pages that lies otherwise in its file.
#[derive(Debug)]
struct Map {
    /// What was reserved, of which some is in use.
    reserved: NonNull<c_void>,
    reserved_len: usize,
    start: NonNull<u8>,
}

// SAFETY: it owns its memory as a `Vec` does, and gives it out by reference only.
unsafe impl Send for Map {}
// SAFETY: as above.
unsafe impl Sync for Map {}

impl Map {
    /// `len` bytes of the file, shared; or zeroed private ones.
    ///
    /// # Safety
    /// As long as it lives nobody else changes the file or makes it shorter.
    unsafe fn new(file: Option<&File>, len: usize) -> io::Result<Map> {
        let size = |len: usize| NonZeroUsize::new(len).ok_or(io::ErrorKind::InvalidInput);
        let reserved_len = len.next_multiple_of(HUGE_PAGE_LEN) + HUGE_PAGE_LEN;
        let (private, both) = (MapFlags::MAP_PRIVATE, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE);
        // SAFETY: new memory, at an address of the kernel's choice.
        let reserved = unsafe {
            mmap_anonymous(None, size(reserved_len)?, ProtFlags::PROT_NONE, private | MapFlags::MAP_NORESERVE)
        }?;
        let at = (reserved.as_ptr() as usize).next_multiple_of(HUGE_PAGE_LEN);
        let (address, fixed) = (Some(size(at)?), MapFlags::MAP_FIXED);
        // SAFETY: what is replaced is ours, reserved above, and nobody has seen it: from `at` on at least `len` bytes are left of it.
        let start = unsafe {
            match file {
                Some(file) => mmap(address, size(len)?, both, MapFlags::MAP_SHARED | fixed, file, 0),
                None => mmap_anonymous(address, size(len)?, both, private | fixed),
            }
        };
        // On failure nothing is given back: whether the kernel had taken some of it away before, and somebody else has it, is not known.
        let start = start?.cast();
        huge::advise(at, len);
        if file.is_some() {
            // Its blocks are there, as small pages.
            huge::collapse(at, len);
        }
        Ok(Map { reserved, reserved_len, start })
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: what `new` reserved; every reference into it has borrowed `self`.
        let _ = unsafe { munmap(self.reserved, self.reserved_len) };
    }
}

fn bytes_for(records: usize) -> io::Result<usize> {
    if records == 0 || records >= RECORDS_MAX {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "the number of flows must be between 1 and 2^29",
        ));
    }
    Ok(HEADER_LEN + records * size_of::<Entry>())
}

impl Records {
    /// Zeroed private memory.
    pub(super) fn private(len: usize) -> io::Result<Self> {
        // SAFETY: there is no file.
        let map = unsafe { Map::new(None, bytes_for(len)?) }?;
        Ok(Records { map, len })
    }

    /// A new file of zeroed records; replaces what is there. The header is written last: a file without it is nobody's.
    pub(super) fn create(path: &Path, len: usize, boot: &[u8; 16]) -> io::Result<Self> {
        let bytes = bytes_for(len)?;
        match std::fs::remove_file(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let file = options().create_new(true).mode(0o600).open(path)?;
        posix_fallocate(&file, 0, bytes as i64)?;
        let mut records = Self::over(&file, len, bytes)?;
        records.header_mut().copy_from_slice(&header(len, boot));
        Ok(records)
    }

    /// A file left by an earlier process of this boot; `None` when there is none, or it is not one of ours.
    pub(super) fn open(path: &Path, boot: &[u8; 16]) -> io::Result<Option<Self>> {
        let file = match options().open(path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        let metadata = file.metadata()?;
        if !metadata.is_file()
            || metadata.uid() != nix::unistd::geteuid().as_raw()
            || metadata.mode() & 0o077 != 0
        {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                "it is not a file that only this user can read and write; remove it",
            ));
        }
        let Some(len) = read_header(&file, boot)? else { return Ok(None) };
        let bytes = bytes_for(len)?;
        if metadata.len() != bytes as u64 {
            return Ok(None);
        }
        // A sparse file has our length without our memory.
        posix_fallocate(&file, 0, bytes as i64)?;
        Ok(Some(Self::over(&file, len, bytes)?))
    }

    fn over(file: &File, len: usize, bytes: usize) -> io::Result<Self> {
        // SAFETY: a mapping is sound while nobody else changes or truncates the file. `create` and `open` let only this
        // user at it, and the instance's lock lets only one switch of this user.
        let map = unsafe { Map::new(Some(file), bytes) }?;
        Ok(Records { map, len })
    }

    fn header_mut(&mut self) -> &mut [u8] {
        // SAFETY: the map is longer than its header, and exclusively borrowed.
        unsafe { std::slice::from_raw_parts_mut(self.map.start.as_ptr(), HEADER_LEN) }
    }
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC);
    options
}

/// Magic, layout, size of a record, number of records, boot; then zeroes.
fn header(records: usize, boot: &[u8; 16]) -> [u8; HEADER_LEN] {
    let mut bytes = [0; HEADER_LEN];
    bytes[..8].copy_from_slice(&MAGIC.to_le_bytes());
    bytes[8..12].copy_from_slice(&LAYOUT.to_le_bytes());
    bytes[12..16].copy_from_slice(&(size_of::<Entry>() as u32).to_le_bytes());
    bytes[16..24].copy_from_slice(&(records as u64).to_le_bytes());
    bytes[24..40].copy_from_slice(boot);
    bytes
}

/// The number of records, when the file is one of ours, of this layout and of this boot.
fn read_header(file: &File, boot: &[u8; 16]) -> io::Result<Option<usize>> {
    use std::os::unix::fs::FileExt;
    let mut found = [0; HEADER_LEN];
    match file.read_exact_at(&mut found, 0) {
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    }
    let records = u64::from_le_bytes(found[16..24].try_into().expect("eight bytes")) as usize;
    let ours = bytes_for(records).is_ok() && found == header(records, boot);
    Ok(ours.then_some(records))
}

impl Deref for Records {
    type Target = [Entry];

    #[inline]
    fn deref(&self) -> &[Entry] {
        // SAFETY: `map` is `HEADER_LEN + len * size_of::<Entry>()` bytes long (`private`, `create` and `open` compute it with
        // `bytes_for`) and begins on a page, so the records are in bounds and aligned. `Entry` consists of integers and has no
        // padding: every bit pattern is one. The borrow of `self` keeps the mapping and excludes writers.
        unsafe {
            std::slice::from_raw_parts(self.map.start.as_ptr().add(HEADER_LEN).cast::<Entry>(), self.len)
        }
    }
}

impl DerefMut for Records {
    #[inline]
    fn deref_mut(&mut self) -> &mut [Entry] {
        // SAFETY: as above; the exclusive borrow of `self` excludes readers too.
        unsafe {
            std::slice::from_raw_parts_mut(self.map.start.as_ptr().add(HEADER_LEN).cast::<Entry>(), self.len)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes of the mapping that begins here which huge pages back.
    fn on_huge_pages(start: usize) -> usize {
        let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mapping = smaps.lines().skip_while(|line| !line.starts_with(&format!("{start:x}-")));
        let line = mapping.skip(1).find_map(|line| line.strip_prefix("ShmemPmdMapped:")).unwrap();
        1024 * line.trim().trim_end_matches(" kB").parse::<usize>().unwrap()
    }

    #[test]
    fn a_file_of_records_in_shared_memory_lies_on_huge_pages_if_the_kernel_has_some() {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let (path, boot, len) = (dir.path().join("flows"), [7; 16], 30_000);
        drop(Records::create(&path, len, &boot).unwrap());
        assert_eq!(std::fs::metadata(&path).unwrap().len() as usize, bytes_for(len).unwrap());
        let records = Records::open(&path, &boot).unwrap().unwrap();
        assert!(records.iter().all(|entry| !entry.is_live()));
        let start = records.map.start.as_ptr() as usize;
        assert_eq!(start % HUGE_PAGE_LEN, 0);
        let huge = on_huge_pages(start);
        if !huge::collapse(start, bytes_for(len).unwrap()) {
            return eprintln!("NOT SHOWN: this kernel puts no file on huge pages, or has none left");
        }
        assert_eq!(huge, bytes_for(len).unwrap() / HUGE_PAGE_LEN * HUGE_PAGE_LEN);
    }

    #[test]
    fn a_file_of_records_is_found_again_in_the_same_boot_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("flows");
        drop(Records::create(&path, 100, &[7; 16]).unwrap());
        assert_eq!(Records::open(&path, &[7; 16]).unwrap().unwrap().len(), 100);
        assert!(Records::open(&path, &[8; 16]).unwrap().is_none());
    }
}
