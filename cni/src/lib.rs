//! The CNI plugin: gives a pod its interface, and asks the switch to attach it.
//!
//! The problem: a container runtime starts this program once per pod and command, may kill it at any moment, may repeat
//! what it asked, and never says sorry. A pod must get a working interface or none, and nobody's address twice.
//!
//! The shape: [`run`] is the whole plugin as a function of the environment and stdin. An `ADD` takes addresses ([`ipam`]),
//! makes a veth pair with each end born where it belongs, sets the pod's end up ([`pod`]), and lets the switch attach the
//! other ([`switch`]). Every name it uses is derived from the container's id and the interface's name, and every address
//! file says whose it is: a `DEL` needs no memory of what an `ADD` got to.
//!
//! The promise: whatever fails in an `ADD` is undone before it answers; what an `ADD` that was killed left behind, the next
//! `DEL` removes; a `DEL` of nothing succeeds, with or without a switch.
//!
//! | module | what it does |
//! |---|---|
//! | [`environment`] | `CNI_*` variables |
//! | [`config`] | the network configuration on stdin |
//! | [`ipam`] | which address is whose, on disk |
//! | [`pod`] | the pod's end: addresses, neighbours, routes, and checking them |
//! | [`switch`] | requests to the switch's control socket |
//! | [`result`] | results of every supported version of the specification |
//! | [`error`] | errors as the specification wants them |
#![forbid(unsafe_code)]

mod add;
mod check;
pub mod config;
mod del;
pub mod environment;
pub mod error;
pub mod ipam;
pub mod names;
pub mod pod;
pub mod result;
pub mod step;
pub mod switch;

pub use environment::Environment;
pub use error::CniError;

use config::Document;
use environment::Command;
use serde_json::{Value, json};
use step::Observer;

/// The versions of the specification this plugin speaks, oldest first.
pub const VERSIONS: [&str; 3] = ["0.3.1", "0.4.0", "1.0.0"];

/// Runs one command. What is to be printed on stdout, whether all went well or not.
pub fn run(environment: &Environment, stdin: &[u8]) -> Result<Option<Value>, Value> {
    run_observed(environment, stdin, &|_| {})
}

/// As [`run`], telling an observer of every step: how tests stop it anywhere.
pub fn run_observed(
    environment: &Environment,
    stdin: &[u8],
    observer: Observer<'_>,
) -> Result<Option<Value>, Value> {
    let version = std::cell::Cell::new(VERSIONS[VERSIONS.len() - 1]);
    dispatch(environment, stdin, observer, &version).map_err(|error| error.to_json(version.get()))
}

fn dispatch(
    environment: &Environment,
    stdin: &[u8],
    observer: Observer<'_>,
    version: &std::cell::Cell<&'static str>,
) -> Result<Option<Value>, CniError> {
    let command = environment.command()?;
    if command == Command::Version {
        return Ok(Some(versions(stdin)));
    }
    let document = Document::parse(stdin)?;
    version.set(document.cni_version()?);
    match command {
        Command::Add => add::add(environment, &document, observer).map(|result| Some(result.to_json())),
        Command::Del => del::del(environment, &document).map(|()| None),
        Command::Check => check::check(environment, &document).map(|()| None),
        Command::Version => unreachable!("answered above"),
    }
}

/// Which versions we speak. The version of the question is repeated, if there is one.
fn versions(stdin: &[u8]) -> Value {
    let asked = serde_json::from_slice::<Value>(stdin).ok();
    let asked = asked.as_ref().and_then(|asked| asked.get("cniVersion")).and_then(Value::as_str);
    json!({
        "cniVersion": asked.unwrap_or(VERSIONS[VERSIONS.len() - 1]),
        "supportedVersions": VERSIONS,
    })
}
