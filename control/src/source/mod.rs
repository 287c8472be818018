//! A directory of objects, watched live.
//!
//! The problem is not reading files but knowing when *not* to believe them: a file being written, an object that no longer
//! parses, two files that claim one name. The promise: an object in force is replaced only by a good version of itself and
//! removed only by its plain absence; everything in doubt keeps the last good version, over restarts too.
//!
//! [`Directory`] looks at files and decides when they are settled, and whether a directory that is suddenly empty is still
//! the same one ([`PlaceId`]); [`Store`] knows nothing of the file system and decides
//! what is in force; [`persist`] writes that down. What counts are looks: a stat of each file every few milliseconds
//! costs little, and nothing is ever missed on any file system. [`Notify`] says when the next one is worth its while.

mod directory;
mod notify;
pub mod persist;
mod places;
mod store;
#[cfg(test)]
mod tests;

pub use directory::{Directory, Look};
pub use notify::Notify;
pub use places::PlaceId;
pub use store::{Change, InForce, Store};
