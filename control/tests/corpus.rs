//! Conformance cases that live outside the project: read from the folder `PENSTOCK_CORPUS` names, run with `--ignored`.

use penstock_api::reference::{Question, judge_flow};
use penstock_api::{Action, Artefact};
use penstock_control::compile::Compiler;
use penstock_control::load::{load_file, load_text};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

fn corpus() -> PathBuf {
    std::env::var_os("PENSTOCK_CORPUS").expect("set PENSTOCK_CORPUS to the folder of the cases").into()
}

fn files(folder: &str) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(corpus().join(folder)).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|e| e == "yaml"));
    files.sort();
    files
}

#[test]
#[ignore = "needs PENSTOCK_CORPUS"]
fn every_text_that_lost_its_indentation_is_refused() {
    let lost = files("seeds/lost-indent");
    assert!(!lost.is_empty());
    let invalid = files("seeds").into_iter().filter(|f| f.to_string_lossy().contains("INVALID"));
    for file in lost.iter().cloned().chain(invalid) {
        let report = load_file(&file);
        assert!(report.objects.is_empty() && !report.errors.is_empty(), "{}", file.display());
        println!("{}", report.errors[0]);
    }
}

#[test]
#[ignore = "needs PENSTOCK_CORPUS"]
fn every_network_policy_recipe_is_read() {
    for file in files("seeds").into_iter().chain(files("ahmetb-recipes")) {
        let report = load_file(&file);
        let name = file.to_string_lossy().into_owned();
        // Invalid on purpose, a fragment, or (07) in a namespace whose name no API server takes.
        let fragment = !std::fs::read_to_string(&file).unwrap().contains("apiVersion");
        if !fragment && !name.contains("INVALID") && !name.contains("07-stackrox") {
            assert_eq!(report.errors, [], "{name}");
        } else {
            println!("{}", report.errors[0]);
        }
    }
}

/// Every YAML file below a folder.
fn files_below(folder: &Path, found: &mut Vec<PathBuf>) {
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            files_below(&path, found);
        } else if path.extension().is_some_and(|e| e == "yaml" || e == "json") {
            found.push(path);
        }
    }
}

#[test]
#[ignore = "needs PENSTOCK_CORPUS"]
fn every_cilium_example_is_read_or_refused_by_the_field_that_is_not_supported() {
    let mut found = Vec::new();
    files_below(&corpus().join("cilium-examples"), &mut found);
    files_below(&corpus().join("cilium-seed-apps"), &mut found);
    found.extend(files("seeds").into_iter().filter(|f| f.to_string_lossy().contains("cilium")));
    let (mut read, mut refused, mut fields) = (0, 0, Vec::new());
    for file in &found {
        let report = load_file(file);
        for notice in &report.notices {
            println!("{notice}");
        }
        if report.errors.is_empty() {
            assert!(!report.objects.is_empty() || !report.skipped.is_empty(), "{}", file.display());
            read += 1;
            continue;
        }
        println!("REFUSED {}", report.errors[0]);
        refused += 1;
        if report.errors[0].message.contains("bare Cilium rules") {
            // Rules without an object around them, as `cilium policy import` took them.
            assert!(file.extension().is_some_and(|e| e == "json"), "{}", file.display());
            continue;
        }
        fields.push(report.errors[0].field.clone().unwrap_or_default());
    }
    // A field that was renamed, and one that metadata never had: no API server takes them either.
    assert_eq!(fields, ["spec.egress[0].auth", "metadata.description"]);
    println!("{} files: {read} read, {refused} refused", found.len());
    assert!(read > 50);
}

fn compile(objects: &[Value]) -> Artefact {
    let text: String = objects.iter().map(|object| format!("{object}\n")).collect();
    let report = load_text(Path::new("case.json"), &text);
    assert_eq!(report.errors, []);
    let mut compiler = Compiler::new();
    compiler.reset(report.objects.into_iter().map(|loaded| loaded.object));
    compiler.attach_all_by_status();
    compiler.artefact()
}

