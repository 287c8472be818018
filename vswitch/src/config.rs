//! What an operator may set: a TOML file, and flags, which win over it. Both may be absent.
//!
//! Everything is checked here, once: a [`Config`] is consistent, and whoever holds one need not doubt it. A key that is not
//! known is refused rather than ignored, since a misspelt limit that does nothing is found out too late.

mod direct;

pub use direct::{DirectPort, XdpMode};

use clap::{Args, ValueEnum};
use ipnet::IpNet;
use penstock_api::instance::BadInstanceName;
use penstock_api::{Instance, WorkerId};
use serde::Deserialize;
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// How many workers a switch can have.
pub const WORKERS_MAX: usize = crate::io::maps::WORKERS_MAX;

/// How many direct ports, and how many ports at all, the kernel side has room for.
const DIRECT_MAX: usize = crate::io::maps::DIRECT_MAX;
const PORTS_MAX: usize = crate::io::maps::PORTS_MAX;
const SHORTCUTS_MAX: usize = crate::io::shortcut::SHORTCUTS_MAX;

/// A consistent configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    pub instance: Instance,
    /// 1 to [`WORKERS_MAX`].
    pub workers: usize,
    /// The CPU of each worker; empty when workers are not pinned, else as long as there are workers.
    pub cpus: Vec<usize>,
    pub polling: Polling,
    /// Of the switch's own interfaces and the most a pod may have, in bytes: 1280 to 9000.
    pub mtu: u16,
    /// Where this node's pods have their addresses. Not empty.
    pub pod_ranges: Vec<IpNet>,
    /// Of each worker's memory area.
    pub frames_per_worker: usize,
    /// Of each worker's tables.
    pub flows_max: usize,
    /// Slots of the port table, the host's included.
    pub ports_max: usize,
    /// Addresses of the node beside those found on its interfaces.
    pub host_addresses: Vec<IpAddr>,
    /// Keep flow tables in shared memory, so that they outlive the process.
    pub shm: bool,
    pub direct: Vec<DirectPort>,
    /// Let the kernel carry flows that are established and allowed.
    pub shortcut: Shortcut,
    /// How many directions of flows it may carry at a time.
    pub shortcuts_max: usize,
    /// tc programs as filters of a `clsact` qdisc also where the kernel has TCX links.
    pub tc_filters: bool,
    /// Frames to veths in bulk when there are many: see `io/bulk.rs`.
    pub bulk_transmit: BulkTransmit,
}

/// Which veths are sent many frames with one system call when there are many.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum BulkTransmit {
    /// Direct ports whose far end takes them, as long as it does.
    #[default]
    Auto,
    /// Trunks too.
    #[value(alias = "true")]
    On,
    #[value(alias = "false")]
    Off,
}

impl<'de> Deserialize<'de> for BulkTransmit {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Word;
        impl serde::de::Visitor<'_> for Word {
            type Value = BulkTransmit;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"auto\", \"on\" or \"off\"")
            }

            fn visit_bool<E: serde::de::Error>(self, is_on: bool) -> Result<BulkTransmit, E> {
                Ok(if is_on { BulkTransmit::On } else { BulkTransmit::Off })
            }

            fn visit_str<E: serde::de::Error>(self, word: &str) -> Result<BulkTransmit, E> {
                BulkTransmit::from_str(word, false)
                    .map_err(|_| E::invalid_value(serde::de::Unexpected::Str(word), &self))
            }
        }
        deserializer.deserialize_any(Word)
    }
}

/// Who carries flows that are established and allowed at both ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Shortcut {
    /// The kernel, until something in the flow or in the policy wants looking at.
    #[default]
    On,
    /// The workers: every frame crosses userspace.
    Off,
}

/// What a worker without work does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Polling {
    /// Looks again at once: the lowest latency, a whole CPU.
    Busy,
    /// Looks for a while, then sleeps until the kernel wakes it.
    #[default]
    Adaptive,
    /// Sleeps until the kernel wakes it.
    Interrupt,
}

impl fmt::Display for Polling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Polling::Busy => "busy",
            Polling::Adaptive => "adaptive",
            Polling::Interrupt => "interrupt",
        })
    }
}

