//! Answers the switch gives itself, written into a buffer of the caller's.
//!
//! Every builder takes the frame that is answered (its `head` as [`super::parse`] saw it, not rewritten yet), the gateway's
//! MAC, and `out`; it returns the length of the answer, or `None` when this frame gets none or `out` is too small:
//! [`ANSWER_LEN_MAX`] is enough for all but echo replies, which are as long as their requests. The answer goes to the
//! Ethernet source of `head`. How often answers may be given (RFC 4443, 2.4 f) is the caller's affair.

mod icmp;
mod neighbour;
mod reset;
mod writer;

pub use icmp::{IcmpError, echo_reply, icmp_error};
pub use neighbour::{arp_reply, neighbour_advertisement};
pub use reset::tcp_reset;

use super::parsed::tcp;
use super::{Fragment, L4, Parsed, Payload};
use crate::packet::ETHERNET_LEN;
use penstock_api::message::gateway;
use std::net::IpAddr;

/// The longest answer other than an echo reply, in bytes: an ICMPv6 error.
pub const ANSWER_LEN_MAX: usize = ETHERNET_LEN + icmp::V6_ERROR_LEN_MAX;

/// TTL and hop limit of what we originate.
const TTL: u8 = 64;

/// May this packet be answered with an ICMP error or a reset? RFC 1812, 4.3.2.7 and RFC 4443, 2.4 (e): not an ICMP error,
/// not a later fragment, nothing to or from a group or nobody (which [`super::parse`] has refused), no neighbour
/// discovery. Nor a TCP reset, and nothing the gateway said.
#[must_use]
pub fn may_answer(parsed: &Parsed) -> bool {
    let is_ours = match parsed.key.source_address() {
        IpAddr::V4(source) => source == gateway::V4,
        IpAddr::V6(source) => source == gateway::V6,
    };
    let is_later = matches!(parsed.fragment, Fragment::Later { .. });
    match parsed.payload {
        _ if is_ours || is_later => false,
        Payload::Flow(L4::Tcp { flags, .. }) => flags & tcp::RST == 0,
        Payload::Flow(_) => true,
        Payload::IcmpError { .. } | Payload::ArpRequest { .. } | Payload::NeighbourSolicitation { .. } => {
            false
        }
    }
}