fn namespace(name: &str, labels: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
}

fn pod(name: &str, labels: &Value, ip: &Value, ports: &Value) -> Value {
    let (namespace, name) = name.split_once('/').unwrap();
    let ports: Vec<Value> = ports
        .as_array()
        .unwrap()
        .iter()
        .map(|port| match port[2].as_str().unwrap() {
            "" => json!({"containerPort": port[0], "protocol": port[1]}),
            name => json!({"containerPort": port[0], "protocol": port[1], "name": name}),
        })
        .collect();
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": {"containers": [{"name": "c", "ports": ports}]}, "status": {"phase": "Running", "podIP": ip},
    })
}

fn key(kind: &str, name: &str) -> String {
    format!("{kind} {name}")
}

fn protocol_number(name: &str) -> u8 {
    BTreeMap::from([("TCP", 6), ("UDP", 17), ("SCTP", 132)])[name]
}

#[test]
#[ignore = "needs PENSTOCK_CORPUS"]
fn every_cyclonus_case_has_its_truth_table() {
    let folder = corpus().join("cyclonus-derived");
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
    let world: Value = serde_json::from_str(&read("world.json")).unwrap();
    let usual_ports = world["pods"]["x/a"]["ports"].clone();
    let (mut cases, mut steps, mut cells, mut wrong) = (0, 0, 0, Vec::new());
    for line in read("cases.jsonl").lines() {
        let case: Value = serde_json::from_str(line).unwrap();
        let mut objects: BTreeMap<String, Value> = BTreeMap::new();
        for (name, labels) in world["namespaces"].as_object().unwrap() {
            objects.insert(key("Namespace", name), namespace(name, labels));
        }
        for (name, p) in world["pods"].as_object().unwrap() {
            objects.insert(key("Pod", name), pod(name, &p["labels"], &p["ip"], &p["ports"]));
        }
        for step in case["steps"].as_array().unwrap() {
            for action in step["actions"].as_array().unwrap() {
                let (verb, what) = action.as_object().unwrap().iter().next().unwrap();
                let text = |index: usize| what[index].as_str().unwrap();
                match verb.as_str() {
                    "createPolicy" | "updatePolicy" => {
                        let meta = &what["metadata"];
                        let name = format!(
                            "{}/{}",
                            meta["namespace"].as_str().unwrap(),
                            meta["name"].as_str().unwrap()
                        );
                        objects.insert(key("NetworkPolicy", &name), what.clone());
                    }
                    "deletePolicy" => {
                        objects.remove(&key("NetworkPolicy", &format!("{}/{}", text(0), text(1))));
                    }
                    "createNamespace" | "setNamespaceLabels" => {
                        objects.insert(key("Namespace", text(0)), namespace(text(0), &what[1]));
                    }
                    "deleteNamespace" => {
                        let name = what.as_str().unwrap();
                        objects.remove(&key("Namespace", name));
                        objects.retain(|key, _| !key.contains(&format!(" {name}/")));
                    }
                    "createPod" | "setPodLabels" => {
                        let name = format!("{}/{}", text(0), text(1));
                        let ip = &world["ips_of_pods_created_later"][&name];
                        let ports = world["pods"].get(&name).map_or(&usual_ports, |pod| &pod["ports"]);
                        objects.insert(key("Pod", &name), pod(&name, &what[2], ip, ports));
                    }
                    "deletePod" => {
                        objects.remove(&key("Pod", &format!("{}/{}", text(0), text(1))));
                    }
                    other => panic!("unknown action {other}"),
                }
            }
            let artefact = compile(&objects.values().cloned().collect::<Vec<_>>());
            let address = |name: &str| -> IpAddr {
                objects[&key("Pod", name)]["status"]["podIP"].as_str().unwrap().parse().unwrap()
            };
            let order: Vec<&str> =
                step["order"].as_array().unwrap().iter().map(|n| n.as_str().unwrap()).collect();
            for (service, table) in step["expect"].as_object().unwrap() {
                let (protocol, port) = service.split_once('/').unwrap();
                let question = Question {
                    protocol: protocol_number(protocol),
                    port: port.parse().unwrap(),
                    established: false,
                };
                for (source, row) in table.as_object().unwrap() {
                    for (destination, cell) in order.iter().zip(row.as_str().unwrap().chars()) {
                        if cell == '#' || cell == '-' {
                            continue;
                        }
                        let answer = judge_flow(&artefact, address(source), address(destination), question);
                        let refuses = |end: Option<penstock_api::reference::Answer>| {
                            end.unwrap().action == Action::Deny
                        };
                        let found = match (refuses(answer.egress), refuses(answer.ingress)) {
                            (false, false) => '.',
                            (true, false) => 'E',
                            (false, true) => 'I',
                            (true, true) => 'X',
                        };
                        cells += 1;
                        if found != cell {
                            wrong.push(format!(
                                "case {} {service} {source} to {destination}: {found}, wanted {cell}",
                                case["id"]
                            ));
                        }
                    }
                }
            }
            steps += 1;
        }
        cases += 1;
    }
    println!("{cases} cases, {steps} steps, {cells} cells, {} wrong", wrong.len());
    assert!(wrong.is_empty(), "{:#?}", &wrong[..wrong.len().min(20)]);
}

