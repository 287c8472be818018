//! Where a switch keeps what is not in the kernel, and the lock that says it is the only one.

use penstock_api::Instance;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The directories of one instance. Derived from its name; tests put them elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    /// What a reboot may forget: socket and lock.
    pub run_dir: PathBuf,
    /// What outlives a reboot: ports and the last artefact.
    pub state_dir: PathBuf,
}

impl Paths {
    pub fn of(instance: &Instance) -> Self {
        Paths { run_dir: instance.run_dir(), state_dir: instance.state_dir() }
    }

    pub fn control_socket(&self) -> PathBuf {
        self.run_dir.join("control.sock")
    }

    pub fn lock(&self) -> PathBuf {
        self.run_dir.join("lock")
    }

    pub fn ports(&self) -> PathBuf {
        self.state_dir.join("ports.json")
    }

    pub fn artefact(&self) -> PathBuf {
        self.state_dir.join("artefact.json")
    }

    /// Creates both directories, for the owner alone.
    pub fn create(&self) -> Result<(), LockError> {
        for dir in [&self.run_dir, &self.state_dir] {
            create_private(dir).map_err(|error| LockError::Directory { dir: dir.clone(), error })?;
        }
        Ok(())
    }
}

fn create_private(dir: &Path) -> io::Result<()> {
    if let Some(parent) = dir.parent() {
        std::fs::create_dir_all(parent)?;
    }
    match DirBuilder::new().mode(0o700).create(dir) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => Ok(()),
        result => result,
    }
}

/// Why this process may not be the instance's switch.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    #[error("the directory {} cannot be made: {error}; run this as root", dir.display())]
    Directory { dir: PathBuf, error: io::Error },
    #[error("the lock {} cannot be taken: {error}", file.display())]
    File { file: PathBuf, error: io::Error },
    #[error(
        "another switch of this instance is running, process {pid} (it holds {}); stop it first, or give this one a name of its own with --instance",
        file.display()
    )]
    Held { pid: String, file: PathBuf },
}

/// Held for the life of the process: the kernel lets go of it whichever way the process ends.
#[derive(Debug)]
pub struct InstanceLock {
    _file: nix::fcntl::Flock<File>,
}

impl InstanceLock {
    /// Takes the lock, or says who has it. Creates the directories.
    pub fn take(paths: &Paths) -> Result<Self, LockError> {
        paths.create()?;
        let path = paths.lock();
        let failed = |error: io::Error| LockError::File { file: path.clone(), error };
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(failed)?;
        match lock(file) {
            Ok(mut file) => {
                // Inside, for people and for the next one to name us; the lock is the flock, not the number.
                file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())).map_err(failed)?;
                Ok(InstanceLock { _file: file })
            }
            Err((mut file, nix::errno::Errno::EWOULDBLOCK)) => {
                let mut pid = String::new();
                // What cannot be read is not known.
                let _ = file.seek(SeekFrom::Start(0)).and_then(|_| file.read_to_string(&mut pid));
                let pid = match pid.trim() {
                    "" => "unknown".to_owned(),
                    pid => pid.to_owned(),
                };
                Err(LockError::Held { pid, file: path })
            }
            Err((_, errno)) => Err(failed(errno.into())),
        }
    }
}

/// Tries for the lock. One that was killed a moment ago holds it until the kernel has put all of it away: that is waited for.
fn lock(mut file: File) -> Result<nix::fcntl::Flock<File>, (File, nix::errno::Errno)> {
    const PAUSE: Duration = Duration::from_millis(10);
    const TRIES: usize = 500;
    for _ in 0..TRIES {
        match nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockExclusiveNonblock) {
            Err((held, nix::errno::Errno::EWOULDBLOCK)) if is_dying(&held) => file = held,
            other => return other,
        }
        std::thread::sleep(PAUSE);
    }
    nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockExclusiveNonblock)
}

/// Has the process that the file names ended, apart from what of it still runs inside the kernel?
fn is_dying(mut file: &File) -> bool {
    let mut pid = String::new();
    let read = file.seek(SeekFrom::Start(0)).and_then(|_| file.read_to_string(&mut pid));
    let Some(pid) = read.ok().and_then(|_| pid.trim().parse::<u32>().ok()) else { return false };
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // `pid (name) state ...`; the name may hold anything.
    stat.rsplit_once(')').is_none_or(|(_, rest)| rest.trim_start().starts_with(['Z', 'X']))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn paths(dir: &Path) -> Paths {
        Paths { run_dir: dir.join("run/a"), state_dir: dir.join("state/a") }
    }

    #[test]
    fn a_second_switch_is_refused_and_told_the_first_ones_process() {
        let dir = tempfile::tempdir().unwrap();
        let first = InstanceLock::take(&paths(dir.path())).unwrap();
        let refused = InstanceLock::take(&paths(dir.path())).unwrap_err().to_string();
        assert!(refused.contains(&format!("process {} ", std::process::id())), "{refused}");
        drop(first);
        InstanceLock::take(&paths(dir.path())).unwrap();
    }

    #[test]
    fn directories_are_the_owners_alone() {
        let dir = tempfile::tempdir().unwrap();
        let paths = paths(dir.path());
        paths.create().unwrap();
        for dir in [&paths.run_dir, &paths.state_dir] {
            assert_eq!(std::fs::metadata(dir).unwrap().permissions().mode() & 0o777, 0o700);
        }
    }
}
