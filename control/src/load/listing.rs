//! The files under a path.

use super::{LoadError, file_error};
use std::path::{Path, PathBuf};

/// What was found. Hidden files (editors' and mounts' own) are left out, and so are those that are not named like objects.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    pub(crate) files: Vec<PathBuf>,
    /// Those that were looked into.
    pub(crate) directories: Vec<PathBuf>,
    pub(crate) errors: Vec<LoadError>,
}

impl Listing {
    /// Adds a path that somebody named: a file whatever its name, a directory with everything below it.
    pub(crate) fn add(&mut self, path: &Path) {
        self.visit(path, true);
    }

    fn visit(&mut self, path: &Path, named: bool) {
        let wanted = path.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json");
        let metadata = match std::fs::metadata(path) {
            Ok(metadata) => metadata,
            // A link that leads nowhere is there: it is for whoever reads it to say what that means.
            Err(_) if !named && wanted && path.is_symlink() => return self.files.push(path.to_owned()),
            // Gone between listing and looking: the next look will not list it.
            Err(error) if !named && error.kind() == std::io::ErrorKind::NotFound => return,
            Err(error) => return self.errors.push(file_error(path, format!("cannot be read: {error}"))),
        };
        if !metadata.is_dir() {
            if named || (metadata.is_file() && wanted) {
                self.files.push(path.to_owned());
            }
            return;
        }
        let entries = std::fs::read_dir(path).and_then(|entries| entries.collect::<Result<Vec<_>, _>>());
        match entries {
            Ok(entries) => {
                self.directories.push(path.to_owned());
                for entry in entries {
                    // A link to a directory may lead back up here; links to files are how mounted volumes hold theirs.
                    let is_link = entry.file_type().is_ok_and(|kind| kind.is_symlink());
                    let is_hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
                    let is_skipped = is_hidden || (is_link && entry.path().is_dir());
                    if !is_skipped {
                        self.visit(&entry.path(), false);
                    }
                }
            }
            Err(error) => self.errors.push(file_error(path, format!("cannot be listed: {error}"))),
        }
    }
}
