//! Counters of ports, over workers and over time.
//!
//! A worker counts by slot, and slots are used again. What a slot counted for its earlier owners is set aside when they
//! leave, so that a new owner begins at nought and no drop is ever forgotten: what has no owner any more is reported without one.

use crate::worker::counters::Counters;
use penstock_api::{DropReason, PortId};
use std::collections::HashMap;
use std::sync::Arc;

/// What one port counted, over all workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sums {
    pub(crate) rx_frames: u64,
    pub(crate) rx_bytes: u64,
    pub(crate) tx_frames: u64,
    pub(crate) tx_bytes: u64,
    pub(crate) drops: [u64; DropReason::COUNT],
    /// Index: `Direction as usize`.
    pub(crate) refused: [u64; 2],
}

impl Default for Sums {
    fn default() -> Self {
        Sums {
            rx_frames: 0,
            rx_bytes: 0,
            tx_frames: 0,
            tx_bytes: 0,
            drops: [0; DropReason::COUNT],
            refused: [0; 2],
        }
    }
}

impl Sums {
    fn of(workers: &[Arc<Counters>], port: PortId) -> Sums {
        let mut sums = Sums::default();
        for worker in workers {
            let counters = worker.port(port);
            sums.rx_frames += counters.rx_frames.get();
            sums.rx_bytes += counters.rx_bytes.get();
            sums.tx_frames += counters.tx_frames.get();
            sums.tx_bytes += counters.tx_bytes.get();
            for (sum, cell) in sums.refused.iter_mut().zip(&counters.refused) {
                *sum += cell.get();
            }
            for (sum, cell) in sums.drops.iter_mut().zip(&counters.drops) {
                *sum += cell.get();
            }
        }
        sums
    }

    fn since(&self, earlier: &Sums) -> Sums {
        Sums {
            rx_frames: self.rx_frames.saturating_sub(earlier.rx_frames),
            rx_bytes: self.rx_bytes.saturating_sub(earlier.rx_bytes),
            tx_frames: self.tx_frames.saturating_sub(earlier.tx_frames),
            tx_bytes: self.tx_bytes.saturating_sub(earlier.tx_bytes),
            drops: std::array::from_fn(|i| self.drops[i].saturating_sub(earlier.drops[i])),
            refused: std::array::from_fn(|i| self.refused[i].saturating_sub(earlier.refused[i])),
        }
    }

    pub(crate) fn dropped(&self) -> u64 {
        self.drops.iter().sum()
    }
}

/// Drops by port and reason, as the kernel side reports them.
pub(crate) type KernelDrops = [(Option<PortId>, DropReason, u64)];

#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// What a slot had counted when its present owner took it over.
    before: HashMap<PortId, Sums>,
    carried_before: HashMap<PortId, Sums>,
    kernel_before: HashMap<(PortId, DropReason), u64>,
}

impl Tally {
    /// The slot changes hands: what workers have counted so far is not its next owner's.
    pub(crate) fn turn_over(&mut self, workers: &[Arc<Counters>], port: PortId) {
        self.before.insert(port, Sums::of(workers, port));
    }

    /// The same for what the kernel carried by itself, which `turn_over` is told among the workers.
    pub(crate) fn turn_over_carried(&mut self, carried: &[Arc<Counters>], port: PortId) {
        self.carried_before.insert(port, Sums::of(carried, port));
    }

    /// What the kernel carried of the present owner of a slot.
    pub(crate) fn carried(&self, carried: &[Arc<Counters>], port: PortId) -> Sums {
        let sums = Sums::of(carried, port);
        self.carried_before.get(&port).map_or(sums, |before| sums.since(before))
    }

    /// The same for what the kernel has counted. It speaks of attached ports only, so this is said just before one is
    /// detached, and again just after one is attached.
    pub(crate) fn turn_over_kernel(&mut self, kernel: &KernelDrops, port: PortId) {
        for &(of, reason, frames) in kernel {
            if of == Some(port) {
                self.kernel_before.insert((port, reason), frames);
            }
        }
    }

    /// What the present owner of a slot counted. Without the kernel's part.
    pub(crate) fn port(&self, workers: &[Arc<Counters>], port: PortId) -> Sums {
        let sums = Sums::of(workers, port);
        self.before.get(&port).map_or(sums, |before| sums.since(before))
    }

