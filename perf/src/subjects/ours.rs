//! The switch itself: two pods attached by the CNI plugin, under a policy of many rules, connections tracked; every frame
//! through userspace, or established flows in the kernel.

use super::{Sent, Subject};
use crate::load::DESTINATION_PORT;
use anyhow::{Context, Result};
use penstock_api::DropReason;
use penstock_api::WorkerId;
use penstock_api::instance::inside::trunk_near;
use penstock_api::message::gateway;
use penstock_lab::{Lab, LabOptions, Place, Pod, Polling};
use penstock_net::{Netns, offload};
use std::fmt::Write;

pub(crate) const INSTANCES: [&str; 2] = ["pt-measure", "pt-shortcut"];

/// Does the kernel carry established flows by itself?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shortcut {
    On,
    Off,
}

impl Shortcut {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Shortcut::Off => super::USERSPACE,
            Shortcut::On => super::SHORTCUT,
        }
    }

    pub(crate) fn value(self) -> &'static str {
        match self {
            Shortcut::Off => "off",
            Shortcut::On => "on",
        }
    }

    /// Beside a worker that spins what passes in the kernel on the other CPU of a small machine is half as fast, and the worker
    /// has nothing to do: then it sleeps, as it does by default.
    pub(crate) fn polling(self) -> Polling {
        match self {
            Shortcut::Off => Polling::Busy,
            Shortcut::On => Polling::Adaptive,
        }
    }

    pub(crate) fn words(self) -> &'static str {
        match self {
            Shortcut::Off => "shortcut off, polling busy",
            Shortcut::On => "shortcut on, polling adaptive",
        }
    }
}

#[derive(Debug)]
pub(crate) struct Ours {
    places: [Pod; 2],
    lab: Lab,
    /// Of the switch's own namespace.
    netns: Netns,
    process: u32,
    rules: usize,
    shortcut: Shortcut,
    drops: Vec<(DropReason, u64)>,
}

impl Ours {
    /// One worker, on `cpu`. `ports`: what the receiver may be reached on beside the load's port.
    pub(crate) fn make(cpu: usize, rules: usize, ports: &[u16], shortcut: Shortcut) -> Result<Ours> {
        let instance = INSTANCES[usize::from(shortcut == Shortcut::On)];
        let options = LabOptions {
            instance: Some(instance.to_owned()),
            workers: Some(1),
            polling: Some(shortcut.polling()),
            switch_arguments: ["--cpus", &cpu.to_string(), "--shortcut", shortcut.value()]
                .map(str::to_owned)
                .to_vec(),
            ..LabOptions::default()
        };
        let lab = Lab::start("bench", options)?;
        lab.try_apply("policy", &policy(rules, ports))?;
        let source = lab.add_pod("bench", "source", &[("app", "source")])?;
        let sink = lab.add_pod("bench", "sink", &[("app", "sink")])?;
        // Live frames reach a veth only where it runs NAPI; every subject of the comparison has it.
        let netns = Netns::open(lab.instance().netns())?;
        for port in lab.ports()?.iter().filter(|port| port.kind == "pod") {
            netns.run(|| offload::set(&port.interface, "gro", true))??;
        }
        let process = lab.status()?.pid;
        let drops = lab.all_drops()?;
        Ok(Ours { places: [source, sink], process, rules, shortcut, drops, netns, lab })
    }
}

/// `rules` ports are open to the sender, the load's and `ports` among them; everything else is shut, both ways.
pub(crate) fn policy(rules: usize, ports: &[u16]) -> String {
    let mut open = String::new();
    let mut list = |protocol: &str, port: u16| {
        let _ = writeln!(open, "    - {{protocol: {protocol}, port: {port}}}");
    };
    list("UDP", DESTINATION_PORT);
    ports.iter().for_each(|port| list("TCP", *port));
    // Every other port, so that no range covers several.
    for n in 0..rules.saturating_sub(1 + ports.len()) {
        list("UDP", 10_000 + 2 * n as u16);
    }
    let half = |name: &str, app: &str, other: &str, direction: &str, peer: &str| {
        format!(
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{namespace: bench, name: {name}}}\nspec:\n  \
             podSelector: {{matchLabels: {{app: {app}}}}}\n  policyTypes: [{direction}]\n  {}:\n  - {peer}:\n    - \
             podSelector: {{matchLabels: {{app: {other}}}}}\n    ports:\n{open}---\n",
            direction.to_lowercase()
        )
    };
    half("in", "sink", "source", "Ingress", "from") + &half("out", "source", "sink", "Egress", "to")
}

impl Subject for Ours {
    fn name(&self) -> &'static str {
        self.shortcut.name()
    }

    fn version(&self) -> String {
        env!("CARGO_PKG_VERSION").to_owned()
    }

    fn describe(&self) -> String {
        format!(
            "1 worker, {}, {} rules each way, conntrack on, GRO on the pods' host ends",
            self.shortcut.words(),
            self.rules
        )
    }

    fn places(&self) -> [&Place; 2] {
        let [source, sink] = &self.places;
        [source, sink]
    }

    fn next_hop(&self) -> [u8; 6] {
        gateway::MAC.0
    }

    fn process(&self) -> Option<u32> {
        Some(self.process)
    }

    fn drops(&mut self) -> String {
        new_drops(&self.lab, &mut self.drops)
    }

    fn sent_by_userspace(&self) -> Result<Option<Sent>> {
        // What the worker sends enters the kernel by its trunk's near end, and nothing else does.
        let near = trunk_near(WorkerId(0));
        let counters = self.netns.run(|| std::fs::read_to_string("/proc/thread-self/net/dev"))??;
        received(&counters, &near).map(Some).with_context(|| format!("no counters of {near}"))
    }
}

/// From `/proc/net/dev`.
fn received(counters: &str, interface: &str) -> Option<Sent> {
    let line = counters.lines().find_map(|line| line.trim().strip_prefix(interface)?.strip_prefix(':'))?;
    let mut numbers = line.split_whitespace().map(str::parse);
    let (bytes, frames) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
    Some(Sent { frames, bytes })
}

/// What a switch dropped since `seen` was written, and writes it anew.
pub(super) fn new_drops(lab: &Lab, seen: &mut Vec<(DropReason, u64)>) -> String {
    let Ok(now) = lab.all_drops() else { return String::new() };
    let before = |reason| seen.iter().find(|(r, _)| *r == reason).map_or(0, |(_, frames)| *frames);
    let new: Vec<String> = now
        .iter()
        .map(|(reason, frames)| (reason, frames - before(*reason)))
        .filter(|(_, frames)| *frames > 0)
        .map(|(reason, frames)| format!("{reason} {frames}"))
        .collect();
    *seen = now;
    new.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counters_of_one_interface_are_not_those_of_another_whose_name_begins_alike() {
        let counters =
            "Inter-|   Receive\n face |bytes packets\ntrunk01: 1 2 0\ntrunk0:  700       8    0    0\n";
        assert_eq!(received(counters, "trunk0"), Some(Sent { frames: 8, bytes: 700 }));
        assert_eq!(received(counters, "trunk1"), None);
    }
}
