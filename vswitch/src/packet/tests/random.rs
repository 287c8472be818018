//! Frames nobody thought of. Every accepted one must mean to etherparse what it means to us.
//!
//! A failure prints the seed and the frame; `PENSTOCK_SEED=<seed> cargo test` replays it.

use super::frames::*;
use crate::packet::build::*;
use crate::packet::*;
use etherparse::err::{Layer, packet::SliceError};
use etherparse::{LaxSlicedPacket, NetSlice, SlicedPacket, TransportSlice};
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};
use std::net::IpAddr;

const FRAMES: usize = 150_000;

/// A generator, and a seed that is printed when the test fails.
struct Chance {
    random: StdRng,
    frame: Vec<u8>,
    seed: u64,
}

impl Chance {
    fn new() -> Chance {
        let seed = match std::env::var("PENSTOCK_SEED") {
            Ok(seed) => seed.parse().expect("PENSTOCK_SEED is a number"),
            Err(_) => rand::random(),
        };
        Chance { random: StdRng::seed_from_u64(seed), frame: Vec::new(), seed }
    }

    fn one_in(&mut self, n: u32) -> bool {
        self.random.random_ratio(1, n)
    }

    fn below(&mut self, n: usize) -> usize {
        self.random.random_range(0..n)
    }

    /// A good frame with some bytes changed, often with its header checksum made right again.
    fn mutated(&mut self, golden: &[(&str, Vec<u8>)]) -> Vec<u8> {
        let index = self.below(golden.len());
        let mut frame = golden[index].1.clone();
        for _ in 0..self.below(4) {
            // Mostly in the headers; the Ethernet header is three bytes out of many.
            let at = if self.one_in(12) {
                self.below(frame.len())
            } else {
                14 + self.below(frame.len().min(80) - 14)
            };
            frame[at] = match self.below(4) {
                0 => self.random.random(),
                1 => frame[at] ^ 1 << self.below(8),
                2 => frame[at].wrapping_add(1),
                _ => [0, 1, 6, 17, 43, 44, 50, 51, 58, 59, 60, 127, 132, 224, 254, 255][self.below(16)],
            };
        }
        if self.one_in(10) {
            frame.truncate(self.below(frame.len() + 1));
        }
        if self.one_in(20) {
            frame.resize(frame.len() + self.below(40), 0xaa);
        }
        self.mend(&mut frame);
        frame
    }

    /// Headers of random content behind a true EtherType, version and length.
    fn invented(&mut self) -> Vec<u8> {
        let mut rest = vec![0; 20 + self.below(120)];
        self.random.fill_bytes(&mut rest);
        let len = rest.len() as u16;
        let kind = match self.below(4) {
            0 => {
                rest[0] = if self.one_in(20) { 0x46 } else { 0x45 };
                rest[2..4].copy_from_slice(&len.to_be_bytes());
                if !self.one_in(4) {
                    rest[6..8].fill(0);
                }
                rest[9] = [1, 6, 17, 58, 132, 47, 2, 51][self.below(8)];
                ETHER_IPV4
            }
            1 | 2 if len > 40 => {
                rest[0] = 0x60;
                rest[4..6].copy_from_slice(&(len - 40).to_be_bytes());
                let chain = [0, 43, 44, 51, 60, 6, 17, 58, 132, 59];
                rest[6] = chain[self.below(10)];
                rest[8..12].copy_from_slice(&A6[..4]);
                rest[24..28].copy_from_slice(&A6[..4]);
                // Something like a chain of extension headers, eight bytes each.
                for header in rest[40..].chunks_exact_mut(8).take(self.random.random_range(0..10)) {
                    header[0] = chain[self.random.random_range(0..10)];
                    header[1] = [0, 0, 0, 1][self.random.random_range(0..4)];
                    header[2] = 0;
                    header[3] &= 0x19;
                }
                ETHER_IPV6
            }
            _ => [ETHER_IPV4, ETHER_IPV6, ETHER_ARP, 0x8100, self.random.random()][self.below(5)],
        };
        let mut frame = ethernet(kind, &rest);
        self.mend(&mut frame);
        frame
    }

