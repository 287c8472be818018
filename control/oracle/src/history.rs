//! Events that lead to a world, and other ways to tell them.
//!
//! Policy is a function of state, so however the news of a state arrive (in another order, twice, or only the last of it),
//! what is enforced in the end must be the same. The one order that is kept is that of one object's own events.

use crate::feature::Mix;
use crate::generate::{Cluster, Dice};
use crate::world::{Attachment, World};
use rand::rngs::StdRng;
use serde_json::{Value, json};

/// Kind, namespace and name. The namespace of what has none is empty.
pub type Key = (String, String, String);

#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// An object is created, or replaced.
    Apply(Value),
    Delete(Key),
    /// A pod's interface appears on the switch, or its addresses change.
    Attach(Attachment),
    Detach {
        namespace: String,
        name: String,
    },
}

pub fn key_of(object: &Value) -> Key {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    (text(&object["kind"]), text(&object["metadata"]["namespace"]), text(&object["metadata"]["name"]))
}

impl Event {
    /// The object an event is about. Attachments are none of Kubernetes', and are told apart from the pods.
    pub fn key(&self) -> Key {
        let attachment =
            |namespace: &str, name: &str| ("attachment".to_owned(), namespace.to_owned(), name.to_owned());
        match self {
            Event::Apply(object) => key_of(object),
            Event::Delete(key) => key.clone(),
            Event::Attach(pod) => attachment(&pod.namespace, &pod.name),
            Event::Detach { namespace, name } => attachment(namespace, name),
        }
    }
}

impl World {
    /// The state after an event.
    pub fn after(&mut self, event: &Event) {
        let key = event.key();
        match event {
            Event::Apply(object) => match self.objects.iter_mut().find(|object| key_of(object) == key) {
                Some(old) => *old = object.clone(),
                None => self.objects.push(object.clone()),
            },
            Event::Delete(_) => self.objects.retain(|object| key_of(object) != key),
            Event::Attach(pod) => {
                self.attached.retain(|old| (&old.namespace, &old.name) != (&pod.namespace, &pod.name));
                self.attached.push(pod.clone());
            }
            Event::Detach { namespace, name } => {
                self.attached.retain(|old| (&old.namespace, &old.name) != (namespace, name));
            }
        }
    }
}

/// A list of events, told in some order.
#[derive(Debug, Clone, PartialEq)]
pub struct History {
    /// Groups that belong together: after each the world is one that can be asked about.
    pub steps: Vec<Vec<Event>>,
    /// Where they begin.
    pub start: World,
}

impl History {
    /// A random world built event by event, then so many random changes to it: policies come, change and go, labels change,
    /// pods come and go.
    pub fn random(mix: Mix, random: &mut StdRng, changes: usize) -> History {
        let end = World::of(mix, random);
        let start = World { objects: Vec::new(), attached: Vec::new(), ..end.clone() };
        let mut first: Vec<Event> = end.objects.iter().cloned().map(Event::Apply).collect();
        first.extend(end.attached.iter().cloned().map(Event::Attach));
        let mut now = end;
        let mut steps = vec![first];
        let mut dice = Dice { random, mix };
        for number in 0..changes {
            let step = change(&mut dice, &now, number);
            step.iter().for_each(|event| now.after(event));
            steps.push(step);
        }
        History { steps, start }
    }

    pub fn events(&self) -> Vec<Event> {
        self.steps.concat()
    }

    /// The world all tellings lead to.
    pub fn end(&self) -> World {
        let mut world = self.start.clone();
        self.events().iter().for_each(|event| world.after(event));
        world
    }

    /// Object by object, the last one to appear first.
    pub fn reversed_by_object(&self) -> Vec<Event> {
        let mut keys: Vec<Key> = Vec::new();
        for event in self.events() {
            if !keys.contains(&event.key()) {
                keys.push(event.key());
            }
        }
        keys.iter()
            .rev()
            .flat_map(|key| self.events().into_iter().filter(move |event| event.key() == *key))
            .collect()
    }

