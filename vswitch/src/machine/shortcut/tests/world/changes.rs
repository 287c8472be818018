//! What happens to the node beside its frames: policy, pods, ends of flows, time, and the next process.

use super::super::frames::named;
use super::{ADDRESSES, LINKS, PORTS, Pod, World, start};
use crate::flow::Side;
use crate::io::maps::PortEntry;
use crate::io::shortcut::Epoch;
use crate::packet::FlowKey;
use crate::worker::mailbox::Command;
use crate::worker::shortcut::Request;
use penstock_api::{EndpointId, PortId};
use rand::RngExt;

impl World {
    pub(super) fn epochs_of(&self) -> Vec<(PortId, Epoch)> {
        let of = |port| self.truth.pods.iter().find(|pod| pod.port == port).map_or(Epoch::NONE, Pod::epoch);
        (1..=PORTS).map(PortId).map(|port| (port, of(port))).collect()
    }

    /// As the server does it: only what differs.
    pub(super) fn tell_epochs(&mut self) {
        let mut changed = self.epochs_of();
        changed.retain(|(port, epoch)| self.shortcuts.epoch(*port) != *epoch);
        self.shortcuts.set_epochs(&changed);
    }

    pub(super) fn change_policy(&mut self) {
        if self.truth.pods.is_empty() {
            return;
        }
        self.next_revision += 1;
        let (one, other) = (
            self.rng.random_range(0..self.truth.pods.len()),
            self.rng.random_range(0..self.truth.pods.len()),
        );
        let (a, b) = (self.truth.pods[one].endpoint, self.truth.pods[other].endpoint);
        let ends = if self.chance(2) { (a, b) } else { (b, a) };
        self.truth.denied.retain(|_| self.rng.random_range(0..3) == 0);
        if self.chance(2) && a != b {
            self.truth.denied.insert(ends);
        }
        self.truth.pods[one].revision = self.next_revision;
        self.tally.revoked += 1;
        self.tell(format!("policy of {a:?}: denied {:?}", self.truth.denied));
        self.tell_epochs();
    }

    pub(super) fn worker_looks(&mut self) {
        self.worker = self.truth.clone();
        let worker = &self.worker;
        // What it finds forbidden or between others when it next sees a packet of it.
        self.known.retain(|key, ends| {
            worker.ends(key).is_some_and(|(from, to)| (from.endpoint, to.endpoint) == *ends)
                && !worker.denied.contains(ends)
        });
        self.tell("the worker looks".to_owned());
    }

    pub(super) fn attach(&mut self) {
        let free_port =
            (1..=PORTS).map(PortId).find(|port| self.truth.pods.iter().all(|pod| pod.port != *port));
        let mut addresses: Vec<_> = (1..=ADDRESSES).filter(|n| self.truth.at(*n).is_none()).collect();
        let mut links: Vec<_> =
            (0..LINKS).filter(|link| self.truth.pods.iter().all(|pod| pod.link != *link)).collect();
        let (Some(port), false) = (free_port, addresses.is_empty()) else { return };
        let address = addresses.swap_remove(self.rng.random_range(0..addresses.len()));
        let link = links.swap_remove(self.rng.random_range(0..links.len()));
        (self.next_endpoint, self.next_revision) = (self.next_endpoint + 1, self.next_revision + 1);
        let endpoint = EndpointId(self.next_endpoint);
        let [.., high, low] = self.next_endpoint.to_be_bytes();
        let pod = Pod {
            port,
            link,
            endpoint,
            revision: self.next_revision,
            address,
            mac: [2, 0, 0, high, low, 0x10],
            mtu: if self.chance(2) { 1500 } else { 1400 },
            is_captured: false,
        };
        let addresses = [4, 6].map(|family| super::super::frames::address(address, family));
        let entry = PortEntry::new(self.interfaces[link], pod.mtu, pod.mac, &addresses).unwrap();
        self.programs.set_port(port, entry).unwrap();
        self.truth.pods.push(pod);
        self.tally.attached += 1;
        self.tell(format!("attached: {pod:?}"));
        self.tell_epochs();
    }

    pub(super) fn detach(&mut self) {
        if self.truth.pods.len() < 2 {
            return;
        }
        let pod = self.truth.pods.swap_remove(self.rng.random_range(0..self.truth.pods.len()));
        self.tell(format!("detached: {}", pod.port));
        self.tell_epochs();
        self.programs.clear_port(pod.port).unwrap();
    }

    /// Ends the capture there is, or begins one.
    pub(super) fn capture(&mut self) {
        if self.truth.pods.is_empty() {
            return;
        }
        let any = self.rng.random_range(0..self.truth.pods.len());
        let one = self.truth.pods.iter().position(|pod| pod.is_captured).unwrap_or(any);
        self.capture_of(one, None);
    }

    /// One end of a flow that the kernel carries right now.
    pub(super) fn capture_end_of(&mut self, key: &FlowKey) {
        let Some((from, to)) = self.truth.ends(key).map(|(from, to)| (from.port, to.port)) else { return };
        let port = if self.chance(2) { from } else { to };
        if self.truth.pods.iter().all(|pod| !pod.is_captured)
            && let Some(one) = self.truth.pods.iter().position(|pod| pod.port == port)
        {
            self.capture_of(one, Some(*key));
        }
    }

