//! AF_XDP sockets on a real kernel, on a veth pair in a namespace of its own. Needs root.

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, setsockopt, socket, sockopt,
};
use penstock_api::message::AreaKind;
use penstock_net::netns::Netns;
use penstock_net::offload;
use penstock_net::route::{Netlink, VethSpec};
use penstock_vswitch::io::bulk::{Bulk, FRAMES_MAX, FRAMES_MIN, Gate, LEN_MAX};
use penstock_vswitch::io::memory::Memory;
use penstock_vswitch::io::xsk::{Area, Xsk, XskConfig};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

/// Removed with everything in it when dropped.
struct Place(Arc<Netns>);

impl Place {
    fn new(name: &str) -> Self {
        assert!(nix::unistd::geteuid().is_root(), "these tests make network namespaces and need root");
        let _ = Netns::delete(name);
        let netns = Netns::create(name).unwrap();
        let netlink = Netlink::open_in(&netns).unwrap();
        let near = netlink
            .create_veth(&VethSpec {
                queues: Some((1, 1)),
                peer_queues: Some((1, 1)),
                ..VethSpec::new("near", "far")
            })
            .unwrap();
        let far = netlink.existing("far").unwrap();
        netlink.set_up(near.index, true).unwrap();
        netlink.set_up(far.index, true).unwrap();
        Place(Arc::new(netns))
    }

    fn socket(&self, interface: &str) -> XskConfig {
        XskConfig {
            interface: interface.into(),
            queue: 0,
            netns: Some(Arc::clone(&self.0)),
            area: AreaKind::Copy,
            multi_buffer: false,
            ring_len: 512,
            receiving_max: 512,
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = Netns::delete(self.0.name().unwrap());
    }
}

/// The watchdog's remedy. libxdp cannot bind the first socket of an area a second time; ours is never the first.
#[test]
fn a_socket_that_was_closed_is_bound_again_and_again_and_no_frame_is_lost() {
    let place = Place::new("pt-xsk-rebind");
    let (area, mut memory) = Area::register(1024, 2048, &place.socket("near")).unwrap();
    let mut xsk = Xsk::bind(place.socket("far"), area).unwrap();
    let mut fresh = None;
    for round in 0..5 {
        xsk.refill(&mut memory);
        assert_eq!(xsk.receiving(), 512, "round {round}");
        xsk.close();
        assert_eq!(xsk.fd(), None);
        memory.reclaim_from_kernel(AreaKind::Copy);
        xsk.reopen(&mut memory, &mut fresh).unwrap_or_else(|error| panic!("round {round}: {error}"));
    }
    assert!(xsk.fd().is_some());
}

/// What a machine without a NIC can show of it: the driver's refusal comes back as it was said, and no area stays behind.
#[test]
fn a_driver_without_zero_copy_says_so_and_the_memory_is_as_it_was() {
    let place = Place::new("pt-xsk-zc");
    let (area, mut memory) = Area::register(1024, 2048, &place.socket("near")).unwrap();
    let config = XskConfig { area: AreaKind::ZeroCopy, ..place.socket("far") };
    let error = Xsk::bind_first(config, 512, &mut memory).unwrap_err();
    assert!(error.reason().contains("Operation not supported"), "{error}");
    assert_eq!(memory.kinds().collect::<Vec<_>>(), [AreaKind::Copy]);
    Xsk::bind(place.socket("far"), area).unwrap();
}

#[test]
fn an_interface_that_does_not_exist_is_named() {
    let place = Place::new("pt-xsk-none");
    let (area, _memory) = Area::register(1024, 2048, &place.socket("near")).unwrap();
    let error = Xsk::bind(place.socket("nowhere"), area).unwrap_err().to_string();
    assert!(error.contains("nowhere queue 0") && error.contains("No such device"), "{error}");
}

/// `count` frames with numbers from `first` on, of many lengths, and one kick.
fn send(xsk: &mut Xsk, memory: &mut Memory, first: usize, count: usize) {
    for number in first..first + count {
        let frame = memory.copy_in(AreaKind::Copy, &numbered(number)).expect("a free chunk");
        assert!(xsk.transmit(memory, frame), "frame {number}");
    }
    xsk.kick(memory, false);
    while xsk.outstanding() > 0 && xsk.complete(memory) > 0 {}
}

fn numbered(number: usize) -> Vec<u8> {
    let mut frame = vec![number as u8; 60 + number * 37 % 1400];
    frame[..12].copy_from_slice(&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2]);
    frame[12..14].copy_from_slice(&[0x88, 0xb5]);
    frame[14..18].copy_from_slice(&(number as u32).to_be_bytes());
    frame
}

