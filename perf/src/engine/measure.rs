//! One pipeline on memory ports and what can be asked of it: hits, misses, new flows, and the memory ports alone.
//!
//! A worker's engine as the switch runs it, stepped by hand. Frames are copied in from a list, and end where they leave
//! ([`Repeat`]); everything between is the product's own. Each measurement is checked before it counts: every frame left, the
//! flow cache answered as often as it should have, and the flows' own counters add up to the frames that were offered.

use anyhow::{Context, Result, bail, ensure};
use penstock_api::artefact::PodKey;
use penstock_api::message::{AreaKind, gateway};
use penstock_api::{EndpointId, PortId, WorkerId};
use penstock_lookup::Policy;
use penstock_vswitch::flow::{
    Conntrack, FlowCache, FragmentLimits, FragmentTable, KeyHasher, Settings, Side,
};
use penstock_vswitch::io::device::{Device, MemoryLink};
use penstock_vswitch::io::memory::Memory;
use penstock_vswitch::io::repeat::{Repeat, Tap};
use penstock_vswitch::packet::checksum::checksum;
use penstock_vswitch::snapshot::{self, PortKind, PortRecord, Snapshot};
use penstock_vswitch::worker::counters::Counters;
use penstock_vswitch::worker::engine::{Engine, Parts};
use penstock_vswitch::worker::handover::Handover;
use penstock_vswitch::worker::mailbox::Mailbox;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

/// Of a frame without the checksum of the wire: 64 bytes with it.
pub(crate) const FRAME_LEN: usize = 60;
/// Destination ports flows are spread over: as many as the least number of rules opens.
const OPEN_PORTS: usize = 512;
const CHUNKS: u32 = 4096;
const CHUNK_SIZE: u32 = 2048;
const SOURCE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const SINK_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
/// Nothing lives this long without packets.
const HOURS_MS: u64 = 4 * 3_600_000;

/// What every frame meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, clap::ValueEnum)]
pub(crate) enum Kind {
    /// The flow cache knows its flow.
    Hit,
    /// Connection tracking knows its flow, the flow cache does not.
    Miss,
    /// Nobody knows its flow: it is the first.
    New,
}

impl Kind {
    pub(crate) fn words(self) -> &'static str {
        match self {
            Kind::Hit => "hit",
            Kind::Miss => "miss, flow known",
            Kind::New => "new flow",
        }
    }
}

/// A policy by the number of its rules.
pub(crate) type Ruled = (usize, Arc<Policy>);

/// A pipeline with its flows, under one of several policies at a time.
///
/// Two policies are compared in one and the same memory: two pipelines differ by some percent without any reason but where
/// their tables happen to lie.
pub(crate) struct Bench {
    engine: Engine,
    kind: Kind,
    flows: u64,
    /// What the pipeline knows under each policy, and under which it is.
    views: Vec<(usize, Arc<Snapshot>)>,
    rules: usize,
    mailbox: Arc<Mailbox>,
    tap: Arc<Tap>,
    /// The time the pipeline is told: it passes while frames do, or flows would end between two measurements.
    now_ms: u64,
}

/// The frame of a flow: UDP from pod to pod, to a port the policy opens.
pub(crate) fn frame(flow: usize, from: [u8; 4], to: [u8; 4]) -> [u8; FRAME_LEN] {
    let mut frame = [0; FRAME_LEN];
    frame[..6].copy_from_slice(&gateway::MAC.0);
    frame[6..12].copy_from_slice(&SOURCE_MAC);
    frame[12..14].copy_from_slice(&[8, 0]);
    let ip = &mut frame[14..34];
    ip[0] = 0x45;
    ip[2..4].copy_from_slice(&(FRAME_LEN as u16 - 14).to_be_bytes());
    ip[6] = 0x40;
    ip[8] = 64;
    ip[9] = 17;
    ip[12..16].copy_from_slice(&from);
    ip[16..20].copy_from_slice(&to);
    let sum = checksum(ip);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    let udp = &mut frame[34..42];
    udp[..2].copy_from_slice(&(1024 + (flow / OPEN_PORTS) as u16).to_be_bytes());
    udp[2..4].copy_from_slice(&(10_000 + 2 * (flow % OPEN_PORTS) as u16).to_be_bytes());
    udp[4..6].copy_from_slice(&(FRAME_LEN as u16 - 34).to_be_bytes());
    frame
}

