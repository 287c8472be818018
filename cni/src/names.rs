//! Names derived from an attachment, so that nothing has to be remembered to find it again.

use penstock_api::message::Mac;

/// The name of the host end of an attachment: `p` and 12 hex digits. The same for ever, on every machine.
pub fn host_end(container_id: &str, interface: &str) -> String {
    format!("p{:012x}", hash(container_id, interface) >> 16)
}

/// The MAC address of the pod's end: locally administered, and never the gateway's (whose first byte is another).
pub fn pod_mac(container_id: &str, interface: &str) -> Mac {
    let [.., a, b, c, d, e] = hash(container_id, interface).to_be_bytes();
    Mac([0x0a, a, b, c, d, e])
}

/// FNV-1a, and a finaliser (MurmurHash3's) because FNV mixes its last bytes badly into the high bits we use.
fn hash(container_id: &str, interface: &str) -> u64 {
    let bytes = container_id.bytes().chain([0]).chain(interface.bytes());
    let mut hash = bytes
        .fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    hash = (hash ^ hash >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ hash >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ hash >> 33
}

#[cfg(test)]
mod tests {
    use super::*;
    use penstock_api::message::gateway;
    use std::collections::HashSet;

    #[test]
    fn names_are_those_that_earlier_versions_gave() {
        assert_eq!(host_end("c0ffee", "eth0"), "p5b2a11d00454");
        assert_eq!(host_end("c0ffee", "eth0").len(), 13);
    }

    #[test]
    fn names_and_macs_differ_between_attachments() {
        let all = (0..10_000).flat_map(|n| ["eth0", "eth1"].map(|name| (format!("{n:x}"), name)));
        let (names, macs): (HashSet<_>, HashSet<_>) =
            all.map(|(id, name)| (host_end(&id, name), pod_mac(&id, name))).unzip();
        assert_eq!((names.len(), macs.len()), (20_000, 20_000));
        assert!(!macs.contains(&gateway::MAC));
        assert_ne!(host_end("ab", "c"), host_end("a", "bc"));
    }
}
