//! A load of 64-byte UDP packets that costs a pod's CPU as little as can be, and the count of what arrives.
//!
//! The kernel itself makes the frames (`BPF_PROG_TEST_RUN` with live frames, some 2 Mpps a core) and the sending pod's own
//! interface transmits them: the switch's side meets them where it meets everything that pod sends. That side must run NAPI,
//! which a veth does when it has XDP or GRO. What arrives is counted, checked for length and order and dropped by a tc program
//! on the receiving pod's own interface, which every path to a pod ends at, `bpf_redirect_peer` included.
#![allow(unsafe_code)]

use anyhow::{Context, Result, bail};
use aya::Ebpf;
use aya::maps::{Array, MapData, PerCpuArray};
use aya::programs::tc::{NlOptions, TcAttachOptions, TcHandle};
use aya::programs::{SchedClassifier, TcAttachType, Xdp, tc};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use penstock_lab::Place;
use penstock_net::Netlink;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/load.bpf.o"));

/// In memory; 64 with the checksum a wire would add.
const FRAME_LEN: usize = 60;
const HEADERS_LEN: usize = 42;
/// `struct plan` and `struct arrivals` of load.bpf.c.
const PLAN_WORDS: usize = 12;
const ARRIVALS_WORDS: usize = 4;
/// Frames of one system call. Between two calls the kernel waits for a grace period, some 10 ms in which nothing is offered and a
/// fast path idles: calls are long.
const FRAMES_PER_CALL: u32 = 1_000_000;
/// The counter takes 0 for "none yet".
const FIRST_SEQUENCE: u64 = 1;
const DRAIN: Duration = Duration::from_millis(100);
pub(crate) const DESTINATION_PORT: u16 = 5001;

/// What to send.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LoadPlan {
    /// Different source ports, used in turn.
    pub(crate) flows: u64,
    pub(crate) warm_up: Duration,
    pub(crate) duration: Duration,
    /// Where the generator runs, and with it all the kernel does for the sending pod.
    pub(crate) cpu: usize,
}

/// What became of it.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Arrived {
    /// While it was measured.
    pub(crate) mpps: f64,
    pub(crate) offered_mpps: f64,
    /// From the first frame to the last.
    pub(crate) offered: u64,
    pub(crate) received: u64,
    pub(crate) out_of_order: u64,
    pub(crate) wrong_len: u64,
}

impl Arrived {
    pub(crate) fn loss(&self) -> f64 {
        1.0 - self.received as f64 / self.offered.max(1) as f64
    }
}

/// Sends from the first pod to the second. `next_hop`: the MAC address the sender's frames go to.
pub(crate) fn run(from: &Place, to: &Place, next_hop: [u8; 6], plan: &LoadPlan) -> Result<Arrived> {
    let mut ebpf = Ebpf::load(OBJECT).context("the kernel refused the programs of the generator")?;
    let arrivals = ebpf.take_map("ARRIVALS").context("no ARRIVALS")?;
    let arrivals = PerCpuArray::<MapData, [u64; ARRIVALS_WORDS]>::try_from(arrivals)?;
    let plan_map = ebpf.take_map("PLAN").context("no PLAN")?;
    let mut plan_map = Array::<MapData, [u64; PLAN_WORDS]>::try_from(plan_map)?;

    let netlink = Netlink::open_in(from.netns())?;
    let eth0 = netlink.existing("eth0")?;
    let frame = frame(next_hop, eth0.mac, from.v4(), to.v4());
    plan_map.set(0, plan_words(eth0.index, plan.flows, &frame), 0)?;

    let generate: &mut Xdp = ebpf.program_mut("generate").context("no generate")?.try_into()?;
    generate.load()?;
    let generate = generate.fd()?.try_clone()?;
    let arrived: &mut SchedClassifier = ebpf.program_mut("arrived").context("no arrived")?.try_into()?;
    arrived.load()?;
    to.run(|| -> Result<()> {
        let _ = tc::qdisc_add_clsact("eth0");
        let options = TcAttachOptions::Netlink(NlOptions {
            priority: 1,
            handle: TcHandle::new(0, 1),
            ..NlOptions::default()
        });
        let link = arrived.attach_with_options("eth0", TcAttachType::Ingress, options)?;
        // Taken off below, in the namespace it is in.
        std::mem::forget(arrived.take_link(link)?);
        Ok(())
    })
    .context("the counter cannot be attached to the receiving pod")?;

    let count = || -> Result<[u64; ARRIVALS_WORDS]> {
        let mut sum = [0; ARRIVALS_WORDS];
        for cpu in arrivals.get(&0, 0)?.iter() {
            sum.iter_mut().zip(cpu).for_each(|(sum, value)| *sum += value);
        }
        Ok(sum)
    };
    let sent = || -> Result<u64> { Ok(plan_map.get(&0, 0)?[2] - FIRST_SEQUENCE) };
    let result = measure(from, generate.as_fd().as_raw_fd(), plan, count, sent);
    to.run(|| {
        let _ = tc::qdisc_detach_program("eth0", TcAttachType::Ingress, "arrived");
    });
    result
}

