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

use super::waiting::{BrokenOff, Heard};
use super::{Attempt, NextState, SandboxTask};
use crate::error::{CheckpointError, LaunchError};
use crate::machines::{CheckpointPin, SandboxVm};
use leapbox_db::{Live, Sandbox, Status, StoredMemory};
use leapbox_errors::chain;
use leapbox_ids::{CheckpointId, SandboxId};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{AcquireError, OwnedSemaphorePermit};

/// How long storing a machine may take, with its guest standing still. Ten minutes write the largest one (8 GiB of
/// memory and 10 GiB of disk) to a slow disk of 30 MiB/s. Beyond it the store is given up and the sandbox runs on.
const STORE_DEADLINE: Duration = Duration::from_secs(600);

/// How long after an unconfirmed resume the guest is asked again: its workload may be frozen until then.
const CONFIRM_RETRY: Duration = Duration::from_secs(3);

impl SandboxTask {
    /// Stores the whole sandbox and ends its machine. On failure the sandbox runs on, unless it was deleted meanwhile
    /// or its machine has died.
    pub(super) async fn pause(&mut self, live: Live, machine: Box<dyn SandboxVm>) -> Attempt {
        let (stored, paused, begun) = match self.store_to_pause(&live, machine.as_ref()).await {
            Ok(stored) => stored,
            Err(reason) => return Err(self.break_off(live, machine, reason).await),
        };
        self.disconnect_clients();
        machine.destroy().await;
        // `paused` is published last: whoever sees it may wake the sandbox, and it must never have two machines.
        self.publish(paused);
        self.shared.stats.paused(begun.elapsed());
        Ok(NextState::Paused(stored))
    }

    /// Stores the machine and writes the row `paused`. Returns the checkpoint, the paused sandbox, which is not
    /// published yet, and when storing began.
    async fn store_to_pause(
        &mut self,
        live: &Live,
        machine: &dyn SandboxVm,
    ) -> Result<(StoredMemory, Sandbox, Instant), BrokenOff> {
        // Given back when this returns: the machine's end needs neither the disk nor the CPU, so the next sandbox can
        // be stored meanwhile.
        let _permit = self.store_permit(machine).await?;
        let begun = Instant::now();
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
        Ok((stored, paused, begun))
    }

    /// Waits for a permit to store a machine, which runs on until then, so that its guest stands still for its own
    /// store only.
    pub(super) async fn store_permit(&mut self, machine: &dyn SandboxVm) -> Result<OwnedSemaphorePermit, BrokenOff> {
        let permit = Arc::clone(&self.shared.store_permits).acquire_owned();
        let permit = self.hear_beside(machine, permit).await?;
        permit.map_err(|_: AcquireError| BrokenOff::ServerStops)
    }

    /// Suspends the machine and stores all of it. On failure the machine runs again, unless the sandbox was deleted
    /// meanwhile.
    pub(super) async fn store_whole(
        &mut self,
        live: &Live,
        machine: &dyn SandboxVm,
        checkpoint: &CheckpointId,
    ) -> Result<CheckpointPin, BrokenOff> {
        let spec = Arc::clone(&self.spec);
        let stored = async {
            machine.suspend().await?;
            machine.store(&spec, checkpoint).await
        };
        // A machine that dies meanwhile ends the store with an error of its own.
        let broken_off = match self.hear(in_time(stored)).await {
            Heard::Done(Ok(pin)) => return Ok(pin),
            Heard::Done(Err(error)) => {
                tracing::warn!(
                    sandbox = %self.spec.id, error = %chain(&error),
                    "a sandbox could not be stored: it runs on"
                );
                BrokenOff::Failed(error.into())
            }
            Heard::ServerStops => BrokenOff::ServerStops,
            Heard::Deleted(reply) => {
                // It stays suspended for the moment until its machine is ended.
                self.shared.drop_checkpoint(checkpoint).await;
                return Err(BrokenOff::Deleted(reply));
            }
        };
        self.undo_store(live, machine, checkpoint).await;
        Err(broken_off)
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
        let confirmed = resumed(machine, &self.spec.id).await;
        self.note_confirmation(confirmed);
    }

    /// Has the guest asked again later if it has not confirmed that its workload runs.
    pub(super) fn note_confirmation(&mut self, confirmed: Result<(), LaunchError>) {
        // A failure does not end the sandbox: slow is not lost, and the state in its memory may be all its owner has.
        if let Err(error) = &confirmed {
            tracing::warn!(
                sandbox = %self.spec.id, error = %chain(error),
                "a guest did not confirm that its workload runs again; it is asked again"
            );
        }
        self.confirm_at = confirmed.is_err().then(|| tokio::time::Instant::now() + CONFIRM_RETRY);
    }
}

/// Resumes the machine's CPUs and its workload, and waits until the guest confirms it.
pub(super) async fn resumed(machine: &dyn SandboxVm, id: &SandboxId) -> Result<(), LaunchError> {
    machine.resume().await?;
    machine.resume_workload(id).await
}

/// Ends a store that takes longer than [`STORE_DEADLINE`].
async fn in_time(
    stored: impl Future<Output = Result<CheckpointPin, CheckpointError>>,
) -> Result<CheckpointPin, CheckpointError> {
    let seconds = STORE_DEADLINE.as_secs();
    tokio::time::timeout(STORE_DEADLINE, stored).await.unwrap_or(Err(CheckpointError::TimedOut { seconds }))
}
