//! A sandbox with a machine: requests, its timeout and the machine's death, one after the other.

use super::handle::{Reply, Request, refused};
use super::{Driver, Life};
use crate::clock::now_ms;
use crate::error::{LifecycleError, chain};
use crate::machines::Body;
use crate::policy::{Action, Decision, decide};
use leapbox_api_types::sandbox::SandboxState;
use leapbox_db::SandboxRow;
use std::time::Duration;
use tokio::time::Instant;

/// After a pause at the timeout failed, it is tried again.
const PAUSE_AGAIN: Duration = Duration::from_secs(30);

/// A guest that does not confirm that it goes on is told again.
const TELL_AGAIN: Duration = Duration::from_secs(3);

/// What became of a request to a running sandbox.
pub(super) enum Outcome {
    /// It runs on.
    On(Box<dyn Body>),
    /// It does not.
    Changed(Life),
}

/// What a running sandbox waits for.
enum Event {
    Died(leapbox_vmm::ExitReason),
    ServerStops,
    Asked(Request),
    TimeUp,
    /// Its guest has not confirmed that it goes on.
    TellAgain,
}

impl Driver {
    /// Serves the sandbox until its machine is gone.
    pub(super) async fn running(&mut self, mut machine: Box<dyn Body>) -> Life {
        let mut time_up = self.time_up();
        loop {
            let event = self.next_event(machine.as_ref(), time_up).await;
            let outcome = match event {
                Event::Died(reason) => return self.failed(machine, reason).await,
                Event::ServerStops => {
                    machine.leave();
                    return Life::Over;
                }
                Event::Asked(Request::Wake(_)) => Outcome::On(machine),
                Event::Asked(Request::Do(action, reply)) => self.asked(machine, action, reply).await,
                Event::Asked(Request::Snapshot(new, reply)) => {
                    let (answer, life) = self.snapshot(machine, new).await;
                    let _ = reply.send(answer);
                    match life {
                        Life::Running(machine) => Outcome::On(machine),
                        life => Outcome::Changed(life),
                    }
                }
                Event::TimeUp => {
                    let outcome = self.timed_out(machine).await;
                    time_up = Instant::now() + PAUSE_AGAIN;
                    outcome
                }
                Event::TellAgain => {
                    self.wake_up(machine.as_ref()).await;
                    Outcome::On(machine)
                }
            };
            machine = match outcome {
                Outcome::On(machine) => machine,
                Outcome::Changed(life) => return life,
            };
        }
    }

    async fn next_event(&mut self, machine: &dyn Body, time_up: Instant) -> Event {
        let stop = self.inner.stop.clone();
        tokio::select! {
            biased;
            reason = machine.exited() => Event::Died(reason),
            () = stop.cancelled() => Event::ServerStops,
            request = self.requests.recv() => match request {
                Some(request) => Event::Asked(request),
                // Every handle is gone: the registry is, too, so the server is ending.
                None => Event::ServerStops,
            },
            () = tokio::time::sleep_until(time_up) => Event::TimeUp,
            () = tokio::time::sleep(TELL_AGAIN), if self.unconfirmed => Event::TellAgain,
        }
    }

    /// From the wall clock of the row to a clock that nobody sets.
    fn time_up(&self) -> Instant {
        let left_ms = self.row().timeout_at_ms.unwrap_or(i64::MAX).saturating_sub(now_ms());
        // A year is for ever: later instants cannot be told.
        let left = Duration::from_millis(u64::try_from(left_ms).unwrap_or(0)).min(Duration::from_secs(365 * 86400));
        Instant::now() + left
    }

    async fn asked(&mut self, machine: Box<dyn Body>, action: Action, reply: Reply<SandboxRow>) -> Outcome {
        let row = self.row();
        match decide(row.state, action) {
            Decision::Proceed => {}
            Decision::Wake | Decision::Wait => {
                let _ = reply.send(Ok(row));
                return Outcome::On(machine);
            }
            Decision::Refuse(refusal) => {
                let _ = reply.send(Err(refused(&row, refusal)));
                return Outcome::On(machine);
            }
        }
        let done = match action {
            Action::Stop => {
                return match self.stop(machine, reply).await {
                    Ok(life) => Outcome::Changed(life),
                    Err((machine, reply, error)) => {
                        let _ = reply.send(Err(error));
                        Outcome::On(machine)
                    }
                };
            }
            Action::Pause => self.pause(machine).await,
            Action::Delete | Action::TimeOut => Ok(self.delete(machine).await),
            // Both were refused or answered above.
            Action::Use | Action::Start | Action::Snapshot => Err((machine, LifecycleError::ShuttingDown)),
        };
        match done {
            Ok(life) => {
                let _ = reply.send(Ok(self.row()));
                Outcome::Changed(life)
            }
            Err((machine, error)) => {
                let _ = reply.send(Err(error));
                Outcome::On(machine)
            }
        }
    }

    async fn timed_out(&mut self, machine: Box<dyn Body>) -> Outcome {
        let row = self.row();
        debug_assert_eq!(decide(row.state, Action::TimeOut), Decision::Proceed);
        if !row.auto_pause {
            return Outcome::Changed(self.delete(machine).await);
        }
        match self.pause(machine).await {
            Ok(life) => Outcome::Changed(life),
            Err((machine, error)) => {
                let again_s = PAUSE_AGAIN.as_secs();
                tracing::warn!(sandbox = %self.row().id, error = %chain(&error), again_s, "no pause at the timeout");
                Outcome::On(machine)
            }
        }
    }

    /// Ends the machine and deletes the sandbox.
    pub(super) async fn delete(&mut self, machine: Box<dyn Body>) -> Life {
        let row = SandboxRow { machine: None, ..self.row_in(SandboxState::Deleting) };
        self.fall(row).await;
        self.cut_off();
        machine.destroy().await;
        self.gone(None).await
    }
}
