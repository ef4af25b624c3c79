//! A sandbox with a machine: requests, its timeout and the machine's death, one after the other.

use super::{NextState, StateDriver};
use crate::clock::now_ms;
use crate::machines::SandboxVm;
use crate::policy::{self, RunningOperation};
use crate::request::{Message, Request, answer};
use leapbox_db::{Live, Status};
use leapbox_errors::chain;
use leapbox_vmm::ExitReason;
use std::time::Duration;
use tokio::time::Instant;

/// After a pause at the timeout failed, it is tried again.
const PAUSE_AGAIN: Duration = Duration::from_secs(30);

/// A guest that does not confirm that it goes on is told again.
const TELL_AGAIN: Duration = Duration::from_secs(3);

/// What a running sandbox waits for.
enum Event {
    Died(ExitReason),
    ServerStops,
    Asked(Request),
    TimeUp,
    /// Somebody wants it woken, and it has been.
    Woken,
    /// Its guest has not confirmed that it goes on.
    TellAgain,
}

impl StateDriver {
    /// Serves the sandbox until its machine is gone.
    pub(super) async fn running(&mut self, mut live: Live, mut machine: Box<dyn SandboxVm>) -> NextState {
        let mut time_up = time_up(&live);
        loop {
            let next = match self.next_event(machine.as_ref(), time_up).await {
                Event::Died(reason) => return self.failed(machine, reason).await,
                Event::ServerStops => {
                    machine.leave();
                    return NextState::Ended;
                }
                Event::Asked(request) => self.asked(live, machine, request).await,
                Event::TimeUp => {
                    let next = self.timed_out(live, machine).await;
                    // From the end of an attempt, which may have been a long one.
                    time_up = Instant::now() + PAUSE_AGAIN;
                    next
                }
                Event::Woken => continue,
                Event::TellAgain => {
                    self.resume_workload(machine.as_ref()).await;
                    continue;
                }
            };
            match next {
                NextState::Running(still, same) => (live, machine) = (still, same),
                NextState::Stopping(..) | NextState::Paused(_) | NextState::Stopped(_) | NextState::Ended => {
                    return next;
                }
            }
        }
    }

    async fn next_event(&mut self, machine: &dyn SandboxVm, time_up: Instant) -> Event {
        let stop = self.inner.stop.clone();
        tokio::select! {
            biased;
            reason = machine.exited() => Event::Died(reason),
            () = stop.cancelled() => Event::ServerStops,
            message = self.requests.recv() => match message {
                Some(Message::Ask(request)) => Event::Asked(request),
                Some(Message::Wake(_)) => Event::Woken,
                // Every handle is gone: the registry is, too, so the server is ending.
                None => Event::ServerStops,
            },
            () = tokio::time::sleep_until(time_up) => Event::TimeUp,
            () = tokio::time::sleep(TELL_AGAIN), if self.unconfirmed => Event::TellAgain,
        }
    }

    async fn asked(&mut self, live: Live, machine: Box<dyn SandboxVm>, request: Request) -> NextState {
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
            let again_s = PAUSE_AGAIN.as_secs();
            tracing::warn!(sandbox = %self.spec.id, error = %chain(&error), again_s, "no pause at the timeout");
            next
        })
    }

    /// Ends the machine and deletes the sandbox.
    pub(super) async fn delete(&mut self, machine: Box<dyn SandboxVm>) -> NextState {
        self.commit_best_effort(self.next(Status::Deleting(None))).await;
        self.disconnect_clients();
        machine.destroy().await;
        self.finish_deleted(None, None).await
    }
}

/// From the database's wall clock to a clock that nobody sets.
fn time_up(live: &Live) -> Instant {
    let left_ms = live.timeout_at_ms.saturating_sub(now_ms());
    // A year is for ever: later instants cannot be told.
    let left = Duration::from_millis(u64::try_from(left_ms).unwrap_or(0)).min(Duration::from_secs(365 * 86400));
    Instant::now() + left
}
