//! Random frames, policy, ports and time, each frame against the model. "Every flow-cache answer equals the reference's."
//!
//! `PENSTOCK_SEED` repeats a run (the seed is printed), `PENSTOCK_STEPS` makes it longer.

mod generate;
mod model;

use crate::frames::*;
use crate::world::{HOST_MAC, OUTSIDE4, OUTSIDE6, host_end};
use model::{Model, Outcome, Owner, fix_checksum};
use penstock_api::artefact::{AddressIdentity, PodKey};
use penstock_api::{Artefact, DropReason, Generation, PortId, ProgramId};
use penstock_vswitch::packet::{Fragment, parse};
use penstock_vswitch::rig::{Delivered, Rig, Sizes};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const PODS: u8 = 6;
const PORTS: [u16; 4] = [53, 80, 81, 5001];

struct Run {
    rng: StdRng,
    rig: Rig,
    model: Model,
    generation: u64,
    attachments: u32,
    /// Identifications of datagrams, each used once.
    datagrams: u16,
    /// Pieces still to be sent, in a random order.
    pieces: Vec<(PortId, Vec<u8>)>,
    drops: [u64; DropReason::COUNT],
    tally: Tally,
}

/// How much of what was tried: a generator that only makes refused frames proves nothing.
#[derive(Debug, Default)]
struct Tally {
    frames: u64,
    sent: u64,
    hits: u64,
    pieces: u64,
    errors: u64,
    variants: u64,
    installs: u64,
    attached: u64,
    expired: u64,
    by_reason: std::collections::BTreeMap<DropReason, u64>,
    states: std::collections::BTreeMap<&'static str, u64>,
}

/// The addresses of pod number `n`. The last one's are outside this node's range: without it, the host has them.
fn v4(n: u8) -> IpAddr {
    if n == PODS { OUTSIDE4 } else { IpAddr::V4(Ipv4Addr::new(10, 0, 0, n)) }
}

fn v6(n: u8) -> IpAddr {
    if n == PODS { OUTSIDE6 } else { IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, n.into())) }
}

impl Run {
    fn new(seed: u64) -> Run {
        let mut rng = StdRng::seed_from_u64(seed);
        let workers = [1, 1, 2, 4][rng.random_range(0..4)];
        let rig = Rig::with(&Sizes {
            workers,
            ports_max: 16,
            flows_max: 8192,
            flows_per_port_max: 8192,
            // Small now and then: what it forgets must be found again.
            // Some pods are behind devices of their own, whose frames are in an area of their own or not.
            direct: [0, 2, 3][rng.random_range(0..3)],
            zero_copy_chunks: [0, 64][rng.random_range(0..2)],
            cache_entries: [8, 64, 4096][rng.random_range(0..3)],
            hash_seed: seed,
            ..Sizes::default()
        });
        let model = Model::new(rig.now_ms);
        let mut run = Run {
            rng,
            rig,
            model,
            generation: 0,
            attachments: 0,
            datagrams: 0,
            pieces: Vec::new(),
            drops: [0; DropReason::COUNT],
            tally: Tally::default(),
        };
        let host = host_end();
        run.model.host_addresses = host.addresses().to_vec();
        run.model.pod_ranges = vec!["10.0.0.0/24".parse().unwrap(), "fd00::/64".parse().unwrap()];
        run.rig.host(HOST_MAC, &run.model.host_addresses, &run.model.pod_ranges, 1500);
        run.model.ports.insert(
            PortId::HOST,
            Owner { attachment: 0, pod: None, mac: HOST_MAC, addresses: Vec::new(), mtu: 1500 },
        );
        for _ in 0..4 {
            run.attach();
        }
        run.install();
        run
    }

    // ---- what changes ------------------------------------------------------------------------------------------------

