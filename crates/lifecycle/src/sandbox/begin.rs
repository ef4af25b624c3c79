//! How a sandbox begins: a machine is found, told who it is, and handed over.

use super::{Driver, Life};
use crate::clock::now_ms;
use crate::error::{LaunchError, LifecycleError, chain};
use crate::machines::{Body, Identity};
use leapbox_api_types::sandbox::SandboxState;
use leapbox_db::SandboxRow;
use leapbox_vmm::{ExitReason, VmmError};
use std::sync::Arc;
use tokio::sync::oneshot;

/// Clones that are tried for one sandbox: that one does not come up says little about the next.
const CLONES_TRIED: usize = 2;
/// Bytes of the console that are logged when a sandbox fails.
const CONSOLE_LOGGED: usize = 1024;

/// What gives a machine, each time it is asked.
pub(crate) type Obtain =
    Box<dyn Fn(SandboxRow) -> futures::future::BoxFuture<'static, Result<Box<dyn Body>, LifecycleError>> + Send + Sync>;

/// How a new sandbox begins.
pub(crate) struct Beginning {
    pub obtain: Obtain,
    /// Of a sandbox that is not restored from a snapshot.
    pub environment: Option<Vec<(String, String)>>,
    /// Told once it can be used.
    pub ready: oneshot::Sender<Result<(), LifecycleError>>,
}

impl Driver {
    /// Takes a new sandbox from `starting` to its end.
    pub async fn begin(mut self, beginning: Beginning) {
        let Beginning { obtain, environment, ready } = beginning;
        let who = environment.as_deref().map_or(Identity::Another, Identity::New);
        match self.come_to_life(&obtain, who).await {
            Ok(machine) => {
                // A client that hung up does not undo its sandbox.
                let _ = ready.send(Ok(()));
                self.live(Life::Running(machine)).await;
            }
            Err(error) => {
                self.never_was().await;
                let _ = ready.send(Err(error));
            }
        }
    }

    /// Finds a machine, makes it this sandbox, and publishes it as running. On failure nothing is left of it, and the
    /// state is as it was.
    pub(super) async fn come_to_life(
        &mut self,
        obtain: &Obtain,
        who: Identity<'_>,
    ) -> Result<Box<dyn Body>, LifecycleError> {
        let mut tried = 1;
        loop {
            let machine = obtain(self.row()).await?;
            let error = match self.hand_over(machine.as_ref(), who).await {
                Ok(()) => return Ok(machine),
                Err(error) => error,
            };
            let console = last_lines(&machine.console_tail().await);
            machine.destroy().await;
            let unconfirmed = matches!(error, LifecycleError::Launch(_));
            if !unconfirmed || tried == CLONES_TRIED {
                return Err(error);
            }
            let id = self.row().id;
            tracing::warn!(sandbox = %id, error = %chain(&error), console, "a machine did not come up: trying another");
            tried += 1;
        }
    }

    /// Gives the machine its identity and makes the sandbox `running`, durably.
    async fn hand_over(&mut self, machine: &dyn Body, who: Identity<'_>) -> Result<(), LifecycleError> {
        let row = self.row();
        let (id, egress) = (row.id.clone(), self.inner.egress_of(&row)?);
        tokio::select! {
            biased;
            confirmed = machine.become_sandbox(&id, who, &egress) => confirmed?,
            reason = machine.exited() => {
                let stage = "taking its identity";
                return Err(LaunchError::Vmm(VmmError::Died { stage, reason }).into());
            }
        }
        let now = now_ms();
        let origin = machine.origin();
        let mut row = self.row_in(SandboxState::Running);
        row.launched_at_ms = Some(now);
        row.timeout_at_ms = Some(now + i64::try_from(row.timeout_s * 1000).unwrap_or(i64::MAX));
        row.machine = Some(machine.record()?);
        (row.base, row.image) = (Some(origin.base), Some(origin.image));
        let stored = row.checkpoint.take();
        self.inner.db.sandbox_update(&row).await?;
        self.publish_machine(row, machine);
        if let Some(checkpoint) = stored {
            // The request that woke it does not wait for that.
            let inner = Arc::clone(&self.inner);
            self.inner.tasks.spawn(async move { inner.drop_checkpoint(&checkpoint).await });
        }
        Ok(())
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

    /// The end of a sandbox whose machine has died.
    pub(super) async fn failed(&mut self, machine: Box<dyn Body>, reason: ExitReason) -> Life {
        let (exit, reason) = (reason.kind(), reason.to_string());
        let life = self.gone(Some(reason.clone())).await;
        // After it is told: a VMM that hangs keeps its console for a while.
        let console = last_lines(&machine.console_tail().await);
        let sandbox = self.row().id;
        tracing::warn!(event = "sandbox_failed", %sandbox, exit, %reason, console, "a sandbox has failed");
        machine.destroy().await;
        life
    }
}

/// The end of a guest's console, for the operator's log; the guest may have written anything there.
fn last_lines(console: &str) -> String {
    let start = console.len().saturating_sub(CONSOLE_LOGGED);
    let start = (start..console.len()).find(|at| console.is_char_boundary(*at)).unwrap_or(console.len());
    console[start..].escape_debug().to_string()
}
