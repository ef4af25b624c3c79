//! The state `running`: the task serves requests of its owner, the timeout and the machine's death, one after the
//! other.

use super::{NextState, SandboxTask};
use crate::clock::{boot_ms, now_ms};
use crate::machines::SandboxVm;
use crate::policy::{self, RunningOperation};
use crate::request::{Message, OwnerRequest, answer};
use leapbox_db::{Live, Status};
use leapbox_errors::chain;
use leapbox_vmm::ExitReason;
use std::time::Duration;
use tokio::time::Instant;

/// How long after a failed pause at the timeout the pause is tried again. Each attempt suspends the guest, and a full
/// disk is usually not emptied sooner.
const PAUSE_RETRY: Duration = Duration::from_secs(30);

/// An event that the task of a running sandbox waits for.
enum Event {
    /// The VMM has ended, or the guest has shut down.
    Died(ExitReason),
    ServerStops,
    Requested(OwnerRequest),
    TimedOut,
    /// A wake that was sent before the sandbox ran again. Nothing is left to be done.
    LateWake,
    ConfirmRetry,
}

impl SandboxTask {
    /// Serves the sandbox until it leaves the state `running`.
    pub(super) async fn running(&mut self, mut live: Live, mut machine: Box<dyn SandboxVm>) -> NextState {
        let mut deadline = deadline(&live);
        loop {
            let next = match self.next_event(machine.as_ref(), deadline).await {
                Event::Died(reason) => return self.failed(machine, reason).await,
                Event::ServerStops => {
                    machine.detach();
                    return NextState::Ended;
                }
                Event::Requested(request) => self.handle_request(live, machine, request).await,
                Event::TimedOut => {
                    let next = self.timed_out(live, machine).await;
                    // Counted from the end of the attempt: one that takes minutes must not be followed at once by
                    // another, or the guest would hardly run.
                    deadline = Instant::now() + PAUSE_RETRY;
                    next
                }
                Event::LateWake => continue,
                Event::ConfirmRetry => {
                    self.resume_workload(machine.as_ref()).await;
                    continue;
                }
            };
            match next {
                NextState::Running(still, same) => (live, machine) = (still, same),
                NextState::Adopting(_)
                | NextState::Stopping(..)
                | NextState::Paused(_)
                | NextState::Stopped(_)
                | NextState::Ended => return next,
            }
        }
    }

    async fn next_event(&mut self, machine: &dyn SandboxVm, deadline: Instant) -> Event {
        let confirm_at = self.confirm_at;
        let confirm = async {
            match confirm_at {
                Some(instant) => tokio::time::sleep_until(instant).await,
                None => std::future::pending().await,
            }
        };
        // The order decides when several are ready: a request to a dead machine must see the death, a guest that may be
        // frozen must be asked however many requests come, and the queue sees the server's stop first.
        tokio::select! {
            biased;
            reason = machine.exited() => Event::Died(reason),
            () = confirm => Event::ConfirmRetry,
            message = self.next_message() => match message {
                Some(Message::Ask(request)) => Event::Requested(request),
                Some(Message::Wake(_)) => Event::LateWake,
                None => Event::ServerStops,
            },
            () = tokio::time::sleep_until(deadline) => Event::TimedOut,
        }
    }

    async fn handle_request(&mut self, live: Live, machine: Box<dyn SandboxVm>, request: OwnerRequest) -> NextState {
        match policy::running(request) {
            Ok(RunningOperation::Pause(reply)) => {
                let tried = self.pause(live, machine).await;
                self.answer(reply, tried)
            }
            Ok(RunningOperation::Stop(reply)) => self.stop(live, machine, reply).await,
            Ok(RunningOperation::Snapshot(new, reply)) => {
                let (taken, next) = self.snapshot(live, machine, new).await;
                answer(reply, taken);
                next
            }
            Ok(RunningOperation::Delete(reply)) => {
                let deleted = Ok(self.delete(machine).await);
                self.answer(reply, deleted)
            }
            Err((request, refusal)) => {
                self.refuse(request, refusal);
                NextState::Running(live, machine)
            }
        }
    }

    async fn timed_out(&mut self, live: Live, machine: Box<dyn SandboxVm>) -> NextState {
        if !self.spec.auto_pause {
            return self.delete(machine).await;
        }
        self.pause(live, machine).await.unwrap_or_else(|(next, error)| {
            let again_s = PAUSE_RETRY.as_secs();
            // It runs on beyond its timeout, because the alternative is to lose what its owner wanted kept. Unless it
            // was deleted meanwhile, or its machine has died.
            if let NextState::Running(..) = next {
                tracing::warn!(
                    sandbox = %self.spec.id, error = %chain(&error), again_s,
                    "a sandbox could not be paused at its timeout: it runs on, and the pause is tried again"
                );
            }
            next
        })
    }

    /// Ends the machine and deletes the sandbox.
    pub(super) async fn delete(&mut self, machine: Box<dyn SandboxVm>) -> NextState {
        // Even if this row cannot be written the machine is ended: a delete, or a timeout, must not depend on the disk
        // having space for it.
        self.commit_best_effort(self.next(Status::Deleting(None))).await;
        self.disconnect_clients();
        machine.destroy().await;
        self.finish_deleted(None, None).await
    }
}

/// The instant of the timeout.
fn deadline(live: &Live) -> Instant {
    // By the clock since the boot, which survives a restart of the server, so that a Unix clock that is set (by hand, by
    // NTP) neither ends the sandbox nor keeps it. Only a row of an earlier version has nothing but the Unix time.
    let left_ms = match live.timeout_at_boot_ms {
        Some(at_ms) => at_ms.saturating_sub(boot_ms()),
        None => live.timeout_at_ms.saturating_sub(now_ms()),
    };
    // `Instant` cannot represent every time that a row may have, and adding one that is too far away panics.
    let left = Duration::from_millis(u64::try_from(left_ms).unwrap_or(0)).min(Duration::from_secs(365 * 86400));
    Instant::now() + left
}
