//! The workload as a whole: frozen, let go on, ended.
//!
//! Control groups (version 2) do all of it: a frozen group's processes stand still at the border of the kernel, holding
//! none of its locks; what is born into a frozen group is frozen; a kill reaches frozen processes too. The guest's root
//! (a container runtime, say) may make groups beside the agent's: they are the workload as well. Called by `guest`.

use crate::cgroup::write;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long processes may take to come out of the kernel and stand still.
const FREEZE_PATIENCE: Duration = Duration::from_secs(2);
/// How long killed processes may take to be gone.
const KILL_PATIENCE: Duration = Duration::from_secs(10);
/// Between two looks at a group.
const LOOK: Duration = Duration::from_millis(2);

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
    /// What is in this group and below it.
    pub fn in_group(path: impl Into<PathBuf>) -> Self {
        Self { scope: Scope::Group(path.into()) }
    }

    /// What is in any group below `mount`, the root of the guest's hierarchy. The root itself holds the agent and the
    /// kernel's threads.
    pub fn below(mount: impl Into<PathBuf>) -> Self {
        Self { scope: Scope::Hierarchy(mount.into()) }
    }

    /// Freezes it; false when some of it was still busy inside the kernel after the time it had.
    pub(crate) fn freeze(&self) -> io::Result<bool> {
        let deadline = Instant::now() + FREEZE_PATIENCE;
        self.tell("cgroup.freeze", "1")?;
        wait_until(deadline, || Ok(!self.any("frozen 0")?))
    }

    /// Lets it go on. Harmless when it is not frozen.
    pub(crate) fn thaw(&self) -> io::Result<()> {
        self.tell("cgroup.freeze", "0")
    }

    /// Asks every process to end; false when some were still there after `grace`.
    pub(crate) fn terminate(&self, grace: Duration) -> io::Result<bool> {
        let deadline = Instant::now() + grace;
        for group in self.groups()? {
            signal_all(&group, deadline);
        }
        wait_until(deadline, || Ok(!self.any("populated 1")?))
    }

    /// Kills every process, frozen ones too; false when some did not come out of the kernel to die.
    pub(crate) fn kill(&self) -> io::Result<bool> {
        wait_until(Instant::now() + KILL_PATIENCE, || {
            // Told again each time: a process may have been born into a new group meanwhile.
            let populated = self.any("populated 1")?;
            if populated {
                self.tell("cgroup.kill", "1")?;
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
    fn tell(&self, file: &str, value: &str) -> io::Result<()> {
        for group in self.groups()? {
            match write(&group.join(file), value) {
                Err(error) if !gone(&error) => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Whether the kernel says so of any group.
    fn any(&self, word: &str) -> io::Result<bool> {
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

/// Whether a condition comes true in time. It is asked once at least.
fn wait_until(deadline: Instant, condition: impl Fn() -> io::Result<bool>) -> io::Result<bool> {
    loop {
        if condition()? {
            return Ok(true);
        }
        if Instant::now() >= deadline {
            return Ok(false);
        }
        sleep(LOOK);
    }
}

/// The guest's root may remove a group at any time.
fn gone(error: &io::Error) -> bool {
    error.kind() == ErrorKind::NotFound || error.raw_os_error() == Some(libc::ENODEV)
}

/// SIGTERM to every process in a group and below it, until time is up: the guest's root decides how many groups there
/// are.
fn signal_all(group: &Path, deadline: Instant) {
    let mut left = vec![group.to_owned()];
    while let Some(group) = left.pop().filter(|_| Instant::now() < deadline) {
        let processes = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
        // 0 is a process of another namespace, which there is none of in a guest.
        for pid in processes.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid > 1) {
            // One that is gone by now has ended, which is what is wanted.
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        left.extend(children(&group).unwrap_or_default());
    }
}

fn children(group: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(group)?.flatten();
    Ok(entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()).collect())
}
