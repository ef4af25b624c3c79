//! May this be done to a sandbox now? Pure: no locks, no I/O.
//!
//! ```text
//!                     ┌── snapshot, failed pause ──┐
//!                     ▼                            │
//! starting ──────► running ──pause, timeout──► snapshotting ──► paused ──a request──► unpausing ──► running
//!    ▲                │ └──stop──► stopping ──► stopped              ▲──── failed wake ────┘
//!    └────────────────┼────────────start───────────┘
//!                     └──delete, timeout──► deleting ──► deleted        (from paused and stopped, too)
//! ```
//!
//! Every request in every state is decided here and nowhere else. A sandbox's task is in one of four places where it
//! takes requests ([`running`], [`paused`], [`stopping`], [`stopped`]): what is allowed there comes back as an operation
//! of that place, with the request's own reply in it. While the task is busy with a transition its requests are refused
//! before they are sent ([`while_busy`]). There is no `_` arm: a new state or request does not compile until everything
//! has been decided.

use crate::request::{PauseEpoch, Reply, Request};
use leapbox_api_types::sandbox::SandboxState;
use leapbox_api_types::snapshot::NewSnapshot;
use leapbox_db::{Sandbox, SnapshotRow};

/// Why not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Something else is being done to it.
    InTransition,
    /// That needs a sandbox that runs.
    NotRunning,
    /// That needs a sandbox that is stopped.
    NotStopped,
    /// It is gone.
    Gone,
}

/// What a request that needs the inside of a sandbox has to do first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    /// Nothing.
    Now,
    /// Wake it, then ask again.
    Wake,
    /// Wait for the state to change, then ask again.
    Wait,
    /// It cannot be used.
    Refuse(Refusal),
}

/// Whether what runs inside can be used.
pub(crate) fn can_use(state: SandboxState) -> Use {
    match state {
        SandboxState::Running => Use::Now,
        SandboxState::Paused => Use::Wake,
        SandboxState::Starting | SandboxState::Snapshotting | SandboxState::Unpausing => Use::Wait,
        SandboxState::Stopping => Use::Refuse(Refusal::InTransition),
        // Requests do not start what its owner has stopped.
        SandboxState::Stopped => Use::Refuse(Refusal::NotRunning),
        SandboxState::Deleting | SandboxState::Deleted => Use::Refuse(Refusal::Gone),
    }
}

/// Why a request need not be sent: the sandbox's task is in a transition, and would decide the same when it is late.
pub(crate) fn while_busy(state: SandboxState, request: &Request) -> Option<Refusal> {
    match state {
        SandboxState::Starting | SandboxState::Snapshotting | SandboxState::Unpausing | SandboxState::Deleting => {
            Some(Refusal::InTransition)
        }
        SandboxState::Stopping => (!matches!(request, Request::Delete(_))).then_some(Refusal::InTransition),
        SandboxState::Deleted => Some(Refusal::Gone),
        SandboxState::Running | SandboxState::Paused | SandboxState::Stopped => None,
    }
}

/// What becomes of a request that has reached the sandbox's task.
#[derive(Debug)]
pub(crate) enum Verdict<Operation> {
    Do(Operation),
    Refuse(Request, Refusal),
    /// A call to wake what is not asleep any more: nobody waits for its answer.
    Ignore,
}

/// What can be done to a running sandbox.
#[derive(Debug)]
pub(crate) enum RunningOperation {
    Pause(Reply<Sandbox>),
    Stop(Reply<Sandbox>),
    Snapshot(NewSnapshot, Reply<SnapshotRow>),
    Delete(Reply<Sandbox>),
}

/// Decides about a request to a running sandbox.
pub(crate) fn running(request: Request) -> Verdict<RunningOperation> {
    match request {
        Request::Wake(_) => Verdict::Ignore,
        Request::Pause(reply) => Verdict::Do(RunningOperation::Pause(reply)),
        Request::Stop(reply) => Verdict::Do(RunningOperation::Stop(reply)),
        Request::Snapshot(new, reply) => Verdict::Do(RunningOperation::Snapshot(new, reply)),
        Request::Delete(reply) => Verdict::Do(RunningOperation::Delete(reply)),
        Request::Start(_) => Verdict::Refuse(request, Refusal::NotStopped),
    }
}

/// What can be done to a paused sandbox.
#[derive(Debug)]
pub(crate) enum PausedOperation {
    Wake,
    /// What is stored of it is what a snapshot would store.
    Snapshot(NewSnapshot, Reply<SnapshotRow>),
    Delete(Reply<Sandbox>),
}

/// Decides about a request to a sandbox that is paused since `epoch`.
pub(crate) fn paused(request: Request, epoch: PauseEpoch) -> Verdict<PausedOperation> {
    match request {
        Request::Wake(seen) if seen == epoch => Verdict::Do(PausedOperation::Wake),
        Request::Wake(_) => Verdict::Ignore,
        Request::Snapshot(new, reply) => Verdict::Do(PausedOperation::Snapshot(new, reply)),
        Request::Delete(reply) => Verdict::Do(PausedOperation::Delete(reply)),
        Request::Pause(_) | Request::Stop(_) => Verdict::Refuse(request, Refusal::NotRunning),
        Request::Start(_) => Verdict::Refuse(request, Refusal::NotStopped),
    }
}

