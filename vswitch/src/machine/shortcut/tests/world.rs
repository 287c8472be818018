//! A node without a wire: pods come and go, policy changes, workers see late, and every answer of the programs is judged.

mod changes;
mod stream;

use super::frames::{Odd, TCP, UDP, address, frame, named, sent_on};
use crate::config::Config;
use crate::io::bpf::{Programs, TcProgram};
use crate::io::maps::Rounds;
use crate::io::shortcut::{CarriedFlow, Epoch};
use crate::io::tag;
use crate::machine::shortcut::Shortcuts;
use crate::packet::FlowKey;
use crate::worker::mailbox::Mailbox;
use crate::worker::run::monotonic_ms;
use crate::worker::shortcut::{Request, Requests};
use penstock_api::{EndpointId, PortId, WorkerId};
use penstock_net::route::{Netlink, VethSpec};
use rand::RngExt;
use rand::rngs::StdRng;
use std::collections::{HashMap, HashSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub(super) use stream::Fate;

const PORTS: u16 = 5;
const LINKS: usize = 8;
const ADDRESSES: usize = 4;
const ROOM: usize = 8;
const SETTLE: Duration = Duration::from_micros(50);
const REDIRECT: u32 = 7;
const SHOT: u32 = 2;

/// What the programs have to say of a pod.
#[derive(Debug, Clone, Copy)]
struct Pod {
    port: PortId,
    link: usize,
    endpoint: EndpointId,
    revision: u32,
    address: usize,
    mac: [u8; 6],
    mtu: u16,
    is_captured: bool,
}

impl Pod {
    fn epoch(&self) -> Epoch {
        if self.is_captured { Epoch::NONE } else { Epoch::new(self.endpoint, self.revision) }
    }
}

/// What is in force, or was when a worker looked.
#[derive(Debug, Clone, Default)]
struct View {
    pods: Vec<Pod>,
    /// From the first to the second.
    denied: HashSet<(EndpointId, EndpointId)>,
}

impl View {
    fn at(&self, address: usize) -> Option<&Pod> {
        self.pods.iter().find(|pod| pod.address == address)
    }

    fn ends(&self, key: &FlowKey) -> Option<(&Pod, &Pod)> {
        let number = |octets: &[u8; 16]| usize::from(octets[15]);
        Some((self.at(number(&key.source))?, self.at(number(&key.destination))?))
    }
}

type Ends = (EndpointId, EndpointId);

/// A frame in userspace: so many segments of it, with that mark, for this port.
#[derive(Debug, Clone)]
struct Up {
    key: FlowKey,
    segments: u32,
    frame: Vec<u8>,
    mark: [u8; 2],
    odd: Odd,
}

#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Tally {
    passed: u64,
    up: u64,
    odd_up: u64,
    refused: u64,
    returned: u64,
    revoked: u64,
    attached: u64,
    restarts: u64,
    /// Captures that began while the kernel carried the flow, and ended with frames of it under way.
    recalled: u64,
    overflow: u64,
}

impl Tally {
    /// A generator whose flows hardly ever reach the kernel, or never leave it, proves nothing. One history may well be poor: all
    /// are looked at together.
    pub(super) fn assert_telling(&self, least: u64) {
        let enough = self.passed > least / 400
            && self.up > least / 10
            && self.odd_up > least / 200
            && self.returned > least / 20
            && self.revoked > least / 1000
            && self.attached > least / 1000
            && self.recalled > least / 8000
            && self.restarts > 0;
        assert!(enough || least < 10_000, "{self:?}");
    }
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Tally) {
        self.passed += other.passed;
        self.up += other.up;
        self.odd_up += other.odd_up;
        self.refused += other.refused;
        self.returned += other.returned;
        self.revoked += other.revoked;
        self.attached += other.attached;
        self.restarts += other.restarts;
        self.recalled += other.recalled;
        self.overflow += other.overflow;
    }
}