/// Why a configuration was refused. Nothing was started.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("the configuration file {} cannot be read: {error}", file.display())]
    Unreadable { file: PathBuf, error: std::io::Error },
    #[error("{}{}: {message}", file.display(), line.map(|l| format!(", line {l}")).unwrap_or_default())]
    File { file: PathBuf, line: Option<usize>, message: String },
    #[error(transparent)]
    Instance(#[from] BadInstanceName),
    #[error("{key} = {value} is not possible: {reason}")]
    Value { key: &'static str, value: String, reason: String },
}

/// The file, and the flags that have the same meaning.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    instance: Option<String>,
    workers: Option<usize>,
    cpus: Option<Vec<usize>>,
    polling: Option<Polling>,
    mtu: Option<u16>,
    pod_ranges: Option<Vec<IpNet>>,
    frames_per_worker: Option<usize>,
    flows_max: Option<usize>,
    ports_max: Option<usize>,
    host_addresses: Option<Vec<IpAddr>>,
    shm: Option<bool>,
    bulk_transmit: Option<BulkTransmit>,
    shortcut: Option<Shortcut>,
    #[serde(default)]
    direct: Vec<DirectPort>,
}

/// Flags of `penstock-vswitch run`. What is not given comes from the file, then from the defaults.
#[derive(Debug, Clone, Default, Args)]
pub struct Flags {
    /// Configuration file (TOML). Flags win over it.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Name of this switch: its interfaces, namespace, socket and directories are named after it [default: penstock]
    #[arg(long, env = "PENSTOCK_INSTANCE", value_name = "NAME")]
    pub instance: Option<String>,
    /// Packet-processing threads [default: half of the CPUs, at least 1, at most 16]
    #[arg(long, value_name = "N")]
    pub workers: Option<usize>,
    /// CPUs to pin workers to, one each: 2,3 [default: the last ones]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub cpus: Option<Vec<usize>>,
    /// What a worker without work does [default: adaptive]
    #[arg(long, value_enum)]
    pub polling: Option<Polling>,
    /// MTU of the switch's interfaces, and the most a pod may have: 1280 to 9000 [default: 1500]
    #[arg(long, value_name = "BYTES")]
    pub mtu: Option<u16>,
    /// Where pods have their addresses; may be repeated [default: 10.244.0.0/24 and fd00:10:244::/64]
    #[arg(long = "pod-range", value_name = "PREFIX")]
    pub pod_ranges: Vec<IpNet>,
    /// Frames (of 2 KiB or more) in each worker's memory area [default: 8192]
    #[arg(long, value_name = "N")]
    pub frames_per_worker: Option<usize>,
    /// Flows each worker can track [default: 131072]
    #[arg(long, value_name = "N")]
    pub flows_max: Option<usize>,
    /// Ports there can be, the host's included [default: 1024]
    #[arg(long, value_name = "N")]
    pub ports_max: Option<usize>,
    /// An address of the node beside those on its interfaces; may be repeated
    #[arg(long = "host-address", value_name = "ADDRESS")]
    pub host_addresses: Vec<IpAddr>,
    /// Keep flow tables in shared memory, so that connections outlive a restart [default: true]
    #[arg(long, value_name = "BOOL")]
    pub shm: Option<bool>,
    /// Let the kernel carry flows between pods once they are established and allowed: on or off [default: on]
    #[arg(long, value_enum, env = "PENSTOCK_SHORTCUT")]
    pub shortcut: Option<Shortcut>,
    /// How many directions of flows the kernel may carry at a time
    #[arg(long, value_name = "N", hide = true)]
    pub shortcuts_max: Option<usize>,
    /// Attach programs as tc filters, as on kernels before 6.6, also where there are TCX links
    #[arg(long, hide = true)]
    pub tc_filters: bool,
    /// Send many frames with one system call when there are many: auto, to direct ports whose far end takes them; on, to trunks
    /// too; off [default: auto]
    #[arg(long, value_enum)]
    pub bulk_transmit: Option<BulkTransmit>,
}

impl Config {
    /// Reads the file the flags name, if they do, and lets the flags win. `cpus_allowed`: the CPUs this process may use.
    pub fn load(flags: &Flags, cpus_allowed: &[usize]) -> Result<Config, ConfigError> {
        let file = match &flags.config {
            None => File::default(),
            Some(path) => read(path)?,
        };
        merge(file, flags, cpus_allowed)
    }

    /// The CPU a worker is pinned to, if it is.
    pub fn cpu_of(&self, worker: WorkerId) -> Option<usize> {
        self.cpus.get(worker.index()).copied()
    }

