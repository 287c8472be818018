//! The demo: a node, four pods, two policies, and who reaches whom.
//!
//! Everything is the real thing: the switch and the control plane are started by the operator's command on a directory of
//! Kubernetes YAML, pods are attached by the CNI plugin over the CNI protocol, traffic is the kernel's TCP, HTTP and ICMP. Only the
//! node is pretended: it lives in network namespaces, so that the machine's own network is not touched.

mod kept;
mod story;
mod table;

use anyhow::{Context, Result};
use nix::sys::signal::{SigSet, Signal};
use penstock_api::{DropReason, Instance};
use penstock_lab::{Connection, Lab, LabOptions, Outcome, Place, Pod};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use story::{Expected, HTTP, PHASES, Phase, ROWS, SIDE, SQL, What, Who};
use table::{Seen, Tally, connectivity};

const INSTANCE: &str = "penstock-demo";
/// Where a kept demo's objects can be found by a person.
const OBJECTS: &str = "/run/penstock-demo-objects";
/// An answer that is expected may take its time on a small machine; silence has to be waited for.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);
const SILENCE: Duration = Duration::from_millis(500);
/// Gigabits per second. No figure to be proud of: below it, a stream has stood still for most of its time.
const STALLED_BELOW: f64 = 0.05;
const PROBES_AT_ONCE: usize = 12;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Leave everything running, and print the commands to look around.
    #[arg(long)]
    keep: bool,
    /// Remove a demo that was kept.
    #[arg(long, conflicts_with = "keep")]
    remove: bool,
}

/// True when every check passed.
pub(crate) fn run(arguments: &Arguments) -> Result<bool> {
    let instance: Instance = INSTANCE.parse()?;
    if arguments.remove {
        remove()?;
        println!("demo: removed");
        return Ok(true);
    }
    clean_up_when_interrupted()?;
    if !left_behind(&instance).is_empty() {
        println!("demo: removing what an earlier one left or kept");
        remove()?;
    }
    let began = Instant::now();
    let mut tally = Tally::default();
    let demo = Demo::start().inspect_err(|_| remove_objects())?;
    let result = demo.tell(&mut tally);
    if let Err(error) = &result {
        eprintln!("{}", demo.lab.report());
        eprintln!("demo: {error:#}");
        tally.check(false, "the demo ran to its end");
    }
    if arguments.keep {
        demo.keep()?;
    } else {
        drop(demo);
        remove_objects();
        let left = left_behind(&instance);
        tally.check(left.is_empty(), format_args!("nothing is left behind {}", left.join(", ")));
    }
    println!("took {:.0} s", began.elapsed().as_secs_f64());
    println!("demo: {}/{} checks passed", tally.passed, tally.made);
    Ok(tally.passed == tally.made && result.is_ok())
}

fn remove() -> Result<()> {
    remove_objects();
    Lab::remove_instance(INSTANCE)
}

fn remove_objects() {
    // Absent is what we want.
    let _ = std::fs::remove_dir_all(OBJECTS);
}

fn left_behind(instance: &Instance) -> Vec<String> {
    let mut left = Lab::leftovers(instance);
    left.extend(Path::new(OBJECTS).exists().then(|| OBJECTS.to_owned()));
    left
}

/// Ctrl-C in the middle must not leave a node behind.
fn clean_up_when_interrupted() -> Result<()> {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        signals.add(signal);
    }
    // Every thread that is started later inherits this: only the waiting one hears them.
    signals.thread_block().context("signals cannot be blocked")?;
    std::thread::spawn(move || {
        if let Ok(signal) = signals.wait() {
            eprintln!("\ndemo: {signal}, cleaning up");
            let _ = remove();
            std::process::exit(130);
        }
    });
    Ok(())
}

struct Demo {
    db: Pod,
    web: Pod,
    batch: Pod,
    guest: Pod,
    lab: Lab,
}

fn step(text: impl std::fmt::Display) {
    println!("demo: {text}");
}

