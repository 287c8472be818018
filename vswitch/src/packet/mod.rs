//! Packets as bytes: parsed once into a [`Parsed`], rewritten in place, or built as an answer.
//!
//! Promise: no function here panics or reads out of bounds, whatever the bytes; what cannot be understood is a
//! [`DropReason`], never a guess. Nothing here allocates. Owner: the worker that holds the frame.

pub mod key;
pub mod parsed;

pub use key::FlowKey;
pub use parsed::{Fragment, L4, Parsed, Payload};
pub use penstock_api::DropReason;
