//! The host's requests. Relative paths in them are resolved against the image's working directory.

use crate::bounded;
use serde::{Deserialize, Serialize};
use std::fmt;

/// One operation that the agent is asked to do.
// A variant's number on the wire is its place here: new ones are added at the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request<'a> {
    /// Asks whether the agent answers, and in which phase. Allowed in every phase.
    Ping,
    /// Writes everything to disk and drops what belongs to a sandbox, because a base snapshot is taken next. Until the
    /// next [`Request::Configure`] no workload is started and nothing is relayed.
    PrepareSnapshot,
    /// Makes the guest this sandbox, or has a suspended one go on: entropy, clock, identity, environment, trust. A
    /// frozen workload is thawed once all of it is right. Refused by a guest without a disk, and by one that was shut
    /// down.
    Configure(Configure),
    /// Warms the guest up: runs what a first command would run, so that its pages and translations are in memory.
    /// Allowed before `Configure`.
    Warm,
    /// Runs a command as the image's user, and answers when it has ended.
    Exec(ExecRequest),
    ReadFile(ReadFile),
    #[serde(borrow)]
    WriteFile(WriteFile<'a>),
    List(List),
    /// Describes a path. A symbolic link is described itself.
    Stat {
        path: String,
    },
    Mkdir(Mkdir),
    /// Asks whether a path exists. Symbolic links are followed.
    Exists {
        path: String,
    },
    /// Deletes a file, a directory or a symbolic link, which is not followed.
    Delete(Delete),
    /// Relays this connection to a port on the guest's loopback (IPv4, then IPv6) or `eth0`.
    Connect {
        port: u16,
    },
    /// Freezes the workload, while kernel and agent run on, and refuses new work until the next `Configure`. Identity
    /// and environment stay. It may be repeated.
    Suspend,
    /// Ends the workload and writes the disk: SIGTERM to every process, SIGKILL to those left when the time is up (at
    /// once in a suspended guest, whose workload must not run again), then sync. Everything but `Ping` and another
    /// `Shutdown` is refused from then on.
    Shutdown {
        /// Milliseconds between the two signals.
        grace_ms: u32,
    },
    /// Has a guest without a disk find the disks that it has now, mount them and get ready for `Configure`. A guest
    /// that cannot do so says why, and ends.
    Mount,
}

/// Fresh random bytes for the guest's kernel.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entropy(#[serde(with = "serde_bytes")] pub [u8; 64]);

impl fmt::Debug for Entropy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // In a log they would give away the guest's random numbers.
        f.write_str("Entropy(..)")
    }
}

/// The two ids by which programs tell one machine, and one boot of it, from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The content of `/etc/machine-id`, as bytes.
    pub machine_id: [u8; 16],
    /// The content of `/proc/sys/kernel/random/boot_id`, as bytes.
    pub boot_id: [u8; 16],
}

/// The identity and settings of a guest from now on.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Configure {
    /// The host name: the sandbox's id, which is a DNS label.
    pub hostname: String,
    /// Bytes that are mixed into the kernel's random pool, from which its generator is then reseeded.
    pub entropy: Entropy,
    /// The host's wall clock now, in nanoseconds since 1970 (UTC).
    pub wall_clock_unix_ns: u64,
    /// The ids of machine and boot. `None` keeps those that the guest has; one that was never configured has none.
    pub identity: Option<Identity>,
    /// The sandbox's environment variables, which the agent keeps in memory only. `None` keeps those that it has.
    #[serde(deserialize_with = "bounded::optional_pairs")]
    pub env: Option<Vec<(String, String)>>,
    /// Whether the machine was started from a stored state. Every connection of the host to the old machine is dead
    /// then, and the agent resets its ends before the workload is thawed.
    pub restored: bool,
    /// The certificate authority that the guest's programs trust beside those of the image. `None` changes nothing.
    pub trust: Option<Trust>,
}

impl fmt::Debug for Configure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Names alone: the values may be secrets of the sandbox's owner.
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

/// Common name, and whole subject, of the certificate authority that each sandbox has of its own.
// An agent finds and replaces its certificate in the trust store by this name, and refuses to install any other.
pub const SANDBOX_CA_NAME: &str = "Leapbox sandbox CA";

/// The certificate authority with which the host's egress proxy signs when it terminates a sandbox's TLS connections.
// A variant's number on the wire is its place here.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Trust {
    /// No authority; one that was installed before is removed.
    None,
    /// One certificate in PEM, of at most [`MAX_CERTIFICATE`](crate::MAX_CERTIFICATE) bytes, issued to
    /// [`SANDBOX_CA_NAME`]. It replaces one that was installed before.
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

/// A command for `/bin/sh -c`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecRequest {
    pub command: String,
    /// The working directory; the image's own when absent.
    pub cwd: Option<String>,
    /// Environment variables besides the image's and the sandbox's, which they replace.
    #[serde(deserialize_with = "bounded::pairs")]
    pub env: Vec<(String, String)>,
    /// Milliseconds after which the command is killed, with everything that it has started.
    pub timeout_ms: u32,
    /// Bytes that are kept of each of stdout and stderr, at most [`MAX_STREAM_OUTPUT`](crate::MAX_STREAM_OUTPUT). The
    /// rest is read and dropped, so that the command does not wait for a reader.
    pub output_limit: u32,
}

/// A file to read, or a part of one. `head` and `tail` count lines inside the range that `offset` and `limit` leave,
/// and exclude each other.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadFile {
    pub path: String,
    /// Number of bytes to skip at the beginning.
    pub offset: Option<u64>,
    /// Number of bytes to read at most.
    pub limit: Option<u32>,
    /// Number of lines to read from the beginning of the range.
    pub head: Option<u32>,
    /// Number of lines to read from the end of the range.
    pub tail: Option<u32>,
}

/// A file to write. An existing one is overwritten, and missing parent directories are made.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WriteFile<'a> {
    pub path: String,
    /// Mode bits that the file has afterwards. Without them a new file has 644, and an existing one keeps its own.
    pub permissions: Option<u32>,
    // Borrowed, so that 10 MiB are copied neither into the request nor out of the frame.
    #[serde(borrow, with = "serde_bytes")]
    pub content: &'a [u8],
}

impl fmt::Debug for WriteFile<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WriteFile")
            .field("path", &self.path)
            .field("permissions", &self.permissions)
            // The length alone: the content is its owner's, and large.
            .field("content_len", &self.content.len())
            .finish()
    }
}

/// A directory to list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct List {
    pub path: String,
    /// Whether its subdirectories are listed too.
    pub recursive: bool,
    /// Globs of entries to leave out, with all that is below them. One without a `/` is compared with names, one with a
    /// `/` with paths relative to the listed directory.
    #[serde(deserialize_with = "bounded::patterns")]
    pub exclude: Vec<String>,
}

/// A directory to make.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mkdir {
    pub path: String,
    /// Whether missing parents are made, and an existing directory is no error.
    pub recursive: bool,
    /// Mode bits of the directory itself; 755 when absent.
    pub permissions: Option<u32>,
}

/// A file, directory or symbolic link to delete.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delete {
    pub path: String,
    /// Whether a directory is deleted with everything in it.
    pub recursive: bool,
}
