//! What the launcher is told.

use serde::{Deserialize, Serialize};
use std::os::fd::RawFd;
use std::path::PathBuf;

/// Everything about one launch but the descriptors themselves.
#[derive(Debug, Serialize, Deserialize)]
pub struct ConfineSpec {
    /// Folder whose folders are bound into the root: the VMM, its libraries.
    pub files: PathBuf,
    /// The machine's own folder: where its root, a read-only file system in memory, is mounted in its own namespace.
    pub root: PathBuf,
    /// The VMM inside that root, and its arguments.
    pub argv: Vec<String>,
    /// User and group id.
    pub uid: u32,
    /// `cgroup.procs` files to join.
    pub cgroups: Vec<PathBuf>,
    /// Taps to open inside the network namespace.
    pub taps: Vec<TapFd>,
    /// The VMM's numbers for the descriptors that come with the spec, in their order. The network namespace comes
    /// before them and is not passed on; the VMM's standard error comes second.
    pub passed: Vec<RawFd>,
    /// Resource limits.
    pub rlimits: Rlimits,
}

/// A tap device and the number the VMM finds it at.
#[derive(Debug, Serialize, Deserialize)]
pub struct TapFd {
    /// Interface name in the network namespace.
    pub name: String,
    /// Descriptor number in the VMM.
    pub fd: RawFd,
}

/// Limits the kernel holds the VMM to, beside its cgroup.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Rlimits {
    /// Open descriptors.
    pub files: u64,
    /// Largest file it may write, in bytes: the writable disk.
    pub file_bytes: u64,
}

/// A descriptor to pass and the number the VMM finds it at.
#[derive(Debug)]
pub struct PassedFd<'a> {
    /// The open descriptor.
    pub fd: std::os::fd::BorrowedFd<'a>,
    /// Its number in the VMM.
    pub number: RawFd,
}

/// What the launcher answers, a JSON line each.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Report {
    /// The VMM's process id as the host sees it. What follows is an error, or the end of the stream: it runs.
    Pid(i32),
    /// A step failed; nothing runs.
    Failed(String),
}