/// The numbers below `count`, each once, in an order that is the same in every run and has no pattern a table could profit from.
pub(crate) fn shuffled(count: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    for at in (1..count).rev() {
        // xorshift64
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        order.swap(at, (state % (at as u64 + 1)) as usize);
    }
    order
}

impl Bench {
    /// A pipeline under the first of these policies, about the pods `bench/source` and `bench/sink` at these addresses. For hits
    /// and misses all flows are open when this returns, in another order than frames come in.
    pub(crate) fn new(policies: &[Ruled], pods: [[u8; 4]; 2], kind: Kind, flows: usize) -> Result<Bench> {
        let mut views: Vec<(usize, Arc<Snapshot>)> = Vec::new();
        for (rules, policy) in policies {
            // Each follows on the one before, so that no two have a revision in common.
            let before = views.last().map(|(_, view)| view.as_ref());
            views.push((*rules, Arc::new(snapshot(before, policy, pods))));
        }
        let Some((rules, first)) = views.first().cloned() else { bail!("there is no policy to measure") };
        let [from, to] = pods;
        let list: Vec<_> = shuffled(flows).into_iter().map(|flow| frame(flow, from, to)).collect();
        let (repeat, tap) = Repeat::new(list.iter().map(|frame| (PortId(1), frame.as_slice())));
        let opener = Arc::new(MemoryLink::new(256, 2048));
        let mailbox = Arc::new(Mailbox::new()?);
        let hasher = KeyHasher::random();
        let flows_max = flows.max(4096);
        let mut engine = Engine::new(Parts {
            worker: WorkerId(0),
            memory: Memory::private(CHUNKS, CHUNK_SIZE)?,
            devices: vec![
                Device::Repeat(Box::new(repeat)),
                Device::Memory { link: Arc::clone(&opener), area: AreaKind::Copy },
            ],
            direct: Vec::new(),
            conntrack: Conntrack::create(Settings {
                flows_per_port_max: flows_max,
                hasher: hasher.clone(),
                ..Settings::sized(flows_max)
            })?,
            cache: FlowCache::new(if kind == Kind::Miss { 1 } else { 2 * flows_max }),
            fragments: FragmentTable::new(FragmentLimits::default(), hasher),
            snapshot: Arc::new(Snapshot::empty()),
            counters: Arc::new(Counters::new(64)),
            mailbox: Arc::clone(&mailbox),
            handover: Handover::new(vec![Arc::clone(&mailbox)], 1, 2048),
        });
        engine.install(first);
        let mut bench =
            Bench { engine, kind, flows: flows as u64, views, rules, mailbox, tap, now_ms: HOURS_MS };
        if kind != Kind::New {
            for flow in 0..flows {
                while !opener.inject(PortId(1), &frame(flow, from, to)) {
                    bench.engine.round(bench.now_ms);
                }
            }
            while bench.engine.round(bench.now_ms) > 0 {}
            ensure!(
                bench.engine.conntrack().len() == flows,
                "{} of {flows} flows opened",
                bench.engine.conntrack().len()
            );
        }
        Ok(bench)
    }

    /// Puts the pipeline under the policy with so many rules. Flows that are known are judged by it when this returns.
    pub(crate) fn rule(&mut self, rules: usize) -> Result<()> {
        if self.rules == rules {
            return Ok(());
        }
        let view = self.views.iter().find(|(of, _)| *of == rules).map(|(_, view)| Arc::clone(view));
        self.engine.install(view.with_context(|| format!("no policy of {rules} rules was prepared"))?);
        self.mailbox.empty_bin();
        self.rules = rules;
        if self.kind != Kind::New {
            self.pass(self.flows);
        }
        Ok(())
    }

    /// Offers `frames` frames (of new flows never more than there are flows) and returns how many million went through per
    /// second.
    pub(crate) fn measure(&mut self, frames: u64) -> Result<f64> {
        let frames = match self.kind {
            Kind::New => {
                self.forget_flows();
                frames.min(self.flows)
            }
            _ => frames,
        };
        let before = (self.tap.sent.load(Relaxed), self.hits(), self.counted());
        let time = self.pass(frames);
        let sent = self.tap.sent.load(Relaxed) - before.0;
        let hits = self.hits() - before.1;
        let counted = self.counted() - before.2;
        ensure!(sent == frames, "{sent} of {frames} frames left the switch");
        ensure!(counted == frames, "flows counted {counted} of {frames} frames");
        let (least, most) = match self.kind {
            // The least used of a set may have been forgotten.
            Kind::Hit => (frames - frames / 20, frames),
            Kind::Miss if self.flows < 100 => (0, frames),
            Kind::Miss => (0, frames / 20),
            Kind::New => (0, 0),
        };
        ensure!((least..=most).contains(&hits), "the flow cache answered {hits} times for {frames} frames");
        Ok(frames as f64 / time.as_secs_f64() / 1e6)
    }

