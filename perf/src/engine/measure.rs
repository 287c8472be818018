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
    Conntrack, Entry, FlowCache, FragmentLimits, FragmentTable, Judged, KeyHasher, NewFlow, Settings, Side,
};
use penstock_vswitch::io::device::{Device, MemoryLink};
use penstock_vswitch::io::memory::Memory;
use penstock_vswitch::io::repeat::{Repeat, Tap};
use penstock_vswitch::packet::checksum::checksum;
use penstock_vswitch::packet::{FlowKey, L4};
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

/// A flow of one frame does not.
const SILENCE_MS: u64 = 60_000;

/// What every frame meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, clap::ValueEnum)]
pub(crate) enum Kind {
    /// The flow cache knows its flow.
    Hit,
    /// Connection tracking knows its flow, the flow cache does not.
    Miss,
    /// Nobody knows its flow: it is the first.
    New,
    /// Connection tracking has forgotten its flow, which was silent for too long; the flow cache has not.
    Back,
    /// Nobody knows its flow, and for every one that is opened another was silent for too long.
    Turnover,
    /// Nobody knows its flow, and connection tracking has no room: the oldest is evicted.
    Full,
}

impl Kind {
    pub(crate) fn words(self) -> &'static str {
        match self {
            Kind::Hit => "hit",
            Kind::Miss => "miss, flow known",
            Kind::New => "new flow",
            Kind::Back => "flow forgotten, still cached",
            Kind::Turnover => "new flow, another ends",
            Kind::Full => "new flow, table full",
        }
    }

    /// Whether every frame opens a flow.
    pub(crate) fn opens(self) -> bool {
        !matches!(self, Kind::Hit | Kind::Miss)
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
        let flows_max = match kind {
            Kind::Full => flows,
            // Half of it are flows that end.
            Kind::Turnover => 2 * flows,
            _ => flows.max(4096),
        };
        let mut conntrack = Conntrack::create(Settings {
            flows_per_port_max: flows_max,
            hasher: hasher.clone(),
            ..Settings::sized(flows_max)
        })?;
        if matches!(kind, Kind::Back | Kind::Turnover | Kind::Full) {
            use_up(&mut conntrack);
        }
        let mut engine = Engine::new(Parts {
            worker: WorkerId(0),
            memory: Memory::private(CHUNKS, CHUNK_SIZE)?,
            devices: vec![
                Device::Repeat(Box::new(repeat)),
                Device::Memory { link: Arc::clone(&opener), area: AreaKind::Copy },
            ],
            direct: Vec::new(),
            conntrack,
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
        if !self.kind.opens() {
            self.pass(self.flows);
        }
        Ok(())
    }

    /// Offers `frames` frames (where each opens a flow, never more than there are flows) and returns how many million went
    /// through per second.
    pub(crate) fn measure(&mut self, frames: u64) -> Result<f64> {
        let frames = self.prepare(frames);
        let known = self.engine.conntrack().len();
        let begin_ms = self.now_ms;
        let before = (self.tap.sent.load(Relaxed), self.hits(), self.counted());
        let time = self.pass(frames);
        let sent = self.tap.sent.load(Relaxed) - before.0;
        let hits = self.hits() - before.1;
        ensure!(sent == frames, "{sent} of {frames} frames left the switch");
        if self.kind.opens() {
            let opened = self.engine.conntrack().iter().filter(|(_, flow)| flow.created_ms() >= begin_ms);
            let (flows, counted) =
                opened.fold((0, 0), |(flows, counted), (_, flow)| (flows + 1, counted + passed(flow)));
            ensure!(
                (flows, counted) == (frames, frames),
                "{frames} frames opened {flows} flows, which counted {counted}"
            );
            let ended = known as u64 + frames - self.engine.conntrack().len() as u64;
            let expected = match self.kind {
                Kind::Full => frames..=frames,
                // A round lets some end though it opened none.
                Kind::Turnover => frames..=frames + 64,
                _ => 0..=0,
            };
            ensure!(expected.contains(&ended), "{ended} flows ended while {frames} were opened");
        } else {
            let counted = self.counted() - before.2;
            ensure!(counted == frames, "flows counted {counted} of {frames} frames");
        }
        let (least, most) = match self.kind {
            // The least used of a set may have been forgotten.
            Kind::Hit => (frames - frames / 20, frames),
            Kind::Miss if self.flows < 100 => (0, frames),
            Kind::Miss => (0, frames / 20),
            _ => (0, 0),
        };
        ensure!((least..=most).contains(&hits), "the flow cache answered {hits} times for {frames} frames");
        Ok(frames as f64 / time.as_secs_f64() / 1e6)
    }

    /// Makes what is known what the kind says. How many of these frames may be offered.
    fn prepare(&mut self, frames: u64) -> u64 {
        if !self.kind.opens() {
            return frames;
        }
        // What is opened from here on is told by its time.
        self.now_ms += 1;
        match self.kind {
            Kind::New | Kind::Back => self.forget_flows(),
            Kind::Turnover => self.now_ms += SILENCE_MS,
            _ => {}
        }
        if self.kind != Kind::Back {
            // Other flows: what the flow cache remembers of one that ended is of no use, but in the way.
            self.tap.shift.store(self.flows.div_ceil(OPEN_PORTS as u64) as u16, Relaxed);
        }
        frames.min(self.flows)
    }

    /// What each stage costs, in nanoseconds per frame, over one more measurement. The clock is read seven times per batch.
    pub(crate) fn stages(&mut self, frames: u64) -> Result<Vec<(String, f64)>> {
        let frames = self.prepare(frames);
        self.engine.measure_stages(true);
        self.pass(frames);
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

    /// Lets all flows end.
    fn forget_flows(&mut self) {
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
        flows.map(|(_, flow)| passed(flow)).sum()
    }
}

/// Frames of a flow.
fn passed(flow: &Entry) -> u64 {
    flow.frames(Side::Forward) + flow.frames(Side::Reply)
}

/// Makes a new table what it is after a while: its free places are in no order.
fn use_up(table: &mut Conntrack) {
    let mut flows = Vec::new();
    for n in 0..table.capacity() {
        let [.., a, b, c] = (n as u32).to_be_bytes();
        let key = FlowKey::new(17, [10, a, b, c].into(), 1, [10, 0, 0, 1].into(), 2);
        let flow = NewFlow {
            key,
            reply_key: key.reversed(),
            source: EndpointId(1),
            destination: EndpointId(2),
            source_port: PortId(1),
            destination_port: PortId(2),
            judged: Judged::NEVER,
            egress_rule: 0,
            ingress_rule: 0,
            l4: L4::Udp,
        };
        flows.extend(table.insert(&flow, 0));
    }
    for n in shuffled(flows.len()) {
        table.remove(flows[n]);
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
