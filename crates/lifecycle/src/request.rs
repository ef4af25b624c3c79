//! What a sandbox's task can be sent, and where it answers.

use crate::error::LifecycleError;
use leapbox_api_types::snapshot::NewSnapshot;
use leapbox_db::{Sandbox, SnapshotRow};
use tokio::sync::oneshot;

/// Where the answer to a request goes.
pub(crate) type Reply<T> = oneshot::Sender<Result<T, LifecycleError>>;

/// What reaches a sandbox's task.
#[derive(Debug)]
pub(crate) enum Message {
    /// Wake, if it has not been woken since this pause: everybody who waits for the sandbox sends one. The outcome is
    /// published.
    Wake(PauseEpoch),
    /// Its owner wants something, and waits for the answer.
    Ask(Request),
}

/// One pause, and how often waking from it was tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PauseEpoch {
    pub runs: u64,
    pub failed_wakes: u64,
}

/// What its owner can ask of a sandbox. Answered when it is done.
#[derive(Debug)]
pub(crate) enum Request {
    Pause(Reply<Sandbox>),
    Stop(Reply<Sandbox>),
    Start(Reply<Sandbox>),
    Snapshot(NewSnapshot, Reply<SnapshotRow>),
    Delete(Reply<Sandbox>),
}

impl Request {
    /// Answers that it is not done.
    pub fn refuse(self, error: LifecycleError) {
        match self {
            Request::Pause(reply) | Request::Stop(reply) | Request::Start(reply) | Request::Delete(reply) => {
                answer(reply, Err(error));
            }
            Request::Snapshot(_, reply) => answer(reply, Err(error)),
        }
    }
}

/// Answers a request. Whoever asked may have given up waiting.
pub(crate) fn answer<T>(reply: Reply<T>, answer: Result<T, LifecycleError>) {
    let _ = reply.send(answer);
}
