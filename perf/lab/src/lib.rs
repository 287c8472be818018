//! A laboratory: nodes, pods and policies in network namespaces of one machine.
//!
//! Tests, the demo and the benchmarks all need the same: a node that is not this machine's own network, a switch and a
//! control plane running on it as an operator would run them, pods attached by the real CNI plugin, and probes that tell
//! "refused" from "lost". A [`Lab`] is one such node.
//!
//! ```text
//!  namespace NAME-node (the "host")                  namespace NAME (made by the switch)
//!    lo, uplink0 ── veth ── outside's eth0             host ends, trunks
//!    NAME0 ───────────────────────────────────────────── host0
//!  namespace NAME-out (what lies behind the node)    namespaces NAME-p-* (one per pod): eth0
//! ```
//!
//! The promise: everything a laboratory makes begins with its instance's name and is gone when the [`Lab`] is dropped, also
//! when a test panics; what a killed test left behind is removed by the next laboratory. When a test panics, the switch's
//! status, ports, drops, flows and the ends of the logs are printed first.
//!
//! Short methods ([`Lab::new`], [`Lab::pod`], [`Lab::apply`]) panic with what went wrong, because they are used in tests;
//! beside each stands one that returns an error, for programs. Everything here needs root.
//!
//! ```no_run
//! use penstock_lab::{Lab, Outcome::*};
//! let lab = Lab::new("one_port");
//! let web = lab.pod("shop", "web", &[("app", "web")]);
//! let db = lab.pod("shop", "db", &[("app", "db")]);
//! db.listen_tcp(5432);
//! lab.apply("deny", "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n...");
//! assert_eq!(web.connect(db.v4(), 5432), TimedOut);
//! assert_eq!(web.connect(db.v6(), 5432), TimedOut);
//! lab.assert_frames_conserved();
//! ```

mod cni;
mod leftovers;
mod node;
mod objects;
mod place;
mod pod;
mod probe;
mod programs;
mod serve;
mod switch;
mod transfer;
mod wire;

#[cfg(test)]
mod tests;

mod lab;

pub use cni::{CniCall, CniFailure};
pub use lab::{Lab, LabOptions, Polling};
pub use node::{NODE_V4, NODE_V6, OUTSIDE_V4, OUTSIDE_V6};
pub use place::Place;
pub use pod::Pod;
pub use probe::{Connection, DEFAULT_TIMEOUT, HttpAnswer, Outcome, scaled};
pub use transfer::{Latency, RunningTransfer, Transfer};
pub use wire::{Watch, Wire};
