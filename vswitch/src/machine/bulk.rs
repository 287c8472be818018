//! Which ports are sent frames in bulk, and until when: what the far end of a veth does about it is not ours.
//!
//! The problem: where the far end does not run NAPI, the kernel throws away what is sent in bulk (`io/bulk.rs`). Its owner may
//! switch that (GRO, an XDP program) at any time.
//!
//! The shape: the kernel tells of each link whether it takes redirected frames, and of every change, a moment later. The
//! watchdog's thread listens and shuts or opens the [`Gate`] of the port; its worker sees that at its next batch. What was sent in
//! that moment is lost, and counted: it was handed to the interface, which did not count it. The kernel is not always right
//! (GRO switched while the far end is down is not told, and a link that is down takes nothing), so an interface that counts none of
//! what was handed to it shuts the gate too, until its far end changes.

use crate::io::bulk::Gate;
use crate::worker::run::monotonic_ms;
use penstock_api::message::DeviceStatus;
use penstock_net::route::Netlink;
use penstock_net::xdp::{TAKES_REDIRECTED, XdpFeatures};
use penstock_net::{NetError, offload};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How often what was handed over is compared with what was taken.
const LOOK: Duration = Duration::from_millis(50);
/// When an interface that took nothing is tried again, once: its link may have been down for a moment.
const AGAIN: Duration = Duration::from_secs(1);

/// How long a port stays the kernel's after nobody wants that any more.
const KEPT_MS: u64 = 1_000;

/// Whose a port is, the kernel's shortcut's or its worker's: between who installs flows and who keeps the gate.
#[derive(Debug)]
pub(super) struct Loan {
    wanted_until_ms: AtomicU64,
    is_granted: AtomicBool,
}

impl Loan {
    /// Granted, as an earlier process may have left flows that the kernel carries.
    pub(super) fn new() -> Loan {
        Loan { wanted_until_ms: AtomicU64::new(monotonic_ms() + KEPT_MS), is_granted: AtomicBool::new(true) }
    }

    /// A flow that the kernel carries to the port is there, or asked for. May it be now?
    pub(super) fn ask(&self, now_ms: u64) -> bool {
        self.wanted_until_ms.store(now_ms + KEPT_MS, Ordering::Relaxed);
        self.is_granted.load(Ordering::Acquire)
    }

    fn is_wanted(&self, now_ms: u64) -> bool {
        now_ms < self.wanted_until_ms.load(Ordering::Relaxed)
    }
}

/// A veth of the host's namespace, with one queue, that frames may be sent to in bulk.
#[derive(Debug)]
pub(super) struct BulkPort {
    interface: String,
    index: u32,
    gate: Arc<Gate>,
    /// By its interface, before anything was handed to it.
    counted_before: u64,
    /// What the kernel says of the far end.
    is_taken: AtomicBool,
    /// The interface counted nothing of what was handed to it.
    is_refused: AtomicBool,
    /// Absent where the shortcut is off.
    loan: Option<Arc<Loan>>,
    /// It is the kernel's, or about to be, or has just been.
    is_lent: AtomicBool,
}

impl BulkPort {
    /// What its veth says it passed on of frames that came this way.
    pub(super) fn counted(interface: &str) -> Result<u64, NetError> {
        offload::statistic(interface, "tx_queue_", "_xdp_xmit")
    }

    /// [`Watcher`] sets its gate.
    pub(super) fn new(
        interface: &str,
        index: u32,
        gate: Arc<Gate>,
        counted_before: u64,
        loan: Option<Arc<Loan>>,
    ) -> BulkPort {
        BulkPort {
            interface: interface.to_owned(),
            index,
            gate,
            counted_before,
            is_taken: AtomicBool::new(true),
            is_refused: AtomicBool::new(false),
            is_lent: AtomicBool::new(loan.is_some()),
            loan,
        }
    }

    pub(super) fn interface(&self) -> &str {
        &self.interface
    }

