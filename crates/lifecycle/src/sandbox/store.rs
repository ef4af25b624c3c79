//! Storing a running sandbox whole, to pause it or to keep a snapshot.
//!
//! ```text
//! pause:     a turn ─► row snapshotting ─► suspend ─► store ─► row paused ─► machine gone ─► published
//! snapshot:  a turn ─► row snapshotting ─► suspend ─► store ─► the snapshot's row ─► goes on ─► row running
//!                          └── anything fails: it goes on, row running, and what was stored is dropped
//! ```

use super::{Driver, Life};
use crate::error::{CheckpointError, LaunchError, LifecycleError, chain};
use crate::machines::{Body, Unnamed};
use leapbox_api_types::sandbox::SandboxState;
use leapbox_db::SandboxRow;
use leapbox_ids::CheckpointId;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::OwnedSemaphorePermit;

/// What storing a machine may take: 8 GiB of memory and 10 GiB of disk on a slow disk. A machine that takes longer is
/// not worth its place.
const STORE_DEADLINE: Duration = Duration::from_secs(600);

/// A machine that was to change, and goes on instead.
pub(super) type Unchanged = (Box<dyn Body>, LifecycleError);

impl Driver {
    /// Stores the whole sandbox and ends its machine.
    pub(super) async fn pause(&mut self, machine: Box<dyn Body>) -> Result<Life, Unchanged> {
        let turn = match self.storing_turn().await {
            Ok(turn) => turn,
            Err(error) => return Err((machine, error)),
        };
        let begun = Instant::now();
        if let Err(error) = self.enter(self.row_in(SandboxState::Snapshotting)).await {
            return Err((machine, error));
        }
        let checkpoint = CheckpointId::generate();
        let unnamed = match self.store_whole(machine.as_ref(), &checkpoint).await {
            Ok(unnamed) => unnamed,
            Err(error) => return Err((machine, error)),
        };
        let row = self.row_of_stored(SandboxState::Paused, &checkpoint);
        if let Err(error) = self.inner.db.sandbox_update(&row).await {
            self.undo(machine.as_ref(), &checkpoint).await;
            return Err((machine, error.into()));
        }
        drop((unnamed, turn));
        self.cut_off();
        machine.destroy().await;
        self.publish_row(row);
        self.inner.stats.paused(begun.elapsed());
        Ok(Life::Paused)
    }

    /// A turn to store something: each takes the disk and a CPU, and more at once would only make each take longer,
    /// with its sandbox suspended meanwhile.
    pub(super) async fn storing_turn(&self) -> Result<OwnedSemaphorePermit, LifecycleError> {
        let turn = Arc::clone(&self.inner.storing).acquire_owned();
        tokio::select! {
            biased;
            () = self.inner.stop.cancelled() => Err(LifecycleError::ShuttingDown),
            turn = turn => turn.map_err(|_| LifecycleError::ShuttingDown),
        }
    }

    /// Suspends the machine and stores all of it. On failure it goes on.
    pub(super) async fn store_whole(
        &mut self,
        machine: &dyn Body,
        checkpoint: &CheckpointId,
    ) -> Result<Unnamed, LifecycleError> {
        let row = self.row();
        let stored = async {
            machine.suspend().await?;
            machine.store(&row, checkpoint.as_str()).await
        };
        match in_time(stored).await {
            Ok(unnamed) => Ok(unnamed),
            Err(error) => {
                tracing::warn!(sandbox = %row.id, error = %chain(&error), "a sandbox could not be stored");
                self.undo(machine, checkpoint).await;
                Err(error.into())
            }
        }
    }

    /// The row of a sandbox whose machine is stored.
    pub(super) fn row_of_stored(&self, state: SandboxState, checkpoint: &CheckpointId) -> SandboxRow {
        SandboxRow {
            checkpoint: Some(checkpoint.as_str().to_owned()),
            machine: None,
            timeout_at_ms: None,
            ..self.row_in(state)
        }
    }

    /// Lets the sandbox go on as if nothing had been asked of it, and drops what was stored.
    pub(super) async fn undo(&mut self, machine: &dyn Body, checkpoint: &CheckpointId) {
        // A row that was refused may have been written all the same: what it names goes after it does not any more.
        let row = self.row();
        match self.inner.db.sandbox_update(&row).await {
            Ok(()) => self.inner.machines.discard(checkpoint.as_str()).await,
            Err(error) => tracing::warn!(sandbox = %row.id, error = %chain(&error), "left for the garbage collection"),
        }
        self.wake_up(machine).await;
        self.fall(self.row_in(SandboxState::Running)).await;
    }

    /// Lets a suspended machine go on. If its guest does not confirm that, it is told again while it runs.
    pub(super) async fn wake_up(&mut self, machine: &dyn Body) {
        let id = self.row().id;
        let told = async {
            machine.resume().await?;
            machine.go_on(&id).await
        };
        let told: Result<(), LaunchError> = told.await;
        if let Err(error) = &told {
            tracing::warn!(sandbox = %id, error = %chain(error), "a guest did not confirm that it goes on");
        }
        self.unconfirmed = told.is_err();
    }
}

async fn in_time(stored: impl Future<Output = Result<Unnamed, CheckpointError>>) -> Result<Unnamed, CheckpointError> {
    let seconds = STORE_DEADLINE.as_secs();
    tokio::time::timeout(STORE_DEADLINE, stored).await.unwrap_or(Err(CheckpointError::Late { seconds }))
}
