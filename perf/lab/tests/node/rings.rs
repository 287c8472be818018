//! Rings that stop and rings that overflow.

use crate::common::{AtEnd, LONG, TCP, UDP, both, mac_of, shop, udp_frame, udp_socket, workers};
use aya::maps::{Map, MapData, XskMap};
use penstock_api::DropReason;
use penstock_api::message::gateway;
use penstock_lab::Outcome::Reached;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

#[test]
fn a_socket_that_falls_out_of_its_map_is_bound_anew_under_traffic() {
    let (lab, web, db) = shop("watch", workers(1));
    let rebinds = || lab.status().unwrap().workers.iter().map(|worker| worker.rebinds).sum::<u64>();
    let socket = udp_socket(&web, db.v4(), UDP);
    socket.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
    let mut last = Instant::now();
    let mut longest = Duration::ZERO;
    let mut buffer = [0; 100];
    let (began, before) = (Instant::now(), rebinds());
    let mut taken = false;
    while began.elapsed() < Duration::from_secs(4) {
        if !taken && began.elapsed() > Duration::from_millis(500) {
            taken = true;
            let pin = lab.instance().bpf_dir().join("XSKS");
            let map = Map::from_map_data(MapData::from_pin(&pin).unwrap()).unwrap();
            XskMap::try_from(map).unwrap().unset(0).unwrap();
        }
        let _ = socket.send(b"tick");
        if socket.recv(&mut buffer).is_ok() {
            longest = longest.max(last.elapsed());
            last = Instant::now();
        }
    }
    eprintln!("the longest time without an answer: {longest:?}");
    assert!(last.elapsed() < Duration::from_secs(1), "no answer for {:?}", last.elapsed());
    assert!(rebinds() > before, "nothing was bound anew");
    assert!(longest < Duration::from_secs(2), "{longest:?} without an answer");
    assert!(lab.drops(DropReason::NoSocket) > 0, "what was lost has a name");
    assert_eq!(web.connect_within(db.v6(), TCP, LONG), Reached);
    lab.assert_frames_conserved();
}

#[test]
fn one_pod_that_floods_takes_nothing_from_the_others() {
    let (lab, web, db) = shop("flood", workers(1));
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
        while began.elapsed() < Duration::from_secs(3) {
            for to in both(&db) {
                asked += 1;
                answered += u32::from(web.ping_with(to, 56, Duration::from_secs(2)) == Reached);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    });
    let drops = lab.all_drops().unwrap();
    eprintln!("flood of {} frames; {answered} of {asked} pings answered; {drops:?}", sent.into_inner());
    assert!(asked >= 10, "hardly any ping was tried: {asked}");
    assert!(answered * 100 >= asked * 95, "{answered} of {asked} pings were answered; {drops:?}");
    lab.assert_frames_conserved();
}
