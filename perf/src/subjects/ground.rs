//! What the peers stand on: two pods, each on a veth pair of the same kind as a pod of the switch, whose other ends are
//! together in a namespace of their own.

use super::child::Child;
use anyhow::{Context, Result};
use ipnet::IpNet;
use penstock_lab::Place;
use penstock_net::route::VethSpec;
use penstock_net::{Netlink, Netns, offload, sysctl};
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd;
use std::path::Path;
use tempfile::TempDir;

const PREFIX: &str = "pt-bench-";
pub(crate) const MTU_USUAL: u16 = 1500;
/// The ends in the middle.
pub(crate) const PORTS: [&str; 2] = ["port1", "port2"];

/// Two places and what lies between. Its namespaces go with it, and with them the interfaces.
#[derive(Debug)]
pub(crate) struct Ground {
    names: Vec<String>,
    pub(crate) middle: Netns,
    pub(crate) places: [Place; 2],
    /// Of the pods' interfaces.
    pub(crate) macs: [[u8; 6]; 2],
}

/// Removes namespaces as they come, so that a ground half made leaves nothing.
struct Names(Vec<String>);

impl Names {
    fn make(&mut self, name: String) -> Result<Netns> {
        let netns = Netns::create(&name)?;
        self.0.push(name);
        Ok(netns)
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        for name in &self.0 {
            if let Err(error) = Netns::delete(name) {
                eprintln!("compare: {error}; remove it with 'ip netns delete {name}'");
            }
        }
    }
}

impl Ground {
    pub(crate) fn make(peer: &str) -> Result<Ground> {
        Ground::with_mtu(peer, MTU_USUAL)
    }

    pub(crate) fn with_mtu(peer: &str, mtu: u16) -> Result<Ground> {
        let prefix = name(peer);
        let mut names = Names(vec![]);
        let middle = names.make(prefix.clone())?;
        middle.run(|| {
            // Nobody but the pods speaks here.
            let _ = sysctl::set("net/ipv6/conf/all/disable_ipv6", "1");
            let _ = sysctl::set("net/ipv6/conf/default/disable_ipv6", "1");
        })?;
        let in_middle = Netlink::open_in(&middle)?;
        let mut ends = Vec::new();
        for (n, port) in (1u8..).zip(PORTS) {
            let netns = names.make(format!("{prefix}-{n}"))?;
            let _ = netns.run(|| sysctl::set("net/ipv6/conf/default/disable_ipv6", "1"))?;
            let spec =
                VethSpec { mtu: mtu.into(), peer_netns: Some(netns.as_fd()), ..VethSpec::new(port, "eth0") };
            let port = in_middle.create_veth(&spec)?.index;
            in_middle.set_up(port, true)?;
            let address = IpAddr::from(Ipv4Addr::new(192, 0, 2, n));
            let netlink = Netlink::open_in(&netns)?;
            let eth0 = netlink.existing("eth0")?;
            netlink.add_address(eth0.index, IpNet::new(address, 24)?, false)?;
            netlink.set_up(eth0.index, true)?;
            ends.push((Place::new(format!("{peer} {n}"), netns, vec![address]), eth0.mac));
        }
        let [(one, mac1), (two, mac2)] = <[_; 2]>::try_from(ends).ok().context("two ends")?;
        let names = std::mem::take(&mut names.0);
        Ok(Ground { names, middle, places: [one, two], macs: [mac1, mac2] })
    }

    /// The ends of a veth deliver frames made by the kernel only when they run NAPI.
    pub(crate) fn set_gro(&self, on: bool) -> Result<()> {
        self.middle.run(|| PORTS.iter().try_for_each(|port| offload::set(port, "gro", on)))??;
        Ok(())
    }

    /// For peers that pass frames on by AF_XDP: pods complete checksums themselves, as a wire wants it, and receive with GRO, as ours
    /// on such ports do.
    pub(crate) fn be_wires(&self) -> Result<()> {
        for place in &self.places {
            place.run(|| offload::set("eth0", "tx", false))?;
            place.run(|| offload::set("eth0", "gro", true))?;
        }
        Ok(())
    }

    /// A program inside the middle, that ends with this one whatever happens.
    pub(crate) fn command(&self, program: &str) -> std::process::Command {
        Child::command(&self.middle, program)
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        drop(Names(std::mem::take(&mut self.names)));
    }
}

/// What a peer's namespaces and files are called.
pub(crate) fn name(peer: &str) -> String {
    format!("{PREFIX}{}-{peer}", std::process::id())
}

/// A directory for a peer's files.
pub(crate) fn directory(peer: &str) -> Result<TempDir> {
    Ok(tempfile::Builder::new().prefix(&name(peer)).rand_bytes(0).tempdir()?)
}

/// Removes the namespaces and directories that benchmarks left which were killed.
pub(crate) fn sweep() {
    let is_wanted = |process: &str| !process.is_empty() && !Path::new("/proc").join(process).exists();
    let names = |dir: &Path| -> Vec<String> {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        let process = |name: &String| name.strip_prefix(PREFIX)?.split('-').next().map(is_wanted);
        names.filter(|name| process(name) == Some(true)).collect()
    };
    for name in names(Path::new("/run/netns")) {
        let _ = Netns::delete(&name);
    }
    let directories = std::env::temp_dir();
    for name in names(&directories) {
        let _ = std::fs::remove_dir_all(directories.join(name));
    }
}
