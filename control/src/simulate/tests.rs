use super::*;
use crate::load::load_text;
use std::path::Path;

fn world(text: &str) -> World {
    let report = load_text(Path::new("world.yaml"), text);
    assert_eq!(report.errors, []);
    World::new(report.objects.into_iter().map(|loaded| loaded.object))
}

fn pod(name: &str, rest: &str) -> String {
    format!(
        "---\n{{apiVersion: v1, kind: Pod, metadata: {{namespace: n, name: {name}, labels: {{app: {name}}}}}, {rest}}}\n"
    )
}

fn at(address: &str) -> String {
    format!("spec: {{containers: []}}, status: {{phase: Running, podIP: '{address}'}}")
}

/// Isolates `app` in both directions but for what the rules say.
fn policy(app: &str, rules: &str) -> String {
    format!(
        "---\n{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{namespace: n, name: of-{app}}}, \
         spec: {{podSelector: {{matchLabels: {{app: {app}}}}}, policyTypes: [Ingress, Egress]{rules}}}}}\n"
    )
}

fn ask(world: &World, from: &str, to: &str, service: &str) -> Answer {
    let flow = world.flow(from, to, service.parse().unwrap()).unwrap();
    world.judge(&flow).unwrap()
}

fn verdicts(answer: &Answer) -> (Verdict, EndVerdict, EndVerdict) {
    (answer.verdict, answer.egress.verdict, answer.ingress.verdict)
}

#[test]
fn each_end_says_its_own_with_policies_and_rule() {
    let rules = ", ingress: [{from: [{podSelector: {matchLabels: {app: a}}}], ports: [{port: 80}]}]";
    let world = world(&[pod("a", &at("10.0.0.1")), pod("b", &at("10.0.0.2")), policy("b", rules)].concat());
    let allowed = ask(&world, "n/a", "n/b", "80/TCP");
    assert_eq!(verdicts(&allowed), (Verdict::Allow, EndVerdict::Open, EndVerdict::Allow));
    assert_eq!(allowed.egress, EndAnswer::open());
    assert_eq!(allowed.ingress.policies, ["NetworkPolicy n/of-b"]);
    assert_eq!(allowed.ingress.rule.as_deref(), Some("NetworkPolicy n/of-b spec.ingress[0]"));

    let refused = ask(&world, "n/a", "n/b", "81/TCP");
    assert_eq!(verdicts(&refused), (Verdict::Deny, EndVerdict::Open, EndVerdict::Deny));
    assert_eq!(refused.ingress.policies, ["NetworkPolicy n/of-b"]);
    assert_eq!(refused.ingress.rule, None);
    assert_eq!(ask(&world, "n/b", "n/a", "80/TCP").egress.verdict, EndVerdict::Deny);
    assert_eq!(ask(&world, "10.0.0.1", "10.0.0.2", "80/TCP"), allowed, "pods are known by their addresses");
    assert_eq!(ask(&world, "n/a", "n/b", "ICMP").verdict, Verdict::Deny);
}

#[test]
fn a_pod_reaches_itself_whatever_policy_says() {
    let world = world(&[pod("a", &at("10.0.0.1")), pod("b", &at("10.0.0.2")), policy("a", "")].concat());
    let answer = ask(&world, "n/a", "n/a", "80/TCP");
    assert_eq!(verdicts(&answer), (Verdict::Allow, EndVerdict::Allow, EndVerdict::Allow));
    let open = ask(&world, "n/b", "n/b", "80/TCP");
    assert_eq!(verdicts(&open), (Verdict::Allow, EndVerdict::Open, EndVerdict::Open));
}

#[test]
fn a_pod_without_an_address_is_judged_as_if_it_had_one() {
    let declared = |name| pod(name, "spec: {containers: []}");
    let rules = ", ingress: [{from: [{podSelector: {matchLabels: {app: a}}}]}]";
    let world = world(&[declared("a"), declared("b"), declared("c"), policy("b", rules)].concat());
    for service in ["80/TCP", "ICMP", "ICMPv6"] {
        assert_eq!(ask(&world, "n/a", "n/b", service).verdict, Verdict::Allow);
        assert_eq!(ask(&world, "n/c", "n/b", service).verdict, Verdict::Deny);
    }
    assert_eq!(world.notices().len(), 3, "{:?}", world.notices());
}

