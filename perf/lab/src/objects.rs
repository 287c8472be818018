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
    ///
    /// A watcher says how many files it has read, not which versions of them. So whenever a file is replaced, another one
    /// comes or goes after it: when the number is right, the replaced file has been read too.
    pub(crate) fn write(&self, name: &str, text: &str) -> Result<bool> {
        let file = self.file(name);
        let is_new = !file.exists();
        if !self.put(&file, text)? {
            return Ok(false);
        }
        let mark = self.file("laboratory-mark");
        match (is_new, mark.exists()) {
            (true, _) => {}
            (false, true) => self.remove("laboratory-mark")?,
            (false, false) => {
                let object =
                    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "laboratory-mark"}});
                self.put(&mark, &self::object(object))?;
            }
        }
        Ok(true)
    }

    /// How many files a watcher should have read.
    pub(crate) fn count(&self) -> Result<usize> {
        let mut count = 0;
        for entry in
            fs::read_dir(&self.dir).with_context(|| format!("{} cannot be listed", self.dir.display()))?
        {
            let name = entry?.file_name().into_encoded_bytes();
            let is_object = [".yaml", ".yml", ".json"].iter().any(|end| name.ends_with(end.as_bytes()));
            count += usize::from(is_object && !name.starts_with(b"."));
        }
        Ok(count)
    }

    fn put(&self, file: &Path, text: &str) -> Result<bool> {
        // A file without its last newline looks half written.
        let text = &if text.ends_with('\n') { text.to_owned() } else { format!("{text}\n") };
        if fs::read_to_string(file).is_ok_and(|old| old == *text) {
            return Ok(false);
        }
        let hidden = self.dir.join(".new");
        fs::write(&hidden, text)
            .and_then(|()| fs::rename(&hidden, file))
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
        objects.remove("a").unwrap();
        assert!(objects.remove("a").is_err());
    }

    #[test]
    fn every_change_changes_the_number_of_files() {
        let dir = tempfile::tempdir().unwrap();
        let objects = Objects::new(dir.path()).unwrap();
        let mut last = objects.count().unwrap();
        for text in ["x", "y", "z", "x"] {
            objects.write("a", text).unwrap();
            let now = objects.count().unwrap();
            assert_ne!(now, last, "writing {text}");
            last = now;
        }
        objects.remove("a").unwrap();
        assert_ne!(objects.count().unwrap(), last);
    }
}