pub(super) struct World {
    rng: StdRng,
    pins: PathBuf,
    programs: Programs,
    rounds: Rounds,
    round: u32,
    shortcuts: Shortcuts,
    requests: Arc<Requests>,
    mailboxes: Vec<Arc<Mailbox>>,
    interfaces: Vec<u32>,
    truth: View,
    worker: View,
    /// What the worker tracks, by its first packet's direction.
    known: HashMap<FlowKey, Ends>,
    /// The same, and what it no longer tracks but has not been obeyed in.
    established: HashMap<FlowKey, Ends>,
    up: VecDeque<Up>,
    echoed: HashMap<FlowKey, Instant>,
    /// Frames and bytes, by direction: what passed, and what a worker was told of that.
    passed: HashMap<FlowKey, (u64, u64)>,
    credited: HashMap<FlowKey, (u64, u64)>,
    by_port: HashMap<PortId, [u64; 4]>,
    pub(super) tally: Tally,
    last: VecDeque<String>,
    focus: FlowKey,
    /// What the kernel carried when the capture that is began.
    recalled: Option<FlowKey>,
    next_endpoint: u32,
    next_revision: u32,
    ahead_ms: u64,
}

impl World {
    pub(super) fn new(pins: &Path, rng: StdRng) -> World {
        let netlink = Netlink::open().unwrap();
        let veth = |n: usize| netlink.create_veth(&VethSpec::new(&format!("h{n}"), &format!("p{n}")));
        let interfaces: Vec<u32> = (0..LINKS).map(|n| veth(n).unwrap().index).collect();
        let mailboxes: Vec<_> = (0..2).map(|_| Arc::new(Mailbox::new().unwrap())).collect();
        let requests = Arc::new(Requests::new().unwrap());
        let (programs, shortcuts) = start(pins, &mailboxes, &requests);
        let mut world = World {
            rng,
            pins: pins.to_owned(),
            rounds: programs.rounds().unwrap(),
            round: 0,
            programs,
            shortcuts,
            requests,
            mailboxes,
            interfaces,
            truth: View::default(),
            worker: View::default(),
            known: HashMap::new(),
            established: HashMap::new(),
            up: VecDeque::new(),
            echoed: HashMap::new(),
            passed: HashMap::new(),
            credited: HashMap::new(),
            by_port: HashMap::new(),
            tally: Tally::default(),
            last: VecDeque::new(),
            focus: FlowKey::new(UDP, address(1, 4), 1000, address(2, 4), 9),
            recalled: None,
            next_endpoint: 1,
            next_revision: 1,
            ahead_ms: 0,
        };
        world.programs.set_settings(&[1, 1]).unwrap();
        for _ in 0..3 {
            world.attach();
        }
        world
    }

    pub(super) fn told(&self) -> String {
        self.last.iter().cloned().collect::<Vec<_>>().join("\n")
    }

    fn tell(&mut self, what: String) {
        if self.last.len() == 60 {
            self.last.pop_front();
        }
        self.last.push_back(what);
    }

    fn chance(&mut self, one_in: u32) -> bool {
        self.rng.random_range(0..one_in) == 0
    }

    fn now_ms(&self) -> u64 {
        monotonic_ms() + self.ahead_ms
    }

    pub(super) fn step(&mut self) -> Result<(), String> {
        self.round += 1;
        let quota = if self.chance(60) { 0 } else { 1000 };
        for worker in 0..2 {
            self.rounds.begin(WorkerId(worker), self.round, quota);
        }
        if self.up.len() > 8 {
            return self.come_back();
        }
        // Over soon, and now and then before what it called up has come back.
        if self.truth.pods.iter().any(|pod| pod.is_captured) && self.chance(6) {
            self.capture();
            return Ok(());
        }
        match self.rng.random_range(0..1000) {
            0..450 => return self.send(),
            450..750 => return self.come_back(),
            750..758 => drop(self.pick_up()),
            758..770 => self.open(),
            770..840 => self.ask(),
            840..920 => self.obey(),
            920..925 => self.change_policy(),
            925..958 => self.worker_looks(),
            958..966 => self.attach(),
            966..969 => self.detach(),
            969..972 => self.capture(),
            972..976 => self.end(),
            976..980 => self.sweep(),
            980..985 => return self.balance(),
            985..998 => std::thread::sleep(SETTLE),
            998 => self.forget(),
            _ => self.restart(),
        }
        Ok(())
    }

