//! A sandbox without a machine: paused, until a request wakes it; stopped, until its owner starts it.

use super::handle::{Reply, Request, refused};
use super::{Driver, Life, Obtain};
use crate::error::{LifecycleError, WakeFailure, chain};
use crate::machines::{Body, Identity};
use crate::policy::{Action, Decision, decide};
use leapbox_api_types::sandbox::SandboxState;
use leapbox_api_types::snapshot::NewSnapshot;
use leapbox_db::{SandboxRow, SnapshotRow};
use std::sync::Arc;
use std::time::Instant;

impl Driver {
    /// Sleeps until somebody needs the sandbox.
    pub(super) async fn paused(&mut self) -> Life {
        loop {
            let next = match self.next_request().await {
                None => return Life::Over,
                Some(Request::Wake(sleep)) if sleep == self.publish.borrow().sleep() => self.wake().await,
                // The wish of one who saw an earlier sleep.
                Some(Request::Wake(_)) => None,
                Some(Request::Do(Action::Delete, reply)) => self.answer_deleted(reply).await,
                Some(Request::Do(action, reply)) => {
                    self.refuse(action, reply);
                    None
                }
                Some(Request::Snapshot(new, reply)) => self.asked_while_paused(new, reply).await,
            };
            if let Some(life) = next {
                return life;
            }
        }
    }

    /// Waits until the sandbox is started or deleted.
    pub(super) async fn stopped(&mut self) -> Life {
        loop {
            match self.next_request().await {
                None => return Life::Over,
                Some(Request::Do(Action::Start, reply)) => match self.start().await {
                    Ok(machine) => {
                        let _ = reply.send(Ok(self.row()));
                        return Life::Running(machine);
                    }
                    Err(error) => drop(reply.send(Err(error))),
                },
                Some(Request::Do(Action::Delete, reply)) => {
                    if let Some(life) = self.answer_deleted(reply).await {
                        return life;
                    }
                }
                Some(Request::Do(action, reply)) => self.refuse(action, reply),
                Some(Request::Snapshot(_, reply)) => self.refuse(Action::Snapshot, reply),
                Some(Request::Wake(_)) => {}
            }
        }
    }

    async fn next_request(&mut self) -> Option<Request> {
        let stop = self.inner.stop.clone();
        tokio::select! {
            biased;
            () = stop.cancelled() => None,
            request = self.requests.recv() => request,
        }
    }

    /// Answers what cannot be done to a sandbox in this state.
    fn refuse<T>(&self, action: Action, reply: Reply<T>) {
        let row = self.row();
        let error = match decide(row.state, action) {
            Decision::Refuse(refusal) => refused(&row, refusal),
            // Only what the callers do not handle comes here, and that is refused in every state they are for.
            Decision::Proceed | Decision::Wake | Decision::Wait => {
                LifecycleError::InTransition { id: row.id.clone(), state: row.state }
            }
        };
        let _ = reply.send(Err(error));
    }

    pub(super) async fn answer_deleted(&mut self, reply: Reply<SandboxRow>) -> Option<Life> {
        match self.delete_stored().await {
            Ok(life) => {
                let _ = reply.send(Ok(self.row()));
                Some(life)
            }
            Err(error) => {
                let _ = reply.send(Err(error));
                None
            }
        }
    }

    async fn asked_while_paused(&mut self, new: NewSnapshot, reply: Reply<SnapshotRow>) -> Option<Life> {
        let kill = new.kill_sandbox_after;
        let mut answer = self.snapshot_of_stored(new).await;
        let mut life = None;
        if kill && answer.is_ok() {
            match self.delete_stored().await {
                Ok(over) => life = Some(over),
                Err(error) => answer = Err(error),
            }
        }
        let _ = reply.send(answer);
        life
    }

    /// Brings a paused sandbox back. On failure it is as it was, and whoever waits is told why.
    async fn wake(&mut self) -> Option<Life> {
        let begun = Instant::now();
        let asleep = self.row();
        let woken = match self.enter(self.row_in(SandboxState::Unpausing)).await {
            Ok(()) => self.come_to_life(&self.stored_machine(), Identity::Woken).await,
            Err(error) => Err(error),
        };
        match woken {
            Ok(machine) => {
                self.inner.stats.woken(begun.elapsed());
                Some(Life::Running(machine))
            }
            Err(error) => {
                self.inner.stats.wake_failed();
                let cause = chain(&error);
                tracing::warn!(event = "wake_failed", sandbox = %asleep.id, error = %cause, "a paused sandbox could not be woken");
                let failure = WakeFailure::new(self.publish.borrow().failed_wakes() + 1, error);
                let row = SandboxRow {
                    state_reason: Some(failure.reason()),
                    state_changed_at_ms: asleep.state_changed_at_ms,
                    ..self.row_in(SandboxState::Paused)
                };
                self.fall_asleep(row, failure).await;
                None
            }
        }
    }

    /// Back to a pause that did not end. State and failure are told at once: who hears of one may ask for the other.
    async fn fall_asleep(&mut self, row: SandboxRow, failure: WakeFailure) {
        self.write(&row).await;
        self.tell_step(&row);
        self.publish.send_modify(|published| {
            published.row = row;
            published.failed_wake = Some(Arc::new(failure));
        });
    }

    /// What makes a machine of the sandbox's checkpoint.
    fn stored_machine(&self) -> Obtain {
        let machines = Arc::clone(&self.inner.machines);
        Box::new(move |row| {
            let machines = Arc::clone(&machines);
            Box::pin(async move {
                let checkpoint = row.checkpoint.clone().unwrap_or_default();
                machines.restored(&row, &checkpoint).await
            })
        })
    }

    /// Boots a stopped sandbox. On failure it is stopped again.
    async fn start(&mut self) -> Result<Box<dyn Body>, LifecycleError> {
        let environment = self.inner.environment_of(&self.row())?;
        self.enter(self.row_in(SandboxState::Starting)).await?;
        match self.come_to_life(&self.stored_machine(), Identity::New(&environment)).await {
            Ok(machine) => Ok(machine),
            Err(error) => {
                let row = self.row_in(SandboxState::Stopped);
                self.fall(row).await;
                Err(error)
            }
        }
    }
}
