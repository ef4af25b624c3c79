//! One sandbox: the task that owns its state, and the handle everybody else holds.
//!
//! ```text
//! Handle ──request──► Driver ─┬─ running: pause, stop, snapshot, delete, timeout, death   (running.rs; store.rs,
//!    ▲                        │                                                            snapshot.rs, stop.rs)
//!    │                        ├─ paused:  wake, snapshot, delete                          (asleep.rs)
//!    └───── published ────────┴─ stopped: start, delete                                   (asleep.rs)
//! ```
//!
//! What may be done when is in [`crate::policy`]. Every change is written to the database first and published after;
//! others read what is published or send a request. The task ends with the sandbox.

mod asleep;
mod begin;
mod handle;
#[cfg(test)]
mod model;
mod running;
mod snapshot;
mod stop;
mod store;
#[cfg(test)]
mod waiting;

pub(crate) use begin::{Beginning, Obtain};
pub(crate) use handle::{Handle, refused};

use crate::clock::now_ms;
use crate::error::{LifecycleError, WakeFailure, chain};
use crate::inner::Inner;
use crate::machines::Body;
use handle::{Reply, Request, Sleep};
use leapbox_api_types::sandbox::SandboxState;
use leapbox_db::SandboxRow;
use leapbox_guest_client::GuestClient;
use leapbox_templates::ImageConfig;
use std::sync::Arc;
use tokio::sync::{mpsc, watch};

/// Requests that may wait for one sandbox's task.
const REQUESTS_MAX: usize = 32;

/// What everybody may know of a sandbox.
#[derive(Clone)]
pub(crate) struct Published {
    pub row: SandboxRow,
    /// The way inside, while there is a machine.
    pub guest: Option<GuestClient>,
    pub image: Arc<ImageConfig>,
    /// Machines it has had: tells the one of now from the one before.
    pub runs: u64,
    /// How the last wake failed; none once it runs.
    pub failed_wake: Option<Arc<WakeFailure>>,
}

impl Published {
    /// Of a sandbox that has no machine yet.
    pub fn new(row: SandboxRow, image: Arc<ImageConfig>) -> Self {
        Self { row, guest: None, image, runs: 0, failed_wake: None }
    }

    fn failed_wakes(&self) -> u64 {
        self.failed_wake.as_ref().map_or(0, |failure| failure.count)
    }

    fn sleep(&self) -> Sleep {
        Sleep { runs: self.runs, failed_wakes: self.failed_wakes() }
    }
}

/// What a sandbox's task does next.
pub(crate) enum Life {
    /// It has a machine.
    Running(Box<dyn Body>),
    /// Its disk is left, and is being stored; somebody may wait for that.
    Stopping(Option<Reply<SandboxRow>>),
    /// All of it is stored.
    Paused,
    /// Its disk is stored.
    Stopped,
    /// It is gone, or is the next server's.
    Over,
}

/// The task's own side.
pub(crate) struct Driver {
    inner: Arc<Inner>,
    publish: watch::Sender<Published>,
    requests: mpsc::Receiver<Request>,
    /// Its guest has been let go on and has not confirmed it: its workload may still be frozen, its clock wrong.
    unconfirmed: bool,
}

/// Makes handle and task of a sandbox.
pub(crate) fn sandbox(inner: Arc<Inner>, published: Published) -> (Handle, Driver) {
    let (publish, published) = watch::channel(published);
    let (send, requests) = mpsc::channel(REQUESTS_MAX);
    (Handle::new(published, send), Driver { inner, publish, requests, unconfirmed: false })
}

impl Driver {
    /// Goes on with a sandbox that a former server had.
    pub async fn go_on(mut self, life: Life) {
        if let Life::Running(machine) = &life {
            self.publish_machine(self.row(), machine.as_ref());
            // The former server may have died while it was suspended.
            self.unconfirmed = true;
        }
        self.live(life).await;
    }

    async fn live(&mut self, mut life: Life) {
        loop {
            life = match life {
                Life::Running(machine) => self.running(machine).await,
                Life::Stopping(reply) => self.stopping(reply).await,
                Life::Paused => self.paused().await,
                Life::Stopped => self.stopped().await,
                Life::Over => return,
            };
        }
    }

    fn row(&self) -> SandboxRow {
        self.publish.borrow().row.clone()
    }

    /// The row as it is to be in `state`, from now on.
    fn row_in(&self, state: SandboxState) -> SandboxRow {
        SandboxRow { state, state_reason: None, state_changed_at_ms: now_ms(), ..self.row() }
    }

    /// Writes a state and publishes it. On failure everything is as it was.
    async fn enter(&mut self, row: SandboxRow) -> Result<(), LifecycleError> {
        self.inner.db.sandbox_update(&row).await?;
        self.publish_row(row);
        Ok(())
    }

    /// Goes where there is no choice left about going. A database that fails here is logged; what is published then is
    /// what the next start of the server makes of the row that is still there.
    async fn fall(&mut self, row: SandboxRow) {
        self.write(&row).await;
        self.publish_row(row);
    }

    async fn write(&self, row: &SandboxRow) {
        if let Err(error) = self.inner.db.sandbox_update(row).await {
            tracing::error!(sandbox = %row.id, state = %row.state, error = %chain(&error), "a state could not be written");
        }
    }

    /// Logs the step to the state of `row`, before it is published: the log has every step of a sandbox whose id was told
    /// to anybody, in order.
    fn tell_step(&self, row: &SandboxRow) {
        let from = self.publish.borrow().row.state;
        if from != row.state {
            tracing::info!(event = "state_changed", sandbox = %row.id, %from, to = %row.state, "a state has changed");
        }
    }

    fn publish_row(&self, row: SandboxRow) {
        self.tell_step(&row);
        self.publish.send_modify(|published| published.row = row);
    }

    /// Publishes that the sandbox runs, in this machine.
    fn publish_machine(&self, row: SandboxRow, machine: &dyn Body) {
        self.tell_step(&row);
        self.publish.send_modify(|published| {
            published.row = row;
            published.guest = Some(machine.guest());
            published.runs += 1;
            published.failed_wake = None;
        });
    }

    /// Cuts off whoever uses the machine, because it is about to go.
    fn cut_off(&self) {
        self.publish.send_modify(|published| published.guest = None);
        self.inner.tell_ending(&self.row().id);
    }

    /// The sandbox's last state: deleted, or failed for `reason`.
    async fn gone(&mut self, reason: Option<String>) -> Life {
        let stored = self.row().checkpoint;
        let row = SandboxRow {
            state_reason: reason,
            machine: None,
            timeout_at_ms: None,
            checkpoint: None,
            base: None,
            image: None,
            environment: None,
            network_secrets: None,
            egress_ca: None,
            ..self.row_in(SandboxState::Deleted)
        };
        let id = row.id.clone();
        self.fall(row).await;
        self.cut_off();
        self.inner.forget(&id);
        if let Some(checkpoint) = stored {
            self.inner.drop_checkpoint(&checkpoint).await;
        }
        Life::Over
    }

    /// Deletes a sandbox that has no machine. On failure it is as it was.
    async fn delete_stored(&mut self) -> Result<Life, LifecycleError> {
        self.enter(self.row_in(SandboxState::Deleting)).await?;
        Ok(self.gone(None).await)
    }
}
