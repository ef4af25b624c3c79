//! The task that owns one sandbox's state. Everybody else holds a [`Handle`].
//!
//! ```text
//! Handle ──message──► SandboxTask ─┬─ adopting: a machine of the former server; delete         (adopting.rs)
//!    ▲                             ├─ running:  pause, stop, snapshot, delete, timeout, death  (running.rs; pause.rs,
//!    │                             │                                                          snapshot.rs, stop.rs)
//!    │                             ├─ paused:   wake, snapshot, delete                         (without_machine.rs)
//!    │                             ├─ stopping: delete                                         (stop.rs)
//!    └──────── published ──────────┴─ stopped:  start, delete                                  (without_machine.rs)
//! ```
//!
//! One task per sandbox is the only writer of its state, so that nobody has to think about two transitions at once:
//! messages, the timeout and the death of the machine are handled one after the other. While it waits for something, it
//! still hears a delete, the machine's death and the server's stop (waiting.rs). [`crate::policy`] decides what is
//! allowed in which state. Every change is written to the database first and published after. Where there is no way
//! back (a machine has ended, or runs again), a change is published even if it could not be written. The task ends when
//! the sandbox is deleted or has failed, and when the server stops.

mod adopting;
mod begin;
mod pause;
mod running;
mod snapshot;
mod stop;
mod waiting;
mod without_machine;

pub(crate) use adopting::LOST;
pub(crate) use begin::{LaunchPlan, MachineSource};

use crate::clock::now_ms;
use crate::error::LifecycleError;
use crate::handle::{Handle, Published, refused};
use crate::machines::SandboxVm;
use crate::request::{Message, OwnerRequest, Reply, answer};
use crate::shared::Shared;
use leapbox_db::{Live, Sandbox, Spec, Status, Stored, StoredDisk, StoredMemory};
use leapbox_errors::chain;
use leapbox_ids::CheckpointId;
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

/// Messages that may be in the queue of one sandbox's task; beyond that their senders wait. A longer queue would mostly
/// hold copies of one wake, because every HTTP request that waits for the sandbox sends the same.
const MESSAGES_MAX: usize = 32;

/// The state in which a sandbox's task continues, with everything that exists of the sandbox in it.
pub(crate) enum NextState {
    /// The machine that the former server has left, which is not taken over yet.
    Adopting(Live),
    Running(Live, Box<dyn SandboxVm>),
    /// Only the machine's disk is left, and is to be stored. The reply is of the request that stopped the sandbox;
    /// after a restart of the server there is none.
    Stopping(Live, Option<Reply<Sandbox>>),
    Paused(StoredMemory),
    Stopped(StoredDisk),
    /// The task ends: the sandbox is deleted, or the next server takes it over.
    Ended,
}

/// The outcome of an operation: the state in which the task continues, also if the operation failed.
type Attempt = Result<NextState, (NextState, LifecycleError)>;

/// The task of one sandbox.
pub(crate) struct SandboxTask {
    shared: Arc<Shared>,
    spec: Arc<Spec>,
    publish: watch::Sender<Published>,
    messages: mpsc::Receiver<Message>,
    /// Requests that came while the task waited for something. They are served before the queue's.
    kept: VecDeque<OwnerRequest>,
    /// When the guest is asked (again) to confirm that it was resumed; `None` if it has confirmed. Until it has, its
    /// workload may be frozen, and its clock may be wrong.
    confirm_at: Option<Instant>,
}

/// Makes the task of a sandbox, and the handle by which others reach it. The caller spawns [`SandboxTask::begin`] or
/// [`SandboxTask::resume`].
pub(crate) fn new_task(shared: Arc<Shared>, published: Published) -> (Handle, SandboxTask) {
    let spec = Arc::clone(&published.sandbox.spec);
    let (publish, published) = watch::channel(published);
    let (send, messages) = mpsc::channel(MESSAGES_MAX);
    let task = SandboxTask { shared, spec, publish, messages, kept: VecDeque::new(), confirm_at: None };
    (Handle::new(published, send), task)
}

impl SandboxTask {
    /// Runs the task of a sandbox that the previous server had.
    pub async fn resume(mut self, state: NextState) {
        self.run(state).await;
    }

    async fn run(&mut self, mut state: NextState) {
        // Each state is a function that takes what exists in it and returns the next state with what exists then, so
        // the machine of a paused sandbox cannot be used by mistake.
        loop {
            state = match state {
                NextState::Adopting(live) => self.adopting(live).await,
                NextState::Running(live, machine) => self.running(live, machine).await,
                NextState::Stopping(live, reply) => self.stopping(live, reply).await,
                NextState::Paused(stored) => self.paused(stored).await,
                NextState::Stopped(stored) => self.stopped(stored).await,
                NextState::Ended => return,
            };
        }
    }

