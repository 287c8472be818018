//! Who should reach whom, phase by phase: the expectation, written down before anything runs.

/// The policies that are in force, in the order in which the demo changes them.
pub(crate) const PHASES: [Phase; 5] = [
    Phase { title: "no policy", says: "no policy: everybody reaches everybody" },
    Phase { title: "deny all", says: "default-deny-all: nobody but its own node reaches a pod of the shop" },
    Phase {
        title: "+ allow db",
        says: "allow-db-access: pods of the shop with the label reach the database",
    },
    Phase {
        title: "sql only",
        says: "allow-db-access, changed live: the label opens TCP 5432 and nothing else",
    },
    Phase { title: "removed", says: "both policies removed: every refused probe arrives again" },
];

#[derive(Debug, Clone, Copy)]
pub(crate) struct Phase {
    pub(crate) title: &'static str,
    pub(crate) says: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expected {
    Reached,
    /// Silence: what a silent drop looks like from the pod.
    Dropped,
}

use Expected::{Dropped as D, Reached as R};

pub(crate) const SQL: u16 = 5432;
pub(crate) const HTTP: u16 = 8080;
/// A second service of the database, for a connection that a change of policy has to cut.
pub(crate) const SIDE: u16 = 7777;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    Tcp,
    Get,
    Ping,
}

impl What {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            What::Tcp => "TCP 5432",
            What::Get => "GET :8080/",
            What::Ping => "ping",
        }
    }
}

/// Who a probe is from or to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Who {
    Db,
    Web,
    Batch,
    Guest,
    Host,
    Outside,
}

/// One line of the table: made over both families, in every phase.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Row {
    pub(crate) from: Who,
    pub(crate) to: Who,
    pub(crate) what: What,
    pub(crate) expected: [Expected; PHASES.len()],
}

const fn row(from: Who, to: Who, what: What, expected: [Expected; PHASES.len()]) -> Row {
    Row { from, to, what, expected }
}

pub(crate) const ROWS: &[Row] = &[
    // The label opens the database, then its port only.
    row(Who::Web, Who::Db, What::Tcp, [R, D, R, R, R]),
    row(Who::Web, Who::Db, What::Get, [R, D, R, D, R]),
    row(Who::Web, Who::Db, What::Ping, [R, D, R, D, R]),
    // No label.
    row(Who::Batch, Who::Db, What::Tcp, [R, D, D, D, R]),
    row(Who::Batch, Who::Db, What::Get, [R, D, D, D, R]),
    row(Who::Batch, Who::Db, What::Ping, [R, D, D, D, R]),
    // The label, in another namespace.
    row(Who::Guest, Who::Db, What::Tcp, [R, D, D, D, R]),
    row(Who::Guest, Who::Db, What::Ping, [R, D, D, D, R]),
    // From outside the node, through its routing.
    row(Who::Outside, Who::Db, What::Tcp, [R, D, D, D, R]),
    row(Who::Outside, Who::Db, What::Get, [R, D, D, D, R]),
    // allow-db-access selects the database: other pods stay closed.
    row(Who::Web, Who::Batch, What::Tcp, [R, D, D, D, R]),
    // The node reaches its pods always: probes of a kubelet come from there.
    row(Who::Host, Who::Db, What::Tcp, [R, R, R, R, R]),
    row(Who::Host, Who::Db, What::Ping, [R, R, R, R, R]),
    // No policy speaks of egress, and none of the visitors.
    row(Who::Db, Who::Guest, What::Tcp, [R, R, R, R, R]),
    row(Who::Db, Who::Guest, What::Get, [R, R, R, R, R]),
    row(Who::Db, Who::Host, What::Tcp, [R, R, R, R, R]),
    row(Who::Db, Who::Outside, What::Tcp, [R, R, R, R, R]),
    row(Who::Db, Who::Outside, What::Ping, [R, R, R, R, R]),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_refused_arrives_when_no_policy_is_there() {
        for row in ROWS {
            assert_eq!((row.expected[0], row.expected[4]), (R, R), "{row:?}");
        }
        assert!(ROWS.iter().any(|row| row.expected.contains(&D)));
    }
}
