//! How a sandbox begins: a machine is found, told who it is, and handed over.

use super::{NextState, StateDriver};
use crate::catalog::Template;
use crate::clock::now_ms;
use crate::error::{LaunchError, LifecycleError};
use crate::machines::{Identity, SandboxVm};
use leapbox_db::{Live, Sandbox, Status, Stored};
use leapbox_errors::chain;
use leapbox_ids::CheckpointId;
use leapbox_vmm::{ExitReason, VmmError};
use std::sync::Arc;
use tokio::sync::oneshot;

/// Clones that are tried for one sandbox: that one does not come up says little about the next.
const CLONES_TRIED: usize = 2;
/// Bytes of the console that are logged when a sandbox fails.
const CONSOLE_LOGGED: usize = 1024;

/// What a sandbox's machine is made from.
pub(crate) enum MachineSource {
    /// The template it is created from.
    Template(Arc<Template>),
    /// What is stored of it, or of the sandbox that it is restored from.
    Stored(Stored),
}

/// How a new sandbox begins.
pub(crate) struct CreateRequest {
    pub source: MachineSource,
    /// Of a sandbox that is not restored from a snapshot.
    pub environment: Option<Vec<(String, String)>>,
    /// Told once it can be used.
    pub ready: oneshot::Sender<Result<(), LifecycleError>>,
}

impl StateDriver {
    /// Takes a new sandbox from `starting` to its end.
    pub async fn begin(mut self, request: CreateRequest) {
        let CreateRequest { source, environment, ready } = request;
        let who = environment.as_deref().map_or(Identity::Another, Identity::New);
        match self.obtain_machine(&source, who).await {
            Ok((live, machine)) => {
                // A client that hung up does not undo its sandbox.
                let _ = ready.send(Ok(()));
                self.run(NextState::Running(live, machine)).await;
            }
            Err(error) => {
                self.roll_back_create().await;
                let _ = ready.send(Err(error));
            }
        }
    }

    /// Finds a machine, makes it this sandbox, and publishes it as running. On failure nothing is left of it, and the
    /// state is as it was.
    pub(super) async fn obtain_machine(
        &mut self,
        source: &MachineSource,
        who: Identity<'_>,
    ) -> Result<(Live, Box<dyn SandboxVm>), LifecycleError> {
        let mut tried = 1;
        loop {
            let machine = match source {
                MachineSource::Template(template) => self.inner.machines.fresh(template, self.spec.shape()).await?,
                MachineSource::Stored(stored) => self.inner.machines.restored(&self.spec, stored).await?,
            };
            let error = match self.hand_over(machine.as_ref(), who).await {
                Ok(live) => return Ok((live, machine)),
                Err(error) => error,
            };
            let console = last_lines(&machine.console_tail().await);
            machine.destroy().await;
            let unconfirmed = matches!(error, LifecycleError::Launch(_));
            if !unconfirmed || tried == CLONES_TRIED {
                return Err(error);
            }
            let id = &self.spec.id;
            tracing::warn!(sandbox = %id, error = %chain(&error), console, "a machine did not come up: trying another");
            tried += 1;
        }
    }

    /// Gives the machine its identity and makes the sandbox `running`, durably.
    async fn hand_over(&mut self, machine: &dyn SandboxVm, who: Identity<'_>) -> Result<Live, LifecycleError> {
        let egress = self.inner.egress_of(&self.spec)?;
        tokio::select! {
            biased;
            confirmed = machine.become_sandbox(&self.spec.id, who, &egress) => confirmed?,
            reason = machine.exited() => {
                let stage = "taking its identity";
                return Err(LaunchError::Vmm(VmmError::Died { stage, reason }).into());
            }
        }
        let now = now_ms();
        let timeout_at_ms = now.saturating_add(i64::try_from(self.spec.timeout_s * 1000).unwrap_or(i64::MAX));
        let live = Live { vm: machine.record(), origin: machine.origin(), timeout_at_ms };
        let running = Sandbox { launched_at_ms: Some(now), ..self.next(Status::Running(live.clone())) };
        self.inner.db.sandbox_update(&running).await?;
        self.publish_machine(running, machine);
        Ok(live)
    }

    /// Drops what the sandbox, which runs now, was stored as. The request that it was started for does not wait for that.
    pub(super) fn drop_in_background(&self, checkpoint: CheckpointId) {
        let inner = Arc::clone(&self.inner);
        self.inner.tasks.spawn(async move { inner.drop_checkpoint(&checkpoint).await });
    }

    /// Undoes a create that has failed. No client has seen the id.
    async fn roll_back_create(&mut self) {
        let id = &self.spec.id;
        if let Err(error) = self.inner.db.sandbox_delete_row(id).await {
            tracing::error!(sandbox = %id, error = %chain(&error), "a row could not be removed");
        }
        self.publish.send_modify(|published| published.sandbox.status = Status::Deleted);
        self.inner.forget(id);
    }

    /// The end of a sandbox whose machine has died.
    pub(super) async fn failed(&mut self, machine: Box<dyn SandboxVm>, reason: ExitReason) -> NextState {
        let (exit, reason) = (reason.kind(), reason.to_string());
        let next = self.finish_deleted(Some(reason.clone()), None).await;
        // After it is told: a VMM that hangs keeps its console for a while.
        let console = last_lines(&machine.console_tail().await);
        let sandbox = &self.spec.id;
        tracing::warn!(event = "sandbox_failed", %sandbox, exit, %reason, console, "a sandbox has failed");
        machine.destroy().await;
        next
    }
}

/// The end of a guest's console, for the operator's log; the guest may have written anything there.
fn last_lines(console: &str) -> String {
    let start = console.len().saturating_sub(CONSOLE_LOGGED);
    let start = (start..console.len()).find(|at| console.is_char_boundary(*at)).unwrap_or(console.len());
    console[start..].escape_debug().to_string()
}
