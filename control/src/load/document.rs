//! One document: which object or list it holds, who decodes it, and what is said of those that are not ours.

use super::decode::{Cursor, Fault, Faults};
use super::kinds::{self, Known, classify};
use super::tree::{Mark, Node, SyntaxError, Value};
use super::{FileReport, LoadError, LoadedObject, Place};
use super::{cilium, cluster, pod, policy};
use crate::objects::{Kind, Object, ObjectKey};
use std::path::Path;

pub(crate) fn load(file: &Path, document: Result<Node, SyntaxError>, report: &mut FileReport) {
    match document {
        Ok(node) => Loader { file, report }.document(&node),
        Err(error) => {
            report.has_unreadable = true;
            report.errors.push(LoadError {
                file: file.to_owned(),
                line: error.at.line,
                column: error.at.column,
                object: None,
                field: None,
                message: error.message,
            });
        }
    }
}

struct Loader<'a> {
    file: &'a Path,
    report: &'a mut FileReport,
}

impl Loader<'_> {
    fn document(&mut self, node: &Node) {
        self.object(node, None);
    }

    fn object(&mut self, node: &Node, implied: Option<(&str, &str)>) {
        let mut faults = Faults::default();
        let at = Cursor::root(node);
        let Value::Mapping(_) = &node.value else {
            let hint = match kinds::is_bare_rule_list(node) {
                true => {
                    " of bare Cilium rules, which have no name: make them the specs of a CiliumNetworkPolicy or a \
                     CiliumClusterwideNetworkPolicy"
                }
                false => "",
            };
            faults.error(&at, format_args!("expected a Kubernetes object, found {}{hint}", node.describe()));
            self.report.has_unreadable = true;
            return self.file_faults(faults, None, None);
        };
        let text = |name: &str, implied: Option<&str>, faults: &mut Faults| match node.get(name) {
            Some(value) if !value.is_null() => match value.as_str() {
                Some(text) => Some(text.to_owned()),
                None => {
                    faults.errors.push(fault(
                        value.at,
                        name,
                        format!("expected a string, found {}", value.describe()),
                    ));
                    None
                }
            },
            _ if implied.is_some() => implied.map(str::to_owned),
            _ => {
                faults.errors.push(fault(
                    node.at,
                    name,
                    "is missing; every Kubernetes object has one".to_owned(),
                ));
                None
            }
        };
        let api_version = text("apiVersion", implied.map(|(version, _)| version), &mut faults);
        let kind = text("kind", implied.map(|(_, kind)| kind), &mut faults);
        let (Some(api_version), Some(kind)) = (api_version, kind.clone()) else {
            self.report.has_unreadable = true;
            return self.file_faults(faults, kind.as_deref(), Some(node));
        };
        match classify(&api_version, &kind) {
            Known::Ours(our_kind) => self.ours(&at, our_kind, faults),
            Known::List(implied) => self.list(&at, &kind, implied, faults),
            Known::Skipped => {
                faults.skipped.push(fault(node.at, "kind", format!("{kind} is not policy; skipped")));
                self.file_faults(faults, Some(&kind), Some(node));
            }
            Known::NotEnforced => {
                let message = format!(
                    "{api_version} {kind} is not enforced yet: the object is refused, and nothing stands in for it"
                );
                faults.errors.push(fault(node.at, "kind", message));
                self.file_faults(faults, Some(&kind), Some(node));
            }
            Known::WrongVersion(right) => {
                faults.errors.push(fault(
                    node.at,
                    "apiVersion",
                    format!("{api_version:?} has no {kind}; use {right}"),
                ));
                self.report.has_unreadable = true;
                self.file_faults(faults, Some(&kind), Some(node));
            }
            Known::Unknown => {
                let message = format!("{api_version} has no kind {kind:?}; check the spelling of both");
                faults.errors.push(fault(node.at, "kind", message));
                self.report.has_unreadable = true;
                self.file_faults(faults, Some(&kind), Some(node));
            }
        }
    }

    fn ours(&mut self, at: &Cursor<'_>, kind: Kind, mut faults: Faults) {
        at.check_keys(&mut faults);
        let object = decode(at, kind, &mut faults);
        let sound = faults.errors.is_empty();
        match object {
            Some(object) if sound => {
                let place = Place { file: self.file.to_owned(), line: at.node.at.line };
                self.report.objects.push(LoadedObject { object, place });
            }
            _ => match key_of(at.node, kind) {
                Some(key) => self.report.refused.push(key),
                None => self.report.has_unreadable = true,
            },
        }
        self.file_faults(faults, Some(kind.name()), Some(at.node));
    }

    fn list(&mut self, at: &Cursor<'_>, kind: &str, implied: Option<(&str, &str)>, mut faults: Faults) {
        let fields = at.fields(&["apiVersion", "kind", "metadata", "items"], &mut faults);
        let items = fields.and_then(|fields| fields.require("items", "the list's objects", &mut faults));
        let items = items.map(|items| items.items(&mut faults)).unwrap_or_default();
        self.report.has_unreadable |= !faults.errors.is_empty();
        self.file_faults(faults, Some(kind), Some(at.node));
        for item in items {
            // Only flat lists exist; a list in a list would recurse.
            match item.node.get("kind").and_then(Node::as_str) {
                Some(inner) if inner == "List" || inner == kind => {
                    self.report.has_unreadable = true;
                    let mut faults = Faults::default();
                    faults.error(&item, "a list in a list; put its items into the outer one");
                    self.file_faults(faults, Some(kind), Some(at.node));
                }
                _ => self.object(item.node, implied),
            }
        }
    }

    /// Turns faults into errors that name the object.
    fn file_faults(&mut self, faults: Faults, kind: Option<&str>, node: Option<&Node>) {
        let object = kind.map(|kind| describe(kind, node));
        let place = |fault: Fault| LoadError {
            file: self.file.to_owned(),
            line: fault.at.line,
            column: fault.at.column,
            object: object.clone(),
            field: Some(fault.field).filter(|field| !field.is_empty()),
            message: fault.message,
        };
        let FileReport { errors, notices, skipped, .. } = &mut *self.report;
        let mut found: Vec<LoadError> = faults.errors.into_iter().map(place).collect();
        found.sort();
        found.dedup();
        errors.extend(found);
        notices.extend(faults.notices.into_iter().map(place));
        skipped.extend(faults.skipped.into_iter().map(place));
    }
}

