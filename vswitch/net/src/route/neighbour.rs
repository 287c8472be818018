//! Neighbours: which MAC address an IP address of a link has.

use super::address::family;
use super::{About, Netlink};
use crate::NetError;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use std::net::IpAddr;

/// An entry of a link's neighbour table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Neighbour {
    /// Of the link.
    pub index: u32,
    pub address: IpAddr,
    /// Absent while it is not known.
    pub mac: Option<[u8; 6]>,
    /// It never expires and is never asked for.
    pub permanent: bool,
}

impl Netlink {
    /// Adds an entry. One that is not `permanent` ages like a learned one.
    pub fn add_neighbour(
        &self,
        index: u32,
        address: IpAddr,
        mac: [u8; 6],
        permanent: bool,
    ) -> Result<(), NetError> {
        self.put_neighbour(index, address, mac, permanent, NLM_F_EXCL)
    }

    /// As [`Netlink::add_neighbour`], over an entry that may be there.
    pub fn replace_neighbour(
        &self,
        index: u32,
        address: IpAddr,
        mac: [u8; 6],
        permanent: bool,
    ) -> Result<(), NetError> {
        self.put_neighbour(index, address, mac, permanent, NLM_F_REPLACE)
    }

    fn put_neighbour(
        &self,
        index: u32,
        address: IpAddr,
        mac: [u8; 6],
        permanent: bool,
        flags: u16,
    ) -> Result<(), NetError> {
        let mut message = message(index, address);
        message.header.state = if permanent { NeighbourState::Permanent } else { NeighbourState::Reachable };
        message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.to_vec()));
        let object = format!("{address} to the link with index {index}");
        self.change(
            About::new("add the neighbour", &object),
            RouteNetlinkMessage::NewNeighbour(message),
            NLM_F_CREATE | flags,
        )
    }

    pub fn del_neighbour(&self, index: u32, address: IpAddr) -> Result<(), NetError> {
        let object = format!("{address} of the link with index {index}");
        self.change(
            About::new("delete the neighbour", &object),
            RouteNetlinkMessage::DelNeighbour(message(index, address)),
            0,
        )
    }

    /// The IPv4 and IPv6 neighbours of a link.
    pub fn neighbours(&self, index: u32) -> Result<Vec<Neighbour>, NetError> {
        let mut neighbours = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut message = NeighbourMessage::default();
            message.header.family = family;
            let answers =
                self.dump(About::new("list", &"the neighbours"), RouteNetlinkMessage::GetNeighbour(message))?;
            neighbours
                .extend(answers.into_iter().filter_map(as_neighbour).filter(|found| found.index == index));
        }
        Ok(neighbours)
    }
}

fn message(index: u32, address: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family(address);
    message.header.ifindex = index;
    message.attributes = vec![NeighbourAttribute::Destination(match address {
        IpAddr::V4(address) => NeighbourAddress::Inet(address),
        IpAddr::V6(address) => NeighbourAddress::Inet6(address),
    })];
    message
}

fn as_neighbour(message: RouteNetlinkMessage) -> Option<Neighbour> {
    let RouteNetlinkMessage::NewNeighbour(message) = message else { return None };
    let (mut address, mut mac) = (None, None);
    for attribute in message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => address = Some(IpAddr::V4(v4)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => address = Some(IpAddr::V6(v6)),
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = bytes.try_into().ok(),
            _ => {}
        }
    }
    Some(Neighbour {
        index: message.header.ifindex,
        address: address?,
        mac,
        permanent: message.header.state == NeighbourState::Permanent,
    })
}
