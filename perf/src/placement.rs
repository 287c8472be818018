//! Who runs on which CPU: the same for every command and every subject, and how it is said.
//!
//! One CPU has the load: the generator, and all the kernel does for the sending pod. Programs on both ends of TCP are there too,
//! clients and servers, so that a path that does its work in the kernel and one that has a polling thread differ in that thread
//! alone. The other CPU has the polling thread, or the pipeline that is measured from memory.

use anyhow::{Context, Result};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use std::thread;

pub(crate) const LOAD_CPU: usize = 0;
pub(crate) const WORKER_CPU: usize = 1;

pub(crate) fn between_pods(load: usize, worker: usize) -> String {
    format!(
        "CPU {load}: the generator, both ends of TCP (clients and servers) and all the kernel does for the sending pod; CPU \
         {worker}: the one polling thread, and what the kernel does with the frames it sends, up to the sink. A path in the kernel \
         has no such thread: all of it is on CPU {load}"
    )
}

/// Where programs are not told to be.
pub(crate) fn ends_free(worker: usize) -> String {
    format!("both ends of TCP wherever the scheduler likes; the one polling thread on CPU {worker}")
}

pub(crate) fn from_memory(cpu: usize) -> String {
    format!("CPU {cpu}: the one pipeline, its source and its sink")
}

/// What is measured from memory runs here: where polling threads do, if there is such a CPU.
pub(crate) fn memory_cpu() -> usize {
    let cpus = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    WORKER_CPU.min(cpus - 1)
}

/// Puts the calling thread on one CPU.
pub(crate) fn pin(cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu)
        .and_then(|()| sched_setaffinity(Pid::from_raw(0), &set))
        .with_context(|| format!("CPU {cpu}"))
}

/// Runs something on one CPU; the threads it makes inherit that.
pub(crate) fn on_cpu<T: Send>(cpu: usize, what: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| match scope.spawn(|| pin(cpu).and_then(|()| what())).join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sched::sched_getaffinity;

    #[test]
    fn a_thread_started_on_a_cpu_starts_others_there() {
        let cpu = memory_cpu();
        let alone = on_cpu(cpu, || {
            let here = || sched_getaffinity(Pid::from_raw(0));
            let set = thread::scope(|scope| scope.spawn(here).join()).expect("no panic")?;
            Ok((0..CpuSet::count()).filter(|n| set.is_set(*n) == Ok(true)).collect::<Vec<_>>())
        });
        assert_eq!(alone.unwrap(), [cpu]);
    }
}
