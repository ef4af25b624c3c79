//! A sandbox that can be used, as the API and the gateway hold it.

use crate::error::LifecycleError;
use crate::handle::Handle;
use leapbox_guest_client::{GuestClient, GuestError};
use leapbox_ids::SandboxId;
use leapbox_templates::ImageConfig;
use std::sync::Arc;
use std::time::Duration;

/// From a VMM's death to the word of it.
const DEATH_NOTICE: Duration = Duration::from_millis(50);

/// A sandbox that runs, and its guest.
#[derive(Clone)]
pub struct RunningSandbox {
    pub id: SandboxId,
    /// The way into it.
    pub guest: GuestClient,
    /// User, folders, environment and port of its template.
    pub image: Arc<ImageConfig>,
    pub(crate) handle: Handle,
    pub(crate) runs: u64,
}

impl RunningSandbox {
    /// Runs a call into the guest. If the machine goes first, the call ends at once and with the sandbox's own reason:
    /// a dead guest's connections would only time out.
    pub async fn call<T>(
        &self,
        call: impl Future<Output = Result<T, GuestError>>,
    ) -> Result<Result<T, GuestError>, LifecycleError> {
        tokio::select! {
            biased;
            answer = call => match answer {
                Err(error) if !matches!(error, GuestError::Fault(_)) => self.explain(error).await,
                answer => Ok(answer),
            },
            ended = self.handle.ended(self.runs) => Err(ended),
        }
    }

    /// Comes to an end when the sandbox does not run in this machine any more, or not now: it is being stored, or gone.
    pub async fn left(&self) {
        self.handle.left(self.runs).await;
    }

    /// A connection that broke may be the first sign of a death that is told a moment later.
    async fn explain<T>(&self, error: GuestError) -> Result<Result<T, GuestError>, LifecycleError> {
        tokio::time::timeout(DEATH_NOTICE, self.handle.ended(self.runs)).await.map_or(Ok(Err(error)), Err)
    }
}
