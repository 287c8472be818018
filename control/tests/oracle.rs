//! Kubernetes' meaning = reference(compile(load(text))).
//!
//! The oracle below answers "may these two talk?" from the JSON of the objects, sentence by sentence as the Kubernetes
//! documentation puts it: no index, no class, and no line of the loader's, the selectors' or the compiler's code. Random
//! clusters are judged by both. A failure prints its seed; `PENSTOCK_SEED=<n>` replays it, `PENSTOCK_CLUSTERS=<n>` asks for more.

mod oracle_world;

use oracle_world::{Naive, World};
use penstock_api::EndpointId;
use penstock_api::artefact::PodKey;
use penstock_api::reference::{Question, judge_flow};
use penstock_control::compile::Compiler;
use penstock_control::load::load_text;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::net::IpAddr;
use std::path::Path;

fn env(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

/// Compiles what the loader makes of the world's text.
fn compiler(world: &World) -> Compiler {
    let text: String = world.objects.iter().map(|object| format!("{object}\n")).collect();
    let report = load_text(Path::new("world.json"), &text);
    assert_eq!(report.errors, [], "the generator made an object that is not valid");
    let mut compiler = Compiler::new();
    compiler.reset(report.objects.into_iter().map(|loaded| loaded.object));
    compiler.set_host_addresses(world.host_addresses.iter().copied());
    for (number, pod) in world.local_pods().enumerate() {
        let key = PodKey::new(pod.namespace.clone(), pod.name.clone());
        compiler.attach(EndpointId(number as u32 + 1), key, pod.addresses.iter().copied());
    }
    compiler
}

#[test]
fn the_compiler_means_what_kubernetes_says() {
    let first = env("PENSTOCK_SEED").unwrap_or_else(rand::random::<u64>);
    let clusters = if env("PENSTOCK_SEED").is_some() { 1 } else { env("PENSTOCK_CLUSTERS").unwrap_or(2_500) };
    println!("first seed {first}, {clusters} clusters");
    let (mut allowed, mut refused_in, mut refused_out) = (0u64, 0u64, 0u64);
    for seed in (0..clusters).map(|n| first.wrapping_add(n)) {
        let mut random = StdRng::seed_from_u64(seed);
        let world = World::random(&mut random);
        let artefact = compiler(&world).artefact();
        artefact.validate().unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        let addresses = world.interesting_addresses();
        let naive = Naive::new(&world);
        for _ in 0..120 {
            let mut pick = || addresses[random.random_range(0..addresses.len())];
            let (source, destination): (IpAddr, IpAddr) = (pick(), pick());
            if source == destination || source.is_ipv4() != destination.is_ipv4() {
                continue;
            }
            let protocol = [6, 6, 17, 132, 1, 58, 47][random.random_range(0..7)];
            let port = match protocol {
                6 | 17 | 132 => oracle_world::PORTS[random.random_range(0..oracle_world::PORTS.len())],
                1 | 58 => 8,
                _ => 0,
            };
            // Often a port the destination has a name for: by chance names would hardly ever be asked about.
            let named = world.named_port(destination, &mut random);
            let (protocol, port) = named.unwrap_or((protocol, port));
            let question = Question { protocol, port, established: false };
            let answer = judge_flow(&artefact, source, destination, question);
            let found = [answer.egress, answer.ingress]
                .map(|end| end.map(|end| end.action == penstock_api::Action::Allow));
            let wanted = [
                naive.egress(source, destination, protocol, port),
                naive.ingress(source, destination, protocol, port),
            ];
            assert_eq!(
                found,
                wanted,
                "seed {seed}: {source} to {destination}, protocol {protocol} port {port}: [egress, ingress] (left: compiled, \
                 right: oracle)\n{}",
                world.show()
            );
            match wanted {
                [Some(false), _] => refused_out += 1,
                [_, Some(false)] => refused_in += 1,
                _ => allowed += 1,
            }
        }
    }
    println!("{allowed} allowed, {refused_out} refused at egress, {refused_in} at ingress");
    // A generator that answers everything in one way would prove nothing.
    let total = (allowed + refused_in + refused_out) as f64;
    for count in [allowed, refused_in, refused_out] {
        assert!(clusters < 100 || count as f64 / total > 0.05, "{allowed} {refused_out} {refused_in}");
    }
}

#[test]
fn the_same_state_gives_the_same_artefact_whatever_the_history() {
    let first = env("PENSTOCK_SEED").unwrap_or_else(rand::random::<u64>);
    for seed in (0..200).map(|n| first.wrapping_add(n)) {
        let mut random = StdRng::seed_from_u64(seed);
        let world = World::random(&mut random);
        let straight = compiler(&world);

        // Another life: other objects first, everything in another order, some of it twice.
        let other = World::random(&mut random);
        let mut winding = compiler(&other);
        let objects = |world: &World| {
            let text: String = world.objects.iter().map(|object| format!("{object}\n")).collect();
            load_text(Path::new("world.json"), &text)
                .objects
                .into_iter()
                .map(|l| l.object)
                .collect::<Vec<_>>()
        };
        let mut events: Vec<_> = objects(&world);
        for index in (1..events.len()).rev() {
            events.swap(index, random.random_range(0..=index));
        }
        let keep: Vec<_> = events.iter().map(|object| object.key()).collect();
        let mut endpoints: Vec<_> = world.local_pods().enumerate().collect();
        endpoints.reverse();
        winding.detach_all();
        for (number, object) in events.into_iter().enumerate() {
            winding.apply(object.clone());
            if number % 3 == 0 {
                winding.delete(&object.key());
                winding.apply(object.clone());
                let _ = winding.artefact();
                winding.apply(object);
            }
        }
        for object in objects(&other) {
            if !keep.contains(&object.key()) {
                winding.delete(&object.key());
            }
        }
        for (number, pod) in endpoints {
            let key = PodKey::new(pod.namespace.clone(), pod.name.clone());
            winding.attach(EndpointId(1000 - number as u32), key, pod.addresses.iter().copied());
        }
        winding.set_host_addresses(world.host_addresses.iter().rev().copied());
        assert_eq!(straight.artefact(), winding.artefact(), "seed {seed}");
    }
}
