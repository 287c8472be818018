//! Nodes, Services and EndpointSlices as the API server prints them, and what is refused about them.

use penstock_control::load::{FileReport, load_text};
use penstock_control::objects::{
    EndpointSlice, Node, Object, Protocol, Service, ServiceType, SliceEndpoint, TargetPort,
};
use std::net::IpAddr;
use std::path::Path;

fn load(text: &str) -> FileReport {
    load_text(Path::new("objects.yaml"), text)
}

#[track_caller]
fn good(text: &str) -> Object {
    let report = load(text);
    assert_eq!(report.errors, [], "{text}");
    report.objects.into_iter().next().unwrap().object
}

#[track_caller]
fn refused(text: &str, field: &str, words: &str) {
    let report = load(text);
    assert!(report.objects.is_empty(), "accepted:\n{text}");
    let found = report.errors.iter().any(|e| e.field.as_deref() == Some(field) && e.message.contains(words));
    assert!(found, "no error at {field:?} saying {words:?}:\n{:#?}\n{text}", report.errors);
}

fn addresses(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

const NODE: &str = "apiVersion: v1
kind: Node
metadata:
  annotations:
    node.alpha.kubernetes.io/ttl: \"0\"
    volumes.kubernetes.io/controller-managed-attach-detach: \"true\"
  creationTimestamp: \"2026-01-01T00:00:00Z\"
  labels:
    kubernetes.io/hostname: n1
    node-role.kubernetes.io/control-plane: \"\"
  name: n1
  resourceVersion: \"512\"
  uid: 6d2f0d43-0000-4000-8000-000000000000
spec:
  podCIDR: 10.244.1.0/24
  podCIDRs:
  - 10.244.1.0/24
  - fd00:1::/64
  taints:
  - effect: NoSchedule
    key: node-role.kubernetes.io/control-plane
status:
  addresses:
  - address: 172.30.0.11
    type: InternalIP
  - address: fd00::11
    type: InternalIP
  - address: n1
    type: Hostname
  allocatable:
    cpu: \"2\"
    memory: 4Gi
  capacity:
    cpu: \"2\"
  conditions:
  - lastHeartbeatTime: \"2026-01-01T00:00:00Z\"
    message: kubelet is posting ready status
    reason: KubeletReady
    status: \"True\"
    type: Ready
  daemonEndpoints:
    kubeletEndpoint:
      Port: 10250
  features:
    supplementalGroupsPolicy: true
  images:
  - names:
    - registry.k8s.io/pause:3.10
    sizeBytes: 320448
  nodeInfo:
    architecture: amd64
    swap:
      capacity: 0
  runtimeHandlers:
  - features:
      recursiveReadOnlyMounts: true
    name: \"\"
";

#[test]
fn a_node_is_its_labels_and_addresses() {
    let Object::Node(node) = good(NODE) else { panic!() };
    let wanted = Node {
        name: "n1".to_owned(),
        labels: node.labels.clone(),
        addresses: addresses(&["172.30.0.11", "fd00::11"]),
        pod_cidrs: vec!["10.244.1.0/24".parse().unwrap(), "fd00:1::/64".parse().unwrap()],
    };
    assert_eq!(node, wanted);
    assert_eq!(node.labels["node-role.kubernetes.io/control-plane"], "");
    for (from, to, field, words) in [
        ("address: 172.30.0.11", "address: 172.30.0", "status.addresses[0].address", "no IP address"),
        ("podCIDR: 10", "podCIDRr: 10", "spec.podCIDRr", "unknown field"),
        ("  - fd00:1::/64", "  - fd00:1::/129", "spec.podCIDRs[1]", "CIDR"),
        ("  name: n1\n", "  name: n1\n  namespace: a\n", "metadata.namespace", "no namespace"),
        ("    type: InternalIP\n  - address: n1", "  - address: n1", "status.addresses[1].type", "missing"),
    ] {
        refused(&NODE.replace(from, to), field, words);
    }
    assert!(matches!(good("apiVersion: v1\nkind: Node\nmetadata: {name: n}\n"), Object::Node(_)));
}

const SERVICE: &str = "apiVersion: v1
kind: Service
metadata:
  labels:
    app: web
  name: web
  namespace: shop
spec:
  allocateLoadBalancerNodePorts: true
  clusterIP: 10.96.0.7
  clusterIPs:
  - 10.96.0.7
  externalTrafficPolicy: Cluster
  internalTrafficPolicy: Cluster
  ipFamilies:
  - IPv4
  ipFamilyPolicy: SingleStack
  ports:
  - name: http
    nodePort: 30080
    port: 80
    protocol: TCP
    targetPort: web-port
  - name: dns
    port: 53
    protocol: UDP
    targetPort: 5353
  - port: 443
  selector:
    app: web
  sessionAffinity: None
  type: LoadBalancer
status:
  loadBalancer:
    ingress:
    - ip: 192.0.2.9
      ipMode: VIP
    - hostname: lb.example
";

#[test]
fn a_service_is_its_selector_addresses_and_ports() {
    let Object::Service(service) = good(SERVICE) else { panic!() };
    assert_eq!(
        (service.namespace.as_str(), service.name.as_str(), service.service_type),
        ("shop", "web", ServiceType::LoadBalancer)
    );
    assert_eq!(service.cluster_ips, addresses(&["10.96.0.7"]));
    assert_eq!(service.load_balancer_ips, addresses(&["192.0.2.9"]));
    assert_eq!(service.selector["app"], "web");
    let ports: Vec<_> =
        service.ports.iter().map(|p| (p.port, p.protocol, p.target.clone(), p.node_port)).collect();
    assert_eq!(
        ports,
        [
            (80, Protocol::Tcp, TargetPort::Name("web-port".to_owned()), Some(30080)),
            (53, Protocol::Udp, TargetPort::Number(5353), None),
            (443, Protocol::Tcp, TargetPort::Number(443), None),
        ]
    );
    for (from, to, field, words) in [
        ("  selector:", "  selectr:", "spec.selectr", "did you mean selector?"),
        ("    app: web\n  sessionAffinity", "    app: 1\n  sessionAffinity", "spec.selector.app", "quotes"),
        ("port: 80\n", "port: 0\n", "spec.ports[0].port", "1 to 65535"),
        ("port: 80\n    protocol: TCP", "port: 80\n    protocol: tcp", "spec.ports[0].protocol", "SCTP"),
        ("targetPort: 5353", "targetPort: '5353'", "spec.ports[1].targetPort", "without quotes"),
        ("clusterIP: 10.96.0.7", "clusterIP: 10.96.0", "spec.clusterIP", "no IP address"),
        ("type: LoadBalancer", "type: Loadbalancer", "spec.type", "NodePort"),
        ("  - port: 443\n", "  - name: x\n", "spec.ports[2].port", "missing"),
    ] {
        refused(&SERVICE.replace(from, to), field, words);
    }
}

#[test]
fn services_without_addresses_or_selectors_are_what_they_are() {
    let service = |spec: &str| -> Service {
        match good(&format!("apiVersion: v1\nkind: Service\nmetadata: {{name: s}}\nspec: {spec}\n")) {
            Object::Service(service) => service,
            other => panic!("{other:?}"),
        }
    };
    let headless = service("{clusterIP: None, clusterIPs: [None], ports: [{port: 80}]}");
    assert!(headless.cluster_ips.is_empty() && headless.selector.is_empty());
    assert_eq!(headless.namespace, "default");
    let external = service("{type: ExternalName, externalName: a.example}");
    assert_eq!(external.service_type, ServiceType::ExternalName);
}

const SLICE: &str = "addressType: IPv4
apiVersion: discovery.k8s.io/v1
endpoints:
- addresses:
  - 10.244.1.5
  conditions:
    ready: false
    serving: true
    terminating: true
  nodeName: n1
  targetRef:
    kind: Pod
    name: web-0
    namespace: shop
    uid: 00000000-0000-4000-8000-000000000000
- addresses:
  - 10.244.1.6
  conditions: {}
kind: EndpointSlice
metadata:
  generateName: web-
  labels:
    endpointslice.kubernetes.io/managed-by: endpointslice-controller.k8s.io
    kubernetes.io/service-name: web
  name: web-x7k2p
  namespace: shop
  ownerReferences:
  - apiVersion: v1
    blockOwnerDeletion: true
    controller: true
    kind: Service
    name: web
    uid: 00000000-0000-4000-8000-000000000001
ports:
- name: http
  port: 8080
  protocol: TCP
- name: \"\"
";

#[test]
fn a_slice_is_the_endpoints_of_its_service() {
    let Object::EndpointSlice(slice) = good(SLICE) else { panic!() };
    assert_eq!(slice.service.as_deref(), Some("web"));
    let endpoint = |address: &str, ready, terminating, node: Option<&str>, pod| SliceEndpoint {
        addresses: addresses(&[address]),
        ready,
        serving: true,
        terminating,
        node_name: node.map(str::to_owned),
        pod,
    };
    assert_eq!(
        slice.endpoints,
        [
            endpoint("10.244.1.5", false, true, Some("n1"), Some(("shop".to_owned(), "web-0".to_owned()))),
            endpoint("10.244.1.6", true, false, None, None),
        ]
    );
    assert_eq!((slice.ports[0].port, slice.ports[1].port, &slice.ports[1].name), (Some(8080), None, &None));
    for (from, to, field, words) in [
        ("addressType: IPv4\n", "", "addressType", "missing"),
        ("addressType: IPv4", "addressType: ipv4", "addressType", "FQDN"),
        ("addressType: IPv4", "addressType: IPv6", "endpoints[0].addresses[0]", "addressType"),
        ("  - 10.244.1.6", "  - web-1", "endpoints[1].addresses[0]", "no IP address"),
        ("    ready: false", "    reddy: false", "endpoints[0].conditions.reddy", "did you mean ready?"),
        ("  port: 8080", "  port: '8080'", "ports[0].port", "port number"),
        ("endpoints:", "endpoint:", "endpoint", "did you mean endpoints?"),
    ] {
        refused(&SLICE.replace(from, to), field, words);
    }
    let names = SLICE.replace("IPv4", "FQDN").replace("10.244.1.5", "a.example");
    assert!(
        matches!(good(&names), Object::EndpointSlice(EndpointSlice { endpoints, .. }) if endpoints.is_empty())
    );
}

#[test]
fn lists_and_json_hold_them_too() {
    let report = load_text(
        Path::new("all.json"),
        r#"{"apiVersion":"v1","kind":"NodeList","metadata":{},"items":[{"metadata":{"name":"n"}}]}
           {"apiVersion":"v1","kind":"ServiceList","items":[{"metadata":{"name":"s"},"spec":{"ports":[{"port":1}]}}]}
           {"apiVersion":"discovery.k8s.io/v1","kind":"EndpointSliceList","items":[
             {"metadata":{"name":"e"},"addressType":"IPv6","endpoints":null,"ports":null}]}"#,
    );
    assert_eq!(report.errors, []);
    let kinds: Vec<&str> = report.objects.iter().map(|l| l.object.key().kind.name()).collect();
    assert_eq!(kinds, ["Node", "Service", "EndpointSlice"]);
}
