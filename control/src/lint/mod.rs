//! What is wrong with policy, and what is probably not what was meant.
//!
//! Errors are the loader's: an object with one is not enforced at all. Warnings are of objects that mean something, said when
//! it is likely to be something else than intended: [`checks`] compares the policies with each other and with the pods,
//! namespaces and services that are loaded beside them. Where nothing of a kind is loaded, nothing is concluded from what
//! is missing.

mod atoms;
mod checks;
mod cluster;
mod cover;

use crate::load::{LoadError, LoadReport, Locator, load_paths};
use serde::Serialize;
use std::fmt;
use std::path::PathBuf;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    Error,
    Warning,
    /// Nobody needs to do anything about it.
    Note,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Note => "note",
        })
    }
}

/// What was found, by a name that does not change with its words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Check {
    /// The loader refused it.
    Refused,
    /// The loader took it, and has something to say.
    Notice,
    NotEnforced,
    Skipped,
    SelectsNothing,
    Shadowed,
    EmptyItem,
    Dns,
    OneFamily,
    PortName,
    Reference,
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub severity: Severity,
    pub check: Check,
    #[serde(flatten)]
    pub error: LoadError,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let LoadError { file, line, column, object, field, message } = &self.error;
        write!(f, "{}", file.display())?;
        if *line > 0 {
            write!(f, ":{line}:{column}")?;
        }
        write!(f, ": {}: ", self.severity)?;
        for name in [object, field].into_iter().flatten() {
            write!(f, "{name}: ")?;
        }
        write!(f, "{message} [{}]", self.check)
    }
}

/// Everything there is to say, in the order of files and lines.
#[derive(Debug, Clone, Default)]
pub struct Report {
    pub findings: Vec<Finding>,
    /// Objects that were read and are good.
    pub objects: usize,
}

impl Report {
    #[must_use]
    pub fn count(&self, severity: Severity) -> usize {
        self.findings.iter().filter(|finding| finding.severity == severity).count()
    }
}

/// Reads files and directories, and says what it thinks of them.
#[must_use]
pub fn lint(paths: &[PathBuf]) -> Report {
    let loaded = load_paths(paths);
    let mut findings = Vec::new();
    let mut add = |severity, check, errors: &[LoadError]| {
        findings.extend(errors.iter().cloned().map(|error| Finding { severity, check, error }));
    };
    let LoadReport { objects, errors, notices, skipped } = &loaded;
    add(Severity::Error, Check::Refused, errors);
    add(Severity::Note, Check::Skipped, skipped);
    for notice in notices {
        let check = match notice.not_enforced().is_some() {
            true => Check::NotEnforced,
            false => Check::Notice,
        };
        add(Severity::Warning, check, std::slice::from_ref(notice));
    }
    checks::run(objects, &mut Locator::default(), &mut findings);
    findings.sort_by(|a, b| a.error.cmp(&b.error).then(a.severity.cmp(&b.severity)));
    findings.dedup();
    Report { findings, objects: loaded.objects.len() }
}
