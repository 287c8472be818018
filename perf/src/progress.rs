//! What is going on, for a person who waits: a bar that writes over itself on a terminal, a line now and then elsewhere.

use crate::interrupt;
use anyhow::Result;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

const BAR_LEN: usize = 24;
const LINE_EVERY: Duration = Duration::from_secs(10);

/// On standard error, so that figures can be piped.
#[derive(Debug)]
pub(crate) struct Progress {
    command: &'static str,
    is_terminal: bool,
    said: Option<Instant>,
    /// See [`Progress::step`].
    steps: usize,
    done: usize,
}

impl Progress {
    pub(crate) fn new(command: &'static str) -> Progress {
        Progress::of(command, 0)
    }

    /// Of something that is done in so many steps.
    pub(crate) fn of(command: &'static str, steps: usize) -> Progress {
        Progress { command, is_terminal: std::io::stderr().is_terminal(), said: None, steps, done: 0 }
    }

    /// The next of them begins. An error when somebody has asked for the end.
    pub(crate) fn step(&mut self, what: &str) -> Result<()> {
        self.show(self.done as f64 / self.steps.max(1) as f64, what);
        self.done += 1;
        interrupt::check()
    }

    /// A line that stays.
    pub(crate) fn say(&self, what: &str) {
        self.clear();
        eprintln!("{}: {what}", self.command);
    }

    /// `done`: a share of one.
    pub(crate) fn show(&mut self, done: f64, what: &str) {
        let done = done.clamp(0.0, 1.0);
        if self.is_terminal {
            let full = (done * BAR_LEN as f64).round() as usize;
            let bar = "=".repeat(full) + &" ".repeat(BAR_LEN - full);
            let _ =
                write!(std::io::stderr(), "\r\x1b[K{} [{bar}] {:>3.0} % {what}", self.command, done * 100.0);
        } else if self.said.is_none_or(|said| said.elapsed() >= LINE_EVERY) {
            eprintln!("{}: {:.0} %: {what}", self.command, done * 100.0);
            self.said = Some(Instant::now());
        }
    }

    fn clear(&self) {
        if self.is_terminal {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}
