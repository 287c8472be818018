//! What is measured: a way from one pod to another, that runs only in its turn.

pub(crate) mod bridge;
pub(crate) mod child;
pub(crate) mod direct;
pub(crate) mod ground;
pub(crate) mod loops;
pub(crate) mod ours;
pub(crate) mod ovs;
pub(crate) mod ovs_dpdk;
pub(crate) mod redirect;
pub(crate) mod testpmd;

use crate::figures::Account;
use anyhow::{Context, Result};
use penstock_lab::Place;

pub(crate) const USERSPACE: &str = "penstock userspace";
pub(crate) const SHORTCUT: &str = "penstock shortcut";
pub(crate) const DIRECT: &str = "penstock direct";
pub(crate) const RING: &str = "penstock direct, ring";
pub(crate) const BRIDGE: &str = "kernel bridge";
pub(crate) const REDIRECT: &str = "tc redirect_peer";
pub(crate) const LOOP: &str = "AF_XDP loop";
pub(crate) const LOOP_AFXDP: &str = "AF_XDP loop (afxdp crate)";
pub(crate) const OVS: &str = "OVS afxdp";
pub(crate) const TESTPMD: &str = "testpmd io";

pub(crate) trait Subject {
    fn name(&self) -> &'static str;
    fn version(&self) -> String;
    /// Settings, for the reader who wants to repeat it.
    fn describe(&self) -> String;
    /// Sender and receiver.
    fn places(&self) -> [&Place; 2];
    /// Where the sender's frames go.
    fn next_hop(&self) -> [u8; 6];
    /// The program that polls without end, if there is one.
    fn process(&self) -> Option<u32>;
    /// It runs only in its turn.
    fn set_running(&self, running: bool) -> Result<()> {
        self.process().map_or(Ok(()), |process| child::set_running(process, running))
    }
    /// Frames it dropped since it was last asked, by what it calls the reason.
    fn drops(&mut self) -> String {
        String::new()
    }
    /// What its userspace has sent so far, as the kernel counts it; of subjects that have another way too.
    fn sent_by_userspace(&self) -> Result<Option<Sent>> {
        Ok(None)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sent {
    pub(crate) frames: u64,
    pub(crate) bytes: u64,
}

pub(crate) fn account(subject: &dyn Subject) -> Account {
    Account { subject: subject.name().to_owned(), version: subject.version(), is: subject.describe() }
}

/// What TCP in pods does about congestion: the kernel's own default, whatever this machine's is. Others that pace by the rate they
/// measured (BBR) measure themselves: with it every path in the kernel gave a third of what it carries.
pub(crate) const CONGESTION_CONTROL: &str = "cubic";

/// TCP is the same between all pods.
pub(crate) fn equip(places: [&Place; 2]) -> Result<()> {
    for place in places {
        let set = || penstock_net::sysctl::set("net/ipv4/tcp_congestion_control", CONGESTION_CONTROL);
        place.netns().run(set)?.with_context(|| format!("TCP of {}", place.name()))?;
    }
    Ok(())
}

fn kernel() -> String {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("Linux {}", release.trim())
}
