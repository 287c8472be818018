//! Conformance cases that live outside the project: read from the folder `PENSTOCK_CORPUS` names, run with `--ignored`.

use penstock_control::load::load_file;
use std::path::PathBuf;

fn corpus() -> PathBuf {
    std::env::var_os("PENSTOCK_CORPUS").expect("set PENSTOCK_CORPUS to the folder of the cases").into()
}

fn files(folder: &str) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(corpus().join(folder)).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|e| e == "yaml"));
    files.sort();
    files
}

#[test]
#[ignore = "needs PENSTOCK_CORPUS"]
fn every_text_that_lost_its_indentation_is_refused() {
    let lost = files("seeds/lost-indent");
    assert!(!lost.is_empty());
    let invalid = files("seeds").into_iter().filter(|f| f.to_string_lossy().contains("INVALID"));
    for file in lost.iter().cloned().chain(invalid) {
        let report = load_file(&file);
        assert!(report.objects.is_empty() && !report.errors.is_empty(), "{}", file.display());
        println!("{}", report.errors[0]);
    }
}

#[test]
#[ignore = "needs PENSTOCK_CORPUS"]
fn every_network_policy_recipe_is_read() {
    for file in files("seeds").into_iter().chain(files("ahmetb-recipes")) {
        let report = load_file(&file);
        let name = file.to_string_lossy().into_owned();
        // Not NetworkPolicy, invalid on purpose, a fragment, or (07) in a namespace whose name no API server takes.
        let fragment = !std::fs::read_to_string(&file).unwrap().contains("apiVersion");
        if !fragment && !name.contains("cilium") && !name.contains("INVALID") && !name.contains("07-stackrox")
        {
            assert_eq!(report.errors, [], "{name}");
        } else {
            println!("{}", report.errors[0]);
        }
    }
}