    /// Everything twice, at once; and in the end the last word about every object once more.
    pub fn duplicated(&self) -> Vec<Event> {
        let twice = self.events().into_iter().flat_map(|event| [event.clone(), event]);
        twice.chain(self.squashed()).collect()
    }

    /// Only the last word about every object.
    pub fn squashed(&self) -> Vec<Event> {
        let events = self.events();
        let is_last =
            |number: usize| events[number + 1..].iter().all(|later| later.key() != events[number].key());
        (0..events.len()).filter(|number| is_last(*number)).map(|number| events[number].clone()).collect()
    }

    /// Mixed at random, but for each object's own order.
    pub fn shuffled(&self, random: &mut StdRng) -> Vec<Event> {
        let mut dice = Dice { random, mix: Mix::everything() };
        let mut left = self.events();
        let mut told = Vec::new();
        while !left.is_empty() {
            let key = left[dice.below(left.len())].key();
            if let Some(first) = left.iter().position(|event| event.key() == key) {
                told.push(left.remove(first));
            }
        }
        told
    }
}

/// Something happens in a cluster.
fn change(dice: &mut Dice, world: &World, number: usize) -> Vec<Event> {
    let cluster = Cluster::of(world);
    let is_policy =
        |object: &&Value| object["kind"].as_str().is_some_and(|kind| kind.ends_with("NetworkPolicy"));
    let policies: Vec<&Value> = world.objects.iter().filter(is_policy).collect();
    let of_kind = |kind: &str| world.of_kind(kind).cloned().collect::<Vec<_>>();
    match dice.below(17) {
        0 | 1 => vec![Event::Apply(crate::generate::policy(dice, &cluster, 10 + number))],
        2 | 3 if !policies.is_empty() => {
            // What the policy says changes, and what it is called does not.
            let old = *dice.one_of(&policies);
            let mut new =
                crate::generate::policy_of_kind(dice, &cluster, 0, old["kind"].as_str().unwrap_or_default());
            new["metadata"] = old["metadata"].clone();
            vec![Event::Apply(new)]
        }
        4 if !policies.is_empty() => {
            let old = *dice.one_of(&policies);
            vec![Event::Delete(key_of(old))]
        }
        5 if !cluster.namespaces.is_empty() => {
            let mut namespace = dice.one_of(&cluster.namespaces).clone();
            namespace["metadata"]["labels"] = json!(crate::generate::labels(dice));
            vec![Event::Apply(namespace)]
        }
        6 => {
            let pods = of_kind("Pod");
            let gone = dice.one_of(&pods);
            let (kind, namespace, name) = key_of(gone);
            // Nobody would be left to ask about.
            if world.attached.len() < 2 {
                return Vec::new();
            }
            vec![
                Event::Detach { namespace: namespace.clone(), name: name.clone() },
                Event::Delete((kind, namespace, name)),
            ]
        }
        7 => {
            // One after the other has the same address.
            let Some(old) = world.attached.last() else { return Vec::new() };
            let Some(mut pod) =
                world.of_kind("Pod").find(|pod| pod["metadata"]["name"] == old.name.as_str()).cloned()
            else {
                return Vec::new();
            };
            let (kind, namespace, name) = key_of(&pod);
            let new = Attachment { name: format!("new-{number}"), ..old.clone() };
            pod["metadata"]["name"] = json!(new.name);
            pod["metadata"]["labels"] = json!(crate::generate::labels(dice));
            vec![
                Event::Detach { namespace: namespace.clone(), name: name.clone() },
                Event::Delete((kind, namespace, name)),
                Event::Apply(pod),
                Event::Attach(new),
            ]
        }
        8 | 9 => pod_changes(dice, world, number),
        10 => pod_moves(dice, world, number),
        11 => {
            // A node has other addresses, whichever node it is.
            let mut node = dice.one_of(&of_kind("Node")).clone();
            let name = node["metadata"]["name"].as_str().unwrap_or_default();
            let index = if name == world.node { 1 } else { 2 };
            let all = [format!("10.9.0.{index}"), format!("fd00:9::{index}"), format!("10.200.0.{index}")];
            // The own node is known by an address it shares with the switch's host.
            let kept = all.iter().filter(|address| *address == "10.9.0.1" || dice.chance(65));
            let addresses: Vec<Value> = kept.map(|a| json!({"type": "InternalIP", "address": a})).collect();
            node["status"] = json!({"addresses": addresses});
            vec![Event::Apply(node)]
        }
        12..=14 => {
            // Of everything else, what another world has under the same name, or what it has besides.
            let kinds = ["Namespace", "Service", "EndpointSlice", "CiliumCIDRGroup"];
            let of_those = |world: &World| -> Vec<Value> {
                let objects = world.objects.iter();
                objects.filter(|object| kinds.iter().any(|kind| object["kind"] == *kind)).cloned().collect()
            };
            let goes = dice.chance(25);
            let known = if goes { of_those(world) } else { of_those(&World::of(dice.mix, dice.random)) };
            if known.is_empty() {
                return Vec::new();
            }
            let object = dice.one_of(&known).clone();
            vec![if goes { Event::Delete(key_of(&object)) } else { Event::Apply(object) }]
        }
        _ => {
            let pods = of_kind("Pod");
            let mut pod = dice.one_of(&pods).clone();
            let is_shared = |ip: &Value| {
                ip.is_string() && pods.iter().filter(|pod| pod["status"]["podIP"] == *ip).count() > 1
            };
            // Of two that run with one address nobody could say whose labels count.
            if is_shared(&pod["status"]["podIP"]) {
                return Vec::new();
            }
            pod["metadata"]["labels"] = json!(crate::generate::labels(dice));
            vec![Event::Apply(pod)]
        }
    }
}

