//! A small node to test with: three pods, a host, and policies in a few words.

#![allow(dead_code)]

use super::frames::{Packet, Seen, see};
use penstock_api::artefact::{
    Entry, Peers, PodKey, PodPolicy, PolicyInfo, PrefixIdentity, Program, RuleInfo, Service, tier,
};
use penstock_api::{
    Action, Artefact, DropReason, Generation, IdentityId, PolicyId, PortId, ProgramId, RuleId,
};
use penstock_vswitch::rig::{Delivered, Rig, Sizes};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Whoever has a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct End {
    pub(crate) port: PortId,
    pub(crate) mac: [u8; 6],
    pub(crate) v4: IpAddr,
    pub(crate) v6: IpAddr,
    pub(crate) key: PodKey,
}

impl End {
    pub(crate) fn address(&self, family: u8) -> IpAddr {
        if family == 4 { self.v4 } else { self.v6 }
    }

    pub(crate) fn addresses(&self) -> [IpAddr; 2] {
        [self.v4, self.v6]
    }

    /// A packet of ours to an address.
    pub(crate) fn packet(&self, source_port: u16, destination: IpAddr, destination_port: u16) -> Packet {
        let source = if destination.is_ipv4() { self.v4 } else { self.v6 };
        Packet::new(source, source_port, destination, destination_port).with_mac(self.mac)
    }
}

pub(crate) const FAMILIES: [u8; 2] = [4, 6];
pub(crate) const HOST_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xfe];
pub(crate) const OUTSIDE4: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 7));
pub(crate) const OUTSIDE6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xff, 0, 0, 0, 0, 7));
/// Of this node's range and nobody's.
pub(crate) const NOBODY4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 200));
pub(crate) const NOBODY6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0x200));

pub(crate) fn outside(family: u8) -> IpAddr {
    if family == 4 { OUTSIDE4 } else { OUTSIDE6 }
}

pub(crate) fn nobody(family: u8) -> IpAddr {
    if family == 4 { NOBODY4 } else { NOBODY6 }
}

/// What pod number `n` is called and has.
pub(crate) fn pod(n: u8) -> End {
    End {
        port: PortId(u16::from(n)),
        mac: [2, 0, 0, 0, 0, n],
        v4: IpAddr::V4(Ipv4Addr::new(10, 0, 0, n)),
        v6: IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, n.into())),
        key: PodKey::new("test", format!("pod{n}")),
    }
}

pub(crate) fn host_end() -> End {
    End {
        port: PortId::HOST,
        mac: HOST_MAC,
        v4: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
        v6: IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
        key: PodKey::new("", "host"),
    }
}

/// The class of pod number `n`.
pub(crate) fn class(n: u8) -> IdentityId {
    IdentityId(IdentityId::FIRST_COMPILED.0 + u32::from(n))
}

/// A switch with a host and the pods 1 to 3, everything allowed until a test says otherwise.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) rig: Rig,
    pub(crate) a: End,
    pub(crate) b: End,
    pub(crate) c: End,
    pub(crate) host: End,
}

impl World {
    pub(crate) fn new() -> World {
        World::with(&Sizes::default())
    }

    pub(crate) fn with(sizes: &Sizes) -> World {
        let mut world = World::attached(sizes);
        world.rig.install(Rules::open().artefact());
        world
    }

    /// Ports, and no policy yet. Direct devices are the last pods'.
    pub(crate) fn attached(sizes: &Sizes) -> World {
        let mut rig = Rig::with(sizes);
        let host = host_end();
        let ranges = ["10.0.0.0/24".parse().unwrap(), "fd00::/64".parse().unwrap()];
        rig.host(host.mac, &host.addresses(), &ranges, 1500);
        let mut attach = |n| {
            let end = pod(n);
            let port = match usize::from(n) + sizes.direct > 3 {
                true => rig.attach_direct(end.key.clone(), end.mac, &end.addresses(), 1500).unwrap(),
                false => rig.attach(end.key.clone(), end.mac, &end.addresses(), 1500),
            };
            assert_eq!(port, end.port);
            end
        };
        let (a, b, c) = (attach(1), attach(2), attach(3));
        World { rig, a, b, c, host }
    }

    pub(crate) fn ends(&self) -> [&End; 4] {
        [&self.a, &self.b, &self.c, &self.host]
    }

    /// Sends a frame from a port and reads what arrives where.
    pub(crate) fn send(&mut self, from: &End, packet: &Packet) -> Vec<(PortId, Seen)> {
        let delivered = self.rig.exchange(from.port, &packet.frame());
        seen(&delivered)
    }

    /// The packet comes out at `to`, and nothing else happens; returns it as it arrives.
    #[track_caller]
    pub(crate) fn reaches(&mut self, from: &End, to: &End, packet: &Packet) -> Packet {
        let drops = self.rig.all_drops();
        let mut seen = self.send(from, packet);
        assert_eq!(self.rig.all_drops(), drops, "nothing is dropped of {packet:?}");
        assert_eq!(seen.len(), 1, "one frame comes of {packet:?}: {seen:?}");
        let (port, seen) = seen.pop().unwrap();
        assert_eq!(port, to.port, "where {packet:?} went");
        assert_eq!((seen.packet.source, seen.packet.destination), (packet.source, packet.destination));
        assert_eq!(seen.packet.carries, packet.carries);
        assert_eq!(seen.packet.data, packet.data);
        seen.packet
    }

    /// The packet is dropped for `reason` and nothing is sent.
    #[track_caller]
    pub(crate) fn dropped(&mut self, from: &End, packet: &Packet, reason: DropReason) {
        let seen = self.refused(from, packet, reason);
        assert_eq!(seen, [], "nothing comes of {packet:?}");
    }