    fn random_key(&mut self) -> FlowKey {
        let rng = &mut self.rng;
        let family = if rng.random_range(0..3) == 0 { 6 } else { 4 };
        let protocol = if rng.random_range(0..2) == 0 { TCP } else { UDP };
        let mut from = 1 + rng.random_range(0..ADDRESSES);
        let to = 1 + (from + rng.random_range(0..ADDRESSES - 1)) % ADDRESSES;
        if let Some(one) = self.truth.pods.first().filter(|one| one.address != to) {
            from = one.address;
        }
        let ports = (rng.random_range(1000..1002), rng.random_range(9..11));
        FlowKey::new(protocol, address(from, family), ports.0, address(to, family), ports.1)
    }

    /// Mostly of one flow for a while: one that the worker knows, if it knows any.
    fn likely_key(&mut self) -> FlowKey {
        if self.chance(30) {
            self.focus = self.another_key();
        }
        let key = if self.chance(6) { self.another_key() } else { self.focus };
        if self.chance(2) { key } else { key.reversed() }
    }

    fn another_key(&mut self) -> FlowKey {
        let is_alive = |key: &FlowKey, ends: &Ends| {
            self.truth.ends(key).is_some_and(|(from, to)| (from.endpoint, to.endpoint) == *ends)
                && !self.truth.denied.contains(ends)
        };
        let mut keys: Vec<FlowKey> = self.established.keys().copied().collect();
        if self.rng.random_range(0..8) != 0 {
            keys.retain(|key| is_alive(key, &self.established[key]));
        }
        keys.sort_by_key(|key| key.words());
        if keys.is_empty() || self.chance(10) {
            return self.random_key();
        }
        keys[self.rng.random_range(0..keys.len())]
    }

    /// May a plain frame of this key that this pod sends pass in the kernel at this moment? Then to whom.
    fn may_pass(&self, sender: &Pod, key: &FlowKey) -> Option<Pod> {
        let (from, to) = self.truth.ends(key)?;
        if from.endpoint != sender.endpoint || from.is_captured || to.is_captured {
            return None;
        }
        let is = |key: &FlowKey, ends: Ends| {
            self.established.get(key) == Some(&ends) && !self.truth.denied.contains(&ends)
        };
        let (there, back) = ((from.endpoint, to.endpoint), (to.endpoint, from.endpoint));
        (is(key, there) || is(&key.reversed(), back)).then_some(*to)
    }

