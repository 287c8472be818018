//! The work: what every subject is given, in its turn, and how it is checked.

use super::Arguments;
use super::seen::Seen;
use crate::interrupt;
use crate::load::{self, LoadPlan};
use crate::placement::{LOAD_CPU, on_cpu};
use crate::subjects::{Sent, Subject};
use crate::tcp::{self, Until};
use anyhow::{Context, Result, ensure};
use penstock_lab::Place;
use std::time::{Duration, Instant};

pub(super) const UDP: &str = "UDP 64 B, Mpps";
pub(super) const TCP: &str = "TCP 1 stream, Gb/s";
pub(super) const TCP_FREE: &str = "TCP 1 stream, CPUs free, Gb/s";
pub(super) const TCP_8: &str = "TCP 8 streams, CPUs free, Gb/s";
pub(super) const P50: &str = "TCP request p50, us";
pub(super) const P50_FREE: &str = "TCP request p50, CPUs free, us";
pub(super) const P99: &str = "TCP request p99, us";
pub(super) const CONNECTS: &str = "TCP connect, ask, close, 1/s";
pub(super) const UDP_SHARE: &str = "UDP frames past userspace, share";
pub(super) const TCP_SHARE: &str = "TCP bytes past userspace, share";

const ECHO_PORT: u16 = 5432;
const TRANSFER_PORT: u16 = 5001;
const STREAMS: u16 = 8;

/// Programs run wherever the scheduler likes.
pub(super) fn is_free(measurement: &str) -> bool {
    matches!(measurement, TCP_FREE | TCP_8 | P50_FREE)
}

/// What a subject is given in its turn, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Work {
    /// Frames of 64 bytes
    Udp,
    /// One TCP stream, both ends on the load's CPU
    Stream,
    /// One and eight, wherever the scheduler likes
    Streams,
    /// Questions on one connection
    Requests,
    /// Connections that ask one question
    Connections,
}

impl Work {
    pub(super) fn all() -> Vec<Work> {
        <Work as clap::ValueEnum>::value_variants().to_vec()
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Work::Udp => "UDP",
            Work::Stream => "stream",
            Work::Streams => "streams",
            Work::Requests => "requests",
            Work::Connections => "connections",
        }
    }

    /// Returns what is worth saying about it.
    pub(super) fn measure(
        self,
        subject: &dyn Subject,
        arguments: &Arguments,
        seen: &mut Seen,
    ) -> Result<String> {
        match self {
            Work::Udp => udp(subject, arguments, seen),
            Work::Stream => stream(subject, arguments, seen),
            Work::Streams => streams(subject, arguments, seen),
            Work::Requests => requests(subject, arguments, seen),
            Work::Connections => connections(subject, arguments, seen),
        }
    }
}

/// TCP ports that have to be open.
pub(super) fn ports() -> Vec<u16> {
    std::iter::once(ECHO_PORT).chain(TRANSFER_PORT..TRANSFER_PORT + STREAMS).collect()
}

/// What shows that a path works before it is measured.
pub(super) fn prepare(subject: &dyn Subject) {
    subject.places()[1].listen_tcp(ECHO_PORT);
}

fn udp(subject: &dyn Subject, arguments: &Arguments, seen: &mut Seen) -> Result<String> {
    let [from, to] = subject.places();
    // Neighbours are found, and the path is shown to work, before anything is measured.
    from.round_trips(to.v4(), ECHO_PORT, 10).context("the pods cannot talk")?;
    let plan = LoadPlan {
        flows: arguments.flows,
        warm_up: Duration::from_millis(arguments.transfer_ms.min(500)),
        duration: Duration::from_millis(arguments.transfer_ms),
        cpu: LOAD_CPU,
    };
    // Every flow is shown to the path first: what is measured is how it carries them, not how it learns of them.
    let learning = LoadPlan {
        warm_up: Duration::ZERO,
        duration: Duration::from_millis(arguments.transfer_ms.min(1000)),
        ..plan
    };
    load::run(from, to, subject.next_hop(), &learning)?;
    let before = subject.sent_by_userspace()?;
    interrupt::check()?;
    let arrived = load::run(from, to, subject.next_hop(), &plan)?;
    let after = subject.sent_by_userspace()?;
    ensure!(arrived.wrong_len == 0, "{} frames arrived with another length", arrived.wrong_len);
    let name = subject.name();
    let loss = arrived.loss();
    seen.add_load(UDP, name, arrived.mpps, arrived.offered_mpps, loss);
    let mut said = format!("{:.2} Mpps of {:.2} offered", arrived.mpps, arrived.offered_mpps);
    ensure!(arrived.flows > 0, "nothing arrived");
    let mut faults = Vec::new();
    if arrived.out_of_order > 0 {
        faults.push(format!("{} of {} out of order", arrived.out_of_order, arrived.received));
    }
    if arrived.flows < arguments.flows {
        faults.push(format!("{} of {} flows arrived", arrived.flows, arguments.flows));
    }
    if !faults.is_empty() {
        let faults = faults.join(", ");
        said.push_str(&format!(", {faults}"));
        seen.note(UDP, name, &faults);
    }
    if let Some((before, after)) = before.zip(after) {
        let share = past_userspace(after.frames - before.frames, arrived.received);
        seen.add(UDP_SHARE, name, share);
        said.push_str(&format!(", {:.1} % past userspace", share * 100.0));
    }
    Ok(said)
}