    /// The packet is dropped for `reason`; returns what the switch says to that.
    #[track_caller]
    pub(crate) fn refused(&mut self, from: &End, packet: &Packet, reason: DropReason) -> Vec<(PortId, Seen)> {
        self.refused_frame(from, &packet.frame(), reason)
    }

    #[track_caller]
    pub(crate) fn refused_frame(
        &mut self,
        from: &End,
        frame: &[u8],
        reason: DropReason,
    ) -> Vec<(PortId, Seen)> {
        let before = self.rig.all_drops();
        let delivered = self.rig.exchange(from.port, frame);
        let after = self.rig.all_drops();
        let count =
            |drops: &[(DropReason, u64)], r| drops.iter().find(|(d, _)| *d == r).map_or(0, |(_, n)| *n);
        let sum = |drops: &[(DropReason, u64)]| drops.iter().map(|(_, n)| n).sum::<u64>();
        assert_eq!(
            (count(&after, reason) - count(&before, reason), sum(&after) - sum(&before)),
            (1, 1),
            "dropped once for {reason}: {before:?} then {after:?}, delivered {delivered:?}"
        );
        seen(&delivered)
    }

    /// A TCP connection from `from` to port 80 of `to`, established.
    #[track_caller]
    pub(crate) fn connect(&mut self, from: &End, to: &End, family: u8, source_port: u16) -> Packet {
        let out = from.packet(source_port, to.address(family), 80);
        let back = out.reversed().with_mac(to.mac);
        self.reaches(from, to, &out.clone().tcp(super::frames::SYN, 1000, 0));
        self.reaches(to, from, &back.tcp(super::frames::SYN | super::frames::ACK, 5000, 1001));
        let ack = out.tcp(super::frames::ACK, 1001, 5001);
        self.reaches(from, to, &ack);
        ack
    }
}

pub(crate) fn seen(delivered: &[Delivered]) -> Vec<(PortId, Seen)> {
    delivered.iter().map(|d| (d.port, see(&d.frame))).collect()
}

/// Policy in a few words: pods 1 to 9 of classes of their own, programs by pod and direction.
#[derive(Debug, Clone)]
pub(crate) struct Rules {
    generation: u64,
    pods: Vec<u8>,
    ingress: Vec<(u8, Program)>,
    egress: Vec<(u8, Program)>,
}

impl Rules {
    /// Pods 1 to 3, and nobody isolated.
    pub(crate) fn open() -> Rules {
        Rules { generation: 1, pods: vec![1, 2, 3], ingress: Vec::new(), egress: Vec::new() }
    }

    pub(crate) fn generation(mut self, generation: u64) -> Rules {
        self.generation = generation;
        self
    }

    pub(crate) fn pods(mut self, pods: &[u8]) -> Rules {
        self.pods = pods.to_vec();
        self
    }

    /// Isolates a pod's ingress but for these entries.
    pub(crate) fn ingress(mut self, pod: u8, entries: &[Entry]) -> Rules {
        self.ingress.push((pod, isolated(entries)));
        self
    }

    /// Isolates a pod's egress but for these entries.
    pub(crate) fn egress(mut self, pod: u8, entries: &[Entry]) -> Rules {
        self.egress.push((pod, isolated(entries)));
        self
    }

    pub(crate) fn artefact(&self) -> Artefact {
        let mut programs = vec![Program::default()];
        let mut program = |list: &[(u8, Program)], pod| match list.iter().rev().find(|(p, _)| *p == pod) {
            None => ProgramId(0),
            Some((_, program)) => {
                programs.push(program.clone());
                ProgramId(programs.len() as u32 - 1)
            }
        };
        let pods = self
            .pods
            .iter()
            .map(|&n| PodPolicy {
                pod: pod(n).key,
                addresses: pod(n).addresses().to_vec(),
                identity: class(n),
                other_identities: Vec::new(),
                ingress: program(&self.ingress, n),
                egress: program(&self.egress, n),
            })
            .collect();
        let mut artefact = Artefact {
            generation: Generation(self.generation),
            policies: vec![PolicyInfo {
                kind: "NetworkPolicy".into(),
                namespace: "test".into(),
                name: "p".into(),
            }],
            rules: vec![RuleInfo { policy: PolicyId(0), path: "spec.ingress[0]".into() }],
            programs,
            pods,
            ..Artefact::empty()
        };
        for address in host_end().addresses() {
            artefact.prefixes.push(PrefixIdentity { prefix: address.into(), identity: IdentityId::HOST });
        }
        artefact
    }
}

fn isolated(entries: &[Entry]) -> Program {
    Program { isolated: true, selected_by: vec![PolicyId(0)], entries: entries.to_vec() }
}

pub(crate) fn entry(action: Action, peers: &[IdentityId], service: Service) -> Entry {
    let peers = if peers.is_empty() { Peers::Any } else { Peers::Identities(peers.to_vec()) };
    Entry {
        tier: tier::NORMAL,
        priority: 0,
        action,
        peers,
        service,
        established_only: false,
        rule: RuleId(0),
    }
}

/// Allows everything to or from these classes; from everybody when there are none.
pub(crate) fn allow(peers: &[IdentityId]) -> Entry {
    entry(Action::Allow, peers, Service::Any)
}

/// Allows one port to these classes.
pub(crate) fn allow_port(peers: &[IdentityId], protocol: u8, port: u16) -> Entry {
    entry(Action::Allow, peers, Service::Ports { protocol, first: port, last: port })
}
