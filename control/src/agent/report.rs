//! What the control plane says about itself: log lines, and two files for `penstock status`.

use super::{Config, watcher::Observation};
use crate::load::LoadError;
use crate::objects::{Kind, NotEnforced, ObjectKey};
use crate::source::persist::replace;
use penstock_api::ids::Generation;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// `control.json`. Times are milliseconds since the Unix epoch.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Account {
    instance: String,
    version: &'static str,
    pid: u32,
    objects_dir: PathBuf,
    started_ms: u64,
    written_ms: u64,
    running: bool,
    connected: bool,
    /// What the files say is what the switch enforces, refused objects aside.
    synced: bool,
    generation: Option<Generation>,
    installed_ms: Option<u64>,
    compile_us: Option<u64>,
    install_us: Option<u64>,
    install_error: Option<String>,
    files: usize,
    objects: BTreeMap<Kind, usize>,
    /// In force in their last good version, because the files hold no good one.
    kept: Vec<String>,
    errors: usize,
    notices: usize,
    /// Fields of policies that nothing enforces: such a rule isolates and allows nothing.
    not_enforced: Vec<Unenforced>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct Unenforced {
    /// As `CiliumNetworkPolicy default/web`.
    object: String,
    field: String,
    why: String,
}

pub(super) struct Report {
    file: PathBuf,
    errors_file: PathBuf,
    account: Account,
    pub(super) connected: bool,
    pub(super) synced: bool,
    errors: BTreeSet<LoadError>,
    notices: BTreeSet<LoadError>,
    /// What the files hold now.
    written: Option<Account>,
    errors_written: Option<BTreeSet<LoadError>>,
}

impl Report {
    pub(super) fn new(config: &Config) -> Self {
        let account = Account {
            instance: config.instance.name().to_owned(),
            version: env!("CARGO_PKG_VERSION"),
            pid: std::process::id(),
            objects_dir: config.objects.clone(),
            started_ms: now_ms(),
            written_ms: 0,
            running: true,
            connected: false,
            synced: false,
            generation: None,
            installed_ms: None,
            compile_us: None,
            install_us: None,
            install_error: None,
            files: 0,
            objects: BTreeMap::new(),
            kept: Vec::new(),
            errors: 0,
            notices: 0,
            not_enforced: Vec::new(),
        };
        Report {
            file: config.run_dir.join("control.json"),
            errors_file: config.run_dir.join("control-errors.json"),
            account,
            connected: false,
            synced: false,
            errors: BTreeSet::new(),
            notices: BTreeSet::new(),
            written: None,
            errors_written: None,
        }
    }

    /// Takes over what is wrong with the objects. Every error is logged once when it comes, and once when it is mended.
    pub(super) fn take_objects(&mut self, observation: Observation) {
        let errors: BTreeSet<LoadError> = observation.errors.into_iter().collect();
        let notices: BTreeSet<LoadError> = observation.notices.into_iter().collect();
        for error in errors.difference(&self.errors) {
            tracing::warn!("refused: {error}");
        }
        for error in self.errors.difference(&errors) {
            tracing::info!("mended: {error}");
        }
        // Those of fields that nothing enforces are told by `take_not_enforced`.
        for notice in notices.difference(&self.notices).filter(|notice| notice.not_enforced().is_none()) {
            tracing::info!("{notice}");
        }
        let kept: Vec<String> = observation.kept.iter().map(ToString::to_string).collect();
        for object in kept.iter().filter(|object| !self.account.kept.contains(object)) {
            tracing::warn!("the last good version of {object} stays in force");
        }
        self.account.kept = kept;
        self.account.files = observation.files;
        self.account.objects = observation.counts;
        (self.errors, self.notices) = (errors, notices);
    }

    /// Takes over what is not enforced. Each field is logged once when it comes.
    pub(super) fn take_not_enforced(&mut self, fields: Vec<(ObjectKey, NotEnforced)>) {
        let line = |(object, field): (ObjectKey, NotEnforced)| Unenforced {
            object: object.to_string(),
            field: field.field,
            why: field.why,
        };
        let fields: BTreeSet<Unenforced> = fields.into_iter().map(line).collect();
        for Unenforced { object, field, why } in &fields {
            let is_known = self.account.not_enforced.iter().any(|f| f.object == *object && f.field == *field);
            if !is_known {
                tracing::warn!(
                    "not enforced: {object}: {field}: {why}; the rule isolates and allows nothing"
                );
            }
        }
        self.account.not_enforced = fields.into_iter().collect();
    }

    pub(super) fn in_force(&mut self, installed: Option<(Generation, Duration)>, compile_time: Duration) {
        self.synced = true;
        self.account.compile_us = Some(compile_time.as_micros() as u64);
        self.account.install_error = None;
        if let Some((generation, took)) = installed {
            self.account.generation = Some(generation);
            self.account.installed_ms = Some(now_ms());
            self.account.install_us = Some(took.as_micros() as u64);
        }
    }

    pub(super) fn not_installed(&mut self, why: String) {
        self.synced = false;
        self.account.install_error = Some(why);
    }

    pub(super) fn stopped(&mut self) {
        self.account.running = false;
        (self.connected, self.synced) = (false, false);
        self.write();
    }

    /// Brings the files up to date, errors first: who sees `synced` may read them.
    pub(super) fn write(&mut self) {
        if self.errors_written.as_ref() != Some(&self.errors) {
            let list: Vec<&LoadError> = self.errors.iter().collect();
            let text = serde_json::to_vec_pretty(&list).unwrap_or_default();
            match replace(&self.errors_file, &text, false) {
                Ok(()) => self.errors_written = Some(self.errors.clone()),
                Err(error) => tracing::error!("{} cannot be written: {error}", self.errors_file.display()),
            }
        }
        self.account.connected = self.connected;
        self.account.synced = self.synced;
        self.account.errors = self.errors.len();
        self.account.notices = self.notices.len();
        if self.written.as_ref() == Some(&self.account) {
            return;
        }
        let account = Account { written_ms: now_ms(), ..self.account.clone() };
        let text = serde_json::to_vec_pretty(&account).unwrap_or_default();
        match replace(&self.file, &text, false) {
            Ok(()) => self.written = Some(self.account.clone()),
            Err(error) => tracing::error!("{} cannot be written: {error}", self.file.display()),
        }
    }
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}