    /// Makes an IPv4 header checksum right, most of the time.
    fn mend(&mut self, frame: &mut [u8]) {
        if frame.len() >= 34 && frame[12..14] == ETHER_IPV4.to_be_bytes() && !self.one_in(8) {
            frame[24..26].fill(0);
            let header_len = usize::from(frame[14] & 0x0f) * 4;
            let sum = checksum::checksum(frame[14..].get(..header_len).unwrap_or_default());
            frame[24..26].copy_from_slice(&sum.to_be_bytes());
        }
    }

    /// Parses a frame and remembers it, should what follows fail.
    fn parse(&mut self, frame: Vec<u8>) -> Result<Parsed, DropReason> {
        self.frame = frame;
        let parsed = parse(&self.frame, self.frame.len());
        agrees_with_quick(&self.frame, self.frame.len(), parsed);
        parsed
    }
}

/// The short way through the parser says what the long one says, or nothing. Did it say something?
fn agrees_with_quick(head: &[u8], frame_len: usize, parsed: Result<Parsed, DropReason>) -> bool {
    let Some(quick) = quick(head, frame_len) else { return false };
    // Stored over another packet, as it is in a batch.
    let mut stored = Parsed {
        fragment: Fragment::First { id: 7 },
        key: FlowKey { zone: 9, ..FlowKey::default() },
        ..Parsed::NOTHING
    };
    quick.store(&mut stored);
    assert_eq!(Ok(stored), parsed);
    assert_eq!(quick.words, stored.key.words());
    assert!(stored.key.is_of(&quick.words));
    true
}

#[test]
fn the_short_way_takes_ordinary_packets_and_says_what_the_long_one_says() {
    let mut taken = std::collections::BTreeSet::new();
    for (_, frame) in golden() {
        let parsed = parse(&frame, frame.len());
        if agrees_with_quick(&frame, frame.len(), parsed) {
            let key = parsed.expect("it was taken").key;
            taken.insert((key.family, key.protocol));
        }
        for cut in 0..frame.len() {
            agrees_with_quick(&frame[..cut], cut, parse(&frame[..cut], cut));
            agrees_with_quick(&frame[..cut], frame.len(), parse(&frame[..cut], frame.len()));
        }
        for at in 0..frame.len().min(80) {
            for value in 0..=255 {
                let mut frame = frame.clone();
                frame[at] = value;
                if at < 34 && frame[12..14] == [8, 0] {
                    frame[24..26].fill(0);
                    let sum = checksum::checksum(&frame[14..34]);
                    frame[24..26].copy_from_slice(&sum.to_be_bytes());
                }
                agrees_with_quick(&frame, frame.len(), parse(&frame, frame.len()));
            }
        }
    }
    assert_eq!(Vec::from_iter(taken), [(4, 6), (4, 17), (6, 6), (6, 17)]);
}

impl Drop for Chance {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("PENSTOCK_SEED={} with frame {:02x?}", self.seed, self.frame);
        }
    }
}

/// Extension headers of IPv6: where etherparse's own walk may end early, because it knows each of them once.
fn is_extension(protocol: u8) -> bool {
    [0, 43, 44, 51, 60, 135, 139, 140, 253, 254].contains(&protocol)
}

