//! Routes for facts about a sandbox's image.

use super::Described;
use crate::ApiState;
use crate::answer::Failure;
use crate::path::InPath;
use crate::routes::answers::Errors;
use axum::extract::State;
use axum::{Extension, Json};
use leapbox_api_types::system::{UserHomeDir, Workdir};
use leapbox_auth::Caller;
use utoipa_axum::routes;

pub(super) fn routes() -> Vec<Described> {
    vec![routes!(user_home_dir), routes!(workdir)]
}

#[utoipa::path(
    get,
    path = "/v1/sandbox/{id}/system/user-home-dir",
    operation_id = "getSandboxUserHomeDir",
    tag = "Sandbox",
    params(InPath),
    responses((status = 200, description = "The home directory of the image's user.", body = UserHomeDir), Errors),
)]
async fn user_home_dir(
    State(api): State<ApiState>,
    Extension(caller): Extension<Caller>,
    InPath(id): InPath,
) -> Result<Json<UserHomeDir>, Failure> {
    // The image alone has the answer, but the contract has every tool's request wake a paused sandbox.
    let sandbox = api.lifecycle.ensure_running(&caller.organisation, &id).await?;
    Ok(Json(UserHomeDir { user_home_dir: sandbox.image.home.clone() }))
}

#[utoipa::path(
    get,
    path = "/v1/sandbox/{id}/system/workdir",
    operation_id = "getSandboxWorkdir",
    tag = "Sandbox",
    params(InPath),
    responses((status = 200, description = "The image's working directory.", body = Workdir), Errors),
)]
async fn workdir(
    State(api): State<ApiState>,
    Extension(caller): Extension<Caller>,
    InPath(id): InPath,
) -> Result<Json<Workdir>, Failure> {
    let sandbox = api.lifecycle.ensure_running(&caller.organisation, &id).await?;
    Ok(Json(Workdir { workdir: sandbox.image.workdir.clone() }))
}
