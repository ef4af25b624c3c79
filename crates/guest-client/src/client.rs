//! A method for each operation of the agent, with its deadline and the type of its answer.

use crate::call::{call, name_of};
use crate::dial::Dial;
use crate::error::GuestError;
use crate::ready;
use leapbox_guest_protocol::{
    Configure, Configured, Delete, ExecOutput, ExecRequest, FileInfo, List, Mkdir, Pong, ReadFile, Reply, Request,
    Suspended, WriteFile,
};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;

/// Deadline of calls that only read or change a little.
// The gateway's limit for opening a port is lower, so that its own answer, which names the port, comes first.
const SHORT: Duration = Duration::from_secs(15);
/// Deadline of calls that move content, walk trees, sync disks or start programs in a guest that has just begun.
const LONG: Duration = Duration::from_secs(60);
/// Time beyond a command's own time-out to start it, kill it and send its output.
// The agent enforces the time-out; this one only bounds a guest that does not.
const EXEC_MARGIN: Duration = Duration::from_secs(20);
/// Deadline of freezing a workload. If a guest takes longer, `lifecycle` stops its CPUs without the freeze.
const SUSPEND: Duration = Duration::from_secs(5);
/// Deadline of mounting a disk.
// Its journal may have to be replayed first, in a guest that has just begun. A guest that fails here is lost.
const MOUNT: Duration = Duration::from_secs(120);
/// How far the guest's clock may be off after `configure`.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(2);

/// The client of one sandbox's guest. Clones share the way to it.
#[derive(Clone)]
pub struct GuestClient {
    dial: Arc<dyn Dial>,
    /// Upper bound of every call's deadline.
    at_most: Duration,
}

/// Makes a call and takes the value out of the expected answer. Any other answer is [`GuestError::Unexpected`].
macro_rules! expect_reply {
    ($self:ident, $request:expr, $deadline:expr, $pattern:pat => $value:expr) => {{
        let request = $request;
        match call(&*$self.dial, &request, $self.at_most.min($deadline)).await? {
            ($pattern, _stream) => Ok($value),
            _ => Err(GuestError::Unexpected { operation: name_of(&request) }),
        }
    }};
}

impl GuestClient {
    /// A client that reaches its guest through `dial`. It connects anew for each call.
    pub fn new(dial: Arc<dyn Dial>) -> Self {
        Self { dial, at_most: Duration::MAX }
    }

    /// The same client for a caller that waits at most this long for any one call.
    pub fn with_deadline(self, at_most: Duration) -> Self {
        Self { at_most, ..self }
    }

    /// Waits until the agent answers, and tries again in quick succession while the guest starts.
    pub async fn wait_ready(&self, deadline: Duration) -> Result<Pong, GuestError> {
        ready::wait_ready(&*self.dial, self.at_most.min(deadline)).await
    }

    /// Asks whether the agent answers, and in which phase it is.
    pub async fn ping(&self) -> Result<Pong, GuestError> {
        expect_reply!(self, Request::Ping, SHORT, Reply::Pong(pong) => pong)
    }

    /// Prepares the guest for the base snapshot that is taken next: it syncs its disks, drops what belongs to a
    /// sandbox, and starts nothing until the next `configure`.
    pub async fn prepare_snapshot(&self) -> Result<(), GuestError> {
        expect_reply!(self, Request::PrepareSnapshot, LONG, Reply::Done => ())
    }

    /// Makes the guest this sandbox, or has a suspended one go on. It succeeds only if the guest has read back every
    /// setting, and is [`GuestError::NotConfirmed`] otherwise. It may be called again, for instance when a pooled guest
    /// is handed out.
    pub async fn configure(&self, configure: Configure) -> Result<Configured, GuestError> {
        let (asked, begun) = (configure.clone(), Instant::now());
        let request = Request::Configure(configure);
        let configured: Configured = expect_reply!(self, request, SHORT, Reply::Configured(configured) => configured)?;
        match unconfirmed(&asked, &configured, begun.elapsed()) {
            None => Ok(configured),
            Some(what) => Err(GuestError::NotConfirmed { what }),
        }
    }

    /// Freezes the workload until the next `configure`, which thaws it. Nothing else stops: the guest's kernel and the
    /// agent run on, until the host stops its CPUs (`Machine::pause` in `vmm`).
    pub async fn suspend(&self) -> Result<Suspended, GuestError> {
        expect_reply!(self, Request::Suspend, SUSPEND, Reply::Suspended(suspended) => suspended)
    }

    /// Ends the workload (SIGTERM, and SIGKILL after `grace`) and writes the guest's disk. The guest can do nothing
    /// else afterwards.
    pub async fn shutdown(&self, grace: Duration) -> Result<(), GuestError> {
        let grace_ms = u32::try_from(grace.as_millis()).unwrap_or(u32::MAX);
        expect_reply!(self, Request::Shutdown { grace_ms }, grace + LONG, Reply::Done => ())
    }

