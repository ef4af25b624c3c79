//! What everybody but the sandbox's own task holds of it: the published state, and a way to ask.

use super::Published;
use crate::error::LifecycleError;
use crate::policy::{Action, Decision, Refusal, decide};
use leapbox_api_types::sandbox::SandboxState;
use leapbox_api_types::snapshot::NewSnapshot;
use leapbox_db::{SandboxRow, SnapshotRow};
use std::sync::Arc;
use tokio::sync::{Semaphore, TryAcquireError, mpsc, oneshot, watch};

/// Requests that may wait for one sandbox to be usable. One more is told to come again.
const WAITING_MAX: usize = 256;

/// Where the answer to a request goes.
pub(crate) type Reply<T> = oneshot::Sender<Result<T, LifecycleError>>;

/// What a sandbox can be asked to do.
pub(crate) enum Request {
    /// Wake, if it is still asleep as it was seen: wishes are many, and a late one must not wake it again.
    Wake(Sleep),
    /// Pause, stop, start or be deleted; answered when it is done.
    Do(Action, Reply<SandboxRow>),
    /// Have a snapshot taken.
    Snapshot(NewSnapshot, Reply<SnapshotRow>),
}

/// One sleep and how often waking from it was tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sleep {
    pub runs: u64,
    pub failed_wakes: u64,
}

/// The handle of one sandbox. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Handle {
    pub published: watch::Receiver<Published>,
    requests: mpsc::Sender<Request>,
    waiting: Arc<Semaphore>,
}

impl Handle {
    pub fn new(published: watch::Receiver<Published>, requests: mpsc::Sender<Request>) -> Self {
        Self { published, requests, waiting: Arc::new(Semaphore::new(WAITING_MAX)) }
    }

    /// Asks the sandbox to do something and waits until it has.
    pub async fn ask(&self, action: Action) -> Result<SandboxRow, LifecycleError> {
        // Decided here for states in which the task is busy and would answer late; decided again by the task.
        self.check(action)?;
        let (reply, answer) = oneshot::channel();
        self.requests.send(Request::Do(action, reply)).await.map_err(|_| self.gone())?;
        answer.await.map_err(|_| self.gone())?
    }

    /// Asks for a snapshot and waits until it is stored.
    pub async fn snapshot(&self, new: NewSnapshot) -> Result<SnapshotRow, LifecycleError> {
        self.check(Action::Snapshot)?;
        let (reply, answer) = oneshot::channel();
        self.requests.send(Request::Snapshot(new, reply)).await.map_err(|_| self.gone())?;
        answer.await.map_err(|_| self.gone())?
    }

    /// What is published once the sandbox can be used. Wakes it if it sleeps.
    pub async fn usable(&self) -> Result<Published, LifecycleError> {
        let mut published = self.published.clone();
        let failed_before = published.borrow().failed_wakes();
        let mut place = None;
        loop {
            let now = published.borrow_and_update().clone();
            let decision = decide(now.row.state, Action::Use);
            match decision {
                Decision::Proceed => return Ok(now),
                Decision::Refuse(refusal) => return Err(refused(&now.row, refusal)),
                Decision::Wake | Decision::Wait => {}
            }
            if let Some(failure) = now.failed_wake.as_ref().filter(|failure| failure.count > failed_before) {
                return Err(failure.error(&now.row.id));
            }
            if place.is_none() {
                place = Some(Arc::clone(&self.waiting).try_acquire_owned().map_err(|error| self.full(error))?);
            }
            let changed = async { published.changed().await.map_err(|_| self.gone()) };
            if decision == Decision::Wait {
                changed.await?;
                continue;
            }
            let wake = async {
                // A task that is gone shows as a closed channel of `published`.
                let _ = self.requests.send(Request::Wake(now.sleep())).await;
                std::future::pending().await
            };
            tokio::select! {
                biased;
                changed = changed => changed?,
                never = wake => never,
            }
        }
    }

    /// Waits until the machine that was published as number `runs` is gone, and says why.
    pub async fn ended(&self, runs: u64) -> LifecycleError {
        let mut published = self.published.clone();
        let gone = |now: &Published| now.runs != runs || now.guest.is_none();
        match published.wait_for(gone).await {
            Ok(now) => match decide(now.row.state, Action::Use) {
                Decision::Refuse(refusal) => refused(&now.row, refusal),
                Decision::Proceed | Decision::Wake | Decision::Wait => {
                    LifecycleError::Interrupted { id: now.row.id.clone() }
                }
            },
            Err(_) => self.gone(),
        }
    }

    /// Waits until it does not run in the machine that was published as number `runs`.
    pub async fn left(&self, runs: u64) {
        let mut published = self.published.clone();
        let left = |now: &Published| now.runs != runs || decide(now.row.state, Action::Use) != Decision::Proceed;
        // Its task is gone, and so is it.
        let _ = published.wait_for(left).await;
    }

    fn check(&self, action: Action) -> Result<(), LifecycleError> {
        let published = self.published.borrow();
        match decide(published.row.state, action) {
            Decision::Proceed | Decision::Wake | Decision::Wait => Ok(()),
            Decision::Refuse(refusal) => Err(refused(&published.row, refusal)),
        }
    }

    fn full(&self, _: TryAcquireError) -> LifecycleError {
        LifecycleError::TooManyWaiting { id: self.published.borrow().row.id.clone() }
    }

    /// Its task has ended: with the sandbox, or with the server.
    fn gone(&self) -> LifecycleError {
        let published = self.published.borrow();
        match published.row.state {
            SandboxState::Deleted => refused(&published.row, Refusal::Gone),
            _ => LifecycleError::ShuttingDown,
        }
    }
}

/// A refusal as an error.
pub(crate) fn refused(row: &SandboxRow, refusal: Refusal) -> LifecycleError {
    let (id, state) = (row.id.clone(), row.state);
    match (refusal, &row.state_reason) {
        (Refusal::Gone, Some(reason)) => LifecycleError::Failed { id, reason: reason.clone() },
        (Refusal::Gone, None) => LifecycleError::NotFound { id },
        (Refusal::InTransition, _) => LifecycleError::InTransition { id, state },
        (Refusal::NotRunning, _) => LifecycleError::NotRunning { id, state },
        (Refusal::NotStopped, _) => LifecycleError::NotStopped { id, state },
    }
}
