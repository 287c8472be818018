//! The plugin as a program: environment and stdin in, one JSON document on stdout out.

use penstock_cni::{CniError, Environment, VERSIONS, run};
use serde_json::Value;
use std::io::{self, Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

/// More than any network configuration needs.
const STDIN_MAX: u64 = 4 * 1024 * 1024;

fn main() -> ExitCode {
    let outcome = match read_stdin() {
        Ok(stdin) => {
            let environment = Environment::of_process();
            catch_unwind(AssertUnwindSafe(|| run(&environment, &stdin))).unwrap_or_else(|_| Err(defect()))
        }
        Err(error) => Err(CniError::io(format!("cannot read the network configuration from stdin: {error}"))
            .to_json(VERSIONS[VERSIONS.len() - 1])),
    };
    let (answer, code) = match outcome {
        Ok(answer) => (answer, ExitCode::SUCCESS),
        Err(error) => (Some(error), ExitCode::FAILURE),
    };
    match answer.map_or(Ok(()), |answer| print(&answer)) {
        Ok(()) => code,
        // The runtime has not seen the result, so it will undo.
        Err(_) => ExitCode::FAILURE,
    }
}

fn read_stdin() -> io::Result<Vec<u8>> {
    let mut stdin = Vec::new();
    io::stdin().lock().take(STDIN_MAX).read_to_end(&mut stdin)?;
    Ok(stdin)
}

fn print(answer: &Value) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{answer}")?;
    stdout.flush()
}

/// The panic itself has gone to stderr.
fn defect() -> Value {
    CniError::new(penstock_cni::error::code::DEFECT, "the plugin came upon a defect of its own")
        .with_details("stderr has the particulars; please report it")
        .to_json(VERSIONS[VERSIONS.len() - 1])
}
