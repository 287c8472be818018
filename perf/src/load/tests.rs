//! Generators and sink over a veth pair: what is sent arrives and is told as it is, and what goes wrong on the way is noticed.

use super::frame::{Headers, mark};
use super::sink::{Counts, Sink, Watch};
use super::trial::Trial;
use super::*;
use penstock_lab::Wire;
use penstock_net::offload;
use penstock_net::route::VethSpec;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU32, Ordering};

/// Two namespaces with an `eth0` each, of one cable.
struct Cable {
    ends: [Netns; 2],
    headers: Headers,
}

impl Cable {
    fn new(mtu: u32) -> Cable {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        assert!(nix::unistd::geteuid().is_root(), "this makes network namespaces: run it as root");
        let name = format!("pt-cable-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let ends = ["a", "b"].map(|end| Netns::create(&format!("{name}{end}")).unwrap());
        let netlinks = ends.each_ref().map(|end| Netlink::open_in(end).unwrap());
        // Nobody else speaks on it.
        for end in &ends {
            let _ = end.run(|| penstock_net::sysctl::set("net/ipv6/conf/default/disable_ipv6", "1")).unwrap();
        }
        let spec = VethSpec { mtu, peer_netns: Some(ends[1].as_fd()), ..VethSpec::new("eth0", "eth0") };
        netlinks[0].create_veth(&spec).unwrap();
        for netlink in &netlinks {
            netlink.set_up(netlink.existing("eth0").unwrap().index, true).unwrap();
        }
        // NAPI, without which no live frame is received.
        ends[1].run(|| offload::set("eth0", "gro", true)).unwrap().unwrap();
        let [source_mac, next_hop] = netlinks.each_ref().map(|netlink| netlink.existing("eth0").unwrap().mac);
        let (source, destination) = (Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 2));
        Cable { ends, headers: Headers { next_hop, source_mac, source, destination } }
    }

    fn source(&self) -> Source<'_> {
        Source { netns: &self.ends[0], interface: "eth0", headers: self.headers }
    }

    fn sink(&self, flows: u32) -> Sink {
        Sink::attach(&self.ends[1], "eth0", &Watch { flows, words: u32::MAX, times: true }).unwrap()
    }

    /// What a sink says of these frames, sent one after the other.
    fn counts_of(&self, flows: u32, frames: &[Vec<u8>]) -> Counts {
        let sink = self.sink(flows);
        let wire = Wire::open(&self.ends[0], "eth0").unwrap();
        frames.iter().for_each(|frame| wire.send(frame).unwrap());
        std::thread::sleep(Duration::from_millis(50));
        sink.counts().unwrap()
    }

    fn frame(&self, len: u16, flow: u32, sequence: u32) -> Vec<u8> {
        let mut frame = self.headers.frame(len);
        mark(&mut frame, len, flow, sequence, 1_000);
        frame
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        for end in &self.ends {
            let _ = Netns::delete(end.name().unwrap_or_default());
        }
    }
}

fn stream(size: &str, flows: u32, frames: u64) -> Stream {
    let sizes = size.parse().unwrap();
    // A rate any machine keeps, with nobody in between to lose any.
    Stream { sizes, flows, rate_pps: Some(100_000.0), frames_max: Some(frames), cpu: None }
}

fn trial(kind: Kind, stream: Stream) -> Trial {
    let most = Duration::from_secs(20);
    Trial { kind, stream, duration: most, drain_max: most, words: u32::MAX, times: true }
}

