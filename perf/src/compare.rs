//! The switch beside what people use today, on the same kind of veth pairs, the same cores and in the same run.
//!
//! Subjects take turns within a round, every other round in the opposite order, so that a machine that gets slower slows all of
//! them; the median of the rounds counts, and only ratios are compared, round by round ([`verdict`]). Whoever polls without end is stopped outside its turn. CPU 0 has the load and all
//! the kernel does for the sending pod, CPU 1 the polling thread; a kernel path has no such thread and does everything on CPU 0.
//! The pipelines from memory ([`memory`]) take turns on CPU 1.

mod memory;
mod report;
mod seen;
mod verdict;
mod work;

use crate::figures::{Document, Output};
use crate::interrupt;
use crate::placement::{self, LOAD_CPU, WORKER_CPU};
use crate::progress::Progress;
use crate::subjects::direct::Sending;
use crate::subjects::ground::MTU_USUAL;
use crate::subjects::loops::Loop;
use crate::subjects::ours::{Ours, Shortcut};
use crate::subjects::{self as names, Subject, bridge, child, direct, ground, ovs, redirect, testpmd};
use anyhow::{Result, ensure};
use report::Report;
use seen::Seen;
use std::path::PathBuf;
use std::time::Duration;
use work::Work;

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
    questions: u64,
    /// Flows of the UDP load.
    #[arg(long, default_value_t = 1000, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=50_000))]
    flows: u64,
    /// Rules of the policy, each way.
    #[arg(long, default_value_t = 1000, value_name = "N", value_parser = clap::value_parser!(u16).range(1000..=20_000))]
    rules: u16,
    /// Measure only these: `userspace`, `shortcut`, `direct`, `direct-ring`, `bridge`, `redirect`, `loop`, `loop-afxdp`, `ovs`,
    /// `testpmd`; from memory: `engine`, `ovs-dpdk`.
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    only: Vec<String>,
    /// Of the work between pods, only this.
    #[arg(long, value_enum, value_name = "WORK", value_delimiter = ',', default_values_t = Work::all())]
    work: Vec<Work>,
    /// Does everything work? Everything once and briefly; figures mean nothing, and no target is asserted.
    #[arg(long)]
    smoke: bool,
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
    /// Write the figures as JSON to this file too.
    #[arg(long, value_name = "FILE.json")]
    save: Option<PathBuf>,
}

impl Arguments {
    fn transfer_time(&self) -> Duration {
        Duration::from_millis(self.transfer_ms)
    }

    fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == name)
    }
}

/// Whoever stands still outside its turn is continued before it is removed: a program that is stopped does not hear that it is to
/// end.
#[derive(Default)]
struct Subjects(Vec<Box<dyn Subject>>);

impl Subjects {
    fn set_running(&self, running: bool) -> Result<()> {
        self.0.iter().try_for_each(|subject| subject.set_running(running))
    }
}

impl Drop for Subjects {
    fn drop(&mut self) {
        self.0.iter().for_each(|subject| drop(subject.set_running(true)));
    }
}

/// Short names, in the order of turns. The baseline is first.
const SHORT: [&str; 10] = [
    "bridge",
    "redirect",
    "userspace",
    "shortcut",
    "direct",
    "direct-ring",
    "loop",
    "loop-afxdp",
    "ovs",
    "testpmd",
];
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
    interrupt::listen()?;
    ground::sweep();
    child::favour(std::process::id());
    let mut document = Document::new("compare");
    document.placement = placement::between_pods(LOAD_CPU, WORKER_CPU);
    document.method = format!(
        "{} rounds, subjects in turns; between pods {} ms each, {} flows of 60-byte frames (64 with a wire's checksum), \
         TCP with {}, {} rules each way; from memory the same frames for both sides",
        arguments.rounds,
        arguments.transfer_ms,
        arguments.flows,
        names::CONGESTION_CONTROL,
        arguments.rules,
    );
    let between_pods_steps =
        SHORT.iter().filter(|short| arguments.wants(short)).count() * (1 + arguments.rounds.max(1));
    let mut progress = Progress::of("compare", between_pods_steps + memory::steps(arguments));
    let mut seen = Seen::default();
    between_pods(arguments, &mut seen, &mut document, &mut progress)?;
    memory::measure(arguments, &mut seen, &mut document, &mut progress)?;
    drop(progress);
    let mut report = Report { rows: seen.rows(), verdicts: Vec::new() };
    verdict::judge(&mut report);
    report.fill(&mut document);
    if let Some(file) = &arguments.save {
        document.save(file)?;
    }
    match arguments.output {
        Output::Table => report.print(&document),
        Output::Json => document.print(Output::Json)?,
    }
    Ok(arguments.smoke || document.is_reached())
}

