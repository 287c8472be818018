//! The keyed hash of a flow key, computed once per packet and used by the cache, conntrack and the fragment table.
//!
//! Keyed with numbers drawn when the switch starts: whoever may choose addresses and ports still cannot choose buckets.

use crate::packet::FlowKey;
use ahash::RandomState;
use std::hash::{BuildHasher, Hasher};

/// Hashes flow keys. Clones hash alike; two made by [`KeyHasher::random`] do not.
#[derive(Clone, Debug)]
pub struct KeyHasher(RandomState);

impl KeyHasher {
    /// With keys from the system's random source: what the switch uses.
    #[must_use]
    pub fn random() -> Self {
        KeyHasher(RandomState::new())
    }

    /// With known keys: tests that must replay.
    #[must_use]
    pub fn with_seed(seed: u64) -> Self {
        KeyHasher(RandomState::with_seeds(seed, !seed, seed.rotate_left(32), 0x9E37_79B9_7F4A_7C15))
    }

    /// The hash of one direction; the other direction's is unrelated.
    #[inline]
    #[must_use]
    pub fn hash(&self, key: &FlowKey) -> u64 {
        self.hash_words(&key.words(), 0)
    }

    /// The hash of a key's words and one number more.
    #[inline]
    pub(super) fn hash_words(&self, words: &[u64; 5], salt: u64) -> u64 {
        let mut hasher = self.0.build_hasher();
        for word in words {
            hasher.write_u64(*word);
        }
        hasher.write_u64(salt);
        hasher.finish()
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
