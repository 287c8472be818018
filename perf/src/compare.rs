//! The switch beside what people use today, on the same kind of veth pairs, the same cores and in the same run.
//!
//! Subjects take turns within a round, so that a machine that gets slower slows all of them; the median of the rounds counts,
//! and only ratios are compared. Whoever polls without end is stopped outside its turn. CPU 0 has the load and all the kernel
//! does for the sending pod, CPU 1 the polling thread; a kernel path has no such thread and does everything on CPU 0.

mod report;

use crate::load::{self, LoadPlan};
use crate::subjects::{Subject, bridge, child, direct, ground, ours, ovs, testpmd};
use anyhow::{Context, Result, ensure};
use nix::sys::signal::{SigSet, Signal};
use penstock_lab::{Lab, Place};
use report::{Account, Figures, Report, Row, Skipped};
use std::collections::BTreeMap;
use std::time::Duration;

const LOAD_CPU: usize = 0;
const WORKER_CPU: usize = 1;
const PORT: u16 = 5432;
const TRANSFER_PORT: u16 = 5001;

const UDP: &str = "UDP 64 B, Mpps";
const TCP: &str = "TCP 1 stream, Gb/s";
const TCP_ANYWHERE: &str = "TCP 1 stream, CPUs free, Gb/s";
const P50: &str = "TCP request p50, us";
const P99: &str = "TCP request p99, us";
const MEASUREMENTS: [&str; 5] = [UDP, TCP, TCP_ANYWHERE, P50, P99];

/// What a peer gives beside the kernel bridge when it is set up well. TCP from the measurements the design began with. UDP from our
/// own: those began with 0.85, under a load that paused between its system calls, and peers that keep up longer than the bridge
/// lost most by the pauses.
const KNOWN: [(&str, &str, f64); 3] =
    [(UDP, "OVS afxdp", 1.29), (UDP, "testpmd io", 1.31), (TCP_ANYWHERE, "OVS afxdp", 2.8 / 15.5)];
const TARGETS: [(&str, &str, f64); 4] = [
    (UDP, "OVS afxdp", 1.2),
    (UDP, "testpmd io", 1.2),
    (TCP, "OVS afxdp", 1.1),
    (TCP_ANYWHERE, "OVS afxdp", 1.1),
];

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Rounds; the median counts.
    #[arg(long, default_value_t = 5, value_name = "N")]
    rounds: usize,
    /// Milliseconds of each load and transfer.
    #[arg(long, default_value_t = 2000, value_name = "MS")]
    transfer_ms: u64,
    /// Questions of each measurement of latency.
    #[arg(long, default_value_t = 5000, value_name = "N")]
    questions: usize,
    /// Flows of the UDP load.
    #[arg(long, default_value_t = 1000, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=50_000))]
    flows: u64,
    /// Rules of the policy, each way.
    #[arg(long, default_value_t = 1000, value_name = "N", value_parser = clap::value_parser!(u16).range(4..=20_000))]
    rules: u16,
    /// Measure only these: `penstock`, `direct`, `bridge`, `ovs`, `testpmd`.
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    only: Vec<String>,
    /// No TCP.
    #[arg(long)]
    udp_only: bool,
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    Table,
    Json,
}

type Subjects = Vec<Box<dyn Subject>>;
/// By measurement and subject, in rounds.
type Seen = BTreeMap<(&'static str, &'static str), Vec<f64>>;

pub(crate) fn run(arguments: &Arguments) -> Result<bool> {
    ensure!(nix::unistd::geteuid().is_root(), "benchmarks make network namespaces: run this as root");
    ensure!(
        std::thread::available_parallelism().is_ok_and(|cpus| cpus.get() > WORKER_CPU),
        "two CPUs are needed: one for the load, one for what is measured"
    );
    clean_up_when_interrupted()?;
    ground::sweep();
    let (mut subjects, skipped) = make(arguments)?;
    child::favour(std::process::id());
    for subject in &subjects {
        subject.process().into_iter().for_each(child::favour);
        subject.places()[1].listen_tcp(PORT);
        subject.set_running(false)?;
    }
    let mut seen = Seen::new();
    let mut notes = BTreeMap::new();
    for round in 1..=arguments.rounds.max(1) {
        for subject in &mut subjects {
            subject.set_running(true)?;
            let mut turn = |kind, measure: &dyn Fn(&dyn Subject, &Arguments, &mut Seen) -> Result<String>| {
                let note = measure(&**subject, arguments, &mut seen)
                    .with_context(|| format!("{} in round {round}", subject.name()))?;
                let drops = subject.drops();
                let note = [note, drops].into_iter().filter(|s| !s.is_empty()).collect::<Vec<_>>().join("; ");
                eprintln!("compare: round {round}/{}: {}: {kind}: {note}", arguments.rounds, subject.name());
                notes.insert((kind, subject.name()), note);
                anyhow::Ok(())
            };
            turn(UDP, &measure_udp)?;
            if !arguments.udp_only {
                turn(TCP, &measure_tcp)?;
            }
            subject.set_running(false)?;
        }
    }
    let report = Report {
        machine: machine(),
        method: format!(
            "{} rounds of {} ms each, subjects in turns; load, sink and TCP ends on CPU {LOAD_CPU}, polling threads on CPU \
             {WORKER_CPU}; {} flows, 60-byte frames (64 with a wire's checksum)",
            arguments.rounds, arguments.transfer_ms, arguments.flows
        ),
        subjects: subjects.iter().map(|s| Account { subject: s.name(), is: s.describe() }).collect(),
        skipped,
        rows: rows(&seen, &notes),
    };
    // Continued, so that they can end in an orderly way.
    for subject in &subjects {
        subject.set_running(true)?;
    }
    drop(subjects);
    match arguments.output {
        Output::Table => report.print(),
        Output::Json => println!("{}", serde_json::to_string_pretty(&report)?),
    }
    let missed = report.missed();
    for miss in &missed {
        eprintln!("compare: not reached: {miss}");
    }
    Ok(missed.is_empty())
}

