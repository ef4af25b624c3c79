//! The handle of one sandbox, which everybody but its own task uses: it reads the published state and sends messages.
//!
//! ```text
//! ensure_running ─► usable ─┬─ running: returned at once
//!                           ├─ paused:  Message::Wake to the task, wait for what it publishes, look again
//!                           └─ between, or being taken over: wait for what the task publishes, look again
//! pause, stop, … ─► ask ────── policy::judge, then Message::Ask to the task, wait for the reply
//! ```

use crate::error::{LifecycleError, WakeFailure};
use crate::policy::{Refusal, Use, can_use, judge};
use crate::request::{Message, OwnerRequest, PauseEpoch, Reply};
use leapbox_api_types::sandbox::SandboxState;
use leapbox_db::Sandbox;
use leapbox_guest_client::GuestClient;
use leapbox_templates::ImageConfig;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, TryAcquireError, mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio::time::error::Elapsed;

/// HTTP requests that may wait for one sandbox to be usable; more are answered 503 with `Retry-After`. Each waiting
/// request holds a connection and a body, so one paused sandbox must not collect them without bound (case 45).
const WAITING_MAX: usize = 256;

/// How long a request waits for a sandbox whose machine is being taken over. That takes milliseconds, unless its VMM
/// does not answer.
const ADOPTION_WAIT: Duration = Duration::from_secs(30);

/// The part of a sandbox's task that others read.
#[derive(Clone)]
pub(crate) struct Published {
    pub sandbox: Sandbox,
    /// The client of the guest's agent, while there is a machine.
    pub guest: Option<GuestClient>,
    /// It has a machine of the former server that this one has not taken over yet.
    pub adopting: bool,
    /// `None` if the template, and the image that the sandbox was made from, are missing on this host.
    pub image: Option<Arc<ImageConfig>>,
    /// Number of the machine that it has or had last, counted from the start of the server.
    pub generation: u64,
    /// The last failed wake; `None` once the sandbox runs.
    pub failed_wake: Option<Arc<WakeFailure>>,
}

impl Published {
    /// The published state of a sandbox without a machine.
    pub fn new(sandbox: Sandbox, image: Option<Arc<ImageConfig>>) -> Self {
        Self { sandbox, guest: None, adopting: false, image, generation: 0, failed_wake: None }
    }

    pub fn failed_wakes(&self) -> u64 {
        self.failed_wake.as_ref().map_or(0, |failure| failure.count)
    }

    pub fn epoch(&self) -> PauseEpoch {
        PauseEpoch { generation: self.generation, failed_wakes: self.failed_wakes() }
    }
}

/// The handle of one sandbox. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Handle {
    pub published: watch::Receiver<Published>,
    messages: mpsc::Sender<Message>,
    waiting: Arc<Semaphore>,
}

impl Handle {
    pub fn new(published: watch::Receiver<Published>, messages: mpsc::Sender<Message>) -> Self {
        Self { published, messages, waiting: Arc::new(Semaphore::new(WAITING_MAX)) }
    }

    /// Sends the owner's request that `request` makes of a reply channel, and waits for the answer.
    pub async fn ask<T>(&self, request: impl FnOnce(Reply<T>) -> OwnerRequest) -> Result<T, LifecycleError> {
        let (reply, answer) = oneshot::channel();
        // A request that the state refuses is answered at once: the task may be busy for minutes before it reads its
        // queue. The state may change until then, so the task judges again.
        let request = self.judged(request(reply))?;
        let sent = self.messages.send(Message::Ask(request)).await;
        sent.map_err(|_: mpsc::error::SendError<Message>| self.ended_task())?;
        answer.await.map_err(|_: oneshot::error::RecvError| self.ended_task())?
    }

