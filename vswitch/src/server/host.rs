//! The node's own addresses: whoever has one as a source is the host.

use penstock_api::Instance;
use penstock_net::{NetError, Netlink};
use std::net::IpAddr;

/// Where the node's addresses are read.
pub struct HostAddresses(Box<dyn FnMut() -> Result<Vec<IpAddr>, String> + Send>);

impl HostAddresses {
    /// Any source of addresses.
    pub fn from_fn(read: impl FnMut() -> Result<Vec<IpAddr>, String> + Send + 'static) -> Self {
        HostAddresses(Box::new(read))
    }

    /// The interfaces of the namespace the calling thread is in now, whatever namespace it may be in later.
    ///
    /// Loopback addresses never leave the node. Link-local IPv6 addresses mean nothing beyond their own link, so only those
    /// of the host's interface to this switch count; a stranger's packet cannot carry them through the host's routing.
    pub fn of_this_namespace(instance: &Instance) -> Result<Self, NetError> {
        let netlink = Netlink::open()?;
        let own = instance.host_interface();
        Ok(HostAddresses::from_fn(move || read(&netlink, &own).map_err(|error| error.to_string())))
    }

    /// Sorted, without duplicates.
    pub(crate) fn read(&mut self) -> Result<Vec<IpAddr>, String> {
        let mut addresses = (self.0)()?;
        addresses.sort();
        addresses.dedup();
        Ok(addresses)
    }
}

impl std::fmt::Debug for HostAddresses {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HostAddresses")
    }
}

fn read(netlink: &Netlink, own: &str) -> Result<Vec<IpAddr>, NetError> {
    let own = netlink.link(own)?.map(|link| link.index);
    let is_link_local = |address: IpAddr| matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
    let addresses = netlink.addresses()?.into_iter();
    Ok(addresses
        .filter(|a| !a.net.addr().is_loopback())
        .filter(|a| !is_link_local(a.net.addr()) || own == Some(a.index))
        .map(|a| a.net.addr())
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_address_is_not_the_nodes() {
        let addresses = HostAddresses::of_this_namespace(&Instance::default()).unwrap().read().unwrap();
        assert!(addresses.iter().all(|address| !address.is_loopback()), "{addresses:?}");
    }
}
