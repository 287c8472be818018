//! A policy for 10,000 pods, 1,000 policies and 10,000 rules: it builds, and asking it allocates nothing.

use penstock_api::Action;
use penstock_api::artefact::{
    Artefact, Entry, Peers, PodKey, PodPolicy, PolicyInfo, PrefixIdentity, Program, RuleInfo, Service,
    protocol, tier,
};
use penstock_api::ids::{IdentityId, PolicyId, ProgramId, RuleId};
use penstock_api::reference::Question;
use penstock_lookup::Policy;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const PODS: u32 = 10_000;
const PODS_HERE: u32 = 250;
const POLICIES: u32 = 1_000;
const RULES_PER_POLICY: u32 = 10;
const IDENTITIES: u32 = 2_000;

fn identity(index: u32) -> IdentityId {
    IdentityId(IdentityId::FIRST_COMPILED.0 + index % IDENTITIES)
}

fn address_v4(pod: u32) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + pod))
}

fn address_v6(pod: u32) -> IpAddr {
    IpAddr::V6(Ipv6Addr::from((0xfd00_u128 << 112) + u128::from(pod)))
}

/// Every policy selects some pods; every rule of it names twenty classes of peers and a range of ports.
fn cluster() -> Artefact {
    let rule = |policy: u32, rule: u32| Entry {
        tier: tier::NORMAL,
        priority: 0,
        action: Action::Allow,
        peers: Peers::Identities((0..20).map(|i| identity(policy * 31 + rule * 7 + i)).collect()),
        service: Service::Ports {
            protocol: protocol::TCP,
            first: (1_000 + policy) as u16,
            last: (1_000 + policy + rule) as u16,
        },
        established_only: rule == 0,
        rule: RuleId(policy * RULES_PER_POLICY + rule),
    };
    Artefact {
        policies: (0..POLICIES)
            .map(|i| PolicyInfo { kind: "NetworkPolicy".into(), namespace: "a".into(), name: i.to_string() })
            .collect(),
        rules: (0..POLICIES * RULES_PER_POLICY)
            .map(|i| RuleInfo { policy: PolicyId(i / RULES_PER_POLICY), path: "spec.ingress[0]".into() })
            .collect(),
        programs: (0..POLICIES)
            .map(|policy| Program {
                isolated: true,
                selected_by: vec![PolicyId(policy)],
                entries: (0..RULES_PER_POLICY).map(|i| rule(policy, i)).collect(),
            })
            .collect(),
        pods: (0..PODS_HERE)
            .map(|i| PodPolicy {
                pod: PodKey::new("a", i.to_string()),
                addresses: vec![address_v4(i), address_v6(i)],
                identity: identity(i),
                other_identities: Vec::new(),
                ingress: ProgramId(i % POLICIES),
                egress: ProgramId((i + 1) % POLICIES),
            })
            .collect(),
        prefixes: Artefact::empty()
            .prefixes
            .into_iter()
            .chain((PODS_HERE..PODS).flat_map(|i| {
                [address_v4(i), address_v6(i)]
                    .map(|address| PrefixIdentity { prefix: address.into(), identity: identity(i) })
            }))
            .chain((0..PODS).map(|i| PrefixIdentity {
                prefix: ipnet::Ipv4Net::new((0xc000_0000 + (i << 8)).into(), 25).unwrap().into(),
                identity: identity(i),
            }))
            .collect(),
        ..Artefact::empty()
    }
}

#[test]
fn asking_allocates_nothing() {
    let policy = Policy::build(cluster()).unwrap();
    let pod = PodKey::new("a", "7");
    let addresses = [address_v4(7), address_v6(7)];
    let mut allowed = 0u32;
    let allocations = allocation_counter::measure(|| {
        for i in 0..20_000u32 {
            let address = match i % 4 {
                0 => address_v4(i % PODS),
                1 => address_v6(i % PODS),
                2 => IpAddr::V4((0xc000_0000 + i * 97).into()),
                _ => IpAddr::V6(u128::from(i).into()),
            };
            let question =
                Question { protocol: protocol::TCP, port: (990 + i % 1_100) as u16, established: i % 3 == 0 };
            let peer = policy.classify(address);
            assert_eq!(policy.class_of(peer.identity), peer.class);
            let answer = policy.judge(ProgramId(i % (POLICIES + 1)), peer.class, question);
            allowed += u32::from(answer.action == Action::Allow);
            assert!(policy.pod(&pod, &addresses).is_some());
        }
    });
    assert!(allowed > 0, "questions must reach rules for this to say anything");
    assert_eq!(allocations.count_total, 0);
}