/// What can be done to a sandbox whose disk could not be stored yet.
#[derive(Debug)]
pub(crate) enum StoppingOperation {
    /// One whose disk can never be stored must not stay for ever.
    Delete(Reply<Sandbox>),
}

/// Decides about a request between two attempts to store the disk of a sandbox that is being stopped.
pub(crate) fn stopping(request: Request) -> Verdict<StoppingOperation> {
    match request {
        Request::Wake(_) => Verdict::Ignore,
        Request::Delete(reply) => Verdict::Do(StoppingOperation::Delete(reply)),
        Request::Pause(_) | Request::Stop(_) | Request::Start(_) | Request::Snapshot(..) => {
            Verdict::Refuse(request, Refusal::InTransition)
        }
    }
}

/// What can be done to a stopped sandbox.
#[derive(Debug)]
pub(crate) enum StoppedOperation {
    Start(Reply<Sandbox>),
    Delete(Reply<Sandbox>),
}

/// Decides about a request to a stopped sandbox.
pub(crate) fn stopped(request: Request) -> Verdict<StoppedOperation> {
    match request {
        Request::Wake(_) => Verdict::Ignore,
        Request::Start(reply) => Verdict::Do(StoppedOperation::Start(reply)),
        Request::Delete(reply) => Verdict::Do(StoppedOperation::Delete(reply)),
        Request::Pause(_) | Request::Stop(_) | Request::Snapshot(..) => Verdict::Refuse(request, Refusal::NotRunning),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use SandboxState::{Deleted, Paused, Running, Stopped, Stopping};
    use tokio::sync::oneshot;

    const NOW: PauseEpoch = PauseEpoch { runs: 3, failed_wakes: 1 };
    const EARLIER: PauseEpoch = PauseEpoch { runs: 2, failed_wakes: 0 };

    fn requests() -> Vec<(&'static str, Request)> {
        let new = NewSnapshot { name: None, kill_sandbox_after: false };
        vec![
            ("wake", Request::Wake(NOW)),
            ("late wake", Request::Wake(EARLIER)),
            ("pause", Request::Pause(oneshot::channel().0)),
            ("stop", Request::Stop(oneshot::channel().0)),
            ("start", Request::Start(oneshot::channel().0)),
            ("snapshot", Request::Snapshot(new, oneshot::channel().0)),
            ("delete", Request::Delete(oneshot::channel().0)),
        ]
    }

    /// What each request comes to: `do`, `ignore`, or why it is refused.
    fn table<Operation>(decide: impl Fn(Request) -> Verdict<Operation>) -> Vec<(&'static str, String)> {
        let told = |verdict| match verdict {
            Verdict::Do(_) => "do".to_owned(),
            Verdict::Ignore => "ignore".to_owned(),
            Verdict::Refuse(_, refusal) => format!("{refusal:?}"),
        };
        requests().into_iter().map(|(name, request)| (name, told(decide(request)))).collect()
    }

    fn assert_table(found: Vec<(&'static str, String)>, expected: [&str; 7]) {
        let (names, found): (Vec<_>, Vec<_>) = found.into_iter().unzip();
        assert_eq!(found, expected, "{names:?}");
    }

    #[test]
    fn what_rests_can_be_deleted_as_it_is() {
        assert_table(table(running), ["ignore", "ignore", "do", "do", "NotStopped", "do", "do"]);
        let when_paused = table(|request| paused(request, NOW));
        assert_table(when_paused, ["do", "ignore", "NotRunning", "NotRunning", "NotStopped", "do", "do"]);
        assert_table(table(stopped), ["ignore", "ignore", "NotRunning", "NotRunning", "do", "NotRunning", "do"]);
    }

    #[test]
    fn nothing_but_waiting_is_possible_in_a_transition_and_giving_up_a_stop() {
        let between = ["InTransition"; 4];
        let [a, b, c, d] = between;
        assert_table(table(stopping), ["ignore", "ignore", a, b, c, d, "do"]);
        for state in SandboxState::ALL {
            for (name, request) in requests() {
                let expected = match state {
                    Running | Paused | Stopped => None,
                    Stopping if name == "delete" => None,
                    Deleted => Some(Refusal::Gone),
                    _ => Some(Refusal::InTransition),
                };
                assert_eq!(while_busy(state, &request), expected, "{state} {name}");
            }
        }
    }

    #[test]
    fn only_a_request_wakes_and_only_from_a_pause() {
        for state in SandboxState::ALL {
            assert_eq!(can_use(state) == Use::Wake, state == Paused, "{state}");
            assert_eq!(can_use(state) == Use::Now, state == Running, "{state}");
        }
    }

    #[test]
    fn requests_do_not_start_what_was_stopped() {
        assert_eq!(can_use(Stopped), Use::Refuse(Refusal::NotRunning));
    }
}
