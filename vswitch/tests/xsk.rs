//! AF_XDP sockets on a real kernel, on a veth pair in a namespace of its own. Needs root.

use penstock_api::message::AreaKind;
use penstock_net::netns::Netns;
use penstock_net::route::{Netlink, VethSpec};
use penstock_vswitch::io::xsk::{Area, Xsk, XskConfig};
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
