//! What everybody but the sandbox's own task holds of it: the published state, and a way to ask.

use crate::error::{LifecycleError, WakeFailure};
use crate::policy::{Refusal, Use, can_use, judge};
use crate::request::{Message, PauseEpoch, Reply, Request};
use leapbox_api_types::sandbox::SandboxState;
use leapbox_db::Sandbox;
use leapbox_guest_client::GuestClient;
use leapbox_templates::ImageConfig;
use std::sync::Arc;
use tokio::sync::{Semaphore, TryAcquireError, mpsc, oneshot, watch};

/// Requests that may wait for one sandbox to be usable. One more is told to come again.
const WAITING_MAX: usize = 256;

/// What everybody may know of a sandbox.
#[derive(Clone)]
pub(crate) struct Published {
    pub sandbox: Sandbox,
    /// The way inside, while there is a machine.
    pub guest: Option<GuestClient>,
    pub image: Arc<ImageConfig>,
    /// Machines it has had: tells the one of now from the one before.
    pub runs: u64,
    /// How the last wake failed; none once it runs.
    pub failed_wake: Option<Arc<WakeFailure>>,
}

impl Published {
    /// Of a sandbox that has no machine yet.
    pub fn new(sandbox: Sandbox, image: Arc<ImageConfig>) -> Self {
        Self { sandbox, guest: None, image, runs: 0, failed_wake: None }
    }

    pub fn failed_wakes(&self) -> u64 {
        self.failed_wake.as_ref().map_or(0, |failure| failure.count)
    }

    pub fn epoch(&self) -> PauseEpoch {
        PauseEpoch { runs: self.runs, failed_wakes: self.failed_wakes() }
    }
}

/// The handle of one sandbox. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Handle {
    pub published: watch::Receiver<Published>,
    requests: mpsc::Sender<Message>,
    waiting: Arc<Semaphore>,
}

impl Handle {
    pub fn new(published: watch::Receiver<Published>, requests: mpsc::Sender<Message>) -> Self {
        Self { published, requests, waiting: Arc::new(Semaphore::new(WAITING_MAX)) }
    }

    /// Asks the sandbox to do something (`request` makes the request of where to answer) and waits until it has.
    pub async fn ask<T>(&self, request: impl FnOnce(Reply<T>) -> Request) -> Result<T, LifecycleError> {
        let (reply, answer) = oneshot::channel();
        let request = self.judged(request(reply))?;
        let sent = self.requests.send(Message::Ask(request)).await;
        sent.map_err(|_: mpsc::error::SendError<Message>| self.ended_task())?;
        answer.await.map_err(|_: oneshot::error::RecvError| self.ended_task())?
    }

    /// What is published once the sandbox can be used. Wakes it if it sleeps.
    pub async fn usable(&self) -> Result<Published, LifecycleError> {
        let mut published = self.published.clone();
        let failed_before = published.borrow().failed_wakes();
        let mut place = None;
        loop {
            let now = published.borrow_and_update().clone();
            let wakes = match can_use(now.sandbox.state()) {
                Use::Now => return Ok(now),
                Use::Refuse(refusal) => return Err(refused(&now.sandbox, refusal)),
                Use::Wake => true,
                Use::Wait => false,
            };
            if let Some(failure) = now.failed_wake.as_ref().filter(|failure| failure.count > failed_before) {
                return Err(failure.error(now.sandbox.id()));
            }
            if place.is_none() {
                place = Some(Arc::clone(&self.waiting).try_acquire_owned().map_err(|error| self.full(error))?);
            }
            let changed = async { published.changed().await.map_err(|_: watch::error::RecvError| self.ended_task()) };
            if !wakes {
                changed.await?;
                continue;
            }
            let wake = async {
                // A task that is gone shows as a closed channel of `published`.
                let _ = self.requests.send(Message::Wake(now.epoch())).await;
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
            Ok(now) => match can_use(now.sandbox.state()) {
                Use::Refuse(refusal) => refused(&now.sandbox, refusal),
                Use::Now | Use::Wake | Use::Wait => LifecycleError::Interrupted { id: now.sandbox.id().clone() },
            },
            Err(_) => self.ended_task(),
        }
    }

    /// Waits until it does not run in the machine that was published as number `runs`.
    pub async fn left(&self, runs: u64) {
        let mut published = self.published.clone();
        let left = |now: &Published| now.runs != runs || can_use(now.sandbox.state()) != Use::Now;
        // Its task is gone, and so is it.
        let _ = published.wait_for(left).await;
    }

    fn judged(&self, request: Request) -> Result<Request, LifecycleError> {
        let published = self.published.borrow();
        judge(published.sandbox.state(), request).map_err(|(_, refusal)| refused(&published.sandbox, refusal))
    }

    fn full(&self, _: TryAcquireError) -> LifecycleError {
        LifecycleError::TooManyWaiting { id: self.published.borrow().sandbox.id().clone() }
    }

    /// Its task has ended: with the sandbox, or with the server.
    fn ended_task(&self) -> LifecycleError {
        let published = self.published.borrow();
        match published.sandbox.state() {
            SandboxState::Deleted => refused(&published.sandbox, Refusal::Gone),
            _ => LifecycleError::ShuttingDown,
        }
    }
}

/// A refusal as an error.
pub(crate) fn refused(sandbox: &Sandbox, refusal: Refusal) -> LifecycleError {
    let (id, state) = (sandbox.id().clone(), sandbox.state());
    match (refusal, &sandbox.reason) {
        (Refusal::Gone, Some(reason)) => LifecycleError::Failed { id, reason: reason.clone() },
        (Refusal::Gone, None) => LifecycleError::NotFound { id },
        (Refusal::InTransition, _) => LifecycleError::InTransition { id, state },
        (Refusal::NotRunning, _) => LifecycleError::NotRunning { id, state },
        (Refusal::NotStopped, _) => LifecycleError::NotStopped { id, state },
    }
}
