//! The socket: who, how many, how long, and whatever bytes they send.

use crate::server::InstanceLock;
use crate::server::testing::*;
use penstock_api::message::*;
use penstock_api::wire;
use rand::{RngExt, SeedableRng};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

#[test]
fn a_second_switch_of_the_instance_is_refused() {
    let bench = Bench::new();
    let refused = InstanceLock::take(&bench.paths()).unwrap_err().to_string();
    assert!(refused.contains("another switch of this instance is running"), "{refused}");
}

#[test]
fn the_socket_is_the_owners_alone() {
    let bench = Bench::new();
    let mode = std::fs::metadata(bench.paths().control_socket()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn hello_tells_protocol_and_version_and_refuses_another() {
    let bench = Bench::new();
    assert!(matches!(bench.ask(&Request::Hello { protocol: PROTOCOL }), Response::Hello { .. }));
    let (_, text) = error(bench.ask(&Request::Hello { protocol: 99 }));
    assert!(text.contains("speaks protocol 1, not 99"), "{text}");
}

#[test]
fn whatever_bytes_arrive_the_switch_answers_the_next_client() {
    let bench = Bench::new();
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut random = rand::rngs::SmallRng::seed_from_u64(seed);
    let mut whole = Vec::new();
    wire::send(&mut whole, &Request::Attach { port: port(1), wait_ms: 0 }).unwrap();
    for _ in 0..200 {
        let mut bytes = whole.clone();
        for _ in 0..random.random_range(1..8) {
            let at = random.random_range(0..bytes.len());
            match random.random_range(0..3) {
                0 => bytes[at] = random.random(),
                1 => bytes.truncate(at.max(1)),
                _ => bytes.insert(at, random.random()),
            }
        }
        let mut client = bench.connect();
        // It may hang up on us in the middle.
        let _ = client.0.write_all(&bytes);
        let _ = client.0.shutdown(std::net::Shutdown::Write);
        let _ = client.0.read_to_end(&mut Vec::new());
    }
    assert!(matches!(bench.ask(&Request::Hello { protocol: PROTOCOL }), Response::Hello { .. }));
    assert!(bench.pod_ports().is_empty());
}

#[test]
fn a_malformed_request_is_told_so_and_the_connection_closed() {
    let bench = Bench::new();
    for body in [
        &b"{}"[..],
        b"{\"request\":\"reboot\"}",
        br#"{"request":"hello","protocol":1,"extra":1}"#,
        b"\xff\xfe",
        b"",
    ] {
        let mut client = bench.connect();
        client.0.write_all(&(body.len() as u32).to_be_bytes()).unwrap();
        client.0.write_all(body).unwrap();
        let (code, text) = error(client.receive());
        assert_eq!(code, ErrorCode::Invalid, "{text}");
        assert_eq!(client.0.read(&mut [0]).unwrap(), 0, "closed after {body:?}");
    }
    let mut client = bench.connect();
    client.0.write_all(&u32::MAX.to_be_bytes()).unwrap();
    let (_, text) = error(client.receive());
    assert!(text.contains("exceeds the limit"), "{text}");
}

#[test]
fn a_half_sent_request_is_given_up_after_a_while() {
    let bench = Bench::new();
    let mut client = bench.connect();
    client.0.write_all(&[0, 0]).unwrap();
    let begun = Instant::now();
    assert_eq!(client.0.read(&mut [0]).unwrap(), 0, "it was closed");
    assert!((Duration::from_secs(3)..Duration::from_secs(15)).contains(&begun.elapsed()));
}

#[test]
fn clients_beyond_the_limit_are_told_to_come_again() {
    let bench = Bench::new();
    let _crowd: Vec<_> = (0..256).map(|_| bench.connect()).collect();
    let mut one_more = bench.connect();
    let (code, text) = error(one_more.receive());
    assert_eq!(code, ErrorCode::NotReady);
    assert!(text.contains("256 clients are connected"), "{text}");
}