    /// What the kernel dropped of a port's present owner.
    pub(crate) fn kernel_drops(&self, kernel: &KernelDrops, port: PortId) -> u64 {
        kernel.iter().filter(|(of, ..)| *of == Some(port)).map(|row| self.kernel_row(row)).sum()
    }

    fn kernel_row(&self, &(port, reason, frames): &(Option<PortId>, DropReason, u64)) -> u64 {
        let before = port.and_then(|port| self.kernel_before.get(&(port, reason))).copied().unwrap_or(0);
        frames.saturating_sub(before)
    }

    /// Every drop there was, by present owner (`None`: an earlier one, or the kernel does not say) and reason. Sorted, no
    /// noughts. `is_owned`: does somebody have this port now?
    pub(crate) fn drops(
        &self,
        workers: &[Arc<Counters>],
        kernel: &KernelDrops,
        is_owned: impl Fn(PortId) -> bool,
    ) -> Vec<(Option<PortId>, DropReason, u64)> {
        let mut all: HashMap<(Option<PortId>, DropReason), u64> = HashMap::new();
        let mut add = |port, reason, frames: u64| {
            if frames > 0 {
                *all.entry((port, reason)).or_default() += frames;
            }
        };
        let ports = workers.first().map_or(0, |worker| worker.ports().count());
        for port in (0..ports).map(|i| PortId(i as u16)) {
            let ever = Sums::of(workers, port);
            let now = self.port(workers, port);
            for &reason in DropReason::ALL {
                let (ever, now) = (ever.drops[reason as usize], now.drops[reason as usize]);
                match is_owned(port) {
                    true => {
                        add(Some(port), reason, now);
                        add(None, reason, ever - now);
                    }
                    false => add(None, reason, ever),
                }
            }
        }
        for row @ &(port, reason, _) in kernel {
            add(port.filter(|&port| is_owned(port)), reason, self.kernel_row(row));
        }
        // Also of slots the kernel does not speak of now.
        for (&(_, reason), &before) in &self.kernel_before {
            add(None, reason, before);
        }
        let mut rows: Vec<_> =
            all.into_iter().map(|((port, reason), frames)| (port, reason, frames)).collect();
        rows.sort_by_key(|&(port, reason, _)| (port.is_none(), port, reason));
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PORT: PortId = PortId(2);

    #[test]
    fn a_new_owner_begins_at_nought_and_no_drop_is_forgotten() {
        let worker = Arc::new(Counters::new(4));
        let workers = [worker.clone()];
        let mut tally = Tally::default();
        worker.port(PORT).rx_frames.add(10);
        worker.drop_frame(PORT, DropReason::Spoofed);
        let kernel = [(Some(PORT), DropReason::Budget, 5), (None, DropReason::TrunkFull, 7)];
        tally.turn_over(&workers, PORT);
        tally.turn_over_kernel(&kernel, PORT);
        assert_eq!(tally.port(&workers, PORT), Sums::default());

        worker.port(PORT).rx_frames.add(1);
        worker.drop_frame(PORT, DropReason::Spoofed);
        worker.drop_frame(PORT, DropReason::Spoofed);
        let kernel = [(Some(PORT), DropReason::Budget, 6), (None, DropReason::TrunkFull, 7)];
        assert_eq!(tally.port(&workers, PORT).rx_frames, 1);
        assert_eq!(tally.kernel_drops(&kernel, PORT), 1);
        assert_eq!(
            tally.drops(&workers, &kernel, |port| port == PORT),
            [
                (Some(PORT), DropReason::Spoofed, 2),
                (Some(PORT), DropReason::Budget, 1),
                (None, DropReason::Spoofed, 1),
                (None, DropReason::Budget, 5),
                (None, DropReason::TrunkFull, 7),
            ]
        );
        let nobody = |kernel: &KernelDrops| -> u64 {
            tally
                .drops(&workers, kernel, |_| false)
                .iter()
                .map(|(port, _, frames)| {
                    assert_eq!(*port, None);
                    frames
                })
                .sum()
        };
        assert_eq!(nobody(&kernel), 3 + 6 + 7);
        assert_eq!(nobody(&kernel[1..]), 3 + 5 + 7, "the kernel forgot the port, and we did not");
    }
}
