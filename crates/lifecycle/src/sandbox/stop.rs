//! Stopping a sandbox: its processes end, its disk is kept.
//!
//! ```text
//! row stopping ─► workload ends ─► machine gone but for its disk ─► store disk ─► row stopped ─► disk gone
//!                                                                       └── fails: again, until it succeeds or is deleted
//! ```

use super::{NextState, StateDriver};
use crate::error::{CheckpointError, LifecycleError};
use crate::machines::SandboxVm;
use crate::policy::{self, StoppingOperation};
use crate::request::{Message, Reply, answer};
use leapbox_db::{Live, Sandbox, Status, StoredDisk};
use leapbox_errors::chain;
use leapbox_ids::CheckpointId;
use std::time::Duration;

/// After a disk could not be stored, it is tried again.
const STORE_AGAIN: Duration = Duration::from_secs(5);

impl StateDriver {
    /// Ends the workload and the machine, but for its disk.
    pub(super) async fn stop(&mut self, live: Live, machine: Box<dyn SandboxVm>, reply: Reply<Sandbox>) -> NextState {
        if let Err(error) = self.commit(Status::Stopping(live.clone())).await {
            answer(reply, Err(error));
            return NextState::Running(live, machine);
        }
        self.disconnect_clients();
        machine.shut_down().await;
        machine.end_but_disk().await;
        NextState::Stopping(live, Some(reply))
    }

    /// Stores the disk that is left of a sandbox. There is no way back, so this is tried until it succeeds; whoever asked
    /// for the stop is told of the first failure.
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
            let again_s = STORE_AGAIN.as_secs();
            tracing::warn!(sandbox = %self.spec.id, error = %chain(&error), again_s, "a disk could not be stored");
            let is_lost = matches!(error, LifecycleError::Checkpoint(CheckpointError::DiskLost));
            let reason = error.to_string();
            if let Some(reply) = reply.take() {
                answer(reply, Err(error));
            }
            if is_lost {
                return self.finish_deleted(Some(reason), None).await;
            }
            if let Some(next) = self.between_attempts(&live).await {
                return next;
            }
        }
    }

    async fn store_disk(&mut self, live: &Live) -> Result<StoredDisk, LifecycleError> {
        let _turn = self.storing_turn().await?;
        let disk = StoredDisk { checkpoint: CheckpointId::generate(), image: live.origin.image.clone() };
        let _pin = self.inner.machines.store_disk(&self.spec, live, &disk.checkpoint).await?;
        let stopped = self.next(Status::Stopped(disk.clone()));
        // A row that was refused may have been written all the same: the disk stays, and what was stored is garbage for
        // later.
        self.inner.db.sandbox_update(&stopped).await?;
        self.inner.machines.remove_disk(&live.vm).await;
        self.publish(stopped);
        Ok(disk)
    }

    /// Waits for the next attempt. Its owner may give the sandbox up meanwhile.
    async fn between_attempts(&mut self, live: &Live) -> Option<NextState> {
        let again = tokio::time::sleep(STORE_AGAIN);
        tokio::pin!(again);
        loop {
            let message = tokio::select! {
                biased;
                message = self.next_message() => message,
                () = &mut again => return None,
            };
            let request = match message {
                None => return Some(NextState::Ended),
                Some(Message::Wake(_)) => continue,
                Some(Message::Ask(request)) => request,
            };
            match policy::stopping(request) {
                Ok(StoppingOperation::Delete(reply)) => {
                    if let Some(next) = self.answer_deleted(None, reply).await {
                        self.inner.machines.remove_disk(&live.vm).await;
                        return Some(next);
                    }
                }
                Err((request, refusal)) => self.refuse(request, refusal),
            }
        }
    }
}