    pub(super) fn loan(&self) -> Option<&Arc<Loan>> {
        self.loan.as_ref()
    }

    /// Frames that were handed to it and went nowhere.
    pub(super) fn lost(&self) -> u64 {
        // In this order: what is under way is not lost.
        let handed = self.gate.sent();
        BulkPort::counted(&self.interface)
            .map_or(0, |counted| handed.saturating_sub(counted.saturating_sub(self.counted_before)))
    }

    /// Why frames for it go one by one, if they do.
    fn hindrance(&self) -> Option<&'static str> {
        if self.gate.has_failed() {
            Some("the kernel refused to send many at once, see the log")
        } else if self.is_lent.load(Ordering::Relaxed) {
            Some("the kernel carries flows to it (shortcut)")
        } else if !self.is_taken.load(Ordering::Relaxed) {
            Some("the far end does not run NAPI: `ethtool -K eth0 gro on` there makes sending cheaper")
        } else if self.is_refused.load(Ordering::Relaxed) {
            Some(
                "nothing sent in bulk got through: is the far end up? Bulk is tried again when its link or its GRO changes",
            )
        } else {
            None
        }
    }

    /// Adds to what is said of its device.
    pub(super) fn describe(&self, device: &mut DeviceStatus) {
        match self.hindrance() {
            None => device.mode.push_str(", bulk"),
            Some(why) => device.why = format!("{}; sent one by one: {why}", device.why),
        }
    }

    pub(super) fn is_of(&self, device: &DeviceStatus) -> bool {
        self.interface == device.interface
    }

    fn set_gate(&self) {
        self.gate.set_open(self.hindrance().is_none());
    }

    /// Lets it change hands if it is to: half of the way at a time, so that what was sent the one way has arrived before anything
    /// goes the other.
    fn lend(&self, now_ms: u64) {
        let Some(loan) = &self.loan else { return };
        let (is_lent, is_granted) =
            (self.is_lent.load(Ordering::Relaxed), loan.is_granted.load(Ordering::Relaxed));
        match (loan.is_wanted(now_ms), is_lent, is_granted) {
            (true, false, _) => {
                self.is_lent.store(true, Ordering::Relaxed);
                self.set_gate();
            }
            (true, true, false) => {
                self.set_tso(true);
                loan.is_granted.store(true, Ordering::Release);
            }
            (false, true, true) => {
                loan.is_granted.store(false, Ordering::Release);
                self.set_tso(false);
            }
            (false, true, false) => {
                self.is_lent.store(false, Ordering::Relaxed);
                self.set_gate();
            }
            (true, true, true) | (false, false, _) => {}
        }
    }

    fn set_tso(&self, on: bool) {
        // The interface is gone: so is all there was to send.
        let _ = offload::set(&self.interface, "tso", on);
    }
}

/// Keeps the gates. Owner: the watchdog's thread.
#[derive(Debug)]
pub(super) struct Watcher {
    /// Absent where the kernel does not tell.
    features: Option<XdpFeatures>,
    ports: Arc<[BulkPort]>,
    seen: Vec<Seen>,
    next_look: Instant,
}

#[derive(Debug, Clone)]
struct Seen {
    handed: u64,
    counted: u64,
    /// How often its link had come up when it refused.
    ups: u32,
    again: Option<Instant>,
    may_try_again: bool,
}

impl Watcher {
    /// Sets the gates as they have to be now.
    pub(super) fn new(features: Option<XdpFeatures>, ports: Arc<[BulkPort]>) -> Watcher {
        let seen = |port: &BulkPort| Seen {
            handed: 0,
            counted: port.counted_before,
            ups: 0,
            again: None,
            may_try_again: true,
        };
        let seen = ports.iter().map(seen).collect();
        let mut watcher = Watcher { features, ports, seen, next_look: Instant::now() + LOOK };
        watcher.ask();
        watcher
    }

