//! What random clusters hardly ever show, a claim each. Every one was found by breaking the compiler where nothing noticed.

mod small_cluster;

use penstock_api::artefact::{PodKey, PodPolicy};
use penstock_api::ids::{IdentityId, PolicyId};
use penstock_api::reference::identity_of;
use penstock_api::{Artefact, EndpointId};
use penstock_control::compile::{Enforcement, Options, PodToHost};
use penstock_control::objects::Kind;
use small_cluster::*;

fn ip(text: &str) -> std::net::IpAddr {
    text.parse().unwrap()
}

fn node(name: &str, labels: &str, address: &str) -> String {
    object("Node", "v1", name, &format!("status: {{addresses: [{{type: InternalIP, address: {address}}}]}}"))
        .replace("metadata: {", &format!("metadata: {{labels: {{{labels}}}, "))
}

fn service(name: &str, spec: &str) -> String {
    object("Service", "v1", name, &format!("spec: {{{spec}ports: [{{port: 80}}]}}"))
}

fn slice(service: &str, address: &str) -> String {
    let rest = format!("addressType: IPv4\nendpoints: [{{addresses: [{address}]}}]\nports: []");
    object("EndpointSlice", "discovery.k8s.io/v1", service, &rest).replace(
        "metadata: {",
        &format!(
            "metadata: {{labels: {{kubernetes.io/service-name: {}}}, ",
            service.split_once('/').unwrap().1
        ),
    )
}

fn on_node(pod: String, node: &str, host_network: bool) -> String {
    pod.replace("spec: {", &format!("spec: {{nodeName: {node}, hostNetwork: {host_network}, "))
}

fn web(artefact: &Artefact) -> &PodPolicy {
    artefact.pods.iter().find(|pod| pod.pod.name == "web").expect("a/web is attached")
}

/// What is said of whoever has an address.
fn labels<'a>(artefact: &'a Artefact, address: &str) -> Vec<&'a str> {
    let id = identity_of(artefact, ip(address));
    let identity = artefact.identities.iter().find(|identity| identity.id == id).expect("it is described");
    identity.labels.iter().map(String::as_str).collect()
}

#[test]
fn a_group_of_cidrs_comes_and_goes_with_what_it_allows() {
    let spec = "{endpointSelector: {matchLabels: {app: web}}, egress: [{toCIDRSet: [{cidrGroupRef: g}]}]}";
    let mut cluster = Cluster::usual(&cnp("a/p", spec));
    assert!(!cluster.connects(WEB, OUTSIDE));
    cluster.apply(&object("CiliumCIDRGroup", "cilium.io/v2", "g", "spec: {externalCIDRs: [192.0.2.0/24]}"));
    assert!(cluster.connects(WEB, OUTSIDE));
    cluster.0.delete(&key(Kind::CiliumCidrGroup, "g"));
    assert!(!cluster.connects(WEB, OUTSIDE));
}

#[test]
fn a_service_comes_and_goes_with_what_it_allows() {
    let spec = "{endpointSelector: {matchLabels: {app: web}}, \
                egress: [{toServices: [{k8sService: {serviceName: s, namespace: b}}]}]}";
    let mut cluster = Cluster::usual(&cnp("a/p", spec));
    assert!(!cluster.connects(WEB, OUTSIDE));
    cluster.apply(&(service("b/s", "") + &slice("b/s", OUTSIDE)));
    assert!(cluster.connects(WEB, OUTSIDE));
    cluster.0.delete(&key(Kind::Service, "b/s"));
    assert!(!cluster.connects(WEB, OUTSIDE));
}

#[test]
fn a_policy_kept_for_a_dying_namespace_goes_with_its_last_pod() {
    let mut cluster = Cluster::usual(&knp("a/p", DENY_ALL));
    cluster.apply(&namespace("a", "", "Terminating"));
    cluster.0.delete(&key(Kind::NetworkPolicy, "a/p"));
    cluster.0.delete(&key(Kind::Pod, "a/db"));
    assert!(!cluster.connects(WEB, OTHER));
    cluster.0.delete(&key(Kind::Pod, "a/web"));
    cluster.apply(&pod("a/web", "app: web", WEB));
    assert!(cluster.connects(WEB, OTHER));
}