fn stream(subject: &dyn Subject, arguments: &Arguments, seen: &mut Seen) -> Result<String> {
    let [from, to] = subject.places();
    let before = subject.sent_by_userspace()?;
    let pinned = on_cpu(LOAD_CPU, || transfer(from, to, 1, arguments.transfer_time()))?;
    share_of_transfer(subject, before, &pinned, seen)?;
    seen.add(TCP, subject.name(), pinned.gigabits);
    settle();
    Ok(format!("{:.2} Gb/s", pinned.gigabits))
}

fn streams(subject: &dyn Subject, arguments: &Arguments, seen: &mut Seen) -> Result<String> {
    let [from, to] = subject.places();
    let one = transfer(from, to, 1, arguments.transfer_time())?.gigabits;
    let eight = transfer(from, to, STREAMS, arguments.transfer_time())?.gigabits;
    seen.add(TCP_FREE, subject.name(), one);
    seen.add(TCP_8, subject.name(), eight);
    settle();
    Ok(format!("one {one:.2} Gb/s, eight {eight:.2}"))
}

fn requests(subject: &dyn Subject, arguments: &Arguments, seen: &mut Seen) -> Result<String> {
    let [from, to] = subject.places();
    let count = Until::Asked(arguments.questions);
    let asked = on_cpu(LOAD_CPU, || tcp::questions(from, to, count))?;
    let us = |quantile| asked.times.value_at_quantile(quantile) as f64 / 1e3;
    seen.add(P50, subject.name(), us(0.5));
    seen.add(P99, subject.name(), us(0.99));
    interrupt::check()?;
    let free = tcp::questions(from, to, count)?.times.value_at_quantile(0.5) as f64 / 1e3;
    seen.add(P50_FREE, subject.name(), free);
    Ok(format!("{:.1} us, CPUs free {free:.1}", us(0.5)))
}

fn connections(subject: &dyn Subject, arguments: &Arguments, seen: &mut Seen) -> Result<String> {
    let [from, to] = subject.places();
    let time = arguments.transfer_time() / 3;
    let made = on_cpu(LOAD_CPU, || tcp::connections(from, to, 1, time))?.per_second();
    seen.add(CONNECTS, subject.name(), made);
    Ok(format!("{made:.0} connections/s"))
}

/// What transfers leave behind in queues and settings is gone by then.
fn settle() {
    std::thread::sleep(Duration::from_millis(200));
}

struct Transferred {
    bytes: u64,
    gigabits: f64,
}

/// So many streams at once, each to a port of its own; what arrived counts, from the first one's beginning to the last one's end:
/// where connecting takes time, some have the path to themselves for part of theirs.
fn transfer(from: &Place, to: &Place, streams: u16, time: Duration) -> Result<Transferred> {
    let began = Instant::now();
    let running: Vec<_> = (0..streams)
        .map(|n| from.start_transfer(to, to.v4(), TRANSFER_PORT + n, time))
        .collect::<Result<_>>()?;
    let mut bytes = 0;
    for transfer in running {
        bytes += transfer.finish()?.bytes;
    }
    Ok(Transferred { bytes, gigabits: tcp::gigabits(bytes, began.elapsed()) })
}

fn share_of_transfer(
    subject: &dyn Subject,
    before: Option<Sent>,
    transferred: &Transferred,
    seen: &mut Seen,
) -> Result<()> {
    if let Some((before, after)) = before.zip(subject.sent_by_userspace()?) {
        let share = past_userspace(after.bytes - before.bytes, transferred.bytes);
        seen.add(TCP_SHARE, subject.name(), share);
    }
    Ok(())
}

/// Which share of what arrived was not sent by userspace.
fn past_userspace(sent: u64, arrived: u64) -> f64 {
    if arrived == 0 { 0.0 } else { 1.0 - (sent as f64 / arrived as f64).min(1.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_userspace_sent_is_not_past_it_headers_and_all() {
        assert_eq!(past_userspace(0, 100), 1.0);
        assert_eq!(past_userspace(104, 100), 0.0);
        assert!((past_userspace(2, 100) - 0.98).abs() < 1e-9);
        assert_eq!(past_userspace(0, 0), 0.0);
    }
}
