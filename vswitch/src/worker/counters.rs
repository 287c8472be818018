//! What a worker counts. Written by that worker alone, read by anyone at any time.
//!
//! One writer per cell, so an increment is a load and a store, not a locked instruction.

use penstock_api::{DropReason, PortId};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A counter with one writer.
#[derive(Debug, Default)]
pub struct Cell(AtomicU64);

impl Cell {
    /// Only the owning worker may call this.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    pub fn set(&self, n: u64) {
        self.0.store(n, Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// One port, as one worker saw it.
#[derive(Debug)]
pub struct PortCounters {
    /// From the port into the switch.
    pub rx_frames: Cell,
    pub rx_bytes: Cell,
    /// Out of the switch to the port.
    pub tx_frames: Cell,
    pub tx_bytes: Cell,
    /// Frames that came from this port and were dropped; for `tx_full`, and `port_gone` on the way out, those that should have
    /// left by it. Index: `DropReason as usize`.
    pub drops: [Cell; DropReason::COUNT],
    /// Frames that this port's own policy refused, whichever port they came from: those for it, and those of its own.
    /// Index: `Direction as usize`.
    pub refused: [Cell; 2],
}

impl Default for PortCounters {
    fn default() -> Self {
        PortCounters {
            rx_frames: Cell::default(),
            rx_bytes: Cell::default(),
            tx_frames: Cell::default(),
            tx_bytes: Cell::default(),
            drops: std::array::from_fn(|_| Cell::default()),
            refused: Default::default(),
        }
    }
}

/// All of one worker's counters.
#[derive(Debug)]
pub struct Counters {
    ports: Box<[PortCounters]>,
    /// Snapshot serial this worker runs.
    pub serial: Cell,
    /// Policy generation this worker runs.
    pub generation: Cell,
    /// Frames received from devices, of all ports.
    pub received: Cell,
    pub rounds: Cell,
    pub busy_rounds: Cell,
    pub cache_hits: Cell,
    pub cache_misses: Cell,
    pub handed_over: Cell,
    /// Frames the worker made itself: answers, and all pieces but one of a frame it split. So that
    /// received + originated = transmitted + dropped + held, hand-overs standing on neither side.
    pub originated: Cell,
    pub flows: Cell,
    pub flows_max: Cell,
    pub rebinds: Cell,
    pub syscalls: Cell,
    pub umem_bytes: Cell,
    /// Of it, in the area of sockets that do not copy.
    pub umem_zero_copy_bytes: Cell,
    /// Frames sent by the trunk.
    pub trunk_sent: Cell,
    /// Frames that found no room in sockets which were bound anew since.
    pub lost_earlier: Cell,
    /// Frames that left by a port of another area than they came by.
    pub area_copies: Cell,
}

impl Counters {
    pub fn new(ports_max: usize) -> Self {
        Counters {
            ports: (0..ports_max).map(|_| PortCounters::default()).collect(),
            serial: Cell::default(),
            generation: Cell::default(),
            received: Cell::default(),
            rounds: Cell::default(),
            busy_rounds: Cell::default(),
            cache_hits: Cell::default(),
            cache_misses: Cell::default(),
            handed_over: Cell::default(),
            originated: Cell::default(),
            flows: Cell::default(),
            flows_max: Cell::default(),
            rebinds: Cell::default(),
            syscalls: Cell::default(),
            umem_bytes: Cell::default(),
            umem_zero_copy_bytes: Cell::default(),
            trunk_sent: Cell::default(),
            lost_earlier: Cell::default(),
            area_copies: Cell::default(),
        }
    }

    /// Ports beyond the table share the host's row: never lost, never out of bounds.
    #[inline]
    pub fn port(&self, port: PortId) -> &PortCounters {
        self.ports.get(port.index()).unwrap_or(&self.ports[0])
    }

    pub fn ports(&self) -> impl Iterator<Item = (PortId, &PortCounters)> {
        self.ports.iter().enumerate().map(|(i, c)| (PortId(i as u16), c))
    }

    #[inline]
    pub fn drop_frame(&self, port: PortId, reason: DropReason) {
        self.port(port).drops[reason as usize].add(1);
    }
}