/// Pods, and everything that can be between them.
fn between_pods(
    arguments: &Arguments,
    seen: &mut Seen,
    document: &mut Document,
    progress: &mut Progress,
) -> Result<()> {
    let mut subjects = make(arguments, document, progress)?;
    for subject in &subjects.0 {
        subject.process().into_iter().for_each(child::favour);
        names::equip(subject.places())?;
        work::prepare(&**subject);
    }
    subjects.set_running(false)?;
    for round in 1..=arguments.rounds.max(1) {
        let mut nth = 0;
        while let Some(subject) = subjects.0.get_mut(nth) {
            let name = subject.name();
            let said = format!("round {round}/{}: {name}", arguments.rounds);
            progress.step(&said)?;
            match turn(&mut **subject, arguments, seen, progress, &said) {
                Ok(()) => nth += 1,
                Err(error) if interrupt::is_wanted() || name.starts_with("penstock") => {
                    return Err(error.context(said));
                }
                // A peer that fails is a peer less.
                Err(error) => {
                    progress.say(&format!("{name} is left out from here: {error:#}"));
                    document.skip(name, format!("failed in round {round}: {error:#}"));
                    drop(Subjects(vec![subjects.0.remove(nth)]));
                }
            }
        }
        // What gets slower or faster from turn to turn does so for each as often as for the others.
        subjects.0.reverse();
    }
    subjects.0.iter().for_each(|subject| document.add_subject(names::account(&**subject)));
    Ok(())
}

fn turn(
    subject: &mut dyn Subject,
    arguments: &Arguments,
    seen: &mut Seen,
    progress: &Progress,
    round: &str,
) -> Result<()> {
    subject.set_running(true)?;
    for work in Work::all().into_iter().filter(|work| arguments.work.contains(work)) {
        interrupt::check()?;
        let said = work.measure(subject, arguments, seen)?;
        let said: Vec<String> = [said, subject.drops()].into_iter().filter(|s| !s.is_empty()).collect();
        progress.say(&format!("{round}: {}: {}", work.name(), said.join("; ")));
    }
    subject.set_running(false)
}

/// Everything that can be measured here, and why the rest cannot. Our own have to work.
fn make(arguments: &Arguments, document: &mut Document, progress: &mut Progress) -> Result<Subjects> {
    let rules = usize::from(arguments.rules);
    let ports = work::ports();
    let ours = |shortcut| Ours::make(WORKER_CPU, rules, &ports, shortcut);
    let one = |short: &str| -> Result<Box<dyn Subject>> {
        Ok(match short {
            "bridge" => Box::new(bridge::Bridge::make(MTU_USUAL)?),
            "redirect" => Box::new(redirect::RedirectPeer::make(MTU_USUAL)?),
            "userspace" => Box::new(ours(Shortcut::Off)?),
            "shortcut" => Box::new(ours(Shortcut::On)?),
            "direct" => Box::new(direct::Direct::make(WORKER_CPU, rules, &ports, Sending::Default)?),
            "direct-ring" => Box::new(direct::Direct::make(WORKER_CPU, rules, &ports, Sending::Ring)?),
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
        names::RING,
        names::LOOP,
        names::LOOP_AFXDP,
        names::OVS,
        names::TESTPMD,
    ];
    let mut subjects = Subjects::default();
    for (short, name) in SHORT.into_iter().zip(full) {
        if !arguments.wants(short) {
            continue;
        }
        progress.step(&format!("setting up {name}"))?;
        match one(short) {
            Ok(subject) => {
                // Whoever polls without end stands still while the next is made.
                subject.set_running(false)?;
                subjects.0.push(subject);
            }
            Err(error) if name.starts_with("penstock") => {
                return Err(error.context(name));
            }
            Err(error) => {
                progress.say(&format!("{name} is skipped: {error:#}"));
                document.skip(name, format!("{error:#}"));
            }
        }
    }
    subjects.set_running(true)?;
    Ok(subjects)
}
