//! Being told by the kernel that something changed below a directory, so that nobody waits for the next look.
//!
//! Only ever a hint: looks go on as before, on file systems that tell nothing and when events were lost. One thing is more than
//! a hint: a file that was renamed into place is whole, and need not be seen twice to be believed.

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use std::collections::{BTreeSet, HashMap};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

#[derive(Debug)]
pub struct Notify {
    /// `None`: the kernel gives none, and looks alone must do.
    inotify: Option<Inotify>,
    watched: HashMap<WatchDescriptor, PathBuf>,
}

impl Notify {
    #[must_use]
    pub fn new() -> Notify {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)
            .inspect_err(|error| tracing::info!("changes are found by looking only: inotify: {error}"))
            .ok();
        Notify { inotify, watched: HashMap::new() }
    }

    /// Watches these directories too; those that are watched already stay so.
    pub fn watch<'a>(&mut self, directories: impl Iterator<Item = &'a Path>) {
        let Some(inotify) = &self.inotify else { return };
        let flags = AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_ONLYDIR;
        for directory in directories {
            if self.watched.values().any(|watched| watched == directory) {
                continue;
            }
            // A directory that is gone by now, or one too many: it is looked at all the same.
            if let Ok(watch) = inotify.add_watch(directory, flags) {
                self.watched.insert(watch, directory.to_owned());
            }
        }
    }

    /// Waits until something changes, at most `timeout`. Returns the files that were renamed into place since the last call.
    pub fn wait(&mut self, timeout: Duration) -> BTreeSet<PathBuf> {
        let mut renamed = BTreeSet::new();
        let Some(inotify) = &self.inotify else {
            std::thread::sleep(timeout);
            return renamed;
        };
        let began = Instant::now();
        let milliseconds = PollTimeout::try_from(timeout.as_millis()).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(inotify.as_fd(), PollFlags::POLLIN)], milliseconds) {
            Ok(1..) => {}
            Err(error) if error != Errno::EINTR => {
                std::thread::sleep(timeout.saturating_sub(began.elapsed()))
            }
            _ => return renamed,
        }
        for event in inotify.read_events().unwrap_or_default() {
            if event.mask.contains(AddWatchFlags::IN_IGNORED) {
                self.watched.remove(&event.wd);
                continue;
            }
            if event.mask.contains(AddWatchFlags::IN_MOVED_TO)
                && let (Some(directory), Some(name)) = (self.watched.get(&event.wd), event.name)
            {
                renamed.insert(directory.join(name));
            }
        }
        renamed
    }
}

impl Default for Notify {
    fn default() -> Self {
        Notify::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_renamed_into_place_is_told_by_its_name_and_one_that_is_written_only_wakes() {
        let dir = tempfile::tempdir().unwrap();
        let mut notify = Notify::new();
        notify.watch([dir.path()].into_iter());
        let within = Duration::from_secs(5);
        let file = dir.path().join("a.yaml");
        let began = Instant::now();
        std::fs::write(dir.path().join("b.yaml"), "b").unwrap();
        assert!(notify.wait(within).is_empty());
        std::fs::rename(dir.path().join("b.yaml"), &file).unwrap();
        let told: BTreeSet<PathBuf> =
            std::iter::repeat_with(|| notify.wait(within)).find(|told| !told.is_empty()).unwrap();
        assert_eq!(told, BTreeSet::from([file]));
        assert!(began.elapsed() < within, "nobody was woken");
        assert!(notify.wait(Duration::from_millis(1)).is_empty(), "it is told once");
    }
}