#[test]
fn other_objects_leave_the_nodes_options_name_and_endpoints_as_they_were() {
    let text = node("far", "", REMOTE_NODE) + &pod("a/web", "app: web", WEB);
    let mut cluster = Cluster::new(&text);
    cluster.0.set_node_name(Some("far".to_owned()));
    cluster.0.set_options(Options { enforcement: Enforcement::Always, pod_to_host: PodToHost::Allow });
    let before = cluster.artefact();
    assert_eq!(identity_of(&before, ip(REMOTE_NODE)), IdentityId::HOST);
    assert!(!cluster.connects(OUTSIDE, WEB) && cluster.connects(WEB, HOST));
    cluster.0.reset(objects(&text));
    assert_eq!(cluster.artefact(), before);
}

#[test]
fn one_nodes_policy_is_about_its_running_pods_and_its_addresses() {
    let finished = pod("a/finished", "", "10.1.0.7").replace("Running", "Succeeded");
    let mut cluster = Cluster::new(
        &(node("far", "", REMOTE_NODE)
            + &node("near", "", HOST)
            + &on_node(pod("a/web", "app: web", WEB), "far", false)
            + &on_node(finished, "far", false)
            + &on_node(pod("a/agent", "", REMOTE_NODE), "far", true)
            + &on_node(pod("a/db", "", DB), "near", false)),
    );
    cluster.0.attach_node_by_status("far");
    let artefact = cluster.artefact();
    let here: Vec<&str> = artefact.pods.iter().map(|pod| pod.pod.name.as_str()).collect();
    assert_eq!(here, ["web"]);
    assert_eq!(identity_of(&artefact, ip(REMOTE_NODE)), IdentityId::HOST);
    assert_eq!(identity_of(&artefact, ip(HOST)), IdentityId::REMOTE_NODE);
    assert_eq!(identity_of(&artefact, ip("10.1.0.7")), IdentityId::WORLD_V4, "nobody has it any more");
}

#[test]
fn a_pod_on_the_host_network_tells_the_address_of_a_node_that_has_no_object() {
    let agent = on_node(pod("a/agent", "", "10.9.0.7"), "unheard-of", true);
    let cluster = Cluster::usual(&agent);
    assert_eq!(identity_of(&cluster.artefact(), ip("10.9.0.7")), IdentityId::REMOTE_NODE);
}

/// The memory is compared with a fresh look each time an artefact is made.
#[test]
fn whatever_changes_who_owns_a_pods_addresses_is_seen() {
    let web = |uid: &str, host_network| {
        let pod = on_node(pod("a/web", "app: web", WEB), "far", host_network);
        pod.replace("metadata: {", &format!("metadata: {{uid: {uid}, "))
    };
    let mut cluster = Cluster::new(&web("one", false));
    assert_eq!(cluster.artefact().pods.len(), 1);
    cluster.apply(&web("two", false));
    assert!(cluster.artefact().pods.is_empty(), "the interface is of the pod before");
    let new = PodKey { uid: Some("two".to_owned()), ..PodKey::new("a", "web") };
    cluster.0.attach(EndpointId(7), new, [ip(WEB)]);
    assert_eq!(cluster.artefact().pods.len(), 1);
    cluster.apply(&web("two", true));
    assert!(cluster.artefact().pods.is_empty(), "it is its node now");

    cluster.0.set_node_name(Some("near".to_owned()));
    let agent = |node: &str| on_node(pod("a/agent", "", "10.9.0.7"), node, true);
    for (on, identity) in [("far", IdentityId::REMOTE_NODE), ("near", IdentityId::HOST)] {
        cluster.apply(&agent(on));
        assert_eq!(identity_of(&cluster.artefact(), ip("10.9.0.7")), identity, "on {on}");
    }
}

#[test]
fn of_two_pods_with_one_address_only_what_both_may_is_allowed_whichever_is_named_first() {
    let spec = "{podSelector: {matchLabels: {app: db}}, ingress: [{from: [{podSelector: {matchLabels: {app: web}}}]}]}";
    for [one, other] in [["web", "bad"], ["bad", "web"]] {
        let mut cluster = Cluster::usual(&knp("a/p", spec));
        cluster.apply(&pod("a/one", &format!("app: {one}"), "10.1.0.7"));
        cluster.apply(&pod("a/two", &format!("app: {other}"), "10.1.0.7"));
        assert!(!cluster.connects("10.1.0.7", DB), "{one} before {other}");
    }
}

