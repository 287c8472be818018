//! Which directory is it? A volume that was unmounted leaves an empty directory behind, and that must not pass for the
//! deletion of every file.
//!
//! Whoever deletes a file leaves its directory the one it was. So a directory that held files, is empty now and is *another*
//! one (its device or inode differ) is not believed. One that is empty and the same is: its files were deleted. One that has
//! files is believed in any case, so an operator who wants an empty one has a way to say so.

use crate::load::Listing;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What makes a directory the same one under the same path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlaceId {
    device: u64,
    inode: u64,
}

/// The directories that were last believed.
#[derive(Debug, Clone, Default)]
pub(super) struct Places {
    known: BTreeMap<PathBuf, PlaceId>,
}

impl Places {
    pub(super) fn new(known: BTreeMap<PathBuf, PlaceId>) -> Self {
        Places { known }
    }

    pub(super) fn known(&self) -> &BTreeMap<PathBuf, PlaceId> {
        &self.known
    }

    /// Compares a full listing with what was believed before; tells which directories are not believed. `held` says whether
    /// anything in force came from below a directory.
    pub(super) fn judge(&mut self, listing: &Listing, held: impl Fn(&Path) -> bool) -> BTreeSet<PathBuf> {
        let mut populated: HashSet<&Path> = HashSet::new();
        for file in &listing.files {
            // Every directory above, until one that is known to be: those above it are then known, too.
            for directory in file.ancestors().skip(1) {
                if !populated.insert(directory) {
                    break;
                }
            }
        }
        let mut doubtful = BTreeSet::new();
        for directory in &listing.directories {
            let Some(now) = identify(directory) else { continue };
            let is_same = self.known.get(directory) == Some(&now);
            if is_same {
                continue;
            }
            if populated.contains(directory.as_path()) || !held(directory) {
                self.known.insert(directory.clone(), now);
            } else {
                doubtful.insert(directory.clone());
            }
        }
        let listed: HashSet<&PathBuf> = listing.directories.iter().collect();
        self.known.retain(|directory, _| listed.contains(directory));
        doubtful
    }
}

fn identify(directory: &Path) -> Option<PlaceId> {
    let metadata = std::fs::metadata(directory).ok()?;
    Some(PlaceId { device: metadata.dev(), inode: metadata.ino() })
}
