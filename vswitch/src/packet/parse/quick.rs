//! The packets that nearly all are, read without a detour: whole TCP or UDP over IP without options, between ordinary addresses.
//!
//! [`super::parse`] moves what it finds through several results, in pieces of one size that are read in another; for the
//! processor each is a wait. Here everything stays in registers until it is stored where it belongs. Promise: an answer is
//! the one [`super::parse`] gives, and it is asked about everything that has no answer here, whatever the reason. A test holds
//! one against the other.

use super::{ETHERNET_LEN, ethertype};
use crate::packet::bytes::{array, field, u16_at, u32_at};
use crate::packet::parsed::tcp;
use crate::packet::{FlowKey, Fragment, L4, Parsed, Payload};
use penstock_api::artefact::protocol;
use penstock_api::message::gateway;

/// What is known of such a packet.
#[derive(Clone, Copy, Debug)]
pub struct Quick {
    /// Of the key, as [`FlowKey::words`] gives them.
    pub words: [u64; 5],
    l4: [u32; 4],
    is_tcp: bool,
    l4_offset: u16,
    ip_len: u16,
    ttl: u8,
    dont_fragment: bool,
}

impl Quick {
    /// Stores it where packets are kept.
    #[inline(always)]
    pub fn store(&self, parsed: &mut Parsed) {
        parsed.key = FlowKey::of_words(&self.words);
        parsed.l3_offset = ETHERNET_LEN as u16;
        parsed.l4_offset = self.l4_offset;
        parsed.ip_len = self.ip_len;
        parsed.ttl = self.ttl;
        parsed.dont_fragment = self.dont_fragment;
        parsed.fragment = Fragment::Whole;
        if self.is_tcp {
            let [sequence, acknowledgement, flags_and_window, payload_len] = self.l4;
            parsed.payload = Payload::Flow(L4::Tcp {
                flags: (flags_and_window >> 16) as u8,
                sequence,
                acknowledgement,
                window: flags_and_window as u16,
                payload_len: payload_len as u16,
            });
        } else {
            parsed.payload = Payload::Flow(L4::Udp);
        }
    }
}

/// As [`super::parse`], for packets it has nothing against and this has the patience for.
#[inline(always)]
pub fn quick(head: &[u8], frame_len: usize) -> Option<Quick> {
    let head = head.get(..frame_len).unwrap_or(head);
    let ethernet: &[u8; ETHERNET_LEN] = array(head, 0)?;
    let l3_len = frame_len - ETHERNET_LEN;
    match u16_at(ethernet, 12) {
        ethertype::IPV4 => {
            let header: &[u8; 20] = array(head, ETHERNET_LEN)?;
            let (ip_len, flags) = (u16_at(header, 2), u16_at(header, 6));
            // Neither options, nor a fragment, nor the reserved bit.
            if header[0] != 0x45 || flags & !0x4000 != 0 || usize::from(ip_len) > l3_len {
                return None;
            }
            // Ones' complement sums do not mind the order of bytes.
            let native = |at| u64::from(u32::from_ne_bytes(field(header, at)));
            let sum = native(0) + native(4) + native(8) + native(12) + native(16);
            let sum = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32);
            if ((sum & 0xffff) + (sum >> 16)) != 0xffff {
                return None;
            }
            let (source, destination) = (u32_at(header, 12), u32_at(header, 16));
            if !is_plain_v4(source) || !is_plain_v4(destination) || source == destination {
                return None;
            }
            let mapped = |address: u32| u64::from(address.swap_bytes()) << 32 | 0xffff_0000;
            let found = Found {
                addresses: [0, mapped(source), 0, mapped(destination)].map(u64::to_le),
                family: 4,
                protocol: header[9],
                l4_offset: ETHERNET_LEN + 20,
                l4_len: usize::from(ip_len).checked_sub(20)?,
                ip_len,
                ttl: header[8],
                dont_fragment: flags & 0x4000 != 0,
            };
            transport(head, found)
        }
        ethertype::IPV6 => {
            let header: &[u8; 40] = array(head, ETHERNET_LEN)?;
            let payload_len = u16_at(header, 4);
            if header[0] >> 4 != 6 || payload_len == 0 || usize::from(payload_len) + 40 > l3_len {
                return None;
            }
            let word = |at| u64::from_ne_bytes(field(header, at));
            let addresses = [word(8), word(16), word(24), word(32)];
            let [a, b, c, d] = addresses;
            if !is_plain_v6(a) || !is_plain_v6(c) || (a == c && b == d) {
                return None;
            }
            let found = Found {
                addresses,
                family: 6,
                protocol: header[6],
                l4_offset: ETHERNET_LEN + 40,
                l4_len: payload_len.into(),
                ip_len: payload_len.checked_add(40)?,
                ttl: header[7],
                dont_fragment: true,
            };
            transport(head, found)
        }
        _ => None,
    }
}