    fn capture_of(&mut self, one: usize, carried: Option<FlowKey>) {
        let pod = &mut self.truth.pods[one];
        pod.is_captured = !pod.is_captured;
        let (port, begins) = (pod.port, pod.is_captured);
        if let Some(key) = std::mem::replace(&mut self.recalled, carried) {
            self.tally.recalled += u64::from(!begins && self.up.iter().any(|up| up.key == key));
        }
        self.tell(format!("captured {port}: {begins}"));
        self.tell_epochs();
    }

    /// A flow ends, and the worker says so.
    pub(super) fn end(&mut self) {
        let key = self.likely_key();
        for key in [key, key.reversed()] {
            if self.known.remove(&key).is_some() {
                self.requests.push(Request::Leave(key));
                self.tell(format!("ended: {}", named(&key)));
            }
        }
    }

    /// The worker's table gives a flow up by itself, and nobody hears of it until something was carried of it.
    pub(super) fn forget(&mut self) {
        let key = self.likely_key();
        self.known.remove(&key);
        self.tell(format!("forgot: {}", named(&key)));
    }

    pub(super) fn sweep(&mut self) {
        self.ahead_ms += [10, 300, 1_100, 11_000][self.rng.random_range(0..4)];
        let now_ms = self.now_ms();
        self.shortcuts.sweep(now_ms);
        self.tell(format!("swept, at {now_ms} ms"));
        self.read_mailboxes();
    }

    pub(super) fn read_mailboxes(&mut self) {
        for mailbox in &self.mailboxes {
            while let Some(command) = mailbox.take() {
                let Command::Carried(list) = command else { continue };
                for carried in list {
                    let sum = self.credited.entry(carried.key).or_default();
                    *sum = (sum.0 + carried.frames, sum.1 + carried.bytes);
                    let key = &carried.key;
                    if !self.known.contains_key(key) && !self.known.contains_key(&key.reversed()) {
                        self.requests.push(Request::Leave(*key));
                    }
                }
            }
        }
    }

    /// The next process takes up what is there.
    pub(super) fn restart(&mut self) {
        self.balance().unwrap();
        let (programs, mut shortcuts) = start(&self.pins, &self.mailboxes, &self.requests);
        let side_of =
            |key: &FlowKey| match (self.known.contains_key(key), self.known.contains_key(&key.reversed())) {
                (true, _) => Some(Side::Forward),
                (_, true) => Some(Side::Reply),
                _ => None,
            };
        shortcuts.adopt(&side_of, self.now_ms());
        while self.requests.pop().is_some() {}
        // Workers begin with what is in force.
        self.worker = self.truth.clone();
        let (truth, known) = (&self.truth, &self.known);
        shortcuts.set_epochs(&self.epochs_of());
        shortcuts.keep(&mut |flow| {
            let ends = truth.ends(&flow.key).map(|(from, to)| (from.endpoint, to.endpoint));
            ends.is_some_and(|ends| known.get(&flow.key) == Some(&ends) && !truth.denied.contains(&ends))
        });
        (self.programs, self.shortcuts) = (programs, shortcuts);
        self.established.retain(|key, ends| known.get(key) == Some(ends));
        // It counts anew, and so do its ports; what rows hold from before is a flow's own.
        let held = self.shortcuts.uncredited();
        self.credited.clear();
        self.passed = held;
        self.by_port.clear();
        self.tally.restarts += 1;
        self.tell("restarted".to_owned());
    }

    /// Is everything that passed in somebody's books?
    pub(in super::super) fn balance(&mut self) -> Result<(), String> {
        self.read_mailboxes();
        let mut booked = self.shortcuts.uncredited();
        for (key, more) in &self.credited {
            let sum = booked.entry(*key).or_default();
            *sum = (sum.0 + more.0, sum.1 + more.1);
        }
        booked.retain(|_, sum| *sum != (0, 0));
        let passed = self.passed.iter().filter(|(_, sum)| **sum != (0, 0));
        for (key, sum) in passed.clone() {
            if booked.get(key) != Some(sum) {
                return Err(format!(
                    "{sum:?} frames and bytes of {} passed, {:?} are booked",
                    named(key),
                    booked.get(key)
                ));
            }
        }
        if let Some((key, sum)) = booked.iter().find(|(key, _)| !self.passed.contains_key(key)) {
            return Err(format!("{sum:?} of {} are booked, which never passed", named(key)));
        }
        let counters = self.shortcuts.counters();
        for (port, passed) in &self.by_port {
            let port_counters = counters.port(*port);
            let booked = [
                port_counters.rx_frames.get(),
                port_counters.rx_bytes.get(),
                port_counters.tx_frames.get(),
                port_counters.tx_bytes.get(),
            ];
            if booked != *passed {
                return Err(format!("port {port} has {booked:?}, and sent and received {passed:?}"));
            }
        }
        self.tally.overflow = self.shortcuts.status().overflow;
        Ok(())
    }
}