fn measure(
    from: &Place,
    program: RawFd,
    plan: &LoadPlan,
    count: impl Fn() -> Result<[u64; ARRIVALS_WORDS]>,
    sent: impl Fn() -> Result<u64>,
) -> Result<Arrived> {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let generator = scope.spawn(|| -> Result<()> {
            from.netns().enter_current_thread().context("the sending pod's namespace cannot be entered")?;
            pin(plan.cpu)?;
            while !stop.load(Ordering::Relaxed) {
                generate_frames(program, FRAMES_PER_CALL).context(
                    "the kernel makes no live frames; Linux 5.18 or newer is needed, and XDP or GRO on the pod's host end",
                )?;
            }
            Ok(())
        });
        let watch = || -> Result<(f64, f64)> {
            std::thread::sleep(plan.warm_up);
            let (began, received, offered) = (Instant::now(), count()?[0], sent()?);
            std::thread::sleep(plan.duration);
            let (elapsed, received_then, offered_then) = (began.elapsed(), count()?[0], sent()?);
            let mpps = |frames: u64| frames as f64 / elapsed.as_secs_f64() / 1e6;
            Ok((mpps(received_then - received), mpps(offered_then - offered)))
        };
        let watched = watch();
        stop.store(true, Ordering::Relaxed);
        match generator.join() {
            Ok(result) => result?,
            Err(panic) => std::panic::resume_unwind(panic),
        }
        let (mpps, offered_mpps) = watched?;
        std::thread::sleep(DRAIN);
        let [received, _, out_of_order, wrong_len] = count()?;
        let offered = sent()?;
        if received > offered {
            bail!("{received} frames arrived of {offered} that were sent");
        }
        Ok(Arrived { mpps, offered_mpps, offered, received, out_of_order, wrong_len })
    })
}

/// Puts the calling thread on one CPU.
pub(crate) fn pin(cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu)
        .and_then(|()| sched_setaffinity(Pid::from_raw(0), &set))
        .with_context(|| format!("CPU {cpu}"))
}

fn plan_words(ifindex: u32, flows: u64, frame: &[u8; FRAME_LEN]) -> [u64; PLAN_WORDS] {
    let mut words = [0; PLAN_WORDS];
    words[..4].copy_from_slice(&[ifindex.into(), flows.max(1), FIRST_SEQUENCE, 0]);
    for (word, bytes) in words[4..].iter_mut().zip(frame.chunks(8)) {
        let mut eight = [0; 8];
        eight[..bytes.len()].copy_from_slice(bytes);
        *word = u64::from_ne_bytes(eight);
    }
    words
}

/// A UDP packet without checksum (IPv4 allows it). Source port, mark and number are the program's to write.
fn frame(next_hop: [u8; 6], source_mac: [u8; 6], source: Ipv4Addr, destination: Ipv4Addr) -> [u8; FRAME_LEN] {
    let mut frame = [0; FRAME_LEN];
    frame[..6].copy_from_slice(&next_hop);
    frame[6..12].copy_from_slice(&source_mac);
    frame[12..14].copy_from_slice(&[0x08, 0x00]);
    let ip_len = (FRAME_LEN - 14) as u16;
    let ip = &mut frame[14..34];
    ip[0] = 0x45;
    ip[2..4].copy_from_slice(&ip_len.to_be_bytes());
    ip[6] = 0x40; // do not fragment
    ip[8] = 64;
    ip[9] = 17;
    ip[12..16].copy_from_slice(&source.octets());
    ip[16..20].copy_from_slice(&destination.octets());
    let mut sum: u32 = ip.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    ip[10..12].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    frame[36..38].copy_from_slice(&DESTINATION_PORT.to_be_bytes());
    frame[38..40].copy_from_slice(&((FRAME_LEN - 34) as u16).to_be_bytes());
    debug_assert!(frame[HEADERS_LEN..].iter().all(|byte| *byte == 0));
    frame
}

/// The part of `union bpf_attr` that BPF_PROG_TEST_RUN reads.
#[repr(C)]
#[derive(Default)]
struct TestRun {
    prog_fd: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    ctx_size_in: u32,
    ctx_size_out: u32,
    ctx_in: u64,
    ctx_out: u64,
    flags: u32,
    cpu: u32,
    batch_size: u32,
    pad: u32,
}

fn generate_frames(program: RawFd, frames: u32) -> io::Result<()> {
    const BPF_PROG_TEST_RUN: libc::c_int = 10;
    const BPF_F_TEST_XDP_LIVE_FRAMES: u32 = 1 << 1;
    let blank = [0u8; FRAME_LEN];
    let mut attr = TestRun {
        prog_fd: program as u32,
        data_size_in: FRAME_LEN as u32,
        data_in: blank.as_ptr() as u64,
        repeat: frames,
        flags: BPF_F_TEST_XDP_LIVE_FRAMES,
        batch_size: 64,
        ..TestRun::default()
    };
    // SAFETY: `attr` is as long as said, and the buffer it points to outlives the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_TEST_RUN, &mut attr, size_of::<TestRun>()) };
    match result {
        0.. => Ok(()),
        // A signal; what was sent was counted.
        _ if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_has_a_good_header_checksum_and_the_length_it_says() {
        let frame = frame([2; 6], [4; 6], Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 2));
        let sum: u32 =
            frame[14..34].chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
        assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff);
        assert_eq!(u16::from_be_bytes([frame[16], frame[17]]) as usize, FRAME_LEN - 14);
        assert_eq!(u16::from_be_bytes([frame[38], frame[39]]) as usize, FRAME_LEN - 34);
    }

    #[test]
    fn a_plan_is_laid_out_as_the_program_reads_it() {
        let mut frame = [0; FRAME_LEN];
        frame.iter_mut().enumerate().for_each(|(at, byte)| *byte = at as u8);
        let words = plan_words(7, 1000, &frame);
        assert_eq!(&words[..4], &[7, 1000, 1, 0]);
        let bytes: Vec<u8> = words[4..].iter().flat_map(|word| word.to_ne_bytes()).collect();
        assert_eq!(&bytes[..FRAME_LEN], &frame);
    }
}