/// Compares what we read with what etherparse reads. Returns false where etherparse does not read as far.
fn agrees(frame: &[u8], read: &Parsed, l4: L4) -> bool {
    match read.key.family {
        // It takes authentication headers in IPv4 for extensions, and looks into them; for us AH is a protocol there.
        4 if read.key.protocol == 51 => return false,
        // It reads on in the data of a later fragment as if headers came there.
        6 if is_extension(read.key.protocol) && matches!(read.fragment, Fragment::Later { .. }) => {
            return false;
        }
        _ => {}
    }
    let sliced = match SlicedPacket::from_ethernet(frame) {
        Ok(sliced) => sliced,
        // It knows more of these than their first eight bytes; they are the receiver's.
        Err(SliceError::Len(error))
            if [Layer::Igmp, Layer::Icmpv4Timestamp, Layer::Icmpv4TimestampReply].contains(&error.layer) =>
        {
            return false;
        }
        Err(error) => panic!("we accept it, etherparse says {error}"),
    };
    let key = read.key;
    let (ends, protocol, is_fragment, len) = match sliced.net.as_ref().expect("a network header") {
        NetSlice::Ipv4(ip) => {
            let header = ip.header();
            let ends = (IpAddr::V4(header.source_addr()), IpAddr::V4(header.destination_addr()));
            (ends, header.protocol().0, ip.is_payload_fragmented(), header.total_len())
        }
        NetSlice::Ipv6(ip) => {
            let header = ip.header();
            let ends = (IpAddr::V6(header.source_addr()), IpAddr::V6(header.destination_addr()));
            (ends, ip.payload().ip_number.0, ip.is_payload_fragmented(), 40 + header.payload_length())
        }
        NetSlice::Arp(_) => panic!("ARP is no flow"),
    };
    assert_eq!((key.source_address(), key.destination_address()), ends);
    assert_eq!((read.ip_len, key.family == 4), (len, ends.0.is_ipv4()));
    if key.family == 6 && is_extension(protocol) {
        return false;
    }
    assert_eq!(key.protocol, protocol);
    assert_eq!(read.fragment != Fragment::Whole, is_fragment);
    if is_fragment {
        return false;
    }
    let ports = (key.source_port, key.destination_port);
    match (l4, sliced.transport) {
        (
            L4::Tcp { flags, sequence, acknowledgement, window, payload_len },
            Some(TransportSlice::Tcp(tcp)),
        ) => {
            assert_eq!(ports, (tcp.source_port(), tcp.destination_port()));
            assert_eq!(
                (sequence, acknowledgement, window),
                (tcp.sequence_number(), tcp.acknowledgment_number(), tcp.window_size())
            );
            assert_eq!(usize::from(payload_len), tcp.payload().len());
            let bits =
                [tcp.fin(), tcp.syn(), tcp.rst(), tcp.psh(), tcp.ack(), tcp.urg(), tcp.ece(), tcp.cwr()];
            let theirs = bits.iter().rev().fold(0, |flags, bit| flags << 1 | u8::from(*bit));
            assert_eq!(flags, theirs);
        }
        (L4::Udp, Some(TransportSlice::Udp(udp))) => {
            assert_eq!(ports, (udp.source_port(), udp.destination_port()));
        }
        (L4::Echo { request }, Some(TransportSlice::Icmpv4(icmp))) => {
            let [a, b, ..] = icmp.bytes5to8();
            let identifier = u16::from_be_bytes([a, b]);
            assert_eq!((ports, icmp.type_u8()), ((identifier, identifier), if request { 8 } else { 0 }));
        }
        (L4::Echo { request }, Some(TransportSlice::Icmpv6(icmp))) => {
            let [a, b, ..] = icmp.bytes5to8();
            let identifier = u16::from_be_bytes([a, b]);
            assert_eq!((ports, icmp.type_u8()), ((identifier, identifier), if request { 128 } else { 129 }));
        }
        (L4::Icmp { kind, code }, Some(TransportSlice::Icmpv4(icmp))) => {
            assert_eq!((kind, code), (icmp.type_u8(), icmp.code_u8()));
        }
        (L4::Icmp { kind, code }, Some(TransportSlice::Icmpv6(icmp))) => {
            assert_eq!((kind, code), (icmp.type_u8(), icmp.code_u8()));
        }
        (L4::Sctp, None) => assert_eq!(protocol, 132),
        (L4::Other, None | Some(TransportSlice::Igmp(_))) => assert_eq!(ports, (0, 0)),
        (ours, theirs) => panic!("we read {ours:?}, etherparse {theirs:?}"),
    }
    true
}

