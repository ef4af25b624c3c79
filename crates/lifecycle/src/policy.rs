//! Decides what is allowed in the state of a sandbox. Pure: no locks, no I/O.
//!
//! ```text
//!                     ┌── snapshot, failed pause ──┐
//!                     ▼                            │
//! starting ──────► running ──pause, timeout──► snapshotting ──► paused ────wake─────► unpausing ──► running
//!    ▲                │ └──stop──► stopping ──► stopped              ▲──── failed wake ────┘
//!    └────────────────┼────────────start───────────┘
//!                     └──delete, timeout──► deleting ──► deleted    (a delete: from every other state, too)
//! ```
//!
//! Two questions are decided here and nowhere else. [`can_use`] decides what an HTTP request that needs the guest does
//! (one for a paused sandbox wakes it), and the functions below decide about an [`OwnerRequest`] (pause, stop, start,
//! snapshot, delete). A sandbox's task takes owner's requests in three states ([`running`], [`paused`], [`stopped`])
//! and in every transition, while it waits for something ([`waiting`]). Each of these functions returns an allowed one
//! as an operation of that state, with its reply channel in it, so that the task cannot perform anything else. A
//! [`Handle`](crate::handle::Handle) asks the same with [`judge`] before it sends an owner's request, because a busy
//! task would refuse it late; the state may have changed when the task reads it, so the task decides again. There is no
//! `_` arm: a new state or request does not compile until every combination has been decided.

use crate::request::{OwnerRequest, Reply};
use leapbox_api_types::sandbox::SandboxState;
use leapbox_api_types::snapshot::NewSnapshot;
use leapbox_db::{Sandbox, SnapshotRow};

/// The reason for refusing an HTTP request that needs the guest, or an owner's request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Another operation is being performed, and the state after it is not known yet.
    InTransition,
    NotRunning,
    NotStopped,
    /// It is deleted or has failed.
    Gone,
}

/// The next step of an HTTP request that needs a sandbox's guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    /// Use the guest at once.
    Now,
    /// Wake the sandbox, then ask again.
    Wake,
    /// Wait for the state to change, then ask again.
    Wait,
    Refuse(Refusal),
}

/// Decides what an HTTP request that needs the guest does in this state.
pub(crate) fn can_use(state: SandboxState) -> Use {
    match state {
        SandboxState::Running => Use::Now,
        SandboxState::Paused => Use::Wake,
        // These end in a state that can be used or woken, unless they fail, so waiting is worth it.
        SandboxState::Starting | SandboxState::Snapshotting | SandboxState::Unpausing => Use::Wait,
        // It ends in `stopped`, which refuses as well: waiting would only delay that.
        SandboxState::Stopping => Use::Refuse(Refusal::InTransition),
        // A stop is its owner's decision, so an HTTP request does not undo it as it undoes a pause.
        SandboxState::Stopped => Use::Refuse(Refusal::NotRunning),
        SandboxState::Deleting | SandboxState::Deleted => Use::Refuse(Refusal::Gone),
    }
}

/// The operation that an allowed owner's request is, or the refused one, to be answered, with the reason.
pub(crate) type Verdict<Operation> = Result<Operation, (OwnerRequest, Refusal)>;

/// Decides about an owner's request before it is sent to the task of a sandbox in this state, and returns it if it is
/// allowed.
pub(crate) fn judge(state: SandboxState, request: OwnerRequest) -> Verdict<OwnerRequest> {
    match state {
        SandboxState::Running => running(request).map(OwnerRequest::from),
        SandboxState::Paused => paused(request).map(OwnerRequest::from),
        SandboxState::Starting | SandboxState::Snapshotting | SandboxState::Unpausing | SandboxState::Stopping => {
            waiting(request).map(OwnerRequest::from)
        }
        SandboxState::Stopped => stopped(request).map(OwnerRequest::from),
        SandboxState::Deleting => Err((request, Refusal::InTransition)),
        SandboxState::Deleted => Err((request, Refusal::Gone)),
    }
}

/// The operations of a running sandbox.
#[derive(Debug)]
pub(crate) enum RunningOperation {
    Pause(Reply<Sandbox>),
    Stop(Reply<Sandbox>),
    Snapshot(NewSnapshot, Reply<SnapshotRow>),
    Delete(Reply<Sandbox>),
}

/// Decides about an owner's request that the task reads while the sandbox runs.
pub(crate) fn running(request: OwnerRequest) -> Verdict<RunningOperation> {
    match request {
        OwnerRequest::Pause(reply) => Ok(RunningOperation::Pause(reply)),
        OwnerRequest::Stop(reply) => Ok(RunningOperation::Stop(reply)),
        OwnerRequest::Snapshot(new, reply) => Ok(RunningOperation::Snapshot(new, reply)),
        OwnerRequest::Delete(reply) => Ok(RunningOperation::Delete(reply)),
        OwnerRequest::Start(_) => Err((request, Refusal::NotStopped)),
    }
}

impl From<RunningOperation> for OwnerRequest {
    fn from(operation: RunningOperation) -> Self {
        match operation {
            RunningOperation::Pause(reply) => OwnerRequest::Pause(reply),
            RunningOperation::Stop(reply) => OwnerRequest::Stop(reply),
            RunningOperation::Snapshot(new, reply) => OwnerRequest::Snapshot(new, reply),
            RunningOperation::Delete(reply) => OwnerRequest::Delete(reply),
        }
    }
}

