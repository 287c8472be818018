//! Who installs flows in the kernel, reads back what it carried, and takes them out again.
//!
//! Workers ask ([`Requests`]); one thread decides what there is room for, writes rows, and looks at them from time to time: what
//! was carried goes into the ports' counters and keeps the flow from ageing; what was idle for long, or was judged under policy
//! that is no more, is taken out. None of this decides whether a frame passes: a row is held against its ports' epochs by the
//! programs, and those are stored by the server before anybody is told of the change.
//!
//! A row that was taken out rests before it is read for the last time and given to another flow: a program that found it just
//! before may still be counting. Until then its counts are shown with the flow's; then the worker adds them to its own.

use super::bulk::Loan;
use crate::config::Config;
use crate::flow::{Conntrack, Side};
use crate::io::maps::PORTS_MAX;
use crate::io::shortcut::{CarriedFlow, Epoch, NoRoom, SHORTCUTS_MAX, Table};
use crate::packet::FlowKey;
use crate::worker::counters::Counters;
use crate::worker::mailbox::{Command, Mailbox};
use crate::worker::run::monotonic_ms;
use crate::worker::shortcut::{Carried, Request, Requests};
use penstock_api::PortId;
use penstock_api::message::{DirectShortcut, ShortcutStatus};
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use std::{iter, thread};

/// How often rows are read.
const SWEEP_MS: u64 = 250;
/// A flow that the kernel carried nothing of for this long goes.
const IDLE_MS: u64 = 10_000;
/// How long a row rests. A program takes microseconds.
const REST_MS: u64 = 1_000;
/// Requests dealt with before others get the lock.
const BATCH: usize = 64;
/// After requests. Others gather meanwhile, and their workers wake nobody.
const PAUSE: Duration = Duration::from_millis(1);
/// A port may have this share of all rows by the flows it opened.
const SHARE: usize = 2;
/// Flows of which a worker is told at once.
const TOLD_MAX: usize = 256;

/// A row in use.
#[derive(Debug, Clone)]
struct Row {
    flow: CarriedFlow,
    /// Against the direction of the flow's first packet.
    is_reply: bool,
    /// As last read.
    frames: u64,
    bytes: u64,
    changed_ms: u64,
}

impl Row {
    /// The flow in its first packet's direction.
    fn first(&self) -> CarriedFlow {
        if self.is_reply { self.flow.reversed() } else { self.flow }
    }
}

/// A row that rests.
#[derive(Debug)]
struct Resting {
    slot: u32,
    until_ms: u64,
    row: Row,
}

/// All of it, behind one lock.
#[derive(Debug)]
pub(crate) struct Shortcuts {
    table: Table,
    rows: Vec<Option<Row>>,
    by_key: HashMap<FlowKey, u32>,
    /// Rows that each port holds as a source.
    held: Vec<u32>,
    free: Vec<u32>,
    resting: VecDeque<Resting>,
    is_on: bool,
    /// Direct ports, and what the kernel cannot do for them.
    direct: HashMap<PortId, DirectShortcut>,
    /// Those that are not the kernel's all the time.
    loans: HashMap<PortId, Arc<Loan>>,
    rows_max: usize,
    /// What ports sent and received by the kernel alone, as workers count it.
    counters: Arc<Counters>,
    mailboxes: Vec<Arc<Mailbox>>,
    requests: Arc<Requests>,
    installed: u64,
    overflow: u64,
    frames: u64,
    bytes: u64,
}

