//! One switch of several on a machine: everything it owns is named after it.
//!
//! Two instances share nothing, so that tests, laboratories and several nodes of a pretended cluster run side by side, and
//! `penstock down` can remove an instance by its name alone.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// A valid instance name: 1-13 characters of `a-z`, `0-9` and `-`, beginning with a letter.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Instance(String);

/// Why a name cannot be an instance's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "instance name {0:?} is not valid: use 1 to 13 characters of a-z, 0-9 and '-', beginning with a letter"
)]
pub struct BadInstanceName(pub String);

impl Instance {
    pub const DEFAULT: &'static str = "penstock";
    const LEN_MAX: usize = 13;

    pub fn name(&self) -> &str {
        &self.0
    }

    /// The named network namespace that holds host ends and trunks: a file of this name under `/run/netns`.
    pub fn netns(&self) -> &str {
        &self.0
    }

    /// The interface by which the host reaches pods, in the namespace the switch was started in: `penstock0`.
    pub fn host_interface(&self) -> String {
        format!("{}0", self.0)
    }

    /// Run-time state that a reboot may forget: sockets, the lock, pid files.
    pub fn run_dir(&self) -> PathBuf {
        PathBuf::from("/run/penstock").join(&self.0)
    }

    /// State that outlives a reboot: addresses in use, the last good artefact.
    pub fn state_dir(&self) -> PathBuf {
        PathBuf::from("/var/lib/penstock").join(&self.0)
    }

    /// The switch's control socket, mode 0600.
    pub fn control_socket(&self) -> PathBuf {
        self.run_dir().join("control.sock")
    }

    /// Pinned programs and maps.
    pub fn bpf_dir(&self) -> PathBuf {
        PathBuf::from("/sys/fs/bpf/penstock").join(&self.0)
    }

    /// Tables that outlive the process: `<shm_prefix>-<what>-<worker>` under `/dev/shm`.
    pub fn shm_prefix(&self) -> PathBuf {
        PathBuf::from("/dev/shm").join(format!("penstock-{}", self.0))
    }
}

/// Names inside the instance's namespace; no instance name in them, the namespace keeps them apart.
pub mod inside {
    use crate::ids::WorkerId;

    /// The inner end of `penstock0`.
    pub const HOST: &str = "host0";

    /// The near end of a worker's trunk: tc programs redirect into it.
    pub fn trunk_near(worker: WorkerId) -> String {
        format!("trunk{worker}")
    }

    /// The far end of a worker's trunk: it holds the AF_XDP socket.
    pub fn trunk_far(worker: WorkerId) -> String {
        format!("xsk{worker}")
    }
}

impl Default for Instance {
    fn default() -> Self {
        Instance(Self::DEFAULT.to_owned())
    }
}

impl FromStr for Instance {
    type Err = BadInstanceName;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let good = name.len() <= Self::LEN_MAX
            && name.starts_with(|c: char| c.is_ascii_lowercase())
            && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
        if good { Ok(Instance(name.to_owned())) } else { Err(BadInstanceName(name.to_owned())) }
    }
}

impl TryFrom<String> for Instance {
    type Error = BadInstanceName;

    fn try_from(name: String) -> Result<Self, Self::Error> {
        name.parse()
    }
}

impl From<Instance> for String {
    fn from(instance: Instance) -> String {
        instance.0
    }
}

impl fmt::Display for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_leave_their_directory_are_refused() {
        for bad in ["", "..", "a/b", "A", "0a", "a_b", "abcdefghijklmn"] {
            assert!(bad.parse::<Instance>().is_err(), "{bad:?} was accepted");
        }
        assert_eq!("node-1".parse::<Instance>().unwrap().host_interface(), "node-10");
    }
}
