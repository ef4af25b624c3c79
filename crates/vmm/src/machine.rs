//! One living VMM: a process in a control group, with a folder, watched until it ends.
//!
//! ```text
//! Started ──watch──► Machine ──► what is the same for every driver: record, namespace, death, differences, destroy
//!                       └─ Box<dyn Control> ──► what is the driver's own: pause, resume, device state, console
//! ```
//!
//! Made by the drivers' `boot`, `restore` and `adopt`; used by `templates` and `lifecycle`.

use crate::cgroup::Cgroup;
use crate::driver::Control;
use crate::error::{ExitReason, VmmError};
use crate::memory::{self, Proc};
use crate::process::{self, Process};
use crate::record::MachineRecord;
use crate::spec::{DiffSnapshot, Snapshot};
use crate::started::{DEATH_SHOWS, KILL_DEADLINE, Started, clean_up, with_memory};
use leapbox_storage::Runs;
use std::fs::File;
use std::future::Future;
use std::io;
use std::iter;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use tokio::sync::watch;
use tokio::time::error::Elapsed;

/// One living VMM.
pub struct Machine {
    pub(crate) record: MachineRecord,
    process: Arc<Process>,
    group: Cgroup,
    /// Why it ended, once it has.
    exit: watch::Receiver<Option<ExitReason>>,
    control: Box<dyn Control>,
    /// Where its memory and state go; only a booted machine has it.
    snapshot: Option<Snapshot>,
}

impl Machine {
    /// Starts watching. `ended` comes to an end when the machine does, and tells why.
    pub(crate) fn watch<F>(
        started: Started,
        control: impl Control + 'static,
        ended: impl FnOnce(Arc<Process>) -> F,
    ) -> Self
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
        Self { record: started.record, process, group: started.group, exit, control: Box::new(control), snapshot: None }
    }

    /// Remembers where the snapshot of this machine goes.
    pub(crate) fn booted_into(mut self, snapshot: Snapshot) -> Self {
        self.snapshot = Some(snapshot);
        self
    }

    /// What finds it again.
    pub fn record(&self) -> MachineRecord {
        self.record.clone()
    }

    /// The network namespace it runs in, for a server that has been restarted.
    pub fn netns(&self) -> Result<OwnedFd, VmmError> {
        let path = format!("/proc/{}/ns/net", self.record.pid);
        let fd = File::open(&path)
            .map_err(|source| process::not_alive(self.record.pid, "opening its network namespace", source))?;
        self.check_alive().map(|()| fd.into())
    }

    /// Stops the guest and writes memory and device state into the folder it was booted with. The machine is
    /// destroyed in either case.
    pub async fn into_warm_snapshot(mut self) -> Result<Snapshot, VmmError> {
        let snapshot = self.snapshot.take().ok_or(VmmError::Refused {
            command: "snapshot".to_owned(),
            message: "only a machine that was booted for it has a place for its memory".to_owned(),
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
        snapshot.keep().await
    }

    /// Stops the guest's CPUs and lets its disk writes come to an end. Harmless when it is paused.
    pub async fn pause(&self) -> Result<(), VmmError> {
        self.control.pause(self).await
    }

    /// Lets a paused guest go on. Harmless when it runs.
    pub async fn resume(&self) -> Result<(), VmmError> {
        self.control.resume(self).await
    }

    /// What a paused machine has become since it was started from a snapshot: the whole difference to that, also of a
    /// machine that was itself restored with changes, or adopted. The cost follows the pages in it. The machine stays
    /// paused and unchanged: this may fail, or be asked again, any number of times. It must stay paused until the
    /// memory is read, which blocks; `destroy` ends that with an error. Its disk is the caller's to copy meanwhile.
    pub async fn snapshot_diff(&self) -> Result<DiffSnapshot, VmmError> {
        let state = self.control.save_state(self).await?;
        let composed = self.control.composed(self);
        let found = memory::difference(self.proc()?, self.control.mapping()?, self.record.shape, composed);
        let memory = self.while_alive("looking for its changes", found).await?;
        Ok(DiffSnapshot { memory: self.whole(memory), state })
    }

    /// Waits until the VMM is gone or its guest has shut down, and tells why. May be called by many and again.
    pub async fn exited(&self) -> ExitReason {
        let mut exit = self.exit.clone();
        match exit.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone().unwrap_or(ExitReason::Gone),
            Err(_) => ExitReason::Gone,
        }
    }

    /// The end of the guest's console, bounded (at most 64 KiB).
    pub async fn console_tail(&self) -> String {
        self.control.console_tail().await
    }

    /// Resident memory in bytes that is the machine's alone (private pages).
    pub fn private_bytes(&self) -> Result<u64, VmmError> {
        process::private_bytes(self.record.pid)
    }

    /// Kills it, waits until it is gone, removes its cgroup and folder. May be called again.
    pub async fn destroy(&self) -> Result<(), VmmError> {
        self.process.kill();
        clean_up(&self.group, &self.record.dir).await;
        let gone = tokio::time::timeout(KILL_DEADLINE, self.process.exited()).await;
        gone.map(drop)
            .map_err(|_: Elapsed| VmmError::Hung { command: "kill".to_owned(), seconds: KILL_DEADLINE.as_secs() })
    }

    /// Its folder in /proc.
    pub(crate) fn proc(&self) -> Result<Proc, VmmError> {
        let proc = Proc::open(self.record.pid)?;
        self.check_alive().map(|()| proc)
    }

    /// An error if it has ended: what was opened by its number may then have been another's.
    pub(crate) fn check_alive(&self) -> Result<(), VmmError> {
        if self.process.is_alive() { Ok(()) } else { Err(VmmError::NotAlive { pid: self.record.pid }) }
    }

    /// Runs `operation`, unless the machine ends first; then that is the error.
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

    /// `runs`, read from the process's memory, with an error at their end if some of that may have gone meanwhile. A
    /// process that the kernel ends for want of memory can lose pages before it is gone; its base's bytes are read in
    /// their place.
    fn whole(&self, runs: Runs) -> Runs {
        let (process, group) = (Arc::clone(&self.process), self.group.clone());
        let lost = move || {
            let whole = process.is_alive() && !group.ran_out_of_memory();
            (!whole).then(|| Err(io::Error::other(VmmError::NotAlive { pid: process.pid() })))
        };
        Box::new(runs.chain(iter::once_with(lost).flatten()))
    }
}
