//! Looking at a directory: which files changed, and which of them are settled enough to be read.
//!
//! A file counts as settled when two looks in a row found it the same. Writers that rename a finished file into place are
//! read on the second look; one that writes slowly is waited for. YAML can be cut anywhere and still parse into something
//! that means less, so a file without its final newline is not believed where it would touch what is in force, and neither
//! is an empty one.

use super::store::{Change, Store};
use crate::load::{FILE_SIZE_MAX, LoadError, file_error, list_files, load_text, read_text};
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A file that ends without a newline and holds up nothing yet is believed after it has been quiet for this long.
const UNFINISHED: Duration = Duration::from_secs(1);

/// How long a file must be missing before it counts as gone: editors move the old file away before they write the new one.
const GONE: Duration = Duration::from_millis(60);

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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
    /// Why the directory, or a part of it, could not be looked at.
    trouble: Vec<LoadError>,
    /// Every file there was has been read at one time: from then on what is in force is known.
    has_been_complete: bool,
}

impl Directory {
    /// Nothing is read before the first [`Directory::look`].
    #[must_use]
    pub fn new(root: PathBuf, store: Store) -> Self {
        Directory { root, watched: BTreeMap::new(), store, trouble: Vec::new(), has_been_complete: false }
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
        let (mut files, mut trouble) = (Vec::new(), Vec::new());
        match std::fs::metadata(&self.root) {
            Ok(metadata) if metadata.is_dir() => list_files(&self.root, true, &mut files, &mut trouble),
            Ok(_) => trouble.push(file_error(&self.root, "is not a directory".to_owned())),
            Err(error) => trouble.push(file_error(&self.root, format!("cannot be read: {error}"))),
        }
        let listed = trouble.is_empty();
        let mut look = Look { anything_new: trouble != self.trouble, complete: listed, ..Look::default() };
        self.trouble = trouble;

        for file in &files {
            match self.look_at(file, now) {
                Seen::Unchanged => {}
                Seen::Read => look.anything_new = true,
                Seen::Unsettled => look.complete = false,
            }
        }
        // Whatever cannot be listed may still be there: only a full listing makes a file gone.
        if listed && self.forget_missing(&files, now) {
            look.anything_new = true;
        }
        self.has_been_complete |= look.complete;
        if look.anything_new && self.has_been_complete {
            look.changes = self.store.settle();
        }
        look
    }

