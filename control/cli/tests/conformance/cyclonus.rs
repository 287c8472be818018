//! 115 NetworkPolicy cases over nine pods in three namespaces, each of one or more steps, with a truth table per service.

use crate::case::{Question, Tally, namespace, objects_file, pod, read, read_json};
use crate::ends::Cell;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

pub(crate) fn run(corpus: &Path) -> Tally {
    let mut tally = Tally::new("cyclonus-derived");
    let folder = corpus.join("cyclonus-derived");
    let world = read_json(&folder.join("world.json"));
    for line in read(&folder.join("cases.jsonl")).lines() {
        let case: Value = serde_json::from_str(line).expect("a case per line");
        let mut cluster = Cluster::new(&world);
        for (number, step) in (1..).zip(array(&case["steps"])) {
            array(&step["actions"]).iter().for_each(|action| cluster.act(action));
            let folder = tempfile::tempdir().expect("a temporary folder");
            let file = objects_file(folder.path(), &cluster.objects.values().cloned().collect::<Vec<_>>());
            let name = format!("case {} step {number}", case["id"]);
            tally.ask(&name, &[file], &questions(step));
        }
        tally.cases += 1;
    }
    tally
}

fn array(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn object(value: &Value) -> &serde_json::Map<String, Value> {
    value.as_object().expect("an object")
}

pub(crate) fn questions(step: &Value) -> Vec<Question> {
    let order: Vec<&str> = array(&step["order"]).iter().filter_map(Value::as_str).collect();
    let mut questions = Vec::new();
    for (service, table) in object(&step["expect"]) {
        let (protocol, port) = service.split_once('/').expect("PROTOCOL/PORT");
        let port = port.parse().expect("a port");
        for (from, row) in object(table) {
            let cells = row.as_str().expect("a row").chars().map(Cell::of);
            for (to, expect) in order.iter().zip(cells) {
                questions.extend(expect.map(|cell| Question::new(from, to, (protocol, port), cell)));
            }
        }
    }
    questions
}

/// Objects by kind and name, as a case's actions leave them.
struct Cluster<'w> {
    world: &'w Value,
    objects: BTreeMap<String, Value>,
}

fn key(kind: &str, name: &str) -> String {
    format!("{kind} {name}")
}

impl<'w> Cluster<'w> {
    fn new(world: &'w Value) -> Cluster<'w> {
        let mut objects = BTreeMap::new();
        for (name, labels) in object(&world["namespaces"]) {
            objects.insert(key("Namespace", name), namespace(name, labels));
        }
        for (name, p) in object(&world["pods"]) {
            objects.insert(key("Pod", name), pod(name, &p["labels"], &p["ip"], &p["ports"]));
        }
        Cluster { world, objects }
    }

    fn act(&mut self, action: &Value) {
        let (verb, what) = object(action).iter().next().expect("an action");
        let text = |index: usize| what[index].as_str().expect("a name");
        match verb.as_str() {
            "createPolicy" | "updatePolicy" => {
                let name = |field: &str| what["metadata"][field].as_str().expect("a name").to_owned();
                let name = format!("{}/{}", name("namespace"), name("name"));
                self.objects.insert(key("NetworkPolicy", &name), what.clone());
            }
            "deletePolicy" => self.remove("NetworkPolicy", &format!("{}/{}", text(0), text(1))),
            "createNamespace" | "setNamespaceLabels" => {
                self.objects.insert(key("Namespace", text(0)), namespace(text(0), &what[1]));
            }
            "deleteNamespace" => {
                let name = what.as_str().expect("a name");
                self.remove("Namespace", name);
                self.objects.retain(|key, _| !key.contains(&format!(" {name}/")));
            }
            "createPod" | "setPodLabels" => {
                let name = format!("{}/{}", text(0), text(1));
                let pods = &self.world["pods"];
                let ip = &self.world["ips_of_pods_created_later"][&name];
                let ports = pods.get(&name).unwrap_or(&pods["x/a"])["ports"].clone();
                self.objects.insert(key("Pod", &name), pod(&name, &what[2], ip, &ports));
            }
            "deletePod" => self.remove("Pod", &format!("{}/{}", text(0), text(1))),
            other => panic!("unknown action {other}"),
        }
    }

    fn remove(&mut self, kind: &str, name: &str) {
        self.objects.remove(&key(kind, name));
    }
}
