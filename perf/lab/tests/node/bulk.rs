//! Frames that leave many at a time, because the far end of a direct port's veth takes them so; and what its owner does meanwhile.

use crate::common::{AtEnd, inside, kernel_has, mac_of, shop, udp_frame, until, workers};
use crate::direct::{FIRST, SECOND, Spec, node_with, place, talk};
use crate::rings::Books;
use crate::shortcut::keeps_order;
use crate::shortcut::with;
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{setsockopt, sockopt};
use nix::unistd::Pid;
use penstock_api::DropReason;
use penstock_api::message::{DeviceStatus, gateway};
use penstock_lab::{Lab, LabOptions, Place, Pod, scaled};
use penstock_net::{Netlink, offload};
use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const PORT: u16 = 9;
/// Frames the links send by themselves, not all of which are in every book.
const CHATTER: i64 = 20;
const BULK: &str = "native copy, bulk";
const ONE_BY_ONE: &str = "the far end does not run NAPI: `ethtool -K eth0 gro on` there";

/// A node with two direct ports; the second one's far end takes frames in bulk.
fn two_ports(options: LabOptions) -> (Lab, Pod, [Place; 2]) {
    let (lab, web, places) = node_with(options, &[(&FIRST, "auto"), (&SECOND, "auto")], |lab, spec| {
        let place = place(lab, spec);
        if spec.name == SECOND.name {
            gro(&place, true);
        }
        place
    });
    (lab, web, places.try_into().unwrap())
}

fn gro(place: &Place, on: bool) {
    place.run(|| offload::set("eth0", "gro", on)).unwrap();
}

fn device(lab: &Lab, spec: &Spec) -> DeviceStatus {
    let ports = lab.ports().unwrap();
    ports.into_iter().find(|port| port.interface == spec.interface).unwrap().device.unwrap()
}

fn mode_is(lab: &Lab, mode: &str, why: &str) {
    let is = |device: DeviceStatus| device.mode == mode && device.why.contains(why);
    until(&format!("{mode}, {why}"), || is(device(lab, &SECOND)));
}

fn in_bulk(lab: &Lab) -> u64 {
    let count = || offload::statistic(SECOND.interface, "tx_queue_", "_xdp_xmit");
    lab.host().run(count).unwrap()
}

/// Does the kernel tell of a link whether it takes frames in bulk?
fn tells() -> bool {
    kernel_has("vmlinux", "xdp_features_t")
}

/// What came of a flow of numbered frames.
#[derive(Debug, Default)]
struct Arrived {
    frames: u64,
    /// Numbers that were not above all before them.
    out_of_order: u64,
}

/// Frames from one place to another, as many as there may be, while something else is done.
///
/// A CPU that is emulated, or does other things too, makes fewer than the worker takes at a time: the worker is held up again and
/// again, so that some gather.
fn load(lab: &Lab, from: &Place, to: &Place, during: impl FnOnce()) -> Arrived {
    let (held, free) =
        if scaled(Duration::from_secs(1)) > Duration::from_secs(1) { (50, 50) } else { (5, 45) };
    let switch = Pid::from_raw(i32::try_from(lab.status().unwrap().pid).unwrap());
    let receiver = to.run(|| UdpSocket::bind(("0.0.0.0", PORT))).unwrap();
    setsockopt(&receiver, sockopt::RcvBufForce, &(64 << 20)).unwrap();
    receiver.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let wire = from.wire("eth0");
    let macs = (mac_of(from, "eth0"), gateway::MAC.0);
    let addresses = (from.v4().into(), to.v4().into());
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let sender = scope.spawn(|| {
            let mut number = 0u64;
            while !over.load(Ordering::Relaxed) {
                number += 1;
                let _ = wire.send(&udp_frame(macs, addresses, PORT, &number.to_be_bytes()));
            }
        });
        let receiver = scope.spawn(|| {
            let (mut arrived, mut last, mut bytes) = (Arrived::default(), 0, [0; 8]);
            loop {
                match receiver.recv(&mut bytes) {
                    Ok(_) => {}
                    Err(_) if over.load(Ordering::Relaxed) => return arrived,
                    Err(_) => continue,
                }
                let number = u64::from_be_bytes(bytes);
                arrived.frames += 1;
                arrived.out_of_order += u64::from(number <= last);
                last = last.max(number);
            }
        });
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                for (signal, ms) in [(Signal::SIGSTOP, held), (Signal::SIGCONT, free)] {
                    kill(switch, signal).unwrap();
                    for_ms(ms);
                }
            }
        });
        {
            let _over = AtEnd(|| over.store(true, Ordering::Relaxed));
            during();
        }
        sender.join().unwrap();
        receiver.join().unwrap()
    })
}

