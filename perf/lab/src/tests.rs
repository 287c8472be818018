//! The laboratory without a switch: between the node and what lies behind it, every probe must tell truth from lies.

use crate::node;
use crate::probe::Outcome::{Reached, Refused, TimedOut, Unreachable};
use crate::{NODE_V4, NODE_V6, OUTSIDE_V4, OUTSIDE_V6, Place};
use nix::unistd::geteuid;
use penstock_net::{Netlink, Netns};
use std::net::Ipv4Addr;
use std::time::Duration;

/// The two places, gone when dropped.
struct TwoPlaces {
    instance: String,
    host: Place,
    outside: Place,
}

impl TwoPlaces {
    fn new(name: &str) -> TwoPlaces {
        assert!(geteuid().is_root(), "this test makes network namespaces: run it as root");
        let instance = format!("pt-{name}-{}", std::process::id());
        let made = node::make(&instance, 1500).unwrap();
        TwoPlaces {
            instance,
            host: Place::new("host", made.host, vec![NODE_V4.into(), NODE_V6.into()]),
            outside: Place::new("outside", made.outside, vec![OUTSIDE_V4.into(), OUTSIDE_V6.into()]),
        }
    }
}

impl Drop for TwoPlaces {
    fn drop(&mut self) {
        node::remove(&self.instance);
    }
}

const LONG: Duration = Duration::from_secs(3);

#[test]
fn an_open_port_is_reached_and_a_closed_one_refused_over_both_families() {
    let two = TwoPlaces::new("open");
    two.host.listen_tcp(80);
    two.host.listen_udp(53);
    for to in two.host.addresses() {
        assert_eq!(two.outside.connect_within(*to, 80, LONG), Reached, "{to}");
        assert_eq!(two.outside.connect_within(*to, 81, LONG), Refused, "{to}");
        assert_eq!(two.outside.udp_echo(*to, 53, 1000, LONG), Reached, "{to}");
        assert_eq!(two.outside.udp_echo(*to, 54, 1000, LONG), Refused, "{to}");
        assert_eq!(two.outside.ping_with(*to, 56, LONG), Reached, "{to}");
    }
    // Larger than the MTU: in fragments.
    assert_eq!(two.outside.udp_echo(two.host.v4(), 53, 60_000, LONG), Reached);
    assert_eq!(two.outside.ping_with(two.host.v6(), 4000, LONG), Reached);
}

#[test]
fn silence_is_a_timeout_and_an_icmp_error_is_said_in_words() {
    let two = TwoPlaces::new("silence");
    let nobody = Ipv4Addr::new(198, 51, 100, 9);
    let netlink = Netlink::open_in(two.outside.netns()).unwrap();
    let eth0 = netlink.existing("eth0").unwrap().index;
    // A neighbour that is not there: frames leave and nobody takes them.
    netlink.add_neighbour(eth0, nobody.into(), [2, 0, 0, 0, 0, 9], true).unwrap();
    assert_eq!(two.outside.connect(nobody, 80), TimedOut);
    assert_eq!(two.outside.ping(nobody), TimedOut);
    assert_eq!(two.outside.udp_echo(nobody, 80, 10, Duration::from_millis(200)), TimedOut);
    assert_eq!(two.outside.http_get(nobody, 80, "/", Duration::from_millis(200)), Err(TimedOut));
    // The node has no route there, and says so.
    let answer = two.outside.connect_within(Ipv4Addr::new(192, 0, 2, 1), 80, LONG);
    assert!(matches!(answer, Unreachable(_)), "{answer}");
}

#[test]
fn an_http_request_is_answered_with_who_was_asked_for_what() {
    let two = TwoPlaces::new("http");
    two.host.listen_http(8080);
    for to in two.host.addresses() {
        let answer = two.outside.http_get(*to, 8080, "/orders?x=1", LONG).unwrap();
        assert_eq!((answer.status, answer.body.as_str()), (200, "host GET /orders?x=1\n"));
    }
}

#[test]
fn a_transfer_counts_what_arrived_and_questions_are_timed() {
    let two = TwoPlaces::new("bulk");
    let transfer =
        two.outside.start_transfer(&two.host, two.host.v6(), 5001, Duration::from_millis(200)).unwrap();
    let result = transfer.finish().unwrap();
    assert!(result.bytes > 1_000_000, "{result:?}");
    assert!(result.elapsed >= Duration::from_millis(200), "{result:?}");
    two.host.listen_tcp(80);
    let latency = two.outside.round_trips(two.host.v4(), 80, 100).unwrap();
    assert!(latency.p50 <= latency.p99 && latency.p99 <= latency.max, "{latency:?}");
}

#[test]
fn servers_end_with_their_place_and_namespaces_with_the_node() {
    let two = TwoPlaces::new("end");
    two.host.listen_tcp(80);
    assert_eq!(two.outside.connect_within(two.host.v4(), 80, LONG), Reached);
    two.host.stop_listening();
    assert_eq!(two.outside.connect_within(two.host.v4(), 80, LONG), Refused);
    let names = [node::host_name(&two.instance), node::outside_name(&two.instance)];
    drop(two);
    for name in names {
        assert!(!Netns::exists(&name), "{name} is left");
    }
}
