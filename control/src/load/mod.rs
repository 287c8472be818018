//! Text to objects, strictly.
//!
//! A lenient reader turns a policy whose indentation was lost into "isolate the whole namespace", and one whose `from` lost
//! its items into "let everybody in". So everything that is not certain is an error: unknown and duplicate keys, wrong
//! types, missing fields, fields that contradict each other. An object with an error is not loaded at all; it is the
//! caller who keeps the last good version ([`crate::source`]).
//!
//! Every error names file, line, object and field, and says what would be right.

mod cilium;
mod cluster;
mod decode;
mod document;
mod json;
mod kinds;
mod listing;
mod locate;
mod meta;
mod names;
mod pod;
mod policy;
mod tree;
mod validate;
mod yaml;

pub(crate) use listing::Listing;
pub(crate) use locate::Locator;

use crate::objects::{Object, ObjectKey};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

/// Files above this size are refused, in bytes.
pub const FILE_SIZE_MAX: u64 = 64 * 1024 * 1024;

/// Where an object stands.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Place {
    pub file: PathBuf,
    pub line: u32,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.line)
    }
}

/// One thing that is wrong, or worth saying, about one place.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct LoadError {
    pub file: PathBuf,
    /// From 1; 0 where the whole file is meant.
    pub line: u32,
    pub column: u32,
    /// `NetworkPolicy default/web`, as far as it could be told.
    pub object: Option<String>,
    /// `spec.ingress[0].ports[1].port`.
    pub field: Option<String>,
    pub message: String,
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        write!(f, ": ")?;
        if let Some(object) = &self.object {
            write!(f, "{object}: ")?;
        }
        if let Some(field) = &self.field {
            write!(f, "{field}: ")?;
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for LoadError {}

/// How the message of a notice begins that tells of a field nothing enforces.
const NOT_ENFORCED: &str = "not enforced yet: ";

impl LoadError {
    /// Of a field that is understood and that nothing enforces: why not, and what follows from it.
    #[must_use]
    pub fn not_enforced(&self) -> Option<&str> {
        self.message.strip_prefix(NOT_ENFORCED)
    }
}

/// A good object and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadedObject {
    pub object: Object,
    pub place: Place,
}

/// What one file holds.
#[derive(Debug, Clone, Default)]
pub struct FileReport {
    /// Those without any error, duplicates included.
    pub objects: Vec<LoadedObject>,
    /// Those that stand in the file and cannot be used.
    pub refused: Vec<ObjectKey>,
    /// Something in the file could not even be told apart: an object thought missing may be in it.
    pub has_unreadable: bool,
    pub errors: Vec<LoadError>,
    /// Things worth saying of good objects: fields that are not enforced yet, masked host bits.
    pub notices: Vec<LoadError>,
    /// Objects that are not ours.
    pub skipped: Vec<LoadError>,
}

/// What a set of files and directories holds.
#[derive(Debug, Clone, Default)]
pub struct LoadReport {
    /// Good, and the only one of its name.
    pub objects: Vec<LoadedObject>,
    pub errors: Vec<LoadError>,
    pub notices: Vec<LoadError>,
    pub skipped: Vec<LoadError>,
}

impl LoadReport {
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.errors.is_empty()
    }
}

/// Reads the text of one file. Names ending in `.json` are JSON; everything else is YAML.
#[must_use]
pub fn load_text(file: &Path, text: &str) -> FileReport {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let documents = match file.extension().is_some_and(|extension| extension == "json") {
        true => json::parse(text),
        false => yaml::parse(text),
    };
    let mut report = FileReport::default();
    for document in documents {
        document::load(file, document, &mut report);
    }
    report
}

/// Reads one file from disk. A file that cannot be read is a report with one error.
#[must_use]
pub fn load_file(file: &Path) -> FileReport {
    match read_text(file) {
        Ok(text) => load_text(file, &text),
        Err(message) => FileReport {
            has_unreadable: true,
            errors: vec![file_error(file, message)],
            ..FileReport::default()
        },
    }
}

pub(crate) fn file_error(file: &Path, message: String) -> LoadError {
    LoadError { file: file.to_owned(), line: 0, column: 0, object: None, field: None, message }
}

pub(crate) fn read_text(file: &Path) -> Result<String, String> {
    let size = std::fs::metadata(file).map_err(|error| format!("cannot be read: {error}"))?.len();
    if size > FILE_SIZE_MAX {
        return Err(format!("has {size} bytes, above the limit of {FILE_SIZE_MAX}; split it"));
    }
    let bytes = std::fs::read(file).map_err(|error| format!("cannot be read: {error}"))?;
    String::from_utf8(bytes).map_err(|error| {
        let line =
            error.as_bytes()[..error.utf8_error().valid_up_to()].iter().filter(|b| **b == b'\n').count() + 1;
        format!("is not UTF-8 text (line {line}); save it as UTF-8")
    })
}

/// Reads files and directories, the latter with everything below them. Files named directly are read whatever their name;
/// in directories those ending in `.yaml`, `.yml` and `.json` are.
#[must_use]
pub fn load_paths(paths: &[PathBuf]) -> LoadReport {
    let mut listing = Listing::default();
    paths.iter().for_each(|path| listing.add(path));
    listing.files.sort();
    listing.files.dedup();
    let mut report = combine(listing.files.iter().map(|file| load_file(file)));
    report.errors.splice(0..0, listing.errors);
    report
}

/// Puts files together: an object that stands twice is an error that names both places, and neither counts.
#[must_use]
pub fn combine(files: impl IntoIterator<Item = FileReport>) -> LoadReport {
    let mut report = LoadReport::default();
    let mut by_key: BTreeMap<ObjectKey, Vec<LoadedObject>> = BTreeMap::new();
    for file in files {
        report.errors.extend(file.errors);
        report.notices.extend(file.notices);
        report.skipped.extend(file.skipped);
        for loaded in file.objects {
            by_key.entry(loaded.object.key()).or_default().push(loaded);
        }
    }
    for (key, mut loaded) in by_key {
        match loaded.len() {
            1 => report.objects.append(&mut loaded),
            _ => report.errors.extend(duplicate_errors(&key, loaded.iter().map(|l| &l.place))),
        }
    }
    report
}

/// One error for each place, naming the others.
pub(crate) fn duplicate_errors<'a>(
    key: &ObjectKey,
    places: impl Iterator<Item = &'a Place>,
) -> Vec<LoadError> {
    let mut places: Vec<&Place> = places.collect();
    places.sort();
    let others = |own: usize| {
        let others: Vec<String> =
            (0..places.len()).filter(|i| *i != own).map(|i| places[i].to_string()).collect();
        others.join(", ")
    };
    let error = |(own, place): (usize, &&Place)| LoadError {
        file: place.file.clone(),
        line: place.line,
        column: 1,
        object: Some(key.to_string()),
        field: Some("metadata.name".to_owned()),
        message: format!("stands here and in {}; none of them counts until one is left", others(own)),
    };
    places.iter().enumerate().map(error).collect()
}
