//! The server's side of a launch.

use super::spec::{ConfineSpec, PassedFd, Report};
use crate::error::VmmError;
use crate::process::Process;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use std::io::IoSlice;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::AsyncReadExt;

/// Longest answer of the launcher, in bytes.
const REPORT_MAX: u64 = 64 * 1024;
const DEADLINE: Duration = Duration::from_secs(10);

/// A VMM that has just been started.
#[derive(Debug)]
pub struct Launched {
    /// Its process id.
    pub pid: i32,
}

/// Starts the VMM of `spec` inside its walls by `launcher confine`. `netns` is entered, `stderr` becomes its standard error, `passed` are
/// its descriptors. Returns once the VMM's program runs.
pub async fn launch(
    launcher: &Path,
    spec: ConfineSpec,
    netns: BorrowedFd<'_>,
    stderr: BorrowedFd<'_>,
    passed: &[PassedFd<'_>],
) -> Result<Launched, VmmError> {
    let system = |step| move |source| VmmError::System { step, source };
    let (ours, theirs) = UnixStream::pair().map_err(system("making the launcher's socket"))?;
    let mut fds: Vec<RawFd> = vec![netns.as_raw_fd(), stderr.as_raw_fd()];
    fds.extend(passed.iter().map(|p| p.fd.as_raw_fd()));
    send_spec(&ours, &spec, &fds)?;

    let mut child = tokio::process::Command::new(launcher)
        .arg("confine")
        .env_clear()
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(system("starting the launcher"))?;
    let reports = match tokio::time::timeout(DEADLINE, read_reports(ours)).await {
        Ok(reports) => reports?,
        Err(_) => {
            let _ = child.start_kill();
            return Err(VmmError::Hung { command: "confine".to_owned(), seconds: DEADLINE.as_secs() });
        }
    };
    child.wait().await.map_err(system("waiting for the launcher"))?;
    let (pid, failed) = outcome(reports);
    match (pid, failed) {
        (Some(pid), None) => Ok(Launched { pid }),
        (pid, failed) => {
            // What was to become the VMM has ended, or is about to; reaping it is up to us.
            if let Some(process) = pid.and_then(|pid| Process::open(pid).ok()) {
                let _ = tokio::time::timeout(DEADLINE, process.exited()).await;
            }
            let message = failed.unwrap_or_else(|| "the launcher ended without an answer".to_owned());
            Err(VmmError::Launch { message })
        }
    }
}

/// The spec and its descriptors in one message. It fits the socket's buffer, so this never blocks.
fn send_spec(socket: &UnixStream, spec: &ConfineSpec, fds: &[RawFd]) -> Result<(), VmmError> {
    let text = serde_json::to_vec(spec).map_err(|e| VmmError::Launch { message: e.to_string() })?;
    let sent = sendmsg::<()>(
        socket.as_raw_fd(),
        &[IoSlice::new(&text)],
        &[ControlMessage::ScmRights(fds)],
        MsgFlags::empty(),
        None,
    )
    .map_err(|errno| VmmError::System { step: "sending the launcher its orders", source: errno.into() })?;
    if sent != text.len() {
        return Err(VmmError::Launch { message: "the orders did not fit the socket".to_owned() });
    }
    socket
        .shutdown(std::net::Shutdown::Write)
        .map_err(|source| VmmError::System { step: "ending the launcher's orders", source })
}

async fn read_reports(socket: UnixStream) -> Result<Vec<Report>, VmmError> {
    let system = |source| VmmError::System { step: "reading the launcher's answer", source };
    socket.set_nonblocking(true).map_err(system)?;
    let socket = tokio::net::UnixStream::from_std(socket).map_err(system)?;
    let mut text = String::new();
    socket.take(REPORT_MAX).read_to_string(&mut text).await.map_err(system)?;
    text.lines()
        .map(|line| serde_json::from_str(line).map_err(|e| VmmError::Launch { message: format!("{e}: {line}") }))
        .collect()
}

/// The VMM's process id and what failed, as far as either was told.
fn outcome(reports: Vec<Report>) -> (Option<i32>, Option<String>) {
    let (mut pid, mut failed) = (None, None);
    for report in reports {
        match report {
            Report::Failed(message) => failed = Some(message),
            Report::Pid(number) => pid = Some(number),
        }
    }
    (pid, failed)
}
