//! What waking a thread costs this machine, whoever asks: what a worker that sleeps is beside.

use crate::placement::pin;
use anyhow::{Context, Result, ensure};
use hdrhistogram::Histogram;
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// Long enough for the sleeping CPU to have gone to sleep too.
const PAUSE: Duration = Duration::from_millis(5);
const SILENCE_MAX_MS: u16 = 5_000;

/// From a write on CPU `from` to the first instruction of a thread on CPU `to` that slept in `poll`, so many times.
pub(crate) fn measure(from: usize, to: usize, times: usize) -> Result<Histogram<u64>> {
    let event = EventFd::from_flags(EfdFlags::EFD_NONBLOCK)?;
    let (written, at) = std::sync::mpsc::sync_channel::<Instant>(1);
    let event = &event;
    std::thread::scope(|scope| {
        let sleeper = scope.spawn(move || -> Result<Histogram<u64>> {
            pin(to)?;
            let mut took = Histogram::new(3)?;
            for _ in 0..times {
                let ready = poll(&mut [PollFd::new(event.as_fd(), PollFlags::POLLIN)], SILENCE_MAX_MS)?;
                let woke = Instant::now();
                ensure!(ready > 0, "nobody woke it");
                event.read()?;
                let written = at.recv().context("the thread that wakes ended")?;
                took.record(woke.saturating_duration_since(written).as_nanos() as u64)?;
            }
            Ok(took)
        });
        let waker = scope.spawn(|| -> Result<()> {
            pin(from)?;
            for _ in 0..times {
                std::thread::sleep(PAUSE);
                let now = Instant::now();
                event.write(1)?;
                written.send(now).context("the thread that sleeps ended")?;
            }
            Ok(())
        });
        waker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        sleeper.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
