//! Addresses of links.

use super::{About, Netlink};
use crate::NetError;
use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use std::net::IpAddr;

/// An address of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    /// Of the link.
    pub index: u32,
    /// The address itself with its prefix length: host bits are kept.
    pub net: IpNet,
    /// `IFA_F_*` of `linux/if_addr.h`.
    pub flags: u32,
}

impl Address {
    /// Duplicate address detection is still running: the address cannot be used as a source yet.
    pub fn is_tentative(&self) -> bool {
        self.flags & AddressFlags::Tentative.bits() != 0
    }
}

impl Netlink {
    /// Gives a link an address. `nodad`: an IPv6 address can be used at once, without asking the neighbours about it.
    pub fn add_address(&self, index: u32, net: IpNet, nodad: bool) -> Result<(), NetError> {
        let mut message = message(index, net);
        if nodad && net.addr().is_ipv6() {
            message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        let object = format!("{net} to the link with index {index}");
        self.change(
            About::new("add the address", &object),
            RouteNetlinkMessage::NewAddress(message),
            NLM_F_CREATE | NLM_F_EXCL,
        )
    }

    pub fn del_address(&self, index: u32, net: IpNet) -> Result<(), NetError> {
        let object = format!("{net} of the link with index {index}");
        self.change(
            About::new("delete the address", &object),
            RouteNetlinkMessage::DelAddress(message(index, net)),
            0,
        )
    }

    /// Every IPv4 and IPv6 address of the namespace.
    pub fn addresses(&self) -> Result<Vec<Address>, NetError> {
        let answers = self.dump(
            About::new("list", &"the addresses"),
            RouteNetlinkMessage::GetAddress(AddressMessage::default()),
        )?;
        Ok(answers.into_iter().filter_map(as_address).collect())
    }
}

fn message(index: u32, net: IpNet) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family(net.addr());
    message.header.prefix_len = net.prefix_len();
    message.header.index = index;
    message.attributes = vec![AddressAttribute::Local(net.addr()), AddressAttribute::Address(net.addr())];
    message
}

pub(super) fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

fn as_address(message: RouteNetlinkMessage) -> Option<Address> {
    let RouteNetlinkMessage::NewAddress(message) = message else { return None };
    let (mut local, mut peer, mut flags) = (None, None, u32::from(message.header.flags.bits()));
    for attribute in message.attributes {
        match attribute {
            AddressAttribute::Local(address) => local = Some(address),
            AddressAttribute::Address(address) => peer = Some(address),
            AddressAttribute::Flags(all) => flags = all.bits(),
            _ => {}
        }
    }
    let net = IpNet::new(local.or(peer)?, message.header.prefix_len).ok()?;
    Some(Address { index: message.header.index, net, flags })
}
