//! `cilium.io` CiliumNetworkPolicy, CiliumClusterwideNetworkPolicy and CiliumCIDRGroup.
//!
//! The fields are those of Cilium 1.19. As strict as its schema and its own checks together, and at three points stricter,
//! because a text that means two things is refused: `null` for a field (the API server refuses it too), a port's number with
//! leading zeros, an `except` that is wider than its cidr. What is understood but not enforced yet is loaded, and named:
//! each such field is in `not_enforced` and in the notices.

mod l7;
mod peers;
mod ports;
mod selector;

use super::NOT_ENFORCED;
use super::decode::{Cursor, Faults, Fields};
use super::meta::{self, Scope};
use super::validate;
use crate::objects::{
    CiliumCidrGroup, CiliumPeerRule, CiliumPolicy, CiliumRule, Kind, NotEnforced, Object, Subject,
};

const RULE_FIELDS: &[&str] = &[
    "endpointSelector",
    "nodeSelector",
    "ingress",
    "ingressDeny",
    "egress",
    "egressDeny",
    "enableDefaultDeny",
    "labels",
    "description",
    "log",
];

const SECTIONS: [Section; 4] = [
    Section { name: "ingress", side: Side::Ingress, is_deny: false },
    Section { name: "ingressDeny", side: Side::Ingress, is_deny: true },
    Section { name: "egress", side: Side::Egress, is_deny: false },
    Section { name: "egressDeny", side: Side::Egress, is_deny: true },
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Ingress,
    Egress,
}

/// One of the four lists of a rule.
#[derive(Debug, Clone, Copy)]
struct Section {
    name: &'static str,
    side: Side,
    is_deny: bool,
}

/// What an item of a section needs to know of its surroundings.
#[derive(Debug, Clone, Copy)]
struct Context {
    section: Section,
    /// The rule is about nodes, not pods.
    is_host: bool,
}

/// Fields that are read and not enforced. Each is a notice as well: it is said aloud, with its line.
#[derive(Debug, Default)]
struct Unenforced(Vec<NotEnforced>);

impl Unenforced {
    fn push(&mut self, at: &Cursor<'_>, why: &str, effect: &str, faults: &mut Faults) {
        faults.notice(at, format_args!("{NOT_ENFORCED}{why}; {effect}"));
        self.0.push(NotEnforced { field: at.path.clone(), why: why.to_owned() });
    }
}

impl Context {
    /// What an item with a field that is not enforced does instead.
    fn effect(self) -> &'static str {
        match self.section.is_deny {
            false => "this rule isolates and allows nothing",
            true => "this rule denies as if the field were not there",
        }
    }
}

pub(super) fn decode(object: &Fields<'_>, kind: Kind, faults: &mut Faults) -> Option<Object> {
    let is_clusterwide = kind == Kind::CiliumClusterwideNetworkPolicy;
    let scope = if is_clusterwide { Scope::Cluster } else { Scope::Namespaced };
    let meta = meta::decode(object, scope, validate::dns_subdomain, faults);
    let errors_before = faults.errors.len();
    let mut rules = Vec::new();
    let mut stated = 0;
    if let Some(at) = object.given("spec", faults) {
        stated += 1;
        rules.extend(rule(&at, is_clusterwide, faults));
    }
    if let Some(at) = object.given("specs", faults) {
        let items = at.items(faults);
        stated += items.len();
        rules.extend(items.iter().filter_map(|item| rule(item, is_clusterwide, faults)));
    }
    if stated == 0 && faults.errors.len() == errors_before {
        object.missing("spec", "is missing; a policy has a rule in spec, or rules in specs", faults);
    }
    let meta = meta?;
    let policy = CiliumPolicy { namespace: meta.namespace, name: meta.name, rules };
    if !is_clusterwide {
        selector::warn_of_other_namespaces(object, &policy, faults);
        return Some(Object::CiliumNetworkPolicy(policy));
    }
    Some(Object::CiliumClusterwideNetworkPolicy(policy))
}

fn rule(at: &Cursor<'_>, is_clusterwide: bool, faults: &mut Faults) -> Option<CiliumRule> {
    let fields = at.fields(RULE_FIELDS, faults)?;
    let mut unenforced = Unenforced::default();
    let subject = subject(at, &fields, is_clusterwide, &mut unenforced, faults);
    let is_host = fields.get("nodeSelector").is_some();

    let mut has_items = false;
    let mut list = |section: Section, faults: &mut Faults| -> Option<Vec<CiliumPeerRule>> {
        let items = fields.given(section.name, faults)?.items(faults);
        has_items |= !items.is_empty();
        let context = Context { section, is_host };
        Some(items.iter().filter_map(|item| peer_rule(item, context, faults)).collect())
    };
    let [ingress, ingress_deny, egress, egress_deny] = SECTIONS.map(|section| list(section, faults));
    if !has_items {
        faults.error(
            at,
            "has no item in ingress, ingressDeny, egress or egressDeny, so it would neither isolate nor allow; to isolate and \
             allow nothing write an empty item, like ingress: [{}]",
        );
    }

    let (mut default_deny_ingress, mut default_deny_egress) = (None, None);
    if let Some(at) = fields.given("enableDefaultDeny", faults)
        && let Some(fields) = at.fields(&["ingress", "egress"], faults)
    {
        default_deny_ingress = fields.given("ingress", faults).and_then(|at| at.boolean(faults));
        default_deny_egress = fields.given("egress", faults).and_then(|at| at.boolean(faults));
    }
    described(&fields, faults);
    Some(CiliumRule {
        path: at.path.clone(),
        subject: subject?,
        ingress,
        ingress_deny,
        egress,
        egress_deny,
        default_deny_ingress,
        default_deny_egress,
        not_enforced: unenforced.0,
    })
}

