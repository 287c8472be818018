//! A worker: one pinned thread that owns its rings, frames, flow cache and conntrack shard. No locks.

pub mod counters;
pub mod mailbox;
