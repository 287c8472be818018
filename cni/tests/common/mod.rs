//! A node for the plugin to work on: the namespace of an instance, a switch that is not one, and pods to attach.
//!
//! The switch answers as told and writes down what it was asked. Everything is removed when the test is over.

use penstock_api::message::{ErrorCode, Request, Response, Status, gateway};
use penstock_api::{EndpointId, Generation, Instance, PortId, wire};
use penstock_cni::step::Observer;
use penstock_cni::{Environment, names, run, run_observed};
use penstock_net::{Netlink, Netns};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

/// How the switch answers an `Attach` or a `Check`.
#[derive(Debug, Clone)]
pub(crate) enum Manner {
    /// Brings the host end up and says so.
    Willing,
    Refuses(ErrorCode, &'static str),
    Silent,
    HangsUp,
    Babbles,
}

#[derive(Debug)]
struct Shared {
    instance: Instance,
    manner: Mutex<Manner>,
    requests: Mutex<Vec<Request>>,
    /// Was the host end up when it was offered?
    was_up: Mutex<Vec<bool>>,
    stop: AtomicBool,
}

/// An instance with its namespace, its directories and a switch.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) instance: Instance,
    shared: Arc<Shared>,
    server: Option<JoinHandle<()>>,
}

pub(crate) fn unique(prefix: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{prefix}{:x}-{:x}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

impl Node {
    pub(crate) fn new() -> Node {
        assert!(nix::unistd::geteuid().is_root(), "this test makes network namespaces: run it as root");
        let instance: Instance = unique("tc").parse().unwrap();
        Netns::create(instance.netns()).unwrap();
        let shared = Arc::new(Shared {
            instance: instance.clone(),
            manner: Mutex::new(Manner::Willing),
            requests: Mutex::default(),
            was_up: Mutex::default(),
            stop: AtomicBool::new(false),
        });
        let mut node = Node { instance, shared, server: None };
        node.start_switch();
        node
    }

    pub(crate) fn start_switch(&mut self) {
        fs::create_dir_all(self.instance.run_dir()).unwrap();
        let listener = UnixListener::bind(self.instance.control_socket()).unwrap();
        self.shared.stop.store(false, Ordering::SeqCst);
        let shared = Arc::clone(&self.shared);
        self.server = Some(thread::spawn(move || {
            for stream in listener.incoming() {
                if shared.stop.load(Ordering::SeqCst) {
                    return;
                }
                let (shared, stream) = (Arc::clone(&shared), stream.unwrap());
                thread::spawn(move || serve(&shared, stream));
            }
        }));
    }

    pub(crate) fn stop_switch(&mut self) {
        if let Some(server) = self.server.take() {
            self.shared.stop.store(true, Ordering::SeqCst);
            drop(UnixStream::connect(self.instance.control_socket()));
            server.join().unwrap();
            fs::remove_file(self.instance.control_socket()).unwrap();
        }
    }

    pub(crate) fn switch_is(&self, manner: Manner) {
        *self.shared.manner.lock().unwrap() = manner;
    }

    /// What the switch was asked since the last time.
    pub(crate) fn requests(&self) -> Vec<Request> {
        std::mem::take(&mut self.shared.requests.lock().unwrap())
    }

    /// Whether host ends were up when they were offered.
    pub(crate) fn offered_up(&self) -> Vec<bool> {
        self.shared.was_up.lock().unwrap().clone()
    }

    pub(crate) fn netns(&self) -> Netns {
        Netns::open(self.instance.netns()).unwrap()
    }

    pub(crate) fn netlink(&self) -> Netlink {
        Netlink::open_in(&self.netns()).unwrap()
    }

    pub(crate) fn addresses_dir(&self) -> PathBuf {
        self.instance.state_dir().join("addresses")
    }

    /// The addresses with a file, and files that were never finished.
    pub(crate) fn address_files(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.addresses_dir()) else { return Vec::new() };
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> =
            names.filter(|name| !name.starts_with('.') || name.starts_with(".new")).collect();
        names.sort();
        names
    }

    /// Nothing of any pod is left on the node.
    #[track_caller]
    pub(crate) fn assert_empty(&self, when: &str) {
        let links: Vec<_> = self.netlink().links().unwrap().into_iter().map(|link| link.name).collect();
        assert_eq!(links, ["lo"], "{when}: links of {}", self.instance);
        assert_eq!(self.address_files(), [""; 0], "{when}: addresses of {}", self.instance);
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if !thread::panicking() {
            self.stop_switch();
        }
        let _ = Netns::delete(self.instance.netns());
        let _ = fs::remove_dir_all(self.instance.run_dir());
        let _ = fs::remove_dir_all(self.instance.state_dir());
    }
}

