//! Questions as lines of JSON: `{"from":"shop/web","to":"shop/db","protocol":"TCP","port":5432}`.
//!
//! What a line says beyond its question (a name, what its author expects) is kept, in its order, for the answer.

use penstock_control::simulate::Service;
use serde::de::{Deserializer, Error, MapAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::Value;
use std::fmt;

/// An object whose fields stay in their order.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Fields(pub(super) Vec<(String, Value)>);

/// One question.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Asked {
    /// All of it, as it came.
    pub(super) fields: Fields,
    pub(super) from: String,
    pub(super) to: String,
    pub(super) service: Service,
}

impl Fields {
    fn get(&self, name: &str) -> Option<&Value> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value)
    }

    fn text(&self, name: &str) -> Result<&str, String> {
        match self.get(name) {
            Some(Value::String(text)) => Ok(text),
            Some(other) => Err(format!("{name} is {other}, and not a string")),
            None => Err(format!("{name} is missing")),
        }
    }

    fn port(&self) -> Result<Option<u64>, String> {
        match self.get("port") {
            None | Some(Value::Null) => Ok(None),
            Some(port) => {
                let number = port.as_u64().or_else(|| port.as_str()?.parse().ok());
                number.map(Some).ok_or_else(|| format!("port is {port}, and not a number from 1 to 65535"))
            }
        }
    }
}

impl Asked {
    /// One line.
    ///
    /// # Errors
    /// What is wrong with it, without its number.
    pub(super) fn read(line: &str) -> Result<Asked, String> {
        let fields: Fields = serde_json::from_str(line).map_err(|error| {
            // The position serde gives counts lines of this line.
            let text = error.to_string();
            let what = text.split(" at line ").next().unwrap_or(&text);
            format!(
                "{what} (column {}); a flow is a JSON object with from, to, protocol and port",
                error.column()
            )
        })?;
        let service =
            Service::new(fields.text("protocol")?, fields.port()?).map_err(|error| error.to_string())?;
        Ok(Asked {
            from: fields.text("from")?.to_owned(),
            to: fields.text("to")?.to_owned(),
            service,
            fields,
        })
    }

    /// A question nobody wrote down.
    pub(super) fn new(from: &str, to: &str, service: Service) -> Asked {
        let text = |text: &str| Value::String(text.to_owned());
        let mut fields = vec![
            ("from".to_owned(), text(from)),
            ("to".to_owned(), text(to)),
            ("protocol".to_owned(), text(service.protocol_name())),
        ];
        if !service.is_echo() {
            fields.push(("port".to_owned(), service.port().into()));
        }
        Asked { fields: Fields(fields), from: from.to_owned(), to: to.to_owned(), service }
    }

    /// What goes back before the answer: everything but fields that the answer has itself.
    pub(super) fn echo(&self, answer: &[&str]) -> Fields {
        Fields(self.fields.0.iter().filter(|(key, _)| !answer.contains(&key.as_str())).cloned().collect())
    }
}

impl Serialize for Fields {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (key, value) in &self.0 {
            map.serialize_entry(key, value)?;
        }
        map.end()
    }
}

impl<'de> serde::Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Fields, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Fields;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let mut fields: Vec<(String, Value)> = Vec::new();
                while let Some((key, value)) = map.next_entry::<String, Value>()? {
                    if fields.iter().any(|(known, _)| *known == key) {
                        return Err(A::Error::custom(format!("field {key:?} stands twice")));
                    }
                    fields.push((key, value));
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_line_says_beyond_its_question_is_kept_in_its_order() {
        let line =
            r#"{"zone":1,"to":"a/b","id":"x","port":80,"from":"10.0.0.1","protocol":"tcp","verdict":"deny"}"#;
        let asked = Asked::read(line).unwrap();
        assert_eq!((asked.from.as_str(), asked.to.as_str()), ("10.0.0.1", "a/b"));
        assert_eq!(asked.service, "80/TCP".parse().unwrap());
        assert_eq!(
            serde_json::to_string(&asked.echo(&["verdict"])).unwrap(),
            r#"{"zone":1,"to":"a/b","id":"x","port":80,"from":"10.0.0.1","protocol":"tcp"}"#
        );
    }

    #[test]
    fn icmp_without_a_port_is_an_echo_request() {
        for (line, kind) in [
            (r#"{"from":"a/a","to":"a/b","protocol":"ICMP"}"#, 8),
            (r#"{"from":"a/a","to":"a/b","protocol":"ICMPv6","port":null}"#, 128),
            (r#"{"from":"a/a","to":"a/b","protocol":"ICMP","port":13}"#, 13),
        ] {
            assert_eq!(Asked::read(line).unwrap().service.port(), kind, "{line}");
        }
    }

    #[test]
    fn a_line_that_is_no_question_is_refused_with_what_is_wrong() {
        for (line, what) in [
            ("", "JSON object"),
            ("[]", "JSON object"),
            (r#"{"to":"a/b","protocol":"TCP","port":80}"#, "from is missing"),
            (r#"{"from":"a/a","to":["a/b"],"protocol":"TCP","port":80}"#, "to is"),
            (r#"{"from":"a/a","to":"a/b","port":80}"#, "protocol is missing"),
            (r#"{"from":"a/a","to":"a/b","protocol":"TCPP","port":80}"#, "TCPP"),
            (r#"{"from":"a/a","to":"a/b","protocol":"TCP"}"#, "port is missing"),
            (r#"{"from":"a/a","to":"a/b","protocol":"TCP","port":"http"}"#, "port is"),
            (r#"{"from":"a/a","to":"a/b","protocol":"TCP","port":80.5}"#, "port is"),
            (r#"{"from":"a/a","to":"a/b","protocol":"UDP","port":65536}"#, "65536"),
            (r#"{"from":"a/a","from":"a/c","to":"a/b","protocol":"TCP","port":80}"#, "twice"),
            (r#"{"from":"a/a","to":"a/b","protocol":"TCP","port":80} x"#, "trailing"),
        ] {
            let error = Asked::read(line).unwrap_err();
            assert!(error.contains(what), "{line}: {error}");
        }
    }
}
