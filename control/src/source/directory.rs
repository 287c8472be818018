//! Looking at a directory: which files changed, and which of them are settled enough to be read.
//!
//! A file counts as settled when two looks in a row found it the same, or when the kernel says that it was renamed into place: whoever
//! does that has finished it. One that writes slowly is waited for. YAML can be cut anywhere and still parse into something
//! that means less, so a file without its final newline is not believed where it would touch what is in force, and neither
//! is an empty one. A file that was rewritten in place and lacks objects it had must stay so for a moment longer.

use super::persist::LastGood;
use super::places::{PlaceId, Places};
use super::store::{Change, Store};
use crate::load::{FILE_SIZE_MAX, Listing, LoadError, file_error, load_text, read_text};
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A file that ends without a newline and holds up nothing yet is believed after it has been quiet for this long.
pub(super) const UNFINISHED: Duration = Duration::from_secs(1);

/// How long a file must be missing before it counts as gone: editors move the old file away before they write the new one.
const GONE: Duration = Duration::from_millis(60);

/// How long a file that is written in place must lack objects it had before they count as removed: a program may be writing
/// it document by document. One that was renamed into place is whole.
pub(super) const SHRUNK: Duration = Duration::from_millis(300);

/// How long files that are not settled yet may hold up the removal of others (a file may be on its way to another name),
/// and how long the first full look waits for them.
const PATIENCE: Duration = Duration::from_secs(3);

/// What a look found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Look {
    pub changes: Vec<Change>,
    /// Something was read or went away, so errors and notices may differ, even if no object does.
    pub anything_new: bool,
    /// Every file that is there has been read. Before this was true once, nothing may be concluded from what is missing.
    pub complete: bool,
}

/// What tells one state of a file from another.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Signature {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

#[derive(Debug)]
struct Watched {
    /// What was read last.
    read: Option<Signature>,
    /// What it looked like at the last look, since when.
    seen: Option<(Signature, Instant)>,
    /// When it was first seen.
    appeared: Instant,
    /// Since when it is missing.
    missing: Option<Instant>,
}

#[derive(Debug)]
pub struct Directory {
    root: PathBuf,
    watched: BTreeMap<PathBuf, Watched>,
    store: Store,
    places: Places,
    /// Why the directory, or a part of it, could not be looked at.
    trouble: Vec<LoadError>,
    /// Every file there was has been read at one time: from then on what is in force is known.
    has_been_complete: bool,
}

impl Directory {
    /// Nothing is read before the first [`Directory::look`].
    #[must_use]
    pub fn new(root: PathBuf) -> Self {
        Directory::resume(root, LastGood::default())
    }

    /// Begins with what was in force when it was last written down.
    #[must_use]
    pub fn resume(root: PathBuf, last_good: LastGood) -> Self {
        Directory {
            root,
            watched: BTreeMap::new(),
            store: Store::with_last_good(last_good.objects),
            places: Places::new(last_good.directories),
            trouble: Vec::new(),
            has_been_complete: false,
        }
    }

    /// The directories as they were last believed.
    #[must_use]
    pub fn places(&self) -> &BTreeMap<PathBuf, PlaceId> {
        self.places.known()
    }

    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    #[must_use]
    pub fn errors(&self) -> Vec<LoadError> {
        let mut errors = self.trouble.clone();
        errors.extend(self.store.errors());
        errors
    }

    /// Looks at every file once. `now` only ever grows.
    pub fn look(&mut self, now: Instant) -> Look {
        self.look_after(&BTreeSet::new(), now)
    }

