//! Copies of frames for `penstock capture`. Costs nothing while nobody captures.

use super::mailbox::Capture;
use crate::io::memory::{FrameId, Memory};
use penstock_api::message::CapturedFrame;
use penstock_api::{DropReason, PortId};
use std::sync::atomic::Ordering;
use std::time::{SystemTime, UNIX_EPOCH};

/// Records one frame with what became of it, once for each of its ports that is captured.
#[cold]
pub(super) fn record(
    capture: &Capture,
    memory: &Memory,
    frame: FrameId,
    from: PortId,
    out: PortId,
    verdict: Result<(), DropReason>,
) {
    let wanted = |port| capture.port.is_none_or(|only| only == port);
    let time_ns = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos() as u64);
    for (port, inbound) in [(from, true), (out, false)] {
        if !wanted(port) || (!inbound && verdict.is_err()) {
            continue;
        }
        // Everything is captured: one copy of a frame that passes, as it came in.
        if !inbound && capture.port.is_none() {
            continue;
        }
        let mut bytes = vec![0; memory.len(frame).min(capture.snap_len.into())];
        let len = memory.copy_out(frame, &mut bytes) as u32;
        let verdict = match verdict {
            Ok(()) => "forwarded",
            Err(reason) => reason.name(),
        };
        let frame = CapturedFrame { time_ns, port, inbound, verdict: verdict.to_owned(), len, bytes };
        if capture.frames.push(frame).is_err() {
            capture.missed.fetch_add(1, Ordering::Relaxed);
        }
    }
}
