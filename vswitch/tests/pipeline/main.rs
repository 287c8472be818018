//! The whole pipeline on memory ports, without root: frames in, frames out, exact counters.
//!
//! Every test ends with the rig's own check: each frame is in exactly one place, and everything received or originated was
//! transmitted, held or dropped for a counted reason.

mod areas;
mod frames;
mod live;
mod malformed;
mod neighbours;
mod random;
mod reach;
mod threats;
mod workers;
mod world;
