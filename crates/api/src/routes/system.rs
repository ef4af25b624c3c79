//! What a sandbox's image says about itself.

use super::Routes;
use crate::ApiState;
use crate::answer::Failure;
use crate::path::InPath;
use crate::routes::answers::Errors;
use axum::extract::State;
use axum::routing::get;
use axum::{Extension, Json};
use leapbox_api_types::system::{UserHomeDir, Workdir};
use leapbox_auth::Caller;

pub(super) fn routes() -> Routes {
    vec![
        ("/v1/sandbox/{id}/system/user-home-dir", get(user_home_dir)),
        ("/v1/sandbox/{id}/system/workdir", get(workdir)),
    ]
}

#[utoipa::path(
    get,
    path = "/v1/sandbox/{id}/system/user-home-dir",
    operation_id = "getSandboxUserHomeDir",
    tag = "Sandbox",
    params(
        ("id" = String, Path, description = "The sandbox's id")
    ),
    responses((status = 200, description = "Home of the image's user.", body = UserHomeDir), Errors),
)]
pub(crate) async fn user_home_dir(
    State(api): State<ApiState>,
    Extension(caller): Extension<Caller>,
    InPath(id): InPath,
) -> Result<Json<UserHomeDir>, Failure> {
    let sandbox = api.lifecycle.ensure_running(&caller.organisation, &id).await?;
    Ok(Json(UserHomeDir { user_home_dir: sandbox.image.home.clone() }))
}

#[utoipa::path(
    get,
    path = "/v1/sandbox/{id}/system/workdir",
    operation_id = "getSandboxWorkdir",
    tag = "Sandbox",
    params(
        ("id" = String, Path, description = "The sandbox's id")
    ),
    responses((status = 200, description = "The image's working directory.", body = Workdir), Errors),
)]
pub(crate) async fn workdir(
    State(api): State<ApiState>,
    Extension(caller): Extension<Caller>,
    InPath(id): InPath,
) -> Result<Json<Workdir>, Failure> {
    let sandbox = api.lifecycle.ensure_running(&caller.organisation, &id).await?;
    Ok(Json(Workdir { workdir: sandbox.image.workdir.clone() }))
}
