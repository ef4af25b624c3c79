//! What a machine of every driver is underneath: one process in a control group, with a folder, watched until it ends.

use crate::cgroup::Cgroup;
use crate::error::{ExitReason, VmmError};
use crate::machine::MachineRecord;
use crate::memory::Proc;
use crate::process::{self, Process};
use leapbox_errors::chain;
use leapbox_storage::Runs;
use std::fs::File;
use std::future::Future;
use std::io;
use std::iter;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// How long a killed process may take to be gone.
const KILL_DEADLINE: Duration = Duration::from_secs(10);
const KILL_POLL: Duration = Duration::from_millis(2);
/// A control connection that breaks is looked at as a death for this long.
const DEATH_SHOWS: Duration = Duration::from_millis(200);

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

/// A living VMM.
pub(crate) struct Vessel {
    record: MachineRecord,
    process: Arc<Process>,
    group: Cgroup,
    /// Why it ended, once it has.
    exit: watch::Receiver<Option<ExitReason>>,
}

impl Vessel {
    /// Starts watching. `ended` comes to an end when the machine does, and tells why.
    pub fn watch<F>(started: Started, ended: impl FnOnce(Arc<Process>) -> F) -> Self
    where
        F: Future<Output = ExitReason> + Send + 'static,
    {
        let process = Arc::new(started.process);
        let (told, exit) = watch::channel(None);
        let ended = ended(Arc::clone(&process));
        let watched = started.group.clone();
        tokio::spawn(async move {
            let reason = ended.await;
            told.send_replace(Some(with_memory(reason, &watched)));
        });
        Self { record: started.record, process, group: started.group, exit }
    }

    /// What finds it again.
    pub fn record(&self) -> &MachineRecord {
        &self.record
    }

    /// The network namespace it runs in.
    pub fn netns(&self) -> Result<OwnedFd, VmmError> {
        let path = format!("/proc/{}/ns/net", self.record.pid);
        let fd = File::open(&path).map_err(|_| VmmError::NotAlive { pid: self.record.pid })?;
        self.check_alive().map(|()| fd.into())
    }

    /// Its folder in /proc.
    pub fn proc(&self) -> Result<Proc, VmmError> {
        let proc = Proc::open(self.record.pid)?;
        self.check_alive().map(|()| proc)
    }

    /// `runs`, read from the process's memory, with an error at their end if some of that may have gone meanwhile. A
    /// process that the kernel ends for want of memory can lose pages before it is gone; its base's bytes are read in
    /// their place.
    pub fn whole(&self, runs: Runs) -> Runs {
        let (process, group) = (Arc::clone(&self.process), self.group.clone());
        let lost = move || {
            let whole = process.is_alive() && !group.ran_out_of_memory();
            (!whole).then(|| Err(io::Error::other(VmmError::NotAlive { pid: process.pid() })))
        };
        Box::new(runs.chain(iter::once_with(lost).flatten()))
    }

    /// An error if it has ended: what was opened by its number may then have been another's.
    pub fn check_alive(&self) -> Result<(), VmmError> {
        if self.process.is_alive() { Ok(()) } else { Err(VmmError::NotAlive { pid: self.record.pid }) }
    }

    /// Waits until it has ended, and tells why.
    pub async fn exited(&self) -> ExitReason {
        let mut exit = self.exit.clone();
        match exit.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone().unwrap_or(ExitReason::Gone),
            Err(_) => ExitReason::Gone,
        }
    }

    /// Runs `operation`, unless the machine ends first; then that is the error.
    pub async fn while_alive<T>(
        &self,
        stage: &'static str,
        operation: impl Future<Output = Result<T, VmmError>>,
    ) -> Result<T, VmmError> {
        let result = tokio::select! {
            biased;
            result = operation => result,
            reason = self.exited() => return Err(VmmError::Died { stage, reason }),
        };
        // A connection that breaks, or memory that ends, because the process has just died is reported as that death;
        // and what was read by the number of one that is dead by now may have been another's.
        let in_doubt = match &result {
            Ok(_) => !self.process.is_alive(),
            Err(error) => {
                matches!(error, VmmError::Protocol { .. } | VmmError::System { .. } | VmmError::NotAlive { .. })
            }
        };
        if in_doubt && let Ok(reason) = tokio::time::timeout(DEATH_SHOWS, self.exited()).await {
            return Err(VmmError::Died { stage, reason });
        }
        result
    }

    /// Memory in bytes that is its alone.
    pub fn private_bytes(&self) -> Result<u64, VmmError> {
        process::private_bytes(self.record.pid)
    }

    /// Kills it, waits until it is gone, removes its group and folder. May be called again.
    pub async fn destroy(&self) -> Result<(), VmmError> {
        self.process.kill();
        clean_up(&self.group, &self.record.dir).await;
        let gone = tokio::time::timeout(KILL_DEADLINE, self.process.exited()).await;
        gone.map(drop).map_err(|_| VmmError::Hung { command: "kill".to_owned(), seconds: KILL_DEADLINE.as_secs() })
    }
}

/// A kill that came from the kernel, for the group's memory limit, told as that. The status of an adopted process is
/// not known.
fn with_memory(reason: ExitReason, group: &Cgroup) -> ExitReason {
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
    made.map_err(|source| VmmError::File { step: "creating", path: dir.to_path_buf(), source })
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
