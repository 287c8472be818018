//! Ways in which others enforced policy wrongly, one test each: the compiler must not repeat them.

use penstock_api::artefact::PodKey;
use penstock_api::reference::{Question, identity_of, judge_flow};
use penstock_api::{Artefact, EndpointId, IdentityId};
use penstock_control::compile::Compiler;
use penstock_control::load::load_text;
use penstock_control::objects::{Kind, Object, ObjectKey};
use std::net::IpAddr;
use std::path::Path;

fn objects(text: &str) -> Vec<Object> {
    let report = load_text(Path::new("test.yaml"), text);
    assert_eq!(report.errors, []);
    report.objects.into_iter().map(|loaded| loaded.object).collect()
}

fn pod(name: &str, labels: &str, ip: &str, more: &str) -> String {
    let (namespace, name) = name.split_once('/').unwrap();
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: {namespace}, labels: {{{labels}}}}}\n\
         spec: {{containers: [{{name: c, ports: [{more}]}}]}}\nstatus: {{phase: Running, podIP: '{ip}'}}\n"
    )
}

fn policy(name: &str, spec: &str) -> String {
    let (namespace, name) = name.split_once('/').unwrap();
    format!(
        "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {spec}\n"
    )
}

fn compiler(text: &str) -> Compiler {
    let mut compiler = Compiler::new();
    compiler.reset(objects(text));
    compiler.attach_all_by_status();
    compiler
}

