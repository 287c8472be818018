//! What the switch and everything that talks to it agree on.
//!
//! The crate sits below all others and holds no behaviour of its own but one: the *reference evaluator*, a slow and
//! obvious answer to "may these two talk?" that every fast structure is compared with.
//!
//! | module | what it holds |
//! |---|---|
//! | [`ids`] | newtypes that keep a port from being taken for a worker |
//! | [`artefact`] | compiled policy, as the control plane installs it |
//! | [`difference`] | what is new in one beside the one before |
//! | [`reference`] | the reference evaluator of an artefact |
//! | [`drops`] | every reason a packet can be dropped for |
//! | [`message`] | requests, responses and events of the control socket |
//! | [`wire`] | their framing |
//! | [`instance`] | every path, namespace and interface name, derived from the instance's name |
//! | [`judge`] | flows put to the switch without running it |
#![forbid(unsafe_code)]

pub mod artefact;
pub mod difference;
pub mod drops;
pub mod ids;
pub mod instance;
pub mod judge;
pub mod message;
pub mod reference;
pub mod wire;

pub use artefact::{Action, Artefact, Direction};
pub use difference::Difference;
pub use drops::DropReason;
pub use ids::{EndpointId, Generation, IdentityId, PolicyId, PortId, ProgramId, RuleId, WorkerId};
pub use instance::Instance;