    fn attach(&mut self) {
        // A pod, at the addresses of its number or of another's.
        let n = self.rng.random_range(1..=PODS);
        let at = if self.rng.random_ratio(1, 6) { self.rng.random_range(1..=PODS) } else { n };
        let mut addresses = vec![v4(at), v6(at)];
        if self.rng.random_ratio(1, 8) {
            addresses.truncate(1);
        }
        let pod = PodKey::new("test", format!("pod{n}"));
        let is_taken = self.model.ports.values().any(|owner| {
            owner.pod.as_ref() == Some(&pod) || owner.addresses.iter().any(|a| addresses.contains(a))
        });
        if is_taken {
            return;
        }
        self.attachments += 1;
        let mac = [2, 0, 0, self.attachments as u8, (self.attachments >> 8) as u8, n];
        let mtu = *[1500, 1500, 1500, 1280, 300].choose(&mut self.rng).unwrap();
        let direct = match self.rng.random_ratio(1, 2) {
            true => self.rig.attach_direct(pod.clone(), mac, &addresses, mtu),
            false => None,
        };
        let port = direct.unwrap_or_else(|| self.rig.attach(pod.clone(), mac, &addresses, mtu));
        let owner = Owner { attachment: self.attachments, pod: Some(pod), mac, addresses, mtu };
        self.model.ports.insert(port, owner);
        self.tally.attached += 1;
    }

    fn detach(&mut self) {
        let pods: Vec<_> = self.model.ports.keys().copied().filter(|port| *port != PortId::HOST).collect();
        let Some(port) = pods.choose(&mut self.rng) else { return };
        let endpoint = self.rig.detach(*port).unwrap();
        let owner = self.model.ports.remove(port).unwrap();
        if self.rng.random() {
            self.rig.forget(endpoint);
            self.model.forget(owner.attachment);
        }
    }

    fn install(&mut self) {
        self.generation += 1;
        // Mostly a small change: whatever was remembered of the rest must stay right.
        let artefact = match self.rng.random_range(if self.generation == 1 { 0..1 } else { 0..10 }) {
            0 => self.artefact(),
            1..5 => {
                let mut artefact = self.model.artefact.clone();
                if let Some(i) = index(&mut self.rng, artefact.programs.len()) {
                    artefact.programs[i] = self.program(i);
                }
                artefact
            }
            5..9 => {
                let mut artefact = self.model.artefact.clone();
                if let Some(i) = index(&mut self.rng, artefact.pods.len()) {
                    let identity = self.identity();
                    let pod = &mut artefact.pods[i];
                    match self.rng.random_range(0..4) {
                        0 => pod.identity = identity,
                        1 => {
                            let address = pod.addresses[0];
                            pod.other_identities = vec![AddressIdentity { address, identity }];
                        }
                        2 => {
                            pod.ingress = ProgramId(self.rng.random_range(0..artefact.programs.len() as u32))
                        }
                        _ => pod.egress = ProgramId(self.rng.random_range(0..artefact.programs.len() as u32)),
                    }
                }
                artefact
            }
            _ => {
                let mut artefact = self.model.artefact.clone();
                if let Some(i) = index(&mut self.rng, artefact.pods.len()) {
                    artefact.pods.remove(i);
                }
                artefact
            }
        };
        let artefact = Artefact { generation: Generation(self.generation), ..artefact };
        self.rig.install(artefact.clone());
        self.model.artefact = artefact;
        self.tally.installs += 1;
    }

    // ---- one step ----------------------------------------------------------------------------------------------------

    fn step(&mut self) {
        let ms = match self.rng.random_range(0..400) {
            0 => 200_000,
            1..4 => self.rng.random_range(0..60_000),
            4..12 => self.rng.random_range(0..3_000),
            _ => 1,
        };
        self.pass(ms);
        match self.rng.random_range(0..100) {
            0 => match self.rng.random() {
                true => self.detach(),
                false => self.attach(),
            },
            1 => self.attach(),
            2 => self.install(),
            3..7 => self.datagram(),
            7..30 if !self.pieces.is_empty() => {
                let at = self.rng.random_range(0..self.pieces.len());
                let (port, frame) = self.pieces.swap_remove(at);
                self.tally.pieces += 1;
                self.check(port, &frame);
            }
            30..34 => {
                let (port, packet) = self.error();
                self.check(port, &packet.frame());
            }
            34..46 => {
                let (port, packet) = self.packet();
                let mut frame = packet.frame();
                self.mutate(&mut frame);
                // Pieces are the business of whoever makes whole datagrams: the model knows no overlaps.
                let is_piece = parse(&frame, frame.len()).is_ok_and(|p| p.fragment != Fragment::Whole);
                if !is_piece {
                    self.check(port, &frame);
                }
            }
            46..49 => {
                // A lie: somebody else's address, from a port of one's own.
                let (_, packet) = self.packet();
                let (port, _, mac) = self.source();
                self.check(port, &packet.with_mac(mac).frame());
            }
            49 => {
                let (port, packet) = self.packet();
                let ttl = self.rng.random_range(0..3);
                self.check(port, &packet.ttl(ttl).frame());
            }
            50 => {
                let (port, packet) = self.packet();
                let packet = packet.data(vec![9; self.rng.random_range(200..1_400)]);
                let id = self.rng.random();
                let packet = if self.rng.random() { packet.may_fragment(id) } else { packet };
                self.check(port, &packet.frame());
            }
            _ => {
                let (port, packet) = self.packet();
                let frame = packet.frame();
                let hits = self.rig.cache_hits();
                let sent = self.check(port, &frame);
                if sent && self.rig.cache_hits() > hits && self.rng.random_ratio(1, 40) {
                    self.variants(port, &frame);
                }
            }
        }
    }

