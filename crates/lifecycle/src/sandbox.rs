//! One sandbox: the task that owns its state. Everybody else holds a [`Handle`].
//!
//! ```text
//! Handle ──request──► StateDriver ─┬─ running:  pause, stop, snapshot, delete, timeout, death  (running.rs; store.rs,
//!    ▲                             │                                                          snapshot.rs, stop.rs)
//!    │                             ├─ paused:   wake, snapshot, delete                         (asleep.rs)
//!    │                             ├─ stopping: delete                                         (stop.rs)
//!    └──────── published ──────────┴─ stopped:  start, delete                                  (asleep.rs)
//! ```
//!
//! What may be done when is in [`crate::policy`]. Every change is written to the database first and published after;
//! others read what is published or send a request. The task ends with the sandbox.

mod asleep;
mod begin;
mod running;
mod snapshot;
mod stop;
mod store;

pub(crate) use begin::{CreateRequest, MachineSource};

use crate::clock::now_ms;
use crate::error::LifecycleError;
use crate::handle::{Handle, Published, refused};
use crate::inner::Inner;
use crate::machines::SandboxVm;
use crate::request::{Message, Reply, Request, answer};
use leapbox_db::{Live, Sandbox, Spec, Status, Stored, StoredDisk, StoredMemory};
use leapbox_errors::chain;
use leapbox_ids::CheckpointId;
use std::sync::Arc;
use tokio::sync::{mpsc, watch};

/// Requests that may wait for one sandbox's task.
const REQUESTS_MAX: usize = 32;

/// Where a sandbox's task goes on.
pub(crate) enum NextState {
    /// With a machine.
    Running(Live, Box<dyn SandboxVm>),
    /// The machine's disk is left and is being stored; somebody may wait for that.
    Stopping(Live, Option<Reply<Sandbox>>),
    /// All of it is stored.
    Paused(StoredMemory),
    /// Its disk is stored.
    Stopped(StoredDisk),
    /// The sandbox is gone, or is the next server's.
    Ended,
}

/// What was tried: where the task goes on, also if it failed.
type Tried = Result<NextState, (NextState, LifecycleError)>;

/// The task's own side.
pub(crate) struct StateDriver {
    inner: Arc<Inner>,
    spec: Arc<Spec>,
    publish: watch::Sender<Published>,
    requests: mpsc::Receiver<Message>,
    /// Its guest has been let go on and has not confirmed it: its workload may still be frozen, its clock wrong.
    unconfirmed: bool,
}

/// Makes handle and task of a sandbox.
pub(crate) fn sandbox(inner: Arc<Inner>, published: Published) -> (Handle, StateDriver) {
    let spec = Arc::clone(&published.sandbox.spec);
    let (publish, published) = watch::channel(published);
    let (send, requests) = mpsc::channel(REQUESTS_MAX);
    (Handle::new(published, send), StateDriver { inner, spec, publish, requests, unconfirmed: false })
}

impl StateDriver {
    /// Goes on with a sandbox that a former server had.
    pub async fn resume(mut self, state: NextState) {
        if let NextState::Running(_, machine) = &state {
            self.publish_machine(self.sandbox(), machine.as_ref());
            // The former server may have died while it was suspended.
            self.unconfirmed = true;
        }
        self.run(state).await;
    }

    async fn run(&mut self, mut state: NextState) {
        loop {
            state = match state {
                NextState::Running(live, machine) => self.running(live, machine).await,
                NextState::Stopping(live, reply) => self.stopping(live, reply).await,
                NextState::Paused(stored) => self.paused(stored).await,
                NextState::Stopped(stored) => self.stopped(stored).await,
                NextState::Ended => return,
            };
        }
    }

    /// The next message; none once the server stops.
    async fn next_message(&mut self) -> Option<Message> {
        let stop = self.inner.stop.clone();
        tokio::select! {
            biased;
            () = stop.cancelled() => None,
            message = self.requests.recv() => message,
        }
    }

    /// Answers with what was tried.
    fn answer(&self, reply: Reply<Sandbox>, tried: Tried) -> NextState {
        let (state, outcome) = match tried {
            Ok(state) => (state, Ok(self.sandbox())),
            Err((state, error)) => (state, Err(error)),
        };
        answer(reply, outcome);
        state
    }

    fn refuse(&self, request: Request, refusal: crate::policy::Refusal) {
        request.refuse(refused(&self.publish.borrow().sandbox, refusal));
    }

    /// As it is published.
    fn sandbox(&self) -> Sandbox {
        self.publish.borrow().sandbox.clone()
    }

    /// The sandbox as it is to be from now on.
    fn next(&self, status: Status) -> Sandbox {
        self.publish.borrow().sandbox.in_status(status, now_ms())
    }

    /// Writes a state and publishes it. On failure everything is as it was.
    async fn commit(&mut self, status: Status) -> Result<(), LifecycleError> {
        let sandbox = self.next(status);
        self.inner.db.sandbox_update(&sandbox).await?;
        self.publish(sandbox);
        Ok(())
    }

    /// Commits a state that there is no way around. A database that fails here is logged; what is published then is
    /// what the next start of the server makes of the row that is still there.
    async fn commit_best_effort(&mut self, sandbox: Sandbox) {
        self.write(&sandbox).await;
        self.publish(sandbox);
    }

    async fn write(&self, sandbox: &Sandbox) {
        if let Err(error) = self.inner.db.sandbox_update(sandbox).await {
            let (id, state) = (sandbox.id(), sandbox.state());
            tracing::error!(sandbox = %id, %state, error = %chain(&error), "a state could not be written");
        }
    }

    /// Logs the step to the state of `sandbox`, before it is published: the log has every step of a sandbox whose id was
    /// told to anybody, in order.
    fn log_step(&self, sandbox: &Sandbox) {
        let (from, to) = (self.publish.borrow().sandbox.state(), sandbox.state());
        if from != to {
            tracing::info!(event = "state_changed", sandbox = %sandbox.id(), %from, %to, "a state has changed");
        }
    }

    fn publish(&self, sandbox: Sandbox) {
        self.log_step(&sandbox);
        self.publish.send_modify(|published| published.sandbox = sandbox);
    }

    /// Publishes that the sandbox runs, in this machine.
    fn publish_machine(&self, sandbox: Sandbox, machine: &dyn SandboxVm) {
        self.log_step(&sandbox);
        self.publish.send_modify(|published| {
            published.sandbox = sandbox;
            published.guest = Some(machine.guest());
            published.runs += 1;
            published.failed_wake = None;
        });
    }

    /// Cuts off whoever uses the machine, because it is about to go.
    fn disconnect_clients(&self) {
        self.publish.send_modify(|published| published.guest = None);
        self.inner.tell_ending(&self.spec.id);
    }

    /// The sandbox's last state: deleted, or failed for `reason`. What was `stored` of it goes.
    async fn finish_deleted(&mut self, reason: Option<String>, stored: Option<&CheckpointId>) -> NextState {
        let deleted = Sandbox { reason, ..self.next(Status::Deleted) };
        self.commit_best_effort(deleted).await;
        self.disconnect_clients();
        self.inner.forget(&self.spec.id);
        if let Some(checkpoint) = stored {
            self.inner.drop_checkpoint(checkpoint).await;
        }
        NextState::Ended
    }

    /// Deletes a sandbox that has no machine. On failure it is as it was.
    async fn delete_stored(&mut self, stored: Option<Stored>) -> Result<NextState, LifecycleError> {
        self.commit(Status::Deleting(stored.clone())).await?;
        Ok(self.finish_deleted(None, stored.as_ref().map(Stored::checkpoint)).await)
    }
}