fn serve(shared: &Shared, mut stream: UnixStream) {
    while let Ok(request) = wire::receive::<Request>(&mut stream) {
        shared.requests.lock().unwrap().push(request.clone());
        let manner = shared.manner.lock().unwrap().clone();
        let answer = match (request, manner) {
            (Request::Status, _) => Response::Status(Box::new(status(&shared.instance))),
            (Request::Detach { .. }, _) => Response::Done,
            (_, Manner::Refuses(code, message)) => Response::Error { code, message: message.to_owned() },
            (_, Manner::Silent) => continue,
            (_, Manner::HangsUp) => return,
            (_, Manner::Babbles) => Response::Capturing,
            (Request::Attach { port, .. }, Manner::Willing) => {
                let netlink = Netlink::open_in(&Netns::open(shared.instance.netns()).unwrap()).unwrap();
                let link = netlink.existing(&port.host_end).unwrap();
                shared.was_up.lock().unwrap().push(link.is_up);
                netlink.set_up(link.index, true).unwrap();
                Response::Attached { port: PortId(1), endpoint: EndpointId(1), gateway_mac: gateway::MAC }
            }
            (Request::Check { .. }, Manner::Willing) => Response::Done,
            (other, _) => panic!("the plugin asked {other:?}"),
        };
        if wire::send(&mut stream, &answer).is_err() {
            return;
        }
    }
}

fn status(instance: &Instance) -> Status {
    Status {
        instance: instance.to_string(),
        version: "0".into(),
        pid: 1,
        uptime_ms: 1,
        mtu: 1450,
        pod_ranges: vec!["10.77.0.0/24".parse().unwrap(), "fd00:77::/64".parse().unwrap()],
        host_interface: instance.host_interface(),
        host_addresses: vec![],
        polling: "busy".into(),
        generation: Generation(1),
        generation_age_ms: 1,
        subscribers: 1,
        endpoints: 0,
        endpoints_ready: 0,
        workers: vec![],
        shortcut: Default::default(),
        notes: vec![],
    }
}

/// A pod: a namespace, and what the runtime would say about it.
#[derive(Debug)]
pub(crate) struct Pod {
    pub(crate) name: String,
    pub(crate) netns: Netns,
    pub(crate) container_id: String,
    pub(crate) interface: String,
    pub(crate) config: Value,
}

impl Pod {
    pub(crate) fn new(node: &Node) -> Pod {
        let name = unique("pt-cni-");
        Pod {
            netns: Netns::create(&name).unwrap(),
            container_id: format!("{name}-container"),
            name,
            interface: "eth0".to_owned(),
            config: json!({
                "cniVersion": "1.0.0", "name": "pods", "type": "penstock-cni",
                "instance": node.instance.name(), "mtu": 1400, "waitSeconds": 1,
                "ranges": ["10.244.0.0/24", "fd00:10:244::/64"],
            }),
        }
    }

    pub(crate) fn environment(&self, command: &str) -> Vec<(&'static str, String)> {
        vec![
            ("CNI_COMMAND", command.to_owned()),
            ("CNI_CONTAINERID", self.container_id.clone()),
            ("CNI_NETNS", self.netns.path().display().to_string()),
            ("CNI_IFNAME", self.interface.clone()),
            (
                "CNI_ARGS",
                format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME={};K8S_POD_UID=u-1", self.name),
            ),
            ("CNI_PATH", "/opt/cni/bin".to_owned()),
        ]
    }

    pub(crate) fn call(&self, command: &str) -> Result<Option<Value>, Value> {
        run(&Environment::new(self.environment(command)), self.config.to_string().as_bytes())
    }

    pub(crate) fn add(&self) -> Result<Value, Value> {
        self.call("ADD").map(|result| result.expect("an ADD has a result"))
    }

    pub(crate) fn add_observed(&self, observer: Observer<'_>) -> Result<Option<Value>, Value> {
        let environment = Environment::new(self.environment("ADD"));
        run_observed(&environment, self.config.to_string().as_bytes(), observer)
    }

    pub(crate) fn del(&self) {
        assert_eq!(self.call("DEL"), Ok(None));
    }

    /// With the result of the `ADD`.
    pub(crate) fn check(&self, result: &Value) -> Result<Option<Value>, Value> {
        let mut config = self.config.clone();
        config["prevResult"] = result.clone();
        run(&Environment::new(self.environment("CHECK")), config.to_string().as_bytes())
    }

    pub(crate) fn host_end(&self) -> String {
        names::host_end(&self.container_id, &self.interface)
    }

    pub(crate) fn netlink(&self) -> Netlink {
        Netlink::open_in(&self.netns).unwrap()
    }

    #[track_caller]
    pub(crate) fn assert_empty(&self, when: &str) {
        let links: Vec<_> = self.netlink().links().unwrap().into_iter().map(|link| link.name).collect();
        assert_eq!(links, ["lo"], "{when}: links of the pod");
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        let _ = Netns::delete(&self.name);
    }
}

/// The code and the message of an error.
#[track_caller]
pub(crate) fn error(outcome: Result<impl std::fmt::Debug, Value>) -> (u64, String) {
    let error = outcome.expect_err("this should have failed");
    assert!(error["cniVersion"].is_string(), "{error}");
    (error["code"].as_u64().unwrap(), error["msg"].as_str().unwrap().to_owned())
}
