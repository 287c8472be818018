//! Rings that stop and rings that overflow.

use crate::common::{
    AtEnd, LONG, TCP, UDP, both, inside, kernel_has, mac_of, shop, udp_frame, udp_socket, workers,
};
use aya::maps::{Map, MapData, XskMap};
use penstock_api::DropReason;
use penstock_api::message::gateway;
use penstock_lab::Outcome::Reached;
use penstock_lab::{Lab, LabOptions, Place, scaled};
use penstock_net::offload;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

fn is_bound_anew(mtu: u16) {
    // Every frame must need the socket.
    let switch_arguments = ["--shortcut", "off"].map(str::to_owned).to_vec();
    let (lab, web, db) = shop("watch", LabOptions { mtu, switch_arguments, ..workers(1) });
    let rebinds = || lab.status().unwrap().workers.iter().map(|worker| worker.rebinds).sum::<u64>();
    let socket = udp_socket(&web, db.v4(), UDP);
    socket.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
    // Three times, since a machine that compiles beside us may withhold a CPU once.
    let (mut outages, mut taken) = ([Duration::ZERO; 3], 0);
    let mut last = Instant::now();
    let mut buffer = [0; 100];
    let (began, before) = (Instant::now(), rebinds());
    while began.elapsed() < Duration::from_millis(5000) {
        if taken < 3 && began.elapsed() > Duration::from_millis(500 + 1500 * taken as u64) {
            taken += 1;
            let pin = lab.instance().bpf_dir().join("XSKS");
            let map = Map::from_map_data(MapData::from_pin(&pin).unwrap()).unwrap();
            XskMap::try_from(map).unwrap().unset(0).unwrap();
        }
        let _ = socket.send(b"tick");
        if socket.recv(&mut buffer).is_ok() {
            if taken > 0 {
                outages[taken - 1] = outages[taken - 1].max(last.elapsed());
            }
            last = Instant::now();
        }
    }
    eprintln!("MTU {mtu}: the longest times without an answer: {outages:?}");
    assert!(last.elapsed() < Duration::from_secs(1), "no answer for {:?}", last.elapsed());
    assert!(rebinds() >= before + 3, "not bound anew three times");
    outages.sort();
    assert!(outages[0] < Duration::from_millis(500), "without an answer: {outages:?}");
    assert!(outages[2] < Duration::from_secs(2), "without an answer: {outages:?}");
    assert!(lab.drops(DropReason::NoSocket) > 0, "what was lost has a name");
    Books::balanced(&lab, &[&web, &db]);
    assert_eq!(web.connect_within(db.v6(), TCP, LONG), Reached);
    lab.assert_frames_conserved();
}

/// What went into the switch and what came of it, by the interfaces of everybody who has a port.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Books {
    pub(crate) sent: u64,
    /// Made by the workers themselves.
    originated: u64,
    pub(crate) delivered: u64,
    drops: Vec<(DropReason, u64)>,
}

impl Books {
    /// Everybody: these pods and the host.
    pub(crate) fn of(lab: &Lab, pods: &[&Place]) -> Books {
        let host_interface = lab.instance().host_interface();
        let everybody = pods.iter().map(|pod| (*pod, "eth0")).chain([(lab.host(), host_interface.as_str())]);
        let traffic: Vec<Traffic> = everybody.map(|(place, name)| Traffic::of(place, name)).collect();
        Books {
            sent: traffic.iter().map(|t| t.sent).sum(),
            originated: lab.status().unwrap().workers.iter().map(|worker| worker.originated).sum(),
            delivered: traffic.iter().map(|t| t.received).sum(),
            drops: lab.all_drops().unwrap(),
        }
    }

    pub(crate) fn balance(&self) -> i64 {
        let dropped: u64 = self.drops.iter().map(|(_, frames)| frames).sum();
        (self.sent + self.originated) as i64 - (self.delivered + dropped) as i64
    }

    /// Waits until nothing is under way any more. Panics when frames are missing, or turned up from nowhere.
    #[track_caller]
    fn balanced(lab: &Lab, pods: &[&Place]) -> Books {
        Books::balanced_since(0..=0, lab, pods)
    }

