//! Which address is whose, on disk: one file per address in use, named after it, saying whom it belongs to.
//!
//! The file's existence is the reservation, so nothing can be reserved and forgotten, or remembered and free. A file comes
//! to its name whole (written aside, synced, renamed without replacing), so one that does not read is damage, never a crash
//! of ours: it is named, and its address stays taken. One process at a time works on the directory (`flock`, which ends with
//! its holder).
//!
//! Addresses are given in turn, beginning after the last one given: an address that was just released is the last to be
//! given again, so what others still remember about it (connections, DNS answers) has time to go.
//!
//! Never given: the first address of a range (the network's, or the subnet-router anycast of RFC 4291), the second (the
//! host's own, on the host's end of the switch), and an IPv4 range's last (broadcast).

mod turn;

use crate::error::{CniError, code};
use crate::step::{Observer, Step};
use ipnet::IpNet;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, Flock, FlockArg, RenameFlags, renameat2};
use penstock_api::artefact::PodKey;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};
use turn::{Family, next_free, usable};

/// How long to wait for other invocations of the plugin: each holds the lock for a few writes only.
const LOCK_WAIT: Duration = Duration::from_secs(20);
const LOCK_FILE: &str = ".lock";
/// Files that are not (yet) reservations begin with it.
const TEMPORARY_PREFIX: &str = ".new-";
/// An address file is some hundred bytes; a longer one is not ours.
const FILE_LEN_MAX: u64 = 64 * 1024;

/// Whom an address belongs to: the content of its file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Owner {
    pub container_id: String,
    /// The interface's name in the pod.
    pub interface: String,
    pub pod: PodKey,
}

impl Owner {
    fn is(&self, container_id: &str, interface: &str) -> bool {
        self.container_id == container_id && self.interface == interface
    }
}

/// Why there is no address.
#[derive(Debug, thiserror::Error)]
pub enum IpamError {
    #[error("no {family} address is left in {ranges}: all {capacity} are in use")]
    Exhausted { family: &'static str, ranges: String, capacity: u128 },
    #[error("the address file {} does not read as it was written: {why}", path.display())]
    Corrupt { path: PathBuf, why: String },
    #[error("another process has held {} for {} s", path.display(), LOCK_WAIT.as_secs())]
    Busy { path: PathBuf },
    #[error("cannot {action} {}: {source}", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
}

impl From<IpamError> for CniError {
    fn from(error: IpamError) -> Self {
        let (code, details) = match &error {
            IpamError::Exhausted { .. } => (
                code::EXHAUSTED,
                "give the network larger or further \"ranges\", or remove pods; an address is free again once the pod's DEL has run".to_owned(),
            ),
            IpamError::Corrupt { path, .. } => (
                code::CORRUPT,
                format!(
                    "if no pod of this node uses the address it is named after (`penstock ports`), remove {}; no address is given to any pod until then",
                    path.display()
                ),
            ),
            IpamError::Busy { .. } => (code::TRY_AGAIN, "the runtime will try again".to_owned()),
            IpamError::Io { .. } => (code::IO, "the plugin needs root and a writable, not full file system there".to_owned()),
        };
        CniError::new(code, error.to_string()).with_details(details)
    }
}

/// The directory, locked: nobody else gives or releases addresses while this lives.
#[derive(Debug)]
pub struct Store {
    directory: PathBuf,
    _lock: Flock<File>,
}

/// What a release did.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Released {
    pub addresses: Vec<IpAddr>,
    /// Files that may have been the owner's, but do not read. They were left.
    pub unreadable: Vec<PathBuf>,
}

