//! What is in force, given what the files say now and what was in force before. Pure.

use crate::load::{FileReport, LoadError, LoadedObject, duplicate_errors};
use crate::objects::{Kind, Object, ObjectKey};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A difference to what was in force before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    Apply(Object),
    Delete(ObjectKey),
}

/// An object in force and the file its last good version came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InForce {
    pub file: PathBuf,
    pub object: Object,
}

#[derive(Debug, Clone, Default)]
pub struct Store {
    files: BTreeMap<PathBuf, FileReport>,
    /// Shared with whoever is writing them down.
    in_force: BTreeMap<ObjectKey, Arc<InForce>>,
    /// In force although no file says so in a way that could be used.
    kept: BTreeSet<ObjectKey>,
    duplicates: Vec<LoadError>,
    pending: Pending,
}

/// What has to be settled.
#[derive(Debug, Clone, Default)]
enum Pending {
    /// Anything may have happened.
    #[default]
    Everything,
    /// Only that these files state other versions of the objects they stated before. Mostly there is one, and the cluster is large.
    Versions(BTreeSet<PathBuf>),
}

impl Store {
    /// Begins with what was in force when it was last written down.
    #[must_use]
    pub fn with_last_good(last_good: impl IntoIterator<Item = InForce>) -> Self {
        let in_force = last_good.into_iter().map(|held| (held.object.key(), Arc::new(held))).collect();
        Store { in_force, ..Store::default() }
    }

    /// A file was read.
    pub fn set_file(&mut self, file: &Path, report: FileReport) {
        let old = self.files.insert(file.to_owned(), report);
        let is_only_newer = match (&old, self.files.get(file)) {
            (Some(old), Some(new)) => states_the_same_objects(old, new),
            _ => false,
        };
        match &mut self.pending {
            Pending::Versions(files) if is_only_newer => drop(files.insert(file.to_owned())),
            pending => *pending = Pending::Everything,
        }
    }

    /// A file is gone: so are its objects.
    pub fn remove_file(&mut self, file: &Path) {
        self.files.remove(file);
        self.pending = Pending::Everything;
    }

    /// A file is there, but what is in it now must not be believed: everything it last held stays.
    pub fn doubt_file(&mut self, file: &Path, error: LoadError) {
        let doubt = FileReport { has_unreadable: true, errors: vec![error], ..FileReport::default() };
        self.files.insert(file.to_owned(), doubt);
        self.pending = Pending::Everything;
    }

    /// A file may be there and cannot be seen: everything it last held stays.
    pub fn hold_file(&mut self, file: &Path) {
        self.files.insert(file.to_owned(), FileReport { has_unreadable: true, ..FileReport::default() });
        self.pending = Pending::Everything;
    }

