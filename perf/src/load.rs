//! A load from one pod to another, and the count of what arrives.
//!
//! A generator ([`live`] or [`xsk`]) sends frames that say of themselves what a sink has to know ([`frame`]): of which [`flows`],
//! of what [`size`], at what [`pace`]. A [`sink`] on the receiver's interface holds them against it. A [`trial`] is both, and what
//! is between them is measured.
//!
//! The promise: what is reported as received came once, in its length, unaltered, on the flow it was sent on; and what is reported
//! as offered was handed to the sending interface.

pub(crate) mod flows;
pub(crate) mod frame;
mod live;
mod pace;
pub(crate) mod sink;
pub(crate) mod size;
#[cfg(test)]
mod tests;
pub(crate) mod trial;
mod xsk;

pub(crate) use flows::DESTINATION_PORT;

use anyhow::{Result, bail, ensure};
use frame::Headers;
use penstock_lab::Place;
use penstock_net::{Netlink, Netns};
use sink::{Sink, Watch};
use size::Sizes;
use std::time::{Duration, Instant};

const DRAIN: Duration = Duration::from_millis(100);

/// Whose frames, and where they are sent from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Source<'a> {
    pub(crate) netns: &'a Netns,
    pub(crate) interface: &'a str,
    pub(crate) headers: Headers,
}

impl<'a> Source<'a> {
    /// From one pod to the other. `next_hop`: the MAC address the sender's frames go to.
    pub(crate) fn between(from: &'a Place, to: &Place, next_hop: [u8; 6]) -> Result<Source<'a>> {
        let source_mac = Netlink::open_in(from.netns())?.existing("eth0")?.mac;
        let headers = Headers { next_hop, source_mac, source: from.v4(), destination: to.v4() };
        Ok(Source { netns: from.netns(), interface: "eth0", headers })
    }
}

/// What to send.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stream {
    pub(crate) sizes: Sizes,
    /// Used in turn.
    pub(crate) flows: u32,
    /// As fast as it goes when absent.
    pub(crate) rate_pps: Option<f64>,
    pub(crate) frames_max: Option<u64>,
    /// Where the generator runs, and with it all the kernel does for the sending pod.
    pub(crate) cpu: Option<usize>,
}

/// What was sent.
#[derive(Debug, Clone, Copy, Default, serde::Serialize)]
pub(crate) struct Sent {
    pub(crate) frames: u64,
    pub(crate) bytes: u64,
    pub(crate) first_ns: u64,
    pub(crate) last_ns: u64,
    /// The longest time between two frames.
    pub(crate) gap_max_ns: u64,
    /// Gaps of more than a millisecond.
    pub(crate) gaps_long: u64,
    /// Time the generator was kept from sending and did not make up for.
    pub(crate) slipped_ns: u64,
}

impl Sent {
    fn add(&mut self, len: u16, now_ns: u64) {
        if self.frames == 0 {
            (self.first_ns, self.last_ns) = (now_ns, now_ns);
        }
        let gap = now_ns - self.last_ns;
        self.gap_max_ns = self.gap_max_ns.max(gap);
        self.gaps_long += u64::from(gap > 1_000_000);
        self.last_ns = now_ns;
        self.frames += 1;
        self.bytes += u64::from(len);
    }

    /// Frames per second from the first to the last.
    pub(crate) fn rate_pps(&self) -> f64 {
        let time_ns = self.last_ns.saturating_sub(self.first_ns).max(1);
        self.frames.saturating_sub(1) as f64 / time_ns as f64 * 1e9
    }
}

/// Which generator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Kind {
    /// Frames made by the kernel (BPF_PROG_TEST_RUN): some 4 Mpps a core, up to 3,300 bytes; the other end must run NAPI
    Live,
    /// An AF_XDP socket on the sender's interface: some 1 Mpps, any size
    Xdp,
    /// Live frames where the size allows them
    Auto,
}

impl Kind {
    pub(crate) fn for_sizes(self, sizes: Sizes) -> Kind {
        match self {
            Kind::Auto if sizes.len_max() > live::LEN_MAX => Kind::Xdp,
            Kind::Auto => Kind::Live,
            kind => kind,
        }
    }

    pub(crate) fn short(self) -> &'static str {
        match self {
            Kind::Live => "live",
            Kind::Xdp => "xdp",
            Kind::Auto => "auto",
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Live => "live frames",
            Kind::Xdp => "AF_XDP (xsk-rs, copy mode)",
            Kind::Auto => "live frames or AF_XDP",
        }
    }
}

