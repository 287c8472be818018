//! The switch beside what people use today, on the same kind of veth pairs, the same cores and in the same run.
//!
//! Subjects take turns within a round, so that a machine that gets slower slows all of them; the median of the rounds counts,
//! and only ratios are compared ([`verdict`]). Whoever polls without end is stopped outside its turn. CPU 0 has the load and all
//! the kernel does for the sending pod, CPU 1 the polling thread; a kernel path has no such thread and does everything on CPU 0.
//! The pipelines from memory ([`memory`]) take turns on CPU 1.

mod memory;
mod report;
mod seen;
mod verdict;
mod work;

use crate::subjects::direct::Sending;
use crate::subjects::loops::Loop;
use crate::subjects::ours::{self, Ours, Shortcut};
use crate::subjects::{self as names, Subject, bridge, child, direct, ground, ovs, redirect, testpmd};
use anyhow::{Context, Result, ensure};
use nix::sys::signal::{SigSet, Signal};
use penstock_lab::Lab;
pub(crate) use report::number;
use report::{Account, Report, Skipped};
use seen::Seen;
use std::path::PathBuf;

pub(crate) const LOAD_CPU: usize = 0;
pub(crate) const WORKER_CPU: usize = 1;

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Arguments {
    /// Rounds; the median counts.
    #[arg(long, default_value_t = 5, value_name = "N")]
    rounds: usize,
    /// Milliseconds of each load and transfer.
    #[arg(long, default_value_t = 1500, value_name = "MS")]
    transfer_ms: u64,
    /// Questions of each measurement of latency.
    #[arg(long, default_value_t = 5000, value_name = "N")]
    questions: usize,
    /// Flows of the UDP load.
    #[arg(long, default_value_t = 1000, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=50_000))]
    flows: u64,
    /// Rules of the policy, each way.
    #[arg(long, default_value_t = 1000, value_name = "N", value_parser = clap::value_parser!(u16).range(1000..=20_000))]
    rules: u16,
    /// Measure only these: `userspace`, `shortcut`, `direct`, `bridge`, `redirect`, `loop`, `loop-afxdp`, `ovs`, `testpmd`;
    /// from memory: `engine`, `ovs-dpdk`.
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    only: Vec<String>,
    /// Of the work between pods, UDP alone.
    #[arg(long)]
    udp_only: bool,
    /// Does everything work? Everything once and briefly; figures mean nothing, and no target is asserted.
    #[arg(long)]
    smoke: bool,
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
    /// Write the figures as JSON to this file too.
    #[arg(long, value_name = "FILE.json")]
    save: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    Table,
    Json,
}

impl Arguments {
    fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == name)
    }
}

type Subjects = Vec<Box<dyn Subject>>;

/// Short names, in the order of turns. The baseline is first.
const SHORT: [&str; 10] =
    ["bridge", "redirect", "userspace", "shortcut", "direct", "bulk", "loop", "loop-afxdp", "ovs", "testpmd"];
const FROM_MEMORY: [&str; 2] = ["engine", "ovs-dpdk"];

pub(crate) fn run(arguments: &Arguments) -> Result<bool> {
    let mut arguments = arguments.clone();
    if arguments.smoke {
        (arguments.rounds, arguments.transfer_ms, arguments.questions) = (1, 100, 50);
    }
    let arguments = &arguments;
    for name in &arguments.only {
        let all = || SHORT.into_iter().chain(FROM_MEMORY);
        ensure!(
            all().any(|known| known == name),
            "--only: there is no subject '{name}', but {}",
            all().collect::<Vec<_>>().join(", ")
        );
    }
    ensure!(nix::unistd::geteuid().is_root(), "a comparison makes network namespaces: run this as root");
    ensure!(
        std::thread::available_parallelism().is_ok_and(|cpus| cpus.get() > WORKER_CPU),
        "two CPUs are needed: one for the load, one for what is measured"
    );
    clean_up_when_interrupted()?;
    ground::sweep();
    child::favour(std::process::id());
    let mut seen = Seen::default();
    let (mut accounts, mut skipped) = between_pods(arguments, &mut seen)?;
    let (more_accounts, more_skipped) = memory::measure(arguments, &mut seen)?;
    accounts.extend(more_accounts);
    skipped.extend(more_skipped);
    let mut report = Report {
        kind: report::KIND.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        machine: machine(),
        method: format!(
            "{} rounds, subjects in turns; between pods {} ms each, {} flows of 60-byte frames (64 with a wire's checksum), \
             {} rules each way; from memory the same frames for both sides{}",
            arguments.rounds,
            arguments.transfer_ms,
            arguments.flows,
            arguments.rules,
            if cfg!(debug_assertions) { "; NOT OPTIMISED, our figures mean nothing" } else { "" }
        ),
        placement: format!(
            "CPU {LOAD_CPU}: load, sink, TCP ends (where not said otherwise), and the kernel's work for them; CPU \
             {WORKER_CPU}: the one polling thread or pipeline"
        ),
        subjects: accounts,
        skipped,
        rows: seen.rows(),
        verdicts: Vec::new(),
    };
    verdict::judge(&mut report);
    if let Some(file) = &arguments.save {
        let json = serde_json::to_string_pretty(&report)?;
        std::fs::write(file, json).with_context(|| file.display().to_string())?;
    }
    match arguments.output {
        Output::Table => report.print(),
        Output::Json => println!("{}", serde_json::to_string_pretty(&report)?),
    }
    for verdict in report.verdicts.iter().filter(|verdict| verdict.is_missed()) {
        eprintln!("compare: not reached: {}: {}", verdict.what, verdict.words());
    }
    Ok(arguments.smoke || !report.verdicts.iter().any(report::Verdict::is_missed))
}

