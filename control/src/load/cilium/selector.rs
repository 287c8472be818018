//! Selectors over labels that know their source: `k8s:app`, `any:app`, `reserved:host`.

use super::super::decode::{Cursor, Faults, Fields};
use super::super::meta::{self, checked};
use super::super::validate;
use crate::objects::{
    CiliumPolicy, CiliumRequirement, CiliumSelector, LabelSelector, LabelSource, NAMESPACE_LABELS_PREFIX,
    Operator, POD_NAMESPACE_LABEL, Subject,
};

/// What reserved labels there are; another one is nobody's.
const RESERVED: &[&str] = &[
    "all",
    "host",
    "remote-node",
    "world",
    "world-ipv4",
    "world-ipv6",
    "health",
    "init",
    "ingress",
    "kube-apiserver",
    "none",
    "unmanaged",
    "unknown",
];

/// A selector. `{}` selects everything it may.
pub(super) fn decode(at: &Cursor<'_>, faults: &mut Faults) -> Option<CiliumSelector> {
    let fields = at.fields(&["matchLabels", "matchExpressions"], faults)?;
    let mut requirements = Vec::new();
    if let Some(at) = fields.given("matchLabels", faults) {
        for (key, value) in at.entries(faults) {
            let source = label(key, &value, faults);
            let text = checked(&value, validate::label_value, faults);
            if let (Some((source, key)), Some(text)) = (source, text) {
                requirements.push(CiliumRequirement {
                    source,
                    key,
                    operator: Operator::In,
                    values: vec![text],
                });
            }
        }
    }
    if let Some(at) = fields.given("matchExpressions", faults) {
        for item in at.items(faults) {
            let key = |at: &Cursor<'_>, faults: &mut Faults| label(at.string(faults)?, at, faults);
            let found = meta::expression(&item, meta::Spelling::AnyCase, key, faults);
            requirements.extend(found.map(|((source, key), operator, values)| CiliumRequirement {
                source,
                key,
                operator,
                values,
            }));
        }
    }
    Some(CiliumSelector { requirements })
}

/// The selector of a rule's subject. Pods have no labels of addresses or DNS names: not to have one is true of all of them.
pub(super) fn subject(at: &Cursor<'_>, faults: &mut Faults) -> Option<CiliumSelector> {
    let mut selector = decode(at, faults)?;
    let is_of_peers =
        |requirement: &CiliumRequirement| matches!(requirement.source, LabelSource::Cidr | LabelSource::Fqdn);
    if selector.requirements.iter().any(is_of_peers) {
        faults.notice(at, "asks for cidr: or fqdn: labels, which no pod has");
    }
    let is_always_true = |requirement: &CiliumRequirement| {
        is_of_peers(requirement) && matches!(requirement.operator, Operator::NotIn | Operator::DoesNotExist)
    };
    selector.requirements.retain(|requirement| !is_always_true(requirement));
    Some(selector)
}

/// A selector over the labels of objects that are no endpoints: those have no sources.
pub(super) fn plain(at: &Cursor<'_>, faults: &mut Faults) -> Option<LabelSelector> {
    let fields = at.fields(&["matchLabels", "matchExpressions"], faults)?;
    fields.given("matchLabels", faults);
    fields.given("matchExpressions", faults);
    meta::selector(at, faults)
}

/// A key and where it says the label comes from. `at` is where errors point to.
fn label(text: &str, at: &Cursor<'_>, faults: &mut Faults) -> Option<(LabelSource, String)> {
    let (source, key) = split(text);
    let problem = match &source {
        LabelSource::Any | LabelSource::K8s => {
            let own = key.strip_prefix(NAMESPACE_LABELS_PREFIX).unwrap_or(key);
            validate::label_key(own).err()
        }
        LabelSource::Reserved => {
            if !RESERVED.contains(&key) {
                faults.notice(
                    at,
                    format_args!("no label reserved:{key} exists; known are {}", RESERVED.join(", ")),
                );
            }
            validate::dns_label(key).err()
        }
        // An address cannot be written with ':' here.
        LabelSource::Cidr => validate::cidr(&key.replace('-', ":")).err(),
        LabelSource::Fqdn => (!super::peers::is_name_pattern(key)).then(|| format!("{key:?} is no DNS name")),
        LabelSource::Other(source) => {
            faults.notice(
                at,
                format_args!("nothing here has labels of the source {source:?}; did you mean k8s:{key}?"),
            );
            validate::label_key(key).err()
        }
    };
    match problem {
        Some(problem) => {
            faults.error(at, problem);
            None
        }
        None => Some((source, key.to_owned())),
    }
}

/// The source is what stands before the first ':'. `$host` and `reserved.host` are old spellings of `reserved:host`.
fn split(text: &str) -> (LabelSource, &str) {
    if let Some(key) = text.strip_prefix('$') {
        return (LabelSource::Reserved, key);
    }
    let Some((source, key)) = text.split_once(':') else {
        return match text.strip_prefix("reserved.") {
            Some(key) => (LabelSource::Reserved, key),
            None => (LabelSource::Any, text),
        };
    };
    let source = match source {
        "" | "any" => LabelSource::Any,
        "k8s" => LabelSource::K8s,
        "reserved" => LabelSource::Reserved,
        "cidr" => LabelSource::Cidr,
        "fqdn" => LabelSource::Fqdn,
        other => LabelSource::Other(other.to_owned()),
    };
    (source, key)
}

/// A namespaced policy selects pods of its own namespace, whatever its selector says.
pub(super) fn warn_of_other_namespaces(object: &Fields<'_>, policy: &CiliumPolicy, faults: &mut Faults) {
    let names_another = policy.rules.iter().any(|rule| match &rule.subject {
        Subject::Endpoints(selector) => selector.requirements.iter().any(|requirement| {
            requirement.key == POD_NAMESPACE_LABEL
                && matches!(requirement.source, LabelSource::Any | LabelSource::K8s)
                && requirement.operator == Operator::In
                && !requirement.values.contains(&policy.namespace)
        }),
        Subject::Nodes(_) => false,
    });
    if names_another && let Some(at) = object.get("spec").or_else(|| object.get("specs")) {
        faults.notice(
            &at,
            format_args!(
                "an endpointSelector asks for pods of another namespace than {:?}, the policy's own: it selects nothing",
                policy.namespace
            ),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_source_is_what_stands_before_the_first_colon() {
        for (text, source, key) in [
            ("app", LabelSource::Any, "app"),
            ("any:app", LabelSource::Any, "app"),
            (":app", LabelSource::Any, "app"),
            ("k8s:app", LabelSource::K8s, "app"),
            ("k8s.app", LabelSource::Any, "k8s.app"),
            ("reserved:host", LabelSource::Reserved, "host"),
            ("reserved.host", LabelSource::Reserved, "host"),
            ("$host", LabelSource::Reserved, "host"),
            ("cidr:10.0.0.0/8", LabelSource::Cidr, "10.0.0.0/8"),
            ("container:a:b", LabelSource::Other("container".to_owned()), "a:b"),
        ] {
            assert_eq!(split(text), (source, key), "{text}");
        }
    }
}