/// Frames in no book: some of the links' own chatter, from before the switch was started again with its ports.
fn balance(lab: &Lab, pods: &[&Place]) -> i64 {
    Books::of(lab, pods).balance()
}

fn for_ms(ms: u64) {
    std::thread::sleep(Duration::from_millis(ms));
}

#[test]
fn a_loaded_direct_port_is_sent_to_in_bulk_when_its_far_end_takes_it_and_nobody_asked() {
    if !tells() {
        eprintln!("not on this kernel: it does not tell whether a far end takes frames in bulk");
        return;
    }
    let (lab, web, [first, second]) = two_ports(workers(1));
    mode_is(&lab, BULK, "veth refuses zero-copy");
    assert!(device(&lab, &FIRST).why.contains(ONE_BY_ONE), "{:?}", device(&lab, &FIRST));
    let before = balance(&lab, &[&web, &first, &second]);
    let arrived = load(&lab, &first, &second, || std::thread::sleep(scaled(Duration::from_secs(1))));
    let books = Books::balanced_since(before - CHATTER..=before + CHATTER, &lab, &[&web, &first, &second]);
    eprintln!("{arrived:?}, {} in bulk, {books:?}", in_bulk(&lab));
    assert!(in_bulk(&lab) > 1_000, "hardly any frame was sent in bulk: {}", in_bulk(&lab));
    assert_eq!(arrived.out_of_order, 0, "{arrived:?}");
    talk(&first, &second);
    talk(&web, &second);
    lab.assert_frames_conserved();
}

#[test]
fn a_far_end_that_stops_taking_frames_in_bulk_is_sent_them_one_by_one_and_hardly_any_is_lost() {
    if !tells() {
        eprintln!("not on this kernel: it does not tell whether a far end takes frames in bulk");
        return;
    }
    for count in [1, 2] {
        let (lab, web, [first, second]) = two_ports(workers(count));
        let lost = || lab.drops(DropReason::Interface);
        let everybody: [&Place; 3] = [&web, &first, &second];
        let before = balance(&lab, &everybody);
        let mut at = Vec::new();
        let arrived = load(&lab, &first, &second, || {
            for _ in 0..5 {
                for_ms(200);
                gro(&second, false);
                mode_is(&lab, "native copy", ONE_BY_ONE);
                // What the worker was in the midst of.
                for_ms(100);
                at.push((lost(), in_bulk(&lab)));
                for_ms(200);
                at.push((lost(), in_bulk(&lab)));
                gro(&second, true);
                mode_is(&lab, BULK, "");
            }
            for_ms(200);
        });
        // The kernel empties the far end's queue of 256 when it takes it away, and counts that nowhere.
        let books = Books::balanced_since(before - CHATTER..=before + CHATTER + 5 * 256, &lab, &everybody);
        let missing = books.balance() - before;
        eprintln!("{count} workers: {arrived:?}, lost and in bulk {at:?}, {missing} in no book: {books:?}");
        for off in at.chunks(2) {
            assert_eq!(off[0].1, off[1].1, "frames were sent in bulk to a far end that does not take them");
            assert_eq!(off[0].0, off[1].0, "frames were lost after it was known");
        }
        assert!(at.windows(2).any(|pair| pair[1].1 > pair[0].1), "never again in bulk: {at:?}");
        assert_eq!(arrived.out_of_order, 0, "{arrived:?}");
        assert!(arrived.frames > 5_000, "hardly any arrived: {arrived:?}");
        // A fortieth of a second, five times, on a machine that does other things too.
        assert!(lost() * 20 < books.sent, "{} of {} were lost: {books:?}", lost(), books.sent);
        lab.assert_frames_conserved();
    }
}

