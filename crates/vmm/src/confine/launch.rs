//! The server's side of a launch: starts `leapbox confine`, sends it the spec, and waits until the VMM's program runs.

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

/// The most that is read of the launcher's reports, in bytes.
const REPORT_MAX: u64 = 64 * 1024;
/// Bounds a launch, which takes milliseconds: a launcher that hangs must not hold up a create for ever.
const DEADLINE: Duration = Duration::from_secs(10);

/// A VMM that has just been started.
#[derive(Debug)]
pub struct Launched {
    /// Its process id in the host's pid namespace.
    pub pid: i32,
}

/// Starts the VMM of `spec` in its confinement by running `launcher confine`. The VMM runs in `netns`, has `stderr` as
/// its standard error and `passed` as its descriptors. Returns once the VMM's program has been executed. On failure the
/// caller ends what is left in the control group.
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
    // Sent before the launcher exists: the message waits in the socket, so that no deadline is needed for the sending.
    send_spec(&ours, &spec, &fds)?;

    // After this statement only the launcher and its child have `theirs` open, and the reports end when both have
    // closed it: the launcher by its exit, the child by executing the VMM.
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
            return Err(VmmError::Hung {
                command: "its launch by `leapbox confine`".to_owned(),
                seconds: DEADLINE.as_secs(),
            });
        }
    };
    child.wait().await.map_err(system("waiting for the launcher"))?;
    let (pid, failed) = outcome(reports);
    match (pid, failed) {
        (Some(pid), None) => Ok(Launched { pid }),
        (pid, failed) => {
            // The child that failed to become the VMM exits after its report. As the subreaper this process is its
            // parent by now and must reap it.
            if let Some(process) = pid.and_then(|pid| Process::open(pid).ok()) {
                let _ = tokio::time::timeout(DEADLINE, process.exited()).await;
            }
            let message = failed.unwrap_or_else(|| "`leapbox confine` ended without a report".to_owned());
            Err(VmmError::Launch { message })
        }
    }
}

/// Sends the spec and its descriptors as one message. It fits the socket's buffer, so this never blocks.
fn send_spec(socket: &UnixStream, spec: &ConfineSpec, fds: &[RawFd]) -> Result<(), VmmError> {
    let text = serde_json::to_vec(spec).map_err(|e| VmmError::Launch { message: e.to_string() })?;
    let sent = sendmsg::<()>(
        socket.as_raw_fd(),
        &[IoSlice::new(&text)],
        &[ControlMessage::ScmRights(fds)],
        MsgFlags::empty(),
        None,
    )
    .map_err(|errno| VmmError::System { step: "sending the launcher its spec", source: errno.into() })?;
    // The launcher reads one message, and the descriptors are attached to its first byte.
    if sent != text.len() {
        return Err(VmmError::Launch { message: "the spec does not fit the socket's buffer".to_owned() });
    }
    socket
        .shutdown(std::net::Shutdown::Write)
        .map_err(|source| VmmError::System { step: "ending the launcher's spec", source })
}

async fn read_reports(socket: UnixStream) -> Result<Vec<Report>, VmmError> {
    let system = |source| VmmError::System { step: "reading the launcher's reports", source };
    socket.set_nonblocking(true).map_err(system)?;
    let socket = tokio::net::UnixStream::from_std(socket).map_err(system)?;
    let mut text = String::new();
    socket.take(REPORT_MAX).read_to_string(&mut text).await.map_err(system)?;
    text.lines()
        .map(|line| serde_json::from_str(line).map_err(|e| VmmError::Launch { message: format!("{e}: {line}") }))
        .collect()
}

/// The VMM's process id and the failed step, each if it was reported. A child that fails comes with both.
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
