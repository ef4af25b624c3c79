//! The agent's answers.

use crate::bounded;
use crate::fault::GuestFault;
use serde::{Deserialize, Serialize};

/// The content of an answer's frame.
pub type Response = Result<Reply, GuestFault>;

/// The answer to a request that was done.
// A variant's number on the wire is its place here: new ones are added at the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    Pong(Pong),
    /// Answers `PrepareSnapshot`, `Warm`, `WriteFile`, `Mkdir`, `Delete`, `Shutdown` and `Mount`.
    Done,
    /// Answers `Configure` with what the guest reads back.
    Configured(Configured),
    Exec(ExecOutput),
    /// Answers `ReadFile` with the bytes that were asked for.
    Content(#[serde(with = "serde_bytes")] Vec<u8>),
    /// Answers `List`: entries ordered by path, at most [`MAX_ENTRIES`](crate::MAX_ENTRIES).
    Entries(#[serde(deserialize_with = "bounded::entries")] Vec<FileInfo>),
    /// Answers `Stat` with the path itself, not with a link's target.
    Info(FileInfo),
    Exists(bool),
    /// Answers `Connect`: every byte after this frame is the application's.
    Connected,
    Suspended(Suspended),
}

/// The phase of a guest, which decides what it may be asked (`phase.rs` in the agent).
// A phase's number on the wire is its place here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// The disks are mounted, and the guest does not know yet which sandbox it is: no workload runs.
    Unconfigured,
    /// The guest is a sandbox in use.
    Configured,
    /// Kernel and agent run, and no disk is mounted: the guest waits for `Mount`.
    Diskless,
    /// The workload is frozen until the next `Configure`.
    Suspended,
    /// The workload is killed and the disk written. No other phase follows.
    Ended,
}

/// The outcome of a `Suspend`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suspended {
    /// Whether every process of the workload stands still. If not, some were still busy inside the kernel when the
    /// agent stopped waiting, and freeze as soon as they leave it.
    pub frozen: bool,
}

/// The agent's sign of life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pong {
    /// The protocol version that the agent speaks.
    pub version: u16,
    /// Milliseconds of guest time since the agent started.
    pub uptime_ms: u64,
    pub phase: Phase,
}

/// The settings that the guest reads back from its kernel after a `Configure`.
// Read back and not repeated, so that the host hands out no clone that only claims to have changed. A hostile guest can
// lie, but only about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Configured {
    /// Whether the kernel took the entropy and reseeded its generator from it.
    pub reseeded: bool,
    /// The guest's wall clock, in nanoseconds since 1970 (UTC).
    pub wall_clock_unix_ns: u64,
    /// The host name that the kernel has.
    pub hostname: String,
    /// The content of `/etc/machine-id`, as bytes.
    pub machine_id: [u8; 16],
    /// The content of `/proc/sys/kernel/random/boot_id`, as bytes.
    pub boot_id: [u8; 16],
}

/// The outcome of a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecOutput {
    /// The shell's exit code; 128 + the signal's number if a signal killed it; 124 if its time was up, as with
    /// `timeout(1)`.
    pub exit_code: i32,
    /// The beginning of its standard output, at most `output_limit` bytes.
    #[serde(with = "serde_bytes")]
    pub stdout: Vec<u8>,
    /// The beginning of its standard error, at most `output_limit` bytes.
    #[serde(with = "serde_bytes")]
    pub stderr: Vec<u8>,
    /// Whether it was killed because its time was up.
    pub timed_out: bool,
    /// Whether there was more on standard output, which was dropped.
    pub stdout_truncated: bool,
    /// Whether there was more on standard error, which was dropped.
    pub stderr_truncated: bool,
}

/// A file, directory or link, with the fields of the API's `FileInfo`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileInfo {
    pub name: String,
    /// The absolute path of the entry.
    pub path: String,
    pub is_dir: bool,
    /// The size in bytes; of a link, the length of its target's path.
    pub size: u64,
    /// Octal permissions in digits: `755`.
    pub mode: String,
    /// Time of the last modification, in seconds since 1970 (UTC).
    pub mtime: i64,
    /// Name of its owner, or the uid's digits.
    pub owner: String,
    /// Name of its group, or the gid's digits.
    pub group: String,
    pub is_symlink: bool,
    /// The target of a symbolic link, as it is written in the link.
    pub link_target: Option<String>,
}
