//! Requests, responses and events of the switch's control socket.
//!
//! A client connects, sends one [`Request`] and reads one [`Response`], as often as it likes. Two requests turn the
//! connection into a stream: [`Request::Subscribe`] (of [`Event`]s) and [`Request::Capture`] (of [`CapturedFrame`]s).

use crate::artefact::{Artefact, Direction, PodKey};
use crate::difference::Difference;
use crate::drops::DropReason;
use crate::ids::{EndpointId, Generation, PortId, WorkerId};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// Spoken by both sides of this version.
pub const PROTOCOL: u32 = 1;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Is anybody there, and which version? Answer: [`Response::Hello`].
    Hello {
        protocol: u32,
    },
    /// Attach a pod's interface. Answered with [`Response::Attached`] once policy for it is live on every worker (or with
    /// an error after `wait_ms`, the port being gone again).
    Attach {
        port: PodPort,
        wait_ms: u64,
    },
    /// Detach it. Answered with [`Response::Done`], also when there is nothing to detach.
    Detach {
        container_id: String,
        interface: String,
    },
    /// Is it attached as said, programs and all? [`Response::Done`] or an error naming what is wrong.
    Check {
        port: PodPort,
    },
    /// Install an artefact. Answered with [`Response::Installed`] once every worker runs it.
    Install {
        artefact: Box<Artefact>,
    },
    /// Install the successor of the artefact in force. Answered as [`Request::Install`]; refused, with nothing changed, when
    /// another one is in force.
    Change {
        difference: Box<Difference>,
    },
    Status,
    /// The artefact in force. Answered with [`Response::Artefact`].
    Artefact,
    Ports,
    /// Flows, most recent first.
    Flows {
        limit: usize,
    },
    Drops,
    /// Stream frames of a port (of all ports when absent), cut to `snap_len` bytes, until the client closes.
    Capture {
        port: Option<PortId>,
        snap_len: u16,
    },
    /// Stream events, beginning with an [`Event::Attached`] for every pod that is attached and an [`Event::Synced`].
    Subscribe,
    /// Where is every frame of every worker? One census for each area of each. For tests; stops the world for a moment.
    Frames,
    /// Begin, from nothing, or end to measure what the stages of the workers' pipelines cost. Answered with what was counted until
    /// now. One measurement at a time; after a minute it ends by itself.
    Stages {
        on: bool,
    },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "response", rename_all = "snake_case")]
pub enum Response {
    Hello {
        protocol: u32,
        version: String,
    },
    Attached {
        port: PortId,
        endpoint: EndpointId,
        gateway_mac: Mac,
    },
    Done,
    Installed {
        generation: Generation,
        took_us: u64,
    },
    Status(Box<Status>),
    Artefact {
        artefact: Box<Artefact>,
    },
    Ports {
        ports: Vec<PortStatus>,
    },
    Flows {
        flows: Vec<FlowStatus>,
        total: usize,
    },
    Drops {
        drops: Vec<DropCount>,
        /// Of those by policy: whose it was.
        #[serde(default)]
        refused: Vec<RefusedCount>,
        recent: Vec<DropEvent>,
    },
    Capturing,
    Subscribed,
    Frames {
        workers: Vec<FrameCensus>,
    },
    Stages {
        workers: Vec<StageTimes>,
    },
    Error {
        code: ErrorCode,
        message: String,
    },
}

/// What kind of failure, for programs; the message is for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The request contradicts itself or the configuration.
    Invalid,
    /// A name or address is taken.
    Conflict,
    NotFound,
    /// Policy for the pod did not become live in time. Try again.
    NotReady,
    /// The kernel refused.
    Kernel,
    /// The artefact was refused. The running one still runs.
    Artefact,
}

/// A MAC address, written `02:00:00:00:00:01`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mac(pub [u8; 6]);

impl std::fmt::Display for Mac {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl std::fmt::Debug for Mac {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

impl std::str::FromStr for Mac {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut mac = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut mac {
            *byte = parts
                .next()
                .filter(|part| part.len() == 2)
                .and_then(|part| u8::from_str_radix(part, 16).ok())
                .ok_or_else(|| format!("{text:?} is not a MAC address like 02:00:00:00:00:01"))?;
        }
        match parts.next() {
            None => Ok(Mac(mac)),
            Some(_) => Err(format!("{text:?} is not a MAC address like 02:00:00:00:00:01")),
        }
    }
}

impl TryFrom<String> for Mac {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> String {
        mac.to_string()
    }
}

/// The gateway every pod has: link-local, the same everywhere, known to the pod by a permanent neighbour entry.
pub mod gateway {
    use super::Mac;
    use std::net::{Ipv4Addr, Ipv6Addr};

