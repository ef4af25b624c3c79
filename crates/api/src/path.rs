//! Extractors for the sandbox or the snapshot that a path names.

use crate::answer::Failure;
use axum::extract::{FromRequestParts, Path};
use http::request::Parts;
use leapbox_api_types::ApiError;
use leapbox_ids::{InvalidId, SandboxId, SnapshotId};
use utoipa::IntoParams;

/// The one parameter that is read here; a path may have others.
#[derive(serde::Deserialize)]
struct Named {
    id: String,
}

/// The `{id}` of a sandbox's path. A text that is not an id is answered like an unknown id.
#[derive(IntoParams)]
#[into_params(names("id"), parameter_in = Path)]
pub(crate) struct InPath(
    /// The id of the sandbox
    #[param(value_type = String)]
    pub SandboxId,
);

/// The `{id}` of a snapshot's path. A text that is not an id is answered like an unknown id.
#[derive(IntoParams)]
#[into_params(names("id"), parameter_in = Path)]
pub(crate) struct SnapshotInPath(
    /// The id of the snapshot
    #[param(value_type = String)]
    pub SnapshotId,
);

impl<S: Send + Sync> FromRequestParts<S> for InPath {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let text = id(parts, state).await;
        // Not a 400: a malformed id, an unknown one and another organisation's are answered alike, so that nobody
        // learns which ids exist.
        text.parse().map(InPath).map_err(|_: InvalidId| Failure(ApiError::sandbox_not_found(&text)))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for SnapshotInPath {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let text = id(parts, state).await;
        text.parse().map(SnapshotInPath).map_err(|_: InvalidId| Failure(ApiError::snapshot_not_found(&text)))
    }
}

/// The text of `{id}`; empty if it is not valid UTF-8, because then it is no id either.
async fn id<S: Send + Sync>(parts: &mut Parts, state: &S) -> String {
    Path::<Named>::from_request_parts(parts, state).await.map_or(String::new(), |Path(named)| named.id)
}