/// Compares the flow an error speaks of with etherparse's reading of the quote.
fn agrees_about_quote(frame: &[u8], read: &Parsed, about: FlowKey) -> bool {
    let quote = &frame[usize::from(read.l4_offset) + 8..14 + usize::from(read.ip_len)];
    let Ok(sliced) = LaxSlicedPacket::from_ip(quote) else { return false };
    let ends = match sliced.net.as_ref().expect("a network header") {
        etherparse::LaxNetSlice::Ipv4(ip) => {
            (IpAddr::V4(ip.header().source_addr()), IpAddr::V4(ip.header().destination_addr()))
        }
        etherparse::LaxNetSlice::Ipv6(ip) => {
            (IpAddr::V6(ip.header().source_addr()), IpAddr::V6(ip.header().destination_addr()))
        }
        etherparse::LaxNetSlice::Arp(_) => panic!("a quote is no ARP"),
    };
    assert_eq!((about.source_address(), about.destination_address()), ends);
    let theirs = match &sliced.transport {
        Some(TransportSlice::Udp(udp)) => (udp.source_port(), udp.destination_port()),
        Some(TransportSlice::Tcp(tcp)) => (tcp.source_port(), tcp.destination_port()),
        _ => return false,
    };
    assert_eq!((about.source_port, about.destination_port), theirs);
    true
}

/// What must hold of anything accepted, said with the standard library's words.
fn check_promises(frame: &[u8], read: &Parsed) {
    assert!(usize::from(read.ip_len) + 14 <= frame.len(), "never longer than the frame");
    assert!(read.l4_offset <= 14 + read.ip_len);
    assert_eq!(read.l3_offset, 14);
    if read.key.family == 0 {
        return;
    }
    assert_eq!(read.key.reversed().reversed(), read.key);
    assert_eq!(read.key.reversed().steering_hash(), read.key.steering_hash());
    assert_eq!(read.key.zone, 0);
    let (source, destination) = (read.key.source_address(), read.key.destination_address());
    for address in [source, destination] {
        assert!(!address.is_loopback());
        match address {
            IpAddr::V4(v4) => assert!(!v4.is_broadcast() && v4.octets()[0] < 240 && v4.octets()[0] != 0),
            IpAddr::V6(v6) => assert!(v6.to_ipv4().is_none() || v6.is_unspecified()),
        }
    }
    assert_ne!(source, destination);
    assert!(!source.is_multicast());
    if !matches!(read.payload, Payload::NeighbourSolicitation { .. }) {
        assert!(!source.is_unspecified());
        assert!(!destination.is_unspecified() && !destination.is_multicast());
    }
}

/// Gives every answer there is to a frame, and reads each.
fn answer_everything(frame: &[u8], read: &Parsed) {
    let mut out = [0; 2048];
    let errors = [
        IcmpError::TimeExceeded,
        IcmpError::HostUnreachable,
        IcmpError::Prohibited,
        IcmpError::PortUnreachable,
        IcmpError::TooBig { mtu: 1280 },
    ];
    for error in errors {
        let Some(len) = icmp_error(frame, read, error, GATEWAY_MAC, &mut out) else { continue };
        let answer = parse(&out[..len], len).expect("our own parser takes it");
        assert!(matches!(answer.payload, Payload::IcmpError { .. }));
        if read.fragment == Fragment::Whole {
            assert_eq!(answer.payload, Payload::IcmpError { about: read.key });
        }
    }
    if let Some(len) = tcp_reset(frame, read, GATEWAY_MAC, &mut out) {
        assert_eq!(parse(&out[..len], len).expect("taken").key, read.key.reversed());
    }
    if let Some(len) = echo_reply(frame, read, GATEWAY_MAC, &mut out) {
        assert_eq!(parse(&out[..len], len).expect("taken").key, read.key.reversed());
    }
    for len in
        [arp_reply(read, GATEWAY_MAC, &mut out), neighbour_advertisement(frame, read, GATEWAY_MAC, &mut out)]
            .into_iter()
            .flatten()
    {
        SlicedPacket::from_ethernet(&out[..len]).expect("well formed");
    }
    for piece in split_ipv4(frame, read, 68).into_iter().flatten() {
        let len = piece.write(frame, &mut out).expect("room");
        assert!(len <= 82);
    }
    let mut sent = frame.to_vec();
    decrement_ttl(&mut sent, read);
    let ttl = read.ttl.saturating_sub(1);
    match read.payload {
        // A hop limit below 255 is what a solicitation must not have.
        Payload::NeighbourSolicitation { .. } => {}
        _ => assert_eq!(parse(&sent, sent.len()), Ok(Parsed { ttl, ..*read })),
    }
}