    /// Has a guest without disks mount those that it has got. It can then be configured; if this fails, it is lost.
    pub async fn mount(&self) -> Result<(), GuestError> {
        expect_reply!(self, Request::Mount, MOUNT, Reply::Done => ())
    }

    /// Warms the guest up: runs what a first command would run, so that the first real command is fast.
    pub async fn warm(&self) -> Result<(), GuestError> {
        expect_reply!(self, Request::Warm, LONG, Reply::Done => ())
    }

    /// Runs a command and waits for its end. The request's own time-out bounds it.
    pub async fn exec(&self, request: ExecRequest) -> Result<ExecOutput, GuestError> {
        let deadline = Duration::from_millis(request.timeout_ms.into()) + EXEC_MARGIN;
        expect_reply!(self, Request::Exec(request), deadline, Reply::Exec(output) => output)
    }

    /// Reads a file or a part of it.
    pub async fn read_file(&self, request: ReadFile) -> Result<Vec<u8>, GuestError> {
        expect_reply!(self, Request::ReadFile(request), LONG, Reply::Content(content) => content)
    }

    /// Writes a file, and its missing parent directories. `permissions` are mode bits.
    pub async fn write_file(
        &self,
        path: impl Into<String>,
        permissions: Option<u32>,
        content: &[u8],
    ) -> Result<(), GuestError> {
        let write = WriteFile { path: path.into(), permissions, content };
        expect_reply!(self, Request::WriteFile(write), LONG, Reply::Done => ())
    }

    /// Lists a directory, ordered by path.
    pub async fn list(&self, request: List) -> Result<Vec<FileInfo>, GuestError> {
        expect_reply!(self, Request::List(request), LONG, Reply::Entries(entries) => entries)
    }

    /// Describes a path, without following a symbolic link.
    pub async fn stat(&self, path: impl Into<String>) -> Result<FileInfo, GuestError> {
        expect_reply!(self, Request::Stat { path: path.into() }, SHORT, Reply::Info(info) => info)
    }

    /// Makes a directory.
    pub async fn mkdir(&self, request: Mkdir) -> Result<(), GuestError> {
        expect_reply!(self, Request::Mkdir(request), SHORT, Reply::Done => ())
    }

    /// Whether a path exists, symbolic links followed.
    pub async fn exists(&self, path: impl Into<String>) -> Result<bool, GuestError> {
        expect_reply!(self, Request::Exists { path: path.into() }, SHORT, Reply::Exists(exists) => exists)
    }

    /// Deletes a file, a symbolic link or a directory.
    pub async fn delete(&self, request: Delete) -> Result<(), GuestError> {
        expect_reply!(self, Request::Delete(request), LONG, Reply::Done => ())
    }

    /// Opens a stream to a port on the guest's loopback or `eth0`. A half-close is passed on.
    /// [`FaultKind::ConnectionRefused`](leapbox_guest_protocol::FaultKind::ConnectionRefused) if nothing listens there.
    pub async fn connect_port(&self, port: u16) -> Result<TcpStream, GuestError> {
        let request = Request::Connect { port };
        match call(&*self.dial, &request, self.at_most.min(SHORT)).await? {
            (Reply::Connected, stream) => Ok(stream),
            _ => Err(GuestError::Unexpected { operation: name_of(&request) }),
        }
    }
}

/// The first setting that the guest did not confirm, or `None` if it has confirmed all. `exchange` is how long the call
/// took.
fn unconfirmed(asked: &Configure, confirmed: &Configured, exchange: Duration) -> Option<&'static str> {
    let (set, read) = (asked.wall_clock_unix_ns, confirmed.wall_clock_unix_ns);
    // The guest sets its clock and reads it later, and one that starves takes its time in between: a clock that is
    // ahead by the time of the exchange is slow, and not wrong. No slowness sets a clock back.
    let ahead_at_most = (CLOCK_TOLERANCE + exchange).as_nanos();
    let is_clock_off = u128::from(read.saturating_sub(set)) > ahead_at_most
        || u128::from(set.saturating_sub(read)) > CLOCK_TOLERANCE.as_nanos();
    // Randomness first: two clones with the same random numbers are the worst that can be handed out.
    if !confirmed.reseeded {
        Some("fresh randomness")
    } else if is_clock_off {
        Some("clock")
    } else if confirmed.hostname != asked.hostname {
        Some("host name")
    } else if asked.identity.is_some_and(|identity| confirmed.machine_id != identity.machine_id) {
        Some("machine id")
    } else if asked.identity.is_some_and(|identity| confirmed.boot_id != identity.boot_id) {
        Some("boot id")
    } else {
        None
    }
}
