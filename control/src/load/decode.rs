//! What every decoder needs: a cursor that knows its field path, and a list of everything that is wrong.
//!
//! Decoders do not stop at the first fault: an operator wants all of them in one run. They return `None` for what could not
//! be read, and an object counts only when nothing at all was said about it.

use super::tree::{Mark, Node, Value};
use std::collections::BTreeMap;
use std::fmt::Display;

/// One thing that is wrong with an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) at: Mark,
    pub(crate) field: String,
    pub(crate) message: String,
}

#[derive(Debug, Default)]
pub(crate) struct Faults {
    pub(crate) errors: Vec<Fault>,
    pub(crate) notices: Vec<Fault>,
    pub(crate) skipped: Vec<Fault>,
}

impl Faults {
    pub(crate) fn error(&mut self, at: &Cursor<'_>, message: impl Display) {
        self.errors.push(at.fault(message));
    }

    pub(crate) fn notice(&mut self, at: &Cursor<'_>, message: impl Display) {
        self.notices.push(at.fault(message));
    }
}

/// A node and the path that led to it.
#[derive(Debug, Clone)]
pub(crate) struct Cursor<'a> {
    pub(crate) node: &'a Node,
    pub(crate) path: String,
}

/// A mapping whose keys have been checked against the fields it may have.
pub(crate) struct Fields<'a> {
    at: Cursor<'a>,
}

impl<'a> Cursor<'a> {
    pub(crate) fn root(node: &'a Node) -> Self {
        Cursor { node, path: String::new() }
    }

    fn child(&self, name: &str, node: &'a Node) -> Cursor<'a> {
        // Keys that hold dots or slashes (labels) are quoted, or the path could be read in two ways.
        let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
        let path = match (self.path.is_empty(), plain) {
            (_, false) => format!("{}[{name:?}]", self.path),
            (true, true) => name.to_owned(),
            (false, true) => format!("{}.{name}", self.path),
        };
        Cursor { node, path }
    }

    fn fault(&self, message: impl Display) -> Fault {
        Fault { at: self.node.at, field: self.path.clone(), message: message.to_string() }
    }

    /// The fields of a mapping. `known` lists what it may have; anything else, twice the same, or a key that is no string
    /// is an error.
    pub(crate) fn fields(&self, known: &[&str], faults: &mut Faults) -> Option<Fields<'a>> {
        let Value::Mapping(entries) = &self.node.value else {
            faults.error(self, format_args!("expected a mapping, found {}", self.node.describe()));
            return None;
        };
        for (key, node) in entries {
            if !known.contains(&key.text.as_str()) {
                let message = unknown_field(&key.text, known, &self.path, node.is_null());
                faults.errors.push(Fault { at: key.at, field: self.child(&key.text, node).path, message });
            }
        }
        Some(Fields { at: self.clone() })
    }

