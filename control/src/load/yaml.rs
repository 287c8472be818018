//! YAML to trees, one per document.
//!
//! The stream is cut at its `---` lines before anything is parsed: a document that cannot be read then hides none of the
//! others. Anchors and aliases work within a document and within a budget; merge keys (`<<`) are unknown fields like any.

use super::tree::{ALIASED_MAX, DEPTH_MAX, Key, Mark, NODES_MAX, Node, SyntaxError, Value, plain_scalar};
use saphyr_parser::{Event, Parser, ScalarStyle, Span, Tag};
use std::borrow::Cow;
use std::collections::HashMap;

/// Every document of the text, readable or not, in order. Empty documents are left out.
pub(crate) fn parse(text: &str) -> Vec<Result<Node, SyntaxError>> {
    let mut documents = Vec::new();
    for (first_line, part) in split(text) {
        match parse_part(part, first_line) {
            Ok(nodes) => documents.extend(nodes.into_iter().filter(|node| !node.is_null()).map(Ok)),
            Err(error) => documents.push(Err(error)),
        }
    }
    documents
}

/// Cuts at document markers; yields the number of the part's first line, from 0, and the part with its marker.
fn split(text: &str) -> Vec<(u32, &str)> {
    let mut parts = Vec::new();
    let (mut start, mut start_line, mut offset) = (0, 0, 0);
    for (line_number, line) in text.split_inclusive('\n').enumerate() {
        let is_marker = line
            .strip_prefix("---")
            .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\n', '\r']));
        if is_marker && offset > start {
            parts.push((start_line, &text[start..offset]));
            (start, start_line) = (offset, line_number as u32);
        }
        offset += line.len();
    }
    parts.push((start_line, &text[start..]));
    // Directives (%YAML) stand before a marker and are no document of their own.
    parts.retain(|(_, part)| {
        part.lines().any(|line| {
            !line.trim().is_empty() && !line.trim_start().starts_with('#') && !line.starts_with('%')
        })
    });
    parts
}

/// A collection that is being filled.
struct Open {
    at: Mark,
    anchor: usize,
    content: Content,
}

enum Content {
    Sequence(Vec<Node>),
    Mapping { entries: Vec<(Key, Node)>, key: Option<Key> },
}

struct Builder {
    first_line: u32,
    open: Vec<Open>,
    anchors: HashMap<usize, (Node, usize)>,
    nodes: usize,
    aliased: usize,
    documents: Vec<Node>,
}

fn parse_part(part: &str, first_line: u32) -> Result<Vec<Node>, SyntaxError> {
    let mut builder = Builder {
        first_line,
        open: Vec::new(),
        anchors: HashMap::new(),
        nodes: 0,
        aliased: 0,
        documents: Vec::new(),
    };
    let mut parser = Parser::new_from_str(part);
    while let Some(event) = parser.next_event() {
        let (event, span) = event.map_err(|error| SyntaxError {
            at: builder.mark_of(error.marker().line(), error.marker().col()),
            message: format!("this is not YAML: {}", error.info()),
        })?;
        builder.take(event, span)?;
    }
    Ok(builder.documents)
}

impl Builder {
    fn mark_of(&self, line: usize, column: usize) -> Mark {
        Mark { line: self.first_line + line as u32, column: column as u32 + 1 }
    }

    fn take(&mut self, event: Event<'_>, span: Span) -> Result<(), SyntaxError> {
        let at = self.mark_of(span.start.line(), span.start.col());
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let node = Node { at, value: scalar(&text, style, tag.as_ref(), at)? };
                self.finish(node, anchor, 1)
            }
            Event::SequenceStart(anchor, tag) => {
                refuse_tag(tag.as_ref(), "seq", at)?;
                self.begin(Open { at, anchor, content: Content::Sequence(Vec::new()) })
            }
            Event::MappingStart(anchor, tag) => {
                refuse_tag(tag.as_ref(), "map", at)?;
                self.begin(Open { at, anchor, content: Content::Mapping { entries: Vec::new(), key: None } })
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let Some(open) = self.open.pop() else { return Ok(()) };
                let value = match open.content {
                    Content::Sequence(items) => Value::Sequence(items),
                    Content::Mapping { entries, .. } => Value::Mapping(entries),
                };
                self.finish(Node { at: open.at, value }, open.anchor, 1)
            }
            Event::Alias(anchor) => {
                let Some((node, size)) = self.anchors.get(&anchor).cloned() else {
                    return Err(SyntaxError {
                        at,
                        message: "an alias to an anchor that is still open".to_owned(),
                    });
                };
                self.aliased += size;
                self.finish(Node { at, value: node.value }, 0, size)
            }
            _ => Ok(()),
        }
    }

    fn begin(&mut self, open: Open) -> Result<(), SyntaxError> {
        if self.open.len() >= DEPTH_MAX {
            return Err(SyntaxError { at: open.at, message: format!("nested more than {DEPTH_MAX} deep") });
        }
        self.open.push(open);
        Ok(())
    }

    fn finish(&mut self, node: Node, anchor: usize, size: usize) -> Result<(), SyntaxError> {
        self.nodes += size;
        let is_too_much = self.nodes > NODES_MAX || self.aliased > ALIASED_MAX;
        // An alias brings the depth of what it names along.
        if is_too_much || (size > 1 && self.open.len() + depth(&node) > DEPTH_MAX) {
            return Err(SyntaxError {
                at: node.at,
                message: format!(
                    "more than {NODES_MAX} nodes, {ALIASED_MAX} of them by aliases, or {DEPTH_MAX} levels; split it"
                ),
            });
        }
        if anchor != 0 {
            self.anchors.insert(anchor, (node.clone(), count(&node)));
        }
        match self.open.last_mut().map(|open| &mut open.content) {
            None => self.documents.push(node),
            Some(Content::Sequence(items)) => items.push(node),
            Some(Content::Mapping { entries, key }) => match key.take() {
                Some(key) => entries.push((key, node)),
                None => *key = Some(as_key(node)?),
            },
        }
        Ok(())
    }
}