    /// Is this an address a pod of this node may have?
    pub fn is_pod_address(&self, address: IpAddr) -> bool {
        self.pod_ranges.iter().any(|range| range.contains(&address))
    }
}

impl Default for Config {
    /// What a switch without file and flags runs with, on one unpinned worker.
    fn default() -> Self {
        merge(File { cpus: Some(Vec::new()), ..File::default() }, &Flags::default(), &[0])
            .expect("defaults are consistent")
    }
}

/// The CPUs this process may run on, in ascending order.
pub fn cpus_allowed() -> Vec<usize> {
    let Ok(set) = nix::sched::sched_getaffinity(nix::unistd::Pid::from_raw(0)) else { return vec![0] };
    (0..nix::sched::CpuSet::count()).filter(|&cpu| set.is_set(cpu).unwrap_or(false)).collect()
}

fn read(path: &Path) -> Result<File, ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| ConfigError::Unreadable { file: path.to_owned(), error })?;
    toml::from_str(&text).map_err(|error| ConfigError::File {
        file: path.to_owned(),
        line: error.span().map(|span| 1 + text[..span.start.min(text.len())].matches('\n').count()),
        message: error.message().replace('\n', ", "),
    })
}

fn merge(file: File, flags: &Flags, cpus_allowed: &[usize]) -> Result<Config, ConfigError> {
    let bad = |key, value: &dyn fmt::Display, reason: String| {
        Err(ConfigError::Value { key, value: value.to_string(), reason })
    };
    let instance = match flags.instance.clone().or(file.instance) {
        Some(name) => name.parse()?,
        None => Instance::default(),
    };

    let cpus = flags.cpus.clone().or(file.cpus);
    let workers = match (flags.workers.or(file.workers), &cpus) {
        (Some(workers), _) => workers,
        (None, Some(cpus)) if !cpus.is_empty() => cpus.len(),
        (None, _) => (cpus_allowed.len() / 2).clamp(1, WORKERS_MAX),
    };
    if !(1..=WORKERS_MAX).contains(&workers) {
        return bad("workers", &workers, format!("use 1 to {WORKERS_MAX}"));
    }
    let cpus = match cpus {
        Some(cpus) => {
            if !cpus.is_empty() && cpus.len() != workers {
                return bad("cpus", &list(&cpus), format!("name one for each of the {workers} workers"));
            }
            if let Some(cpu) = cpus.iter().find(|cpu| !cpus_allowed.contains(cpu)) {
                return bad(
                    "cpus",
                    &list(&cpus),
                    format!("this process may not use CPU {cpu}, only {}", list(cpus_allowed)),
                );
            }
            cpus
        }
        // The last ones: interrupts and everything else gather on the first.
        None if workers <= cpus_allowed.len() => cpus_allowed[cpus_allowed.len() - workers..].to_vec(),
        None => Vec::new(),
    };

    let mtu = flags.mtu.or(file.mtu).unwrap_or(1500);
    if !(1280..=9000).contains(&mtu) {
        return bad("mtu", &mtu, "use 1280 to 9000".to_owned());
    }

    let pod_ranges = match (flags.pod_ranges.is_empty(), file.pod_ranges) {
        (false, _) => flags.pod_ranges.clone(),
        (true, Some(ranges)) => ranges,
        (true, None) => ["10.244.0.0/24", "fd00:10:244::/64"].map(|p| p.parse().expect("a literal")).to_vec(),
    };
    if pod_ranges.is_empty() {
        return bad("pod_ranges", &"[]", "pods need addresses; name at least one prefix".to_owned());
    }
    let pod_ranges: Vec<IpNet> = pod_ranges.iter().map(IpNet::trunc).collect();
    for (at, range) in pod_ranges.iter().enumerate() {
        if range.prefix_len() == 0 {
            return bad("pod_ranges", range, "the whole world cannot be pods of this node".to_owned());
        }
        if let Some(other) = pod_ranges[..at].iter().find(|o| o.contains(range) || range.contains(*o)) {
            return bad("pod_ranges", range, format!("it overlaps {other}"));
        }
    }

    let within = |key: &'static str, value: Option<usize>, default: usize, min: usize, max: usize| {
        let value = value.unwrap_or(default);
        match (min..=max).contains(&value) {
            true => Ok(value),
            false => Err(ConfigError::Value {
                key,
                value: value.to_string(),
                reason: format!("use {min} to {max}"),
            }),
        }
    };
    let frames_per_worker =
        within("frames_per_worker", flags.frames_per_worker.or(file.frames_per_worker), 8192, 1024, 1 << 20)?;
    let flows_max = within("flows_max", flags.flows_max.or(file.flows_max), 131_072, 1024, 1 << 24)?;
    let ports_max = within("ports_max", flags.ports_max.or(file.ports_max), PORTS_MAX, 2, PORTS_MAX)?;

    let shortcuts_max = within("shortcuts_max", flags.shortcuts_max, SHORTCUTS_MAX, 2, SHORTCUTS_MAX)?;

    let host_addresses = match flags.host_addresses.is_empty() {
        false => flags.host_addresses.clone(),
        true => file.host_addresses.unwrap_or_default(),
    };
    if let Some(address) = host_addresses.iter().find(|a| pod_ranges.iter().any(|range| range.contains(*a))) {
        return bad("host_addresses", address, "it lies in pod_ranges, and is a pod's".to_owned());
    }

    if file.direct.len() >= ports_max {
        return bad("ports_max", &ports_max, format!("there are {} direct ports alone", file.direct.len()));
    }
    let queues = file.direct.iter().fold(0, |sum: u32, direct| sum.saturating_add(direct.queues));
    if queues as usize > DIRECT_MAX {
        return bad("direct", &format!("{queues} queues"), format!("use {DIRECT_MAX} at most"));
    }
    for (at, direct) in file.direct.iter().enumerate() {
        direct.check(&file.direct[..at], &pod_ranges)?;
    }

    Ok(Config {
        instance,
        workers,
        cpus,
        polling: flags.polling.or(file.polling).unwrap_or_default(),
        mtu,
        pod_ranges,
        tc_filters: flags.tc_filters,
        bulk_transmit: flags.bulk_transmit.or(file.bulk_transmit).unwrap_or_default(),
        shortcut: flags.shortcut.or(file.shortcut).unwrap_or_default(),
        shortcuts_max,
        frames_per_worker,
        flows_max,
        ports_max,
        host_addresses,
        shm: flags.shm.or(file.shm).unwrap_or(true),
        direct: file.direct,
    })
}

