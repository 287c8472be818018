//! Changes to a frame that is forwarded, in place.

use super::bytes::u16_at;
use super::{ETHERNET_LEN, Parsed};

/// Sets the Ethernet addresses. A frame too short to have them is left alone.
#[inline]
pub fn set_macs(frame: &mut [u8], destination: [u8; 6], source: [u8; 6]) {
    if let Some(header) = frame.first_chunk_mut::<ETHERNET_LEN>() {
        header[..6].copy_from_slice(&destination);
        header[6..12].copy_from_slice(&source);
    }
}

/// Takes one from the TTL or hop limit. At 0, and in frames that carry no IP packet, nothing changes: what may still be
/// forwarded is [`Parsed::ttl`]'s question, asked before.
#[inline]
pub fn decrement_ttl(frame: &mut [u8], parsed: &Parsed) {
    let Some(l3) = frame.get_mut(usize::from(parsed.l3_offset)..) else { return };
    match parsed.key.family {
        4 => {
            let Some(header) = l3.first_chunk_mut::<20>() else { return };
            if header[8] > 0 {
                header[8] -= 1;
                // RFC 1141, with the carry as RFC 1624 has it: what the sum covers has lost 0x0100, so the checksum gains it.
                let sum = u32::from(u16_at(header, 10)) + 0x0100;
                let sum = (sum + u32::from(sum >= 0xffff)) as u16;
                header[10..12].copy_from_slice(&sum.to_be_bytes());
            }
        }
        6 => {
            let Some(header) = l3.first_chunk_mut::<40>() else { return };
            header[7] = header[7].saturating_sub(1);
        }
        _ => {}
    }
}
