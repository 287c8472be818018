//! The agent against a switch that only keeps what it is told.

use penstock_api::artefact::PodKey;
use penstock_api::message::{ErrorCode, Event, PROTOCOL, PodPort, Request, Response, Status};
use penstock_api::reference::{Question, judge_flow};
use penstock_api::{Artefact, EndpointId, Generation, wire};
use penstock_control::agent::{Agent, Config, StartError, Stopper};
use penstock_control::compile::Limits;
use std::io::Write;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tempfile::TempDir;

#[derive(Default)]
struct State {
    installed: Vec<Artefact>,
    running: Generation,
    endpoints: Vec<Event>,
    subscribers: Vec<UnixStream>,
    connections: Vec<UnixStream>,
    /// Refuse this many installations.
    refuse: usize,
    /// Installations of which only was told what is new.
    changes: usize,
    /// An older version: it does not know what a difference is.
    is_old: bool,
}

/// A switch without packets.
struct FakeSwitch {
    state: Arc<Mutex<State>>,
    socket: PathBuf,
}

impl FakeSwitch {
    fn start(socket: &Path, running: Generation) -> FakeSwitch {
        let state = Arc::new(Mutex::new(State { running, ..State::default() }));
        let switch = FakeSwitch { state, socket: socket.to_owned() };
        switch.listen();
        switch
    }

