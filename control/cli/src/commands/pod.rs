//! `penstock pod`: a laboratory pod, attached as a kubelet would attach it.
//!
//! The real CNI plugin is run over the CNI protocol: environment variables, a configuration on standard input, a result or
//! an error as JSON on standard output. What `add` made is noted in the run directory, so that `del` needs the pod's name
//! only, and `down` forgets nobody.

use crate::context::{Context, Output};
use crate::failure::Failure;
use crate::output::{print, print_json};
use crate::process::{create_private_dir, find_executable};
use clap::Subcommand;
use penstock_net::Netns;
use penstock_net::netns::NETNS_DIR;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

const CNI_VERSION: &str = "1.0.0";

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: PodCommand,
}

#[derive(Debug, Subcommand)]
enum PodCommand {
    /// Attach a pod. Its Pod object must be among the objects: a pod nobody knows stays isolated and is refused.
    Add(AddArguments),
    /// Detach it. Succeeds when there is nothing to detach.
    Del(DelArguments),
}

#[derive(Debug, clap::Args)]
struct AddArguments {
    #[arg(value_name = "NAMESPACE/NAME", value_parser = pod_name)]
    pod: PodName,
    /// The network namespace to attach; made when it does not exist.
    #[arg(long, value_name = "NAME")]
    netns: String,
    /// The interface inside.
    #[arg(long, value_name = "NAME", default_value = "eth0")]
    interface: String,
    /// The pod's uid, where its object has one.
    #[arg(long)]
    uid: Option<String>,
}

#[derive(Debug, clap::Args)]
struct DelArguments {
    #[arg(value_name = "NAMESPACE/NAME", value_parser = pod_name)]
    pod: PodName,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct PodName {
    namespace: String,
    name: String,
}

fn pod_name(text: &str) -> Result<PodName, String> {
    let good = |part: &str| {
        !part.is_empty()
            && part.len() <= 253
            && part.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.".contains(c))
            && part.starts_with(|c: char| c.is_ascii_alphanumeric())
    };
    match text.split_once('/') {
        Some((namespace, name)) if good(namespace) && !namespace.contains('.') && good(name) => {
            Ok(PodName { namespace: namespace.to_owned(), name: name.to_owned() })
        }
        _ => Err("want NAMESPACE/NAME in small letters, digits and '-', as shop/db-0".to_owned()),
    }
}

impl PodName {
    /// The same for the same pod always, so that a second `add` is a conflict and `del` finds it. A namespace has no dot.
    fn container_id(&self) -> String {
        format!("{}.{}", self.namespace, self.name)
    }
}

/// What `add` made, for `del` and `down`.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    container_id: String,
    namespace: String,
    name: String,
    netns: String,
    interface: String,
    uid: Option<String>,
    /// The namespace was made by us and goes with the pod.
    made_netns: bool,
}

impl Record {
    fn netns_path(&self) -> PathBuf {
        PathBuf::from(NETNS_DIR).join(&self.netns)
    }

    fn cni_arguments(&self) -> String {
        let mut arguments = format!(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE={};K8S_POD_NAME={};K8S_POD_INFRA_CONTAINER_ID={}",
            self.namespace, self.name, self.container_id
        );
        if let Some(uid) = &self.uid {
            arguments.push_str(&format!(";K8S_POD_UID={uid}"));
        }
        arguments
    }
}

pub(crate) fn run(context: &Context, arguments: &Arguments, out: &mut dyn Write) -> Result<(), Failure> {
    match &arguments.command {
        PodCommand::Add(arguments) => add(context, arguments, out),
        PodCommand::Del(arguments) => del(context, &arguments.pod, out),
    }
}