/// The operations of a paused sandbox that its owner asks for. HTTP requests wake it, see [`can_use`].
#[derive(Debug)]
pub(crate) enum PausedOperation {
    /// Allowed, because the paused sandbox's checkpoint is all that a snapshot stores.
    Snapshot(NewSnapshot, Reply<SnapshotRow>),
    Delete(Reply<Sandbox>),
}

/// Decides about an owner's request that the task reads while the sandbox is paused.
pub(crate) fn paused(request: OwnerRequest) -> Verdict<PausedOperation> {
    match request {
        OwnerRequest::Snapshot(new, reply) => Ok(PausedOperation::Snapshot(new, reply)),
        OwnerRequest::Delete(reply) => Ok(PausedOperation::Delete(reply)),
        OwnerRequest::Pause(_) | OwnerRequest::Stop(_) => Err((request, Refusal::NotRunning)),
        OwnerRequest::Start(_) => Err((request, Refusal::NotStopped)),
    }
}

impl From<PausedOperation> for OwnerRequest {
    fn from(operation: PausedOperation) -> Self {
        match operation {
            PausedOperation::Snapshot(new, reply) => OwnerRequest::Snapshot(new, reply),
            PausedOperation::Delete(reply) => OwnerRequest::Delete(reply),
        }
    }
}

/// The operations of a sandbox whose task waits for something: a machine, a permit to store, a store, or the next
/// attempt of one of them.
#[derive(Debug)]
pub(crate) enum WaitingOperation {
    /// Allowed, because a wait may take minutes, or for ever (a disk that can never be stored), and what is to be
    /// deleted need not be waited for.
    Delete(Reply<Sandbox>),
}

/// Decides about an owner's request that the task reads while it waits.
pub(crate) fn waiting(request: OwnerRequest) -> Verdict<WaitingOperation> {
    match request {
        OwnerRequest::Delete(reply) => Ok(WaitingOperation::Delete(reply)),
        OwnerRequest::Pause(_) | OwnerRequest::Stop(_) | OwnerRequest::Start(_) | OwnerRequest::Snapshot(..) => {
            Err((request, Refusal::InTransition))
        }
    }
}

impl From<WaitingOperation> for OwnerRequest {
    fn from(WaitingOperation::Delete(reply): WaitingOperation) -> Self {
        OwnerRequest::Delete(reply)
    }
}

/// The operations of a stopped sandbox.
#[derive(Debug)]
pub(crate) enum StoppedOperation {
    Start(Reply<Sandbox>),
    Delete(Reply<Sandbox>),
}

/// Decides about an owner's request that the task reads while the sandbox is stopped.
pub(crate) fn stopped(request: OwnerRequest) -> Verdict<StoppedOperation> {
    match request {
        OwnerRequest::Start(reply) => Ok(StoppedOperation::Start(reply)),
        OwnerRequest::Delete(reply) => Ok(StoppedOperation::Delete(reply)),
        OwnerRequest::Pause(_) | OwnerRequest::Stop(_) | OwnerRequest::Snapshot(..) => {
            Err((request, Refusal::NotRunning))
        }
    }
}

impl From<StoppedOperation> for OwnerRequest {
    fn from(operation: StoppedOperation) -> Self {
        match operation {
            StoppedOperation::Start(reply) => OwnerRequest::Start(reply),
            StoppedOperation::Delete(reply) => OwnerRequest::Delete(reply),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Refusal::{Gone, InTransition, NotRunning, NotStopped};
    use SandboxState::{Deleted, Deleting, Paused, Running, Snapshotting, Starting, Stopped, Stopping, Unpausing};
    use tokio::sync::oneshot;

    /// The refusal of each request in this state, in the order pause, stop, start, snapshot, delete; `None` if it is
    /// allowed.
    fn refusals(state: SandboxState) -> [Option<Refusal>; 5] {
        let new = NewSnapshot { name: None, kill_sandbox_after: false };
        let requests = [
            OwnerRequest::Pause(oneshot::channel().0),
            OwnerRequest::Stop(oneshot::channel().0),
            OwnerRequest::Start(oneshot::channel().0),
            OwnerRequest::Snapshot(new, oneshot::channel().0),
            OwnerRequest::Delete(oneshot::channel().0),
        ];
        requests.map(|request| {
            let kind = std::mem::discriminant(&request);
            let (again, refusal) = match judge(state, request) {
                Ok(again) => (again, None),
                Err((again, refusal)) => (again, Some(refusal)),
            };
            assert_eq!(std::mem::discriminant(&again), kind, "{state}");
            refusal
        })
    }

    #[test]
    fn what_rests_can_be_deleted_as_it_is() {
        assert_eq!(refusals(Running), [None, None, Some(NotStopped), None, None]);
        assert_eq!(refusals(Paused), [Some(NotRunning), Some(NotRunning), Some(NotStopped), None, None]);
        assert_eq!(refusals(Stopped), [Some(NotRunning), Some(NotRunning), None, Some(NotRunning), None]);
    }

    #[test]
    fn what_is_in_transition_can_be_deleted_and_nothing_else() {
        let wait = Some(InTransition);
        for state in [Starting, Snapshotting, Unpausing, Stopping] {
            assert_eq!(refusals(state), [wait, wait, wait, wait, None], "{state}");
        }
        assert_eq!(refusals(Deleting), [wait; 5]);
        assert_eq!(refusals(Deleted), [Some(Gone); 5]);
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
        assert_eq!(can_use(Stopped), Use::Refuse(NotRunning));
    }
}
