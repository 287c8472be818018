//! What a device does for the kernel (checksums, segmentation, VLAN tags): reading it and switching it, as `ethtool -K`.
//!
//! The kernel knows some sixty features by name; people know a dozen by the short names of `ethtool`, some of which stand
//! for several of the kernel's. Both are understood here. All of it goes through the `SIOCETHTOOL` ioctl of a socket of the
//! calling thread's namespace.
#![allow(unsafe_code)]

use crate::NetError;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

// `include/uapi/linux/ethtool.h`
const ETHTOOL_GDRVINFO: u32 = 0x03;
const ETHTOOL_GCHANNELS: u32 = 0x3c;
const ETHTOOL_GSTRINGS: u32 = 0x1b;
const ETHTOOL_GSSET_INFO: u32 = 0x37;
const ETHTOOL_GFEATURES: u32 = 0x3a;
const ETHTOOL_SFEATURES: u32 = 0x3b;
const ETHTOOL_GSTATS: u32 = 0x1d;
const ETH_SS_STATS: u32 = 1;
const ETH_SS_FEATURES: u32 = 4;
const ETH_GSTRING_LEN: usize = 32;
/// More features than any kernel has; what a hostile answer could make us allocate.
const FEATURES_MAX: usize = 1024;
/// More statistics than a veth with as many queues as a link can be given by hand has.
const STATS_ROOM: usize = 65536;

/// The short names of `ethtool -K`, and the kernel's names they stand for (`*` is any text).
const SHORT_NAMES: [(&str, &str); 22] = [
    ("rx", "rx-checksum"),
    ("rx-checksumming", "rx-checksum"),
    ("tx", "tx-checksum-*"),
    ("tx-checksumming", "tx-checksum-*"),
    ("sg", "tx-scatter-gather*"),
    ("scatter-gather", "tx-scatter-gather*"),
    ("tso", "tx-tcp*-segmentation"),
    ("tcp-segmentation-offload", "tx-tcp*-segmentation"),
    ("gso", "tx-generic-segmentation"),
    ("generic-segmentation-offload", "tx-generic-segmentation"),
    ("gro", "rx-gro"),
    ("generic-receive-offload", "rx-gro"),
    ("lro", "rx-lro"),
    ("large-receive-offload", "rx-lro"),
    ("rxvlan", "rx-vlan-hw-parse"),
    ("rx-vlan-offload", "rx-vlan-hw-parse"),
    ("txvlan", "tx-vlan-hw-insert"),
    ("tx-vlan-offload", "tx-vlan-hw-insert"),
    ("ntuple", "rx-ntuple-filter"),
    ("ntuple-filters", "rx-ntuple-filter"),
    ("rxhash", "rx-hashing"),
    ("receive-hashing", "rx-hashing"),
];

/// Switches a feature. `Ok` means that it is now so; also when it was before, or when the device has it fixed that way.
pub fn set(link_name: &str, feature: &str, on: bool) -> Result<(), NetError> {
    let object = format!("{feature} {} of {link_name}", if on { "on" } else { "off" });
    let fail = |errno, reason: &str| Err(NetError::refused("switch the offload", &object, errno, reason));
    let device = Device::open(link_name).map_err(|e| NetError::io("switch the offload", &object, &e))?;
    let io = |e: io::Error| NetError::io("switch the offload", &object, &e);

    let names = device.feature_names().map_err(io)?;
    let wanted = matching(&names, feature);
    if wanted.is_empty() {
        return fail(libc::EOPNOTSUPP, "this kernel has no feature of that name");
    }
    let before = device.features(names.len()).map_err(io)?;
    let wrong = |state: &[Bits]| -> Vec<usize> {
        match on {
            // Some of a group are of other devices: a group is on when all the device has of it is.
            true => {
                let able: Vec<_> =
                    wanted.iter().copied().filter(|&i| state[i].available || state[i].active).collect();
                if able.is_empty() {
                    wanted.clone()
                } else {
                    able.into_iter().filter(|&i| !state[i].active).collect()
                }
            }
            false => wanted.iter().copied().filter(|&i| state[i].active).collect(),
        }
    };
    let change: Vec<usize> = wrong(&before).into_iter().filter(|&i| before[i].available).collect();
    if !change.is_empty() {
        device.set_features(names.len(), &change, on).map_err(io)?;
    }
    let after = device.features(names.len()).map_err(io)?;
    match wrong(&after).first() {
        None => Ok(()),
        Some(&i) if !after[i].available => {
            fail(libc::EOPNOTSUPP, &format!("the device has {} fixed the other way", names[i]))
        }
        Some(&i) => fail(
            libc::EBUSY,
            &format!("the kernel did not accept {}; something it depends on is off", names[i]),
        ),
    }
}

