//! Policy's meaning, said a second time.
//!
//! The compiler turns objects into tables; this crate answers the same questions from the same objects by doing what the
//! documentation of Kubernetes and of Cilium says, sentence by sentence, on raw JSON. It is slow, keeps no index, trusts
//! nothing of what the product's loader, selectors, compiler or CIDR code does, and depends on none of it: two readings of
//! one text that were written apart are unlikely to share a mistake.
//!
//! | module | what it holds |
//! |---|---|
//! | [`World`] | a cluster as one node sees it: objects, the node's name and addresses, the pods attached to it |
//! | [`Flow`] | a question: may this source open a flow to that destination? |
//! | [`Feature`] | what a world can contain: the dials of the generator, and how each is taken out again to measure it |
//! | [`Naive`] | the answers |
//!
//! For tests only: a malformed object is a bug of the test, and panics.
#![forbid(unsafe_code)]

mod address;
mod feature;
mod generate;
mod naive;
mod questions;
mod world;

pub use address::inside;
pub use feature::{Feature, Mix};
pub use naive::{End, Judgement, Naive, Place};
pub use world::{Attachment, Enforcement, Flow, World};
