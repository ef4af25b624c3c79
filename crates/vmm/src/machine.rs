//! One living VMM: a process in a control group, with a directory, watched until it ends.
//!
//! ```text
//! Started ──watch──► Machine ──► the same for every driver: record, namespace, death, differences, destroy
//!                       └─ Box<dyn Control> ──► the driver's own: pause, resume, device state, console
//! ```
//!
//! Made by the drivers' `boot`, `restore` and `adopt`; used by `bases` and `lifecycle`.

use crate::cgroup::Cgroup;
use crate::driver::Control;
use crate::error::{ExitReason, VmmError};
use crate::memory::{self, Proc};
use crate::process::{self, Process};
use crate::record::MachineRecord;
use crate::spec::{DiffSnapshot, Snapshot};
use crate::started::{EXIT_GRACE, KILL_DEADLINE, Started, clean_up, with_oom_kill};
use leapbox_storage::Runs;
use std::fs::File;
use std::future::Future;
use std::io;
use std::iter;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use tokio::sync::watch;
use tokio::time::error::Elapsed;

/// One living VMM. Dropping it leaves the process running and closes its control connection, so that it can be adopted
/// again: only [`Machine::destroy`] ends it.
pub struct Machine {
    pub(crate) record: MachineRecord,
    process: Arc<Process>,
    group: Cgroup,
    /// The reason of its end; `None` while it lives.
    exit: watch::Receiver<Option<ExitReason>>,
    control: Box<dyn Control>,
    /// The snapshot that a booted machine will become; `None` for a restored or adopted one.
    snapshot: Option<Snapshot>,
}

impl Machine {
    /// Makes a machine of a started process and spawns a task that watches it. `ended` makes the driver's future that
    /// completes with the reason when the machine has ended.
    pub(crate) fn watch<F>(
        started: Started,
        control: impl Control + 'static,
        ended: impl FnOnce(Arc<Process>) -> F,
    ) -> Self
    where
        F: Future<Output = ExitReason> + Send + 'static,
    {
        let process = Arc::new(started.process);
        let (exit_sender, exit) = watch::channel(None);
        let ended = ended(Arc::clone(&process));
        let group = started.group.clone();
        tokio::spawn(async move {
            let reason = tokio::select! {
                reason = ended => reason,
                // The machine was dropped. Nobody would learn of its end, and whoever adopts it next needs the control
                // connection, which QEMU has only one of.
                () = exit_sender.closed() => return,
            };
            // The group's count of kills is read at once, because `destroy` removes the group.
            exit_sender.send_replace(Some(with_oom_kill(reason, &group)));
        });
        Self { record: started.record, process, group: started.group, exit, control: Box::new(control), snapshot: None }
    }

    /// Records the files that [`Machine::into_base_snapshot`] will complete.
    pub(crate) fn booted_into(mut self, snapshot: Snapshot) -> Self {
        self.snapshot = Some(snapshot);
        self
    }

    /// The record by which a later server process finds the machine again.
    pub fn record(&self) -> MachineRecord {
        self.record.clone()
    }

    /// Opens the network namespace of the process. A restarted server gets the namespaces of its sandboxes back by
    /// this, because nothing else holds them.
    pub fn netns(&self) -> Result<OwnedFd, VmmError> {
        let path = format!("/proc/{}/ns/net", self.record.pid);
        let fd = File::open(&path)
            .map_err(|source| process::not_alive(self.record.pid, "opening its network namespace", source))?;
        // Checked after the open: if the process is still alive now, the number was its own a moment ago.
        self.check_alive().map(|()| fd.into())
    }

    /// Stops the guest and completes the files of the snapshot that the machine was booted for. The machine is
    /// destroyed in any case, also when that fails.
    pub async fn into_base_snapshot(mut self) -> Result<Snapshot, VmmError> {
        let snapshot = self.snapshot.take().ok_or(VmmError::Refused {
            command: "snapshot".to_owned(),
            message: "only a machine that was booted can become a base snapshot".to_owned(),
        });
        let saved = async {
            let snapshot = snapshot?;
            self.pause().await?;
            self.control.write_snapshot(&self, &snapshot).await.map(|()| snapshot)
        };
        let saved = saved.await;
        let destroyed = self.destroy().await;
        let snapshot = saved?;
        destroyed?;
        // Made read-only after the VMM's end and not before: a process that has a file open for writing goes on writing
        // to it whatever mode it gets.
        snapshot.make_durable().await
    }

    /// Stops the guest's CPUs, nothing else, and waits for its disk writes. The guest does not learn of it: its
    /// workload is frozen only if the agent was asked for that before. Harmless if the machine is paused already.
    pub async fn pause(&self) -> Result<(), VmmError> {
        self.control.pause(self).await
    }

