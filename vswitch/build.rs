//! Compiles the eBPF programs. The objects are built on every machine; no binary is committed.

use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=bpf");
    let out = PathBuf::from(std::env::var("OUT_DIR").expect("cargo sets OUT_DIR"));
    for object in ["penstock", "bulk"] {
        compile(&format!("bpf/{object}.bpf.c"), &out.join(format!("{object}.bpf.o")));
    }
}

fn compile(source: &str, out: &Path) {
    let include = format!("/usr/include/{}-linux-gnu", std::env::consts::ARCH);
    let clang = std::env::var("CLANG").unwrap_or_else(|_| "clang".to_owned());
    let status = Command::new(&clang)
        .args(["-O2", "-g", "-Wall", "-Werror", "-target", "bpf", "-I", &include])
        .args(["-c", source, "-o"])
        .arg(out)
        .status();
    match status {
        Ok(status) if status.success() => {}
        Ok(status) => {
            panic!("{clang} could not compile {source} ({status}); `make setup` installs what it needs")
        }
        Err(error) => panic!("cannot run {clang}: {error}; `make setup` installs it"),
    }
}
