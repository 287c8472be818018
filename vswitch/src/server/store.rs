//! Files that must be whole or not there, whatever moment the machine stops at.

use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Why a file of the state directory could not be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    #[error("{} cannot be written: {error}; check that its directory exists and has room", file.display())]
    Write { file: PathBuf, error: io::Error },
    #[error("{} cannot be read: {error}", file.display())]
    Read { file: PathBuf, error: io::Error },
    #[error("{} is damaged: {error}", file.display())]
    Damaged { file: PathBuf, error: serde_json::Error },
}

/// Replaces a file whole: after this returns, the new content survives a power cut; before, the old one does.
pub(crate) fn write(path: &Path, content: &impl Serialize) -> Result<(), StoreError> {
    let bytes = serde_json::to_vec(content)
        .map_err(|error| StoreError::Write { file: path.to_owned(), error: error.into() })?;
    write_bytes(path, &bytes)
}

pub(crate) fn write_bytes(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let replace = || -> io::Result<()> {
        let beside = beside(path, "new");
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&beside, path)?;
        // The rename itself is on disk only when its directory is.
        File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
    };
    replace().map_err(|error| StoreError::Write { file: path.to_owned(), error })
}

/// `None`: there is no such file.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, StoreError> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(StoreError::Read { file: path.to_owned(), error }),
    };
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|error| StoreError::Damaged { file: path.to_owned(), error })
}

/// Puts a damaged file aside, so that somebody can look at it and the next write does not destroy it. Where it went.
pub(crate) fn put_aside(path: &Path) -> PathBuf {
    let aside = beside(path, "damaged");
    // It stays where it is, then: it is overwritten later, which is no worse.
    let _ = std::fs::rename(path, &aside);
    aside
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_file_is_damaged_and_an_absent_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("ports.json");
        assert!(matches!(read::<Vec<u32>>(&file), Ok(None)));
        write(&file, &vec![1u32, 2]).unwrap();
        assert_eq!(read::<Vec<u32>>(&file).unwrap(), Some(vec![1, 2]));
        let whole = std::fs::read(&file).unwrap();
        for cut in 0..whole.len() {
            std::fs::write(&file, &whole[..cut]).unwrap();
            assert!(matches!(read::<Vec<u32>>(&file), Err(StoreError::Damaged { .. })), "cut at {cut}");
        }
    }

    #[test]
    fn a_write_that_fails_leaves_the_old_content() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.json");
        write(&file, &1u32).unwrap();
        // The name of the new file is taken by a directory.
        std::fs::create_dir(dir.path().join("a.json.new")).unwrap();
        assert!(matches!(write(&file, &2u32), Err(StoreError::Write { .. })));
        assert_eq!(read::<u32>(&file).unwrap(), Some(1));
    }
}
