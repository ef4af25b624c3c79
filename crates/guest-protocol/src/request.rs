//! What the host asks. Relative paths are resolved against the image's working directory.

use crate::bounded;
use serde::{Deserialize, Serialize};
use std::fmt;

/// One operation. The order is the wire's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request<'a> {
    /// Are you there?
    Ping,
    /// Write everything to disk, forget what is a sandbox's own, and be quiet: a snapshot follows. Until the next
    /// [`Request::Configure`] nothing of the workload's is started or relayed.
    PrepareSnapshot,
    /// Become this sandbox, or go on being it: entropy, clock, identity, environment, trust. Lets a frozen workload go on
    /// once all of it is right. Refused by a guest without a disk, and by one that was shut down.
    Configure(Configure),
    /// Run what a first command would run, so that it is warm. Leaves nothing behind; allowed before `Configure`.
    Warm,
    /// Run a command as the image's user.
    Exec(ExecRequest),
    ReadFile(ReadFile),
    #[serde(borrow)]
    WriteFile(WriteFile<'a>),
    /// List a directory.
    List(List),
    /// Describe a path, without following a symbolic link.
    Stat {
        path: String,
    },
    /// Make a directory.
    Mkdir(Mkdir),
    /// Whether a path exists, symbolic links followed.
    Exists {
        path: String,
    },
    /// Delete a file, a symbolic link or a directory.
    Delete(Delete),
    /// Relay this connection to a port on the guest's loopback or `eth0`.
    Connect {
        /// 1 to 65535.
        port: u16,
    },
    /// Freeze the workload and take no new work until the next `Configure`. Identity and environment stay. May be asked
    /// again.
    Suspend,
    /// End the workload and write the disk: SIGTERM to every process, SIGKILL to what is left when the time is up (at
    /// once in a suspended guest, whose workload must not run again), then sync. Everything but `Ping` and another
    /// `Shutdown` is refused from then on.
    Shutdown {
        /// Milliseconds the workload has between the two signals.
        grace_ms: u32,
    },
    /// To a guest without a disk: find the disks that are there now, mount them and get ready for `Configure`. A guest
    /// that cannot says why, and ends.
    Mount,
}

/// Fresh random bytes for the guest's kernel. Never printed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entropy(#[serde(with = "serde_bytes")] pub [u8; 64]);

impl fmt::Debug for Entropy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Entropy(..)")
    }
}

/// The two ids by which programs tell one machine, and one boot of it, from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// What `/etc/machine-id` says.
    pub machine_id: [u8; 16],
    /// What `/proc/sys/kernel/random/boot_id` says.
    pub boot_id: [u8; 16],
}

/// Who the guest is from now on.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Configure {
    /// Host name, the sandbox's id: a DNS label.
    pub hostname: String,
    /// Mixed into the kernel's random pool, which is then reseeded.
    pub entropy: Entropy,
    /// Nanoseconds since 1970, now.
    pub wall_clock_unix_ns: u64,
    /// Its ids; `None` keeps those it has, which a guest that was never configured has not.
    pub identity: Option<Identity>,
    /// The sandbox's environment variables, kept in memory only; `None` keeps those it has.
    #[serde(deserialize_with = "bounded::optional_pairs")]
    pub env: Option<Vec<(String, String)>>,
    /// The machine was started from a stored state: every connection the host had to the old one is dead, and the agent
    /// resets its ends before the workload goes on.
    pub restored: bool,
    /// Whom the guest's programs trust beside the authorities of its image; `None` keeps what it has.
    pub trust: Option<Trust>,
}

impl fmt::Debug for Configure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = |env: &Vec<(String, String)>| env.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
        f.debug_struct("Configure")
            .field("hostname", &self.hostname)
            .field("wall_clock_unix_ns", &self.wall_clock_unix_ns)
            .field("identity", &self.identity)
            .field("env_names", &self.env.as_ref().map(names))
            .field("restored", &self.restored)
            .field("trust", &self.trust)
            .finish_non_exhaustive()
    }
}

/// Common name of every sandbox's own certificate authority, and its whole subject. Agents know such a certificate by
/// it, and refuse another.
pub const SANDBOX_CA_NAME: &str = "Leapbox sandbox CA";

/// The certificate authority that the host's egress proxy signs with when it looks into a sandbox's TLS connections. The
/// order is the wire's.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Trust {
    /// None; one that was there before is taken away.
    None,
    /// This one alone: one certificate in PEM, of at most [`MAX_CERTIFICATE`](crate::MAX_CERTIFICATE) bytes, issued to
    /// [`SANDBOX_CA_NAME`].
    Certificate(#[serde(deserialize_with = "bounded::certificate")] String),
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Trust::None => "None",
            Trust::Certificate(_) => "Certificate(..)",
        })
    }
}

/// A command to run with `/bin/sh -c`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecRequest {
    pub command: String,
    /// Working directory; the image's when absent.
    pub cwd: Option<String>,
    /// Environment variables on top of the image's and the sandbox's.
    #[serde(deserialize_with = "bounded::pairs")]
    pub env: Vec<(String, String)>,
    /// After so many milliseconds everything the command started is killed.
    pub timeout_ms: u32,
    /// Bytes kept of each of stdout and stderr; the rest is read and dropped. At most
    /// [`MAX_STREAM_OUTPUT`](crate::MAX_STREAM_OUTPUT).
    pub output_limit: u32,
}

/// A file, or a part of it. `head` and `tail` count lines inside the range that `offset` and `limit` leave, and exclude
/// each other.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadFile {
    /// The file.
    pub path: String,
    /// Bytes skipped.
    pub offset: Option<u64>,
    /// Bytes at most.
    pub limit: Option<u32>,
    /// Only the first lines.
    pub head: Option<u32>,
    /// Only the last lines.
    pub tail: Option<u32>,
}

/// A file to write or overwrite. Missing parent directories are made.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WriteFile<'a> {
    /// The file.
    pub path: String,
    /// Mode bits it has afterwards; 644 for a new file, unchanged for an old one, when absent.
    pub permissions: Option<u32>,
    /// The file's new content.
    #[serde(borrow, with = "serde_bytes")]
    pub content: &'a [u8],
}

impl fmt::Debug for WriteFile<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WriteFile")
            .field("path", &self.path)
            .field("permissions", &self.permissions)
            .field("content_len", &self.content.len())
            .finish()
    }
}

/// A directory to list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct List {
    /// The directory.
    pub path: String,
    /// Its subdirectories too.
    pub recursive: bool,
    /// Globs of what is left out, with all below it: against the name, or, if it contains a `/`, against the path
    /// relative to the listed directory.
    #[serde(deserialize_with = "bounded::patterns")]
    pub exclude: Vec<String>,
}

/// A directory to make.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mkdir {
    /// The directory.
    pub path: String,
    /// Make missing parents, and take an existing directory as done.
    pub recursive: bool,
    /// Mode bits of the directory itself; 755 when absent.
    pub permissions: Option<u32>,
}

/// Something to delete.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delete {
    pub path: String,
    /// A directory's contents too.
    pub recursive: bool,
}
