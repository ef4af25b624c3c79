//! Messages to a sandbox's task: its owner's requests, which are answered, and wakes, which are not. Every HTTP request
//! that needs the guest of a paused sandbox sends a wake.

use crate::error::LifecycleError;
use leapbox_api_types::snapshot::NewSnapshot;
use leapbox_db::{Sandbox, SnapshotRow};
use tokio::sync::oneshot;

/// The channel on which the task answers an owner's request.
pub(crate) type Reply<T> = oneshot::Sender<Result<T, LifecycleError>>;

/// A message to a sandbox's task.
#[derive(Debug)]
pub(crate) enum Message {
    /// Wake the sandbox. All HTTP requests that wait for it send this, so the task ignores it if the sandbox has
    /// been woken, or a wake has failed, since the sender saw this epoch. The outcome is published instead of answered.
    Wake(PauseEpoch),
    Ask(OwnerRequest),
}

/// Tells a current wake from a late one: it changes when the sandbox gets a machine, and when a wake fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PauseEpoch {
    pub generation: u64,
    pub failed_wakes: u64,
}

/// An operation that a sandbox's owner asks for. It is answered when it is done, or refused.
#[derive(Debug)]
pub(crate) enum OwnerRequest {
    Pause(Reply<Sandbox>),
    Stop(Reply<Sandbox>),
    Start(Reply<Sandbox>),
    Snapshot(NewSnapshot, Reply<SnapshotRow>),
    Delete(Reply<Sandbox>),
}

impl OwnerRequest {
    /// Answers the request with `error`.
    pub fn refuse(self, error: LifecycleError) {
        match self {
            OwnerRequest::Pause(reply)
            | OwnerRequest::Stop(reply)
            | OwnerRequest::Start(reply)
            | OwnerRequest::Delete(reply) => {
                answer(reply, Err(error));
            }
            OwnerRequest::Snapshot(_, reply) => answer(reply, Err(error)),
        }
    }
}

pub(crate) fn answer<T>(reply: Reply<T>, answer: Result<T, LifecycleError>) {
    // Nobody may be waiting: a client that hangs up does not stop an operation.
    let _ = reply.send(answer);
}
