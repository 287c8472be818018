//! The keyed hash of a flow key, computed once per packet and used by the cache, conntrack and the fragment table.
//!
//! Keyed with numbers drawn when the switch starts: whoever may choose addresses and ports still cannot choose buckets.
//!
//! The step is that of ahash and wyhash without AES, the folded multiplication: both halves of a product of two words, each
//! masked with a secret one. They do it in one chain, word after word; a key has a fixed length, so its pairs of words are folded side
//! by side and then together. That is two multiplications of latency instead of seven.

use crate::packet::FlowKey;
use ahash::RandomState;

/// Hashes flow keys. Clones hash alike; two made by [`KeyHasher::random`] do not.
#[derive(Clone, Debug)]
pub struct KeyHasher([u64; 8]);

/// Both halves of the product.
#[inline]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

impl KeyHasher {
    /// With keys from the system's random source: what the switch uses.
    #[must_use]
    pub fn random() -> Self {
        Self::keyed(&RandomState::new())
    }

    /// With known keys: tests that must replay.
    #[must_use]
    pub fn with_seed(seed: u64) -> Self {
        Self::keyed(&RandomState::with_seeds(seed, !seed, seed.rotate_left(32), 0x9E37_79B9_7F4A_7C15))
    }

    fn keyed(source: &RandomState) -> Self {
        KeyHasher(std::array::from_fn(|n| source.hash_one(n as u64)))
    }

    /// The hash of one direction; the other direction's is unrelated.
    #[inline]
    #[must_use]
    pub fn hash(&self, key: &FlowKey) -> u64 {
        self.hash_words(&key.words(), 0)
    }

    /// The hash of a key's words and one number more.
    #[inline]
    pub(crate) fn hash_words(&self, words: &[u64; 5], salt: u64) -> u64 {
        let key = &self.0;
        let source = fold(words[0] ^ key[0], words[1] ^ key[1]);
        let destination = fold(words[2] ^ key[2], words[3] ^ key[3]);
        let rest = fold(words[4] ^ key[4], salt ^ key[5]);
        fold(source ^ rest.rotate_left(32) ^ key[6], destination ^ rest ^ key[7])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_of_a_key_changes_its_hash_and_so_does_the_hasher() {
        let key = FlowKey { protocol: 6, family: 4, ..FlowKey::default() };
        let hasher = KeyHasher::with_seed(1);
        let mut seen =
            std::collections::HashSet::from([hasher.hash(&key), KeyHasher::with_seed(2).hash(&key)]);
        let mut add = |change: fn(&mut FlowKey)| {
            let mut changed = key;
            change(&mut changed);
            assert!(seen.insert(hasher.hash(&changed)), "{changed:?}");
        };
        add(|k| k.source[0] = 1);
        add(|k| k.source[15] = 1);
        add(|k| k.destination[0] = 1);
        add(|k| k.destination[15] = 1);
        add(|k| k.source_port = 1);
        add(|k| k.destination_port = 1);
        add(|k| k.protocol = 17);
        add(|k| k.family = 6);
        add(|k| k.zone = 1);
    }
}