    /// As [`Directory::look`]; `renamed` were just renamed into place, as the kernel says, and are whole.
    pub fn look_after(&mut self, renamed: &BTreeSet<PathBuf>, now: Instant) -> Look {
        let mut listing = Listing::default();
        match std::fs::metadata(&self.root) {
            Ok(metadata) if metadata.is_dir() => listing.add(&self.root),
            Ok(_) => listing.errors.push(file_error(&self.root, "is not a directory".to_owned())),
            Err(error) => listing.errors.push(file_error(&self.root, format!("cannot be read: {error}"))),
        }
        let listed = listing.errors.is_empty();
        let doubtful = if listed { self.doubtful(&listing, now) } else { BTreeSet::new() };
        let mut trouble = listing.errors;
        trouble.extend(doubtful.iter().map(|directory| {
            file_error(
                directory,
                "is empty and not the directory it was (a volume that is not mounted?); what its files last held stays in force. If \
                 it is to be empty, put a file into it: a comment in empty.yaml is enough"
                    .to_owned(),
            )
        }));
        let files = listing.files;
        let mut look = Look { anything_new: trouble != self.trouble, complete: listed, ..Look::default() };
        self.trouble = trouble;

        for file in &files {
            match self.look_at(file, renamed.contains(file), now) {
                Seen::Unchanged => {}
                Seen::Read => look.anything_new = true,
                Seen::Unsettled => look.complete = false,
            }
        }
        // Whatever cannot be listed may still be there: only a full listing makes a file gone.
        if listed && self.forget_missing(&files, &doubtful, now) {
            look.anything_new = true;
        }
        let is_first_whole = look.complete && !self.has_been_complete;
        self.has_been_complete |= look.complete;
        // Also where nothing was read: what is in force from before the start may have no file any more.
        if (look.anything_new || is_first_whole) && self.has_been_complete {
            look.changes = self.store.settle();
        }
        look
    }

    /// The directories that lost all their files without being the same any more. What is in force from before the start and
    /// would be below one of them is held, as if its file had been seen.
    fn doubtful(&mut self, listing: &Listing, now: Instant) -> BTreeSet<PathBuf> {
        let (watched, store) = (&self.watched, &self.store);
        let doubtful = self.places.judge(listing, |directory| {
            watched.keys().any(|file| file.starts_with(directory))
                || store.objects().any(|held| held.file.starts_with(directory))
        });
        if !self.has_been_complete && !doubtful.is_empty() {
            let files: BTreeSet<PathBuf> = self.store.objects().map(|held| held.file.clone()).collect();
            for file in files.into_iter().filter(|file| is_below(file, &doubtful)) {
                self.store.hold_file(&file);
                let seen =
                    Watched { read: Some(Signature::default()), seen: None, appeared: now, missing: None };
                self.watched.entry(file).or_insert(seen);
            }
        }
        doubtful
    }

    /// Lets go of files that are gone for good. True when there were any.
    fn forget_missing(&mut self, present: &[PathBuf], doubtful: &BTreeSet<PathBuf>, now: Instant) -> bool {
        let present: BTreeSet<&PathBuf> = present.iter().collect();
        let is_expecting = self.watched.values().any(|watched| {
            watched.read.is_none() && watched.missing.is_none() && now < watched.appeared + PATIENCE
        });
        let mut gone = Vec::new();
        for (file, watched) in &mut self.watched {
            watched.missing = match present.contains(file) || is_below(file, doubtful) {
                true => None,
                false => watched.missing.or(Some(now)),
            };
            let waited = watched.missing.map_or(Duration::ZERO, |since| now - since);
            if waited >= if is_expecting { PATIENCE } else { GONE } {
                gone.push(file.clone());
            }
        }
        for file in &gone {
            self.watched.remove(file);
            self.store.remove_file(file);
        }
        !gone.is_empty()
    }

