//! The kernel's networking, synchronously: namespaces, links, addresses, routes, neighbours, offloads and sysctls.
//!
//! The problem: the CNI plugin, the switch and the laboratory all make interfaces in namespaces, must undo what they made
//! when anything fails, and must tell an operator exactly what the kernel refused. Shelling out to `ip` gives neither
//! reliable errors nor atomicity, and an async netlink client wants a runtime that none of them has.
//!
//! The shape: every call is one request and one answer. Nothing is cached, nothing is retried behind the caller's back, and
//! whether "it exists already" is good or bad news is the caller's decision ([`NetError::is_exists`]).
//!
//! The promise: a failure names the operation, the object and what the kernel said; the namespace of the calling thread never
//! changes except through [`Netns::enter_current_thread`].
//!
//! | module | what it does |
//! |---|---|
//! | [`netns`] | named network namespaces, and running code inside one |
//! | [`route`] | links, addresses, routes and neighbours over one netlink socket |
//! | [`offload`] | checksum, segmentation and VLAN offloads (ethtool) |
//! | [`reception`] | which frames a NIC lets through |
//! | [`xdp`] | whether a link takes frames that XDP redirects into it, and when that changes |
//! | [`sysctl`] | `/proc/sys`, which follows the namespace of the calling thread |

mod error;
pub mod netns;
pub mod offload;
pub mod reception;
pub mod route;
pub mod sysctl;
pub mod xdp;

pub use error::NetError;
pub use netns::Netns;
pub use route::Netlink;