impl Demo {
    fn start() -> Result<Demo> {
        step("starting the switch and the control plane on a node of their own");
        let options = LabOptions {
            instance: Some(INSTANCE.to_owned()),
            objects: Some(PathBuf::from(OBJECTS)),
            ..LabOptions::default()
        };
        let lab = Lab::start("demo", options)?;
        lab.try_apply("namespaces", include_str!("../demo/namespaces.yaml"))?;
        lab.try_apply("pods", include_str!("../demo/pods.yaml"))?;
        step("attaching four pods through penstock-cni");
        let attach = |namespace: &str, name: &str| -> Result<Pod> {
            let pod = lab.attach(namespace, name).with_context(|| format!("pod {namespace}/{name}"))?;
            println!(
                "  {:<14} {} and {}, in {} ms",
                pod.name(),
                pod.v4(),
                pod.v6(),
                pod.attach_time().as_millis()
            );
            pod.listen_tcp(SQL);
            pod.listen_http(HTTP);
            Ok(pod)
        };
        let db = attach("shop", "db")?;
        let (web, batch, guest) =
            (attach("shop", "web")?, attach("shop", "batch")?, attach("visitors", "guest")?);
        db.listen_tcp(SIDE);
        for place in [lab.host(), lab.outside()] {
            place.listen_tcp(SQL);
            place.listen_http(HTTP);
        }
        Ok(Demo { db, web, batch, guest, lab })
    }

    fn place(&self, who: Who) -> &Place {
        match who {
            Who::Db => &self.db,
            Who::Web => &self.web,
            Who::Batch => &self.batch,
            Who::Guest => &self.guest,
            Who::Host => self.lab.host(),
            Who::Outside => self.lab.outside(),
        }
    }

    fn tell(&self, tally: &mut Tally) -> Result<()> {
        let mut columns = Vec::new();
        for (phase, Phase { says, .. }) in PHASES.iter().enumerate() {
            step(format_args!("{}/{} {says}", phase + 1, PHASES.len()));
            match phase {
                1 => self.lab.try_apply("default-deny-all", include_str!("../demo/default-deny-all.yaml"))?,
                2 => self.lab.try_apply("allow-db-access", include_str!("../demo/allow-db-access.yaml"))?,
                3 => self.change_live(tally)?,
                4 => {
                    self.lab.try_remove("default-deny-all")?;
                    self.lab.try_remove("allow-db-access")?;
                }
                _ => {}
            }
            columns.push(self.probe_all(phase));
        }
        println!(
            "\nWho reaches whom, each over IPv4 and IPv6. A cell says what was expected, and what else was seen:\n"
        );
        print!("{}", connectivity(ROWS, |who| self.place(who).name().to_owned(), &columns, tally));
        self.measure(tally)?;
        self.account(tally)
    }

    /// All probes of a phase, several at once.
    fn probe_all(&self, phase: usize) -> Vec<Seen> {
        let next = AtomicUsize::new(0);
        let seen = Mutex::new(vec![[Outcome::TimedOut, Outcome::TimedOut]; ROWS.len()]);
        std::thread::scope(|scope| {
            for _ in 0..PROBES_AT_ONCE {
                scope.spawn(|| {
                    loop {
                        let job = next.fetch_add(1, Ordering::Relaxed);
                        let Some(row) = ROWS.get(job / 2) else { return };
                        let to = self.place(row.to);
                        let address: IpAddr =
                            if job.is_multiple_of(2) { to.v4().into() } else { to.v6().into() };
                        let outcome = self.probe(row.from, address, row.what, row.expected[phase]);
                        seen.lock().expect("no probe panics")[job / 2][job % 2] = outcome;
                    }
                });
            }
        });
        seen.into_inner().expect("no probe panics")
    }

    fn probe(&self, from: Who, to: IpAddr, what: What, expected: Expected) -> Outcome {
        let from = self.place(from);
        let timeout = match expected {
            Expected::Reached => ANSWER_TIMEOUT,
            Expected::Dropped => SILENCE,
        };
        match what {
            What::Tcp => from.connect_within(to, SQL, timeout),
            What::Ping => from.ping_with(to, 56, timeout),
            What::Get => match from.http_get(to, HTTP, "/", timeout) {
                Ok(answer) if answer.status == 200 => Outcome::Reached,
                Ok(answer) => Outcome::Unreachable(format!("HTTP {}", answer.status)),
                Err(outcome) => outcome,
            },
        }
    }

