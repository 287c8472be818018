//! Compiles the eBPF programs of the benchmarks, as the switch's are.

use std::path::PathBuf;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=bpf");
    let out = PathBuf::from(std::env::var("OUT_DIR").expect("cargo sets OUT_DIR")).join("bench.bpf.o");
    let include = format!("/usr/include/{}-linux-gnu", std::env::consts::ARCH);
    let clang = std::env::var("CLANG").unwrap_or_else(|_| "clang".to_owned());
    let status = Command::new(&clang)
        .args(["-O2", "-g", "-Wall", "-Werror", "-target", "bpf", "-I", &include])
        .args(["-c", "bpf/bench.bpf.c", "-o"])
        .arg(&out)
        .status();
    match status {
        Ok(status) if status.success() => {}
        Ok(status) => {
            panic!(
                "{clang} could not compile bpf/bench.bpf.c ({status}); `make setup` installs what it needs"
            )
        }
        Err(error) => panic!("cannot run {clang}: {error}; `make setup` installs it"),
    }
}
