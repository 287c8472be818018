//! `penstock capture`: a port's frames as the switch saw them, each with the switch's verdict.
//!
//! A classic pcap has no place for a verdict: there the verdicts are the lines printed beside it. A file named
//! `*.pcapng` carries each as the comment of its packet.

use crate::client::{Client, close, unexpected};
use crate::context::{Context, Output};
use crate::failure::{Failure, output_failure};
use crate::output::{self, print};
use etherparse::{LaxNetSlice, LaxSlicedPacket, TransportSlice};
use nix::sys::signal::{SigSet, Signal};
use pcap_file::pcap::{PcapHeader, PcapPacket, PcapWriter};
use pcap_file::pcapng::PcapNgWriter;
use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption,
};
use pcap_file::{DataLink, PcapError, TsResolution};
use penstock_api::PortId;
use penstock_api::message::{CapturedFrame, PortStatus, Request, Response};
use penstock_api::wire::{self, WireError};
use std::borrow::Cow;
use std::fs::File;
use std::io::Write;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Only this port (a number of 'penstock ports').
    #[arg(long, value_name = "N", conflicts_with = "pod")]
    port: Option<u16>,
    /// Only the port of this pod.
    #[arg(long, value_name = "NAMESPACE/NAME")]
    pod: Option<String>,
    /// Write a pcap here (pcapng with verdicts when the name ends in .pcapng); - is standard output.
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,
    /// Stop after this many frames.
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// Stop after this many seconds.
    #[arg(long, value_name = "S")]
    seconds: Option<u64>,
    /// Keep this many bytes of each frame.
    #[arg(long, value_name = "BYTES", default_value_t = u16::MAX)]
    snap_len: u16,
}

pub(crate) fn run(context: &Context, arguments: &Arguments, out: &mut dyn Write) -> Result<(), Failure> {
    let mut client = Client::connect(context)?;
    let port = match (&arguments.pod, arguments.port) {
        (Some(pod), _) => Some(port_of(context, &client.ports()?, pod)?),
        (None, port) => port.map(PortId),
    };
    match client.ask(&Request::Capture { port, snap_len: arguments.snap_len })? {
        Response::Capturing => {}
        other => return Err(unexpected("a capture", &other)),
    }
    let to_stdout = arguments.write.as_deref() == Some(Path::new("-"));
    let mut sink = match &arguments.write {
        None => None,
        Some(file) => Some(Sink::create(file)?),
    };
    let stream = client.into_stream()?;
    let (sender, frames) = sync_channel(1024);
    end_on_signals(sender.clone())?;
    let reader = stream
        .try_clone()
        .map_err(|error| Failure::failed(format!("the control socket cannot be shared: {error}")))?;
    std::thread::spawn(move || read_frames(reader, &sender));
    let result = record(&frames, arguments, |frame| {
        if let Some(sink) = &mut sink {
            sink.write(frame)?;
        }
        match (to_stdout, context.output) {
            (true, _) => Ok(()),
            (false, Output::Table) => print(out, line(frame)),
            (false, Output::Json) => print(
                out,
                serde_json::to_string(frame).map_err(|error| {
                    Failure::failed(format!("a frame cannot be written as JSON: {error}"))
                })?,
            ),
        }
    });
    close(&stream);
    let count = result?;
    if !to_stdout {
        eprintln!("{count} frames captured");
    }
    Ok(())
}

/// What reaches the recording loop.
enum Arrival {
    Frame(CapturedFrame),
    /// The switch closed the stream, or it broke.
    End(Result<(), String>),
    /// SIGINT or SIGTERM: finish the file and go.
    Asked,
}

fn read_frames(mut stream: UnixStream, to: &SyncSender<Arrival>) {
    loop {
        let arrival = match wire::receive(&mut stream) {
            Ok(frame) => Arrival::Frame(frame),
            Err(WireError::Closed) => Arrival::End(Ok(())),
            Err(error) => Arrival::End(Err(error.to_string())),
        };
        let over = matches!(arrival, Arrival::End(_));
        if to.send(arrival).is_err() || over {
            return;
        }
    }
}