    /// What each stage costs, in nanoseconds per frame, over one more measurement. The clock is read seven times per batch.
    pub(crate) fn stages(&mut self, frames: u64) -> Result<Vec<(String, f64)>> {
        if self.kind == Kind::New {
            self.forget_flows();
        }
        self.engine.measure_stages(true);
        self.pass(if self.kind == Kind::New { frames.min(self.flows) } else { frames });
        let times = self.engine.measure_stages(false);
        ensure!(times.frames > 0, "no frame was seen");
        let per_frame = |nanos: u64| nanos as f64 / times.frames as f64;
        Ok(times.stages.into_iter().map(|stage| (stage.stage, per_frame(stage.nanos))).collect())
    }

    fn pass(&mut self, frames: u64) -> Duration {
        self.tap.left.store(frames, Relaxed);
        let begin = Instant::now();
        loop {
            // As the worker's thread does: the clock once per round.
            let now = Instant::now();
            let ms = now.duration_since(begin).as_millis() as u64;
            if self.engine.round(self.now_ms + ms) == 0 {
                self.now_ms += ms;
                return now - begin;
            }
        }
    }

    /// Forgets all flows, and makes the next ones others: what the flow cache remembers of a flow that ended is of no use, but in
    /// the way.
    fn forget_flows(&mut self) {
        self.tap.shift.store(self.flows.div_ceil(OPEN_PORTS as u64) as u16, Relaxed);
        self.now_ms += HOURS_MS;
        self.engine.round(self.now_ms);
        while !self.engine.conntrack().is_empty() {
            self.now_ms += 1;
            self.engine.round(self.now_ms);
        }
    }

    fn hits(&self) -> u64 {
        self.engine.counters().cache_hits.get()
    }

    /// What the flows themselves have counted.
    fn counted(&self) -> u64 {
        let flows = self.engine.conntrack().iter();
        flows.map(|(_, entry)| entry.frames(Side::Forward) + entry.frames(Side::Reply)).sum()
    }
}

fn snapshot(before: Option<&Snapshot>, policy: &Arc<Policy>, pods: [[u8; 4]; 2]) -> Snapshot {
    let pod = |n: u16, name: &str, mac| PortRecord {
        id: PortId(n),
        kind: PortKind::Pod,
        endpoint: EndpointId(n.into()),
        pod: Some(PodKey::new("bench", name)),
        mac,
        addresses: vec![IpAddr::from(pods[usize::from(n) - 1])],
        mtu: 1500,
        device: 0,
    };
    let parts = snapshot::Parts {
        policy: Arc::clone(policy),
        ports: vec![pod(1, "source", SOURCE_MAC), pod(2, "sink", SINK_MAC)],
        host_addresses: Vec::new(),
        pod_ranges: Vec::new(),
    };
    Snapshot::build(before, parts)
}

/// The memory ports alone: frames copied in from a list of `flows`, a batch at a time, and let go. Million frames a second.
pub(crate) fn bare(flows: usize, frames: u64) -> Result<f64> {
    let list: Vec<_> = shuffled(flows).into_iter().map(|flow| frame(flow, [0; 4], [0; 4])).collect();
    let (repeat, tap) = Repeat::new(list.iter().map(|frame| (PortId(1), frame.as_slice())));
    let mut device = Device::Repeat(Box::new(repeat));
    let mut memory = Memory::private(CHUNKS, CHUNK_SIZE)?;
    let (mut scratch, mut received) = (Vec::with_capacity(256), Vec::with_capacity(256));
    tap.left.store(frames, Relaxed);
    let begin = Instant::now();
    loop {
        device.receive(&mut memory, &mut scratch, &mut received);
        if received.is_empty() {
            break;
        }
        for frame in received.drain(..) {
            device.transmit(&mut memory, frame.frame, PortId(2));
        }
        device.flush(&mut memory, false);
    }
    let time = begin.elapsed();
    ensure!(tap.sent.load(Relaxed) == frames, "not every frame came through the memory ports");
    Ok(frames as f64 / time.as_secs_f64() / 1e6)
}
