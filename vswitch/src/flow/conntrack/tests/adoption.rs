//! A process killed at any moment, and files that are not what they were.

use super::*;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use std::collections::{HashMap, HashSet};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;

const HEADER_LEN: usize = 4_096;

fn flow(n: u16) -> NewFlow {
    let l4 = if n.is_multiple_of(2) { L4::Udp } else { segment(bits::SYN, u32::from(n), 0, 0) };
    let protocol = if n.is_multiple_of(2) { protocol::UDP } else { protocol::TCP };
    NewFlow {
        source: EndpointId(u32::from(n) + 1),
        destination: EndpointId(u32::from(n) + 2),
        ..new(key(protocol, n, 1_000 + n), n % 5, l4)
    }
}

fn open(path: &Path, flows_max: usize, now_ms: u64) -> (Conntrack, Adopted) {
    // Another process draws other keys.
    let hasher = KeyHasher::random();
    Conntrack::open(path, Settings { hasher, ..settings(flows_max) }, now_ms).unwrap()
}

fn keys(table: &Conntrack) -> HashSet<FlowKey> {
    table.iter().map(|(_, entry)| entry.key()).collect()
}

#[test]
fn flows_outlive_the_process_with_their_state_and_must_be_judged_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("flows");
    let (mut table, adopted) = open(&path, 64, 0);
    assert_eq!(adopted, Adopted { kept: 0, discarded: 0 });
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    for n in 0..20 {
        let id = table.insert(&flow(n), 1_000).unwrap();
        let _ = table.touch(id, Side::Forward, &flow(n).l4, 77, 2_000).unwrap();
    }
    table.remove(FlowId(3));
    drop(table);
    let (mut table, adopted) = open(&path, 64, 3_000);
    assert_eq!(adopted, Adopted { kept: 19, discarded: 0 });
    for n in (0..20).filter(|n| *n != 3) {
        let back = flow(n).reply_key;
        let (id, side) = table.find(&back, table.hash(&back)).unwrap();
        assert_eq!(side, Side::Reply);
        let entry = table.entry(id);
        assert_eq!(
            (entry.source(), entry.frames(Side::Forward), entry.last_seen_ms()),
            (flow(n).source, 1, 2_000)
        );
        assert_eq!(entry.judged(), Judged::NEVER);
    }
    // And it lives on: quota, timers and free slots were made anew.
    for n in 20..65 {
        table.insert(&flow(n), 3_000).unwrap();
    }
    assert_eq!(table.len(), 64);
    assert!(table.expire(100_000, usize::MAX) > 0);
}

#[test]
fn what_was_due_while_nobody_ran_is_not_adopted() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("flows");
    let (mut table, _) = open(&path, 64, 0);
    for n in 0..20 {
        table.insert(&flow(n), 1_000).unwrap();
    }
    drop(table);
    let (table, adopted) = open(&path, 64, 40_000);
    assert_eq!((table.len(), adopted), (0, Adopted { kept: 0, discarded: 20 }));
}

#[test]
fn a_table_of_another_size_takes_over_what_fits_established_first() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("flows");
    let (mut table, _) = open(&path, 64, 0);
    for n in 0..40 {
        let id = table.insert(&flow(n), 0).unwrap();
        if n >= 32 && n.is_multiple_of(2) {
            let _ = table.touch(id, Side::Reply, &L4::Udp, 1, 0).unwrap();
            let _ = table.touch(id, Side::Reply, &L4::Udp, 1, 5_000).unwrap();
        }
    }
    drop(table);
    let (table, adopted) = open(&path, 16, 6_000);
    assert_eq!((table.capacity(), adopted), (16, Adopted { kept: 16, discarded: 24 }));
    assert_eq!(table.iter().filter(|(_, e)| e.state() == State::Assured).count(), 4);
    drop(table);
    let (table, adopted) = open(&path, 128, 6_000);
    assert_eq!((table.len(), adopted.kept), (16, 16));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn when_the_number_of_workers_changes_every_flow_finds_its_owner() {
    let dir = tempfile::tempdir().unwrap();
    let path = |worker: usize| dir.path().join(format!("flows-{worker}"));
    let mut all = HashSet::new();
    for (before, after) in [(1, 4), (4, 2), (2, 3), (3, 1)] {
        let mut tables: Vec<_> = (0..before).map(|w| open(&path(w), 256, 0).0).collect();
        if all.is_empty() {
            for n in 0..200 {
                let new = flow(n);
                tables[new.key.owner(before)].insert(&new, 0).unwrap();
                all.insert(new.key);
            }
        }
        drop(tables);
        let mut tables: Vec<_> = (0..after).map(|w| open(&path(w), 256, 0).0).collect();
        let leftovers: Vec<_> = (after..before).map(path).collect();
        let adopted = adopt_into(&leftovers, &mut tables, |key| key.owner(after), 0).unwrap();
        assert_eq!(adopted.discarded, 0);
        assert!(leftovers.iter().all(|path| !path.exists()));
        for (worker, table) in tables.iter().enumerate() {
            assert!(keys(table).iter().all(|key| key.owner(after) == worker));
        }
        assert_eq!(tables.iter().flat_map(keys).collect::<HashSet<_>>(), all, "{before} to {after}");
        assert_eq!(tables.iter().map(Conntrack::len).sum::<usize>(), 200);
    }
}

