//! The handle by which the API and the gateway use a running sandbox.

use crate::error::LifecycleError;
use crate::handle::Handle;
use leapbox_guest_client::{GuestClient, GuestError};
use leapbox_ids::SandboxId;
use leapbox_templates::ImageConfig;
use std::sync::Arc;
use std::time::Duration;

/// How long a failed call waits for the news that the VMM has died. A broken connection is seen at once, while the
/// death comes through the process's pidfd and the sandbox's task, a moment later.
const DEATH_NOTICE: Duration = Duration::from_millis(50);

/// A sandbox that ran when [`Lifecycle::ensure_running`](crate::Lifecycle::ensure_running) returned it, and the client
/// of its guest's agent.
#[derive(Clone)]
pub struct RunningSandbox {
    pub id: SandboxId,
    pub guest: GuestClient,
    /// User, directories, environment and port of its processes.
    pub image: Arc<ImageConfig>,
    pub(crate) handle: Handle,
    pub(crate) generation: u64,
}

impl RunningSandbox {
    /// Runs a call into the guest. If the machine ends first, the call ends at once with the sandbox's own reason
    /// (which is answered 409 if it was paused or stopped): the connections of a dead guest would only time out.
    pub async fn call<T>(
        &self,
        call: impl Future<Output = Result<T, GuestError>>,
    ) -> Result<Result<T, GuestError>, LifecycleError> {
        tokio::select! {
            biased;
            answer = call => match answer {
                // A fault is the agent's own answer, so the machine is alive and there is nothing to explain.
                Err(error) if !matches!(error, GuestError::Fault(_)) => self.explain(error).await,
                answer => Ok(answer),
            },
            ended = self.handle.ended(self.generation) => Err(ended),
        }
    }

    /// Completes when the sandbox no longer runs in this machine: it is being stored, or the machine has ended.
    pub async fn left(&self) {
        self.handle.left(self.generation).await;
    }

    /// Replaces the error of a broken connection by the sandbox's end, if that is reported within [`DEATH_NOTICE`].
    async fn explain<T>(&self, error: GuestError) -> Result<Result<T, GuestError>, LifecycleError> {
        tokio::time::timeout(DEATH_NOTICE, self.handle.ended(self.generation)).await.map_or(Ok(Err(error)), Err)
    }
}
