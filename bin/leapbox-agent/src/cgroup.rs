//! Control groups (version 2) of the workload.
//!
//! `/sys/fs/cgroup/workload` carries the limits; below it every command has a group of its own, so that a time-out
//! kills all it started, even what called `setsid`. Groups that became empty are used again: making one costs more
//! than asking whether it is empty. A group whose background processes live on after their command is kept until it is
//! empty. A group that was killed is not used again: some kernels (seen with 6.18) kill what is born into it later.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Empty groups that are kept for the next commands.
const KEPT: usize = 16;
/// Lingering groups that are looked at when a new one is wanted.
const SWEPT: usize = 8;

/// All groups of commands.
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

/// The group of one command.
#[derive(Debug)]
pub struct Group {
    path: PathBuf,
    dir: File,
    events: File,
    killed: bool,
}

impl Cgroups {
    /// Groups below `root`, an existing cgroup without processes of its own.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), next: AtomicU64::new(0), groups: Mutex::default() }
    }

    /// An empty group.
    pub(crate) fn acquire(&self) -> io::Result<Group> {
        let mut groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        groups.sweep();
        match groups.empty.pop() {
            Some(group) => Ok(group),
            None => self.create(),
        }
    }

    /// Takes a group back after its command ended.
    pub(crate) fn release(&self, group: Group) {
        let mut groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        groups.put(group);
    }

    /// A group never used before. The workload's root user may have made groups of any name.
    pub(crate) fn create(&self) -> io::Result<Group> {
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
    /// Keeps a group that is used again or still in use, and removes any other.
    fn put(&mut self, group: Group) {
        if !group.is_empty() {
            self.lingering.push(group);
        } else if !group.killed && self.empty.len() < KEPT {
            self.empty.push(group);
        } else {
            // Somebody in the guest may have removed it already.
            let _ = fs::remove_dir(&group.path);
        }
    }

    /// Moves some of the lingering groups that have become empty back, a few at a time.
    fn sweep(&mut self) {
        for _ in 0..self.lingering.len().min(SWEPT) {
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

    /// Its directory, for `CLONE_INTO_CGROUP`.
    pub(crate) fn dir(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// Kills everything in it.
    pub(crate) fn kill(&mut self) -> io::Result<()> {
        self.killed = true;
        write(&self.path.join("cgroup.kill"), "1")
    }

    fn is_empty(&self) -> bool {
        let mut text = [0; 64];
        match self.events.read_at(&mut text, 0) {
            Ok(len) => text[..len].windows(11).any(|word| word == b"populated 0"),
            // Removed by somebody: there is nothing in it. Its next use fails and gets a new one.
            Err(_) => true,
        }
    }
}

/// Writes an existing control file.
pub(crate) fn write(file: &Path, value: &str) -> io::Result<()> {
    use std::io::Write;
    fs::OpenOptions::new().write(true).open(file)?.write_all(value.as_bytes())
}