/// A generator at work, on a thread of its own, until it is stopped.
pub(crate) enum Generator {
    Live(Box<live::Live>),
    Xdp(xsk::Xsk),
}

impl Generator {
    pub(crate) fn start(kind: Kind, source: &Source<'_>, stream: &Stream) -> Result<Generator> {
        ensure!((1..=flows::FLOWS_MAX).contains(&stream.flows), "a load has 1 to {} flows", flows::FLOWS_MAX);
        let link = Netlink::open_in(source.netns)?.existing(source.interface)?;
        if !link.has_carrier {
            bail!("{} is down, or nothing is at its other end", source.interface);
        }
        let mtu = u32::from(stream.sizes.mtu());
        if link.mtu < mtu {
            let size = stream.sizes;
            bail!("{} has an MTU of {}; frames of size {size} want {mtu}", source.interface, link.mtu);
        }
        Ok(match kind.for_sizes(stream.sizes) {
            Kind::Xdp => Generator::Xdp(xsk::Xsk::start(source, stream)?),
            Kind::Live | Kind::Auto => Generator::Live(Box::new(live::Live::start(source, stream)?)),
        })
    }

    pub(crate) fn sent(&self) -> Result<Sent> {
        match self {
            Generator::Live(live) => live.sent(),
            Generator::Xdp(xsk) => Ok(xsk.sent()),
        }
    }

    /// It ends by itself only with an error, which [`Generator::stop`] tells.
    pub(crate) fn is_running(&self) -> bool {
        match self {
            Generator::Live(live) => live.is_running(),
            Generator::Xdp(xsk) => xsk.is_running(),
        }
    }

    pub(crate) fn stop(self) -> Result<Sent> {
        match self {
            Generator::Live(live) => live.stop(),
            Generator::Xdp(xsk) => xsk.stop(),
        }
    }
}

/// An overload of the smallest frames, as comparisons send it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LoadPlan {
    pub(crate) flows: u64,
    pub(crate) warm_up: Duration,
    pub(crate) duration: Duration,
    pub(crate) cpu: usize,
}

/// What became of it.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Arrived {
    /// While it was measured.
    pub(crate) mpps: f64,
    pub(crate) offered_mpps: f64,
    /// From the first frame to the last.
    pub(crate) offered: u64,
    pub(crate) received: u64,
    pub(crate) out_of_order: u64,
    pub(crate) wrong_len: u64,
    /// Different ones of which something arrived.
    pub(crate) flows: u64,
}

impl Arrived {
    pub(crate) fn loss(&self) -> f64 {
        1.0 - self.received as f64 / self.offered.max(1) as f64
    }
}

/// Sends from the first pod to the second. `next_hop`: the MAC address the sender's frames go to.
pub(crate) fn run(from: &Place, to: &Place, next_hop: [u8; 6], plan: &LoadPlan) -> Result<Arrived> {
    let flows = u32::try_from(plan.flows).unwrap_or(u32::MAX);
    let sink = Sink::attach(to.netns(), "eth0", &Watch { flows, words: 1, times: false })?;
    let stream =
        Stream { sizes: Sizes::One(64), flows, rate_pps: None, frames_max: None, cpu: Some(plan.cpu) };
    let source = Source::between(from, to, next_hop)?;
    let generator = Generator::start(Kind::Live, &source, &stream)?;
    std::thread::sleep(plan.warm_up);
    let (began, received, offered) = (Instant::now(), sink.counts()?.good(), generator.sent()?.frames);
    std::thread::sleep(plan.duration);
    let (elapsed, received_then, offered_then) =
        (began.elapsed(), sink.counts()?.good(), generator.sent()?.frames);
    let offered_in_all = generator.stop()?.frames;
    std::thread::sleep(DRAIN);
    let counts = sink.counts()?;
    ensure!(
        counts.altered == 0,
        "{} frames arrived with other contents than they were sent with",
        counts.altered
    );
    let received_in_all = counts.good();
    if received_in_all > offered_in_all {
        bail!("{received_in_all} frames arrived of {offered_in_all} that were sent");
    }
    let mpps = |frames: u64| frames as f64 / elapsed.as_secs_f64() / 1e6;
    Ok(Arrived {
        mpps: mpps(received_then - received),
        offered_mpps: mpps(offered_then - offered),
        offered: offered_in_all,
        received: received_in_all,
        out_of_order: counts.out_of_order,
        wrong_len: counts.wrong_len,
        flows: counts.flows,
    })
}
