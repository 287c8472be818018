//! Our reading of policy = that of Cilium's own engine.
//!
//! Random clusters and questions (`penstock-oracle`) go to the product, loader and compiler and all, and to a Go program made
//! of Cilium's packages (`../cilium-engine`). Where their answers differ, one of a few known differences (`rows`, and
//! `docs/policy-differences.md`) must be the whole reason; everything else is shrunk, printed, and a failure.
//!
//! `make oracle` builds the program and runs this. `PENSTOCK_CLUSTERS=<n>` asks for more, `PENSTOCK_SEED=<n>` replays one.

mod document;
mod engine;
mod ours;
mod rewrite;
mod rows;

use engine::{Ends, Engine};
use ours::{Reading, agree};
use penstock_oracle::{Attachment, Enforcement, Feature, Flow, Naive, World, shrink};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rows::ROWS;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

const QUESTIONS: usize = 60;

fn env(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

/// Every other world is about something in particular, and a few are of nodes with another mode of enforcement.
fn world(seed: u64, random: &mut StdRng) -> World {
    let features: Vec<Feature> = Feature::all().collect();
    let mut world = match seed % 2 {
        0 => World::random(random),
        _ => World::about(features[(seed / 2) as usize % features.len()], random),
    };
    world.enforcement = match seed % 32 {
        0 => Enforcement::Always,
        1 => Enforcement::Never,
        _ => Enforcement::Default,
    };
    world
}

/// Cilium's engine is asked about ports and types, and reads 0 as all of them.
fn is_asked(flow: &Flow) -> bool {
    matches!(flow.protocol, 6 | 17 | 132 | 1 | 58) && flow.port != 0
}

#[derive(Default)]
struct Count {
    worlds: u64,
    /// Ends judged, and how many of them were refused.
    ends: u64,
    denied: u64,
    /// By row: ends, and worlds.
    excused: BTreeMap<&'static str, (u64, u64)>,
}

impl Count {
    fn add(&mut self, other: Count) {
        self.worlds += other.worlds;
        self.ends += other.ends;
        self.denied += other.denied;
        for (row, (ends, worlds)) in other.excused {
            let all = self.excused.entry(row).or_default();
            *all = (all.0 + ends, all.1 + worlds);
        }
    }
}

/// What is left when everything known is taken away.
fn unexplained(
    world: &World,
    flow: Flow,
    reading: Reading,
    engine: &mut Engine,
) -> Option<(usize, Ends, Ends)> {
    if !world.attached.iter().all(|attached| world.of_kind("Pod").any(|pod| is_of(attached, pod))) {
        return None; // shrunk too far
    }
    let ours = reading.read(world).ok()?.answer(flow);
    let theirs = engine.answers(world, &[flow])?[0];
    let differences = (0..2).filter(|end| !agree(ours[*end], theirs[*end])).map(|end| (flow, end)).collect();
    let (_, left) = rows::explain(world, differences, reading, engine);
    left.first().map(|(_, end)| (*end, ours, theirs))
}

fn is_of(attached: &Attachment, pod: &Value) -> bool {
    pod["metadata"]["namespace"] == *attached.namespace && pod["metadata"]["name"] == *attached.name
}

fn report(seed: u64, world: &World, flow: Flow, reading: Reading, engine: &mut Engine) -> String {
    let small = shrink(world, |smaller| unexplained(smaller, flow, reading, engine).is_some());
    let Some((end, ours, theirs)) = unexplained(&small, flow, reading, engine) else {
        return format!("seed {seed}: {flow}: a difference that comes and goes\n{}", small.show());
    };
    format!(
        "seed {seed}: {flow}: {} at {}, Cilium's engine says {}; our naive reading {:?}\n{}",
        said(ours[end]),
        ["egress", "ingress"][end],
        said(theirs[end]),
        Naive::new(&small).judge(flow),
        small.show()
    )
}

fn said(end: Option<engine::End>) -> String {
    end.map_or("nothing".to_owned(), |end| format!("{end:?}").to_lowercase())
}

/// One cluster, all its questions. Says what differed for no known reason.
fn compare(seed: u64, reading: Reading, engine: &mut Engine, count: &mut Count) -> Vec<String> {
    let mut random = StdRng::seed_from_u64(seed);
    let world = world(seed, &mut random);
    let mut flows = world.questions(&mut random, QUESTIONS);
    flows.retain(is_asked);
    engine.ask(seed, &world, &flows);
    let read = reading.read(&world);
    let answers = engine.read(seed).unwrap_or_else(|error| panic!("seed {seed}: {error}\n{}", world.show()));
    count.worlds += 1;
    let read = match read {
        Ok(read) if answers.refused.is_empty() => read,
        other => {
            let (ours, theirs) = (other.err(), answers.refused);
            return vec![format!(
                "seed {seed}: refused by us {ours:?}, by Cilium {theirs:?}\n{}",
                world.show()
            )];
        }
    };
    let mut differences = Vec::new();
    for (flow, theirs) in flows.iter().zip(answers.flows) {
        let ours = read.answer(*flow);
        for end in 0..2 {
            count.ends += u64::from(ours[end].is_some());
            count.denied += u64::from(ours[end] == Some(engine::End::Deny));
            if !agree(ours[end], theirs[end]) {
                differences.push((*flow, end));
            }
        }
    }
    if differences.is_empty() {
        return Vec::new();
    }
    let (explained, left) = rows::explain(&world, differences, reading, engine);
    // A row excuses Cilium, not us: what the engine cannot tell us here our own two readings must agree on.
    let naive = Reading::Naive.read(&world).expect("it was read before");
    for ((flow, end), rows) in &explained {
        let (ours, naive) = (read.answer(*flow)[*end], naive.answer(*flow)[*end]);
        if !agree(ours, naive) {
            return vec![format!(
                "seed {seed}: {flow}: {} here, {} read naively, and Cilium differs for {rows:?}\n{}",
                said(ours),
                said(naive),
                world.show()
            )];
        }
    }
    let mut rows_here: BTreeMap<&'static str, u64> = BTreeMap::new();
    for row in explained.into_iter().flat_map(|(_, rows)| rows) {
        *rows_here.entry(row).or_default() += 1;
    }
    for (row, ends) in rows_here {
        let all = count.excused.entry(row).or_default();
        *all = (all.0 + ends, all.1 + 1);
    }
    // One of a cluster is enough.
    left.first().map(|(flow, _)| report(seed, &world, *flow, reading, engine)).into_iter().collect()
}

#[test]
#[ignore = "needs Cilium's engine, which needs Go: make oracle"]
fn policy_means_what_ciliums_engine_says() {
    compare_all(Reading::Compiled);
}

#[test]
#[ignore = "needs Cilium's engine, which needs Go: make oracle"]
fn the_naive_reading_is_the_one_of_ciliums_engine() {
    compare_all(Reading::Naive);
}

#[test]
fn every_row_stands_in_the_document_and_has_an_example() {
    let text = document::text();
    let names: Vec<&str> = ROWS.iter().map(|row| row.name).collect();
    assert_eq!(document::table(&text), names);
    let examples = document::examples(&text);
    assert_eq!(examples.iter().map(|example| &*example.row).collect::<Vec<_>>(), names);
}

#[test]
#[ignore = "needs Cilium's engine, which needs Go: make oracle"]
fn every_known_difference_is_the_one_of_its_example() {
    let mut engine = Engine::start(&program());
    for document::Example { row, world, flow, end, ours, theirs } in document::examples(&document::text()) {
        let read = Reading::Compiled.read(&world).unwrap_or_else(|refused| panic!("{row}: {refused:?}"));
        assert_eq!(read.answer(flow)[end], Some(ours), "{row}: here");
        // Where Cilium leaves it to chance, a few times are enough.
        let said: Vec<_> =
            (0..60).map(|_| engine.answers(&world, &[flow]).expect("valid objects")[0][end]).collect();
        assert!(said.contains(&Some(theirs)), "{row}: in Cilium, which says {:?}", said[0]);
        let (explained, left) = rows::explain(&world, vec![(flow, end)], Reading::Compiled, &mut engine);
        assert_eq!(left, [], "{row} is not the reason");
        assert_eq!(explained[0].1, [row.as_str()], "another row is the reason");
    }
}

fn program() -> PathBuf {
    std::env::var_os("PENSTOCK_CILIUM_ENGINE").expect("PENSTOCK_CILIUM_ENGINE is set by make oracle").into()
}

fn compare_all(reading: Reading) {
    let program = program();
    let first = env("PENSTOCK_SEED").unwrap_or_else(rand::random::<u64>);
    let clusters = if env("PENSTOCK_SEED").is_some() { 1 } else { env("PENSTOCK_CLUSTERS").unwrap_or(1_000) };
    let failures_max = env("PENSTOCK_FAILURES").unwrap_or(1) as usize;
    println!("first seed {first}, {clusters} clusters");
    let next = AtomicU64::new(0);
    let total = Mutex::new(Count::default());
    let failures: Mutex<Vec<String>> = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                let mut engine = Engine::start(&program);
                let mut count = Count::default();
                while failures.lock().unwrap().len() < failures_max {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= clusters {
                        break;
                    }
                    let found = compare(first.wrapping_add(number), reading, &mut engine, &mut count);
                    failures.lock().unwrap().extend(found);
                }
                total.lock().unwrap().add(count);
            });
        }
    });
    let total = total.into_inner().unwrap();
    println!("{} clusters, {} ends judged, {} refused", total.worlds, total.ends, total.denied);
    let share = |ends: u64| 100.0 * ends as f64 / total.ends.max(1) as f64;
    for (row, (ends, worlds)) in &total.excused {
        println!("known difference {row}: {ends} ends ({:.3} %) in {worlds} clusters", share(*ends));
    }
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
    if clusters >= 1_000 {
        for row in ROWS {
            let ends = total.excused.get(row.name).map_or(0, |(ends, _)| *ends);
            assert!(share(ends) < 5.0, "{} excused {:.1} % of all answers", row.name, share(ends));
        }
        assert!((5.0..95.0).contains(&share(total.denied)), "one answer to everything proves nothing");
    }
}
