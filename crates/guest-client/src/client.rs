//! The operations, typed.

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

/// Calls that only look or change a little.
const SHORT: Duration = Duration::from_secs(15);
/// Calls that move content, walk trees, sync disks or start programs on a cold guest.
const LONG: Duration = Duration::from_secs(60);
/// What a command's time-out leaves for starting it, killing it and sending its output.
const EXEC_MARGIN: Duration = Duration::from_secs(20);
/// What freezing a workload may take: a guest that needs longer is paused as it is.
const SUSPEND: Duration = Duration::from_secs(5);
/// Mounting a disk whose journal has to be replayed first, on a cold guest.
const MOUNT: Duration = Duration::from_secs(120);
/// How far the guest's clock may be off after `configure`; ahead, the time that the exchange took comes to that.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(2);

/// One sandbox's guest. Cheap to clone.
#[derive(Clone)]
pub struct GuestClient {
    dial: Arc<dyn Dial>,
    /// Shortens every call's deadline.
    at_most: Duration,
}

/// Takes the expected answer out of a call, or says that it was another one.
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
    /// A client that reaches its guest through `dial`. Connects only when called.
    pub fn new(dial: Arc<dyn Dial>) -> Self {
        Self { dial, at_most: Duration::MAX }
    }

    /// The same guest for a caller who waits at most this long for any one call.
    pub fn with_deadline(self, at_most: Duration) -> Self {
        Self { at_most, ..self }
    }

    /// Waits until the agent answers, trying again quickly while the guest starts.
    pub async fn wait_ready(&self, deadline: Duration) -> Result<Pong, GuestError> {
        ready::wait_ready(&*self.dial, self.at_most.min(deadline)).await
    }

    /// Asks whether the agent is there.
    pub async fn ping(&self) -> Result<Pong, GuestError> {
        expect_reply!(self, Request::Ping, SHORT, Reply::Pong(pong) => pong)
    }

    /// Syncs the guest's disks, makes it forget which sandbox it was, and keeps it quiet until the next `configure`.
    pub async fn prepare_snapshot(&self) -> Result<(), GuestError> {
        expect_reply!(self, Request::PrepareSnapshot, LONG, Reply::Done => ())
    }

    /// Makes the guest this sandbox, or has a suspended one go on. Succeeds only when the guest read back everything it
    /// was told: [`GuestError::NotConfirmed`] otherwise. May be called again, for instance when a pooled guest is handed
    /// out.
    pub async fn configure(&self, configure: Configure) -> Result<Configured, GuestError> {
        let (asked, told) = (configure.clone(), Instant::now());
        let request = Request::Configure(configure);
        let configured: Configured = expect_reply!(self, request, SHORT, Reply::Configured(configured) => configured)?;
        match unconfirmed(&asked, &configured, told.elapsed()) {
            None => Ok(configured),
            Some(what) => Err(GuestError::NotConfirmed { what }),
        }
    }

    /// Freezes the workload and keeps the guest quiet until the next `configure`, which lets it go on.
    pub async fn suspend(&self) -> Result<Suspended, GuestError> {
        expect_reply!(self, Request::Suspend, SUSPEND, Reply::Suspended(suspended) => suspended)
    }

    /// Ends the workload (SIGTERM, after `grace` SIGKILL) and writes the guest's disk. The guest is of no use afterwards.
    pub async fn shutdown(&self, grace: Duration) -> Result<(), GuestError> {
        let grace_ms = u32::try_from(grace.as_millis()).unwrap_or(u32::MAX);
        expect_reply!(self, Request::Shutdown { grace_ms }, grace + LONG, Reply::Done => ())
    }

    /// Has a bare guest mount its disks. It can be configured when this returns, and is lost when this fails.
    pub async fn mount(&self) -> Result<(), GuestError> {
        expect_reply!(self, Request::Mount, MOUNT, Reply::Done => ())
    }

    /// Runs what a first command would run, so that the first real one is fast.
    pub async fn warm(&self) -> Result<(), GuestError> {
        expect_reply!(self, Request::Warm, LONG, Reply::Done => ())
    }

    /// Runs a command and waits for its end, which the request's own time-out bounds.
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

    /// A stream to a port on the guest's loopback or `eth0`, half-close respected.
    /// [`FaultKind::ConnectionRefused`](leapbox_guest_protocol::FaultKind::ConnectionRefused) when nothing listens.
    pub async fn connect_port(&self, port: u16) -> Result<TcpStream, GuestError> {
        let request = Request::Connect { port };
        match call(&*self.dial, &request, self.at_most.min(SHORT)).await? {
            (Reply::Connected, stream) => Ok(stream),
            _ => Err(GuestError::Unexpected { operation: name_of(&request) }),
        }
    }
}

/// The part of a configuration that the guest did not confirm.
fn unconfirmed(asked: &Configure, confirmed: &Configured, exchange: Duration) -> Option<&'static str> {
    let (set, read) = (asked.wall_clock_unix_ns, confirmed.wall_clock_unix_ns);
    // It is read back after it was set, and a guest that starves takes its time in between: later is slow, not wrong.
    let ahead_at_most = (CLOCK_TOLERANCE + exchange).as_nanos();
    let is_clock_off = u128::from(read.saturating_sub(set)) > ahead_at_most
        || u128::from(set.saturating_sub(read)) > CLOCK_TOLERANCE.as_nanos();
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
