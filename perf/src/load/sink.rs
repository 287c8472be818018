//! Where a load ends: a program on the ingress of the receiver's interface that holds every frame against what it says of itself.
//!
//! Per frame: the check over its mark and its length, the ports against the flow, some words of the fill (in turns, so that every
//! place is looked at again and again), and its sequence against those of its flow that came before, of which the last 64 are
//! remembered. Frames of nobody's load pass. A flow whose frames arrive on two CPUs at once may be counted as out of order when it
//! was not: paths with one worker have none.
#![allow(unsafe_code)]

use anyhow::{Context, Result};
use aya::maps::{Array, MapData, PerCpuArray};
use aya::programs::links::FdLink;
use aya::programs::tc::{NlOptions, TcAttachOptions, TcHandle};
use aya::programs::{LinkOrder, SchedClassifier, TcAttachType, tc};
use aya::{Ebpf, EbpfLoader, Pod};
use hdrhistogram::Histogram;
use penstock_net::{Netlink, Netns};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/sink.bpf.o"));
const PROGRAM: &str = "arrived";
pub(crate) const GAPS: u32 = 40;
const LATENCIES: u32 = 2048;
const LATENCY_BITS: u32 = 6;

/// What to look at.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Watch {
    /// Of the load.
    pub(crate) flows: u32,
    /// Words of the fill per frame; `u32::MAX` for all.
    pub(crate) words: u32,
    /// Gaps and latencies: a look at the clock per frame.
    pub(crate) times: bool,
}

/// `struct watch` of sink.bpf.c.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct WatchRow([u32; 4]);
/// `struct counts`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct CountsRow([u64; 12]);
// SAFETY: integers alone, without padding.
unsafe impl Pod for WatchRow {}
// SAFETY: as above.
unsafe impl Pod for CountsRow {}

/// What arrived.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Counts {
    pub(crate) frames: u64,
    pub(crate) bytes: u64,
    /// Overtaken by a later one of their flow.
    pub(crate) out_of_order: u64,
    /// Came before, among the last 64 of their flow.
    pub(crate) duplicates: u64,
    pub(crate) wrong_len: u64,
    /// Mark, ports or fill are not what the generator wrote.
    pub(crate) altered: u64,
    /// Different flows of which something came.
    pub(crate) flows: u64,
    pub(crate) first_ns: u64,
    pub(crate) last_ns: u64,
    /// The longest time between two frames.
    pub(crate) gap_max_ns: u64,
    pub(crate) latency_max_ns: u64,
}

impl Counts {
    /// Frames that came as they were sent, each once.
    pub(crate) fn good(&self) -> u64 {
        self.frames - (self.duplicates + self.wrong_len + self.altered).min(self.frames)
    }

    fn add(&mut self, CountsRow(row): &CountsRow) {
        self.frames += row[0];
        self.bytes += row[1];
        self.out_of_order += row[2];
        self.duplicates += row[3];
        self.wrong_len += row[4];
        self.altered += row[5];
        self.flows += row[6];
        if row[7] != 0 && (self.first_ns == 0 || row[7] < self.first_ns) {
            self.first_ns = row[7];
        }
        self.last_ns = self.last_ns.max(row[8]);
        self.gap_max_ns = self.gap_max_ns.max(row[9]);
        self.latency_max_ns = self.latency_max_ns.max(row[10]);
    }
}

#[derive(Debug)]
enum Attached {
    /// Goes with its descriptor.
    Link { _link: FdLink },
    /// A filter, on kernels before 6.6: it stays until it is taken off.
    Filter { netns: Netns, interface: String },
}

impl Drop for Attached {
    fn drop(&mut self) {
        if let Attached::Filter { netns, interface } = self {
            let _ = netns.run(|| tc::qdisc_detach_program(interface, TcAttachType::Ingress, PROGRAM));
        }
    }
}

pub(crate) struct Sink {
    counts: PerCpuArray<MapData, CountsRow>,
    gaps: PerCpuArray<MapData, u64>,
    latencies: PerCpuArray<MapData, u64>,
    _attached: Attached,
    _ebpf: Ebpf,
}