fn add(context: &Context, arguments: &AddArguments, out: &mut dyn Write) -> Result<(), Failure> {
    let pod = &arguments.pod;
    let record_file = record_file(context, pod);
    if record_file.exists() {
        return Err(Failure::failed(format!(
            "pod {}/{} is attached already; detach it with 'penstock --instance {} pod del {}/{}'",
            pod.namespace, pod.name, context.instance, pod.namespace, pod.name
        )));
    }
    let made_netns = !Netns::exists(&arguments.netns);
    if made_netns {
        Netns::create(&arguments.netns).map_err(|error| Failure::failed(error.to_string()))?;
    }
    let record = Record {
        container_id: pod.container_id(),
        namespace: pod.namespace.clone(),
        name: pod.name.clone(),
        netns: arguments.netns.clone(),
        interface: arguments.interface.clone(),
        uid: arguments.uid.clone(),
        made_netns,
    };
    let result = remember(&record_file, &record).and_then(|()| call_plugin(context, "ADD", &record));
    let result = match result {
        Ok(result) => result,
        Err(failure) => {
            forget(&record_file, &record);
            return Err(failure);
        }
    };
    match context.output {
        Output::Json => print_json(out, &result),
        Output::Table => {
            let addresses: Vec<&str> = result["ips"]
                .as_array()
                .map(|ips| ips.iter().filter_map(|ip| ip["address"].as_str()).collect())
                .unwrap_or_default();
            print(
                out,
                format_args!(
                    "{}/{} attached in {}: {}",
                    pod.namespace,
                    pod.name,
                    record.netns,
                    addresses.join(", ")
                ),
            )
        }
    }
}

fn del(context: &Context, pod: &PodName, out: &mut dyn Write) -> Result<(), Failure> {
    let record_file = record_file(context, pod);
    let Some(record) = read_record(&record_file) else {
        return print(out, format_args!("{}/{} was not attached", pod.namespace, pod.name));
    };
    call_plugin(context, "DEL", &record)?;
    forget(&record_file, &record);
    print(out, format_args!("{}/{} detached", pod.namespace, pod.name))
}

/// Forgets every pod of the instance and removes the namespaces made for them; returns their names.
pub(crate) fn forget_all(context: &Context) -> Vec<String> {
    let Ok(entries) = fs::read_dir(context.run_dir.join("pods")) else { return vec![] };
    entries
        .flatten()
        .filter_map(|entry| {
            let record = read_record(&entry.path())?;
            forget(&entry.path(), &record);
            record.made_netns.then_some(record.netns)
        })
        .collect()
}

fn record_file(context: &Context, pod: &PodName) -> PathBuf {
    context.run_dir.join("pods").join(format!("{}.json", pod.container_id()))
}

fn read_record(file: &PathBuf) -> Option<Record> {
    serde_json::from_str(&fs::read_to_string(file).ok()?).ok()
}

fn remember(file: &PathBuf, record: &Record) -> Result<(), Failure> {
    let write = || -> std::io::Result<()> {
        if let Some(dir) = file.parent() {
            dir.parent().map_or(Ok(()), create_private_dir)?;
            create_private_dir(dir)?;
        }
        fs::write(file, serde_json::to_vec(record)?)
    };
    write().map_err(|error| {
        Failure::failed(format!("{} cannot be written: {error}; run this as root", file.display()))
    })
}

fn forget(file: &PathBuf, record: &Record) {
    // Absent is what we want, of the file and of the namespace.
    let _ = fs::remove_file(file);
    if record.made_netns {
        let _ = Netns::delete(&record.netns);
    }
}

