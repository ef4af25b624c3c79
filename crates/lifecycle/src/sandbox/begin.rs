//! Gets a machine for a sandbox and activates it: for a new sandbox, a woken one, and a started one.
//!
//! ```text
//! obtain_machine ─► fresh or restored machine ─► activate: policy, identity ─► row running ─► published
//!                        ▲                           └── not confirmed: destroyed, and one more is tried
//!                        └───────────────────────────────┘
//! ```

use super::waiting::{BrokenOff, Heard};
use super::{NextState, SandboxTask};
use crate::catalog::Template;
use crate::clock::{boot_ms, now_ms};
use crate::error::{LaunchError, LifecycleError};
use crate::machines::{Activation, Owner, SandboxVm};
use crate::request::{Reply, answer};
use leapbox_db::{Live, Sandbox, Status, Stored};
use leapbox_errors::chain;
use leapbox_ids::CheckpointId;
use leapbox_vmm::{ExitReason, VmmError};
use std::sync::Arc;
use tokio::sync::oneshot;

/// Machines that are tried for one sandbox. A clone that does not come up (a guest that crashes, a host that was busy
/// for a moment) says little about the next, but after two the fault is more likely the host's or the base's.
const MACHINES_TRIED: usize = 2;
/// Bytes of the console's end that are logged when a sandbox fails: enough for a kernel panic's last lines.
const CONSOLE_LOGGED: usize = 1024;

/// The source of a sandbox's machine.
pub(crate) enum MachineSource {
    Template(Arc<Template>),
    /// The sandbox's own checkpoint, or the snapshot's that it is restored from.
    Stored(Stored),
}

/// The reason for which a sandbox has got no machine.
pub(super) enum NoMachine {
    Failed(LifecycleError),
    Deleted(Reply<Sandbox>),
    ServerStops,
}

impl From<BrokenOff> for NoMachine {
    fn from(reason: BrokenOff) -> Self {
        match reason {
            BrokenOff::Failed(error) => Self::Failed(error),
            BrokenOff::Deleted(reply) => Self::Deleted(reply),
            BrokenOff::ServerStops => Self::ServerStops,
            BrokenOff::Died(reason) => {
                let stage = "taking its identity";
                Self::Failed(LaunchError::Vmm(VmmError::Died { stage, reason }).into())
            }
        }
    }
}

/// How a new sandbox, created or restored from a snapshot, gets its first machine.
pub(crate) struct LaunchPlan {
    pub source: MachineSource,
    /// `None` for a sandbox that is restored from a snapshot: its environment is in the restored memory.
    pub environment: Option<Vec<(String, String)>>,
    /// Answered when the sandbox can be used, or has been rolled back.
    pub ready: oneshot::Sender<Result<(), LifecycleError>>,
}

impl SandboxTask {
    /// Runs the task of a new sandbox, from `starting` to its end.
    pub async fn begin(mut self, plan: LaunchPlan) {
        let LaunchPlan { source, environment, ready } = plan;
        let activation = environment.as_deref().map_or(Activation::Another, Activation::New);
        let (error, deleted) = match self.obtain_machine(source, activation).await {
            Ok((live, machine)) => {
                // An error means that the client has hung up. That does not undo its sandbox, which is complete.
                let _ = ready.send(Ok(()));
                return self.run(NextState::Running(live, machine)).await;
            }
            Err(NoMachine::Failed(error)) => (error, None),
            Err(NoMachine::Deleted(reply)) => (self.deleted_meanwhile(), Some(reply)),
            Err(NoMachine::ServerStops) => (LifecycleError::ShuttingDown, None),
        };
        // Before the answers: a client that reads of the end must not find the sandbox in the list.
        self.roll_back_create().await;
        let _ = ready.send(Err(error));
        if let Some(reply) = deleted {
            answer(reply, Ok(self.sandbox()));
        }
    }

    /// Gets a machine, activates it as this sandbox, and publishes the sandbox as running. On failure the state has not
    /// changed, and nothing of the machine is left, or will be left in a moment.
    pub(super) async fn obtain_machine(
        &mut self,
        source: MachineSource,
        activation: Activation<'_>,
    ) -> Result<(Live, Box<dyn SandboxVm>), NoMachine> {
        let source = Arc::new(source);
        let mut tried = 1;
        loop {
            let machine = self.make_machine(&source).await?;
            let reason = match self.activate(machine.as_ref(), activation).await {
                Ok(live) => return Ok((live, machine)),
                Err(reason) => reason,
            };
            // Read before the machine is destroyed, because the console ends with it.
            let console = console_end(&machine.console_tail().await);
            machine.destroy().await;
            // A policy that cannot be opened or a database that fails would fail with the next machine just the same.
            let error = match reason {
                NoMachine::Failed(LifecycleError::Launch(error)) if tried < MACHINES_TRIED => error,
                reason => return Err(reason),
            };
            let id = &self.spec.id;
            tracing::warn!(
                sandbox = %id, error = %chain(&error), console,
                "a machine did not come up: trying one more"
            );
            tried += 1;
        }
    }

