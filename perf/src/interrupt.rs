//! Ctrl-C: what was made is removed as at any other end, because everything that takes long asks here whether it is still wanted.

use anyhow::{Context, Result, bail};
use nix::sys::signal::{SigSet, Signal};
use std::sync::atomic::{AtomicBool, Ordering};

static WANTED: AtomicBool = AtomicBool::new(false);

/// From here on Ctrl-C ends nothing by itself; a second one does, and leaves what there is to the next run, which sweeps.
pub(crate) fn listen() -> Result<()> {
    let signals = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]);
    // Every thread that is started later inherits this: only the waiting one hears them.
    signals.thread_block().context("signals cannot be blocked")?;
    std::thread::spawn(move || {
        while let Ok(signal) = signals.wait() {
            if WANTED.swap(true, Ordering::Relaxed) {
                std::process::exit(130);
            }
            eprintln!("\npenstock-perf: {signal}, cleaning up (once more to end at once)");
        }
    });
    Ok(())
}

pub(crate) fn is_wanted() -> bool {
    WANTED.load(Ordering::Relaxed)
}

/// An error once somebody wants the end.
pub(crate) fn check() -> Result<()> {
    if is_wanted() {
        bail!("interrupted");
    }
    Ok(())
}