/// Runs the plugin. Its result, or its own words about why not.
fn call_plugin(context: &Context, command: &str, record: &Record) -> Result<Value, Failure> {
    let plugin = find_executable("penstock-cni", context)?;
    let failed = |what: &str, why: String| {
        Failure::failed(format!(
            "{} {command} of {}/{} {what}: {why}",
            plugin.display(),
            record.namespace,
            record.name
        ))
    };
    let configuration = json!({
        "cniVersion": CNI_VERSION,
        "name": "penstock",
        "type": "penstock-cni",
        "instance": context.instance.name(),
    });
    let mut child = Command::new(&plugin)
        .env("CNI_COMMAND", command)
        .env("CNI_CONTAINERID", &record.container_id)
        .env("CNI_NETNS", record.netns_path())
        .env("CNI_IFNAME", &record.interface)
        .env("CNI_ARGS", record.cni_arguments())
        .env("CNI_PATH", plugin.parent().unwrap_or(&plugin))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| failed("cannot be run", error.to_string()))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A plugin that does not read answers anyway, and its answer says more than a broken pipe.
        let _ = stdin.write_all(configuration.to_string().as_bytes());
    }
    let output =
        child.wait_with_output().map_err(|error| failed("cannot be waited for", error.to_string()))?;
    let said: Option<Value> = serde_json::from_slice(&output.stdout).ok();
    if output.status.success() {
        return Ok(said.unwrap_or(Value::Null));
    }
    let text = |field: &str| {
        said.as_ref().and_then(|said| said[field].as_str()).filter(|text| !text.is_empty()).map(str::to_owned)
    };
    Err(Failure::failed(match (text("msg"), text("details")) {
        (Some(message), Some(details)) => {
            format!("pod {}/{}: {message}: {details}", record.namespace, record.name)
        }
        (Some(message), None) => format!("pod {}/{}: {message}", record.namespace, record.name),
        _ => return Err(failed("failed", String::from_utf8_lossy(&output.stderr).trim().to_owned())),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{context, write_program};

    fn record() -> Record {
        Record {
            container_id: "shop.db".into(),
            namespace: "shop".into(),
            name: "db".into(),
            netns: "pt-shop-db".into(),
            interface: "eth0".into(),
            uid: Some("u-1".into()),
            made_netns: false,
        }
    }

    fn with_plugin_that(script: &str) -> (tempfile::TempDir, Context) {
        let dir = tempfile::tempdir().unwrap();
        let mut context = context(dir.path());
        let plugin = dir.path().join("penstock-cni");
        write_program(&plugin, script);
        context.bin_dirs = vec![dir.path().to_owned()];
        (dir, context)
    }

    #[test]
    fn the_plugin_is_told_everything_over_the_cni_protocol() {
        let script = r#"printf '{"conf":%s,"env":"%s %s %s %s %s"}' "$(cat)" "$CNI_COMMAND" "$CNI_CONTAINERID" "$CNI_NETNS" "$CNI_IFNAME" "$CNI_ARGS""#;
        let (_dir, context) = with_plugin_that(script);
        let said = call_plugin(&context, "ADD", &record()).unwrap();
        assert_eq!(
            said["env"],
            "ADD shop.db /run/netns/pt-shop-db eth0 IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=db;K8S_POD_INFRA_CONTAINER_ID=shop.db;K8S_POD_UID=u-1"
        );
        assert_eq!(
            said["conf"],
            json!({"cniVersion": "1.0.0", "name": "penstock", "type": "penstock-cni", "instance": "test"})
        );
    }

    #[test]
    fn an_error_of_the_plugin_is_quoted_not_wrapped_in_json() {
        let (_dir, context) = with_plugin_that(
            r#"echo '{"cniVersion":"1.0.0","code":101,"msg":"no address left","details":"10.1.0.0/24 is full"}'; exit 1"#,
        );
        let failure = call_plugin(&context, "ADD", &record()).unwrap_err().to_string();
        assert_eq!(failure, "pod shop/db: no address left: 10.1.0.0/24 is full");
    }

    #[test]
    fn names_that_could_leave_their_directory_are_refused() {
        for bad in ["", "db", "a/", "/b", "../x/y", "a/../b", "a.b/c", "A/b", "a/B"] {
            assert!(pod_name(bad).is_err(), "{bad:?} was accepted");
        }
        assert_eq!(pod_name("shop/db-0.x").unwrap().container_id(), "shop.db-0.x");
    }
}
