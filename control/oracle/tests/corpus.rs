//! Conformance cases that live outside the project: read from the folder `PENSTOCK_CORPUS` names, run with `--ignored`. Here
//! they judge the judge: the naive reading itself.

use penstock_oracle::{Attachment, End, Enforcement, Flow, Naive, World};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

fn read(file: &str) -> String {
    let folder = PathBuf::from(
        std::env::var_os("PENSTOCK_CORPUS").expect("set PENSTOCK_CORPUS to the folder of the cases"),
    );
    std::fs::read_to_string(folder.join(file)).unwrap()
}

fn namespace(name: &str, labels: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
}

fn pod(name: &str, labels: &Value, ip: &Value, ports: &Value) -> Value {
    let (namespace, name) = name.split_once('/').unwrap();
    let ports = ports.as_array().unwrap().iter();
    let ports: Vec<Value> =
        ports.map(|port| json!({"containerPort": port[0], "protocol": port[1], "name": port[2]})).collect();
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": {"containers": [{"name": "c", "ports": ports}]}, "status": {"phase": "Running", "podIP": ip},
    })
}

/// Every pod is attached to the one node.
fn world(objects: Vec<Value>) -> World {
    let pods = objects.iter().filter(|object| object["kind"] == "Pod");
    let attached = pods
        .map(|pod| Attachment {
            namespace: pod["metadata"]["namespace"].as_str().unwrap().to_owned(),
            name: pod["metadata"]["name"].as_str().unwrap().to_owned(),
            addresses: vec![pod["status"]["podIP"].as_str().unwrap().parse().unwrap()],
        })
        .collect();
    World {
        objects,
        node: "node-1".to_owned(),
        host_addresses: Vec::new(),
        attached,
        enforcement: Enforcement::Default,
        pod_to_host: false,
    }
}

fn protocol(name: &str) -> u8 {
    BTreeMap::from([("TCP", 6), ("UDP", 17), ("SCTP", 132)])[name]
}

/// What one action of a case does to the objects.
fn act(objects: &mut BTreeMap<String, Value>, given: &Value, verb: &str, what: &Value) {
    let text = |index: usize| what[index].as_str().unwrap();
    let name = || format!("{}/{}", text(0), text(1));
    match verb {
        "createPolicy" | "updatePolicy" => {
            let meta = &what["metadata"];
            let name = format!("{}/{}", meta["namespace"].as_str().unwrap(), meta["name"].as_str().unwrap());
            objects.insert(format!("NetworkPolicy {name}"), what.clone());
        }
        "deletePolicy" => {
            objects.remove(&format!("NetworkPolicy {}", name()));
        }
        "createNamespace" | "setNamespaceLabels" => {
            objects.insert(format!("Namespace {}", text(0)), namespace(text(0), &what[1]));
        }
        "deleteNamespace" => {
            let gone = what.as_str().unwrap();
            objects.remove(&format!("Namespace {gone}"));
            objects.retain(|key, _| !key.contains(&format!(" {gone}/")));
        }
        "createPod" | "setPodLabels" => {
            let name = name();
            let known = objects.get(&format!("Pod {name}")).map(|pod| pod["status"]["podIP"].clone());
            let ip = known.unwrap_or_else(|| given["ips_of_pods_created_later"][&name].clone());
            let ports = given["pods"].get(&name).unwrap_or(&given["pods"]["x/a"]);
            objects.insert(format!("Pod {name}"), pod(&name, &what[2], &ip, &ports["ports"]));
        }
        "deletePod" => {
            objects.remove(&format!("Pod {}", name()));
        }
        other => panic!("unknown action {other}"),
    }
}

#[test]
#[ignore = "needs PENSTOCK_CORPUS"]
fn every_cyclonus_case_has_its_truth_table() {
    let given: Value = serde_json::from_str(&read("cyclonus-derived/world.json")).unwrap();
    let (mut cells, mut wrong) = (0, Vec::new());
    for line in read("cyclonus-derived/cases.jsonl").lines() {
        let case: Value = serde_json::from_str(line).unwrap();
        let mut objects: BTreeMap<String, Value> = BTreeMap::new();
        for (name, labels) in given["namespaces"].as_object().unwrap() {
            objects.insert(format!("Namespace {name}"), namespace(name, labels));
        }
        for (name, p) in given["pods"].as_object().unwrap() {
            objects.insert(format!("Pod {name}"), pod(name, &p["labels"], &p["ip"], &p["ports"]));
        }
        for step in case["steps"].as_array().unwrap() {
            for action in step["actions"].as_array().unwrap() {
                let (verb, what) = action.as_object().unwrap().iter().next().unwrap();
                act(&mut objects, &given, verb, what);
            }
            let world = world(objects.values().cloned().collect());
            let naive = Naive::new(&world);
            let address = |name: &Value| -> IpAddr {
                let pod = &objects[&format!("Pod {}", name.as_str().unwrap())];
                pod["status"]["podIP"].as_str().unwrap().parse().unwrap()
            };
            for (service, table) in step["expect"].as_object().unwrap() {
                let (name, port) = service.split_once('/').unwrap();
                for (source, row) in table.as_object().unwrap() {
                    for (to, cell) in
                        step["order"].as_array().unwrap().iter().zip(row.as_str().unwrap().chars())
                    {
                        if cell == '#' || cell == '-' {
                            continue;
                        }
                        let flow = Flow {
                            from: address(&json!(source)),
                            to: address(to),
                            protocol: protocol(name),
                            port: port.parse().unwrap(),
                        };
                        let answer = naive.judge(flow);
                        let found =
                            match (answer.egress == Some(End::Deny), answer.ingress == Some(End::Deny)) {
                                (false, false) => '.',
                                (true, false) => 'E',
                                (false, true) => 'I',
                                (true, true) => 'X',
                            };
                        cells += 1;
                        if found != cell {
                            wrong.push(format!("case {} {flow}: {found}, wanted {cell}", case["id"]));
                        }
                    }
                }
            }
        }
    }
    println!("{cells} cells, {} wrong", wrong.len());
    assert!(wrong.is_empty(), "{:#?}", &wrong[..wrong.len().min(20)]);
}
