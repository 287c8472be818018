//! Where a load is sent: from pod to pod, through this switch on a node of its own, or through anything else a comparison can make.

use crate::figures::Account;
use crate::interrupt;
use crate::load::Source;
use crate::load::flows::{DESTINATION_PORT, FLOWS_MAX, destination_ports};
use crate::load::size::Sizes;
use crate::placement;
use crate::subjects::ground::MTU_USUAL;
use crate::subjects::ours::Shortcut;
use crate::subjects::{
    Subject, account, bridge, child, direct, equip, ground, loops, ovs, redirect, testpmd,
};
use anyhow::{Context, Result, ensure};
use penstock_api::message::gateway;
use penstock_lab::{Lab, LabOptions, Place, Pod, Polling};
use penstock_net::{Netns, offload};
use std::fmt::Write;
use std::time::{Duration, Instant};

/// What answers questions on a connection.
pub(crate) const ECHO_PORT: u16 = 5432;
/// Rules each way of a subject whose policy is fixed.
const FIXED_RULES: usize = 1000;
const POLICIES_TIMEOUT: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Over {
    /// This switch as it comes: what is established and allowed stays in the kernel
    Shortcut,
    /// This switch, every frame through its worker
    Userspace,
    /// This switch, the pods' veths as AF_XDP ports of their own
    Direct,
    /// The kernel's bridge
    Bridge,
    /// bpf_redirect_peer from pod to pod, and nothing else
    Redirect,
    /// A bare loop between two AF_XDP sockets
    Loop,
    /// Open vSwitch with ports of type afxdp
    Ovs,
    /// DPDK testpmd on AF_XDP
    Testpmd,
}

#[derive(Debug, clap::Args)]
pub(crate) struct WayArguments {
    /// What is between the pods.
    #[arg(long, value_enum, default_value = "shortcut")]
    pub(crate) over: Over,
    /// The CPU of the generator and of all the kernel does for the sending pod.
    #[arg(long, default_value_t = placement::LOAD_CPU, value_name = "N")]
    pub(crate) load_cpu: usize,
    /// The CPU of the polling thread.
    #[arg(long, default_value_t = placement::WORKER_CPU, value_name = "N")]
    pub(crate) worker_cpu: usize,
    /// What the switch's worker does without work [default: busy; with the shortcut adaptive].
    #[arg(long, value_enum)]
    pub(crate) polling: Option<Polling>,
    /// Further arguments of the switch: --switch-argument=--budget=128
    #[arg(long, value_name = "ARGUMENT")]
    pub(crate) switch_argument: Vec<String>,
}

/// Two pods and what is between them. Everything it made goes with it.
pub(crate) struct Way {
    kind: Kind,
    mtu: u16,
    load_cpu: usize,
    worker_cpu: usize,
}

enum Kind {
    Switch(Box<Switch>),
    Other(Box<dyn Subject>),
}

struct Switch {
    places: [Pod; 2],
    /// After the pods: it removes their namespaces.
    lab: Lab,
    shortcut: Shortcut,
    polling: Polling,
    arguments: Vec<String>,
}

