//! The L3 fields of a rule: who the other end may be. At most one of them has items.

use super::super::decode::{Cursor, Faults, Fields};
use super::super::meta::{self, checked};
use super::super::validate;
use super::{Context, Section, Side, Unenforced, selector};
use crate::objects::{CidrRule, CiliumPeers, CiliumSelector, Entity, FqdnSelector, IpBlock, ServiceSelector};
use ipnet::IpNet;

/// What an item of a section may have.
pub(super) const fn fields_of(section: Section) -> &'static [&'static str] {
    match (section.side, section.is_deny) {
        (Side::Ingress, false) => &[
            "fromEndpoints",
            "fromRequires",
            "fromCIDR",
            "fromCIDRSet",
            "fromEntities",
            "fromGroups",
            "fromNodes",
            "toPorts",
            "icmps",
            "authentication",
        ],
        (Side::Ingress, true) => &[
            "fromEndpoints",
            "fromRequires",
            "fromCIDR",
            "fromCIDRSet",
            "fromEntities",
            "fromGroups",
            "fromNodes",
            "toPorts",
            "icmps",
        ],
        (Side::Egress, false) => &[
            "toEndpoints",
            "toRequires",
            "toCIDR",
            "toCIDRSet",
            "toEntities",
            "toServices",
            "toFQDNs",
            "toGroups",
            "toNodes",
            "toPorts",
            "icmps",
            "authentication",
        ],
        (Side::Egress, true) => &[
            "toEndpoints",
            "toRequires",
            "toCIDR",
            "toCIDRSet",
            "toEntities",
            "toServices",
            "toGroups",
            "toNodes",
            "toPorts",
            "icmps",
        ],
    }
}

