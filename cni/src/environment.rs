//! What the runtime says in the environment: the command, the container, and who the pod is.

use crate::CniError;
use penstock_api::artefact::PodKey;
use std::collections::BTreeMap;
use std::env;
use std::path::PathBuf;

/// What is asked of us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    Add,
    Del,
    Check,
    Version,
}

/// The `CNI_*` variables, unread: which of them are wanted depends on the command.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Environment {
    variables: BTreeMap<String, String>,
}

/// The keys of `CNI_ARGS` that have a meaning.
const ARGS: [&str; 5] =
    ["IgnoreUnknown", "K8S_POD_NAMESPACE", "K8S_POD_NAME", "K8S_POD_UID", "K8S_POD_INFRA_CONTAINER_ID"];

/// Interface names are at most this long, in bytes.
const INTERFACE_LEN_MAX: usize = 15;

impl Environment {
    /// The process's own.
    pub fn of_process() -> Self {
        let variables = env::vars_os().filter_map(|(key, value)| {
            let key = key.into_string().ok().filter(|key| key.starts_with("CNI_"))?;
            Some((key, value.to_string_lossy().into_owned()))
        });
        Environment { variables: variables.collect() }
    }

    /// One made up: pairs of a variable and its value.
    pub fn new<K: Into<String>, V: Into<String>>(variables: impl IntoIterator<Item = (K, V)>) -> Self {
        Environment {
            variables: variables.into_iter().map(|(key, value)| (key.into(), value.into())).collect(),
        }
    }

    fn get(&self, variable: &str) -> Option<&str> {
        self.variables.get(variable).map(String::as_str).filter(|value| !value.is_empty())
    }

    fn need(&self, variable: &str) -> Result<&str, CniError> {
        self.get(variable).ok_or_else(|| {
            CniError::environment(format!("the environment variable {variable} is not set"))
                .with_details("a container runtime sets it; this program is not for calling by hand")
        })
    }

    pub fn command(&self) -> Result<Command, CniError> {
        match self.need("CNI_COMMAND")? {
            "ADD" => Ok(Command::Add),
            "DEL" => Ok(Command::Del),
            "CHECK" => Ok(Command::Check),
            "VERSION" => Ok(Command::Version),
            other => Err(CniError::environment(format!(
                "CNI_COMMAND is {other:?}; known are ADD, DEL, CHECK and VERSION"
            ))),
        }
    }

    /// `CNI_CONTAINERID`.
    pub fn container_id(&self) -> Result<&str, CniError> {
        let id = self.need("CNI_CONTAINERID")?;
        match is_name(id) {
            true => Ok(id),
            false => Err(CniError::environment(format!(
                "CNI_CONTAINERID is {id:?}; it must begin with a letter or digit and go on with letters, digits, '_', '.' and '-'"
            ))),
        }
    }

    /// `CNI_IFNAME`: the name the interface shall have in the pod.
    pub fn interface(&self) -> Result<&str, CniError> {
        let name = self.need("CNI_IFNAME")?;
        let good = name.len() <= INTERFACE_LEN_MAX
            && name != "."
            && name != ".."
            && !name
                .contains(|c: char| c == '/' || c == ':' || c == '%' || c.is_whitespace() || c.is_control());
        match good {
            true => Ok(name),
            false => Err(CniError::environment(format!(
                "CNI_IFNAME is {name:?}; an interface's name has at most {INTERFACE_LEN_MAX} bytes without spaces, '/', ':' and '%'"
            ))),
        }
    }

    /// `CNI_NETNS`: the path of the pod's namespace.
    pub fn netns(&self) -> Result<PathBuf, CniError> {
        self.need("CNI_NETNS").map(PathBuf::from)
    }

