//! From bytes to [`Parsed`]: one look, in one order, a reason for every refusal.
//!
//! ```text
//! Ethernet -> ARP ------------------------------------------------------> neighbour
//!         `-> IPv4, IPv6 -> extension -> transport | icmp -> (quote, ND) -> scope
//! ```
//!
//! Structure first (can it be read at all?), then what it carries, then whether these addresses may speak to each other:
//! a router advertisement to everyone is a [`DropReason::RouterMessage`] rather than one more multicast.
//!
//! Own reading of bytes rather than smoltcp's views: see [`super::bytes`]. Destination MACs are not looked at, since the
//! kernel programs keep their tags there; source MACs and addresses are compared with the port's own by the pipeline.

mod extension;
mod icmp;
mod ipv4;
mod ipv6;
mod neighbour;
mod quick;
mod scope;
mod transport;

pub use quick::{Quick, quick};

use super::bytes::array;
use super::{DropReason, FlowKey, Fragment, Parsed, Payload};

/// Length of the Ethernet header in bytes: where the IP header begins.
pub const ETHERNET_LEN: usize = 14;

/// What [`parse`] wants to see of a frame at least, in bytes; shorter frames whole.
pub const HEAD_LEN_MIN: usize = 1024;

pub(super) mod ethertype {
    pub(in crate::packet) const IPV4: u16 = 0x0800;
    pub(in crate::packet) const ARP: u16 = 0x0806;
    pub(in crate::packet) const RARP: u16 = 0x8035;
    pub(in crate::packet) const IPV6: u16 = 0x86dd;
    /// 802.1Q, 802.1ad, and the number QinQ had before it was a standard.
    pub(in crate::packet) const VLAN: [u16; 3] = [0x8100, 0x88a8, 0x9100];
}

/// Reads the headers of a frame.
///
/// `head` is the contiguous beginning of the frame: all of it, or [`HEAD_LEN_MIN`] bytes at least. `frame_len` is the
/// length of the whole frame, which may go on in other buffers.
///
/// # Errors
/// The reason the frame must be dropped for.
#[inline]
pub fn parse(head: &[u8], frame_len: usize) -> Result<Parsed, DropReason> {
    let head = head.get(..frame_len).unwrap_or(head);
    let ethernet: &[u8; ETHERNET_LEN] = array(head, 0).ok_or(DropReason::Truncated)?;
    let (_, l3) = head.split_at(ETHERNET_LEN);
    let l3_len = frame_len - ETHERNET_LEN;
    match u16::from_be_bytes([ethernet[12], ethernet[13]]) {
        ethertype::IPV4 => ipv4::parse(l3, l3_len),
        ethertype::IPV6 => ipv6::parse(ethernet, l3, l3_len),
        other => rare(other, ethernet, l3),
    }
}

#[cold]
fn rare(ethertype: u16, ethernet: &[u8; ETHERNET_LEN], l3: &[u8]) -> Result<Parsed, DropReason> {
    match ethertype {
        ethertype::ARP => neighbour::arp(ethernet, l3),
        ethertype::RARP => Err(DropReason::NeighbourMessage),
        tag if ethertype::VLAN.contains(&tag) => Err(DropReason::VlanTagged),
        // Below 0x600 it is a length and an LLC header follows; behind it could be anything (CVE-2021-27853).
        _ => Err(DropReason::UnknownEtherType),
    }
}

/// The Ethernet source of a frame; zeros when the frame is too short to have one.
#[must_use]
pub fn source_mac(head: &[u8]) -> [u8; 6] {
    array(head, 6).copied().unwrap_or_default()
}

/// The Ethernet destination of a frame; zeros when the frame is too short to have one. On a trunk this is a tag.
#[must_use]
pub fn destination_mac(head: &[u8]) -> [u8; 6] {
    array(head, 0).copied().unwrap_or_default()
}

/// What an IP packet carries behind its headers.
#[derive(Clone, Copy)]
struct Segment<'a> {
    /// What of it is in the head of the frame.
    visible: &'a [u8],
    /// Its length in bytes by the IP header. Never less than `visible` holds.
    len: usize,
    /// Only the beginning of the L4 message is here: [`Fragment::First`].
    is_first_fragment: bool,
}

impl<'a> Segment<'a> {
    /// The first `N` bytes, which the protocol says must be there.
    #[inline]
    fn header<const N: usize>(&self) -> Result<&'a [u8; N], DropReason> {
        self.visible.first_chunk().ok_or_else(|| self.too_short(N))
    }

    /// RFC 8200, 4.5 and RFC 1858: a first fragment without the whole L4 header hides what it is.
    #[cold]
    fn too_short(&self, needed: usize) -> DropReason {
        match (self.is_first_fragment, self.len < needed) {
            (true, true) => DropReason::FragmentBad,
            (false, true) => DropReason::BadL4Header,
            // The packet has the bytes, the caller's head has not.
            (_, false) => DropReason::Truncated,
        }
    }
}

/// Smallest legal offset of a later fragment, in bytes. The first fragment holds the whole fixed L4 header and its length
/// is a multiple of eight, so anything that begins earlier overwrites that header (RFC 3128).
fn later_offset_min(protocol: u8) -> u16 {
    use penstock_api::artefact::protocol;
    match protocol {
        protocol::TCP => 24,
        protocol::SCTP => 16,
        _ => 8,
    }
}

/// Checks one fragment's place in its datagram. `len` is that of its data.
fn check_fragment(
    protocol: u8,
    offset: u16,
    more: bool,
    len: usize,
    datagram_max: usize,
) -> Result<(), DropReason> {
    let is_sane = len > 0
        && (!more || len.is_multiple_of(8))
        && usize::from(offset) + len <= datagram_max
        && (offset == 0 || offset >= later_offset_min(protocol));
    if is_sane { Ok(()) } else { Err(DropReason::FragmentBad) }
}