/// Is a feature on? A short name that stands for several is on when any of them is.
pub fn get(link_name: &str, feature: &str) -> Result<bool, NetError> {
    let object = format!("{feature} of {link_name}");
    let io = |e: io::Error| NetError::io("read the offload", &object, &e);
    let device = Device::open(link_name).map_err(io)?;
    let names = device.feature_names().map_err(io)?;
    let wanted = matching(&names, feature);
    if wanted.is_empty() {
        return Err(NetError::refused(
            "read the offload",
            &object,
            libc::EOPNOTSUPP,
            "this kernel has no feature of that name",
        ));
    }
    let state = device.features(names.len()).map_err(io)?;
    Ok(wanted.into_iter().any(|i| state[i].active))
}

/// The name of a link's driver: `veth`, `virtio_net`, `ice`, ...
pub fn driver(link_name: &str) -> Result<String, NetError> {
    const WORDS: usize = 196 / 4; // struct ethtool_drvinfo
    let io = |e: io::Error| NetError::io("read the driver of", link_name, &e);
    let mut info = vec![0u32; WORDS];
    info[0] = ETHTOOL_GDRVINFO;
    Device::open(link_name).map_err(io)?.call(&mut info).map_err(io)?;
    Ok(text(&bytes_of(&info)[4..36]))
}

/// Over how many queues a link spreads what it receives.
pub fn receive_queues(link_name: &str) -> Result<u32, NetError> {
    let channels = channels(link_name)?;
    // rx_count and combined_count.
    Ok(channels[5] + channels[8])
}

/// By how many queues a link sends.
pub fn transmit_queues(link_name: &str) -> Result<u32, NetError> {
    let channels = channels(link_name)?;
    // tx_count and combined_count.
    Ok(channels[6] + channels[8])
}

fn channels(link_name: &str) -> Result<Vec<u32>, NetError> {
    const WORDS: usize = 9; // struct ethtool_channels
    let io = |e: io::Error| NetError::io("read the queues of", link_name, &e);
    let mut channels = vec![0u32; WORDS];
    channels[0] = ETHTOOL_GCHANNELS;
    Device::open(link_name).map_err(io)?.call(&mut channels).map_err(io)?;
    Ok(channels)
}

/// The sum of a link's own statistics (`ethtool -S`) whose names begin and end so.
pub fn statistic(link_name: &str, head: &str, tail: &str) -> Result<u64, NetError> {
    let io = |e: io::Error| NetError::io("read the statistics of", link_name, &e);
    let device = Device::open(link_name).map_err(io)?;
    let names = device.strings(ETH_SS_STATS).map_err(io)?;
    // struct ethtool_stats: cmd, n_stats, then a u64 each.
    let mut stats = vec![0u32; 2 + 2 * names.len().max(STATS_ROOM)];
    stats[..2].copy_from_slice(&[ETHTOOL_GSTATS, names.len() as u32]);
    device.call(&mut stats).map_err(io)?;
    let value = |at: usize| u64::from(stats[2 + 2 * at]) | u64::from(stats[3 + 2 * at]) << 32;
    let is_one = |name: &str| name.starts_with(head) && name.ends_with(tail);
    Ok(names.iter().enumerate().filter(|(_, name)| is_one(name)).map(|(at, _)| value(at)).sum())
}

/// Where a feature's name leads: the indices of the kernel's features.
fn matching(names: &[String], feature: &str) -> Vec<usize> {
    let pattern =
        SHORT_NAMES.iter().find(|(short, _)| *short == feature).map_or(feature, |(_, pattern)| pattern);
    let matches = |name: &String| match pattern.split_once('*') {
        None => name == pattern,
        Some((head, tail)) => {
            name.len() >= head.len() + tail.len() && name.starts_with(head) && name.ends_with(tail)
        }
    };
    names.iter().enumerate().filter(|(_, name)| matches(name)).map(|(index, _)| index).collect()
}

/// One feature of one device.
#[derive(Debug, Clone, Copy)]
struct Bits {
    /// It can be switched.
    available: bool,
    active: bool,
}

/// A link of the calling thread's namespace, and a socket to ask about it.
struct Device {
    socket: OwnedFd,
    name: [libc::c_char; libc::IFNAMSIZ],
}

impl Device {
    fn open(link_name: &str) -> io::Result<Device> {
        let bytes = link_name.as_bytes();
        if bytes.is_empty() || bytes.len() >= libc::IFNAMSIZ || bytes.contains(&0) {
            return Err(io::Error::from_raw_os_error(libc::ENODEV));
        }
        let mut name = [0; libc::IFNAMSIZ];
        for (to, from) in name.iter_mut().zip(bytes) {
            *to = *from as libc::c_char;
        }
        let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
        Ok(Device { socket, name })
    }

