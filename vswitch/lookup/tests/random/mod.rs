//! Random artefacts, small in every range so that things collide, and questions that aim at their boundaries.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use penstock_api::Action;
use penstock_api::artefact::{
    AddressIdentity, Artefact, Entry, Peers, PodKey, PodPolicy, PolicyInfo, PrefixIdentity, Program,
    RuleInfo, Service, protocol,
};
use penstock_api::ids::{Generation, IdentityId, PolicyId, ProgramId, RuleId};
use penstock_api::reference::Question;
use rand::rngs::StdRng;
use rand::seq::{IndexedMutRandom, IndexedRandom};
use rand::{Rng, RngExt};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Upper limits.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) programs: u32,
    pub(crate) entries: usize,
    pub(crate) identities: u32,
    pub(crate) prefixes: usize,
    pub(crate) pods: usize,
}

impl Shape {
    /// Little of everything: entries meet each other, sets are scanned.
    pub(crate) const SMALL: Shape = Shape { programs: 4, entries: 10, identities: 5, prefixes: 10, pods: 6 };
    /// Sets and prefix tables large enough to be indexed, on several levels.
    pub(crate) const LARGE: Shape =
        Shape { programs: 2, entries: 400, identities: 8, prefixes: 600, pods: 50 };
}

const PROTOCOLS: [u8; 8] =
    [protocol::TCP, protocol::UDP, protocol::SCTP, protocol::ICMP, protocol::ICMPV6, 0, 47, 255];

pub(crate) fn artefact(rng: &mut StdRng, shape: Shape) -> Artefact {
    let rules = 20;
    let programs: Vec<Program> =
        (0..rng.random_range(1..=shape.programs)).map(|_| program(rng, shape, rules)).collect();
    let count = programs.len() as u32;
    let mut prefixes: Vec<PrefixIdentity> = (0..rng.random_range(0..=shape.prefixes))
        .map(|_| PrefixIdentity { prefix: prefix(rng), identity: identity(rng, shape) })
        .collect();
    for default in ["0.0.0.0/0", "::/0"] {
        let at = rng.random_range(0..=prefixes.len());
        prefixes
            .insert(at, PrefixIdentity { prefix: default.parse().unwrap(), identity: identity(rng, shape) });
    }
    let mut pods: Vec<PodPolicy> = Vec::new();
    for _ in 0..rng.random_range(0..=shape.pods) {
        let pod = pod_key(rng);
        if pods.iter().all(|other| other.pod != pod) {
            let addresses: Vec<IpAddr> = (0..rng.random_range(0..4)).map(|_| address(rng)).collect();
            let mut other_identities: Vec<AddressIdentity> = addresses
                .iter()
                .map(|address| AddressIdentity { address: *address, identity: identity(rng, shape) })
                .collect();
            other_identities.retain(|_| rng.random_ratio(1, 4));
            pods.push(PodPolicy {
                pod,
                addresses,
                other_identities,
                identity: identity(rng, shape),
                ingress: ProgramId(rng.random_range(0..count)),
                egress: ProgramId(rng.random_range(0..count)),
            });
        }
    }
    Artefact {
        generation: Generation(rng.random()),
        policies: vec![PolicyInfo {
            kind: "NetworkPolicy".into(),
            namespace: "default".into(),
            name: "a".into(),
        }],
        rules: (0..rules)
            .map(|i| RuleInfo { policy: PolicyId(0), path: format!("spec.ingress[{i}]") })
            .collect(),
        prefixes,
        programs,
        pods,
        ..Artefact::empty()
    }
}

/// Changes one thing to something that may or may not be valid.
pub(crate) fn damage(rng: &mut StdRng, artefact: &mut Artefact) {
    let number = |rng: &mut StdRng| *[0u32, 1, 19, 20, u32::MAX].choose(rng).unwrap();
    let program = rng.random_range(0..artefact.programs.len());
    let entry = artefact.programs[program].entries.choose_mut(rng);
    match (rng.random_range(0..9), entry) {
        (0, Some(entry)) => entry.rule = RuleId(number(rng)),
        (1, Some(entry)) => {
            entry.service =
                Service::Ports { protocol: rng.random_range(0..20), first: port(rng), last: port(rng) };
        }
        (2, Some(entry)) => {
            entry.service = Service::Icmp { protocol: rng.random_range(0..3), kind: rng.random() }
        }
        (3, Some(entry)) => {
            entry.peers = Peers::Identities(vec![IdentityId(number(rng)), IdentityId(number(rng))])
        }
        (4, _) => artefact.programs[program].selected_by.push(PolicyId(number(rng))),
        (5, _) => artefact.rules.truncate(rng.random_range(0..20)),
        (6, _) => {
            let prefix = rng.random_range(0..artefact.prefixes.len());
            artefact.prefixes.remove(prefix);
        }
        (7, _) => artefact.schema = rng.random_range(0..3),
        _ => {
            if let Some(pod) = artefact.pods.choose_mut(rng) {
                pod.ingress = ProgramId(number(rng));
                pod.addresses.clear();
            }
            artefact.pods.extend_from_within(..rng.random_range(0..=artefact.pods.len().min(1)));
        }
    }
}