impl WayArguments {
    /// For frames of these sizes, and so many flows.
    pub(crate) fn make(&self, mtu: u16, flows_max: u32) -> Result<Way> {
        ensure!(nix::unistd::geteuid().is_root(), "this makes network namespaces: run it as root");
        let cpus = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
        let highest = self.load_cpu.max(self.worker_cpu);
        ensure!(
            cpus > highest && self.load_cpu != self.worker_cpu,
            "the load (CPU {}) and what is measured (CPU {}) want a CPU each; this machine has {cpus}",
            self.load_cpu,
            self.worker_cpu
        );
        ground::sweep();
        let mtu = mtu.max(MTU_USUAL);
        let ports = [ECHO_PORT, DESTINATION_PORT];
        let kind = match self.over {
            Over::Shortcut => Kind::Switch(Box::new(self.switch(Shortcut::On, mtu, flows_max)?)),
            Over::Userspace => Kind::Switch(Box::new(self.switch(Shortcut::Off, mtu, flows_max)?)),
            Over::Direct => Kind::Other(Box::new(direct::Direct::make(
                self.worker_cpu,
                FIXED_RULES,
                &ports,
                direct::Sending::Default,
            )?)),
            Over::Bridge => Kind::Other(Box::new(bridge::Bridge::make(mtu)?)),
            Over::Redirect => Kind::Other(Box::new(redirect::RedirectPeer::make(mtu)?)),
            Over::Loop => Kind::Other(Box::new(loops::Loop::with_xsk_rs(self.worker_cpu)?)),
            Over::Ovs => Kind::Other(Box::new(ovs::Ovs::make(self.worker_cpu)?)),
            Over::Testpmd => Kind::Other(Box::new(testpmd::Testpmd::make(self.worker_cpu, self.load_cpu)?)),
        };
        let mtu = match self.over {
            Over::Shortcut | Over::Userspace | Over::Bridge | Over::Redirect => mtu,
            // An AF_XDP port of these has what fits a page.
            Over::Direct | Over::Loop | Over::Ovs | Over::Testpmd => MTU_USUAL,
        };
        let way = Way { kind, mtu, load_cpu: self.load_cpu, worker_cpu: self.worker_cpu };
        child::favour(std::process::id());
        way.process()?.into_iter().for_each(child::favour);
        equip(way.places())?;
        way.places()[1].listen_tcp(ECHO_PORT);
        Ok(way)
    }

    fn switch(&self, shortcut: Shortcut, mtu: u16, flows_max: u32) -> Result<Switch> {
        let polling = self.polling.unwrap_or_else(|| shortcut.polling());
        let mut arguments = ["--cpus", &self.worker_cpu.to_string()].map(str::to_owned).to_vec();
        arguments.extend(["--shortcut", shortcut.value()].map(str::to_owned));
        // Room for what a hash table wants beside.
        let flows_wanted = u64::from(flows_max) * 2;
        if flows_wanted > 131_072 {
            arguments.extend(["--flows-max".to_owned(), flows_wanted.next_power_of_two().to_string()]);
        }
        arguments.extend(self.switch_argument.iter().cloned());
        let options = LabOptions {
            workers: Some(1),
            polling: Some(polling),
            mtu,
            switch_arguments: arguments.clone(),
            ..LabOptions::default()
        };
        let lab = Lab::start("load", options)?;
        let source = lab.add_pod("load", "source", &[("app", "source")])?;
        let sink = lab.add_pod("load", "sink", &[("app", "sink")])?;
        // Live frames reach a veth only where it runs NAPI.
        let netns = Netns::open(lab.instance().netns())?;
        for port in lab.ports()?.iter().filter(|port| port.kind == "pod") {
            netns.run(|| offload::set(&port.interface, "gro", true))??;
        }
        Ok(Switch { places: [source, sink], lab, shortcut, polling, arguments })
    }
}