#[test]
#[ignore = "needs PENSTOCK_CORPUS"]
fn every_check_of_the_seed_policies_holds() {
    let folder = corpus().join("seeds");
    let truth: Value =
        serde_json::from_str(&std::fs::read_to_string(folder.join("truth_knp.json")).unwrap()).unwrap();
    let mut base = Vec::new();
    let mut ips: BTreeMap<String, String> = BTreeMap::new();
    for (ns, n) in truth["world"].as_object().unwrap() {
        base.push(namespace(ns, &n["labels"]));
        for (name, p) in n["pods"].as_object().unwrap() {
            let full = format!("{ns}/{name}");
            base.push(pod(&full, &p["labels"], &p["ip"], &p["ports"]));
            ips.insert(full, p["ip"].as_str().unwrap().to_owned());
        }
    }
    let checks = truth["checks"].as_array().unwrap();
    for check in checks {
        let mut compiler = Compiler::new();
        let text: String = base.iter().map(|object| format!("{object}\n")).collect();
        let mut objects = load_text(Path::new("world.json"), &text).objects;
        for file in check["policies"].as_array().unwrap() {
            let text = std::fs::read_to_string(folder.join(file.as_str().unwrap())).unwrap();
            // 07 stands in a namespace no API server would make.
            let mut text = text.replace("namespace: N2", "namespace: n2");
            let applied_in = check["applied_in"].as_str().unwrap();
            if !text.contains("  namespace:") {
                text = text.replace("metadata:\n", &format!("metadata:\n  namespace: {applied_in}\n"));
            }
            let report = load_text(Path::new("seed.yaml"), &text);
            assert_eq!(report.errors, []);
            objects.extend(report.objects);
        }
        compiler.reset(objects.into_iter().map(|loaded| loaded.object));
        compiler.attach_all_by_status();
        let artefact = compiler.artefact();
        let address = |end: &Value| -> IpAddr {
            let end = end.as_str().unwrap();
            ips.get(end).map_or(end, String::as_str).parse().unwrap_or_else(|_| panic!("{end}"))
        };
        let question = Question {
            protocol: protocol_number(check["proto"].as_str().unwrap()),
            port: check["port"].as_u64().unwrap() as u16,
            established: false,
        };
        let answer = judge_flow(&artefact, address(&check["src"]), address(&check["dst"]), question);
        assert_eq!(answer.is_allowed(), check["allowed"].as_bool().unwrap(), "{check}");
    }
    println!("{} checks hold", checks.len());
}