/// A pod is another one under the old name, or the API learns more of it, or it is over.
fn pod_changes(dice: &mut Dice, world: &World, number: usize) -> Vec<Event> {
    let pods: Vec<&Value> = world.of_kind("Pod").filter(|pod| pod["spec"]["hostNetwork"].is_null()).collect();
    let Some(_) = pods.first() else { return Vec::new() };
    let mut pod = (*dice.one_of(&pods)).clone();
    let is_it = |attached: &&Attachment| {
        pod["metadata"]["name"] == attached.name.as_str()
            && pod["metadata"]["namespace"] == attached.namespace.as_str()
    };
    let attached = world.attached.iter().find(is_it).cloned();
    let status = |addresses: &[String]| {
        let ips: Vec<Value> = addresses.iter().map(|ip| json!({"ip": ip})).collect();
        json!({"phase": "Running", "podIP": addresses[0], "podIPs": ips})
    };
    pod["status"] = match attached {
        Some(_) if dice.chance(40) => json!({"phase": "Pending"}),
        Some(attached) => status(&attached.addresses.iter().map(ToString::to_string).collect::<Vec<_>>()),
        None if dice.chance(25) => {
            json!({"phase": "Succeeded", "podIP": "10.1.0.6", "podIPs": [{"ip": "10.1.0.6"}]})
        }
        None => status(&[format!("10.1.0.{}", 30 + number), format!("fd00::{}", 30 + number)]),
    };
    if dice.chance(50) {
        pod["metadata"]["labels"] = json!(crate::generate::labels(dice));
        pod["spec"]["containers"] = crate::generate::containers(dice);
        pod["spec"]["serviceAccountName"] = json!(dice.one_of(&["builder", "default"]));
    }
    vec![Event::Apply(pod)]
}

/// A pod's interface is attached again, with another address.
fn pod_moves(dice: &mut Dice, world: &World, number: usize) -> Vec<Event> {
    let Some(_) = world.attached.first() else { return Vec::new() };
    let mut moved = dice.one_of(&world.attached).clone();
    let address = format!("10.1.0.{}", 60 + number);
    let is_it = |pod: &&Value| {
        pod["metadata"]["name"] == moved.name.as_str()
            && pod["metadata"]["namespace"] == moved.namespace.as_str()
    };
    let Some(mut pod) = world.of_kind("Pod").find(is_it).cloned() else { return Vec::new() };
    pod["status"] = json!({"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]});
    moved.addresses = address.parse().into_iter().collect();
    vec![Event::Attach(moved), Event::Apply(pod)]
}
