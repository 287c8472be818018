//! The userspace switch: AF_XDP ports, flow cache, conntrack, policy, forwarding.
//!
//! The straight line a packet follows, a batch at a time, in one pinned worker:
//!
//! ```text
//! receive -> parse -> lookup --hit--------------------------> touch -> forward -> transmit -> account
//!                       `- miss -> track -> decide -> remember -'
//! ```
//!
//! Imports go one way: server -> snapshot -> {policy, forward} -> packet; worker -> {io, flow, policy, forward, snapshot} -> packet.

mod comparison;
pub mod config;
pub mod flow;
pub mod forward;
pub mod io;
pub mod judge;
pub mod machine;
pub mod packet;
pub mod policy;
pub mod replay;
pub mod rig;
pub mod server;
pub mod snapshot;
pub mod worker;
