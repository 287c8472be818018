//! What a link can do with XDP, and when that changes: the kernel's generic netlink family `netdev` (Linux 6.3).
//!
//! Who redirects frames into a link must know whether it takes them: the kernel drops them otherwise and tells nobody. A veth takes
//! them while its other end runs NAPI, that is while GRO is on there or an XDP program attached, and says so here.

use crate::{NetError, Netns};
use netlink_sys::protocols::NETLINK_GENERIC;
use netlink_sys::{Socket, SocketAddr};
use std::cell::Cell;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

/// Frames that are redirected into the link are sent (`NETDEV_XDP_ACT_NDO_XMIT`).
pub const TAKES_REDIRECTED: u64 = 1 << 2;

const FAMILY: &[u8] = b"netdev\0";
const GROUP: &[u8] = b"mgmt\0";
const HEADER_LEN: usize = 16;
const GENERIC_HEADER_LEN: usize = 4;
const RECEIVE_MAX: usize = 32 * 1024;
// `include/uapi/linux/genetlink.h`
const GENL_ID_CTRL: u16 = 0x10;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
const CTRL_ATTR_MCAST_GROUPS: u16 = 7;
const CTRL_ATTR_MCAST_GRP_NAME: u16 = 1;
const CTRL_ATTR_MCAST_GRP_ID: u16 = 2;
// `include/uapi/linux/netdev.h`
const NETDEV_CMD_DEV_GET: u8 = 1;
const NETDEV_CMD_DEV_ADD_NTF: u8 = 2;
const NETDEV_CMD_DEV_CHANGE_NTF: u8 = 4;
const NETDEV_A_DEV_IFINDEX: u16 = 1;
const NETDEV_A_DEV_XDP_FEATURES: u16 = 3;

/// Asks about the links of one namespace, and hears of changes there since it was opened.
pub struct XdpFeatures {
    asking: Socket,
    told: Socket,
    family: u16,
    sequence: Cell<u32>,
}

impl std::fmt::Debug for XdpFeatures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("XdpFeatures").field("family", &self.family).finish_non_exhaustive()
    }
}

impl XdpFeatures {
    /// In the namespace of the calling thread. Fails on kernels before 6.3.
    pub fn open() -> Result<XdpFeatures, NetError> {
        let failed = |error: io::Error| NetError::io("ask for", "what links can do with XDP", &error);
        let open = || -> io::Result<Socket> {
            let mut socket = Socket::new(NETLINK_GENERIC)?;
            socket.bind_auto()?;
            Ok(socket)
        };
        let asking = open().map_err(failed)?;
        asking.connect(&SocketAddr::new(0, 0)).map_err(failed)?;
        let mut told = open().map_err(failed)?;
        let mut features = XdpFeatures { asking, told, family: 0, sequence: Cell::new(0) };
        let name = attribute(CTRL_ATTR_FAMILY_NAME, FAMILY);
        let answer = features.ask(GENL_ID_CTRL, CTRL_CMD_GETFAMILY, &name).map_err(failed)?;
        let missing = || failed(io::Error::from_raw_os_error(libc::EPROTO));
        let id = find(&answer, CTRL_ATTR_FAMILY_ID).and_then(|value| value.try_into().ok());
        features.family = u16::from_ne_bytes(id.ok_or_else(missing)?);
        let group = find(&answer, CTRL_ATTR_MCAST_GROUPS)
            .and_then(|groups| {
                Attributes(groups)
                    .find(|(_, group)| find(group, CTRL_ATTR_MCAST_GRP_NAME) == Some(GROUP))
                    .and_then(|(_, group)| find(group, CTRL_ATTR_MCAST_GRP_ID)?.try_into().ok())
            })
            .ok_or_else(missing)?;
        told = features.told;
        told.add_membership(u32::from_ne_bytes(group)).map_err(failed)?;
        told.set_non_blocking(true).map_err(failed)?;
        Ok(XdpFeatures { told, ..features })
    }

    /// In another namespace, whichever thread uses it.
    pub fn open_in(netns: &Netns) -> Result<XdpFeatures, NetError> {
        netns.run(XdpFeatures::open).map_err(|error| NetError::entering(netns, &error))?
    }

    /// The features of a link: [`TAKES_REDIRECTED`] and others.
    pub fn of(&self, link_index: u32) -> Result<u64, NetError> {
        let failed = |error: io::Error| {
            NetError::io("ask for the XDP features of", format!("link {link_index}"), &error)
        };
        let index = attribute(NETDEV_A_DEV_IFINDEX, &link_index.to_ne_bytes());
        let answer = self.ask(self.family, NETDEV_CMD_DEV_GET, &index).map_err(failed)?;
        let features = find(&answer, NETDEV_A_DEV_XDP_FEATURES).and_then(|value| value.try_into().ok());
        features.map(u64::from_ne_bytes).ok_or_else(|| failed(io::Error::from_raw_os_error(libc::EPROTO)))
    }

    /// Which links' have changed since this was asked last, and to what: by index, in order. `None`: more than there was room for;
    /// [`XdpFeatures::of`] says what is now. Does not wait; [`AsFd`] is readable when there is something.
    ///
    /// The kernel tells of a change before it is done, and lets nobody ask until it is: tens of milliseconds later where GRO goes.
    pub fn changes(&self) -> Option<Vec<(u32, u64)>> {
        let mut buffer = Vec::with_capacity(RECEIVE_MAX);
        let mut changes = Some(Vec::new());
        loop {
            buffer.clear();
            match self.told.recv(&mut buffer, 0) {
                Ok(_) => {
                    if let (Some(changes), Some(change)) = (&mut changes, change(self.family, &buffer)) {
                        changes.push(change);
                    }
                }
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => changes = None,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return changes,
            }
        }
    }

