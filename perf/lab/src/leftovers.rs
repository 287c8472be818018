//! What a killed process could not clean up.
//!
//! A laboratory holds a lock on a file of its instance's name. A file that is there and not locked belongs to nobody any
//! more: the next laboratory removes what carries its name, and the file.

use crate::node::delete_netns;
use crate::programs::Programs;
use anyhow::{Context, Result};
use nix::fcntl::{Flock, FlockArg};
use penstock_api::Instance;
use penstock_net::Netns;
use penstock_net::netns::NETNS_DIR;
use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};

const DIR: &str = "/run/penstock-lab";

/// The instance is a living laboratory's, as long as this exists.
#[derive(Debug)]
pub(crate) struct Claim {
    file: PathBuf,
    _lock: Flock<File>,
}

impl Claim {
    /// None when the name is a living laboratory's.
    pub(crate) fn take(instance: &str) -> Result<Option<Claim>> {
        let dir = Path::new(DIR);
        fs::create_dir_all(dir).with_context(|| format!("{DIR} cannot be made; laboratories need root"))?;
        Ok(lock(&dir.join(instance)))
    }

    /// The instance outlives its laboratory: nobody is to remove it.
    pub(crate) fn release(self) {
        // Absent is what we want.
        let _ = fs::remove_file(&self.file);
    }
}

fn lock(file: &Path) -> Option<Claim> {
    let opened = OpenOptions::new().create(true).truncate(false).write(true).open(file).ok()?;
    let lock = Flock::lock(opened, FlockArg::LockExclusiveNonblock).ok()?;
    // Somebody may have removed the file between our opening and locking it: then the lock is on nothing.
    let same = file.metadata().ok().zip(lock.metadata().ok()).is_some_and(|(named, held)| {
        use std::os::unix::fs::MetadataExt;
        named.ino() == held.ino()
    });
    same.then(|| Claim { file: file.to_owned(), _lock: lock })
}

/// Removes every laboratory whose process is gone.
pub(crate) fn sweep(programs: &Programs) {
    for entry in fs::read_dir(DIR).into_iter().flatten().flatten() {
        if let (Some(claim), Ok(instance)) = (lock(&entry.path()), entry.file_name().into_string()) {
            eprintln!("laboratory: removing {instance}, which a killed process left behind");
            remove(programs, &instance);
            drop(claim);
        }
    }
}

/// Takes down an instance and every namespace that carries its name. Says what fails and goes on.
pub(crate) fn remove(programs: &Programs, instance: &str) {
    let host = crate::node::host_name(instance);
    // The switch's host interface is in the node's namespace; without a node there is nowhere else to ask from.
    let removed = match Netns::open(&host).or_else(|_| Netns::current()) {
        Ok(netns) => programs.penstock_succeeds(&netns, instance, &["down"]).map(drop),
        Err(error) => Err(error.into()),
    };
    if let Err(error) = removed {
        eprintln!("laboratory: {instance} was not taken down: {error:#}");
    }
    for name in names_of(instance) {
        delete_netns(&name);
    }
    // Absent is what we want; a living owner's lock goes with the file it holds.
    let _ = fs::remove_file(Path::new(DIR).join(instance));
}

/// What there is of an instance: namespaces, directories, pins, tables.
pub(crate) fn of(instance: &Instance) -> Vec<String> {
    let mut found = names_of(instance.name());
    found.extend(Netns::exists(instance.netns()).then(|| instance.netns().to_owned()));
    let dirs = [instance.run_dir(), instance.state_dir(), instance.bpf_dir()];
    found.extend(dirs.iter().filter(|dir| dir.exists()).map(|dir| dir.display().to_string()));
    let tables = instance.shm_prefix();
    let prefix = tables.file_name().map(|name| format!("{}-", name.to_string_lossy())).unwrap_or_default();
    for entry in tables.parent().and_then(|dir| fs::read_dir(dir).ok()).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        // Another instance's name may begin with ours: what follows must be `<what>-<worker>`.
        if name.strip_prefix(&prefix).is_some_and(|rest| rest.split('-').count() == 2) {
            found.push(entry.path().display().to_string());
        }
    }
    found
}

fn names_of(instance: &str) -> Vec<String> {
    let prefix = format!("{instance}-");
    let entries = fs::read_dir(NETNS_DIR).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.starts_with(&prefix))
        .collect()
}
