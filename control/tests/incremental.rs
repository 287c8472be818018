//! What is kept from one artefact to the next never shows: after every event of a random history, the artefact is the one a
//! compiler makes that remembers nothing, and so is what a switch makes of it that is only told what is new. A failure prints its seed; `PENSTOCK_SEED=<n>` replays it.

use penstock_api::artefact::PodKey;
use penstock_api::{Artefact, Difference, EndpointId, Generation};
use penstock_control::compile::{Compiler, Enforcement, Options, PodToHost};
use penstock_control::load::load_text;
use penstock_control::objects::{Kind, ObjectKey};
use penstock_oracle::{Event, History, Mix};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::path::Path;

/// The numbers endpoints have are no part of the state: here every attachment is a new one.
#[derive(Default)]
struct Listener {
    compiler: Compiler,
    attached: Vec<((String, String), EndpointId)>,
    last: u32,
}

impl Listener {
    fn hear(&mut self, event: &Event) {
        match event {
            Event::Apply(object) => {
                let report = load_text(Path::new("history.json"), &object.to_string());
                report.objects.into_iter().for_each(|loaded| self.compiler.apply(loaded.object));
            }
            Event::Delete((kind, namespace, name)) => {
                let Some(kind) = Kind::ALL.into_iter().find(|known| known.name() == kind) else { return };
                self.compiler.delete(&ObjectKey { kind, namespace: namespace.clone(), name: name.clone() });
            }
            Event::Attach(pod) => {
                self.detach(&(pod.namespace.clone(), pod.name.clone()));
                self.last += 1;
                self.attached.push(((pod.namespace.clone(), pod.name.clone()), EndpointId(self.last)));
                let key = PodKey::new(pod.namespace.clone(), pod.name.clone());
                self.compiler.attach(EndpointId(self.last), key, pod.addresses.iter().copied());
            }
            Event::Detach { namespace, name } => self.detach(&(namespace.clone(), name.clone())),
        }
    }

    fn detach(&mut self, pod: &(String, String)) {
        self.attached.retain(|(name, endpoint)| {
            if name == pod {
                self.compiler.detach(*endpoint);
            }
            name != pod
        });
    }
}

#[test]
fn what_is_remembered_never_shows() {
    let env = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    let first = env("PENSTOCK_SEED").unwrap_or_else(rand::random::<u64>);
    let count = if env("PENSTOCK_SEED").is_some() { 1 } else { env("PENSTOCK_CLUSTERS").unwrap_or(300) };
    println!("first seed {first}, {count} histories");
    for seed in (0..count).map(|n| first.wrapping_add(n)) {
        let mut random = StdRng::seed_from_u64(seed);
        let history = History::random(Mix::everything(), &mut random, 20);
        let mut listener = Listener::default();
        listener.compiler.set_host_addresses(history.start.host_addresses.iter().copied());
        let mut switch = Artefact::empty();
        for (number, event) in history.events().iter().enumerate() {
            listener.hear(event);
            match random.random_range(0..40) {
                0 => listener.compiler.set_options(Options {
                    enforcement: [Enforcement::Default, Enforcement::Always, Enforcement::Never]
                        [random.random_range(0..3)],
                    pod_to_host: [PodToHost::Judge, PodToHost::Allow][random.random_range(0..2)],
                }),
                1 => listener.compiler.set_node_name(Some(history.start.node.clone())),
                2 => listener.compiler.set_host_addresses([]),
                3 => listener.compiler.set_host_addresses(history.start.host_addresses.iter().copied()),
                // Several changes at once.
                4..12 => continue,
                _ => {}
            }
            let mut artefact = listener.compiler.artefact();
            artefact.validate().unwrap_or_else(|error| panic!("seed {seed}, event {number}: {error}"));
            assert_eq!(
                artefact,
                listener.compiler.artefact_afresh(),
                "seed {seed}, event {number}: {event:?}"
            );
            artefact.generation = Generation(switch.generation.0 + 1);
            let told = serde_json::to_vec(&Difference::between(&switch, &artefact)).unwrap();
            let told: Difference = serde_json::from_slice(&told).unwrap();
            switch = told.apply(&switch).unwrap_or_else(|e| panic!("seed {seed}, event {number}: {e}"));
            assert_eq!(switch, artefact, "seed {seed}, event {number}: {event:?}");
        }
    }
}
