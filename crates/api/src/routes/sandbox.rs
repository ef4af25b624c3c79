//! Routes for sandboxes: create, get, list, pause, stop, start, delete.

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
    responses((status = 201, description = "The sandbox runs and can be used.", body = SandboxDetails), Errors),
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
    responses((status = 200, description = "The sandbox as it is now.", body = SandboxDetails), Errors),
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
    responses(
        (
            status = 204,
            description = "The sandbox is deleted, with everything that was stored of it but its snapshots."
        ),
        Errors
    ),
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
        ("state" = Option<String>, Query, description = "Lists only sandboxes in this state; `deleted` is refused"),
        ("sort" = Option<String>, Query, description = "The field to sort by: `created_at` (default) or `state`"),
        ("order-by" = Option<String>, Query, description = "The direction: `asc` or `desc` (default)"),
        ("page" = Option<u64>, Query, description = "The page's number, from 1; 1 when absent", minimum = 1),
        (
            "page-size" = Option<u64>,
            Query,
            description = "Sandboxes on a page; 20 when absent",
            minimum = 1,
            maximum = 100
        )
    ),
    responses((status = 200, description = "A page of the organisation's sandboxes.", body = SandboxList), Errors),
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
    responses(
        (
            status = 201,
            description = "Memory and disk are stored; the next request wakes the sandbox.",
            body = SandboxDetails
        ),
        Errors
    ),
)]
async fn pause(
    State(api): State<ApiState>,
    Extension(caller): Extension<Caller>,
    InPath(id): InPath,
) -> Result<(StatusCode, Json<SandboxDetails>), Failure> {
    // No extractor for a body: the contract has none for pause, stop and start, so whatever a client sends is ignored.
    let paused = detached(async move { api.lifecycle.pause(&caller.organisation, &id).await }).await?;
    Ok((StatusCode::CREATED, Json(paused)))
}

#[utoipa::path(
    post,
    path = "/v1/sandbox/{id}/stop",
    operation_id = "stopSandbox",
    tag = "Sandbox",
    params(InPath),
    responses(
        (
            status = 200,
            description = "The disk is stored, memory and processes are not; only a start runs the sandbox again.",
            body = SandboxDetails
        ),
        Errors
    ),
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
    responses(
        (
            status = 200,
            description = "The sandbox has booted anew over its disk and can be used.",
            body = SandboxDetails
        ),
        Errors
    ),
)]
async fn start(
    State(api): State<ApiState>,
    Extension(caller): Extension<Caller>,
    InPath(id): InPath,
) -> Result<Json<SandboxDetails>, Failure> {
    let started = detached(async move { api.lifecycle.start_sandbox(&caller.organisation, &id).await }).await?;
    Ok(Json(started))
}
