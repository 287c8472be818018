//! Routes of the main table.

use super::address::family;
use super::{About, Netlink};
use crate::NetError;
use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric, RouteProtocol,
    RouteScope, RouteType,
};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// `RT_TABLE_LOCAL`: where the kernel looks for what is its own.
const TABLE_LOCAL: u8 = 255;

/// What happens to a packet that takes a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RouteKind {
    /// It is sent on.
    #[default]
    Unicast,
    /// It is dropped, and its sender told.
    Unreachable,
    /// It is for this machine. Such routes go to the local table, which [`Netlink::routes`] does not list.
    Local,
}

/// A route. `Route { link: Some(3), scope_link: true, ..Route::to(destination) }`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    pub destination: IpNet,
    /// Of the destination's family.
    pub gateway: Option<IpAddr>,
    /// The index of the link it leaves by.
    pub link: Option<u32>,
    /// Believe that the gateway is on the link although no address of ours says so.
    pub onlink: bool,
    /// The source address of packets that have none yet.
    pub source: Option<IpAddr>,
    pub mtu: Option<u32>,
    /// The destination is on the link itself. IPv6 knows no such distinction.
    pub scope_link: bool,
    pub kind: RouteKind,
}

impl Route {
    /// A unicast route with nothing but a destination yet.
    pub fn to(destination: IpNet) -> Route {
        Route {
            destination,
            gateway: None,
            link: None,
            onlink: false,
            source: None,
            mtu: None,
            scope_link: false,
            kind: RouteKind::Unicast,
        }
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            RouteKind::Unicast => {}
            RouteKind::Unreachable => f.write_str("unreachable ")?,
            RouteKind::Local => f.write_str("local ")?,
        }
        write!(f, "{}", self.destination)?;
        if let Some(gateway) = self.gateway {
            write!(f, " via {gateway}")?;
        }
        if let Some(link) = self.link {
            write!(f, " by the link with index {link}")?;
        }
        Ok(())
    }
}

impl Netlink {
    pub fn add_route(&self, route: &Route) -> Result<(), NetError> {
        let about = About::new("add the route", route);
        let message = message(about, route)?;
        self.change(about, RouteNetlinkMessage::NewRoute(message), NLM_F_CREATE | NLM_F_EXCL)
    }

    /// As [`Netlink::add_route`], in place of a route to the same destination that may be there.
    pub fn replace_route(&self, route: &Route) -> Result<(), NetError> {
        let about = About::new("replace the route", route);
        let message = message(about, route)?;
        self.change(about, RouteNetlinkMessage::NewRoute(message), NLM_F_CREATE | NLM_F_REPLACE)
    }

    /// Deletes the route with this destination, and with this gateway, link and source where they are given.
    pub fn del_route(&self, route: &Route) -> Result<(), NetError> {
        let about = About::new("delete the route", route);
        let mut message = message(about, &Route { mtu: None, onlink: false, ..*route })?;
        // Whoever made it, whatever its scope.
        message.header.protocol = RouteProtocol::Unspec;
        message.header.scope = RouteScope::NoWhere;
        self.change(about, RouteNetlinkMessage::DelRoute(message), 0)
    }

    /// The IPv4 and IPv6 routes of the main table of the kinds [`RouteKind`] knows.
    pub fn routes(&self) -> Result<Vec<Route>, NetError> {
        let mut routes = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut message = RouteMessage::default();
            message.header.address_family = family;
            let answers =
                self.dump(About::new("list", &"the routes"), RouteNetlinkMessage::GetRoute(message))?;
            routes.extend(answers.into_iter().filter_map(as_route));
        }
        Ok(routes)
    }
}

fn message(about: About<'_>, route: &Route) -> Result<RouteMessage, NetError> {
    let is_v6 = route.destination.addr().is_ipv6();
    for (what, address) in [("gateway", route.gateway), ("source", route.source)] {
        if let Some(address) = address.filter(|address| address.is_ipv6() != is_v6) {
            return Err(about.refused(
                libc::EINVAL,
                format!("the {what} {address} is not of the destination's address family"),
            ));
        }
    }
    let mut message = RouteMessage::default();
    message.header.address_family = family(route.destination.addr());
    message.header.destination_prefix_length = route.destination.prefix_len();
    message.header.protocol = RouteProtocol::Static;
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    (message.header.kind, message.header.scope) = match route.kind {
        RouteKind::Unicast if route.scope_link => (RouteType::Unicast, RouteScope::Link),
        RouteKind::Unicast => (RouteType::Unicast, RouteScope::Universe),
        RouteKind::Unreachable => (RouteType::Unreachable, RouteScope::Universe),
        RouteKind::Local => {
            message.header.table = TABLE_LOCAL;
            (RouteType::Local, RouteScope::Host)
        }
    };
    if route.onlink {
        message.header.flags |= RouteFlags::Onlink;
    }
    let attributes = &mut message.attributes;
    if route.destination.prefix_len() > 0 {
        attributes.push(RouteAttribute::Destination(route.destination.network().into()));
    }
    attributes.extend(route.gateway.map(|address| RouteAttribute::Gateway(address.into())));
    attributes.extend(route.link.map(RouteAttribute::Oif));
    attributes.extend(route.source.map(|address| RouteAttribute::PrefSource(address.into())));
    attributes.extend(route.mtu.map(|mtu| RouteAttribute::Metrics(vec![RouteMetric::Mtu(mtu)])));
    Ok(message)
}

fn as_route(message: RouteNetlinkMessage) -> Option<Route> {
    let RouteNetlinkMessage::NewRoute(message) = message else { return None };
    let header = &message.header;
    let kind = match header.kind {
        RouteType::Unicast => RouteKind::Unicast,
        RouteType::Unreachable => RouteKind::Unreachable,
        RouteType::Local => RouteKind::Local,
        _ => return None,
    };
    // Learned exceptions of a route (path MTUs, redirects) are not routes of the table.
    if header.table != RouteHeader::RT_TABLE_MAIN || header.flags.contains(RouteFlags::Cloned) {
        return None;
    }
    let any = match header.address_family {
        AddressFamily::Inet => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        AddressFamily::Inet6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => return None,
    };
    let mut route = Route::to(IpNet::new(any, header.destination_prefix_length).ok()?);
    route.kind = kind;
    route.onlink = header.flags.contains(RouteFlags::Onlink);
    route.scope_link = header.scope == RouteScope::Link;
    for attribute in message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => {
                route.destination = IpNet::new(ip(&address)?, route.destination.prefix_len()).ok()?;
            }
            RouteAttribute::Gateway(address) => route.gateway = ip(&address),
            RouteAttribute::PrefSource(address) => route.source = ip(&address),
            RouteAttribute::Oif(index) => route.link = Some(index),
            RouteAttribute::Metrics(metrics) => {
                for metric in metrics {
                    if let RouteMetric::Mtu(mtu) = metric {
                        route.mtu = Some(mtu);
                    }
                }
            }
            _ => {}
        }
    }
    Some(route)
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some(IpAddr::V4(*address)),
        RouteAddress::Inet6(address) => Some(IpAddr::V6(*address)),
        _ => None,
    }
}