/// A capture ends as people end it, and the file must be whole then.
fn end_on_signals(to: SyncSender<Arrival>) -> Result<(), Failure> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGINT);
    signals.add(Signal::SIGTERM);
    signals.thread_block().map_err(|error| Failure::failed(format!("signals cannot be blocked: {error}")))?;
    std::thread::spawn(move || {
        if signals.wait().is_ok() {
            // Nobody listens: the capture is over anyway.
            let _ = to.send(Arrival::Asked);
        }
    });
    Ok(())
}

fn record(
    frames: &Receiver<Arrival>,
    arguments: &Arguments,
    mut each: impl FnMut(&CapturedFrame) -> Result<(), Failure>,
) -> Result<u64, Failure> {
    let deadline = arguments.seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let mut count = 0;
    while arguments.count.is_none_or(|limit| count < limit) {
        let left =
            deadline.map_or(Duration::MAX, |deadline| deadline.saturating_duration_since(Instant::now()));
        let arrival = match left {
            Duration::MAX => frames.recv().map_err(|_| RecvTimeoutError::Disconnected),
            left => frames.recv_timeout(left),
        };
        match arrival {
            Ok(Arrival::Frame(frame)) => {
                each(&frame)?;
                count += 1;
            }
            Ok(Arrival::Asked) | Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
            Ok(Arrival::End(Ok(()))) => {
                return Err(Failure::failed(format!(
                    "the switch ended the capture after {count} frames: it stopped, or this reader was too slow; see 'penstock status'"
                )));
            }
            Ok(Arrival::End(Err(reason))) => {
                return Err(Failure::failed(format!("the capture broke after {count} frames: {reason}")));
            }
        }
    }
    Ok(count)
}

fn port_of(context: &Context, ports: &[PortStatus], pod: &str) -> Result<PortId, Failure> {
    ports.iter().find(|port| port.pod.as_ref().is_some_and(|key| key.to_string() == pod)).map(|port| port.port).ok_or_else(
        || {
            Failure::failed(format!(
                "no pod {pod:?} is attached; name it as NAMESPACE/NAME, 'penstock --instance {} ports' lists them",
                context.instance
            ))
        },
    )
}

/// `12.345678 port 3 in  74 bytes tcp 10.0.0.2:40000 > 10.0.0.3:80 forwarded`.
fn line(frame: &CapturedFrame) -> String {
    format!(
        "{}.{:06} port {} {} {} bytes {} {}",
        frame.time_ns / 1_000_000_000,
        frame.time_ns % 1_000_000_000 / 1000,
        frame.port,
        if frame.inbound { "in " } else { "out" },
        frame.len,
        describe(&frame.bytes),
        frame.verdict
    )
}

/// Who speaks to whom, as far as the frame tells; it may be cut, or nonsense.
fn describe(frame: &[u8]) -> String {
    let Ok(packet) = LaxSlicedPacket::from_ethernet(frame) else { return "not readable".to_owned() };
    let (source, destination, protocol) = match &packet.net {
        Some(LaxNetSlice::Ipv4(ip)) => (
            IpAddr::from(ip.header().source_addr()),
            IpAddr::from(ip.header().destination_addr()),
            ip.payload().ip_number.0,
        ),
        Some(LaxNetSlice::Ipv6(ip)) => (
            IpAddr::from(ip.header().source_addr()),
            IpAddr::from(ip.header().destination_addr()),
            ip.payload().ip_number.0,
        ),
        Some(LaxNetSlice::Arp(_)) => return "arp".to_owned(),
        None => {
            let ether_type = frame.get(12..14).map_or(0, |bytes| u16::from_be_bytes([bytes[0], bytes[1]]));
            return format!("ethertype {ether_type:#06x}");
        }
    };
    let name = output::protocol(protocol);
    match packet.transport.as_ref().and_then(ports) {
        Some((from, to)) => {
            let (source, destination) =
                (output::address(source, from, protocol), output::address(destination, to, protocol));
            format!("{name} {source} > {destination}")
        }
        // No ports: not that protocol, or a later fragment.
        None => format!("{name} {source} > {destination}"),
    }
}

