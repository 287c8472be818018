//! Live frames: the kernel makes frames of its own, runs an XDP program once for each, and does with it what the program says
//! (`BPF_PROG_TEST_RUN` with `BPF_F_TEST_XDP_LIVE_FRAMES`, Linux 5.18).
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

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

/// Runs a program for `frames` frames that begin as copies of `template`, `batch` of them (256 at most) between two looks at signals
/// and soft interrupts. A signal ends it early, which is an error of the kind `Interrupted`.
pub fn run(program: BorrowedFd<'_>, template: &[u8], frames: u32, batch: u32) -> io::Result<()> {
    const BPF_PROG_TEST_RUN: libc::c_int = 10;
    const BPF_F_TEST_XDP_LIVE_FRAMES: u32 = 1 << 1;
    let mut attr = TestRun {
        prog_fd: program.as_raw_fd() as u32,
        data_size_in: template.len() as u32,
        data_in: template.as_ptr() as u64,
        repeat: frames,
        flags: BPF_F_TEST_XDP_LIVE_FRAMES,
        batch_size: batch,
        ..TestRun::default()
    };
    // SAFETY: `attr` is as long as said, and the template it points to outlives the call, which only reads it.
    let result = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_TEST_RUN, &mut attr, size_of::<TestRun>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
