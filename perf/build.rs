//! Compiles the eBPF programs of the measurements (`bpf/*.bpf.c`), as the switch's are.

use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=bpf");
    let out = PathBuf::from(std::env::var("OUT_DIR").expect("cargo sets OUT_DIR"));
    let entries = std::fs::read_dir("bpf").expect("bpf/ is beside build.rs");
    for source in entries.map(|entry| entry.expect("bpf/ can be read").path()) {
        let name = source.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if let Some(program) = name.strip_suffix(".bpf.c") {
            compile(&source, &out.join(format!("{program}.bpf.o")));
        }
    }
}

fn compile(source: &Path, object: &Path) {
    let include = format!("/usr/include/{}-linux-gnu", std::env::consts::ARCH);
    let clang = std::env::var("CLANG").unwrap_or_else(|_| "clang".to_owned());
    let status = Command::new(&clang)
        .args(["-O2", "-g", "-Wall", "-Werror", "-target", "bpf", "-mcpu=v3", "-I", &include, "-c"])
        .arg(source)
        .arg("-o")
        .arg(object)
        .status();
    match status {
        Ok(status) if status.success() => {}
        Ok(status) => panic!(
            "{clang} could not compile {} ({status}); `make setup` installs what it needs",
            source.display()
        ),
        Err(error) => panic!("cannot run {clang}: {error}; `make setup` installs it"),
    }
}
