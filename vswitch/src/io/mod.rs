//! Frames, memory, sockets and the kernel's part: everything below the pipeline.
//!
//! Unsafe lives here and nowhere above: `memory.rs` (bytes of frames), `xsk.rs` (AF_XDP rings), `abilities.rs` (its options),
//! `bulk.rs` (the frames its program reads), `live.rs` (the call that runs it), `maps.rs` (the mapped budget array and the layouts shared with the programs),
//! `shortcut.rs` (the mapped tables of flows that programs carry).

pub mod abilities;
pub mod bpf;
pub mod bulk;
pub mod coalesce;
pub mod device;
pub mod live;
pub mod maps;
pub mod memory;
mod pins;
pub mod repeat;
pub mod ring;
pub mod setup;
pub mod shortcut;
pub mod tag;
pub mod xsk;
