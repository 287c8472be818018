//! Where in a file does a field stand? For those who find something wrong with an object long after it was read.

use super::tree::{Mark, Node, Value};
use super::{Place, json, read_text, yaml};
use std::collections::HashMap;
use std::path::PathBuf;

/// Remembers the files it has read.
#[derive(Debug, Default)]
pub(crate) struct Locator {
    documents: HashMap<PathBuf, Vec<Node>>,
}

impl Locator {
    /// Line and column of a field of the object at a place; of the deepest thing above it where the field is not there.
    pub(crate) fn locate(&mut self, place: &Place, field: &str) -> (u32, u32) {
        let documents = self.documents.entry(place.file.clone()).or_insert_with(|| {
            let text = read_text(&place.file).unwrap_or_default();
            let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
            let parsed = match place.file.extension().is_some_and(|extension| extension == "json") {
                true => json::parse(text),
                false => yaml::parse(text),
            };
            parsed.into_iter().flatten().collect()
        });
        let object = documents.iter().find_map(|document| object_at(document, place.line));
        let mark = object.map_or(Mark { line: place.line, column: 1 }, |object| deepest(object, field));
        (mark.line, mark.column)
    }

    /// Is the field there?
    pub(crate) fn has(&mut self, place: &Place, field: &str) -> bool {
        // Reads the file where nobody has yet.
        self.locate(place, "");
        let documents = self.documents.get(&place.file).map(Vec::as_slice).unwrap_or_default();
        let object = documents.iter().find_map(|document| object_at(document, place.line));
        object.is_some_and(|object| steps(field).try_fold(object, step).is_some())
    }
}

/// The document that begins at this line, or the item of a list that does.
fn object_at(document: &Node, line: u32) -> Option<&Node> {
    if document.at.line == line && document.get("items").is_none() {
        return Some(document);
    }
    match document.get("items").map(|items| &items.value) {
        Some(Value::Sequence(items)) => items.iter().find(|item| item.at.line == line),
        _ => (document.at.line == line).then_some(document),
    }
}

fn deepest(object: &Node, field: &str) -> Mark {
    let mut node = object;
    for name in steps(field) {
        match step(node, name) {
            Some(next) => node = next,
            None => break,
        }
    }
    node.at
}

/// `spec.ingress[0]` is `spec`, `ingress`, `0`.
fn steps(field: &str) -> impl Iterator<Item = &str> {
    field.split(['.', '[']).map(|step| step.trim_end_matches(']')).filter(|step| !step.is_empty())
}

fn step<'n>(node: &'n Node, name: &str) -> Option<&'n Node> {
    match &node.value {
        Value::Sequence(items) => items.get(name.parse::<usize>().ok()?),
        _ => node.get(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_in_documents_and_in_items_of_lists() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.yaml");
        let text =
            "a: 1\n---\nkind: List\nitems:\n- kind: x\n  spec:\n    ingress:\n    - {}\n    - from: [1, 2]\n";
        std::fs::write(&file, text).unwrap();
        let place = Place { file, line: 5 };
        let mut locator = Locator::default();
        assert_eq!(locator.locate(&place, "spec.ingress[1].from[1]"), (9, 17));
        assert_eq!(locator.locate(&place, "spec.ingress[1].to[1]"), (9, 7));
        assert!(locator.has(&place, "spec.ingress[1].from") && !locator.has(&place, "spec.ingress[2]"));
        assert_eq!(locator.locate(&Place { file: "nowhere.yaml".into(), line: 3 }, "spec"), (3, 1));
    }
}
