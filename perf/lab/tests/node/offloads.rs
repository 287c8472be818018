//! Offloads: frames arrive complete and cut to size, whatever the pod does to its own interface and when.

use crate::common::{both, shop, workers};
use penstock_lab::{Lab, Pod, RunningTransfer};
use penstock_net::offload;
use std::net::IpAddr;
use std::time::{Duration, Instant};

const FEATURES: [&str; 4] = ["tx", "tso", "gso", "gro"];

fn transfer_for(lab_pods: (&Pod, &Pod), to: IpAddr, time: Duration) -> RunningTransfer {
    lab_pods.0.start_transfer(lab_pods.1, to, if to.is_ipv4() { 5001 } else { 5002 }, time).unwrap()
}

#[test]
fn a_transfer_runs_from_the_first_byte_with_all_offloads_on() {
    let (lab, web, db) = shop("offl", workers(1));
    for pod in [&web, &db] {
        // All but the last are on as the plugin leaves it; a veth has GRO off.
        for feature in &FEATURES[..3] {
            assert!(pod.run(|| offload::get("eth0", feature)).unwrap(), "{feature} of {}", pod.name());
        }
        pod.run(|| offload::set("eth0", FEATURES[3], true)).unwrap();
    }
    for to in both(&db) {
        let began = Instant::now();
        let transfer = transfer_for((&web, &db), to, Duration::from_secs(1));
        while transfer.bytes() < 100_000 {
            assert!(began.elapsed() < Duration::from_secs(3), "{to}: {} bytes after 3 s", transfer.bytes());
            std::thread::sleep(Duration::from_millis(1));
        }
        let first = began.elapsed();
        let done = transfer.finish().unwrap();
        eprintln!("{to}: 100 KB after {first:?}, {:.2} Gb/s", done.gigabits_per_second());
        assert!(done.bytes > 1_000_000, "{to}: {done:?}");
    }
    lab.assert_frames_conserved();
}

/// Switches each feature off and on again while a transfer runs; progress is made after every change.
fn toggling_does_not_stall(lab: &Lab, from: &Pod, to: &Pod, toggled: &Pod, address: IpAddr) {
    let transfer = transfer_for((from, to), address, Duration::from_secs(4));
    let began = Instant::now();
    let mut changes = 0;
    'changing: loop {
        for on in [false, true] {
            for feature in FEATURES {
                if began.elapsed() > Duration::from_millis(3500) {
                    break 'changing;
                }
                // What depends on something that is off stays off; that is the pod's business.
                let _ = toggled.run(|| offload::set("eth0", feature, on));
                changes += 1;
                let before = transfer.bytes();
                let changed = Instant::now();
                while transfer.bytes() < before + 200_000 && began.elapsed() < Duration::from_millis(3500) {
                    assert!(
                        changed.elapsed() < Duration::from_secs(2),
                        "{address}: stalled after {feature} {on} of {}",
                        toggled.name()
                    );
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
        }
    }
    assert!(changes >= 4, "only {changes} changes were made");
    let done = transfer.finish().unwrap();
    assert!(done.bytes > 1_000_000, "{address}: {done:?}");
    for feature in FEATURES {
        toggled.run(|| offload::set("eth0", feature, true)).unwrap();
    }
    lab.assert_frames_conserved();
}

#[test]
fn a_transfer_goes_on_while_the_sender_toggles_every_offload() {
    let (lab, web, db) = shop("togs", workers(1));
    for to in both(&db) {
        toggling_does_not_stall(&lab, &web, &db, &web, to);
    }
}

#[test]
fn a_transfer_goes_on_while_the_receiver_toggles_every_offload() {
    let (lab, web, db) = shop("togr", workers(1));
    for to in both(&db) {
        toggling_does_not_stall(&lab, &web, &db, &db, to);
    }
}
