//! A worker: one pinned thread that owns its rings, frames, flow cache and conntrack shard. No locks.

mod admit;
mod answer;
mod capture;
pub mod counters;
mod decide;
mod echo;
pub mod engine;
pub mod handover;
pub mod mailbox;
pub mod prefer;
mod report;
pub mod run;
mod send;
pub mod shortcut;
mod sockets;
mod stages;
pub mod watchdog;