fn ports(transport: &TransportSlice<'_>) -> Option<(u16, u16)> {
    match transport {
        TransportSlice::Tcp(tcp) => Some((tcp.source_port(), tcp.destination_port())),
        TransportSlice::Udp(udp) => Some((udp.source_port(), udp.destination_port())),
        _ => None,
    }
}

/// What the file's header says, as tcpdump writes it: some readers refuse a frame that was longer than this before it was
/// cut.
const FILE_SNAP_LEN: u32 = 262_144;

/// Unbuffered: whoever reads the pipe or the file sees a frame when it was captured, and an interrupted capture is whole.
enum Sink {
    Pcap(PcapWriter<File>),
    PcapNg(PcapNgWriter<File>),
}

impl Sink {
    fn create(file: &Path) -> Result<Self, Failure> {
        let opened = match file == Path::new("-") {
            true => std::io::stdout().as_fd().try_clone_to_owned().map(File::from),
            false => File::create(file),
        };
        let writer = opened.map_err(|error| {
            Failure::failed(format!(
                "{} cannot be written: {error}; name another file with --write",
                file.display()
            ))
        })?;
        if file.extension().is_some_and(|extension| extension == "pcapng") {
            let mut writer = PcapNgWriter::new(writer).map_err(write_failure)?;
            let mut interface = InterfaceDescriptionBlock::new(DataLink::ETHERNET, FILE_SNAP_LEN);
            // 10^-9: the writer puts timestamps down in nanoseconds whatever this says.
            interface.options.push(InterfaceDescriptionOption::IfTsResol(9));
            writer.write_pcapng_block(interface).map_err(write_failure)?;
            return Ok(Sink::PcapNg(writer));
        }
        let header = PcapHeader {
            snaplen: FILE_SNAP_LEN,
            datalink: DataLink::ETHERNET,
            ts_resolution: TsResolution::NanoSecond,
            ..PcapHeader::default()
        };
        Ok(Sink::Pcap(PcapWriter::with_header(writer, header).map_err(write_failure)?))
    }

    fn write(&mut self, frame: &CapturedFrame) -> Result<(), Failure> {
        let timestamp = Duration::from_nanos(frame.time_ns);
        // The library refuses a frame longer than it was, which only a defect of the switch could send.
        let original_len = frame.len.max(u32::try_from(frame.bytes.len()).unwrap_or(u32::MAX));
        match self {
            Sink::Pcap(writer) => {
                writer
                    .write_packet(&PcapPacket::new(timestamp, original_len, &frame.bytes))
                    .map_err(write_failure)?;
            }
            Sink::PcapNg(writer) => {
                let direction = if frame.inbound { "in from" } else { "out to" };
                let comment = format!("{} ({direction} port {})", frame.verdict, frame.port);
                let block = EnhancedPacketBlock {
                    interface_id: 0,
                    timestamp,
                    original_len,
                    data: Cow::Borrowed(&frame.bytes),
                    options: vec![EnhancedPacketOption::Comment(Cow::Owned(comment))],
                };
                writer.write_pcapng_block(block).map_err(write_failure)?;
            }
        }
        Ok(())
    }
}

