//! The steps of an `ADD`, told to an observer as each is done.
//!
//! The plugin has no use for it. Tests have: they kill it after each step and look whether a `DEL` removes all of it.

/// What has just been done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The round-robin mark was moved.
    MarkMoved,
    /// An address file was written under its temporary name.
    AddressWritten,
    /// An address file has its name.
    AddressTaken,
    /// All addresses are taken and on disk.
    AddressesSafe,
    /// Both ends of the veth pair are there, down.
    VethMade,
    /// The host end speaks no IPv6 of its own.
    HostEndQuiet,
    /// The pod's end has its addresses and is up.
    PodUp,
    /// It has its neighbours and routes.
    PodRouted,
    /// The switch was asked to attach.
    AttachSent,
    /// The switch has answered.
    Attached,
}

impl Step {
    /// In the order in which they happen.
    pub const ALL: [Step; 10] = [
        Step::MarkMoved,
        Step::AddressWritten,
        Step::AddressTaken,
        Step::AddressesSafe,
        Step::VethMade,
        Step::HostEndQuiet,
        Step::PodUp,
        Step::PodRouted,
        Step::AttachSent,
        Step::Attached,
    ];
}

/// Called after each step; some happen on helper threads.
pub type Observer<'a> = &'a (dyn Fn(Step) + Sync);
