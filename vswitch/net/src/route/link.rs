//! Interfaces: veth pairs, bridges, and the attributes every link has.

use super::{About, Netlink};
use crate::NetError;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo, LinkMessage,
};
use std::collections::BTreeMap;
use std::fmt;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Names of interfaces are at most this long, in bytes (`IFNAMSIZ` without the terminator).
pub const NAME_LEN_MAX: usize = 15;

/// An interface as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Unique within the namespace.
    pub index: u32,
    pub name: String,
    /// All zero where the link has none.
    pub mac: [u8; 6],
    pub mtu: u32,
    /// Somebody set it up.
    pub is_up: bool,
    /// Up, and so is what is on the other end of the cable.
    pub has_carrier: bool,
    /// How often it got one.
    pub carrier_ups: u32,
    /// The index of the other end of a veth pair, in the namespace that end is in.
    pub peer_index: Option<u32>,
    /// The index of the bridge it is a port of.
    pub master: Option<u32>,
    /// `veth`, `bridge`, ...; absent for hardware and loopback.
    pub kind: Option<String>,
    pub tx_queues: u32,
    pub rx_queues: u32,
}

/// A veth pair to be made. `VethSpec { mac: Some(..), ..VethSpec::new("a", "b") }`
#[derive(Debug, Clone, Copy)]
pub struct VethSpec<'a> {
    pub name: &'a str,
    pub peer_name: &'a str,
    /// Of both ends.
    pub mtu: u32,
    /// The kernel chooses one when absent.
    pub mac: Option<[u8; 6]>,
    pub peer_mac: Option<[u8; 6]>,
    /// The namespace the peer is born in; the socket's own when absent.
    pub peer_netns: Option<BorrowedFd<'a>>,
    /// Transmit and receive queues; one of each per CPU when absent.
    pub queues: Option<(u32, u32)>,
    pub peer_queues: Option<(u32, u32)>,
}

impl<'a> VethSpec<'a> {
    /// Both ends in the socket's namespace, MTU 1500, the rest as the kernel likes it.
    pub fn new(name: &'a str, peer_name: &'a str) -> Self {
        VethSpec {
            name,
            peer_name,
            mtu: 1500,
            mac: None,
            peer_mac: None,
            peer_netns: None,
            queues: None,
            peer_queues: None,
        }
    }
}

/// A link named by its index, for errors.
struct ByIndex(u32);

impl fmt::Display for ByIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "with index {}", self.0)
    }
}

