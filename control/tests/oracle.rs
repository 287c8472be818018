//! What Kubernetes and Cilium mean = reference(compile(load(text))).
//!
//! Random clusters are judged twice: by the compiled artefact, and by `penstock-oracle`, which reads the same objects with no
//! line of the loader's, the selectors' or the compiler's code. A failure is shrunk and printed with its seed;
//! `PENSTOCK_SEED=<n>` replays it, `PENSTOCK_CLUSTERS=<n>` asks for more.

use penstock_api::artefact::{PodKey, PodPolicy};
use penstock_api::reference::{Answer, Question, judge_flow};
use penstock_api::{Action, Artefact, EndpointId, ProgramId};
use penstock_control::compile::{Compiler, Enforcement, Options, PodToHost};
use penstock_control::load::load_text;
use penstock_control::objects::{Kind, ObjectKey};
use penstock_oracle::{End, Event, Feature, Flow, History, Judgement, Key, Mix, Naive, World, shrink};
use rand::SeedableRng;
use rand::rngs::StdRng;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// So many are shown, and then it is enough.
const DIFFERENCES_MAX: usize = 4;

fn env(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

/// Compiles what the loader makes of the world's text; `None` when it refuses any of it.
fn compiler(world: &World) -> Result<Compiler, String> {
    let report = load_text(Path::new("world.json"), &world.text());
    if let Some(error) = report.errors.first() {
        return Err(error.to_string());
    }
    let mut compiler = Compiler::new();
    compiler.reset(report.objects.into_iter().map(|loaded| loaded.object));
    compiler.set_host_addresses(world.host_addresses.iter().copied());
    compiler.set_options(Options {
        enforcement: match world.enforcement {
            penstock_oracle::Enforcement::Default => Enforcement::Default,
            penstock_oracle::Enforcement::Always => Enforcement::Always,
            penstock_oracle::Enforcement::Never => Enforcement::Never,
        },
        pod_to_host: if world.pod_to_host { PodToHost::Allow } else { PodToHost::Judge },
    });
    for (number, pod) in world.attached.iter().enumerate() {
        let key = PodKey::new(pod.namespace.clone(), pod.name.clone());
        compiler.attach(EndpointId(number as u32 + 1), key, pod.addresses.iter().copied());
    }
    Ok(compiler)
}

/// What the ends say: egress, ingress.
type Said = [Option<End>; 2];

fn compiled(artefact: &Artefact, flow: Flow) -> Said {
    let question = Question { protocol: flow.protocol, port: flow.port, established: false };
    let answer = judge_flow(artefact, flow.from, flow.to, question);
    let is_isolated = |address, program: fn(&PodPolicy) -> ProgramId| {
        let pod = artefact.pods.iter().find(|pod| pod.addresses.contains(&address));
        pod.is_some_and(|pod| artefact.programs[program(pod).index()].isolated)
    };
    let end = |end: Option<Answer>, is_isolated| {
        end.map(|answer| match (answer.action, is_isolated) {
            (Action::Allow, true) => End::Allow,
            (Action::Allow, false) => End::Open,
            _ => End::Deny,
        })
    };
    [
        end(answer.egress, is_isolated(flow.from, |pod| pod.egress)),
        end(answer.ingress, is_isolated(flow.to, |pod| pod.ingress)),
    ]
}

fn naive(judgement: Judgement) -> Said {
    [judgement.egress, judgement.ingress]
}

struct Difference {
    /// The words of the policies that are left: what has the same is likely the same.
    words: BTreeSet<String>,
    text: String,
}

/// If the two differ about a flow: the smallest world that shows it, told to a person.
fn difference(seed: u64, world: &World, artefact: &Artefact, flow: Flow) -> Option<Difference> {
    let differ =
        |world: &World, artefact: &Artefact| compiled(artefact, flow) != naive(Naive::new(world).judge(flow));
    if !differ(world, artefact) {
        return None;
    }
    let smallest =
        shrink(world, |world| compiler(world).is_ok_and(|compiler| differ(world, &compiler.artefact())));
    let artefact = compiler(&smallest).expect("it was accepted").artefact();
    let text = format!(
        "seed {seed}: {flow}: [egress, ingress] compiled {:?}, read naively {:?}\n{}",
        compiled(&artefact, flow),
        naive(Naive::new(&smallest).judge(flow)),
        smallest.show()
    );
    Some(Difference { words: smallest.words(), text })
}

fn the_compiler_means_what_is_written(mix: Mix, clusters: u64) {
    the_compiler_means_it(clusters, |random| World::of(mix, random));
}

fn the_compiler_means_it(clusters: u64, make: impl Fn(&mut StdRng) -> World) {
    let first = env("PENSTOCK_SEED").unwrap_or_else(rand::random::<u64>);
    let clusters =
        if env("PENSTOCK_SEED").is_some() { 1 } else { env("PENSTOCK_CLUSTERS").unwrap_or(clusters) };
    println!("first seed {first}, {clusters} clusters");
    let mut answers = 0u64;
    let mut differences: Vec<Difference> = Vec::new();
    'clusters: for seed in (0..clusters).map(|n| first.wrapping_add(n)) {
        let mut random = StdRng::seed_from_u64(seed);
        let world = make(&mut random);
        let artefact = compiler(&world)
            .unwrap_or_else(|error| panic!("seed {seed}: the loader refuses a valid object: {error}"))
            .artefact();
        artefact.validate().unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        for flow in world.questions(&mut random, 30) {
            answers += 1;
            let Some(found) = difference(seed, &world, &artefact, flow) else { continue };
            if differences.iter().all(|known| known.words != found.words) {
                differences.push(found);
            }
            if differences.len() >= DIFFERENCES_MAX {
                break 'clusters;
            }
            break;
        }
    }
    println!("{answers} answers");
    let texts: Vec<String> = differences.into_iter().map(|difference| difference.text).collect();
    assert!(texts.is_empty(), "{} differences\n\n{}", texts.len(), texts.join("\n"));
}