/// `a, b, c`
pub(crate) fn list<T: fmt::Display>(items: &[T]) -> String {
    items.iter().map(T::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use penstock_api::artefact::PodKey;

    fn from_text(text: &str) -> Result<Config, String> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("vswitch.toml");
        std::fs::write(&file, text).unwrap();
        Config::load(&Flags { config: Some(file), ..Flags::default() }, &[0, 1, 2, 3])
            .map_err(|error| error.to_string().replace(&format!("{}/", dir.path().display()), ""))
    }

    fn refused(text: &str) -> String {
        from_text(text).expect_err("it was accepted")
    }

    #[test]
    fn neither_file_nor_flags_are_needed() {
        let config = Config::load(&Flags::default(), &[0, 1]).unwrap();
        assert_eq!(config.instance.name(), "penstock");
        assert_eq!((config.workers, config.cpus.as_slice()), (1, [1].as_slice()));
        assert_eq!((config.mtu, config.ports_max, config.polling), (1500, 1024, Polling::Adaptive));
        assert_eq!(list(&config.pod_ranges), "10.244.0.0/24, fd00:10:244::/64");
    }

    #[test]
    fn workers_are_half_of_the_cpus_and_at_most_sixteen() {
        for (cpus, workers) in [(1, 1), (2, 1), (4, 2), (7, 3), (64, 16)] {
            let allowed: Vec<usize> = (0..cpus).collect();
            assert_eq!(Config::load(&Flags::default(), &allowed).unwrap().workers, workers, "{cpus} CPUs");
        }
    }

    #[test]
    fn flags_win_over_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("c.toml");
        std::fs::write(&file, "instance = \"a\"\nmtu = 9000\nworkers = 3\n").unwrap();
        let flags =
            Flags { config: Some(file), instance: Some("b".into()), mtu: Some(1400), ..Flags::default() };
        let config = Config::load(&flags, &[0, 1, 2, 3]).unwrap();
        assert_eq!((config.instance.name(), config.mtu, config.workers), ("b", 1400, 3));
    }

    #[test]
    fn sending_in_bulk_is_a_word_or_as_it_was_a_truth_value() {
        let read = |value: &str| from_text(&format!("bulk_transmit = {value}\n")).map(|c| c.bulk_transmit);
        assert_eq!(Config::load(&Flags::default(), &[0]).unwrap().bulk_transmit, BulkTransmit::Auto);
        let known = [("auto", BulkTransmit::Auto), ("on", BulkTransmit::On), ("off", BulkTransmit::Off)];
        for (word, meaning) in known {
            assert_eq!(read(&format!("\"{word}\"")), Ok(meaning));
        }
        assert_eq!((read("true"), read("false")), (Ok(BulkTransmit::On), Ok(BulkTransmit::Off)));
        let error = read("\"some\"").unwrap_err();
        assert!(error.contains("line 1") && error.contains("\"auto\", \"on\" or \"off\""), "{error}");
    }

    #[test]
    fn an_unknown_key_is_refused_with_file_line_key_and_the_known_ones() {
        let error = refused("mtu = 1500\nworker = 2\n");
        assert!(error.starts_with("vswitch.toml, line 2: unknown field `worker`"), "{error}");
        assert!(error.contains("`workers`") && error.contains("`pod_ranges`"), "{error}");
        assert!(!error.contains('\n'), "one line: {error}");
    }

    #[test]
    fn a_direct_port_is_read_whole() {
        let config = from_text(
            "[[direct]]\ninterface = \"ve0\"\nmode = \"generic\"\naddresses = [\"10.244.0.9\"]\n\
             mac = \"02:00:00:00:00:09\"\npod = \"default/db\"\n",
        )
        .unwrap();
        assert_eq!(config.direct[0].all_queues(), 0..1);
        assert_eq!(config.direct[0].mode, XdpMode::Generic);
        assert_eq!(config.direct[0].pod, PodKey::new("default", "db"));
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        let direct = |mac: &str, address: &str, pod: &str| {
            format!(
                "[[direct]]\ninterface = \"v\"\naddresses = [\"{address}\"]\nmac = \"{mac}\"\npod = \"{pod}\"\n"
            )
        };
        for (text, names) in [
            ("instance = \"../a\"", "instance name"),
            ("workers = 0", "workers = 0"),
            ("workers = 17", "use 1 to 16"),
            ("workers = 2\ncpus = [1]", "each of the 2 workers"),
            ("cpus = [9]", "may not use CPU 9, only 0, 1, 2, 3"),
            ("mtu = 1279", "mtu = 1279"),
            ("mtu = 9001", "use 1280 to 9000"),
            ("mtu = \"x\"", "line 1"),
            ("pod_ranges = []", "at least one prefix"),
            ("pod_ranges = [\"0.0.0.0/0\"]", "the whole world"),
            ("pod_ranges = [\"10.0.0.0/8\", \"10.1.0.0/16\"]", "overlaps 10.0.0.0/8"),
            ("host_addresses = [\"10.244.0.3\"]", "lies in pod_ranges"),
            ("polling = \"lazy\"", "`busy`, `adaptive`, `interrupt`"),
            ("ports_max = 1", "ports_max = 1"),
            (&direct("03:00:00:00:00:09", "10.244.0.9", "a/b"), "direct.mac"),
            (&direct("02:00:00:00:00:09", "10.0.0.9", "a/b"), "none of pod_ranges"),
            (&direct("02:00:00:00:00:09", "10.244.0.9", "b"), "namespace/name"),
            (&direct("02:00:00:00:00:09", "10.244.0.9", "a/b").repeat(2), "stands twice"),
            (&(direct("02:00:00:00:00:09", "10.244.0.9", "a/b") + "queues = 0"), "direct.queues"),
            (&(direct("02:00:00:00:00:09", "10.244.0.9", "a/b") + "queues = 4294967295"), "use 47 at most"),
            (
                &(direct("02:00:00:00:00:09", "10.244.0.9", "a/b")
                    + "queues = 3\n"
                    + &direct("02:00:00:00:00:0a", "10.244.0.10", "a/c")
                    + "queue = 2"),
                "queue 2 of it stands twice",
            ),
        ] {
            let error = refused(text);
            assert!(error.contains(names), "{text:?} gave {error:?}");
        }
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let flags = Flags { config: Some("/nonexistent/c.toml".into()), ..Flags::default() };
        let error = Config::load(&flags, &[0]).unwrap_err().to_string();
        assert!(error.contains("/nonexistent/c.toml"), "{error}");
    }
}
