//! Stores a running sandbox's memory, devices and disk, to pause it or for a snapshot (`snapshot`).
//!
//! ```text
//! pause:     permit ─► row snapshotting ─► suspend ─► store ─► row paused ─► machine ended ─► published
//! snapshot:  permit ─► row snapshotting ─► suspend ─► store ─► the snapshot's row ─► resume ─► row running
//!                                             └── on a failure: the row written again as it is (see `undo_store`)
//!                                                 ─► checkpoint removed ─► machine resumed ─► row running
//! ```
//!
//! Calls into the guest stand still while the sandbox is stored. Once the row says `paused`, `disconnect_clients` ends
//! them: each is in [`RunningSandbox::call`](crate::RunningSandbox::call), which then returns the error of
//! `Handle::ended`, and is answered 409. The gateway closes its connections (`Shared::announce_ending`).

use super::{Attempt, NextState, SandboxTask};
use crate::error::{CheckpointError, LaunchError, LifecycleError};
use crate::machines::{CheckpointPin, SandboxVm};
use leapbox_db::{Live, Sandbox, Status, StoredMemory};
use leapbox_errors::chain;
use leapbox_ids::CheckpointId;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{AcquireError, OwnedSemaphorePermit};

/// How long storing a machine may take, with its guest standing still. Ten minutes write the largest one (8 GiB of
/// memory and 10 GiB of disk) to a slow disk of 30 MiB/s. Beyond it the store is given up and the sandbox runs on.
const STORE_DEADLINE: Duration = Duration::from_secs(600);

impl SandboxTask {
    /// Stores the whole sandbox and ends its machine. On failure the sandbox runs on.
    pub(super) async fn pause(&mut self, live: Live, machine: Box<dyn SandboxVm>) -> Attempt {
        let permit = match self.store_permit().await {
            Ok(permit) => permit,
            Err(error) => return Err((NextState::Running(live, machine), error)),
        };
        let begun = Instant::now();
        let (stored, paused) = match self.store_to_pause(&live, machine.as_ref()).await {
            Ok(stored) => stored,
            Err(error) => return Err((NextState::Running(live, machine), error)),
        };
        // The machine's end needs neither the disk nor the CPU, so the next sandbox can be stored meanwhile.
        drop(permit);
        self.disconnect_clients();
        machine.destroy().await;
        // `paused` is published last: whoever sees it may wake the sandbox, and it must never have two machines.
        self.publish(paused);
        self.shared.stats.paused(begun.elapsed());
        Ok(NextState::Paused(stored))
    }

    /// Stores the machine and writes the row `paused`. Returns the checkpoint and the paused sandbox, which is not
    /// published yet.
    async fn store_to_pause(
        &mut self,
        live: &Live,
        machine: &dyn SandboxVm,
    ) -> Result<(StoredMemory, Sandbox), LifecycleError> {
        self.commit(Status::Snapshotting(live.clone())).await?;
        let checkpoint = CheckpointId::generate();
        // Keeps the checkpoint from the garbage collection until the row names it.
        let _pin = self.store_whole(live, machine, &checkpoint).await?;
        let stored = StoredMemory { checkpoint, origin: live.origin.clone() };
        let paused = self.next(Status::Paused(stored.clone()));
        if let Err(error) = self.shared.db.sandbox_update(&paused).await {
            self.undo_store(live, machine, &stored.checkpoint).await;
            return Err(error.into());
        }
        Ok((stored, paused))
    }

    /// Waits for a permit to store something. [`LifecycleError::ShuttingDown`] if the server stops first.
    pub(super) async fn store_permit(&self) -> Result<OwnedSemaphorePermit, LifecycleError> {
        // Waited for while the sandbox still runs, so that its guest stands still for its own store only.
        let permit = Arc::clone(&self.shared.store_permits).acquire_owned();
        tokio::select! {
            biased;
            () = self.shared.stop.cancelled() => Err(LifecycleError::ShuttingDown),
            permit = permit => permit.map_err(|_: AcquireError| LifecycleError::ShuttingDown),
        }
    }

    /// Suspends the machine and stores all of it. On failure the machine runs again.
    pub(super) async fn store_whole(
        &mut self,
        live: &Live,
        machine: &dyn SandboxVm,
        checkpoint: &CheckpointId,
    ) -> Result<CheckpointPin, LifecycleError> {
        let stored = async {
            machine.suspend().await?;
            machine.store(&self.spec, checkpoint).await
        };
        match in_time(stored).await {
            Ok(pin) => Ok(pin),
            Err(error) => {
                tracing::warn!(
                    sandbox = %self.spec.id, error = %chain(&error),
                    "a sandbox could not be stored: it runs on"
                );
                self.undo_store(live, machine, checkpoint).await;
                Err(error.into())
            }
        }
    }

    /// Removes the checkpoint of a store that failed, and resumes the sandbox.
    pub(super) async fn undo_store(&mut self, live: &Live, machine: &dyn SandboxVm, checkpoint: &CheckpointId) {
        // The update to `paused`, or the insert of a snapshot's row, may have been committed although it failed. So the
        // sandbox's row is first overwritten; only if that succeeds, and no snapshot's row names it, is the checkpoint
        // removed.
        let id = &self.spec.id;
        match self.shared.db.sandbox_update(&self.sandbox()).await {
            Ok(()) => self.shared.drop_checkpoint(checkpoint).await,
            Err(error) => {
                tracing::warn!(
                    sandbox = %id, error = %chain(&error),
                    "a checkpoint is left for the garbage collection"
                );
            }
        }
        self.return_to_running(live, machine).await;
    }

    /// Resumes the suspended machine and commits `running`.
    pub(super) async fn return_to_running(&mut self, live: &Live, machine: &dyn SandboxVm) {
        self.resume_workload(machine).await;
        self.commit_best_effort(self.next(Status::Running(live.clone()))).await;
    }

    /// Resumes the machine's CPUs and its workload. A guest that does not confirm that is asked again while it runs.
    pub(super) async fn resume_workload(&mut self, machine: &dyn SandboxVm) {
        let id = &self.spec.id;
        let confirmed = async {
            machine.resume().await?;
            machine.resume_workload(id).await
        };
        // A failure does not end the sandbox: slow is not lost, and the state in its memory may be all its owner has.
        let confirmed: Result<(), LaunchError> = confirmed.await;
        if let Err(error) = &confirmed {
            tracing::warn!(
                sandbox = %id, error = %chain(error),
                "a guest did not confirm that its workload runs again; it is asked again"
            );
        }
        self.unconfirmed = confirmed.is_err();
    }
}

/// Ends a store that takes longer than [`STORE_DEADLINE`].
async fn in_time(
    stored: impl Future<Output = Result<CheckpointPin, CheckpointError>>,
) -> Result<CheckpointPin, CheckpointError> {
    let seconds = STORE_DEADLINE.as_secs();
    tokio::time::timeout(STORE_DEADLINE, stored).await.unwrap_or(Err(CheckpointError::TimedOut { seconds }))
}
