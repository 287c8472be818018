//! `penstock policy lint`: what is wrong with files of objects, before a switch sees them.

use crate::context::Format;
use crate::failure::Failure;
use crate::output::{print, print_json};
use penstock_control::lint::{Finding, Severity, lint};
use serde::Serialize;
use std::io::Write;
use std::path::PathBuf;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit status: 0 nothing wrong, 1 warnings and --strict, 2 errors: objects that would not be enforced."
)]
pub(crate) struct Arguments {
    /// Files and directories of Kubernetes objects. What is judged together belongs together: pods and namespaces beside
    /// policies make more checks possible.
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Fail on warnings, too.
    #[arg(long)]
    strict: bool,
}

/// The answer as JSON.
#[derive(Debug, Serialize)]
struct Answer<'a> {
    objects: usize,
    errors: usize,
    warnings: usize,
    findings: &'a [Finding],
}

pub(crate) fn run(arguments: &Arguments, output: Option<Format>, out: &mut dyn Write) -> Result<(), Failure> {
    let report = lint(&arguments.paths);
    let (errors, warnings) = (report.count(Severity::Error), report.count(Severity::Warning));
    match output {
        None | Some(Format::Table) => {
            for finding in &report.findings {
                print(out, finding)?;
            }
            print(
                out,
                format_args!(
                    "{}, {}, {} read",
                    counted(errors, "error"),
                    counted(warnings, "warning"),
                    counted(report.objects, "object")
                ),
            )?;
        }
        Some(Format::Json) => {
            let findings = &report.findings;
            print_json(out, &Answer { objects: report.objects, errors, warnings, findings })?;
        }
        Some(Format::Jsonl) => {
            for finding in &report.findings {
                let line = serde_json::to_string(finding).map_err(|error| {
                    Failure::failed(format!("a finding cannot be written as JSON: {error}"))
                })?;
                print(out, line)?;
            }
        }
    }
    if errors > 0 {
        return Err(Failure::input(format!(
            "{}; an object with one is not enforced, its last good version is",
            counted(errors, "error")
        )));
    }
    match warnings > 0 && arguments.strict {
        true => Err(Failure::failed(format!("{}, and --strict was given", counted(warnings, "warning")))),
        false => Ok(()),
    }
}

fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}
