//! `metadata`, which all kinds share, and label selectors, which policies are made of.

use super::decode::{Cursor, Faults, Fields};
use super::names::fields_of;
use super::validate;
use crate::objects::{LabelSelector, Labels, Operator, Requirement};
use ipnet::IpNet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// What we take from `metadata`.
#[derive(Debug, Default)]
pub(crate) struct Meta {
    /// `default` where a namespaced object names none; empty for cluster-wide kinds.
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uid: Option<String>,
    pub(crate) labels: Labels,
    pub(crate) deleting: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    Cluster,
    Namespaced,
}

/// Takes the scope of the kind and the rule its names obey.
pub(crate) fn decode(
    object: &Fields<'_>,
    scope: Scope,
    name_rule: fn(&str) -> Result<(), String>,
    faults: &mut Faults,
) -> Option<Meta> {
    let at = object.require("metadata", "a mapping with the object's name", faults)?;
    let fields = at.fields(fields_of::<ObjectMeta>(), faults)?;
    let mut meta = Meta { deleting: fields.get("deletionTimestamp").is_some(), ..Meta::default() };
    if let Some(name) = fields.require("name", "the object's name", faults) {
        meta.name = checked(&name, name_rule, faults).unwrap_or_default();
    }
    match (scope, fields.get("namespace")) {
        (Scope::Namespaced, None) => meta.namespace = "default".to_owned(),
        (Scope::Namespaced, Some(at)) => {
            meta.namespace = checked(&at, validate::dns_label, faults).unwrap_or_default();
        }
        (Scope::Cluster, Some(at)) => faults.error(&at, "this kind has no namespace; remove the field"),
        (Scope::Cluster, None) => {}
    }
    for (name, meaning) in [("namespace", "the object is in default"), ("labels", "the object has none")] {
        if let Some(at) = fields.get_or_null(name).filter(|at| at.node.is_null()) {
            faults.notice(&at, format_args!("is null, which is the same as not set: {meaning}"));
        }
    }
    meta.uid = fields.string("uid", faults).map(str::to_owned);
    if let Some(at) = fields.get("labels") {
        meta.labels = labels(&at, faults);
    }
    if let Some(at) = fields.get("annotations") {
        at.string_map(faults);
    }
    Some(meta)
}

/// A string that obeys a rule.
pub(crate) fn checked(
    at: &Cursor<'_>,
    rule: fn(&str) -> Result<(), String>,
    faults: &mut Faults,
) -> Option<String> {
    let text = at.string(faults)?;
    match rule(text) {
        Ok(()) => Some(text.to_owned()),
        Err(message) => {
            faults.error(at, message);
            None
        }
    }
}

/// A CIDR with its host bits cleared, which is said.
pub(crate) fn cidr(at: &Cursor<'_>, faults: &mut Faults) -> Option<IpNet> {
    match validate::cidr(at.string(faults)?) {
        Ok((net, masked)) => {
            if masked {
                faults.notice(at, format_args!("has bits set beyond its prefix length; read as {net}"));
            }
            Some(net)
        }
        Err(message) => {
            faults.error(at, message);
            None
        }
    }
}

/// A mapping of labels.
pub(crate) fn labels(at: &Cursor<'_>, faults: &mut Faults) -> Labels {
    let mut labels = Labels::new();
    for (key, value) in at.entries(faults) {
        if let Err(message) = validate::label_key(key) {
            faults.error(&value, message);
        }
        if let Some(text) = checked(&value, validate::label_value, faults) {
            labels.insert(key.to_owned(), text);
        }
    }
    labels
}

/// A selector. Null and `{}` select everything; whether an absent one does is the caller's question.
pub(crate) fn selector(at: &Cursor<'_>, faults: &mut Faults) -> Option<LabelSelector> {
    let mut selector = LabelSelector::everything();
    if at.node.is_null() {
        return Some(selector);
    }
    let fields = at.fields(&["matchLabels", "matchExpressions"], faults)?;
    if let Some(at) = fields.get("matchLabels") {
        selector.requirements.extend(labels(&at, faults).into_iter().map(|(key, value)| Requirement {
            key,
            operator: Operator::In,
            values: vec![value],
        }));
    }
    if let Some(at) = fields.get("matchExpressions") {
        selector.requirements.extend(at.items(faults).iter().filter_map(|item| requirement(item, faults)));
    }
    Some(selector)
}

fn requirement(at: &Cursor<'_>, faults: &mut Faults) -> Option<Requirement> {
    let (key, operator, values) =
        expression(at, Spelling::Exact, |at, faults| checked(at, validate::label_key, faults), faults)?;
    Some(Requirement { key, operator, values })
}

/// How an operator must be spelt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Spelling {
    Exact,
    /// In any case, which is said: Cilium's own examples have `in`.
    AnyCase,
}

fn operator(at: &Cursor<'_>, spelling: Spelling, faults: &mut Faults) -> Option<Operator> {
    const KNOWN: [(&str, Operator); 4] = [
        ("In", Operator::In),
        ("NotIn", Operator::NotIn),
        ("Exists", Operator::Exists),
        ("DoesNotExist", Operator::DoesNotExist),
    ];
    let text = at.string(faults)?;
    match KNOWN.iter().find(|(name, _)| name.eq_ignore_ascii_case(text)) {
        Some((name, operator)) if *name == text => Some(*operator),
        Some((name, operator)) if spelling == Spelling::AnyCase => {
            faults.notice(
                at,
                format_args!("{text:?} is read as {name}; an API server takes only that spelling"),
            );
            Some(*operator)
        }
        _ => {
            faults.error(
                at,
                format_args!("{text:?} is no operator; use In, NotIn, Exists or DoesNotExist, spelt so"),
            );
            None
        }
    }
}

/// An item of `matchExpressions`, whatever its keys look like.
pub(crate) fn expression<'a, K>(
    at: &Cursor<'a>,
    spelling: Spelling,
    key: impl FnOnce(&Cursor<'a>, &mut Faults) -> Option<K>,
    faults: &mut Faults,
) -> Option<(K, Operator, Vec<String>)> {
    let fields = at.fields(&["key", "operator", "values"], faults)?;
    let key = fields.require("key", "a label key", faults).and_then(|at| key(&at, faults));
    let operator = fields
        .require("operator", "one of In, NotIn, Exists, DoesNotExist", faults)
        .and_then(|at| operator(&at, spelling, faults));
    let mut values = Vec::new();
    if let Some(at) = fields.get("values") {
        for item in at.items(faults) {
            values.extend(checked(&item, validate::label_value, faults));
        }
    }
    let has_values = fields.get("values").is_some_and(|at| !at.items(&mut Faults::default()).is_empty());
    let (key, operator) = (key?, operator?);
    match operator {
        Operator::In | Operator::NotIn if !has_values => {
            faults.error(at, format_args!("{operator:?} needs at least one value in values"));
        }
        Operator::Exists | Operator::DoesNotExist if has_values => {
            faults.error(at, format_args!("{operator:?} takes no values; remove them or use In or NotIn"));
        }
        _ => {}
    }
    Some((key, operator, values))
}