    /// Lets the CPUs of a paused machine run again. Harmless if they run already.
    pub async fn resume(&self) -> Result<(), VmmError> {
        self.control.resume(self).await
    }

    /// Takes the whole difference of a paused machine to its base, also of a machine that was itself restored with
    /// changes, or adopted. The cost follows the number of pages that differ.
    ///
    /// Of the memory, this call only finds the pages. They are read while the returned runs are consumed, that is,
    /// while the archive is written. The machine must therefore stay paused until the last run: a guest that ran
    /// meanwhile would give pages that are newer than its device state. Reading blocks, and `destroy` ends it with an
    /// error.
    ///
    /// The machine is not changed, so a failed call can be repeated. The disk is not part of it: the caller copies it
    /// while the machine is paused.
    pub async fn snapshot_diff(&self) -> Result<DiffSnapshot, VmmError> {
        let state = self.control.save_state(self).await?;
        let overlaid = self.control.overlaid_memory(self);
        let found = memory::difference(self.proc()?, self.control.mapping()?, self.record.shape, overlaid);
        let memory = self.while_alive("its difference to the base was being looked for", found).await?;
        Ok(DiffSnapshot { memory: self.with_final_check(memory), state })
    }

    /// Waits until the VMM has ended or its guest has shut down, and returns the reason. Any number of callers may
    /// wait.
    pub async fn exited(&self) -> ExitReason {
        let mut exit = self.exit.clone();
        let reason = exit.wait_for(Option::is_some).await.ok().and_then(|reason| reason.clone());
        match reason {
            Some(reason) => reason,
            // The watching task has panicked, or the runtime shuts down. Neither ends the VMM.
            None => self.process.exited().await,
        }
    }

    /// The end of the guest's console, at most 64 KiB.
    pub async fn console_tail(&self) -> String {
        self.control.console_tail().await
    }

    /// Bytes of memory that this machine costs beyond the pages that all clones share; see [`crate::private_bytes`].
    pub fn private_bytes(&self) -> Result<u64, VmmError> {
        process::private_bytes(self.record.pid)
    }

    /// Kills the process, waits until it has ended, and removes its control group and directory. May be called again.
    pub async fn destroy(&self) -> Result<(), VmmError> {
        self.process.kill();
        clean_up(&self.group, &self.record.dir).await;
        let gone = tokio::time::timeout(KILL_DEADLINE, self.process.exited()).await;
        gone.map(drop)
            .map_err(|_: Elapsed| VmmError::Hung { command: "SIGKILL".to_owned(), seconds: KILL_DEADLINE.as_secs() })
    }

    /// Opens the directory of the process in /proc.
    pub(crate) fn proc(&self) -> Result<Proc, VmmError> {
        let proc = Proc::open(self.record.pid)?;
        self.check_alive().map(|()| proc)
    }

    /// An error if the process has ended. To be called after opening something by the process's number, which may have
    /// been another process's if this one has ended.
    pub(crate) fn check_alive(&self) -> Result<(), VmmError> {
        self.process.check_alive()
    }

    /// Runs `operation`. If the machine ends meanwhile, the error is [`VmmError::Died`] with `stage` and the reason.
    pub(crate) async fn while_alive<T>(
        &self,
        stage: &'static str,
        operation: impl Future<Output = Result<T, VmmError>>,
    ) -> Result<T, VmmError> {
        let result = tokio::select! {
            biased;
            result = operation => result,
            reason = self.exited() => return Err(VmmError::Died { stage, reason }),
        };
        // A connection breaks, or a memory ends, a moment before the watching task knows of the death that caused it:
        // the death is what is reported. A success is in doubt as well if the process is dead by now, because what was
        // opened by its number may have been another process's.
        let in_doubt = match &result {
            Ok(_) => !self.process.is_alive(),
            Err(error) => {
                matches!(error, VmmError::Protocol { .. } | VmmError::System { .. } | VmmError::NotAlive { .. })
            }
        };
        if in_doubt && let Ok(reason) = tokio::time::timeout(EXIT_GRACE, self.exited()).await {
            return Err(VmmError::Died { stage, reason });
        }
        result
    }

    /// Appends an error to `runs`, which are read from the process's memory, if pages may have been lost while they
    /// were read.
    fn with_final_check(&self, runs: Runs) -> Runs {
        let (process, group) = (Arc::clone(&self.process), self.group.clone());
        let lost = move || {
            // The kernel's OOM reaper frees pages of a process that it kills before that has ended. Reads of them do
            // not fail: they give the base's bytes in their place.
            let intact = process.is_alive() && !group.ran_out_of_memory();
            (!intact).then(|| Err(io::Error::other(VmmError::NotAlive { pid: process.pid() })))
        };
        Box::new(runs.chain(iter::once_with(lost).flatten()))
    }
}
