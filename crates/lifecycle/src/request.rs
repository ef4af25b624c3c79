//! Messages to a sandbox's task: requests of its owner, which are answered, and wakes, which are not.

use crate::error::LifecycleError;
use leapbox_api_types::snapshot::NewSnapshot;
use leapbox_db::{Sandbox, SnapshotRow};
use tokio::sync::oneshot;

/// The channel on which the task answers a request.
pub(crate) type Reply<T> = oneshot::Sender<Result<T, LifecycleError>>;

/// A message to a sandbox's task.
#[derive(Debug)]
pub(crate) enum Message {
    /// Wake the sandbox. Everybody who waits for one pause sends this, so the task ignores it if the sandbox has been
    /// woken, or a wake has failed, since the sender saw `PauseEpoch`. The outcome is published instead of answered.
    Wake(PauseEpoch),
    Ask(Request),
}

/// Identifies one attempt to wake from one pause: the number of machines the sandbox has had, and of wakes that have
/// failed since the last of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PauseEpoch {
    pub runs: u64,
    pub failed_wakes: u64,
}

/// An operation that a sandbox's owner asks for. It is answered when it is done, or refused.
#[derive(Debug)]
pub(crate) enum Request {
    Pause(Reply<Sandbox>),
    Stop(Reply<Sandbox>),
    Start(Reply<Sandbox>),
    Snapshot(NewSnapshot, Reply<SnapshotRow>),
    Delete(Reply<Sandbox>),
}

impl Request {
    /// Answers the request with `error`.
    pub fn refuse(self, error: LifecycleError) {
        match self {
            Request::Pause(reply) | Request::Stop(reply) | Request::Start(reply) | Request::Delete(reply) => {
                answer(reply, Err(error));
            }
            Request::Snapshot(_, reply) => answer(reply, Err(error)),
        }
    }
}

pub(crate) fn answer<T>(reply: Reply<T>, answer: Result<T, LifecycleError>) {
    // Nobody may be waiting: a client that hangs up does not stop an operation.
    let _ = reply.send(answer);
}
