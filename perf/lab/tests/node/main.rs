//! A node whose pods, host and switch misbehave: what must hold over real AF_XDP in network namespaces. Needs root.
//!
//! One executable, so that it is linked once; a module for each kind of trouble. Every test makes a node of its own and prints
//! the switch's state when it fails.

mod answers;
mod bad_input;
mod bulk;
mod carried;
mod common;
mod direct;
mod explained;
mod idle;
mod kernels;
mod mtu;
mod nics;
mod offloads;
mod policy;
mod removal;
mod removed;
mod restart;
mod rings;
mod shortcut;
mod shortcut_direct;
mod spoofing;
mod steering;
