//! The layouts shared with the programs (`bpf/penstock.h`), and the one map that is memory: the rounds.
#![allow(unsafe_code)]

use super::shortcut::Seeds;
use penstock_api::WorkerId;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};

pub const WORKERS_MAX: usize = 16;
pub const PORTS_MAX: usize = 1024;
pub const PORT_GUESSES: u32 = 4096;
pub const PORT_ADDRESSES_MAX: usize = 4;
/// Slots of the socket map: workers' trunks, direct ports, and the last for counting what is for none.
pub const XSKS_MAX: usize = 64;
pub const DIRECT_MAX: usize = XSKS_MAX - WORKERS_MAX - 1;
/// Marks a queue of a direct port.
pub const QUEUE_DIRECT: u32 = 1 << 31;

/// `struct port`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct PortEntry {
    /// See [`Epochs`](super::shortcut::Epochs), whose it is.
    pub epoch: u64,
    /// Of the host end; of a direct port, that of `penstock0`'s inner end.
    pub ifindex: u32,
    pub mtu: u16,
    pub(super) flags: u16,
    pub mac: [u8; 6],
    pub v4_len: u8,
    pub v6_len: u8,
    pub v4: [[u8; 4]; PORT_ADDRESSES_MAX],
    pub v6: [[u8; 16]; PORT_ADDRESSES_MAX],
    /// The interface of a direct port, in the host's namespace.
    pub nic: u32,
    pub(super) zero: u32,
    pub(super) unused: [u64; 2],
}

const PORT_DIRECT: u16 = 1;

/// `struct settings`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Settings {
    pub workers: u32,
    pub trunk_ifindex: [u32; WORKERS_MAX],
    /// Of `penstock0`, in the host's namespace.
    pub outer_ifindex: u32,
    /// Of the shortcut's hash.
    pub seeds: Seeds,
}

/// `struct queue_key`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct QueueKey {
    pub ifindex: u32,
    pub queue: u32,
}

// SAFETY: `repr(C)`, integers only, no padding (see the test), valid for every bit pattern.
unsafe impl aya::Pod for PortEntry {}
// SAFETY: as above.
unsafe impl aya::Pod for Settings {}
// SAFETY: as above.
unsafe impl aya::Pod for QueueKey {}

impl PortEntry {
    /// `Err` when it has more addresses of a family than the programs can check.
    pub fn new(ifindex: u32, mtu: u16, mac: [u8; 6], addresses: &[IpAddr]) -> Result<PortEntry, String> {
        let mut entry = PortEntry { ifindex, mtu, mac, ..PortEntry::default() };
        for address in addresses {
            let full = || {
                format!(
                    "a port can have {PORT_ADDRESSES_MAX} addresses of a family, {address} is one too many"
                )
            };
            match address {
                IpAddr::V4(v4) => {
                    *entry.v4.get_mut(usize::from(entry.v4_len)).ok_or_else(full)? = v4.octets();
                    entry.v4_len += 1;
                }
                IpAddr::V6(v6) => {
                    *entry.v6.get_mut(usize::from(entry.v6_len)).ok_or_else(full)? = v6.octets();
                    entry.v6_len += 1;
                }
            }
        }
        Ok(entry)
    }

    /// The same as that of a direct port on the interface `nic`.
    #[must_use]
    pub fn on_nic(self, nic: u32) -> PortEntry {
        PortEntry { nic, flags: self.flags | PORT_DIRECT, ..self }
    }

    pub fn is_direct(&self) -> bool {
        self.flags & PORT_DIRECT != 0
    }
}

/// `enum port_counter`, as far as it counts drops.
pub const PORT_COUNTERS: u32 = 8;
/// `enum queue_counter`.
pub const QUEUE_COUNTERS: u32 = 4;

/// The rounds map, mapped: one store by a worker refills every port's budget with that worker.
#[derive(Debug)]
pub struct Rounds(memmap2::MmapMut);

impl Rounds {
    pub fn map(fd: impl AsFd) -> std::io::Result<Rounds> {
        let fd = fd.as_fd();
        let raw = std::os::fd::AsRawFd::as_raw_fd(&fd);
        // SAFETY: the map is BPF_F_MMAPABLE and WORKERS_MAX * 8 bytes long, rounded up to a page by the kernel; programs read
        // what we store through atomics, nobody else writes.
        let map = unsafe { memmap2::MmapOptions::new().len(WORKERS_MAX * 8).map_mut(raw) }?;
        Ok(Rounds(map))
    }

    /// Begins round `number` of a worker: each port may send it `quota` frames until the next one.
    #[inline]
    pub fn begin(&self, worker: WorkerId, number: u32, quota: u32) {
        let cell = self.0.as_ptr().cast::<AtomicU64>();
        debug_assert!(worker.index() < WORKERS_MAX);
        // SAFETY: the mapping is page-aligned and holds WORKERS_MAX cells of 8 bytes; `struct round` is number then quota,
        // which is this u64 on a little-endian machine (checked below). Shared with programs, hence atomic.
        let cell = unsafe { &*cell.add(worker.index() % WORKERS_MAX) };
        cell.store(u64::from(number) | u64::from(quota) << 32, Ordering::Relaxed);
    }
}

const _: () = assert!(
    cfg!(target_endian = "little"),
    "the layout of struct round is written for little-endian machines"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_have_the_sizes_of_the_header() {
        assert_eq!(size_of::<PortEntry>(), 128, "whole lines");
        assert_eq!(size_of::<Settings>(), 4 + 4 * WORKERS_MAX + 4 + 80);
        assert_eq!(size_of::<QueueKey>(), 8);
    }

    #[test]
    fn a_fifth_address_of_a_family_is_refused() {
        let addresses: Vec<IpAddr> = (1..=5).map(|i| IpAddr::from([10, 0, 0, i])).collect();
        assert!(PortEntry::new(1, 1500, [0; 6], &addresses).unwrap_err().contains("10.0.0.5"));
        assert!(PortEntry::new(1, 1500, [0; 6], &addresses[..4]).is_ok());
    }
}