/// Pods, and everything that can be between them.
fn between_pods(arguments: &Arguments, seen: &mut Seen) -> Result<(Vec<Account>, Vec<Skipped>)> {
    let (mut subjects, mut skipped) = make(arguments)?;
    for subject in &subjects {
        subject.process().into_iter().for_each(child::favour);
        work::prepare(&**subject)?;
        subject.set_running(false)?;
    }
    for round in 1..=arguments.rounds.max(1) {
        let mut left = Subjects::new();
        for mut subject in subjects {
            let said = format!("round {round}/{}: {}", arguments.rounds, subject.name());
            match turn(&mut *subject, arguments, seen, &said) {
                Ok(()) => left.push(subject),
                Err(error) if subject.name().starts_with("penstock") => return Err(error.context(said)),
                // A peer that fails is a peer less.
                Err(error) => {
                    eprintln!("compare: {} is left out from here: {error:#}", subject.name());
                    let reason = format!("failed in round {round}: {error:#}");
                    skipped.push(Skipped { subject: subject.name().to_owned(), reason });
                }
            }
        }
        subjects = left;
    }
    let accounts =
        subjects.iter().map(|s| Account { subject: s.name().to_owned(), is: s.describe() }).collect();
    // Continued, so that they can end in an orderly way.
    for subject in &subjects {
        subject.set_running(true)?;
    }
    Ok((accounts, skipped))
}

fn turn(subject: &mut dyn Subject, arguments: &Arguments, seen: &mut Seen, round: &str) -> Result<()> {
    subject.set_running(true)?;
    let works: [(&str, work::Measure); 2] = [("UDP", work::udp), ("TCP", work::tcp)];
    let wanted = if arguments.udp_only { &works[..1] } else { &works[..] };
    for (what, measure) in wanted {
        let said = measure(subject, arguments, seen)?;
        let said: Vec<String> = [said, subject.drops()].into_iter().filter(|s| !s.is_empty()).collect();
        eprintln!("compare: {round}: {what}: {}", said.join("; "));
    }
    subject.set_running(false)
}

/// Everything that can be measured here, and why the rest cannot. Our own have to work.
fn make(arguments: &Arguments) -> Result<(Subjects, Vec<Skipped>)> {
    let rules = usize::from(arguments.rules);
    let ports = work::ports();
    let ours = |shortcut| Ours::make(WORKER_CPU, rules, &ports, shortcut);
    let one = |short: &str| -> Result<Box<dyn Subject>> {
        Ok(match short {
            "bridge" => Box::new(bridge::Bridge::make()?),
            "redirect" => Box::new(redirect::RedirectPeer::make()?),
            "userspace" => Box::new(ours(Shortcut::Off)?),
            "shortcut" => Box::new(ours(Shortcut::On)?),
            "direct" => Box::new(direct::Direct::make(WORKER_CPU, rules, &ports, Sending::Ring)?),
            "bulk" => Box::new(direct::Direct::make(WORKER_CPU, rules, &ports, Sending::Bulk)?),
            "loop" => Box::new(Loop::with_xsk_rs(WORKER_CPU)?),
            "loop-afxdp" => Box::new(Loop::with_afxdp(WORKER_CPU)?),
            "ovs" => Box::new(ovs::Ovs::make(WORKER_CPU)?),
            _ => Box::new(testpmd::Testpmd::make(WORKER_CPU, LOAD_CPU)?),
        })
    };
    let full = [
        names::BRIDGE,
        names::REDIRECT,
        names::USERSPACE,
        names::SHORTCUT,
        names::DIRECT,
        names::BULK,
        names::LOOP,
        names::LOOP_AFXDP,
        names::OVS,
        names::TESTPMD,
    ];
    let (mut subjects, mut skipped) = (Subjects::new(), Vec::new());
    for (short, name) in SHORT.into_iter().zip(full) {
        if !arguments.wants(short) {
            continue;
        }
        eprintln!("compare: setting up {name}");
        match one(short) {
            Ok(subject) => {
                // Whoever polls without end stands still while the next is made.
                subject.set_running(false)?;
                subjects.push(subject);
            }
            Err(error) if name.starts_with("penstock") => {
                return Err(error.context(name));
            }
            Err(error) => {
                eprintln!("compare: {name} is skipped: {error:#}");
                skipped.push(Skipped { subject: name.to_owned(), reason: format!("{error:#}") });
            }
        }
    }
    for subject in &subjects {
        subject.set_running(true)?;
    }
    Ok((subjects, skipped))
}

fn machine() -> String {
    let cpus = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let count = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let virtual_machine = if cpus.contains(" hypervisor") { ", a virtual machine" } else { "" };
    format!(
        "{count} CPUs{}{virtual_machine}, Linux {}",
        model.trim_start_matches([' ', '\t']),
        release.trim()
    )
}

fn clean_up_when_interrupted() -> Result<()> {
    let signals = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]);
    // Every thread that is started later inherits this: only the waiting one hears them.
    signals.thread_block().context("signals cannot be blocked")?;
    std::thread::spawn(move || {
        if let Ok(signal) = signals.wait() {
            eprintln!("\ncompare: {signal}, cleaning up");
            for instance in ours::INSTANCES.into_iter().chain(direct::INSTANCES) {
                let _ = Lab::remove_instance(instance);
            }
            ground::remove_own();
            // The peers' programs end with this process.
            std::process::exit(130);
        }
    });
    Ok(())
}
