//! Frames to pods in batches: while a worker is busy, the near end of its trunk collects what it sends for a moment.
//!
//! The kernel hands every frame of an AF_XDP socket in copy mode to the near end by itself, with a soft interrupt each: the
//! receive side never sees two frames at once, so GRO merges nothing and every frame pays for a batch. `gro_flush_timeout`
//! with `napi_defer_hard_irqs` makes the near end wait for more, up to [`FLUSH_NS`]. *Measured*, 2 CPUs, Linux 6.18: one TCP
//! stream at MTU 1500 2.2 to 4.2 Gb/s, 64-byte frames 0.57 to 0.67 Mpps; but a single request and its answer take 190 us
//! instead of 50. Hence: on above a rate that only bulk reaches, off below one that it never falls to.
//!
//! Owner: the watchdog's thread. A kernel without these settings does without.

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use penstock_net::netns::Netns;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

/// How long a frame waits at most for others. Shorter costs more: the timer itself is dear on virtual machines.
pub const FLUSH_NS: u32 = 75_000;
/// How often it is looked at the rate.
pub const INTERVAL: Duration = Duration::from_millis(10);
/// Frames in one interval: 100,000 a second. Questions and answers over one connection reach half of it at most.
const ON_FRAMES: u64 = 1_000;
/// 30,000 a second. Questions and answers that wait for the timer stay far below.
const OFF_FRAMES: u64 = 300;

/// When to collect, given how many frames a worker has received.
#[derive(Debug, Default)]
pub struct Rate {
    last: u64,
    is_on: bool,
}

impl Rate {
    /// Call once in every [`INTERVAL`]. `Some`: from now on, or no longer.
    pub fn look(&mut self, received: u64) -> Option<bool> {
        let frames = received.wrapping_sub(std::mem::replace(&mut self.last, received));
        let is_on = frames >= if self.is_on { OFF_FRAMES } else { ON_FRAMES };
        (std::mem::replace(&mut self.is_on, is_on) != is_on).then_some(is_on)
    }
}

/// The setting of one near end. Stays usable although its file system is mounted nowhere.
#[derive(Debug)]
pub struct Coalesce(File);

impl Coalesce {
    /// Prepares the near end `interface`, and collects nothing yet.
    pub fn open(netns: &Netns, interface: &str) -> io::Result<Coalesce> {
        netns.run(|| -> io::Result<Coalesce> {
            // sysfs shows the namespace it was mounted in. This thread ends here, and its mounts with it.
            unshare(CloneFlags::CLONE_NEWNS)?;
            mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
            mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), None::<&str>)?;
            let dir = Path::new("/sys/class/net").join(interface);
            let file = OpenOptions::new().write(true).open(dir.join("gro_flush_timeout"))?;
            let mut coalesce = Coalesce(file);
            coalesce.set(false)?;
            std::fs::write(dir.join("napi_defer_hard_irqs"), "1")?;
            Ok(coalesce)
        })?
    }

    pub fn set(&mut self, is_on: bool) -> io::Result<()> {
        // One write is one value, wherever the file's position is; it may wait for a change of interfaces.
        let value = if is_on { FLUSH_NS } else { 0 };
        self.0.write_all(value.to_string().as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn collecting_begins_with_bulk_and_ends_when_little_is_left() {
        let mut rate = Rate::default();
        assert_eq!(rate.look(999), None, "questions and answers are not bulk");
        assert_eq!(rate.look(1_999), Some(true));
        assert_eq!(rate.look(2_300), None, "less, and still bulk");
        assert_eq!(rate.look(2_599), Some(false));
        assert_eq!(rate.look(3_400), None, "what ended it does not begin it again");
    }

    #[test]
    fn a_counter_that_wraps_is_still_a_rate() {
        let mut rate = Rate { last: u64::MAX - 10, is_on: false };
        assert_eq!(rate.look(2_000), Some(true));
    }
}
