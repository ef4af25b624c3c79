//! What a sandbox's task hears while it waits. A wait may take minutes (a permit to store, the fetch of an archive, a
//! VMM that does not answer), and neither its owner's delete, nor its machine's death, nor the server's stop may have
//! to wait for it.
//!
//! ```text
//! hear(work) ─┬─ the work is done ──────────► Done
//!             ├─ its owner deletes it ──────► Deleted       the caller gives the work up, and answers
//!             ├─ the server stops ──────────► ServerStops
//!             └─ other requests: kept for later while the sandbox runs, else refused
//! ```

use super::{NextState, SandboxTask};
use crate::error::LifecycleError;
use crate::handle::refused;
use crate::machines::SandboxVm;
use crate::policy::{self, Refusal, WaitingOperation};
use crate::request::{Message, OwnerRequest, Reply, answer};
use leapbox_api_types::sandbox::SandboxState;
use leapbox_db::{DbError, Live, Sandbox};
use leapbox_vmm::ExitReason;

/// Requests that are kept for the time after a wait; more are refused. As many as the task's queue holds.
const KEPT_MAX: usize = super::MESSAGES_MAX;

/// The end of a wait.
pub(super) enum Heard<T> {
    Done(T),
    /// The sandbox's owner deletes it. The caller answers when nothing is left of it.
    Deleted(Reply<Sandbox>),
    ServerStops,
}

/// The reason for which an operation has not been completed.
pub(super) enum BrokenOff {
    Failed(LifecycleError),
    Deleted(Reply<Sandbox>),
    /// The machine has ended.
    Died(ExitReason),
    ServerStops,
}

impl From<LifecycleError> for BrokenOff {
    fn from(error: LifecycleError) -> Self {
        Self::Failed(error)
    }
}

impl From<DbError> for BrokenOff {
    fn from(error: DbError) -> Self {
        Self::Failed(error.into())
    }
}

impl SandboxTask {
    /// Waits for `work`, and hears its owner's delete and the server's stop meanwhile. `work` is dropped if it is not
    /// done, so it must be harmless to drop.
    pub(super) async fn hear<T>(&mut self, work: impl Future<Output = T>) -> Heard<T> {
        let stop = self.shared.stop.clone();
        tokio::pin!(work);
        loop {
            let message = tokio::select! {
                biased;
                done = &mut work => return Heard::Done(done),
                () = stop.cancelled() => return Heard::ServerStops,
                message = self.messages.recv() => message,
            };
            let request = match message {
                None => return Heard::ServerStops,
                // The wait itself ends in a state in which the sandbox can be used or is woken again.
                Some(Message::Wake(_)) => continue,
                Some(Message::Ask(request)) => request,
            };
            match policy::waiting(request) {
                Ok(WaitingOperation::Delete(reply)) => return Heard::Deleted(reply),
                Err((request, refusal)) => self.keep_or_refuse(request, refusal),
            }
        }
    }

    /// Keeps a request for later if the sandbox runs, because nothing stands against it then; in a transition it is
    /// refused.
    fn keep_or_refuse(&mut self, request: OwnerRequest, refusal: Refusal) {
        let runs = self.publish.borrow().sandbox.state() == SandboxState::Running;
        if runs && self.kept.len() < KEPT_MAX {
            self.kept.push_back(request);
        } else {
            self.refuse(request, refusal);
        }
    }

    /// Waits for `work` beside a machine, whose death ends the wait as well.
    pub(super) async fn hear_beside<T>(
        &mut self,
        machine: &dyn SandboxVm,
        work: impl Future<Output = T>,
    ) -> Result<T, BrokenOff> {
        let work = async {
            tokio::select! {
                biased;
                reason = machine.exited() => Err(BrokenOff::Died(reason)),
                done = work => Ok(done),
            }
        };
        match self.hear(work).await {
            Heard::Done(done) => done,
            Heard::Deleted(reply) => Err(BrokenOff::Deleted(reply)),
            Heard::ServerStops => Err(BrokenOff::ServerStops),
        }
    }

    /// Continues after an operation on a machine that has not been completed, and returns the error for whoever asked
    /// for the operation.
    pub(super) async fn break_off(
        &mut self,
        live: Live,
        machine: Box<dyn SandboxVm>,
        reason: BrokenOff,
    ) -> (NextState, LifecycleError) {
        match reason {
            BrokenOff::Failed(error) => (NextState::Running(live, machine), error),
            // The state `running` sees the stop itself, and leaves the machine to the next server.
            BrokenOff::ServerStops => (NextState::Running(live, machine), LifecycleError::ShuttingDown),
            BrokenOff::Deleted(reply) => {
                let next = self.delete(machine).await;
                answer(reply, Ok(self.sandbox()));
                (next, refused(&self.sandbox(), Refusal::Gone))
            }
            BrokenOff::Died(reason) => {
                let next = self.failed(machine, reason).await;
                (next, refused(&self.sandbox(), Refusal::Gone))
            }
        }
    }
}