    /// One request, and the attributes of the answer.
    fn ask(&self, kind: u16, command: u8, attributes: &[u8]) -> io::Result<Vec<u8>> {
        let sequence = self.sequence.get().wrapping_add(1);
        self.sequence.set(sequence);
        let mut request = Vec::new();
        request.extend(((HEADER_LEN + GENERIC_HEADER_LEN + attributes.len()) as u32).to_ne_bytes());
        request.extend(kind.to_ne_bytes());
        request.extend((libc::NLM_F_REQUEST as u16).to_ne_bytes());
        request.extend(sequence.to_ne_bytes());
        request.extend([0; 4]);
        request.extend([command, 1, 0, 0]);
        request.extend(attributes);
        self.asking.send(&request, 0)?;
        let mut buffer = Vec::with_capacity(RECEIVE_MAX);
        loop {
            buffer.clear();
            match self.asking.recv(&mut buffer, 0) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                result => result?,
            };
            let word = |at: usize| Some(u32::from_ne_bytes(buffer.get(at..at + 4)?.try_into().ok()?));
            let kind = buffer.get(4..6).map(|kind| i32::from(u16::from_ne_bytes([kind[0], kind[1]])));
            if word(8) != Some(sequence) {
                continue;
            }
            if kind == Some(libc::NLMSG_ERROR) {
                let code = word(HEADER_LEN).unwrap_or_default() as i32;
                return Err(io::Error::from_raw_os_error(code.saturating_abs()));
            }
            let end = (word(0).unwrap_or_default() as usize).min(buffer.len());
            let attributes = buffer.get(HEADER_LEN + GENERIC_HEADER_LEN..end);
            return attributes.map(<[u8]>::to_vec).ok_or_else(|| io::Error::from_raw_os_error(libc::EPROTO));
        }
    }
}

impl AsFd for XdpFeatures {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.told.as_fd()
    }
}

/// What one notification says. Of a link that goes, nothing.
fn change(family: u16, message: &[u8]) -> Option<(u32, u64)> {
    let kind = u16::from_ne_bytes(message.get(4..6)?.try_into().ok()?);
    let is_change = matches!(*message.get(HEADER_LEN)?, NETDEV_CMD_DEV_ADD_NTF | NETDEV_CMD_DEV_CHANGE_NTF);
    let attributes = message.get(HEADER_LEN + GENERIC_HEADER_LEN..)?;
    let index = find(attributes, NETDEV_A_DEV_IFINDEX)?.try_into().ok()?;
    let features = find(attributes, NETDEV_A_DEV_XDP_FEATURES)?.try_into().ok()?;
    (kind == family && is_change).then(|| (u32::from_ne_bytes(index), u64::from_ne_bytes(features)))
}

/// Kind and value of each, as far as they are whole.
struct Attributes<'a>(&'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<(u16, &'a [u8])> {
        let (head, _) = self.0.split_at_checked(4)?;
        let len = usize::from(u16::from_ne_bytes([head[0], head[1]]));
        // The two highest bits say how the value is written.
        let kind = u16::from_ne_bytes([head[2], head[3]]) & 0x3fff;
        let value = self.0.get(4..len)?;
        self.0 = self.0.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    }
}

fn find(attributes: &[u8], kind: u16) -> Option<&[u8]> {
    Attributes(attributes).find(|(is, _)| *is == kind).map(|(_, value)| value)
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(((4 + value.len()) as u16).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_that_is_cut_short_or_of_somebody_else_tells_of_no_change() {
        let body = [attribute(1, &7u32.to_ne_bytes()), attribute(2, &[]), attribute(3, &5u64.to_ne_bytes())]
            .concat();
        let message = |kind: u16, command: u8| {
            let mut bytes = vec![0; HEADER_LEN];
            bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
            bytes.extend([command, 1, 0, 0]);
            bytes.extend(&body);
            bytes
        };
        let whole = message(30, NETDEV_CMD_DEV_CHANGE_NTF);
        assert_eq!(change(30, &whole), Some((7, 5)));
        assert!((0..whole.len()).all(|len| change(30, &whole[..len]).is_none()));
        assert_eq!(change(30, &message(31, NETDEV_CMD_DEV_CHANGE_NTF)), None);
        assert_eq!(change(30, &message(30, 3)), None);
    }

    #[test]
    fn attributes_that_are_cut_short_end_the_list_and_nothing_else() {
        let two = [attribute(3, b"abcde"), attribute(9, &[7])].concat();
        assert_eq!(Attributes(&two).collect::<Vec<_>>(), [(3, b"abcde".as_slice()), (9, &[7])]);
        assert_eq!(find(&two, 9), Some([7].as_slice()));
        for len in 0..two.len() {
            assert!(Attributes(&two[..len]).count() <= 2, "{len}");
        }
        // Shorter than its own head, and longer than there is.
        for len in [0u16, 3, 200] {
            let wrong = [len.to_ne_bytes(), [1, 0]].concat();
            assert_eq!(Attributes(&wrong).next(), None, "{len}");
        }
    }
}