    /// Lets go of files that are gone for good. True when there were any.
    fn forget_missing(&mut self, present: &[PathBuf], now: Instant) -> bool {
        let present: BTreeSet<&PathBuf> = present.iter().collect();
        let is_expecting = self.watched.values().any(|watched| {
            watched.read.is_none() && watched.missing.is_none() && now < watched.appeared + PATIENCE
        });
        let mut gone = Vec::new();
        for (file, watched) in &mut self.watched {
            watched.missing = match present.contains(file) {
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

    fn look_at(&mut self, file: &Path, now: Instant) -> Seen {
        let new = Watched { read: None, seen: None, appeared: now, missing: None };
        let watched = self.watched.entry(file.to_owned()).or_insert(new);
        let Some(signature) = signature(file) else {
            // Gone since it was listed, or unreachable: the next listing, or reading it, will tell.
            watched.seen = None;
            if std::fs::symlink_metadata(file).is_err() {
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
        let since = match watched.seen {
            Some((seen, since)) if seen == signature => since,
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
            Ok(text) => self.store.set_file(file, load_text(file, &text)),
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use tempfile::TempDir;

    struct Bench {
        dir: TempDir,
        directory: Directory,
        now: Instant,
    }

    impl Bench {
        fn new() -> Bench {
            let dir = tempfile::tempdir().unwrap();
            let directory = Directory::new(dir.path().to_owned(), Store::default());
            Bench { dir, directory, now: Instant::now() }
        }

        fn write(&self, file: &str, text: &str) {
            fs::write(self.dir.path().join(file), text).unwrap();
        }

        /// Looks often enough for everything to settle; returns the number of changes.
        fn look(&mut self) -> usize {
            let mut changes = 0;
            for _ in 0..6 {
                self.now += Duration::from_millis(20);
                changes += self.directory.look(self.now).changes.len();
            }
            changes
        }

        fn names(&self) -> Vec<String> {
            self.directory.store().objects().map(|held| held.object.key().name).collect()
        }
    }

    fn deny(name: &str) -> String {
        format!(
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata:\n  name: {name}\nspec:\n  podSelector: {{}}\n"
        )
    }

    #[test]
    fn files_are_read_on_the_second_look_and_only_when_they_change() {
        let mut bench = Bench::new();
        bench.write("a.yaml", &deny("p"));
        bench.write(".hidden.yaml", &deny("h"));
        bench.write("note.txt", "not yaml: [");
        let first = bench.directory.look(bench.now);
        assert!(!first.complete && first.changes.is_empty());
        let second = bench.directory.look(bench.now);
        assert!(second.complete && second.changes.len() == 1);
        assert_eq!(bench.directory.look(bench.now), Look { complete: true, ..Look::default() });
    }

    #[test]
    fn nothing_is_in_force_before_every_file_has_been_read() {
        let mut bench = Bench::new();
        bench.write("a.yaml", &deny("p"));
        bench.directory.look(bench.now);
        bench.write("b.yaml", &deny("q"));
        let look = bench.directory.look(bench.now);
        assert!(!look.complete && look.changes.is_empty());
        let look = bench.directory.look(bench.now);
        assert!(look.complete && look.changes.is_empty() || look.changes.len() == 2);
    }

    #[test]
    fn a_half_written_file_is_no_deletion_wherever_it_is_cut() {
        let whole = format!("{}---\n{}", deny("p"), deny("q"));
        for cut in 0..whole.len() {
            let mut bench = Bench::new();
            bench.write("a.yaml", &whole);
            assert_eq!(bench.look(), 2);
            bench.write("a.yaml", &whole[..cut]);
            bench.look();
            bench.now += UNFINISHED * 2;
            bench.look();
            // Cut between lines it may be a whole document less, which nobody could tell from a deletion.
            if !whole[..cut].ends_with('\n') || cut < deny("p").len() {
                assert!(bench.names().contains(&"p".to_owned()), "cut at {cut}");
            }
            if !whole[..cut].ends_with('\n') {
                assert_eq!(bench.names(), ["p", "q"], "cut at {cut}");
            }
            bench.write("a.yaml", &whole);
            bench.look();
            assert_eq!(bench.names(), ["p", "q"], "cut at {cut}");
            assert!(bench.directory.errors().is_empty());
        }
    }

    #[test]
    fn a_new_file_without_a_final_newline_is_believed_after_a_while() {
        let mut bench = Bench::new();
        bench.write("a.yaml", deny("p").trim_end());
        assert_eq!(bench.look(), 0);
        bench.now += UNFINISHED;
        assert_eq!(bench.look(), 1);
    }

    #[test]
    fn deletions_renames_and_subdirectories_are_followed() {
        let mut bench = Bench::new();
        fs::create_dir(bench.dir.path().join("sub")).unwrap();
        bench.write("sub/a.yml", &deny("p"));
        assert_eq!(bench.look(), 1);
        fs::rename(bench.dir.path().join("sub/a.yml"), bench.dir.path().join("b.yaml")).unwrap();
        bench.look();
        assert_eq!(bench.names(), ["p"]);
        fs::remove_file(bench.dir.path().join("b.yaml")).unwrap();
        assert_eq!(bench.look(), 1);
        assert!(bench.names().is_empty());
    }

    #[test]
    fn links_to_files_are_followed_and_links_to_directories_and_pipes_are_not() {
        use std::os::unix::fs::symlink;
        let mut bench = Bench::new();
        let path = |name: &str| bench.dir.path().join(name);
        fs::create_dir(path(".data")).unwrap();
        fs::write(path(".data/a.yaml"), deny("p")).unwrap();
        symlink(".data/a.yaml", path("a.yaml")).unwrap();
        symlink(".", path("loop.yaml")).unwrap();
        symlink("nowhere", path("dangling.yaml")).unwrap();
        nix::unistd::mkfifo(&path("pipe.yaml"), nix::sys::stat::Mode::S_IRUSR).unwrap();
        assert_eq!(bench.look(), 1);
        assert!(bench.directory.errors().is_empty());
    }

    #[test]
    fn a_file_that_moves_to_another_name_is_never_missed() {
        let mut bench = Bench::new();
        bench.write("a.yaml", &deny("p"));
        bench.look();
        let path = |name: &str| bench.dir.path().join(name);
        fs::rename(path("a.yaml"), path("b.yaml")).unwrap();
        for round in 0..200 {
            bench.now += Duration::from_millis(20);
            // Written in pieces for a while.
            if round < 20 {
                fs::write(bench.dir.path().join("b.yaml"), format!("# {round}\n{}", deny("p"))).unwrap();
            }
            assert_eq!(bench.directory.look(bench.now).changes, [], "round {round}");
        }
        assert_eq!(bench.names(), ["p"]);
    }

    #[test]
    fn an_editor_that_moves_the_old_file_away_first_deletes_nothing() {
        let mut bench = Bench::new();
        bench.write("a.yaml", &deny("p"));
        bench.look();
        fs::remove_file(bench.dir.path().join("a.yaml")).unwrap();
        bench.now += Duration::from_millis(20);
        assert_eq!(bench.directory.look(bench.now).changes, []);
        bench.write("a.yaml", &deny("p"));
        assert_eq!(bench.look(), 0);
        fs::remove_file(bench.dir.path().join("a.yaml")).unwrap();
        assert_eq!(bench.look(), 1);
    }

    #[test]
    fn a_file_that_never_settles_does_not_hold_up_the_others_for_ever() {
        let mut bench = Bench::new();
        bench.write("a.yaml", &deny("p"));
        for round in 0..200 {
            bench.now += Duration::from_millis(20);
            bench.write("log.yaml", &format!("# {}\n", "x".repeat(round)));
            bench.directory.look(bench.now);
        }
        assert_eq!(bench.names(), ["p"]);
        assert!(bench.directory.errors()[0].message.contains("keeps changing"));
    }

    #[test]
    fn a_directory_that_is_gone_keeps_everything_and_says_so() {
        let mut bench = Bench::new();
        bench.write("a.yaml", &deny("p"));
        bench.look();
        let moved = bench.dir.path().with_extension("moved");
        fs::rename(bench.dir.path(), &moved).unwrap();
        assert_eq!(bench.look(), 0);
        assert_eq!((bench.names().len(), bench.directory.errors().len()), (1, 1));
        fs::rename(&moved, bench.dir.path()).unwrap();
        assert_eq!(bench.look(), 0);
        assert!(bench.directory.errors().is_empty());
    }

    #[test]
    fn a_file_that_cannot_be_read_any_more_keeps_what_it_held() {
        let mut bench = Bench::new();
        bench.write("a.yaml", &deny("p"));
        bench.look();
        bench.write("a.yaml", "\u{0}");
        fs::write(bench.dir.path().join("a.yaml"), [0xff, 0xfe, b'\n']).unwrap();
        assert_eq!(bench.look(), 0);
        assert!(bench.directory.errors()[0].message.contains("UTF-8"));
        assert_eq!(bench.names(), ["p"]);
    }
}
