//! Taking over what an earlier process left: files of flow records under `/dev/shm`.
//!
//! Nothing in a file is believed that cannot be checked: the header must be of this layout and this boot (the clock begins anew with
//! every boot), a record must carry its mark, its checksum and a state that exists, must not be due, and must not contradict
//! one already taken. What is taken counts as judged under no generation at all, so that its next packet is judged again.

use super::{Conntrack, Entry, FlowId, Settings};
use crate::flow::shared::Records;
use crate::packet::FlowKey;
use std::io;
use std::path::{Path, PathBuf};

/// How much of what was there could be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Adopted {
    pub kept: usize,
    /// Damaged, expired, contradictory, or more than there is room for.
    pub discarded: usize,
}

impl std::ops::AddAssign for Adopted {
    fn add_assign(&mut self, other: Adopted) {
        self.kept += other.kept;
        self.discarded += other.discarded;
    }
}

/// Why there is no table.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("no memory for the flow table: {0}; start the switch with fewer flows")]
    Memory(#[source] io::Error),
    #[error("the flow table {path} cannot be used: {source}", path = path.display())]
    File {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "the identity of this boot cannot be read from /proc/sys/kernel/random/boot_id: {0}; is /proc mounted?"
    )]
    Boot(#[source] io::Error),
}

impl OpenError {
    fn at(path: &Path) -> impl FnOnce(io::Error) -> OpenError {
        let path = path.to_owned();
        move |source| OpenError::File { path, source }
    }
}

impl Conntrack {
    /// The table in this file, made when it is not there. Flows that an earlier process of this boot left in it are kept.
    ///
    /// # Errors
    /// When the file cannot be made, read or trusted, or the memory cannot be had.
    pub fn open(path: &Path, settings: Settings, now_ms: u64) -> Result<(Self, Adopted), OpenError> {
        let at = OpenError::at;
        let boot = boot_id()?;
        let flows_max = settings.flows_max;
        match Records::open(path, &boot).map_err(at(path))? {
            Some(records) if records.len() == flows_max => {
                let mut table = Self::over(records, settings, now_ms);
                let adopted = table.adopt_in_place(now_ms);
                Ok((table, adopted))
            }
            Some(records) => {
                // Another size: the old file stays until the new one is filled, so that a kill in between loses nothing.
                let mut beside = path.as_os_str().to_owned();
                beside.push(".new");
                let beside = PathBuf::from(beside);
                let new = Records::create(&beside, flows_max, &boot).map_err(at(&beside))?;
                let mut table = Self::over(new, settings, now_ms);
                let adopted = table.adopt_all(&records, now_ms);
                std::fs::rename(&beside, path).map_err(at(path))?;
                Ok((table, adopted))
            }
            None => {
                let records = Records::create(path, flows_max, &boot).map_err(at(path))?;
                Ok((Self::over(records, settings, now_ms), Adopted::default()))
            }
        }
    }

    /// Keeps what is sound of the records the table was made over, each in its slot.
    fn adopt_in_place(&mut self, now_ms: u64) -> Adopted {
        let mut adopted = Adopted::default();
        self.free.clear();
        for slot in (0..self.records.len() as u32).rev() {
            let entry = &mut self.records[slot as usize];
            if !entry.is_live() {
                self.free.push(slot);
            } else if entry.settle_after_adoption(now_ms) && self.admit(slot, now_ms) {
                adopted.kept += 1;
            } else {
                self.records[slot as usize].close();
                self.free.push(slot);
                adopted.discarded += 1;
            }
        }
        adopted
    }

    /// Takes copies of another table's records; the established first, in case there is not room for all.
    fn adopt_all(&mut self, records: &[Entry], now_ms: u64) -> Adopted {
        let mut adopted = Adopted::default();
        for expendable in [false, true] {
            for entry in records.iter().filter(|e| e.is_live() && e.state().is_expendable() == expendable) {
                match self.adopt_copy(entry, now_ms) {
                    true => adopted.kept += 1,
                    false => adopted.discarded += 1,
                }
            }
        }
        adopted
    }

    fn adopt_copy(&mut self, entry: &Entry, now_ms: u64) -> bool {
        let Some(slot) = self.free.last().copied() else { return false };
        let copy = &mut self.records[slot as usize];
        if copy.copy_from(entry, now_ms) && self.admit(slot, now_ms) {
            self.free.pop();
            true
        } else {
            self.records[slot as usize].close();
            false
        }
    }

    /// Puts a sound record into index, quota and wheel, unless it is due or its tuples are taken.
    fn admit(&mut self, slot: u32, now_ms: u64) -> bool {
        let entry = &self.records[slot as usize];
        if self.deadline_ms(entry) <= now_ms {
            return false;
        }
        let keys = [entry.key(), entry.reply_key()];
        let hashes = keys.map(|key| self.hash(&key));
        if (0..2).any(|side| self.find(&keys[side], hashes[side]).is_some())
            || !self.index.insert_both(hashes, slot, keys[0] == keys[1])
        {
            return false;
        }
        self.enlist(slot);
        true
    }
}

/// Gives flows to the worker that owns them: those in `leftovers` (files of workers there no longer are; removed once read)
/// and those in `tables` that belong to another. `owner` is an index into `tables`. Call it after opening all tables, when
/// the number of workers may have changed. Flows that only moved between tables are not counted as kept again.
///
/// # Errors
/// When a file cannot be read or trusted; flows taken before that stay.
pub fn adopt_into(
    leftovers: &[PathBuf],
    tables: &mut [Conntrack],
    owner: impl Fn(&FlowKey) -> usize,
    now_ms: u64,
) -> Result<Adopted, OpenError> {
    let mut adopted = Adopted::default();
    for from in 0..tables.len() {
        for slot in 0..tables[from].records.len() {
            let entry = &tables[from].records[slot];
            if !entry.is_live() {
                continue;
            }
            let to = owner(&entry.key());
            if to == from {
                continue;
            }
            let taken = tables
                .get_disjoint_mut([from, to])
                .is_ok_and(|[source, target]| target.adopt_copy(&source.records[slot], now_ms));
            adopted.discarded += usize::from(!taken);
            tables[from].remove(FlowId(slot as u32));
        }
    }
    let boot = boot_id()?;
    for path in leftovers {
        if let Some(records) = Records::open(path, &boot).map_err(OpenError::at(path))? {
            for expendable in [false, true] {
                for entry in records.iter().filter(|e| e.is_live() && e.state().is_expendable() == expendable)
                {
                    let taken = tables
                        .get_mut(owner(&entry.key()))
                        .is_some_and(|table| table.adopt_copy(entry, now_ms));
                    adopted.kept += usize::from(taken);
                    adopted.discarded += usize::from(!taken);
                }
            }
        }
        match std::fs::remove_file(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(OpenError::at(path)(e)),
            _ => {}
        }
    }
    Ok(adopted)
}

/// Differs between boots, and only between boots.
fn boot_id() -> Result<[u8; 16], OpenError> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map_err(OpenError::Boot)?;
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    u128::from_str_radix(&digits, 16)
        .map(u128::to_be_bytes)
        .map_err(|e| OpenError::Boot(io::Error::new(io::ErrorKind::InvalidData, e)))
}
