//! A worker: one pinned thread that owns its rings, frames, flow cache and conntrack shard. No locks.

mod answer;
mod capture;
pub mod counters;
pub mod engine;
pub mod handover;
pub mod mailbox;
mod report;
pub mod run;
pub mod watchdog;