    pub(crate) fn items(&self, faults: &mut Faults) -> Vec<Cursor<'a>> {
        match &self.node.value {
            Value::Null => Vec::new(),
            Value::Sequence(items) => items
                .iter()
                .enumerate()
                .map(|(index, node)| Cursor { node, path: format!("{}[{index}]", self.path) })
                .collect(),
            _ => {
                faults.error(self, format_args!("expected a list, found {}", self.node.describe()));
                Vec::new()
            }
        }
    }

    pub(crate) fn string(&self, faults: &mut Faults) -> Option<&'a str> {
        match &self.node.value {
            Value::String(text) => Some(text),
            Value::Number(text) => {
                faults.error(
                    self,
                    format_args!("expected a string, found the number {text}; write it in quotes"),
                );
                None
            }
            Value::Bool(_) => {
                faults.error(self, "expected a string, found a boolean (yes, no, on and off are booleans in YAML); write it in quotes");
                None
            }
            _ => {
                faults.error(self, format_args!("expected a string, found {}", self.node.describe()));
                None
            }
        }
    }

    /// A whole number written in decimal, within bounds.
    pub(crate) fn number(&self, low: u32, high: u32, faults: &mut Faults) -> Option<u32> {
        let Value::Number(text) = &self.node.value else {
            faults.error(self, format_args!("expected a number, found {}", self.node.describe()));
            return None;
        };
        match text.parse::<u32>() {
            Ok(number) if (low..=high).contains(&number) && number.to_string() == *text => Some(number),
            _ => {
                faults.error(
                    self,
                    format_args!("{text} is out of range; use a whole number from {low} to {high}"),
                );
                None
            }
        }
    }

    pub(crate) fn boolean(&self, faults: &mut Faults) -> Option<bool> {
        match &self.node.value {
            Value::Bool(value) => Some(*value),
            _ => {
                faults.error(self, format_args!("expected true or false, found {}", self.node.describe()));
                None
            }
        }
    }

    /// A port number, 1-65535, written in decimal.
    pub(crate) fn port(&self, faults: &mut Faults) -> Option<u16> {
        let Value::Number(text) = &self.node.value else {
            faults.error(self, format_args!("expected a port number, found {}", self.node.describe()));
            return None;
        };
        match text.parse::<u16>() {
            // `080` is octal to some readers and decimal to others.
            Ok(port) if port > 0 && port.to_string() == *text => Some(port),
            _ => {
                faults.error(self, format_args!("{text} is no port; use a decimal number from 1 to 65535"));
                None
            }
        }
    }

    /// A mapping of strings to strings.
    pub(crate) fn string_map(&self, faults: &mut Faults) -> BTreeMap<String, String> {
        self.entries(faults)
            .into_iter()
            .filter_map(|(key, value)| Some((key.to_owned(), value.string(faults)?.to_owned())))
            .collect()
    }

    /// The entries of a mapping whose keys are data. Null is empty.
    pub(crate) fn entries(&self, faults: &mut Faults) -> Vec<(&'a str, Cursor<'a>)> {
        match &self.node.value {
            Value::Null => Vec::new(),
            Value::Mapping(entries) => {
                entries.iter().map(|(key, node)| (key.text.as_str(), self.child(&key.text, node))).collect()
            }
            _ => {
                faults.error(self, format_args!("expected a mapping, found {}", self.node.describe()));
                Vec::new()
            }
        }
    }

    /// Says of every field below that is null what that means: an editor that lost the lines under a key leaves one behind,
    /// and what they would have restricted is then open.
    pub(crate) fn notice_nulls(&self, faults: &mut Faults) {
        match &self.node.value {
            Value::Sequence(_) => self.items(faults).iter().for_each(|item| item.notice_nulls(faults)),
            Value::Mapping(entries) => {
                for (key, node) in entries {
                    let child = self.child(&key.text, node);
                    if node.is_null() {
                        faults.notice(&child, "is null, which is the same as not set: it restricts nothing");
                    }
                    child.notice_nulls(faults);
                }
            }
            _ => {}
        }
    }

    /// Duplicate keys and keys that are no strings, here and everywhere below, also in fields nobody reads.
    pub(crate) fn check_keys(&self, faults: &mut Faults) {
        match &self.node.value {
            Value::Sequence(_) => self.items(faults).iter().for_each(|item| item.check_keys(faults)),
            Value::Mapping(entries) => {
                let mut seen: BTreeMap<&str, Mark> = BTreeMap::new();
                for (key, node) in entries {
                    let child = self.child(&key.text, node);
                    let mut fault = |message| {
                        faults.errors.push(Fault { at: key.at, field: child.path.clone(), message })
                    };
                    if let Some(what) = key.not_a_string {
                        fault(format!("this key is {what} to YAML; write it in quotes"));
                    }
                    if let Some(first) = seen.insert(&key.text, key.at) {
                        fault(format!(
                            "stands twice in this mapping, first in line {}; keep one",
                            first.line
                        ));
                    }
                    child.check_keys(faults);
                }
            }
            _ => {}
        }
    }
}

