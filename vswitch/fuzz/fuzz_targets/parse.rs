//! Any bytes at all: nothing panics, what is accepted fits the frame, and what we say about it we understand ourselves.
#![no_main]

use libfuzzer_sys::fuzz_target;
use penstock_vswitch::packet::build::{
    IcmpError, arp_reply, echo_reply, icmp_error, neighbour_advertisement, tcp_reset,
};
use penstock_vswitch::packet::{Fragment, Payload, decrement_ttl, parse, split_ipv4};

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

fuzz_target!(|frame: &[u8]| {
    let Ok(read) = parse(frame, frame.len()) else { return };
    assert!(usize::from(read.ip_len) + 14 <= frame.len());
    assert!(read.l4_offset <= 14 + read.ip_len);
    assert_eq!(read.key.reversed().steering_hash(), read.key.steering_hash());

    let mut out = [0; 2048];
    if let Some(len) = icmp_error(frame, &read, IcmpError::TimeExceeded, MAC, &mut out) {
        let answer = parse(&out[..len], len).expect("our own parser takes it");
        match (answer.payload, read.fragment) {
            (Payload::IcmpError { about }, Fragment::Whole) => assert_eq!(about, read.key),
            (payload, _) => assert!(matches!(payload, Payload::IcmpError { .. })),
        }
    }
    if let Some(len) = tcp_reset(frame, &read, MAC, &mut out) {
        assert_eq!(parse(&out[..len], len).expect("taken").key, read.key.reversed());
    }
    if let Some(len) = echo_reply(frame, &read, MAC, &mut out) {
        assert_eq!(parse(&out[..len], len).expect("taken").key, read.key.reversed());
    }
    let _ = arp_reply(&read, MAC, &mut out);
    let _ = neighbour_advertisement(frame, &read, MAC, &mut out);
    for piece in split_ipv4(frame, &read, 68).into_iter().flatten() {
        let _ = piece.write(frame, &mut out);
    }
    decrement_ttl(&mut frame.to_vec(), &read);
});
