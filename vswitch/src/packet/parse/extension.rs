//! IPv6 extension headers, walked to the true L4 protocol.
//!
//! Bounded in headers and in bytes, so a chain costs no more than a fixed number of steps; what cannot be walked is
//! refused, because a policy about ports can say nothing about it. Unknown protocol numbers end the chain: only a rule
//! for every protocol can let them pass.

use crate::packet::DropReason;
use crate::packet::bytes::{array, u16_at, u32_at};

pub(super) const NO_NEXT_HEADER: u8 = 59;
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION_OPTIONS: u8 = 60;

/// More headers than this are refused. RFC 8200, 4.1 knows seven, destination options twice.
pub(super) const HEADERS_MAX: usize = 8;
/// More bytes of headers than this are refused (RFC 8883 lets a node set such a limit).
pub(super) const CHAIN_LEN_MAX: usize = 256;

/// Where a chain ends.
#[derive(Clone, Copy)]
pub(super) struct Chain {
    /// The L4 protocol. Of a later fragment, what its fragment header says comes next.
    pub(super) protocol: u8,
    /// Length of the chain: where the L4 header (or a later fragment's data) begins behind the IPv6 header.
    pub(super) l4: usize,
    pub(super) fragment: Option<FragmentHeader>,
}

#[derive(Clone, Copy)]
pub(super) struct FragmentHeader {
    pub(super) id: u32,
    /// In bytes.
    pub(super) offset: u16,
    pub(super) more: bool,
    /// Where the fragment's data begin behind the IPv6 header.
    pub(super) data: usize,
}

/// Walks the chain that begins with a header of type `next` in `visible`, of which the packet has `len` bytes.
/// `l4` and `data` of what is returned are at most `len`.
#[inline]
pub(super) fn walk(next: u8, visible: &[u8], len: usize) -> Result<Chain, DropReason> {
    match next {
        HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION_OPTIONS | 135 | 139 | 140 | 253
        | 254 => walk_chain(next, visible, len),
        protocol => Ok(Chain { protocol, l4: 0, fragment: None }),
    }
}

fn walk_chain(mut next: u8, visible: &[u8], len: usize) -> Result<Chain, DropReason> {
    let mut at = 0;
    let mut fragment: Option<FragmentHeader> = None;
    for index in 0..=HEADERS_MAX {
        let is_extension = match next {
            HOP_BY_HOP if index > 0 => return Err(DropReason::ExtensionHeaders),
            ROUTING => return Err(DropReason::RoutingHeader),
            // Mobility, HIP, Shim6 and the two for experiments: what they do to the rest is not ours to know.
            135 | 139 | 140 | 253 | 254 => return Err(DropReason::ExtensionHeaders),
            FRAGMENT if fragment.is_some() => return Err(DropReason::ExtensionHeaders),
            HOP_BY_HOP | FRAGMENT | AUTHENTICATION | DESTINATION_OPTIONS => true,
            _ => false,
        };
        let is_later = fragment.is_some_and(|f| f.offset != 0);
        if !is_extension || is_later {
            return Ok(Chain { protocol: next, l4: at, fragment });
        }
        if index == HEADERS_MAX {
            break;
        }
        // RFC 7112: a first fragment must hold the whole chain.
        let cut = match fragment {
            Some(f) if f.more => DropReason::FragmentBad,
            _ => DropReason::ExtensionHeaders,
        };
        let header: &[u8; 8] = array(visible, at).ok_or(cut)?;
        let header_len = match next {
            FRAGMENT => 8,
            // RFC 4302, 2.2: at least its own twelve bytes, and in IPv6 a multiple of eight.
            AUTHENTICATION if header[1] == 0 || !header[1].is_multiple_of(2) => {
                return Err(DropReason::ExtensionHeaders);
            }
            AUTHENTICATION => (usize::from(header[1]) + 2) * 4,
            _ => (usize::from(header[1]) + 1) * 8,
        };
        let end = at + header_len;
        if end > CHAIN_LEN_MAX {
            break;
        }
        if end > len || end > visible.len() {
            return Err(cut);
        }
        if next == FRAGMENT {
            let place = u16_at(header, 2);
            fragment = Some(FragmentHeader {
                id: u32_at(header, 4),
                offset: place & !7,
                more: place & 1 != 0,
                data: end,
            });
        }
        next = header[0];
        at = end;
    }
    Err(DropReason::ExtensionHeaders)
}
