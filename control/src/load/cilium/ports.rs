//! `toPorts` and `icmps`: what may be spoken.

use super::super::decode::{Cursor, Faults};
use super::super::tree::Value;
use super::{Context, Unenforced, l7};
use crate::objects::{CiliumPort, CiliumPortMatch, IcmpType, IpFamily, Protocol};

/// Of an item of `toPorts`, and of an item of `icmps`; Cilium's.
const ITEMS_MAX: usize = 40;

/// The ports of all items. `None`: there is no item, which restricts nothing.
pub(super) fn to_ports(
    at: &Cursor<'_>,
    context: Context,
    unenforced: &mut Unenforced,
    faults: &mut Faults,
) -> Option<Vec<CiliumPort>> {
    let items = at.items(faults);
    if items.is_empty() {
        faults.notice(at, "is an empty list, which is the same as not set: every port matches");
        return None;
    }
    let mut all = Vec::new();
    for item in &items {
        let known = ["ports", "rules", "serverNames", "terminatingTLS", "originatingTLS", "listener"];
        let Some(fields) = item.fields(&known, faults) else { continue };
        let mut ports = Vec::new();
        match fields.given("ports", faults) {
            Some(list) => {
                let items = list.items(faults);
                if items.len() > ITEMS_MAX {
                    faults.error(
                        &list,
                        format_args!(
                            "has {} ports; {ITEMS_MAX} is the most, make several items",
                            items.len()
                        ),
                    );
                }
                ports.extend(items.iter().filter_map(|item| port(item, faults)));
            }
            None => faults.notice(item, "has no ports: it matches nothing"),
        }
        l7::decode(&fields, &ports, context, unenforced, faults);
        all.append(&mut ports);
    }
    Some(all)
}

fn port(at: &Cursor<'_>, faults: &mut Faults) -> Option<CiliumPort> {
    let fields = at.fields(&["port", "endPort", "protocol"], faults)?;
    let protocol = match fields.given("protocol", faults) {
        Some(at) => protocol(&at, faults),
        None => Some(None),
    };
    let end = fields.given("endPort", faults);
    let last = match &end {
        // 0 is how the API says "not set".
        Some(at) => at.number(0, 65535, faults)?,
        None => 0,
    };
    let number = fields.require("port", "a port's number or name, in quotes; \"0\" is every port", faults)?;
    let port = match (port_number(&number, faults)?, end) {
        (PortText::Number(0), Some(end)) if last > 0 => {
            faults.error(
                &end,
                "port \"0\" is every port already; remove endPort or give the range's first port",
            );
            return None;
        }
        (PortText::Number(0), _) => CiliumPortMatch::All,
        (PortText::Number(first), Some(end)) if last > 0 => {
            if last < u32::from(first) {
                faults.error(&end, format_args!("{last} is below port {first}"));
                return None;
            }
            CiliumPortMatch::Range { first, last: last as u16 }
        }
        (PortText::Number(first), _) => CiliumPortMatch::Range { first, last: first },
        (PortText::Name(name), Some(end)) if last > 0 => {
            faults.error(&end, format_args!("needs a numeric port; {name:?} is a name"));
            return None;
        }
        (PortText::Name(name), _) => CiliumPortMatch::Name(name),
    };
    Some(CiliumPort { path: at.path.clone(), protocol: protocol?, port })
}

enum PortText {
    Number(u16),
    Name(String),
}

/// The inverse of NetworkPolicy: here a number is written in quotes.
fn port_number(at: &Cursor<'_>, faults: &mut Faults) -> Option<PortText> {
    if let Value::Number(text) = &at.node.value {
        faults.error(at, format_args!("expected a string, found the number {text}; write it in quotes"));
        return None;
    }
    let text = at.string(faults)?;
    if is_service_name(text) {
        return Some(PortText::Name(text.to_ascii_lowercase()));
    }
    match text.parse::<u16>() {
        Ok(number) if number.to_string() == text => Some(PortText::Number(number)),
        _ => {
            faults.error(
                at,
                format_args!(
                    "{text:?} is no port: use a decimal number from 0 to 65535, or a name of up to 15 letters, digits and \
                     single '-' with at least one letter"
                ),
            );
            None
        }
    }
}

/// RFC 6335, section 5.1, in either case.
fn is_service_name(name: &str) -> bool {
    (1..=15).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        && name.bytes().any(|b| b.is_ascii_alphabetic())
        && !name.starts_with('-')
        && !name.ends_with('-')
        && !name.contains("--")
}

