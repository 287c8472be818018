//! The machine figures belong to.

use serde::Serialize;

#[derive(Debug, Clone, Serialize)]
pub(crate) struct Machine {
    pub(crate) cpus: usize,
    pub(crate) model: String,
    pub(crate) is_virtual: bool,
    pub(crate) memory_mib: u64,
    pub(crate) kernel: String,
    /// The one-minute load average when it began: what else there was to do.
    pub(crate) load_before: f64,
}

impl Machine {
    pub(crate) fn here() -> Machine {
        let read = |file: &str| std::fs::read_to_string(file).unwrap_or_default();
        let cpu = read("/proc/cpuinfo");
        let after = |key: &str| {
            let line = cpu.lines().find(|line| line.starts_with(key))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let memory = read("/proc/meminfo");
        let memory_kib: Option<u64> = memory.split_whitespace().nth(1).and_then(|n| n.parse().ok());
        let load = read("/proc/loadavg");
        Machine {
            cpus: std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
            model: after("model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
            is_virtual: after("flags").is_some_and(|flags| flags.contains("hypervisor")),
            memory_mib: memory_kib.unwrap_or_default() / 1024,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            load_before: load.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or_default(),
        }
    }

    pub(crate) fn describe(&self) -> String {
        format!(
            "{} {}CPUs ({}), {} MiB, Linux {}, load average {} before",
            self.cpus,
            if self.is_virtual { "virtual " } else { "" },
            self.model,
            self.memory_mib,
            self.kernel,
            self.load_before
        )
    }
}