fn subject(
    at: &Cursor<'_>,
    fields: &Fields<'_>,
    is_clusterwide: bool,
    unenforced: &mut Unenforced,
    faults: &mut Faults,
) -> Option<Subject> {
    match (fields.given("endpointSelector", faults), fields.given("nodeSelector", faults)) {
        (Some(_), Some(nodes)) => {
            faults.error(
                &nodes,
                "cannot stand beside endpointSelector; make two rules of them, in two items of specs",
            );
            None
        }
        (Some(endpoints), None) => selector::subject(&endpoints, faults).map(Subject::Endpoints),
        (None, Some(nodes)) if !is_clusterwide => {
            faults.error(
                &nodes,
                "nodes belong to no namespace; use endpointSelector, or a CiliumClusterwideNetworkPolicy",
            );
            None
        }
        (None, Some(nodes)) => {
            let why = "policy for nodes themselves";
            unenforced.push(&nodes, why, "nodes stay as open as they are, and no pod is concerned", faults);
            selector::decode(&nodes, faults).map(Subject::Nodes)
        }
        (None, None) => {
            let or_nodes = if is_clusterwide { " (or nodeSelector)" } else { "" };
            if fields.get_or_null("endpointSelector").is_none()
                && fields.get_or_null("nodeSelector").is_none()
            {
                faults.error(
                    at,
                    format_args!(
                        "endpointSelector{or_nodes} is missing; {{}} selects every pod{}",
                        if is_clusterwide { "" } else { " of the namespace" }
                    ),
                );
            }
            None
        }
    }
}

/// Fields that say something to people and change nothing.
fn described(fields: &Fields<'_>, faults: &mut Faults) {
    if let Some(at) = fields.given("description", faults) {
        at.string(faults);
    }
    if let Some(at) = fields.given("labels", faults) {
        for item in at.items(faults) {
            let Some(label) = item.fields(&["key", "value", "source"], faults) else { continue };
            label.require("key", "the label's key", faults).and_then(|at| at.string(faults));
            label.string("value", faults);
            label.string("source", faults);
        }
    }
    if let Some(at) = fields.given("log", faults)
        && let Some(log) = at.fields(&["value"], faults)
        && let Some(at) = log.given("value", faults)
        && let Some(text) = at.string(faults)
        && (text.chars().count() > 32 || text.chars().any(char::is_control))
    {
        faults.error(&at, "is too long, or not printable; use up to 32 printable characters");
    }
}

fn peer_rule(at: &Cursor<'_>, context: Context, faults: &mut Faults) -> Option<CiliumPeerRule> {
    let fields = at.fields(peers::fields_of(context.section), faults)?;
    let mut unenforced = Unenforced::default();
    let peers = peers::decode(&fields, context, &mut unenforced, faults);
    let ports = match fields.given("toPorts", faults) {
        Some(at) => ports::to_ports(&at, context, &mut unenforced, faults),
        None => None,
    };
    let icmps = match fields.given("icmps", faults) {
        Some(at) => ports::icmps(&at, faults),
        None => None,
    };
    if ports.is_some()
        && icmps.is_some()
        && let Some(at) = fields.get("icmps")
    {
        faults.error(&at, "cannot stand beside toPorts; make two rules of them");
    }
    if let Some(at) = fields.given("authentication", faults) {
        authentication(&at, context, &mut unenforced, faults);
    }
    Some(CiliumPeerRule { path: at.path.clone(), peers: peers?, ports, icmps, not_enforced: unenforced.0 })
}

fn authentication(
    at: &Cursor<'_>,
    context: Context,
    unenforced: &mut Unenforced,
    faults: &mut Faults,
) -> Option<()> {
    let fields = at.fields(&["mode"], faults)?;
    let mode = fields.require("mode", "disabled, required or test-always-fail", faults)?;
    match mode.string(faults)? {
        "disabled" => {}
        "required" | "test-always-fail" => {
            unenforced.push(at, "authentication of the peer", context.effect(), faults);
        }
        other => faults
            .error(&mode, format_args!("{other:?} is no mode; use disabled, required or test-always-fail")),
    }
    Some(())
}

pub(super) fn decode_group(object: &Fields<'_>, faults: &mut Faults) -> Option<Object> {
    let meta = meta::decode(object, Scope::Cluster, validate::dns_subdomain, faults);
    let at = object.require("spec", "a mapping with externalCIDRs", faults)?;
    let spec = at.fields(&["externalCIDRs"], faults)?;
    let list = spec.require("externalCIDRs", "a list of CIDRs", faults)?;
    let mut cidrs: Vec<_> =
        list.items(faults).iter().filter_map(|item| peers::cidr_or_address(item, faults)).collect();
    cidrs.sort();
    cidrs.dedup();
    let meta = meta?;
    Some(Object::CiliumCidrGroup(CiliumCidrGroup { name: meta.name, labels: meta.labels, cidrs }))
}
