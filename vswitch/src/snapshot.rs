//! Everything a worker must know to judge and forward, at one moment: immutable, shared by all workers, replaced whole.
//!
//! The server builds one for each change (policy, ports, host addresses) and publishes it to every worker's mailbox; a worker
//! takes it up between two batches and sends the old one back to be freed where time does not matter. A flow remembers the
//! *revisions* of both its ends and of forwarding under which it was judged: a newer one makes it a question again.

use crate::comparison::Comparison;
use ahash::RandomState;
use ipnet::IpNet;
use penstock_api::artefact::PodKey;
use penstock_api::{Artefact, EndpointId, Generation, IdentityId, PortId, ProgramId};
use penstock_lookup::{Class, Policy};
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

/// One consistent view of the node. Ports are found by [`PortId`], addresses by hash.
#[derive(Debug)]
pub struct Snapshot {
    /// Grows with every publication; what workers acknowledge.
    pub serial: u64,
    pub policy: Arc<Policy>,
    /// Index: [`PortId`]. `PortId::HOST` is always there.
    pub ports: Vec<Option<Port>>,
    /// Addresses of endpoints of this node.
    pub addresses: HashMap<IpAddr, LocalAddress, RandomState>,
    /// The node's own addresses: whoever has one as a source is the host.
    pub host_addresses: Vec<IpAddr>,
    /// How each of them is met, in their order.
    host_classes: Vec<Class>,
    /// Where this node's pods have their addresses. What lies in here and in no port's hands is unreachable.
    pub pod_ranges: Vec<IpNet>,
    /// Grows when addresses move between ports.
    pub forwarding: u32,
    /// The last revision given to a port.
    last_revision: u32,
}

/// Who has an address of this node, and as which class it is met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LocalAddress {
    pub port: PortId,
    pub class: Class,
}

/// What a port leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PortKind {
    /// The node itself, and everything behind its routing.
    Host,
    /// A pod's interface behind the trunks.
    Pod,
    /// An interface with an AF_XDP socket of its own, on which one endpoint sits.
    Direct,
}

/// A port as workers see it.
#[derive(Debug, Clone)]
pub struct Port {
    pub id: PortId,
    pub kind: PortKind,
    pub endpoint: EndpointId,
    pub pod: Option<PodKey>,
    /// Of the far side: what frames to it are addressed to, and what frames from it must come from.
    pub mac: [u8; 6],
    /// What it may send from. Empty for the host.
    pub addresses: Vec<IpAddr>,
    /// The same as keys' words.
    pub sources: Vec<[u64; 2]>,
    /// How each of them is met, in their order.
    classes: Vec<Class>,
    pub mtu: u16,
    /// False: policy for it is not known yet, and both programs deny everything.
    pub ready: bool,
    pub ingress: ProgramId,
    pub egress: ProgramId,
    /// Another number whenever an answer of this endpoint's policy may have changed, and no other port's or endpoint's: a flow that
    /// names the revisions of both its ends names the ends too.
    pub revision: u32,
    /// For [`PortKind::Direct`]: index of the device among the switch's direct devices, each owned by one worker.
    pub device: u16,
}

/// A port as the server records it, before policy is known.
#[derive(Debug, Clone)]
pub struct PortRecord {
    pub id: PortId,
    pub kind: PortKind,
    pub endpoint: EndpointId,
    pub pod: Option<PodKey>,
    pub mac: [u8; 6],
    pub addresses: Vec<IpAddr>,
    pub mtu: u16,
    pub device: u16,
}

/// What a snapshot is made of.
#[derive(Debug, Clone)]
pub struct Parts {
    pub policy: Arc<Policy>,
    pub ports: Vec<PortRecord>,
    pub host_addresses: Vec<IpAddr>,
    pub pod_ranges: Vec<IpNet>,
}

