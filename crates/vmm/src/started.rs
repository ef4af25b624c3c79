//! A VMM process that has been started and is not a [`Machine`](crate::Machine) yet, and the clean-up after a VMM.

use crate::cgroup::Cgroup;
use crate::error::{ExitReason, VmmError};
use crate::process::Process;
use crate::record::MachineRecord;
use leapbox_errors::{FileError, chain};
use std::future::Future;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::time::Duration;

/// How long a killed process may take to end. SIGKILL acts at once; a process in the middle of a disk operation ends
/// after that.
pub(crate) const KILL_DEADLINE: Duration = Duration::from_secs(10);
const KILL_POLL: Duration = Duration::from_millis(2);
/// How long after an error of its control connection a process has to exit for its death to be reported instead.
pub(crate) const EXIT_GRACE: Duration = Duration::from_millis(200);

/// A started VMM that is not watched yet, with all that is needed to end it and remove its traces.
pub(crate) struct Started {
    pub record: MachineRecord,
    pub process: Process,
    pub group: Cgroup,
}

impl Started {
    /// Ends the process, because its set-up failed with `error`, and removes its traces. Returns the error to report:
    /// if the process died by itself, that death, to which `explain` adds what the driver knows of it.
    pub async fn abort<F>(self, error: VmmError, explain: impl FnOnce(ExitReason) -> F) -> VmmError
    where
        F: Future<Output = ExitReason>,
    {
        // Before the kill, which would be taken for the reason. A VMM that exits with a message breaks its connection
        // first, and "connection reset" would hide the message.
        let died = tokio::time::timeout(EXIT_GRACE, self.process.exited()).await;
        let died = died.map(|reason| with_oom_kill(reason, &self.group));
        self.process.kill();
        clean_up(&self.group, &self.record.dir).await;
        match died {
            Ok(reason) if !matches!(error, VmmError::Died { .. }) => {
                VmmError::Died { stage: "starting", reason: explain(reason).await }
            }
            Ok(_) => error,
            Err(_) => {
                // Reaps the process, which is in no group if it was started without confinement.
                let _ = tokio::time::timeout(KILL_DEADLINE, self.process.exited()).await;
                error
            }
        }
    }
}

/// Returns the error to report of an adoption that failed with `error`: the end of the process, if it has ended.
/// Neither kills nor removes anything.
pub(crate) async fn not_adopted(process: &Process, error: VmmError) -> VmmError {
    // A VMM that ends breaks its connection first, and everything that is opened by its number fails then as well.
    let ended = tokio::time::timeout(EXIT_GRACE, process.exited()).await;
    if ended.is_ok() && !error.is_death() { VmmError::NotAlive { pid: process.pid() } } else { error }
}

/// Replaces `reason` by [`ExitReason::OutOfMemory`] if the kernel killed the process for its group's memory limit.
pub(crate) fn with_oom_kill(reason: ExitReason, group: &Cgroup) -> ExitReason {
    match reason {
        // The signal of an adopted process is unknown (`Gone`), but its group has counted the kill.
        ExitReason::Signalled { signal: libc::SIGKILL } | ExitReason::Gone if group.ran_out_of_memory() => {
            ExitReason::OutOfMemory
        }
        reason => reason,
    }
}

/// Makes a machine's directory, root's alone; an error if something is there already.
pub(crate) fn make_dir(dir: &Path) -> Result<(), VmmError> {
    let made = std::fs::DirBuilder::new().mode(0o700).create(dir);
    Ok(made.map_err(FileError::of("creating", dir))?)
}

/// Kills every process in the group, and removes the group and the machine's directory. If one of them cannot be
/// removed, that is logged, and the next start of the server tries again.
pub(crate) async fn clean_up(group: &Cgroup, dir: &Path) {
    // Opened before they are killed, so that they can be reaped: nobody else waits for the processes of a failed
    // launch.
    let members: Vec<Process> = group.pids().into_iter().filter_map(|pid| Process::open(pid).ok()).collect();
    group.kill();
    let removed = tokio::time::timeout(KILL_DEADLINE, async {
        for member in &members {
            member.exited().await;
        }
        // The kernel reports a group as busy for a moment after its last process has ended. Killing again is for a
        // process that was being forked when the others were killed one by one (version 1).
        while group.remove().is_err() {
            group.kill();
            tokio::time::sleep(KILL_POLL).await;
        }
    });
    if removed.await.is_err() {
        tracing::warn!(?group, "a machine's control group could not be removed: the next start of the server will try");
    }
    let removed = match tokio::fs::remove_dir_all(dir).await {
        // Something else lies at the path, which would make the name unusable for the next machine.
        Err(error) if error.kind() == std::io::ErrorKind::NotADirectory => tokio::fs::remove_file(dir).await,
        removed => removed,
    };
    match removed {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            tracing::warn!(
                dir = %dir.display(),
                error = %chain(&error),
                "a machine's directory could not be removed: the next start of the server will try"
            );
        }
        _ => {}
    }
}
