//! The last good versions, on disk.
//!
//! One JSON file, replaced as a whole; beside the objects stands which directories they came from. It is only ever read at the start, and a file that cannot be read costs what it was
//! for (last good versions of objects that are broken *now*), not the start.

use super::places::PlaceId;
use super::store::InForce;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

const VERSION: u32 = 1;

#[derive(Serialize)]
struct Written<'a> {
    version: u32,
    root: &'a Path,
    directories: &'a BTreeMap<PathBuf, PlaceId>,
    objects: Vec<&'a InForce>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Read {
    version: u32,
    root: PathBuf,
    /// Earlier versions did not write them: then none is known to be the same.
    #[serde(default)]
    directories: BTreeMap<PathBuf, PlaceId>,
    objects: Vec<InForce>,
}

/// What was in force, and the directories it came from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LastGood {
    pub objects: Vec<InForce>,
    pub directories: BTreeMap<PathBuf, PlaceId>,
}

/// Why the last good versions cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PersistError {
    #[error("{} cannot be read: {error}", .file.display())]
    Io { file: PathBuf, error: io::Error },
    #[error("{} is damaged: {error}", .file.display())]
    Damaged { file: PathBuf, error: serde_json::Error },
    #[error("{} has version {version}, this program writes {VERSION}", .file.display())]
    Version { file: PathBuf, version: u32 },
    #[error("{} holds the objects of {}, not of {}", .file.display(), .theirs.display(), .ours.display())]
    OtherRoot { file: PathBuf, theirs: PathBuf, ours: PathBuf },
}

/// What was in force for this directory; nothing where nothing was ever written.
pub fn read(file: &Path, root: &Path) -> Result<LastGood, PersistError> {
    let bytes = match std::fs::read(file) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(LastGood::default()),
        Err(error) => return Err(PersistError::Io { file: file.to_owned(), error }),
    };
    let read: Read = serde_json::from_slice(&bytes)
        .map_err(|error| PersistError::Damaged { file: file.to_owned(), error })?;
    if read.version != VERSION {
        return Err(PersistError::Version { file: file.to_owned(), version: read.version });
    }
    if read.root != root {
        let (theirs, ours) = (read.root, root.to_owned());
        return Err(PersistError::OtherRoot { file: file.to_owned(), theirs, ours });
    }
    Ok(LastGood { objects: read.objects, directories: read.directories })
}

pub fn write<'a>(
    file: &Path,
    root: &Path,
    directories: &BTreeMap<PathBuf, PlaceId>,
    objects: impl Iterator<Item = &'a InForce>,
) -> io::Result<()> {
    let written = Written { version: VERSION, root, directories, objects: objects.collect() };
    replace(file, &serde_json::to_vec(&written)?, true)
}

/// Replaces a file as a whole: a reader sees the old text or the new one. `durable`: after a power cut too.
pub fn replace(file: &Path, bytes: &[u8], durable: bool) -> io::Result<()> {
    let directory = file.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(directory)?;
    let mut temporary = file.as_os_str().to_owned();
    temporary.push(".new");
    let mut out = File::create(&temporary)?;
    out.write_all(bytes)?;
    if durable {
        out.sync_all()?;
    }
    std::fs::rename(&temporary, file)?;
    if durable {
        File::open(directory)?.sync_all()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::load_text;

    #[test]
    fn what_is_written_is_read_again_and_only_for_the_same_directory() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("state/objects.json");
        let text = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p}\nspec:\n  podSelector: {matchExpressions: [{key: a, operator: Exists}]}\n  ingress:\n  - from:\n    - ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}\n    - namespaceSelector: {}\n    ports:\n    - {port: http, protocol: SCTP}\n    - {port: 1, endPort: 2}\n---\napiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {containers: [{name: c, ports: [{containerPort: 1}]}]}\nstatus: {phase: Running, podIP: 10.0.0.1}\n---\napiVersion: v1\nkind: Namespace\nmetadata: {name: n}\n";
        let report = load_text(Path::new("a.yaml"), text);
        assert_eq!(report.errors, []);
        let objects: Vec<InForce> =
            report.objects.into_iter().map(|l| InForce { file: l.place.file, object: l.object }).collect();
        let root = Path::new("/objects");
        assert_eq!(read(&file, root).unwrap(), LastGood::default());
        write(&file, root, &BTreeMap::new(), objects.iter()).unwrap();
        assert_eq!(read(&file, root).unwrap().objects, objects);
        assert!(matches!(read(&file, Path::new("/others")), Err(PersistError::OtherRoot { .. })));
        std::fs::write(&file, "{").unwrap();
        assert!(matches!(read(&file, root), Err(PersistError::Damaged { .. })));
    }
}
