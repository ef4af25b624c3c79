//! Create, get, list, pause, stop, start, delete.

use super::Described;
use crate::ApiState;
use crate::answer::Failure;
use crate::body::JsonObject;
use crate::detached::detached;
use crate::path::InPath;
use crate::routes::answers::Errors;
use crate::validate::{self, Query};
use axum::extract::State;
use axum::{Extension, Json};
use http::StatusCode;
use leapbox_api_types::sandbox::{CreateSandbox, SandboxDetails, SandboxList};
use leapbox_auth::Caller;
use utoipa_axum::routes;

pub(super) fn routes() -> Vec<Described> {
    vec![routes!(create), routes!(read, delete), routes!(pause), routes!(stop), routes!(start), routes!(list)]
}

#[utoipa::path(
    post,
    path = "/v1/sandbox",
    operation_id = "createSandbox",
    tag = "Sandbox",
    request_body = CreateSandbox,
    responses((status = 201, description = "It can be used.", body = SandboxDetails), Errors),
)]
async fn create(
    State(api): State<ApiState>,
    Extension(caller): Extension<Caller>,
    JsonObject(body): JsonObject,
) -> Result<(StatusCode, Json<SandboxDetails>), Failure> {
    let new = validate::sandbox::create(&body, &api.private_networks)?;
    let created = detached(async move { api.lifecycle.create(&caller.organisation, new).await }).await?;
    Ok((StatusCode::CREATED, Json(created)))
}

#[utoipa::path(
    get,
    path = "/v1/sandbox/{id}",
    operation_id = "getSandbox",
    tag = "Sandbox",
    params(InPath),
    responses((status = 200, description = "The sandbox.", body = SandboxDetails), Errors),
)]
async fn read(
    State(api): State<ApiState>,
    Extension(caller): Extension<Caller>,
    InPath(id): InPath,
) -> Result<Json<SandboxDetails>, Failure> {
    Ok(Json(api.lifecycle.get(&caller.organisation, &id).await?))
}

#[utoipa::path(
    delete,
    path = "/v1/sandbox/{id}",
    operation_id = "deleteSandbox",
    tag = "Sandbox",
    params(InPath),
    responses((status = 204, description = "Nothing is left of it."), Errors),
)]
async fn delete(
    State(api): State<ApiState>,
    Extension(caller): Extension<Caller>,
    InPath(id): InPath,
) -> Result<StatusCode, Failure> {
    detached(async move { api.lifecycle.delete(&caller.organisation, &id).await }).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[utoipa::path(
    get,
    path = "/v1/sandboxes",
    operation_id = "listSandboxes",
    tag = "Sandbox",
    params(
        ("state" = Option<String>, Query, description = "Only sandboxes in this state; not `deleted`"),
        ("sort" = Option<String>, Query, description = "`created_at` (default) or `state`"),
        ("order-by" = Option<String>, Query, description = "`asc` or `desc` (default)"),
        ("page" = Option<u64>, Query, description = "From 1", minimum = 1),
        ("page-size" = Option<u64>, Query, description = "20 when absent", minimum = 1, maximum = 100)
    ),
    responses((status = 200, description = "A page.", body = SandboxList), Errors),
)]
async fn list(
    State(api): State<ApiState>,
    Extension(caller): Extension<Caller>,
    Query(query): Query,
) -> Result<Json<SandboxList>, Failure> {
    let query = validate::sandbox::list(&query)?;
    Ok(Json(api.lifecycle.list(&caller.organisation, query).await?))
}

#[utoipa::path(
    post,
    path = "/v1/sandbox/{id}/pause",
    operation_id = "pauseSandbox",
    tag = "Sandbox",
    params(InPath),
    responses((status = 201, description = "Its memory and disk are stored; a request wakes it.", body = SandboxDetails), Errors),
)]
async fn pause(
    State(api): State<ApiState>,
    Extension(caller): Extension<Caller>,
    InPath(id): InPath,
) -> Result<(StatusCode, Json<SandboxDetails>), Failure> {
    let paused = detached(async move { api.lifecycle.pause(&caller.organisation, &id).await }).await?;
    Ok((StatusCode::CREATED, Json(paused)))
}

#[utoipa::path(
    post,
    path = "/v1/sandbox/{id}/stop",
    operation_id = "stopSandbox",
    tag = "Sandbox",
    params(InPath),
    responses((status = 200, description = "Its disk is stored; only a start brings it back.", body = SandboxDetails), Errors),
)]
async fn stop(
    State(api): State<ApiState>,
    Extension(caller): Extension<Caller>,
    InPath(id): InPath,
) -> Result<Json<SandboxDetails>, Failure> {
    let stopped = detached(async move { api.lifecycle.stop_sandbox(&caller.organisation, &id).await }).await?;
    Ok(Json(stopped))
}

#[utoipa::path(
    post,
    path = "/v1/sandbox/{id}/start",
    operation_id = "startSandbox",
    tag = "Sandbox",
    params(InPath),
    responses((status = 200, description = "It has booted afresh over its disk and can be used.", body = SandboxDetails), Errors),
)]
async fn start(
    State(api): State<ApiState>,
    Extension(caller): Extension<Caller>,
    InPath(id): InPath,
) -> Result<Json<SandboxDetails>, Failure> {
    let started = detached(async move { api.lifecycle.start_sandbox(&caller.organisation, &id).await }).await?;
    Ok(Json(started))
}