    /// Waits until then, and meanwhile does what there is to do.
    pub(super) fn wait(&mut self, until: Instant) {
        if self.ports.is_empty() {
            std::thread::sleep(until.saturating_duration_since(Instant::now()));
            return;
        }
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match &self.features {
                None => std::thread::sleep(left),
                Some(features) => {
                    let fd = features.as_fd().as_raw_fd();
                    let mut fds = [libc::pollfd { fd, events: libc::POLLIN, revents: 0 }];
                    crate::io::xsk::poll(&mut fds, left);
                    match (fds[0].revents != 0).then(|| features.changes()) {
                        None => {}
                        Some(Some(changes)) => {
                            for (index, features) in changes {
                                self.learn(index, features & TAKES_REDIRECTED != 0);
                            }
                        }
                        Some(None) => self.ask(),
                    }
                }
            }
            let now = Instant::now();
            if now >= self.next_look {
                self.next_look = now + LOOK;
                self.look(now);
            }
            if now >= until {
                return;
            }
        }
    }

    /// What the kernel says of each.
    fn ask(&mut self) {
        for index in self.ports.iter().map(|port| port.index).collect::<Vec<_>>() {
            let takes = |features: &XdpFeatures| {
                features.of(index).is_ok_and(|features| features & TAKES_REDIRECTED != 0)
            };
            let is_taken = self.features.as_ref().is_none_or(takes);
            self.learn(index, is_taken);
        }
    }

    fn learn(&mut self, index: u32, is_taken: bool) {
        let mine = self.ports.iter().zip(&mut self.seen).filter(|(port, _)| port.index == index);
        for (port, seen) in mine {
            if port.is_taken.swap(is_taken, Ordering::Relaxed) != is_taken {
                port.is_refused.store(false, Ordering::Relaxed);
                seen.forget();
                let way = if is_taken { "in bulk when there are many" } else { "one by one" };
                tracing::info!("{}: frames are sent {way} from now on", port.interface);
            }
            port.set_gate();
        }
    }

    /// What each has counted of what was handed to it.
    fn look(&mut self, now: Instant) {
        for (port, seen) in self.ports.iter().zip(&mut self.seen) {
            port.lend(monotonic_ms());
            if port.is_refused.load(Ordering::Relaxed) {
                if seen.is_to_be_tried(&port.interface, now) {
                    port.is_refused.store(false, Ordering::Relaxed);
                    port.set_gate();
                }
                continue;
            }
            let handed = port.gate.sent();
            if handed == seen.handed {
                continue;
            }
            let Ok(counted) = BulkPort::counted(&port.interface) else { continue };
            if counted == seen.counted {
                tracing::warn!("{}: frames sent in bulk go nowhere; one by one from now on", port.interface);
                port.is_refused.store(true, Ordering::Relaxed);
                port.set_gate();
                seen.ups = link_of(&port.interface).1;
                seen.again = std::mem::take(&mut seen.may_try_again).then(|| now + AGAIN);
            } else {
                seen.may_try_again = true;
            }
            (seen.handed, seen.counted) = (handed, counted);
        }
    }
}

impl Seen {
    fn forget(&mut self) {
        (self.again, self.may_try_again) = (None, true);
    }

    /// Its link came up again, or it is time.
    fn is_to_be_tried(&mut self, interface: &str, now: Instant) -> bool {
        let (has_carrier, ups) = link_of(interface);
        let came_up = has_carrier && ups != self.ups;
        let is_time = has_carrier && self.again.is_some_and(|again| now >= again);
        if came_up {
            self.forget();
        } else if is_time {
            self.again = None;
        }
        came_up || is_time
    }
}

/// Has it a carrier, and how often did it get one?
fn link_of(interface: &str) -> (bool, u32) {
    let link = Netlink::open().and_then(|netlink| netlink.link(interface)).ok().flatten();
    link.map_or((false, 0), |link| (link.has_carrier, link.carrier_ups))
}
