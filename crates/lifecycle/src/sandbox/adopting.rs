//! Takes over the machine that the former server left running, while this server already serves everybody else. The
//! sandbox's own requests wait for it.
//!
//! ```text
//! adopt ─┬─ taken over ──► row running ─► published ─► the guest confirms that its workload runs
//!        ├─ proven dead ─► failed, with the reason
//!        └─ anything else is tried again, however long it takes (in `Machines::adopt`)
//! ```

use super::pause::resumed;
use super::waiting::Heard;
use super::{NextState, SandboxTask};
use crate::error::LifecycleError;
use crate::machines::SandboxVm;
use crate::request::answer;
use leapbox_db::{Live, Status};
use leapbox_errors::chain;
use leapbox_ids::SandboxId;
use leapbox_vmm::VmmError;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How long after a policy that could not be opened it is tried again. Only an operator can mend that, so often is
/// pointless.
const POLICY_RETRY: Duration = Duration::from_secs(30);

impl SandboxTask {
    /// Takes the machine over, and returns when that has succeeded, the machine is proven dead, its owner has deleted
    /// the sandbox, or the server stops.
    pub(super) async fn adopting(&mut self, live: Live) -> NextState {
        let (shared, spec) = (Arc::clone(&self.shared), Arc::clone(&self.spec));
        let adopted = async {
            loop {
                match shared.egress_of(&spec) {
                    Ok(egress) => return shared.machines.adopt(&spec, &live, &egress).await,
                    // The machine goes on under the rules that are in force; without its policy nothing new is opened.
                    Err(error) => log_delay(&spec.id, &error),
                }
                tokio::time::sleep(POLICY_RETRY).await;
            }
        };
        match self.hear(adopted).await {
            Heard::Done(Ok(machine)) => self.adopted(live, machine).await,
            Heard::Done(Err(death)) => self.found_dead(&live, &death).await,
            Heard::ServerStops => NextState::Ended,
            Heard::Deleted(reply) => {
                self.commit_best_effort(self.next(Status::Deleting(None))).await;
                self.shared.machines.end_unadopted(&live.vm).await;
                let next = self.finish_deleted(None, None).await;
                answer(reply, Ok(self.sandbox()));
                next
            }
        }
    }

    async fn adopted(&mut self, live: Live, machine: Box<dyn SandboxVm>) -> NextState {
        let id = &self.spec.id;
        tracing::info!(event = "adopted", sandbox = %id, "adopted a running sandbox");
        // A running one's row stays as it is, and the timeout with it: a restart does not make a sandbox live longer.
        if matches!(self.sandbox().status, Status::Running(_)) {
            self.publish_machine(self.sandbox(), machine.as_ref());
            // The former server may have died before the guest had confirmed that its workload runs again.
            self.confirm_at = Some(Instant::now());
            return NextState::Running(live, machine);
        }
        // It was being stored, and is suspended. Nobody is let in before its workload runs, or the guest has had its time
        // to say so.
        let spec = Arc::clone(&self.spec);
        match self.hear_beside(machine.as_ref(), resumed(machine.as_ref(), &spec.id)).await {
            Ok(confirmed) => self.note_confirmation(confirmed),
            Err(reason) => return self.break_off(live, machine, reason).await.0,
        }
        let running = self.next(Status::Running(live.clone()));
        self.write(&running).await;
        self.publish_machine(running, machine.as_ref());
        NextState::Running(live, machine)
    }

    async fn found_dead(&mut self, live: &Live, death: &VmmError) -> NextState {
        let sandbox = &self.spec.id;
        tracing::warn!(event = "sandbox_failed", %sandbox, error = %chain(death), "a sandbox was lost");
        let next = self.finish_deleted(Some(LOST.to_owned()), None).await;
        self.shared.machines.end_unadopted(&live.vm).await;
        next
    }
}

/// The reason that the owner of a sandbox reads whose machine ended while no server watched it. Causes may name the
/// host's paths, and are in the log only.
pub(crate) const LOST: &str = "its virtual machine was lost while the server was down";

fn log_delay(sandbox: &SandboxId, error: &LifecycleError) {
    let again_s = POLICY_RETRY.as_secs();
    tracing::warn!(
        event = "adoption_delayed", %sandbox, error = %chain(error), again_s,
        "a sandbox cannot be taken over yet: it runs on, and it is tried again"
    );
}
