//! The control plane: Kubernetes objects in, one compiled artefact out.
//!
//! The line an object follows, each step a module and none of them knowing the next:
//!
//! | module | what it does |
//! |---|---|
//! | [`objects`] | what we understand of Kubernetes objects, already checked |
//! | [`load`] | text to objects: strict, and every refusal names file, line, object and field |
//! | [`source`] | a directory watched live: last good versions, deletions, duplicates |
//! | [`compile`] | the pure core: events in, an [`Artefact`](penstock_api::Artefact) out; no I/O, no clock |
//! | [`agent`] | the process around it: follows the switch's endpoints, installs generations, says what is wrong |
//! | [`lint`] | what is wrong with files of objects, and what is probably not meant |
//! | [`simulate`] | the same judged without a switch, for the operator |
//!
//! Promises: an object that cannot be read changes nothing; nothing is installed before the first full look at the
//! source; the same objects and endpoints give the same artefact, whatever the history.

pub mod agent;
pub mod compile;
pub mod lint;
pub mod load;
pub mod objects;
pub mod simulate;
pub mod source;