impl Way {
    pub(crate) fn name(&self) -> &'static str {
        match &self.kind {
            Kind::Switch(switch) => switch.shortcut.name(),
            Kind::Other(subject) => subject.name(),
        }
    }

    /// Who takes part, in which version and how it is set up.
    pub(crate) fn account(&self) -> Account {
        match &self.kind {
            Kind::Switch(switch) => Account {
                subject: self.name().to_owned(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                is: format!(
                    "1 worker, shortcut {}, polling {}, conntrack on, MTU {}, {}, GRO on the pods' host ends",
                    switch.shortcut.value(),
                    switch.polling.name(),
                    self.mtu,
                    switch.arguments.join(" ")
                ),
            },
            Kind::Other(subject) => account(&**subject),
        }
    }

    /// Of the pods.
    pub(crate) fn mtu(&self) -> u16 {
        self.mtu
    }

    pub(crate) fn placement(&self) -> String {
        placement::between_pods(self.load_cpu, self.worker_cpu)
    }

    pub(crate) fn places(&self) -> [&Place; 2] {
        match &self.kind {
            Kind::Switch(switch) => {
                let [source, sink] = &switch.places;
                [source, sink]
            }
            Kind::Other(subject) => subject.places(),
        }
    }

    pub(crate) fn source(&self) -> Result<Source<'_>> {
        let [from, to] = self.places();
        let next_hop = match &self.kind {
            Kind::Switch(_) => gateway::MAC.0,
            Kind::Other(subject) => subject.next_hop(),
        };
        Source::between(from, to, next_hop)
    }

    pub(crate) fn load_cpu(&self) -> usize {
        self.load_cpu
    }

    fn process(&self) -> Result<Option<u32>> {
        match &self.kind {
            Kind::Switch(switch) => Ok(Some(switch.lab.status()?.pid)),
            Kind::Other(subject) => Ok(subject.process()),
        }
    }

    /// So many NetworkPolicies are in force from here on, and the load passes them. False: this path has none to set.
    pub(crate) fn set_policies(&self, policies: usize) -> Result<bool> {
        let Kind::Switch(switch) = &self.kind else { return Ok(false) };
        // Ten thousand policies on a machine that has other things to do take longer than a test would wait.
        let mut result = switch.lab.try_apply("policy", &policies_yaml(policies));
        let began = Instant::now();
        while result.is_err() && began.elapsed() < POLICIES_TIMEOUT {
            interrupt::check()?;
            result = switch.lab.settled();
        }
        result?;
        // Neighbours are found, and the path is shown to work, before anything is measured.
        let [from, to] = self.places();
        from.round_trips(to.v4(), ECHO_PORT, 10).context("the pods cannot talk")?;
        Ok(true)
    }
}

/// Half of them select the receiver and half the sender, each opens one port; the first of each what the load and TCP need.
fn policies_yaml(policies: usize) -> String {
    let load = destination_ports(FLOWS_MAX);
    let mut yaml = String::new();
    for n in 0..policies {
        let (direction, list, app, other) = match n % 2 {
            0 => ("Ingress", "from", "sink", "source"),
            _ => ("Egress", "to", "source", "sink"),
        };
        let ports = match n / 2 {
            0 => format!(
                "[{{protocol: UDP, port: {0}, endPort: {1}}}, {{protocol: TCP, port: {0}, endPort: {1}}}, {{protocol: TCP, port: {ECHO_PORT}}}]",
                load.start(),
                load.end()
            ),
            // Every other port, so that no range covers several.
            k => format!("[{{protocol: UDP, port: {}}}]", 10_000 + 2 * (k % 25_000)),
        };
        let _ = write!(
            yaml,
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{namespace: load, name: p{n}}}\nspec:\n  podSelector: \
             {{matchLabels: {{app: {app}}}}}\n  policyTypes: [{direction}]\n  {}:\n  - {list}: [{{podSelector: {{matchLabels: \
             {{app: {other}}}}}}}]\n    ports: {ports}\n---\n",
            direction.to_lowercase()
        );
    }
    yaml
}

/// Sizes that need no more than the usual MTU, and those that do: a path is made for each.
pub(crate) fn by_mtu(sizes: &[Sizes]) -> Vec<(u16, Vec<Sizes>)> {
    let (usual, long): (Vec<Sizes>, Vec<Sizes>) = sizes.iter().partition(|size| size.mtu() <= MTU_USUAL);
    let mtu = long.iter().map(|size| size.mtu()).max().unwrap_or_default().max(9000);
    [(MTU_USUAL, usual), (mtu, long)].into_iter().filter(|(_, sizes)| !sizes.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_policies_are_written_as_are_asked_for() {
        for policies in [1, 2, 1000] {
            let yaml = policies_yaml(policies);
            assert_eq!(yaml.matches("kind: NetworkPolicy").count(), policies);
            assert!(yaml.contains("endPort: 5016"));
        }
    }

    #[test]
    fn long_frames_get_a_path_of_their_own() {
        let sizes = ["64", "9000", "imix"].map(|size| size.parse::<Sizes>().unwrap());
        let by_mtu = by_mtu(&sizes);
        assert_eq!(by_mtu, [(1500, vec![sizes[0], sizes[2]]), (9000, vec![sizes[1]])]);
    }
}
