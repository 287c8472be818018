//! TCP resets for rejected segments.

use super::writer::{Macs, Writer};
use super::{TTL, may_answer};
use crate::packet::parsed::tcp;
use crate::packet::{Fragment, L4, Parsed, Payload};

/// A reset as the destination itself would send it if nobody listened there (RFC 9293, 3.10.7.1).
///
/// `None` for fragments: what a segment acknowledges depends on its whole length.
#[must_use]
pub fn tcp_reset(head: &[u8], parsed: &Parsed, gateway_mac: [u8; 6], out: &mut [u8]) -> Option<usize> {
    let Payload::Flow(L4::Tcp { flags, sequence, acknowledgement, payload_len, .. }) = parsed.payload else {
        return None;
    };
    if !may_answer(parsed) || parsed.fragment != Fragment::Whole {
        return None;
    }
    let controls = u32::from(flags & tcp::SYN != 0) + u32::from(flags & tcp::FIN != 0);
    let segment_len = u32::from(payload_len) + controls;
    // "If the ACK bit is off, sequence number zero is used, <SEQ=0><ACK=SEG.SEQ+SEG.LEN><CTL=RST,ACK>. If the ACK bit is on,
    // <SEQ=SEG.ACK><CTL=RST>."
    let (sequence, acknowledgement, flags) = match flags & tcp::ACK {
        0 => (0, sequence.wrapping_add(segment_len), tcp::RST | tcp::ACK),
        _ => (acknowledgement, 0, tcp::RST),
    };
    let key = parsed.key.reversed();
    let mut segment = [0; 20];
    segment[0..2].copy_from_slice(&key.source_port.to_be_bytes());
    segment[2..4].copy_from_slice(&key.destination_port.to_be_bytes());
    segment[4..8].copy_from_slice(&sequence.to_be_bytes());
    segment[8..12].copy_from_slice(&acknowledgement.to_be_bytes());
    segment[12] = 5 << 4;
    segment[13] = flags;
    let mut frame = Writer::new(out);
    frame.ip(Macs::back(head, gateway_mac), &key, segment.len(), TTL, 0)?;
    frame.put(&segment)?;
    frame.finish(&key, 16)
}
