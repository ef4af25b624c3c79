//! What the agent answers.

use crate::bounded;
use crate::fault::GuestFault;
use serde::{Deserialize, Serialize};

/// The one frame of an answer.
pub type Response = Result<Reply, GuestFault>;

/// An answer. The order is the wire's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// To `Ping`.
    Pong(Pong),
    /// Done; there is nothing to say. To `PrepareSnapshot`, `Warm`, `WriteFile`, `Mkdir`, `Delete`, `Shutdown`, `Mount`.
    Done,
    /// To `Configure`.
    Configured(Configured),
    Exec(ExecOutput),
    /// To `ReadFile`.
    Content(#[serde(with = "serde_bytes")] Vec<u8>),
    /// To `List`: ordered by path, at most [`MAX_ENTRIES`](crate::MAX_ENTRIES).
    Entries(#[serde(deserialize_with = "bounded::entries")] Vec<FileInfo>),
    /// To `Stat`.
    Info(FileInfo),
    Exists(bool),
    /// To `Connect`: everything after this frame is the port's.
    Connected,
    /// To `Suspend`.
    Suspended(Suspended),
}

/// What a guest is, and with it what it may be asked. The order is the wire's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// Its disks are mounted, and it does not know which sandbox it is: nothing of the workload's is started.
    Unconfigured,
    /// A sandbox in use.
    Configured,
    /// The kernel and the agent run, and no disk is mounted: it waits for `Mount`.
    Bare,
    /// A sandbox whose workload is frozen until the next `Configure`.
    Suspended,
    /// Shut down: its workload is killed and its disk written. Nothing follows.
    Ended,
}

/// How a `Suspend` went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suspended {
    /// Every process of the workload stands still. Otherwise some were still busy inside the kernel when the agent
    /// stopped waiting: they stop as soon as they leave it.
    pub frozen: bool,
}

/// The agent is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pong {
    /// The agent's protocol version.
    pub version: u16,
    /// Milliseconds of guest time since the agent started.
    pub uptime_ms: u64,
    /// What it may do.
    pub phase: Phase,
}

/// What the guest read back after a `Configure`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Configured {
    /// The kernel took the entropy and reseeded its generator from it.
    pub reseeded: bool,
    /// The guest's clock, in nanoseconds since 1970.
    pub wall_clock_unix_ns: u64,
    /// The kernel's host name.
    pub hostname: String,
    /// What `/etc/machine-id` says.
    pub machine_id: [u8; 16],
    /// What `/proc/sys/kernel/random/boot_id` says.
    pub boot_id: [u8; 16],
}

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecOutput {
    /// The shell's exit code; 128 + signal number when a signal killed it; 124, as `timeout(1)` has it, when its time was
    /// up.
    pub exit_code: i32,
    /// The first bytes of its standard output.
    #[serde(with = "serde_bytes")]
    pub stdout: Vec<u8>,
    /// The first bytes of its standard error.
    #[serde(with = "serde_bytes")]
    pub stderr: Vec<u8>,
    /// It was killed because its time was up.
    pub timed_out: bool,
    /// There was more on standard output.
    pub stdout_truncated: bool,
    /// There was more on standard error.
    pub stderr_truncated: bool,
}

/// One file, as the API's `FileInfo` has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileInfo {
    pub name: String,
    /// Its full path.
    pub path: String,
    /// It is a directory.
    pub is_dir: bool,
    /// Bytes.
    pub size: u64,
    /// Octal permissions: `755`.
    pub mode: String,
    /// Last modification, in seconds since 1970.
    pub mtime: i64,
    /// Name of its owner, or the uid's digits.
    pub owner: String,
    /// Name of its group, or the gid's digits.
    pub group: String,
    /// It is a symbolic link.
    pub is_symlink: bool,
    /// Where the link points.
    pub link_target: Option<String>,
}