#[test]
fn a_pod_is_told_the_policies_of_each_direction_apart() {
    let cluster = Cluster::usual(&knp("a/p", "{podSelector: {}, policyTypes: [Egress]}"));
    let artefact = cluster.artefact();
    let selected_by = |program: penstock_api::ProgramId| {
        let policies = &artefact.programs[program.index()].selected_by;
        policies.iter().map(|id: &PolicyId| artefact.policies[id.index()].name.as_str()).collect::<Vec<_>>()
    };
    assert_eq!(selected_by(web(&artefact).egress), ["p"]);
    assert_eq!(selected_by(web(&artefact).ingress), [""; 0]);
}

#[test]
fn a_clusterwide_subject_may_be_told_by_its_namespaces_labels_its_exclusions_and_the_cluster() {
    for (subject, is_meant) in [
        ("{matchLabels: {io.cilium.k8s.namespace.labels.team: x}}", true),
        ("{matchLabels: {io.cilium.k8s.namespace.labels.team: a}}", false),
        ("{matchLabels: {io.cilium.k8s.policy.cluster: default}}", true),
        ("{matchLabels: {io.kubernetes.pod.namespace: a}}", true),
        ("{matchLabels: {io.kubernetes.pod.namespace: b}}", false),
        ("{matchExpressions: [{key: io.kubernetes.pod.namespace, operator: NotIn, values: [b]}]}", true),
        ("{matchExpressions: [{key: io.kubernetes.pod.namespace, operator: NotIn, values: [a]}]}", false),
    ] {
        let policy = ccnp("p", &format!("{{endpointSelector: {subject}, egress: [{{}}]}}"));
        let cluster = Cluster::usual(&(namespace("a", "team: x", "Active") + &policy));
        assert_eq!(cluster.connects(WEB, OUTSIDE), !is_meant, "{subject}");
    }
}

/// May these connect to a/web, in the order outside, another outside, a/db, b/other, the far node?
fn who_reaches_web(policies: &str) -> [bool; 5] {
    let cluster = Cluster::usual(policies);
    [OUTSIDE, "198.51.100.1", DB, OTHER, REMOTE_NODE].map(|from| cluster.connects(from, WEB))
}

const EVERYBODY: [bool; 5] = [true; 5];
const NOBODY: [bool; 5] = [false; 5];

fn from_endpoints(selector: &str) -> String {
    let spec = format!(
        "{{endpointSelector: {{matchLabels: {{app: web}}}}, ingress: [{{fromEndpoints: [{selector}]}}]}}"
    );
    cnp("a/p", &spec)
}

fn not_from_endpoints(selector: &str) -> String {
    let spec = format!(
        "{{endpointSelector: {{matchLabels: {{app: web}}}}, enableDefaultDeny: {{ingress: false}}, \
         ingressDeny: [{{fromEndpoints: [{selector}]}}]}}"
    );
    cnp("a/p", &spec)
}

#[test]
fn a_reserved_or_a_cidr_label_alone_is_who_it_names() {
    let all = "{matchLabels: {'reserved:all': ''}}";
    assert_eq!(who_reaches_web(&from_endpoints(all)), EVERYBODY);
    assert_eq!(who_reaches_web(&not_from_endpoints(all)), NOBODY);
    let cidr = "{matchLabels: {'cidr:192.0.2.0/24': ''}}";
    assert_eq!(who_reaches_web(&from_endpoints(cidr)), [true, false, false, false, false]);
    assert_eq!(who_reaches_web(&not_from_endpoints(cidr)), [false, true, true, true, true]);
}

#[test]
fn a_cidr_or_fqdn_label_that_nobody_can_tell_is_named_allows_nobody_and_denies_everybody() {
    for selector in [
        "{matchLabels: {'cidr:192.0.2.0/24': '', app: web}}",
        "{matchExpressions: [{key: 'cidr:192.0.2.0/24', operator: DoesNotExist}]}",
        "{matchLabels: {'fqdn:example.com': ''}}",
        "{matchExpressions: [{key: 'fqdn:example.com', operator: DoesNotExist}]}",
    ] {
        assert_eq!(who_reaches_web(&from_endpoints(selector)), NOBODY, "{selector}");
        assert_eq!(who_reaches_web(&not_from_endpoints(selector)), NOBODY, "{selector}");
        let named = Cluster::usual(&from_endpoints(selector)).0.not_enforced();
        let fields: Vec<&str> = named.iter().map(|(_, gap)| gap.field.as_str()).collect();
        assert_eq!(fields, ["spec.ingress[0]"], "{selector}");
    }
}

