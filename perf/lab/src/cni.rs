//! Calling the real CNI plugin over the CNI protocol.

use serde_json::{Value, json};
use std::io::Write;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// One call of the plugin. Every field may be bent by a test.
#[derive(Debug, Clone)]
pub struct CniCall {
    /// `ADD`, `DEL`, `CHECK`, `VERSION`.
    pub command: String,
    pub container_id: String,
    pub netns: PathBuf,
    pub interface: String,
    /// `CNI_ARGS`.
    pub arguments: String,
    /// Standard input.
    pub configuration: Value,
}

/// The plugin refused: the error object of the CNI specification, or what it said instead of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CniFailure {
    /// 0 when the plugin did not answer with an error object.
    pub code: u64,
    pub message: String,
}

impl std::fmt::Display for CniFailure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the CNI plugin failed with code {}: {}", self.code, self.message)
    }
}

impl std::error::Error for CniFailure {}

impl CniCall {
    /// `ADD` of `eth0` for a pod. Other commands are made of it by setting [`CniCall::command`].
    pub fn add(instance: &str, namespace: &str, name: &str, uid: &str, netns: &Path) -> Self {
        let container_id = format!("{namespace}.{name}");
        CniCall {
            command: "ADD".to_owned(),
            arguments: format!(
                "IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name};K8S_POD_INFRA_CONTAINER_ID={container_id};K8S_POD_UID={uid}"
            ),
            container_id,
            netns: netns.to_owned(),
            interface: "eth0".to_owned(),
            configuration: json!({
                "cniVersion": "1.0.0",
                "name": "penstock",
                "type": "penstock-cni",
                "instance": instance,
            }),
        }
    }

    /// Runs the plugin in the calling thread's namespace; the result is what it printed (null when nothing).
    pub(crate) fn run(&self, plugin: &Path) -> Result<Value, CniFailure> {
        let broken = |message: String| CniFailure { code: 0, message };
        let mut child = Command::new(plugin)
            .env("CNI_COMMAND", &self.command)
            .env("CNI_CONTAINERID", &self.container_id)
            .env("CNI_NETNS", &self.netns)
            .env("CNI_IFNAME", &self.interface)
            .env("CNI_ARGS", &self.arguments)
            .env("CNI_PATH", plugin.parent().unwrap_or(plugin))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| broken(format!("{} cannot be run: {error}", plugin.display())))?;
        if let Some(mut stdin) = child.stdin.take() {
            // A plugin that does not read answers all the same.
            let _ = stdin.write_all(self.configuration.to_string().as_bytes());
        }
        let output = child.wait_with_output().map_err(|error| broken(error.to_string()))?;
        let said: Value = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
        if output.status.success() {
            return Ok(said);
        }
        let text = |field: &str| said[field].as_str().unwrap_or_default().to_owned();
        Err(match said["code"].as_u64() {
            Some(code) => {
                CniFailure { code, message: format!("{} {}", text("msg"), text("details")).trim().to_owned() }
            }
            None => broken(format!(
                "{} and no error object on standard output; standard error: {}",
                output.status,
                String::from_utf8_lossy(&output.stderr).trim()
            )),
        })
    }
}

/// The addresses of a result, without prefix lengths.
pub(crate) fn addresses(result: &Value) -> Vec<IpAddr> {
    let ips = result["ips"].as_array().map(Vec::as_slice).unwrap_or_default();
    ips.iter().filter_map(|ip| ip["address"].as_str()?.split('/').next()?.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_without_their_prefixes_and_nonsense_is_left_out() {
        let result =
            json!({"ips": [{"address": "10.0.0.2/32"}, {"address": "fd00::2/128"}, {"address": "x"}, 7]});
        let expected: Vec<IpAddr> = vec!["10.0.0.2".parse().unwrap(), "fd00::2".parse().unwrap()];
        assert_eq!(addresses(&result), expected);
        assert!(addresses(&Value::Null).is_empty());
    }
}
