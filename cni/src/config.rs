//! The network configuration on stdin.
//!
//! Read by hand and not by derive, so that every refusal names the field, what it holds and what it should. A `DEL` reads
//! only what it needs: a configuration that no `ADD` would take must not keep a pod from being removed.

use crate::VERSIONS;
use crate::environment::is_name;
use crate::error::{CniError, code};
use ipnet::IpNet;
use penstock_api::Instance;
use serde_json::{Map, Value};

/// Our own keys.
const KEYS: [&str; 7] = ["cniVersion", "name", "type", "instance", "mtu", "ranges", "waitSeconds"];
/// Keys that runtimes and the specification put there. We read `prevResult`, `dns` and `ipMasq`.
const KEYS_OF_OTHERS: [&str; 11] = [
    "prevResult",
    "runtimeConfig",
    "capabilities",
    "args",
    "ipMasq",
    "dns",
    "cniVersions",
    "disableCheck",
    "disableGC",
    "loadOnlyInlinedPlugins",
    "ipam",
];
/// The specification keeps these for runtimes.
const RESERVED_PREFIX: &str = "cni.dev/";

/// The smallest MTU IPv6 works with (RFC 8200, 5).
pub(crate) const MTU_MIN_V6: u64 = 1280;
/// The smallest datagram every IPv4 host accepts (RFC 791).
const MTU_MIN_V4: u64 = 576;
const MTU_MAX: u64 = 9000;
const WAIT_SECONDS: u64 = 10;
const WAIT_SECONDS_MAX: u64 = 600;

/// What came on stdin: JSON, but not yet understood.
#[derive(Debug)]
pub struct Document(Map<String, Value>);

/// A configuration that makes sense.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    pub cni_version: &'static str,
    /// Of the network.
    pub name: String,
    pub instance: Instance,
    /// The switch's own when absent.
    pub mtu: Option<u16>,
    /// Where addresses come from; the switch's own when absent.
    pub ranges: Option<Vec<IpNet>>,
    /// How long an `ADD` waits for policy.
    pub wait_ms: u64,
    /// As it came: handed on in the result.
    pub dns: Value,
    /// As it came: `CHECK` compares with it.
    pub prev_result: Option<Value>,
}

impl Document {
    pub fn parse(stdin: &[u8]) -> Result<Document, CniError> {
        const WHERE: &str = "the network configuration on stdin";
        let decode = |what: String| CniError::new(code::DECODE, format!("{WHERE} {what}"));
        if stdin.iter().all(u8::is_ascii_whitespace) {
            return Err(decode("is missing: stdin is empty".to_owned()));
        }
        match serde_json::from_slice(stdin) {
            Ok(Value::Object(map)) => Ok(Document(map)),
            Ok(other) => Err(decode(format!("is {}, not an object", kind_of(&other)))),
            Err(e) => Err(decode(format!("is not JSON: {e}"))),
        }
    }