    /// The next message; `None` once the server stops.
    async fn next_message(&mut self) -> Option<Message> {
        let stop = self.shared.stop.clone();
        if !stop.is_cancelled()
            && let Some(request) = self.kept.pop_front()
        {
            return Some(Message::Ask(request));
        }
        // Stopping goes first: a queue that is never empty must not keep the server from stopping.
        tokio::select! {
            biased;
            () = stop.cancelled() => None,
            message = self.messages.recv() => message,
        }
    }

    /// Answers a request with the outcome of its operation, and returns the state to continue in.
    fn answer(&self, reply: Reply<Sandbox>, tried: Attempt) -> NextState {
        let (state, outcome) = match tried {
            Ok(state) => (state, Ok(self.sandbox())),
            Err((state, error)) => (state, Err(error)),
        };
        answer(reply, outcome);
        state
    }

    fn refuse(&self, request: OwnerRequest, refusal: crate::policy::Refusal) {
        request.refuse(refused(&self.publish.borrow().sandbox, refusal));
    }

    /// The sandbox as it is published.
    fn sandbox(&self) -> Sandbox {
        self.publish.borrow().sandbox.clone()
    }

    /// The sandbox in the status that it is to have from now on; nothing is written yet.
    fn next(&self, status: Status) -> Sandbox {
        self.publish.borrow().sandbox.in_status(status, now_ms())
    }

    /// Writes a status and publishes it. On failure nothing has changed.
    async fn commit(&mut self, status: Status) -> Result<(), LifecycleError> {
        let sandbox = self.next(status);
        // The database first: a client that has seen a state must find it again after a crash of the server.
        self.shared.db.sandbox_update(&sandbox).await?;
        self.publish(sandbox);
        Ok(())
    }

    /// Publishes a transition that cannot be refused, such as the end of a machine, also if it cannot be written to the
    /// database. That failure is logged.
    async fn commit_best_effort(&mut self, sandbox: Sandbox) {
        // What is published is true, with or without the row. The old row makes the next start of the server arrive at
        // the same state: it finds the machine gone, or resumes it.
        self.write(&sandbox).await;
        self.publish(sandbox);
    }

    async fn write(&self, sandbox: &Sandbox) {
        if let Err(error) = self.shared.db.sandbox_update(sandbox).await {
            let (id, state) = (sandbox.id(), sandbox.state());
            tracing::error!(
                sandbox = %id, %state, error = %chain(&error),
                "a sandbox's state could not be written to the database; the next start of the server corrects it"
            );
        }
    }

    /// Logs the transition to the state of `sandbox`. Called before it is published, so that the log has every
    /// transition that a client can have seen, in order.
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

    /// Publishes the sandbox as running in this machine.
    fn publish_machine(&self, sandbox: Sandbox, machine: &dyn SandboxVm) {
        self.log_step(&sandbox);
        // In one step: whoever sees `running` must find the guest of this machine, and never of the one before.
        self.publish.send_modify(|published| {
            published.sandbox = sandbox;
            published.guest = Some(machine.guest());
            published.adopting = false;
            published.generation += 1;
            published.failed_wake = None;
        });
    }

    /// Ends all calls and connections into the machine, because it is about to end.
    fn disconnect_clients(&self) {
        // A connection into a dead guest gets no reset: without this, clients would wait for their own time-outs.
        self.publish.send_modify(|published| published.guest = None);
        self.shared.announce_ending(&self.spec.id);
    }

    /// Commits the sandbox's last state: deleted, or failed if there is a `reason`. Removes its checkpoint, if it has
    /// one.
    async fn finish_deleted(&mut self, reason: Option<String>, stored: Option<&CheckpointId>) -> NextState {
        let deleted = Sandbox { reason, ..self.next(Status::Deleted) };
        self.commit_best_effort(deleted).await;
        self.disconnect_clients();
        self.shared.unregister(&self.spec.id);
        // After the row no longer names it: the other way round, a crash would leave a row without its checkpoint.
        if let Some(checkpoint) = stored {
            self.shared.drop_checkpoint(checkpoint).await;
        }
        NextState::Ended
    }

    /// Deletes a sandbox that has no machine. On failure nothing has changed.
    async fn delete_stored(&mut self, stored: Option<Stored>) -> Result<NextState, LifecycleError> {
        self.commit(Status::Deleting(stored.clone())).await?;
        Ok(self.finish_deleted(None, stored.as_ref().map(Stored::checkpoint)).await)
    }
}