    /// Narrows the policy under connections that live: the one it still allows goes on, the other one is cut.
    fn change_live(&self, tally: &mut Tally) -> Result<()> {
        let mut connections = Vec::new();
        for to in [IpAddr::from(self.db.v4()), self.db.v6().into()] {
            for port in [SQL, SIDE] {
                let open = || -> Result<Connection, Outcome> {
                    let mut connection = self.web.open_connection(to, port, ANSWER_TIMEOUT)?;
                    match connection.echo(ANSWER_TIMEOUT) {
                        Outcome::Reached => Ok(connection),
                        other => Err(other),
                    }
                };
                match open() {
                    Ok(connection) => connections.push((to, port, connection)),
                    Err(outcome) => {
                        tally.check(false, format_args!("shop/web connects to {to} port {port}: {outcome}"))
                    }
                }
            }
        }
        self.lab.try_apply("allow-db-access", include_str!("../demo/allow-db-access-sql-only.yaml"))?;
        for (to, port, mut connection) in connections {
            let family = if to.is_ipv4() { "IPv4" } else { "IPv6" };
            let outcome = connection.echo(if port == SQL { ANSWER_TIMEOUT } else { SILENCE });
            match port {
                SQL => tally.check(
                    outcome == Outcome::Reached,
                    format_args!("the {family} connection to port {port} goes on ({outcome})"),
                ),
                _ => tally.check(
                    outcome == Outcome::TimedOut,
                    format_args!(
                        "the {family} connection to port {port}, no longer allowed, is cut ({outcome})"
                    ),
                ),
            }
        }
        Ok(())
    }

    fn measure(&self, tally: &mut Tally) -> Result<()> {
        const TIME: Duration = Duration::from_millis(1500);
        const QUESTIONS: usize = 2000;
        println!("\nHow fast, shop/web to shop/db:\n");
        for (family, to) in [("IPv4", IpAddr::from(self.db.v4())), ("IPv6", self.db.v6().into())] {
            let transfer = self.web.start_transfer(&self.db, to, 5001, TIME)?.finish()?;
            let rate = transfer.gigabits_per_second();
            tally.check(rate > STALLED_BELOW, format_args!("one TCP stream over {family}: {rate:.2} Gb/s"));
            let latency = self.web.round_trips(to, SQL, QUESTIONS)?;
            tally.check(
                latency.count == QUESTIONS,
                format_args!(
                    "{QUESTIONS} requests over {family}: p50 {} us, p99 {} us",
                    latency.p50.as_micros(),
                    latency.p99.as_micros()
                ),
            );
        }
        Ok(())
    }

    /// What the switch says about it.
    fn account(&self, tally: &mut Tally) -> Result<()> {
        println!("\nWhat the switch dropped, by reason:\n");
        for (reason, frames) in self.lab.all_drops()? {
            println!("  {frames:>8}  {:<20} {}", reason.name(), reason.describe().trim());
        }
        println!();
        tally.check(
            self.lab.drops(DropReason::PolicyIngress) > 0,
            "refused probes are counted as policy_ingress",
        );
        let named: Vec<String> =
            self.lab.recent_drops()?.into_iter().flat_map(|drop| drop.policies).collect();
        let example = named.iter().find(|policy| policy.contains("default-deny-all"));
        tally.check(
            example.is_some(),
            format_args!("drops name the policy: {}", example.map_or("-", String::as_str)),
        );
        let rebinds: u64 = self.lab.status()?.workers.iter().map(|worker| worker.rebinds).sum();
        tally.check(rebinds == 0, format_args!("no socket got stuck (the watchdog bound {rebinds} anew)"));
        let faults = self.lab.frame_faults()?.join("; ");
        tally.check(
            faults.is_empty(),
            format_args!("every packet buffer of every worker is in exactly one place {faults}"),
        );
        Ok(())
    }

    fn keep(self) -> Result<()> {
        let Demo { db, web, batch, guest, lab } = self;
        for pod in [&db, &web, &batch, &guest] {
            // Our threads' servers end with us; processes of their own take over.
            pod.stop_listening();
        }
        kept::explain(&lab, &[&db, &web, &batch, &guest])?;
        lab.keep();
        Ok(())
    }
}
