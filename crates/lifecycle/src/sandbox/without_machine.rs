//! The states without a machine: `paused`, until an HTTP request wakes the sandbox, and `stopped`, until its owner
//! starts it.

use super::begin::NoMachine;
use super::{MachineSource, NextState, SandboxTask};
use crate::error::{LifecycleError, WakeFailure};
use crate::machines::{Activation, SandboxVm};
use crate::policy::{self, PausedOperation, StoppedOperation};
use crate::request::{Message, OwnerRequest, Reply, answer};
use leapbox_api_types::sandbox::SandboxState;
use leapbox_api_types::snapshot::NewSnapshot;
use leapbox_db::{Live, Sandbox, SnapshotRow, Status, Stored, StoredDisk, StoredMemory};
use leapbox_errors::chain;
use std::sync::Arc;
use std::time::Instant;

impl SandboxTask {
    /// Serves the paused sandbox until it is woken or deleted.
    pub(super) async fn paused(&mut self, stored: StoredMemory) -> NextState {
        loop {
            let next = match self.next_message().await {
                None => return NextState::Ended,
                // Everybody who waits sends a wake. The first one of this epoch wakes the sandbox; if that fails, the
                // epoch is another one, and only a request that came later tries again.
                Some(Message::Wake(seen)) if seen == self.publish.borrow().epoch() => self.wake(&stored).await,
                Some(Message::Wake(_)) => None,
                Some(Message::Ask(request)) => self.handle_while_paused(&stored, request).await,
            };
            if let Some(next) = next {
                return next;
            }
        }
    }

    async fn handle_while_paused(&mut self, stored: &StoredMemory, request: OwnerRequest) -> Option<NextState> {
        match policy::paused(request) {
            Ok(PausedOperation::Snapshot(new, reply)) => self.snapshot_paused(stored, new, reply).await,
            Ok(PausedOperation::Delete(reply)) => {
                self.answer_deleted(Some(Stored::Memory(stored.clone())), reply).await
            }
            Err((request, refusal)) => {
                self.refuse(request, refusal);
                None
            }
        }
    }

    /// Serves the stopped sandbox until it is started or deleted.
    pub(super) async fn stopped(&mut self, stored: StoredDisk) -> NextState {
        loop {
            let request = match self.next_message().await {
                None => return NextState::Ended,
                // Sent before the sandbox was stopped. HTTP requests wake a paused sandbox, never a stopped one.
                Some(Message::Wake(_)) => continue,
                Some(Message::Ask(request)) => request,
            };
            let next = match policy::stopped(request) {
                Ok(StoppedOperation::Start(reply)) => self.start(&stored, reply).await,
                Ok(StoppedOperation::Delete(reply)) => {
                    self.answer_deleted(Some(Stored::Disk(stored.clone())), reply).await
                }
                Err((request, refusal)) => {
                    self.refuse(request, refusal);
                    None
                }
            };
            if let Some(next) = next {
                return next;
            }
        }
    }

    /// Deletes a sandbox that has no machine, and answers. `None` if that failed and nothing has changed.
    pub(super) async fn answer_deleted(&mut self, stored: Option<Stored>, reply: Reply<Sandbox>) -> Option<NextState> {
        match self.delete_stored(stored).await {
            Ok(next) => {
                answer(reply, Ok(self.sandbox()));
                Some(next)
            }
            Err(error) => {
                answer(reply, Err(error));
                None
            }
        }
    }

    async fn snapshot_paused(
        &mut self,
        stored: &StoredMemory,
        new: NewSnapshot,
        reply: Reply<SnapshotRow>,
    ) -> Option<NextState> {
        // With `kill_sandbox_after` the deletion leaves the checkpoint, because the snapshot's row names it by then.
        let kill = new.kill_sandbox_after;
        let mut taken = self.snapshot_of_stored(stored, new).await;
        let mut next = None;
        if kill && taken.is_ok() {
            match self.delete_stored(Some(Stored::Memory(stored.clone()))).await {
                Ok(ended) => next = Some(ended),
                Err(error) => taken = Err(error),
            }
        }
        answer(reply, taken);
        next
    }