impl<'a> Fields<'a> {
    /// The field if it is there and not null: to the API the two are the same.
    pub(crate) fn get(&self, name: &str) -> Option<Cursor<'a>> {
        self.get_or_null(name).filter(|cursor| !cursor.node.is_null())
    }

    pub(crate) fn get_or_null(&self, name: &str) -> Option<Cursor<'a>> {
        self.at.node.get(name).map(|node| self.at.child(name, node))
    }

    /// The field if it is there. Null is an error, as it is to the API server for custom resources: a list whose items went
    /// astray must not pass for one that was never there.
    pub(crate) fn given(&self, name: &str, faults: &mut Faults) -> Option<Cursor<'a>> {
        let found = self.get_or_null(name)?;
        if found.node.is_null() {
            faults
                .error(&found, "is null; give it a value or remove it. Is what follows indented too little?");
            return None;
        }
        Some(found)
    }

    /// The field, or an error that says it is missing.
    pub(crate) fn require(&self, name: &str, what: &str, faults: &mut Faults) -> Option<Cursor<'a>> {
        let found = self.get_or_null(name);
        match found {
            Some(cursor) if !cursor.node.is_null() => Some(cursor),
            Some(cursor) => {
                faults.error(
                    &cursor,
                    format_args!("is null; it must be {what}. Is what follows indented too little?"),
                );
                None
            }
            None => {
                faults
                    .error(&self.at.child(name, self.at.node), format_args!("is missing; it must be {what}"));
                None
            }
        }
    }

    pub(crate) fn string(&self, name: &str, faults: &mut Faults) -> Option<&'a str> {
        self.get(name)?.string(faults)
    }

    /// Says at a field that is not there what is wrong with that.
    pub(crate) fn missing(&self, name: &str, message: &str, faults: &mut Faults) {
        faults.error(&self.at.child(name, self.at.node), message);
    }
}

fn unknown_field(name: &str, known: &[&str], path: &str, is_null: bool) -> String {
    let lost_indent = "its line is indented too little, or too much";
    if let Some(similar) = known.iter().find(|k| k.eq_ignore_ascii_case(name) || one_edit_apart(k, name)) {
        return format!("unknown field; did you mean {similar}?");
    }
    let belongs_to = match name {
        "podSelector" | "policyTypes" | "ingress" | "egress" | "endpointSelector" | "nodeSelector"
        | "ingressDeny" | "egressDeny" | "enableDefaultDeny"
            if path.is_empty() =>
        {
            Some("spec")
        }
        "name" | "namespace" | "labels" | "annotations" if path.is_empty() => Some("metadata"),
        "matchLabels" | "matchExpressions" => Some("a selector"),
        "from" | "to" | "ports" => Some("a rule of ingress or egress"),
        "podSelector" | "namespaceSelector" | "ipBlock" => Some("an item of from or to"),
        "cidr" | "except" => Some("ipBlock, or an item of toCIDRSet or fromCIDRSet"),
        "fromEndpoints" | "fromCIDR" | "fromCIDRSet" | "fromEntities" => Some("an item of ingress"),
        "toEndpoints" | "toCIDR" | "toCIDRSet" | "toEntities" | "toServices" | "toFQDNs" => {
            Some("an item of egress")
        }
        "toPorts" | "icmps" => Some("an item of ingress or egress"),
        "rules" | "serverNames" => Some("an item of toPorts"),
        "http" | "dns" | "kafka" => Some("rules, in an item of toPorts"),
        "description" if path == "metadata" => Some("a rule in spec or specs"),
        "auth" => return "unknown field; it was renamed: use authentication".to_owned(),
        _ => None,
    };
    match belongs_to {
        Some(owner) => format!("unknown field here; it belongs to {owner}: {lost_indent}"),
        None if is_null || known.is_empty() => format!("unknown field; perhaps {lost_indent}"),
        None if known.len() <= 8 => format!("unknown field; known here: {}", known.join(", ")),
        None => "unknown field".to_owned(),
    }
}

/// One character more, less or other.
fn one_edit_apart(a: &str, b: &str) -> bool {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let same_start = a.iter().zip(&b).take_while(|(x, y)| x == y).count();
    let rest = |v: &[char], skip: usize| v.get(same_start + skip..).map(<[char]>::to_vec);
    a.len().min(b.len()) > 2
        && (rest(&a, 1) == rest(&b, 1) || rest(&a, 1) == rest(&b, 0) || rest(&a, 0) == rest(&b, 1))
}
