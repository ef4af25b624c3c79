//! What a sandbox's task can be asked to do, and where it answers.

use crate::error::LifecycleError;
use leapbox_api_types::snapshot::NewSnapshot;
use leapbox_db::{Sandbox, SnapshotRow};
use tokio::sync::oneshot;

/// Where the answer to a request goes.
pub(crate) type Reply<T> = oneshot::Sender<Result<T, LifecycleError>>;

/// What a sandbox can be asked to do. Answered when it is done, but for [`Request::Wake`], whose outcome is published.
#[derive(Debug)]
pub(crate) enum Request {
    /// Wake, if it has not been woken since this pause: everybody who waits for the sandbox sends one.
    Wake(PauseEpoch),
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
            Request::Wake(_) => {}
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

/// One pause, and how often waking from it was tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PauseEpoch {
    pub runs: u64,
    pub failed_wakes: u64,
}
