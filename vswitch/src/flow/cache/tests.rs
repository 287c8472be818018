//! Against a map that remembers everything: the cache may forget, never err.

use super::*;
use crate::flow::KeyHasher;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use std::collections::HashMap;

fn key(n: u32) -> FlowKey {
    FlowKey::new(17, std::net::Ipv4Addr::from(n).into(), n as u16, [10, 0, 0, 1].into(), 53)
}

fn entry(key: FlowKey, stamp: u32) -> CacheEntry {
    CacheEntry {
        key,
        flow: FlowId::default(),
        stamp,
        judged: Judged { source: stamp, destination: 2, forwarding: 3 },
        out: PortId(stamp as u16),
        side: Side::Reply,
        flags: 0,
    }
}

/// `weaken` makes of a good hash the one used: a bad one must cost hits, not truth.
fn compare_with_map(seed: u64, weaken: fn(u64) -> u64) {
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let hasher = KeyHasher::with_seed(seed);
    let mut cache = FlowCache::new(64);
    let mut map = HashMap::new();
    for step in 0..5_000 {
        let key = key(rng.random_range(0..200));
        let hash = weaken(hasher.hash(&key));
        match rng.random_range(0..100) {
            0..40 => {
                let entry = entry(key, step);
                cache.insert(hash, entry);
                map.insert(key, entry);
                assert_eq!(cache.get(hash, &key), Some(&entry), "what was just said is known");
            }
            40..50 => {
                let known = cache.get(hash, &key).is_some();
                assert_eq!(cache.remove(hash, &key), known);
                map.remove(&key);
            }
            50 if step % 10 == 0 => {
                cache.clear();
                map.clear();
            }
            _ => {
                cache.prefetch(hash);
                let guess = cache.guess(hash);
                let known = cache.get(hash, &key).copied();
                if rng.random_range(0..2) == 0 {
                    // Somebody else is remembered before the guess is used.
                    let other = self::key(rng.random_range(0..200));
                    let (hash, entry) = (weaken(hasher.hash(&other)), entry(other, step));
                    cache.insert(hash, entry);
                    map.insert(other, entry);
                } else {
                    assert_eq!(cache.get_guessed(guess, hash, &key).copied(), known);
                }
                if let Some(found) = cache.get_guessed(guess, hash, &key) {
                    assert_eq!(Some(found), map.get(&key));
                }
                if let Some(found) = cache.get(hash, &key) {
                    assert_eq!(Some(found), map.get(&key));
                }
            }
        }
        assert!(cache.count() <= cache.capacity().min(map.len()));
    }
}

#[test]
fn an_answer_is_always_the_last_one_given_for_that_very_key() {
    for seed in 0..20 {
        compare_with_map(seed, |hash| hash);
        compare_with_map(seed, |hash| hash & 0x3);
        compare_with_map(seed, |hash| hash & 0x7 << 32);
        compare_with_map(seed, |_| 0);
    }
}

#[test]
fn a_cache_that_is_large_enough_forgets_almost_nothing() {
    let hasher = KeyHasher::with_seed(1);
    let mut cache = FlowCache::new(4096);
    for n in 0..2048 {
        cache.insert(hasher.hash(&key(n)), entry(key(n), n));
    }
    let known = (0..2048).filter(|n| cache.get(hasher.hash(&key(*n)), &key(*n)).is_some()).count();
    assert!(known > 2000, "{known} of 2048");
}

#[test]
fn a_flow_that_is_used_survives_a_flood_of_flows_that_are_not() {
    let hasher = KeyHasher::with_seed(1);
    let mut cache = FlowCache::new(64);
    let hot = key(0);
    let hash = hasher.hash(&hot);
    cache.insert(hash, entry(hot, 0));
    for n in 1..10_000 {
        assert!(cache.get(hash, &hot).is_some(), "lost after {n}");
        cache.insert(hasher.hash(&key(n)), entry(key(n), n));
    }
}

#[test]
fn changing_any_one_bit_of_a_key_misses() {
    let mut cache = FlowCache::new(8);
    let known = key(7);
    cache.insert(0, entry(known, 1));
    for bit in 0..128 {
        let mut other = known;
        other.source[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(cache.get(0, &other), None);
        let mut other = known;
        other.destination[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(cache.get(0, &other), None);
    }
    for bit in 0..16 {
        let flip = 1 << bit;
        assert_eq!(cache.get(0, &FlowKey { source_port: known.source_port ^ flip, ..known }), None);
        assert_eq!(cache.get(0, &FlowKey { destination_port: known.destination_port ^ flip, ..known }), None);
        assert_eq!(cache.get(0, &FlowKey { zone: known.zone ^ flip, ..known }), None);
    }
    assert_eq!(cache.get(0, &FlowKey { protocol: 6, ..known }), None);
    assert_eq!(cache.get(0, &FlowKey { family: 6, ..known }), None);
}