    fn listen(&self) {
        let _ = std::fs::remove_file(&self.socket);
        let listener = UnixListener::bind(&self.socket).unwrap();
        let state = self.state.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (stream, state) = (stream.unwrap(), state.clone());
                state.lock().unwrap().connections.push(stream.try_clone().unwrap());
                std::thread::spawn(move || serve(stream, &state));
            }
        });
    }

    /// Ends every connection and answers no more; state is kept.
    fn stop(&self) {
        std::fs::remove_file(&self.socket).unwrap();
        let mut state = self.state.lock().unwrap();
        state.subscribers.clear();
        for connection in state.connections.drain(..) {
            let _ = connection.shutdown(std::net::Shutdown::Both);
        }
    }

    fn attach(&self, number: u32, name: &str, address: &str) {
        let port = PodPort {
            container_id: format!("c{number}"),
            interface: "eth0".to_owned(),
            host_end: format!("v{number}"),
            pod: PodKey::new("default", name),
            mac: Default::default(),
            addresses: vec![address.parse().unwrap()],
            mtu: 1500,
        };
        self.tell(Event::Attached { endpoint: EndpointId(number), port });
    }

    fn tell(&self, event: Event) {
        let mut state = self.state.lock().unwrap();
        state.endpoints.push(event.clone());
        for subscriber in &mut state.subscribers {
            let _ = wire::send(subscriber, &event);
        }
    }

    fn installed(&self) -> usize {
        self.state.lock().unwrap().installed.len()
    }

    /// Waits for an installation of which this is true.
    #[track_caller]
    fn until(&self, what: &str, is_true: impl Fn(&Artefact) -> bool) -> Artefact {
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(10) {
            if let Some(last) = self.state.lock().unwrap().installed.last()
                && is_true(last)
            {
                return last.clone();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("not seen: {what}; last: {:#?}", self.state.lock().unwrap().installed.last());
    }
}

fn serve(mut stream: UnixStream, state: &Mutex<State>) {
    while let Ok(request) = wire::receive::<Request>(&mut stream) {
        let mut state = state.lock().unwrap();
        let response = match request {
            Request::Hello { .. } => Response::Hello { protocol: PROTOCOL, version: "test".to_owned() },
            Request::Status => Response::Status(Box::new(status(state.running))),
            Request::Subscribe => {
                wire::send(&mut stream, &Response::Subscribed).unwrap();
                for event in &state.endpoints {
                    wire::send(&mut stream, event).unwrap();
                }
                let synced =
                    Event::Synced { host_addresses: vec!["10.9.0.1".parse().unwrap()], pod_ranges: vec![] };
                wire::send(&mut stream, &synced).unwrap();
                state.subscribers.push(stream);
                return;
            }
            Request::Change { .. } if state.is_old => {
                let code = ErrorCode::Invalid;
                let _ = wire::send(&mut stream, &Response::Error { code, message: "what?".to_owned() });
                return;
            }
            Request::Change { difference } => {
                let base = state.installed.last().cloned().unwrap_or_default();
                match difference.apply(&base) {
                    Ok(artefact) => {
                        state.changes += 1;
                        state.running = artefact.generation;
                        state.installed.push(artefact);
                        Response::Installed { generation: state.running, took_us: 1 }
                    }
                    Err(error) => Response::Error { code: ErrorCode::Artefact, message: error.to_string() },
                }
            }
            Request::Install { artefact } => {
                artefact.validate().unwrap();
                assert!(
                    artefact.generation > state.running,
                    "{} after {}",
                    artefact.generation,
                    state.running
                );
                if state.refuse > 0 {
                    state.refuse -= 1;
                    let code = ErrorCode::Artefact;
                    Response::Error { code, message: "not today".to_owned() }
                } else {
                    state.running = artefact.generation;
                    state.installed.push(*artefact);
                    Response::Installed { generation: state.running, took_us: 1 }
                }
            }
            other => panic!("{other:?}"),
        };
        if wire::send(&mut stream, &response).is_err() {
            return;
        }
    }
}

fn status(generation: Generation) -> Status {
    serde_json::from_value(serde_json::json!({
        "instance": "test", "version": "0", "pid": 1, "uptime_ms": 0, "mtu": 1500, "pod_ranges": [],
        "host_interface": "test0", "host_addresses": [], "polling": "adaptive", "generation": generation,
        "generation_age_ms": 0, "subscribers": 1, "endpoints": 0, "endpoints_ready": 0, "workers": [], "notes": [],
    }))
    .unwrap()
}

struct Bench {
    dir: TempDir,
    running: Option<(Stopper, JoinHandle<()>)>,
}

impl Bench {
    fn new() -> Bench {
        let dir = tempfile::tempdir().unwrap();
        for name in ["objects", "run", "state"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        Bench { dir, running: None }
    }

    fn config(&self) -> Config {
        let path = |name: &str| self.dir.path().join(name);
        Config {
            run_dir: path("run"),
            state_dir: path("state"),
            ..Config::new("test".parse().unwrap(), path("objects"))
        }
    }

    fn switch(&self) -> FakeSwitch {
        FakeSwitch::start(&self.dir.path().join("run/control.sock"), Generation(7))
    }

    fn start(&mut self) {
        self.start_with(self.config());
    }

    fn start_with(&mut self, config: Config) {
        let agent = Agent::new(config).unwrap();
        self.running = Some((agent.stopper(), std::thread::spawn(move || agent.run())));
    }

    fn stop(&mut self) {
        if let Some((stopper, thread)) = self.running.take() {
            stopper.stop();
            thread.join().unwrap();
        }
    }

    fn write(&self, file: &str, text: &str) {
        let hidden = self.dir.path().join("objects/.new");
        std::fs::File::create(&hidden).unwrap().write_all(text.as_bytes()).unwrap();
        std::fs::rename(hidden, self.dir.path().join("objects").join(file)).unwrap();
    }

    fn account(&self) -> serde_json::Value {
        let text = std::fs::read_to_string(self.dir.path().join("run/control.json")).unwrap();
        serde_json::from_str(&text).unwrap()
    }

    #[track_caller]
    fn until_account(&self, field: &str, wanted: serde_json::Value) {
        let began = Instant::now();
        while self.account()[field] != wanted {
            assert!(began.elapsed() < Duration::from_secs(10), "{:#}", self.account());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[track_caller]
    fn until_errors(&self, count: usize) -> Vec<serde_json::Value> {
        let file = self.dir.path().join("run/control-errors.json");
        let began = Instant::now();
        loop {
            let text = std::fs::read_to_string(&file).unwrap_or_default();
            let errors: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap_or_default();
            if errors.len() == count {
                return errors;
            }
            assert!(began.elapsed() < Duration::from_secs(10), "{errors:#?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.stop();
    }
}

fn pod(name: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: {name}}}}}\nspec: {{containers: [{{name: c}}]}}\n"
    )
}

const DENY: &str = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata:\n  name: deny\nspec:\n  podSelector: {}\n";

fn allows(artefact: &Artefact) -> bool {
    let question = Question { protocol: 6, port: 80, established: false };
    judge_flow(artefact, "10.1.0.1".parse().unwrap(), "10.1.0.2".parse().unwrap(), question).is_allowed()
}

/// Two pods, attached, under a deny: the usual beginning.
fn two_pods_under_deny(bench: &mut Bench) -> FakeSwitch {
    let switch = bench.switch();
    switch.attach(1, "web", "10.1.0.1");
    switch.attach(2, "db", "10.1.0.2");
    bench.write("web.yaml", &pod("web"));
    bench.write("db.yaml", &pod("db"));
    bench.write("deny.yaml", DENY);
    bench.start();
    switch.until("two pods under deny", |a| a.pods.len() == 2 && !allows(a));
    switch
}

#[test]
fn the_first_installation_holds_everything_and_changes_follow() {
    let mut bench = Bench::new();
    let switch = two_pods_under_deny(&mut bench);
    assert_eq!(switch.installed(), 1, "nothing was installed before everything was known");
    assert_eq!(switch.state.lock().unwrap().installed[0].generation, Generation(8));
    bench.write("deny.yaml", &(DENY.to_owned() + "  ingress:\n  - {}\n"));
    let artefact = switch.until("the allow", allows);
    assert_eq!(artefact.generation, Generation(9));
    std::fs::remove_file(bench.dir.path().join("objects/deny.yaml")).unwrap();
    switch.until("no policy", |a| allows(a) && a.generation == Generation(10));
    assert_eq!(switch.state.lock().unwrap().changes, 2, "what was the same was not told again");
}

#[test]
fn a_switch_that_runs_something_else_is_told_everything() {
    let mut bench = Bench::new();
    let switch = two_pods_under_deny(&mut bench);
    // Somebody else's, with the number of ours.
    let mut state = switch.state.lock().unwrap();
    let theirs = Artefact { generation: state.running, ..Artefact::empty() };
    state.installed.push(theirs);
    drop(state);
    bench.write("deny.yaml", &(DENY.to_owned() + "  ingress:\n  - {}\n"));
    switch.until("everything", |a| allows(a) && a.pods.len() == 2);
    assert_eq!(switch.state.lock().unwrap().changes, 0);
    bench.until_account("synced", true.into());
    std::fs::remove_file(bench.dir.path().join("objects/deny.yaml")).unwrap();
    switch.until("no policy", |a| allows(a) && a.generation == Generation(10));
    assert_eq!(switch.state.lock().unwrap().changes, 1, "from then on what is new is enough");
}

#[test]
fn a_switch_that_knows_no_differences_is_told_everything() {
    let mut bench = Bench::new();
    let switch = two_pods_under_deny(&mut bench);
    switch.state.lock().unwrap().is_old = true;
    bench.write("deny.yaml", &(DENY.to_owned() + "  ingress:\n  - {}\n"));
    let artefact = switch.until("the allow", allows);
    assert_eq!(artefact.generation, Generation(9));
}

#[test]
fn a_change_that_changes_nothing_is_not_installed() {
    let mut bench = Bench::new();
    let switch = two_pods_under_deny(&mut bench);
    bench.write("deny.yaml", &format!("# a comment\n{DENY}"));
    bench.write("elsewhere.yaml", &DENY.replace("name: deny", "name: deny\n  namespace: elsewhere"));
    std::thread::sleep(Duration::from_millis(400));
    assert_eq!(switch.installed(), 1);
}

#[test]
fn pods_are_served_as_they_come_and_go() {
    let mut bench = Bench::new();
    let switch = two_pods_under_deny(&mut bench);
    bench.write("late.yaml", &pod("late"));
    switch.attach(3, "late", "10.1.0.3");
    switch.until("the third pod", |a| a.pods.len() == 3);
    switch.tell(Event::Detached { endpoint: EndpointId(3), pod: PodKey::new("default", "late") });
    switch.until("two pods", |a| a.pods.len() == 2);
    // An endpoint without an object gets no policy, and gets it when the object comes.
    switch.attach(4, "orphan", "10.1.0.4");
    std::thread::sleep(Duration::from_millis(100));
    bench.write("orphan.yaml", &pod("orphan"));
    switch.until("the orphan", |a| a.pods.len() == 3);
}

#[test]
fn a_refused_object_keeps_its_last_good_version_over_a_restart_and_is_named() {
    let mut bench = Bench::new();
    let switch = two_pods_under_deny(&mut bench);
    assert!(bench.until_errors(0).is_empty());
    bench.write("deny.yaml", &DENY.replace("  podSelector", "podSelector"));
    let errors = bench.until_errors(2);
    assert!(errors[0]["file"].as_str().unwrap().ends_with("deny.yaml"), "{errors:?}");
    assert_eq!(errors[0]["object"], "NetworkPolicy default/deny");
    assert_eq!(errors[0]["line"], 5);
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(switch.installed(), 1);
    bench.stop();
    bench.start();
    let artefact = switch.until("the installation after the restart", |a| a.generation == Generation(9));
    assert!(!allows(&artefact));
    bench.until_errors(2);
    bench.until_account("kept", serde_json::json!(["NetworkPolicy default/deny"]));
    bench.write("deny.yaml", &(DENY.to_owned() + "  ingress:\n  - {}\n"));
    switch.until("the mended policy", allows);
    bench.until_errors(0);
}

#[test]
fn a_switch_that_comes_back_is_told_everything_again() {
    let mut bench = Bench::new();
    let switch = two_pods_under_deny(&mut bench);
    switch.stop();
    std::thread::sleep(Duration::from_millis(50));
    // It comes back knowing nothing of the policy, and with one pod less.
    let mut state = switch.state.lock().unwrap();
    state.running = Generation(0);
    state.endpoints.remove(0);
    drop(state);
    switch.listen();
    let artefact = switch.until("the installation after it is back", |a| a.generation == Generation(1));
    assert_eq!(artefact.pods.len(), 1);
}

#[test]
fn an_absent_switch_is_waited_for() {
    let mut bench = Bench::new();
    bench.write("deny.yaml", DENY);
    bench.start();
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(bench.account()["synced"], false);
    let switch = bench.switch();
    switch.until("the first installation", |a| a.generation == Generation(8));
    bench.until_account("synced", true.into());
    bench.stop();
    let account = bench.account();
    assert_eq!((&account["synced"], &account["running"]), (&false.into(), &false.into()));
}

#[test]
fn a_refused_installation_is_tried_again() {
    let mut bench = Bench::new();
    let switch = bench.switch();
    switch.state.lock().unwrap().refuse = 1;
    bench.start();
    switch.until("the second attempt", |a| a.generation == Generation(8));
}

#[test]
fn a_second_control_plane_and_a_missing_directory_are_refused() {
    let bench = Bench::new();
    let first = Agent::new(bench.config()).unwrap();
    assert!(matches!(Agent::new(bench.config()), Err(StartError::Running { .. })));
    drop(first);
    let config = Config { objects: "/nowhere/at/all".into(), ..bench.config() };
    let error = Agent::new(config).unwrap_err();
    assert!(matches!(error, StartError::Objects { .. }));
    assert!(error.to_string().contains("/nowhere/at/all"));
}

#[test]
fn policy_that_outgrows_a_limit_leaves_what_is_in_force_and_says_so_25() {
    let mut bench = Bench::new();
    let switch = bench.switch();
    switch.attach(1, "web", "10.1.0.1");
    switch.attach(2, "db", "10.1.0.2");
    bench.write("web.yaml", &pod("web"));
    bench.write("db.yaml", &pod("db"));
    bench.write("deny.yaml", DENY);
    let limits = Limits { prefixes_max: 4, ..Limits::default() };
    bench.start_with(Config { limits, ..bench.config() });
    switch.until("two pods under deny", |a| a.pods.len() == 2 && !allows(a));
    let blocks: String = (0..10).map(|n| format!("{{ipBlock: {{cidr: 10.1.{n}.0/24}}}}, ")).collect();
    let open = DENY.replace("deny", "open") + &format!("  ingress: [{{from: [{blocks}]}}]\n");
    bench.write("open.yaml", &open);
    bench.until_account("synced", false.into());
    let why = bench.account()["install_error"].to_string();
    assert!(why.contains("prefixes") && why.contains("--prefixes-max"), "{why}");
    switch.until("still denied", |a| !allows(a));
    // What fits again is installed again.
    std::fs::remove_file(bench.dir.path().join("objects/open.yaml")).unwrap();
    bench.until_account("synced", true.into());
    assert!(bench.account()["install_error"].is_null());
}

#[test]
fn what_is_not_enforced_stands_in_the_account_with_its_object() {
    let mut bench = Bench::new();
    two_pods_under_deny(&mut bench);
    let policy = "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: names, namespace: default}\n\
                  spec: {endpointSelector: {}, egress: [{toFQDNs: [{matchName: example.com}]}]}\n";
    bench.write("names.yaml", policy);
    let began = Instant::now();
    while bench.account()["not_enforced"][0].is_null() {
        assert!(began.elapsed() < Duration::from_secs(10), "{:#}", bench.account());
        std::thread::sleep(Duration::from_millis(5));
    }
    let field = &bench.account()["not_enforced"][0];
    assert_eq!(field["object"], "CiliumNetworkPolicy default/names");
    assert_eq!(field["field"], "spec.egress[0].toFQDNs");
}
