//! Being told to stop. Signals are read like a file: no handler runs anywhere, and every thread of the process blocks them.

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use std::os::fd::AsFd;

/// How often it is looked whether a worker has ended.
const LOOK_MS: u16 = 200;

pub(crate) struct Signals(SignalFd);

/// Why the process should end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Asked(Signal),
    /// A worker is gone, which only a defect can do: nothing would be right any more.
    Worker,
}

impl Signals {
    /// Call before the first thread is made: it inherits the mask.
    pub(crate) fn block() -> nix::Result<Self> {
        let set = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP]);
        set.thread_block()?;
        Ok(Signals(SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?))
    }

    pub(crate) fn wait(&self, has_worker_ended: impl Fn() -> bool) -> nix::Result<End> {
        loop {
            match poll(&mut [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)], PollTimeout::from(LOOK_MS)) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => return Err(error),
            }
            while let Some(signal) = self.0.read_signal()? {
                match Signal::try_from(signal.ssi_signo as i32)? {
                    // A terminal that closes is no reason to take the network down.
                    Signal::SIGHUP => tracing::info!(
                        "SIGHUP: the configuration is read at the start only; restart to change it"
                    ),
                    signal => return Ok(End::Asked(signal)),
                }
            }
            if has_worker_ended() {
                return Ok(End::Worker);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hangup_is_ignored_a_termination_and_a_lost_worker_are_not() {
        // To this thread only: the mask is per thread, and so is the signal.
        let raise = |signal| nix::sys::signal::raise(signal).unwrap();
        let signals = Signals::block().unwrap();
        assert_eq!(signals.wait(|| true), Ok(End::Worker));
        raise(Signal::SIGHUP);
        assert_eq!(signals.wait(|| true), Ok(End::Worker));
        raise(Signal::SIGTERM);
        assert_eq!(signals.wait(|| false), Ok(End::Asked(Signal::SIGTERM)));
    }
}
