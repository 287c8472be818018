//! The baseline: the kernel's own bridge.

use super::Subject;
use super::ground::{Ground, PORTS};
use anyhow::Result;
use penstock_lab::Place;
use penstock_net::Netlink;

#[derive(Debug)]
pub(crate) struct Bridge(Ground);

impl Bridge {
    pub(crate) fn make(mtu: u16) -> Result<Bridge> {
        let ground = Ground::with_mtu("br", mtu)?;
        let netlink = Netlink::open_in(&ground.middle)?;
        let bridge = netlink.create_bridge("br0")?.index;
        for port in PORTS {
            netlink.set_master(netlink.existing(port)?.index, Some(bridge))?;
        }
        netlink.set_up(bridge, true)?;
        ground.set_gro(true)?;
        Ok(Bridge(ground))
    }
}

impl Subject for Bridge {
    fn name(&self) -> &'static str {
        super::BRIDGE
    }

    fn version(&self) -> String {
        super::kernel()
    }

    fn describe(&self) -> String {
        "GRO on the pods' host ends".to_owned()
    }

    fn places(&self) -> [&Place; 2] {
        self.0.places.each_ref()
    }

    fn next_hop(&self) -> [u8; 6] {
        self.0.macs[1]
    }

    fn process(&self) -> Option<u32> {
        None
    }
}
