//! Keeping the agent alive whatever the workload does: memory, processes, descriptors.

use crate::budget::BUDGET_BYTES;
use crate::cgroup::write;
use crate::log;
use leapbox_errors::{FileError, chain};
use nix::sys::resource::{Resource, setrlimit};
use std::fs;
use std::path::{Path, PathBuf};

/// Where the guest's control groups are mounted.
pub(super) const CGROUPS: &str = "/sys/fs/cgroup";
/// Memory the workload cannot have, at least: the agent's own, what its requests may hold, and some for the kernel.
const RESERVE_MIN_BYTES: u64 = BUDGET_BYTES as u64 + (16 << 20);
/// The same, as a part of all memory.
const RESERVE_PART: u64 = 20;
/// Processes and threads the workload cannot have.
const RESERVE_TASKS: u64 = 1024;
/// Descriptors of a process: the soft limit is what programs get, the hard one what they may ask for.
const DESCRIPTORS: (u64, u64) = (65_536, 1_048_576);

/// Settings that programs expect of a machine of their own.
const SYSCTLS: [(&str, &str); 4] = [
    // Only errors on the console: its lines cost the host time.
    ("/proc/sys/kernel/printk", "4"),
    // `ping` and ports below 1024 for the image's user.
    ("/proc/sys/net/ipv4/ping_group_range", "0 2147483647"),
    ("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0"),
    // Development servers watch many files.
    ("/proc/sys/fs/inotify/max_user_watches", "524288"),
];

/// Exempts PID 1 from the out-of-memory killer, and keeps its heap in one arena (each costs mappings and page faults).
pub(super) fn protect_agent() {
    if let Err(error) = write(Path::new("/proc/self/oom_score_adj"), "-1000") {
        log::line(format_args!("oom_score_adj: {}", chain(&error)));
    }
    // SAFETY: sets one parameter of the allocator; no other thread exists yet.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
}

/// Limits and settings all processes inherit.
pub(super) fn apply() -> Result<(), FileError> {
    let (soft, hard) = DESCRIPTORS;
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard).map_err(FileError::of("raising the limit of", "descriptors"))?;
    for (path, value) in SYSCTLS {
        if let Err(error) = write(Path::new(path), value) {
            log::line(format_args!("{path}: {}", chain(&error)));
        }
    }
    Ok(())
}

/// Makes the workload's cgroup with its limits; its path.
pub(super) fn make_cgroups() -> Result<PathBuf, FileError> {
    let root = Path::new(CGROUPS);
    let control = root.join("cgroup.subtree_control");
    write(&control, "+memory +pids").map_err(FileError::of("enabling controllers in", control))?;
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
    tasks.saturating_sub(RESERVE_TASKS).max(tasks / 2)
}

/// The first number behind a label; 0 when there is none.
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