    fn pass(&mut self, ms: u64) {
        self.rig.now_ms += ms;
        // Expiry is done in small pieces; let it finish.
        let rounds = if ms > 1 { 200 } else { 2 };
        for _ in 0..rounds {
            for worker in 0..self.rig.workers() {
                self.rig.round(worker);
            }
        }
        let expected = self.model.pass(self.rig.now_ms);
        let delivered = self.rig.run();
        self.compare(&[], expected, &delivered, "time passed");
        if ms > 1 {
            let before = self.model.flows.len();
            let rig = &self.rig;
            self.model.expire(|key| rig.flow(key).is_some());
            self.tally.expired += (before - self.model.flows.len()) as u64;
            self.compare_flows();
        } else if self.rig.now_ms.is_multiple_of(1_000) {
            let rig = &self.rig;
            self.model.expire(|key| rig.flow(key).is_some());
        }
    }

    /// A new datagram in pieces, to be sent by and by.
    fn datagram(&mut self) {
        let (port, packet) = self.packet();
        if !matches!(packet.protocol(), UDP | SCTP) && packet.data.is_empty() || packet.protocol() == TCP {
            return;
        }
        self.datagrams = self.datagrams.wrapping_add(1);
        let packet = packet.data(vec![5; self.rng.random_range(60..400)]).may_fragment(self.datagrams);
        let mut pieces = packet.pieces(48);
        // Some never come.
        pieces.retain(|_| self.rng.random_ratio(19, 20));
        self.pieces.extend(pieces.into_iter().map(|piece| (port, piece)));
        // Old ones are given up, so that the rest comes in time.
        if self.pieces.len() > 40 {
            self.pieces.drain(..self.pieces.len() - 40);
        }
    }

    /// Every header byte changed, one at a time: whatever the cached entry did not look at must not have mattered.
    fn variants(&mut self, port: PortId, frame: &[u8]) {
        for at in 0..frame.len().min(74) {
            let mut variant = frame.to_vec();
            variant[at] ^= 1 << self.rng.random_range(0..8u8);
            if variant[12..15] == [8, 0, 0x45] && !(24..26).contains(&at) {
                fix_checksum(&mut variant);
            }
            if parse(&variant, variant.len()).is_ok_and(|p| p.fragment != Fragment::Whole) {
                continue;
            }
            self.tally.variants += 1;
            self.check(port, &variant);
        }
    }

    /// Sends a frame, to whichever worker, and holds what happens against the model. True: it was sent on.
    fn check(&mut self, port: PortId, frame: &[u8]) -> bool {
        let worker = match self.rng.random() {
            true => self.rig.steer(frame),
            false => self.rng.random_range(0..self.rig.workers()),
        };
        let hits = self.rig.cache_hits();
        self.rig.send_to(worker, port, frame);
        let delivered = self.rig.run();
        let expected = self.model.receive(port, frame);
        self.tally.frames += 1;
        self.tally.hits += self.rig.cache_hits() - hits;
        let sent = expected.iter().any(|o| matches!(o, Outcome::Sent(..)));
        self.tally.sent += u64::from(sent);
        let what =
            format!("port {port} sent {frame:02x?} to worker {worker}: {:?}", parse(frame, frame.len()));
        self.compare(&[port], expected, &delivered, &what);
        sent
    }

