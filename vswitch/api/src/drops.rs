//! Every reason a packet can be dropped for. One byte, one counter each; `docs/drops.md` has a section for every one.

use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $name:ident = $text:literal,)+) => {
        /// Why a packet was dropped. Sent = delivered + dropped, reason by reason.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[repr(u8)]
        pub enum DropReason { $($(#[doc = $doc])+ #[serde(rename = $text)] $name,)+ }

        impl DropReason {
            /// All of them, in the order of their counters.
            pub const ALL: &'static [DropReason] = &[$(DropReason::$name),+];
            pub const COUNT: usize = Self::ALL.len();

            /// The stable name: what commands print and `docs/drops.md` is ordered by.
            pub const fn name(self) -> &'static str {
                match self { $(DropReason::$name => $text),+ }
            }

            /// One sentence for people.
            pub const fn describe(self) -> &'static str {
                match self { $(DropReason::$name => concat!($($doc),+)),+ }
            }
        }
    };
}

reasons! {
    /// The frame ends before its own headers do, or a length field contradicts the frame.
    Truncated = "truncated",
    /// The frame is no Ethernet II frame with IPv4, IPv6 or ARP: LLC/SNAP, another EtherType.
    UnknownEtherType = "unknown_ethertype",
    /// The frame carries a VLAN tag; pods have no VLANs.
    VlanTagged = "vlan_tagged",
    /// The IP version, header length or total length is impossible.
    BadIpHeader = "bad_ip_header",
    /// The IPv4 header checksum is wrong.
    BadIpChecksum = "bad_ip_checksum",
    /// The packet carries IPv4 options, which are not forwarded.
    IpOptions = "ip_options",
    /// Source or destination can never be right: loopback, unspecified, multicast as a source, class E.
    Martian = "martian",
    /// Source and destination are the same address (LAND).
    Land = "land",
    /// The L4 header is impossible: data offset, lengths, or SYN with FIN.
    BadL4Header = "bad_l4_header",
    /// IPv6 extension headers are too many, too long, out of order or unknown: the L4 protocol cannot be determined.
    ExtensionHeaders = "extension_headers",
    /// The IPv6 packet carries a routing header.
    RoutingHeader = "routing_header",
    /// Source MAC or IP (or the addresses inside an ARP or ND message) are not the port's own.
    Spoofed = "spoofed",
    /// ARP or neighbour discovery that is not a question for the gateway.
    NeighbourMessage = "neighbour_message",
    /// A message only routers and servers may send: router advertisement, redirect, DHCP offer.
    RouterMessage = "router_message",
    /// Multicast or broadcast, which the switch does not forward.
    Multicast = "multicast",
    /// A first fragment too small to hold the L4 header, or an overlapping one.
    FragmentBad = "fragment_bad",
    /// A later fragment whose first fragment never came.
    FragmentUnknown = "fragment_unknown",
    /// No room to remember or hold one more fragment of this port.
    FragmentTableFull = "fragment_table_full",
    /// The source's egress policy does not allow the flow.
    PolicyEgress = "policy_egress",
    /// The destination's ingress policy does not allow the flow.
    PolicyIngress = "policy_ingress",
    /// The endpoint's labels are not known yet: it is isolated.
    NotReady = "not_ready",
    /// A TCP segment without a connection, or one its connection cannot have.
    InvalidState = "invalid_state",
    /// An ICMP error or reply that belongs to no flow.
    UnrelatedIcmp = "unrelated_icmp",
    /// The connection table has no room for this port's new flow.
    ConntrackFull = "conntrack_full",
    /// Nobody has the destination address, and it is one of ours: answered with unreachable.
    NoRoute = "no_route",
    /// Hop limit or TTL reached zero: answered with time exceeded.
    TtlExceeded = "ttl_exceeded",
    /// Larger than the MTU of the port it should leave by: answered with packet too big, where that may be answered.
    TooBig = "too_big",
    /// Answered by the switch itself (ARP, ND, echo to the gateway): consumed, not lost.
    Answered = "answered",
    /// The port the packet came from or should leave by is gone.
    PortGone = "port_gone",
    /// A frame on a trunk without a valid port tag.
    BadTag = "bad_tag",
    /// No free frame to receive, copy or answer into.
    NoFrame = "no_frame",
    /// The transmit ring is full.
    TxFull = "tx_full",
    /// The ring to the worker that owns the flow is full.
    HandoverFull = "handover_full",
    /// In the kernel: the port spent its budget before the worker came round.
    Budget = "budget",
    /// In the kernel: the trunk's ring is full, or its far end is down.
    TrunkFull = "trunk_full",
    /// In the kernel: no AF_XDP socket is bound to the queue.
    NoSocket = "no_socket",
    /// In the kernel: the socket's receive ring is full or its fill ring is empty.
    RxFull = "rx_full",
    /// In the kernel: a frame came back with a port tag nobody has, or came by an interface nobody told the programs of.
    KernelNoPort = "kernel_no_port",
    /// In the kernel: the frame is longer than the trunk can carry; the pod raised its own MTU.
    KernelTooBig = "kernel_too_big",
    /// In the kernel: the port's interface did not let it in. Longer than the MTU allows (the pod raised its own), or the
    /// interface was down, or its program was gone.
    Interface = "interface",
    /// The reject action: dropped and answered.
    Rejected = "rejected",
    /// The action is one this version cannot carry out (proxy, DNS hold): fail closed.
    NotEnforceable = "not_enforceable",
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
