//! Frames from one interface to another and back, over AF_XDP with the `afxdp` crate: no parsing, no look-up, no copy.
//!
//! `penstock-afxdp-loop INTERFACE INTERFACE`, started by `penstock-perf compare` in the namespace of the interfaces and on its
//! CPU; it runs until it is killed. The crate attaches its own XDP program, and sends at most 32 frames a
//! call, since it has no way to ask the kernel for more.

use afxdp::PENDING_LEN;
use afxdp::buf_mmap::BufMmap;
use afxdp::mmap_area::{MmapArea, MmapAreaOptions};
use afxdp::socket::{Socket, SocketOptions, SocketRx, SocketTx};
use afxdp::umem::{Umem, UmemCompletionQueue, UmemFillQueue};
use arraydeque::{ArrayDeque, Wrapping};
use std::process::ExitCode;

const RING_LEN: u32 = 4096;
const CHUNKS: usize = 4 * RING_LEN as usize;
const CHUNK_LEN: usize = 2048;
const BATCH: usize = 32;

type Frame<'a> = BufMmap<'a, ()>;

struct Port<'a> {
    rx: SocketRx<'a, ()>,
    tx: SocketTx<'a, ()>,
    fill: UmemFillQueue<'a, ()>,
    completion: UmemCompletionQueue<'a, ()>,
    /// Chunks the fill ring could take.
    wanted: usize,
    /// Received on the other port, and not yet in this one's ring.
    pending: ArrayDeque<[Frame<'a>; PENDING_LEN], Wrapping>,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["--version"] => println!("afxdp 0.4.0, libbpf 0.3"),
        [one, two] => {
            if let Err(error) = run(one, two) {
                eprintln!("penstock-afxdp-loop: {error}");
                return ExitCode::FAILURE;
            }
        }
        _ => {
            eprintln!("usage: penstock-afxdp-loop INTERFACE INTERFACE");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn run(one: &str, two: &str) -> Result<(), String> {
    let (area, mut free) = MmapArea::new(CHUNKS, CHUNK_LEN, MmapAreaOptions { huge_tlb: false })
        .map_err(|error| format!("packet memory: {error:?}"))?;
    let open = |interface: &str| -> Result<Port<'_>, String> {
        let (umem, completion, fill) = Umem::new(area.clone(), RING_LEN, RING_LEN)
            .map_err(|error| format!("packet memory of {interface}: {error}"))?;
        let options = SocketOptions { copy_mode: true, ..SocketOptions::default() };
        let (_, rx, tx) = Socket::new(umem, interface, 0, RING_LEN, RING_LEN, options)
            .map_err(|error| format!("an AF_XDP socket on {interface}: {error}"))?;
        Ok(Port { rx, tx, fill, completion, wanted: RING_LEN as usize, pending: ArrayDeque::new() })
    };
    let (mut one, mut two) = (open(one)?, open(two)?);
    println!("forwarding");
    loop {
        forward(&mut one, &mut two, &mut free)?;
        forward(&mut two, &mut one, &mut free)?;
    }
}

/// One batch from `from` to `to`.
fn forward<'a>(from: &mut Port<'a>, to: &mut Port<'a>, free: &mut Vec<Frame<'a>>) -> Result<(), String> {
    to.completion.service(free, BATCH).map_err(|error| error.to_string())?;
    if from.wanted >= BATCH {
        from.wanted -= from.fill.fill(free, from.wanted).map_err(|error| error.to_string())?;
    }
    let received =
        from.rx.try_recv(&mut to.pending, BATCH, ()).map_err(|error| format!("receiving: {error:?}"))?;
    from.wanted += received;
    if received == 0 && from.fill.needs_wakeup() {
        from.rx.wake();
    }
    // Queues, and kicks when the ring asks for it, which in copy mode it always does.
    to.tx.try_send(&mut to.pending, BATCH).map_err(|error| format!("sending: {error:?}"))?;
    Ok(())
}
