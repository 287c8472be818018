//! Packets as bytes: parsed once into a [`Parsed`], rewritten in place, or built as an answer.
//!
//! Promise: no function here panics or reads out of bounds, whatever the bytes; what cannot be understood is a
//! [`DropReason`], never a guess. Nothing here allocates. Owner: the worker that holds the frame.

mod bytes;
pub mod checksum;
pub mod key;
mod parse;
pub mod parsed;

pub use key::FlowKey;
pub use parse::{ETHERNET_LEN, HEAD_LEN_MIN, destination_mac, parse, source_mac};
pub use parsed::{Fragment, L4, Parsed, Payload};
pub use penstock_api::DropReason;
