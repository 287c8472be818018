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
//! | [`History`] | events that lead to a world, and other ways to tell them |
//! | [`shrink()`] | the smallest world that still shows a difference |
//!
//! For tests only: a malformed object is a bug of the test, and panics.
#![forbid(unsafe_code)]

mod ablate;
mod address;
mod feature;
mod generate;
mod history;
mod naive;
mod questions;
mod shrink;
mod world;

pub use address::inside;
pub use feature::{Feature, Mix};
pub use history::{Event, History, Key, key_of};
pub use naive::{End, Judgement, Naive, Place};
pub use shrink::shrink;
pub use world::{Attachment, Enforcement, Flow, World};
