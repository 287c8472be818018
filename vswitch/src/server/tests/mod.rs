//! The server over its socket, on a kernel double and workers that only acknowledge.

mod attach;
mod look;
mod policy;
mod restart;
mod socket;
