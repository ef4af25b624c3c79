//! One sandbox: the task that owns its state, and the handle everybody else holds.
//!
//! ```text
//!   create ──► starting ──► running ──delete, timeout──► deleting ──► deleted
//!                 │            └──── VMM dies ──────────────────────► deleted (with the reason)
//!                 └──── launch fails: forgotten, its id was told to nobody
//! ```
//!
//! Every change is written to the database first and published after; others read the published row or send a
//! request. The task ends with the sandbox.

use crate::clock::now_ms;
use crate::error::{LaunchError, LifecycleError, chain};
use crate::policy::{Action, Decision, Refusal, decide};
use crate::service::Inner;
use crate::vm::Vm;
use leapbox_api_types::sandbox::SandboxState;
use leapbox_db::SandboxRow;
use leapbox_guest_client::GuestClient;
use leapbox_templates::ImageConfig;
use leapbox_vmm::VmmError;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};

/// Clones that are tried for one sandbox: that one does not come up says little about the next.
const CLONES_TRIED: usize = 2;
/// Bytes of the console that are logged when a sandbox fails.
const CONSOLE_LOGGED: usize = 1024;
/// Requests that may wait for one sandbox's task.
const REQUESTS_MAX: usize = 32;

/// What everybody may know of a sandbox.
#[derive(Clone)]
pub(crate) struct Published {
    pub row: SandboxRow,
    /// The way inside, while it runs.
    pub guest: Option<GuestClient>,
    pub image: Arc<ImageConfig>,
}

/// What a sandbox can be asked to do.
pub(crate) enum Request {
    /// Be deleted; answered when nothing is left of it.
    Delete(oneshot::Sender<Result<(), LifecycleError>>),
}

/// The handle of one sandbox. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Handle {
    pub published: watch::Receiver<Published>,
    requests: mpsc::Sender<Request>,
}

impl Handle {
    /// Asks the sandbox to delete itself and waits until it has.
    pub async fn delete(&self) -> Result<(), LifecycleError> {
        // Decided here for states in which the task is busy and would answer late; decided again by the task.
        self.check(Action::Delete)?;
        let (reply, answer) = oneshot::channel();
        let gone = || self.gone();
        self.requests.send(Request::Delete(reply)).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }

    /// The published row once the sandbox can be used.
    pub async fn usable(&self) -> Result<Published, LifecycleError> {
        let mut published = self.published.clone();
        loop {
            let now = published.borrow_and_update().clone();
            match decide(now.row.state, Action::Use) {
                Decision::Proceed => return Ok(now),
                Decision::Refuse(refusal) => return Err(refused(&now.row, refusal)),
                Decision::Wait => published.changed().await.map_err(|_| self.gone())?,
            }
        }
    }

    /// Waits until it cannot be used any more, and says why.
    pub async fn ended(&self) -> LifecycleError {
        let mut published = self.published.clone();
        let gone = |now: &Published| matches!(decide(now.row.state, Action::Use), Decision::Refuse(_));
        match published.wait_for(gone).await {
            Ok(now) => refused(&now.row, Refusal::Gone),
            Err(_) => self.gone(),
        }
    }

    fn check(&self, action: Action) -> Result<(), LifecycleError> {
        let published = self.published.borrow();
        match decide(published.row.state, action) {
            Decision::Proceed | Decision::Wait => Ok(()),
            Decision::Refuse(refusal) => Err(refused(&published.row, refusal)),
        }
    }

    fn gone(&self) -> LifecycleError {
        refused(&self.published.borrow().row, Refusal::Gone)
    }
}

/// A refusal as an error.
pub(crate) fn refused(row: &SandboxRow, refusal: Refusal) -> LifecycleError {
    let id = row.id.clone();
    match (refusal, &row.state_reason) {
        (Refusal::Gone, Some(reason)) => LifecycleError::Failed { id, reason: reason.clone() },
        (Refusal::Gone, None) => LifecycleError::NotFound { id },
        (Refusal::InTransition | Refusal::NotReachable, _) => LifecycleError::InTransition { id, state: row.state },
    }
}

/// The task's own side.
pub(crate) struct Driver {
    inner: Arc<Inner>,
    publish: watch::Sender<Published>,
    requests: mpsc::Receiver<Request>,
}

/// Makes handle and task of the sandbox described by `row`.
pub(crate) fn sandbox(inner: Arc<Inner>, row: SandboxRow, image: Arc<ImageConfig>) -> (Handle, Driver) {
    let (publish, published) = watch::channel(Published { row, guest: None, image });
    let (send, requests) = mpsc::channel(REQUESTS_MAX);
    (Handle { published, requests: send }, Driver { inner, publish, requests })
}

impl Driver {
    /// Takes a sandbox from `starting` to its end. `obtain` gives a machine each time.
    pub async fn run<F>(
        mut self,
        obtain: impl Fn() -> F,
        env: Vec<(String, String)>,
        ready: oneshot::Sender<Result<(), LifecycleError>>,
    ) where
        F: Future<Output = Result<Vm, LifecycleError>>,
    {
        match self.start(obtain, env).await {
            Ok(vm) => {
                // A client that hung up does not undo its sandbox.
                let _ = ready.send(Ok(()));
                self.live(vm).await;
            }
            Err(error) => {
                self.never_was().await;
                let _ = ready.send(Err(error));
            }
        }
    }

