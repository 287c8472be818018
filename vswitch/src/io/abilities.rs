//! What the running kernel's AF_XDP can do, asked of it before anything is made: an MTU that cannot be had must not reach an
//! interface, and an operator is told what a newer kernel would do better.
//!
//! Versions say little, distributions carry features back; so each is asked for on a socket that is bound to nothing.
#![allow(unsafe_code)]

use super::xsk::{SOL_XDP, XDP_MAX_TX_SKB_BUDGET};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// The longest packet that arrives in one buffer: a veth gives an XDP program pages, with headroom before and `skb_shared_info`
/// behind the frame, and what does not fit comes as fragments. A socket that was not bound for those never sees it, and nobody
/// counts it (*seen* on 6.1).
pub const MTU_OF_ONE_BUFFER: u16 = 4096 - 256 - 320 - 14;

const XDP_USE_SG: u16 = 1 << 4;
/// What a kick sends where it cannot be told.
const BUDGET_DEFAULT: u32 = 32;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Abilities {
    /// Frames may be longer than a chunk: Linux 6.6.
    pub multi_buffer: bool,
    /// A kick sends as many frames as it is told to: Linux 6.17.
    pub send_budget: bool,
}

impl Abilities {
    /// An error: there is no AF_XDP at all, or it is not for us.
    pub fn of_this_kernel() -> io::Result<Abilities> {
        // SAFETY: no pointers; the descriptor is checked, and nobody else's.
        let socket = unsafe {
            match libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) {
                -1 => return Err(io::Error::last_os_error()),
                fd => OwnedFd::from_raw_fd(fd),
            }
        };
        Ok(Abilities { multi_buffer: knows_multi_buffer(&socket), send_budget: knows_send_budget(&socket) })
    }

    /// What the operator is told, beside what came of an MTU.
    pub fn notes(self, release: &str) -> Vec<String> {
        let budget = (!self.send_budget).then(|| {
            format!(
                "Linux {release} sends {BUDGET_DEFAULT} frames of a copying socket with one call at most: workers make more calls \
                 under load; 6.17 and newer send all there are"
            )
        });
        budget.into_iter().collect()
    }
}

/// Flags are looked at first, then the interface, of which there is none.
fn knows_multi_buffer(socket: &OwnedFd) -> bool {
    // SAFETY: integers only; zero is an interface nobody has.
    let mut address: libc::sockaddr_xdp = unsafe { std::mem::zeroed() };
    address.sxdp_family = libc::AF_XDP as u16;
    address.sxdp_flags = XDP_USE_SG;
    let len = size_of_val(&address) as libc::socklen_t;
    // SAFETY: the address is valid and `len` bytes long.
    let bound = unsafe { libc::bind(socket.as_raw_fd(), std::ptr::from_ref(&address).cast(), len) };
    bound == 0 || io::Error::last_os_error().raw_os_error() != Some(libc::EINVAL)
}

/// A kernel that knows the option refuses it for want of a ring.
fn knows_send_budget(socket: &OwnedFd) -> bool {
    let frames = BUDGET_DEFAULT;
    let len = size_of_val(&frames) as libc::socklen_t;
    let value = std::ptr::from_ref(&frames).cast();
    // SAFETY: a pointer to an integer of the length given.
    let set = unsafe { libc::setsockopt(socket.as_raw_fd(), SOL_XDP, XDP_MAX_TX_SKB_BUDGET, value, len) };
    set == 0 || io::Error::last_os_error().raw_os_error() != Some(libc::ENOPROTOOPT)
}

/// `6.1.0-50-amd64`
pub fn release() -> String {
    nix::sys::utsname::uname()
        .map_or_else(|_| "?".to_owned(), |name| name.release().to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The kernel's description of its own types has the fields of what it can do, whatever version it calls itself.
    #[test]
    fn abilities_are_those_the_kernel_has_fields_for() {
        let names = std::fs::read("/sys/kernel/btf/vmlinux").expect("a kernel that describes its types");
        let has = |name: &[u8]| names.windows(name.len()).any(|window| window == name);
        match Abilities::of_this_kernel() {
            Ok(abilities) => {
                assert_eq!(abilities.multi_buffer, has(b"\0xdp_zc_max_segs\0"), "{abilities:?}");
                assert_eq!(abilities.send_budget, has(b"\0max_tx_budget\0"), "{abilities:?}");
                assert_eq!(abilities.notes("6.1").is_empty(), abilities.send_budget);
            }
            // Not root.
            Err(error) => assert_eq!(error.raw_os_error(), Some(libc::EPERM), "{error}"),
        }
    }
}