impl Store {
    /// Locks the directory, making it if need be.
    pub fn open(directory: &Path) -> Result<Store, IpamError> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(|e| io_error("create", directory, e))?;
        Store::lock(directory)
    }

    /// Locks the directory, if there is one: without it no address is in use.
    pub fn open_existing(directory: &Path) -> Result<Option<Store>, IpamError> {
        match directory.try_exists() {
            Ok(true) => Store::lock(directory).map(Some),
            Ok(false) => Ok(None),
            Err(e) => Err(io_error("look for", directory, e)),
        }
    }

    fn lock(directory: &Path) -> Result<Store, IpamError> {
        let path = directory.join(LOCK_FILE);
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(|e| io_error("open", &path, e))?;
        let deadline = Instant::now() + LOCK_WAIT;
        let lock = loop {
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => break lock,
                Err((_, errno)) if errno != Errno::EWOULDBLOCK && errno != Errno::EINTR => {
                    return Err(io_error("lock", &path, errno.into()));
                }
                Err(_) if Instant::now() > deadline => return Err(IpamError::Busy { path }),
                Err((back, _)) => file = back,
            }
            thread::sleep(Duration::from_millis(5));
        };
        let store = Store { directory: directory.to_owned(), _lock: lock };
        store.sweep()?;
        Ok(store)
    }

    /// Removes what invocations that were killed had not finished writing.
    fn sweep(&self) -> Result<(), IpamError> {
        for name in self.names()?.into_iter().filter(|name| name.starts_with(TEMPORARY_PREFIX)) {
            self.remove(&self.directory.join(name))?;
        }
        Ok(())
    }

    fn names(&self) -> Result<Vec<String>, IpamError> {
        let list = || -> io::Result<Vec<String>> {
            fs::read_dir(&self.directory)?
                .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
                .collect()
        };
        list().map_err(|e| io_error("list", &self.directory, e))
    }

    /// The addresses that have a file, readable or not.
    fn taken(&self) -> Result<HashSet<IpAddr>, IpamError> {
        Ok(self.names()?.iter().filter_map(|name| name.parse().ok()).collect())
    }

    fn path_of(&self, address: IpAddr) -> PathBuf {
        self.directory.join(address.to_string())
    }

    /// Whose an address is. `None` when it is free.
    pub fn owner(&self, address: IpAddr) -> Result<Option<Owner>, IpamError> {
        let path = self.path_of(address);
        let read = || -> io::Result<Vec<u8>> {
            let mut bytes = Vec::new();
            io::Read::read_to_end(&mut io::Read::take(File::open(&path)?, FILE_LEN_MAX), &mut bytes)?;
            Ok(bytes)
        };
        let bytes = match read() {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(io_error("read", &path, e)),
        };
        match serde_json::from_slice(&bytes) {
            Ok(owner) => Ok(Some(owner)),
            Err(e) => Err(IpamError::Corrupt { path, why: e.to_string() }),
        }
    }

    /// The addresses of one attachment, and its owner's record. Every file must read: one that does not might be its.
    pub fn owned_by(&self, container_id: &str, interface: &str) -> Result<Vec<(IpAddr, Owner)>, IpamError> {
        let mut owned = Vec::new();
        for address in self.taken()? {
            if let Some(owner) = self.owner(address)?.filter(|owner| owner.is(container_id, interface)) {
                owned.push((address, owner));
            }
        }
        owned.sort_by_key(|(address, _)| *address);
        Ok(owned)
    }

    /// Takes one address of each family that has ranges: IPv4 first. All are on disk when this returns, or none.
    pub fn allocate(
        &self,
        ranges: &[IpNet],
        owner: &Owner,
        observer: Observer<'_>,
    ) -> Result<Vec<IpAddr>, IpamError> {
        let allocated = self.allocate_each(ranges, owner, observer);
        if allocated.is_err() {
            let _ = self.release(&owner.container_id, &owner.interface);
        }
        allocated
    }

    fn allocate_each(
        &self,
        ranges: &[IpNet],
        owner: &Owner,
        observer: Observer<'_>,
    ) -> Result<Vec<IpAddr>, IpamError> {
        let taken = self.taken()?;
        let mut addresses = Vec::new();
        for family in [Family::V4, Family::V6] {
            let ranges: Vec<IpNet> =
                ranges.iter().copied().filter(|range| family.has(range.addr())).collect();
            if ranges.is_empty() {
                continue;
            }
            let address =
                next_free(&ranges, self.mark(family)?, &taken).ok_or_else(|| IpamError::Exhausted {
                    family: family.name(),
                    capacity: ranges.iter().map(usable).sum(),
                    ranges: ranges.iter().map(IpNet::to_string).collect::<Vec<_>>().join(", "),
                })?;
            // The mark moves first: an invocation killed in between skips an address, and gives none twice in a row.
            self.move_mark(family, address)?;
            observer(Step::MarkMoved);
            self.take(address, owner, observer)?;
            addresses.push(address);
        }
        let sync = || File::open(&self.directory)?.sync_all();
        sync().map_err(|e| io_error("sync", &self.directory, e))?;
        observer(Step::AddressesSafe);
        Ok(addresses)
    }

    /// Reserves one address.
    fn take(&self, address: IpAddr, owner: &Owner, observer: Observer<'_>) -> Result<(), IpamError> {
        let path = self.path_of(address);
        let temporary = self.directory.join(format!("{TEMPORARY_PREFIX}{address}"));
        let content = serde_json::to_vec(owner).expect("strings always serialise");
        write_new(&temporary, &content, true).map_err(|e| io_error("write", &temporary, e))?;
        observer(Step::AddressWritten);
        renameat2(AT_FDCWD, &temporary, AT_FDCWD, &path, RenameFlags::RENAME_NOREPLACE)
            .map_err(|errno| io_error("take the name", &path, errno.into()))?;
        observer(Step::AddressTaken);
        Ok(())
    }

    /// Gives an attachment's addresses back. What does not read is not touched.
    pub fn release(&self, container_id: &str, interface: &str) -> Result<Released, IpamError> {
        let mut released = Released::default();
        for address in self.taken()? {
            match self.owner(address) {
                Ok(Some(owner)) if owner.is(container_id, interface) => {
                    self.remove(&self.path_of(address))?;
                    released.addresses.push(address);
                }
                Ok(_) => {}
                Err(IpamError::Corrupt { path, .. }) => released.unreadable.push(path),
                Err(other) => return Err(other),
            }
        }
        released.addresses.sort_unstable();
        Ok(released)
    }

    fn remove(&self, path: &Path) -> Result<(), IpamError> {
        match fs::remove_file(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(io_error("remove", path, e)),
            _ => Ok(()),
        }
    }

    /// The address given last, if any was.
    fn mark(&self, family: Family) -> Result<Option<IpAddr>, IpamError> {
        let path = self.directory.join(family.mark_file());
        match fs::read_to_string(&path) {
            // It is not synced, so a power cut may leave it empty. It says nothing about who has what.
            Ok(text) if text.is_empty() => Ok(None),
            Ok(text) => match text.trim_end().parse::<IpAddr>() {
                Ok(address) if family.has(address) => Ok(Some(address)),
                _ => Err(IpamError::Corrupt { path, why: format!("it is no {} address", family.name()) }),
            },
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(io_error("read", &path, e)),
        }
    }

    fn move_mark(&self, family: Family, address: IpAddr) -> Result<(), IpamError> {
        let path = self.directory.join(family.mark_file());
        let temporary = self.directory.join(format!("{TEMPORARY_PREFIX}mark"));
        write_new(&temporary, format!("{address}\n").as_bytes(), false)
            .and_then(|()| fs::rename(&temporary, &path))
            .map_err(|e| io_error("write", &path, e))
    }
}

