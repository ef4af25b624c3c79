//! Stops a sandbox: its processes end, its disk is stored.
//!
//! ```text
//! row stopping ─► workload ends ─► machine ends, its disk stays ─► store disk ─► row stopped ─► disk removed
//!                                                                      └── on failure: again, until it is deleted
//! ```

use super::{NextState, SandboxTask};
use crate::error::{CheckpointError, LifecycleError};
use crate::machines::SandboxVm;
use crate::policy::{self, StoppingOperation};
use crate::request::{Message, Reply, answer};
use leapbox_db::{Live, Sandbox, Status, StoredDisk};
use leapbox_errors::chain;
use leapbox_ids::CheckpointId;
use std::time::Duration;

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
            let error = match self.store_disk(&live).await {
                Ok(stored) => {
                    if let Some(reply) = reply {
                        answer(reply, Ok(self.sandbox()));
                    }
                    return NextState::Stopped(stored);
                }
                Err(error) => error,
            };
            let again_s = STORE_RETRY.as_secs();
            tracing::warn!(
                sandbox = %self.spec.id, error = %chain(&error), again_s,
                "the disk of a stopped sandbox could not be stored; it is tried again"
            );
            let is_lost = matches!(error, LifecycleError::Checkpoint(CheckpointError::DiskLost));
            let reason = error.to_string();
            if let Some(reply) = reply.take() {
                answer(reply, Err(error));
            }
            // The one failure that no further attempt can mend.
            if is_lost {
                return self.finish_deleted(Some(reason), None).await;
            }
            if let Some(next) = self.wait_for_retry(&live).await {
                return next;
            }
        }
    }

    async fn store_disk(&mut self, live: &Live) -> Result<StoredDisk, LifecycleError> {
        let _permit = self.store_permit().await?;
        let disk = StoredDisk { checkpoint: CheckpointId::generate(), image: live.origin.image.clone() };
        let _pin = self.shared.machines.store_disk(&self.spec, live, &disk.checkpoint).await?;
        let stopped = self.next(Status::Stopped(disk.clone()));
        // An update that returned an error may have been committed all the same. So the disk stays, and the checkpoint
        // too: either the row names it, or the garbage collection finds it.
        self.shared.db.sandbox_update(&stopped).await?;
        self.shared.machines.remove_disk(&live.vm).await;
        self.publish(stopped);
        Ok(disk)
    }

    /// Waits until the next attempt is due (`None`), or the sandbox is deleted by its owner, or the server stops.
    async fn wait_for_retry(&mut self, live: &Live) -> Option<NextState> {
        let again = tokio::time::sleep(STORE_RETRY);
        tokio::pin!(again);
        loop {
            let message = tokio::select! {
                biased;
                message = self.next_message() => message,
                () = &mut again => return None,
            };
            let request = match message {
                None => return Some(NextState::Ended),
                // A stopped sandbox is started by its owner alone.
                Some(Message::Wake(_)) => continue,
                Some(Message::Ask(request)) => request,
            };
            match policy::stopping(request) {
                Ok(StoppingOperation::Delete(reply)) => {
                    if let Some(next) = self.answer_deleted(None, reply).await {
                        self.shared.machines.remove_disk(&live.vm).await;
                        return Some(next);
                    }
                }
                Err((request, refusal)) => self.refuse(request, refusal),
            }
        }
    }
}
