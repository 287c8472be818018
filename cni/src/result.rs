//! What an `ADD` answers, in the form of each version of the specification, and reading it back for a `CHECK`.

use crate::error::CniError;
use ipnet::IpNet;
use penstock_api::message::{Mac, gateway};
use serde_json::{Value, json};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// The result of an `ADD`: a pair of interfaces, and the addresses of the pod's.
#[derive(Debug, Clone, PartialEq)]
pub struct Attachment {
    pub cni_version: &'static str,
    pub host_end: Interface,
    pub pod_end: Interface,
    /// Of the pod's end.
    pub addresses: Vec<IpAddr>,
    /// As the configuration says.
    pub dns: Value,
}

/// An interface of the result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    pub name: String,
    pub mac: Mac,
    /// The path of the namespace it is in.
    pub sandbox: PathBuf,
}

/// The interfaces are listed in this order, and addresses refer to them by their place.
const POD_END_PLACE: usize = 1;

/// The gateway a pod has for an address, and where its default route leads.
pub fn gateway_of(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => gateway::V4.into(),
        IpAddr::V6(_) => gateway::V6.into(),
    }
}

impl Attachment {
    pub fn to_json(&self) -> Value {
        let interface = |interface: &Interface| {
            json!({
                "name": interface.name,
                "mac": interface.mac.to_string(),
                "sandbox": interface.sandbox.to_string_lossy(),
            })
        };
        let ips = self.addresses.iter().map(|address| {
            let mut ip = json!({
                "address": IpNet::from(*address).to_string(),
                "gateway": gateway_of(*address).to_string(),
                "interface": POD_END_PLACE,
            });
            // 1.0.0 took it away: the address says it.
            if self.cni_version.starts_with("0.") {
                ip["version"] = Value::from(if address.is_ipv6() { "6" } else { "4" });
            }
            ip
        });
        let routes = self.addresses.iter().map(|address| {
            let destination = if address.is_ipv6() { "::/0" } else { "0.0.0.0/0" };
            json!({"dst": destination, "gw": gateway_of(*address).to_string()})
        });
        json!({
            "cniVersion": self.cni_version,
            "interfaces": [interface(&self.host_end), interface(&self.pod_end)],
            "ips": ips.collect::<Vec<_>>(),
            "routes": routes.collect::<Vec<_>>(),
            "dns": self.dns,
        })
    }

    /// Reads what an earlier `ADD` answered. Plugins that ran after us may have added to it; what is ours must be there.
    pub fn from_json(
        previous: &Value,
        cni_version: &'static str,
        interface: &str,
        netns: &Path,
        host_end: &str,
    ) -> Result<Attachment, CniError> {
        let bad = |what: String| {
            CniError::config(format!("prevResult {what}"))
                .with_details("the runtime must hand over the result of the ADD as it was")
        };
        let text = |value: &Value, key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
        let list = |key: &str| -> Result<&Vec<Value>, CniError> {
            previous.get(key).and_then(Value::as_array).ok_or_else(|| bad(format!("has no list {key:?}")))
        };
        if !previous.is_object() {
            return Err(bad("is not an object".to_owned()));
        }
        if let Some(theirs) = text(previous, "cniVersion").filter(|theirs| theirs != cni_version) {
            return Err(bad(format!(
                "is of cniVersion {theirs:?}, the network configuration of {cni_version:?}"
            )));
        }
        let interfaces = list("interfaces")?
            .iter()
            .enumerate()
            .map(|(place, entry)| {
                let mac = text(entry, "mac").and_then(|mac| mac.parse().ok());
                let sandbox = PathBuf::from(text(entry, "sandbox").unwrap_or_default());
                match (text(entry, "name"), mac) {
                    (Some(name), Some(mac)) => Ok(Interface { name, mac, sandbox }),
                    _ => Err(bad(format!("interfaces[{place}] has no \"name\" or no \"mac\""))),
                }
            })
            .collect::<Result<Vec<_>, _>>()?;
        let find = |name: &str, is_right: &dyn Fn(&Interface) -> bool| {
            interfaces
                .iter()
                .position(|entry| entry.name == name && is_right(entry))
                .ok_or_else(|| bad(format!("has no interface {name:?} where this attachment's is")))
        };
        let pod_place = find(interface, &|entry| is_same_file(&entry.sandbox, netns))?;
        let host_place = find(host_end, &|_| true)?;
        let mut addresses = Vec::new();
        for (place, entry) in list("ips")?.iter().enumerate() {
            let field = format!("ips[{place}]");
            let net = text(entry, "address")
                .and_then(|address| address.parse::<IpNet>().ok())
                .ok_or_else(|| bad(format!("{field} has no \"address\" as \"10.244.0.7/32\"")))?;
            match entry.get("interface").map(Value::as_u64) {
                Some(Some(index)) if index == pod_place as u64 => addresses.push(net.addr()),
                None => addresses.push(net.addr()),
                Some(Some(index)) if (index as usize) < interfaces.len() => {}
                Some(_) => return Err(bad(format!("{field} names an interface that is not in the list"))),
            }
        }
        if addresses.is_empty() {
            return Err(bad(format!("has no address of {interface}")));
        }
        Ok(Attachment {
            cni_version,
            host_end: interfaces[host_place].clone(),
            pod_end: interfaces[pod_place].clone(),
            addresses,
            dns: previous.get("dns").cloned().unwrap_or(json!({})),
        })
    }
}