    fn send(&mut self) -> Result<(), String> {
        let key = self.likely_key();
        let Some(&sender) = self.truth.ends(&key).map(|ends| ends.0).or(self.truth.pods.first()) else {
            return Ok(());
        };
        let odd = match self.chance(12) {
            true => Odd::ALL[self.rng.random_range(0..Odd::ALL.len())],
            false => Odd::No,
        };
        let odd = if odd.fits(&key) { odd } else { Odd::No };
        let is_forged = self.chance(40);
        let mut mac = sender.mac;
        mac[5] ^= u8::from(is_forged);
        let payload = match self.rng.random_range(0..4) {
            0 => self.rng.random_range(1300..1460),
            _ => self.rng.random_range(0..100),
        };
        let ttl = self.rng.random_range(2..=255);
        let bytes = frame(&key, mac, ttl, payload, odd);
        let headers = bytes.len() - payload;
        let segments = if odd == Odd::No && payload > 40 && self.chance(3) { 3u32 } else { 1 };
        let segment = payload.div_ceil(segments as usize);
        let (action, out) = self.run(&sender, &bytes, (segments > 1).then_some((segments, segment)));
        let target = self.may_pass(&sender, &key);
        let about = format!(
            "{} of {} ({odd:?}, {} bytes, {segments} segments)",
            named(&key),
            sender.port,
            bytes.len()
        );
        if action == SHOT {
            self.tally.refused += 1;
            self.tell(format!("refused: {about}"));
            return Ok(());
        }
        if action != REDIRECT || is_forged {
            return Err(format!("the program answered {action} to {about}, forged: {is_forged}"));
        }
        if tag::from_port(&out) == Some(sender.port) {
            self.tally.up += 1;
            self.tally.odd_up += u64::from(odd != Odd::No);
            if out[6..] != bytes[6..] {
                return Err(format!("a frame was changed on its way up: {about}"));
            }
            let mark = [out[3] & 0xfc, out[5]];
            self.tell(format!("up: {about}, mark {mark:?}"));
            self.up.push_back(Up { key, segments, frame: out, mark, odd });
            return Ok(());
        }
        self.tell(format!("passed: {about}"));
        let Some(target) = target else {
            return Err(format!("the kernel carried what it may not: {about}, to {:02x?}", &out[..6]));
        };
        if odd != Odd::No {
            return Err(format!("the kernel carried what is not plain: {about}"));
        }
        let longest = if segments > 1 { segment + headers } else { bytes.len() };
        if longest > usize::from(target.mtu) + 14 {
            return Err(format!("the kernel carried what is too long for {target:?}: {about}"));
        }
        if out != sent_on(&bytes, target.mac) {
            return Err(format!(
                "not what a worker would have sent to {target:?}: {about}\n{bytes:02x?}\n{out:02x?}"
            ));
        }
        if let Some(up) = self.up.iter().find(|up| up.key == key && up.odd.shows_its_flow()) {
            return Err(format!("{about} has overtaken what is in userspace: {up:?}"));
        }
        if self.echoed.get(&key).is_some_and(|since| since.elapsed() < SETTLE) {
            return Err(format!("{about} followed too closely to what came by userspace"));
        }
        self.tally.passed += 1;
        let (frames, octets) =
            (u64::from(segments), (bytes.len() + (segments as usize - 1) * headers) as u64);
        let sum = self.passed.entry(key).or_default();
        *sum = (sum.0 + frames, sum.1 + octets);
        for (port, at) in [(sender.port, 0), (target.port, 2)] {
            let sums = self.by_port.entry(port).or_default();
            sums[at] += frames;
            sums[at + 1] += octets;
        }
        if self.chance(8) {
            self.capture_end_of(&key);
        }
        Ok(())
    }

    /// The program at a pod's host end, or with `None` at a trunk's near end.
    fn run(&mut self, pod: &Pod, frame: &[u8], segments: Option<(u32, usize)>) -> (u32, Vec<u8>) {
        let mut context = [0u8; 192];
        let mut put = |at: usize, value: u32| context[at..at + 4].copy_from_slice(&value.to_ne_bytes());
        put(40, self.interfaces[pod.link]);
        if let Some((count, size)) = segments {
            put(164, count);
            put(176, size as u32);
        }
        let (action, out, _) = self.programs.try_out(TcProgram::Pod, frame, &context, 1);
        (action, out)
    }

    /// Takes what has been longest in userspace of some flow.
    fn pick_up(&mut self) -> Option<Up> {
        if self.up.is_empty() {
            return None;
        }
        let key = self.up[self.rng.random_range(0..self.up.len())].key;
        let key = if self.up.iter().any(|up| up.key == self.focus) { self.focus } else { key };
        let first = self.up.iter().position(|up| up.key == key)?;
        self.up.remove(first)
    }