pub(crate) fn lock(shortcuts: &Mutex<Shortcuts>) -> MutexGuard<'_, Shortcuts> {
    // Every change leaves rows, index and lists in agreement; a panic elsewhere changes nothing here.
    shortcuts.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shortcuts {
    /// Takes up what an earlier process left. Where the shortcut is off nothing stays.
    pub(crate) fn new(
        config: &Config,
        table: Table,
        mailboxes: Vec<Arc<Mailbox>>,
        requests: Arc<Requests>,
        tables: &[Conntrack],
    ) -> Shortcuts {
        let mut shortcuts = Shortcuts::nothing(config, table, mailboxes, requests);
        let side_of = |key: &FlowKey| {
            let table = tables.get(key.owner(tables.len().max(1)))?;
            table.find(key, table.hash(key)).map(|(_, side)| side)
        };
        shortcuts.adopt(&side_of, monotonic_ms());
        shortcuts
    }

    /// Before anything is taken up.
    fn nothing(
        config: &Config,
        table: Table,
        mailboxes: Vec<Arc<Mailbox>>,
        requests: Arc<Requests>,
    ) -> Shortcuts {
        Shortcuts {
            table,
            rows: vec![None; SHORTCUTS_MAX],
            by_key: HashMap::new(),
            held: vec![0; PORTS_MAX],
            free: Vec::new(),
            resting: VecDeque::new(),
            is_on: config.shortcut == crate::config::Shortcut::On,
            direct: HashMap::new(),
            loans: HashMap::new(),
            rows_max: config.shortcuts_max,
            counters: Arc::new(Counters::new(config.ports_max)),
            mailboxes,
            requests,
            installed: 0,
            overflow: 0,
            frames: 0,
            bytes: 0,
        }
    }

    /// Keeps rows of flows that are known.
    fn adopt(&mut self, side_of: &dyn Fn(&FlowKey) -> Option<Side>, now_ms: u64) {
        for slot in (0..SHORTCUTS_MAX as u32).rev() {
            let flow = self.table.get(slot);
            let side = flow.and_then(|flow| side_of(&flow.key));
            match (flow, side) {
                (Some(flow), Some(side)) if self.is_on && self.table.is_indexed(slot, &flow.key) => {
                    let (frames, bytes) = self.table.carried(slot);
                    let is_reply = side == Side::Reply;
                    self.enter(slot, Row { flow, is_reply, frames, bytes, changed_ms: now_ms });
                }
                (Some(flow), _) => {
                    self.table.take(slot, &flow.key);
                    self.table.forget_carried(slot);
                    self.free.push(slot);
                }
                (None, _) => {
                    self.table.forget_carried(slot);
                    self.free.push(slot);
                }
            }
        }
        self.table.unindex(|slot, key| self.by_key.get(key) == Some(&slot));
        if !self.is_on {
            for port in 0..PORTS_MAX {
                self.table.epochs.set(PortId(port as u16), Epoch::NONE);
            }
        }
    }

    fn enter(&mut self, slot: u32, row: Row) {
        self.by_key.insert(row.flow.key, slot);
        if let Some(held) = self.held.get_mut(row.flow.source.index()) {
            *held += 1;
        }
        self.rows[slot as usize] = Some(row);
    }

    fn obey(&mut self, request: Request, now_ms: u64) {
        match request {
            Request::Carry(flow) => {
                self.carry(flow, false, now_ms);
                self.carry(flow.reversed(), true, now_ms);
            }
            Request::Leave(key) => {
                self.leave(&key, now_ms);
                self.leave(&key.reversed(), now_ms);
            }
        }
    }

    fn carry(&mut self, flow: CarriedFlow, is_reply: bool, now_ms: u64) {
        if !self.is_on || !self.is_current(&flow) || !self.can_carry(&flow) {
            return;
        }
        if let Some(&slot) = self.by_key.get(&flow.key) {
            match &self.rows[slot as usize] {
                Some(row) if row.flow == flow => return,
                _ => self.leave(&flow.key, now_ms),
            }
        }
        // The flow asks again before long.
        if self.loans.get(&flow.target).is_some_and(|loan| !loan.ask(now_ms)) {
            return;
        }
        let share = (self.rows_max / SHARE).max(1) as u32;
        let is_full = self.by_key.len() >= self.rows_max
            || self.held.get(flow.source.index()).is_none_or(|held| *held >= share);
        let Some(slot) = self.free.pop().filter(|_| !is_full) else {
            self.overflow += 1;
            return;
        };
        match self.table.put(slot, &flow) {
            Ok(()) => {
                self.installed += 1;
                self.enter(slot, Row { flow, is_reply, frames: 0, bytes: 0, changed_ms: now_ms });
            }
            Err(NoRoom) => {
                self.overflow += 1;
                self.free.push(slot);
            }
        }
    }

    fn is_current(&self, flow: &CarriedFlow) -> bool {
        self.table.epochs.get(flow.source) == flow.source_epoch
            && self.table.epochs.get(flow.target) == flow.target_epoch
    }

    /// Have the programs a way from the one port to the other?
    fn can_carry(&self, flow: &CarriedFlow) -> bool {
        let can = |port: &PortId, why_not: fn(&DirectShortcut) -> &Option<String>| {
            self.direct.get(port).is_none_or(|direct| why_not(direct).is_none())
        };
        can(&flow.source, |direct| &direct.not_from_it) && can(&flow.target, |direct| &direct.not_to_it)
    }

    pub(super) fn is_on(&self) -> bool {
        self.is_on
    }

    /// These are the direct ports.
    pub(super) fn set_direct(
        &mut self,
        ports: HashMap<PortId, DirectShortcut>,
        loans: HashMap<PortId, Arc<Loan>>,
    ) {
        (self.direct, self.loans) = (ports, loans);
        // What arrived while there was nobody to take it waits in their sockets.
        for slot in self.slots_where(|row| self.direct.contains_key(&row.flow.source)) {
            self.table.begin_anew(slot);
        }
        let without_way = self.slots_where(|row| !self.can_carry(&row.flow));
        self.leave_all(without_way, monotonic_ms());
    }

    fn leave(&mut self, key: &FlowKey, now_ms: u64) {
        let Some(slot) = self.by_key.remove(key) else { return };
        let Some(row) = self.rows[slot as usize].take() else { return };
        self.table.take(slot, key);
        if let Some(held) = self.held.get_mut(row.flow.source.index()) {
            *held -= 1;
        }
        self.resting.push_back(Resting { slot, until_ms: now_ms + REST_MS, row });
    }

    fn leave_all(&mut self, slots: Vec<u32>, now_ms: u64) {
        for slot in slots {
            if let Some(key) = self.rows[slot as usize].as_ref().map(|row| row.flow.key) {
                self.leave(&key, now_ms);
            }
        }
    }

    /// Rows in use: their index knows them, and it is short where few are. A walk through all of [`Shortcuts::rows`] would sweep the
    /// processor's caches clean four times a second.
    fn slots_where(&self, wanted: impl Fn(&Row) -> bool) -> Vec<u32> {
        let of = |slot: &u32| self.rows[*slot as usize].as_ref().is_some_and(&wanted);
        self.by_key.values().copied().filter(of).collect()
    }

    /// Reads every row into the ports' counters. Returns the flows that were not silent.
    fn read(&mut self, now_ms: u64) -> Vec<Carried> {
        let mut alive = Vec::new();
        let mut more = (0, 0);
        let mut read = |slot: u32, row: &mut Row| {
            let (frames, bytes) = self.table.carried(slot);
            if frames == row.frames {
                return false;
            }
            let (more_frames, more_bytes) = (frames.wrapping_sub(row.frames), bytes.wrapping_sub(row.bytes));
            (row.frames, row.bytes, row.changed_ms) = (frames, bytes, now_ms);
            more = (more.0 + more_frames, more.1 + more_bytes);
            let source = self.counters.port(row.flow.source);
            source.rx_frames.add(more_frames);
            source.rx_bytes.add(more_bytes);
            let target = self.counters.port(row.flow.target);
            target.tx_frames.add(more_frames);
            target.tx_bytes.add(more_bytes);
            true
        };
        for &slot in self.by_key.values() {
            if let Some(row) = &mut self.rows[slot as usize]
                && read(slot, row)
            {
                alive.push(Carried { key: row.flow.key, frames: 0, bytes: 0 });
            }
        }
        for resting in &mut self.resting {
            read(resting.slot, &mut resting.row);
        }
        self.frames += more.0;
        self.bytes += more.1;
        alive
    }

    fn sweep(&mut self, now_ms: u64) {
        let alive = self.read(now_ms);
        self.tell(alive);
        let is_gone =
            |row: &Row| now_ms.saturating_sub(row.changed_ms) >= IDLE_MS || !self.is_current(&row.flow);
        self.leave_all(self.slots_where(is_gone), now_ms);
        self.end_rests(now_ms);
        if !self.loans.is_empty() {
            for slot in self.by_key.values() {
                let target = self.rows[*slot as usize].as_ref().map(|row| row.flow.target);
                if let Some(loan) = target.and_then(|target| self.loans.get(&target)) {
                    loan.ask(now_ms);
                }
            }
        }
    }

    fn end_rests(&mut self, now_ms: u64) {
        let mut credits = Vec::new();
        let mut slots = Vec::new();
        while let Some(resting) = self.resting.pop_front_if(|resting| resting.until_ms <= now_ms) {
            let Row { flow, frames, bytes, .. } = resting.row;
            if frames > 0 {
                credits.push(Carried { key: flow.key, frames, bytes });
            }
            slots.push(resting.slot);
        }
        // What a worker has no room for stays uncounted in that flow, and is counted in its ports.
        self.tell(credits);
        for slot in slots {
            self.table.forget_carried(slot);
            self.free.push(slot);
        }
    }

    /// Tells each worker of its flows.
    fn tell(&self, carried: Vec<Carried>) {
        let workers = self.mailboxes.len().max(1);
        let mut lists = vec![Vec::new(); workers];
        for one in carried {
            lists[one.key.owner(workers)].push(one);
        }
        for (mailbox, list) in self.mailboxes.iter().zip(lists) {
            for some in list.chunks(TOLD_MAX) {
                if mailbox.send(Command::Carried(some.into())).is_err() {
                    break;
                }
            }
        }
    }

    /// Stores the epochs of ports. Takes effect with the next frame.
    pub(crate) fn set_epochs(&mut self, epochs: &[(PortId, Epoch)]) {
        let now_ms = monotonic_ms();
        // A port that had none: rows that were judged under the one it had before must not come to life half way.
        let mut begins = false;
        for &(port, epoch) in epochs {
            let epoch = if self.is_on { epoch } else { Epoch::NONE };
            match self.table.epochs.get(port) {
                Epoch::NONE if epoch != Epoch::NONE => begins = true,
                _ => self.table.epochs.set(port, epoch),
            }
        }
        if begins {
            let stale = self.slots_where(|row| !self.is_current(&row.flow));
            self.leave_all(stale, now_ms);
            for &(port, epoch) in epochs {
                self.table.epochs.set(port, if self.is_on { epoch } else { Epoch::NONE });
            }
        }
    }

    pub(crate) fn epoch(&self, port: PortId) -> Epoch {
        self.table.epochs.get(port)
    }

    /// Of what an earlier process left, keeps what the caller would allow now.
    pub(crate) fn keep(&mut self, is_allowed: &mut dyn FnMut(&CarriedFlow) -> bool) {
        let mut doomed = self.slots_where(|_| true);
        doomed.retain(|slot| {
            let row = self.rows[*slot as usize].as_ref();
            row.is_some_and(|row| !(self.is_current(&row.flow) && is_allowed(&row.first())))
        });
        self.leave_all(doomed, monotonic_ms());
    }

    /// What was carried of each flow and is not in its worker's account.
    pub(crate) fn uncredited(&self) -> HashMap<FlowKey, (u64, u64)> {
        let mut flows: HashMap<FlowKey, (u64, u64)> = HashMap::new();
        let rows = self.by_key.iter().map(|(key, slot)| (*slot, *key));
        let resting = self.resting.iter().map(|resting| (resting.slot, resting.row.flow.key));
        for (slot, key) in rows.chain(resting) {
            let (frames, bytes) = self.table.carried(slot);
            let sum = flows.entry(key).or_default();
            *sum = (sum.0 + frames, sum.1 + bytes);
        }
        flows
    }

    /// What ports sent and received by the kernel alone, as of now.
    pub(crate) fn counters(&mut self) -> Arc<Counters> {
        let alive = self.read(monotonic_ms());
        self.tell(alive);
        self.counters.clone()
    }

    pub(crate) fn status(&mut self) -> ShortcutStatus {
        let alive = self.read(monotonic_ms());
        self.tell(alive);
        let mut direct_ports: Vec<_> = self.direct.values().cloned().collect();
        direct_ports.sort_by(|a, b| a.interface.cmp(&b.interface));
        let direct = self.by_key.values().filter(|slot| self.table.is_direct(**slot)).count();
        ShortcutStatus {
            is_on: self.is_on,
            direct_ports: if self.is_on { direct_ports } else { Vec::new() },
            flows: self.by_key.len(),
            direct,
            flows_max: self.rows_max,
            frames: self.frames,
            bytes: self.bytes,
            installed: self.installed,
            overflow: self.overflow + self.requests.missed.load(Ordering::Relaxed),
        }
    }
}

/// The thread.
pub(super) fn run(shortcuts: &Mutex<Shortcuts>, requests: &Requests, stopping: &AtomicBool) {
    let mut next_sweep_ms = monotonic_ms() + SWEEP_MS;
    while !stopping.load(Ordering::Relaxed) {
        let wait_ms = next_sweep_ms.saturating_sub(monotonic_ms()).min(SWEEP_MS);
        requests.wait(wait_ms as u16);
        let mut shortcuts = lock(shortcuts);
        let now_ms = monotonic_ms();
        let obeyed = iter::from_fn(|| requests.pop())
            .take(BATCH)
            .map(|request| shortcuts.obey(request, now_ms))
            .count();
        if now_ms >= next_sweep_ms {
            shortcuts.sweep(now_ms);
            next_sweep_ms = now_ms + SWEEP_MS;
        }
        drop(shortcuts);
        if (1..BATCH).contains(&obeyed) {
            thread::sleep(PAUSE);
        }
    }
}

#[cfg(test)]
mod tests;