fn key(kind: Kind, name: &str) -> ObjectKey {
    let (namespace, name) = name.split_once('/').unwrap_or(("", name));
    ObjectKey { kind, namespace: namespace.to_owned(), name: name.to_owned() }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn allows(artefact: &Artefact, from: &str, to: &str, protocol: u8, port: u16) -> bool {
    artefact.validate().unwrap();
    judge_flow(artefact, ip(from), ip(to), Question { protocol, port, established: false }).is_allowed()
}

const TCP: u8 = 6;
const WEB: &str = "10.1.0.1";
const DB: &str = "10.1.0.2";

fn web_and_db() -> String {
    pod("a/web", "app: web", WEB, "") + &pod("a/db", "app: db", DB, "")
}

#[test]
fn policies_deleted_before_the_pods_of_a_dying_namespace_stay_in_force() {
    let deny = policy("a/deny", "{podSelector: {}}");
    let namespace = |phase: &str| {
        objects(&format!(
            "apiVersion: v1\nkind: Namespace\nmetadata: {{name: a}}\nstatus: {{phase: {phase}}}\n"
        ))
        .remove(0)
    };
    let mut compiler = compiler(&(web_and_db() + &deny));
    compiler.apply(namespace("Terminating"));
    compiler.delete(&key(Kind::NetworkPolicy, "a/deny"));
    assert!(!allows(&compiler.artefact(), WEB, DB, TCP, 80));
    compiler.delete(&key(Kind::Namespace, "a"));
    assert!(!allows(&compiler.artefact(), WEB, DB, TCP, 80));
    // A namespace that is there again and alive begins afresh.
    compiler.apply(namespace("Active"));
    assert!(allows(&compiler.artefact(), WEB, DB, TCP, 80));
}

#[test]
fn a_policy_deleted_in_a_living_namespace_opens_its_pods() {
    let mut compiler = compiler(&(web_and_db() + &policy("a/deny", "{podSelector: {}}")));
    assert!(!allows(&compiler.artefact(), WEB, DB, TCP, 80));
    compiler.delete(&key(Kind::NetworkPolicy, "a/deny"));
    assert!(allows(&compiler.artefact(), WEB, DB, TCP, 80));
}

#[test]
fn policies_hold_and_names_are_known_without_a_namespace_object() {
    let spec = "{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: b}}}]}]}";
    let text = web_and_db() + &pod("b/other", "", "10.1.0.9", "") + &policy("a/only-b", spec);
    let artefact = compiler(&text).artefact();
    assert!(!allows(&artefact, WEB, DB, TCP, 80));
    assert!(allows(&artefact, "10.1.0.9", DB, TCP, 80));
}

#[test]
fn a_finished_pod_does_not_lend_its_labels_to_the_next_owner_of_its_address() {
    let spec = "{podSelector: {matchLabels: {app: db}}, ingress: [{from: [{podSelector: {matchLabels: {app: job}}}]}]}";
    let over = pod("a/job", "app: job", "10.1.0.3", "").replace("Running", "Succeeded");
    let running = pod("a/new", "app: new", "10.1.0.3", "");
    for text in [over.clone() + &running, running + &over] {
        let text = web_and_db() + &text + &policy("a/p", spec);
        assert!(!allows(&compiler(&text).artefact(), "10.1.0.3", DB, TCP, 80));
    }
}

#[test]
fn an_address_two_running_pods_claim_is_given_only_what_both_may_have() {
    let spec = "{podSelector: {matchLabels: {app: db}}, ingress: [{from: [{podSelector: {matchLabels: {app: job}}}]}]}";
    let mut compiler = compiler(&(web_and_db() + &policy("a/p", spec)));
    // Of another node: two objects, one address.
    compiler.apply(objects(&pod("a/old", "app: job", "10.1.0.3", "")).remove(0));
    assert!(allows(&compiler.artefact(), "10.1.0.3", DB, TCP, 80));
    compiler.apply(objects(&pod("a/new", "app: new", "10.1.0.3", "")).remove(0));
    assert!(!allows(&compiler.artefact(), "10.1.0.3", DB, TCP, 80));
    compiler.delete(&key(Kind::Pod, "a/new"));
    assert!(allows(&compiler.artefact(), "10.1.0.3", DB, TCP, 80));
}

#[test]
fn of_two_pods_that_claim_an_address_the_one_that_runs_has_it() {
    let spec = "{podSelector: {matchLabels: {app: db}}, ingress: [{from: [{podSelector: {matchLabels: {app: job}}}]}]}";
    let mut compiler = compiler(&(web_and_db() + &policy("a/p", spec)));
    compiler.apply(objects(&pod("a/job", "app: job", "10.1.0.3", "")).remove(0));
    compiler
        .apply(objects(&pod("a/late", "app: late", "10.1.0.3", "").replace("Running", "Pending")).remove(0));
    assert!(allows(&compiler.artefact(), "10.1.0.3", DB, TCP, 80));
}

#[test]
fn a_port_name_two_claimants_of_an_address_disagree_about_opens_nothing() {
    let spec =
        "{podSelector: {matchLabels: {app: web}}, policyTypes: [Egress], egress: [{ports: [{port: http}]}]}";
    let mut compiler = compiler(&(web_and_db() + &policy("a/p", spec)));
    let claimant = |name: &str, number: u16| {
        objects(&pod(name, "app: s", "10.1.0.3", &format!("{{name: http, containerPort: {number}}}")))
            .remove(0)
    };
    compiler.apply(claimant("a/one", 80));
    assert!(allows(&compiler.artefact(), WEB, "10.1.0.3", TCP, 80));
    compiler.apply(claimant("a/two", 81));
    for port in [80, 81] {
        assert!(!allows(&compiler.artefact(), WEB, "10.1.0.3", TCP, port));
    }
}

#[test]
fn an_endpoint_whose_pod_is_over_is_isolated() {
    let mut compiler = compiler(&web_and_db());
    assert_eq!(compiler.artefact().pods.len(), 2);
    compiler.apply(objects(&pod("a/web", "app: web", WEB, "").replace("Running", "Failed")).remove(0));
    assert_eq!(compiler.artefact().pods.len(), 1);
    assert_eq!(identity_of(&compiler.artefact(), ip(WEB)), IdentityId::UNKNOWN);
}

#[test]
fn egress_to_a_named_port_reaches_the_peers_named_and_no_others() {
    let http = "{name: http, containerPort: 80}";
    let pods = pod("a/in", "app: in", "10.1.0.3", http) + &pod("a/out", "app: out", "10.1.0.4", http);
    let spec = "{podSelector: {matchLabels: {app: web}}, policyTypes: [Egress], \
                egress: [{to: [{podSelector: {matchLabels: {app: in}}}], ports: [{port: http}]}]}";
    let artefact = compiler(&(web_and_db() + &pods + &policy("a/p", spec))).artefact();
    assert!(allows(&artefact, WEB, "10.1.0.3", TCP, 80));
    assert!(!allows(&artefact, WEB, "10.1.0.4", TCP, 80));
}

#[test]
fn of_two_pods_with_one_address_in_a_set_the_address_stays_when_one_goes() {
    let spec = "{podSelector: {matchLabels: {app: db}}, ingress: [{from: [{podSelector: {matchLabels: {app: job}}}]}]}";
    let mut compiler = compiler(&(web_and_db() + &policy("a/p", spec)));
    for name in ["a/one", "a/two"] {
        compiler.apply(objects(&pod(name, "app: job", "10.1.0.3", "")).remove(0));
    }
    compiler.delete(&key(Kind::Pod, "a/one"));
    assert!(allows(&compiler.artefact(), "10.1.0.3", DB, TCP, 80));
}

#[test]
fn an_address_given_to_another_pod_is_judged_by_its_new_owner() {
    let spec = "{podSelector: {matchLabels: {app: db}}, ingress: [{from: [{podSelector: {matchLabels: {app: web}}}]}]}";
    let mut compiler =
        compiler(&(web_and_db() + &pod("a/new", "app: new", "10.1.0.7", "") + &policy("a/p", spec)));
    compiler.detach_all();
    compiler.attach(EndpointId(1), PodKey::new("a", "db"), [ip(DB)]);
    // web's object still says it has the address, but the endpoint that has it is new's.
    compiler.attach(EndpointId(2), PodKey::new("a", "new"), [ip(WEB)]);
    assert!(!allows(&compiler.artefact(), WEB, DB, TCP, 80));
}

#[test]
fn an_endpoint_nobody_knows_is_no_pod_and_inherits_nothing() {
    let spec = "{podSelector: {matchLabels: {app: db}}, ingress: [{from: [{podSelector: {}}, {ipBlock: {cidr: 0.0.0.0/0}}]}]}";
    let mut compiler = compiler(&(web_and_db() + &policy("a/p", spec)));
    compiler.detach_all();
    compiler.attach(EndpointId(1), PodKey::new("a", "db"), [ip(DB)]);
    compiler.attach(EndpointId(2), PodKey::new("a", "not-yet-known"), [ip(WEB)]);
    let artefact = compiler.artefact();
    assert_eq!(identity_of(&artefact, ip(WEB)), IdentityId::UNKNOWN);
    assert!(!artefact.pods.iter().any(|pod| pod.pod.name == "not-yet-known"));
    assert!(!allows(&artefact, WEB, DB, TCP, 80));
}

#[test]
fn a_later_pod_of_the_same_name_is_another_pod() {
    let mut compiler = Compiler::new();
    let with_uid = web_and_db().replace("name: web,", "name: web, uid: first,");
    compiler.reset(objects(&with_uid));
    let key = |uid: &str| PodKey { uid: Some(uid.to_owned()), ..PodKey::new("a", "web") };
    compiler.attach(EndpointId(1), key("second"), [ip(WEB)]);
    assert!(compiler.artefact().pods.is_empty());
    compiler.attach(EndpointId(1), key("first"), [ip(WEB)]);
    assert_eq!(compiler.artefact().pods.len(), 1);
}

#[test]
fn a_label_taken_from_a_namespace_takes_the_access_with_it() {
    let spec = "{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: x}}}]}]}";
    let namespace = |labels: &str| {
        objects(&format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: b, labels: {{{labels}}}}}\n"))
            .remove(0)
    };
    let text = web_and_db() + &pod("b/other", "", "10.1.0.9", "") + &policy("a/team-x", spec);
    let mut compiler = compiler(&text);
    compiler.apply(namespace("team: x"));
    assert!(allows(&compiler.artefact(), "10.1.0.9", DB, TCP, 80));
    compiler.apply(namespace(""));
    assert!(!allows(&compiler.artefact(), "10.1.0.9", DB, TCP, 80));
}

