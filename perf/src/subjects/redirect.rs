//! The fastest the kernel can be: a tc program on each pod's host end that hands every frame to the other pod
//! (`bpf_redirect_peer`), segments uncut, and asks nothing.

use super::Subject;
use super::ground::{Ground, PORTS};
use anyhow::{Context, Result};
use aya::Ebpf;
use aya::maps::{Array, MapData};
use aya::programs::tc::TcAttachOptions;
use aya::programs::{LinkOrder, SchedClassifier, TcAttachType, tc};
use penstock_lab::Place;
use penstock_net::Netlink;

pub(super) static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/peers.bpf.o"));

/// The program's links end with it.
#[derive(Debug)]
pub(crate) struct RedirectPeer {
    _ebpf: Ebpf,
    ground: Ground,
    how: &'static str,
}

impl RedirectPeer {
    pub(crate) fn make(mtu: u16) -> Result<RedirectPeer> {
        let ground = Ground::with_mtu("redir", mtu)?;
        // As at a pod of the switch; the load needs it.
        ground.set_gro(true)?;
        let mut ebpf = Ebpf::load(OBJECT).context("the kernel refused the program")?;
        let netlink = Netlink::open_in(&ground.middle)?;
        let [one, two] = [netlink.existing(PORTS[0])?.index, netlink.existing(PORTS[1])?.index];
        let mut across = Array::<MapData, u32>::try_from(ebpf.take_map("ACROSS").context("no ACROSS")?)?;
        across.set(one, two, 0)?;
        across.set(two, one, 0)?;
        let program: &mut SchedClassifier = ebpf.program_mut("across").context("no across")?.try_into()?;
        program.load()?;
        let how = ground.middle.run(|| attach(program))??;
        Ok(RedirectPeer { _ebpf: ebpf, ground, how })
    }
}

/// A TCX link where the kernel has them (6.6), as the switch does; else a filter.
fn attach(program: &mut SchedClassifier) -> Result<&'static str> {
    let tcx = PORTS.iter().try_for_each(|port| {
        let options = TcAttachOptions::TcxOrder(LinkOrder::default());
        program.attach_with_options(port, TcAttachType::Ingress, options).map(drop)
    });
    if tcx.is_ok() {
        return Ok("TCX");
    }
    for port in PORTS {
        let _ = tc::qdisc_add_clsact(port);
        let options = TcAttachOptions::Netlink(aya::programs::tc::NlOptions::default());
        program.attach_with_options(port, TcAttachType::Ingress, options)?;
    }
    Ok("clsact")
}

impl Subject for RedirectPeer {
    fn name(&self) -> &'static str {
        super::REDIRECT
    }

    fn version(&self) -> String {
        super::kernel()
    }

    fn describe(&self) -> String {
        format!(
            "a {} program of one bpf_redirect_peer on each pod's host end, GRO on them; no look-up of flows, no policy",
            self.how
        )
    }

    fn places(&self) -> [&Place; 2] {
        self.ground.places.each_ref()
    }

    fn next_hop(&self) -> [u8; 6] {
        self.ground.macs[1]
    }

    fn process(&self) -> Option<u32> {
        None
    }
}
