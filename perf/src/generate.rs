//! `generate` and `sink`: a load on any interface, and its end on any other, each by itself.

use crate::figures::{Document, Figure, Output};
use crate::interrupt;
use crate::load::flows::FLOWS_MAX;
use crate::load::frame::Headers;
use crate::load::sink::{Counts, Sink, Watch};
use crate::load::size::Sizes;
use crate::load::{Generator, Kind, Sent, Source, Stream};
use crate::progress::Progress;
use crate::rate::Rate;
use anyhow::{Context, Result, bail, ensure};
use nix::ifaddrs::getifaddrs;
use penstock_net::{Netlink, Netns};
use std::net::{Ipv4Addr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

const TICK: Duration = Duration::from_millis(50);

#[derive(Debug, clap::Args)]
struct Where {
    /// The network namespace (as in `ip netns`) the interface is in; this program's own when absent.
    #[arg(long, value_name = "NAME")]
    netns: Option<String>,
    #[arg(long, value_name = "NAME")]
    interface: String,
}

impl Where {
    fn open(&self) -> Result<Netns> {
        ensure!(
            nix::unistd::geteuid().is_root(),
            "sockets and programs on an interface want root: run this as root"
        );
        let netns = match &self.netns {
            Some(name) => Netns::open(name)?,
            None => Netns::current()?,
        };
        let netlink = Netlink::open_in(&netns)?;
        netlink.existing(&self.interface).with_context(|| {
            let place = self.netns.as_ref().map_or("here".to_owned(), |name| format!("in namespace {name}"));
            format!("there is no interface {} {place}", self.interface)
        })?;
        Ok(netns)
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct GenerateArguments {
    #[command(flatten)]
    at: Where,
    /// Where to: an IPv4 address.
    #[arg(long, value_name = "ADDRESS")]
    to: Ipv4Addr,
    /// From; the interface's first IPv4 address when absent.
    #[arg(long, value_name = "ADDRESS")]
    from: Option<Ipv4Addr>,
    /// The MAC address frames go to; asked of the kernel when absent.
    #[arg(long, value_name = "MAC", value_parser = mac)]
    next_hop: Option<[u8; 6]>,
    /// Bytes of a frame, a wire's checksum included, from 64 to 9200; or `imix`: 64, 570 and 1518 bytes as 7 : 4 : 1.
    #[arg(long, default_value = "64", value_name = "BYTES")]
    size: Sizes,
    /// Different flows, used in turn: source ports from 1024 of as many destination ports from 5001 as are needed.
    #[arg(long, default_value_t = 1000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(FLOWS_MAX)))]
    flows: u32,
    /// Frames a second (`250000`, `800k`, `1.5M`) or a share of the link (`50%`); as fast as it goes when absent.
    #[arg(long, value_name = "RATE")]
    rate: Option<Rate>,
    /// What a share of the link is a share of, Gb/s.
    #[arg(long, default_value_t = 10.0, value_name = "GBPS")]
    link_gbps: f64,
    /// Seconds; until Ctrl-C, or until --frames are sent, when absent.
    #[arg(long, value_name = "S", value_parser = seconds)]
    duration: Option<Duration>,
    /// Send so many and no more.
    #[arg(long, value_name = "N")]
    frames: Option<u64>,
    #[arg(long, value_enum, default_value = "auto")]
    generator: Kind,
    /// The CPU it runs on; the scheduler's choice when absent.
    #[arg(long, value_name = "N")]
    cpu: Option<usize>,
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
}

#[derive(Debug, clap::Args)]
pub(crate) struct SinkArguments {
    #[command(flatten)]
    at: Where,
    /// Flows the load has at most; frames of others count as altered.
    #[arg(long, default_value_t = FLOWS_MAX, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(FLOWS_MAX)))]
    flows: u32,
    /// Look at every byte of every frame, not at some in turns.
    #[arg(long)]
    every_byte: bool,
    /// Seconds; until Ctrl-C when absent.
    #[arg(long, value_name = "S", value_parser = seconds)]
    duration: Option<Duration>,
    /// End when so many have come.
    #[arg(long, value_name = "N")]
    frames: Option<u64>,
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
}

pub(crate) fn seconds(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text} is no number of seconds");
    let seconds: f64 = text.parse().map_err(|_| wrong())?;
    Duration::try_from_secs_f64(seconds).ok().filter(|time| !time.is_zero()).ok_or_else(wrong)
}

fn mac(text: &str) -> Result<[u8; 6], String> {
    let bytes: Option<Vec<u8>> =
        text.split(':').map(|byte| u8::from_str_radix(byte, 16).ok().filter(|_| byte.len() == 2)).collect();
    bytes.and_then(|bytes| bytes.try_into().ok()).ok_or_else(|| format!("{text} is no MAC address"))
}

pub(crate) fn generate(arguments: &GenerateArguments) -> Result<bool> {
    let a = arguments;
    let netns = a.at.open()?;
    interrupt::listen()?;
    let mut document = Document::new("generate");
    let interface = a.at.interface.as_str();
    let source_mac = Netlink::open_in(&netns)?.existing(interface)?.mac;
    let source = match a.from {
        Some(address) => address,
        None => netns.run(|| address_of(interface))??,
    };
    let next_hop = match a.next_hop {
        Some(mac) => mac,
        None => netns.run(|| next_hop(interface, a.to))??,
    };
    let headers = Headers { next_hop, source_mac, source, destination: a.to };
    let source = Source { netns: &netns, interface, headers };
    let rate_pps = a.rate.map(|rate| rate.pps(a.size, a.link_gbps));
    let stream = Stream { sizes: a.size, flows: a.flows, rate_pps, frames_max: a.frames, cpu: a.cpu };
    let kind = a.generator.for_sizes(a.size);
    let generator = Generator::start(kind, &source, &stream)?;
    let mut progress = Progress::new("generate");
    let (began, mut before) = (Instant::now(), (Instant::now(), 0));
    while generator.is_running() && !interrupt::is_wanted() {
        let left = a.duration.map_or(TICK, |duration| duration.saturating_sub(began.elapsed()));
        let frames = generator.sent()?.frames;
        if left.is_zero() || a.frames.is_some_and(|max| frames >= max) {
            break;
        }
        let done = match (a.duration, a.frames) {
            (Some(duration), _) => began.elapsed().as_secs_f64() / duration.as_secs_f64(),
            (None, Some(max)) => frames as f64 / max as f64,
            (None, None) => 0.0,
        };
        if before.0.elapsed() >= Duration::from_secs(1) {
            let mpps = (frames - before.1) as f64 / before.0.elapsed().as_secs_f64() / 1e6;
            progress.show(done, &format!("{mpps:.3} Mpps, {frames} frames"));
            before = (Instant::now(), frames);
        }
        thread::sleep(left.min(TICK));
    }
    let sent = generator.stop()?;
    drop(progress);
    document.placement = a.cpu.map_or("the scheduler chose the generator's CPU".into(), |cpu| {
        format!("the generator ran on CPU {cpu}")
    });
    document.method = format!(
        "{}, frames of {} bytes, {} flows, {}",
        kind.name(),
        a.size,
        a.flows,
        rate_pps.map_or("as fast as it goes".into(), |pps| format!("{pps:.0} frames/s asked for"))
    );
    document.figures = sent_figures(&sent);
    document.print(a.output)?;
    Ok(true)
}

fn sent_figures(sent: &Sent) -> Vec<Figure> {
    vec![
        Figure::one("sent", "frames", sent.frames as f64),
        Figure::one("sent", "bytes", sent.bytes as f64),
        Figure::one("offered", "Mpps", sent.rate_pps() / 1e6),
        Figure::one("longest gap", "us", sent.gap_max_ns as f64 / 1e3),
        Figure::one("gaps above 1 ms", "gaps", sent.gaps_long as f64),
        Figure::one("kept from sending", "ms", sent.slipped_ns as f64 / 1e6),
    ]
}

pub(crate) fn sink(arguments: &SinkArguments) -> Result<bool> {
    let a = arguments;
    let netns = a.at.open()?;
    interrupt::listen()?;
    let mut document = Document::new("sink");
    let words = if a.every_byte { u32::MAX } else { 1 };
    let sink = Sink::attach(&netns, &a.at.interface, &Watch { flows: a.flows, words, times: true })?;
    let mut progress = Progress::new("sink");
    let (began, mut before) = (Instant::now(), (Instant::now(), 0));
    loop {
        let frames = sink.counts()?.frames;
        let left = a.duration.map_or(TICK, |duration| duration.saturating_sub(began.elapsed()));
        if left.is_zero() || interrupt::is_wanted() || a.frames.is_some_and(|max| frames >= max) {
            break;
        }
        if before.0.elapsed() >= Duration::from_secs(1) {
            let mpps = (frames - before.1) as f64 / before.0.elapsed().as_secs_f64() / 1e6;
            let done = a.duration.map_or(0.0, |d| began.elapsed().as_secs_f64() / d.as_secs_f64());
            progress.show(done, &format!("{mpps:.3} Mpps, {frames} frames"));
            before = (Instant::now(), frames);
        }
        thread::sleep(left.min(TICK));
    }
    drop(progress);
    let (counts, latencies) = (sink.counts()?, sink.latencies()?);
    document.method = format!(
        "a tc program on the ingress of {} looks at every frame's mark, length and ports, its order in its flow, and {} of its fill",
        a.at.interface,
        if a.every_byte { "every byte" } else { "eight bytes" }
    );
    document.figures = arrived_figures(&counts, &sink.gaps()?);
    if counts.good() > 0 {
        let us = |quantile| latencies.value_at_quantile(quantile) as f64 / 1e3;
        document.figures.extend([
            Figure::one("latency p50", "us", us(0.5)),
            Figure::one("latency p99", "us", us(0.99)),
            Figure::one("latency max", "us", counts.latency_max_ns as f64 / 1e3)
                .note("from the generator's stamp; means something on one machine only"),
        ]);
    }
    document.print(a.output)?;
    Ok(true)
}

fn arrived_figures(counts: &Counts, gaps: &[u64]) -> Vec<Figure> {
    let time_ns = counts.last_ns.saturating_sub(counts.first_ns).max(1);
    let count = |name, value: u64| Figure::one(name, "frames", value as f64);
    let mut figures = vec![
        count("received", counts.frames),
        Figure::one("received", "bytes", counts.bytes as f64),
        Figure::one("received", "Mpps", counts.frames.saturating_sub(1) as f64 / time_ns as f64 * 1e3),
        Figure::one("flows", "flows", counts.flows as f64),
        count("out of order", counts.out_of_order),
        count("duplicates", counts.duplicates),
        count("wrong length", counts.wrong_len),
        count("altered", counts.altered),
        Figure::one("longest gap", "us", counts.gap_max_ns as f64 / 1e3),
    ];
    // The histogram, without the buckets at which nothing is.
    for (power, gaps) in gaps.iter().enumerate().filter(|(_, gaps)| **gaps > 0) {
        figures.push(Figure::one("gaps", "gaps", *gaps as f64).at("from", format!("{} ns", 1u64 << power)));
    }
    figures
}

/// The interface's first IPv4 address, of the calling thread's namespace.
fn address_of(interface: &str) -> Result<Ipv4Addr> {
    let addresses = getifaddrs().context("the interfaces' addresses cannot be read")?;
    addresses
        .filter(|address| address.interface_name == interface)
        .find_map(|address| Some(address.address?.as_sockaddr_in()?.ip()))
        .with_context(|| format!("{interface} has no IPv4 address: say one with --from"))
}

/// Whom the kernel would send a packet for `to`: the destination itself, or the one gateway there is.
fn next_hop(interface: &str, to: Ipv4Addr) -> Result<[u8; 6]> {
    const TRIES: usize = 20;
    let asked = UdpSocket::bind("0.0.0.0:0").and_then(|socket| socket.send_to(&[0], (to, 9)));
    asked.with_context(|| format!("nothing can be sent to {to} from {interface}"))?;
    for _ in 0..TRIES {
        // Of this thread's namespace; /proc/net would be the process's.
        let text = std::fs::read_to_string("/proc/thread-self/net/arp")?;
        if let Some(mac) = neighbour(&text, interface, to) {
            return Ok(mac);
        }
        thread::sleep(TICK);
    }
    bail!("nobody on {interface} answers for {to}: say the MAC address with --next-hop")
}

/// From the kernel's table: `address type flags mac mask interface`.
fn neighbour(table: &str, interface: &str, to: Ipv4Addr) -> Option<[u8; 6]> {
    let rows = table.lines().skip(1).filter_map(|line| {
        let mut words = line.split_whitespace();
        let (address, flags, mac_text) = (words.next()?, words.nth(1)?, words.next()?);
        let known = u32::from_str_radix(flags.trim_start_matches("0x"), 16).ok()? & 2 != 0;
        let is_ours = words.nth(1)? == interface && known;
        Some((address.parse::<Ipv4Addr>().ok()?, mac(mac_text).ok()?)).filter(|_| is_ours)
    });
    let rows: Vec<_> = rows.collect();
    let exact = rows.iter().find(|(address, _)| *address == to);
    exact.or(rows.first().filter(|_| rows.len() == 1)).map(|(_, mac)| *mac)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "IP address       HW type     Flags       HW address            Mask     Device\n\
        192.0.2.2        0x1         0x2         02:00:00:00:00:02     *        eth0\n\
        192.0.2.9        0x1         0x0         00:00:00:00:00:00     *        eth0\n\
        10.0.0.1         0x1         0x6         02:00:00:00:00:09     *        eth1\n";

    #[test]
    fn the_next_hop_is_the_destination_or_the_one_gateway() {
        let of = |interface, to: &str| neighbour(TABLE, interface, to.parse().unwrap()).map(|mac| mac[5]);
        assert_eq!(of("eth0", "192.0.2.2"), Some(2));
        assert_eq!(of("eth1", "203.0.113.7"), Some(9));
        assert_eq!(of("eth2", "203.0.113.7"), None);
        let two =
            format!("{TABLE}192.0.2.3        0x1         0x2         02:00:00:00:00:03     *        eth0\n");
        assert_eq!(neighbour(&two, "eth0", "203.0.113.7".parse().unwrap()), None);
    }

    #[test]
    fn a_mac_address_has_six_bytes_of_two_digits() {
        assert_eq!(mac("02:00:00:00:01:ff"), Ok([2, 0, 0, 0, 1, 255]));
        for wrong in ["", "02:00:00:00:01", "02:00:00:00:01:ff:00", "2:0:0:0:1:f", "zz:00:00:00:00:00"] {
            assert!(mac(wrong).is_err(), "{wrong}");
        }
    }
}
