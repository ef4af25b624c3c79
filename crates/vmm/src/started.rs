//! A VMM process that has been started and is not a [`Machine`](crate::Machine) yet, and the removal of what one leaves.

use crate::cgroup::Cgroup;
use crate::error::{ExitReason, VmmError};
use crate::process::Process;
use crate::record::MachineRecord;
use leapbox_errors::{FileError, chain};
use std::future::Future;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::time::Duration;

/// How long a killed process may take to be gone.
pub(crate) const KILL_DEADLINE: Duration = Duration::from_secs(10);
const KILL_POLL: Duration = Duration::from_millis(2);
/// After a control connection broke, how long the process has to exit for that to be the reported reason.
pub(crate) const DEATH_SHOWS: Duration = Duration::from_millis(200);

/// A started VMM that is not watched yet: what it takes to end it without a trace.
pub(crate) struct Started {
    pub record: MachineRecord,
    pub process: Process,
    pub group: Cgroup,
}

impl Started {
    /// Ends it, because its set-up failed with `error`. Tells what there is to tell: if the process died of itself, its
    /// death (put into words by `explain`) is the better reason.
    pub async fn give_up<F>(self, error: VmmError, explain: impl FnOnce(ExitReason) -> F) -> VmmError
    where
        F: Future<Output = ExitReason>,
    {
        let died = tokio::time::timeout(DEATH_SHOWS, self.process.exited()).await;
        let died = died.map(|reason| with_memory(reason, &self.group));
        self.process.kill();
        clean_up(&self.group, &self.record.dir).await;
        match died {
            Ok(reason) if !matches!(error, VmmError::Died { .. }) => {
                VmmError::Died { stage: "starting", reason: explain(reason).await }
            }
            Ok(_) => error,
            Err(_) => {
                // Reaps it.
                let _ = tokio::time::timeout(KILL_DEADLINE, self.process.exited()).await;
                error
            }
        }
    }
}

/// A kill that came from the kernel, for the group's memory limit, told as that. The status of an adopted process is
/// not known.
pub(crate) fn with_memory(reason: ExitReason, group: &Cgroup) -> ExitReason {
    match reason {
        ExitReason::Signalled { signal: libc::SIGKILL } | ExitReason::Gone if group.ran_out_of_memory() => {
            ExitReason::OutOfMemory
        }
        reason => reason,
    }
}

/// Makes a machine's folder: new, and root's alone.
pub(crate) fn make_dir(dir: &Path) -> Result<(), VmmError> {
    let made = std::fs::DirBuilder::new().mode(0o700).create(dir);
    Ok(made.map_err(FileError::of("creating", dir))?)
}

/// Kills what is left in the group, and removes it and the machine's folder. What cannot be removed is logged and
/// found again by the next start of the server.
pub(crate) async fn clean_up(group: &Cgroup, dir: &Path) {
    // Held before they die, to be reaped: what was half launched is nobody else's.
    let members: Vec<Process> = group.pids().into_iter().filter_map(|pid| Process::open(pid).ok()).collect();
    group.kill();
    let removed = tokio::time::timeout(KILL_DEADLINE, async {
        for member in &members {
            member.exited().await;
        }
        // A group can go only when its last process has been gone for a moment; one that was being forked when the
        // others were killed is killed now.
        while group.remove().is_err() {
            group.kill();
            tokio::time::sleep(KILL_POLL).await;
        }
    });
    if removed.await.is_err() {
        tracing::warn!(?group, "the control group could not be removed");
    }
    let removed = match tokio::fs::remove_dir_all(dir).await {
        // Whatever it is, it is not a machine's.
        Err(error) if error.kind() == std::io::ErrorKind::NotADirectory => tokio::fs::remove_file(dir).await,
        removed => removed,
    };
    match removed {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            tracing::warn!(dir = %dir.display(), error = %chain(&error), "the machine's folder could not be removed");
        }
        _ => {}
    }
}