    async fn start<F>(&mut self, obtain: impl Fn() -> F, env: Vec<(String, String)>) -> Result<Vm, LifecycleError>
    where
        F: Future<Output = Result<Vm, LifecycleError>>,
    {
        let mut tried = 1;
        loop {
            let vm = obtain().await?;
            let error = match self.hand_over(&vm, env.clone()).await {
                Ok(()) => return Ok(vm),
                Err(error) => error,
            };
            let console = last_lines(&vm.machine.console_tail().await);
            vm.destroy().await;
            let unconfirmed = matches!(error, LifecycleError::Launch(_));
            if !unconfirmed || tried == CLONES_TRIED {
                return Err(error);
            }
            let id = self.row().id;
            tracing::warn!(sandbox = %id, error = %chain(&error), console, "a clone did not come up: trying another");
            tried += 1;
        }
    }

    /// Gives the clone its identity and makes the sandbox `running`, durably.
    async fn hand_over(&mut self, vm: &Vm, env: Vec<(String, String)>) -> Result<(), LifecycleError> {
        let mut row = self.row();
        tokio::select! {
            biased;
            confirmed = vm.become_sandbox(&row.id, env) => confirmed?,
            reason = vm.machine.exited() => {
                let stage = "taking its identity";
                return Err(LaunchError::Vmm(VmmError::Died { stage, reason }).into());
            }
        }
        let now = now_ms();
        row.state = SandboxState::Running;
        row.launched_at_ms = Some(now);
        row.state_changed_at_ms = now;
        row.timeout_at_ms = Some(now + i64::try_from(row.timeout_s * 1000).unwrap_or(i64::MAX));
        row.machine = Some(serde_json::to_string(&vm.stored()).map_err(LaunchError::Record)?);
        self.inner.db.sandbox_update(&row).await?;
        self.publish_running(row, vm);
        Ok(())
    }

    fn publish_running(&self, row: SandboxRow, vm: &Vm) {
        self.publish.send_modify(|published| {
            published.row = row;
            published.guest = Some(vm.guest.clone());
        });
    }

    /// Goes on with a sandbox that a former server started.
    pub async fn adopted(mut self, vm: Vm) {
        self.publish_running(self.row(), &vm);
        self.live(vm).await;
    }

    /// Serves the sandbox until it ends.
    async fn live(&mut self, vm: Vm) {
        let left_ms = self.row().timeout_at_ms.unwrap_or(i64::MAX).saturating_sub(now_ms());
        let time_out = tokio::time::sleep(Duration::from_millis(u64::try_from(left_ms).unwrap_or(0)));
        let stop = self.inner.stop.clone();
        tokio::select! {
            biased;
            reason = vm.machine.exited() => {
                let reason = reason.to_string();
                self.deleted(Some(reason.clone())).await;
                // After it is told: a VMM that hangs keeps its console for a while.
                let console = last_lines(&vm.machine.console_tail().await);
                tracing::warn!(sandbox = %self.row().id, %reason, console, "a sandbox has failed");
                vm.destroy().await;
            }
            () = stop.cancelled() => vm.leave(),
            request = self.requests.recv() => match request {
                Some(Request::Delete(reply)) => {
                    self.end(vm, Action::Delete).await;
                    let _ = reply.send(Ok(()));
                }
                // Every handle is gone: the registry is, too, so the server is ending.
                None => vm.leave(),
            },
            () = time_out => self.end(vm, Action::TimeOut).await,
        }
    }

    /// Deletes a running sandbox because its owner or its timeout says so.
    async fn end(&mut self, vm: Vm, action: Action) {
        debug_assert_eq!(decide(self.row().state, action), Decision::Proceed);
        tracing::info!(sandbox = %self.row().id, ?action, "deleting a sandbox");
        self.enter(SandboxState::Deleting, None).await;
        vm.destroy().await;
        self.deleted(None).await;
    }

    /// Forgets a sandbox that could not be made: its id was told to nobody.
    async fn never_was(&mut self) {
        let id = self.row().id;
        if let Err(error) = self.inner.db.sandbox_delete_row(&id).await {
            tracing::error!(sandbox = %id, error = %chain(&error), "a row could not be removed");
        }
        self.publish.send_modify(|published| published.row.state = SandboxState::Deleted);
        self.inner.forget(&id);
    }

    async fn deleted(&mut self, reason: Option<String>) {
        self.enter(SandboxState::Deleted, reason).await;
        self.inner.forget(&self.row().id);
    }

    /// Writes a state and publishes it. A database that fails here must not keep a sandbox alive: the state is
    /// published all the same, and the next start of the server finds the row and no machine.
    async fn enter(&mut self, state: SandboxState, reason: Option<String>) {
        let mut row = self.row();
        row.state = state;
        row.state_reason = reason;
        row.state_changed_at_ms = now_ms();
        row.machine = None;
        if let Err(error) = self.inner.db.sandbox_update(&row).await {
            tracing::error!(sandbox = %row.id, %state, error = %chain(&error), "a state could not be written");
        }
        self.publish.send_modify(|published| {
            published.row = row;
            published.guest = None;
        });
        self.inner.tell_ending(&self.row().id);
    }

    fn row(&self) -> SandboxRow {
        self.publish.borrow().row.clone()
    }
}

/// The end of a guest's console, for the operator's log; the guest may have written anything there.
fn last_lines(console: &str) -> String {
    let start = console.len().saturating_sub(CONSOLE_LOGGED);
    let start = (start..console.len()).find(|at| console.is_char_boundary(*at)).unwrap_or(console.len());
    console[start..].escape_debug().to_string()
}
