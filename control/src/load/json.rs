//! JSON to trees: RFC 8259, nothing looser, with positions and duplicate keys kept. Several documents may follow each other.

use super::tree::{DEPTH_MAX, Key, Mark, Node, SyntaxError, Value};

/// Every document of the text. The first one that cannot be read ends it: without it nobody knows where the next begins.
pub(crate) fn parse(text: &str) -> Vec<Result<Node, SyntaxError>> {
    let mut reader = Reader { text, position: 0, line: 1, line_start: 0 };
    let mut documents = Vec::new();
    loop {
        reader.skip_space();
        if reader.position == text.len() {
            return documents;
        }
        let document = reader.value(0);
        let stop = document.is_err();
        documents.push(document);
        if stop {
            return documents;
        }
    }
}

struct Reader<'a> {
    text: &'a str,
    position: usize,
    line: u32,
    line_start: usize,
}

impl Reader<'_> {
    fn mark(&self) -> Mark {
        let column = self.text.get(self.line_start..self.position).map_or(0, |s| s.chars().count());
        Mark { line: self.line, column: column as u32 + 1 }
    }

    fn fail<T>(&self, message: &str) -> Result<T, SyntaxError> {
        Err(SyntaxError { at: self.mark(), message: format!("this is not JSON: {message}") })
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.position).copied()
    }

    fn skip_space(&mut self) {
        while let Some(byte @ (b' ' | b'\t' | b'\r' | b'\n')) = self.peek() {
            self.position += 1;
            if byte == b'\n' {
                self.line += 1;
                self.line_start = self.position;
            }
        }
    }

    fn expect(&mut self, byte: u8, message: &str) -> Result<(), SyntaxError> {
        self.skip_space();
        if self.peek() != Some(byte) {
            return self.fail(message);
        }
        self.position += 1;
        Ok(())
    }

    fn value(&mut self, depth: usize) -> Result<Node, SyntaxError> {
        self.skip_space();
        let at = self.mark();
        if depth >= DEPTH_MAX {
            return self.fail(&format!("nested more than {DEPTH_MAX} deep"));
        }
        let value = match self.peek() {
            Some(b'{') => self.mapping(depth)?,
            Some(b'[') => self.sequence(depth)?,
            Some(b'"') => Value::String(self.string()?),
            Some(b'-' | b'0'..=b'9') => self.number()?,
            Some(b'a'..=b'z') => self.word()?,
            Some(_) => return self.fail("a value was expected here"),
            None => return self.fail("the text ends where a value was expected; is the file complete?"),
        };
        Ok(Node { at, value })
    }

    fn mapping(&mut self, depth: usize) -> Result<Value, SyntaxError> {
        self.position += 1;
        let mut entries = Vec::new();
        self.skip_space();
        if self.peek() == Some(b'}') {
            self.position += 1;
            return Ok(Value::Mapping(entries));
        }
        loop {
            self.skip_space();
            let at = self.mark();
            if self.peek() != Some(b'"') {
                return self.fail("a key in double quotes was expected");
            }
            let key = Key { at, text: self.string()?, not_a_string: None };
            self.expect(b':', "':' was expected after the key")?;
            entries.push((key, self.value(depth + 1)?));
            self.skip_space();
            match self.peek() {
                Some(b',') => self.position += 1,
                Some(b'}') => {
                    self.position += 1;
                    return Ok(Value::Mapping(entries));
                }
                _ => return self.fail("',' or '}' was expected; is the file complete?"),
            }
        }
    }

    fn sequence(&mut self, depth: usize) -> Result<Value, SyntaxError> {
        self.position += 1;
        let mut items = Vec::new();
        self.skip_space();
        if self.peek() == Some(b']') {
            self.position += 1;
            return Ok(Value::Sequence(items));
        }
        loop {
            items.push(self.value(depth + 1)?);
            self.skip_space();
            match self.peek() {
                Some(b',') => self.position += 1,
                Some(b']') => {
                    self.position += 1;
                    return Ok(Value::Sequence(items));
                }
                _ => return self.fail("',' or ']' was expected; is the file complete?"),
            }
        }
    }

    /// Finds the end of the string, then lets serde_json read its escapes.
    fn string(&mut self) -> Result<String, SyntaxError> {
        let start = self.position;
        let bytes = self.text.as_bytes();
        let mut end = start + 1;
        loop {
            match bytes.get(end) {
                Some(b'"') => break,
                Some(b'\\') => end += 2,
                Some(_) => end += 1,
                None => return self.fail("a string that never ends; is the file complete?"),
            }
        }
        let quoted = self.text.get(start..=end);
        match quoted.and_then(|quoted| serde_json::from_str::<String>(quoted).ok()) {
            Some(text) => {
                self.position = end + 1;
                Ok(text)
            }
            None => self.fail("a string with a bad escape or a line break in it"),
        }
    }

    fn number(&mut self) -> Result<Value, SyntaxError> {
        let rest = &self.text[self.position..];
        let len = rest
            .find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.')))
            .unwrap_or(rest.len());
        let number = &rest[..len];
        if serde_json::from_str::<serde_json::Number>(number).is_err() {
            return self.fail("a number that is none");
        }
        self.position += len;
        Ok(Value::Number(number.to_owned()))
    }

    fn word(&mut self) -> Result<Value, SyntaxError> {
        let rest = &self.text[self.position..];
        for (word, value) in
            [("true", Value::Bool(true)), ("false", Value::Bool(false)), ("null", Value::Null)]
        {
            if rest.starts_with(word) && !rest[word.len()..].starts_with(|c: char| c.is_ascii_alphanumeric())
            {
                self.position += word.len();
                return Ok(value);
            }
        }
        self.fail("a word that is neither true, false nor null")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cut_of_a_document_is_an_error() {
        let text = "{\"a\": [1, -2.5e3, \"\\u00e9\\n\"], \"b\": {\"c\": true, \"d\": null}}";
        assert!(parse(text)[0].is_ok());
        for cut in (1..text.len()).filter(|cut| text.is_char_boundary(*cut)) {
            assert!(parse(&text[..cut]).last().unwrap().is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn what_serde_json_reads_is_read_and_what_it_refuses_is_refused() {
        for text in
            ["1", "-0", "01", "1.", "nul", "\"\\x\"", "[1,]", "{a:1}", "\"a\nb\"", "truex", "[]", "+1"]
        {
            assert_eq!(
                parse(text).iter().all(Result::is_ok),
                serde_json::from_str::<serde_json::Value>(text).is_ok(),
                "{text}"
            );
        }
        assert_eq!(parse("{} {}\n[").len(), 3);
    }

    #[test]
    fn positions_are_counted_in_lines_and_characters() {
        let node = parse("{\n  \"é\": 1, \"x\": 2}").remove(0).unwrap();
        assert_eq!(node.get("x").unwrap().at, Mark { line: 2, column: 16 });
    }
}