fn arrives_whole(kind: Kind, size: &str, mtu: u32) {
    let cable = Cable::new(mtu);
    let outcome =
        trial(kind, stream(size, 100, 2_400)).run(&cable.source(), (&cable.ends[1], "eth0")).unwrap();
    let (sent, counts) = (outcome.sent, outcome.counts);
    assert_eq!((sent.frames, counts.frames, outcome.lost()), (2_400, 2_400, 0), "{counts:?}");
    assert_eq!((counts.bytes, counts.flows), (sent.bytes, 100));
    let faults = (counts.out_of_order, counts.duplicates, counts.wrong_len, counts.altered);
    assert_eq!(faults, (0, 0, 0, 0));
    assert_eq!(outcome.latencies.len(), 2_400);
    let (told, largest) = (outcome.latencies.max(), counts.latency_max_ns);
    assert!(told.abs_diff(largest) <= largest / 50, "{told} ns is told of at most {largest}");
    assert!(outcome.gaps.iter().sum::<u64>() >= 2_300, "{:?}", outcome.gaps);
    assert!(sent.gap_max_ns > 0 && counts.gap_max_ns > 0);
}

#[test]
fn live_frames_of_every_size_arrive_as_they_were_sent() {
    ["64", "65", "512", "1518", "imix"].iter().for_each(|size| arrives_whole(Kind::Live, size, 1500));
}

#[test]
fn frames_of_an_af_xdp_socket_of_every_size_arrive_as_they_were_sent() {
    ["64", "65", "512", "1518", "imix"].iter().for_each(|size| arrives_whole(Kind::Xdp, size, 1500));
    arrives_whole(Kind::Xdp, "9000", 9000);
}

#[test]
fn more_flows_than_one_port_has_sources_are_all_seen() {
    let flows = 70_000;
    for kind in [Kind::Live, Kind::Xdp] {
        let cable = Cable::new(1500);
        let stream = Stream { rate_pps: Some(200_000.0), ..stream("64", flows, u64::from(flows) + 5_000) };
        let outcome = trial(kind, stream).run(&cable.source(), (&cable.ends[1], "eth0")).unwrap();
        assert_eq!(outcome.counts.flows, u64::from(flows), "{kind:?}: {:?}", outcome.counts);
        assert_eq!((outcome.lost(), outcome.counts.out_of_order), (0, 0), "{kind:?}");
    }
}

#[test]
fn a_generator_never_offers_more_than_its_rate() {
    for kind in [Kind::Live, Kind::Xdp] {
        let cable = Cable::new(1500);
        let stream = Stream { rate_pps: Some(20_000.0), ..stream("64", 10, u64::MAX) };
        let trial = Trial { duration: Duration::from_millis(300), ..trial(kind, stream) };
        let sent = trial.run(&cable.source(), (&cable.ends[1], "eth0")).unwrap().sent;
        let due = (sent.last_ns - sent.first_ns) as f64 / 1e9 * 20_000.0;
        // What may be made up for after a delay, and the first.
        assert!((sent.frames as f64) <= due + 6.0, "{kind:?}: {} of {due}", sent.frames);
    }
}

#[test]
fn a_frame_that_is_missing_is_lost_and_nothing_else() {
    let cable = Cable::new(1500);
    let frames: Vec<_> = (0..10).filter(|n| *n != 4).map(|n| cable.frame(60, 0, n)).collect();
    let counts = cable.counts_of(1, &frames);
    assert_eq!((counts.good(), counts.out_of_order, counts.duplicates), (9, 0, 0));
}

#[test]
fn a_frame_that_comes_twice_is_told_and_counts_once() {
    let cable = Cable::new(1500);
    let frames = [0, 1, 2, 1, 3, 3].map(|n| cable.frame(60, 0, n));
    let counts = cable.counts_of(1, &frames);
    assert_eq!((counts.frames, counts.duplicates, counts.good(), counts.out_of_order), (6, 2, 4, 0));
}

#[test]
fn a_frame_that_was_overtaken_is_told_of_its_own_flow_only() {
    let cable = Cable::new(1500);
    // Of flow 0 the third is late; flow 1 is in order, whatever flow 0 does.
    let order = [(0, 0), (1, 0), (0, 1), (0, 3), (1, 1), (0, 2), (0, 4), (1, 2)];
    let counts = cable.counts_of(2, &order.map(|(flow, n)| cable.frame(60, flow, n)));
    assert_eq!((counts.good(), counts.out_of_order, counts.duplicates, counts.flows), (8, 1, 0, 2));
}