fn decode(at: &Cursor<'_>, kind: Kind, faults: &mut Faults) -> Option<Object> {
    let fields = at.fields(kinds::top_level_fields(kind), faults)?;
    match kind {
        Kind::Namespace => pod::decode_namespace(&fields, faults),
        Kind::Pod => pod::decode_pod(&fields, faults),
        Kind::NetworkPolicy => policy::decode(&fields, faults),
        Kind::CiliumNetworkPolicy | Kind::CiliumClusterwideNetworkPolicy => {
            cilium::decode(&fields, kind, faults)
        }
        Kind::CiliumCidrGroup => cilium::decode_group(&fields, faults),
        Kind::Node => cluster::decode_node(&fields, faults),
        Kind::Service => cluster::decode_service(&fields, faults),
        Kind::EndpointSlice => cluster::decode_slice(&fields, faults),
    }
}

fn fault(at: Mark, field: &str, message: String) -> Fault {
    Fault { at, field: field.to_owned(), message }
}

/// Which object a broken one is, as far as it says so itself.
fn key_of(node: &Node, kind: Kind) -> Option<ObjectKey> {
    let meta = node.get("metadata")?;
    let name = meta.get("name").and_then(Node::as_str)?.to_owned();
    let namespace = match meta.get("namespace") {
        _ if !kind.is_namespaced() => String::new(),
        None => "default".to_owned(),
        Some(namespace) if namespace.is_null() => "default".to_owned(),
        Some(namespace) => namespace.as_str()?.to_owned(),
    };
    Some(ObjectKey { kind, namespace, name })
}

fn describe(kind: &str, node: Option<&Node>) -> String {
    let meta = node.and_then(|node| node.get("metadata"));
    let text = |name| meta.and_then(|meta| meta.get(name)).and_then(Node::as_str);
    match (text("namespace"), text("name")) {
        (Some(namespace), Some(name)) => format!("{kind} {namespace}/{name}"),
        (None, Some(name)) if !kinds::may_be_namespaced(kind) => format!("{kind} {name}"),
        (None, Some(name)) => format!("{kind} default/{name}"),
        (_, None) => format!("{kind} without a name"),
    }
}
