//! Text to a tree in which every node knows its line and column.
//!
//! One tree for YAML and JSON. Scalars keep their text and whether they were quoted: `"80"` and `80` are different things
//! to a decoder that must not guess, and so are `no` and `"no"`. Mappings keep their keys in order and keep duplicates, so
//! that the decoder can name them; a map type would have dropped one in silence.

/// A place in a file, both counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Mark {
    pub line: u32,
    pub column: u32,
}

#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub at: Mark,
    pub value: Value,
}

#[derive(Debug, Clone)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    /// A plain scalar that YAML reads as a number, as it is written.
    Number(String),
    String(String),
    Sequence(Vec<Node>),
    Mapping(Vec<(Key, Node)>),
}

#[derive(Debug, Clone)]
pub(crate) struct Key {
    pub at: Mark,
    pub text: String,
    /// Not written as a string: what YAML makes of it.
    pub not_a_string: Option<&'static str>,
}

/// The text cannot be read at all. Whatever stood in this document is unknown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SyntaxError {
    pub at: Mark,
    pub message: String,
}

/// Objects nest a dozen deep; deeper is an attack on whoever recurses.
pub(crate) const DEPTH_MAX: usize = 64;
/// Nodes of one document. A cluster's pods in one list, with all their managed fields, are a few millions.
pub(crate) const NODES_MAX: usize = 10_000_000;
/// Of those, the ones that aliases brought along, counted each time they are used.
pub(crate) const ALIASED_MAX: usize = 1_000_000;

impl Node {
    #[must_use]
    pub(crate) fn is_null(&self) -> bool {
        matches!(self.value, Value::Null)
    }

    /// What it is, for a message that says what it should have been.
    #[must_use]
    pub(crate) fn describe(&self) -> &'static str {
        match self.value {
            Value::Null => "null",
            Value::Bool(_) => "a boolean",
            Value::Number(_) => "a number",
            Value::String(_) => "a string",
            Value::Sequence(_) => "a list",
            Value::Mapping(_) => "a mapping",
        }
    }

    /// The value of a key of a mapping; the first where it is there twice.
    #[must_use]
    pub(crate) fn get(&self, name: &str) -> Option<&Node> {
        match &self.value {
            Value::Mapping(entries) => entries.iter().find(|(key, _)| key.text == name).map(|(_, node)| node),
            _ => None,
        }
    }

    #[must_use]
    pub(crate) fn as_str(&self) -> Option<&str> {
        match &self.value {
            Value::String(text) => Some(text),
            _ => None,
        }
    }
}

/// What a plain (unquoted) scalar is. Kubernetes' own tools read YAML 1.1, others read 1.2: whatever either of them takes
/// for something else than a string is not a string here, so that nothing is enforced that a cluster would read differently.
/// (`y` and `n`, which hardly any reader takes for booleans, stay strings.)
pub(crate) fn plain_scalar(text: String) -> Value {
    match text.as_str() {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "true" | "True" | "TRUE" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => Value::Bool(true),
        "false" | "False" | "FALSE" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => Value::Bool(false),
        _ if looks_like_a_number(&text) => Value::Number(text),
        _ => Value::String(text),
    }
}

fn looks_like_a_number(text: &str) -> bool {
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    if [".inf", ".Inf", ".INF", ".nan", ".NaN", ".NAN"].contains(&unsigned) {
        return true;
    }
    if !unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return false;
    }
    let digits = unsigned.replace('_', "");
    for (prefix, radix) in [("0x", 16), ("0o", 8), ("0b", 2)] {
        if let Some(rest) = digits.strip_prefix(prefix) {
            return !rest.is_empty() && rest.chars().all(|c| c.is_digit(radix));
        }
    }
    digits.parse::<f64>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_any_reader_takes_for_a_number_or_boolean_is_no_string() {
        for text in ["1", "-1", "0x1F", "017", "1_000", "1.5", "12e4567", ".inf", "+.5", "0b1"] {
            assert!(matches!(plain_scalar(text.to_owned()), Value::Number(_)), "{text}");
        }
        for text in ["yes", "Off", "true"] {
            assert!(matches!(plain_scalar(text.to_owned()), Value::Bool(_)), "{text}");
        }
        for text in ["1.2.3.4", "10.0.0.0/8", "y", "web", "infinity", "nan", "1a", "0xg", "-", "."] {
            assert!(matches!(plain_scalar(text.to_owned()), Value::String(_)), "{text}");
        }
    }
}