    /// The worker sends a frame on, in as many frames as it came in segments; or drops it.
    pub(super) fn come_back(&mut self) -> Result<(), String> {
        let Some(up) = self.pick_up() else {
            std::thread::sleep(SETTLE);
            return Ok(());
        };
        let Some((from, to)) = self.worker.ends(&up.key).map(|(from, to)| (*from, *to)) else {
            return Ok(());
        };
        let ends = (from.endpoint, to.endpoint);
        let is = |key: &FlowKey, ends: Ends| {
            self.known.get(key) == Some(&ends) && !self.worker.denied.contains(&ends)
        };
        if !is(&up.key, ends) && !is(&up.key.reversed(), (ends.1, ends.0)) {
            return Ok(());
        }
        let mut mac = tag::to_port(to.port);
        (mac[3], mac[5]) = (mac[3] | up.mark[0], up.mark[1]);
        let mut frame = sent_on(&up.frame, mac);
        if frame[12] == 0x08 && up.frame[24..26] == frame[24..26] {
            frame[24] = 0;
        }
        self.tally.returned += 1;
        self.tell(format!("back: {}, mark {:?}", named(&up.key), up.mark));
        let sent = Instant::now();
        for _ in 0..up.segments {
            let (action, out, _) = self.programs.try_out(TcProgram::Trunk, &frame, &[0; 192], 1);
            let now = self.truth.pods.iter().find(|pod| pod.port == to.port);
            match (action, now) {
                // Too long for who has the port now.
                (SHOT, _) => {}
                (REDIRECT, Some(now)) if out[..6] == now.mac => {}
                _ => {
                    return Err(format!(
                        "{action}: a frame for {} went to {:02x?}, {now:?}",
                        to.port,
                        &out[..6]
                    ));
                }
            }
        }
        if up.odd.shows_its_flow() {
            self.echoed.insert(up.key, sent);
        }
        Ok(())
    }

    fn open(&mut self) {
        let key = self.random_key();
        let Some((from, to)) = self.worker.ends(&key) else { return };
        let ends = (from.endpoint, to.endpoint);
        if self.worker.denied.contains(&ends) || self.known.contains_key(&key.reversed()) {
            return;
        }
        self.known.insert(key, ends);
        // Whoever it was before is not in the kernel any more, or this worker would be told not to.
        self.established.insert(key, ends);
        self.tell(format!("opened: {}", named(&key)));
    }

    /// The worker asks that a flow be carried, by what it knows.
    fn ask(&mut self) {
        let mut keys: Vec<_> = self.known.keys().copied().collect();
        keys.sort_by_key(|key| key.words());
        if keys.is_empty() {
            return;
        }
        let mut key = keys[self.rng.random_range(0..keys.len())];
        if self.known.contains_key(&self.focus) && !self.chance(4) {
            key = self.focus;
        }
        let Some((from, to)) = self.worker.ends(&key) else { return };
        let ends = (from.endpoint, to.endpoint);
        if self.known[&key] != ends || self.worker.denied.contains(&ends) {
            self.known.remove(&key);
            return;
        }
        let epoch = |pod: &Pod| Epoch::new(pod.endpoint, pod.revision);
        self.requests.push(Request::Carry(CarriedFlow {
            key,
            source: from.port,
            target: to.port,
            source_epoch: epoch(from),
            target_epoch: epoch(to),
        }));
        self.tell(format!("asked for: {}", named(&key)));
    }

    fn obey(&mut self) {
        let Some(request) = self.requests.pop() else { return };
        let now_ms = self.now_ms();
        self.shortcuts.obey(request, now_ms);
        self.tell(format!("obeyed: {request:?}"));
        if let Request::Leave(key) = request {
            for key in [key, key.reversed()] {
                if !self.known.contains_key(&key) {
                    self.established.remove(&key);
                }
            }
        }
    }
}

fn start(pins: &Path, mailboxes: &[Arc<Mailbox>], requests: &Arc<Requests>) -> (Programs, Shortcuts) {
    let mut programs = Programs::load(pins, false).unwrap();
    let table = programs.take_shortcut().unwrap();
    let config = Config { shortcuts_max: ROOM, ..Config::default() };
    (programs, Shortcuts::nothing(&config, table, mailboxes.to_vec(), Arc::clone(requests)))
}