    /// Who the pod is, from `CNI_ARGS`.
    pub fn pod(&self) -> Result<PodKey, CniError> {
        let args = self.args()?;
        let need = |key: &'static str| {
            args.get(key).filter(|value| !value.is_empty()).map(|value| (*value).to_owned()).ok_or(key)
        };
        match (need("K8S_POD_NAMESPACE"), need("K8S_POD_NAME")) {
            (Ok(namespace), Ok(name)) => Ok(PodKey { namespace, name, uid: need("K8S_POD_UID").ok() }),
            (namespace, name) => {
                let missing: Vec<_> = [namespace.err(), name.err()].into_iter().flatten().collect();
                Err(CniError::environment(format!("CNI_ARGS lacks {}", missing.join(" and ")))
                    .with_details("policy is about pods: the runtime must say which one this is, as K8S_POD_NAMESPACE=...;K8S_POD_NAME=...;K8S_POD_UID=..."))
            }
        }
    }

    fn args(&self) -> Result<BTreeMap<&str, &str>, CniError> {
        let mut args = BTreeMap::new();
        for pair in self.get("CNI_ARGS").unwrap_or_default().split(';').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').ok_or_else(|| {
                CniError::environment(format!("CNI_ARGS has {pair:?}, which is not KEY=VALUE"))
            })?;
            args.insert(key, value);
        }
        let ignore = args
            .get("IgnoreUnknown")
            .is_some_and(|value| *value == "1" || value.eq_ignore_ascii_case("true"));
        match args.keys().find(|key| !ARGS.contains(key)) {
            Some(unknown) if !ignore => Err(CniError::environment(format!(
                "CNI_ARGS has the unknown key {unknown:?}; known are {}",
                ARGS.join(", ")
            ))
            .with_details("with IgnoreUnknown=1 unknown keys are passed over")),
            _ => Ok(args),
        }
    }
}

/// What the specification allows for container ids and network names.
pub(crate) fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::code;

    fn with(variable: &str, value: &str) -> Environment {
        Environment::new([(variable, value)])
    }

    #[test]
    fn a_pod_is_told_by_namespace_name_and_uid() {
        let args = "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-1;K8S_POD_INFRA_CONTAINER_ID=abc;K8S_POD_UID=u-1;X=y";
        let pod = with("CNI_ARGS", args).pod().unwrap();
        assert_eq!(pod, PodKey { uid: Some("u-1".into()), ..PodKey::new("shop", "web-1") });
    }

    #[test]
    fn a_missing_pod_is_an_error_that_names_what_is_missing() {
        let error = Environment::default().pod().unwrap_err();
        assert_eq!(
            (error.code, error.msg.as_str()),
            (4, "CNI_ARGS lacks K8S_POD_NAMESPACE and K8S_POD_NAME")
        );
        let error = with("CNI_ARGS", "K8S_POD_NAMESPACE=shop;K8S_POD_NAME=").pod().unwrap_err();
        assert_eq!(error.msg, "CNI_ARGS lacks K8S_POD_NAME");
    }

    #[test]
    fn unknown_arguments_are_refused_by_name_unless_told_otherwise() {
        let error = with("CNI_ARGS", "K8S_POD_NAMESPACE=a;K8S_POD_NAME=b;COLOUR=red").pod().unwrap_err();
        assert!(error.msg.contains("COLOUR") && error.msg.contains("K8S_POD_UID"), "{error}");
        let error = with("CNI_ARGS", "K8S_POD_NAMESPACE").pod().unwrap_err();
        assert!(error.msg.contains("KEY=VALUE"), "{error}");
    }

    #[test]
    fn bad_variables_are_refused_with_the_code_of_the_specification() {
        let errors = [
            Environment::default().command().unwrap_err(),
            with("CNI_COMMAND", "GC").command().unwrap_err(),
            with("CNI_CONTAINERID", "../x").container_id().unwrap_err(),
            with("CNI_IFNAME", "a/b").interface().unwrap_err(),
            with("CNI_IFNAME", "sixteen-bytes-xx").interface().unwrap_err(),
            with("CNI_IFNAME", "").interface().unwrap_err(),
            Environment::default().netns().unwrap_err(),
        ];
        for error in errors {
            assert_eq!(error.code, code::INVALID_ENVIRONMENT, "{error}");
            assert!(error.msg.contains("CNI_"), "{error}");
        }
    }
}
