//! The thread that watches the directory.

use super::{Config, Message};
use crate::load::LoadError;
use crate::objects::{Kind, ObjectKey};
use crate::source::persist::{self, LastGood};
use crate::source::{Change, Directory, Notify, PlaceId};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Time between looks when nobody is told of a change; four times what a look takes, where that is more.
const INTERVAL: Duration = Duration::from_millis(20);
/// A look that changed nothing while nothing could be established yet is told this often.
const WAITING: Duration = Duration::from_secs(1);

/// News of the directory.
#[derive(Debug)]
pub(super) struct Observation {
    /// The first time the directory was seen whole: the changes are everything there is.
    pub(super) is_first: bool,
    pub(super) changes: Vec<Change>,
    pub(super) errors: Vec<LoadError>,
    pub(super) notices: Vec<LoadError>,
    pub(super) kept: Vec<ObjectKey>,
    pub(super) counts: BTreeMap<Kind, usize>,
    pub(super) files: usize,
}

/// Stops the thread when dropped.
pub(super) struct Watcher(Arc<AtomicBool>);

impl Drop for Watcher {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

pub(super) fn start(config: &Config, queue: Sender<Message>) -> Watcher {
    let stop = Arc::new(AtomicBool::new(false));
    let state_file = config.state_dir.join("control-objects.json");
    let root = config.objects.clone();
    let last_good = persist::read(&state_file, &root).unwrap_or_else(|error| {
        tracing::warn!("last good versions of objects are not known: {error}; objects that are broken now are not enforced");
        LastGood::default()
    });
    let watching = Watching {
        directory: Directory::resume(root, last_good),
        state_file,
        queue,
        stop: stop.clone(),
        unsaved: false,
        saved_places: BTreeMap::new(),
        save_after: Instant::now(),
        saving: None,
    };
    std::thread::spawn(move || watching.run());
    Watcher(stop)
}

struct Watching {
    directory: Directory,
    state_file: PathBuf,
    queue: Sender<Message>,
    stop: Arc<AtomicBool>,
    unsaved: bool,
    /// The directories as they are written down, or being so.
    saved_places: BTreeMap<PathBuf, PlaceId>,
    /// Large states are not written at every change.
    save_after: Instant,
    saving: Option<Saving>,
}

impl Watching {
    fn run(mut self) {
        let mut has_been_whole = false;
        let mut told = None::<Instant>;
        let mut notify = Notify::new();
        let mut renamed = BTreeSet::new();
        while !self.stop.load(Ordering::Relaxed) {
            let began = Instant::now();
            let look = self.directory.look_after(&renamed, began);
            let took = began.elapsed();
            let is_first = look.complete && !has_been_whole;
            has_been_whole |= look.complete;
            let is_late = !has_been_whole && told.is_none_or(|at| at.elapsed() > WAITING);
            if is_first || is_late || (look.anything_new && has_been_whole) {
                told = Some(began);
                self.unsaved |= is_first || !look.changes.is_empty();
                // The first time everything counts, also what was kept and has not changed.
                let changes = match is_first {
                    true => self
                        .directory
                        .store()
                        .objects()
                        .map(|held| Change::Apply(held.object.clone()))
                        .collect(),
                    false => look.changes,
                };
                if !self.tell(is_first, changes) {
                    return;
                }
            }
            self.unsaved |= has_been_whole && self.saved_places != *self.directory.places();
            self.save();
            notify.watch(self.directory.places().keys().map(PathBuf::as_path));
            // However many files change: others want the CPU too.
            std::thread::sleep(took);
            renamed = notify.wait(INTERVAL.max(took * 3));
        }
        self.finish();
    }

    fn tell(&self, is_first: bool, changes: Vec<Change>) -> bool {
        let store = self.directory.store();
        let mut counts = BTreeMap::from([(Kind::Namespace, 0), (Kind::Pod, 0), (Kind::NetworkPolicy, 0)]);
        counts.extend(store.counts());
        let observation = Observation {
            is_first,
            changes,
            errors: self.directory.errors(),
            notices: store.notices(),
            kept: store.kept().iter().cloned().collect(),
            counts,
            files: store.files().count(),
        };
        self.queue.send(Message::Objects(Box::new(observation))).is_ok()
    }

    /// Has what is in force written down beside us: with a large cluster it takes longer than a change may.
    fn save(&mut self) {
        match self.saving.take() {
            Some(saving) if saving.thread.is_finished() => self.saved(saving),
            unfinished => self.saving = unfinished,
        }
        if self.saving.is_some() || !self.unsaved || Instant::now() < self.save_after {
            return;
        }
        let (file, root) = (self.state_file.clone(), self.directory.root().to_owned());
        let (places, objects) = (self.directory.places().clone(), self.directory.store().snapshot());
        (self.unsaved, self.saved_places) = (false, places.clone());
        self.saving = Some(Saving {
            began: Instant::now(),
            thread: std::thread::spawn(move || {
                persist::write(&file, &root, &places, objects.iter().map(Arc::as_ref))
            }),
        });
    }

    fn saved(&mut self, saving: Saving) {
        match saving.thread.join().unwrap_or_else(|_| Err(std::io::Error::other("it panicked"))) {
            Ok(()) => self.save_after = Instant::now() + saving.began.elapsed() * 10,
            Err(error) => {
                self.unsaved = true;
                self.save_after = Instant::now() + Duration::from_secs(5);
                tracing::error!(
                    "{} cannot be written: {error}; after a restart last good versions of objects would be missing",
                    self.state_file.display()
                );
            }
        }
    }

    /// The last words: what is on its way, and what came since.
    fn finish(&mut self) {
        for _ in 0..2 {
            self.save_after = Instant::now();
            self.save();
            if let Some(saving) = self.saving.take() {
                self.saved(saving);
            }
        }
    }
}

/// Last good versions on their way to the disk.
struct Saving {
    thread: JoinHandle<std::io::Result<()>>,
    began: Instant,
}
