//! Pcap ports: what would this switch do with these frames?
//!
//! Captured frames of ports go through the pipeline itself, on memory, in the order and at the pace of their time stamps, under
//! an artefact from a file; what it sends is written to one pcap per port. No root, no interface, nothing of a running switch is
//! touched. The source MAC of each frame is replaced by the port's, so that captures from anywhere serve.

use crate::packet::{destination_mac, set_macs};
use crate::rig::{Delivered, Rig, Sizes};
use ipnet::IpNet;
use pcap_file::pcap::{PcapPacket, PcapReader, PcapWriter};
use penstock_api::artefact::PodKey;
use penstock_api::message::gateway;
use penstock_api::{Artefact, PortId};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufWriter;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What is replayed, and on what.
#[derive(Debug, Clone)]
pub struct Replay {
    pub artefact: Artefact,
    /// Port names (`namespace/name`, or `host`) and the captures of what they sent.
    pub inputs: Vec<(String, PathBuf)>,
    /// Where one pcap per port goes.
    pub output: Option<PathBuf>,
    pub workers: usize,
    pub mtu: u16,
    pub host_addresses: Vec<IpAddr>,
    pub pod_ranges: Vec<IpNet>,
}

/// What became of one frame.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Outcome {
    /// Of the capture.
    pub time_ns: u64,
    pub from: String,
    pub len: usize,
    /// Ports that got something, in order: the frame itself, its fragments, or an answer.
    pub to: Vec<String>,
    /// `forwarded`, or the names of the reasons it was dropped for.
    pub verdict: String,
}

#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    #[error("{}: {error}", file.display())]
    Pcap { file: PathBuf, error: pcap_file::PcapError },
    #[error("{}: {error}", file.display())]
    Io { file: PathBuf, error: std::io::Error },
    #[error("the artefact knows no pod {name}; it knows: {known}")]
    NoSuchPort { name: String, known: String },
    #[error("{0}")]
    Artefact(#[from] penstock_api::artefact::ArtefactError),
}

/// Runs a replay. `each` gets every frame's outcome as it is known.
pub fn run(replay: &Replay, mut each: impl FnMut(&Outcome)) -> Result<(), ReplayError> {
    replay.artefact.validate()?;
    let mut rig = Rig::with(&Sizes { workers: replay.workers, chunks: 2048, ..Sizes::default() });
    let mut names = BTreeMap::from([(
        rig.host(mac_of(PortId::HOST), &replay.host_addresses, &replay.pod_ranges, replay.mtu),
        "host".to_owned(),
    )]);
    for (index, pod) in replay.artefact.pods.iter().enumerate() {
        let key = PodKey { uid: pod.pod.uid.clone(), ..PodKey::new(&pod.pod.namespace, &pod.pod.name) };
        let mac = mac_of(PortId(index as u16 + 1));
        names.insert(rig.attach(key, mac, &pod.addresses, replay.mtu), pod.pod.to_string());
    }
    rig.install(replay.artefact.clone());

    let frames = read_all(&replay.inputs, &names)?;
    let mut writers = Writers { directory: replay.output.clone(), open: BTreeMap::new() };
    let begin = frames.first().map_or(Duration::ZERO, |frame| frame.time);
    let first_ms = rig.now_ms;
    for frame in frames {
        rig.now_ms = first_ms + (frame.time - begin).as_millis() as u64;
        let mut late = rig.run();
        let before = rig.all_drops();
        let mut bytes = frame.bytes;
        let destination = destination_mac(&bytes);
        set_macs(&mut bytes, destination, mac_of(frame.port));
        let delivered = rig.exchange(frame.port, &bytes);
        let outcome = Outcome {
            time_ns: frame.time.as_nanos() as u64,
            from: names[&frame.port].clone(),
            len: bytes.len(),
            to: delivered.iter().map(|d| names[&d.port].clone()).collect(),
            verdict: verdict(&before, &rig.all_drops()),
        };
        late.extend(delivered);
        for delivered in &late {
            writers.write(&names[&delivered.port], frame.time, delivered)?;
        }
        each(&outcome);
    }
    // What waits for a fragment that never comes is dropped in the end.
    rig.pass(10_000);
    Ok(())
}

/// A MAC for a port of a replay.
fn mac_of(port: PortId) -> [u8; 6] {
    let [high, low] = port.0.to_be_bytes();
    let [a, b, c, ..] = gateway::MAC.0;
    [a, b, c, 1, high, low]
}

fn verdict(before: &[(penstock_api::DropReason, u64)], after: &[(penstock_api::DropReason, u64)]) -> String {
    let reasons: Vec<&str> =
        after.iter().filter(|now| !before.contains(now)).map(|(reason, _)| reason.name()).collect();
    if reasons.is_empty() { "forwarded".to_owned() } else { reasons.join(",") }
}

struct Timed {
    time: Duration,
    port: PortId,
    bytes: Vec<u8>,
}

/// All frames of all captures, in the order of their time stamps.
fn read_all(
    inputs: &[(String, PathBuf)],
    names: &BTreeMap<PortId, String>,
) -> Result<Vec<Timed>, ReplayError> {
    let mut frames = Vec::new();
    for (name, file) in inputs {
        let port = names.iter().find(|(_, known)| *known == name).map(|(port, _)| *port);
        let port = port.ok_or_else(|| ReplayError::NoSuchPort {
            name: name.clone(),
            known: names.values().cloned().collect::<Vec<_>>().join(", "),
        })?;
        let open = File::open(file).map_err(|error| ReplayError::Io { file: file.clone(), error })?;
        let pcap = |error| ReplayError::Pcap { file: file.clone(), error };
        let mut reader = PcapReader::new(open).map_err(pcap)?;
        while let Some(packet) = reader.next_packet() {
            let packet = packet.map_err(pcap)?;
            frames.push(Timed { time: packet.timestamp, port, bytes: packet.data.into_owned() });
        }
    }
    frames.sort_by_key(|frame| frame.time);
    Ok(frames)
}

/// One pcap per port, opened when the first frame for it comes.
struct Writers {
    directory: Option<PathBuf>,
    open: BTreeMap<String, PcapWriter<BufWriter<File>>>,
}

impl Writers {
    fn write(&mut self, name: &str, time: Duration, delivered: &Delivered) -> Result<(), ReplayError> {
        let Some(directory) = &self.directory else { return Ok(()) };
        if !self.open.contains_key(name) {
            self.open.insert(name.to_owned(), create(directory, name)?);
        }
        let file = directory.join(file_name(name));
        let writer = self.open.get_mut(name).expect("opened above");
        let packet = PcapPacket::new(time, delivered.frame.len() as u32, &delivered.frame);
        writer.write_packet(&packet).map(drop).map_err(|error| ReplayError::Pcap { file, error })
    }
}

/// The pcap of a port: `namespace.name.pcap`.
pub fn file_name(port: &str) -> String {
    format!("{}.pcap", port.replace('/', "."))
}

fn create(directory: &Path, name: &str) -> Result<PcapWriter<BufWriter<File>>, ReplayError> {
    let file = directory.join(file_name(name));
    let made = std::fs::create_dir_all(directory).and_then(|()| File::create(&file));
    let opened = made.map_err(|error| ReplayError::Io { file: file.clone(), error })?;
    PcapWriter::new(BufWriter::new(opened)).map_err(|error| ReplayError::Pcap { file, error })
}
