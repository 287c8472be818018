//! A switch that answers what it is told to: a thread serving a control socket from a function.

use crate::context::{Context, Output};
use penstock_api::message::{Request, Response};
use penstock_api::wire;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

/// A context whose every path lies under `dir`.
pub(crate) fn context(dir: &Path) -> Context {
    Context {
        instance: "test".parse().expect("a literal"),
        output: Output::Table,
        socket: dir.join("run/control.sock"),
        run_dir: dir.join("run"),
        state_dir: dir.join("state"),
        bin_dirs: vec![],
    }
}

/// Serves until the test process ends. Where `answer` returns none, it has written to the stream what it wanted and the
/// connection is closed.
pub(crate) fn serve(
    context: &Context,
    answer: impl Fn(Request, &mut UnixStream) -> Option<Response> + Send + Sync + 'static,
) {
    std::fs::create_dir_all(&context.run_dir).expect("a temporary directory");
    let listener = UnixListener::bind(&context.socket).expect("a fresh socket path");
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a client");
            while let Ok(request) = wire::receive::<Request>(&mut stream) {
                match answer(request, &mut stream) {
                    Some(reply) if wire::send(&mut stream, &reply).is_ok() => {}
                    _ => break,
                }
            }
        }
    });
}

/// Runs a command and returns what it printed.
pub(crate) fn printed(
    command: impl FnOnce(&mut dyn std::io::Write) -> Result<(), crate::failure::Failure>,
) -> String {
    let mut out = Vec::new();
    command(&mut out).expect("the command succeeds");
    String::from_utf8(out).expect("text")
}

/// Makes a program of a shell script. Written by another process: a descriptor of ours, inherited by what another test starts
/// at this moment, would keep the file from being run (ETXTBSY).
pub(crate) fn write_program(program: &std::path::Path, script: &str) {
    let written = std::process::Command::new("sh")
        .args(["-c", r#"printf '%s\n' "$1" > "$2" && chmod 755 "$2""#, "sh"])
        .arg(format!("#!/bin/sh\n{script}"))
        .arg(program)
        .status();
    assert!(written.unwrap().success());
}
