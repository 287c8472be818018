//! What one look at a packet's headers found.

use super::FlowKey;
use std::net::IpAddr;

/// Everything the pipeline needs to know of a packet. Written once by [`super::parse`], never parsed again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parsed {
    /// The flow. For later fragments the ports are 0 until the fragment table has filled them in; for ICMP errors this
    /// is the key of the error itself, and `payload` holds the flow it speaks of.
    ///
    /// An IPv6 datagram's fragments are known by addresses and id alone: a later one's protocol is what its fragment header
    /// says comes next, which may be an extension header of the first.
    pub key: FlowKey,
    /// Where the IP header begins in the frame: 14.
    pub l3_offset: u16,
    /// Where the L4 header begins in the frame; for later fragments, where the fragment's data begin.
    pub l4_offset: u16,
    /// Length of the IP packet, header included, from its own length field. Never more than the frame holds.
    pub ip_len: u16,
    /// TTL or hop limit, as received.
    pub ttl: u8,
    /// IPv4 Don't Fragment. True for IPv6.
    pub dont_fragment: bool,
    pub fragment: Fragment,
    pub payload: Payload,
}

impl Parsed {
    /// Of no packet.
    pub const NOTHING: Parsed = Parsed {
        key: FlowKey {
            source: [0; 16],
            destination: [0; 16],
            source_port: 0,
            destination_port: 0,
            protocol: 0,
            family: 0,
            zone: 0,
        },
        l3_offset: 0,
        l4_offset: 0,
        ip_len: 0,
        ttl: 0,
        dont_fragment: false,
        fragment: Fragment::Whole,
        payload: Payload::Flow(L4::Other),
    };
}

/// Whether the packet is a piece of a larger one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fragment {
    Whole,
    /// Offset 0, more to come; holds the L4 header.
    First {
        id: u32,
    },
    /// `offset` in bytes; `more` as in the header.
    Later {
        id: u32,
        offset: u16,
        more: bool,
    },
}

/// What the packet carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payload {
    /// A packet of a flow, to be tracked, judged and forwarded.
    Flow(L4),
    /// An ICMP error about the flow with this key (as the packet it quotes was sent: the reverse of the flow's direction
    /// towards whoever the error is for).
    IcmpError { about: FlowKey },
    /// Who has `target`? From `sender` (`None` when it is a probe for the sender's own address: duplicate address detection).
    ArpRequest { sender_mac: [u8; 6], sender: Option<IpAddr>, target: IpAddr },
    /// A neighbour solicitation, likewise.
    NeighbourSolicitation { sender_mac: Option<[u8; 6]>, sender: Option<IpAddr>, target: IpAddr },
}

/// The part of the L4 header that tracking wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum L4 {
    /// Raw header values; `payload_len` excludes header and padding. `window` is unscaled.
    Tcp {
        flags: u8,
        sequence: u32,
        acknowledgement: u32,
        window: u16,
        payload_len: u16,
    },
    Udp,
    Sctp,
    /// ICMP or ICMPv6 echo: `request` or reply. The identifier is in the key's ports.
    Echo {
        request: bool,
    },
    /// Any other ICMP message that is neither error nor neighbour discovery.
    Icmp {
        kind: u8,
        code: u8,
    },
    /// A protocol without ports, or a later fragment of anything.
    Other,
}

/// TCP flag bits.
pub mod tcp {
    pub const FIN: u8 = 0x01;
    pub const SYN: u8 = 0x02;
    pub const RST: u8 = 0x04;
    pub const PSH: u8 = 0x08;
    pub const ACK: u8 = 0x10;
    pub const URG: u8 = 0x20;
}