type Decode = fn(&[Cursor<'_>], &mut Faults) -> Option<CiliumPeers>;

/// The L3 fields of each direction, how their items are read, and why they are not enforced where they are not.
const INGRESS: &[(&str, Decode, Option<&str>)] = &[
    ("fromEndpoints", endpoints, None),
    ("fromCIDR", cidrs, None),
    ("fromCIDRSet", cidr_set, None),
    ("fromEntities", entities, None),
    ("fromGroups", groups, Some("groups of a cloud provider")),
    ("fromNodes", nodes, Some("peers by the labels of nodes")),
];
const EGRESS: &[(&str, Decode, Option<&str>)] = &[
    ("toEndpoints", endpoints, None),
    ("toCIDR", cidrs, None),
    ("toCIDRSet", cidr_set, None),
    ("toEntities", entities, None),
    ("toServices", services, None),
    ("toFQDNs", fqdns, Some("peers by DNS name")),
    ("toGroups", groups, Some("groups of a cloud provider")),
    ("toNodes", nodes, Some("peers by the labels of nodes")),
];

/// `None` after an error.
pub(super) fn decode(
    fields: &Fields<'_>,
    context: Context,
    unenforced: &mut Unenforced,
    faults: &mut Faults,
) -> Option<CiliumPeers> {
    let (known, requires) = match context.section.side {
        Side::Ingress => (INGRESS, "fromRequires"),
        Side::Egress => (EGRESS, "toRequires"),
    };
    let mut found: Option<(&str, Option<CiliumPeers>)> = None;
    let mut is_empty = false;
    for (name, decode, why) in known {
        // Elsewhere the field is unknown, which has been said.
        if !fields_of(context.section).contains(name) {
            continue;
        }
        let Some(at) = fields.given(name, faults) else { continue };
        let items = at.items(faults);
        if items.is_empty() {
            is_empty = true;
            faults.notice(&at, "is an empty list: this rule matches nobody");
            continue;
        }
        let peers = decode(&items, faults);
        if let Some((first, _)) = found {
            faults.error(&at, format_args!("cannot stand beside {first}; make two rules of them"));
        }
        found = Some((name, peers));
        if let Some(why) = why {
            unenforced.push(&at, why, context.effect(), faults);
        }
    }
    if let Some(at) = fields.given(requires, faults)
        && !at.items(faults).is_empty()
    {
        unenforced.push(&at, "requirements, which Cilium no longer has either", context.effect(), faults);
    }
    match found {
        // Beside a list that is empty the other one says nothing: that is how Cilium reads it.
        Some((_, peers)) if !is_empty => peers,
        Some((_, peers)) => peers.map(|_| CiliumPeers::None),
        None if is_empty => Some(CiliumPeers::None),
        None => Some(CiliumPeers::Any),
    }
}

/// All of them, or nothing: a list that lost an item says something else.
fn all<T>(
    items: &[Cursor<'_>],
    faults: &mut Faults,
    decode: impl Fn(&Cursor<'_>, &mut Faults) -> Option<T>,
) -> Option<Vec<T>> {
    let read: Vec<T> = items.iter().filter_map(|item| decode(item, faults)).collect();
    (read.len() == items.len()).then_some(read)
}

fn selectors(items: &[Cursor<'_>], faults: &mut Faults) -> Option<Vec<CiliumSelector>> {
    all(items, faults, selector::decode)
}

fn endpoints(items: &[Cursor<'_>], faults: &mut Faults) -> Option<CiliumPeers> {
    selectors(items, faults).map(CiliumPeers::Endpoints)
}

fn nodes(items: &[Cursor<'_>], faults: &mut Faults) -> Option<CiliumPeers> {
    selectors(items, faults).map(CiliumPeers::Nodes)
}

fn entities(items: &[Cursor<'_>], faults: &mut Faults) -> Option<CiliumPeers> {
    all(items, faults, entity).map(CiliumPeers::Entities)
}

fn entity(at: &Cursor<'_>, faults: &mut Faults) -> Option<Entity> {
    const KNOWN: [(&str, Entity); 13] = [
        ("all", Entity::All),
        ("world", Entity::World),
        ("world-ipv4", Entity::WorldIpv4),
        ("world-ipv6", Entity::WorldIpv6),
        ("cluster", Entity::Cluster),
        ("host", Entity::Host),
        ("remote-node", Entity::RemoteNode),
        ("kube-apiserver", Entity::KubeApiserver),
        ("ingress", Entity::Ingress),
        ("init", Entity::Init),
        ("health", Entity::Health),
        ("unmanaged", Entity::Unmanaged),
        ("none", Entity::None),
    ];
    let text = at.string(faults)?;
    let found = KNOWN.iter().find(|(name, _)| *name == text);
    if found.is_none() {
        let names: Vec<&str> = KNOWN.iter().map(|(name, _)| *name).collect();
        faults.error(at, format_args!("{text:?} is no entity; use one of {}", names.join(", ")));
    }
    found.map(|(_, entity)| *entity)
}

fn cidrs(items: &[Cursor<'_>], faults: &mut Faults) -> Option<CiliumPeers> {
    let block = |item: &Cursor<'_>, faults: &mut Faults| {
        let cidr = cidr_or_address(item, faults)?;
        Some(CidrRule::Block(IpBlock { cidr, except: Vec::new() }))
    };
    all(items, faults, block).map(CiliumPeers::Cidrs)
}

fn cidr_set(items: &[Cursor<'_>], faults: &mut Faults) -> Option<CiliumPeers> {
    all(items, faults, cidr_rule).map(CiliumPeers::Cidrs)
}

fn cidr_rule(at: &Cursor<'_>, faults: &mut Faults) -> Option<CidrRule> {
    let fields = at.fields(&["cidr", "cidrGroupRef", "cidrGroupSelector", "except"], faults)?;
    let given: Vec<Cursor<'_>> = ["cidr", "cidrGroupRef", "cidrGroupSelector"]
        .iter()
        .filter_map(|name| fields.given(name, faults))
        .collect();
    match given.as_slice() {
        [] => {
            faults.error(at, "this item has nothing set; use cidr, cidrGroupRef or cidrGroupSelector");
            return None;
        }
        [_] => {}
        [_, second, ..] => {
            faults.error(
                second,
                "cidr, cidrGroupRef and cidrGroupSelector cannot stand together; make an item of each",
            );
            return None;
        }
    }
    let block = fields.get("cidr").map(|at| meta::cidr(&at, faults));
    let mut except = Vec::new();
    if let Some(list) = fields.given("except", faults) {
        except = all(&list.items(faults), faults, |item, faults| {
            let net = meta::cidr(item, faults)?;
            match block.flatten() {
                Some(cidr) if !cidr.contains(&net) => {
                    faults.error(
                        item,
                        format_args!("{net} is not inside {cidr}; an except only takes from its own cidr"),
                    );
                    None
                }
                Some(cidr) if net == cidr => {
                    faults
                        .notice(item, format_args!("{net} excepts all of {cidr}: this item matches nobody"));
                    Some(net)
                }
                _ => Some(net),
            }
        })?;
        except.sort();
        except.dedup();
    }
    if let Some(cidr) = block {
        return Some(CidrRule::Block(IpBlock { cidr: cidr?, except }));
    }
    if let Some(at) = fields.get("cidrGroupRef") {
        return Some(CidrRule::Group { name: checked(&at, validate::dns_subdomain, faults)?, except });
    }
    let selector = selector::plain(&fields.get("cidrGroupSelector")?, faults)?;
    Some(CidrRule::Groups { selector, except })
}

/// A CIDR, or an address, which is the CIDR of nothing else.
pub(super) fn cidr_or_address(at: &Cursor<'_>, faults: &mut Faults) -> Option<IpNet> {
    if let Ok(address) = validate::ip(at.string(faults)?) {
        return Some(IpNet::from(address));
    }
    meta::cidr(at, faults)
}

fn services(items: &[Cursor<'_>], faults: &mut Faults) -> Option<CiliumPeers> {
    all(items, faults, service).map(CiliumPeers::Services)
}

fn service(at: &Cursor<'_>, faults: &mut Faults) -> Option<ServiceSelector> {
    let fields = at.fields(&["k8sService", "k8sServiceSelector"], faults)?;
    match (fields.given("k8sService", faults), fields.given("k8sServiceSelector", faults)) {
        (Some(_), Some(second)) => {
            faults.error(&second, "cannot stand beside k8sService; make two items of them");
            None
        }
        (Some(at), None) => {
            let fields = at.fields(&["serviceName", "namespace"], faults)?;
            let name = fields.require("serviceName", "the service's name", faults)?;
            let name = checked(&name, validate::dns_label, faults);
            let namespace = namespace(&fields, faults)?;
            Some(ServiceSelector::Name { namespace, name: name? })
        }
        (None, Some(at)) => {
            let fields = at.fields(&["selector", "namespace"], faults)?;
            let selector = fields.require("selector", "a selector of services", faults)?;
            let selector = selector::plain(&selector, faults);
            let namespace = namespace(&fields, faults)?;
            Some(ServiceSelector::Labels { namespace, selector: selector? })
        }
        (None, None) => {
            faults.error(at, "this item has nothing set; use k8sService or k8sServiceSelector");
            None
        }
    }
}

/// Of a service. Absent and empty: any.
fn namespace(fields: &Fields<'_>, faults: &mut Faults) -> Option<Option<String>> {
    match fields.given("namespace", faults) {
        Some(at) if at.node.as_str() == Some("") => Some(None),
        Some(at) => checked(&at, validate::dns_label, faults).map(Some),
        None => Some(None),
    }
}

fn fqdns(items: &[Cursor<'_>], faults: &mut Faults) -> Option<CiliumPeers> {
    all(items, faults, fqdn).map(CiliumPeers::Fqdns)
}

/// `matchName` or `matchPattern`.
pub(super) fn fqdn(at: &Cursor<'_>, faults: &mut Faults) -> Option<FqdnSelector> {
    let fields = at.fields(&["matchName", "matchPattern"], faults)?;
    match (fields.given("matchName", faults), fields.given("matchPattern", faults)) {
        (Some(_), Some(second)) => {
            faults.error(&second, "cannot stand beside matchName; make two items of them");
            None
        }
        (Some(at), None) => {
            let text = at.string(faults)?;
            if !is_name_pattern(text) || text.contains('*') {
                faults.error(
                    &at,
                    format_args!(
                        "{text:?} is no DNS name: use up to 255 of a-z, 0-9, '-', '_' and '.'; for '*' use matchPattern"
                    ),
                );
                return None;
            }
            Some(FqdnSelector::Name(qualified(text)))
        }
        (None, Some(at)) => {
            let text = at.string(faults)?;
            if !is_name_pattern(text) {
                faults.error(
                    &at,
                    format_args!("{text:?} is no pattern of DNS names: use up to 255 of a-z, 0-9, '-', '_', '.' and '*'"),
                );
                return None;
            }
            Some(FqdnSelector::Pattern(qualified(text)))
        }
        (None, None) => {
            faults.error(at, "this item has nothing set; use matchName or matchPattern");
            None
        }
    }
}

/// Labels of letters, digits, '-', '_' and '*', with single dots between them and perhaps one at the end.
pub(super) fn is_name_pattern(text: &str) -> bool {
    let body = text.strip_suffix('.').unwrap_or(text);
    let is_label = |label: &str| {
        !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_*".contains(&b))
    };
    text.len() <= 255 && body.split('.').all(is_label)
}

/// Lower case with a dot at the end; a lone `*` stays what it is.
fn qualified(text: &str) -> String {
    let mut name = text.to_ascii_lowercase();
    if !name.ends_with('.') && !name.bytes().all(|b| b == b'*') {
        name.push('.');
    }
    name
}

/// Which addresses they mean is not known here: they stand as the world that they are a part of.
fn groups(items: &[Cursor<'_>], faults: &mut Faults) -> Option<CiliumPeers> {
    for item in items {
        let Some(fields) = item.fields(&["aws"], faults) else { continue };
        let Some(at) = fields.require("aws", "a mapping that describes security groups", faults) else {
            continue;
        };
        let known = ["labels", "securityGroupsIds", "securityGroupsNames", "region"];
        let Some(aws) = at.fields(&known, faults) else { continue };
        if let Some(at) = aws.given("labels", faults) {
            at.string_map(faults);
        }
        for name in ["securityGroupsIds", "securityGroupsNames"] {
            if let Some(at) = aws.given(name, faults) {
                at.items(faults).iter().for_each(|item| _ = item.string(faults));
            }
        }
        aws.string("region", faults);
    }
    Some(CiliumPeers::Entities(vec![Entity::World]))
}
