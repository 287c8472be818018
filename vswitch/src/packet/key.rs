//! What makes two packets one flow.

use penstock_api::artefact::protocol;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Addresses, protocol, ports and zone of one direction of a flow. 40 bytes without padding, aligned: compared and hashed as five words.
///
/// IPv4 addresses are held v4-mapped (`::ffff:a.b.c.d`) and `family` tells them from the IPv6 addresses that look the same.
/// ICMP echo has its identifier in both ports, so that a reply's key is the reverse of the request's. Protocols without ports have 0.
/// Other ICMP queries have (type of the question, 65535), their answers the reverse: a verdict about one type must not be
/// found under another's key.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[repr(C, align(8))]
pub struct FlowKey {
    pub source: [u8; 16],
    pub destination: [u8; 16],
    pub source_port: u16,
    pub destination_port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// 4 or 6.
    pub family: u8,
    /// Keeps flows with one 5-tuple apart: the two legs of a proxied connection. 0 everywhere else.
    pub zone: u16,
}

impl FlowKey {
    /// The key of the packets that come back.
    #[must_use]
    pub fn reversed(&self) -> FlowKey {
        FlowKey {
            source: self.destination,
            destination: self.source,
            source_port: self.destination_port,
            destination_port: self.source_port,
            ..*self
        }
    }

    /// The words of [`FlowKey::reversed`].
    #[inline]
    #[must_use]
    pub fn reversed_words(&self) -> [u64; 5] {
        let [a, b, c, d, rest] = self.words();
        [c, d, a, b, rest & !0xffff_ffff | rest >> 16 & 0xffff | (rest & 0xffff) << 16]
    }

    pub fn new(
        protocol: u8,
        source: IpAddr,
        source_port: u16,
        destination: IpAddr,
        destination_port: u16,
    ) -> FlowKey {
        FlowKey {
            source: mapped(source),
            destination: mapped(destination),
            source_port,
            destination_port,
            protocol,
            family: if source.is_ipv4() { 4 } else { 6 },
            zone: 0,
        }
    }

    pub fn source_address(&self) -> IpAddr {
        unmapped(self.source, self.family)
    }

    pub fn destination_address(&self) -> IpAddr {
        unmapped(self.destination, self.family)
    }

    /// The two 64-bit halves of both addresses, and everything else in the last word.
    #[inline]
    pub fn words(&self) -> [u64; 5] {
        let ([a, b], [c, d]) = (halves(&self.source), halves(&self.destination));
        [
            a,
            b,
            c,
            d,
            u64::from(self.source_port)
                | u64::from(self.destination_port) << 16
                | u64::from(self.protocol) << 32
                | u64::from(self.family) << 40
                | u64::from(self.zone) << 48,
        ]
    }

    /// The key these words were made from.
    #[inline]
    #[must_use]
    pub fn of_words(words: &[u64; 5]) -> FlowKey {
        let mut key = FlowKey {
            source_port: words[4] as u16,
            destination_port: (words[4] >> 16) as u16,
            protocol: (words[4] >> 32) as u8,
            family: (words[4] >> 40) as u8,
            zone: (words[4] >> 48) as u16,
            ..FlowKey::default()
        };
        key.source[..8].copy_from_slice(&words[0].to_ne_bytes());
        key.source[8..].copy_from_slice(&words[1].to_ne_bytes());
        key.destination[..8].copy_from_slice(&words[2].to_ne_bytes());
        key.destination[8..].copy_from_slice(&words[3].to_ne_bytes());
        key
    }

    /// Do these words make this key? All are compared: that is less than a branch guessed wrong, and than a call.
    #[inline]
    #[must_use]
    pub fn is_of(&self, words: &[u64; 5]) -> bool {
        let own = self.words();
        (0..5).fold(0, |difference, n| difference | own[n] ^ words[n]) == 0
    }

    /// The steering hash: the same for both directions of a flow, and the same in `bpf/penstock.bpf.c`, which sends a
    /// frame to the worker it names. A hint there, the truth here: the owner of a flow is [`FlowKey::owner`].
    #[inline]
    pub fn steering_hash(&self) -> u32 {
        let fold = |bytes: &[u8; 16]| {
            bytes
                .chunks_exact(4)
                .fold(0u32, |hash, word| hash ^ u32::from_be_bytes(word.try_into().expect("four bytes")))
        };
        let ports = match self.protocol {
            protocol::TCP | protocol::UDP | protocol::SCTP => self.source_port ^ self.destination_port,
            _ => 0,
        };
        let mixed =
            fold(&self.source) ^ fold(&self.destination) ^ u32::from(ports) << 8 ^ u32::from(self.protocol);
        mixed.wrapping_mul(0x9E37_79B1)
    }

    /// Which of `workers` owns this flow.
    #[inline]
    pub fn owner(&self, workers: usize) -> usize {
        if workers == 1 {
            return 0;
        }
        ((u64::from(self.steering_hash()) * workers as u64) >> 32) as usize
    }
}

/// An address in the 16 bytes of a key.
pub fn mapped(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// The words of an address in a key.
#[inline]
pub(crate) fn halves(bytes: &[u8; 16]) -> [u64; 2] {
    let half = |at: usize| u64::from_ne_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
    [half(0), half(8)]
}

/// The address these words were made from.
pub(crate) fn address(halves: [u64; 2], family: u8) -> IpAddr {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&halves[0].to_ne_bytes());
    bytes[8..].copy_from_slice(&halves[1].to_ne_bytes());
    unmapped(bytes, family)
}

fn unmapped(bytes: [u8; 16], family: u8) -> IpAddr {
    match family {
        4 => IpAddr::V4(Ipv4Addr::new(bytes[12], bytes[13], bytes[14], bytes[15])),
        _ => IpAddr::V6(Ipv6Addr::from(bytes)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{RngExt, SeedableRng, rngs::StdRng};

    #[test]
    fn the_words_of_the_way_back_are_those_of_the_reversed_key() {
        let seed = rand::random();
        println!("seed {seed}");
        let mut rng = StdRng::seed_from_u64(seed);
        for _ in 0..10_000 {
            let key = FlowKey::of_words(&std::array::from_fn(|_| rng.random()));
            assert_eq!(key.reversed_words(), key.reversed().words(), "{key:?}");
        }
    }
}
