//! Senders that pretend to be somebody else, from inside a pod and from outside the node.

use crate::common::{LONG, TCP, both, mac_of, shop, udp_frame, until, workers};
use penstock_api::DropReason;
use penstock_api::message::gateway;
use penstock_lab::Outcome::Reached;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const FRAMES: u64 = 10_000;
const MARK: &[u8] = b"not who I say";

fn is_marked(frame: &[u8]) -> bool {
    frame.windows(MARK.len()).any(|bytes| bytes == MARK)
}

#[test]
fn of_ten_thousand_frames_with_a_forged_source_none_leaves_the_pod() {
    let (lab, web, db) = shop("spoof", workers(2));
    let (own, other) = (mac_of(&web, "eth0"), mac_of(&db, "eth0"));
    let gateway = gateway::MAC.0;
    let stranger: [IpAddr; 2] =
        [Ipv4Addr::new(10, 244, 0, 77).into(), "fd00:10:244::77".parse::<Ipv6Addr>().unwrap().into()];
    let mut frames = Vec::new();
    for (n, to) in both(&db).into_iter().enumerate() {
        let honest = both(&web)[n];
        // Another's hardware address; an address of nobody; the receiver's own; the host's; loopback.
        let outside: IpAddr =
            if n == 0 { [198, 51, 100, 2].into() } else { [0x2001, 0xdb8, 0x51, 0, 0, 0, 0, 2].into() };
        frames.push(udp_frame((other, gateway), (honest, to), 53, MARK));
        frames.push(udp_frame((own, gateway), (stranger[n], to), 53, MARK));
        frames.push(udp_frame((own, gateway), (outside, to), 53, MARK));
        frames.push(udp_frame((own, other), (stranger[n], to), 53, MARK));
    }
    // "db's address is at my place": an unasked-for ARP reply, to everybody.
    let mut arp = vec![0xff; 6];
    arp.extend(own);
    arp.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 2]);
    arp.extend(own);
    arp.extend(db.v4().octets());
    arp.extend([0xff; 6]);
    arp.extend(db.v4().octets());
    arp.extend(MARK);
    frames.push(arp);
    let host = lab.host().watch(&lab.instance().host_interface(), is_marked);
    let victim = db.watch("eth0", is_marked);
    let wire = web.wire("eth0");
    let before = lab.drops(DropReason::Spoofed);
    for n in 0..FRAMES as usize {
        wire.send(&frames[n % frames.len()]).unwrap();
    }
    until("every forged frame is counted", || lab.drops(DropReason::Spoofed) >= before + FRAMES);
    assert_eq!((victim.count(), host.count()), (0, 0));
    // The same frame with its right source arrives: the watch can see.
    wire.send(&udp_frame((own, gateway), (web.v4().into(), db.v4().into()), 53, MARK)).unwrap();
    until("an honest frame arrives", || victim.count() > 0);
    assert_eq!(web.connect_within(db.v4(), TCP, LONG), Reached);
    lab.assert_frames_conserved();
}

#[test]
fn an_outside_sender_that_pretends_to_be_a_pod_is_dropped() {
    let (lab, web, db) = shop("outsp", workers(1));
    let victim = db.watch("eth0", is_marked);
    let (from, to) = (mac_of(lab.outside(), "eth0"), mac_of(lab.host(), "uplink0"));
    let wire = lab.outside().wire("eth0");
    for (pretended, target) in both(&web).into_iter().zip(both(&db)) {
        let before = lab.drops(DropReason::Spoofed);
        for _ in 0..20 {
            wire.send(&udp_frame((from, to), (pretended, target), 53, MARK)).unwrap();
        }
        until("they are counted", || lab.drops(DropReason::Spoofed) >= before + 20);
    }
    assert_eq!(victim.count(), 0);
    // Under its own address it gets through, and is seen under it.
    let outside: IpAddr = lab.outside().v4().into();
    wire.send(&udp_frame((from, to), (outside, db.v4().into()), 53, MARK)).unwrap();
    until("an honest frame arrives", || victim.count() > 0);
    lab.assert_frames_conserved();
}
