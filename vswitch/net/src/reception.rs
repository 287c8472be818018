//! What a NIC lets through: its own address and broadcast, unless somebody asks for more.
//!
//! Who asks by a packet socket has it as long as the socket is open, and what several ask for adds up. A NIC that cannot filter
//! by more addresses than its own lets everything through instead; the kernel sees to that.
#![allow(unsafe_code)]

use crate::NetError;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// Lets frames for `mac` and all multicast in, as long as the result lives. The link is of the calling thread's namespace.
pub fn accept(link_index: u32, mac: [u8; 6]) -> Result<OwnedFd, NetError> {
    let what = || format!("for other addresses than its own on link {link_index}");
    let failed = |error: io::Error| NetError::io("receive", what(), &error);
    // Protocol 0: the socket itself receives nothing.
    // SAFETY: no pointers.
    let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(failed(io::Error::last_os_error()));
    }
    // SAFETY: `fd` was just made and is nobody else's.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let mut address = [0; 8];
    address[..6].copy_from_slice(&mac);
    for (kind, len) in [(libc::PACKET_MR_UNICAST, 6), (libc::PACKET_MR_ALLMULTI, 0)] {
        let membership = libc::packet_mreq {
            mr_ifindex: link_index as libc::c_int,
            mr_type: kind as libc::c_ushort,
            mr_alen: len,
            mr_address: address,
        };
        // SAFETY: a living struct of the type the option wants, with its size.
        let result = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_ADD_MEMBERSHIP,
                (&raw const membership).cast(),
                size_of_val(&membership) as libc::socklen_t,
            )
        };
        if result < 0 {
            return Err(failed(io::Error::last_os_error()));
        }
    }
    Ok(socket)
}
