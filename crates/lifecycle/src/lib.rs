//! Skeleton of the interface `api` and `gateway` use; the insides follow.

use leapbox_api_types::ApiError;
use leapbox_api_types::sandbox::{NewSandbox, SandboxDetails, SandboxList, SandboxListQuery};
use leapbox_guest_client::GuestClient;
use leapbox_ids::{OrganisationId, SandboxId};
use leapbox_templates::ImageConfig;
use std::sync::Arc;

/// A sandbox that runs, and its guest.
#[derive(Clone)]
pub struct RunningSandbox {
    /// Its id.
    pub id: SandboxId,
    /// The way into it.
    pub guest: GuestClient,
    /// User, home, workdir, port of its template.
    pub image: Arc<ImageConfig>,
}

/// Everything that can be done with sandboxes. Cheap to clone.
#[derive(Clone)]
pub struct Lifecycle {}

/// Stands for the real error enum; it converts into [`ApiError`].
#[derive(Debug)]
pub struct LifecycleError;

impl From<LifecycleError> for ApiError {
    fn from(_: LifecycleError) -> Self {
        ApiError::Internal
    }
}

impl Lifecycle {
    /// Creates a sandbox; returns when it is usable.
    pub async fn create(&self, _org: &OrganisationId, _new: NewSandbox) -> Result<SandboxDetails, LifecycleError> {
        Err(LifecycleError)
    }
    /// One sandbox.
    pub async fn get(&self, _org: &OrganisationId, _id: &SandboxId) -> Result<SandboxDetails, LifecycleError> {
        Err(LifecycleError)
    }
    /// A page of the organisation's sandboxes.
    pub async fn list(&self, _org: &OrganisationId, _query: SandboxListQuery) -> Result<SandboxList, LifecycleError> {
        Err(LifecycleError)
    }
    /// Deletes one.
    pub async fn delete(&self, _org: &OrganisationId, _id: &SandboxId) -> Result<(), LifecycleError> {
        Err(LifecycleError)
    }
    /// The one place where a sandbox is made ready for a request (and, later, woken).
    pub async fn ensure_running(&self, _org: &OrganisationId, _id: &SandboxId) -> Result<RunningSandbox, LifecycleError> {
        Err(LifecycleError)
    }
}
