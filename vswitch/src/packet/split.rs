//! Splitting an IPv4 packet that may be fragmented into pieces that fit the MTU it meets.
//!
//! Only headers are made here: a jumbo frame lies in several buffers, and the caller knows where. For each [`Piece`] the
//! caller writes its header into a buffer and copies the piece's bytes of the old frame behind it.

use super::bytes::{array, u16_at};
use super::checksum::checksum;
use super::{ETHERNET_LEN, Parsed};

const IP_HEADER_LEN: usize = 20;
/// Bytes of a piece before its data.
pub const PIECE_HEADER_LEN: usize = ETHERNET_LEN + IP_HEADER_LEN;
const MORE_FRAGMENTS: u16 = 0x2000;
/// RFC 791: what every link must carry.
const MTU_MIN: u16 = 68;

/// One fragment to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// What the fragment's frame begins with, up to the IP header's end, checksum included.
    pub header: [u8; PIECE_HEADER_LEN],
    /// Where its data begin in the old frame, in bytes.
    pub data_at: usize,
    pub data_len: usize,
}

impl Piece {
    /// The length of the fragment's frame in bytes.
    #[must_use]
    pub fn frame_len(&self) -> usize {
        PIECE_HEADER_LEN + self.data_len
    }

    /// Writes the fragment's frame when the old one lies in one buffer. `None` when it does not, or `out` is too small.
    #[must_use]
    pub fn write(&self, frame: &[u8], out: &mut [u8]) -> Option<usize> {
        let data = frame.get(self.data_at..self.data_at + self.data_len)?;
        let out = out.get_mut(..self.frame_len())?;
        let (header, behind) = out.split_first_chunk_mut()?;
        *header = self.header;
        behind.copy_from_slice(data);
        Some(self.frame_len())
    }
}

/// The fragments of a packet, in order.
#[derive(Clone, Debug)]
pub struct Pieces {
    header: [u8; PIECE_HEADER_LEN],
    /// Where the old packet's data begin and end in its frame.
    data: std::ops::Range<usize>,
    at: usize,
    /// Data of each piece but the last, a multiple of eight.
    step: usize,
}

/// The fragments an IPv4 packet must be split into to fit `mtu` (of the IP packet, in bytes). Their headers are copies of
/// `head`'s: MACs and TTL are set before. A packet that is a fragment itself is split further.
///
/// `None` when it fits as it is, must not be fragmented, or is not IPv4.
#[must_use]
pub fn split_ipv4(head: &[u8], parsed: &Parsed, mtu: u16) -> Option<Pieces> {
    if parsed.key.family != 4 || parsed.dont_fragment || parsed.ip_len <= mtu || mtu < MTU_MIN {
        return None;
    }
    Some(Pieces {
        header: *array(head, 0)?,
        data: PIECE_HEADER_LEN..ETHERNET_LEN + usize::from(parsed.ip_len),
        at: PIECE_HEADER_LEN,
        step: (usize::from(mtu) - IP_HEADER_LEN) & !7,
    })
}

impl Iterator for Pieces {
    type Item = Piece;

    fn next(&mut self) -> Option<Piece> {
        let left = self.data.end.checked_sub(self.at).filter(|left| *left > 0)?;
        let data_len = left.min(self.step);
        let mut header = self.header;
        let flags = u16_at(&header, ETHERNET_LEN + 6);
        let is_last = data_len == left;
        // The old packet may be a fragment: its offset is added, and its last piece is followed by what followed it.
        let more = if is_last { flags & MORE_FRAGMENTS } else { MORE_FRAGMENTS };
        let offset = (flags & 0x1fff) + ((self.at - self.data.start) / 8) as u16;
        let (_, ip) = header.split_at_mut(ETHERNET_LEN);
        ip[2..4].copy_from_slice(&((IP_HEADER_LEN + data_len) as u16).to_be_bytes());
        ip[6..8].copy_from_slice(&(more | offset).to_be_bytes());
        ip[10..12].fill(0);
        let sum = checksum(ip);
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
        let piece = Piece { header, data_at: self.at, data_len };
        self.at += data_len;
        Some(piece)
    }
}