/// Some runtimes say `/run/netns/x` at one time and `/var/run/netns/x` at another.
fn is_same_file(one: &Path, other: &Path) -> bool {
    one == other || matches!((one.canonicalize(), other.canonicalize()), (Ok(one), Ok(other)) if one == other)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attachment(cni_version: &'static str) -> Attachment {
        Attachment {
            cni_version,
            host_end: Interface {
                name: "p0123456789ab".into(),
                mac: Mac([2, 0, 0, 0, 0, 1]),
                sandbox: "/run/netns/penstock".into(),
            },
            pod_end: Interface {
                name: "eth0".into(),
                mac: Mac([10, 0, 0, 0, 0, 2]),
                sandbox: "/run/netns/pod".into(),
            },
            addresses: vec!["10.244.0.7".parse().unwrap(), "fd00:10:244::7".parse().unwrap()],
            dns: json!({"nameservers": ["10.0.0.10"]}),
        }
    }

    fn read_back(value: &Value) -> Result<Attachment, CniError> {
        Attachment::from_json(value, "1.0.0", "eth0", Path::new("/run/netns/pod"), "p0123456789ab")
    }

    #[test]
    fn a_result_of_1_0_0_is_as_the_specification_has_it() {
        assert_eq!(
            attachment("1.0.0").to_json(),
            json!({
                "cniVersion": "1.0.0",
                "interfaces": [
                    {"name": "p0123456789ab", "mac": "02:00:00:00:00:01", "sandbox": "/run/netns/penstock"},
                    {"name": "eth0", "mac": "0a:00:00:00:00:02", "sandbox": "/run/netns/pod"}
                ],
                "ips": [
                    {"address": "10.244.0.7/32", "gateway": "169.254.1.1", "interface": 1},
                    {"address": "fd00:10:244::7/128", "gateway": "fe80::1", "interface": 1}
                ],
                "routes": [{"dst": "0.0.0.0/0", "gw": "169.254.1.1"}, {"dst": "::/0", "gw": "fe80::1"}],
                "dns": {"nameservers": ["10.0.0.10"]}
            })
        );
    }

    #[test]
    fn older_versions_say_the_family_of_each_address() {
        for version in ["0.3.1", "0.4.0"] {
            let json = attachment(version).to_json();
            assert_eq!(
                (json["ips"][0]["version"].as_str(), json["ips"][1]["version"].as_str()),
                (Some("4"), Some("6"))
            );
            assert_eq!(json["cniVersion"], version);
        }
    }

    #[test]
    fn a_result_reads_back_as_it_was_also_when_others_have_added_to_it() {
        let mut json = attachment("1.0.0").to_json();
        assert_eq!(read_back(&json).unwrap(), attachment("1.0.0"));
        json["interfaces"]
            .as_array_mut()
            .unwrap()
            .push(json!({"name": "eth1", "mac": "02:00:00:00:00:09", "sandbox": "/run/netns/pod"}));
        json["ips"].as_array_mut().unwrap().push(json!({"address": "192.0.2.1/24", "interface": 2}));
        assert_eq!(read_back(&json).unwrap(), attachment("1.0.0"));
    }

    #[test]
    fn a_result_that_is_damaged_is_refused_by_field() {
        let good = attachment("1.0.0").to_json();
        let edit = |pointer: &str, value: Value| {
            let mut json = good.clone();
            *json.pointer_mut(pointer).unwrap() = value;
            json
        };
        for (damaged, word) in [
            (json!("text"), "not an object"),
            (edit("/cniVersion", json!("0.4.0")), "cniVersion"),
            (edit("/interfaces", json!(7)), "interfaces"),
            (edit("/interfaces/0/mac", json!("xx")), "interfaces[0]"),
            (edit("/interfaces/0/name", json!("other")), "p0123456789ab"),
            (edit("/interfaces/1/sandbox", json!("/elsewhere")), "eth0"),
            (edit("/ips", json!({})), "ips"),
            (edit("/ips", json!([])), "no address"),
            (edit("/ips/1/address", json!("fd00::")), "ips[1]"),
            (edit("/ips/1/interface", json!(9)), "ips[1]"),
            (edit("/ips/1/interface", json!("1")), "ips[1]"),
        ] {
            let error = read_back(&damaged).unwrap_err();
            assert_eq!(error.code, crate::error::code::INVALID_CONFIG);
            assert!(error.msg.contains(word), "{word}: {error}");
        }
    }
}
