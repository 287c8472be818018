//! The timer wheel: one second per slot, a little over two hours round, every flow in one slot.
//!
//! A packet does not move its flow: it writes the time. When the wheel comes to a flow, it looks at that time and puts the flow
//! where it is due now. So a flow costs the wheel one visit per timeout, not per packet. Deadlines beyond the horizon wait at it.

use super::super::list::Lists;
use super::super::{huge, prefetch::prefetch};

pub(super) const TICK_MS: u64 = 1_000;
const SLOTS: u64 = 8_192;

#[derive(Debug)]
pub(super) struct Wheel {
    slots: Lists,
    /// The slot each flow is in, plus one; 0 for none.
    slot_of: Vec<u16>,
    /// The tick to be looked at next.
    cursor: u64,
}

impl Wheel {
    pub(super) fn new(flows_max: usize, now_ms: u64) -> Self {
        Wheel {
            slots: Lists::new(SLOTS as usize, flows_max),
            slot_of: huge::table(0, flows_max),
            cursor: now_ms / TICK_MS,
        }
    }

    /// Asks for what scheduling this flow will write, or read to undo it.
    #[inline]
    pub(super) fn prefetch(&self, flow: u32) {
        self.slots.prefetch(flow);
        prefetch(&self.slot_of[flow as usize]);
    }

    /// Second pass: asks for what else unscheduling this flow will write.
    #[inline]
    pub(super) fn prefetch_neighbours(&self, flow: u32) {
        self.slots.prefetch_neighbours(flow);
    }

    pub(super) fn schedule(&mut self, flow: u32, deadline_ms: u64) {
        // The first tick at which the deadline has passed for certain; never the one being looked at, so that a round ends.
        let tick = (deadline_ms / TICK_MS + 1).clamp(self.cursor + 1, self.cursor + SLOTS - 1);
        let slot = tick % SLOTS;
        self.slots.push_back(slot as usize, flow);
        self.slot_of[flow as usize] = slot as u16 + 1;
    }

    pub(super) fn unschedule(&mut self, flow: u32) {
        if let Some(slot) = std::mem::take(&mut self.slot_of[flow as usize]).checked_sub(1) {
            self.slots.unlink(usize::from(slot), flow);
        }
    }

    /// Flows whose tick has come, as many as there is room for in `due`: returns how many. Each is shown to `seen` as soon as it is
    /// known. The caller takes them out or schedules them anew before asking again.
    pub(super) fn due(&mut self, now_ms: u64, due: &mut [u32], seen: impl Fn(u32)) -> usize {
        let present = now_ms / TICK_MS;
        // One turn shows every flow once; more would show none it has not shown.
        self.cursor = self.cursor.max(present.saturating_sub(SLOTS - 1));
        while self.cursor <= present {
            let mut found = 0;
            let mut flow = self.slots.front((self.cursor % SLOTS) as usize);
            while let (Some(known), Some(place)) = (flow, due.get_mut(found)) {
                prefetch(&self.slot_of[known as usize]);
                seen(known);
                *place = known;
                found += 1;
                flow = self.slots.next(known);
            }
            if found > 0 {
                return found;
            }
            self.cursor += 1;
        }
        0
    }
}