impl Netlink {
    /// Makes a veth pair, both ends down, in one step: there is no moment at which one end is in the wrong namespace or has
    /// another name. Returns the near end.
    pub fn create_veth(&self, spec: &VethSpec<'_>) -> Result<Link, NetError> {
        let about = About::new("create the veth", &spec.name);
        for name in [spec.name, spec.peer_name] {
            check_name(about, name)?;
        }
        let mut peer = LinkMessage::default();
        peer.attributes = end_attributes(spec.peer_name, spec.mtu, spec.peer_mac, spec.peer_queues);
        if let Some(netns) = spec.peer_netns {
            peer.attributes.push(LinkAttribute::NetNsFd(netns.as_raw_fd()));
        }
        let mut message = LinkMessage::default();
        message.attributes = end_attributes(spec.name, spec.mtu, spec.mac, spec.queues);
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
        ]));
        let pair = format!("{} with peer {}", spec.name, spec.peer_name);
        self.create(About::new("create the veth", &pair), message)?;
        self.existing(spec.name)
    }

    /// Makes a bridge, down.
    pub fn create_bridge(&self, name: &str) -> Result<Link, NetError> {
        let about = About::new("create the bridge", &name);
        check_name(about, name)?;
        let mut message = LinkMessage::default();
        message.attributes = vec![
            LinkAttribute::IfName(name.to_owned()),
            LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge)]),
        ];
        self.create(about, message)?;
        self.existing(name)
    }

    fn create(&self, about: About<'_>, message: LinkMessage) -> Result<(), NetError> {
        self.change(about, RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL)
    }

    /// The link of that name, if there is one.
    pub fn link(&self, name: &str) -> Result<Option<Link>, NetError> {
        if name.is_empty() || name.len() > NAME_LEN_MAX {
            return Ok(None);
        }
        let mut message = LinkMessage::default();
        message.attributes = vec![LinkAttribute::IfName(name.to_owned())];
        self.find(About::new("look up the link", &name), message)
    }

    /// The link of that index, if there is one.
    pub fn link_by_index(&self, index: u32) -> Result<Option<Link>, NetError> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        self.find(About::new("look up the link", &ByIndex(index)), message)
    }

    /// The link of that name; none is an error ([`NetError::is_not_found`]).
    pub fn existing(&self, name: &str) -> Result<Link, NetError> {
        self.link(name)?.ok_or_else(|| {
            About::new("look up the link", &name)
                .refused(libc::ENODEV, "there is no interface of that name here")
        })
    }

    fn find(&self, about: About<'_>, mut message: LinkMessage) -> Result<Option<Link>, NetError> {
        message.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
        match self.get(about, RouteNetlinkMessage::GetLink(message)) {
            Ok(answers) => Ok(answers.into_iter().find_map(as_link)),
            Err(error) if error.errno() == Some(libc::ENODEV) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Every link of the namespace.
    pub fn links(&self) -> Result<Vec<Link>, NetError> {
        let mut message = LinkMessage::default();
        message.attributes = vec![LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats])];
        let answers = self.dump(About::new("list", &"the links"), RouteNetlinkMessage::GetLink(message))?;
        Ok(answers.into_iter().filter_map(as_link).collect())
    }

    /// What each interface of the namespace dropped on receipt, by index: frames longer than its MTU allows, frames that came
    /// while it was down, and those that nobody took.
    pub fn dropped_on_receipt(&self) -> Result<BTreeMap<u32, u64>, NetError> {
        let message = RouteNetlinkMessage::GetLink(LinkMessage::default());
        let answers = self.dump(About::new("read the counters of", &"the links"), message)?;
        let dropped = answers.into_iter().filter_map(|answer| {
            let RouteNetlinkMessage::NewLink(message) = answer else { return None };
            let dropped = message.attributes.iter().find_map(|attribute| match attribute {
                LinkAttribute::Stats64(stats) => Some(stats.rx_dropped),
                _ => None,
            });
            Some((message.header.index, dropped?))
        });
        Ok(dropped.collect())
    }

    /// Sets a link up or down.
    pub fn set_up(&self, index: u32, up: bool) -> Result<(), NetError> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.header.change_mask = LinkFlags::Up;
        message.header.flags = if up { LinkFlags::Up } else { LinkFlags::empty() };
        let about = if up { "set up the link" } else { "set down the link" };
        self.change(About::new(about, &ByIndex(index)), RouteNetlinkMessage::SetLink(message), 0)
    }

    pub fn set_mtu(&self, index: u32, mtu: u32) -> Result<(), NetError> {
        self.set(index, "set the MTU of the link", LinkAttribute::Mtu(mtu))
    }

    pub fn set_mac(&self, index: u32, mac: [u8; 6]) -> Result<(), NetError> {
        self.set(index, "set the MAC address of the link", LinkAttribute::Address(mac.to_vec()))
    }

    /// Renames a link. Older kernels want it down for that.
    pub fn set_name(&self, index: u32, name: &str) -> Result<(), NetError> {
        check_name(About::new("rename a link to", &name), name)?;
        self.set(index, "rename the link", LinkAttribute::IfName(name.to_owned()))
    }

    /// Makes the link a port of a bridge, or of none.
    pub fn set_master(&self, index: u32, master: Option<u32>) -> Result<(), NetError> {
        self.set(index, "set the bridge of the link", LinkAttribute::Controller(master.unwrap_or(0)))
    }

    /// Moves a link to another namespace. It is down there, has lost its addresses, and may have another index.
    pub fn move_to_netns(&self, index: u32, netns: BorrowedFd<'_>) -> Result<(), NetError> {
        self.set(index, "move to another namespace the link", LinkAttribute::NetNsFd(netns.as_raw_fd()))
    }

    fn set(&self, index: u32, operation: &'static str, attribute: LinkAttribute) -> Result<(), NetError> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.attributes = vec![attribute];
        self.change(About::new(operation, &ByIndex(index)), RouteNetlinkMessage::SetLink(message), 0)
    }

    /// Deletes a link. The other end of a veth pair goes with it.
    pub fn delete_link(&self, index: u32) -> Result<(), NetError> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        self.change(About::new("delete the link", &ByIndex(index)), RouteNetlinkMessage::DelLink(message), 0)
    }
}