    /// The version of the specification it is written for, if we speak that.
    pub fn cni_version(&self) -> Result<&'static str, CniError> {
        let incompatible = |what: String| {
            CniError::new(code::INCOMPATIBLE_VERSION, what)
                .with_details(format!("this plugin speaks {}", VERSIONS.join(", ")))
        };
        match self.0.get("cniVersion") {
            // The specification: no version means 0.1.0, or 0.2.0.
            None | Some(Value::Null) => {
                Err(incompatible("the network configuration has no cniVersion, which means 0.1.0".to_owned()))
            }
            Some(Value::String(version)) => VERSIONS
                .into_iter()
                .find(|known| known == version)
                .ok_or_else(|| incompatible(format!("cniVersion {version:?} is not supported"))),
            Some(other) => Err(wrong("cniVersion", "a string as \"1.0.0\"", other)),
        }
    }

    /// The instance alone: what a `DEL` needs.
    pub fn instance(&self) -> Result<Instance, CniError> {
        match self.text("instance", "the name of an instance")? {
            None => Ok(Instance::default()),
            Some(name) => name.parse().map_err(|e| CniError::config(format!("instance: {e}"))),
        }
    }

    /// All of it, every field checked.
    pub fn config(&self) -> Result<Config, CniError> {
        self.refuse_unknown_keys()?;
        let name = self.text("name", "the name of the network")?.ok_or_else(|| missing("name"))?;
        if !is_name(name) {
            return Err(CniError::config(format!(
                "name is {name:?}; it must begin with a letter or digit and go on with letters, digits, '_', '.' and '-'"
            )));
        }
        self.text("type", "the name of this plugin")?.ok_or_else(|| missing("type"))?;
        let ranges = self.ranges()?;
        let has_v6 = ranges.as_ref().is_some_and(|ranges| ranges.iter().any(|range| range.addr().is_ipv6()));
        let mtu_min = if has_v6 { MTU_MIN_V6 } else { MTU_MIN_V4 };
        Ok(Config {
            cni_version: self.cni_version()?,
            name: name.to_owned(),
            instance: self.instance()?,
            mtu: self.number("mtu", mtu_min, MTU_MAX)?.map(|mtu| mtu as u16),
            ranges,
            wait_ms: self.number("waitSeconds", 0, WAIT_SECONDS_MAX)?.unwrap_or(WAIT_SECONDS) * 1000,
            dns: match self.present("dns") {
                None => Value::Object(Map::new()),
                Some(dns @ Value::Object(_)) => dns.clone(),
                Some(other) => return Err(wrong("dns", "an object", other)),
            },
            prev_result: self.present("prevResult").cloned(),
        })
    }

    /// `null` is absent.
    fn present(&self, key: &str) -> Option<&Value> {
        self.0.get(key).filter(|value| !value.is_null())
    }

    fn refuse_unknown_keys(&self) -> Result<(), CniError> {
        let unsupported = |key: &str, value: &Value, why: String| {
            CniError::new(
                code::UNSUPPORTED_FIELD,
                format!("the network configuration has {key:?}: {}, {why}", shorten(value)),
            )
        };
        for (key, value) in &self.0 {
            let known = KEYS.contains(&key.as_str())
                || KEYS_OF_OTHERS.contains(&key.as_str())
                || key.starts_with(RESERVED_PREFIX);
            if !known {
                let why = format!("which is unknown; known are {}", KEYS.join(", "));
                return Err(unsupported(key, value, why)
                    .with_details("correct the key or take it out of the network configuration"));
            }
        }
        if let Some(ipam) = self.present("ipam").filter(|ipam| **ipam != Value::Object(Map::new())) {
            return Err(unsupported("ipam", ipam, "which is not supported".to_owned())
                .with_details("this plugin gives the addresses itself: take \"ipam\" out, and say \"ranges\" if the switch's own do not fit"));
        }
        match self.present("ipMasq") {
            None | Some(Value::Bool(false)) => Ok(()),
            Some(on) => Err(unsupported("ipMasq", on, "which is not supported".to_owned())
                .with_details("take it out; masquerading is not the plugin's")),
        }
    }

    fn text(&self, key: &'static str, what: &str) -> Result<Option<&str>, CniError> {
        match self.present(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(wrong(key, &format!("a string, {what}"), other)),
        }
    }

    fn number(&self, key: &'static str, min: u64, max: u64) -> Result<Option<u64>, CniError> {
        match self.present(key) {
            None => Ok(None),
            Some(value) => match value.as_u64().filter(|number| (min..=max).contains(number)) {
                Some(number) => Ok(Some(number)),
                None => Err(wrong(key, &format!("a whole number from {min} to {max}"), value)),
            },
        }
    }

    fn ranges(&self) -> Result<Option<Vec<IpNet>>, CniError> {
        let Some(value) = self.present("ranges") else { return Ok(None) };
        let want = "a list of address ranges as [\"10.244.0.0/24\", \"fd00:10:244::/64\"]";
        let list =
            value.as_array().filter(|list| !list.is_empty()).ok_or_else(|| wrong("ranges", want, value))?;
        let mut ranges = Vec::new();
        for (index, entry) in list.iter().enumerate() {
            let field = format!("ranges[{index}]");
            let range = entry
                .as_str()
                .and_then(|text| text.parse::<IpNet>().ok())
                .ok_or_else(|| wrong(&field, "an address range as \"10.244.0.0/24\"", entry))?;
            ranges.push(range);
        }
        check_ranges(&ranges).map_err(|what| CniError::config(format!("ranges: {what}")))?;
        Ok(Some(ranges))
    }
}

/// Can addresses be given from these? The configuration's and the switch's are judged alike.
pub(crate) fn check_ranges(ranges: &[IpNet]) -> Result<(), String> {
    if ranges.is_empty() {
        return Err("there is none".to_owned());
    }
    for (index, range) in ranges.iter().enumerate() {
        let (shortest, longest) = if range.addr().is_ipv6() { (32, 126) } else { (8, 30) };
        if range.trunc() != *range {
            return Err(format!("{range} has bits set beyond its prefix; did you mean {}?", range.trunc()));
        }
        if !(shortest..=longest).contains(&range.prefix_len()) {
            return Err(format!("{range} must have a prefix length from {shortest} to {longest}"));
        }
        let overlap = ranges[..index].iter().find(|other| other.contains(range) || range.contains(*other));
        if let Some(other) = overlap {
            return Err(format!("{range} and {other} overlap"));
        }
    }
    Ok(())
}

fn missing(key: &str) -> CniError {
    CniError::config(format!("the network configuration lacks {key:?}"))
}