#[test]
fn a_pods_own_labels_cannot_place_it_in_another_namespace() {
    let spec = "{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: a}}}]}]}";
    let spoof = "kubernetes.io/metadata.name: a, io.kubernetes.pod.namespace: a, reserved.host: ''";
    let text = web_and_db() + &pod("b/spoof", spoof, "10.1.0.9", "") + &policy("a/own", spec);
    let artefact = compiler(&text).artefact();
    assert!(allows(&artefact, WEB, DB, TCP, 80));
    assert!(!allows(&artefact, "10.1.0.9", DB, TCP, 80));
    let identity = identity_of(&artefact, ip("10.1.0.9"));
    let labels = &artefact.identities.iter().find(|i| i.id == identity).unwrap().labels;
    assert!(!labels.contains(&"k8s:io.kubernetes.pod.namespace=a".to_owned()), "{labels:?}");
}

#[test]
fn a_named_port_is_each_destinations_own() {
    let http = |number: u16| format!("{{name: http, containerPort: {number}}}");
    let pods =
        pod("a/one", "app: s", "10.1.0.3", &http(8080)) + &pod("a/two", "app: s", "10.1.0.4", &http(9090));
    let ingress = "{podSelector: {matchLabels: {app: s}}, ingress: [{ports: [{port: http}]}]}";
    let egress =
        "{podSelector: {matchLabels: {app: web}}, policyTypes: [Egress], egress: [{ports: [{port: http}]}]}";
    for spec in [ingress, egress] {
        let artefact = compiler(&(web_and_db() + &pods + &policy("a/p", spec))).artefact();
        for (to, port, wanted) in [
            ("10.1.0.3", 8080, true),
            ("10.1.0.3", 9090, false),
            ("10.1.0.4", 9090, true),
            ("10.1.0.4", 8080, false),
        ] {
            assert_eq!(allows(&artefact, WEB, to, TCP, port), wanted, "{spec}: {to}:{port}");
            assert!(!allows(&artefact, WEB, to, 17, port), "the protocol must match");
        }
    }
    // Nobody outside has a port of that name.
    let artefact = compiler(&(web_and_db() + &pods + &policy("a/p", egress))).artefact();
    assert!(!allows(&artefact, WEB, "1.1.1.1", TCP, 8080));
}