#[test]
fn a_label_of_a_foreign_source_does_not_lead_out_of_the_namespace() {
    let foreign =
        "{matchExpressions: [{key: 'foreign:io.kubernetes.pod.namespace', operator: DoesNotExist}]}";
    assert_eq!(who_reaches_web(&from_endpoints(foreign)), [false, false, true, false, false]);
}

#[test]
fn a_denial_of_nodes_by_their_labels_is_enforced() {
    let policy = |label: &str| {
        let spec = format!(
            "{{endpointSelector: {{matchLabels: {{app: web}}}}, enableDefaultDeny: {{ingress: false}}, \
             ingressDeny: [{{fromNodes: [{{matchLabels: {{{label}}}}}]}}]}}"
        );
        node("far", "role: db", REMOTE_NODE) + &cnp("a/p", &spec)
    };
    for label in ["role: db", "'k8s:role': db", "'node:role': db"] {
        assert_eq!(who_reaches_web(&policy(label)), [true, true, true, true, false], "{label}");
    }
    for label in ["role: web", "'foreign:role': db", "'reserved:remote-node': ''"] {
        assert_eq!(who_reaches_web(&policy(label)), EVERYBODY, "{label}");
    }
}

#[test]
fn numbers_of_classes_stay_when_a_policy_before_theirs_tells_others_apart() {
    let ingress =
        |from: &str| format!("{{podSelector: {{}}, ingress: [{{from: [{{podSelector: {from}}}]}}]}}");
    let mut cluster = Cluster::usual(&knp("a/z", &ingress("{matchLabels: {app: web}}")));
    let before = cluster.artefact();
    cluster.apply(&pod("b/new", "app: new", "10.1.0.7"));
    let new = "{podSelector: {}, ingress: [{from: [{namespaceSelector: {}, podSelector: {matchLabels: {app: new}}}]}]}";
    cluster.apply(&knp("a/a", new));
    let after = cluster.artefact();
    assert_ne!(identity_of(&after, ip("10.1.0.7")), identity_of(&after, ip(OTHER)), "a class more");
    for address in [WEB, DB, OTHER] {
        assert_eq!(identity_of(&before, ip(address)), identity_of(&after, ip(address)), "{address}");
    }
}

#[test]
fn a_class_is_described_by_what_rules_ask_for_and_all_its_members_have() {
    let peers = "[{fromEndpoints: [{matchLabels: {app: web, io.cilium.k8s.policy.serviceaccount: default}}]}, \
                 {fromCIDR: [192.0.2.0/24]}]";
    let policy = cnp("a/p", &format!("{{endpointSelector: {{}}, ingress: {peers}}}"));
    let account = "k8s:io.cilium.k8s.policy.serviceaccount=default";
    let artefact = Cluster::usual(&(policy + &pod("a/web-2", "app: web, tier: x", "10.1.0.7"))).artefact();
    assert_eq!(labels(&artefact, WEB), ["k8s:app=web", account, "k8s:io.kubernetes.pod.namespace=a"]);
    assert_eq!(labels(&artefact, OTHER), [account], "a/db and b/other have this in common");
    assert_eq!(labels(&artefact, OUTSIDE), ["cidr:192.0.2.0/24", "reserved:world", "reserved:world-ipv4"]);
}

#[test]
fn a_class_is_the_api_servers_only_when_rules_ask_for_it_and_all_its_members_are() {
    let server = || slice("default/kubernetes", DB);
    let from = |peers: &str| cnp("a/p", &format!("{{endpointSelector: {{}}, ingress: [{peers}]}}"));
    let is_described = |policy: String| {
        let mut cluster = Cluster::usual(&policy);
        cluster.apply(&server());
        labels(&cluster.artefact(), DB).contains(&"reserved:kube-apiserver")
    };
    assert!(is_described(from("{fromEntities: [kube-apiserver]}")));
    assert!(!is_described(from("{fromEntities: [cluster]}")), "b/other is of the same class");
    assert!(!is_described(from("{fromEndpoints: [{matchLabels: {app: db}}]}")), "no rule asks");
}