/// What arrives in a place from now on.
fn listen(place: &Place) -> OwnedFd {
    let open = || socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_NONBLOCK, SockProtocol::EthAll);
    let socket = place.0.run(open).unwrap().unwrap();
    setsockopt(&socket, sockopt::RcvBufForce, &(64 << 20)).unwrap();
    socket
}

fn arrived(socket: &OwnedFd) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    let mut buffer = [0; 2048];
    while let Ok(len) = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
        // The links' own chatter is not ours.
        if buffer[12..14] == [0x88, 0xb5] {
            frames.push(buffer[..len].to_vec());
        }
    }
    frames
}

fn with_bulk(place: &Place, chunk_size: u32) -> (Xsk, Memory, Area, Arc<Gate>) {
    let netns = &place.0;
    netns.run(|| offload::set("near", "gro", true)).unwrap().unwrap();
    netns.run(|| offload::set("far", "tso", false)).unwrap().unwrap();
    let socket = |interface| XskConfig { ring_len: 1024, ..place.socket(interface) };
    let (area, mut memory) = Area::register(2048, chunk_size, &socket("near")).unwrap();
    let mut xsk = Xsk::bind(socket("far"), area.share()).unwrap();
    xsk.refill(&mut memory);
    let ifindex = Netlink::open_in(netns).unwrap().existing("far").unwrap().index;
    let bulk = Bulk::open(netns, ifindex).unwrap_or_else(|error| panic!("{error}"));
    let gate = Arc::clone(bulk.gate());
    xsk.set_bulk(bulk);
    (xsk, memory, area, gate)
}

#[test]
fn many_frames_are_sent_in_bulk_and_few_by_the_ring_and_all_arrive_whole_and_in_order() {
    let place = Place::new("pt-xsk-bulk");
    let (mut xsk, mut memory, _area, gate) = with_bulk(&place, 2048);
    let socket = listen(&place);
    let groups = [1, 100, 7, 256, 3, FRAMES_MIN - 1, FRAMES_MIN, FRAMES_MAX + 44, 2];
    let mut first = 0;
    for count in groups {
        send(&mut xsk, &mut memory, first, count);
        first += count;
    }
    let frames = arrived(&socket);
    for (number, frame) in frames.iter().enumerate() {
        assert_eq!(frame, &numbered(number), "frame {number}");
    }
    assert_eq!(frames.len(), first);
    // Of the largest group, as many go as a call can have when they are too many to be kept, and 44 by the ring.
    assert_eq!(gate.sent() as usize, 100 + 256 + FRAMES_MIN + FRAMES_MAX);
    assert_eq!(xsk.outstanding(), 0, "every frame came back");
}

#[test]
fn long_frames_that_a_call_has_no_room_for_are_sent_by_the_next_and_longer_ones_by_the_ring_in_order() {
    let place = Place::new("pt-xsk-bulk-long");
    let (mut xsk, mut memory, _area, gate) = with_bulk(&place, 4096);
    for end in ["near", "far"] {
        let netlink = Netlink::open_in(&place.0).unwrap();
        netlink.set_mtu(netlink.existing(end).unwrap().index, 2200).unwrap();
    }
    let socket = listen(&place);
    let long = |number: usize| {
        let mut frame = numbered(number);
        frame.resize(if number == 540 { LEN_MAX + 1 } else { LEN_MAX }, number as u8);
        frame
    };
    for number in 0..1100 {
        let frame = memory.copy_in(AreaKind::Copy, &long(number)).expect("a free chunk");
        assert!(xsk.transmit(&mut memory, frame), "frame {number}");
    }
    xsk.kick(&mut memory, false);
    while xsk.outstanding() > 0 && xsk.complete(&mut memory) > 0 {}
    let frames = arrived(&socket);
    for (number, frame) in frames.iter().enumerate() {
        assert_eq!(frame, &long(number), "frame {number}");
    }
    assert_eq!(frames.len(), 1100);
    // So many fill a call; too few are left before the longer one, and nothing goes in bulk behind that.
    assert_eq!(gate.sent(), 512);
    assert_eq!(xsk.outstanding(), 0, "every frame came back");
}

/// What tells of frames that the far side lets in nowhere.
#[test]
fn an_interface_counts_the_frames_it_took_in_bulk_and_no_others() {
    let place = Place::new("pt-xsk-bulk-lost");
    let (mut xsk, mut memory, _area, gate) = with_bulk(&place, 2048);
    let counted = || place.0.run(|| offload::statistic("far", "tx_queue_", "_xdp_xmit")).unwrap().unwrap();
    let before = counted();
    send(&mut xsk, &mut memory, 0, 200);
    assert_eq!((gate.sent(), counted() - before), (200, 200));
    place.0.run(|| offload::set("near", "gro", false)).unwrap().unwrap();
    send(&mut xsk, &mut memory, 200, 100);
    assert_eq!((gate.sent(), counted() - before), (300, 200), "without NAPI it takes none");
}