#[test]
fn an_exception_takes_from_its_own_block_only() {
    let subject = "podSelector: {matchLabels: {app: db}}";
    let wide = policy(
        "a/wide",
        &format!(
            "{{{subject}, ingress: [{{from: [{{ipBlock: {{cidr: 10.0.0.0/8, except: [10.0.1.0/24]}}}}]}}]}}"
        ),
    );
    let narrow = policy(
        "a/narrow",
        &format!("{{{subject}, ingress: [{{from: [{{ipBlock: {{cidr: 10.0.1.0/24}}}}]}}]}}"),
    );
    let pods_inside = policy(
        "a/pods",
        &format!("{{{subject}, ingress: [{{from: [{{podSelector: {{matchLabels: {{app: in}}}}}}]}}]}}"),
    );
    let inside = pod("a/in", "app: in", "10.0.1.7", "");
    let base = web_and_db() + &inside;
    assert!(!allows(&compiler(&(base.clone() + &wide)).artefact(), "10.0.1.7", DB, TCP, 80));
    assert!(allows(&compiler(&(base.clone() + &wide + &narrow)).artefact(), "10.0.1.9", DB, TCP, 80));
    assert!(allows(&compiler(&(base + &wide + &pods_inside)).artefact(), "10.0.1.7", DB, TCP, 80));
}

#[test]
fn a_block_that_covers_one_address_of_a_pod_says_nothing_of_the_other() {
    let dual = pod("a/dual", "app: dual", "10.1.0.5", "")
        .replace("podIP: '10.1.0.5'", "podIPs: [{ip: 10.1.0.5}, {ip: 'fd00::5'}]");
    let db = pod("a/db", "app: db", DB, "")
        .replace(&format!("podIP: '{DB}'"), &format!("podIPs: [{{ip: {DB}}}, {{ip: 'fd00::2'}}]"));
    let spec = "{podSelector: {matchLabels: {app: db}}, ingress: [{from: [{ipBlock: {cidr: 10.1.0.0/16}}]}]}";
    let artefact = compiler(&(dual + &db + &policy("a/p", spec))).artefact();
    assert!(allows(&artefact, "10.1.0.5", DB, TCP, 80));
    assert!(!allows(&artefact, "fd00::5", "fd00::2", TCP, 80));
}

#[test]
fn sctp_does_not_widen_and_still_isolates() {
    let spec = "{podSelector: {}, ingress: [{ports: [{protocol: SCTP}]}]}";
    let artefact = compiler(&(web_and_db() + &policy("a/p", spec))).artefact();
    assert!(allows(&artefact, WEB, DB, 132, 80));
    assert!(!allows(&artefact, WEB, DB, TCP, 80));
    assert!(!allows(&artefact, WEB, DB, 1, 8));
}

