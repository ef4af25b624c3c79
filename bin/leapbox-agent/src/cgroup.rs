//! Control groups (version 2) of commands.
//!
//! `/sys/fs/cgroup/workload` carries the limits; below it every command has a group of its own, so that a time-out
//! kills all it started, even processes that called `setsid`. Groups are pooled, because making one costs more than
//! asking whether it is empty. A group whose background processes outlive their command is kept until it is empty.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Empty groups kept for the next commands; more are removed. A kernel's group costs memory even when it is empty.
const MAX_EMPTY: usize = 16;
/// Lingering groups looked at when a group is wanted: a command's start must not take longer the more servers run.
const SWEEP_BATCH: usize = 8;

/// The pool of commands' groups.
#[derive(Debug)]
pub struct Cgroups {
    root: PathBuf,
    next: AtomicU64,
    groups: Mutex<Groups>,
}

#[derive(Debug, Default)]
struct Groups {
    empty: Vec<Group>,
    lingering: Vec<Group>,
}

/// One command's group: its directory, and its `cgroup.events` held open so that asking it is one read.
#[derive(Debug)]
pub struct Group {
    path: PathBuf,
    dir: File,
    events: File,
    killed: bool,
}

impl Cgroups {
    /// Makes a pool of groups below `root`, an existing cgroup without processes of its own.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), next: AtomicU64::new(0), groups: Mutex::default() }
    }

    /// Takes an empty group from the pool, or makes one.
    pub(crate) fn acquire(&self) -> io::Result<Group> {
        let mut groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        groups.sweep();
        match groups.empty.pop() {
            Some(group) => Ok(group),
            None => self.create(),
        }
    }

    /// Returns a group to the pool after its command has ended.
    pub(crate) fn release(&self, group: Group) {
        let mut groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        groups.put(group);
    }

    /// Makes a group that was never used before.
    pub(crate) fn create(&self) -> io::Result<Group> {
        // The guest's root may have made groups of any name. Those are not ours to use: the next number is tried.
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let path = self.root.join(format!("exec-{number}"));
            match fs::create_dir(&path) {
                Ok(()) => return Group::open(path),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl Groups {
    /// Keeps a group that is still in use or can be used again, and removes any other.
    fn put(&mut self, group: Group) {
        // A group that was killed is not used again: some kernels (seen with 6.18) kill what is started in it later.
        if !group.is_empty() {
            self.lingering.push(group);
        } else if !group.killed && self.empty.len() < MAX_EMPTY {
            self.empty.push(group);
        } else {
            // The guest's root may have removed it already.
            let _ = fs::remove_dir(&group.path);
        }
    }

    /// Looks at the next few lingering groups, and moves those that have become empty back into the pool.
    fn sweep(&mut self) {
        for _ in 0..self.lingering.len().min(SWEEP_BATCH) {
            let group = self.lingering.remove(0);
            self.put(group);
        }
    }
}

impl Group {
    fn open(path: PathBuf) -> io::Result<Self> {
        let dir = File::open(&path)?;
        let events = File::open(path.join("cgroup.events"))?;
        Ok(Self { path, dir, events, killed: false })
    }

    /// The group's directory, for `CLONE_INTO_CGROUP`.
    pub(crate) fn dir(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// Kills every process in the group with SIGKILL, at once: none can escape by forking.
    pub(crate) fn kill(&mut self) -> io::Result<()> {
        self.killed = true;
        write(&self.path.join("cgroup.kill"), "1")
    }

    fn is_empty(&self) -> bool {
        let mut text = [0; 64];
        match self.events.read_at(&mut text, 0) {
            Ok(len) => text[..len].windows(11).any(|word| word == b"populated 0"),
            // The guest's root has removed it, so there is nothing in it. The next command that is started in it fails,
            // and is started again in a new one (`exec::start`).
            Err(_) => true,
        }
    }
}

/// Writes a file of the kernel's that exists already; also used for other settings in /proc and /sys.
pub(crate) fn write(file: &Path, value: &str) -> io::Result<()> {
    use std::io::Write;
    fs::OpenOptions::new().write(true).open(file)?.write_all(value.as_bytes())
}
