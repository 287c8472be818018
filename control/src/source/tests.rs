//! A directory as people and programs treat it, and what of it is believed.

use super::directory::{SHRUNK, UNFINISHED};
use super::persist::{self, LastGood};
use super::*;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};
use tempfile::TempDir;

struct Bench {
    dir: TempDir,
    directory: Directory,
    now: Instant,
}

impl Bench {
    fn new() -> Bench {
        let dir = tempfile::tempdir().unwrap();
        let directory = Directory::new(dir.path().to_owned());
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
#[test]
fn an_object_missing_from_a_file_written_in_place_is_waited_for() {
    let mut bench = Bench::new();
    let (p, q) = (deny("p"), deny("q"));
    bench.write("a.yaml", &format!("{p}---\n{q}"));
    assert_eq!(bench.look(), 2);
    // A program writes the file document by document, and is slow.
    bench.write("a.yaml", &p);
    assert_eq!(bench.look(), 0);
    bench.write("a.yaml", &format!("{p}---\n{q}"));
    assert_eq!(bench.look(), 0);
    assert_eq!(bench.names(), ["p", "q"]);
    // It stays so: it was meant.
    bench.write("a.yaml", &p);
    bench.look();
    bench.now += SHRUNK;
    assert_eq!(bench.look(), 1);
    assert_eq!(bench.names(), ["p"]);
}

#[test]
fn an_object_missing_from_a_file_renamed_into_place_is_gone_at_once() {
    let mut bench = Bench::new();
    bench.write("a.yaml", &format!("{}---\n{}", deny("p"), deny("q")));
    assert_eq!(bench.look(), 2);
    bench.write(".a.yaml.new", &deny("p"));
    fs::rename(bench.dir.path().join(".a.yaml.new"), bench.dir.path().join("a.yaml")).unwrap();
    assert_eq!(bench.look(), 1);
}

#[test]
fn a_link_that_leads_nowhere_keeps_what_it_led_to() {
    use std::os::unix::fs::symlink;
    let mut bench = Bench::new();
    bench.write(".data.yaml", &deny("p"));
    symlink(".data.yaml", bench.dir.path().join("a.yaml")).unwrap();
    assert_eq!(bench.look(), 1);
    fs::remove_file(bench.dir.path().join(".data.yaml")).unwrap();
    assert_eq!(bench.look(), 0);
    assert_eq!((bench.names().len(), bench.directory.errors().len()), (1, 1));
    fs::remove_file(bench.dir.path().join("a.yaml")).unwrap();
    assert_eq!(bench.look(), 1);
    assert!(bench.directory.errors().is_empty());
}

impl Bench {
    /// What an unmounted volume leaves: another directory under the same path, with nothing in it.
    fn unmount(&self, below: &str) {
        let place = self.dir.path().join(below);
        // The old one stays somewhere, so that its inode is not given to the new one.
        fs::rename(&place, self.aside(below)).unwrap();
        fs::create_dir(&place).unwrap();
    }

    fn mount_again(&self, below: &str) {
        let place = self.dir.path().join(below);
        fs::remove_dir_all(&place).unwrap();
        fs::rename(self.aside(below), place).unwrap();
    }

    fn aside(&self, below: &str) -> std::path::PathBuf {
        let name = if below.is_empty() { "root".to_owned() } else { below.replace('/', "-") };
        self.dir.path().with_extension(format!("aside-{name}"))
    }

    /// The control plane ends, and another one begins.
    fn restart(&mut self) {
        let directory = &self.directory;
        let last_good = LastGood {
            objects: directory.store().objects().cloned().collect(),
            directories: directory.places().clone(),
        };
        self.directory = Directory::resume(directory.root().to_owned(), last_good);
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let name = self.dir.path().file_name().unwrap().to_owned();
        for entry in fs::read_dir(self.dir.path().parent().unwrap()).into_iter().flatten().flatten() {
            let is_ours = Path::new(&entry.file_name()).file_stem() == Path::new(&name).file_stem()
                && entry.file_name().to_string_lossy().contains(".aside-");
            if is_ours {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    }
}

#[test]
fn a_directory_that_is_another_one_and_empty_keeps_everything_and_says_so() {
    for below in ["", "sub"] {
        let mut bench = Bench::new();
        fs::create_dir_all(bench.dir.path().join("sub")).unwrap();
        bench.write("sub/a.yaml", &deny("p"));
        bench.write("sub/b.yaml", &deny("q"));
        assert_eq!(bench.look(), 2);
        bench.unmount(below);
        assert_eq!(bench.look(), 0, "{below:?}");
        assert_eq!(bench.names(), ["p", "q"]);
        let errors = bench.directory.errors();
        assert!(errors.len() == 1 && errors[0].message.contains("not mounted"), "{errors:?}");
        // A restart makes it no more believable, and another one neither.
        for _ in 0..2 {
            bench.restart();
            assert_eq!(bench.look(), 0, "{below:?}");
            assert_eq!((bench.names().len(), bench.directory.errors().len()), (2, 1));
        }
        bench.mount_again(below);
        assert_eq!(bench.look(), 0, "{below:?}");
        assert!(bench.directory.errors().is_empty(), "{:?}", bench.directory.errors());
        // And then a deletion is one again.
        fs::remove_file(bench.dir.path().join("sub/a.yaml")).unwrap();
        assert_eq!(bench.look(), 1, "{below:?}");
    }
}

#[test]
fn the_last_file_deleted_by_hand_is_a_deletion_also_while_nobody_looked() {
    let mut bench = Bench::new();
    bench.write("a.yaml", &deny("p"));
    assert_eq!(bench.look(), 1);
    fs::remove_file(bench.dir.path().join("a.yaml")).unwrap();
    assert_eq!(bench.look(), 1);
    assert!(bench.names().is_empty() && bench.directory.errors().is_empty());

    bench.write("a.yaml", &deny("p"));
    assert_eq!(bench.look(), 1);
    fs::remove_file(bench.dir.path().join("a.yaml")).unwrap();
    bench.restart();
    assert_eq!(bench.look(), 1);
    assert!(bench.names().is_empty() && bench.directory.errors().is_empty());
}

#[test]
fn a_subdirectory_that_is_removed_takes_its_objects_along() {
    let mut bench = Bench::new();
    fs::create_dir(bench.dir.path().join("sub")).unwrap();
    bench.write("sub/a.yaml", &deny("p"));
    assert_eq!(bench.look(), 1);
    fs::remove_dir_all(bench.dir.path().join("sub")).unwrap();
    assert_eq!(bench.look(), 1);
    assert!(bench.directory.errors().is_empty());
}

#[test]
fn another_directory_with_a_file_in_it_is_believed() {
    let mut bench = Bench::new();
    bench.write("a.yaml", &deny("p"));
    bench.write("b.yaml", &deny("q"));
    bench.look();
    bench.unmount("");
    assert_eq!(bench.look(), 0);
    bench.write("empty.yaml", "# nothing, and that is meant\n");
    assert_eq!(bench.look(), 2);
    assert!(bench.names().is_empty() && bench.directory.errors().is_empty());
    // Renamed over as a whole, as a checkout would be.
    bench.write("c.yaml", &deny("r"));
    assert_eq!(bench.look(), 1);
}

#[test]
fn what_was_kept_for_an_unmounted_directory_goes_when_the_mounted_one_lacks_it() {
    let mut bench = Bench::new();
    bench.write("a.yaml", &deny("p"));
    bench.write("b.yaml", &deny("q"));
    bench.look();
    bench.unmount("");
    bench.restart();
    assert_eq!(bench.look(), 0);
    fs::remove_file(bench.aside("").join("b.yaml")).unwrap();
    bench.mount_again("");
    assert_eq!(bench.look(), 1);
    assert_eq!(bench.names(), ["p"]);
}

#[test]
fn a_state_that_knows_no_directories_believes_no_empty_one() {
    let mut bench = Bench::new();
    bench.write("a.yaml", &deny("p"));
    bench.look();
    let state = bench.dir.path().join(".state");
    persist::write(&state, bench.dir.path(), bench.directory.places(), bench.directory.store().objects())
        .unwrap();
    let mut old: serde_json::Value = serde_json::from_slice(&fs::read(&state).unwrap()).unwrap();
    old.as_object_mut().unwrap().remove("directories");
    fs::write(&state, old.to_string()).unwrap();
    fs::remove_file(bench.dir.path().join("a.yaml")).unwrap();
    bench.directory =
        Directory::resume(bench.dir.path().to_owned(), persist::read(&state, bench.dir.path()).unwrap());
    assert_eq!(bench.look(), 0);
    assert_eq!((bench.names().len(), bench.directory.errors().len()), (1, 1));
}
