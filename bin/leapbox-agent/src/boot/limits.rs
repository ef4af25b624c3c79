//! Keeps the agent alive whatever the workload does: it reserves memory, processes and time on the CPUs for it, and sets
//! the limits and kernel settings that the workload gets. Called once at boot.

use crate::budget::BUDGET_BYTES;
use crate::cgroup::write;
use crate::log;
use leapbox_errors::{FileError, chain};
use nix::sys::resource::{Resource, setrlimit};
use std::fs;
use std::path::{Path, PathBuf};

/// Mount point of the guest's control groups (version 2).
pub(super) const CGROUPS: &str = "/sys/fs/cgroup";
/// The least memory that the workload cannot have: what the agent's requests may hold, and 16 MiB for the agent itself
/// and the kernel. Without it a memory hog would stop the agent as well, and the host could only end the machine.
const RESERVE_MIN_BYTES: u64 = BUDGET_BYTES as u64 + (16 << 20);
/// The workload cannot have one part in this many of all memory either, if that is more.
const RESERVE_PART: u64 = 20;
/// Processes and threads that the workload cannot have, so that the agent can start its workers during a fork bomb.
const RESERVE_TASKS: u64 = 1024;
/// Soft and hard limit of open descriptors of a process. The kernel's default soft limit of 1024 is too low for
/// servers.
const DESCRIPTORS: (u64, u64) = (65_536, 1_048_576);

/// Kernel settings that programs expect of a machine of their own.
const SYSCTLS: [(&str, &str); 4] = [
    // Only errors go to the console: each byte written to its serial port is work for the VMM.
    ("/proc/sys/kernel/printk", "4"),
    // The image's user may ping, and listen on ports below 1024: it is alone in its machine.
    ("/proc/sys/net/ipv4/ping_group_range", "0 2147483647"),
    ("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0"),
    // Development servers watch every file of a project. The kernel's default grows with memory, and is too low for
    // that in small guests.
    ("/proc/sys/fs/inotify/max_user_watches", "524288"),
];

/// Exempts PID 1 from the out-of-memory killer and keeps its heap in one arena.
pub(super) fn protect_agent() {
    if let Err(error) = write(Path::new("/proc/self/oom_score_adj"), "-1000") {
        log::line(format_args!("cannot exempt the agent from the out-of-memory killer: {}", chain(&error)));
    }
    // By default glibc gives threads arenas of their own, and each costs mappings and page faults.
    // SAFETY: sets one parameter of the allocator; no other thread exists yet.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
}

/// Sets the limits that all later processes inherit, and the kernel's settings.
pub(super) fn apply() -> Result<(), FileError> {
    let (soft, hard) = DESCRIPTORS;
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard).map_err(FileError::of("raising the limit of", "descriptors"))?;
    for (path, value) in SYSCTLS {
        if let Err(error) = write(Path::new(path), value) {
            // A kernel without one of these still runs sandboxes: some programs will miss it.
            log::line(format_args!("cannot set {path} to {value}: {}", chain(&error)));
        }
    }
    Ok(())
}

/// Makes the workload's cgroup, sets its limits, and returns its path.
pub(super) fn make_cgroups() -> Result<PathBuf, FileError> {
    let root = Path::new(CGROUPS);
    let control = root.join("cgroup.subtree_control");
    // `cpu` so that all of the workload together counts as much as one thread of the agent's when both want to run.
    // Without it each of a fork bomb's thousands of processes would, and a call to the agent would take minutes.
    write(&control, "+cpu +memory +pids").map_err(FileError::of("enabling controllers in", control))?;
    let workload = root.join("workload");
    fs::create_dir(&workload).map_err(FileError::of("making", &workload))?;
    let total = number_in("/proc/meminfo", "MemTotal:").saturating_mul(1024);
    let tasks = number_in("/proc/sys/kernel/threads-max", "").min(number_in("/proc/sys/kernel/pid_max", ""));
    for (file, value) in [("memory.max", memory_max(total)), ("pids.max", pids_max(tasks))] {
        let path = workload.join(file);
        write(&path, &value.to_string()).map_err(FileError::of("limiting", path))?;
    }
    Ok(workload)
}

fn memory_max(total: u64) -> u64 {
    total.saturating_sub((total / RESERVE_PART).max(RESERVE_MIN_BYTES))
}

fn pids_max(tasks: u64) -> u64 {
    // A small guest has few thousand tasks in all: the reserve takes half of them at most.
    tasks.saturating_sub(RESERVE_TASKS).max(tasks / 2)
}

/// Finds the first number after a label at the start of a line; 0 if the file or the label is missing.
fn number_in(path: &str, label: &str) -> u64 {
    let text = fs::read_to_string(path).unwrap_or_default();
    let value = text.lines().find_map(|line| line.strip_prefix(label)?.split_whitespace().next()?.parse().ok());
    value.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_workload_never_gets_all_memory_or_all_processes() {
        assert_eq!(memory_max(512 << 20), (512 - 48) << 20);
        assert_eq!(memory_max(8192 << 20), (8192 << 20) - (8192 << 20) / 20);
        assert_eq!(pids_max(3900), 2876);
        assert_eq!(pids_max(1500), 750);
    }

    #[test]
    fn numbers_are_read_from_proc() {
        assert!(number_in("/proc/meminfo", "MemTotal:") > 1000);
        assert!(number_in("/proc/sys/kernel/pid_max", "") > 1000);
        assert_eq!(number_in("/proc/meminfo", "Nothing:"), 0);
    }
}
