//! The sandbox a path names.

use crate::answer::Failure;
use axum::extract::{FromRequestParts, Path};
use http::request::Parts;
use leapbox_api_types::ApiError;
use leapbox_ids::SandboxId;

/// The parameters of a path that are looked at here.
#[derive(serde::Deserialize)]
struct Named {
    id: String,
}

/// The `{id}` of a path. What is not an id answers as an unknown id does.
pub(crate) struct InPath(pub SandboxId);

impl<S: Send + Sync> FromRequestParts<S> for InPath {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let text = Path::<Named>::from_request_parts(parts, state).await.map_or(String::new(), |Path(named)| named.id);
        text.parse().map(InPath).map_err(|_| Failure(ApiError::sandbox_not_found(&text)))
    }
}