fn write_failure(error: PcapError) -> Failure {
    match error {
        PcapError::IoError(error) => output_failure(error),
        other => Failure::failed(format!("the capture cannot be written: {other}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::ports::tests::port;
    use crate::testing::{context, printed, serve};
    use pcap_file::pcap::PcapReader;
    use pcap_file::pcapng::{Block, PcapNgReader};

    fn frame(n: u8, verdict: &str) -> CapturedFrame {
        CapturedFrame {
            time_ns: 1_700_000_000_123_456_789 + u64::from(n),
            port: PortId(1),
            inbound: true,
            verdict: verdict.into(),
            len: 1500,
            bytes: vec![n; 60],
        }
    }

    /// A switch with one pod on port 1 that sees four frames.
    fn capturing(context: &Context) {
        serve(context, |request, stream| match request {
            Request::Ports => {
                Some(Response::Ports { ports: vec![port(0, None), port(1, Some(("shop", "db")))] })
            }
            Request::Capture { port, snap_len: _ } => {
                assert_eq!(port, Some(PortId(1)));
                wire::send(stream, &Response::Capturing).unwrap();
                for n in 0..4 {
                    wire::send(stream, &frame(n, if n == 2 { "policy_ingress" } else { "forwarded" }))
                        .unwrap();
                }
                None
            }
            other => panic!("not expected: {other:?}"),
        });
    }

    fn arguments(write: Option<PathBuf>) -> Arguments {
        Arguments {
            port: None,
            pod: Some("shop/db".into()),
            write,
            count: Some(3),
            seconds: None,
            snap_len: 1024,
        }
    }

    #[test]
    fn the_pcap_holds_the_frames_and_the_lines_their_verdicts() {
        let dir = tempfile::tempdir().unwrap();
        let context = context(dir.path());
        capturing(&context);
        let file = dir.path().join("out.pcap");
        let text = printed(|out| run(&context, &arguments(Some(file.clone())), out));
        let verdicts: Vec<_> = text.lines().map(|line| line.rsplit(' ').next().unwrap()).collect();
        assert_eq!(verdicts, ["forwarded", "forwarded", "policy_ingress"]);
        let mut reader = PcapReader::new(File::open(file).unwrap()).unwrap();
        let mut seen = 0;
        while let Some(packet) = reader.next_packet() {
            let packet = packet.unwrap();
            let sent = frame(seen, "");
            assert_eq!((packet.orig_len, packet.data.as_ref()), (1500, sent.bytes.as_slice()));
            assert_eq!(packet.timestamp, Duration::from_nanos(sent.time_ns));
            seen += 1;
        }
        assert_eq!(seen, 3);
    }

    #[test]
    fn a_pcapng_carries_each_verdict_as_the_comment_of_its_packet() {
        let dir = tempfile::tempdir().unwrap();
        let context = context(dir.path());
        capturing(&context);
        let file = dir.path().join("out.pcapng");
        printed(|out| run(&context, &arguments(Some(file.clone())), out));
        let mut reader = PcapNgReader::new(File::open(file).unwrap()).unwrap();
        let mut comments = vec![];
        while let Some(block) = reader.next_block() {
            if let Block::EnhancedPacket(packet) = block.unwrap()
                && let [EnhancedPacketOption::Comment(comment)] = packet.options.as_slice()
            {
                comments.push(comment.to_string());
            }
        }
        assert_eq!(comments.len(), 3);
        assert_eq!(comments[2], "policy_ingress (in from port 1)");
    }

    #[test]
    fn a_capture_the_switch_ends_early_is_a_failure() {
        let dir = tempfile::tempdir().unwrap();
        let context = context(dir.path());
        capturing(&context);
        let more = Arguments { count: Some(5), ..arguments(None) };
        let failure = run(&context, &more, &mut Vec::new()).unwrap_err().to_string();
        assert!(failure.contains("after 4 frames"), "{failure}");
    }

    #[test]
    fn an_unknown_pod_is_named_together_with_the_command_that_lists_them() {
        let dir = tempfile::tempdir().unwrap();
        let context = context(dir.path());
        capturing(&context);
        let unknown = Arguments { pod: Some("shop/nobody".into()), ..arguments(None) };
        let failure = run(&context, &unknown, &mut Vec::new()).unwrap_err().to_string();
        assert!(
            failure.contains("shop/nobody") && failure.contains("penstock --instance test ports"),
            "{failure}"
        );
    }

    #[test]
    fn a_line_says_who_speaks_to_whom_and_survives_any_frame() {
        let mut frame = Vec::new();
        etherparse::PacketBuilder::ethernet2([2; 6], [4; 6])
            .ipv6([0xfd; 16], [0xfe; 16], 64)
            .tcp(40_000, 80, 1, 1024)
            .write(&mut frame, b"payload")
            .unwrap();
        let everyone = "tcp [fdfd:fdfd:fdfd:fdfd:fdfd:fdfd:fdfd:fdfd]:40000 > [fefe:fefe:fefe:fefe:fefe:fefe:fefe:fefe]:80";
        assert_eq!(describe(&frame), everyone);
        for cut in 0..frame.len() {
            describe(&frame[..cut]);
        }
        assert_eq!(describe(&[0; 60]), "ethertype 0x0000");
        assert_eq!(describe(&[]), "not readable");
    }
}
