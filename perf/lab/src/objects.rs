//! The directory of Kubernetes objects that the control plane watches.
//!
//! Files appear whole: they are written under a name that is no object's and renamed. Values are written as JSON, which
//! is YAML, so that no label needs quoting rules.

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};
use std::fs;
use std::path::{Path, PathBuf};

#[derive(Debug)]
pub(crate) struct Objects {
    dir: PathBuf,
}

pub(crate) type Labels<'a> = &'a [(&'a str, &'a str)];

impl Objects {
    pub(crate) fn new(dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("{} cannot be made", dir.display()))?;
        Ok(Objects { dir: dir.to_owned() })
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        match name.ends_with(".yaml") || name.ends_with(".yml") || name.ends_with(".json") {
            true => self.dir.join(name),
            false => self.dir.join(format!("{name}.yaml")),
        }
    }

    /// Writes a file. False when it held exactly that already.
    pub(crate) fn write(&self, name: &str, text: &str) -> Result<bool> {
        let file = self.file(name);
        if fs::read_to_string(&file).is_ok_and(|old| old == text) {
            return Ok(false);
        }
        let hidden = self.dir.join(format!(".{name}.new"));
        fs::write(&hidden, text)
            .and_then(|()| fs::rename(&hidden, &file))
            .with_context(|| format!("{} cannot be written", file.display()))?;
        Ok(true)
    }

    pub(crate) fn remove(&self, name: &str) -> Result<()> {
        let file = self.file(name);
        fs::remove_file(&file).with_context(|| format!("{} cannot be removed", file.display()))
    }
}

pub(crate) fn namespace(name: &str, labels: Labels<'_>) -> String {
    let mut labels = label_map(labels);
    // As the API server does, which a directory has not.
    labels.insert("kubernetes.io/metadata.name".to_owned(), json!(name));
    object(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}))
}

pub(crate) fn pod(namespace: &str, name: &str, uid: &str, labels: Labels<'_>) -> String {
    object(json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"namespace": namespace, "name": name, "uid": uid, "labels": label_map(labels)},
        "spec": {"containers": [{"name": "main", "image": "laboratory"}]},
    }))
}

fn label_map(labels: Labels<'_>) -> Map<String, Value> {
    labels.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect()
}

fn object(value: Value) -> String {
    format!("{value:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_carries_its_name_as_a_label_as_the_api_server_writes_it() {
        let object: Value = serde_json::from_str(&namespace("shop", &[("team", "a")])).unwrap();
        assert_eq!(object["metadata"]["labels"], json!({"team": "a", "kubernetes.io/metadata.name": "shop"}));
    }

    #[test]
    fn writing_what_is_there_already_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let objects = Objects::new(dir.path()).unwrap();
        assert!(objects.write("a", "x").unwrap());
        assert!(!objects.write("a", "x").unwrap());
        assert!(objects.write("a", "y").unwrap());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        objects.remove("a").unwrap();
        assert!(objects.remove("a").is_err());
    }
}
