//! Storing a running sandbox whole, to pause it or to keep a snapshot.
//!
//! ```text
//! pause:     a turn ─► row snapshotting ─► suspend ─► store ─► row paused ─► machine gone ─► published
//! snapshot:  a turn ─► row snapshotting ─► suspend ─► store ─► the snapshot's row ─► goes on ─► row running
//!                          └── anything fails: it goes on, row running, and what was stored is dropped
//! ```

use super::{NextState, StateDriver, Tried};
use crate::error::{CheckpointError, LaunchError, LifecycleError};
use crate::machines::{CheckpointPin, SandboxVm};
use leapbox_db::{Live, Sandbox, Status, StoredMemory};
use leapbox_errors::chain;
use leapbox_ids::CheckpointId;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{AcquireError, OwnedSemaphorePermit};

/// What storing a machine may take: 8 GiB of memory and 10 GiB of disk on a slow disk. A machine that takes longer is
/// not worth its place.
const STORE_DEADLINE: Duration = Duration::from_secs(600);

impl StateDriver {
    /// Stores the whole sandbox and ends its machine.
    pub(super) async fn pause(&mut self, live: Live, machine: Box<dyn SandboxVm>) -> Tried {
        let turn = match self.storing_turn().await {
            Ok(turn) => turn,
            Err(error) => return Err((NextState::Running(live, machine), error)),
        };
        let begun = Instant::now();
        let (stored, paused) = match self.store_to_pause(&live, machine.as_ref()).await {
            Ok(stored) => stored,
            Err(error) => return Err((NextState::Running(live, machine), error)),
        };
        drop(turn);
        self.disconnect_clients();
        machine.destroy().await;
        self.publish(paused);
        self.inner.stats.paused(begun.elapsed());
        Ok(NextState::Paused(stored))
    }

    /// What is stored, and the paused sandbox: it is in the database, and is published once its machine is gone.
    async fn store_to_pause(
        &mut self,
        live: &Live,
        machine: &dyn SandboxVm,
    ) -> Result<(StoredMemory, Sandbox), LifecycleError> {
        self.commit(Status::Snapshotting(live.clone())).await?;
        let checkpoint = CheckpointId::generate();
        let _pin = self.store_whole(live, machine, &checkpoint).await?;
        let stored = StoredMemory { checkpoint, origin: live.origin.clone() };
        let paused = self.next(Status::Paused(stored.clone()));
        if let Err(error) = self.inner.db.sandbox_update(&paused).await {
            self.undo(live, machine, &stored.checkpoint).await;
            return Err(error.into());
        }
        Ok((stored, paused))
    }

    /// A turn to store something: each takes the disk and a CPU, and more at once would only make each take longer,
    /// with its sandbox suspended meanwhile.
    pub(super) async fn storing_turn(&self) -> Result<OwnedSemaphorePermit, LifecycleError> {
        let turn = Arc::clone(&self.inner.storing).acquire_owned();
        tokio::select! {
            biased;
            () = self.inner.stop.cancelled() => Err(LifecycleError::ShuttingDown),
            turn = turn => turn.map_err(|_: AcquireError| LifecycleError::ShuttingDown),
        }
    }

    /// Suspends the machine and stores all of it. On failure it goes on.
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
                tracing::warn!(sandbox = %self.spec.id, error = %chain(&error), "a sandbox could not be stored");
                self.undo(live, machine, checkpoint).await;
                Err(error.into())
            }
        }
    }

    /// Lets the sandbox go on as if nothing had been asked of it, and drops what was stored.
    pub(super) async fn undo(&mut self, live: &Live, machine: &dyn SandboxVm, checkpoint: &CheckpointId) {
        // A row that was refused may have been written all the same: what it names goes after it does not any more.
        let id = &self.spec.id;
        match self.inner.db.sandbox_update(&self.sandbox()).await {
            Ok(()) => self.inner.machines.discard(checkpoint).await,
            Err(error) => tracing::warn!(sandbox = %id, error = %chain(&error), "left for the garbage collection"),
        }
        self.go_on(live, machine).await;
    }

    /// Lets the suspended sandbox run again.
    pub(super) async fn go_on(&mut self, live: &Live, machine: &dyn SandboxVm) {
        self.resume_workload(machine).await;
        self.commit_best_effort(self.next(Status::Running(live.clone()))).await;
    }

    /// Lets a suspended machine go on. If its guest does not confirm that, it is told again while it runs.
    pub(super) async fn resume_workload(&mut self, machine: &dyn SandboxVm) {
        let id = &self.spec.id;
        let confirmed = async {
            machine.resume().await?;
            machine.go_on(id).await
        };
        let confirmed: Result<(), LaunchError> = confirmed.await;
        if let Err(error) = &confirmed {
            tracing::warn!(sandbox = %id, error = %chain(error), "a guest did not confirm that it goes on");
        }
        self.unconfirmed = confirmed.is_err();
    }
}

async fn in_time(
    stored: impl Future<Output = Result<CheckpointPin, CheckpointError>>,
) -> Result<CheckpointPin, CheckpointError> {
    let seconds = STORE_DEADLINE.as_secs();
    tokio::time::timeout(STORE_DEADLINE, stored).await.unwrap_or(Err(CheckpointError::Late { seconds }))
}