fn count(node: &Node) -> usize {
    1 + match &node.value {
        Value::Sequence(items) => items.iter().map(count).sum(),
        Value::Mapping(entries) => entries.iter().map(|(_, node)| count(node)).sum(),
        _ => 0,
    }
}

fn depth(node: &Node) -> usize {
    1 + match &node.value {
        Value::Sequence(items) => items.iter().map(depth).max().unwrap_or(0),
        Value::Mapping(entries) => entries.iter().map(|(_, node)| depth(node)).max().unwrap_or(0),
        _ => 0,
    }
}

fn as_key(node: Node) -> Result<Key, SyntaxError> {
    let at = node.at;
    let key = |text: &str, not_a_string| Key { at, text: text.to_owned(), not_a_string };
    match &node.value {
        Value::String(text) => Ok(key(text, None)),
        // A whole number is the same text to every reader.
        Value::Number(text) if text.parse::<u64>().is_ok_and(|n| n.to_string() == *text) => {
            Ok(key(text, None))
        }
        Value::Number(text) => Ok(key(text, Some("a number"))),
        Value::Bool(value) => Ok(key(&value.to_string(), Some("a boolean"))),
        Value::Null => Ok(key("null", Some("null"))),
        Value::Sequence(_) | Value::Mapping(_) => {
            Err(SyntaxError { at, message: format!("{} cannot be a key", node.describe()) })
        }
    }
}

fn scalar(
    text: &str,
    style: ScalarStyle,
    tag: Option<&Cow<'_, Tag>>,
    at: Mark,
) -> Result<Value, SyntaxError> {
    match tag {
        Some(tag) if tag.is_yaml_core_schema() && tag.suffix == "str" => Ok(Value::String(text.to_owned())),
        Some(_) => Err(unknown_tag(at)),
        None if style == ScalarStyle::Plain => Ok(plain_scalar(text.to_owned())),
        None => Ok(Value::String(text.to_owned())),
    }
}

fn refuse_tag(tag: Option<&Cow<'_, Tag>>, allowed: &str, at: Mark) -> Result<(), SyntaxError> {
    match tag {
        Some(tag) if !(tag.is_yaml_core_schema() && tag.suffix == allowed) => Err(unknown_tag(at)),
        _ => Ok(()),
    }
}

fn unknown_tag(at: Mark) -> SyntaxError {
    SyntaxError { at, message: "YAML tags are not used in Kubernetes objects; remove it".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_that_cannot_be_read_hides_none_of_the_others() {
        let documents = parse("%YAML 1.2\n---\na: 1\n---\nb: [\n---\n# only a comment\n---\nc: 3\n");
        assert_eq!(documents.len(), 3);
        assert_eq!(documents[0].as_ref().unwrap().get("a").unwrap().at, Mark { line: 3, column: 4 });
        assert!(documents[1].as_ref().unwrap_err().at.line >= 5);
        assert_eq!(documents[2].as_ref().unwrap().get("c").unwrap().at, Mark { line: 9, column: 4 });
    }

    #[test]
    fn duplicate_keys_and_quoting_are_kept() {
        let node = parse("a: '80'\na: 80\n").remove(0).unwrap();
        let Value::Mapping(entries) = &node.value else { panic!("{node:?}") };
        assert_eq!(entries.len(), 2);
        assert!(matches!(entries[0].1.value, Value::String(_)));
        assert!(matches!(entries[1].1.value, Value::Number(_)));
    }

    #[test]
    fn aliases_multiply_only_within_the_budget() {
        let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for level in 1..9 {
            let previous = format!("*a{}", level - 1);
            let items = [previous.as_str(); 10].join(", ");
            bomb.push_str(&format!("a{level}: &a{level} [{items}]\n"));
        }
        assert!(parse(&bomb).remove(0).unwrap_err().message.contains("nodes"));
        assert!(parse("a: &x {k: v}\nb: *x\n").remove(0).unwrap().get("b").unwrap().get("k").is_some());
    }

    #[test]
    fn deep_nesting_is_refused_before_anything_recurses() {
        for text in ["[".repeat(10_000), "- ".repeat(10_000), "{a: ".repeat(200)] {
            assert!(parse(&text).remove(0).is_err());
        }
    }
}
