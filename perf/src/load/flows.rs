//! How a number becomes a flow: so many different 5-tuples that a path sees as many flows as were asked for.
//!
//! One destination port has 64,511 unprivileged source ports beside it, fewer than a million: flow `n` has source port
//! `1024 + n % 62500` and destination port `5001 + n / 62500`, which makes a million of 16 destination ports. A policy has to open
//! all of them.

use std::ops::RangeInclusive;

/// Mirrored in bpf/load.h.
pub(crate) const SOURCE_PORTS: u32 = 62_500;
pub(crate) const SOURCE_PORT_FIRST: u16 = 1024;
pub(crate) const DESTINATION_PORT: u16 = 5001;
pub(crate) const FLOWS_MAX: u32 = 1_000_000;

/// Source and destination port of a flow below [`FLOWS_MAX`].
pub(crate) fn ports(flow: u32) -> (u16, u16) {
    debug_assert!(flow < FLOWS_MAX);
    (SOURCE_PORT_FIRST + (flow % SOURCE_PORTS) as u16, DESTINATION_PORT + (flow / SOURCE_PORTS) as u16)
}

/// What a policy has to open for so many flows.
pub(crate) fn destination_ports(flows: u32) -> RangeInclusive<u16> {
    DESTINATION_PORT..=ports(flows.clamp(1, FLOWS_MAX) - 1).1
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn a_million_flows_are_a_million_tuples_of_unprivileged_ports() {
        let all: HashSet<(u16, u16)> = (0..FLOWS_MAX).map(ports).collect();
        assert_eq!(all.len(), FLOWS_MAX as usize);
        assert!(all.iter().all(|(source, _)| *source >= 1024));
        let destinations: HashSet<u16> = all.iter().map(|(_, destination)| *destination).collect();
        assert_eq!(destinations, destination_ports(FLOWS_MAX).collect());
    }

    #[test]
    fn few_flows_need_one_destination_port() {
        for (flows, ports) in
            [(1, 1), (SOURCE_PORTS, 1), (SOURCE_PORTS + 1, 2), (100_000, 2), (FLOWS_MAX, 16)]
        {
            assert_eq!(destination_ports(flows).count(), ports, "{flows} flows");
        }
    }
}