fn program(rng: &mut StdRng, shape: Shape, rules: u32) -> Program {
    // Some programs have no `Pass` at all, as nearly all real ones.
    let passes = rng.random_bool(0.7);
    let mut entries: Vec<Entry> =
        (0..rng.random_range(0..=shape.entries)).map(|_| entry(rng, shape, rules)).collect();
    entries.retain(|entry| passes || entry.action != Action::Pass);
    Program { isolated: rng.random(), selected_by: vec![PolicyId(0)], entries }
}

fn entry(rng: &mut StdRng, shape: Shape, rules: u32) -> Entry {
    let peers = match rng.random_range(0..4) {
        0 => Peers::Any,
        // Unsorted, repeated or empty now and then: an odd artefact must not be judged oddly.
        _ => Peers::Identities((0..rng.random_range(0..4)).map(|_| named_identity(rng, shape)).collect()),
    };
    Entry {
        tier: *[10, 100, 200, 10, 100, 200, 0, 255, rng.random()].choose(rng).unwrap(),
        priority: rng.random_range(0..3),
        action: *[
            Action::Allow,
            Action::Deny,
            Action::Reject,
            Action::Pass,
            Action::ToProxy { listener: rng.random_range(1..3) },
            Action::HoldForDns,
        ]
        .choose(rng)
        .unwrap(),
        peers,
        service: service(rng),
        established_only: rng.random_ratio(1, 6),
        rule: RuleId(rng.random_range(0..rules)),
    }
}

fn service(rng: &mut StdRng) -> Service {
    let with_ports = *[protocol::TCP, protocol::UDP, protocol::SCTP].choose(rng).unwrap();
    match rng.random_range(0..8) {
        0 => Service::Any,
        1 => Service::Protocol(*PROTOCOLS.choose(rng).unwrap()),
        2 => Service::Icmp {
            protocol: *[protocol::ICMP, protocol::ICMPV6].choose(rng).unwrap(),
            kind: *[0, 3, 8, 128, 255].choose(rng).unwrap(),
        },
        _ => {
            let (a, b) = (port(rng), port(rng));
            // Single ports as often as ranges.
            let b = if rng.random() { a } else { b };
            Service::Ports { protocol: with_ports, first: a.min(b), last: a.max(b) }
        }
    }
}

/// Ports crowd at both ends and around 80, so that ranges touch and overlap.
fn port(rng: &mut StdRng) -> u16 {
    match rng.random_range(0..4) {
        0 => rng.random_range(0..4),
        1 => u16::MAX - rng.random_range(0..4),
        2 => rng.random_range(78..84),
        _ => rng.random(),
    }
}

/// Zero is the unknown identity, and the last is one no entry names.
fn identity(rng: &mut StdRng, shape: Shape) -> IdentityId {
    IdentityId(rng.random_range(0..=shape.identities + 1))
}

fn named_identity(rng: &mut StdRng, shape: Shape) -> IdentityId {
    IdentityId(rng.random_range(1..=shape.identities))
}

/// Few distinct addresses in few places, so that prefixes nest and meet at their ends.
fn address(rng: &mut StdRng) -> IpAddr {
    let crowded = |rng: &mut StdRng| *[0u8, 0, 1, 2, 127, 128, 254, 255].choose(rng).unwrap();
    match rng.random() {
        true => {
            let head = *[0u8, 10, 10, 10, 255].choose(rng).unwrap();
            IpAddr::V4(Ipv4Addr::new(head, crowded(rng), crowded(rng), crowded(rng)))
        }
        false => {
            let mut bytes = [0u8; 16];
            bytes[0] = *[0u8, 0xfd, 0xfd, 0xff].choose(rng).unwrap();
            for at in [1, 7, 8, 10, 11, 14, 15] {
                bytes[at] = crowded(rng);
            }
            if rng.random_ratio(1, 20) {
                return IpAddr::V6(Ipv4Addr::new(10, 0, 0, crowded(rng)).to_ipv6_mapped());
            }
            IpAddr::V6(Ipv6Addr::from(bytes))
        }
    }
}

