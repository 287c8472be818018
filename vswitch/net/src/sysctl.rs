//! Kernel settings under `/proc/sys`.
//!
//! What is below `net/` is the setting of the namespace of the calling thread: use [`crate::Netns::run`] for another's.
//! Paths are written with slashes, because interface names may contain dots.

use crate::NetError;
use std::fs;
use std::path::{Component, Path, PathBuf};

/// Sets one, as `set("net/ipv6/conf/eth0/disable_ipv6", "1")`.
pub fn set(path: &str, value: &str) -> Result<(), NetError> {
    const OPERATION: &str = "set the sysctl";
    fs::write(resolve(OPERATION, path)?, value)
        .map_err(|e| NetError::io(OPERATION, format!("{path} to {value:?}"), &e))
}

/// Reads one, without the newline.
pub fn get(path: &str) -> Result<String, NetError> {
    const OPERATION: &str = "read the sysctl";
    let value =
        fs::read_to_string(resolve(OPERATION, path)?).map_err(|e| NetError::io(OPERATION, path, &e))?;
    Ok(value.trim_end().to_owned())
}

fn resolve(operation: &'static str, path: &str) -> Result<PathBuf, NetError> {
    let relative = Path::new(path);
    if !path.is_empty() && relative.components().all(|part| matches!(part, Component::Normal(_))) {
        Ok(Path::new("/proc/sys").join(relative))
    } else {
        Err(NetError::refused(operation, format!("{path:?}"), libc::EINVAL, "not a path below /proc/sys"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_cannot_leave_proc_sys() {
        for bad in ["", "..", "net/../../../etc/passwd", "/etc/passwd", "./net"] {
            assert!(get(bad).is_err_and(|e| e.errno() == Some(libc::EINVAL)), "{bad:?} was accepted");
        }
        assert_eq!(get("kernel/ostype").unwrap(), "Linux");
    }
}