impl Sink {
    pub(crate) fn attach(netns: &Netns, interface: &str, watch: &Watch) -> Result<Sink> {
        // Says it better than the kernel would.
        Netlink::open_in(netns)?.existing(interface)?;
        let mut ebpf = EbpfLoader::new()
            .map_max_entries("FLOWS", watch.flows.max(1))
            .load(OBJECT)
            .context("the kernel refused the program of the sink; it wants Linux 5.17 or newer")?;
        let mut take = |name: &str| ebpf.take_map(name).with_context(|| format!("no {name}"));
        let mut row = Array::<MapData, WatchRow>::try_from(take("WATCH")?)?;
        let counts = PerCpuArray::try_from(take("COUNTS")?)?;
        let gaps = PerCpuArray::try_from(take("GAP_BUCKETS")?)?;
        let latencies = PerCpuArray::try_from(take("LATENCY_BUCKETS")?)?;
        row.set(0, WatchRow([watch.flows.max(1), watch.words, watch.times.into(), 0]), 0)?;
        let program: &mut SchedClassifier = ebpf.program_mut(PROGRAM).context("no program")?.try_into()?;
        program.load()?;
        let attached = netns
            .run(|| attach(program, interface))?
            .with_context(|| format!("the sink cannot be attached to {interface}"))?;
        let attached = match attached {
            Some(link) => Attached::Link { _link: link },
            None => {
                Attached::Filter { netns: Netns::open_path(netns.path())?, interface: interface.to_owned() }
            }
        };
        Ok(Sink { counts, gaps, latencies, _attached: attached, _ebpf: ebpf })
    }

    pub(crate) fn counts(&self) -> Result<Counts> {
        let mut counts = Counts::default();
        self.counts.get(&0, 0)?.iter().for_each(|row| counts.add(row));
        Ok(counts)
    }

    /// Gaps between frames of one CPU: how many of at least `2^n` ns and below `2^(n+1)`.
    pub(crate) fn gaps(&self) -> Result<Vec<u64>> {
        (0..GAPS).map(|bucket| Ok(self.gaps.get(&bucket, 0)?.iter().sum())).collect()
    }

    /// Times from the generator's stamp to the sink, in ns; each within 0.8 % of what it was.
    pub(crate) fn latencies(&self) -> Result<Histogram<u64>> {
        let mut histogram = Histogram::new(3)?;
        for bucket in 0..LATENCIES {
            let count: u64 = self.latencies.get(&bucket, 0)?.iter().sum();
            // The crate takes a value that came no time for its largest.
            if count > 0 {
                histogram.record_n(middle_of(bucket).max(1), count)?;
            }
        }
        Ok(histogram)
    }
}

/// In the namespace the interface is in. None: a filter that the caller takes off.
fn attach(program: &mut SchedClassifier, interface: &str) -> Result<Option<FdLink>> {
    let link = TcAttachOptions::TcxOrder(LinkOrder::default());
    if let Ok(id) = program.attach_with_options(interface, TcAttachType::Ingress, link) {
        return Ok(Some(program.take_link(id)?.try_into()?));
    }
    let _ = tc::qdisc_add_clsact(interface);
    // Of a sink that was killed.
    let _ = tc::qdisc_detach_program(interface, TcAttachType::Ingress, PROGRAM);
    let options = NlOptions { priority: 1, handle: TcHandle::new(0, 1), ..NlOptions::default() };
    let options = TcAttachOptions::Netlink(options);
    let id = program.attach_with_options(interface, TcAttachType::Ingress, options)?;
    std::mem::forget(program.take_link(id)?);
    Ok(None)
}

/// The middle of a bucket of `latency_bucket` in sink.bpf.c.
fn middle_of(bucket: u32) -> u64 {
    let per_power = 1 << LATENCY_BITS;
    if bucket < 2 * per_power {
        return bucket.into();
    }
    let power = bucket / per_power - 1;
    let lowest = u64::from(bucket - power * per_power) << power;
    lowest + (1 << power) / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the program does it.
    fn bucket_of(ns: u64) -> u32 {
        let power = ns.max(1).ilog2();
        if power < LATENCY_BITS {
            return ns as u32;
        }
        let bucket = ((power - LATENCY_BITS) << LATENCY_BITS) + (ns >> (power - LATENCY_BITS)) as u32;
        bucket.min(LATENCIES - 1)
    }

    #[test]
    fn a_latency_is_told_within_a_hundredth() {
        for ns in (0..200).chain((0..30).flat_map(|n| [(1 << n) + 7, (3 << n) - 1, (1 << n) * 1_000 / 999])) {
            let told = middle_of(bucket_of(ns));
            assert!(ns.abs_diff(told) <= ns / 100, "{ns} is told as {told}");
        }
    }

    #[test]
    fn buckets_follow_each_other_without_a_hole() {
        for bucket in 1..LATENCIES {
            assert!(middle_of(bucket) > middle_of(bucket - 1), "{bucket}");
            assert_eq!(bucket_of(middle_of(bucket)), bucket);
        }
    }

    #[test]
    fn what_is_wrong_or_twice_is_not_good() {
        let counts = Counts { frames: 10, duplicates: 2, wrong_len: 1, altered: 3, ..Counts::default() };
        assert_eq!(counts.good(), 4);
    }
}