#[test]
fn a_running_pod_owns_the_address_a_finished_one_had() {
    let done = pod("a", "spec: {containers: []}, status: {phase: Succeeded, podIP: 10.0.0.1}");
    let rules = ", ingress: [{from: [{podSelector: {matchLabels: {app: a}}}]}]";
    let text = [done, pod("c", &at("10.0.0.1")), pod("b", &at("10.0.0.2")), policy("b", rules)].concat();
    let world = world(&text);
    assert_eq!(ask(&world, "10.0.0.1", "n/b", "80/TCP").verdict, Verdict::Deny);
    assert_eq!(ask(&world, "n/a", "n/b", "80/TCP").verdict, Verdict::Deny, "its name is its old address");
    assert_eq!(world.pods(), ["n/b", "n/c"]);
}

#[test]
fn of_two_pods_that_claim_an_address_one_has_it_and_the_other_is_judged_by_its_own_labels() {
    let rules = ", ingress: [{from: [{podSelector: {matchLabels: {app: a}}}]}]";
    let text =
        [pod("a", &at("10.0.0.1")), pod("c", &at("10.0.0.1")), pod("b", &at("10.0.0.2")), policy("b", rules)]
            .concat();
    let world = world(&text);
    assert_eq!(ask(&world, "n/a", "n/b", "80/TCP").verdict, Verdict::Allow);
    assert_eq!(ask(&world, "n/c", "n/b", "80/TCP").verdict, Verdict::Deny);
    assert_eq!(ask(&world, "10.0.0.1", "n/b", "80/TCP").verdict, Verdict::Allow);
}

#[test]
fn only_its_own_node_may_always_reach_a_pod() {
    let host = |name: &str, node: &str, address: &str| {
        let rest = format!(
            "spec: {{nodeName: {node}, hostNetwork: true, containers: []}}, status: {{phase: Running, podIP: {address}}}"
        );
        pod(name, &rest)
    };
    let on_one = "spec: {nodeName: one, containers: []}, status: {phase: Running, podIP: 10.0.0.2}";
    let text = [
        host("h1", "one", "192.168.0.1"),
        host("h2", "two", "192.168.0.2"),
        pod("b", on_one),
        policy("b", ""),
    ]
    .concat();
    let world = world(&text);
    for own in ["n/h1", "192.168.0.1"] {
        let answer = ask(&world, own, "n/b", "80/TCP");
        assert_eq!(verdicts(&answer), (Verdict::Allow, EndVerdict::Open, EndVerdict::Allow));
        assert_eq!(answer.ingress.rule.as_deref(), Some("builtin own-node"));
    }
    assert_eq!(ask(&world, "n/h2", "n/b", "80/TCP").verdict, Verdict::Deny);
    assert_eq!(
        ask(&world, "n/b", "n/h1", "80/TCP").verdict,
        Verdict::Deny,
        "its node is judged like any peer"
    );
}

#[test]
fn a_dual_stack_question_is_asked_in_a_family_both_have() {
    let both = |name: &str, n: u8| {
        let rest = format!(
            "spec: {{containers: []}}, status: {{phase: Running, podIPs: [{{ip: 10.0.0.{n}}}, {{ip: 'fd00::{n}'}}]}}"
        );
        pod(name, &rest)
    };
    let world = world(&[both("a", 1), both("b", 2), pod("six", &at("fd00::3"))].concat());
    let service: Service = "80/TCP".parse().unwrap();
    assert!(world.flow("n/a", "n/b", service).unwrap().from.address.is_ipv4());
    assert!(world.flow("n/a", "n/b", "ICMPv6".parse().unwrap()).unwrap().from.address.is_ipv6());
    assert!(world.flow("n/a", "n/six", service).unwrap().from.address.is_ipv6());
    assert!(world.flow("2001:db8::1", "n/b", service).unwrap().to.address.is_ipv6());
    assert!(matches!(world.flow("192.0.2.1", "n/six", service), Err(EndError::Families { .. })));
    assert!(matches!(world.flow("n/none", "n/six", service), Err(EndError::NoSuchPod { .. })));
    assert!(matches!(world.flow("none", "n/six", service), Err(EndError::Neither { .. })));
}
