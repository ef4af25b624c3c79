//! Stops a sandbox: its processes end, its disk is stored.
//!
//! ```text
//! row stopping ─► workload ends ─► machine ends, its disk stays ─► store disk ─► row stopped ─► disk removed
//!                                                                      └── on failure: again, until it is deleted
//! ```

use super::waiting::Heard;
use super::{NextState, SandboxTask};
use crate::error::{CheckpointError, LifecycleError};
use crate::machines::{CheckpointPin, SandboxVm};
use crate::request::{Reply, answer};
use crate::shared::Shared;
use leapbox_db::{Live, Sandbox, Spec, Status, StoredDisk};
use leapbox_errors::chain;
use leapbox_ids::CheckpointId;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::AcquireError;
use tokio::time::Instant;

/// How long after a failed attempt the disk is stored again. The sandbox cannot be used meanwhile, so this is shorter
/// than between two pauses at a timeout.
const STORE_RETRY: Duration = Duration::from_secs(5);

impl SandboxTask {
    /// Ends the workload and the machine; the disk stays.
    pub(super) async fn stop(&mut self, live: Live, machine: Box<dyn SandboxVm>, reply: Reply<Sandbox>) -> NextState {
        if let Err(error) = self.commit(Status::Stopping(live.clone())).await {
            answer(reply, Err(error));
            return NextState::Running(live, machine);
        }
        // From here on there is no way back: a workload that has been asked to end cannot be resumed.
        self.disconnect_clients();
        machine.shut_down().await;
        machine.end_keeping_disk().await;
        NextState::Stopping(live, Some(reply))
    }

    /// Stores the disk that is left of a sandbox, again and again until it succeeds. The request that stopped the
    /// sandbox is answered after the first attempt.
    pub(super) async fn stopping(&mut self, live: Live, mut reply: Option<Reply<Sandbox>>) -> NextState {
        loop {
            let disk = StoredDisk { checkpoint: CheckpointId::generate(), image: live.origin.image.clone() };
            let stored = store_disk(Arc::clone(&self.shared), Arc::clone(&self.spec), live.clone(), disk.clone());
            let error = match self.hear(stored).await {
                Heard::Done(Ok(pin)) => match self.commit_stopped(&live, &disk, pin).await {
                    Ok(()) => {
                        answer_if_asked(reply, Ok(self.sandbox()));
                        return NextState::Stopped(disk);
                    }
                    Err(error) => error,
                },
                Heard::Done(Err(error)) => error,
                Heard::ServerStops => {
                    answer_if_asked(reply, Err(LifecycleError::ShuttingDown));
                    return NextState::Ended;
                }
                Heard::Deleted(deleted) => match self.delete_disk(&live, deleted).await {
                    Some(next) => {
                        answer_if_asked(reply, Err(self.deleted_meanwhile()));
                        return next;
                    }
                    None => continue,
                },
            };
            if let Some(next) = self.not_stored(&live, error, reply.take()).await {
                return next;
            }
        }
    }

    /// Commits `stopped`, and removes the machine's disk. The pin keeps the checkpoint until the row names it.
    async fn commit_stopped(
        &mut self,
        live: &Live,
        disk: &StoredDisk,
        _pin: CheckpointPin,
    ) -> Result<(), LifecycleError> {
        let stopped = self.next(Status::Stopped(disk.clone()));
        // An update that returned an error may have been committed all the same. So the disk stays, and the checkpoint
        // too: either the row names it, or the garbage collection finds it.
        self.shared.db.sandbox_update(&stopped).await?;
        self.shared.machines.remove_disk(&live.vm).await;
        self.publish(stopped);
        Ok(())
    }

    /// Tells of a failed attempt to store the disk, and waits until the next one is due (`None`).
    async fn not_stored(
        &mut self,
        live: &Live,
        error: LifecycleError,
        reply: Option<Reply<Sandbox>>,
    ) -> Option<NextState> {
        let again_s = STORE_RETRY.as_secs();
        tracing::warn!(
            sandbox = %self.spec.id, error = %chain(&error), again_s,
            "the disk of a stopped sandbox could not be stored; it is tried again"
        );
        let is_lost = matches!(error, LifecycleError::Checkpoint(CheckpointError::DiskLost));
        let reason = error.to_string();
        answer_if_asked(reply, Err(error));
        // The one failure that no further attempt can mend.
        if is_lost {
            return Some(self.finish_deleted(Some(reason), None).await);
        }
        self.wait_for_retry(live).await
    }

    /// Deletes the sandbox with the disk that is left of it, and answers. `None` if that failed.
    async fn delete_disk(&mut self, live: &Live, reply: Reply<Sandbox>) -> Option<NextState> {
        let next = self.answer_deleted(None, reply).await?;
        self.shared.machines.end_unadopted(&live.vm).await;
        Some(next)
    }

    /// Waits until the next attempt is due (`None`), or the sandbox is deleted by its owner, or the server stops.
    async fn wait_for_retry(&mut self, live: &Live) -> Option<NextState> {
        let again = Instant::now() + STORE_RETRY;
        loop {
            match self.hear(tokio::time::sleep_until(again)).await {
                Heard::Done(()) => return None,
                Heard::ServerStops => return Some(NextState::Ended),
                Heard::Deleted(reply) => {
                    if let Some(next) = self.delete_disk(live, reply).await {
                        return Some(next);
                    }
                }
            }
        }
    }
}

/// Answers the request that stopped the sandbox; after a restart of the server there is none.
fn answer_if_asked(reply: Option<Reply<Sandbox>>, outcome: Result<Sandbox, LifecycleError>) {
    if let Some(reply) = reply {
        answer(reply, outcome);
    }
}

/// Stores the disk of a machine once there is a permit to.
async fn store_disk(
    shared: Arc<Shared>,
    spec: Arc<Spec>,
    live: Live,
    disk: StoredDisk,
) -> Result<CheckpointPin, LifecycleError> {
    let permit = Arc::clone(&shared.store_permits).acquire_owned().await;
    let _permit = permit.map_err(|_: AcquireError| LifecycleError::ShuttingDown)?;
    Ok(shared.machines.store_disk(&spec, &live, &disk.checkpoint).await?)
}
