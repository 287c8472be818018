//! Finding and running the programs under test, as an operator and a kubelet would.

use anyhow::{Context, Result, bail};
use penstock_net::Netns;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Where the programs are: all of them in one directory, so that they are of one build.
#[derive(Debug, Clone)]
pub(crate) struct Programs {
    dir: PathBuf,
}

impl Programs {
    const NEEDED: [&'static str; 4] = ["penstock", "penstock-vswitch", "penstock-control", "penstock-cni"];

    /// `PENSTOCK_BIN_DIR`, or beside the running executable, or above its directory (test executables are in `deps/`).
    pub(crate) fn find() -> Result<Self> {
        let exe = std::env::current_exe().context("the running executable cannot be found")?;
        let candidates: Vec<PathBuf> = match std::env::var_os("PENSTOCK_BIN_DIR") {
            Some(dir) => vec![dir.into()],
            None => exe.ancestors().skip(1).take(2).map(Path::to_owned).collect(),
        };
        let complete = |dir: &&PathBuf| Self::NEEDED.iter().all(|name| dir.join(name).is_file());
        match candidates.iter().find(complete) {
            Some(dir) => Ok(Programs { dir: dir.clone() }),
            None => bail!(
                "{} are not all in {}; build them with 'cargo build --workspace --bins', or name their directory in PENSTOCK_BIN_DIR",
                Self::NEEDED.join(", "),
                candidates.iter().map(|dir| dir.display().to_string()).collect::<Vec<_>>().join(" or ")
            ),
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The operator's command, about one instance, inside a namespace. Whatever it says is returned.
    pub(crate) fn penstock<S: AsRef<OsStr>>(
        &self,
        netns: &Netns,
        instance: &str,
        arguments: &[S],
    ) -> Result<Output> {
        let mut command = Command::new(self.path("penstock"));
        command.env("PENSTOCK_BIN_DIR", &self.dir).args(["--instance", instance]).args(arguments);
        netns
            .run(|| command.output())
            .and_then(|result| result)
            .with_context(|| format!("{} cannot be run", self.path("penstock").display()))
    }

    /// As [`Programs::penstock`], where anything but success is an error made of what the command said.
    pub(crate) fn penstock_succeeds<S: AsRef<OsStr>>(
        &self,
        netns: &Netns,
        instance: &str,
        arguments: &[S],
    ) -> Result<String> {
        let output = self.penstock(netns, instance, arguments)?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("{}", said.trim().trim_start_matches("penstock: "));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}