impl Snapshot {
    /// Builds the successor of `previous`. Revisions are kept only where nothing that decides can have changed: the same
    /// endpoint, and programs that answer the same about every address.
    pub fn build(previous: Option<&Snapshot>, parts: Parts) -> Snapshot {
        let Parts { policy, ports: records, host_addresses, pod_ranges } = parts;
        let len = records.iter().map(|r| r.id.index() + 1).max().unwrap_or(0).max(1);
        let mut ports: Vec<Option<Port>> = vec![None; len];
        let mut addresses = HashMap::with_hasher(RandomState::new());
        let mut last_revision = previous.map_or(0, |old| old.last_revision);
        let mut next_revision = || {
            // 0 is what nothing was judged under.
            last_revision = last_revision.wrapping_add(1).max(1);
            last_revision
        };
        let comparison = previous
            .filter(|old| old.host_addresses == host_addresses)
            .map(|old| Comparison::new(old.policy.artefact(), policy.artefact()));
        for record in records {
            let known = match (record.kind, &record.pod) {
                (PortKind::Host, _) => None,
                (_, Some(pod)) => policy.pod(pod, &record.addresses),
                (_, None) => None,
            };
            let isolated = policy.isolated();
            let (ingress, egress) = match &known {
                Some(pod) => (pod.ingress, pod.egress),
                None => (isolated, isolated),
            };
            for &address in &record.addresses {
                let identity = match &known {
                    Some(_) => policy.identity_of(address),
                    None => IdentityId::UNKNOWN,
                };
                let class = policy.class_of(identity);
                addresses.insert(address, LocalAddress { port: record.id, class });
            }
            let ready = known.is_some() || record.kind == PortKind::Host;
            let old_port =
                previous.and_then(|old| old.port(record.id)).filter(|old| old.endpoint == record.endpoint);
            let revision = match (old_port, previous) {
                (Some(old_port), Some(old)) => {
                    let is_same = |old_id, new_id| {
                        comparison.as_ref().is_some_and(|comparison| {
                            same_program(comparison, &old.policy, old_id, &policy, new_id)
                        })
                    };
                    let unchanged = old_port.ready == ready
                        && is_same(old_port.ingress, ingress)
                        && is_same(old_port.egress, egress);
                    if unchanged { old_port.revision } else { next_revision() }
                }
                _ => next_revision(),
            };
            let id = record.id;
            ports[id.index()] = Some(Port {
                id,
                kind: record.kind,
                endpoint: record.endpoint,
                pod: record.pod,
                mac: record.mac,
                sources: record
                    .addresses
                    .iter()
                    .map(|&address| crate::packet::key::halves(&crate::packet::key::mapped(address)))
                    .collect(),
                addresses: record.addresses,
                classes: Vec::new(),
                mtu: record.mtu,
                ready,
                ingress,
                egress,
                revision,
                device: record.device,
            });
        }
        let forwarding = previous.map_or(1, |old| {
            let same = old.addresses.len() == addresses.len()
                && addresses.iter().all(|(a, l)| old.addresses.get(a).is_some_and(|o| o.port == l.port))
                && old.pod_ranges == pod_ranges
                && old.host_addresses == host_addresses;
            if same { old.forwarding } else { old.forwarding.wrapping_add(1) }
        });
        let serial = previous.map_or(1, |old| old.serial + 1);
        let host_classes = host_addresses.iter().map(|address| host_class(&policy, *address)).collect();
        let mut snapshot = Snapshot {
            serial,
            policy,
            ports,
            addresses,
            host_addresses,
            host_classes,
            pod_ranges,
            forwarding,
            last_revision,
        };
        for id in 0..snapshot.ports.len() {
            let addresses = snapshot.ports[id].as_ref().map_or(&[][..], |port| &port.addresses);
            let classes = addresses.iter().map(|address| snapshot.class_of(*address)).collect();
            if let Some(port) = &mut snapshot.ports[id] {
                port.classes = classes;
            }
        }
        snapshot
    }

    /// Goes on counting where an earlier process of this instance stopped: `revision_of` says the last revision of a port's policy
    /// that the kernel was told, if it was this endpoint's. For a first snapshot, before anybody has it.
    pub fn resume(&mut self, revision_of: impl Fn(PortId, EndpointId) -> Option<u32>) {
        for port in self.ports.iter_mut().flatten() {
            if let Some(revision) = revision_of(port.id, port.endpoint) {
                port.revision = revision.max(1);
            }
        }
    }

    /// Knows nobody and forwards nothing: what a worker has before its first real one.
    pub fn empty() -> Snapshot {
        let policy = Policy::build(Artefact::empty()).expect("the empty artefact is valid");
        let parts = Parts {
            policy: Arc::new(policy),
            ports: Vec::new(),
            host_addresses: Vec::new(),
            pod_ranges: Vec::new(),
        };
        Snapshot { serial: 0, ..Snapshot::build(None, parts) }
    }

    pub fn generation(&self) -> Generation {
        self.policy.generation()
    }

    #[inline]
    pub fn port(&self, id: PortId) -> Option<&Port> {
        self.ports.get(id.index())?.as_ref()
    }

    /// The port on a direct device.
    pub fn direct_port(&self, device: u16) -> Option<PortId> {
        let is_it = |port: &&Port| port.kind == PortKind::Direct && port.device == device;
        self.ports.iter().flatten().find(is_it).map(|port| port.id)
    }