    /// The kernel's names of all features, in the order of their bits.
    fn feature_names(&self) -> io::Result<Vec<String>> {
        self.strings(ETH_SS_FEATURES)
    }

    fn strings(&self, set: u32) -> io::Result<Vec<String>> {
        // struct ethtool_sset_info: cmd, reserved, u64 mask, then one count per bit of the mask.
        let mut info = [ETHTOOL_GSSET_INFO, 0, 0, 0, 0];
        let mask = (1u64 << set).to_ne_bytes();
        info[2] = u32::from_ne_bytes([mask[0], mask[1], mask[2], mask[3]]);
        info[3] = u32::from_ne_bytes([mask[4], mask[5], mask[6], mask[7]]);
        self.call(&mut info)?;
        let count = info[4] as usize;
        if count == 0 || count > FEATURES_MAX {
            return Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP));
        }
        // struct ethtool_gstrings: cmd, string_set, len, then the strings.
        let mut strings = vec![0u32; 3 + count * ETH_GSTRING_LEN / 4];
        strings[..3].copy_from_slice(&[ETHTOOL_GSTRINGS, set, count as u32]);
        self.call(&mut strings)?;
        Ok(bytes_of(&strings[3..]).chunks_exact(ETH_GSTRING_LEN).map(text).collect())
    }

    fn features(&self, count: usize) -> io::Result<Vec<Bits>> {
        // struct ethtool_gfeatures: cmd, size, then per 32 features: available, requested, active, never_changed.
        let blocks = count.div_ceil(32);
        let mut features = vec![0u32; 2 + blocks * 4];
        features[..2].copy_from_slice(&[ETHTOOL_GFEATURES, blocks as u32]);
        self.call(&mut features)?;
        Ok((0..count)
            .map(|i| {
                let block = &features[2 + i / 32 * 4..][..4];
                let is_set = |word: u32| word >> (i % 32) & 1 == 1;
                Bits { available: is_set(block[0]) && !is_set(block[3]), active: is_set(block[2]) }
            })
            .collect())
    }

    fn set_features(&self, count: usize, change: &[usize], on: bool) -> io::Result<()> {
        // struct ethtool_sfeatures: cmd, size, then per 32 features: valid, requested.
        let blocks = count.div_ceil(32);
        let mut features = vec![0u32; 2 + blocks * 2];
        features[..2].copy_from_slice(&[ETHTOOL_SFEATURES, blocks as u32]);
        for &i in change {
            features[2 + i / 32 * 2] |= 1 << (i % 32);
            features[3 + i / 32 * 2] |= u32::from(on) << (i % 32);
        }
        self.call(&mut features)
    }

    /// One `SIOCETHTOOL`. `data` begins with the command and has room for all its answer, as its struct in `ethtool.h` says.
    fn call(&self, data: &mut [u32]) -> io::Result<()> {
        let mut request = libc::ifreq {
            ifr_name: self.name,
            ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_data: data.as_mut_ptr().cast() },
        };
        // SAFETY: `request` and `data` are exclusively borrowed and outlive the call. The kernel writes to `data` at most
        // what the command's struct holds: 196 bytes for GDRVINFO, one count for the one bit asked of GSSET_INFO, `size`
        // blocks for GFEATURES (the callers above allocate what they ask for), nothing for SFEATURES. GSTRINGS writes as
        // many strings as the set has, on older kernels whatever `len` says, and GSTATS as many values: for ETH_SS_FEATURES that
        // number is a constant of the running kernel, and `strings` allocates by it; for ETH_SS_STATS it grows with the link's
        // queues, and there is room for more than somebody can add in between.
        let done = unsafe { libc::ioctl(self.socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) };
        // A positive result of SFEATURES says that not all was done; `set` looks for itself.
        if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

fn bytes_of(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.split(|&byte| byte == 0).next().unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_name_finds_all_the_kernel_names_it_stands_for_and_no_other() {
        let names: Vec<String> = [
            "tx-checksum-ipv4",
            "tx-checksum-sctp",
            "tx-checksum",
            "tx-tcp-segmentation",
            "tx-tcp6-segmentation",
            "rx-gro",
            "rx-gro-list",
        ]
        .map(str::to_owned)
        .to_vec();
        assert_eq!(matching(&names, "tx"), [0, 1]);
        assert_eq!(matching(&names, "tso"), [3, 4]);
        assert_eq!(matching(&names, "gro"), [5]);
        assert_eq!(matching(&names, "rx-gro-list"), [6]);
        assert!(matching(&names, "nonsense").is_empty());
    }
}