#[test]
fn the_compiler_means_what_kubernetes_says() {
    the_compiler_means_what_is_written(Mix::kubernetes(), 16_000);
}

/// Feeds a compiler news.
struct Listener {
    compiler: Compiler,
    /// Every pod's interface has one number, whenever it comes and goes.
    endpoints: Vec<Key>,
    source: PathBuf,
}

impl Listener {
    fn new(world: &World) -> Listener {
        let mut compiler = Compiler::new();
        compiler.set_host_addresses(world.host_addresses.iter().copied());
        Listener { compiler, endpoints: Vec::new(), source: PathBuf::from("history.json") }
    }

    fn endpoint(&mut self, key: Key) -> EndpointId {
        let number = self.endpoints.iter().position(|known| *known == key).unwrap_or_else(|| {
            self.endpoints.push(key);
            self.endpoints.len() - 1
        });
        EndpointId(number as u32 + 1)
    }

    fn hear(&mut self, event: &Event) {
        match event {
            Event::Apply(object) => {
                let report = load_text(&self.source, &object.to_string());
                assert_eq!(report.errors, [], "the generator made an object that is not valid");
                report.objects.into_iter().for_each(|loaded| self.compiler.apply(loaded.object));
            }
            Event::Delete((kind, namespace, name)) => {
                let Some(kind) = Kind::ALL.into_iter().find(|known| known.name() == kind) else { return };
                self.compiler.delete(&ObjectKey { kind, namespace: namespace.clone(), name: name.clone() });
            }
            Event::Attach(pod) => {
                let endpoint = self.endpoint(event.key());
                let key = PodKey::new(pod.namespace.clone(), pod.name.clone());
                self.compiler.attach(endpoint, key, pod.addresses.iter().copied());
            }
            Event::Detach { .. } => {
                let endpoint = self.endpoint(event.key());
                self.compiler.detach(endpoint);
            }
        }
    }
}

fn told(history: &History, events: &[Event]) -> Artefact {
    let mut listener = Listener::new(&history.start);
    events.iter().for_each(|event| listener.hear(event));
    listener.compiler.artefact()
}

fn histories(mix: Mix, count: u64) {
    let first = env("PENSTOCK_SEED").unwrap_or_else(rand::random::<u64>);
    let count = if env("PENSTOCK_SEED").is_some() { 1 } else { env("PENSTOCK_CLUSTERS").unwrap_or(count) };
    println!("first seed {first}, {count} histories");
    for seed in (0..count).map(|n| first.wrapping_add(n)) {
        let mut random = StdRng::seed_from_u64(seed);
        let history = History::random(mix, &mut random, 6);

        // Forwards, and right at every step of the way.
        let mut listener = Listener::new(&history.start);
        let mut world = history.start.clone();
        for step in &history.steps {
            for event in step {
                listener.hear(event);
                world.after(event);
            }
            let artefact = listener.compiler.artefact();
            // What is kept from one artefact to the next is what a compiler that knows no yesterday makes.
            assert_eq!(artefact, compiler(&world).expect("valid").artefact(), "seed {seed}: after {step:?}");
            for flow in world.questions(&mut random, 12) {
                let difference = difference(seed, &world, &artefact, flow);
                assert!(difference.is_none(), "{}", difference.map(|found| found.text).unwrap_or_default());
            }
        }
        let forwards = listener.compiler.artefact();

        // Told in any other way, it ends the same.
        assert_eq!(forwards, told(&history, &history.reversed_by_object()), "seed {seed}: reversed");
        assert_eq!(forwards, told(&history, &history.duplicated()), "seed {seed}: duplicated");
        assert_eq!(forwards, told(&history, &history.squashed()), "seed {seed}: squashed");
        assert_eq!(forwards, told(&history, &history.shuffled(&mut random)), "seed {seed}: shuffled");
        assert_eq!(forwards, compiler(&history.end()).expect("valid").artefact(), "seed {seed}: at once");
    }
}

#[test]
fn the_compiler_means_what_cilium_says() {
    the_compiler_means_what_is_written(Mix::everything(), 60_000);
}

#[test]
fn the_compiler_means_what_the_nodes_options_say() {
    let options = [
        (penstock_oracle::Enforcement::Always, false),
        (penstock_oracle::Enforcement::Never, false),
        (penstock_oracle::Enforcement::Default, true),
    ];
    for (enforcement, pod_to_host) in options {
        the_compiler_means_it(1_000, |random| World { enforcement, pod_to_host, ..World::random(random) });
    }
}

#[test]
fn the_compiler_means_what_is_written_of_every_feature() {
    for feature in Feature::all() {
        println!("{feature:?}");
        the_compiler_means_what_is_written(Mix::about(feature), 400);
    }
}

#[test]
fn however_a_history_is_told_it_ends_the_same() {
    histories(Mix::everything(), 1_500);
}