fn prefix(rng: &mut StdRng) -> IpNet {
    match address(rng) {
        // With host bits, now and then: the prefix means its network all the same.
        IpAddr::V4(address) => {
            let len = *[0, 1, 8, 9, 16, 17, 24, 31, 32, rng.random_range(0..=32)].choose(rng).unwrap();
            let net = Ipv4Net::new(address, len).unwrap();
            IpNet::V4(if rng.random() { net.trunc() } else { net })
        }
        IpAddr::V6(address) => {
            let len = *[0, 1, 8, 64, 65, 120, 127, 128, rng.random_range(0..=128)].choose(rng).unwrap();
            let net = Ipv6Net::new(address, len).unwrap();
            IpNet::V6(if rng.random() { net.trunc() } else { net })
        }
    }
}

fn pod_key(rng: &mut StdRng) -> PodKey {
    let mut pod = PodKey::new(["a", "b"][rng.random_range(0..2)], ["web", "db", "x"][rng.random_range(0..3)]);
    pod.uid = [None, Some("1"), Some("2")][rng.random_range(0..3)].map(String::from);
    pod
}

/// What is worth asking about an artefact: on each boundary and one beside it.
pub(crate) struct Aim {
    keys: Vec<(u8, u16)>,
    addresses: Vec<IpAddr>,
    identities: Vec<IdentityId>,
}

impl Aim {
    pub(crate) fn at(artefact: &Artefact) -> Aim {
        let mut keys = vec![(protocol::TCP, 0), (protocol::TCP, u16::MAX)];
        let mut identities = vec![IdentityId::UNKNOWN, IdentityId(u32::MAX)];
        for entry in artefact.programs.iter().flat_map(|program| &program.entries) {
            match entry.service {
                Service::Any => {}
                Service::Protocol(protocol) => keys.extend([(protocol, 0), (protocol, u16::MAX)]),
                Service::Ports { protocol, first, last } => {
                    for port in [first.wrapping_sub(1), first, last, last.wrapping_add(1)] {
                        keys.push((protocol, port));
                    }
                }
                Service::Icmp { protocol, kind } => {
                    // 256 more is no ICMP type: it must not be taken for this one.
                    for port in [u16::from(kind), u16::from(kind) + 1, u16::from(kind) + 256] {
                        keys.push((protocol, port));
                    }
                }
            }
            if let Peers::Identities(ids) = &entry.peers {
                identities.extend(ids);
            }
        }
        identities.extend(artefact.prefixes.iter().map(|prefix| prefix.identity));
        let mut addresses: Vec<IpAddr> = artefact.pods.iter().flat_map(|pod| pod.addresses.clone()).collect();
        for PrefixIdentity { prefix, .. } in &artefact.prefixes {
            match (prefix.network(), prefix.broadcast()) {
                (IpAddr::V4(first), IpAddr::V4(last)) => {
                    let (first, last) = (u32::from(first), u32::from(last));
                    let around = [first.wrapping_sub(1), first, last, last.wrapping_add(1)];
                    addresses.extend(around.map(|address| IpAddr::V4(address.into())));
                }
                (IpAddr::V6(first), IpAddr::V6(last)) => {
                    let (first, last) = (u128::from(first), u128::from(last));
                    let around = [first.wrapping_sub(1), first, last, last.wrapping_add(1)];
                    addresses.extend(around.map(|address| IpAddr::V6(address.into())));
                }
                _ => unreachable!("both ends of a prefix are of one family"),
            }
        }
        Aim { keys, addresses, identities }
    }

    pub(crate) fn question(&self, rng: &mut StdRng) -> Question {
        let (protocol, port) = match rng.random_range(0..4) {
            0 => (*PROTOCOLS.choose(rng).unwrap(), port(rng)),
            // The right port of the wrong protocol.
            1 => (*PROTOCOLS.choose(rng).unwrap(), self.keys.choose(rng).unwrap().1),
            _ => *self.keys.choose(rng).unwrap(),
        };
        Question { protocol, port, established: rng.random() }
    }

    pub(crate) fn address(&self, rng: &mut StdRng) -> IpAddr {
        match rng.random_range(0..4) {
            0 => address(rng),
            1 if rng.random() => IpAddr::V4(rng.next_u32().into()),
            _ => *self.addresses.choose(rng).unwrap(),
        }
    }

    pub(crate) fn identity(&self, rng: &mut StdRng) -> IdentityId {
        match rng.random_range(0..20) {
            0 => IdentityId(rng.random()),
            _ => *self.identities.choose(rng).unwrap(),
        }
    }

    pub(crate) fn pod(&self, rng: &mut StdRng) -> PodKey {
        pod_key(rng)
    }
}