fn wrong(field: &str, want: &str, got: &Value) -> CniError {
    CniError::config(format!("{field} is {}; it must be {want}", shorten(got)))
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// A value in a message: enough to recognise it.
fn shorten(value: &Value) -> String {
    const CHARS_MAX: usize = 80;
    let text = value.to_string();
    match text.char_indices().nth(CHARS_MAX) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parse(extra: Value) -> Result<Config, CniError> {
        let mut config = json!({"cniVersion": "1.0.0", "name": "pods", "type": "penstock-cni"});
        config.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        Document::parse(config.to_string().as_bytes()).unwrap().config()
    }

    #[test]
    fn the_smallest_configuration_leaves_everything_to_the_switch() {
        let config = parse(json!({})).unwrap();
        assert_eq!(config.instance, Instance::default());
        assert_eq!((config.mtu, &config.ranges, config.wait_ms), (None, &None, 10_000));
        assert_eq!((config.dns, config.prev_result), (json!({}), None));
    }

    #[test]
    fn the_configuration_we_ship_is_one_we_take() {
        let list: Value = serde_json::from_str(include_str!("../deploy/10-penstock.conflist")).unwrap();
        for plugin in list["plugins"].as_array().unwrap() {
            // What a runtime makes of the list for each plugin.
            let mut one = plugin.clone();
            one["cniVersion"] = list["cniVersion"].clone();
            one["name"] = list["name"].clone();
            Document::parse(one.to_string().as_bytes()).unwrap().config().unwrap();
        }
    }

    #[test]
    fn everything_can_be_said() {
        let config = parse(json!({
            "cniVersion": "0.3.1", "instance": "node-1", "mtu": 1400, "waitSeconds": 3,
            "ranges": ["10.244.0.0/24", "fd00:10:244::/64"], "dns": {"nameservers": ["10.0.0.10"]},
            "runtimeConfig": {}, "capabilities": {}, "args": {}, "ipMasq": false, "disableCheck": true,
            "cni.dev/attachments": [], "prevResult": null
        }))
        .unwrap();
        assert_eq!((config.cni_version, config.instance.name(), config.mtu), ("0.3.1", "node-1", Some(1400)));
        assert_eq!(config.ranges.unwrap().len(), 2);
        assert_eq!(config.wait_ms, 3000);
        assert_eq!(config.dns["nameservers"][0], "10.0.0.10");
    }

    #[test]
    fn what_is_wrong_is_named_with_its_value_and_what_was_wanted() {
        for (extra, code, words) in [
            (json!({"colour": "red"}), 2, ["colour", "red", "waitSeconds"]),
            (json!({"ipam": {"type": "host-local"}}), 2, ["ipam", "host-local", "not supported"]),
            (json!({"ipMasq": true}), 2, ["ipMasq", "true", "not supported"]),
            (json!({"name": "a/b"}), 7, ["name", "a/b", "letters"]),
            (json!({"name": null}), 7, ["lacks", "name", ""]),
            (json!({"type": 7}), 7, ["type", "7", "string"]),
            (json!({"instance": "Not Good"}), 7, ["instance", "Not Good", "a-z"]),
            (json!({"mtu": 100}), 7, ["mtu", "100", "576 to 9000"]),
            (json!({"mtu": "1500"}), 7, ["mtu", "\"1500\"", "whole number"]),
            (json!({"mtu": 1000, "ranges": ["fd00::/64"]}), 7, ["mtu", "1000", "1280 to 9000"]),
            (json!({"waitSeconds": -1}), 7, ["waitSeconds", "-1", "0 to 600"]),
            (json!({"ranges": []}), 7, ["ranges", "[]", "list of address ranges"]),
            (json!({"ranges": "10.0.0.0/8"}), 7, ["ranges", "10.0.0.0/8", "list of address ranges"]),
            (json!({"ranges": ["10.0.0.0/24", "x"]}), 7, ["ranges[1]", "x", "address range"]),
            (json!({"ranges": ["10.0.0.1/24"]}), 7, ["ranges", "10.0.0.1/24", "10.0.0.0/24"]),
            (json!({"ranges": ["10.0.0.0/31"]}), 7, ["ranges", "10.0.0.0/31", "8 to 30"]),
            (json!({"ranges": ["10.0.0.0/24", "10.0.0.0/25"]}), 7, ["10.0.0.0/25", "10.0.0.0/24", "overlap"]),
            (json!({"dns": 1}), 7, ["dns", "1", "object"]),
            (json!({"cniVersion": "0.2.0"}), 1, ["cniVersion", "0.2.0", "not supported"]),
            (json!({"cniVersion": null}), 1, ["no cniVersion", "", ""]),
        ] {
            let error = parse(extra.clone()).unwrap_err();
            assert_eq!(error.code, code, "{extra}: {error}");
            assert!(words.iter().all(|word| error.msg.contains(word)), "{extra}: {error}");
        }
    }

    #[test]
    fn what_is_no_json_object_is_one_line_and_code_6() {
        for bad in [&b""[..], b" \n", b"{", b"[]", b"7", b"{\"cniVersion\": \"1.0.0\",}", b"\xff\xfe"] {
            let error = Document::parse(bad).unwrap_err();
            assert_eq!(error.code, code::DECODE, "{error}");
            assert!(error.msg.starts_with("the network configuration on stdin"), "{error}");
            assert!(!error.msg.contains('\n'));
        }
    }

    #[test]
    fn a_del_reads_no_more_than_it_needs() {
        let document = Document::parse(br#"{"cniVersion":"1.0.0","instance":"a","colour":1}"#).unwrap();
        assert_eq!(document.instance().unwrap().name(), "a");
        assert!(document.config().is_err());
    }
}