fn end_attributes(
    name: &str,
    mtu: u32,
    mac: Option<[u8; 6]>,
    queues: Option<(u32, u32)>,
) -> Vec<LinkAttribute> {
    let mut attributes = vec![LinkAttribute::IfName(name.to_owned()), LinkAttribute::Mtu(mtu)];
    attributes.extend(mac.map(|mac| LinkAttribute::Address(mac.to_vec())));
    if let Some((tx, rx)) = queues {
        attributes.extend([LinkAttribute::NumTxQueues(tx), LinkAttribute::NumRxQueues(rx)]);
    }
    attributes
}

/// The kernel's own rule (`dev_valid_name`), said before it can only say "numerical result out of range". A `%` would be a
/// pattern that the kernel fills in.
fn check_name(about: About<'_>, name: &str) -> Result<(), NetError> {
    let good = !name.is_empty()
        && name.len() <= NAME_LEN_MAX
        && name != "."
        && name != ".."
        && !name.contains(|c: char| c == '/' || c == ':' || c == '%' || c == '\0' || c.is_whitespace());
    match good {
        true => Ok(()),
        false => Err(about.refused(
            libc::EINVAL,
            format!("{name:?} cannot be an interface's name: 1 to {NAME_LEN_MAX} bytes without spaces, '/', ':' and '%'"),
        )),
    }
}

fn as_link(message: RouteNetlinkMessage) -> Option<Link> {
    let RouteNetlinkMessage::NewLink(message) = message else { return None };
    let flags = message.header.flags;
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        mac: [0; 6],
        mtu: 0,
        is_up: flags.contains(LinkFlags::Up),
        has_carrier: flags.contains(LinkFlags::LowerUp),
        carrier_ups: 0,
        peer_index: None,
        master: None,
        kind: None,
        tx_queues: 0,
        rx_queues: 0,
    };
    let mut below = None;
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::CarrierUpCount(ups) => link.carrier_ups = ups,
            LinkAttribute::Address(mac) => link.mac = mac.try_into().unwrap_or_default(),
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::Link(index) => below = Some(index),
            LinkAttribute::Controller(index) => link.master = Some(index),
            LinkAttribute::NumTxQueues(queues) => link.tx_queues = queues,
            LinkAttribute::NumRxQueues(queues) => link.rx_queues = queues,
            LinkAttribute::LinkInfo(infos) => {
                for info in infos {
                    if let LinkInfo::Kind(kind) = info {
                        link.kind = Some(kind.to_string());
                    }
                }
            }
            _ => {}
        }
    }
    // For other kinds IFLA_LINK is what the link lies on (a VLAN's device), not a peer.
    if link.kind.as_deref() == Some("veth") {
        link.peer_index = below.filter(|&index| index != 0);
    }
    Some(link)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_kernel_would_refuse_or_fill_in_are_refused_first() {
        let about = About::new("test", &"names");
        for bad in ["", ".", "..", "a/b", "a:b", "a b", "veth%d", "sixteen-bytes-xx"] {
            assert!(check_name(about, bad).is_err(), "{bad:?} was accepted");
        }
        assert!(check_name(about, "fifteen-bytes-x").is_ok());
    }
}