    /// Wakes a paused sandbox. On failure (`None`) it is paused again, and the reason is published to all who wait.
    async fn wake(&mut self, stored: &StoredMemory) -> Option<NextState> {
        let begun = Instant::now();
        // A failed wake must not look like a new pause: the API shows since when the sandbox has been paused.
        let since_ms = self.publish.borrow().sandbox.since_ms;
        let source = MachineSource::Stored(Stored::Memory(stored.clone()));
        let woken = match self.commit(Status::Unpausing(stored.clone())).await {
            Ok(()) => self.obtain_machine(source, Activation::Woken).await,
            Err(error) => Err(NoMachine::Failed(error)),
        };
        match woken {
            Ok((live, machine)) => {
                // Only now that the row says `running`: until then the checkpoint is all there is of the sandbox.
                self.drop_in_background(stored.checkpoint.clone());
                self.shared.stats.woken(begun.elapsed());
                Some(NextState::Running(live, machine))
            }
            Err(NoMachine::Failed(error)) => {
                self.wake_failed(stored, since_ms, error).await;
                None
            }
            Err(NoMachine::Deleted(reply)) => {
                let next = self.answer_deleted(Some(Stored::Memory(stored.clone())), reply).await;
                if next.is_none() {
                    // It could not be deleted, and the wake has been given up for that.
                    self.wake_failed(stored, since_ms, self.deleted_meanwhile()).await;
                }
                next
            }
            // The next server finds the row `unpausing`, which means the same as `paused`.
            Err(NoMachine::ServerStops) => Some(NextState::Ended),
        }
    }

    /// Logs and publishes that a wake has failed; the sandbox is paused as before.
    async fn wake_failed(&mut self, stored: &StoredMemory, since_ms: i64, error: LifecycleError) {
        self.shared.stats.wake_failed();
        let sandbox = &self.spec.id;
        tracing::warn!(
            event = "wake_failed", %sandbox, error = %chain(&error),
            "a paused sandbox could not be woken"
        );
        let failure = WakeFailure::new(self.publish.borrow().failed_wakes() + 1, error);
        let reason = Some(failure.reason());
        let paused = Sandbox { since_ms, reason, ..self.next(Status::Paused(stored.clone())) };
        self.back_to_paused(paused, failure).await;
    }

    /// Commits and publishes the pause that a failed wake did not end.
    async fn back_to_paused(&mut self, paused: Sandbox, failure: WakeFailure) {
        self.write(&paused).await;
        self.log_step(&paused);
        // State and failure in one step: a waiter that saw `paused` without the failure would ask for another wake.
        self.publish.send_modify(|published| {
            published.sandbox = paused;
            published.failed_wake = Some(Arc::new(failure));
        });
    }

    /// Boots a stopped sandbox over its disk, and answers. `None` if that failed and the sandbox is stopped again.
    async fn start(&mut self, stored: &StoredDisk, reply: Reply<Sandbox>) -> Option<NextState> {
        match self.try_to_start(stored).await {
            Ok((live, machine)) => {
                self.drop_in_background(stored.checkpoint.clone());
                answer(reply, Ok(self.sandbox()));
                Some(NextState::Running(live, machine))
            }
            Err(NoMachine::Failed(error)) => {
                if self.sandbox().state() == SandboxState::Starting {
                    self.commit_best_effort(self.next(Status::Stopped(stored.clone()))).await;
                }
                answer(reply, Err(error));
                None
            }
            Err(NoMachine::Deleted(deleted)) => {
                let next = self.answer_deleted(Some(Stored::Disk(stored.clone())), deleted).await;
                if next.is_none() {
                    self.commit_best_effort(self.next(Status::Stopped(stored.clone()))).await;
                }
                answer(reply, Err(self.deleted_meanwhile()));
                next
            }
            // The next server finds the row `starting` with a disk, which means the same as `stopped`.
            Err(NoMachine::ServerStops) => {
                answer(reply, Err(LifecycleError::ShuttingDown));
                Some(NextState::Ended)
            }
        }
    }

    async fn try_to_start(&mut self, stored: &StoredDisk) -> Result<(Live, Box<dyn SandboxVm>), NoMachine> {
        // Unlike a woken guest, one that has booted anew has lost the environment with its memory.
        let environment = self.shared.environment_of(&self.spec).map_err(NoMachine::Failed)?;
        self.commit(Status::Booting(stored.clone())).await.map_err(NoMachine::Failed)?;
        let source = MachineSource::Stored(Stored::Disk(stored.clone()));
        self.obtain_machine(source, Activation::New(&environment)).await
    }
}