/// An IP header's part.
struct Found {
    addresses: [u64; 4],
    family: u8,
    protocol: u8,
    l4_offset: usize,
    l4_len: usize,
    ip_len: u16,
    ttl: u8,
    dont_fragment: bool,
}

#[inline(always)]
fn transport(head: &[u8], ip: Found) -> Option<Quick> {
    let (ports, l4, is_tcp) = match ip.protocol {
        protocol::UDP => {
            let header: &[u8; 8] = array(head, ip.l4_offset)?;
            let len = usize::from(u16_at(header, 4));
            let client_port = if ip.family == 4 { 68 } else { 546 };
            if len < 8 || len > ip.l4_len || u16_at(header, 2) == client_port {
                return None;
            }
            (u32_at(header, 0), [0; 4], false)
        }
        protocol::TCP => {
            let header: &[u8; 20] = array(head, ip.l4_offset)?;
            let header_len = usize::from(header[12] >> 4) * 4;
            let flags = header[13];
            let opens_and_closes = flags & tcp::SYN != 0 && flags & (tcp::FIN | tcp::RST) != 0;
            let says_nothing = flags & (tcp::FIN | tcp::SYN | tcp::RST | tcp::PSH | tcp::ACK | tcp::URG) == 0;
            if header_len < 20 || header_len > ip.l4_len || opens_and_closes || says_nothing {
                return None;
            }
            let payload_len = (ip.l4_len - header_len) as u32;
            let flags_and_window = u32::from(flags) << 16 | u32::from(u16_at(header, 14));
            (u32_at(header, 0), [u32_at(header, 4), u32_at(header, 8), flags_and_window, payload_len], true)
        }
        _ => return None,
    };
    let (source_port, destination_port) = (ports >> 16, ports & 0xffff);
    if source_port == 0 || destination_port == 0 {
        return None;
    }
    let [a, b, c, d] = ip.addresses;
    let rest = u64::from(source_port)
        | u64::from(destination_port) << 16
        | u64::from(ip.protocol) << 32
        | u64::from(ip.family) << 40;
    Some(Quick {
        words: [a, b, c, d, rest],
        l4,
        is_tcp,
        l4_offset: ip.l4_offset as u16,
        ip_len: ip.ip_len,
        ttl: ip.ttl,
        dont_fragment: ip.dont_fragment,
    })
}

/// An address of one node, in the order of the host: neither 0/8, 127/8, 169.254/16, nor from 224 up.
#[inline(always)]
fn is_plain_v4(address: u32) -> bool {
    const GATEWAY: u32 = gateway::V4.to_bits();
    const _: () = assert!(GATEWAY >> 16 == 0xa9fe, "the gateway is link-local, so it is not plain");
    let first = address >> 24;
    first.wrapping_sub(1) < 223 && first != 127 && address >> 16 != 0xa9fe
}

/// Neither multicast, link-local, site-local nor anything that begins with zeros.
#[inline(always)]
fn is_plain_v6(first_half: u64) -> bool {
    let high = u64::from_be(first_half);
    const _: () =
        assert!(gateway::V6.to_bits() >> 118 == 0x3fa, "the gateway is link-local, so it is not plain");
    high != 0 && high >> 56 != 0xff && high >> 55 != 0x1fd
}
