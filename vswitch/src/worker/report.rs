//! What a worker tells when it is asked: its flows, and where its frames are.

use super::engine::Engine;
use crate::flow::Side;
use crate::io::device::Device;
use crate::io::memory::{FrameId, Memory};
use crate::io::xsk::Xsk;
use penstock_api::message::{AreaKind, FlowStatus, FrameCensus};

/// Up to `limit` flows, most recently seen first, and how many there are.
pub(super) fn flows(engine: &Engine, limit: usize) -> (Vec<FlowStatus>, usize) {
    let conntrack = engine.conntrack();
    let now_ms = super::run::monotonic_ms();
    let mut entries: Vec<_> = conntrack.iter().map(|(_, entry)| entry).collect();
    entries.sort_by_key(|entry| std::cmp::Reverse(entry.last_seen_ms()));
    let flows = entries
        .into_iter()
        .take(limit)
        .map(|entry| {
            let key = entry.key();
            FlowStatus {
                worker: engine.worker(),
                protocol: key.protocol,
                source: key.source_address(),
                source_port: key.source_port,
                destination: key.destination_address(),
                destination_port: key.destination_port,
                state: entry.state().name().to_owned(),
                source_pod: engine.snapshot().port(entry.source_port()).and_then(|port| port.pod.clone()),
                destination_pod: engine
                    .snapshot()
                    .port(entry.destination_port())
                    .and_then(|port| port.pod.clone()),
                generation: engine.snapshot().generation(),
                idle_ms: now_ms.saturating_sub(entry.last_seen_ms()),
                forward_frames: entry.frames(Side::Forward),
                forward_bytes: entry.bytes(Side::Forward),
                reply_frames: entry.frames(Side::Reply),
                reply_bytes: entry.bytes(Side::Reply),
            }
        })
        .collect();
    (flows, conntrack.len())
}

/// Counts every chunk of every area by the book, and holds the book against the free lists, the rings and the fragment table.
pub(super) fn census(engine: &Engine) -> Vec<FrameCensus> {
    let memory = engine.memory();
    memory.kinds().map(|kind| area_census(engine, memory, kind)).collect()
}

fn area_census(engine: &Engine, memory: &Memory, kind: AreaKind) -> FrameCensus {
    let ([free, hand, receiving, transmitting, held], mut wrong) = memory.count(kind);
    let rings = |count: fn(&Xsk) -> usize| -> usize {
        engine.devices().iter().filter_map(Device::xsk).filter(|xsk| xsk.area() == kind).map(count).sum()
    };
    let held_chunks: usize = engine
        .fragments()
        .held()
        .map(FrameId)
        .filter(|frame| memory.kind_of(*frame) == kind)
        .map(|frame| memory.segments(frame).count())
        .sum();
    // Between two rounds nothing is in hand, and the rings' own counts agree with the book.
    let agrees = hand == 0
        && receiving == rings(Xsk::receiving)
        && transmitting == rings(Xsk::outstanding)
        && held == held_chunks;
    if !agrees {
        wrong.push(u64::MAX);
    }
    FrameCensus {
        worker: engine.worker(),
        area: kind,
        total: memory.chunks(kind),
        free,
        receiving,
        transmitting,
        held,
        lent: 0,
        wrong,
    }
}