    /// Would this report take objects away that this file holds up?
    #[must_use]
    pub fn would_lose(&self, file: &Path, report: &FileReport) -> bool {
        let stays = |key: &ObjectKey| {
            report.refused.contains(key) || report.objects.iter().any(|loaded| loaded.object.key() == *key)
        };
        !report.has_unreadable && self.in_force.iter().any(|(key, held)| held.file == file && !stays(key))
    }

    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.files.keys().map(PathBuf::as_path)
    }

    /// Does a file hold up an object that is in force?
    #[must_use]
    pub fn holds_objects(&self, file: &Path) -> bool {
        self.in_force.values().any(|held| held.file == file)
    }

    pub fn objects(&self) -> impl Iterator<Item = &InForce> {
        self.in_force.values().map(Arc::as_ref)
    }

    /// The same, to keep: what changes here later does not change there.
    #[must_use]
    pub fn snapshot(&self) -> Vec<Arc<InForce>> {
        self.in_force.values().cloned().collect()
    }

    /// How many of each kind.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<Kind, usize> {
        let mut counts = BTreeMap::new();
        for key in self.in_force.keys() {
            *counts.entry(key.kind).or_default() += 1;
        }
        counts
    }

    /// Objects whose last good version stays in force although the files hold no good one.
    #[must_use]
    pub fn kept(&self) -> &BTreeSet<ObjectKey> {
        &self.kept
    }

    /// Everything that is wrong now, in the order of the files.
    #[must_use]
    pub fn errors(&self) -> Vec<LoadError> {
        let mut errors: Vec<LoadError> = self.files.values().flat_map(|f| f.errors.iter().cloned()).collect();
        errors.extend(self.duplicates.iter().cloned());
        errors.sort();
        errors
    }

    #[must_use]
    pub fn notices(&self) -> Vec<LoadError> {
        self.files.values().flat_map(|f| f.notices.iter().chain(&f.skipped).cloned()).collect()
    }

    /// Settles what is in force after files changed, and says what that changes.
    pub fn settle(&mut self) -> Vec<Change> {
        // Where every object is stated once and believed, new versions of some concern no other.
        let is_plain = self.duplicates.is_empty() && self.kept.is_empty();
        match std::mem::replace(&mut self.pending, Pending::Versions(BTreeSet::new())) {
            Pending::Versions(files) if is_plain => self.settle_versions(&files),
            _ => self.settle_everything(),
        }
    }

    fn settle_versions(&mut self, files: &BTreeSet<PathBuf>) -> Vec<Change> {
        let mut changed = BTreeMap::new();
        for loaded in files.iter().filter_map(|file| self.files.get(file)).flat_map(|report| &report.objects)
        {
            let key = loaded.object.key();
            match self.in_force.get_mut(&key) {
                Some(held) if held.object == loaded.object => {}
                Some(held) => {
                    Arc::make_mut(held).object = loaded.object.clone();
                    changed.insert(key, Change::Apply(loaded.object.clone()));
                }
                // Cannot be: it was stated before, and once. If it is, everything is looked at.
                None => return self.settle_everything(),
            }
        }
        changed.into_values().collect()
    }

    fn settle_everything(&mut self) -> Vec<Change> {
        let mut stated: BTreeMap<ObjectKey, Vec<&LoadedObject>> = BTreeMap::new();
        for loaded in self.files.values().flat_map(|file| &file.objects) {
            stated.entry(loaded.object.key()).or_default().push(loaded);
        }
        let refused: BTreeSet<&ObjectKey> = self.files.values().flat_map(|file| &file.refused).collect();
        let unreadable: BTreeSet<&Path> = self
            .files
            .iter()
            .filter(|(_, report)| report.has_unreadable)
            .map(|(file, _)| file.as_path())
            .collect();

        let mut next: BTreeMap<ObjectKey, Arc<InForce>> = BTreeMap::new();
        let mut kept = BTreeSet::new();
        let mut duplicates = Vec::new();
        for (key, loaded) in &stated {
            if let [one] = loaded.as_slice() {
                let held = InForce { file: one.place.file.clone(), object: one.object.clone() };
                next.insert(key.clone(), Arc::new(held));
            } else {
                duplicates.extend(duplicate_errors(key, loaded.iter().map(|l| &l.place)));
            }
        }
        for (key, held) in &self.in_force {
            if next.contains_key(key) {
                continue;
            }
            // Stated twice, stated badly, or perhaps in the part of its file that cannot be read.
            if stated.contains_key(key) || refused.contains(key) || unreadable.contains(held.file.as_path()) {
                next.insert(key.clone(), held.clone());
                kept.insert(key.clone());
            }
        }

        let mut changes: Vec<Change> =
            self.in_force.keys().filter(|key| !next.contains_key(key)).cloned().map(Change::Delete).collect();
        for (key, held) in &next {
            if self.in_force.get(key).is_none_or(|old| old.object != held.object) {
                changes.push(Change::Apply(held.object.clone()));
            }
        }
        self.in_force = next;
        self.kept = kept;
        self.duplicates = duplicates;
        changes
    }
}

