//! Asks the scheduler to let workers go first: while one waits for a CPU, every pod waits. But not before the kernel's own part
//! of a packet's way.
//!
//! Before Linux 6.4 a CPU's soft interrupts are put off as soon as its thread for them, `ksoftirqd`, has been woken: from then on that
//! thread alone serves them. Beside a worker of nice -20 it gets a hundredth of the CPU, and meanwhile the trunk's ring of 256
//! frames, whose turn it is on that CPU, runs over for everybody. *Seen* on 6.1 under a flood: the thread waited 2 to 7 s of 10, and of
//! others' pings an eighth, six tenths or all were lost. Side by side at nice -20 two of six runs still lost one of 26; hence the thread goes first
//! there and the worker second, or the worker is not preferred.

use std::fs;
use std::io;

const FIRST: i32 = -20;
/// Before everybody but [`FIRST`], to whom it leaves nine tenths of a CPU that both want.
const SECOND: i32 = -10;
/// In the flags of a thread's status: the kernel's own.
const PF_KTHREAD: u64 = 0x0020_0000;

/// The calling thread, a worker that is pinned to `cpu` or may run anywhere.
pub fn worker(cpu: Option<usize>) -> Result<(), String> {
    let mut nice = FIRST;
    if puts_soft_interrupts_off(&crate::io::abilities::release()) {
        prefer_soft_interrupts(cpu).map_err(|error| {
            format!("this kernel puts soft interrupts off, and its thread that serves them would wait for us: {error}")
        })?;
        nice = SECOND;
    }
    set_nice(nice)?;
    // Where sessions are scheduled as groups, the group has to be preferred too.
    match fs::write("/proc/self/autogroup", nice.to_string()) {
        // A kernel without autogroups.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result.map_err(|e| format!("autogroup: {e}")),
    }
}

/// The calling thread, one that does little and must not wait to do it.
pub fn thread() -> Result<(), String> {
    set_nice(FIRST)
}

fn set_nice(nice: i32) -> Result<(), String> {
    rustix::process::setpriority_process(Some(rustix::thread::gettid()), nice).map_err(|e| e.to_string())
}

/// Nothing in the kernel's description of itself tells; and where somebody carried the change back, no more than a thread is
/// preferred that need not be.
fn puts_soft_interrupts_off(release: &str) -> bool {
    let mut numbers =
        release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().unwrap_or(0u32));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    version < (6, 4)
}

/// It stays so when we end: whoever comes next would ask for the same.
fn prefer_soft_interrupts(cpu: Option<usize>) -> Result<(), String> {
    let mut found = false;
    for entry in fs::read_dir("/proc").map_err(|e| format!("/proc: {e}"))?.flatten() {
        let pid = entry.file_name().to_str().and_then(|name| name.parse().ok());
        let Some(pid) = pid.and_then(rustix::process::Pid::from_raw) else { continue };
        // A process may have ended meanwhile.
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        if serves_soft_interrupts(&stat, cpu) {
            rustix::process::setpriority_process(Some(pid), FIRST).map_err(|e| e.to_string())?;
            found = true;
        }
    }
    match (found, cpu) {
        (true, _) => Ok(()),
        (false, Some(cpu)) => {
            Err(format!("there is no ksoftirqd/{cpu} here (processes in a namespace of their own?)"))
        }
        (false, None) => {
            Err("there is no ksoftirqd here (processes in a namespace of their own?)".to_owned())
        }
    }
}

/// Is it the status of the kernel's thread that serves the soft interrupts of this CPU, or of any? Anybody may call himself so.
fn serves_soft_interrupts(stat: &str, cpu: Option<usize>) -> bool {
    let Some((_, rest)) = stat.split_once('(') else { return false };
    let Some((name, rest)) = rest.rsplit_once(") ") else { return false };
    // state, parent, group, session, terminal and its group; flags
    let flags: u64 = rest.split(' ').nth(6).and_then(|flags| flags.parse().ok()).unwrap_or(0);
    let Some(its) = name.strip_prefix("ksoftirqd/").and_then(|its| its.parse::<usize>().ok()) else {
        return false;
    };
    flags & PF_KTHREAD != 0 && cpu.is_none_or(|cpu| cpu == its)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_before_6_4_put_soft_interrupts_off() {
        for release in ["5.15.0", "6.1.0-50-amd64", "6.3-rc1"] {
            assert!(puts_soft_interrupts_off(release), "{release}");
        }
        for release in ["6.4.0", "6.12.73+deb13-amd64", "6.18.44-fc-v595", "7.2.6"] {
            assert!(!puts_soft_interrupts_off(release), "{release}");
        }
    }

    #[test]
    fn the_kernels_thread_of_this_cpu_is_known_and_nobody_who_calls_himself_so() {
        let stat =
            "20 (ksoftirqd/1) S 2 0 0 0 -1 69238848 0 0 0 0 0 12 0 0 20 0 1 0 3 0 0 18446744073709551615 0";
        assert!(serves_soft_interrupts(stat, Some(1)) && serves_soft_interrupts(stat, None));
        assert!(!serves_soft_interrupts(stat, Some(11)) && !serves_soft_interrupts(stat, Some(0)));
        let stranger = "999 (ksoftirqd/1) S 1 999 999 0 -1 4194304 0 0 0 0 0 12 0 0 20 0 1 0 3 0 0 0 0";
        assert!(!serves_soft_interrupts(stranger, Some(1)));
        let liar =
            "999 (ksoftirqd/1) S 2 0 0 0 -1 69238848) S 1 999 999 0 -1 4194304 0 0 0 0 0 12 0 0 20 0 1";
        assert!(!serves_soft_interrupts(liar, Some(1)));
        assert!(!serves_soft_interrupts("", Some(1)));
    }

    #[test]
    fn every_cpu_of_this_machine_has_such_a_thread() {
        let stats = fs::read_dir("/proc")
            .unwrap()
            .flatten()
            .filter_map(|e| fs::read_to_string(e.path().join("stat")).ok());
        let found = stats.filter(|stat| serves_soft_interrupts(stat, None)).count();
        // None: we are in a namespace of processes.
        let cpus = std::thread::available_parallelism().unwrap().get();
        assert!(found == 0 || found >= cpus, "{found} of {cpus}");
    }
}