/// The kernel goes on saying that such a far end takes them.
#[test]
fn a_far_end_that_went_down_and_came_back_without_gro_is_sent_frames_one_by_one() {
    if !tells() {
        eprintln!("not on this kernel: it does not tell whether a far end takes frames in bulk");
        return;
    }
    let (lab, _web, [first, second]) = two_ports(workers(1));
    let link = |is_up| {
        let netlink = Netlink::open_in(second.netns()).unwrap();
        netlink.set_up(netlink.existing("eth0").unwrap().index, is_up).unwrap();
    };
    link(false);
    gro(&second, false);
    link(true);
    mode_is(&lab, BULK, "");
    let begin = Instant::now();
    load(&lab, &first, &second, || mode_is(&lab, "native copy", "nothing sent in bulk got through"));
    eprintln!("after {:?}, {} lost", begin.elapsed(), lab.drops(DropReason::Interface));
    // Once more, and then not again.
    let arrived = load(&lab, &first, &second, || for_ms(2500));
    assert!(arrived.frames > 1_000, "{arrived:?}");
    mode_is(&lab, "native copy", "nothing sent in bulk got through");
    link(false);
    gro(&second, true);
    link(true);
    load(&lab, &first, &second, || until("bulk again", || device(&lab, &SECOND).mode == BULK));
    let before = in_bulk(&lab);
    load(&lab, &first, &second, || for_ms(500));
    assert!(in_bulk(&lab) > before, "not in bulk again");
    lab.assert_frames_conserved();
}

#[test]
fn a_port_is_sent_to_in_bulk_again_when_the_kernel_carries_no_flow_to_it_any_more() {
    if !tells() {
        eprintln!("not on this kernel: it does not tell whether a far end takes frames in bulk");
        return;
    }
    let (lab, web, [first, second]) = two_ports(with("on", 1));
    let mtu = usize::from(lab.status().unwrap().mtu);
    for port in [5001, 5002] {
        mode_is(&lab, BULK, "");
        let before = in_bulk(&lab);
        let arrived = load(&lab, &first, &second, || std::thread::sleep(scaled(Duration::from_millis(500))));
        assert!(in_bulk(&lab) > before, "nothing was sent in bulk: {arrived:?}");
        assert_eq!(arrived.out_of_order, 0, "{arrived:?}");
        let long = second.watch("eth0", move |frame| frame.len() > 4 * mtu);
        let transfer =
            web.start_transfer(&second, second.v4(), port, scaled(Duration::from_secs(1))).unwrap();
        mode_is(&lab, "native copy", "the kernel carries flows to it");
        let in_time = in_bulk(&lab);
        let done = transfer.finish().unwrap();
        assert!(long.count() > 100, "{} frames of {done:?} were longer than four MTUs", long.count());
        assert_eq!(in_bulk(&lab), in_time);
    }
    lab.assert_frames_conserved();
}

#[test]
fn a_port_of_several_queues_is_sent_to_one_by_one() {
    let several = Spec { queues: 2, ..SECOND };
    let (lab, web, places) = node_with(workers(1), &[(&several, "auto")], |lab, spec| {
        let place = place(lab, spec);
        gro(&place, true);
        place
    });
    mode_is(&lab, "native copy", "sent one by one: it has several queues");
    talk(&web, &places[0]);
}

/// Batches of the worker hold frames of a flood to the host, which no kernel carries, and of a flow that enters the shortcut and leaves it.
#[test]
fn where_trunks_are_sent_to_in_bulk_flows_enter_the_shortcut_and_leave_it_in_order() {
    if !tells() {
        eprintln!("not on this kernel: it sends to trunks one by one");
        return;
    }
    let switch_arguments = ["--bulk-transmit", "on", "--shortcut", "on"].map(str::to_owned).to_vec();
    let (lab, web, db) = shop("bulkways", LabOptions { switch_arguments, ..workers(1) });
    let noisy = lab.pod("shop", "noisy", &[]);
    let arrived = load(&lab, &noisy, lab.host(), || keeps_order(&lab, &web, &db, "db"));
    let in_bulk = inside(&lab).run(|| offload::statistic("xsk0", "tx_queue_", "_xdp_xmit")).unwrap();
    eprintln!("{arrived:?}, {in_bulk} in bulk, {:?}", lab.status().unwrap().shortcut);
    assert!(in_bulk > 1_000, "hardly any frame was sent in bulk: {in_bulk}");
    assert!(arrived.frames > 10_000, "hardly any arrived: {arrived:?}");
    assert_eq!(arrived.out_of_order, 0, "{arrived:?}");
    lab.assert_frames_conserved();
}