    pub const V4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
    pub const V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
    pub const MAC: Mac = Mac([0x02, 0x50, 0x53, 0x00, 0x00, 0x01]);
}

/// A pod's interface, as the CNI plugin made it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PodPort {
    pub container_id: String,
    /// The name inside the pod, `eth0`.
    pub interface: String,
    /// The name of the host end inside the instance's namespace; down when offered, the switch brings it up.
    pub host_end: String,
    pub pod: PodKey,
    /// Of the pod's end.
    pub mac: Mac,
    /// Host addresses, no prefixes.
    pub addresses: Vec<IpAddr>,
    pub mtu: u16,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    pub instance: String,
    pub version: String,
    pub pid: u32,
    pub uptime_ms: u64,
    pub mtu: u16,
    pub pod_ranges: Vec<IpNet>,
    pub host_interface: String,
    pub host_addresses: Vec<IpAddr>,
    pub polling: String,
    /// Of the artefact in force; 0 when none was ever installed.
    pub generation: Generation,
    /// Since it was installed, in milliseconds.
    pub generation_age_ms: u64,
    /// Ends of `Subscribe` connections: is a control plane there?
    pub subscribers: usize,
    pub endpoints: usize,
    pub endpoints_ready: usize,
    pub workers: Vec<WorkerStatus>,
    /// What the kernel carries by itself.
    #[serde(default)]
    pub shortcut: ShortcutStatus,
    /// What is not as it could be, one sentence each, naming the remedy.
    pub notes: Vec<String>,
}

/// Flows that the kernel carries by itself, each direction for itself.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ShortcutStatus {
    pub is_on: bool,
    /// Handed over.
    pub flows: usize,
    /// Of them, those whose frames do not come to a worker by now.
    pub direct: usize,
    pub flows_max: usize,
    /// Since the switch was started.
    pub frames: u64,
    pub bytes: u64,
    pub installed: u64,
    /// Times that a flow found no room, and stayed with its worker.
    pub overflow: u64,
    /// Which ways the kernel has between pods and direct ports.
    #[serde(default)]
    pub direct_ports: Vec<DirectShortcut>,
}

