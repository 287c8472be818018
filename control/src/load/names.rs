//! The field names of the Kubernetes API, taken from the API's own types.
//!
//! Of a Pod we read a handful of fields, but a misspelt one must not pass for "not set". k8s-openapi's generated types hand
//! their field names to whoever deserializes them: this asks, and reads nothing.

use serde::de::{Deserialize, Deserializer, Error, Visitor};
use std::fmt;

/// The JSON field names of an API type.
pub(crate) fn fields_of<'de, T: Deserialize<'de>>() -> &'static [&'static str] {
    match T::deserialize(Ask) {
        Err(Told(fields)) => fields,
        Ok(_) => &[],
    }
}

struct Ask;

/// The answer, dressed as the error that ends the deserialization.
#[derive(Debug)]
struct Told(&'static [&'static str]);

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the field names were all that was wanted")
    }
}

impl std::error::Error for Told {}

impl Error for Told {
    fn custom<M: fmt::Display>(_: M) -> Self {
        Told(&[])
    }
}

impl<'de> Deserializer<'de> for Ask {
    type Error = Told;

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        _visitor: V,
    ) -> Result<V::Value, Told> {
        Err(Told(fields))
    }

    fn deserialize_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, Told> {
        Err(Told(&[]))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option unit unit_struct newtype_struct
        seq tuple tuple_struct map enum identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use super::fields_of;

    #[test]
    fn api_types_tell_their_field_names() {
        let fields = fields_of::<k8s_openapi::api::core::v1::PodSpec>();
        for name in ["containers", "hostNetwork", "nodeName", "serviceAccountName", "initContainers"] {
            assert!(fields.contains(&name), "{name} in {fields:?}");
        }
        assert!(fields_of::<k8s_openapi::api::core::v1::PodStatus>().contains(&"podIPs"));
    }
}