    fn look_at(&mut self, file: &Path, is_renamed: bool, now: Instant) -> Seen {
        let new = Watched { read: None, seen: None, appeared: now, missing: None };
        let watched = self.watched.entry(file.to_owned()).or_insert(new);
        let Some(signature) = signature(file) else {
            // Gone since it was listed, or unreachable: the next listing, or reading it, will tell.
            watched.seen = None;
            let leads_nowhere_new = watched.read.is_none() && !self.store.holds_objects(file);
            if leads_nowhere_new || std::fs::symlink_metadata(file).is_err() {
                return Seen::Unchanged;
            }
            let error = file_error(file, "cannot be read; what it last held stays in force".to_owned());
            let known = self.store.errors().contains(&error);
            self.store.doubt_file(file, error);
            return if known { Seen::Unchanged } else { Seen::Read };
        };
        if watched.read == Some(signature) {
            return Seen::Unchanged;
        }
        let is_in_place =
            watched.read.is_some_and(|read| (read.device, read.inode) == (signature.device, signature.inode));
        let since = match watched.seen {
            Some((seen, since)) if seen == signature => since,
            _ if is_renamed && !is_in_place => {
                watched.seen = Some((signature, now));
                now
            }
            _ => {
                watched.seen = Some((signature, now));
                let patience_ended = watched.read.is_none() && now >= watched.appeared + PATIENCE;
                return if patience_ended { self.give_up_waiting(file) } else { Seen::Unsettled };
            }
        };
        let text = if signature.size > FILE_SIZE_MAX {
            Err(format!("has {} bytes, above the limit of {FILE_SIZE_MAX}; split it", signature.size))
        } else {
            read_text(file)
        };
        if self::signature(file) != Some(signature) {
            // The next look sees the other state.
            return Seen::Unsettled;
        }
        let holds_objects = self.store.holds_objects(file);
        match text {
            Err(message) => self.store.doubt_file(file, file_error(file, message)),
            Ok(text) if text.trim().is_empty() => {
                let report = load_text(file, "");
                match holds_objects {
                    false => self.store.set_file(file, report),
                    true => self.store.doubt_file(
                        file,
                        file_error(
                            file,
                            "is empty; the objects it held stay in force. Remove the file to remove them"
                                .to_owned(),
                        ),
                    ),
                }
            }
            Ok(text) if is_unfinished(file, &text) && (holds_objects || now < since + UNFINISHED) => {
                if !holds_objects {
                    return Seen::Unsettled;
                }
                self.store.doubt_file(
                    file,
                    file_error(
                        file,
                        "does not end with a newline and may be half written; what it last held stays in force. End it with \
                         a newline"
                            .to_owned(),
                    ),
                );
            }
            Ok(text) => {
                let report = load_text(file, &text);
                if is_in_place && now < since + SHRUNK && self.store.would_lose(file, &report) {
                    return Seen::Unsettled;
                }
                self.store.set_file(file, report);
            }
        }
        if let Some(watched) = self.watched.get_mut(file) {
            watched.read = Some(signature);
        }
        Seen::Read
    }

    /// A file that never is the same twice must not keep everything else from being enforced.
    fn give_up_waiting(&mut self, file: &Path) -> Seen {
        let error = file_error(file, "keeps changing and has not been read yet".to_owned());
        if self.store.errors().contains(&error) {
            return Seen::Unchanged;
        }
        self.store.doubt_file(file, error);
        Seen::Read
    }
}

fn is_below(file: &Path, directories: &BTreeSet<PathBuf>) -> bool {
    file.ancestors().skip(1).any(|directory| directories.contains(directory))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    Unchanged,
    Read,
    Unsettled,
}

/// YAML in block style that could be the beginning of something longer. JSON, and YAML written in its style, says by its
/// last bracket that it is complete.
fn is_unfinished(file: &Path, text: &str) -> bool {
    let is_json = file.extension().is_some_and(|extension| extension == "json");
    let is_flow = text.trim_start().starts_with(['{', '[']);
    !is_json && !is_flow && !text.ends_with('\n')
}

fn signature(file: &Path) -> Option<Signature> {
    let metadata = std::fs::metadata(file).ok()?;
    Some(Signature {
        device: metadata.dev(),
        inode: metadata.ino(),
        size: metadata.size(),
        modified: (metadata.mtime(), metadata.mtime_nsec()),
        changed: (metadata.ctime(), metadata.ctime_nsec()),
    })
}
