//! The switch with the pods' veths as AF_XDP ports of their own: what the peers have. Policy, connection tracking and
//! everything else are as on the trunk, which is what pods get by default; what is left out is the trunk.

use super::Subject;
use super::ours::{new_drops, policy};
use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use penstock_api::DropReason;
use penstock_api::message::gateway;
use penstock_lab::{Lab, LabOptions, Place, Polling};
use penstock_net::route::{Route, VethSpec};
use penstock_net::{Netlink, Netns, offload, sysctl};
use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

/// How frames leave it: as the switch does it by default, many with one system call when there are many, or one by one by the
/// socket's ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sending {
    Default,
    Ring,
}

pub(crate) const INSTANCES: [&str; 2] = ["pt-direct", "pt-ring"];
const PODS: [(&str, u8); 2] = [("source", 201), ("sink", 202)];

#[derive(Debug)]
pub(crate) struct Direct {
    places: [Place; 2],
    lab: Lab,
    sending: Sending,
    process: u32,
    rules: usize,
    drops: Vec<(DropReason, u64)>,
    _dir: tempfile::TempDir,
}

impl Direct {
    /// As [`super::ours::Ours::make`].
    pub(crate) fn make(cpu: usize, rules: usize, ports: &[u16], sending: Sending) -> Result<Direct> {
        let instance = INSTANCES[usize::from(sending == Sending::Ring)];
        let dir = tempfile::tempdir()?;
        let config = dir.path().join("vswitch.toml");
        std::fs::write(&config, "")?;
        let mut switch_arguments =
            ["--cpus", &cpu.to_string(), "--shortcut", "off"].map(String::from).to_vec();
        if sending == Sending::Ring {
            switch_arguments.push("--bulk-transmit=off".to_owned());
        }
        let options = LabOptions {
            instance: Some(instance.to_owned()),
            workers: Some(1),
            polling: Some(Polling::Busy),
            switch_config: Some(config.clone()),
            switch_arguments,
            ..LabOptions::default()
        };
        let lab = Lab::start(&instance[3..], options)?;
        lab.try_apply("policy", &policy(rules, ports))?;
        let (mut places, mut toml) = (Vec::new(), String::new());
        for (pod, last) in PODS {
            lab.declare_pod("bench", pod, &[("app", pod)])?;
            let (address, mac) = (Ipv4Addr::new(10, 244, 0, last), [2, 0, 0, 0, 1, last]);
            places.push(appliance(&lab, pod, address, mac)?);
            let _ = write!(
                toml,
                "[[direct]]\ninterface = \"{pod}\"\nmode = \"native\"\naddresses = [\"{address}\"]\nmac = \
                 \"02:00:00:00:01:{last:02x}\"\npod = \"bench/{pod}\"\n"
            );
        }
        // The ports are read at the start, and the interfaces have to be there by then.
        lab.settled()?;
        stop_switch(&lab)?;
        std::fs::write(&config, toml)?;
        lab.start_switch()?;
        wait("policy for the direct ports", || Ok(lab.status()?.endpoints_ready >= PODS.len()))?;
        let process = lab.status()?.pid;
        let drops = lab.all_drops()?;
        let places = <[Place; 2]>::try_from(places).ok().context("two pods")?;
        Ok(Direct { places, process, rules, drops, lab, sending, _dir: dir })
    }
}

fn stop_switch(lab: &Lab) -> Result<()> {
    let process = lab.status()?.pid;
    kill(Pid::from_raw(i32::try_from(process)?), Signal::SIGTERM)?;
    wait("the switch's end", || Ok(!Path::new("/proc").join(process.to_string()).join("exe").exists()))
}

fn wait(what: &str, is_done: impl Fn() -> Result<bool>) -> Result<()> {
    let begin = Instant::now();
    while !is_done()? {
        ensure!(begin.elapsed() < Duration::from_secs(10), "{what} did not come");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// A pod nobody's plugin made: it knows its address and its gateway, and completes its checksums, for a wire does not.
fn appliance(lab: &Lab, name: &str, address: Ipv4Addr, mac: [u8; 6]) -> Result<Place> {
    let netns = Netns::create(&format!("{}-p-{name}", lab.instance()))?;
    let host = Netlink::open_in(lab.host().netns())?;
    let spec = VethSpec {
        peer_mac: Some(mac),
        peer_netns: Some(netns.as_fd()),
        queues: Some((1, 1)),
        peer_queues: Some((1, 1)),
        ..VethSpec::new(name, "eth0")
    };
    let outside = host.create_veth(&spec)?.index;
    let _ = netns.run(|| sysctl::set("net/ipv6/conf/default/disable_ipv6", "1"))?;
    netns.run(|| offload::set("eth0", "tx", false))??;
    // As the peers' pods have it. Frames in bulk are received by NAPI or not at all.
    netns.run(|| offload::set("eth0", "gro", true))??;
    let inside = Netlink::open_in(&netns)?;
    let eth0 = inside.existing("eth0")?.index;
    inside.add_address(eth0, IpAddr::from(address).into(), true)?;
    inside.set_up(eth0, true)?;
    host.set_up(outside, true)?;
    let next_hop = IpAddr::from(gateway::V4);
    inside.add_neighbour(eth0, next_hop, gateway::MAC.0, true)?;
    inside.add_route(&Route {
        gateway: Some(next_hop),
        link: Some(eth0),
        onlink: true,
        ..Route::to("0.0.0.0/0".parse()?)
    })?;
    Ok(Place::new(name, netns, vec![address.into()]))
}

impl Subject for Direct {
    fn name(&self) -> &'static str {
        match self.sending {
            Sending::Default => super::DIRECT,
            Sending::Ring => super::RING,
        }
    }

    fn version(&self) -> String {
        env!("CARGO_PKG_VERSION").to_owned()
    }

    fn describe(&self) -> String {
        let how = match self.sending {
            Sending::Default => "",
            Sending::Ring => "; bulk_transmit = \"off\"",
        };
        format!(
            "as penstock, {} rules each way, the pods' veths as native AF_XDP ports, GRO on at the pods{how}",
            self.rules
        )
    }

    fn places(&self) -> [&Place; 2] {
        self.places.each_ref()
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
}
