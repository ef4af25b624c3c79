//! The messages between the server and `leapbox confine`: JSON over a socket.

use serde::{Deserialize, Serialize};
use std::os::fd::RawFd;
use std::path::PathBuf;

/// All settings of one launch, except for the descriptors, which are sent along with it.
#[derive(Debug, Serialize, Deserialize)]
pub struct ConfineSpec {
    /// A directory whose subdirectories are bound into the VMM's root: the VMM's program, libraries and firmware.
    pub files: PathBuf,
    /// The machine's directory. The VMM's root, a read-only tmpfs, is mounted there in the VMM's mount namespace.
    pub root: PathBuf,
    /// The path of the VMM inside that root, and its arguments.
    pub argv: Vec<String>,
    /// The VMM's user and group id.
    pub uid: u32,
    /// Paths of the `cgroup.procs` files to join.
    pub cgroups: Vec<PathBuf>,
    /// Taps to open inside the network namespace.
    pub taps: Vec<TapFd>,
    /// The VMM's numbers for the descriptors that come with the spec, in their order. Two descriptors come before them:
    /// the network namespace, which the VMM does not get, and the VMM's standard error.
    pub passed: Vec<RawFd>,
    pub rlimits: Rlimits,
}

/// A tap device and the descriptor number at which the VMM finds it.
#[derive(Debug, Serialize, Deserialize)]
pub struct TapFd {
    /// The interface's name in the network namespace.
    pub name: String,
    pub fd: RawFd,
}

/// Resource limits of the VMM's process, beside those of its control group.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Rlimits {
    /// The most descriptors it may have open.
    pub files: u64,
    /// The largest size to which it may write a file, in bytes.
    pub file_bytes: u64,
}

/// A descriptor to pass and the number at which the VMM finds it.
#[derive(Debug)]
pub struct PassedFd<'a> {
    pub fd: std::os::fd::BorrowedFd<'a>,
    pub number: RawFd,
}

/// A report of the launcher, sent as one line of JSON.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Report {
    /// The VMM's process id in the host's pid namespace. After it comes either a failure, or the end of the stream,
    /// which means that the VMM's program runs.
    Pid(i32),
    /// The step that failed, and why. The VMM does not run.
    Failed(String),
}