#[test]
fn a_frame_with_any_byte_of_its_mark_or_fill_changed_is_told() {
    let cable = Cable::new(1500);
    let len = 99;
    // Behind the magic number, without which a frame is nobody's, and the ports.
    let places: Vec<usize> = (34..38).chain(44..usize::from(len)).collect();
    let frames: Vec<_> = places
        .iter()
        .map(|place| {
            let mut frame = cable.frame(len, 3, 7);
            frame[*place] ^= 0x40;
            frame
        })
        .collect();
    let counts = cable.counts_of(10, &frames);
    let told = counts.altered + counts.wrong_len;
    assert_eq!((told, counts.good()), (frames.len() as u64, 0), "{counts:?}");
}

#[test]
fn a_frame_that_was_cut_is_told() {
    let cable = Cable::new(1500);
    let mut cut = cable.frame(200, 0, 0);
    cut.truncate(150);
    let counts = cable.counts_of(1, &[cut, cable.frame(200, 0, 1)]);
    assert_eq!((counts.wrong_len, counts.good()), (1, 1), "{counts:?}");
}

#[test]
fn frames_of_nobodys_load_pass() {
    let cable = Cable::new(1500);
    let mut others = cable.frame(60, 0, 0);
    others[42] ^= 1;
    let mut tcp = cable.frame(60, 0, 0);
    tcp[23] = 6;
    let received = Wire::open(&cable.ends[1], "eth0").unwrap();
    let counts = cable.counts_of(1, &[others.clone(), tcp]);
    assert_eq!(counts.frames, 0);
    assert!(received.receive_where(Duration::from_secs(1), |frame| frame == others).is_some());
}

#[test]
fn what_cannot_be_sent_is_said_and_why() {
    let cable = Cable::new(1500);
    let refused = |kind, stream: Stream, interface| {
        let source = Source { interface, ..cable.source() };
        Generator::start(kind, &source, &stream).err().map(|error| format!("{error:#}")).unwrap_or_default()
    };
    let long = refused(Kind::Auto, stream("9000", 1, 1), "eth0");
    assert!(long.contains("MTU of 1500") && long.contains("8982"), "{long}");
    let missing = refused(Kind::Auto, stream("64", 1, 1), "eth7");
    assert!(missing.contains("eth7"), "{missing}");
    let jumbo = Cable::new(9000);
    let live = Generator::start(Kind::Live, &jumbo.source(), &stream("9000", 1, 1)).err().unwrap();
    assert!(format!("{live:#}").contains("--generator xdp"), "{live:#}");
    let netlink = Netlink::open_in(&cable.ends[1]).unwrap();
    netlink.set_up(netlink.existing("eth0").unwrap().index, false).unwrap();
    let down = refused(Kind::Auto, stream("64", 1, 1), "eth0");
    assert!(down.contains("is down"), "{down}");
}

#[test]
fn an_overload_is_told_as_offered_and_received() {
    let cable = Cable::new(1500);
    let place = |netns: &Netns, last| {
        let netns = Netns::open_path(netns.path()).unwrap();
        Place::new("end", netns, vec![Ipv4Addr::new(192, 0, 2, last).into()])
    };
    let (from, to) = (place(&cable.ends[0], 1), place(&cable.ends[1], 2));
    let plan = LoadPlan {
        flows: 100,
        warm_up: Duration::from_millis(20),
        duration: Duration::from_millis(100),
        cpu: 0,
    };
    let arrived = run(&from, &to, cable.headers.next_hop, &plan).unwrap();
    assert!(arrived.received > 0 && arrived.received <= arrived.offered, "{arrived:?}");
    assert_eq!((arrived.out_of_order, arrived.wrong_len), (0, 0));
    assert!((0.0..=1.0).contains(&arrived.loss()));
}
