//! The frame both ends of a load agree on: a UDP packet over IPv4 (without UDP checksum, which IPv4 allows) that says of itself
//! what a sink has to know.
//!
//! ```text
//!  at 42  magic | check | flow | sequence within the flow | sent at, ns (48 bits), of the clock eBPF programs read
//!  at 60  the fill: a word for each place, to the end
//! ```
//!
//! The check covers flow, sequence, time and length; the flow is in the ports as well. So a frame that was cut, changed, or sent
//! to another's port is noticed, and every number the sink believes is the generator's. bpf/load.h says the same in C.

use super::flows;
use std::net::Ipv4Addr;

pub(crate) const ETHERNET_LEN: usize = 14;
/// Ethernet, IPv4, UDP.
pub(crate) const HEADERS_LEN: usize = 42;
const FILL_AT: usize = 60;
const MAGIC: u16 = 0x5053;
const TIME_MASK: u64 = (1 << 48) - 1;

/// Whose frames these are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Headers {
    pub(crate) next_hop: [u8; 6],
    pub(crate) source_mac: [u8; 6],
    pub(crate) source: Ipv4Addr,
    pub(crate) destination: Ipv4Addr,
}

impl Headers {
    /// Headers of a frame of `len` bytes. Ports are [`mark`]'s to write.
    pub(crate) fn bytes(&self, len: u16) -> [u8; HEADERS_LEN] {
        let mut headers = [0; HEADERS_LEN];
        headers[..6].copy_from_slice(&self.next_hop);
        headers[6..12].copy_from_slice(&self.source_mac);
        headers[12..14].copy_from_slice(&[0x08, 0x00]);
        let ip = &mut headers[14..34];
        ip[0] = 0x45;
        ip[2..4].copy_from_slice(&(len - ETHERNET_LEN as u16).to_be_bytes());
        ip[6] = 0x40; // do not fragment
        ip[8] = 64;
        ip[9] = 17;
        ip[12..16].copy_from_slice(&self.source.octets());
        ip[16..20].copy_from_slice(&self.destination.octets());
        let mut sum: u32 = ip.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        ip[10..12].copy_from_slice(&(!(sum as u16)).to_be_bytes());
        headers[38..40].copy_from_slice(&(len - 34).to_be_bytes());
        headers
    }

    /// A whole frame; what [`mark`] writes is missing.
    pub(crate) fn frame(&self, len: u16) -> Vec<u8> {
        let mut frame = vec![0; usize::from(len)];
        frame[..HEADERS_LEN].copy_from_slice(&self.bytes(len));
        for (index, word) in frame[FILL_AT..].chunks_mut(8).enumerate() {
            let bytes = (index as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes();
            word.copy_from_slice(&bytes[..word.len()]);
        }
        frame
    }
}

/// Writes who it is into a frame of `len` bytes; `frame` is at least its first 60.
pub(crate) fn mark(frame: &mut [u8], len: u16, flow: u32, sequence: u32, now_ns: u64) {
    let time = now_ns & TIME_MASK;
    let (source, destination) = flows::ports(flow);
    frame[34..36].copy_from_slice(&source.to_be_bytes());
    frame[36..38].copy_from_slice(&destination.to_be_bytes());
    frame[42..44].copy_from_slice(&MAGIC.to_le_bytes());
    frame[44..46].copy_from_slice(&check_of(flow, sequence, time, len).to_le_bytes());
    frame[46..50].copy_from_slice(&flow.to_le_bytes());
    frame[50..54].copy_from_slice(&sequence.to_le_bytes());
    frame[54..60].copy_from_slice(&time.to_le_bytes()[..6]);
}

fn check_of(flow: u32, sequence: u32, time: u64, len: u16) -> u16 {
    let mut x = (u64::from(flow) << 32 | u64::from(sequence)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x ^= (time << 16 | u64::from(len)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    x ^= x >> 32;
    (x ^ x >> 16) as u16
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) const HEADERS: Headers = Headers {
        next_hop: [2; 6],
        source_mac: [4; 6],
        source: Ipv4Addr::new(192, 0, 2, 1),
        destination: Ipv4Addr::new(192, 0, 2, 2),
    };

    #[test]
    fn a_frame_has_a_good_header_checksum_and_the_lengths_it_says() {
        for len in [60u16, 61, 1514, 8996] {
            let frame = HEADERS.frame(len);
            assert_eq!(frame.len(), usize::from(len));
            let sum: u32 =
                frame[14..34].chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
            assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff);
            assert_eq!(u16::from_be_bytes([frame[16], frame[17]]), len - 14);
            assert_eq!(u16::from_be_bytes([frame[38], frame[39]]), len - 34);
        }
    }

    #[test]
    fn every_byte_of_a_mark_changes_its_check() {
        let check = check_of(7, 1000, 123_456_789, 60);
        for (flow, sequence, time, len) in [
            (6, 1000, 123_456_789, 60),
            (7, 1001, 123_456_789, 60),
            (7, 1000, 123_456_790, 60),
            (7, 1000, 123_456_789, 61),
        ] {
            assert_ne!(check_of(flow, sequence, time, len), check);
        }
    }
}
