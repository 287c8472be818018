//! The operator's pages say what the program does: every drop reason has its section, every key its line.

use penstock_api::{DropReason, Instance};
use penstock_vswitch::server::Paths;
use std::collections::BTreeSet;

fn page(name: &str) -> String {
    let path = format!("{}/../docs/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

#[test]
fn every_drop_reason_has_one_section_with_a_remedy_and_there_is_no_other() {
    let text = page("drops.md");
    let mut documented = BTreeSet::new();
    for section in text.split("\n## ").skip(1) {
        let (name, body) = section.split_once('\n').unwrap_or((section, ""));
        assert!(documented.insert(name.to_owned()), "{name} stands twice");
        assert!(body.contains("**Remedy:** "), "{name} has no remedy");
    }
    let known: BTreeSet<String> = DropReason::ALL.iter().map(|reason| reason.name().to_owned()).collect();
    let missing: Vec<_> = known.difference(&documented).collect();
    let unknown: Vec<_> = documented.difference(&known).collect();
    assert!(missing.is_empty() && unknown.is_empty(), "missing {missing:?}, unknown {unknown:?}");
}

#[test]
fn the_name_on_the_wire_is_the_name_in_the_documentation() {
    for reason in DropReason::ALL {
        assert_eq!(serde_json::to_value(reason).unwrap(), reason.name(), "{reason:?}");
    }
}

#[test]
fn every_configuration_key_is_explained() {
    let text = page("operating.md");
    // What the parser says it knows, so that a new key cannot be forgotten here.
    let dir = tempfile::tempdir().unwrap();
    let known = |content: &str| -> Vec<String> {
        let file = dir.path().join("c.toml");
        std::fs::write(&file, content).unwrap();
        let flags = penstock_vswitch::config::Flags { config: Some(file), ..Default::default() };
        let refusal = penstock_vswitch::config::Config::load(&flags, &[0]).unwrap_err().to_string();
        refusal.split('`').skip(3).step_by(2).map(str::to_owned).collect()
    };
    let keys = [known("nonsense = 1"), known("[[direct]]\nnonsense = 1")].concat();
    assert!(keys.len() > 15, "{keys:?}");
    for key in keys {
        assert!(text.contains(&format!("`{key}`")), "operating.md does not explain {key}");
    }
}

#[test]
fn the_files_an_operator_is_told_of_are_the_ones_that_are_used() {
    let text = page("operating.md");
    let paths = Paths::of(&Instance::default());
    for file in [paths.control_socket(), paths.ports(), paths.artefact()] {
        assert!(text.contains(&file.display().to_string()), "operating.md does not name {}", file.display());
    }
}

#[test]
fn every_make_target_an_operator_is_told_of_is_there() {
    let makefile = std::fs::read_to_string(format!("{}/../Makefile", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let text = page("operating.md");
    let targets: Vec<&str> =
        text.split("`make ").skip(1).filter_map(|rest| rest.split(['`', ' ']).next()).collect();
    assert!(targets.contains(&"vm"), "{targets:?}");
    for target in targets {
        assert!(makefile.contains(&format!("\n{target}:")), "the Makefile has no target {target}");
    }
}