/// Everything that can be measured here, and why the rest cannot. Without the bridge nothing has a meaning.
fn make(arguments: &Arguments) -> Result<(Subjects, Vec<Skipped>)> {
    let wanted = |name: &str| arguments.only.is_empty() || arguments.only.iter().any(|only| only == name);
    let mut subjects = Subjects::new();
    let mut skipped = Vec::new();
    if wanted("bridge") {
        subjects.push(Box::new(bridge::Bridge::make().context("the kernel bridge to compare with")?));
    }
    // Each polls without end from its start: it is made while the others stand still.
    type Make<'a> = Box<dyn Fn() -> Result<Box<dyn Subject>> + 'a>;
    let rules = usize::from(arguments.rules);
    let ports = [PORT, TRANSFER_PORT];
    let makers: [(&str, &'static str, Make<'_>); 4] = [
        ("penstock", "penstock", Box::new(|| Ok(Box::new(ours::Ours::make(WORKER_CPU, rules, &ports)?)))),
        (
            "direct",
            "penstock direct",
            Box::new(|| Ok(Box::new(direct::Direct::make(WORKER_CPU, rules, &ports)?))),
        ),
        ("ovs", "OVS afxdp", Box::new(|| Ok(Box::new(ovs::Ovs::make(WORKER_CPU)?)))),
        ("testpmd", "testpmd io", Box::new(|| Ok(Box::new(testpmd::Testpmd::make(WORKER_CPU, LOAD_CPU)?)))),
    ];
    for (short, name, maker) in makers {
        if !wanted(short) {
            continue;
        }
        match maker() {
            Ok(subject) => {
                subject.set_running(false)?;
                subjects.push(subject);
            }
            Err(error) if !["penstock", "direct"].contains(&short) => {
                eprintln!("compare: {name} is skipped: {error:#}");
                skipped.push(Skipped { subject: name, reason: format!("{error:#}") });
            }
            Err(error) => return Err(error),
        }
    }
    for subject in &subjects {
        subject.set_running(true)?;
    }
    Ok((subjects, skipped))
}

/// One turn of one subject. Returns what is worth saying about the load.
fn measure_udp(subject: &dyn Subject, arguments: &Arguments, seen: &mut Seen) -> Result<String> {
    let [from, to] = subject.places();
    // Neighbours are found, and the path is shown to work, before anything is measured.
    from.round_trips(to.v4(), PORT, 10).context("the pods cannot talk")?;
    let plan = LoadPlan {
        flows: arguments.flows,
        warm_up: Duration::from_millis(500),
        duration: Duration::from_millis(arguments.transfer_ms),
        cpu: LOAD_CPU,
    };
    let arrived = load::run(from, to, subject.next_hop(), &plan)?;
    ensure!(arrived.wrong_len == 0, "{} frames arrived with another length", arrived.wrong_len);
    seen.entry((UDP, subject.name())).or_default().push(arrived.mpps);
    let mut note = format!("offered {:.2} Mpps, {:.0} % lost", arrived.offered_mpps, arrived.loss() * 100.0);
    if arrived.out_of_order > 0 {
        note.push_str(&format!(", {} out of order", arrived.out_of_order));
    }
    Ok(note)
}

/// As [`measure_udp`].
fn measure_tcp(subject: &dyn Subject, arguments: &Arguments, seen: &mut Seen) -> Result<String> {
    let [from, to] = subject.places();
    let time = Duration::from_millis(arguments.transfer_ms);
    let mut add = |what, value| seen.entry((what, subject.name())).or_default().push(value);
    add(TCP, on_cpu(LOAD_CPU, || transfer(from, to, time))?);
    add(TCP_ANYWHERE, transfer(from, to, time)?);
    // What the transfer left behind in queues and settings is gone by then.
    std::thread::sleep(Duration::from_millis(200));
    let latency = on_cpu(LOAD_CPU, || from.round_trips(to.v4(), PORT, arguments.questions))?;
    add(P50, latency.p50.as_secs_f64() * 1e6);
    add(P99, latency.p99.as_secs_f64() * 1e6);
    Ok(String::new())
}

