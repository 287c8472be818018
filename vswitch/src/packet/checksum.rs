//! The Internet checksum (RFC 1071): computed, and updated when one field changes (RFC 1624).

use super::FlowKey;

/// A ones' complement sum that is still being added to. Pieces must begin at even offsets of what is summed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum(u64);

impl Sum {
    /// Adds bytes; an odd last byte counts as if a zero followed.
    #[must_use]
    #[inline]
    pub fn plus(self, bytes: &[u8]) -> Sum {
        let (words, rest) = bytes.as_chunks::<4>();
        // 2^32 words of 32 bits fit into 64 bits; a packet has 2^14.
        let mut sum = words.iter().fold(self.0, |sum, word| sum + u64::from(u32::from_be_bytes(*word)));
        sum += match rest {
            [a, b, c] => u64::from(u32::from_be_bytes([*a, *b, *c, 0])),
            [a, b] => u64::from(u16::from_be_bytes([*a, *b])),
            [a] => u64::from(u16::from_be_bytes([*a, 0])),
            _ => 0,
        };
        Sum(sum)
    }

    #[must_use]
    #[inline]
    pub fn add_u16(self, word: u16) -> Sum {
        Sum(self.0 + u64::from(word))
    }

    /// The checksum: what to store in the field, or 0 when what was summed held its own right checksum.
    #[must_use]
    #[inline]
    pub fn finish(self) -> u16 {
        // 2^16 = 1 in ones' complement, so carries are added back until none is left.
        let sum = (self.0 & 0xffff_ffff) + (self.0 >> 32);
        let sum = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32);
        let sum = (sum & 0xffff) + (sum >> 16);
        let sum = (sum & 0xffff) + (sum >> 16);
        !(sum as u16)
    }
}

/// The checksum of some bytes.
#[must_use]
#[inline]
pub fn checksum(bytes: &[u8]) -> u16 {
    Sum::default().plus(bytes).finish()
}

/// The pseudo header of `key`'s family: addresses, `protocol` and the L4 length in bytes.
#[must_use]
pub fn pseudo_header(key: &FlowKey, protocol: u8, l4_len: u16) -> Sum {
    // An IPv4-mapped address begins with zeros and ffff; only its last four bytes count.
    let from = if key.family == 4 { 12 } else { 0 };
    Sum::default()
        .plus(&key.source[from..])
        .plus(&key.destination[from..])
        .add_u16(u16::from(protocol))
        .add_u16(l4_len)
}

/// The checksum after one 16-bit word it covers changed. RFC 1624, equation 3: `HC' = ~(~HC + ~m + m')`.
#[must_use]
#[inline]
pub fn updated(checksum: u16, old: u16, new: u16) -> u16 {
    Sum::default().add_u16(!checksum).add_u16(!old).add_u16(new).finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 1071, section 4.1, word by word.
    fn slow(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
            if sum > 0xffff {
                sum -= 0xffff;
            }
        }
        !(sum as u16)
    }

    #[test]
    fn the_fast_sum_is_the_slow_sum_at_every_length() {
        use rand::{Rng, SeedableRng};
        let mut random = rand::rngs::StdRng::seed_from_u64(1071);
        for len in 0..600 {
            let mut bytes = vec![0u8; len];
            random.fill_bytes(&mut bytes);
            assert_eq!(checksum(&bytes), slow(&bytes), "of {len} random bytes");
            assert_eq!(checksum(&vec![0xff; len]), slow(&vec![0xff; len]), "of {len} bytes of ones");
        }
    }

    #[test]
    fn the_example_of_rfc_1071_holds() {
        assert_eq!(!checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), 0xddf2);
    }

    #[test]
    fn an_updated_checksum_verifies_like_a_computed_one() {
        for seed in 0..=u16::MAX {
            let mut bytes =
                [0x45, 0, 0, 84, (seed >> 8) as u8, seed as u8, 0x40, 0, 64, 1, 0, 0, 10, 0, 0, 1];
            let sum = checksum(&bytes);
            let old = u16::from_be_bytes([bytes[8], bytes[9]]);
            bytes[8] -= 1;
            let new = u16::from_be_bytes([bytes[8], bytes[9]]);
            let updated = updated(sum, old, new);
            bytes[10..12].copy_from_slice(&updated.to_be_bytes());
            assert_eq!(checksum(&bytes), 0, "identification {seed}");
        }
    }
}
