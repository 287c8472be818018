//! Pcap in, pcap out, exact verdicts.

use pcap_file::pcap::{PcapPacket, PcapReader, PcapWriter};
use penstock_api::artefact::{
    Action, Entry, Peers, PodKey, PodPolicy, PolicyInfo, Program, RuleInfo, Service, tier,
};
use penstock_api::{Artefact, Generation, IdentityId, PolicyId, ProgramId, RuleId};
use penstock_vswitch::replay::{Replay, ReplayError, file_name, run};
use std::fs::File;
use std::path::Path;
use std::time::Duration;

/// Pod `ns/db` takes TCP 5432 from everybody and nothing else; `ns/web` is open.
fn artefact() -> Artefact {
    let pod = |name: &str, address: &str, id: u32, ingress: u32| PodPolicy {
        pod: PodKey::new("ns", name),
        addresses: vec![address.parse().unwrap()],
        identity: IdentityId(IdentityId::FIRST_COMPILED.0 + id),
        other_identities: vec![],
        ingress: ProgramId(ingress),
        egress: ProgramId(0),
    };
    Artefact {
        generation: Generation(1),
        policies: vec![PolicyInfo {
            kind: "NetworkPolicy".into(),
            namespace: "ns".into(),
            name: "db".into(),
        }],
        rules: vec![RuleInfo { policy: PolicyId(0), path: "spec.ingress[0]".into() }],
        programs: vec![
            Program::default(),
            Program {
                isolated: true,
                selected_by: vec![PolicyId(0)],
                entries: vec![Entry {
                    tier: tier::NORMAL,
                    priority: 0,
                    action: Action::Allow,
                    peers: Peers::Any,
                    service: Service::Ports { protocol: 6, first: 5432, last: 5432 },
                    established_only: false,
                    rule: RuleId(0),
                }],
            },
        ],
        pods: vec![pod("web", "10.0.0.2", 0, 0), pod("db", "10.0.0.3", 1, 1)],
        ..Artefact::empty()
    }
}

fn syn(from: [u8; 4], from_port: u16, to: [u8; 4], to_port: u16) -> Vec<u8> {
    let mut frame = Vec::new();
    etherparse::PacketBuilder::ethernet2([2, 9, 9, 9, 9, 9], [2, 0x50, 0x53, 0, 0, 1])
        .ipv4(from, to, 64)
        .tcp(from_port, to_port, 1, 1000)
        .syn()
        .write(&mut frame, &[])
        .unwrap();
    frame
}

fn write(file: &Path, frames: &[Vec<u8>]) {
    let mut writer = PcapWriter::new(File::create(file).unwrap()).unwrap();
    for (i, frame) in frames.iter().enumerate() {
        writer
            .write_packet(&PcapPacket::new(Duration::from_millis(i as u64), frame.len() as u32, frame))
            .unwrap();
    }
}

fn replay(inputs: Vec<(String, std::path::PathBuf)>, output: &Path) -> Replay {
    Replay {
        artefact: artefact(),
        inputs,
        output: Some(output.to_owned()),
        workers: 2,
        mtu: 1500,
        host_addresses: vec!["10.0.0.1".parse().unwrap()],
        pod_ranges: vec!["10.0.0.0/24".parse().unwrap()],
    }
}

#[test]
fn frames_of_a_capture_get_the_verdict_they_would_get_on_the_wire() {
    let dir = tempfile::tempdir().unwrap();
    let (input, output) = (dir.path().join("web.pcap"), dir.path().join("out"));
    let (web, db) = ([10, 0, 0, 2], [10, 0, 0, 3]);
    let frames = [
        syn(web, 1000, db, 5432),
        syn(web, 1001, db, 22),
        syn([10, 0, 0, 9], 1002, db, 5432),
        syn(web, 1, [8; 4], 80),
    ];
    write(&input, &frames);
    let mut outcomes = Vec::new();
    run(&replay(vec![("ns/web".into(), input)], &output), |outcome| {
        outcomes.push((outcome.to.join("+"), outcome.verdict.clone()));
    })
    .unwrap();
    let expected = [("ns/db", "forwarded"), ("", "policy_ingress"), ("", "spoofed"), ("host", "forwarded")];
    assert_eq!(outcomes, expected.map(|(to, verdict)| (to.to_owned(), verdict.to_owned())));

    let mut reader = PcapReader::new(File::open(output.join(file_name("ns/db"))).unwrap()).unwrap();
    let packet = reader.next_packet().unwrap().unwrap();
    let mut delivered = frames[0].clone();
    delivered[22] = 63; // TTL
    assert_eq!(packet.data[22], 63);
    assert_eq!(packet.data[26..], delivered[26..], "addresses, ports and payload are as they were");
    assert!(reader.next_packet().is_none(), "one frame was delivered");
}

#[test]
fn a_port_nobody_has_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let result = run(&replay(vec![("ns/nobody".into(), dir.path().join("x"))], dir.path()), |_| {});
    let text = result.unwrap_err().to_string();
    assert!(text.contains("ns/nobody") && text.contains("ns/web"), "{text}");
}

#[test]
fn a_file_that_is_no_capture_is_an_error_naming_it() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("no.pcap");
    std::fs::write(&file, b"this is no capture of anything at all").unwrap();
    let result = run(&replay(vec![("ns/web".into(), file.clone())], dir.path()), |_| {});
    assert!(matches!(result, Err(ReplayError::Pcap { .. })));
    assert!(result.unwrap_err().to_string().contains("no.pcap"));
}