    /// Has a machine made. If that is given up half way, the machine is ended in the background once it is there.
    async fn make_machine(&mut self, source: &Arc<MachineSource>) -> Result<Box<dyn SandboxVm>, NoMachine> {
        let (shared, spec, source) = (Arc::clone(&self.shared), Arc::clone(&self.spec), Arc::clone(source));
        // In a task of its own, because a launch that is dropped half way would leave what it has taken from the host.
        let mut making = tokio::spawn(async move {
            match source.as_ref() {
                MachineSource::Template(template) => shared.machines.fresh(template, spec.shape()).await,
                MachineSource::Stored(stored) => shared.machines.restored(&spec, stored).await,
            }
        });
        let reason = match self.hear(&mut making).await {
            Heard::Done(Ok(made)) => return made.map_err(NoMachine::Failed),
            Heard::Done(Err(panicked)) => return Err(NoMachine::Failed(LaunchError::Interrupted(panicked).into())),
            Heard::Deleted(reply) => NoMachine::Deleted(reply),
            Heard::ServerStops => NoMachine::ServerStops,
        };
        self.shared.tasks.spawn(async move {
            if let Ok(Ok(machine)) = making.await {
                machine.destroy().await;
            }
        });
        Err(reason)
    }

    /// Gives the machine the sandbox's identity and policy, and commits `running`.
    async fn activate(&mut self, machine: &dyn SandboxVm, activation: Activation<'_>) -> Result<Live, NoMachine> {
        let egress = self.shared.egress_of(&self.spec).map_err(NoMachine::Failed)?;
        let spec = Arc::clone(&self.spec);
        let shared = Arc::clone(&self.shared);
        let marked = async {
            // The database's number is on disk before the mark that has it, so that a mark is never newer than the
            // newest database.
            let sequence = shared.db.next_sequence().await?;
            Ok::<_, LifecycleError>(machine.mark(&Owner { sandbox: spec.id.clone(), sequence }).await?)
        };
        let confirmed = async {
            // At the same time, because the database's write takes about as long as the guest's answer.
            let (marked, confirmed) = tokio::join!(marked, machine.become_sandbox(&spec.id, activation, &egress));
            marked.and(confirmed.map_err(LifecycleError::from))
        };
        // The death of the VMM is noticed at once; the agent's silence only after the call's deadline.
        self.hear_beside(machine, confirmed).await?.map_err(NoMachine::Failed)?;
        // The timeout counts from here, and not from the request: a first use of a shape boots for seconds.
        let now = now_ms();
        let timeout_ms = i64::try_from(self.spec.timeout_s.saturating_mul(1000)).unwrap_or(i64::MAX);
        let live = Live {
            vm: machine.record(),
            origin: machine.origin(),
            timeout_at_ms: now.saturating_add(timeout_ms),
            timeout_at_boot_ms: Some(boot_ms().saturating_add(timeout_ms)),
        };
        let running = Sandbox { launched_at_ms: Some(now), ..self.next(Status::Running(live.clone())) };
        self.shared.db.sandbox_update(&running).await.map_err(|error| NoMachine::Failed(error.into()))?;
        self.publish_machine(running, machine);
        Ok(live)
    }

    /// The error of whoever waits for a sandbox that is deleted before it runs.
    pub(super) fn deleted_meanwhile(&self) -> LifecycleError {
        LifecycleError::DeletedMeanwhile { id: self.spec.id.clone() }
    }

    /// Removes the checkpoint of a sandbox that runs again. In the background, because the request that woke the
    /// sandbox need not wait for it; if the server dies first, the garbage collection removes it.
    pub(super) fn drop_in_background(&self, checkpoint: CheckpointId) {
        let shared = Arc::clone(&self.shared);
        self.shared.tasks.spawn(async move { shared.drop_checkpoint(&checkpoint).await });
    }

    /// Rolls back a create that has failed. No client has read the id in an answer.
    async fn roll_back_create(&mut self) {
        let id = &self.spec.id;
        if let Err(error) = self.shared.db.sandbox_delete_row(id).await {
            tracing::error!(
                sandbox = %id, error = %chain(&error),
                "the row of a sandbox that could not be created was not removed; the next start of the server does it"
            );
        }
        // Not logged as a transition, because the create was never acknowledged. Whoever found the sandbox in the list
        // and waits for it gets 404.
        self.publish.send_modify(|published| published.sandbox.status = Status::Deleted);
        self.shared.unregister(id);
    }

    /// Ends a sandbox whose machine has died: publishes the reason, logs the console, and frees the host's resources.
    pub(super) async fn failed(&mut self, machine: Box<dyn SandboxVm>, reason: ExitReason) -> NextState {
        let (exit, reason) = (reason.kind(), reason.to_string());
        let next = self.finish_deleted(Some(reason.clone()), None).await;
        // Published before the console is read: a VMM that hangs lets its console be waited for, and the owner must not
        // wait as well.
        let console = console_end(&machine.console_tail().await);
        let sandbox = &self.spec.id;
        tracing::warn!(event = "sandbox_failed", %sandbox, exit, %reason, console, "a sandbox has failed");
        machine.destroy().await;
        next
    }
}

/// The last [`CONSOLE_LOGGED`] bytes of a guest's console, escaped.
fn console_end(console: &str) -> String {
    // The guest may have written anything there, also what a terminal takes for a command or a reader for another line.
    let start = console.len().saturating_sub(CONSOLE_LOGGED);
    let start = (start..console.len()).find(|at| console.is_char_boundary(*at)).unwrap_or(console.len());
    console[start..].escape_debug().to_string()
}