    /// `asked`: the ports that may be answered.
    fn compare(&mut self, asked: &[PortId], expected: Vec<Outcome>, delivered: &[Delivered], what: &str) {
        let mut left: Vec<_> = delivered.iter().map(|d| (d.port, d.frame.clone())).collect();
        let mut drops = [0u64; DropReason::COUNT];
        let mut answers = 0;
        let mut free = false;
        for outcome in &expected {
            match outcome {
                Outcome::Sent(port, frame) => {
                    let at = left.iter().position(|(p, f)| p == port && f == frame);
                    let at = at.unwrap_or_else(|| {
                        panic!("{what}\n  must go to port {port} as {frame:02x?}\n  but came out as {delivered:02x?}\n  drops now {:?}", self.rig.all_drops())
                    });
                    left.remove(at);
                }
                Outcome::Split(port) => {
                    let before = left.len();
                    left.retain(|(p, _)| p != port);
                    assert!(left.len() < before, "{what}\n  must be split towards port {port}");
                }
                Outcome::Dropped(reason) => {
                    drops[*reason as usize] += 1;
                    *self.tally.by_reason.entry(*reason).or_default() += 1;
                    answers += usize::from(matches!(
                        reason,
                        DropReason::Rejected
                            | DropReason::NoRoute
                            | DropReason::TtlExceeded
                            | DropReason::TooBig
                            | DropReason::Answered
                    ));
                }
                Outcome::Neighbour => (free, answers) = (true, answers + 1),
            }
        }
        assert!(
            left.len() <= answers && left.iter().all(|(port, _)| asked.contains(port)),
            "{what}\n  expected {expected:02x?}\n  and beyond that came {left:02x?}"
        );
        for reason in DropReason::ALL {
            let (i, now) = (*reason as usize, self.rig.drops(*reason));
            if !free {
                assert_eq!(
                    now - self.drops[i],
                    drops[i],
                    "{what}\n  frames dropped for {reason}; expected {expected:02x?}, delivered {delivered:02x?}"
                );
            }
            self.drops[i] = now;
        }
    }

    /// The same flows, each at its owner and nowhere else.
    fn compare_flows(&mut self) {
        for key in self.model.flows.keys() {
            let Some((worker, _, flow)) = self.rig.flow(key) else {
                panic!("the switch has forgotten {key:?} in state {:?}", self.model.state(key))
            };
            assert_eq!(flow.key(), *key);
            assert_eq!(worker, key.owner(self.rig.workers()), "where a flow is tracked");
            assert_eq!(Some(flow.state()), self.model.state(key));
            *self.tally.states.entry(flow.state().name()).or_default() += 1;
        }
        assert_eq!(self.rig.flows(), self.model.flows.len());
        self.rig.check();
    }
}

fn index(rng: &mut StdRng, len: usize) -> Option<usize> {
    (len > 0).then(|| rng.random_range(0..len))
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name)
        .ok()
        .map(|value| value.parse().unwrap_or_else(|_| panic!("{name}={value} is no number")))
}

#[test]
fn whatever_comes_the_switch_does_what_the_model_says() {
    let given = number("PENSTOCK_SEED");
    let steps = number("PENSTOCK_STEPS").unwrap_or(4_000);
    let seeds = match given {
        Some(seed) => seed..seed + 1,
        None => {
            let first = rand::random::<u32>().into();
            first..first + 20
        }
    };
    let mut total = Tally::default();
    for seed in seeds {
        println!("PENSTOCK_SEED={seed}");
        let mut run = Run::new(seed);
        for _ in 0..steps {
            run.step();
        }
        let tally = std::mem::take(&mut run.tally);
        println!("{tally:?}");
        total.frames += tally.frames;
        total.sent += tally.sent;
        total.hits += tally.hits;
        total.variants += tally.variants;
    }
    if given.is_none() {
        assert!(total.sent > total.frames / 4, "too little passes to prove anything: {total:?}");
        assert!(total.hits > total.frames / 8, "too little comes from the cache: {total:?}");
    }
}