#[test]
fn icmp_passes_only_where_no_ports_are_named() {
    let open = policy("a/p", "{podSelector: {}, ingress: [{from: [{podSelector: {}}]}]}");
    let ports = policy("a/p", "{podSelector: {}, ingress: [{ports: [{port: 80}]}]}");
    assert!(allows(&compiler(&(web_and_db() + &open)).artefact(), WEB, DB, 1, 8));
    assert!(!allows(&compiler(&(web_and_db() + &ports)).artefact(), WEB, DB, 1, 8));
}

#[test]
fn the_own_node_may_reach_its_pods_and_is_judged_like_anybody_the_other_way() {
    let spec = "{podSelector: {}, policyTypes: [Ingress, Egress], ingress: [{from: [{ipBlock: {cidr: 10.9.0.0/24}}]}]}";
    let mut compiler = compiler(&(web_and_db() + &policy("a/p", spec)));
    compiler.set_host_addresses([ip("10.9.0.1"), ip("172.16.0.1")]);
    let artefact = compiler.artefact();
    for node in ["10.9.0.1", "172.16.0.1"] {
        assert!(allows(&artefact, node, DB, TCP, 80));
        assert!(!allows(&artefact, DB, node, TCP, 80));
    }
    assert!(allows(&artefact, "10.9.0.2", DB, TCP, 80));
    assert!(!allows(&artefact, "172.16.0.2", DB, TCP, 80));
}

#[test]
fn a_pod_on_its_nodes_network_is_never_selected() {
    let spec = "{podSelector: {}, ingress: [{from: [{podSelector: {}}, {namespaceSelector: {}}]}]}";
    let host_pod =
        pod("a/agent", "app: web", "10.9.0.2", "").replace("spec: {", "spec: {hostNetwork: true, ");
    let artefact = compiler(&(web_and_db() + &host_pod + &policy("a/p", spec))).artefact();
    assert!(allows(&artefact, WEB, DB, TCP, 80));
    assert!(!allows(&artefact, "10.9.0.2", DB, TCP, 80));
    assert!(!artefact.pods.iter().any(|pod| pod.pod.name == "agent"));
    // Not even when a pod claims the node's own address.
    let mut compiler = compiler(&(web_and_db() + &policy("a/p", spec)));
    compiler.apply(objects(&pod("a/liar", "app: web", "10.9.0.1", "")).remove(0));
    compiler.set_host_addresses([ip("10.9.0.1")]);
    assert_eq!(identity_of(&compiler.artefact(), ip("10.9.0.1")), IdentityId::HOST);
}

#[test]
fn a_peer_that_only_excludes_lets_no_outsider_in() {
    for operator in ["{key: x, operator: DoesNotExist}", "{key: x, operator: NotIn, values: [y]}"] {
        let spec = format!(
            "{{podSelector: {{}}, ingress: [{{from: [{{namespaceSelector: {{matchExpressions: [{operator}]}}}}, \
             {{podSelector: {{matchExpressions: [{operator}]}}}}]}}]}}"
        );
        let mut compiler = compiler(&(web_and_db() + &policy("a/p", &spec)));
        compiler.set_host_addresses([ip("10.9.0.1")]);
        let artefact = compiler.artefact();
        assert!(allows(&artefact, WEB, DB, TCP, 80));
        assert!(!allows(&artefact, "1.1.1.1", DB, TCP, 80));
    }
}

#[test]
fn a_refusal_names_the_policies_that_select_the_pod() {
    let artefact = compiler(&(web_and_db() + &policy("a/deny", "{podSelector: {}}"))).artefact();
    let pod = artefact.pods.iter().find(|pod| pod.pod.name == "db").unwrap();
    let program = &artefact.programs[pod.ingress.index()];
    let names: Vec<String> =
        program.selected_by.iter().map(|id| artefact.policies[id.index()].to_string()).collect();
    assert_eq!(names, ["NetworkPolicy a/deny"]);
    assert_eq!(artefact.policies[0].to_string(), "builtin own-node");
}

#[test]
fn policies_that_select_no_pod_of_this_node_cost_nothing_here() {
    let mut compiler = compiler(&web_and_db());
    let before = compiler.artefact();
    let spec =
        "{podSelector: {matchLabels: {app: elsewhere}}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8}}]}]}";
    objects(&policy("a/elsewhere", spec)).into_iter().for_each(|object| compiler.apply(object));
    assert_eq!(compiler.artefact(), before);
}
