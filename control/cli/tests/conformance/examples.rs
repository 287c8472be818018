//! Cilium's own examples and demo applications: every document is read, and what is not enforced or not supported is named by its field.

use crate::case::{Tally, name_of, read};
use penstock_control::load::load_file;
use penstock_control::simulate::World;
use std::path::{Path, PathBuf};

pub(crate) fn run(corpus: &Path) -> Tally {
    let mut tally = Tally::new("cilium-examples, to be read");
    let mut files = Vec::new();
    for folder in ["cilium-examples/examples", "cilium-seed-apps"] {
        list(&corpus.join(folder), &mut files);
    }
    files.sort();
    let (mut documents, mut gaps, mut refused, mut others) = (0, 0, 0, 0);
    for file in files {
        // Rules for an agent's own interface are lists without a kind, and no Kubernetes objects.
        if !read(&file).contains("kind") {
            others += 1;
            continue;
        }
        tally.cases += 1;
        let report = load_file(&file);
        documents += report.objects.len();
        refused += report.errors.len();
        let skipped = report.skipped.len();
        tally.check(skipped > 0 || !report.objects.is_empty() || !report.errors.is_empty(), || {
            format!("{} holds nothing", file.display())
        });
        for error in &report.errors {
            tally.notes.push(format!("cilium-examples: refused: {}", short(error, &file)));
            tally.check(error.object.is_some() && error.field.is_some(), || {
                format!("{error}: it names no object or no field")
            });
        }
        let world = World::new(report.objects.into_iter().map(|loaded| loaded.object));
        gaps += world.not_enforced().len();
    }
    tally.notes.push(format!(
        "cilium-examples: {documents} objects read, {gaps} fields named as not enforced, {refused} refusals; \
         {others} files hold rules of an agent's own interface, not objects"
    ));
    tally
}

fn short(error: &penstock_control::load::LoadError, file: &Path) -> String {
    error.to_string().replace(&file.display().to_string(), &name_of(file))
}

fn list(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        match path.is_dir() {
            true => list(&path, files),
            false if path.extension().is_some_and(|e| e == "yaml" || e == "json") => files.push(path),
            false => {}
        }
    }
}
