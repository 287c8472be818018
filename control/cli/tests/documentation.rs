//! The policy guide's commands do what it says: each is run, on the files it shows, and prints what stands below it.

use std::path::{Path, PathBuf};
use std::process::Command;

fn guide() -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/policy.md");
    std::fs::read_to_string(file).unwrap()
}

/// The fenced blocks: what stands behind the fence, and the text.
fn blocks(guide: &str) -> Vec<(&str, &str)> {
    let fenced = guide.split("```").skip(1).step_by(2);
    fenced.filter_map(|block| block.split_once('\n')).collect()
}

/// A folder with the files the guide shows.
fn files(guide: &str) -> (tempfile::TempDir, Vec<PathBuf>) {
    let dir = tempfile::tempdir().unwrap();
    let mut files = Vec::new();
    for (info, text) in blocks(guide) {
        if let Some((_, name)) = info.split_once(' ')
            && name.contains('.')
        {
            files.push(dir.path().join(name));
            std::fs::write(dir.path().join(name), text).unwrap();
        }
    }
    (dir, files)
}

/// A table's lines without the blanks that align them.
fn words(text: &str) -> Vec<String> {
    text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

#[test]
fn every_command_of_the_policy_guide_prints_what_stands_below_it() {
    let guide = guide();
    let (dir, files) = files(&guide);
    assert!(files.len() >= 2, "the guide shows its files");
    let mut commands = 0;
    for (_, text) in blocks(&guide).into_iter().filter(|(info, _)| *info == "console") {
        for command in text.split("$ ").skip(1) {
            let (command, expected) = command.split_once('\n').unwrap();
            let mut words_of_it = command.split_whitespace();
            assert_eq!(words_of_it.next(), Some("penstock"), "{command}");
            let output = Command::new(env!("CARGO_BIN_EXE_penstock"))
                .args(words_of_it)
                .current_dir(dir.path())
                .output()
                .unwrap();
            assert!(output.status.success(), "{command}: {output:?}");
            assert_eq!(words(&String::from_utf8(output.stdout).unwrap()), words(expected), "{command}");
            commands += 1;
        }
    }
    assert!(commands >= 5, "the guide has commands");
}

#[test]
fn every_other_command_of_the_policy_guide_is_one_of_the_running_switch() {
    for (info, text) in blocks(&guide()) {
        if text.contains("$ penstock") {
            assert!(["console", "console running"].contains(&info), "{info}: nothing runs {text}");
        }
    }
}