    pub fn port_of(&self, address: IpAddr) -> Option<&Port> {
        self.port(self.addresses.get(&address)?.port)
    }

    /// The class of an address: the local endpoint's, the host's, or what the artefact's prefixes say.
    pub fn class_of(&self, address: IpAddr) -> Class {
        if let Some(local) = self.addresses.get(&address) {
            return local.class;
        }
        match self.host_addresses.iter().position(|host| *host == address) {
            Some(host) => self.host_classes[host],
            None => self.policy.classify(address).class,
        }
    }

    /// [`Snapshot::class_of`] the address of an end that is at this port, in the words of a key: most ends have few addresses and
    /// are found among them.
    #[inline]
    pub fn class_at(&self, port: &Port, address: [u64; 2], family: u8) -> Class {
        let found = port.sources.iter().position(|own| (own[0] ^ address[0]) | (own[1] ^ address[1]) == 0);
        match found.and_then(|at| port.classes.get(at).zip(port.addresses.get(at))) {
            Some((class, own)) if own.is_ipv4() == (family == 4) => *class,
            _ => self.class_of(crate::packet::key::address(address, family)),
        }
    }

    pub fn is_pod_address(&self, address: IpAddr) -> bool {
        self.pod_ranges.iter().any(|range| range.contains(&address))
    }
}

/// How the node is met under one of its addresses. Policy may tell them apart (an ipBlock covers one and not the other), and
/// says so in an entry of just that address. Without one it knew nothing of the address, or took it for somebody else's:
/// then it is the host and no more.
fn host_class(policy: &Policy, address: IpAddr) -> Class {
    let artefact = policy.artefact();
    let is_host = |id: IdentityId| {
        let labels = artefact.identities.iter().find(|identity| identity.id == id).map(|found| &found.labels);
        labels.is_some_and(|labels| labels.iter().any(|label| label == "reserved:host"))
    };
    let own = artefact.prefixes.iter().find(|entry| entry.prefix == IpNet::from(address));
    let identity = own.map(|entry| entry.identity).filter(|id| is_host(*id)).unwrap_or(IdentityId::HOST);
    policy.class_of(identity)
}

