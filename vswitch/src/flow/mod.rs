//! What the switch remembers of flows: the cache, connection tracking and fragments.
//!
//! | module | answers |
//! |---|---|
//! | [`cache`] | "what did we decide for this key?", in one or two memory accesses |
//! | [`conntrack`] | "does this packet belong to a flow that was allowed, and in which direction?" |
//! | [`fragments`] | "which ports has this piece, whose L4 header travelled in another frame?" |
//!
//! One worker owns one of each. Nothing is shared and nothing is locked; everything is sized at construction and never
//! allocates again. Time is `now_ms`: milliseconds of `CLOCK_MONOTONIC`, read by the worker once per batch.

pub mod cache;
pub mod conntrack;
pub mod fragments;
pub mod hash;
mod huge;
mod lanes;
mod list;
mod prefetch;
mod quota;
mod shared;

pub use cache::{CacheEntry, FlowCache, Guess};
pub use conntrack::{
    Adopted, Ahead, Conntrack, Entry, FlowId, Judged, NewFlow, OpenError, Settings, Side, State, Timeouts,
    Touch, adopt_into, may_open,
};
pub use fragments::{Fate, FragmentLimits, FragmentTable, Later, Piece, Released};
pub use hash::KeyHasher;