#[test]
fn a_copy_taken_between_any_two_operations_is_adopted_whole() {
    for seed in 0..8 {
        println!("seed {seed}");
        let mut rng = StdRng::seed_from_u64(seed);
        let dir = tempfile::tempdir().unwrap();
        let (path, copy) = (dir.path().join("flows"), dir.path().join("copy"));
        let (mut table, _) = open(&path, 32, 0);
        for _ in 0..300 {
            let new = flow(rng.random_range(0..60));
            match table.find(&new.key, table.hash(&new.key)) {
                None => {
                    let _ = table.insert(&new, 0);
                }
                Some((id, _)) if rng.random() => table.remove(id),
                Some((id, side)) => {
                    let _ = table.touch(id, side, &new.l4, 60, 0);
                }
            }
            if rng.random_bool(0.1) {
                std::fs::copy(&path, &copy).unwrap();
                let (adopted, counts) = open(&copy, 32, 0);
                assert_eq!(keys(&adopted), keys(&table));
                assert_eq!(counts, Adopted { kept: table.len(), discarded: 0 });
            }
        }
    }
}

#[test]
fn a_flow_half_written_is_no_flow() {
    // Stores of `open` and `remove` reach memory in program order: every prefix of one is a possible moment of death. What a
    // word-by-word mixture of the record before and after makes must be the flow before, the flow after, or nothing.
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("flows");
    let record = 192;
    let read = || std::fs::read(&path).unwrap();
    let (mut table, _) = open(&path, 1, 0);
    table.insert(&flow(0), 0).unwrap();
    let before = read();
    table.remove(FlowId(0));
    table.insert(&flow(2), 0).unwrap();
    let after = read();
    drop(table);
    let mut rng = StdRng::seed_from_u64(5);
    for _ in 0..300 {
        let mut torn = before.clone();
        for word in 0..record / 8 {
            if rng.random() {
                let at = HEADER_LEN + word * 8;
                torn[at..at + 8].copy_from_slice(&after[at..at + 8]);
            }
        }
        std::fs::write(&path, &torn).unwrap();
        let (table, _) = open(&path, 1, 0);
        for (_, entry) in table.iter() {
            let whole = [flow(0), flow(2)].iter().any(|f| {
                entry.key() == f.key
                    && entry.reply_key() == f.reply_key
                    && (entry.source(), entry.destination()) == (f.source, f.destination)
                    && entry.source_port() == f.source_port
            });
            assert!(whole, "a mixture was adopted: {entry:?}");
        }
    }
}

#[test]
fn no_damage_panics_or_changes_who_a_flow_is_between() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("flows");
    let (mut table, _) = open(&path, 32, 0);
    for n in 0..32 {
        table.insert(&flow(n), 1_000).unwrap();
    }
    drop(table);
    let good = std::fs::read(&path).unwrap();
    let flows: HashMap<FlowKey, NewFlow> = (0..32).map(|n| (flow(n).key, flow(n))).collect();
    for seed in 0..500 {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut bytes = good.clone();
        // Mostly in the records, sometimes in the header.
        let range = if rng.random_bool(0.05) { 0..64 } else { HEADER_LEN..bytes.len() };
        for _ in 0..rng.random_range(1..200) {
            let at = rng.random_range(range.clone());
            bytes[at] = if rng.random() { rng.random() } else { bytes[at] ^ 1 << rng.random_range(0..8) };
        }
        if rng.random_bool(0.05) {
            bytes.truncate(rng.random_range(0..bytes.len()));
        }
        std::fs::write(&path, &bytes).unwrap();
        let (mut table, _) = open(&path, 32, 2_000);
        for (_, entry) in table.iter() {
            let Some(meant) = flows.get(&entry.key()) else { panic!("seed {seed}: {entry:?}") };
            assert_eq!(
                (entry.reply_key(), entry.source(), entry.destination(), entry.source_port()),
                (meant.reply_key, meant.source, meant.destination, meant.source_port),
                "seed {seed}"
            );
            assert!(entry.last_seen_ms() <= 2_000, "seed {seed}: seen in the future");
        }
        // Whatever was kept can be used, and goes.
        for (id, key) in table.iter().map(|(id, e)| (id, e.key())).collect::<Vec<_>>() {
            let l4 = flows[&key].l4;
            let _ = table.touch(id, Side::Reply, &l4, 60, 2_000);
            let _ = table.touch(id, Side::Forward, &l4, 60, 2_000);
        }
        table.expire(10_000_000, usize::MAX);
        table.expire(20_000_000, usize::MAX);
        assert!(table.is_empty(), "seed {seed}");
        for n in 0..32 {
            table.insert(&flow(n), 20_000_000).unwrap();
        }
    }
}

#[test]
fn two_records_with_one_tuple_become_one_flow() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("flows");
    let (mut table, _) = open(&path, 2, 0);
    table.insert(&flow(0), 0).unwrap();
    drop(table);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes.copy_within(HEADER_LEN..HEADER_LEN + 192, HEADER_LEN + 192);
    std::fs::write(&path, &bytes).unwrap();
    let (table, adopted) = open(&path, 2, 0);
    assert_eq!((table.len(), adopted), (1, Adopted { kept: 1, discarded: 1 }));
}

#[test]
fn another_boot_has_no_flows() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("flows");
    let (mut table, _) = open(&path, 4, 0);
    table.insert(&flow(0), 0).unwrap();
    drop(table);
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(&[0xAA; 16], 24).unwrap();
    let (table, adopted) = open(&path, 4, 0);
    assert_eq!((table.len(), adopted), (0, Adopted::default()));
}

#[test]
fn a_file_others_could_have_written_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("flows");
    drop(open(&path, 4, 0));
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
    let error = Conntrack::open(&path, settings(4), 0).unwrap_err().to_string();
    assert!(error.contains("flows") && error.contains("remove it"), "{error}");
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    assert!(Conntrack::open(&link, settings(4), 0).is_err());
    assert!(Conntrack::open(dir.path(), settings(4), 0).is_err());
    assert!(Conntrack::create(settings(0)).is_err());
}