fn write_new(path: &Path, content: &[u8], durable: bool) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(content)?;
    if durable { file.sync_all() } else { Ok(()) }
}

fn io_error(action: &'static str, path: &Path, source: io::Error) -> IpamError {
    IpamError::Io { action, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(id: &str) -> Owner {
        Owner { container_id: id.into(), interface: "eth0".into(), pod: PodKey::new("shop", id) }
    }

    fn ranges(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn store(directory: &Path) -> Store {
        Store::open(directory).unwrap()
    }

    #[test]
    fn a_pod_gets_one_address_of_each_family_and_never_the_reserved_ones() {
        let dir = tempfile::tempdir().unwrap();
        let ranges = ranges(&["10.244.0.0/29", "fd00:10:244::/64"]);
        let given: Vec<_> = (0..5)
            .map(|n| store(dir.path()).allocate(&ranges, &owner(&n.to_string()), &|_| {}).unwrap())
            .collect();
        assert_eq!(given[0], [ip("10.244.0.2"), ip("fd00:10:244::2")]);
        assert_eq!(given[4], [ip("10.244.0.6"), ip("fd00:10:244::6")]);
        // 0, 1 and 7 are left, and they are not for giving.
        let error = store(dir.path()).allocate(&ranges, &owner("one-more"), &|_| {}).unwrap_err();
        assert_eq!(error.to_string(), "no IPv4 address is left in 10.244.0.0/29: all 5 are in use");
        assert_eq!(CniError::from(error).code, code::EXHAUSTED);
    }

    #[test]
    fn a_failed_allocation_keeps_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let both = ranges(&["10.0.0.0/24", "fd00::/126"]);
        for n in 0..2 {
            store(dir.path()).allocate(&both, &owner(&n.to_string()), &|_| {}).unwrap();
        }
        let error = store(dir.path()).allocate(&both, &owner("late"), &|_| {}).unwrap_err();
        assert!(error.to_string().contains("IPv6") && error.to_string().contains("fd00::/126"), "{error}");
        assert!(store(dir.path()).owned_by("late", "eth0").unwrap().is_empty());
        assert_eq!(store(dir.path()).taken().unwrap().len(), 4);
    }

    #[test]
    fn a_released_address_is_the_last_to_be_given_again() {
        let dir = tempfile::tempdir().unwrap();
        let ranges = ranges(&["10.0.0.0/29"]);
        let give = |id: &str| store(dir.path()).allocate(&ranges, &owner(id), &|_| {}).unwrap()[0];
        assert_eq!(give("a"), ip("10.0.0.2"));
        let released = store(dir.path()).release("a", "eth0").unwrap();
        assert_eq!(released, Released { addresses: vec![ip("10.0.0.2")], unreadable: vec![] });
        let order: Vec<_> = ["b", "c", "d", "e", "f"].map(give).to_vec();
        assert_eq!(order, ["10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6", "10.0.0.2"].map(ip));
    }

    #[test]
    fn several_ranges_of_a_family_are_used_one_after_the_other() {
        let dir = tempfile::tempdir().unwrap();
        let ranges = ranges(&["10.0.0.0/30", "10.9.0.0/30"]);
        let give = |id: &str| store(dir.path()).allocate(&ranges, &owner(id), &|_| {});
        assert_eq!(give("a").unwrap(), [ip("10.0.0.2")]);
        assert_eq!(give("b").unwrap(), [ip("10.9.0.2")]);
        assert!(give("c").is_err());
    }

    #[test]
    fn an_address_belongs_to_an_interface_of_a_container() {
        let dir = tempfile::tempdir().unwrap();
        let ranges = ranges(&["10.0.0.0/24"]);
        let second = Owner { interface: "net1".into(), ..owner("a") };
        let first = store(dir.path()).allocate(&ranges, &owner("a"), &|_| {}).unwrap();
        store(dir.path()).allocate(&ranges, &second, &|_| {}).unwrap();
        let store = store(dir.path());
        assert_eq!(store.owned_by("a", "eth0").unwrap(), [(first[0], owner("a"))]);
        assert_eq!(store.release("a", "eth0").unwrap().addresses, first);
        assert!(store.release("a", "eth0").unwrap().addresses.is_empty());
        assert_eq!(store.owned_by("a", "net1").unwrap().len(), 1);
    }

    #[test]
    fn a_damaged_file_is_named_kept_and_its_address_never_given() {
        let dir = tempfile::tempdir().unwrap();
        let damaged = dir.path().join("10.0.0.2");
        for content in ["", "{", "{\"container_id\":\"a\"}", "[]", "\0\0\0"] {
            fs::write(&damaged, content).unwrap();
            let store = store(dir.path());
            let error = store.owned_by("a", "eth0").unwrap_err();
            assert!(error.to_string().contains("10.0.0.2 does not read"), "{error}");
            let error = CniError::from(error);
            assert!(error.code == code::CORRUPT && error.details.contains("remove"), "{error:?}");
            assert_eq!(store.release("a", "eth0").unwrap().unreadable, vec![damaged.clone()]);
            fs::remove_file(dir.path().join(".last-ipv4")).ok();
            assert_eq!(
                store.allocate(&ranges(&["10.0.0.0/24"]), &owner("b"), &|_| {}).unwrap(),
                [ip("10.0.0.3")]
            );
            store.release("b", "eth0").unwrap();
            assert_eq!(fs::read_to_string(&damaged).unwrap(), content);
        }
    }

    #[test]
    fn a_damaged_mark_is_named_and_an_empty_one_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        let ranges = ranges(&["10.0.0.0/24"]);
        fs::write(dir.path().join(".last-ipv4"), "").unwrap();
        store.allocate(&ranges, &owner("a"), &|_| {}).unwrap();
        fs::write(dir.path().join(".last-ipv4"), "fd00::1").unwrap();
        let error = store.allocate(&ranges, &owner("b"), &|_| {}).unwrap_err();
        assert!(error.to_string().contains(".last-ipv4"), "{error}");
    }

    #[test]
    fn what_was_not_finished_is_swept_and_what_is_not_ours_is_left() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(".new-10.0.0.2"), "half").unwrap();
        fs::write(dir.path().join("README"), "hello").unwrap();
        let given = store(dir.path()).allocate(&ranges(&["10.0.0.0/24"]), &owner("a"), &|_| {}).unwrap();
        assert_eq!(given, [ip("10.0.0.2")]);
        assert!(!dir.path().join(".new-10.0.0.2").exists());
        assert!(dir.path().join("README").exists());
    }

    #[test]
    fn nothing_is_made_to_look_whether_something_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let directory = dir.path().join("addresses");
        assert!(Store::open_existing(&directory).unwrap().is_none());
        assert!(!directory.exists());
    }

    #[test]
    fn many_at_once_get_different_addresses() {
        let dir = tempfile::tempdir().unwrap();
        let ranges = ranges(&["10.0.0.0/25", "fd00::/120"]);
        let mut given: Vec<IpAddr> = thread::scope(|scope| {
            let all: Vec<_> = (0..40)
                .map(|n| {
                    let (dir, ranges) = (dir.path(), &ranges);
                    scope.spawn(move || {
                        store(dir).allocate(ranges, &owner(&format!("c{n}")), &|_| {}).unwrap()
                    })
                })
                .collect();
            all.into_iter().flat_map(|one| one.join().unwrap()).collect()
        });
        given.sort_unstable();
        given.dedup();
        assert_eq!(given.len(), 80);
    }
}
