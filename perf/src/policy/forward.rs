//! The whole pipeline on memory ports, connection tracking on: a mix of cached flows, and a new flow with every frame, with
//! no policy and with many rules. What is timed are the worker's rounds; putting frames in and taking them out is not.

use super::{beside, compile};
use crate::figures::{Bound, Document, Figure};
use crate::progress::Progress;
use anyhow::{Result, ensure};
use etherparse::PacketBuilder;
use penstock_api::PortId;
use penstock_api::artefact::PodKey;
use penstock_api::message::gateway;
use penstock_vswitch::rig::{Rig, Sizes};
use std::net::IpAddr;
use std::time::Instant;

const RULES: usize = 10_000;
const FLOWS: usize = 1_000;
/// Of one round.
const FRAMES: usize = 500_000;
const BURST: usize = 256;
const NEW_FLOWS: usize = 60_000;
const SOURCE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

pub(super) fn measure(rounds: usize, document: &mut Document, progress: &mut Progress) -> Result<()> {
    let (mut none, mut many) = (Switch::new(0)?, Switch::new(RULES)?);
    let (mut cached, mut new) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
    for _ in 0..rounds {
        progress.step("forwarding from memory")?;
        for (n, switch) in [&mut none, &mut many].into_iter().enumerate() {
            cached[n].push(switch.cached()?);
            new[n].push(switch.new_flows()?);
        }
    }
    let pair = |name: &str, [none, many]: [Vec<f64>; 2]| {
        [(RULES, many), (0, none)].map(|(rules, rates)| Figure::of(name, "Mpps", rates).at("rules", rules))
    };
    let known = format!("pipeline on memory, {FLOWS} cached flows");
    beside(document, pair(&known, cached), Some(Bound::AtLeast(0.95)));
    beside(document, pair("pipeline on memory, a new flow with every frame", new), None);
    Ok(())
}

struct Switch {
    rig: Rig,
    source: PortId,
    cached: Vec<Vec<u8>>,
    next: usize,
}

impl Switch {
    fn new(rules: usize) -> Result<Switch> {
        let mut rig = Rig::with(&Sizes {
            chunks: 4096,
            ring_slots: 2 * BURST,
            flows_max: 131_072,
            flows_per_port_max: 131_072,
            cache_entries: 131_072,
            ..Sizes::default()
        });
        let [source, sink] = [0u8, 1].map(|n| compile::pair_address(n.into()));
        rig.install(compile::pair(rules)?);
        let port = rig.attach(PodKey::new("bench", "source"), SOURCE_MAC, &[source], 1500);
        rig.attach(PodKey::new("bench", "sink"), [2, 0, 0, 0, 0, 2], &[sink], 1500);
        let cached = (0..FLOWS).map(|n| frame(source, sink, 1024 + n as u16)).collect();
        let mut switch = Switch { rig, source: port, cached, next: 0 };
        switch.cached()?;
        Ok(switch)
    }

    /// Million frames a second of flows that are known.
    fn cached(&mut self) -> Result<f64> {
        let frames = std::mem::take(&mut self.cached);
        let result = self.send(FRAMES, |n| frames[n % FLOWS].clone());
        self.cached = frames;
        result
    }

    /// Million frames a second, each of a flow nobody has seen.
    fn new_flows(&mut self) -> Result<f64> {
        let [source, sink] = [0, 1].map(compile::pair_address);
        // Other ports than those of the cached mix; what an earlier round left is forgotten by then.
        self.rig.pass(3_600_000);
        for _ in 0..2 * NEW_FLOWS / 32 {
            self.rig.pass(1);
        }
        self.next += 1;
        self.send(NEW_FLOWS, |n| frame(source, sink, 4096 + (n % 60_000) as u16))
    }

    fn send(&mut self, count: usize, frame: impl Fn(usize) -> Vec<u8>) -> Result<f64> {
        let mut delivered = Vec::with_capacity(BURST);
        let (mut seconds, mut arrived) = (0.0, 0);
        for burst in 0..count.div_ceil(BURST) {
            for n in 0..BURST {
                self.rig.send_to(0, self.source, &frame(burst * BURST + n));
            }
            let begin = Instant::now();
            self.rig.settle();
            seconds += begin.elapsed().as_secs_f64();
            delivered.clear();
            self.rig.collect(&mut delivered);
            arrived += delivered.len();
        }
        let sent = count.div_ceil(BURST) * BURST;
        ensure!(arrived == sent, "{arrived} of {sent} frames arrived: {:?}", self.rig.all_drops());
        Ok(sent as f64 / seconds / 1e6)
    }
}

/// 64 bytes with a wire's checksum, to the port the policy's first rule opens.
fn frame(from: IpAddr, to: IpAddr, port: u16) -> Vec<u8> {
    let (IpAddr::V4(from), IpAddr::V4(to)) = (from, to) else { unreachable!("pairs are IPv4") };
    let mut frame = Vec::with_capacity(64);
    PacketBuilder::ethernet2(SOURCE_MAC, gateway::MAC.0)
        .ipv4(from.octets(), to.octets(), 64)
        .udp(port, crate::load::DESTINATION_PORT)
        .write(&mut frame, &[0; 18])
        .expect("writing to memory");
    frame
}