/// `Some(None)`: any of the three.
#[expect(clippy::option_option, reason = "the outer one is an error")]
fn protocol(at: &Cursor<'_>, faults: &mut Faults) -> Option<Option<Protocol>> {
    match at.string(faults)? {
        "" | "ANY" => Some(None),
        "TCP" => Some(Some(Protocol::Tcp)),
        "UDP" => Some(Some(Protocol::Udp)),
        "SCTP" => Some(Some(Protocol::Sctp)),
        other if other.eq_ignore_ascii_case("ICMP") || other.eq_ignore_ascii_case("ICMPV6") => {
            faults.error(at, format_args!("{other} has no ports; use icmps, in a rule of its own"));
            None
        }
        other => {
            faults.error(at, format_args!("{other:?} is no protocol with ports; use TCP, UDP, SCTP or ANY"));
            None
        }
    }
}

/// The fields of all items. `None`: there is no item, which restricts nothing.
pub(super) fn icmps(at: &Cursor<'_>, faults: &mut Faults) -> Option<Vec<IcmpType>> {
    let items = at.items(faults);
    if items.is_empty() {
        faults.notice(at, "is an empty list, which is the same as not set");
        return None;
    }
    let mut all = Vec::new();
    for item in &items {
        let Some(fields) = item.fields(&["fields"], faults) else { continue };
        let Some(list) = fields.given("fields", faults) else {
            faults.notice(item, "has no fields: it matches nothing");
            continue;
        };
        let items = list.items(faults);
        if items.len() > ITEMS_MAX {
            faults.error(
                &list,
                format_args!("has {} fields; {ITEMS_MAX} is the most, make several items", items.len()),
            );
        }
        all.extend(items.iter().filter_map(|item| icmp(item, faults)));
    }
    Some(all)
}

fn icmp(at: &Cursor<'_>, faults: &mut Faults) -> Option<IcmpType> {
    let fields = at.fields(&["family", "type"], faults)?;
    let family = match fields.given("family", faults) {
        Some(at) => match at.string(faults)? {
            "IPv4" | "" => IpFamily::V4,
            "IPv6" => IpFamily::V6,
            other => {
                faults.error(&at, format_args!("{other:?} is no family; use IPv4 or IPv6"));
                return None;
            }
        },
        None => IpFamily::V4,
    };
    let at = fields.require("type", "an ICMP type's number or name", faults)?;
    let number = match &at.node.value {
        Value::Number(_) => at.number(0, 255, faults)? as u8,
        _ => {
            let text = at.string(faults)?;
            let known = match family {
                IpFamily::V4 => ICMP_NAMES,
                IpFamily::V6 => ICMPV6_NAMES,
            };
            let by_name = known.iter().find(|(name, _)| *name == text).map(|(_, number)| *number);
            let by_number = text.parse::<u8>().ok().filter(|number| number.to_string() == text);
            match by_name.or(by_number) {
                Some(number) => number,
                None => {
                    let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
                    faults.error(
                        &at,
                        format_args!(
                            "{text:?} is no ICMP type of this family; use 0 to 255, or {}",
                            names.join(", ")
                        ),
                    );
                    return None;
                }
            }
        }
    };
    Some(IcmpType { family, number })
}

/// The names of RFC 792 and its successors, as Cilium spells them.
const ICMP_NAMES: &[(&str, u8)] = &[
    ("EchoReply", 0),
    ("DestinationUnreachable", 3),
    ("Redirect", 5),
    ("Echo", 8),
    ("EchoRequest", 8),
    ("RouterAdvertisement", 9),
    ("RouterSelection", 10),
    ("TimeExceeded", 11),
    ("ParameterProblem", 12),
    ("Timestamp", 13),
    ("TimestampReply", 14),
    ("Photuris", 40),
    ("ExtendedEchoRequest", 42),
    ("ExtendedEchoReply", 43),
];

/// The names of RFC 4443 and its successors, likewise.
const ICMPV6_NAMES: &[(&str, u8)] = &[
    ("DestinationUnreachable", 1),
    ("PacketTooBig", 2),
    ("TimeExceeded", 3),
    ("ParameterProblem", 4),
    ("EchoRequest", 128),
    ("EchoReply", 129),
    ("MulticastListenerQuery", 130),
    ("MulticastListenerReport", 131),
    ("MulticastListenerDone", 132),
    ("RouterSolicitation", 133),
    ("RouterAdvertisement", 134),
    ("NeighborSolicitation", 135),
    ("NeighborAdvertisement", 136),
    ("RedirectMessage", 137),
    ("RouterRenumbering", 138),
    ("ICMPNodeInformationQuery", 139),
    ("ICMPNodeInformationResponse", 140),
    ("InverseNeighborDiscoverySolicitation", 141),
    ("InverseNeighborDiscoveryAdvertisement", 142),
    ("HomeAgentAddressDiscoveryRequest", 144),
    ("HomeAgentAddressDiscoveryReply", 145),
    ("MobilePrefixSolicitation", 146),
    ("MobilePrefixAdvertisement", 147),
    ("DuplicateAddressRequestCodeSuffix", 157),
    ("DuplicateAddressConfirmationCodeSuffix", 158),
    ("ExtendedEchoRequest", 160),
    ("ExtendedEchoReply", 161),
];