fn transfer(from: &Place, to: &Place, time: Duration) -> Result<f64> {
    let transfer = from.start_transfer(to, to.v4(), TRANSFER_PORT, time)?.finish()?;
    Ok(transfer.gigabits_per_second())
}

/// Threads that `what` makes inherit the CPU.
fn on_cpu<T: Send>(cpu: usize, what: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| match scope.spawn(|| load::pin(cpu).and_then(|()| what())).join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

fn rows(seen: &Seen, notes: &BTreeMap<(&'static str, &'static str), String>) -> Vec<Row> {
    const ORDER: [&str; 5] = ["penstock", "penstock direct", "OVS afxdp", "testpmd io", "kernel bridge"];
    let median = |measurement, subject| {
        seen.get(&(measurement, subject)).map(|rounds| Figures::of(rounds.clone()).median)
    };
    let find = |table: &[(&str, &str, f64)], measurement, subject| {
        table.iter().find(|(m, s, _)| (*m, *s) == (measurement, subject)).map(|(.., value)| *value)
    };
    let mut rows = Vec::new();
    for measurement in MEASUREMENTS {
        for subject in ORDER {
            let Some(rounds) = seen.get(&(measurement, subject)) else { continue };
            let figures = Figures::of(rounds.clone());
            let to_bridge = median(measurement, "kernel bridge").map(|bridge| figures.median / bridge);
            let is_ours = subject.starts_with("penstock");
            let to_this = |ours| median(measurement, ours).filter(|_| !is_ours).map(|m| m / figures.median);
            let (mut ours_to_this, mut direct_to_this) = (to_this("penstock"), to_this("penstock direct"));
            let mut note = notes.get(&(measurement, subject)).cloned().unwrap_or_default();
            // A peer's TCP is known with free CPUs only; what that says of its set-up holds for both.
            let judged_by = if measurement == TCP { TCP_ANYWHERE } else { measurement };
            let bridge = median(judged_by, "kernel bridge");
            if let (Some(known), Some(bridge), Some(peer)) =
                (find(&KNOWN, judged_by, subject), bridge, median(judged_by, subject))
                && !report::is_plausible(peer / bridge, known)
            {
                (ours_to_this, direct_to_this) = (None, None);
                let ratio = peer / bridge;
                note = format!("not comparable: {ratio:.2} of the bridge, {known:.2} is known; {note}");
            }
            rows.push(Row {
                measurement,
                subject,
                figures,
                to_bridge,
                ours_to_this,
                direct_to_this,
                target: find(&TARGETS, measurement, subject),
                note,
            });
        }
    }
    rows
}

fn machine() -> String {
    let cpus = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let count = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{count} CPUs{}, Linux {}", model.trim_start_matches([' ', '\t']), release.trim())
}

fn clean_up_when_interrupted() -> Result<()> {
    let signals = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]);
    // Every thread that is started later inherits this: only the waiting one hears them.
    signals.thread_block().context("signals cannot be blocked")?;
    std::thread::spawn(move || {
        if let Ok(signal) = signals.wait() {
            eprintln!("\ncompare: {signal}, cleaning up");
            for instance in [ours::INSTANCE, direct::INSTANCE] {
                let _ = Lab::remove_instance(instance);
            }
            ground::remove_own();
            // The peers' programs end with this process.
            std::process::exit(130);
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_that_is_set_up_wrongly_gets_no_ratio() {
        let seen = |ovs| {
            Seen::from([
                ((UDP, "penstock"), vec![0.7]),
                ((UDP, "OVS afxdp"), vec![ovs]),
                ((UDP, "kernel bridge"), vec![0.6]),
            ])
        };
        let ratio = |ovs| rows(&seen(ovs), &BTreeMap::new())[1].ours_to_this;
        assert_eq!(ratio(0.8), Some(0.7 / 0.8));
        assert_eq!(ratio(0.5), None);
    }

    #[test]
    fn both_measurements_of_tcp_fall_with_the_one_that_is_known() {
        let mut seen = Seen::new();
        for (subject, gigabits) in [("penstock", 5.0), ("OVS afxdp", 1.0), ("kernel bridge", 15.5)] {
            seen.insert((TCP, subject), vec![gigabits]);
            seen.insert((TCP_ANYWHERE, subject), vec![gigabits]);
        }
        let rows = rows(&seen, &BTreeMap::new());
        let ratios: Vec<_> =
            rows.iter().filter(|row| row.subject == "OVS afxdp").map(|row| row.ours_to_this).collect();
        assert_eq!(ratios, [None, None]);
    }
}