/// Both readings of a file are clean, and differ at most in the versions of their objects.
fn states_the_same_objects(old: &FileReport, new: &FileReport) -> bool {
    let is_clean = |report: &FileReport| report.refused.is_empty() && !report.has_unreadable;
    let keys = |report: &FileReport| -> Vec<ObjectKey> {
        let mut keys: Vec<ObjectKey> = report.objects.iter().map(|loaded| loaded.object.key()).collect();
        keys.sort();
        keys
    };
    is_clean(old) && is_clean(new) && keys(old) == keys(new)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::load_text;

    fn policy(name: &str, spec: &str) -> String {
        format!(
            "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata:\n  name: {name}\nspec: {spec}\n"
        )
    }

    fn deny(name: &str) -> String {
        policy(name, "{podSelector: {}}")
    }

    fn write(store: &mut Store, file: &str, text: &str) -> Vec<Change> {
        let file = Path::new(file);
        store.set_file(file, load_text(file, text));
        store.settle()
    }

    fn names(store: &Store) -> Vec<String> {
        store.objects().map(|held| held.object.key().name).collect()
    }

    /// Files come, go, are written anew, well and badly, and states are settled at random moments: the short way and the long
    /// way give the same.
    #[test]
    fn settling_new_versions_alone_gives_what_settling_everything_gives() {
        use rand::rngs::StdRng;
        use rand::{RngExt, SeedableRng};
        let first: u64 =
            std::env::var("PENSTOCK_SEED").map_or_else(|_| rand::random(), |seed| seed.parse().unwrap());
        println!("first seed {first}");
        let mut short = 0;
        for seed in (0..300).map(|n| first.wrapping_add(n)) {
            let mut random = StdRng::seed_from_u64(seed);
            let (mut quick, mut slow) = (Store::default(), Store::default());
            for step in 0..40 {
                let file = PathBuf::from(format!("{}.yaml", random.random_range(0..4)));
                let which = random.random_range(0..12);
                let names: Vec<usize> =
                    (0..2).map(|n| if which == 0 { random.random_range(0..6) } else { n }).collect();
                let own = file.to_str().unwrap().as_bytes()[0];
                let text: String = names
                    .iter()
                    .map(|n| match random.random_range(0..25) {
                        0 => "---\nkind: Pod\nmetadata: {nmae: x}\n".to_owned(),
                        1 => deny("shared"),
                        _ => {
                            let app = random.random_range(0..4);
                            let spec = format!("{{podSelector: {{matchLabels: {{app: a{app}}}}}}}");
                            policy(&format!("p{own}-{n}"), &spec)
                        }
                    })
                    .collect();
                for store in [&mut quick, &mut slow] {
                    match which {
                        1 => store.remove_file(&file),
                        2 => store.hold_file(&file),
                        _ => store.set_file(&file, load_text(&file, &text)),
                    }
                }
                slow.pending = Pending::Everything;
                if random.random_bool(0.7) {
                    short += usize::from(matches!(quick.pending, Pending::Versions(_)));
                    assert_eq!(quick.settle(), slow.settle(), "seed {seed}, step {step}");
                    assert_eq!(quick.in_force, slow.in_force, "seed {seed}, step {step}");
                    assert_eq!(quick.kept, slow.kept, "seed {seed}, step {step}");
                    assert_eq!(quick.errors(), slow.errors(), "seed {seed}, step {step}");
                }
            }
        }
        assert!(short > 1000, "the short way was hardly taken: {short}");
    }

    #[test]
    fn a_version_that_is_refused_keeps_the_last_good_one() {
        let mut store = Store::default();
        assert_eq!(write(&mut store, "a.yaml", &deny("p")).len(), 1);
        assert_eq!(write(&mut store, "a.yaml", &policy("p", "{podselector: {}}")), []);
        assert_eq!((names(&store), store.kept().len()), (vec!["p".to_owned()], 1));
        // Spoilt beyond recognition, and stripped of its name.
        assert_eq!(write(&mut store, "a.yaml", "x: [\n"), []);
        assert_eq!(write(&mut store, "a.yaml", &deny("p").replace("  name: p", "name: p")), []);
        assert_eq!(names(&store), ["p"]);
        assert_eq!(write(&mut store, "a.yaml", &deny("p")), []);
        assert!(store.kept().is_empty());
    }

    #[test]
    fn an_object_plainly_gone_is_deleted_and_a_bad_neighbour_does_not_change_that() {
        let mut store = Store::default();
        write(&mut store, "a.yaml", &(deny("p") + &deny("q") + &deny("r")));
        let changes = write(&mut store, "a.yaml", &(deny("p") + &policy("r", "{}")));
        assert_eq!(changes.len(), 1);
        assert_eq!(names(&store), ["p", "r"]);
    }

    #[test]
    fn an_unreadable_part_may_hold_any_object_of_its_file_but_of_no_other() {
        let mut store = Store::default();
        write(&mut store, "a.yaml", &(deny("p") + &deny("q")));
        write(&mut store, "b.yaml", &deny("r"));
        assert_eq!(write(&mut store, "a.yaml", &(deny("p") + "---\nx: [\n")), []);
        assert_eq!(names(&store), ["p", "q", "r"]);
        assert_eq!(write(&mut store, "b.yaml", &deny("s")).len(), 2);
        assert_eq!(names(&store), ["p", "q", "s"]);
    }

    #[test]
    fn a_second_claim_to_a_name_replaces_nothing_and_removes_nothing() {
        let mut store = Store::default();
        write(&mut store, "a.yaml", &deny("p"));
        let open = policy("p", "{podSelector: {}, ingress: [{}]}");
        assert_eq!(write(&mut store, "b.yaml", &open), []);
        assert_eq!(store.errors().len(), 2);
        store.remove_file(Path::new("a.yaml"));
        // Now b's is the only one.
        assert_eq!(store.settle().len(), 1);
        assert!(store.errors().is_empty());
    }

    #[test]
    fn a_file_that_is_gone_takes_its_objects_along() {
        let mut store = Store::default();
        write(&mut store, "a.yaml", &deny("p"));
        store.remove_file(Path::new("a.yaml"));
        assert_eq!(store.settle().len(), 1);
        assert!(names(&store).is_empty());
    }

    #[test]
    fn what_was_written_down_counts_until_the_files_say_otherwise() {
        let mut before = Store::default();
        write(&mut before, "a.yaml", &deny("p"));
        write(&mut before, "b.yaml", &deny("q"));
        let mut store = Store::with_last_good(before.objects().cloned().collect::<Vec<_>>());
        assert_eq!(write(&mut store, "a.yaml", &policy("p", "")).len(), 1, "b.yaml is gone");
        assert_eq!(names(&store), ["p"]);
    }
}
