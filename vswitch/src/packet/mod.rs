//! Packets as bytes: parsed once into a [`Parsed`], rewritten in place, or built as an answer.
//!
//! Promise: no function here panics or reads out of bounds, whatever the bytes; what cannot be understood is a
//! [`DropReason`], never a guess. Nothing here allocates. Owner: the worker that holds the frame.

pub mod build;
mod bytes;
pub mod checksum;
pub mod key;
mod parse;
pub mod parsed;
mod rewrite;
mod split;
#[cfg(test)]
mod tests;

pub use key::FlowKey;
pub use parse::{ETHERNET_LEN, HEAD_LEN_MIN, Quick, destination_mac, parse, quick, source_mac};
pub use parsed::{Fragment, L4, Parsed, Payload};
pub use penstock_api::DropReason;
pub use rewrite::{decrement_ttl, set_macs};
pub use split::{PIECE_HEADER_LEN, Piece, Pieces, split_ipv4};