/// A direct port, and why flows between it and pods cross userspace, if they do.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DirectShortcut {
    pub interface: String,
    pub not_to_it: Option<String>,
    pub not_from_it: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WorkerStatus {
    pub worker: WorkerId,
    /// The CPU it is pinned to, if it is.
    pub cpu: Option<usize>,
    pub generation: Generation,
    pub rx_frames: u64,
    pub tx_frames: u64,
    pub flows: usize,
    pub flows_max: usize,
    pub cache_hits: u64,
    pub cache_misses: u64,
    pub handed_over: u64,
    /// Share of rounds that found work, 0.0-1.0, over the last second.
    pub busy: f64,
    pub rebinds: u64,
    /// Packet memory, registered with the kernel.
    pub umem_bytes: u64,
    /// Of it, the area of ports bound without copying; 0 where there is no such port.
    #[serde(default)]
    pub umem_zero_copy_bytes: u64,
    /// Frames copied from one area to the other, because they came by a port of one and left by a port of the other.
    #[serde(default)]
    pub area_copies: u64,
    /// Frames it made itself: answers, and all pieces but one of a frame it split. received + originated = sent + drops.
    #[serde(default)]
    pub originated: u64,
    pub devices: Vec<DeviceStatus>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceStatus {
    pub interface: String,
    pub queue: u32,
    /// `zero-copy`, `native copy`, `generic copy`, `memory`, `pcap`; with `, bulk` where many frames leave at once.
    pub mode: String,
    /// Why not a better one.
    pub why: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PortStatus {
    pub port: PortId,
    pub endpoint: EndpointId,
    /// `host`, `pod`, `direct`.
    pub kind: String,
    /// The interface of the switch's side.
    pub interface: String,
    pub pod: Option<PodKey>,
    pub container_id: Option<String>,
    pub mac: Mac,
    pub addresses: Vec<IpAddr>,
    pub mtu: u16,
    /// Of a direct port: its socket. Other ports come by the workers' trunks.
    #[serde(default)]
    pub device: Option<DeviceStatus>,
    /// False: isolated because policy for it is not known yet.
    pub ready: bool,
    /// From the port into the switch.
    pub rx_frames: u64,
    pub rx_bytes: u64,
    /// Out of the switch to the port.
    pub tx_frames: u64,
    pub tx_bytes: u64,
    /// Of these, what the kernel carried by itself.
    #[serde(default)]
    pub shortcut_rx_frames: u64,
    #[serde(default)]
    pub shortcut_tx_frames: u64,
    pub drops: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowStatus {
    pub worker: WorkerId,
    pub protocol: u8,
    pub source: IpAddr,
    pub source_port: u16,
    pub destination: IpAddr,
    pub destination_port: u16,
    pub state: String,
    pub source_pod: Option<PodKey>,
    pub destination_pod: Option<PodKey>,
    pub generation: Generation,
    pub idle_ms: u64,
    pub forward_frames: u64,
    pub forward_bytes: u64,
    pub reply_frames: u64,
    pub reply_bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DropCount {
    pub reason: DropReason,
    /// The port the frames came from; absent where the kernel does not say.
    pub port: Option<PortId>,
    pub pod: Option<PodKey>,
    pub frames: u64,
}

/// What the policy of one endpoint refused in one direction: no drop by policy is missing here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedCount {
    pub endpoint: PodKey,
    pub direction: Direction,
    /// The objects that select it in this direction now. None: policy for it is not known yet, or was taken away since.
    pub policies: Vec<String>,
    pub frames: u64,
}

/// One drop, sampled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DropEvent {
    /// Since the Unix epoch.
    pub time_ms: u64,
    pub reason: DropReason,
    pub port: PortId,
    pub protocol: u8,
    pub source: IpAddr,
    pub source_port: u16,
    pub destination: IpAddr,
    pub destination_port: u16,
    /// For policy drops: whose policy, in which direction, and which objects select it.
    pub endpoint: Option<PodKey>,
    pub direction: Option<Direction>,
    pub policies: Vec<String>,
    /// The one rule that denied, with its object. `None`: no rule allowed it.
    pub rule: Option<String>,
}

/// One of a worker's memory areas. The kernel decides for a whole area whether its sockets copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AreaKind {
    /// Of the trunk, of every port that copies, and of what the worker makes itself.
    #[default]
    Copy,
    /// Of the ports whose driver reads and writes it directly. Only there when there is such a port.
    ZeroCopy,
}

impl std::fmt::Display for AreaKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            AreaKind::Copy => "copy",
            AreaKind::ZeroCopy => "zero-copy",
        })
    }
}

/// Where the frames of one area of one worker are. Their sum is `total`, and no address is in two places.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct FrameCensus {
    pub worker: WorkerId,
    #[serde(default)]
    pub area: AreaKind,
    pub total: usize,
    pub free: usize,
    /// In fill rings or on their way through the kernel to a receive ring.
    pub receiving: usize,
    /// In transmit or completion rings.
    pub transmitting: usize,
    /// Held by a table: fragments waiting for their first.
    pub held: usize,
    /// Lent to another worker.
    pub lent: usize,
    /// Addresses found twice or nowhere. Must be empty.
    pub wrong: Vec<u64>,
}

/// What the stages of one worker's pipeline cost while somebody measured.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct StageTimes {
    pub worker: WorkerId,
    /// Frames received.
    pub frames: u64,
    /// Rounds that brought any.
    pub rounds: u64,
    /// In the order of the pipeline.
    pub stages: Vec<StageTime>,
}

/// One stage, all frames together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageTime {
    pub stage: String,
    pub nanos: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CapturedFrame {
    pub time_ns: u64,
    pub port: PortId,
    /// True: from the port into the switch. False: out of the switch to it.
    pub inbound: bool,
    /// `forwarded`, or the name of the drop reason.
    pub verdict: String,
    /// Before it was cut.
    pub len: u32,
    pub bytes: Vec<u8>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    Attached {
        endpoint: EndpointId,
        port: PodPort,
    },
    Detached {
        endpoint: EndpointId,
        pod: PodKey,
    },
    /// Everything attached before the subscription has been told.
    Synced {
        host_addresses: Vec<IpAddr>,
        pod_ranges: Vec<IpNet>,
    },
    HostAddresses {
        host_addresses: Vec<IpAddr>,
    },
}