#[test]
fn what_we_accept_means_the_same_to_etherparse() {
    let mut chance = Chance::new();
    let golden = golden();
    let (mut flows, mut compared, mut quotes, mut refused) = (0, 0, 0, std::collections::BTreeMap::new());
    for _ in 0..FRAMES {
        let frame = if chance.one_in(3) { chance.invented() } else { chance.mutated(&golden) };
        match chance.parse(frame) {
            Ok(read) => {
                check_promises(&chance.frame, &read);
                answer_everything(&chance.frame, &read);
                match read.payload {
                    Payload::Flow(l4) => {
                        flows += 1;
                        compared += u32::from(agrees(&chance.frame, &read, l4));
                    }
                    Payload::IcmpError { about } => {
                        quotes += u32::from(agrees_about_quote(&chance.frame, &read, about));
                    }
                    Payload::ArpRequest { .. } | Payload::NeighbourSolicitation { .. } => {}
                }
            }
            Err(reason) => *refused.entry(reason).or_insert(0) += 1,
        }
    }
    println!("{flows} flows, {compared} compared to the ports, {quotes} quotes; refused: {refused:?}");
    // The test is worth something only if it reaches everything.
    assert!(compared > FRAMES as u32 / 10 && quotes > 500);
    let packet_reasons = &DropReason::ALL[..=DropReason::FragmentBad as usize];
    for reason in packet_reasons.iter().chain([&DropReason::UnrelatedIcmp]) {
        assert!(refused.contains_key(reason), "no frame was refused as {reason}");
    }
}

#[test]
fn nothing_panics_on_noise_or_on_a_head_that_is_not_the_parsed_frames() {
    let mut chance = Chance::new();
    let golden: Vec<Parsed> =
        golden().iter().map(|(_, frame)| parse(frame, frame.len()).expect("accepted")).collect();
    let mut out = [0; 256];
    for _ in 0..FRAMES {
        let mut noise = vec![0; chance.below(160)];
        chance.random.fill_bytes(&mut noise);
        let frame_len = chance.below(70_000);
        chance.frame = noise.clone();
        agrees_with_quick(&noise, frame_len, parse(&noise, frame_len));
        let read = golden[chance.below(golden.len())];
        let room = chance.below(out.len());
        let out = &mut out[..room];
        let _ = icmp_error(&noise, &read, IcmpError::TooBig { mtu: 1500 }, GATEWAY_MAC, out);
        let _ = echo_reply(&noise, &read, GATEWAY_MAC, out);
        let _ = tcp_reset(&noise, &read, GATEWAY_MAC, out);
        let _ = arp_reply(&read, GATEWAY_MAC, out);
        let _ = neighbour_advertisement(&noise, &read, GATEWAY_MAC, out);
        for piece in split_ipv4(&noise, &read, 68).into_iter().flatten() {
            let _ = piece.write(&noise, out);
        }
        decrement_ttl(&mut noise, &read);
        set_macs(&mut noise, [1; 6], [2; 6]);
    }
}
