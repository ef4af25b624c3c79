//! Freezes, thaws and ends the workload as a whole.
//!
//! Control groups (version 2) do all of it: a frozen group's processes stop on their way out of the kernel, holding
//! none of its locks; a process that is started in a frozen group is frozen; a kill reaches frozen processes too. The
//! guest's root (a container runtime, say) may make groups beside the agent's: they belong to the workload as well.
//! Called by `guest`.

use crate::cgroup::write;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

// A process freezes when it leaves the kernel, and one in an uninterruptible call may take for ever. The host gives a
// suspend 5 s, and stores a guest that does not freeze in time as it is.
const FREEZE_TIMEOUT: Duration = Duration::from_secs(2);
// Killed processes still have to free their memory and leave the kernel. What is left after this is given up.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);
// Short, because every pause waits for the freeze.
const POLL_INTERVAL: Duration = Duration::from_millis(2);

/// The control groups that hold the workload.
#[derive(Debug)]
pub struct Workload {
    scope: Scope,
}

#[derive(Debug)]
enum Scope {
    Group(PathBuf),
    Hierarchy(PathBuf),
}

impl Workload {
    /// The workload is what runs in this group and below it.
    pub fn in_group(path: impl Into<PathBuf>) -> Self {
        Self { scope: Scope::Group(path.into()) }
    }

    /// The workload is what runs in any group below `mount`, the root of the guest's hierarchy. The root group itself
    /// holds the agent and the kernel's threads.
    pub fn below(mount: impl Into<PathBuf>) -> Self {
        Self { scope: Scope::Hierarchy(mount.into()) }
    }

    /// Freezes the workload; false if a process was still inside the kernel after 2 s.
    pub(crate) fn freeze(&self) -> io::Result<bool> {
        let deadline = Instant::now() + FREEZE_TIMEOUT;
        self.write_each("cgroup.freeze", "1")?;
        wait_until(deadline, || Ok(!self.any_reports("frozen 0")?))
    }

    /// Thaws the workload; harmless if it is not frozen.
    pub(crate) fn thaw(&self) -> io::Result<()> {
        self.write_each("cgroup.freeze", "0")
    }

    /// Sends SIGTERM to every process; false if some still ran after `grace`.
    pub(crate) fn terminate(&self, grace: Duration) -> io::Result<bool> {
        let deadline = Instant::now() + grace;
        for group in self.groups()? {
            signal_all(&group, deadline);
        }
        wait_until(deadline, || Ok(!self.any_reports("populated 1")?))
    }

    /// Kills every process, frozen ones too; false if some had not left the kernel after 10 s.
    pub(crate) fn kill(&self) -> io::Result<bool> {
        wait_until(Instant::now() + KILL_TIMEOUT, || {
            // Killed again each time: a process may have made a new group and moved there since the groups were listed.
            let populated = self.any_reports("populated 1")?;
            if populated {
                self.write_each("cgroup.kill", "1")?;
            }
            Ok(!populated)
        })
    }

    fn groups(&self) -> io::Result<Vec<PathBuf>> {
        match &self.scope {
            Scope::Group(path) => Ok(vec![path.clone()]),
            Scope::Hierarchy(mount) => children(mount),
        }
    }

    /// Writes a control file of every group that is still there.
    fn write_each(&self, file: &str, value: &str) -> io::Result<()> {
        for group in self.groups()? {
            match write(&group.join(file), value) {
                Err(error) if !gone(&error) => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Whether `cgroup.events` of any group has this line. It covers the groups below as well.
    fn any_reports(&self, word: &str) -> io::Result<bool> {
        for group in self.groups()? {
            match fs::read_to_string(group.join("cgroup.events")) {
                Ok(events) if events.lines().any(|line| line == word) => return Ok(true),
                Err(error) if !gone(&error) => return Err(error),
                _ => {}
            }
        }
        Ok(false)
    }
}

/// Waits until a condition is true; false at the deadline. It is checked once at least.
fn wait_until(deadline: Instant, condition: impl Fn() -> io::Result<bool>) -> io::Result<bool> {
    loop {
        if condition()? {
            return Ok(true);
        }
        if Instant::now() >= deadline {
            return Ok(false);
        }
        sleep(POLL_INTERVAL);
    }
}

/// Whether a group was removed meanwhile, as the guest's root may do at any time.
fn gone(error: &io::Error) -> bool {
    // ENODEV comes from a file of the group that was opened before the group was removed.
    error.kind() == ErrorKind::NotFound || error.raw_os_error() == Some(libc::ENODEV)
}

/// Sends SIGTERM to every process in a group and below it, until the deadline.
fn signal_all(group: &Path, deadline: Instant) {
    let mut left = vec![group.to_owned()];
    // The guest's root decides how many groups there are: listing them may not take longer than the grace time.
    while let Some(group) = left.pop().filter(|_| Instant::now() < deadline) {
        let processes = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
        // The kernel writes 0 for a process that this pid namespace does not show, and kill(0) would signal the agent's
        // own process group.
        for pid in processes.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid > 1) {
            // A process that ended meanwhile needs no signal.
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        left.extend(children(&group).unwrap_or_default());
    }
}

fn children(group: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(group)?.flatten();
    Ok(entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()).collect())
}