fn same_program(
    comparison: &Comparison,
    old: &Policy,
    old_id: ProgramId,
    new: &Policy,
    new_id: ProgramId,
) -> bool {
    if old_id == old.isolated() || new_id == new.isolated() {
        return old_id == old.isolated() && new_id == new.isolated();
    }
    let (old, new) = (old.artefact(), new.artefact());
    match (old.programs.get(old_id.index()), new.programs.get(new_id.index())) {
        (Some(one), Some(other)) => comparison.is_same(old, one, new, other),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use penstock_api::artefact::{Entry, Identity, Peers, PodPolicy, PrefixIdentity, Program, Service, tier};
    use penstock_api::{Action, RuleId};

    fn artefact(generation: u64, knows_the_pod: bool) -> Arc<Policy> {
        let mut artefact = Artefact { generation: Generation(generation), ..Artefact::empty() };
        artefact.programs.push(Program::default());
        if knows_the_pod {
            artefact.pods.push(PodPolicy {
                pod: PodKey::new("ns", "pod"),
                addresses: vec!["10.0.0.2".parse().unwrap()],
                identity: IdentityId::FIRST_COMPILED,
                other_identities: vec![],
                ingress: ProgramId(0),
                egress: ProgramId(0),
            });
        }
        Arc::new(Policy::build(artefact).unwrap())
    }

    fn parts(policy: Arc<Policy>) -> Parts {
        let port = PortRecord {
            id: PortId(1),
            kind: PortKind::Pod,
            endpoint: EndpointId(1),
            pod: Some(PodKey::new("ns", "pod")),
            mac: [2, 0, 0, 0, 0, 1],
            addresses: vec!["10.0.0.2".parse().unwrap()],
            mtu: 1500,
            device: 0,
        };
        Parts {
            policy,
            ports: vec![port],
            host_addresses: vec![],
            pod_ranges: vec!["10.0.0.0/24".parse().unwrap()],
        }
    }

    #[test]
    fn a_revision_never_comes_back_when_a_pod_is_forgotten_and_known_again() {
        let mut revisions = Vec::new();
        let mut last: Option<Snapshot> = None;
        for (generation, known) in [(1, true), (2, false), (3, true), (4, false), (5, true)] {
            let next = Snapshot::build(last.as_ref(), parts(artefact(generation, known)));
            let port = next.port(PortId(1)).unwrap();
            assert_eq!(port.ready, known);
            assert!(!revisions.contains(&port.revision), "{} came back: {revisions:?}", port.revision);
            revisions.push(port.revision);
            last = Some(next);
        }
    }

    #[test]
    fn the_host_is_met_as_policy_knows_its_address_and_at_large_where_it_does_not() {
        use penstock_api::artefact::{Action, Entry, Identity, Peers, PrefixIdentity, Service, tier};
        let address: IpAddr = "192.0.2.7".parse().unwrap();
        for (label, wanted) in [("reserved:host", IdentityId(300)), ("k8s:app=web", IdentityId::HOST)] {
            let mut artefact = Artefact { generation: Generation(1), ..Artefact::empty() };
            artefact.identities.push(Identity { id: IdentityId(300), labels: vec![label.to_owned()] });
            artefact.prefixes.push(PrefixIdentity { prefix: address.into(), identity: IdentityId(300) });
            artefact.policies.push(penstock_api::artefact::PolicyInfo {
                kind: "NetworkPolicy".to_owned(),
                namespace: "ns".to_owned(),
                name: "p".to_owned(),
            });
            artefact.rules.push(penstock_api::artefact::RuleInfo {
                policy: penstock_api::PolicyId(0),
                path: "spec.ingress[0]".to_owned(),
            });
            artefact.programs.push(Program {
                isolated: true,
                selected_by: vec![],
                entries: vec![Entry {
                    tier: tier::NORMAL,
                    priority: 0,
                    action: Action::Allow,
                    peers: Peers::Identities(vec![IdentityId::HOST, IdentityId(300)]),
                    service: Service::Any,
                    established_only: false,
                    rule: penstock_api::RuleId(0),
                }],
            });
            let policy = Arc::new(Policy::build(artefact).unwrap());
            let parts = Parts { host_addresses: vec![address], ..parts(policy.clone()) };
            let snapshot = Snapshot::build(None, parts);
            assert_eq!(snapshot.class_of(address), policy.class_of(wanted), "{label}");
        }
    }

    #[test]
    fn a_generation_that_changes_nothing_leaves_the_revision_alone() {
        let first = Snapshot::build(None, parts(artefact(1, true)));
        let second = Snapshot::build(Some(&first), parts(artefact(2, true)));
        assert_eq!(first.port(PortId(1)).unwrap().revision, second.port(PortId(1)).unwrap().revision);
    }

    #[test]
    fn the_node_is_met_as_what_policy_says_of_each_of_its_addresses() {
        let [plain, covered, stale]: [IpAddr; 3] =
            ["192.0.2.1", "192.0.2.2", "192.0.2.3"].map(|address| address.parse().unwrap());
        let (of_block, of_pod) = (IdentityId(300), IdentityId(301));
        let named = [IdentityId::HOST, of_block, of_pod].map(|id| Entry {
            tier: tier::NORMAL,
            priority: 0,
            action: Action::Allow,
            peers: Peers::Identities(vec![id]),
            service: Service::Any,
            established_only: false,
            rule: RuleId(0),
        });
        let identity = |id, label: &str| Identity { id, labels: vec![label.to_owned()] };
        let mut artefact = Artefact {
            policies: vec![penstock_api::artefact::PolicyInfo {
                kind: String::new(),
                namespace: String::new(),
                name: String::new(),
            }],
            rules: vec![penstock_api::artefact::RuleInfo {
                policy: penstock_api::PolicyId(0),
                path: String::new(),
            }],
            programs: vec![Program { isolated: true, selected_by: vec![], entries: named.into() }],
            identities: vec![
                identity(IdentityId::HOST, "reserved:host"),
                identity(of_block, "reserved:host"),
                identity(of_pod, "k8s:app=web"),
            ],
            ..Artefact::empty()
        };
        for (address, identity) in [(plain, IdentityId::HOST), (covered, of_block), (stale, of_pod)] {
            artefact.prefixes.push(PrefixIdentity { prefix: address.into(), identity });
        }
        let policy = Arc::new(Policy::build(artefact).unwrap());
        let unknown: IpAddr = "192.0.2.4".parse().unwrap();
        let parts = Parts {
            policy: Arc::clone(&policy),
            ports: vec![],
            host_addresses: vec![plain, covered, stale, unknown],
            pod_ranges: vec![],
        };
        let snapshot = Snapshot::build(None, parts);
        let host = policy.class_of(IdentityId::HOST);
        assert_eq!(snapshot.class_of(plain), host);
        assert_eq!(snapshot.class_of(covered), policy.class_of(of_block));
        assert_eq!(snapshot.class_of(stale), host, "it was a pod's before it was ours");
        assert_eq!(snapshot.class_of(unknown), host);
    }
}
