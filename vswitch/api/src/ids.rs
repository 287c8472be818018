//! Newtypes for the numbers that cross crate borders.

use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl $name {
            /// The number as an index into a table.
            pub const fn index(self) -> usize {
                self.0 as usize
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id!(
    /// A slot in the switch's port table. Reused after a port is gone: never compare across time, use [`EndpointId`].
    PortId(u16)
);
id!(
    /// One pinned packet-processing thread.
    WorkerId(u8)
);
id!(
    /// One attachment of one pod interface. Never reused while the state directory lives, so what was remembered about
    /// an endpoint cannot be taken for a later one with the same port or address. 0 is nobody.
    EndpointId(u32)
);
id!(
    /// A class of peers that no rule in force tells apart.
    IdentityId(u32)
);
id!(
    /// Index into [`Artefact::policies`](crate::artefact::Artefact::policies).
    PolicyId(u32)
);
id!(
    /// Index into [`Artefact::rules`](crate::artefact::Artefact::rules).
    RuleId(u32)
);
id!(
    /// Index into [`Artefact::programs`](crate::artefact::Artefact::programs).
    ProgramId(u32)
);
id!(
    /// Version of an artefact, or of the forwarding tables. Only ever grows.
    Generation(u64)
);

impl PortId {
    /// The host, `penstock0`: a port like any other, and always there.
    pub const HOST: PortId = PortId(0);
}

impl EndpointId {
    /// Nobody: the host and what lies behind it.
    pub const NONE: EndpointId = EndpointId(0);
}

impl IdentityId {
    /// An address no table names, or a pod whose labels are not known yet.
    pub const UNKNOWN: IdentityId = IdentityId(0);
    /// The local node and its host-network pods.
    pub const HOST: IdentityId = IdentityId(1);
    /// Outside the cluster, IPv4.
    pub const WORLD_V4: IdentityId = IdentityId(2);
    /// Outside the cluster, IPv6.
    pub const WORLD_V6: IdentityId = IdentityId(3);
    /// Other nodes of the cluster.
    pub const REMOTE_NODE: IdentityId = IdentityId(4);
    /// The first id the compiler may give to a class of its own.
    pub const FIRST_COMPILED: IdentityId = IdentityId(256);
}