    /// Waits until the sandbox can be used, waking it if it is paused, and returns what is published then. At most
    /// [`WAITING_MAX`] callers wait.
    pub async fn usable(&self) -> Result<Published, LifecycleError> {
        let mut published = self.published.clone();
        // A wake that failed before this call is not its answer: each new HTTP request tries once more.
        let failed_before = published.borrow().failed_wakes();
        let mut permit = None;
        let adopted_by = Instant::now() + ADOPTION_WAIT;
        loop {
            let now = published.borrow_and_update().clone();
            let wakes = match can_use(now.sandbox.state()) {
                Use::Now if !now.adopting => return Ok(now),
                Use::Now | Use::Wait => false,
                Use::Refuse(refusal) => return Err(refused(&now.sandbox, refusal)),
                Use::Wake => true,
            };
            if let Some(failure) = now.failed_wake.as_ref().filter(|failure| failure.count > failed_before) {
                return Err(failure.error(now.sandbox.id()));
            }
            // Only those who have to wait take a permit: a running sandbox is not limited here.
            if permit.is_none() {
                permit =
                    Some(Arc::clone(&self.waiting).try_acquire_owned().map_err(|error| self.too_many_waiting(error))?);
            }
            let changed = async { published.changed().await.map_err(|_: watch::error::RecvError| self.ended_task()) };
            if now.adopting {
                let id = now.sandbox.id();
                let late = |_: Elapsed| LifecycleError::NotTakenOver { id: id.clone() };
                tokio::time::timeout_at(adopted_by, changed).await.map_err(late)??;
                continue;
            }
            if !wakes {
                changed.await?;
                continue;
            }
            let wake = async {
                // An error means that the task has ended, and then `changed` fails as well.
                let _ = self.messages.send(Message::Wake(now.epoch())).await;
                std::future::pending().await
            };
            // The task's queue may be full of other waiters' messages. Once the state has changed, this one need not be
            // sent any more.
            tokio::select! {
                biased;
                changed = changed => changed?,
                never = wake => never,
            }
        }
    }

    /// Waits until the machine with the number `generation` has ended or is about to, and returns the reason for the
    /// call that used it: [`LifecycleError::Interrupted`] if the sandbox was paused.
    pub async fn ended(&self, generation: u64) -> LifecycleError {
        let mut published = self.published.clone();
        let gone = |now: &Published| now.generation != generation || now.guest.is_none();
        match published.wait_for(gone).await {
            Ok(now) => match can_use(now.sandbox.state()) {
                Use::Refuse(refusal) => refused(&now.sandbox, refusal),
                // It can be used again, in another machine, which has never seen this call.
                Use::Now | Use::Wake | Use::Wait => LifecycleError::Interrupted { id: now.sandbox.id().clone() },
            },
            Err(_) => self.ended_task(),
        }
    }

    /// Waits until the sandbox no longer runs in the machine with the number `generation`.
    pub async fn left(&self, generation: u64) {
        let mut published = self.published.clone();
        let left = |now: &Published| now.generation != generation || can_use(now.sandbox.state()) != Use::Now;
        // An error means that the task has ended, and with it the use of the machine.
        let _ = published.wait_for(left).await;
    }

    fn judged(&self, request: OwnerRequest) -> Result<OwnerRequest, LifecycleError> {
        let published = self.published.borrow();
        judge(published.sandbox.state(), request).map_err(|(_, refusal)| refused(&published.sandbox, refusal))
    }

    fn too_many_waiting(&self, _: TryAcquireError) -> LifecycleError {
        LifecycleError::TooManyWaiting { id: self.published.borrow().sandbox.id().clone() }
    }

    /// The error of a caller whose sandbox's task has ended.
    fn ended_task(&self) -> LifecycleError {
        let published = self.published.borrow();
        match published.sandbox.state() {
            SandboxState::Deleted => refused(&published.sandbox, Refusal::Gone),
            // In every other state a task ends only because the server stops.
            _ => LifecycleError::ShuttingDown,
        }
    }
}

/// Turns a refusal into the error that the caller reads.
pub(crate) fn refused(sandbox: &Sandbox, refusal: Refusal) -> LifecycleError {
    let (id, state) = (sandbox.id().clone(), sandbox.state());
    match (refusal, &sandbox.reason) {
        // A sandbox that has failed is shown with its reason until it is deleted; a deleted one is like an unknown one.
        (Refusal::Gone, Some(reason)) => LifecycleError::Failed { id, reason: reason.clone() },
        (Refusal::Gone, None) => LifecycleError::NotFound { id },
        (Refusal::InTransition, _) => LifecycleError::InTransition { id, state },
        (Refusal::NotRunning, _) => LifecycleError::NotRunning { id, state },
        (Refusal::NotStopped, _) => LifecycleError::NotStopped { id, state },
    }
}