    /// The same where some were missing before. As many may be missing now.
    #[track_caller]
    pub(crate) fn balanced_since(missing: RangeInclusive<i64>, lab: &Lab, pods: &[&Place]) -> Books {
        let deadline = Instant::now() + LONG;
        loop {
            let books = Books::of(lab, pods);
            if missing.contains(&books.balance()) {
                return books;
            }
            assert!(Instant::now() < deadline, "{} frames are in no book: {books:#?}", books.balance());
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// Frames of an interface, as its owner sees them. Those it lost before they left it are not among those sent.
#[derive(Debug, Default)]
struct Traffic {
    received: u64,
    sent: u64,
    lost: u64,
}

impl Traffic {
    fn of(place: &Place, interface: &str) -> Traffic {
        let table = place.run(|| std::fs::read_to_string("/proc/thread-self/net/dev")).unwrap();
        let row = table.lines().find_map(|line| line.trim_start().strip_prefix(interface)?.strip_prefix(':'));
        let row: Vec<u64> = row.unwrap().split_whitespace().map(|number| number.parse().unwrap()).collect();
        // bytes packets errs drop fifo frame compressed multicast, of receiving and of sending.
        Traffic { received: row[1], sent: row[9], lost: row[11] }
    }
}

#[test]
fn a_socket_that_falls_out_of_its_map_is_bound_anew_under_traffic() {
    is_bound_anew(1500);
}

#[test]
fn sockets_for_frames_of_several_chunks_are_bound_anew_as_soon() {
    is_bound_anew(9000);
}

#[test]
fn one_pod_that_floods_takes_nothing_from_the_others() {
    Flooded::new("flood", workers(1)).assert_others_were_answered();
}

#[test]
fn frames_that_are_sent_in_bulk_are_in_the_books_too() {
    let switch_arguments = ["--bulk-transmit", "true", "--shortcut", "off"].map(str::to_owned).to_vec();
    let flooded = Flooded::new("bulk", LabOptions { switch_arguments, ..workers(1) });
    let lab = &flooded.lab;
    let in_bulk = inside(lab).run(|| offload::statistic("xsk0", "tx_queue_", "_xdp_xmit")).unwrap();
    let status = lab.status().unwrap();
    if knows_xdp_features() {
        assert!(in_bulk > 1_000, "hardly any frame was sent in bulk: {in_bulk}");
        assert_eq!(status.workers[0].devices[0].mode, "native copy, bulk");
    } else {
        eprintln!("done without");
        assert_eq!((in_bulk, status.workers[0].devices[0].mode.as_str()), (0, "native copy"));
        let told = status.notes.iter().any(|note| note.contains("trunks are sent to one by one although"));
        assert!(told, "{:?}", status.notes);
    }
    flooded.assert_others_were_answered();
}

/// Linux 6.3.
fn knows_xdp_features() -> bool {
    kernel_has("vmlinux", "netdev_nl_dev_get_doit")
}

/// A pod has flooded another, and its frames are in the books; a third has asked a fourth meanwhile.
struct Flooded {
    lab: Lab,
    asked: u32,
    answered: u32,
    drops: Vec<(DropReason, u64)>,
}

impl Flooded {
    fn new(name: &str, options: LabOptions) -> Flooded {
        let (lab, web, db) = shop(name, options);
        let noisy = lab.pod("shop", "noisy", &[]);
        let sink = lab.pod("shop", "sink", &[]);
        let frame = udp_frame(
            (mac_of(&noisy, "eth0"), gateway::MAC.0),
            (noisy.v4().into(), sink.v4().into()),
            9,
            &[0; 18],
        );
        let wire = noisy.wire("eth0");
        let (over, sent) = (AtomicBool::new(false), AtomicU64::new(0));
        let (mut asked, mut answered) = (0, 0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    // A full queue of the pod's own is the pod's loss.
                    sent.fetch_add(u64::from(wire.send(&frame).is_ok()), Ordering::Relaxed);
                }
            });
            let _over = AtEnd(|| over.store(true, Ordering::Relaxed));
            let began = Instant::now();
            while began.elapsed() < scaled(Duration::from_secs(3)) {
                for to in both(&db) {
                    asked += 1;
                    answered += u32::from(web.ping_with(to, 56, Duration::from_secs(2)) == Reached);
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        let flood = Traffic::of(&noisy, "eth0");
        assert!(
            flood.sent + flood.lost >= sent.load(Ordering::Relaxed),
            "the pod's own interface lost some: {flood:?}"
        );
        let books = Books::balanced(&lab, &[&web, &db, &noisy, &sink]);
        eprintln!("flood of {} frames; {answered} of {asked} pings answered; {books:?}", sent.into_inner());
        assert!(books.sent > 10_000 && books.delivered > 1_000, "hardly anything was sent: {books:?}");
        lab.assert_frames_conserved();
        Flooded { lab, asked, answered, drops: books.drops }
    }

    fn assert_others_were_answered(&self) {
        let Flooded { asked, answered, drops, .. } = self;
        assert!(*asked >= 10, "hardly any ping was tried: {asked}");
        assert!(answered * 100 >= asked * 95, "{answered} of {asked} pings were answered; {drops:?}");
    }
}
